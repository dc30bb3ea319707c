//! What came of an address's probes in the last hour: twelve counts of five minutes each, 48 octets. Pure.

use std::time::Duration;

/// Counts that are kept.
const KEPT: usize = 12;
/// What each is of.
const SPAN: Duration = Duration::from_secs(300);

/// Answered and failed probes of the last hour, to five minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// The number of the newest span.
    newest: u32,
    counts: [[u16; 2]; KEPT],
}

impl Window {
    /// A probe was answered or not, so long after the beginning.
    pub(crate) fn add(&mut self, at: Duration, answered: bool) {
        let span = span(at);
        self.move_on(span);
        if self.newest.saturating_sub(span) < KEPT as u32
            && let Some(counts) = self.counts.get_mut(span as usize % KEPT)
        {
            let count = &mut counts[usize::from(!answered)];
            *count = count.saturating_add(1);
        }
    }

    /// Answered and failed ones of the hour before.
    pub(crate) fn sums(&self, at: Duration) -> (u32, u32) {
        let mut now = self.clone();
        now.move_on(span(at));
        now.counts
            .iter()
            .fold((0, 0), |(answered, failed), of| (answered + u32::from(of[0]), failed + u32::from(of[1])))
    }

    fn move_on(&mut self, span: u32) {
        let gone = span.saturating_sub(self.newest).min(KEPT as u32);
        for step in 1..=gone {
            if let Some(counts) = self.counts.get_mut((span.wrapping_sub(gone - step)) as usize % KEPT) {
                *counts = [0; 2];
            }
        }
        self.newest = self.newest.max(span);
    }
}

fn span(at: Duration) -> u32 {
    u32::try_from(at.as_secs() / SPAN.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let mut window = Window::default();
        let mut at = MINUTE * 1000;
        for n in 0..600 {
            window.add(at, n % 10 > 0);
            at += MINUTE;
        }
        // The last was a minute ago; the newest span is full.
        let (answered, failed) = window.sums(at - MINUTE);
        assert_eq!((answered, failed), (54, 6));
        for (later, expected) in [(5, 55), (30, 30), (55, 5), (60, 0), (100_000, 0)] {
            let (answered, failed) = window.sums(at - MINUTE + MINUTE * later);
            assert_eq!(answered + failed, expected, "{later} minutes later");
        }
    }

    #[test]
    fn a_pause_leaves_nothing_old_behind() {
        let mut window = Window::default();
        window.add(MINUTE, false);
        window.add(MINUTE * 61, true);
        assert_eq!(window.sums(MINUTE * 61), (1, 0));
        window.add(MINUTE * 59, false);
        assert_eq!(window.sums(MINUTE * 61), (1, 1), "late, but of this hour");
        window.add(MINUTE, false);
        assert_eq!(window.sums(MINUTE * 61), (1, 1), "too late");
    }

    #[test]
    fn it_takes_a_few_dozen_octets() {
        assert!(size_of::<Window>() <= 52, "{}", size_of::<Window>());
    }
}
