//! `herald status bgp` and `herald status routes`: the node's sessions, and what its peers are told and why.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use herald_bgp::Attributes;
use herald_config::Config;
use herald_runtime::ObjectName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::{advice, cells, table};
use crate::bgp::{By, PeerSettings, Seen, Told};

/// So many routes are named: the loop of the node is not kept from its work for long.
const TOLD: usize = 1000;

/// All sessions of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpAnswer {
    /// Who answers.
    pub node: String,
    /// The node asks to be avoided (RFC 8326), for it is drained.
    pub drained: bool,
    /// One per peer.
    pub peers: Vec<PeerAnswer>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAnswer {
    /// Its address and port.
    pub peer: String,
    /// Its name in the configuration, if it has one.
    pub name: Option<String>,
    /// Our AS number, as the peer sees it.
    pub local_as: u32,
    /// The peer's as configured; `null`: any but ours.
    pub peer_as: Option<u32>,
    /// Our BGP identifier.
    pub router_id: String,
    /// As RFC 4271 §8.2.2 calls it.
    pub state: String,
    /// So many seconds it has been in that state.
    pub seconds: u64,
    /// What both agreed on; `null`: it is not up.
    pub negotiated: Option<String>,
    /// The profile of BFD, if one watches the path.
    pub bfd: Option<String>,
    /// IPv4 routes that the peer has of this node.
    pub ipv4_routes: usize,
    /// IPv6 routes.
    pub ipv6_routes: usize,
    /// Routes that cannot be sent: no usable next hop, or too many attributes.
    pub unusable_routes: usize,
    /// How it ended last, by us, by the peer, and by the path.
    pub failures: Vec<FailureAnswer>,
}

/// An end of a session, or of an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureAnswer {
    /// `us`, `the peer` or `the path`.
    pub by: String,
    /// So many seconds ago.
    pub seconds: u64,
    /// Why.
    pub text: String,
    /// The likely cause and what to do.
    pub advice: Option<String>,
}

/// All routes of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutesAnswer {
    /// Who answers.
    pub node: String,
    /// The node asks to be avoided (RFC 8326), for it is drained.
    pub drained: bool,
    /// How many there are.
    pub total: usize,
    /// The first of them, in order of prefix.
    pub routes: Vec<RouteAnswer>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAnswer {
    /// What is announced.
    pub prefix: String,
    /// Whose addresses it is announced for; nobody's: it is a pod network of the node.
    pub services: Vec<MakerAnswer>,
    /// RFC 1997 and RFC 8092, in the configuration's form.
    pub communities: Vec<String>,
    /// LOCAL_PREF, for internal peers.
    pub local_pref: u32,
    /// The peers that are told; `null`: all.
    pub peers: Option<Vec<String>>,
}

/// A Service that makes a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MakerAnswer {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Its addresses inside the prefix that are announced from here.
    pub addresses: Vec<String>,
    /// The pools that they are of.
    pub pools: Vec<String>,
}

/// Tells of sessions.
pub(crate) fn peers<'a>(
    node: &str,
    drained: bool,
    sessions: impl Iterator<Item = (&'a PeerSettings, Seen)>,
    now: Instant,
) -> BgpAnswer {
    let seconds = |at: Instant| now.saturating_duration_since(at).as_secs();
    let peers = sessions.map(|(settings, seen)| {
        let peer = &settings.peer;
        let failures = By::ALL.iter().zip(&seen.ended).filter_map(|(by, ended)| {
            let ended = ended.as_ref()?;
            Some(FailureAnswer {
                by: by.word().to_owned(),
                seconds: seconds(ended.at),
                text: ended.text.clone(),
                advice: ended.advice.clone(),
            })
        });
        let mut failures: Vec<FailureAnswer> = failures.collect();
        failures.sort_by_key(|failure| failure.seconds);
        PeerAnswer {
            peer: settings.to_string(),
            name: Some(peer.name.clone()).filter(|name| !name.is_empty()),
            local_as: peer.local_asn.unwrap_or(peer.my_asn),
            peer_as: peer.asn,
            router_id: settings.router_id.to_string(),
            state: seen.state.as_str().to_owned(),
            seconds: seconds(seen.since),
            negotiated: seen.negotiated,
            bfd: settings.bfd.as_ref().map(|profile| profile.name.clone()),
            ipv4_routes: seen.routes[0],
            ipv6_routes: seen.routes[1],
            unusable_routes: seen.unusable,
            failures,
        }
    });
    let mut peers: Vec<PeerAnswer> = peers.collect();
    peers.sort_by(|a, b| a.peer.cmp(&b.peer));
    BgpAnswer { node: node.to_owned(), drained, peers }
}

