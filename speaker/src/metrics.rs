//! The speaker's metrics: MetalLB's names where MetalLB has the thing, `herald_` where it does not.
//!
//! Labels are names of configured things (peers, Services, addresses) and words of closed lists; whoever sets a series
//! removes it when the thing is gone.

use std::time::Duration;

use herald_bgp::Counters;
use herald_runtime::metrics::{Metrics, PlainCounter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::bgp::PeerSettings;
use crate::reason::Reason;
use crate::received;
use crate::told::{AllTold, Announced};

/// A metric's name, its help, and what it counts.
type Message = (&'static str, &'static str, fn(&Counters) -> u64);

/// Messages by peer, under MetalLB's names of its FRR mode.
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

/// BFD by peer, under MetalLB's names.
const BFD: [(&str, &str); 4] = [
    ("metallb_bfd_control_packet_input", "BFD control packets received"),
    ("metallb_bfd_control_packet_output", "BFD control packets sent"),
    ("metallb_bfd_session_up_events", "How often the BFD session came up"),
    ("metallb_bfd_session_down_events", "How often the BFD session went down"),
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
    messages: [Family<PeerLabel, PlainCounter>; MESSAGES.len()],
    bfd_up: Family<PeerLabel, Gauge>,
    /// In the order of [`BFD`].
    bfd: [Family<PeerLabel, PlainCounter>; BFD.len()],
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
            bfd_up: metrics.register("metallb_bfd_session_up", "1 if the BFD session is Up", Family::default()),
            bfd: BFD.map(|(name, help)| metrics.register(name, help, Family::default())),
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
        let peer = PeerMetrics {
            all: self.clone(),
            label: PeerLabel { peer: settings.to_string() },
            // MetalLB names a BFD session by the address alone.
            bfd_label: PeerLabel { peer: settings.peer.address.to_string() },
            counted: Counters::default(),
        };
        peer.up(false);
        peer
    }
}

/// What is counted of one peer.
#[derive(Debug)]
pub(crate) struct PeerMetrics {
    all: BgpMetrics,
    label: PeerLabel,
    bfd_label: PeerLabel,
    /// What has been counted already.
    counted: Counters,
}

/// What is counted of one peer's BFD; it outlives the sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct BfdMetrics {
    /// 1 while the session is Up.
    pub(crate) up: Gauge,
    /// In the order of [`BFD`].
    counts: [PlainCounter; BFD.len()],
}

impl BfdMetrics {
    /// A packet of the neighbour came.
    pub(crate) fn received(&self) {
        self.counts[0].inc();
    }

    /// A packet went out.
    pub(crate) fn sent(&self) {
        self.counts[1].inc();
    }

    /// The session came up or went down.
    pub(crate) fn changed(&self, up: bool) {
        self.up.set(up.into());
        self.counts[if up { 2 } else { 3 }].inc();
    }
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
        let before = std::mem::replace(&mut self.counted, *counters);
        self.all.updates.get_or_create(&self.label).inc_by(counters.updates_sent - before.updates_sent);
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.all.announced.get_or_create(&self.label).set(gauge(advertised));
        self.all.pending.get_or_create(&self.label).set(gauge(pending));
        self.all.unusable.get_or_create(&self.label).set(gauge(unusable));
        for (family, (_, _, count)) in self.all.messages.iter().zip(MESSAGES) {
            family.get_or_create(&self.label).inc_by(count(counters) - count(&before));
        }
    }

    /// What is counted of its BFD from now on.
    pub(crate) fn bfd(&self) -> BfdMetrics {
        BfdMetrics {
            up: self.all.bfd_up.get_or_create(&self.bfd_label).clone(),
            counts: self.all.bfd.each_ref().map(|family| family.get_or_create(&self.bfd_label).clone()),
        }
    }

    /// The peer is not configured any more.
    pub(crate) fn gone(self) {
        self.all.bfd_up.remove(&self.bfd_label);
        self.all.bfd.iter().for_each(|family| _ = family.remove(&self.bfd_label));
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
    /// What was told of Services; which addresses are announced is read there.
    pub(crate) told: AllTold,
    not_announced: Family<ReasonLabel, Gauge>,
}

impl SpeakerMetrics {
    /// Registers them; at most so many announced addresses have series of their own.
    pub(crate) fn new(metrics: &Metrics, node: &str, addresses: usize) -> Self {
        let duration = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let not_announced = metrics.register(
            "herald_speaker_not_announced",
            "Load balancer addresses that this node does not announce, by reason",
            Family::<ReasonLabel, Gauge>::default(),
        );
        for reason in Reason::ALL {
            not_announced.get_or_create(&ReasonLabel { reason: reason.word() }).set(0);
        }
        let told = AllTold::default();
        metrics.collect(Announced { node: node.to_owned(), told: told.clone(), limit: addresses });
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
            told,
            not_announced,
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
    fn a_peers_messages_have_metallbs_names_and_vanish_with_the_peer() {
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1", 1000);
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
        let bfd = peer.bfd();
        bfd.received();
        bfd.sent();
        bfd.sent();
        bfd.changed(true);
        bfd.changed(false);
        peer.counted(&Counters { opens_sent: 2, ..counters }, 5, 4, 0);
        let text = registry.encode().unwrap();
        assert!(text.contains(r#"metallb_bgp_opens_sent{peer="10.0.0.1:179"} 2"#), "{text}");
        for (name, value) in [
            ("session_up", 0),
            ("control_packet_input", 1),
            ("control_packet_output", 2),
            ("session_up_events", 1),
            ("session_down_events", 1),
        ] {
            let line = format!(r#"metallb_bfd_{name}{{peer="10.0.0.1"}} {value}"#);
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        peer.gone();
        assert!(!registry.encode().unwrap().contains("10.0.0.1"));
    }

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let registry = Metrics::new();
        SpeakerMetrics::new(&registry, "node-1", 1000).not_announced(Reason::NoEndpoints, 1);
        let text = registry.encode().unwrap();
        assert!(text.contains(r#"herald_speaker_not_announced{reason="noEndpoints"} 1"#), "{text}");
        assert!(text.contains(r#"herald_speaker_not_announced{reason="noPeer"} 0"#), "{text}");
    }
}
