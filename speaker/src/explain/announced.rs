//! How a node announces what it announces: the peers that are told of each address, and who owns what on its segments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::bgp::{PeerSettings, Seen, Told};
use crate::history::{Journal, What};
use crate::layer2::{PortView, View};

/// What a node announces, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedAnswer {
    /// Who answers.
    pub node: String,
    /// Load balancer addresses that peers are told of, by who those are.
    pub bgp: Vec<ToldAnswer>,
    /// The interfaces that addresses are announced on by layer 2.
    pub interfaces: Vec<InterfaceAnswer>,
}

/// Addresses that the same peers are told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldAnswer {
    /// Those whose sessions are up and that take routes of the family.
    pub peers: Vec<String>,
    /// The addresses, in order.
    pub addresses: Vec<IpAddr>,
}

/// One interface, and so one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceAnswer {
    /// Its name.
    pub interface: String,
    /// Its hardware address: what clients learn of the addresses that are owned here.
    pub mac: String,
    /// The nodes that are heard there.
    pub hears: Vec<String>,
    /// The addresses that this node answers for.
    pub owned: Vec<OwnedAnswer>,
    /// Addresses that this node offers as well, by who owns them.
    pub others: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses that this node offers, and nobody owns.
    pub nobodys: Vec<IpAddr>,
}

/// An address that a node owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedAnswer {
    /// It.
    pub address: IpAddr,
    /// The number of its claim.
    pub claim: Option<u32>,
    /// The node that would have it if this one went.
    pub next: Option<String>,
    /// So many seconds it has been so; `null`: longer than is remembered.
    pub seconds: Option<u64>,
}

