//! What one node is and does, in short: its part of `herald status`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use herald_runtime::ObjectName;
use herald_runtime::memory::Memory;
use serde::{Deserialize, Serialize};

use super::availability::{AvailabilityAnswer, availability};
use crate::availability::Seen;
use crate::bgp::{PeerSettings, Seen as Session};
use crate::conntrack::Room;
use crate::reason::Reason;
use crate::told::{PROTOCOLS, State};

/// So many Services are named in a sentence.
const NAMED: usize = 3;

/// A node, as its speaker sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAnswer {
    /// Who answers.
    pub node: String,
    /// Of the speaker.
    pub version: String,
    /// `full`, `external` or `off`.
    pub proxy: String,
    /// Its rules are in the kernel; `null`: it is too old to say.
    #[serde(default)]
    pub programmed: Option<bool>,
    /// So many seconds the oldest change has waited for the kernel; 0: none waits. `null`: it has no proxy, or is too old to say.
    #[serde(default)]
    pub behind_seconds: Option<u64>,
    /// So many seconds ago the speaker began; `null`: it is too old to say.
    #[serde(default)]
    pub up_seconds: Option<u64>,
    /// How many BGP sessions are up.
    pub sessions_up: usize,
    /// How many there are to be.
    pub sessions: usize,
    /// What is wrong here, the worst first.
    pub findings: Vec<Finding>,
    /// Of each load balancer address what becomes of it here: `bgp`, `layer2` or both with a `+`, or the one word why it is not announced.
    pub addresses: BTreeMap<IpAddr, String>,
    /// What its probes of addresses say; `null`: it makes none.
    #[serde(default)]
    pub availability: Option<AvailabilityAnswer>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What, where and why.
    pub text: String,
    /// What to type next.
    pub next: Option<String>,
}

/// What a node's own part is made of.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Since it began.
    pub(crate) up: Duration,
    /// How long the oldest change has waited for the kernel.
    pub(crate) behind: Option<Duration>,
    /// `--proxy`.
    pub(crate) proxy: String,
    /// Its rules are in the kernel.
    pub(crate) programmed: bool,
    /// Others edit its tables so often that repairs are held back.
    pub(crate) contested: bool,
    /// Why nothing is announced from it.
    pub(crate) refusal: Option<Reason>,
    /// What keeps it from passing packets on, and what that is set by.
    pub(crate) forwarding: Option<String>,
    /// Its connection table.
    pub(crate) conntrack: Option<Room>,
    /// What the speaker's container holds.
    pub(crate) memory: Option<Memory>,
    /// It is being drained.
    pub(crate) drained: bool,
    /// A snapshot stands in for lists that have not come.
    pub(crate) remembered: bool,
    /// Services whose rules the kernel refused, and what it said.
    pub(crate) failed: Vec<(&'a ObjectName, &'a str)>,
    /// Services whose last good endpoints are used on.
    pub(crate) held: usize,
    /// Nodes that have fallen silent.
    pub(crate) silent: &'a BTreeSet<Box<str>>,
    /// How often it probes addresses, and what it has seen.
    pub(crate) probes: Option<(Duration, BTreeMap<IpAddr, Seen>)>,
}

