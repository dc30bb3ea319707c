//! Leaving gently: a node that is taken out of load balancing goes on announcing for a while, and asks to be avoided.
//!
//! For the time of the hold its routes carry GRACEFUL_SHUTDOWN (RFC 8326 §4) and, within one AS, the lowest preference: routers that
//! know another way take it while this one still works. Then the routes are withdrawn. A speaker that starts on a node that
//! is out already announces nothing, and a node that is taken back in time is as before.
//!
//! Pure; time is an argument.

use std::time::{Duration, Instant};

/// Where the node is on its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It was not looked at yet.
    #[default]
    Unknown,
    /// It announces.
    In,
    /// It announces, and asks to be avoided, until then.
    Leaving(Instant),
    /// It announces nothing.
    Out,
}

impl Drain {
    /// What follows from the node's being excluded or not, just now.
    #[must_use]
    pub(crate) fn next(self, now: Instant, excluded: bool, hold: Duration) -> Self {
        match (self, excluded) {
            (_, false) => Self::In,
            (Self::In, true) if !hold.is_zero() => Self::Leaving(now + hold),
            (Self::Leaving(until), true) if now < until => self,
            (_, true) => Self::Out,
        }
    }

    /// Whether it asks to be avoided.
    pub(crate) fn leaves(self) -> bool {
        matches!(self, Self::Leaving(_))
    }

    /// When to look again.
    pub(crate) fn next_deadline(self) -> Option<Instant> {
        match self {
            Self::Leaving(until) => Some(until),
            Self::Unknown | Self::In | Self::Out => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_leaves_for_the_hold_and_comes_back_at_once() {
        let now = Instant::now();
        let hold = Duration::from_secs(10);
        let until = now + hold;
        use Drain::{In, Leaving, Out, Unknown};
        for (what, before, at, excluded, hold, after) in [
            ("starts in", Unknown, now, false, hold, In),
            ("starts out: it never announced", Unknown, now, true, hold, Out),
            ("stays", In, now, false, hold, In),
            ("begins to leave", In, now, true, hold, Leaving(until)),
            ("leaves at once without a hold", In, now, true, Duration::ZERO, Out),
            (
                "is still leaving",
                Leaving(until),
                until - Duration::from_millis(1),
                true,
                hold,
                Leaving(until),
            ),
            ("has left", Leaving(until), until, true, hold, Out),
            ("is taken back", Leaving(until), now, false, hold, In),
            ("stays out", Out, until, true, hold, Out),
            ("comes back", Out, now, false, hold, In),
        ] {
            assert_eq!(before.next(at, excluded, hold), after, "{what}");
        }
    }
}
