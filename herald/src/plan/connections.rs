//! Which connections that are under way would break: of an address that goes all; of one that stays by the way that its packets take then.
//!
//! TCP goes on with the node that knows it, wherever its packets come to, by BGP as by layer 2 (docs/ruleset.md, hand-over): so it ends where they
//! come to no node at all, and where that node has no rules of Herald's. UDP may come to another endpoint. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use herald_speaker::explain::{cells, table};
use herald_speaker::forecast::{Forecast, OwnerRow, Then, WayRow};
use serde::Serialize;

use super::{ROWS, and_more, named, some};

/// What becomes of connections, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fate {
    /// All of them end.
    End,
    /// Some do, by the router's choice or the moment.
    SomeEnd,
    /// Those of TCP go on.
    GoOn,
}

/// Connections of which the same becomes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connections {
    fate: Fate,
    /// `bgp`, `layer2`, `pods`, or nothing where the address itself goes.
    by: Option<&'static str>,
    /// The neighbours that send them, by BGP; the node of the pods.
    through: Vec<String>,
    /// In words.
    text: String,
    addresses: Vec<IpAddr>,
    services: BTreeSet<String>,
}

/// What it is judged by.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    /// Addresses that their Services would lose.
    pub(super) gone: BTreeSet<IpAddr>,
    /// The Services of each address.
    pub(super) services: &'a BTreeMap<IpAddr, BTreeSet<String>>,
    /// The node whose pods are evicted, and the Services that have some of them.
    pub(super) evicted: Option<(&'a str, BTreeSet<String>)>,
    /// Nodes that hand nothing over, for Herald has no rules there.
    pub(super) without_proxy: &'a BTreeSet<String>,
}

