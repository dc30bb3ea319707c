//! `herald status services`: each address of each Service, whether it is announced, by whom, and what stands behind it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{AnnouncedAnswer, EndpointsCount, Finding};
use serde::Serialize;

use super::availability::{Availability, Probes};
use super::facts::{Facts, ServiceFact};
use super::judge::{dark, finding, of_service, out, said, silent};
use super::sheet::{Grid, Row, Sheet, counted, dash, some};

/// Nodes and peers that are named in a cell.
const NAMED: usize = 3;

/// All Services of type LoadBalancer.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Services {
    findings: Vec<Finding>,
    /// An entry for each address; the wrong ones first.
    services: Vec<ServiceState>,
}

/// One address of a Service, or a Service without one.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceState {
    service: String,
    /// `null`: it waits for one.
    address: Option<IpAddr>,
    state: State,
    /// Why it is so, where something is wrong.
    why: Option<String>,
    /// `Cluster` or `Local`.
    policy: &'static str,
    /// `null`: nobody could be asked.
    endpoints_ready: Option<usize>,
    endpoints: Option<usize>,
    pool: Option<String>,
    /// Nodes that announce it by BGP.
    bgp: Vec<String>,
    /// The peers that these tell it; empty if that was not asked (`-o text`).
    peers: Vec<String>,
    /// Who answers for it by ARP or NDP.
    layer2: Vec<Owner>,
    /// Probes of the last hour by other nodes; `null`: it is not probed (`--probe-addresses`).
    probes: Option<Probes>,
}

/// A node that owns an address.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    node: String,
    /// `null`: that was not asked (`-o text`).
    interface: Option<String>,
    mac: Option<String>,
}

/// The worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// It has an address that no node announces.
    Dark,
    /// It has no address.
    Waits,
    /// It is announced, and no endpoint is ready.
    NoEndpoint,
    /// No speaker that answers knows it.
    Unknown,
    Ok,
    /// Another controller's, by its class.
    Anothers,
}

impl State {
    fn wrong(self) -> bool {
        self < Self::Unknown
    }

    fn words(self) -> &'static str {
        match self {
            Self::Dark => "announced from no node",
            Self::Waits => "waits for an address",
            Self::NoEndpoint => "no endpoint is ready",
            Self::Unknown => "not known",
            Self::Ok => "ok",
            Self::Anothers => "another controller's",
        }
    }
}

impl Services {
    /// Of the Services that are wanted.
    pub(super) fn of(facts: &Facts, wanted: impl Fn(&ServiceFact) -> bool) -> Self {
        let mut findings = silent(facts, &facts.answers);
        let ways = Ways::of(facts);
        let answers = facts.answers.values().filter_map(|answer| answer.as_ref().ok());
        let probes = Availability::of(answers);
        let mut services = Vec::new();
        for service in facts.services.iter().filter(|service| wanted(service)) {
            let mut states = states(facts, &ways, service);
            for state in &mut states {
                let address = state.address.as_ref();
                state.probes = probes.as_ref().zip(address).and_then(|(probes, of)| probes.of_address(of));
            }
            let told = of_service(facts, service);
            if told.is_none() && states.iter().any(|state| state.state == State::NoEndpoint) {
                let (namespace, name) = service.parts();
                findings.push(finding(
                    format!("{} has no endpoint that is ready", service.name),
                    format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"),
                ));
            }
            findings.extend(told);
            services.extend(states);
        }
        services.sort_by(|a, b| (a.state, &a.service, a.address).cmp(&(b.state, &b.service, b.address)));
        Self { findings, services }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// As other commands take them: `NAMESPACE/NAME`, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let names = self.services.iter().map(|state| &state.service);
        names.filter(|name| seen.insert(*name)).cloned().collect()
    }

