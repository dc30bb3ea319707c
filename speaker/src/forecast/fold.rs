//! What differs between two worlds, node after node, and then of all nodes together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_bgp::Attributes;
use ipnet::IpNet;
use serde::Serialize;

use super::sessions::{Became, SessionRow, paired};
use super::{Announced, Told};
use crate::bgp::PeerSettings;
use crate::layer2::{Offered, rank};

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// How many nodes were asked.
    pub nodes: usize,
    /// Sessions that do not stay as they are.
    pub sessions: Vec<SessionRow>,
    /// Routes of sessions that are there now and then.
    pub routes: Vec<RouteRow>,
    /// Addresses of layer 2 whose owner would be another.
    pub owners: Vec<OwnerRow>,
    /// Which nodes a neighbour can send an address's packets to, where that differs.
    pub ways: Vec<WayRow>,
}

/// What becomes of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "what", content = "differences")]
pub enum Turn {
    /// It is withdrawn.
    Goes,
    /// It says something else, in words.
    Says(Vec<String>),
    /// It is announced.
    Comes,
}

/// Routes that the same becomes of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// The prefixes, in order.
    pub prefixes: Vec<IpNet>,
    /// What becomes of them.
    #[serde(flatten)]
    pub turn: Turn,
    /// On these nodes' sessions
    pub nodes: Vec<String>,
    /// with these neighbours.
    pub peers: Vec<String>,
}

/// Who owns an address then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "who", content = "of")]
pub enum Then {
    /// No node may.
    Nobody,
    /// This node, by the rules of the election, if all that may hear each other.
    Node(String),
    /// One of so many nodes.
    OneOf(usize),
}

/// An address of layer 2 that may get another owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRow {
    /// It.
    pub address: IpAddr,
    /// The owner now, one for each segment; `null`: not known.
    pub now: Option<Vec<String>>,
    /// And then.
    pub then: Then,
}

/// What becomes of the nodes to which a neighbour can send the packets for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WayRow {
    /// It.
    pub address: IpAddr,
    /// The neighbour.
    pub peer: String,
    /// So many nodes stay.
    pub stays: usize,
    /// Nodes whose routes go and come again with their session.
    pub restarts: Vec<String>,
    /// Nodes that do not tell it any more.
    pub lost: Vec<String>,
    /// Nodes that do not tell it now.
    pub gained: Vec<String>,
}

#[derive(Debug, Default)]
struct Ways {
    stays: usize,
    restarts: Vec<String>,
    lost: Vec<String>,
    gained: Vec<String>,
}

/// Who may own an address.
#[derive(Debug, Default)]
struct Candidates {
    now: usize,
    then: usize,
    /// Another node than now may, or one may not any more, or on other interfaces.
    differs: bool,
    /// Owners that may stay it.
    stay: usize,
    first: Option<Candidate>,
}

/// In the order of the election of those that have no claim (`layer2/election.rs`): the greatest would own the address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    score: u16,
    rank: Reverse<u64>,
    node: String,
}

/// Changes of all nodes that have been looked at.
#[derive(Debug)]
pub(super) struct Folding<'o> {
    owners: Option<&'o BTreeMap<IpAddr, BTreeSet<String>>>,
    nodes: usize,
    sessions: BTreeMap<(Became, String), (Vec<String>, usize)>,
    routes: BTreeMap<(Turn, IpNet), BTreeMap<String, Vec<String>>>,
    ways: BTreeMap<(IpAddr, Arc<str>), Ways>,
    candidates: BTreeMap<IpAddr, Candidates>,
}

impl<'o> Folding<'o> {
    pub(super) fn new(owners: Option<&'o BTreeMap<IpAddr, BTreeSet<String>>>) -> Self {
        Self {
            owners,
            nodes: 0,
            sessions: BTreeMap::new(),
            routes: BTreeMap::new(),
            ways: BTreeMap::new(),
            candidates: BTreeMap::new(),
        }
    }

