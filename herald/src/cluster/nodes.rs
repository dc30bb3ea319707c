//! `herald status nodes`: each node, its speaker, its proxy and what it announces. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_speaker::explain::{Finding, NodeAnswer, span};
use serde::Serialize;

use super::facts::Facts;
use super::judge::of_nodes;
use super::sheet::{Grid, Row, Sheet, counted, dash};
use crate::speakers::NodeFact;

/// All nodes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Nodes {
    findings: Vec<Finding>,
    /// The wrong ones first.
    nodes: Vec<NodeState>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeState {
    node: String,
    /// `silent`: its speaker does not answer.
    state: State,
    /// The Node's condition.
    ready: bool,
    ip: Option<IpAddr>,
    /// Its speaker, if that is a pod.
    pod: Option<String>,
    /// `null` from here on: its speaker does not answer, or is too old to say.
    version: Option<String>,
    up_seconds: Option<u64>,
    proxy: Option<String>,
    /// Its rules are in the kernel.
    programmed: Option<bool>,
    /// So long the oldest change has waited for the kernel.
    behind_seconds: Option<u64>,
    sessions_up: usize,
    sessions: usize,
    /// Addresses that it announces by BGP, and those that it owns by layer 2.
    bgp: usize,
    layer2: usize,
    /// What is wrong, by its own account.
    findings: Vec<Finding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Silent,
    Trouble,
    Ok,
}

impl Nodes {
    /// Of the nodes that are wanted.
    pub(super) fn of(facts: &Facts, wanted: impl Fn(&str) -> bool) -> Self {
        let mut nodes: Vec<NodeState> =
            facts.nodes.iter().filter(|node| wanted(&node.name)).map(|node| state(facts, node)).collect();
        nodes.sort_by(|a, b| (a.state, &a.node).cmp(&(b.state, &b.node)));
        Self { findings: of_nodes(facts, &wanted), nodes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// As kubectl takes them.
    pub(super) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|state| format!("node/{}", state.node)).collect()
    }

    pub(super) fn sheet(&self) -> Sheet {
        let wrong = self.nodes.iter().filter(|state| state.state != State::Ok).count();
        let all = self.nodes.len();
        let mut headline = match wrong {
            _ if all == 0 => "there is no Node".to_owned(),
            0 => format!("all is well on {}", counted(all, "node", "nodes")),
            _ => format!("{wrong} of {} in trouble", counted(all, "node", "nodes")),
        };
        let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
        for version in self.nodes.iter().filter_map(|state| state.version.as_deref()) {
            *versions.entry(version).or_default() += 1;
        }
        if versions.len() > 1 {
            let versions = versions.iter().map(|(version, count)| format!("{version} on {count}"));
            headline +=
                &format!("; speakers of several versions: {}", versions.collect::<Vec<_>>().join(", "));
        }
        let grid = Grid {
            heading: &[
                "Nodes",
                "state",
                "speaker",
                "up for",
                "proxy",
                "rules",
                "sessions up",
                "by BGP",
                "by ARP or NDP",
                "address",
                "pod",
            ],
            wide: 2,
            rows: self.nodes.iter().map(NodeState::row).collect(),
            shown: None,
        };
        Sheet { headline, findings: self.findings.clone(), grids: vec![grid], foot: Vec::new() }
    }
}

impl NodeState {
    fn row(&self) -> Row {
        let mut state = match (self.state, self.findings.len()) {
            (State::Silent, _) => "no word from its speaker".to_owned(),
            (_, 0) => "ok".to_owned(),
            (_, count) => counted(count, "thing is wrong", "things are wrong"),
        };
        if !self.ready {
            state += ", Node not Ready";
        }
        let answers = self.state != State::Silent;
        let count = |count: usize| dash(answers.then_some(count));
        let rules = match (self.proxy.as_deref(), self.programmed, self.behind_seconds) {
            (Some("off"), ..) | (_, None, _) => None,
            (_, Some(false), _) => Some("not in the kernel".to_owned()),
            (_, Some(true), Some(behind)) if behind > 0 => Some(format!("{} behind", span(behind))),
            (_, Some(true), _) => Some("in step".to_owned()),
        };
        Row {
            wrong: self.state != State::Ok,
            cells: vec![
                self.node.clone(),
                state,
                dash(self.version.as_ref()),
                dash(self.up_seconds.map(span)),
                dash(self.proxy.as_ref()),
                dash(rules),
                dash(answers.then(|| format!("{}/{}", self.sessions_up, self.sessions))),
                count(self.bgp),
                count(self.layer2),
                dash(self.ip),
                dash(self.pod.as_ref()),
            ],
        }
    }
}

