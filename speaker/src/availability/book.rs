//! What came of the probes: by address for the last hour and for `herald status`, and in all for a scrape.
//!
//! So many addresses have series of their own, those that came first; one keeps its series while it is this node's to probe. All
//! others together are one more, so no series ever goes back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;
use herald_runtime::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;

use super::assignment::Mine;
use super::attempt::Answer;
use super::targets::{Probed, Unprobed};
use super::window::Window;

/// Upper bounds of the time until a connection is made, in seconds; it has one.
const ANSWERED: [f64; 11] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// A probe that fails alone may have met a change under way.
const TOLD: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    ip: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Probes of one address with the same end.
#[derive(Debug, Clone, Copy)]
struct Run {
    answered: bool,
    since: Instant,
    probes: u32,
    latest: Answer,
}

#[derive(Debug)]
struct Record {
    mine: Mine,
    /// With series of its own, how many there were of each word.
    totals: Option<[u32; Answer::WORDS.len()]>,
    window: Window,
    run: Option<Run>,
    /// Why the last probe said nothing.
    skipped: Option<Answer>,
}

#[derive(Debug)]
struct Inner {
    begun: Instant,
    limit: usize,
    named: usize,
    interval: Duration,
    addresses: BTreeMap<IpAddr, Record>,
    others: [u64; Answer::WORDS.len()],
}

/// An address, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whose it is.
    pub(crate) service: Arc<ObjectName>,
    /// Where it is probed, or why not.
    pub(crate) probed: Probed,
    /// Probes of the last hour that were answered.
    pub(crate) answered: u32,
    /// Those that were not.
    pub(crate) failed: u32,
    /// The last ones failed: for how long, and how the last one did.
    pub(crate) failing: Option<(Duration, &'static str)>,
    /// The last one said nothing, and why.
    pub(crate) skipped: Option<&'static str>,
}

/// What came of the probes. Clones are the same book.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    inner: Arc<Mutex<Inner>>,
    duration: Histogram,
}

impl Book {
    /// Nothing was probed; at most so many addresses get series of their own.
    pub(crate) fn new(limit: usize) -> Self {
        let inner = Inner {
            begun: Instant::now(),
            limit,
            named: 0,
            interval: Duration::ZERO,
            addresses: BTreeMap::new(),
            others: [0; Answer::WORDS.len()],
        };
        Self { inner: Arc::new(Mutex::new(inner)), duration: Histogram::new(ANSWERED) }
    }

    /// Shows it to whoever scrapes.
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "herald_availability_probe_duration_seconds",
            "Until the connection of a probe of an address was made",
            self.duration.clone(),
        );
        metrics.collect(self.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the node's to probe, each once in `interval`.
    pub(crate) fn set(&self, mine: &BTreeMap<IpAddr, Mine>, interval: Duration) {
        let inner = &mut *self.lock();
        inner.interval = interval;
        let before = inner.addresses.len();
        inner.addresses.retain(|address, _| mine.contains_key(address));
        if inner.addresses.len() < before {
            inner.named = inner.addresses.values().filter(|record| record.totals.is_some()).count();
        }
        for (address, mine) in mine {
            if let Some(record) = inner.addresses.get_mut(address) {
                if record.mine.probed != mine.probed {
                    (record.run, record.skipped) = (None, None);
                }
                record.mine = mine.clone();
                continue;
            }
            let named = inner.named < inner.limit;
            inner.named += usize::from(named);
            let record = Record {
                mine: mine.clone(),
                totals: named.then_some([0; Answer::WORDS.len()]),
                window: Window::default(),
                run: None,
                skipped: None,
            };
            inner.addresses.insert(*address, record);
        }
    }

    /// A probe has ended.
    pub(crate) fn record(&self, now: Instant, to: SocketAddr, answer: Answer) {
        if let Answer::Answered(after) = answer {
            self.duration.observe(after.as_secs_f64());
        }
        let inner = &mut *self.lock();
        let since = now.saturating_duration_since(inner.begun);
        let Some(record) = inner.addresses.get_mut(&to.ip()) else { return };
        match &mut record.totals {
            Some(totals) => totals[answer.place()] = totals[answer.place()].wrapping_add(1),
            None => inner.others[answer.place()] += 1,
        }
        let Some(answered) = answer.is_answered() else {
            record.skipped = Some(answer);
            return;
        };
        record.skipped = None;
        record.window.add(since, answered);
        record.run = Some(match record.run.filter(|run| run.answered == answered) {
            Some(run) => Run { probes: run.probes.saturating_add(1), latest: answer, ..run },
            None => Run { answered, since: now, probes: 1, latest: answer },
        });
    }

    /// How often each address is probed.
    pub(crate) fn interval(&self) -> Duration {
        self.lock().interval
    }

    /// All that are this node's to probe.
    pub(crate) fn seen(&self, now: Instant) -> BTreeMap<IpAddr, Seen> {
        let inner = self.lock();
        let at = now.saturating_duration_since(inner.begun);
        let seen = |record: &Record| {
            let (answered, failed) = record.window.sums(at);
            let failing = record.run.filter(|run| !run.answered && run.probes >= TOLD);
            Seen {
                service: Arc::clone(&record.mine.service),
                probed: record.mine.probed,
                answered,
                failed,
                failing: failing.map(|run| (now.saturating_duration_since(run.since), run.latest.sentence())),
                skipped: record.skipped.map(Answer::sentence),
            }
        };
        inner.addresses.iter().map(|(address, record)| (*address, seen(record))).collect()
    }
}

