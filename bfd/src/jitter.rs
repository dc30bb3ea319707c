//! Random factors for timers, from a seed: tests repeat, sessions differ.

use std::time::Duration;

/// xorshift64*: even enough for jitter, and no secret.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// The time by a random factor of `low` to `high` thousandths.
    pub(crate) fn scale(&mut self, time: Duration, low: u32, high: u32) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32;
        let thousandths = low + random % (high - low + 1);
        time * thousandths / 1000
    }
}
