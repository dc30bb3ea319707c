//! When a Service whose write failed is tried again: by itself, so that it holds up no other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// The newer version that a conflict speaks of arrives sooner than this.
const CONFLICT: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    held: HashMap<ObjectName, Held>,
}

#[derive(Debug)]
struct Held {
    /// `None`: the wait is over, only the failures are remembered until a success.
    until: Option<Instant>,
    failures: u32,
    /// A newer version of the Service ends the wait.
    conflict: bool,
}

impl Backoff {
    pub(super) fn failed(&mut self, name: &ObjectName, now: Instant) {
        let failures = self.held.get(name).map_or(0, |held| held.failures);
        let wait = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
        self.held
            .insert(name.clone(), Held { until: Some(now + wait), failures: failures + 1, conflict: false });
    }

    pub(super) fn conflict(&mut self, name: &ObjectName, now: Instant) {
        let failures = self.held.get(name).map_or(0, |held| held.failures);
        self.held.insert(name.clone(), Held { until: Some(now + CONFLICT), failures, conflict: true });
    }

    pub(super) fn succeeded(&mut self, name: &ObjectName) {
        self.held.remove(name);
    }

    /// The Service was changed by somebody.
    pub(super) fn changed(&mut self, name: &ObjectName) {
        if self.held.get(name).is_some_and(|held| held.conflict) {
            self.held.remove(name);
        }
    }

    pub(super) fn holds(&self, name: &ObjectName, now: Instant) -> bool {
        self.held.get(name).is_some_and(|held| held.until.is_some_and(|until| until > now))
    }

    /// Whose wait is over; they are told once. Their failures are remembered until a success.
    pub(super) fn due(&mut self, now: Instant) -> Vec<ObjectName> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let due: Vec<ObjectName> = self
            .held
            .iter()
            .filter(|(_, held)| held.until.is_some_and(|until| until <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &due {
            if let Some(held) = self.held.get_mut(name) {
                held.until = None;
                held.conflict = false;
            }
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| held.until).min()
    }
}