    pub(super) fn sheet(&self) -> Sheet {
        let count = |like: fn(State) -> bool| {
            let alike = self.services.iter().filter(|state| like(state.state));
            alike.map(|state| &state.service).collect::<BTreeSet<_>>().len()
        };
        let (all, wrong, unknown) =
            (count(|_| true), count(State::wrong), count(|state| state == State::Unknown));
        let all = counted(all, "Service", "Services");
        let mut headline = match (wrong, unknown) {
            _ if self.services.is_empty() => "there is no Service of type LoadBalancer".to_owned(),
            (0, 0) => format!("all is well with {all}"),
            (0, _) => format!("nothing is known to be wrong with {all}"),
            (wrong, _) => format!("{wrong} of {all} in trouble"),
        };
        if unknown > 0 {
            headline += &format!("; {unknown} known to no speaker that answers");
        }
        let row = |state: &ServiceState| {
            let endpoints = state.endpoints_ready.zip(state.endpoints);
            let owners: Vec<String> = state.layer2.iter().map(|owner| owner.node.clone()).collect();
            let macs = state.layer2.iter().filter_map(|owner| {
                Some(format!("{} on {}", owner.mac.as_ref()?, owner.interface.as_ref()?))
            });
            let macs: Vec<String> = macs.collect();
            Row {
                wrong: state.state.wrong(),
                cells: vec![
                    state.service.clone(),
                    state.address.map_or_else(|| "none yet".to_owned(), |address| address.to_string()),
                    state.state.words().to_owned(),
                    state.policy.to_owned(),
                    dash(endpoints.map(|(ready, all)| format!("{ready}/{all}"))),
                    some(&state.bgp, NAMED),
                    some(&owners, NAMED),
                    dash(state.probes.as_ref().and_then(Probes::share)),
                    if state.peers.is_empty() { "-".to_owned() } else { state.peers.join(", ") },
                    if macs.is_empty() { "-".to_owned() } else { macs.join(", ") },
                    dash(state.pool.as_ref()),
                    dash(state.why.as_ref()),
                ],
            }
        };
        let grid = Grid {
            heading: &[
                "Services",
                "address",
                "state",
                "policy",
                "endpoints ready",
                "by BGP from",
                "by ARP or NDP from",
                "probes answered",
                "peers",
                "MAC",
                "pool",
                "why",
            ],
            wide: 4,
            rows: self.services.iter().map(row).collect(),
            shown: None,
        };
        Sheet { headline, findings: self.findings.clone(), grids: vec![grid], foot: Vec::new() }
    }
}

/// How addresses are announced, by address.
struct Ways<'a> {
    peers: BTreeMap<IpAddr, Vec<&'a str>>,
    owners: BTreeMap<IpAddr, Vec<(&'a str, &'a str, &'a str)>>,
}

impl<'a> Ways<'a> {
    fn of(facts: &'a Facts) -> Self {
        let mut ways = Self { peers: BTreeMap::new(), owners: BTreeMap::new() };
        let answers = facts.announced.values().filter_map(|answer| answer.as_ref().ok());
        for AnnouncedAnswer { node, bgp, interfaces } in answers {
            for told in bgp {
                for address in &told.addresses {
                    let peers = ways.peers.entry(*address).or_default();
                    for peer in &told.peers {
                        if !peers.contains(&peer.as_str()) {
                            peers.push(peer);
                        }
                    }
                }
            }
            for on in interfaces {
                for owned in &on.owned {
                    let owner = (node.as_str(), on.interface.as_str(), on.mac.as_str());
                    ways.owners.entry(owned.address).or_default().push(owner);
                }
            }
        }
        ways
    }
}

