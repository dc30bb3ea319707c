//! What becomes of a session when its settings are others: one with equal settings is not touched, any difference begins it anew.

use std::fmt::Display;
use std::time::Duration;

use herald_bgp::Family;
use herald_config::{BfdProfile, Connect};
use serde::Serialize;

use super::Told;
use crate::bgp::PeerSettings;

/// What becomes of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum Became {
    /// There is no such neighbour any more.
    Ends,
    /// It ends and begins with other settings.
    #[serde(rename_all = "camelCase")]
    Anew {
        /// What is different, in words.
        because: Vec<String>,
        /// The neighbour keeps the routes meanwhile, if it does graceful restart.
        keeps_routes: bool,
    },
    /// There is none now.
    Begins,
}

/// A session of some nodes that does not stay as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// Address and port of the neighbour.
    pub peer: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub became: Became,
    /// The nodes.
    pub nodes: Vec<String>,
    /// How many routes it has, or would have, on the node with the most.
    pub routes: usize,
}

/// The sessions of a node now and then, each with what it becomes; those of equal settings first taken together, then those of the same
/// neighbour.
pub(super) fn paired<'a>(
    now: &'a [Told],
    then: &'a [Told],
) -> Vec<(Option<&'a Told>, Option<&'a Told>, Option<Became>)> {
    let mut coming: Vec<&Told> = then.iter().collect();
    let (mut pairs, mut others) = (Vec::new(), Vec::new());
    for session in now {
        match coming.iter().position(|other| other.settings == session.settings) {
            Some(at) => pairs.push((Some(session), Some(coming.remove(at)), None)),
            None => others.push(session),
        }
    }
    for session in others {
        let at = coming.iter().position(|other| is_same_neighbour(&session.settings, &other.settings));
        let other = at.map(|at| coming.remove(at));
        let became = match other {
            None => Became::Ends,
            Some(other) => Became::Anew {
                because: differences(&session.settings, &other.settings),
                keeps_routes: keeps_routes(&session.settings, &other.settings),
            },
        };
        pairs.push((Some(session), other, Some(became)));
    }
    pairs.extend(coming.into_iter().map(|session| (None, Some(session), Some(Became::Begins))));
    pairs
}

fn is_same_neighbour(one: &PeerSettings, other: &PeerSettings) -> bool {
    one.peer.address == other.peer.address && one.peer.found_on() == other.peer.found_on()
}

/// RFC 4724 §4.2: for the neighbour it has to be the same session that comes back.
fn keeps_routes(now: &PeerSettings, then: &PeerSettings) -> bool {
    let seen_as = |settings: &PeerSettings| {
        let peer = &settings.peer;
        (peer.local_asn.unwrap_or(peer.my_asn), peer.asn, peer.source_address, peer.port)
    };
    now.peer.graceful_restart && then.peer.graceful_restart && seen_as(now) == seen_as(then)
}

/// What is different, in words; of keys only that they are.
fn differences(now: &PeerSettings, then: &PeerSettings) -> Vec<String> {
    let mut found = Differences(Vec::new());
    let (of, to) = (&now.peer, &then.peer);
    found.text("myASN", of.my_asn, to.my_asn);
    found.text("localASN", or_none(of.local_asn), or_none(to.local_asn));
    found.text("peerASN", asn(of.asn), asn(to.asn));
    found.text("port", of.port, to.port);
    found.text("hold time", span(of.hold_time), span(to.hold_time));
    found.text("keepalive time", or_own(of.keepalive_time), or_own(to.keepalive_time));
    found.text("connect time", or_own(of.connect_time), or_own(to.connect_time));
    found.text("router ID", now.router_id, then.router_id);
    found.text("source address", or_none(of.source_address), or_none(to.source_address));
    found.text("interface or VRF", or_none(of.device.as_ref()), or_none(to.device.as_ref()));
    found.text("BFD", bfd(now.bfd.as_ref()), bfd(then.bfd.as_ref()));
    found.text("graceful restart", on(of.graceful_restart), on(to.graceful_restart));
    found.text("multihop", on(of.ebgp_multihop), on(to.ebgp_multihop));
    found.text("families", families(now), families(then));
    found.text("hops (ttl-security)", or_none(now.ttl_security), or_none(then.ttl_security));
    found.text("who dials", dials(now.connect), dials(then.connect));
    found.bare("the password", of.password != to.password);
    found.bare("TCP-AO", now.tcp_ao != then.tcp_ao);
    found.bare("the role", now.role != then.role);
    found.bare(
        "the BFD profile's timers",
        now.bfd != then.bfd && bfd(now.bfd.as_ref()) == bfd(then.bfd.as_ref()),
    );
    // Whatever else makes a session another one.
    found.bare("its settings", found.0.is_empty());
    found.0
}

struct Differences(Vec<String>);

impl Differences {
    fn text(&mut self, what: &str, now: impl Display, then: impl Display) {
        let (now, then) = (now.to_string(), then.to_string());
        if now != then {
            self.0.push(format!("{what} {now} -> {then}"));
        }
    }

    fn bare(&mut self, what: &str, differs: bool) {
        if differs {
            self.0.push(what.to_owned());
        }
    }
}

fn span(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    }
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn or_own(time: Option<Duration>) -> String {
    time.map_or_else(|| "default".to_owned(), span)
}

fn asn(asn: Option<u32>) -> String {
    asn.map_or_else(|| "external".to_owned(), |asn| asn.to_string())
}

fn bfd(profile: Option<&BfdProfile>) -> &str {
    profile.map_or("none", |profile| &profile.name)
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn families(settings: &PeerSettings) -> &'static str {
    let has = |family| settings.families.contains(family);
    match (has(Family::Ipv4Unicast), has(Family::Ipv6Unicast)) {
        (true, true) => "IPv4 and IPv6",
        (_, false) => "IPv4",
        (false, true) => "IPv6",
    }
}

fn dials(connect: Connect) -> &'static str {
    match connect {
        Connect::Dial => "the node",
        Connect::Accept => "the neighbour",
        Connect::Both => "both",
    }
}
