//! What the node tells about its Services: log, Events and metrics, each change once.
//!
//! Remembers what was told, so that a Service that is planned again without a change is silent. Only Services with
//! load balancer addresses or something to remark are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::{EventRecorder, EventType, regarding};
use tokio::sync::watch;

use crate::l2_status::{Announced, Shown};
use crate::layer2::View;
use crate::metrics::SpeakerMetrics;
use crate::plan::{Remark, Verdict};
use crate::reason::Reason;

/// What became of an address here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Announced by BGP, and by layer 2.
    by: [bool; 2],
    /// Why not at all.
    reason: Option<Reason>,
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

/// MetalLB's words, in the order of [`State::by`].
const PROTOCOLS: [&str; 2] = ["bgp", "layer2"];

#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    uid: Option<String>,
    verdicts: BTreeMap<IpAddr, Verdict>,
    states: BTreeMap<IpAddr, State>,
    remarks: BTreeSet<Remark>,
}

impl Told {
    fn announces(&self, protocol: usize) -> bool {
        self.states.values().any(|state| state.by.get(protocol) == Some(&true))
    }

    /// No address is another's by layer 2.
    fn announces_all_of_layer2(&self) -> bool {
        let offered = self.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Offer { .. }));
        offered
            .map(|(address, _)| self.states.get(address))
            .all(|state| state.is_some_and(|state| state.by[1]))
    }
}

/// Tells changes, and knows what was told.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    events: EventRecorder,
    metrics: SpeakerMetrics,
    told: BTreeMap<ObjectName, Told>,
    /// What the node owns by layer 2.
    owned: BTreeSet<IpAddr>,
    /// Hosts that have an address of a pool, in words.
    conflicts: BTreeMap<IpAddr, String>,
    /// The interfaces of those that it owns, where an advertisement names some.
    named: BTreeMap<IpAddr, BTreeSet<String>>,
    /// For who writes ServiceL2Status.
    statuses: watch::Sender<Announced>,
}

impl Reporter {
    /// Nothing was told.
    pub(crate) fn new(node: &str, events: EventRecorder, metrics: SpeakerMetrics) -> Self {
        Self {
            node: node.to_owned(),
            events,
            metrics,
            told: BTreeMap::new(),
            owned: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            named: BTreeMap::new(),
            statuses: watch::Sender::new(Announced::new()),
        }
    }

    /// The Services that are announced by layer 2.
    pub(crate) fn statuses(&self) -> watch::Receiver<Announced> {
        self.statuses.subscribe()
    }

    /// A Service is like this now. `uid` is `None` when its object is gone.
    pub(crate) fn service(
        &mut self,
        service: &ObjectName,
        uid: Option<&str>,
        verdicts: BTreeMap<IpAddr, Verdict>,
        remarks: BTreeSet<Remark>,
    ) {
        let state = |(address, verdict): (&IpAddr, &Verdict)| {
            (*address, State::of(*verdict, self.owned.contains(address)))
        };
        let states = verdicts.iter().map(state).collect();
        self.tell(service, Told { uid: uid.map(str::to_owned), verdicts, states, remarks });
    }

    /// The node owns addresses by layer 2 as told here, and so have hosts outside the cluster.
    pub(crate) fn layer2(&mut self, view: View) {
        let (owned, named, conflicts) = (view.owned(), view.named(), view.conflicts);
        let mut changed: BTreeSet<IpAddr> = owned.symmetric_difference(&self.owned).copied().collect();
        changed.extend(owned.iter().filter(|address| named.get(*address) != self.named.get(*address)));
        (self.owned, self.named) = (owned, named);
        let concerns = |told: &Told| changed.iter().any(|address| told.verdicts.contains_key(address));
        let concerned = self.told.iter().filter(|(_, told)| concerns(told));
        for (service, mut told) in
            concerned.map(|(name, told)| (name.clone(), told.clone())).collect::<Vec<_>>()
        {
            for (address, verdict) in &told.verdicts {
                told.states.insert(*address, State::of(*verdict, self.owned.contains(address)));
            }
            self.tell(&service, told);
        }
        for (address, text) in
            conflicts.iter().filter(|(address, text)| self.conflicts.get(address) != Some(*text))
        {
            tracing::warn!(%address, "{text}");
            for (service, told) in self.told.iter().filter(|(_, told)| told.verdicts.contains_key(address)) {
                let object = regarding("Service", service, told.uid.as_deref().unwrap_or_default());
                self.events.publish(object, EventType::Warning, "AddressConflict", text.clone());
            }
        }
        self.conflicts = conflicts;
    }

    fn tell(&mut self, service: &ObjectName, now: Told) {
        let before = self.told.remove(service).unwrap_or_default();
        if now != before {
            self.addresses(service, &before, &now);
            if let Some(uid) = &now.uid {
                self.events(service, uid, &before, &now);
            }
        }
        self.status(service, &now);
        if !now.verdicts.is_empty() || !now.remarks.is_empty() {
            self.told.insert(service.clone(), now);
        }
    }