/// All rows, the worst first.
pub(super) fn connections(forecast: &Forecast, ground: &Ground<'_>) -> Vec<Connections> {
    type Key = (Fate, Option<&'static str>, Vec<String>, String);
    let mut told: BTreeMap<(Fate, Option<&'static str>, String, IpAddr), Vec<String>> = BTreeMap::new();
    for address in &ground.gone {
        let text = "all end: their Service has the address no more".to_owned();
        told.insert((Fate::End, None, text, *address), Vec::new());
    }
    for way in forecast.ways.iter().filter(|way| !ground.gone.contains(&way.address)) {
        if let Some((fate, text)) = by_bgp(way, ground.without_proxy) {
            told.entry((fate, Some("bgp"), text, way.address)).or_default().push(way.peer.clone());
        }
    }
    for row in forecast.owners.iter().filter(|row| !ground.gone.contains(&row.address)) {
        if let Some((fate, text)) = by_layer2(row, ground.without_proxy) {
            told.insert((fate, Some("layer2"), text, row.address), Vec::new());
        }
    }
    let mut alike: BTreeMap<Key, Vec<IpAddr>> = BTreeMap::new();
    for ((fate, by, text, address), peers) in told {
        alike.entry((fate, by, peers, text)).or_default().push(address);
    }
    let row = |((fate, by, through, text), addresses): (Key, Vec<IpAddr>)| {
        let services = addresses.iter().filter_map(|address| ground.services.get(address)).flatten().cloned();
        Connections { services: services.collect(), fate, by, through, text, addresses }
    };
    let evicted = ground.evicted.iter().filter(|(_, services)| !services.is_empty());
    let evicted = evicted.map(|(node, services)| Connections {
        fate: Fate::SomeEnd,
        by: Some("pods"),
        through: vec![(*node).to_owned()],
        text: "end with their pods".to_owned(),
        addresses: Vec::new(),
        services: services.clone(),
    });
    let mut rows: Vec<Connections> = alike.into_iter().map(row).chain(evicted).collect();
    rows.sort_by_key(|row| row.fate);
    rows
}

/// How they go on.
const HANDED_OVER: &str = "for as long as its kernel runs, UDP may come to another endpoint";

/// `None`: there are none.
fn by_bgp(way: &WayRow, without_proxy: &BTreeSet<String>) -> Option<(Fate, String)> {
    let WayRow { stays, restarts, lost, gained, .. } = way;
    let now = stays + restarts.len() + lost.len();
    let then = stays + restarts.len() + gained.len();
    let moved: Vec<String> = lost.iter().chain(restarts).cloned().collect();
    let bare: Vec<String> = moved.iter().filter(|node| without_proxy.contains(*node)).cloned().collect();
    let told = match () {
        () if now == 0 => return None,
        () if then == 0 => (Fate::End, "all end: no node tells it the address any more".to_owned()),
        () if !bare.is_empty() => (
            Fate::SomeEnd,
            format!(
                "those through {} end when they are used next: Herald has no rules there to hand them over",
                some(&bare)
            ),
        ),
        () if *stays == 0 && gained.is_empty() => (
            Fate::SomeEnd,
            format!(
                "wait until a session of {} is up again, some seconds, in which no new one is made; then TCP goes on",
                some(restarts)
            ),
        ),
        () if !moved.is_empty() => (
            Fate::GoOn,
            format!("come to other nodes: TCP that {} has goes on through it {HANDED_OVER}", some(&moved)),
        ),
        () => (
            Fate::GoOn,
            format!(
                "are spread over {then} nodes in place of {now}: TCP goes on with the node that has it, UDP may come to another endpoint"
            ),
        ),
    };
    Some(told)
}

/// `None`: there are none, or they stay where they are.
fn by_layer2(row: &OwnerRow, without_proxy: &BTreeSet<String>) -> Option<(Fate, String)> {
    let owners = match &row.now {
        Some(owners) if owners.is_empty() => return None,
        Some(owners) => some(owners),
        None => "their owner".to_owned(),
    };
    let to = match &row.then {
        Then::Nobody => return Some((Fate::End, "all end: no node may own the address".to_owned())),
        Then::Node(node) => node.clone(),
        Then::OneOf(nodes) => format!("one of {nodes} nodes"),
    };
    let by_another = row.now.iter().flatten().any(|owner| without_proxy.contains(owner));
    if by_another {
        let text =
            format!("go from {owners} to {to}, and end: Herald has no rules on {owners} to hand them over");
        return Some((Fate::End, text));
    }
    let text = format!("go from {owners} to {to}: TCP goes on through {owners} {HANDED_OVER}");
    Some((Fate::GoOn, text))
}

/// As a table; a sentence where there is nothing to tell.
pub(super) struct Screen<'a>(pub(super) &'a [Connections]);

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return writeln!(f, "\nno connection that is under way would end by it");
        }
        let row = |row: &Connections| {
            let by = match row.by {
                Some("pods") => format!("pods on {}", some(&row.through)),
                Some("layer2") => "layer 2".to_owned(),
                Some(_) => format!("BGP, {}", named(&row.through, "peers")),
                None => "any way".to_owned(),
            };
            vec![to(row), by, row.text.clone()]
        };
        let rows: Vec<_> = self.0.iter().take(ROWS).map(row).collect();
        table(f, &cells(["Connections to", "by", "under way"]), &rows)?;
        if self.0.len() > ROWS {
            writeln!(f, "and {} more (-o json has all)", self.0.len() - ROWS)?;
        }
        Ok(())
    }
}