    /// One node more.
    pub(super) fn node(&mut self, node: &str, now: &Announced, then: &Announced) {
        self.nodes += 1;
        for (before, after, became) in paired(&now.sessions, &then.sessions) {
            let peer = after.or(before).map(|told| told.settings.to_string()).unwrap_or_default();
            let breaks = matches!(became, Some(Became::Anew { keeps_routes: false, .. }));
            self.reach(node, &peer, (before, now), (after, then), breaks);
            if let (Some(before), Some(after)) = (before, after) {
                self.told(node, &peer, before, after);
            }
            if let Some(became) = became {
                let routes = [before, after].into_iter().flatten().map(|told| told.routes.len()).max();
                let (nodes, most) = self.sessions.entry((became, peer)).or_default();
                nodes.push(node.to_owned());
                *most = routes.unwrap_or(0).max(*most);
            }
        }
        self.offers(node, &now.offers, &then.offers);
    }

    fn told(&mut self, node: &str, peer: &str, before: &Told, after: &Told) {
        let prefixes: BTreeSet<&IpNet> = before.routes.keys().chain(after.routes.keys()).collect();
        for prefix in prefixes {
            let turn = match (before.routes.get(prefix), after.routes.get(prefix)) {
                (Some(_), None) => Turn::Goes,
                (None, Some(_)) => Turn::Comes,
                (Some(now), Some(then)) if now != then => {
                    match said(now, then, is_internal(&after.settings)) {
                        same if same.is_empty() => continue,
                        differences => Turn::Says(differences),
                    }
                }
                _ => continue,
            };
            let peers = self.routes.entry((turn, *prefix)).or_default();
            peers.entry(peer.to_owned()).or_default().push(node.to_owned());
        }
    }

    fn reach(
        &mut self,
        node: &str,
        peer: &str,
        (before, now): (Option<&Told>, &Announced),
        (after, then): (Option<&Told>, &Announced),
        breaks: bool,
    ) {
        let peer: Arc<str> = peer.into();
        let (now, then) = (reached(before, now), reached(after, then));
        for address in now.union(&then) {
            let ways = self.ways.entry((*address, Arc::clone(&peer))).or_default();
            match (now.contains(address), then.contains(address)) {
                (true, false) => ways.lost.push(node.to_owned()),
                (false, true) => ways.gained.push(node.to_owned()),
                _ if breaks => ways.restarts.push(node.to_owned()),
                _ => ways.stays += 1,
            }
        }
    }

    fn offers(&mut self, node: &str, now: &BTreeMap<IpAddr, Offered>, then: &BTreeMap<IpAddr, Offered>) {
        let addresses: BTreeSet<&IpAddr> = now.keys().chain(then.keys()).collect();
        for address in addresses {
            let of = self.candidates.entry(*address).or_default();
            let (before, after) = (now.get(address), then.get(address));
            of.now += usize::from(before.is_some());
            of.then += usize::from(after.is_some());
            let interfaces = |offered: &Offered| offered.interfaces.clone();
            let stays = before.map(interfaces) == after.map(interfaces);
            of.differs |= !stays;
            let owns = self.owners.and_then(|owners| owners.get(address)).is_some_and(|at| at.contains(node));
            of.stay += usize::from(owns && after.is_some() && stays);
            let mine = after.map(|offered| Candidate {
                score: offered.score,
                rank: Reverse(rank(node, *address)),
                node: node.to_owned(),
            });
            of.first = mine.max(of.first.take());
        }
    }

    /// All that differs.
    pub(super) fn finish(self) -> Forecast {
        let Self { owners, nodes, sessions, routes, ways, candidates } = self;
        let sessions = sessions.into_iter().map(|((became, peer), (nodes, routes))| SessionRow {
            peer,
            became,
            nodes,
            routes,
        });
        let ways = ways.into_iter().filter(|(_, ways)| {
            !(ways.restarts.is_empty() && ways.lost.is_empty() && ways.gained.is_empty())
        });
        let ways = ways.map(|((address, peer), Ways { stays, restarts, lost, gained })| WayRow {
            address,
            peer: peer.to_string(),
            stays,
            restarts,
            lost,
            gained,
        });
        let owned = candidates.iter().filter_map(|(address, of)| {
            let now = owners.map(|owners| owners.get(address).cloned().unwrap_or_default());
            owner(*address, of, now)
        });
        Forecast {
            nodes,
            sessions: sessions.collect(),
            routes: rows(routes),
            owners: owned.collect(),
            ways: ways.collect(),
        }
    }
}

