//! `herald plan drain NODE`: what becomes of addresses and endpoints when a node is taken out of load balancing and its pods are evicted.
//!
//! Judged from what every speaker says of each address just now: who announces it by BGP, who owns it by layer 2, and who offers it and would take
//! it. Pods that come elsewhere later are not foreseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use herald_speaker::explain::{NodeAnswer, cells, table};
use herald_speaker::forecast::Forecast;
use serde::Serialize;

use super::announced::told;
use super::connections::{self, Connections, Ground, connections};
use super::{ROWS, UNKNOWN, some};

/// The word of a node that offers an address by layer 2 which another one owns.
const OFFERS: &str = "notOwner";
/// What is known.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) node: String,
    /// What each node's speaker says, or why it says nothing.
    pub(super) answers: &'a BTreeMap<String, Result<NodeAnswer, String>>,
    pub(super) services: Vec<ServiceFact>,
}

/// A Service with endpoints.
#[derive(Debug, Default, Clone)]
pub(super) struct ServiceFact {
    /// `NAMESPACE/NAME`.
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`.
    pub(super) local: bool,
    /// Endpoints that are ready, by node.
    pub(super) endpoints: BTreeMap<String, usize>,
}

/// What would change.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Drained {
    node: String,
    addresses: Vec<AddressRow>,
    endpoints: Vec<EndpointRow>,
    /// What becomes of routes and owners, on all nodes.
    announced: Forecast,
    connections: Vec<Connections>,
    /// Nodes whose speakers say nothing: what they could take over is not known.
    unknown: BTreeMap<String, String>,
}

/// An address that the node announces.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressRow {
    service: String,
    address: IpAddr,
    /// `bgp`, `layer2` or `bgp+layer2`.
    by: String,
    /// Who announces it as well now, or would take it; nobody: it is out of reach.
    then: Vec<String>,
    /// Why nobody does.
    why: Option<String>,
}

/// A Service with endpoints on the node.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow {
    service: String,
    here: usize,
    elsewhere: usize,
}

/// What becomes of it; `None`: the node's own speaker says nothing.
pub(super) fn drained(facts: &Facts<'_>) -> Option<Drained> {
    let own = facts.answers.get(&facts.node)?.as_ref().ok()?;
    let others = || {
        let answers = facts.answers.iter().filter(|(node, _)| **node != facts.node);
        answers.filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)))
    };
    let mut addresses = Vec::new();
    let mut endpoints = Vec::new();
    for service in &facts.services {
        let here = service.endpoints.get(&facts.node).copied().unwrap_or(0);
        let elsewhere: usize = service.endpoints.values().sum::<usize>() - here;
        if here > 0 {
            endpoints.push(EndpointRow { service: service.name.clone(), here, elsewhere });
        }
        for address in &service.addresses {
            let Some(by) = own.addresses.get(address).filter(|word| announces(word)) else { continue };
            let takes = |answer: &NodeAnswer| {
                answer.addresses.get(address).is_some_and(|word| announces(word) || word == OFFERS)
            };
            let then: Vec<String> =
                others().filter(|(_, answer)| takes(answer)).map(|(node, _)| node.clone()).collect();
            let alone = match (service.local, elsewhere) {
                _ if !then.is_empty() => None,
                (true, 0) => Some("policy Local, and no endpoint is on another node".to_owned()),
                _ => Some("no other node may announce it now (herald explain service tells why)".to_owned()),
            };
            addresses.push(AddressRow {
                service: service.name.clone(),
                address: *address,
                by: by.clone(),
                then,
                why: alone,
            });
        }
    }
    // What is lost comes first.
    addresses.sort_by_key(|row| (!row.then.is_empty(), row.service.clone(), row.address));
    endpoints.sort_by_key(|row| (row.elsewhere > 0, row.service.clone()));
    let unknown = facts
        .answers
        .iter()
        .filter_map(|(node, answer)| Some((node.clone(), answer.as_ref().err()?.clone())));
    Some(Drained {
        node: facts.node.clone(),
        addresses,
        endpoints,
        announced: Forecast::default(),
        connections: Vec::new(),
        unknown: unknown.collect(),
    })
}

fn announces(word: &str) -> bool {
    word.split('+').all(|word| matches!(word, "bgp" | "layer2"))
}

impl Drained {
    /// With what becomes of routes and connections.
    pub(super) fn with(
        self,
        announced: Forecast,
        services: &BTreeMap<IpAddr, BTreeSet<String>>,
        without_proxy: &BTreeSet<String>,
    ) -> Self {
        let evicted = self.endpoints.iter().map(|row| row.service.clone()).collect();
        let evicted = Some((self.node.as_str(), evicted));
        let ground = Ground { gone: BTreeSet::new(), services, evicted, without_proxy };
        let connections = connections(&announced, &ground);
        Self { announced, connections, ..self }
    }

    /// Something would not be reached.
    pub(super) fn loses(&self) -> bool {
        self.addresses.iter().any(|row| row.then.is_empty())
            || self.endpoints.iter().any(|row| row.elsewhere == 0)
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, addresses, endpoints, announced, connections, unknown } = self;
        let dark = addresses.iter().filter(|row| row.then.is_empty()).count();
        let moves = addresses.iter().filter(|row| !row.then.is_empty() && row.by.contains("layer2")).count();
        let last = endpoints.iter().filter(|row| row.elsewhere == 0).count();
        let count = addresses.len();
        let addresses_of = match count {
            0 => "announces no address".to_owned(),
            1 => "announces 1 address".to_owned(),
            _ => format!("announces {count} addresses"),
        };
        write!(f, "{node} {addresses_of}")?;
        if count > 0 {
            write!(f, ": nobody would announce {dark} of them, and {moves} would move by layer 2")?;
        }
        writeln!(f, "; Services without an endpoint until their pods run elsewhere: {last}")?;
        for (node, why) in unknown {
            writeln!(f, "! {node}: no word from its speaker ({why}): what it could take over is not known")?;
        }
        if !addresses.is_empty() {
            let row = |row: &AddressRow| {
                let then = row.why.clone().unwrap_or_else(|| some(&row.then));
                let then = if row.then.is_empty() { format!("nobody: {then}") } else { then };
                vec![row.service.clone(), row.address.to_string(), row.by.clone(), then]
            };
            table(
                f,
                &cells(["Service", "address", "by", "then from"]),
                &addresses.iter().take(ROWS).map(row).collect::<Vec<_>>(),
            )?;
        }
        if !endpoints.is_empty() {
            let row = |row: &EndpointRow| {
                let last = if row.elsewhere == 0 { "none is left" } else { "-" };
                vec![row.service.clone(), row.here.to_string(), row.elsewhere.to_string(), last.to_owned()]
            };
            let rows: Vec<_> = endpoints.iter().take(ROWS).map(row).collect();
            table(f, &cells(["Service", "endpoints here", "elsewhere", ""]), &rows)?;
        }
        told(f, &announced.routes)?;
        write!(f, "{}", connections::Screen(connections))?;
        writeln!(f, "\n{UNKNOWN}")?;
        writeln!(
            f,
            "\nThen: kubectl label node {node} node.kubernetes.io/exclude-from-external-load-balancers=true; kubectl drain {node} --ignore-daemonsets"
        )
    }
}

#[cfg(test)]
mod tests {
    use herald_speaker::forecast::{OwnerRow, RouteRow, Then, Turn, WayRow};

    use super::*;
    use crate::testing::golden;

    fn answer(node: &str, addresses: &[(&str, &str)]) -> (String, Result<NodeAnswer, String>) {
        let addresses =
            addresses.iter().map(|(address, word)| (address.parse().unwrap(), (*word).to_owned())).collect();
        let answer = NodeAnswer { node: node.to_owned(), addresses, ..NodeAnswer::default() };
        (node.to_owned(), Ok(answer))
    }

    fn service(name: &str, address: &str, local: bool, endpoints: &[(&str, usize)]) -> ServiceFact {
        ServiceFact {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            local,
            endpoints: endpoints.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect(),
        }
    }

    fn answers() -> BTreeMap<String, Result<NodeAnswer, String>> {
        [
            answer(
                "node-1",
                &[
                    ("192.0.2.1", "bgp"),
                    ("192.0.2.2", "bgp"),
                    ("192.0.2.3", "bgp+layer2"),
                    ("192.0.2.4", "notOwner"),
                    ("192.0.2.5", "layer2"),
                ],
            ),
            answer(
                "node-2",
                &[
                    ("192.0.2.1", "bgp"),
                    ("192.0.2.2", "noLocalEndpoints"),
                    ("192.0.2.3", "notOwner"),
                    ("192.0.2.4", "layer2"),
                    ("192.0.2.5", "nodeLabeledExcludeBalancers"),
                ],
            ),
            ("node-3".to_owned(), Err("it does not answer in time".to_owned())),
        ]
        .into()
    }

    fn facts(answers: &BTreeMap<String, Result<NodeAnswer, String>>) -> Facts<'_> {
        Facts {
            node: "node-1".to_owned(),
            answers,
            services: vec![
                service("shop/web", "192.0.2.1", false, &[("node-1", 1), ("node-2", 2)]),
                service("shop/local", "192.0.2.2", true, &[("node-1", 2)]),
                service("shop/both", "192.0.2.3", false, &[("node-2", 1)]),
                service("shop/elsewhere", "192.0.2.4", false, &[("node-2", 1)]),
                service("shop/alone", "192.0.2.5", false, &[("node-2", 1)]),
            ],
        }
    }

    #[test]
    fn who_would_announce_each_address_and_what_would_be_left_of_endpoints() {
        let drained = drained(&facts(&answers())).unwrap();
        let rows: Vec<(&str, &[String], bool)> =
            drained.addresses.iter().map(|row| (&*row.service, &*row.then, row.why.is_some())).collect();
        let node_2 = ["node-2".to_owned()];
        assert_eq!(
            rows,
            [
                ("shop/alone", &[][..], true),
                ("shop/local", &[][..], true),
                ("shop/both", &node_2[..], false),
                ("shop/web", &node_2[..], false),
            ]
        );
        let left: Vec<(&str, usize)> =
            drained.endpoints.iter().map(|row| (&*row.service, row.elsewhere)).collect();
        assert_eq!(left, [("shop/local", 0), ("shop/web", 2)]);
        assert!(drained.loses());
    }

    #[test]
    fn a_node_whose_own_speaker_is_silent_cannot_be_planned_for() {
        let answers = answers();
        let facts = Facts { node: "node-3".to_owned(), ..facts(&answers) };
        assert_eq!(drained(&facts), None);
    }

    #[test]
    fn the_screen_is_as_its_golden_file() {
        let peers = vec!["10.0.0.1:179".to_owned(), "10.0.0.2:179".to_owned()];
        let prefixes = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.6/32"];
        let prefixes = prefixes.map(|prefix| prefix.parse().unwrap());
        let (node, other) = (vec!["node-1".to_owned()], "node-2".to_owned());
        let ways = peers.iter().flat_map(|peer| {
            [(1, "192.0.2.1"), (0, "192.0.2.2")].map(|(stays, address)| WayRow {
                address: address.parse().unwrap(),
                peer: peer.clone(),
                stays,
                restarts: Vec::new(),
                lost: node.clone(),
                gained: Vec::new(),
            })
        });
        let owner = |address: &str, then| OwnerRow {
            address: address.parse().unwrap(),
            now: Some(node.clone()),
            then,
        };
        let announced = Forecast {
            nodes: 3,
            ways: ways.collect(),
            routes: vec![RouteRow {
                prefixes: prefixes.into(),
                turn: Turn::Goes,
                nodes: node.clone(),
                peers: peers.clone(),
            }],
            owners: vec![owner("192.0.2.3", Then::Node(other)), owner("192.0.2.5", Then::Nobody)],
            sessions: Vec::new(),
        };
        let (answers, mut services) = (answers(), BTreeMap::new());
        for service in facts(&answers).services {
            services.insert(service.addresses[0], BTreeSet::from([service.name]));
        }
        let drained = drained(&facts(&answers)).unwrap().with(announced, &services, &BTreeSet::new());
        golden("plan-drain.txt", &format!("$ herald plan drain node-1\n{drained}"));
    }
}
