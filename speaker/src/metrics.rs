//! The speaker's metrics: MetalLB's names where MetalLB has the thing, `herald_` where it does not.
//!
//! Labels are names of configured things (peers, Services, addresses) and words of closed lists; whoever sets a series
//! removes it when the thing is gone.

use std::net::IpAddr;
use std::time::Duration;

use herald_bgp::Counters;
use herald_runtime::ObjectName;
use herald_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::bgp::PeerSettings;
use crate::reason::Reason;
use crate::received;

/// A metric's name, its help, and what it counts.
type Message = (&'static str, &'static str, fn(&Counters) -> u64);

/// Messages by peer, under MetalLB's names of its FRR mode. Gauges, for the names of counters end otherwise in the exposition.
const MESSAGES: [Message; 9] = [
    ("metallb_bgp_opens_sent", "OPENs sent", |of| of.opens_sent),
    ("metallb_bgp_opens_received", "OPENs received", |of| of.opens_received),
    ("metallb_bgp_notifications_sent", "NOTIFICATIONs sent", |of| of.notifications_sent),
    ("metallb_bgp_updates_total_received", "UPDATEs received, and dropped", |of| {
        of.updates_received_discarded
    }),
    ("metallb_bgp_keepalives_sent", "KEEPALIVEs sent", |of| of.keepalives_sent),
    ("metallb_bgp_keepalives_received", "KEEPALIVEs received", |of| of.keepalives_received),
    ("metallb_bgp_route_refresh_sent", "Marks of route refreshes sent", |of| of.route_refreshes_sent),
    ("metallb_bgp_total_sent", "Messages sent", |of| {
        of.opens_sent + of.notifications_sent + of.updates_sent + of.keepalives_sent + of.route_refreshes_sent
    }),
    ("metallb_bgp_total_received", "Messages received", |of| {
        of.opens_received
            + of.notifications_received
            + of.updates_received_discarded
            + of.keepalives_received
            + of.route_refreshes_received
    }),
];

/// Upper bounds of the time from a change of routes to the socket, in seconds.
const TOLD: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_4, 0.000_5, 0.000_75, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25,
    1.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnnouncedLabel {
    service: String,
    protocol: &'static str,
    node: String,
    ip: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// What is counted of BGP, by peer.
#[derive(Debug, Clone)]
pub(crate) struct BgpMetrics {
    up: Family<PeerLabel, Gauge>,
    updates: Family<PeerLabel, Counter>,
    announced: Family<PeerLabel, Gauge>,
    pending: Family<PeerLabel, Gauge>,
    unusable: Family<PeerLabel, Gauge>,
    /// In the order of [`MESSAGES`].
    messages: [Family<PeerLabel, Gauge>; MESSAGES.len()],
    /// From deciding a change of routes to its last byte in a peer's socket, in seconds.
    told: Histogram,
}

impl BgpMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            up: metrics.register(
                "metallb_bgp_session_up",
                "1 if the session is Established",
                Family::default(),
            ),
            updates: metrics.register("metallb_bgp_updates", "UPDATEs sent", Family::default()),
            announced: metrics.register(
                "metallb_bgp_announced_prefixes_total",
                "Prefixes that the peer has of this node",
                Family::default(),
            ),
            pending: metrics.register(
                "metallb_bgp_pending_prefixes_total",
                "Prefixes that wait to be told to the peer, or to be withdrawn",
                Family::default(),
            ),
            messages: MESSAGES.map(|(name, help, _)| metrics.register(name, help, Family::default())),
            unusable: metrics.register(
                "herald_bgp_unusable_prefixes",
                "Prefixes that cannot be sent to the peer: no usable next hop, or too many attributes",
                Family::default(),
            ),
            told: metrics.register(
                "herald_bgp_change_duration_seconds",
                "From deciding a change of routes to its last byte in the socket of a peer whose session is up",
                Histogram::new(TOLD),
            ),
        }
    }

    /// The metrics of one peer.
    pub(crate) fn peer(&self, settings: &PeerSettings) -> PeerMetrics {
        let peer =
            PeerMetrics { all: self.clone(), label: PeerLabel { peer: settings.to_string() }, updates: 0 };
        peer.up(false);
        peer
    }
}

/// What is counted of one peer.
#[derive(Debug)]
pub(crate) struct PeerMetrics {
    all: BgpMetrics,
    label: PeerLabel,
    updates: u64,
}

impl PeerMetrics {
    /// The session came up or went down.
    pub(crate) fn up(&self, up: bool) {
        self.all.up.get_or_create(&self.label).set(up.into());
    }

    /// A change of routes was decided so long ago, and is in the peer's socket.
    pub(crate) fn told(&self, after: Duration) {
        self.all.told.observe(after.as_secs_f64());
    }

    /// What the session has counted by now.
    pub(crate) fn counted(
        &mut self,
        counters: &Counters,
        advertised: usize,
        pending: usize,
        unusable: usize,
    ) {
        let new = counters.updates_sent - self.updates;
        self.updates = counters.updates_sent;
        self.all.updates.get_or_create(&self.label).inc_by(new);
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.all.announced.get_or_create(&self.label).set(gauge(advertised));
        self.all.pending.get_or_create(&self.label).set(gauge(pending));
        self.all.unusable.get_or_create(&self.label).set(gauge(unusable));
        for (family, (_, _, count)) in self.all.messages.iter().zip(MESSAGES) {
            family.get_or_create(&self.label).set(i64::try_from(count(counters)).unwrap_or(i64::MAX));
        }
    }

