//! `herald status layer2`: who answers for each address by ARP or NDP on which segment, and who would next. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{AnnouncedAnswer, Finding, InterfaceAnswer, span};
use serde::Serialize;

use super::facts::Facts;
use super::judge::{finding, silent};
use super::sheet::{Grid, Row, Sheet, counted, dash};

/// All addresses that are announced by layer 2.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer2 {
    findings: Vec<Finding>,
    /// An entry for each address and owner; the wrong ones first.
    layer2: Vec<Holding>,
}

/// Who answers for an address on a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holding {
    address: IpAddr,
    services: Vec<String>,
    state: State,
    /// `null`: nobody.
    owner: Option<String>,
    /// The owner's, on the segment; `null`: the owner does not say.
    interface: Option<String>,
    mac: Option<String>,
    /// The node that would have it if the owner went.
    next: Option<String>,
    /// So long it has been so; `null`: longer than is remembered, or the owner does not say.
    seconds: Option<u64>,
    claim: Option<u32>,
}

/// The worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// Two nodes that hear each other both say that they own it.
    Contested,
    /// It is offered, and nobody owns it.
    Nobody,
    /// Others say that this node owns it, and its own speaker does not answer.
    OwnerSilent,
    Ok,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Contested => "two owners",
            Self::Nobody => "nobody owns it",
            Self::OwnerSilent => "no word from its owner",
            Self::Ok => "ok",
        }
    }
}

impl Layer2 {
    /// Of the addresses that are wanted, by themselves or by a Service that has them.
    pub(super) fn of(facts: &Facts, wanted: impl Fn(IpAddr, &[String]) -> bool) -> Self {
        let mut of: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for service in &facts.services {
            for address in &service.addresses {
                of.entry(*address).or_default().push(service.name.clone());
            }
        }
        let services = |address: IpAddr| of.get(&address).map(Vec::as_slice).unwrap_or_default();
        let mut layer2 = holdings(facts);
        layer2.retain_mut(|holding| {
            holding.services = services(holding.address).to_vec();
            wanted(holding.address, &holding.services)
        });
        let mut findings = silent(facts, &facts.announced);
        findings.extend(layer2.iter().filter_map(wrong));
        findings.dedup();
        Self { findings, layer2 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layer2.is_empty()
    }

    /// As `herald history` takes them: addresses, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let addresses = self.layer2.iter().map(|holding| holding.address);
        addresses.filter(|address| seen.insert(*address)).map(|address| address.to_string()).collect()
    }

    pub(super) fn sheet(&self) -> Sheet {
        let addresses: BTreeSet<IpAddr> = self.layer2.iter().map(|holding| holding.address).collect();
        let wrong = self.layer2.iter().filter(|holding| holding.state != State::Ok);
        let wrong: BTreeSet<IpAddr> = wrong.map(|holding| holding.address).collect();
        let all = addresses.len();
        let headline = match wrong.len() {
            _ if all == 0 => {
                "no address is announced by ARP or NDP from a node whose speaker answers".to_owned()
            }
            0 => format!("all is well with {} announced by ARP or NDP", counted(all, "address", "addresses")),
            wrong => {
                let all = counted(all, "address", "addresses");
                format!("{wrong} of {all} announced by ARP or NDP in trouble")
            }
        };
        let row = |holding: &Holding| Row {
            wrong: holding.state != State::Ok,
            cells: vec![
                holding.address.to_string(),
                if holding.services.is_empty() { "-".to_owned() } else { holding.services.join(", ") },
                holding.state.words().to_owned(),
                dash(holding.owner.as_ref()),
                dash(holding.interface.as_ref()),
                dash(holding.mac.as_ref()),
                dash(holding.seconds.map(span)),
                match (&holding.next, holding.state) {
                    (None, State::Ok | State::Contested) => "nobody".to_owned(),
                    (next, _) => dash(next.as_ref()),
                },
                dash(holding.claim),
            ],
        };
        let grid = Grid {
            heading: &[
                "Addresses",
                "Service",
                "state",
                "owner",
                "on",
                "MAC",
                "owned for",
                "next owner",
                "claim",
            ],
            wide: 1,
            rows: self.layer2.iter().map(row).collect(),
            shown: None,
        };
        Sheet { headline, findings: self.findings.clone(), grids: vec![grid], foot: Vec::new() }
    }
}

fn wrong(holding: &Holding) -> Option<Finding> {
    let Holding { address, services, owner, .. } = holding;
    let of = if services.is_empty() { String::new() } else { format!(" of {}", services.join(", ")) };
    let history = format!("herald history {address}");
    match (holding.state, owner) {
        (State::Ok, _) => None,
        // Whose speaker is silent is told already.
        (State::OwnerSilent, _) => None,
        (State::Contested, _) => {
            Some(finding(format!("{address}{of} is claimed by two nodes that hear each other"), history))
        }
        (State::Nobody, _) => {
            Some(finding(format!("{address}{of} is owned by nobody on its segment"), history))
        }
    }
}

