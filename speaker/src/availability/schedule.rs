//! When each address is probed. Pure.
//!
//! Each keeps its own beat, drawn from a hash of the address, so that a thousand do not begin in one millisecond. One that is
//! new has an interval to be announced everywhere. At most [`RATE`] probes begin in a second: with more addresses than that allows,
//! the interval of all of them grows. At most [`IN_FLIGHT`] are under way; each ends by its own deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Probes that begin in a second at most.
const RATE: u32 = 200;
/// Between the beginnings of two.
const GAP: Duration = Duration::from_millis(1000 / RATE as u64);
/// Probes at the same time; as many as begin within their deadline when none is answered.
const IN_FLIGHT: usize = 200;

/// When which address is probed.
#[derive(Debug)]
pub(crate) struct Schedule {
    wanted: Duration,
    interval: Duration,
    ports: BTreeMap<IpAddr, u16>,
    due: BTreeSet<(Instant, IpAddr)>,
    /// Under way, with the time of their next beat.
    running: BTreeMap<IpAddr, Instant>,
    not_before: Option<Instant>,
    doubt: Option<String>,
}

impl Schedule {
    /// Nothing is probed.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            wanted: interval,
            interval,
            ports: BTreeMap::new(),
            due: BTreeSet::new(),
            running: BTreeMap::new(),
            not_before: None,
            doubt: None,
        }
    }

    /// From now on these are probed and no others; those that were keep their beat.
    pub(crate) fn set(&mut self, now: Instant, ports: BTreeMap<IpAddr, u16>) {
        self.due.retain(|(_, address)| ports.contains_key(address));
        let before = self.interval;
        let count = u32::try_from(ports.len()).unwrap_or(u32::MAX);
        self.interval = self.wanted.max(GAP.saturating_mul(count));
        for address in ports.keys() {
            if !self.ports.contains_key(address) && !self.running.contains_key(address) {
                self.due.insert((now + self.interval + phase(*address, self.interval), *address));
            }
        }
        self.ports = ports;
        let (was, is) = (before > self.wanted, self.interval > self.wanted);
        if is && !was {
            self.doubt = Some(format!(
                "{count} addresses are too many to probe each within {:?} at {RATE} in a second: each is probed within {:?}",
                self.wanted, self.interval
            ));
        }
    }

    /// How often each address is probed: what was asked for, or more seldom.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// What a person should know, once.
    pub(crate) fn take_doubt(&mut self) -> Option<String> {
        self.doubt.take()
    }

    /// One that is to be probed now, to be answered by [`Self::ended`].
    pub(crate) fn due(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.next_deadline().is_none_or(|next| next > now) {
            return None;
        }
        let (beat, address) = self.due.pop_first()?;
        let port = *self.ports.get(&address)?;
        let next = beat + self.interval;
        // One that is late keeps its beat if it can.
        self.running.insert(address, if next > now { next } else { now + self.interval });
        self.not_before = Some(now + GAP);
        Some(SocketAddr::new(address, port))
    }

    /// It has come to an end.
    pub(crate) fn ended(&mut self, now: Instant, address: IpAddr) {
        if let Some(next) = self.running.remove(&address)
            && self.ports.contains_key(&address)
        {
            self.due.insert((next.max(now), address));
        }
    }

    /// When [`Self::due`] has one again; `None`: not before one has ended.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (next, _) = self.due.first().filter(|_| self.running.len() < IN_FLIGHT)?;
        Some(self.not_before.map_or(*next, |not_before| not_before.max(*next)))
    }
}

/// Where in the interval an address has its beat.
fn phase(address: IpAddr, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    interval.mul_f64((hasher.finish() >> 32) as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(count: u16) -> BTreeMap<IpAddr, u16> {
        (0..count).map(|n| ([10, 1, (n >> 8) as u8, n as u8].into(), 80)).collect()
    }

    /// Runs for some time, each probe taking so long; how often each address was probed, and how many were under way at most.
    fn run(
        schedule: &mut Schedule,
        begin: Instant,
        time: Duration,
        takes: Duration,
    ) -> (BTreeMap<IpAddr, u32>, usize) {
        let (mut now, mut running, mut most) = (begin, BTreeSet::new(), 0);
        let mut count: BTreeMap<IpAddr, u32> = BTreeMap::new();
        loop {
            let next = schedule.next_deadline();
            let end = running.first().map(|(at, _)| *at);
            let Some(at) = next.into_iter().chain(end).min().filter(|at| *at < begin + time) else { break };
            now = now.max(at);
            while let Some(&(at, address)) = running.first().filter(|(at, _)| *at <= now) {
                running.remove(&(at, address));
                schedule.ended(now, address);
            }
            if let Some(to) = schedule.due(now) {
                assert_eq!(to.port(), 80);
                *count.entry(to.ip()).or_default() += 1;
                running.insert((now + takes, to.ip()));
            }
            most = most.max(running.len());
        }
        (count, most)
    }

    #[test]
    fn each_address_is_probed_once_in_an_interval_and_a_new_one_not_in_its_first() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(10 * SECOND);
        schedule.set(begin, addresses(50));
        assert_eq!(run(&mut schedule, begin, 10 * SECOND, SECOND / 1000).0, BTreeMap::new());
        let (count, _) = run(&mut schedule, begin, 110 * SECOND, SECOND / 1000);
        assert_eq!(count.len(), 50);
        assert!(count.values().all(|count| (9..=11).contains(count)), "{count:?}");
        assert_eq!(schedule.take_doubt(), None);
    }

    #[test]
    fn with_more_addresses_than_the_rate_allows_the_interval_grows_and_that_is_told_once() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(SECOND);
        schedule.set(begin, addresses(1000));
        assert_eq!(schedule.interval(), 5 * SECOND);
        let doubt = schedule.take_doubt().unwrap();
        assert!(doubt.contains("1000 addresses") && doubt.ends_with("within 5s"), "{doubt}");
        let (count, _) = run(&mut schedule, begin, 60 * SECOND, SECOND / 1000);
        assert_eq!(count.len(), 1000);
        let all: u32 = count.values().sum();
        assert!((10_000..=11_000).contains(&all), "{all} probes in the last 55 s");
        schedule.set(begin, addresses(1001));
        assert_eq!(schedule.take_doubt(), None);
        schedule.set(begin, addresses(100));
        assert_eq!((schedule.interval(), schedule.take_doubt()), (SECOND, None));
    }

    #[test]
    fn probes_that_hang_do_not_gather() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(SECOND);
        schedule.set(begin, addresses(1000));
        let (count, most) = run(&mut schedule, begin, 60 * SECOND, 5 * SECOND);
        assert_eq!((count.len(), most), (1000, IN_FLIGHT));
    }

    #[test]
    fn one_that_is_gone_is_not_probed_even_if_it_was_under_way() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(SECOND);
        schedule.set(begin, addresses(1));
        let to = schedule.due(begin + 2 * SECOND).unwrap();
        schedule.set(begin, BTreeMap::new());
        schedule.ended(begin + 2 * SECOND, to.ip());
        assert_eq!(schedule.next_deadline(), None);
        // It comes again while the old probe is still under way.
        schedule.set(begin, addresses(1));
        let to = schedule.due(begin + 4 * SECOND).unwrap();
        schedule.set(begin, BTreeMap::new());
        schedule.set(begin, addresses(1));
        assert_eq!(schedule.next_deadline(), None);
        schedule.ended(begin + 5 * SECOND, to.ip());
        assert!(schedule.next_deadline().is_some());
    }
}