/// Tells of a node.
pub(crate) fn overview<'s>(
    node: &Node<'_>,
    sessions: impl Iterator<Item = (&'s PeerSettings, Session)>,
    states: impl Iterator<Item = (IpAddr, State)>,
) -> NodeAnswer {
    let sessions: Vec<_> = sessions.collect();
    let up = sessions.iter().filter(|(_, seen)| seen.negotiated.is_some()).count();
    let mut findings = own(node);
    let probes = node.probes.as_ref().map(|(interval, seen)| availability(*interval, seen));
    let (availability, unanswered) = probes.unzip();
    findings.extend(unanswered.into_iter().flatten());
    let down = sessions.iter().filter(|(_, seen)| seen.negotiated.is_none());
    findings.extend(down.map(|(peer, seen)| session(node.name, peer, seen)));
    let mut addresses = BTreeMap::new();
    for (address, state) in states {
        let said = word(state);
        // Of two Services that share it one may be announced.
        let entry = addresses.entry(address).or_insert_with(|| said.clone());
        if state.by.contains(&true) {
            *entry = said;
        }
    }
    NodeAnswer {
        node: node.name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proxy: node.proxy.clone(),
        programmed: Some(node.programmed),
        behind_seconds: node.behind.map(|behind| behind.as_secs()),
        up_seconds: Some(node.up.as_secs()),
        sessions_up: up,
        sessions: sessions.len(),
        findings,
        addresses,
        availability,
    }
}

pub(super) fn word(state: State) -> String {
    let by = PROTOCOLS.into_iter().zip(state.by).filter(|(_, by)| *by).map(|(protocol, _)| protocol);
    let by = by.collect::<Vec<_>>().join("+");
    if by.is_empty() { state.reason.map_or("unknown", |reason| reason.word()).to_owned() } else { by }
}

fn own(node: &Node<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |text: String, next: Option<String>| findings.push(Finding { text, next });
    if !node.programmed {
        found("its rules are not in the kernel, so nothing is announced from it".to_owned(), log(node.name));
    }
    // That a node is kept out by its label or cordoned is what somebody wants.
    if let Some(reason) = node.refusal.filter(|reason| !reason.is_leaving()) {
        let text = format!("nothing is announced from it: {}", reason.sentence());
        found(text, reason.remedy().map(str::to_owned));
    }
    if let Some(text) = &node.forwarding {
        found(text.clone(), Some(format!("herald doctor node on {}: who sets it?", node.name)));
    }
    if let Some(text) = node.conntrack.and_then(Room::trouble) {
        found(
            text,
            Some(format!("conntrack -S and conntrack -L -o extended on {}: who opens them?", node.name)),
        );
    }
    if let Some(text) = node.memory.and_then(Memory::trouble) {
        let advice = "raise resources.limits.memory of the speakers' DaemonSet, or take it away";
        found(text, Some(advice.to_owned()));
    }
    if node.contested {
        let text = "others edit Herald's nftables tables again and again, and repairs are held back";
        found(text.to_owned(), Some(format!("nft monitor on {}: who is it?", node.name)));
    }
    if let Some((service, error)) = node.failed.first() {
        let names: Vec<String> =
            node.failed.iter().take(NAMED).map(|(service, _)| service.to_string()).collect();
        let more = if node.failed.len() > NAMED { ", …" } else { "" };
        let text = format!(
            "the kernel refuses the rules of {} Services ({}{more}): {error}",
            node.failed.len(),
            names.join(", ")
        );
        found(text, Some(format!("herald explain service {service} --node {}", node.name)));
    }
    if node.remembered {
        let text = "it goes on with a snapshot: it has not heard of the API server since it started";
        found(text.to_owned(), log(node.name));
    }
    if node.held > 0 {
        let text = format!(
            "{} Services use their last good endpoints, for those of many turned not ready at once",
            node.held
        );
        found(text, Some("kubectl get nodes".to_owned()));
    }
    for silent in node.silent {
        found(format!("it does not hear {silent}, whose endpoints it passes over"), None);
    }
    if node.drained {
        found("it is drained: its routes ask to be avoided, then they go".to_owned(), None);
    }
    findings
}

fn log(node: &str) -> Option<String> {
    Some(format!("the log of the speaker on {node}"))
}

