//! What the kernel's rules have counted, as metrics.
//!
//! Read when somebody scrapes, at most once a second, on a thread and a socket of its own: listing takes no lock that a
//! transaction needs, so the writer is never held up. A scrape waits [`PATIENCE`] and then shows what was last seen;
//! a reading that comes later is shown by the next scrape.
//!
//! Totals never go back. The kernel counts from zero when tables or elements are written anew (`traffic.rs`). What was
//! counted between the last scrape and such a moment is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use herald_proxy::netlink::{Count, Ended, Kernel, KernelError};
use herald_proxy::{EndReason, Frontend, IpFamily, Protocol};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::traffic::{Names, Seen, Traffic, add};

/// How long a scrape waits for the kernel.
const PATIENCE: Duration = Duration::from_millis(250);
/// How old what a scrape shows may be without asking again.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    reason: &'static str,
    ip_family: IpFamily,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    namespace: String,
    service: String,
    address: String,
    port: String,
    protocol: &'static str,
}

/// Shows what was counted; the thread that reads it ends with this value.
#[derive(Debug)]
pub(crate) struct Counters {
    /// One question at a time: another one is not asked while the thread is busy.
    questions: SyncSender<()>,
    asked: Mutex<Option<Instant>>,
    totals: Arc<Totals>,
    names: Names,
}

#[derive(Debug)]
struct Totals {
    now: Mutex<Now>,
    read: Condvar,
}

#[derive(Debug)]
struct Now {
    readings: u64,
    ended: BTreeMap<(EndReason, IpFamily), (Seen, Count)>,
    traffic: Traffic,
}

impl Totals {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    /// Starts the thread, in the network namespace of the calling one. At most `limit` frontends get series of their own;
    /// with none of them frontends are not read at all.
    pub(crate) fn start(names: Names, limit: usize) -> io::Result<Self> {
        let (questions, queue) = sync_channel(1);
        let now = Now { readings: 0, ended: BTreeMap::new(), traffic: Traffic::new(limit) };
        let totals = Arc::new(Totals { now: Mutex::new(now), read: Condvar::new() });
        let thread = std::thread::Builder::new().name("counters".to_owned());
        let written = Arc::clone(&totals);
        thread.spawn(move || run(&queue, &written, limit > 0))?;
        Ok(Self { questions, asked: Mutex::new(None), totals, names })
    }

    /// The totals, as fresh as they can be had in time.
    fn totals(&self) -> MutexGuard<'_, Now> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.totals.lock();
        if asked.is_some_and(|asked| asked.elapsed() < FRESH) || self.questions.try_send(()).is_err() {
            return now;
        }
        *asked = Some(Instant::now());
        let before = now.readings;
        let waited = self.totals.read.wait_timeout_while(now, PATIENCE, |now| now.readings == before);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Answers questions until nobody can ask any more.
fn run(queue: &Receiver<()>, totals: &Totals, traffic: bool) {
    let mut kernel: Option<Kernel> = None;
    for () in queue {
        match read(&mut kernel, traffic) {
            Ok((ended, frontends)) => {
                let mut now = totals.lock();
                for Ended { family, table, reason, count } in ended {
                    let (seen, total) = now.ended.entry((reason, family)).or_default();
                    add(total, seen.since(table, count));
                }
                now.traffic.saw(&frontends);
                now.readings += 1;
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel's counters cannot be read");
                kernel = None;
                totals.lock().readings += 1;
            }
        }
        totals.read.notify_all();
    }
}

type Reading = (Vec<Ended>, Vec<(Frontend, u64, Count)>);

fn read(kernel: &mut Option<Kernel>, traffic: bool) -> Result<Reading, KernelError> {
    let open = match kernel.take() {
        Some(open) => open,
        None => Kernel::open()?,
    };
    let open = kernel.insert(open);
    let mut frontends = Vec::new();
    if traffic {
        open.traffic(&mut |frontend, table, count| frontends.push((frontend, table, count)))?;
    }
    Ok((open.ended()?, frontends))
}

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.totals();
        let mut metric = encoder.encode_descriptor(
            "herald_proxy_dropped_packets",
            "Packets to Services that were dropped or rejected, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in EndReason::ALL {
            for ip_family in IpFamily::ALL {
                let labels = EndLabels { reason: reason.word(), ip_family };
                let packets = now.ended.get(&(reason, ip_family)).map_or(0, |(_, total)| total.packets);
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&packets, None)?;
            }
        }
        let series: Vec<(ServiceLabels, Count)> = now
            .traffic
            .own()
            .iter()
            .filter_map(|(frontend, count)| Some((self.labels(frontend)?, *count)))
            .chain([(others(), now.traffic.others())])
            .collect();
        drop(now);
        let packets: fn(&Count) -> u64 = |count| count.packets;
        let bytes: fn(&Count) -> u64 = |count| count.bytes;
        for (name, help, value) in [
            ("herald_service_packets", "Packets that clients sent to a frontend of a Service", packets),
            (
                "herald_service_bytes",
                "Bytes that clients sent to a frontend of a Service, with IP headers",
                bytes,
            ),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, count) in &series {
                let value = value(count);
                metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }
}