impl Collector for Book {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let inner = self.lock();
        let named: Vec<(String, [u32; Answer::WORDS.len()])> = inner
            .addresses
            .iter()
            .filter_map(|(address, record)| Some((address.to_string(), record.totals?)))
            .collect();
        let (others, interval) = (inner.others, inner.interval);
        let state = |record: &Record| match record.mine.probed {
            Probed::At(_) => "probed",
            Probed::Not(why) => why.word(),
        };
        let mut states: BTreeMap<&'static str, i64> = BTreeMap::new();
        for record in inner.addresses.values() {
            *states.entry(state(record)).or_default() += 1;
        }
        drop(inner);
        let mut metric = encoder.encode_descriptor(
            "herald_availability_probes",
            "Probes of load balancer addresses by this node, by what came of them",
            None,
            MetricType::Counter,
        )?;
        let others = ("others".to_owned(), others);
        let named = named.into_iter().map(|(ip, totals)| (ip, totals.map(u64::from)));
        for (ip, totals) in named.chain([others]) {
            for (result, total) in Answer::WORDS.into_iter().zip(totals) {
                let labels = ProbeLabels { ip: ip.clone(), result };
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&total, None)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "herald_availability_addresses",
            "Load balancer addresses that are this node's to probe, by whether they are probed or why not",
            None,
            MetricType::Gauge,
        )?;
        for state in ["probed"].into_iter().chain(Unprobed::ALL.map(Unprobed::word)) {
            let count = states.get(state).copied().unwrap_or_default();
            metric.encode_family(&StateLabel { state })?.encode_gauge(&count)?;
        }
        let mut metric = encoder.encode_descriptor(
            "herald_availability_interval_seconds",
            "How often this node probes each of its addresses: what was asked for, or more seldom where they are too many",
            None,
            MetricType::Gauge,
        )?;
        metric.encode_gauge(&interval.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::attempt::Skipped;

    fn vip(n: u16) -> IpAddr {
        [10, 1, (n >> 8) as u8, n as u8].into()
    }

    fn mine(count: u16) -> BTreeMap<IpAddr, Mine> {
        let service = Arc::new(ObjectName::new("shop", "web"));
        (0..count).map(|n| (vip(n), Mine { service: Arc::clone(&service), probed: Probed::At(80) })).collect()
    }

    fn text(book: &Book) -> String {
        let metrics = Metrics::new();
        book.register(&metrics);
        metrics.encode().unwrap()
    }

    fn holds(book: &Book, line: &str) {
        let text = text(book);
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_probe_is_counted_by_address_and_what_came_of_it() {
        let (book, now) = (Book::new(10), Instant::now());
        book.set(&mine(1), Duration::from_secs(10));
        let to = SocketAddr::new(vip(0), 80);
        for answer in [
            Answer::Answered(MS),
            Answer::Answered(MS),
            Answer::Refused,
            Answer::Unanswered,
            Answer::Skipped(Skipped::Returned),
        ] {
            book.record(now, to, answer);
        }
        for (result, count) in [("answered", 2), ("refused", 1), ("unanswered", 1), ("skipped", 1)] {
            holds(
                &book,
                &format!("herald_availability_probes_total{{ip=\"10.1.0.0\",result=\"{result}\"}} {count}"),
            );
        }
        holds(&book, "herald_availability_probe_duration_seconds_count 2");
        holds(&book, "herald_availability_addresses{state=\"probed\"} 1");
        holds(&book, "herald_availability_interval_seconds 10.0");
        // What came late of one that is gone is nobody's.
        book.set(&mine(0), Duration::from_secs(10));
        book.record(now, to, Answer::Unanswered);
        holds(&book, "herald_availability_probes_total{ip=\"others\",result=\"unanswered\"} 0");
        assert!(!text(&book).contains("10.1.0.0"));
    }

    #[test]
    fn ten_thousand_addresses_have_as_many_series_as_are_allowed_and_none_goes_back() {
        let (book, now) = (Book::new(100), Instant::now());
        book.set(&mine(10_000), Duration::from_secs(50));
        let probe = || (0..10_000).for_each(|n| book.record(now, (vip(n), 80).into(), Answer::Answered(MS)));
        probe();
        let series =
            text(&book).lines().filter(|line| line.starts_with("herald_availability_probes_total")).count();
        assert_eq!(series, 101 * 4);
        holds(&book, "herald_availability_probes_total{ip=\"others\",result=\"answered\"} 9900");
        // Half of them go, with their series; those that are left keep theirs or their place among the others.
        let rest = mine(10_000).into_iter().filter(|(address, _)| *address >= vip(50)).collect();
        book.set(&rest, Duration::from_secs(50));
        probe();
        holds(&book, "herald_availability_probes_total{ip=\"10.1.0.99\",result=\"answered\"} 2");
        holds(&book, "herald_availability_probes_total{ip=\"others\",result=\"answered\"} 19800");
    }

    #[test]
    fn an_address_takes_less_than_two_hundred_octets() {
        assert!(size_of::<Record>() < 200, "{}", size_of::<Record>());
    }

    #[test]
    fn what_fails_again_and_again_is_told_with_since_when_and_what_says_nothing_changes_nothing() {
        let (book, begin) = (Book::new(10), Instant::now());
        book.set(&mine(1), Duration::from_secs(10));
        let at = |seconds| begin + Duration::from_secs(seconds);
        let probe = |seconds, answer| {
            book.record(at(seconds), (vip(0), 80).into(), answer);
            let seen = book.seen(at(seconds + 5))[&vip(0)].clone();
            ((seen.answered, seen.failed), seen.failing, seen.skipped.is_some())
        };
        let failing = |seconds, answer: Answer| Some((Duration::from_secs(seconds), answer.sentence()));
        assert_eq!(probe(0, Answer::Answered(MS)), ((1, 0), None, false));
        assert_eq!(probe(10, Answer::Unanswered), ((1, 1), None, false), "it may be a change under way");
        assert_eq!(probe(20, Answer::Unanswered), ((1, 2), failing(15, Answer::Unanswered), false));
        let skipped = Answer::Skipped(Skipped::Returned);
        assert_eq!(probe(30, skipped), ((1, 2), failing(25, Answer::Unanswered), true));
        assert_eq!(probe(40, Answer::Refused), ((1, 3), failing(35, Answer::Refused), false));
        assert_eq!(probe(50, Answer::Answered(MS)), ((2, 3), None, false));
    }
}
