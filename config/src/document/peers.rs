//! The list `peers` and its node selectors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::bfd::BfdProfile;
use crate::peer::{BGP_PORT, Peer};
use crate::problem::shown;
use crate::read::nearest::nearest;
use crate::read::peers::{hold_time, keepalive_time, multihop, password, port, router_id, source_address};
use crate::read::reader::{Fields, Value, optional};
use crate::read::scalars::{boolean, host, number};
use crate::read::selectors::{KEBAB, selectors};
use crate::selector::LabelSelector;

const KEYS: &[&str] = &[
    "my-asn",
    "peer-asn",
    "peer-address",
    "peer-port",
    "hold-time",
    "router-id",
    "source-address",
    "node-selectors",
    "password",
    "keepalive-time",
    "bfd-profile",
    "ebgp-multihop",
];

const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);

/// All peers that could be read; exact repetitions once.
pub(super) fn read(value: &Value<'_>, profiles: &[BfdProfile]) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut seen: HashMap<Peer, String> = HashMap::new();
    let mut neighbours: HashMap<(IpAddr, u16, Vec<LabelSelector>), String> = HashMap::new();
    for item in value.items().unwrap_or_default() {
        let Some(peer) = item.fields(KEYS).and_then(|fields| read_peer(&fields, profiles)) else { continue };
        if let Some(first) = seen.get(&peer) {
            item.warn(format!("the same peer as {first}, ignored: remove one of the two"));
            continue;
        }
        seen.insert(peer.clone(), item.path().to_owned());
        let neighbour = (peer.address, peer.port, peer.node_selectors.clone());
        if let Some(first) = neighbours.insert(neighbour, item.path().to_owned()) {
            item.warn(format!(
                "the same neighbour as {first} on the same nodes: routers keep only one of two such sessions"
            ));
        }
        // Without a name they are known by their place, as MetalLB's own conversion has it.
        peers.push(Peer { name: format!("peer{}", peers.len() + 1), ..peer });
    }
    peers
}

fn read_peer(fields: &Fields<'_>, profiles: &[BfdProfile]) -> Option<Peer> {
    let asn =
        |key, example| fields.required(key, example).and_then(|value| number(&value, 1..=u32::MAX.into()));
    let my_asn = asn("my-asn", "64600");
    let peer_asn = asn("peer-asn", "64601");
    let address = fields.required("peer-address", "10.0.0.1").and_then(|value| host(&value));
    let port = fields.get("peer-port").map_or(Some(BGP_PORT), |value| port(&value));
    let hold_time = fields.get("hold-time").map_or(Some(DEFAULT_HOLD_TIME), |value| hold_time(&value));
    let router_id = optional(fields.get("router-id"), router_id);
    let source_address = optional(fields.get("source-address"), |value| source_address(value, address));
    let node_selectors = optional(fields.get("node-selectors"), |value| selectors(value, &KEBAB));
    let password = optional(fields.get("password"), password);
    let keepalive_time = optional(fields.get("keepalive-time"), |value| keepalive_time(value, hold_time));
    let bfd_profile = optional(fields.get("bfd-profile"), |value| profile(value, profiles));
    let ebgp_multihop =
        optional(fields.get("ebgp-multihop"), |value| multihop(value, boolean(value)?, my_asn, peer_asn));
    Some(Peer {
        device: None,
        name: String::new(),
        my_asn: my_asn?,
        asn: Some(peer_asn?),
        address: address?,
        port: port?,
        hold_time: hold_time?,
        router_id: router_id?,
        source_address: source_address?,
        node_selectors: node_selectors?.unwrap_or_default(),
        password: password?.flatten(),
        keepalive_time: keepalive_time?,
        bfd_profile: bfd_profile?.flatten(),
        ebgp_multihop: ebgp_multihop?.unwrap_or(false),
        connect_time: None,
        local_asn: None,
        graceful_restart: false,
        dual_stack: false,
    })
}

/// None for the empty name.
fn profile(value: &Value<'_>, profiles: &[BfdProfile]) -> Option<Option<String>> {
    let name = value.text()?;
    if name.is_empty() {
        return Some(None);
    }
    if !profiles.iter().any(|profile| profile.name == name) {
        let hint = match nearest(name, profiles.iter().map(|profile| profile.name.as_str())) {
            Some(near) if near.likely => format!("did you mean {}?", shown(near.word)),
            _ => "add it to bfd-profiles, or remove this".to_owned(),
        };
        return value.fail(format!("no BFD profile is called {}: {hint}", shown(name)));
    }
    Some(Some(name.to_owned()))
}