/// Tells of a node. `announced`: the addresses that it announces by BGP.
pub(crate) fn announced<'s>(
    node: &str,
    addresses: BTreeSet<IpAddr>,
    (told, sessions): (&Told, impl Iterator<Item = (&'s PeerSettings, Seen)>),
    view: &View,
    (journal, now): (&Journal, Instant),
) -> AnnouncedAnswer {
    let ports = view.ports.iter();
    AnnouncedAnswer {
        node: node.to_owned(),
        bgp: told_to(addresses, told, sessions),
        interfaces: ports.map(|(name, port)| interface(name, port, journal, now)).collect(),
    }
}

fn told_to<'s>(
    addresses: BTreeSet<IpAddr>,
    told: &Told,
    sessions: impl Iterator<Item = (&'s PeerSettings, Seen)>,
) -> Vec<ToldAnswer> {
    let up = sessions.filter(|(_, seen)| seen.negotiated.is_some());
    let up: Vec<(IpAddr, String, [usize; 2])> =
        up.map(|(peer, seen)| (peer.peer.address, peer.to_string(), seen.routes)).collect();
    let mut hear: BTreeMap<IpAddr, BTreeSet<&str>> =
        addresses.into_iter().map(|address| (address, BTreeSet::new())).collect();
    for (prefix, _) in told.routes.iter() {
        let only = told.only.get(&prefix);
        let family = usize::from(prefix.network().is_ipv6());
        for (_, peers) in hear.range_mut(prefix.network()..=prefix.broadcast()) {
            let meant = up.iter().filter(|(peer, _, routes)| {
                routes[family] > 0 && only.is_none_or(|only| only.contains(peer))
            });
            peers.extend(meant.map(|(_, name, _)| name.as_str()));
        }
    }
    let mut by_peers: BTreeMap<BTreeSet<&str>, Vec<IpAddr>> = BTreeMap::new();
    for (address, peers) in hear {
        by_peers.entry(peers).or_default().push(address);
    }
    let answer = by_peers.into_iter().map(|(peers, addresses)| ToldAnswer {
        peers: peers.into_iter().map(str::to_owned).collect(),
        addresses,
    });
    answer.collect()
}

fn interface(name: &str, port: &PortView, journal: &Journal, now: Instant) -> InterfaceAnswer {
    let mut answer = InterfaceAnswer {
        interface: name.to_owned(),
        mac: port.mac.map(|octet| format!("{octet:02x}")).join(":"),
        hears: port.heard.iter().map(ToString::to_string).collect(),
        ..InterfaceAnswer::default()
    };
    for address in &port.owned {
        let standing = port.standings.get(address);
        let mut taken = journal.addresses.of(address).filter(|(_, happened)| {
            matches!(happened.what, What::Owned { .. }) && happened.on.as_deref() == Some(name)
        });
        let since = taken.by_ref().last().map(|(at, _)| now.saturating_duration_since(at).as_secs());
        answer.owned.push(OwnedAnswer {
            address: *address,
            claim: standing.and_then(|standing| standing.claim),
            next: standing.and_then(|standing| standing.next.as_deref()).map(str::to_owned),
            seconds: since,
        });
    }
    for (address, standing) in port.standings.iter().filter(|(address, _)| !port.owned.contains(address)) {
        match &standing.owner {
            Some(owner) => answer.others.entry(owner.to_string()).or_default().push(*address),
            None => answer.nobodys.push(*address),
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use herald_bgp::{Generation, Route};
    use ipnet::IpNet;

    use super::*;
    use crate::bgp::settings;
    use crate::history::{History, Why};
    use crate::layer2::Standing;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_comes_with_the_peers_that_are_up_and_told_of_it() {
        let peer = |last: u8, up: bool, routes| {
            let mut settings = settings("");
            settings.peer.address = [10, 0, 0, last].into();
            let negotiated = up.then(|| "AS 100".to_owned());
            (settings, Seen { negotiated, routes, ..Seen::default() })
        };
        let peers = [peer(1, true, [2, 1]), peer(2, true, [2, 0]), peer(3, false, [0, 0])];
        let prefix = |text: &str| text.parse::<IpNet>().unwrap();
        let routes = ["192.0.2.0/25", "192.0.2.1/32", "192.0.2.130/32", "2001:db8:1::1/128"];
        let only = BTreeMap::from([
            (prefix("192.0.2.0/25"), BTreeSet::from([ip("10.0.0.2")])),
            (prefix("192.0.2.130/32"), BTreeSet::from([ip("10.0.0.3")])),
        ]);
        let told = Told {
            generation: Generation::default(),
            at: Instant::now(),
            routes: Arc::new(routes.map(|text| Route::new(prefix(text))).into_iter().collect()),
            only: Arc::new(only),
            exports: Arc::default(),
        };
        let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.130", "2001:db8:1::1"].map(ip);
        let sessions = peers.iter().map(|(settings, seen)| (settings, seen.clone()));
        let answer = told_to(addresses.into(), &told, sessions);
        let lines: Vec<String> =
            answer.iter().map(|told| format!("{:?} {:?}", told.peers, told.addresses)).collect();
        let expected = [
            "[] [192.0.2.130]",
            r#"["10.0.0.1:179"] [2001:db8:1::1]"#,
            r#"["10.0.0.1:179", "10.0.0.2:179"] [192.0.2.1]"#,
            r#"["10.0.0.2:179"] [192.0.2.2]"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_interface_tells_what_is_owned_since_when_and_who_owns_the_rest() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let history = History::new(begin);
        let eth0 = Arc::from("eth0");
        let owned = || (What::Owned { claim: Some(3) }, Why::Unclaimed);
        history.segment(at(1), &eth0, ip("192.0.2.1"), owned());
        history.segment(at(5), &eth0, ip("192.0.2.1"), owned());
        history.segment(at(7), &Arc::from("eth1"), ip("192.0.2.1"), owned());
        let standing = |owner: Option<&str>, next: Option<&str>| Standing {
            owner: owner.map(Into::into),
            claim: owner.map(|_| 3),
            next: next.map(Into::into),
            ..Standing::default()
        };
        let port = PortView {
            mac: [2, 0, 0, 0, 0, 0x1f],
            owned: ["192.0.2.1", "192.0.2.2"].map(ip).into(),
            heard: ["node-2".into()].into(),
            standings: [
                (ip("192.0.2.1"), standing(Some("node-1"), Some("node-2"))),
                (ip("192.0.2.3"), standing(Some("node-2"), None)),
                (ip("192.0.2.4"), standing(None, None)),
            ]
            .into(),
            ..PortView::default()
        };
        let view = View { ports: [("eth0".to_owned(), port)].into(), ..View::default() };
        let none = Told {
            generation: Generation::default(),
            at: begin,
            routes: Arc::default(),
            only: Arc::default(),
            exports: Arc::default(),
        };
        let journal = history.journal();
        let answer =
            announced("node-1", BTreeSet::new(), (&none, std::iter::empty()), &view, (&journal, at(65)));
        let holds = |address: &str, claim, next: Option<&str>, seconds| OwnedAnswer {
            address: ip(address),
            claim,
            next: next.map(str::to_owned),
            seconds,
        };
        let expected = InterfaceAnswer {
            interface: "eth0".to_owned(),
            mac: "02:00:00:00:00:1f".to_owned(),
            hears: vec!["node-2".to_owned()],
            owned: vec![
                holds("192.0.2.1", Some(3), Some("node-2"), Some(60)),
                holds("192.0.2.2", None, None, None),
            ],
            others: [("node-2".to_owned(), vec![ip("192.0.2.3")])].into(),
            nobodys: vec![ip("192.0.2.4")],
        };
        assert_eq!(answer.interfaces, [expected]);
    }
}