/// Tells of routes. `announced`: the addresses of each Service that are announced by BGP from here.
pub(crate) fn routes(
    node: &str,
    drained: bool,
    told: &Told,
    announced: &BTreeMap<ObjectName, Vec<IpAddr>>,
    config: &Config,
) -> RoutesAnswer {
    let mut by_address: BTreeMap<IpAddr, Vec<&ObjectName>> = BTreeMap::new();
    for (service, addresses) in announced {
        for address in addresses {
            by_address.entry(*address).or_default().push(service);
        }
    }
    let route = |(prefix, attributes): (IpNet, &Arc<Attributes>)| {
        let mut makers: BTreeMap<&ObjectName, Vec<IpAddr>> = BTreeMap::new();
        for (address, services) in by_address.range(prefix.network()..=prefix.broadcast()) {
            services.iter().for_each(|service| makers.entry(service).or_default().push(*address));
        }
        let services = makers.into_iter().map(|(service, addresses)| {
            let mut pools: Vec<String> = addresses
                .iter()
                .filter_map(|address| config.pool_containing(*address))
                .map(|pool| pool.name.clone())
                .collect();
            pools.dedup();
            let addresses = addresses.iter().map(ToString::to_string).collect();
            MakerAnswer { service: service.to_string(), addresses, pools }
        });
        let plain = attributes.communities.iter().map(ToString::to_string);
        let large = attributes.large_communities.iter().map(|community| format!("large:{community}"));
        RouteAnswer {
            prefix: prefix.to_string(),
            services: services.collect(),
            communities: plain.chain(large).collect(),
            local_pref: attributes.local_pref.unwrap_or_default(),
            peers: told.only.get(&prefix).map(|peers| peers.iter().map(ToString::to_string).collect()),
        }
    };
    let routes = told.routes.iter().take(TOLD).map(route).collect();
    RoutesAnswer { node: node.to_owned(), drained, total: told.routes.len(), routes }
}

/// `41 s`, `3 min`, `5 h`, `12 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

const DRAINED: &str = "the node is drained: its routes ask to be avoided (GRACEFUL_SHUTDOWN), then they go";

impl fmt::Display for BgpAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = self.peers.iter().filter(|peer| peer.negotiated.is_some()).count();
        if self.peers.is_empty() {
            return writeln!(
                f,
                "BGP on {}: no peer is configured for this node (nodeSelectors of the BGPPeers)",
                self.node
            );
        }
        writeln!(f, "BGP on {}: {up} of {} sessions up", self.node, self.peers.len())?;
        let mut advised: Vec<String> = self.drained.then(|| DRAINED.to_owned()).into_iter().collect();
        for peer in self.peers.iter().filter(|peer| peer.negotiated.is_none()) {
            if let Some(failure) = peer.failures.first() {
                let more = failure.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
                advised.push(format!("{} is not up: {}{more}", peer.peer, failure.text));
            }
        }
        for peer in self.peers.iter().filter(|peer| peer.unusable_routes > 0) {
            advised.push(format!(
                "{} routes cannot be sent to {}: no next hop of their family on this session, or too many attributes",
                peer.unusable_routes, peer.peer
            ));
        }
        advice(f, &advised)?;
        let row = |peer: &PeerAnswer| {
            vec![
                peer.peer.clone(),
                peer.peer_as.map_or_else(|| "external".to_owned(), |asn| asn.to_string()),
                peer.state.clone(),
                span(peer.seconds),
                peer.ipv4_routes.to_string(),
                peer.ipv6_routes.to_string(),
                peer.bfd.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        };
        let rows: Vec<_> = self.peers.iter().map(row).collect();
        table(f, &cells(["Peers", "AS", "state", "for", "IPv4 routes", "IPv6 routes", "BFD"]), &rows)?;
        for peer in &self.peers {
            let name = peer.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            writeln!(f, "\n{}{name}", peer.peer)?;
            writeln!(f, "  we are AS {}, router id {}", peer.local_as, peer.router_id)?;
            if let Some(negotiated) = &peer.negotiated {
                writeln!(f, "  agreed: {negotiated}")?;
            }
            for failure in &peer.failures {
                writeln!(f, "  ended {} ago by {}: {}", span(failure.seconds), failure.by, failure.text)?;
                if let Some(advice) = &failure.advice {
                    writeln!(f, "    {advice}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for RoutesAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Routes of {}: {}", self.node, self.total)?;
        if self.drained {
            advice(f, &[DRAINED.to_owned()])?;
        }
        if self.routes.is_empty() {
            return writeln!(
                f,
                "! nothing is announced by BGP from here: herald explain service NAMESPACE/NAME tells why not"
            );
        }
        let row = |route: &RouteAnswer| {
            let maker = |maker: &MakerAnswer| {
                let pools = maker.pools.join(", ");
                format!("{} {} of pool {pools}", maker.service, maker.addresses.join(", "))
            };
            vec![
                route.prefix.clone(),
                if route.communities.is_empty() { "-".to_owned() } else { route.communities.join(" ") },
                route.local_pref.to_string(),
                route.peers.as_ref().map_or_else(|| "all".to_owned(), |peers| peers.join(", ")),
                match route.services.as_slice() {
                    [] => "the node's pods".to_owned(),
                    services => services.iter().map(maker).collect::<Vec<_>>().join("; "),
                },
            ]
        };
        let rows: Vec<_> = self.routes.iter().map(row).collect();
        table(f, &cells(["Prefix", "communities", "preference", "peers", "for"]), &rows)?;
        match self.total - self.routes.len().min(self.total) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}
