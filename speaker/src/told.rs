//! What was last told of each Service, and the metric that shows which addresses the node announces.
//!
//! A scrape reads what the reporter remembers in any case: a series of its own for each of a hundred thousand addresses
//! would take more room than everything else that is known of them. It takes the lock for some Services at a time, and
//! names the first so many addresses, in the order of their Services' names; how many more there are is one series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herald_runtime::ObjectName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;

use crate::history::Local;
use crate::plan::{Remark, Verdict};
use crate::reason::Reason;

/// MetalLB's words, in the order of [`State::by`].
pub(crate) const PROTOCOLS: [&str; 2] = ["bgp", "layer2"];
/// Services whose series are written between two looks.
const AT_ONCE: usize = 64;

/// What became of an address here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Announced by BGP, and by layer 2.
    pub(crate) by: [bool; 2],
    /// Why not at all.
    pub(crate) reason: Option<Reason>,
}

impl State {
    fn of(verdict: Verdict, owned: bool) -> Self {
        match verdict {
            Verdict::Announce => Self { by: [true, false], reason: None },
            Verdict::Offer { bgp } => {
                Self { by: [bgp, owned], reason: (!bgp && !owned).then_some(Reason::NotOwner) }
            }
            Verdict::Skip(reason) => Self { by: [false, false], reason: Some(reason) },
        }
    }
}

/// What was told of one Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    /// Its `metadata.uid`; `None`: its object is gone.
    pub(crate) uid: Option<Box<str>>,
    /// By address, in order.
    pub(crate) verdicts: Box<[(IpAddr, Verdict)]>,
    /// Its rules are in the kernel as they should be.
    pub(crate) programmed: bool,
    /// By name, to whom its routes are told.
    pub(crate) peers: Arc<BTreeSet<String>>,
    /// For its users.
    pub(crate) remarks: BTreeSet<Remark>,
}

impl Told {
    /// Whether it has this address.
    pub(crate) fn has(&self, address: &IpAddr) -> bool {
        self.verdicts.binary_search_by_key(address, |(address, _)| *address).is_ok()
    }

    /// What it has of an address.
    pub(crate) fn local(&self, address: &IpAddr) -> Option<Local> {
        let at = self.verdicts.binary_search_by_key(address, |(address, _)| *address).ok()?;
        let (_, verdict) = self.verdicts.get(at)?;
        Some(Local { verdict: *verdict, programmed: self.programmed })
    }

    /// What becomes of its addresses, in order, on a node that owns these by layer 2.
    pub(crate) fn states(&self, owned: &BTreeSet<IpAddr>) -> impl Iterator<Item = (IpAddr, State)> {
        let state = |verdict, address| State::of(verdict, owned.contains(&address));
        self.verdicts.iter().map(move |(address, verdict)| (*address, state(*verdict, *address)))
    }
}

/// What was told of some Services, in order.
type Services = Vec<(ObjectName, Arc<Told>)>;

/// What was told of all Services.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllTold(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    services: BTreeMap<ObjectName, Arc<Told>>,
    owned: Arc<BTreeSet<IpAddr>>,
}

impl AllTold {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was told of a Service.
    pub(crate) fn of(&self, service: &ObjectName) -> Arc<Told> {
        self.lock().services.get(service).cloned().unwrap_or_default()
    }

    /// All in order.
    pub(crate) fn all(&self) -> Services {
        self.lock().services.iter().map(|(name, told)| (name.clone(), Arc::clone(told))).collect()
    }

    /// Remembers it; a Service with nothing to tell is forgotten.
    pub(crate) fn remember(&self, service: &ObjectName, told: Told) {
        let services = &mut self.lock().services;
        match told.verdicts.is_empty() && told.remarks.is_empty() {
            true => services.remove(service),
            false => services.insert(service.clone(), Arc::new(told)),
        };
    }

    /// What the node owns by layer 2.
    pub(crate) fn owned(&self) -> Arc<BTreeSet<IpAddr>> {
        Arc::clone(&self.lock().owned)
    }

    /// The node owns this now; returns what it owned before.
    pub(crate) fn own(&self, owned: BTreeSet<IpAddr>) -> Arc<BTreeSet<IpAddr>> {
        std::mem::replace(&mut self.lock().owned, Arc::new(owned))
    }

