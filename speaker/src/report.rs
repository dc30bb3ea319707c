//! What the node tells about its Services: log, Events and metrics, each change once.
//!
//! Remembers what was told, so that a Service that is planned again without a change is silent. Only Services with
//! load balancer addresses or something to remark are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::{EventRecorder, EventType, regarding};

use crate::metrics::SpeakerMetrics;
use crate::plan::{Remark, Verdict};

#[derive(Debug, Default, PartialEq)]
struct Told {
    verdicts: BTreeMap<IpAddr, Verdict>,
    remarks: BTreeSet<Remark>,
}

impl Told {
    fn announces(&self) -> bool {
        self.verdicts.values().any(|verdict| *verdict == Verdict::Announce)
    }
}

/// Tells changes, and knows what was told.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    events: EventRecorder,
    metrics: SpeakerMetrics,
    told: BTreeMap<ObjectName, Told>,
}

impl Reporter {
    /// Nothing was told.
    pub(crate) fn new(node: &str, events: EventRecorder, metrics: SpeakerMetrics) -> Self {
        Self { node: node.to_owned(), events, metrics, told: BTreeMap::new() }
    }

    /// A Service is like this now. `uid` is `None` when its object is gone.
    pub(crate) fn service(
        &mut self,
        service: &ObjectName,
        uid: Option<&str>,
        verdicts: BTreeMap<IpAddr, Verdict>,
        remarks: BTreeSet<Remark>,
    ) {
        let now = Told { verdicts, remarks };
        let before = self.told.remove(service).unwrap_or_default();
        if now != before {
            self.addresses(service, &before, &now);
            if let Some(uid) = uid {
                self.events(service, uid, &before, &now);
            }
        }
        if now != Told::default() {
            self.told.insert(service.clone(), now);
        }
    }

    /// Nothing is announced any more, for the node stops.
    pub(crate) fn stopped(&mut self) {
        for (service, told) in std::mem::take(&mut self.told) {
            self.addresses(&service, &told, &Told::default());
        }
    }

    fn addresses(&self, service: &ObjectName, before: &Told, now: &Told) {
        let addresses: BTreeSet<&IpAddr> = before.verdicts.keys().chain(now.verdicts.keys()).collect();
        for address in addresses {
            let (was, is) = (before.verdicts.get(address), now.verdicts.get(address));
            if was == is {
                continue;
            }
            if let Some(Verdict::Skip(reason)) = was {
                self.metrics.not_announced(*reason, -1);
            }
            if let Some(Verdict::Skip(reason)) = is {
                self.metrics.not_announced(*reason, 1);
            }
            match (was, is) {
                (_, Some(Verdict::Announce)) => {
                    self.metrics.announced(service, *address, true);
                    tracing::info!(%service, %address, "announced");
                }
                (Some(Verdict::Announce), is) => {
                    self.metrics.announced(service, *address, false);
                    let reason = match is {
                        Some(Verdict::Skip(reason)) => reason.word(),
                        _ => "addressGone",
                    };
                    tracing::info!(%service, %address, reason, "withdrawn");
                }
                (_, Some(Verdict::Skip(reason))) => {
                    tracing::debug!(%service, %address, %reason, "not announced");
                }
                (_, None) => {}
            }
        }
    }

    fn events(&self, service: &ObjectName, uid: &str, before: &Told, now: &Told) {
        let object = || regarding("Service", service, uid);
        if now.announces() && !before.announces() {
            // MetalLB's words: scripts wait for them.
            let note = format!("announcing from node \"{}\" with protocol \"bgp\"", self.node);
            self.events.publish(object(), EventType::Normal, "nodeAssigned", note);
        }
        for remark in now.remarks.difference(&before.remarks) {
            tracing::warn!(%service, reason = remark.reason, "{}", remark.text);
            self.events.publish(object(), EventType::Warning, remark.reason, remark.text.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use herald_runtime::metrics::Metrics;

    use super::*;
    use crate::reason::Reason;

    fn series(registry: &Metrics) -> String {
        registry.encode().unwrap()
    }

    #[test]
    fn metrics_follow_an_address_from_refused_to_announced_to_gone() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1");
        let mut reporter = Reporter::new("node-1", EventRecorder::disconnected(), metrics);
        let service = ObjectName::new("shop", "web");
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut tell = |verdict: Option<Verdict>| {
            let verdicts = verdict.map(|verdict| (vip, verdict)).into_iter().collect();
            reporter.service(&service, Some("1"), verdicts, BTreeSet::new());
        };
        let waiting = r#"herald_speaker_not_announced{reason="noEndpoints"} 1"#;
        let announced =
            r#"metallb_speaker_announced{service="shop/web",protocol="bgp",node="node-1",ip="192.0.2.1"} 1"#;
        tell(Some(Verdict::Skip(Reason::NoEndpoints)));
        tell(Some(Verdict::Skip(Reason::NoEndpoints)));
        assert!(series(&registry).contains(waiting) && !series(&registry).contains(announced));
        tell(Some(Verdict::Announce));
        assert!(!series(&registry).contains(waiting) && series(&registry).contains(announced));
        tell(None);
        assert!(!series(&registry).contains(waiting) && !series(&registry).contains(announced));
    }
}