fn session(node: &str, peer: &PeerSettings, seen: &Session) -> Finding {
    let latest = seen.ended.iter().flatten().max_by_key(|ended| ended.at);
    let why = latest.map_or_else(String::new, |ended| format!(": {}", ended.text));
    let advice = latest.and_then(|ended| ended.advice.clone()).map(|advice| format!("; {advice}"));
    let text = format!("the BGP session with {peer} is not up{why}{}", advice.unwrap_or_default());
    Finding { text, next: Some(format!("herald status bgp --node {node}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::{By, Ended, Seen, settings};

    fn node<'a>(failed: Vec<(&'a ObjectName, &'a str)>, silent: &'a BTreeSet<Box<str>>) -> Node<'a> {
        Node {
            name: "node-1",
            up: Duration::from_secs(60),
            behind: Some(Duration::ZERO),
            proxy: "full".to_owned(),
            programmed: true,
            contested: false,
            refusal: None,
            forwarding: None,
            conntrack: None,
            memory: None,
            drained: false,
            remembered: false,
            failed,
            held: 0,
            silent,
            probes: None,
        }
    }

    #[test]
    fn a_node_where_all_is_well_has_nothing_to_say() {
        let silent = BTreeSet::new();
        let up = Seen { negotiated: Some("IPv4".to_owned()), ..Seen::default() };
        let peer = settings("");
        let answer = overview(&node(Vec::new(), &silent), [(&peer, up)].into_iter(), std::iter::empty());
        assert_eq!((answer.sessions_up, answer.sessions), (1, 1));
        assert_eq!(answer.findings, []);
    }

    #[test]
    fn what_is_wrong_comes_with_the_reason_and_the_next_command() {
        let (silent, web) = (BTreeSet::from(["node-2".into()]), ObjectName::new("shop", "web"));
        let down = Node {
            programmed: false,
            contested: true,
            drained: true,
            remembered: true,
            held: 4,
            ..node(vec![(&web, "No space left on device")], &silent)
        };
        let ended = Ended {
            at: std::time::Instant::now(),
            text: "Connection refused".to_owned(),
            advice: Some("is BGP running there?".to_owned()),
        };
        let seen = Seen { ended: [None, None, Some(ended)], ..Seen::default() };
        assert_eq!(By::ALL.len(), seen.ended.len());
        let peer = settings("");
        let answer = overview(&down, [(&peer, seen)].into_iter(), std::iter::empty());
        let lines: Vec<String> = answer
            .findings
            .iter()
            .map(|finding| format!("{} -> {}", finding.text, finding.next.as_deref().unwrap_or("-")))
            .collect();
        let expected = [
            "its rules are not in the kernel, so nothing is announced from it -> the log of the speaker on node-1",
            "others edit Herald's nftables tables again and again, and repairs are held back -> nft monitor on node-1: who is it?",
            "the kernel refuses the rules of 1 Services (shop/web): No space left on device -> herald explain service shop/web --node node-1",
            "it goes on with a snapshot: it has not heard of the API server since it started -> the log of the speaker on node-1",
            "4 Services use their last good endpoints, for those of many turned not ready at once -> kubectl get nodes",
            "it does not hear node-2, whose endpoints it passes over -> -",
            "it is drained: its routes ask to be avoided, then they go -> -",
            "the BGP session with 10.0.0.1:179 is not up: Connection refused; is BGP running there? -> herald status bgp --node node-1",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_address_is_announced_if_one_of_those_that_share_it_is() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let skipped = State { by: [false, false], reason: Some(Reason::NoEndpoints) };
        let both = State { by: [true, true], reason: None };
        let bgp = State { by: [true, false], reason: None };
        let states = [(ip("192.0.2.1"), bgp), (ip("192.0.2.1"), skipped), (ip("192.0.2.2"), skipped)];
        let states = states.into_iter().chain([(ip("192.0.2.2"), both), (ip("192.0.2.3"), skipped)]);
        let silent = BTreeSet::new();
        let answer = overview(&node(Vec::new(), &silent), std::iter::empty(), states);
        let words: Vec<&str> = answer.addresses.values().map(String::as_str).collect();
        assert_eq!(words, ["bgp", "bgp+layer2", "noEndpoints"]);
    }
}
