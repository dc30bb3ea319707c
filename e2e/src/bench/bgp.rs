//! BGP and BFD: Herald beside BIRD, GoBGP and FRR as senders of routes, and what its clients see when a node dies or is worked on.
//!
//! ```text
//!  routes   : Services with a thousand addresses each, one route per address
//!  router   : a BIRD that takes routes: when the session came up, how many it has
//!  frr      : an FRR as neighbour, for BFD and as sender
//!  senders  : Herald, BIRD, GoBGP and FRR, each with the same routes on a node of the lab
//!  transfer : session up → all routes are in the router's table; CPU and memory
//!  single   : one route more: decided → in the peer's socket
//!  detect   : BFD: who hangs is missed, in both directions
//!  quiet    : BFD: a busy machine, and nobody hangs
//!  outage   : a node dies, a speaker is restarted, a node is drained: connections that fail
//! ```
//! Times of the routers are those of their logs, in microseconds of the clock that this process has, too.

pub mod detect;
pub mod frr;
pub mod outage;
pub mod quiet;
pub mod router;
pub mod routes;
pub mod senders;
pub mod single;
pub mod transfer;

use std::time::SystemTime;

use crate::stamp::stamp;

/// When the first line with all these words was written behind the first `from` bytes of a log; a line cut there is none.
pub(crate) fn first(log: &str, from: usize, words: &[&str]) -> Option<SystemTime> {
    let new = log.get(from..)?;
    new.lines().filter(|line| words.iter().all(|word| line.contains(word))).find_map(stamp)
}

/// Milliseconds from one moment to the other; negative if it was before.
pub(crate) fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64() * 1000.0,
        Err(before) => -before.duration().as_secs_f64() * 1000.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_line_with_all_words_is_found_behind_what_was_there() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_000_000_123_456);
        let log = "x\n2001-09-09 01:46:40.123456 a b\n2001-09-09 01:46:41.123456 a b\n";
        assert_eq!(first(log, 0, &["a", "b"]), Some(at));
        assert_eq!(first(log, 20, &["b", "a"]), Some(at + Duration::from_secs(1)));
    }
}
