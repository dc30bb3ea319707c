//! `herald status bgp` of a whole cluster: each session of each node. Pure.

use herald_speaker::explain::{Finding, PeerAnswer, span};
use serde::Serialize;

use super::facts::Facts;
use super::judge::{once, silent};
use super::sheet::{Grid, Row, Sheet, counted, dash};

/// All sessions.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bgp {
    findings: Vec<Finding>,
    /// Those that are not up first.
    sessions: Vec<Session>,
    /// Nodes that answer.
    #[serde(skip)]
    nodes: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    node: String,
    /// The node asks to be avoided, for it is drained.
    drained: bool,
    #[serde(flatten)]
    peer: PeerAnswer,
}

impl Session {
    fn up(&self) -> bool {
        self.peer.negotiated.is_some()
    }

    fn row(&self) -> Row {
        let Self { node, drained, peer } = self;
        let last = peer.failures.first();
        Row {
            wrong: !self.up(),
            cells: vec![
                node.clone(),
                peer.peer.clone(),
                peer.peer_as.map_or_else(|| "external".to_owned(), |asn| asn.to_string()),
                format!("{}{}", peer.state, if *drained { ", drained" } else { "" }),
                span(peer.seconds),
                peer.ipv4_routes.to_string(),
                peer.ipv6_routes.to_string(),
                dash(peer.bfd.as_ref()),
                dash(peer.name.as_ref()),
                peer.local_as.to_string(),
                dash(last.map(|end| format!("{} ago by {}: {}", span(end.seconds), end.by, end.text))),
            ],
        }
    }
}

impl Bgp {
    /// Of the nodes and peers that are wanted.
    pub(super) fn of(facts: &Facts) -> Self {
        let answers = || facts.bgp.values().filter_map(|answer| answer.as_ref().ok());
        let mut sessions: Vec<Session> = answers()
            .flat_map(|answer| {
                let session = |peer: &PeerAnswer| Session {
                    node: answer.node.clone(),
                    drained: answer.drained,
                    peer: peer.clone(),
                };
                answer.peers.iter().map(session)
            })
            .collect();
        sessions.sort_by(|a, b| (a.up(), &a.node, &a.peer.peer).cmp(&(b.up(), &b.node, &b.peer.peer)));
        let down = sessions.iter().filter(|session| !session.up()).map(|session| {
            let why = session.peer.failures.first().map_or_else(String::new, |end| {
                let advice = end.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
                format!(": {}{advice}", end.text)
            });
            let text = format!("the BGP session with {} is not up{why}", session.peer.peer);
            let next = Some(format!("herald status bgp --node {}", session.node));
            (Finding { text, next }, session.node.as_str())
        });
        let unusable = sessions.iter().filter(|session| session.peer.unusable_routes > 0).map(|session| {
            let text = format!(
                "{} cannot be sent to {}: no next hop of their family on this session, or too many attributes",
                counted(session.peer.unusable_routes, "route", "routes"),
                session.peer.peer
            );
            (Finding { text, next: Some(format!("herald status bgp --node {}", session.node)) }, session.node.as_str())
        });
        let mut findings = silent(facts, &facts.bgp);
        findings.extend(once(down.chain(unusable).collect()));
        Self { findings, nodes: answers().count(), sessions }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Each peer once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.sessions.iter().map(|session| session.peer.peer.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn sheet(&self) -> Sheet {
        let up = self.sessions.iter().filter(|session| session.up()).count();
        let headline = match self.sessions.len() {
            0 => format!(
                "no peer is configured for any of {} (nodeSelectors of the BGPPeers)",
                counted(self.nodes, "node that answers", "nodes that answer")
            ),
            all => format!(
                "{up} of {} up, on {}",
                counted(all, "BGP session", "BGP sessions"),
                counted(self.nodes, "node", "nodes")
            ),
        };
        let grid = Grid {
            heading: &[
                "Nodes",
                "peer",
                "AS",
                "state",
                "for",
                "IPv4 routes",
                "IPv6 routes",
                "BFD",
                "name",
                "our AS",
                "ended last",
            ],
            wide: 3,
            rows: self.sessions.iter().map(Session::row).collect(),
            shown: None,
        };
        Sheet { headline, findings: self.findings.clone(), grids: vec![grid], foot: Vec::new() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use herald_speaker::explain::{BgpAnswer, FailureAnswer};

    use super::super::facts::tests::facts;
    use super::*;
    use crate::testing::golden;

    /// Two nodes with two peers each, of which one is up nowhere.
    pub(in crate::cluster) fn four() -> Facts {
        let peer = |last: u8, up: bool| PeerAnswer {
            peer: format!("10.0.0.{last}:179"),
            name: Some(format!("tor-{last}")),
            local_as: 42,
            peer_as: Some(100),
            router_id: "10.0.0.11".to_owned(),
            state: if up { "Established" } else { "Connect" }.to_owned(),
            seconds: if up { 7_400 } else { 41 },
            negotiated: up.then(|| "AS 100 (external)".to_owned()),
            bfd: up.then(|| "fast".to_owned()),
            ipv4_routes: if up { 12 } else { 0 },
            ipv6_routes: if up { 3 } else { 0 },
            unusable_routes: 0,
            failures: (!up)
                .then(|| FailureAnswer {
                    by: "the path".to_owned(),
                    seconds: 3,
                    text: "connect failed: Connection refused".to_owned(),
                    advice: Some("is BGP running there?".to_owned()),
                })
                .into_iter()
                .collect(),
        };
        let answer = |node: &str| {
            let peers = vec![peer(1, true), peer(2, false)];
            (node.to_owned(), Ok(BgpAnswer { node: node.to_owned(), drained: false, peers }))
        };
        let mut facts = facts(&[], &[]);
        facts.bgp = [answer("node-1"), answer("node-2")].into();
        facts
    }

    #[test]
    fn the_screens_are_as_in_their_golden_file() {
        let bgp = Bgp::of(&four());
        assert_eq!(bgp.names(), ["10.0.0.1:179", "10.0.0.2:179"]);
        golden(
            "status-bgp.txt",
            &format!(
                "$ herald status bgp --kubeconfig admin.conf\n{}\n$ herald status bgp --kubeconfig admin.conf -o wide\n{}",
                bgp.sheet().text(false, false),
                bgp.sheet().text(true, false)
            ),
        );
    }
}