    /// The peer is not configured any more.
    pub(crate) fn gone(self) {
        self.all.up.remove(&self.label);
        self.all.updates.remove(&self.label);
        self.all.announced.remove(&self.label);
        self.all.pending.remove(&self.label);
        self.all.unusable.remove(&self.label);
        self.all.messages.iter().for_each(|family| _ = family.remove(&self.label));
    }
}

/// All of the speaker.
#[derive(Debug, Clone)]
pub(crate) struct SpeakerMetrics {
    /// By peer.
    pub(crate) bgp: BgpMetrics,
    /// From a batch of changes to its last effect, in seconds.
    pub(crate) sync_duration: Histogram,
    /// The part of it that decides, in seconds.
    pub(crate) plan_duration: Histogram,
    /// From receiving a change to its rules in force, in seconds.
    pub(crate) change_duration: Histogram,
    /// Services that the kernel refused.
    pub(crate) failed_services: Gauge,
    /// Services whose endpoints are held by the floor.
    pub(crate) held_services: Gauge,
    /// Nodes that count as dead by what hellos say.
    pub(crate) suspect_nodes: Gauge,
    /// How often the floor began to hold a Service.
    pub(crate) holds: Counter,
    announced: Family<AnnouncedLabel, Gauge>,
    not_announced: Family<ReasonLabel, Gauge>,
    node: String,
}

impl SpeakerMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics, node: &str) -> Self {
        let duration = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let not_announced = metrics.register(
            "herald_speaker_not_announced",
            "Load balancer addresses that this node does not announce, by reason",
            Family::<ReasonLabel, Gauge>::default(),
        );
        for reason in Reason::ALL {
            not_announced.get_or_create(&ReasonLabel { reason: reason.word() }).set(0);
        }
        Self {
            bgp: BgpMetrics::new(metrics),
            sync_duration: metrics.register(
                "herald_speaker_sync_duration_seconds",
                "From a batch of changes to its last effect",
                duration(),
            ),
            plan_duration: metrics.register(
                "herald_speaker_plan_duration_seconds",
                "Deciding what a batch of changes means",
                duration(),
            ),
            change_duration: metrics.register(
                "herald_speaker_change_duration_seconds",
                "From receiving a change of a Service or EndpointSlice to the kernel's acknowledgement of its rules",
                Histogram::new(received::BOUNDS),
            ),
            failed_services: metrics.register(
                "herald_speaker_failed_services",
                "Services whose rules or local addresses the kernel refused",
                Gauge::default(),
            ),
            suspect_nodes: metrics.register(
                "herald_suspect_nodes",
                "Nodes that have fallen silent: their endpoints are passed over where there are others",
                Gauge::default(),
            ),
            held_services: metrics.register(
                "herald_floor_held_services",
                "Services whose last good endpoints are used on, because those of many turned not ready at once",
                Gauge::default(),
            ),
            holds: metrics.register(
                "herald_floor_holds",
                "How often a Service's last good endpoints began to be held",
                Counter::default(),
            ),
            announced: metrics.register(
                "metallb_speaker_announced",
                "Services announced from this node",
                Family::default(),
            ),
            not_announced,
            node: node.to_owned(),
        }
    }

    /// An address is announced from now on, or not any more.
    pub(crate) fn announced(
        &self,
        service: &ObjectName,
        protocol: &'static str,
        ip: IpAddr,
        announced: bool,
    ) {
        let label = AnnouncedLabel {
            service: service.to_string(),
            protocol,
            node: self.node.clone(),
            ip: ip.to_string(),
        };
        if announced {
            self.announced.get_or_create(&label).set(1);
        } else {
            self.announced.remove(&label);
        }
    }

    /// One address more or less that is not announced for this reason.
    pub(crate) fn not_announced(&self, reason: Reason, change: i64) {
        self.not_announced.get_or_create(&ReasonLabel { reason: reason.word() }).inc_by(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_addresses_have_metallbs_labels_and_vanish_when_withdrawn() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1");
        let service = ObjectName::new("shop", "web");
        let ip = "192.0.2.1".parse().unwrap();
        metrics.announced(&service, "bgp", ip, true);
        let line =
            r#"metallb_speaker_announced{service="shop/web",protocol="bgp",node="node-1",ip="192.0.2.1"} 1"#;
        assert!(registry.encode().unwrap().lines().any(|l| l == line), "{}", registry.encode().unwrap());
        metrics.announced(&service, "bgp", ip, false);
        assert!(!registry.encode().unwrap().contains("192.0.2.1"));
    }

    #[test]
    fn a_peers_messages_have_metallbs_names_and_vanish_with_the_peer() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1");
        let mut peer = metrics.bgp.peer(&crate::bgp::settings(""));
        let counters =
            Counters { opens_sent: 1, updates_sent: 3, keepalives_received: 2, ..Counters::default() };
        peer.counted(&counters, 5, 4, 0);
        let text = registry.encode().unwrap();
        for (name, value) in [
            ("opens_sent", 1),
            ("keepalives_received", 2),
            ("total_sent", 4),
            ("total_received", 2),
            ("updates_total", 3),
            ("announced_prefixes_total", 5),
            ("pending_prefixes_total", 4),
            ("session_up", 0),
        ] {
            let line = format!(r#"metallb_bgp_{name}{{peer="10.0.0.1:179"}} {value}"#);
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        peer.gone();
        assert!(!registry.encode().unwrap().contains("10.0.0.1:179"));
    }

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let registry = Metrics::new();
        SpeakerMetrics::new(&registry, "node-1").not_announced(Reason::NoEndpoints, 1);
        let text = registry.encode().unwrap();
        assert!(text.contains(r#"herald_speaker_not_announced{reason="noEndpoints"} 1"#), "{text}");
        assert!(text.contains(r#"herald_speaker_not_announced{reason="noPeer"} 0"#), "{text}");
    }
}
