//! What is counted of layer 2: MetalLB's names for requests, responses and gratuitous frames, `herald_` for the rest.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herald_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::hello::Refused;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IpLabel {
    ip: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InterfaceLabel {
    interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Why a hello is not taken.
const REFUSED: [&str; 5] = ["foreign", "otherVersion", "otherCluster", "unauthenticated", "malformed"];

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Layer2Metrics {
    // Counters that are named as MetalLB names them: a `Counter` would have `_total` added.
    requests: Family<IpLabel, Gauge>,
    responses: Family<IpLabel, Gauge>,
    gratuitous: Family<IpLabel, Gauge>,
    owner_changes: Counter,
    conflicts: Counter,
    hellos: Counter,
    refused: Family<ReasonLabel, Counter>,
    hears: Family<InterfaceLabel, Gauge>,
    /// So many addresses have series of their own.
    limit: usize,
    /// Which.
    own: Arc<Mutex<BTreeSet<IpAddr>>>,
}

/// Those of one address that is answered for.
#[derive(Debug)]
pub(crate) struct AddressMetrics {
    /// Requests for it.
    pub(crate) requests: Gauge,
    /// Answers to them.
    pub(crate) responses: Gauge,
    /// Frames that told it unasked.
    pub(crate) gratuitous: Gauge,
}

impl Layer2Metrics {
    /// Registers them; at most so many addresses have series of their own.
    pub(crate) fn new(metrics: &Metrics, limit: usize) -> Self {
        let refused = metrics.register(
            "herald_layer2_hellos_refused",
            "Datagrams at the port of hellos that were dropped, by reason",
            Family::<ReasonLabel, Counter>::default(),
        );
        // The first one of a reason shall be seen to be more than none.
        for reason in REFUSED {
            drop(refused.get_or_create(&ReasonLabel { reason }));
        }
        Self {
            requests: metrics.register(
                "metallb_layer2_requests_received",
                "ARP requests and neighbour solicitations for addresses that this node owns",
                Family::default(),
            ),
            responses: metrics.register(
                "metallb_layer2_responses_sent",
                "Answers to ARP requests and neighbour solicitations",
                Family::default(),
            ),
            gratuitous: metrics.register(
                "metallb_layer2_gratuitous_sent",
                "Gratuitous ARP frames and unsolicited neighbour advertisements",
                Family::default(),
            ),
            owner_changes: metrics.register(
                "herald_layer2_owner_changes",
                "How often this node took an address or let go of one",
                Counter::default(),
            ),
            conflicts: metrics.register(
                "herald_layer2_conflicts",
                "Frames of hosts outside the cluster that claim an address of a pool",
                Counter::default(),
            ),
            hellos: metrics.register(
                "herald_layer2_hellos_received",
                "Hellos of other nodes that were signed and well-formed",
                Counter::default(),
            ),
            refused,
            hears: metrics.register(
                "herald_layer2_peers",
                "Nodes that are heard on an interface",
                Family::default(),
            ),
            limit,
            own: Arc::default(),
        }
    }

    fn own(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of an address that this node owns from now on. Beyond the limit they are those of all others together.
    pub(super) fn address(&self, address: IpAddr) -> AddressMetrics {
        let mut own = self.own();
        let named = own.contains(&address) || (own.len() < self.limit && own.insert(address));
        drop(own);
        let label = IpLabel { ip: if named { address.to_string() } else { "others".to_owned() } };
        AddressMetrics {
            requests: self.requests.get_or_create(&label).clone(),
            responses: self.responses.get_or_create(&label).clone(),
            gratuitous: self.gratuitous.get_or_create(&label).clone(),
        }
    }

    /// It owns the address no more. What was counted of all others stays, so that it never goes back.
    pub(super) fn forget(&self, address: IpAddr) {
        if !self.own().remove(&address) {
            return;
        }
        let label = IpLabel { ip: address.to_string() };
        for family in [&self.requests, &self.responses, &self.gratuitous] {
            family.remove(&label);
        }
    }

    pub(super) fn owner_changed(&self) {
        self.owner_changes.inc();
    }

    pub(super) fn conflict(&self) {
        self.conflicts.inc();
    }

    pub(super) fn hello_received(&self) {
        self.hellos.inc();
    }

    pub(super) fn hello_refused(&self, refused: Refused) {
        let [foreign, other_version, other_cluster, unauthenticated, malformed] = REFUSED;
        let reason = match refused {
            Refused::Foreign => foreign,
            Refused::OtherVersion(_) => other_version,
            Refused::OtherCluster => other_cluster,
            Refused::Unauthenticated => unauthenticated,
            Refused::Malformed => malformed,
        };
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn hears(&self, interface: &str, count: usize) {
        let label = InterfaceLabel { interface: interface.to_owned() };
        self.hears.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn gone(&self, interface: &str) {
        self.hears.remove(&InterfaceLabel { interface: interface.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_addresses_are_counted_together_and_what_was_counted_stays() {
        let registry = Metrics::new();
        let metrics = Layer2Metrics::new(&registry, 2);
        let vips = [1, 2, 3, 4].map(|n| IpAddr::from([192, 0, 2, n]));
        let series = || {
            let text = registry.encode().unwrap();
            let series =
                text.lines().filter_map(|line| line.strip_prefix("metallb_layer2_requests_received"));
            series.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        for vip in vips {
            metrics.address(vip).requests.inc();
        }
        let own = |n: u8, value: u32| format!(r#"{{ip="192.0.2.{n}"}} {value}"#);
        let others = r#"{ip="others"} 2"#.to_owned();
        assert_eq!(series(), [own(1, 1), own(2, 1), others.clone()].into());
        // One goes, and the next that comes has its room.
        metrics.forget(vips[0]);
        metrics.forget(vips[3]);
        metrics.address(vips[3]).requests.inc();
        assert_eq!(series(), [own(2, 1), own(4, 1), others].into());
    }

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let registry = Metrics::new();
        Layer2Metrics::new(&registry, 0).hello_refused(Refused::OtherVersion(9));
        let text = registry.encode().unwrap();
        for (reason, value) in [("unauthenticated", 0), ("otherVersion", 1)] {
            let line = format!(r#"herald_layer2_hellos_refused_total{{reason="{reason}"}} {value}"#);
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
