//! Deterministic jitter (RFC 4271 §10), from a seed of the configuration.

use std::time::Duration;

use fastrand::Rng;

#[derive(Debug)]
pub(super) struct Jitter(Rng);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// `base` times a random number of thousandths between `low` and `high`, which is not below `low`.
    pub(super) fn scale(&mut self, base: Duration, low: u32, high: u32) -> Duration {
        base * self.0.u32(low..=high.max(low)) / 1000
    }
}
