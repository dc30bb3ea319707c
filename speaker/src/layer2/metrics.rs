//! What is counted of layer 2: MetalLB's names for requests, responses and gratuitous frames, `herald_` for the rest.

use std::net::IpAddr;

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
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
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
            refused: metrics.register(
                "herald_layer2_hellos_refused",
                "Datagrams at the port of hellos that were dropped, by reason",
                Family::default(),
            ),
            hears: metrics.register(
                "herald_layer2_peers",
                "Nodes that are heard on an interface",
                Family::default(),
            ),
        }
    }

    pub(super) fn address(&self, address: IpAddr) -> AddressMetrics {
        let label = IpLabel { ip: address.to_string() };
        AddressMetrics {
            requests: self.requests.get_or_create(&label).clone(),
            responses: self.responses.get_or_create(&label).clone(),
            gratuitous: self.gratuitous.get_or_create(&label).clone(),
        }
    }

    pub(super) fn forget(&self, address: IpAddr) {
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
        let reason = match refused {
            Refused::Foreign => "foreign",
            Refused::OtherVersion(_) => "otherVersion",
            Refused::OtherCluster => "otherCluster",
            Refused::Unauthenticated => "unauthenticated",
            Refused::Malformed => "malformed",
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