fn states(facts: &Facts, ways: &Ways<'_>, service: &ServiceFact) -> Vec<ServiceState> {
    let counts = facts.endpoints.as_ref().and_then(|answer| answer.services.get(&service.name));
    let state = |address: Option<IpAddr>| {
        let (bgp, layer2) = address.map(|address| out(facts, &address)).unwrap_or_default();
        let (state, why) = judged(facts, service, address, counts);
        let of_ways = address.and_then(|address| ways.owners.get(&address));
        let layer2 = match of_ways {
            Some(owners) => owners
                .iter()
                .map(|(node, interface, mac)| Owner {
                    node: (*node).to_owned(),
                    interface: Some((*interface).to_owned()),
                    mac: Some((*mac).to_owned()),
                })
                .collect(),
            None => layer2.into_iter().map(|node| Owner { node, interface: None, mac: None }).collect(),
        };
        let peers = address.and_then(|address| ways.peers.get(&address));
        ServiceState {
            service: service.name.clone(),
            address,
            state,
            why,
            policy: if service.local { "Local" } else { "Cluster" },
            endpoints_ready: counts.map(|count| count.ready),
            endpoints: counts.map(|count| count.total),
            pool: service.pool.clone(),
            bgp,
            peers: peers.into_iter().flatten().map(|peer| (*peer).to_owned()).collect(),
            layer2,
            probes: None,
        }
    };
    match service.addresses.as_slice() {
        [] => vec![state(None)],
        addresses => addresses.iter().map(|address| state(Some(*address))).collect(),
    }
}

