//! When an owned address is told to all neighbours unasked.
//!
//! At once, then five times 1.1 s apart (some hosts take no second change within a second), then about each minute:
//! switches forget where an address is sooner than routers do. Paced: of many addresses at once each waits its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between the first tellings.
const REPEAT: Duration = Duration::from_millis(1100);
/// How often it is repeated.
const REPEATS: u8 = 5;
/// Between the later ones, at least; up to a fifth more, by address.
const REFRESH: Duration = Duration::from_secs(54);
const REFRESH_SPREAD: Duration = Duration::from_secs(12);
/// Addresses told at a time.
const BATCH: usize = 32;
/// Pause between two batches: 2,000 addresses in a second.
const PACE: Duration = Duration::from_millis(16);

/// What is to be told when.
#[derive(Debug, Default)]
pub(crate) struct Bursts {
    due: BTreeSet<(Instant, IpAddr)>,
    /// When an address is next, and how often it was told.
    of: BTreeMap<IpAddr, (Instant, u8)>,
    not_before: Option<Instant>,
}

impl Bursts {
    /// An address is told from now on.
    pub(crate) fn begin(&mut self, now: Instant, address: IpAddr) {
        self.end(address);
        self.plan(now, address, 0);
    }

    /// It is not told any more.
    pub(crate) fn end(&mut self, address: IpAddr) {
        if let Some((at, _)) = self.of.remove(&address) {
            self.due.remove(&(at, address));
        }
    }

    /// Those to tell now.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<IpAddr> {
        if self.not_before.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let taken: Vec<_> = self.due.iter().take_while(|(at, _)| *at <= now).take(BATCH).copied().collect();
        for (at, address) in &taken {
            self.due.remove(&(*at, *address));
            let told = self.of.get(address).map_or(0, |(_, told)| told.saturating_add(1));
            let pause = if told <= REPEATS { REPEAT } else { refresh(*address) };
            self.plan(now + pause, *address, told);
        }
        self.not_before = (taken.len() == BATCH).then(|| now + PACE);
        taken.into_iter().map(|(_, address)| address).collect()
    }

    /// When [`Self::take`] has something.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (first, _) = self.due.first()?;
        Some(self.not_before.map_or(*first, |at| at.max(*first)))
    }

    fn plan(&mut self, at: Instant, address: IpAddr, told: u8) {
        self.due.insert((at, address));
        self.of.insert(address, (at, told));
    }
}

/// A pause that differs from address to address.
fn refresh(address: IpAddr) -> Duration {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    REFRESH + REFRESH_SPREAD * u32::from(last) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Milliseconds at which an address is told within a time.
    fn told(bursts: &mut Bursts, start: Instant, address: IpAddr, until: Duration) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(now) = bursts.next().filter(|at| *at <= start + until) {
            let told = bursts.take(now).into_iter().filter(|told| *told == address);
            times.extend(told.map(|_| (now - start).as_millis()));
        }
        times
    }

    #[test]
    fn an_address_is_told_at_once_five_times_again_and_then_each_minute() {
        let start = Instant::now();
        let mut bursts = Bursts::default();
        bursts.begin(start, vip(128));
        let times = told(&mut bursts, start, vip(128), Duration::from_secs(130));
        assert_eq!(times, [0, 1100, 2200, 3300, 4400, 5500, 65_500, 125_500]);
        bursts.begin(start, vip(1));
        bursts.end(vip(1));
        assert!(!bursts.of.contains_key(&vip(1)) && bursts.due.len() == 1);
    }

    #[test]
    fn five_hundred_at_once_are_told_within_a_quarter_of_a_second_and_none_is_forgotten() {
        let start = Instant::now();
        let mut bursts = Bursts::default();
        let all: BTreeSet<IpAddr> =
            (0..500u16).map(|n| IpAddr::from([192, 0, (n >> 8) as u8, n as u8])).collect();
        all.iter().for_each(|address| bursts.begin(start, *address));
        let (mut seen, mut last) = (BTreeSet::new(), start);
        while seen.len() < 500 {
            last = bursts.next().unwrap();
            let taken = bursts.take(last);
            assert!(!taken.is_empty() && taken.len() <= BATCH);
            seen.extend(taken);
        }
        assert!(last - start <= Duration::from_millis(250), "{:?}", last - start);
    }
}
