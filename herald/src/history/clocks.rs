//! How the clocks of the speakers stand to each other, measured by their answers. Pure.
//!
//! An answer carries the speaker's clock, which was read somewhere between question and answer: so it is known within half of that time. The clock
//! that most agree with is the median; what differs from it by more than can be measured is corrected. This machine's own clock decides nothing.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// A difference that nobody minds who reads a timeline, in microseconds.
const SMALL: u64 = 50_000;

/// How far a clock is ahead, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Negative: behind.
    pub(super) by: i64,
    /// It may be as much more or less.
    pub(super) within: u64,
}

impl Ahead {
    /// Of this machine's: a clock that said `now` in an answer that took so long.
    pub(super) fn measured(now: Timestamp, asked: Timestamp, took: Duration) -> Self {
        let half = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX);
        let middle = asked.as_microsecond().saturating_add(half);
        Self { by: now.as_microsecond().saturating_sub(middle), within: half.unsigned_abs() }
    }

    /// Of another one, which is ahead of the same clock.
    pub(super) fn of(self, other: Self) -> Self {
        let within = self.within.saturating_add(other.within);
        Self { by: self.by.saturating_sub(other.by), within }
    }

    /// Whether it can be told from no difference, and matters.
    pub(super) fn matters(self) -> bool {
        self.by.unsigned_abs() > self.within.max(SMALL)
    }

    /// What this clock called `time`, by the clock that it is ahead of.
    pub(super) fn correct(self, time: Timestamp) -> Timestamp {
        let micros = time.as_microsecond().saturating_sub(self.by);
        if self.matters() { Timestamp::from_microsecond(micros).unwrap_or(time) } else { time }
    }
}

/// The clock that most agree with; of the two in the middle the one nearer to this machine's.
pub(super) fn median(all: impl Iterator<Item = Ahead>) -> Ahead {
    let mut all: Vec<Ahead> = all.collect();
    all.sort_by_key(|ahead| ahead.by);
    let (middle, two) = (all.len() / 2, all.len().is_multiple_of(2));
    let middle = all.iter().skip(middle.saturating_sub(usize::from(two))).take(1 + usize::from(two));
    middle.min_by_key(|ahead| ahead.by.unsigned_abs()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(milliseconds: i64, within: u64) -> Ahead {
        Ahead { by: milliseconds * 1000, within: within * 1000 }
    }

    #[test]
    fn a_clock_is_known_within_half_of_the_time_that_its_answer_took() {
        let asked = Timestamp::from_second(1_000_000).unwrap();
        let measured = |said: i64, took| {
            let said = Timestamp::from_millisecond(1_000_000_000 + said).unwrap();
            Ahead::measured(said, asked, Duration::from_millis(took))
        };
        assert_eq!(measured(10, 20), ahead(0, 10));
        assert_eq!(measured(4_210, 20), ahead(4_200, 10));
        assert_eq!(measured(-4_190, 20), ahead(-4_200, 10));
        for (difference, matters) in
            [(ahead(40, 1), false), (ahead(60, 1), true), (ahead(-60, 1), true), (ahead(300, 400), false)]
        {
            assert_eq!(difference.matters(), matters, "{difference:?}");
            let corrected = difference.correct(asked).as_microsecond();
            let expected = asked.as_microsecond() - if matters { difference.by } else { 0 };
            assert_eq!(corrected, expected, "{difference:?}");
        }
    }

    #[test]
    fn the_one_that_most_agree_with_counts_and_not_this_machines() {
        for (all, expected) in [
            (vec![], 0),
            (vec![300], 300),
            (vec![300, 301, 9_000], 301),
            (vec![-9_000, 300, 301, 302, 9_000], 301),
            (vec![0, 4_000], 0),
            (vec![-4_000, 0], 0),
        ] {
            assert_eq!(median(all.iter().map(|by| ahead(*by, 1))).by, expected * 1000, "{all:?}");
        }
        assert_eq!(ahead(9_000, 2).of(ahead(301, 1)), ahead(8_699, 3));
    }
}