fn state(facts: &Facts, node: &NodeFact) -> NodeState {
    let answer = facts.answers.get(&node.name).and_then(|answer| answer.as_ref().ok());
    let state = match answer {
        None => State::Silent,
        Some(answer) if answer.findings.is_empty() && node.ready => State::Ok,
        Some(_) => State::Trouble,
    };
    let by = |answer: &NodeAnswer, protocol: &str| {
        answer.addresses.values().filter(|said| said.split('+').any(|word| word == protocol)).count()
    };
    NodeState {
        node: node.name.clone(),
        state,
        ready: node.ready,
        ip: node.ip,
        pod: node.pod.clone(),
        version: answer.map(|answer| answer.version.clone()),
        up_seconds: answer.and_then(|answer| answer.up_seconds),
        proxy: answer.map(|answer| answer.proxy.clone()),
        programmed: answer.and_then(|answer| answer.programmed),
        behind_seconds: answer.and_then(|answer| answer.behind_seconds),
        sessions_up: answer.map_or(0, |answer| answer.sessions_up),
        sessions: answer.map_or(0, |answer| answer.sessions),
        bgp: answer.filter(|answer| answer.sessions_up > 0).map_or(0, |answer| by(answer, "bgp")),
        layer2: answer.map_or(0, |answer| by(answer, "layer2")),
        findings: answer.map(|answer| answer.findings.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::tests::{facts, node};
    use super::*;
    use crate::testing::golden;

    /// One is well, one has no session and is behind, one is silent.
    pub(in crate::cluster) fn three() -> Facts {
        let mut facts = facts(
            &[("192.0.2.1", "bgp"), ("192.0.2.2", "layer2"), ("192.0.2.3", "noEndpoints")],
            &[("192.0.2.1", "bgp"), ("192.0.2.2", "notOwner")],
        );
        if let Some(Ok(answer)) = facts.answers.get_mut("node-2") {
            (answer.sessions_up, answer.behind_seconds, answer.up_seconds) = (0, Some(75), Some(40));
            answer.version = "0.2.0".to_owned();
            answer.findings.push(Finding {
                text: "the BGP session with 10.0.0.1:179 is not up: Connection refused".to_owned(),
                next: Some("herald status bgp --node node-2".to_owned()),
            });
        }
        facts.nodes.push(NodeFact { ready: false, ..node(3) });
        facts.answers.insert("node-3".to_owned(), Err("it does not answer in time".to_owned().into()));
        facts
    }

    #[test]
    fn the_screens_are_as_in_their_golden_file() {
        let facts = three();
        let narrow = Nodes::of(&facts, |_| true).sheet().text(false, false);
        let wide = Nodes::of(&facts, |_| true).sheet().text(true, false);
        let one = Nodes::of(&facts, |node| node == "node-1").sheet().text(false, false);
        golden(
            "status-nodes.txt",
            &format!(
                "$ herald status nodes\n{narrow}\n$ herald status nodes -o wide\n{wide}\n$ herald status nodes node-1\n{one}"
            ),
        );
    }

    #[test]
    fn an_older_speaker_that_does_not_tell_of_its_rules_is_not_said_to_have_none() {
        let mut facts = facts(&[], &[]);
        if let Some(Ok(answer)) = facts.answers.get_mut("node-1") {
            (answer.programmed, answer.behind_seconds, answer.up_seconds) = (None, None, None);
        }
        let nodes = Nodes::of(&facts, |node| node == "node-1");
        assert_eq!(nodes.names(), ["node/node-1"]);
        assert_eq!(nodes.nodes[0].row().cells[..6], ["node-1", "ok", "0.1.0", "-", "full", "-"]);
    }
}
