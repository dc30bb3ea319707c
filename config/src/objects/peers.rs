//! BGPPeer, both versions: the older one has fewer fields and otherwise the same.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::At;
use super::advertisements::is_interface;
use super::pools::distinct_selectors;
use crate::peer::{Password, Peer};
use crate::problem::shown;
use crate::read::peers::{hold_time, keepalive_time, multihop, password, port, router_id, source_address};
use crate::read::reader::{Value, optional};
use crate::read::scalars::{duration, host};

/// What a peer says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PeerContent {
    /// Name, password and profile are not filled in.
    pub(crate) peer: Peer,
    pub(crate) key: Key,
    pub(crate) bfd_profile: Option<At<String>>,
}

/// Where the key for TCP-MD5 is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Key {
    None,
    Written(Password),
    InSecret { name: At<String>, namespace: Option<String> },
}

const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(180);

pub(super) fn read(spec: &Value<'_>) -> Option<PeerContent> {
    let my_asn = asn(spec, "myASN");
    let remote_asn = remote_asn(spec, my_asn);
    let address = address(spec);
    let port = or(spec.given("peerPort"), crate::peer::BGP_PORT, port);
    let (hold, keepalive) = times(spec);
    let connect_time = optional(spec.word("connectTime"), connect_time);
    let router_id = optional(spec.word("routerID"), router_id);
    let dialled = address.as_ref().map(|(address, _)| *address).filter(|address| !address.is_unspecified());
    let source = optional(spec.word("sourceAddress"), |value| source_address(value, dialled));
    let node_selectors = distinct_selectors(spec, "nodeSelectors");
    let key = key(spec);
    let wanted = spec.flag("ebgpMultiHop", false);
    let number = remote_asn.as_ref().and_then(|asn| asn.value);
    let ebgp_multihop =
        spec.given("ebgpMultiHop").map_or(Some(false), |value| multihop(&value, wanted, my_asn, number));
    let (my_asn, remote_asn, address) = (my_asn?, remote_asn?, address?);
    let (port, hold_time, keepalive_time) = (port?, hold?, keepalive?);
    let (connect_time, router_id, source_address) = (connect_time?, router_id?, source?);
    let (node_selectors, key, ebgp_multihop) = (node_selectors?, key?, ebgp_multihop?);
    let (address, interface) = address;
    let vrf = spec.word("vrf").map(|at| at.peek_text().unwrap_or_default().to_owned());
    let peer = Peer {
        name: String::new(),
        my_asn,
        asn: remote_asn.value,
        address,
        device: interface.or(vrf),
        port,
        hold_time,
        keepalive_time,
        connect_time,
        router_id,
        source_address,
        node_selectors,
        password: None,
        local_asn: asn_of(spec, "localASN"),
        bfd_profile: None,
        ebgp_multihop,
        graceful_restart: spec.flag("enableGracefulRestart", false),
        dual_stack: spec.flag("dualStackAddressFamily", false),
    };
    let bfd_profile = spec.word("bfdProfile");
    Some(PeerContent {
        peer,
        key,
        bfd_profile: bfd_profile.map(|at| At::new(at.peek_text().unwrap_or_default().to_owned(), &at)),
    })
}

fn or<'a, T>(value: Option<Value<'a>>, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
    value.map_or(Some(default), |value| read(&value))
}

fn asn_of(spec: &Value<'_>, key: &str) -> Option<u32> {
    spec.number(key).and_then(|number| u32::try_from(number).ok()).filter(|asn| *asn != 0)
}

fn asn(spec: &Value<'_>, key: &str) -> Option<u32> {
    asn_of(spec, key).or_else(|| spec.fail(format!("{key} is missing: add it")))
}

/// The neighbour's AS number; none when it may be any but ours.
fn remote_asn(spec: &Value<'_>, my_asn: Option<u32>) -> Option<At<Option<u32>>> {
    let number = asn_of(spec, "peerASN");
    match (number, spec.word("dynamicASN")) {
        (Some(_), Some(dynamic)) => dynamic.fail("peerASN is there too: keep one of the two"),
        (None, None) => spec.fail("peerASN is missing: add it, or dynamicASN"),
        (Some(asn), None) => Some(At::new(Some(asn), &spec.given("peerASN")?)),
        // An internal neighbour has our own number, which says all.
        (None, Some(dynamic)) if dynamic.peek_text() == Some("internal") => {
            Some(At::new(Some(my_asn?), &dynamic))
        }
        (None, Some(dynamic)) => Some(At::new(None, &dynamic)),
    }
}

/// Its address, or `::` and the interface that it is found on.
fn address(spec: &Value<'_>) -> Option<(IpAddr, Option<String>)> {
    match (spec.word("peerAddress"), spec.word("interface")) {
        (Some(_), Some(interface)) => interface.fail("peerAddress is there too: keep one of the two"),
        (None, None) => spec.fail("peerAddress is missing: add it, or interface"),
        (Some(value), None) => host(&value).map(|address| (address, None)),
        (None, Some(value)) => {
            let name = value.peek_text().unwrap_or_default();
            if !is_interface(name) {
                return value
                    .fail(format!("{} is no name of an interface: write one such as eth0", shown(name)));
            }
            Some((Ipv6Addr::UNSPECIFIED.into(), Some(name.to_owned())))
        }
    }
}

/// Hold time and keepalive time: where one is written it says the other, by a factor of three.
fn times(spec: &Value<'_>) -> (Option<Duration>, Option<Option<Duration>>) {
    match (spec.word("holdTime"), spec.word("keepaliveTime")) {
        (None, None) => (Some(DEFAULT_HOLD_TIME), Some(None)),
        (Some(hold), None) => (hold_time(&hold), Some(None)),
        (Some(hold), Some(keepalive)) => {
            let hold = hold_time(&hold);
            (hold, keepalive_time(&keepalive, hold).map(Some))
        }
        (None, Some(keepalive)) => {
            let Some(time) = keepalive_time(&keepalive, None) else { return (None, None) };
            let hold = time.saturating_mul(3);
            match hold.as_secs() {
                0 | 3..=65535 => (Some(hold), Some(Some(time))),
                _ => (
                    keepalive.fail("three times that is no hold time: use 1s to 21845s, or write holdTime"),
                    None,
                ),
            }
        }
    }
}

fn connect_time(value: &Value<'_>) -> Option<Duration> {
    let time = duration(value)?;
    let written = shown(value.text()?);
    match time.as_secs() {
        _ if time.subsec_nanos() != 0 => {
            value.fail(format!("{written} is no whole number of seconds: cut it"))
        }
        1..=65535 => Some(time),
        _ => value.fail(format!("{written} is out of range: use 1s to 65535s")),
    }
}

fn key(spec: &Value<'_>) -> Option<Key> {
    let secret = spec.given("passwordSecret");
    let name = secret.as_ref().and_then(|secret| secret.word("name"));
    match (spec.word("password"), name) {
        (Some(_), Some(name)) => name.fail("password is there too: keep one of the two"),
        (Some(written), None) => Some(password(&written)?.map_or(Key::None, Key::Written)),
        (None, Some(name)) => {
            let namespace = secret.and_then(|secret| Some(secret.word("namespace")?.peek_text()?.to_owned()));
            Some(Key::InSecret { name: At::new(name.peek_text()?.to_owned(), &name), namespace })
        }
        (None, None) => Some(Key::None),
    }
}