fn holdings(facts: &Facts) -> Vec<Holding> {
    let answers = || facts.announced.values().filter_map(|answer| answer.as_ref().ok());
    let interfaces = || {
        answers().flat_map(|answer: &AnnouncedAnswer| {
            answer.interfaces.iter().map(|on| (answer.node.as_str(), on))
        })
    };
    let mut owners: BTreeMap<IpAddr, Vec<(&str, &InterfaceAnswer)>> = BTreeMap::new();
    for (node, on) in interfaces() {
        for owned in &on.owned {
            owners.entry(owned.address).or_default().push((node, on));
        }
    }
    let mut all = Vec::new();
    for (node, on) in interfaces() {
        for owned in &on.owned {
            let hears = |other: &&(&str, &InterfaceAnswer)| on.hears.iter().any(|heard| heard == other.0);
            let contested = owners[&owned.address].iter().any(|other| hears(&other) && other.0 != node);
            all.push(Holding {
                address: owned.address,
                services: Vec::new(),
                state: if contested { State::Contested } else { State::Ok },
                owner: Some(node.to_owned()),
                interface: Some(on.interface.clone()),
                mac: Some(on.mac.clone()),
                next: owned.next.clone(),
                seconds: owned.seconds,
                claim: owned.claim,
            });
        }
    }
    // What nobody who answers owns: as the others see it.
    let mut rest: BTreeMap<(IpAddr, Option<&str>), State> = BTreeMap::new();
    for (_, on) in interfaces() {
        for (owner, addresses) in &on.others {
            if answers().any(|answer| answer.node == *owner) {
                continue;
            }
            rest.extend(
                addresses.iter().map(|address| ((*address, Some(owner.as_str())), State::OwnerSilent)),
            );
        }
        let nobodys = on.nobodys.iter().filter(|address| !owners.contains_key(address));
        rest.extend(nobodys.map(|address| ((*address, None), State::Nobody)));
    }
    all.extend(rest.into_iter().map(|((address, owner), state)| Holding {
        address,
        services: Vec::new(),
        state,
        owner: owner.map(str::to_owned),
        interface: None,
        mac: None,
        next: None,
        seconds: None,
        claim: None,
    }));
    all.sort_by(|a, b| (a.state, a.address, &a.owner).cmp(&(b.state, b.address, &b.owner)));
    all
}

#[cfg(test)]
pub(super) mod tests {
    use herald_speaker::explain::OwnedAnswer;

    use super::super::facts::tests::{ip, node};
    use super::super::services::tests::{announced, shop};
    use super::*;
    use crate::testing::{documented, golden};

    /// One is owned, one by a node that is silent, one by nobody, and one by two.
    pub(in crate::cluster) fn four() -> Facts {
        let mut facts = shop();
        announced(&mut facts);
        facts.nodes.push(node(3));
        facts.announced.insert("node-3".to_owned(), Err("it does not answer in time".to_owned().into()));
        let both = |seconds| OwnedAnswer { address: ip("192.0.2.8"), claim: Some(1), next: None, seconds };
        let on = |facts: &mut Facts, node: &str, change: fn(&mut InterfaceAnswer)| {
            if let Some(Ok(answer)) = facts.announced.get_mut(node) {
                change(&mut answer.interfaces[0]);
            }
        };
        on(&mut facts, "node-2", |on| {
            on.others.insert("node-3".to_owned(), vec!["192.0.2.6".parse().unwrap()]);
            on.nobodys = vec!["192.0.2.7".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        });
        for (node, owned) in [("node-1", both(Some(12))), ("node-2", both(None))] {
            if let Some(Ok(answer)) = facts.announced.get_mut(node) {
                answer.interfaces[0].owned.push(owned);
            }
        }
        facts
    }

    #[test]
    fn the_screens_are_as_in_their_golden_file() {
        let layer2 = Layer2::of(&four(), |_, _| true);
        let explained = include_str!("../../../docs/explain.md");
        documented(explained, &format!("$ herald status layer2\n{}", layer2.sheet().text(false, false)));
        assert_eq!(layer2.names(), ["192.0.2.8", "192.0.2.7", "192.0.2.6", "192.0.2.2"]);
        let mut well = shop();
        announced(&mut well);
        let by_name = Layer2::of(&well, |_, services| services.iter().any(|name| name == "shop/dns"));
        golden(
            "status-layer2.txt",
            &format!(
                "$ herald status layer2\n{}\n$ herald status layer2 shop/dns -o wide\n{}",
                layer2.sheet().text(false, false),
                by_name.sheet().text(true, false)
            ),
        );
    }

    #[test]
    fn owners_on_segments_that_do_not_hear_each_other_are_no_conflict() {
        let mut facts = four();
        for answer in facts.announced.values_mut().flatten() {
            answer.interfaces[0].hears.clear();
        }
        let layer2 = Layer2::of(&facts, |address, _| address == ip("192.0.2.8"));
        let states: Vec<State> = layer2.layer2.iter().map(|holding| holding.state).collect();
        assert_eq!(states, [State::Ok, State::Ok]);
    }
}
