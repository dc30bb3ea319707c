//! What the node tells about its Services: log, Events, metrics and history, each change once.
//!
//! Remembers what was told, so that a Service that is planned again without a change is silent. Only Services with
//! load balancer addresses or something to remark are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventRecorder, EventType, regarding};
use tokio::sync::watch;

use crate::history::{History, Owners, of_service};
use crate::layer2::View;
use crate::metrics::SpeakerMetrics;
use crate::plan::{ServicePlan, Verdict};
use crate::reason::Reason;
use crate::service_status::{Announced, Shown};
use crate::told::{AllTold, PROTOCOLS, State, Told};

/// What became of a Service's addresses.
type States = BTreeMap<IpAddr, State>;

/// Tells changes, and knows what was told.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    events: EventRecorder,
    metrics: SpeakerMetrics,
    told: AllTold,
    /// The peers that the last Service is told to: nearly all Services have the same.
    peers: Arc<BTreeSet<String>>,
    /// Hosts that have an address of a pool, in words.
    conflicts: BTreeMap<IpAddr, String>,
    /// Nodes whose hellos are of another version, in words.
    other_versions: BTreeMap<Box<str>, String>,
    /// The interfaces of those that it owns, where an advertisement names some.
    named: BTreeMap<IpAddr, BTreeSet<String>>,
    /// For who writes ServiceBGPStatus and ServiceL2Status.
    statuses: [watch::Sender<Announced>; 2],
    history: History,
    /// As of the last look.
    owners: Owners,
    /// All Services were told once.
    begun: bool,
}

impl Reporter {
    /// Nothing was told.
    pub(crate) fn new(node: &str, events: EventRecorder, metrics: SpeakerMetrics, history: History) -> Self {
        Self {
            node: node.to_owned(),
            events,
            told: metrics.told.clone(),
            metrics,
            peers: Arc::default(),
            conflicts: BTreeMap::new(),
            other_versions: BTreeMap::new(),
            named: BTreeMap::new(),
            statuses: [(); 2].map(|()| watch::Sender::new(Announced::new())),
            history,
            owners: Owners::default(),
            begun: false,
        }
    }

    /// The Services that are announced, in the order of [`PROTOCOLS`].
    pub(crate) fn statuses(&self) -> [watch::Receiver<Announced>; 2] {
        self.statuses.each_ref().map(watch::Sender::subscribe)
    }

    /// A Service is planned like this now, and its rules are in the kernel or not. `uid` is `None` when its object is gone.
    pub(crate) fn service(
        &mut self,
        now: Instant,
        service: &ObjectName,
        uid: Option<&str>,
        plan: ServicePlan,
        programmed: bool,
    ) {
        let at = now;
        let ServicePlan { verdicts, remarks, peers, .. } = plan;
        if *self.peers != peers {
            self.peers = Arc::new(peers);
        }
        let (uid, peers) = (uid.map(Into::into), Arc::clone(&self.peers));
        let now = Told { uid, verdicts: verdicts.into_iter().collect(), programmed, peers, remarks };
        let before = self.told.of(service);
        let owned = self.told.owned();
        let (was, is): (States, States) = (before.states(&owned).collect(), now.states(&owned).collect());
        self.status(service, &now, &is);
        if now != *before {
            self.addresses(service, &was, &is);
            self.remember(at, service, &before, &now);
            if let Some(uid) = &now.uid {
                self.events(service, uid, (&before, &was), (&now, &is));
            }
            self.told.remember(service, now);
        }
    }

    /// All Services have been told.
    pub(crate) fn begun(&mut self) {
        self.begun = true;
    }

    /// The node owns addresses by layer 2 as told here, and so have hosts outside the cluster.
    pub(crate) fn layer2(&mut self, now: Instant, view: View) {
        self.owners.look(now, &self.node, &view, &self.history);
        self.other_versions(&view);
        let (owned, named, conflicts) = (view.owned(), view.named(), view.conflicts);
        let before = self.told.own(owned.clone());
        let mut changed: BTreeSet<IpAddr> = owned.symmetric_difference(&before).copied().collect();
        changed.extend(owned.iter().filter(|address| named.get(*address) != self.named.get(*address)));
        self.named = named;
        let new_conflicts: Vec<_> =
            conflicts.iter().filter(|(address, text)| self.conflicts.get(address) != Some(*text)).collect();
        if changed.is_empty() && new_conflicts.is_empty() {
            self.conflicts = conflicts;
            return;
        }
        let all = self.told.all();
        for (service, told) in all.iter().filter(|(_, told)| changed.iter().any(|address| told.has(address)))
        {
            let (was, is): (States, States) = (told.states(&before).collect(), told.states(&owned).collect());
            self.addresses(service, &was, &is);
            if let Some(uid) = &told.uid {
                self.events(service, uid, (told, &was), (told, &is));
            }
            self.status(service, told, &is);
        }
        for (address, text) in new_conflicts {
            tracing::warn!(%address, "{text}");
            for (service, told) in all.iter().filter(|(_, told)| told.has(address)) {
                let object = regarding("Service", service, told.uid.as_deref().unwrap_or_default());
                self.events.publish(object, EventType::Warning, EventReason::AddressConflict, text.clone());
            }
        }
        self.conflicts = conflicts;
    }

