//! The list `peers` and its node selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::reader::{Fields, Value};
use super::scalars::{boolean, duration, host, nonempty, number, one_of};
use crate::peer::{Password, Peer};
use crate::problem::shown;
use crate::selector::{LabelSelector, Operator, Requirement};

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

const BGP_PORT: u16 = 179;
const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);
/// The kernel's bound on a TCP-MD5 key.
const MAX_PASSWORD_BYTES: usize = 80;

/// All peers that could be read; exact repetitions once.
pub(super) fn read(value: &Value<'_>) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut seen: HashMap<Peer, String> = HashMap::new();
    let mut neighbours: HashMap<(IpAddr, u16, Vec<LabelSelector>), String> = HashMap::new();
    for item in value.items().unwrap_or_default() {
        let Some(peer) = item.fields(KEYS).and_then(|fields| read_peer(&fields)) else { continue };
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
        peers.push(peer);
    }
    peers
}

fn read_peer(fields: &Fields<'_>) -> Option<Peer> {
    warn_of_unsupported(fields);
    let asn =
        |key, example| fields.required(key, example).and_then(|value| number(&value, 1..=u32::MAX.into()));
    let my_asn = asn("my-asn", "64600");
    let peer_asn = asn("peer-asn", "64601");
    let address = fields.required("peer-address", "10.0.0.1").and_then(|value| host(&value));
    let port = fields.get("peer-port").map_or(Some(BGP_PORT), |value| port(&value));
    let hold_time = fields.get("hold-time").map_or(Some(DEFAULT_HOLD_TIME), |value| hold_time(&value));
    let router_id = optional(fields.get("router-id"), router_id);
    let source_address = optional(fields.get("source-address"), |value| source_address(value, address));
    let node_selectors = optional(fields.get("node-selectors"), node_selectors);
    let password = optional(fields.get("password"), password);
    Some(Peer {
        my_asn: my_asn?,
        asn: peer_asn?,
        address: address?,
        port: port?,
        hold_time: hold_time?,
        router_id: router_id?,
        source_address: source_address?,
        node_selectors: node_selectors?.unwrap_or_default(),
        password: password?.flatten(),
    })
}

/// `None` for a value that is there and wrong, `Some(None)` for none.
fn optional<'a, T>(
    value: Option<Value<'a>>,
    read: impl FnOnce(&Value<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match value {
        Some(value) => read(&value).map(Some),
        None => Some(None),
    }
}

fn warn_of_unsupported(fields: &Fields<'_>) {
    if let Some(value) = fields.get("keepalive-time") {
        value.warn("not supported yet: keepalives are sent every third of the hold time");
    }
    if let Some(value) = fields.get("bfd-profile")
        && value.text().is_some_and(|profile| !profile.is_empty())
    {
        value.warn("not supported yet: the session runs without BFD");
    }
    if let Some(value) = fields.get("ebgp-multihop")
        && boolean(&value) == Some(true)
    {
        value.warn("not supported yet: the session is dialled as any other");
    }
}

fn port(value: &Value<'_>) -> Option<u16> {
    number(value, 0..=u16::MAX.into()).map(|port| if port == 0 { BGP_PORT } else { port })
}

fn hold_time(value: &Value<'_>) -> Option<Duration> {
    let seconds = duration(value)?.as_secs();
    let written = shown(value.text()?);
    // RFC 4271 §4.2: zero or at least three seconds, in 16 bits.
    match seconds {
        1 | 2 => {
            value.fail(format!("{written} is too short: use 3s or more, or 0s for no keepalives at all"))
        }
        65536.. => value.fail(format!("{written} is too long: use at most 65535s")),
        _ => Some(Duration::from_secs(seconds)),
    }
}

fn router_id(value: &Value<'_>) -> Option<Ipv4Addr> {
    let text = value.text()?;
    match text.parse() {
        // RFC 6286: any number but zero.
        Ok(id) if id != Ipv4Addr::UNSPECIFIED => Some(id),
        _ => value
            .fail(format!("{} is not a router id: write an IPv4 address other than 0.0.0.0", shown(text))),
    }
}

fn source_address(value: &Value<'_>, peer: Option<IpAddr>) -> Option<IpAddr> {
    let address = host(value)?;
    match peer {
        Some(peer) if peer.is_ipv4() != address.is_ipv4() => {
            let family = if peer.is_ipv4() { "IPv4" } else { "IPv6" };
            value.fail(format!("{address} cannot reach {peer}: use an {family} address of the node"))
        }
        _ => Some(address),
    }
}

/// None for the empty password, which MetalLB takes as no password.
fn password(value: &Value<'_>) -> Option<Option<Password>> {
    let secret = value.text()?;
    if secret.len() > MAX_PASSWORD_BYTES {
        let length = secret.len();
        return value
            .fail(format!("the password has {length} bytes: TCP-MD5 takes at most {MAX_PASSWORD_BYTES}"));
    }
    Some((!secret.is_empty()).then(|| Password::new(secret)))
}

fn node_selectors(value: &Value<'_>) -> Option<Vec<LabelSelector>> {
    all(value.items()?, node_selector)
}

/// Reads every value, for the sake of the errors, and gives the results only if all are there.
fn all<'a, T, C: FromIterator<T>>(
    values: Vec<Value<'a>>,
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> Option<C> {
    let results: Vec<Option<T>> = values.iter().map(read).collect();
    results.into_iter().collect()
}

fn node_selector(value: &Value<'_>) -> Option<LabelSelector> {
    let fields = value.fields(&["match-labels", "match-expressions"])?;
    let match_labels = optional(fields.get("match-labels"), match_labels);
    let match_expressions =
        optional(fields.get("match-expressions"), |value| all(value.items()?, requirement));
    Some(LabelSelector {
        match_labels: match_labels?.unwrap_or_default(),
        match_expressions: match_expressions?.unwrap_or_default(),
    })
}

fn match_labels(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    let labels: Vec<Option<(String, String)>> = value
        .entries()?
        .into_iter()
        .map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())))
        .collect();
    labels.into_iter().collect()
}

fn requirement(value: &Value<'_>) -> Option<Requirement> {
    let fields = value.fields(&["key", "operator", "values"])?;
    let key = fields.required("key", "rack").and_then(|value| nonempty(&value, "the key"));
    let operator = fields.required("operator", "In").and_then(|value| {
        one_of(
            &value,
            &[
                ("In", Operator::In),
                ("NotIn", Operator::NotIn),
                ("Exists", Operator::Exists),
                ("DoesNotExist", Operator::DoesNotExist),
            ],
        )
    });
    let values: Option<BTreeSet<String>> =
        optional(fields.get("values"), |value| all(value.items()?, |value| value.text().map(str::to_owned)))
            .map(Option::unwrap_or_default);
    let (key, operator, values) = (key?.to_owned(), operator?, values?);
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            value.fail(format!("{operator:?} has no values: add values: [...] with at least one"))
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            value.fail(format!("{operator:?} takes no values: remove them, or use In or NotIn"))
        }
        _ => Some(Requirement { key, operator, values }),
    }
}
