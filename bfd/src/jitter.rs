//! Random factors for timers, from a seed: tests repeat, sessions differ.

use std::time::Duration;

use fastrand::Rng;

/// Even enough for jitter, and no secret.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(Rng);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// The time by a random factor of `low` to `high` thousandths; `high` is not below `low`.
    pub(crate) fn scale(&mut self, time: Duration, low: u32, high: u32) -> Duration {
        time * self.0.u32(low..=high.max(low)) / 1000
    }
}