/// `192.0.2.1, 192.0.2.2 (shop/web)`
fn to(row: &Connections) -> String {
    let services: Vec<String> = row.services.iter().cloned().collect();
    let services = and_more(&services);
    let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
    match (addresses.is_empty(), services.is_empty()) {
        (true, _) => services,
        (_, true) => and_more(&addresses),
        _ => format!("{} ({services})", and_more(&addresses)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn way(stays: usize, restarts: &[&str], lost: &[&str], gained: &[&str]) -> WayRow {
        let (address, peer) = ("192.0.2.1".parse().unwrap(), "10.0.0.1:179".to_owned());
        WayRow { address, peer, stays, restarts: nodes(restarts), lost: nodes(lost), gained: nodes(gained) }
    }

    #[test]
    fn by_bgp_tcp_ends_where_its_packets_come_to_no_node_or_nobody_hands_it_over() {
        let bare = BTreeSet::from(["bare".to_owned()]);
        for (way, expected) in [
            (way(0, &[], &[], &["a"]), None),
            (way(0, &[], &["a"], &[]), Some((Fate::End, "no node tells it"))),
            (way(0, &[], &["a"], &["b"]), Some((Fate::GoOn, "TCP that a has goes on"))),
            (way(1, &[], &["a"], &[]), Some((Fate::GoOn, "TCP that a has goes on"))),
            (way(1, &["b"], &["a"], &[]), Some((Fate::GoOn, "TCP that a, b has goes on"))),
            (way(1, &[], &["bare", "a"], &[]), Some((Fate::SomeEnd, "those through bare end"))),
            (way(2, &[], &[], &["a"]), Some((Fate::GoOn, "over 3 nodes in place of 2"))),
            (way(0, &["a"], &[], &[]), Some((Fate::SomeEnd, "wait until a session of a is up again"))),
            (
                way(0, &["a", "b"], &["c"], &[]),
                Some((Fate::SomeEnd, "wait until a session of a, b is up again")),
            ),
            (way(1, &["a"], &[], &[]), Some((Fate::GoOn, "TCP that a has goes on"))),
        ] {
            let told = by_bgp(&way, &bare);
            assert_eq!(told.as_ref().map(|(fate, _)| *fate), expected.map(|(fate, _)| fate), "{way:?}");
            let (text, part) = (told.unzip().1.unwrap_or_default(), expected.unzip().1.unwrap_or_default());
            assert!(text.contains(part), "{way:?}: {text}");
        }
    }

    #[test]
    fn by_layer_2_tcp_goes_on_through_the_former_owner_where_that_has_rules() {
        let row = |now: Option<&[&str]>, then| OwnerRow {
            address: "192.0.2.1".parse().unwrap(),
            now: now.map(nodes),
            then,
        };
        let bare = BTreeSet::from(["bare".to_owned()]);
        for (row, expected) in [
            (row(Some(&[]), Then::Node("a".to_owned())), None),
            (row(Some(&["a"]), Then::Nobody), Some(Fate::End)),
            (row(None, Then::Nobody), Some(Fate::End)),
            (row(Some(&["a"]), Then::Node("b".to_owned())), Some(Fate::GoOn)),
            (row(Some(&["a", "b"]), Then::OneOf(3)), Some(Fate::GoOn)),
            (row(None, Then::OneOf(3)), Some(Fate::GoOn)),
            (row(Some(&["bare"]), Then::Node("b".to_owned())), Some(Fate::End)),
        ] {
            assert_eq!(by_layer2(&row, &bare).map(|(fate, _)| fate), expected, "{row:?}");
        }
    }

    #[test]
    fn an_address_that_goes_is_told_once_and_alike_ones_together() {
        let other = WayRow { address: "192.0.2.2".parse().unwrap(), ..way(1, &[], &["a"], &[]) };
        let third = WayRow { address: "192.0.2.3".parse().unwrap(), ..way(1, &[], &["a"], &[]) };
        let forecast = Forecast { ways: vec![way(0, &[], &["a"], &[]), other, third], ..Forecast::default() };
        let web = BTreeSet::from(["shop/web".to_owned()]);
        let services = BTreeMap::from([("192.0.2.2".parse().unwrap(), web)]);
        let (gone, without_proxy) = (["192.0.2.1".parse().unwrap()].into(), BTreeSet::new());
        let rows = connections(
            &forecast,
            &Ground {
                gone,
                services: &services,
                evicted: Some(("a", BTreeSet::from(["shop/web".to_owned()]))),
                without_proxy: &without_proxy,
            },
        );
        let told: Vec<(Fate, String)> = rows.iter().map(|row| (row.fate, to(row))).collect();
        assert_eq!(
            told,
            [
                (Fate::End, "192.0.2.1".to_owned()),
                (Fate::SomeEnd, "shop/web".to_owned()),
                (Fate::GoOn, "192.0.2.2, 192.0.2.3 (shop/web)".to_owned()),
            ]
        );
    }
}
