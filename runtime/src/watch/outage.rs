//! How long the API server has been away, when to try again and when to say so.

use std::time::{Duration, Instant};

use super::{LONGEST_WAIT, is_expired};
use crate::chain;
use crate::complaint::Complaint;

/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// A watch that stands this long without a failure counts as back.
const BACK_AFTER: Duration = Duration::from_secs(5);

/// How long the API server has been away, when to try again and when to say so.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    last_failure: Option<Instant>,
    told: Complaint,
    failures: u32,
}

impl Outage {
    /// Notes a failure; returns the wait before the next attempt.
    pub(super) fn failed(&mut self, kind: &str, error: &kube::Error, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.last_failure = Some(now);
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
        self.failures += 1;
        if is_expired(error) {
            // A resource version that is too old is how the server asks for a new list.
            tracing::debug!(kind, %error, "watch lists again");
        } else if self.told.is_due(error, now) {
            let seconds = (now - since).as_secs();
            let error = chain(error);
            tracing::warn!(kind, seconds, error, "watch failed; what is known stays in force");
        } else {
            tracing::debug!(kind, %error, "watch failed again");
        }
        wait
    }

    /// Until when silence after a failure proves nothing yet; `None` without an outage.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        self.last_failure.map(|at| at + LONGEST_WAIT + BACK_AFTER)
    }

    pub(super) fn over(&mut self, kind: &str, now: Instant) {
        if let Some(since) = self.since.filter(|_| self.told.is_told()) {
            tracing::info!(kind, seconds = (now - since).as_secs(), "watch is back");
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn away() -> kube::Error {
        kube::Error::Service("away".into())
    }

    #[test]
    fn waits_grow_to_two_seconds_and_start_again_after_a_success() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let error = away();
        let waits: Vec<u64> = (0..10)
            .map(|n| outage.failed("Service", &error, start + LONGEST_WAIT * n).as_millis() as u64)
            .collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
        assert!(outage.quiet_until().is_some());
        outage.over("Service", start + Duration::from_secs(60));
        assert!(outage.quiet_until().is_none());
        assert_eq!(outage.failed("Service", &error, start + Duration::from_secs(61)), FIRST_WAIT);
    }

    #[test]
    fn an_expired_resource_version_is_no_outage_worth_telling() {
        let mut outage = Outage::default();
        let status = Status::failure("too old resource version", "Expired").with_code(410);
        outage.failed("Service", &kube::Error::Api(status.boxed()), Instant::now());
        assert!(!outage.told.is_told());
    }
}