fn judged(
    facts: &Facts,
    service: &ServiceFact,
    address: Option<IpAddr>,
    counts: Option<&EndpointsCount>,
) -> (State, Option<String>) {
    let Some(address) = address else {
        return match service.is_anothers() {
            true => (State::Anothers, None),
            false => (State::Waits, service.waits.clone()),
        };
    };
    if let Some(why) = dark(facts, &address) {
        return (State::Dark, Some(why));
    }
    match counts {
        _ if said(facts, &address).is_empty() => match service.class {
            Some(_) => (State::Anothers, None),
            None => (State::Unknown, None),
        },
        Some(count) if count.ready == 0 => (State::NoEndpoint, None),
        _ => (State::Ok, None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use herald_speaker::explain::{EndpointsAnswer, InterfaceAnswer, OwnedAnswer, ToldAnswer};

    use super::super::availability::tests::probing;
    use super::super::facts::tests::{facts, ip, service};
    use super::*;
    use crate::testing::{documented, golden};

    const EXPLAINED: &str = include_str!("../../../docs/explain.md");

    /// Announced by both, owned by one, dark, and one that waits.
    pub(in crate::cluster) fn shop() -> Facts {
        let mut facts = facts(
            &[
                ("192.0.2.1", "bgp"),
                ("192.0.2.2", "layer2"),
                ("192.0.2.3", "noEndpoints"),
                ("192.0.2.4", "bgp"),
            ],
            &[("192.0.2.1", "bgp"), ("192.0.2.2", "notOwner"), ("192.0.2.3", "noEndpoints")],
        );
        facts.services = vec![
            service("shop/web", &["192.0.2.1"], None),
            service("shop/dns", &["192.0.2.2"], None),
            service("shop/cart", &["192.0.2.3"], None),
            service("lab/old", &["192.0.2.4"], None),
            service("lab/new", &[], Some("pool edge is full")),
        ];
        facts.services.iter_mut().take(3).for_each(|service| service.pool = Some("edge".to_owned()));
        facts.services[1].local = true;
        let count = |name: &str, ready, total| (name.to_owned(), EndpointsCount { ready, total });
        facts.endpoints = Some(EndpointsAnswer {
            node: "node-1".to_owned(),
            services: [
                count("shop/web", 2, 3),
                count("shop/dns", 1, 1),
                count("shop/cart", 0, 2),
                count("lab/old", 0, 0),
            ]
            .into(),
            services_left_out: 0,
        });
        facts
    }

    /// What their speakers say of the ways.
    pub(in crate::cluster) fn announced(facts: &mut Facts) {
        let told = |addresses: &[&str]| ToldAnswer {
            peers: vec!["10.0.0.1:179".to_owned()],
            addresses: addresses.iter().map(|address| ip(address)).collect(),
        };
        let on = |number: u8| InterfaceAnswer {
            interface: "eth0".to_owned(),
            mac: format!("02:00:00:00:00:1{number}"),
            hears: vec![format!("node-{}", 3 - number)],
            ..InterfaceAnswer::default()
        };
        let owned = OwnedAnswer {
            address: ip("192.0.2.2"),
            claim: Some(3),
            next: Some("node-2".to_owned()),
            seconds: Some(7_300),
        };
        let answer = |number: u8, bgp, on| {
            let node = format!("node-{number}");
            (node.clone(), Ok(AnnouncedAnswer { node, bgp: vec![bgp], interfaces: vec![on] }))
        };
        let others = [("node-1".to_owned(), vec![ip("192.0.2.2")])].into();
        facts.announced = [
            answer(1, told(&["192.0.2.1", "192.0.2.4"]), InterfaceAnswer { owned: vec![owned], ..on(1) }),
            answer(2, told(&["192.0.2.1"]), InterfaceAnswer { others, ..on(2) }),
        ]
        .into();
    }

    /// Two of them are probed by both nodes.
    fn probed(facts: &mut Facts) {
        let all = [("192.0.2.1", 360, 0), ("192.0.2.4", 0, 360)];
        for (name, probed) in [("node-1", &all[..]), ("node-2", &[("192.0.2.1", 360, 2)])] {
            if let Some(Ok(answer)) = facts.answers.get_mut(name) {
                answer.availability = probing(name, probed).availability;
            }
        }
    }

    #[test]
    fn the_screens_are_as_in_their_golden_file() {
        let mut facts = shop();
        probed(&mut facts);
        let narrow = Services::of(&facts, |_| true).sheet().text(false, false);
        announced(&mut facts);
        documented(EXPLAINED, &format!("$ herald status services\n{narrow}"));
        let wide = Services::of(&facts, |_| true).sheet().text(true, false);
        let one = Services::of(&facts, |service| service.name == "shop/web").sheet().text(false, false);
        golden(
            "status-services.txt",
            &format!(
                "$ herald status services\n{narrow}\n$ herald status services -o wide\n{wide}\n$ herald status services shop/web\n{one}"
            ),
        );
    }

    #[test]
    fn scripts_read_every_address_with_words_from_a_closed_list() {
        let mut facts = shop();
        announced(&mut facts);
        probed(&mut facts);
        let services = Services::of(&facts, |_| true);
        assert_eq!(services.names(), ["shop/cart", "lab/new", "lab/old", "shop/dns", "shop/web"]);
        let value = serde_json::to_value(&services).unwrap();
        let states: Vec<&str> =
            value["services"].as_array().unwrap().iter().map(|of| of["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["dark", "waits", "noEndpoint", "ok", "ok"]);
        assert_eq!(value["services"][3]["layer2"][0]["mac"], "02:00:00:00:00:11");
        assert_eq!(value["services"][4]["peers"][0], "10.0.0.1:179");
        assert_eq!(value["services"][4]["endpointsReady"], 2);
        assert_eq!(value["services"][3]["probes"], serde_json::Value::Null);
        assert_eq!(
            value["services"][4]["probes"],
            serde_json::json!({"nodes": ["node-1", "node-2"], "answered": 720, "failed": 2})
        );
    }

    #[test]
    fn where_nobody_answers_nothing_is_called_well_or_wrong() {
        let mut facts = shop();
        facts.answers = [("node-1".to_owned(), Err("it is silent".to_owned().into()))].into();
        facts.endpoints = None;
        let mut other = service("shop/other", &["198.51.100.1"], None);
        other.class = Some("example.com/other".to_owned());
        facts.services.push(other);
        let services = Services::of(&facts, |service| !service.addresses.is_empty());
        let states: Vec<State> = services.services.iter().map(|state| state.state).collect();
        assert_eq!(states, [State::Unknown, State::Unknown, State::Unknown, State::Unknown, State::Anothers]);
        let headline = services.sheet().headline;
        assert_eq!(
            headline,
            "nothing is known to be wrong with 5 Services; 4 known to no speaker that answers"
        );
    }
}
