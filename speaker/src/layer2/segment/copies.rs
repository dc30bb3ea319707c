//! Hellos for one node alone, where multicast does not reach it.
//!
//! Who gets a copy of each hello:
//! - who asks for it: its hellos say that it hears this participant by copies only;
//! - who is heard, but does not say that it hears this participant at all.
//!
//! And once a second who is not heard at all, though the API server names it as a node with an address on the segment: its
//! answer is a copy, and so it begins. Where multicast works none of this is sent, but for nodes that are down.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long multicast is waited for before the first search.
const FIRST: Duration = Duration::from_millis(150);
/// Between two searches for nodes that are not heard.
pub(super) const SEARCH: Duration = Duration::from_secs(1);

/// The search for nodes that are not heard.
#[derive(Debug)]
pub(super) struct Search {
    nodes: BTreeMap<Box<str>, IpAddr>,
    due: Instant,
}

impl Search {
    pub(super) fn new(now: Instant) -> Self {
        Self { nodes: BTreeMap::new(), due: now + FIRST }
    }

    /// These nodes should be on the segment.
    pub(super) fn among(&mut self, nodes: BTreeMap<Box<str>, IpAddr>) {
        self.nodes = nodes;
    }

    /// Where to send a copy now, of those that are not heard.
    pub(super) fn take<'a>(&mut self, now: Instant, heard: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + SEARCH;
        let heard: HashSet<&str> = heard.collect();
        let silent = self.nodes.iter().filter(|(node, _)| !heard.contains(&***node));
        silent.map(|(_, address)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_not_heard_are_searched_for_once_a_second() {
        let start = Instant::now();
        let mut search = Search::new(start);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        search.among([("a".into(), address(1)), ("b".into(), address(2))].into());
        let mut at =
            |millis, heard| search.take(start + Duration::from_millis(millis), std::iter::once(heard));
        assert!(at(0, "").is_empty());
        assert_eq!(at(200, ""), [address(1), address(2)]);
        assert!(at(1100, "").is_empty());
        assert_eq!(at(1200, "a"), [address(2)]);
    }
}