/// Addresses that a neighbour can send to the node.
fn reached(told: Option<&Told>, announced: &Announced) -> BTreeSet<IpAddr> {
    let prefixes = told.into_iter().flat_map(|told| told.routes.keys());
    prefixes
        .flat_map(|prefix| announced.by_bgp.range(prefix.network()..=prefix.broadcast()).copied())
        .collect()
}

/// Prefixes that the same becomes of at the same places, together.
fn rows(routes: BTreeMap<(Turn, IpNet), BTreeMap<String, Vec<String>>>) -> Vec<RouteRow> {
    let mut alike: BTreeMap<(Turn, Vec<String>, Vec<String>), Vec<IpNet>> = BTreeMap::new();
    for ((turn, prefix), peers) in routes {
        let mut by_nodes: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for (peer, nodes) in peers {
            by_nodes.entry(nodes).or_default().push(peer);
        }
        for (nodes, peers) in by_nodes {
            alike.entry((turn.clone(), nodes, peers)).or_default().push(prefix);
        }
    }
    let row = |((turn, nodes, peers), prefixes)| RouteRow { prefixes, turn, nodes, peers };
    alike.into_iter().map(row).collect()
}

/// An owner stays owner while it may; where it may not any more, or nobody owned the address, the order of the election decides.
fn owner(address: IpAddr, of: &Candidates, now: Option<BTreeSet<String>>) -> Option<OwnerRow> {
    let first = || of.first.as_ref().map_or(Then::Nobody, |first| Then::Node(first.node.clone()));
    let then = match &now {
        _ if of.then == 0 => Then::Nobody,
        Some(owners) if !owners.is_empty() && of.stay == owners.len() => return None,
        Some(owners) if owners.len() > 1 => Then::OneOf(of.then),
        // It may still, on other interfaces: whether those are on its segment is not known here.
        Some(owners) if of.first.as_ref().is_some_and(|first| owners.contains(&first.node)) => {
            Then::OneOf(of.then)
        }
        Some(owners) if !owners.is_empty() || of.now == 0 => first(),
        None if of.now == 0 => first(),
        _ if of.differs => Then::OneOf(of.then),
        _ => return None,
    };
    Some(OwnerRow { address, now: now.map(|owners| owners.into_iter().collect()), then })
}

fn is_internal(settings: &PeerSettings) -> bool {
    let peer = &settings.peer;
    peer.asn == Some(peer.local_asn.unwrap_or(peer.my_asn))
}

/// What a route says differently; what a neighbour of this kind is not told does not count (RFC 4271 §5.1.5).
fn said(now: &Attributes, then: &Attributes, internal: bool) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differs = |what: &str, now: String, then: String| {
        if now != then {
            differences.push(format!("{what} {now} -> {then}"));
        }
    };
    let all = |said: &Attributes| {
        let plain = said.communities.iter().map(ToString::to_string);
        let large = said.large_communities.iter().map(|community| format!("large:{community}"));
        let extended = said.extended_communities.iter().map(|community| {
            let octets: Vec<String> = community.0.iter().map(|octet| format!("{octet:02x}")).collect();
            format!("extended:{}", octets.concat())
        });
        let all: Vec<String> = plain.chain(large).chain(extended).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(" ") }
    };
    let number = |value: Option<u32>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    differs("communities", all(now), all(then));
    differs("MED", number(now.med), number(then.med));
    if internal {
        differs("preference", number(now.local_pref), number(then.local_pref));
    } else {
        differs("prepended", now.prepend.to_string(), then.prepend.to_string());
    }
    differences
}
