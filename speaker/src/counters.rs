//! What the kernel's rules have counted, as metrics.
//!
//! Read when somebody scrapes, at most once a second, on a thread and a socket of its own: listing takes no lock that a
//! transaction needs, so the writer is never held up. A scrape waits [`PATIENCE`] and then shows what it last saw.
//!
//! Totals never go back. The kernel counts from zero when tables are written anew, which their number shows. What was counted between the last scrape and such a moment is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use herald_proxy::netlink::{Count, Ended, Kernel, KernelError};
use herald_proxy::{EndReason, IpFamily};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// How long a scrape waits for the kernel.
const PATIENCE: Duration = Duration::from_millis(250);
/// How old what a scrape shows may be without asking again.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
    ip_family: IpFamily,
}

/// What the kernel said.
type Reading = Vec<Ended>;

/// Asks the kernel; ends with this value.
#[derive(Debug)]
pub(crate) struct Counters {
    /// One question at a time: another one is not asked while the thread is busy.
    questions: SyncSender<Sender<Reading>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    asked: Option<Instant>,
    totals: Totals<(EndReason, IpFamily)>,
}

impl Counters {
    /// Starts the thread, in the network namespace of the calling one.
    pub(crate) fn start() -> io::Result<Self> {
        let (questions, queue) = sync_channel(1);
        std::thread::Builder::new().name("counters".to_owned()).spawn(move || answer(&queue))?;
        Ok(Self { questions, seen: Mutex::default() })
    }

    fn ask(&self) -> Option<Reading> {
        let (answer, answered) = channel();
        self.questions.try_send(answer).ok()?;
        answered.recv_timeout(PATIENCE).ok()
    }
}

fn answer(queue: &Receiver<Sender<Reading>>) {
    let mut kernel: Option<Kernel> = None;
    for question in queue {
        match read(&mut kernel) {
            Ok(reading) => {
                let _ = question.send(reading);
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel's counters cannot be read");
                kernel = None;
            }
        }
    }
}

fn read(kernel: &mut Option<Kernel>) -> Result<Reading, KernelError> {
    let open = match kernel.take() {
        Some(open) => open,
        None => Kernel::open()?,
    };
    kernel.insert(open).ended()
}

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.asked.is_none_or(|asked| asked.elapsed() >= FRESH) {
            seen.asked = Some(Instant::now());
            for Ended { family, table, reason, count } in self.ask().unwrap_or_default() {
                seen.totals.saw((reason, family), table, count);
            }
        }
        let mut metric = encoder.encode_descriptor(
            "herald_proxy_dropped_packets",
            "Packets to Services that were dropped or rejected, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in EndReason::ALL {
            for ip_family in IpFamily::ALL {
                let labels = Labels { reason: reason.word(), ip_family };
                let total = seen.totals.of(&(reason, ip_family)).packets;
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&total, None)?;
            }
        }
        Ok(())
    }
}

/// One counter's sum, and where and when it was last seen.
#[derive(Debug, Default)]
struct Total {
    table: u64,
    last: Count,
    sum: Count,
}

/// Sums of counters that begin anew now and then.
#[derive(Debug)]
struct Totals<K>(BTreeMap<K, Total>);

impl<K> Default for Totals<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Totals<K> {
    /// The counter stands here now.
    fn saw(&mut self, key: K, table: u64, now: Count) {
        let total = self.0.entry(key).or_default();
        // Somebody may have reset it (`nft reset counters`).
        let anew = table != total.table || now.packets < total.last.packets || now.bytes < total.last.bytes;
        let since = if anew { Count::default() } else { total.last };
        total.sum.packets = total.sum.packets.saturating_add(now.packets - since.packets);
        total.sum.bytes = total.sum.bytes.saturating_add(now.bytes - since.bytes);
        (total.table, total.last) = (table, now);
    }

    fn of(&self, key: &K) -> Count {
        self.0.get(key).map_or_else(Count::default, |total| total.sum)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use herald_proxy::ruleset::{Ruleset, RulesetConfig};
    use herald_proxy::{Element, Frontend, Protocol, Refusal};
    use herald_runtime::metrics::Metrics;

    use super::*;
    use crate::testing::in_namespace;

    #[test]
    fn totals_go_on_when_a_counter_begins_anew() {
        let mut totals = Totals::default();
        let count = |packets, bytes| Count { packets, bytes };
        for (table, now, total) in [
            (7, 3, 3),
            (7, 3, 3),
            (7, 10, 10),
            (7, 4, 14),
            (7, 5, 15),
            (7, 0, 15),
            (8, 1, 16),
            (9, 1, 17),
            (9, 1, 17),
        ] {
            totals.saw("a", table, count(now, now * 60));
            assert_eq!(totals.of(&"a"), count(total, total * 60), "at {now}");
        }
        assert_eq!(totals.of(&"b"), Count::default());
    }

    #[test]
    #[ignore = "needs a network namespace"]
    fn a_scrape_shows_what_the_rules_have_counted_and_never_less_than_before() {
        in_namespace(|| async {
            let registry = Metrics::new();
            registry.collect(Counters::start().unwrap());
            let line = |packets: u64| {
                format!(
                    r#"herald_proxy_dropped_packets_total{{reason="NoLocalEndpoint",ip_family="IPv4"}} {packets}"#
                )
            };
            let shows = |packets: u64| {
                let text = registry.encode().unwrap();
                text.lines().any(|l| l == line(packets))
            };
            assert!(shows(0), "every reason has a series from the start");
            let ruleset = Ruleset::new(&RulesetConfig::default());
            let frontend = Frontend { address: [127, 0, 0, 1].into(), protocol: Protocol::Udp, port: 53 };
            let dropped = [Element::Refused { frontend, refusal: Refusal::Drop }];
            let mut kernel = Kernel::open().unwrap();
            let mut sent = 0;
            for _ in 0..2 {
                // The second time: all counters begin anew.
                kernel.remove().unwrap();
                kernel.replace(&ruleset, &dropped).unwrap();
                for _ in 0..3 {
                    // A socket each: a new connection each.
                    let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:53");
                    sent += 1;
                }
                let deadline = Instant::now() + Duration::from_secs(10);
                while !shows(sent) {
                    assert!(Instant::now() < deadline, "{}", registry.encode().unwrap());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
}
