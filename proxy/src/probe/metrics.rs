//! What is counted of probes; labels are words of closed lists.

use herald_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::attempt::{Failure, Outcome};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabel {
    transition: &'static str,
}

/// The metrics of probes.
#[derive(Debug, Clone)]
pub struct ProbeMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    transitions: Family<TransitionLabel, Counter>,
    probed: Gauge,
    failing: Gauge,
}

impl ProbeMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let created = Self {
            attempts: metrics.register(
                "herald_probe_attempts",
                "Probes of local endpoints that have ended, by outcome",
                Family::default(),
            ),
            transitions: metrics.register(
                "herald_probe_transitions",
                "Local endpoints that probes found failing, or good again",
                Family::default(),
            ),
            probed: metrics.register(
                "herald_probe_endpoints",
                "Sockets of local endpoints that are probed",
                Gauge::default(),
            ),
            failing: metrics.register(
                "herald_probe_failing_endpoints",
                "Sockets of local endpoints that fail their probes",
                Gauge::default(),
            ),
        };
        for outcome in Failure::WORDS.into_iter().chain(["passed"]) {
            let _ = created.attempts.get_or_create(&OutcomeLabel { outcome });
        }
        for transition in ["failed", "recovered"] {
            let _ = created.transitions.get_or_create(&TransitionLabel { transition });
        }
        created
    }

    pub(super) fn attempted(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed(failure) => failure.word(),
        };
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(super) fn stand(&self, (probed, failing): (usize, usize), [failed, recovered]: [u64; 2]) {
        self.probed.set(i64::try_from(probed).unwrap_or(i64::MAX));
        self.failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        for (transition, now) in [("failed", failed), ("recovered", recovered)] {
            let counter = self.transitions.get_or_create(&TransitionLabel { transition });
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }
}