    /// Tells of nodes whose hellos cannot be read, on their Nodes. The log has it already.
    fn other_versions(&mut self, view: &View) {
        let now = view.other_versions();
        let new = now.iter().filter(|(node, text)| self.other_versions.get(**node) != Some(*text));
        // Once for all that see it.
        for (node, text) in new.filter(|_| view.is_first(&self.node)) {
            let object = regarding("Node", &ObjectName::new("", *node), node);
            let text = format!("as node {} sees it: {text}", self.node);
            self.events.publish(object, EventType::Warning, EventReason::HellosOfOtherVersion, text);
        }
        self.other_versions = now.into_iter().map(|(node, text)| (node.into(), text)).collect();
    }

    /// What happened.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// What was told of all Services.
    pub(crate) fn told(&self) -> &AllTold {
        &self.told
    }

    /// The addresses of each Service that this node announces by BGP.
    pub(crate) fn announced_by_bgp(&self) -> BTreeMap<ObjectName, Vec<IpAddr>> {
        let owned = self.told.owned();
        let addresses = |told: &Told| {
            let announced = told.states(&owned).filter(|(_, state)| state.by[0]);
            announced.map(|(address, _)| address).collect::<Vec<_>>()
        };
        let told = self.told.all().into_iter().map(|(service, told)| (service, addresses(&told)));
        told.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    fn status(&self, service: &ObjectName, told: &Told, states: &States) {
        let owned = states.iter().filter(|(_, state)| state.by[1]);
        let interfaces: BTreeSet<String> =
            owned.filter_map(|(address, _)| self.named.get(address)).flatten().cloned().collect();
        // No address is another's by layer 2.
        let mut offered =
            told.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Offer { .. }));
        let alone = offered.all(|(address, _)| states.get(address).is_some_and(|state| state.by[1]));
        let by_bgp = Shown { names: Arc::clone(&told.peers), alone: false };
        let by_layer2 = Shown { names: Arc::new(interfaces), alone };
        for ((number, shown), all) in [by_bgp, by_layer2].into_iter().enumerate().zip(&self.statuses) {
            all.send_if_modified(|all| match announces(states, number) {
                true => all.insert(service.clone(), shown.clone()).as_ref() != Some(&shown),
                false => all.remove(service).is_some(),
            });
        }
    }

    /// Nothing is announced any more, for the node stops.
    pub(crate) fn stopped(&mut self) {
        let owned = self.told.owned();
        for (service, told) in self.told.all() {
            self.addresses(&service, &told.states(&owned).collect(), &States::new());
            self.told.remember(&service, Told::default());
        }
    }

    fn remember(&self, at: Instant, service: &ObjectName, before: &Told, now: &Told) {
        let addresses = before.verdicts.iter().chain(&now.verdicts).map(|(address, _)| *address);
        for address in addresses.collect::<BTreeSet<_>>() {
            let changes = of_service(before.local(&address), now.local(&address), !self.begun);
            self.history.service(at, service, address, changes);
        }
    }

    fn addresses(&self, service: &ObjectName, before: &States, now: &States) {
        let addresses: BTreeSet<&IpAddr> = before.keys().chain(now.keys()).collect();
        for address in addresses {
            let (was, is) = (before.get(address), now.get(address));
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
                    (false, true) => tracing::info!(%service, %address, protocol, "announced"),
                    (true, false) => {
                        let reason = reason(is).map_or("addressGone", Reason::word);
                        tracing::info!(%service, %address, protocol, reason, "withdrawn");
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    fn events(&self, service: &ObjectName, uid: &str, before: (&Told, &States), now: (&Told, &States)) {
        let object = || regarding("Service", service, uid);
        for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
            if announces(now.1, number) && !announces(before.1, number) {
                // MetalLB's words: scripts wait for them.
                let note = format!("announcing from node \"{}\" with protocol \"{protocol}\"", self.node);
                self.events.publish(object(), EventType::Normal, EventReason::NodeAssigned, note);
            }
        }
        for remark in now.0.remarks.difference(&before.0.remarks) {
            tracing::warn!(%service, reason = %remark.reason, "{}", remark.text);
            self.events.publish(object(), EventType::Warning, remark.reason, remark.text.clone());
        }
    }
}

fn announces(states: &States, protocol: usize) -> bool {
    states.values().any(|state| state.by.get(protocol) == Some(&true))
}

#[cfg(test)]
mod tests {
    use herald_runtime::metrics::Metrics;

    use super::*;
    use crate::layer2::PortView;

    fn reporter(metrics: SpeakerMetrics) -> Reporter {
        Reporter::new("node-1", EventRecorder::disconnected(), metrics, History::new(Instant::now()))
    }

    fn series(registry: &Metrics) -> String {
        registry.encode().unwrap()
    }

    #[test]
    fn metrics_follow_an_address_from_refused_to_announced_to_gone() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1", 1000);
        let mut reporter = reporter(metrics);
        let service = ObjectName::new("shop", "web");
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut tell = |verdict: Option<Verdict>| {
            let verdicts = verdict.map(|verdict| (vip, verdict)).into_iter().collect();
            reporter.service(
                Instant::now(),
                &service,
                Some("1"),
                ServicePlan { verdicts, ..ServicePlan::default() },
                true,
            );
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
        let metrics = SpeakerMetrics::new(&registry, "node-1", 1000);
        let mut reporter = reporter(metrics);
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let verdicts = BTreeMap::from([(vip, Verdict::Offer { bgp: false })]);
        let plan = ServicePlan { verdicts, ..ServicePlan::default() };
        reporter.service(Instant::now(), &ObjectName::new("shop", "web"), Some("1"), plan, true);
        let waiting = r#"herald_speaker_not_announced{reason="notOwner"} 1"#;
        let announced = r#"metallb_speaker_announced{service="shop/web",protocol="layer2",node="node-1",ip="192.0.2.1"} 1"#;
        for owns in [false, true, false] {
            let owned = if owns { BTreeSet::from([vip]) } else { BTreeSet::new() };
            let port = PortView { owned, ..PortView::default() };
            reporter.layer2(
                Instant::now(),
                View { ports: [("eth0".to_owned(), port)].into(), ..View::default() },
            );
            assert_eq!(reporter.statuses().map(|all| all.borrow().len()), [0, usize::from(owns)]);
            assert_eq!(series(&registry).contains(announced), owns);
            assert_eq!(series(&registry).contains(waiting), !owns);
        }
    }

    #[test]
    fn a_service_is_shown_with_the_peers_that_it_is_told_to_while_it_is() {
        let metrics = SpeakerMetrics::new(&Metrics::new(), "node-1", 1000);
        let mut reporter = reporter(metrics);
        let web = ObjectName::new("shop", "web");
        for (verdict, peers) in [
            (Verdict::Announce, &["left", "right"][..]),
            (Verdict::Announce, &["left"][..]),
            (Verdict::Skip(Reason::NoEndpoints), &[][..]),
        ] {
            let verdicts = [("192.0.2.1".parse().unwrap(), verdict)].into();
            let peers: BTreeSet<String> = peers.iter().map(ToString::to_string).collect();
            let plan = ServicePlan { verdicts, peers: peers.clone(), ..ServicePlan::default() };
            reporter.service(Instant::now(), &web, Some("1"), plan, true);
            let [by_bgp, _] = reporter.statuses();
            let shown = by_bgp.borrow().get(&web).map(|shown| (*shown.names).clone());
            assert_eq!(shown, (!peers.is_empty()).then_some(peers));
        }
    }

    #[test]
    fn a_service_whose_families_have_two_owners_is_announced_by_neither_alone() {
        let metrics = SpeakerMetrics::new(&Metrics::new(), "node-1", 1000);
        let mut reporter = reporter(metrics);
        let vips = ["192.0.2.1", "2001:db8::1"].map(|vip| vip.parse::<IpAddr>().unwrap());
        let web = ObjectName::new("shop", "web");
        let verdicts = vips.map(|vip| (vip, Verdict::Offer { bgp: false })).into();
        reporter.service(
            Instant::now(),
            &web,
            Some("1"),
            ServicePlan { verdicts, ..ServicePlan::default() },
            true,
        );
        for (owned, alone) in [(&vips[..1], false), (&vips[..], true), (&vips[1..], false)] {
            let port = PortView { owned: owned.iter().copied().collect(), ..PortView::default() };
            reporter.layer2(
                Instant::now(),
                View { ports: [("eth0".to_owned(), port)].into(), ..View::default() },
            );
            let [_, by_layer2] = reporter.statuses();
            assert_eq!(by_layer2.borrow()[&web].alone, alone, "{owned:?}");
        }
    }
}