impl Counters {
    fn labels(&self, frontend: &Frontend) -> Option<ServiceLabels> {
        let name = self.names.of(frontend)?;
        Some(ServiceLabels {
            namespace: name.namespace.to_string(),
            service: name.name.to_string(),
            address: frontend.address.to_string(),
            port: frontend.port.to_string(),
            protocol: match frontend.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            },
        })
    }
}

/// The series of all that have none: no Service has an empty namespace.
fn others() -> ServiceLabels {
    let none = String::new;
    ServiceLabels {
        namespace: none(),
        service: "others".to_owned(),
        address: none(),
        port: none(),
        protocol: "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc as Shared;

    use herald_proxy::ruleset::{Ruleset, RulesetConfig};
    use herald_proxy::{
        Backends, Element, FrontendKind, FrontendRules, Policy, Program, Refusal, ServiceRules,
    };
    use herald_runtime::ObjectName;
    use herald_runtime::metrics::Metrics;

    use super::*;
    use crate::testing::in_namespace;

    async fn eventually(registry: &Metrics, lines: &[String]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = registry.encode().unwrap();
            let missing: Vec<&String> =
                lines.iter().filter(|line| !text.lines().any(|l| l == **line)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{missing:?} in\n{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[test]
    #[ignore = "needs a network namespace"]
    fn a_scrape_shows_what_the_rules_have_counted_and_never_less_than_before() {
        in_namespace(|| async {
            let frontend = Frontend { address: [127, 0, 0, 1].into(), protocol: Protocol::Udp, port: 53 };
            let rules = FrontendRules {
                frontend,
                kind: FrontendKind::NodePort,
                policy: Policy::ExternalLocal,
                vip: false,
                sources: None,
                backends: Shared::new(Backends::default()),
            };
            let (mut program, names) = (Program::new(), Names::default());
            let service = ServiceRules {
                created: 1,
                frontends: [rules].into(),
                health: None,
                local_ports: Box::default(),
            };
            program.set(&ObjectName::new("shop", "dns"), Some(service));
            names.changed([frontend], &program);
            let registry = Metrics::new();
            registry.collect(Counters::start(names, 5).unwrap());
            let lines = |packets: u64| {
                let labels = r#"namespace="shop",service="dns",address="127.0.0.1",port="53",protocol="UDP""#;
                [
                    format!(
                        r#"herald_proxy_dropped_packets_total{{reason="NoLocalEndpoint",ip_family="IPv4"}} {packets}"#
                    ),
                    format!("herald_service_packets_total{{{labels}}} {packets}"),
                    format!("herald_service_bytes_total{{{labels}}} {}", packets * 29),
                ]
            };
            eventually(&registry, &lines(0)[..1]).await;
            let ruleset = Ruleset::new(&RulesetConfig::default());
            let elements =
                [Element::Refused { frontend, refusal: Refusal::Drop }, Element::Counted { frontend }];
            let mut kernel = Kernel::open().unwrap();
            let mut sent = 0;
            for _ in 0..2 {
                // The second time: all counters begin anew.
                kernel.remove().unwrap();
                kernel.replace(&ruleset, &elements).unwrap();
                for _ in 0..3 {
                    // A socket each: a new connection each. Refused where they are sent.
                    let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:53");
                    sent += 1;
                }
                eventually(&registry, &lines(sent)).await;
            }
        });
    }
}