    /// The addresses of each Service that this node announces by BGP.
    pub(crate) fn announced_by_bgp(&self) -> BTreeMap<ObjectName, Vec<IpAddr>> {
        let addresses = |told: &Told| {
            let announced = told.states.iter().filter(|(_, state)| state.by[0]);
            announced.map(|(address, _)| *address).collect::<Vec<_>>()
        };
        let told = self.told.iter().map(|(service, told)| (service.clone(), addresses(told)));
        told.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    fn status(&self, service: &ObjectName, now: &Told) {
        let owned = now.states.iter().filter(|(_, state)| state.by[1]);
        let interfaces =
            owned.filter_map(|(address, _)| self.named.get(address)).flatten().cloned().collect();
        let shown = Shown { interfaces, alone: now.announces_all_of_layer2() };
        self.statuses.send_if_modified(|all| match now.announces(1) {
            true => all.insert(service.clone(), shown.clone()).as_ref() != Some(&shown),
            false => all.remove(service).is_some(),
        });
    }

    /// Nothing is announced any more, for the node stops.
    pub(crate) fn stopped(&mut self) {
        for (service, told) in std::mem::take(&mut self.told) {
            self.addresses(&service, &told, &Told::default());
        }
    }

    fn addresses(&self, service: &ObjectName, before: &Told, now: &Told) {
        let addresses: BTreeSet<&IpAddr> = before.states.keys().chain(now.states.keys()).collect();
        for address in addresses {
            let (was, is) = (before.states.get(address), now.states.get(address));
            if was == is {
                continue;
            }
            let reason = |state: Option<&State>| state.and_then(|state| state.reason);
            if let Some(reason) = reason(was) {
                self.metrics.not_announced(reason, -1);
            }
            if let Some(reason) = reason(is) {
                self.metrics.not_announced(reason, 1);
                tracing::debug!(%service, %address, %reason, "not announced");
            }
            for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
                let by =
                    |state: Option<&State>| state.is_some_and(|state| state.by.get(number) == Some(&true));
                match (by(was), by(is)) {
                    (false, true) => {
                        self.metrics.announced(service, protocol, *address, true);
                        tracing::info!(%service, %address, protocol, "announced");
                    }
                    (true, false) => {
                        self.metrics.announced(service, protocol, *address, false);
                        let reason = reason(is).map_or("addressGone", Reason::word);
                        tracing::info!(%service, %address, protocol, reason, "withdrawn");
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    fn events(&self, service: &ObjectName, uid: &str, before: &Told, now: &Told) {
        let object = || regarding("Service", service, uid);
        for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
            if now.announces(number) && !before.announces(number) {
                // MetalLB's words: scripts wait for them.
                let note = format!("announcing from node \"{}\" with protocol \"{protocol}\"", self.node);
                self.events.publish(object(), EventType::Normal, "nodeAssigned", note);
            }
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
    use crate::layer2::PortView;

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

    #[test]
    fn an_offered_address_is_announced_while_the_node_owns_it() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1");
        let mut reporter = Reporter::new("node-1", EventRecorder::disconnected(), metrics);
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let offers = BTreeMap::from([(vip, Verdict::Offer { bgp: false })]);
        reporter.service(&ObjectName::new("shop", "web"), Some("1"), offers, BTreeSet::new());
        let waiting = r#"herald_speaker_not_announced{reason="notOwner"} 1"#;
        let announced = r#"metallb_speaker_announced{service="shop/web",protocol="layer2",node="node-1",ip="192.0.2.1"} 1"#;
        for owns in [false, true, false] {
            let owned = if owns { BTreeSet::from([vip]) } else { BTreeSet::new() };
            let port = PortView { owned, ..PortView::default() };
            reporter.layer2(View { ports: [("eth0".to_owned(), port)].into(), ..View::default() });
            assert_eq!(reporter.statuses().borrow().len(), usize::from(owns));
            assert_eq!(series(&registry).contains(announced), owns);
            assert_eq!(series(&registry).contains(waiting), !owns);
        }
    }
    #[test]
    fn a_service_whose_families_have_two_owners_is_announced_by_neither_alone() {
        let metrics = SpeakerMetrics::new(&Metrics::new(), "node-1");
        let mut reporter = Reporter::new("node-1", EventRecorder::disconnected(), metrics);
        let vips = ["192.0.2.1", "2001:db8::1"].map(|vip| vip.parse::<IpAddr>().unwrap());
        let web = ObjectName::new("shop", "web");
        let offers = vips.map(|vip| (vip, Verdict::Offer { bgp: false })).into();
        reporter.service(&web, Some("1"), offers, BTreeSet::new());
        for (owned, alone) in [(&vips[..1], false), (&vips[..], true), (&vips[1..], false)] {
            let port = PortView { owned: owned.iter().copied().collect(), ..PortView::default() };
            reporter.layer2(View { ports: [("eth0".to_owned(), port)].into(), ..View::default() });
            assert_eq!(reporter.statuses().borrow()[&web].alone, alone, "{owned:?}");
        }
    }
}
