//! When the watches said something, and how long after that it was in force.
//!
//! An event is stamped as soon as its watch has decoded it, before it waits for the loop: what is measured is what a user
//! waits for. Only single changes count; a list is a start or a recovery and has its own figures.
//!
//! Invariant: no stamp outlives one turn of the loop, so there are never more of them than events taken at a time.

use std::time::Instant;

use herald_runtime::watch::WatchEvent;
use prometheus_client::metrics::histogram::Histogram;

use crate::index::Observed;

/// Upper bounds of the histogram's buckets in seconds: fine around the milliseconds that a change may take.
pub(crate) const BOUNDS: [f64; 22] = [
    0.000_25, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.004, 0.005, 0.007_5, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Something that a watch has said.
#[derive(Debug)]
pub(crate) struct Received {
    at: Instant,
    /// What.
    pub(crate) observed: Observed,
}

impl Received {
    /// Stamps it.
    pub(crate) fn now(observed: Observed) -> Self {
        Self { at: Instant::now(), observed }
    }

    /// When one Service or slice was said to be different.
    pub(crate) fn change(&self) -> Option<Instant> {
        let single = match &self.observed {
            Observed::Services(event) => !matches!(event, WatchEvent::Reset(_)),
            Observed::Slices(event) => !matches!(event, WatchEvent::Reset(_)),
            _ => false,
        };
        single.then_some(self.at)
    }
}

/// Changes that are not in force yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<Instant>);

impl Pending {
    /// One change more.
    pub(crate) fn add(&mut self, received: &Received) {
        self.0.extend(received.change());
    }

    /// All of them are in force.
    pub(crate) fn in_force(&mut self, now: Instant, durations: &Histogram) {
        self.0.drain(..).for_each(|at| durations.observe(now.saturating_duration_since(at).as_secs_f64()));
    }

    /// Nothing came of them.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use herald_runtime::ObjectName;

    use super::*;

    #[test]
    fn single_changes_are_timed_and_lists_are_not() {
        let name = ObjectName::new("shop", "web");
        assert!(Received::now(Observed::Services(WatchEvent::Deleted(name.clone()))).change().is_some());
        assert!(Received::now(Observed::Slices(WatchEvent::Deleted(name.clone()))).change().is_some());
        assert!(Received::now(Observed::Slices(WatchEvent::Reset(Vec::new()))).change().is_none());
        assert!(Received::now(Observed::Nodes(WatchEvent::Deleted(name))).change().is_none());
    }
}