    /// Some Services behind this one, and what the node owns.
    fn after(&self, last: Option<&ObjectName>) -> (Services, Arc<BTreeSet<IpAddr>>) {
        let inner = self.lock();
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let services = inner.services.range((from, Bound::Unbounded)).take(AT_ONCE);
        (services.map(|(name, told)| (name.clone(), Arc::clone(told))).collect(), Arc::clone(&inner.owned))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    service: String,
    protocol: &'static str,
    node: String,
    ip: String,
}

/// `metallb_speaker_announced`.
#[derive(Debug)]
pub(crate) struct Announced {
    /// As which node.
    pub(crate) node: String,
    /// What of.
    pub(crate) told: AllTold,
    /// So many addresses have series of their own.
    pub(crate) limit: usize,
}

impl Announced {
    /// The series of all that have none: no Service has a name without a namespace.
    fn others(&self, protocol: &'static str) -> Label {
        Label { service: "others".to_owned(), protocol, node: self.node.clone(), ip: String::new() }
    }
}

impl Collector for Announced {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "metallb_speaker_announced",
            "Services announced from this node",
            None,
            MetricType::Gauge,
        )?;
        let (mut last, mut named, mut others) = (None, 0, [0_i64; PROTOCOLS.len()]);
        loop {
            let (services, owned) = self.told.after(last.as_ref());
            let Some((name, _)) = services.last() else { break };
            last = Some(name.clone());
            for (service, told) in &services {
                for (address, state) in told.states(&owned) {
                    if named == self.limit {
                        others.iter_mut().zip(state.by).for_each(|(others, by)| *others += i64::from(by));
                        continue;
                    }
                    named += usize::from(state.by.contains(&true));
                    for (protocol, _) in PROTOCOLS.into_iter().zip(state.by).filter(|(_, by)| *by) {
                        let (service, node) = (service.to_string(), self.node.clone());
                        let labels = Label { service, protocol, node, ip: address.to_string() };
                        metric.encode_family(&labels)?.encode_gauge(&1i64)?;
                    }
                }
            }
        }
        for (protocol, others) in PROTOCOLS.into_iter().zip(others).filter(|(_, others)| *others > 0) {
            metric.encode_family(&self.others(protocol))?.encode_gauge(&others)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use herald_runtime::metrics::Metrics;

    use super::*;

    #[test]
    fn all_announced_addresses_have_metallbs_labels_however_many_they_are() {
        let (registry, told) = (Metrics::new(), AllTold::default());
        registry.collect(Announced { node: "node-1".to_owned(), told: told.clone(), limit: 1000 });
        let services = 2 * AT_ONCE + 1;
        let mut expected = BTreeSet::new();
        for n in 0..services {
            let service = ObjectName::new("shop", format!("svc-{n}"));
            let address = IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
            let verdicts = [(address, Verdict::Announce)].into();
            told.remember(&service, Told { verdicts, ..Told::default() });
            expected.insert(format!(
                r#"metallb_speaker_announced{{service="shop/svc-{n}",protocol="bgp",node="node-1",ip="{address}"}} 1"#
            ));
        }
        let text = registry.encode().unwrap();
        let series = text.lines().filter(|line| line.starts_with("metallb_")).map(str::to_owned);
        assert_eq!(series.collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn ten_thousand_services_have_as_many_series_as_are_allowed_and_their_sum_is_right() {
        let (registry, told) = (Metrics::new(), AllTold::default());
        registry.collect(Announced { node: "node-1".to_owned(), told: told.clone(), limit: 100 });
        for n in 0..10_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(0xC612_0000 + n));
            let verdicts = [(address, Verdict::Announce)].into();
            told.remember(&ObjectName::new("shop", format!("svc-{n}")), Told { verdicts, ..Told::default() });
        }
        let text = registry.encode().unwrap();
        let values = text.lines().filter(|line| line.starts_with("metallb_speaker_announced{"));
        let values: Vec<u32> = values.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!((values.len(), values.iter().sum()), (101, 10_000));
        let others = r#"metallb_speaker_announced{service="others",protocol="bgp",node="node-1",ip=""} 9900"#;
        assert!(text.lines().any(|line| line == others));
    }
}
