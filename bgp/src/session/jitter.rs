//! Deterministic jitter (RFC 4271 §10): the generator SplitMix64 from a seed of the configuration.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `base` times a random number of thousandths between `low` and `high`.
    pub(super) fn scale(&mut self, base: Duration, low: u32, high: u32) -> Duration {
        let span = u64::from(high.saturating_sub(low)) + 1;
        let thousandths = low + u32::try_from(self.next() % span).unwrap_or_default();
        base * thousandths / 1000
    }
}
