//! Who owned each address on each interface when this node last looked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::History;
use super::changes::{Owner, of_owner};
use crate::layer2::{PortView, View};

/// By interface and address.
#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<Arc<str>, BTreeMap<IpAddr, Owner>>);

impl Owners {
    /// Looks again, and tells what has changed since when.
    pub(crate) fn look(&mut self, now: Instant, me: &str, view: &View, history: &History) {
        let nowhere = PortView::default();
        let mut all: BTreeSet<Arc<str>> = self.0.keys().cloned().collect();
        all.extend(
            view.ports
                .keys()
                .filter(|name| !self.0.contains_key(name.as_str()))
                .map(|name| name.as_str().into()),
        );
        for on in all {
            let port = view.ports.get(&*on);
            let since = port.and_then(|port| port.since).map_or(now, |since| since.min(now));
            let was = self.0.remove(&on).unwrap_or_default();
            let is = owners(me, port.unwrap_or(&nowhere), &was);
            let heard = &port.unwrap_or(&nowhere).heard;
            let gone = was.keys().filter(|address| !is.contains_key(address));
            for address in is.keys().chain(gone) {
                let (was, is) = (was.get(address), is.get(address));
                if was == is {
                    continue;
                }
                if let Some(change) = of_owner(me, was, is, heard, port.is_some()) {
                    history.segment(since, &on, *address, change);
                }
            }
            if port.is_some() {
                self.0.insert(on, is);
            }
        }
    }
}

/// Of what this node offers, or answers for still.
fn owners(me: &str, port: &PortView, was: &BTreeMap<IpAddr, Owner>) -> BTreeMap<IpAddr, Owner> {
    let mut names: BTreeSet<Arc<str>> = BTreeSet::from([me.into()]);
    names.extend(was.values().filter_map(|owner| owner.node.clone()));
    let mut shared = |name: &str| match names.get(name) {
        Some(name) => Arc::clone(name),
        None => {
            let name: Arc<str> = name.into();
            names.insert(Arc::clone(&name));
            name
        }
    };
    let of = |(address, standing): (&IpAddr, &crate::layer2::Standing)| {
        // One that leaves answers until another node has claimed it, and is no candidate any more.
        let owner = match port.owned.contains(address) {
            true => Some(me),
            false => standing.owner.as_deref(),
        };
        (*address, Owner { node: owner.map(&mut shared), claim: standing.claim })
    };
    port.standings.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::layer2::Standing;

    fn port(owner: Option<(&str, u32)>, me: &str, heard: &[&str]) -> PortView {
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let standing = Standing {
            owner: owner.map(|(node, _)| node.into()),
            claim: owner.map(|(_, claim)| claim),
            ..Standing::default()
        };
        let owned = owner.filter(|(node, _)| *node == me).map(|_| vip);
        PortView {
            owned: owned.into_iter().collect(),
            heard: heard.iter().map(|node| (*node).into()).collect(),
            standings: [(vip, standing)].into(),
            ..PortView::default()
        }
    }

    #[test]
    fn the_survivor_tells_whom_it_took_over_from_and_the_one_that_is_cut_off_that_it_has_none() {
        let (now, history, mut owners) = (Instant::now(), History::new(Instant::now()), Owners::default());
        let mut look = |port: Option<PortView>| {
            let ports = port.map(|port| ("eth0".to_owned(), port)).into_iter().collect();
            owners.look(now, "node-2", &View { ports, ..View::default() }, &history);
        };
        look(Some(port(Some(("node-1", 1)), "node-2", &["node-1", "node-3"])));
        look(Some(port(Some(("node-1", 1)), "node-2", &["node-1"])));
        look(Some(port(Some(("node-2", 2)), "node-2", &["node-3"])));
        // It leaves, and answers on until another node claims it.
        let leaving = port(None, "node-2", &["node-3"]);
        look(Some(PortView { owned: BTreeSet::from(["192.0.2.1".parse().unwrap()]), ..leaving }));
        look(None);
        let journal = history.journal();
        let told = journal.addresses.all().map(|(_, _, entry)| {
            assert_eq!(entry.on.as_deref(), Some("eth0"));
            format!("{}: {}", entry.what.word(), entry.why)
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "seen: so it was found",
                "owned: node-1 is not heard any more",
                "released: the interface is down or gone"
            ]
        );
    }

    #[test]
    fn what_is_looked_at_late_happened_when_it_happened() {
        let begin = Instant::now();
        let (history, mut owners) = (History::new(begin), Owners::default());
        let (then, late) = (begin + Duration::from_secs(7), begin + Duration::from_secs(10));
        let port = PortView { since: Some(then), ..port(Some(("node-2", 1)), "node-2", &[]) };
        owners.look(
            late,
            "node-2",
            &View { ports: [("eth0".to_owned(), port)].into(), ..View::default() },
            &history,
        );
        owners.look(late, "node-2", &View::default(), &history);
        let journal = history.journal();
        let times: Vec<Instant> = journal.addresses.all().map(|(_, at, _)| at).collect();
        assert_eq!(times, [then, late], "an interface that is gone does not say since when");
    }
}
