//! What other configuration does to sessions, routes and owners, as people read it.

use std::fmt;

use herald_speaker::explain::{cells, table};
use herald_speaker::forecast::{Became, Forecast, OwnerRow, RouteRow, SessionRow, Then, Turn};

use super::{ROWS, and_more, some};

/// After the addresses.
pub(super) struct Screen<'a>(pub(super) &'a Forecast);

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forecast { nodes, sessions, routes, owners, ways: _ } = self.0;
        writeln!(f, "\n{} (asked of {})", headline(self.0), count(*nodes, "node", "nodes"))?;
        rows(f, ["Session", "of", "routes", "becomes"], sessions, |row| {
            vec![row.peer.clone(), some(&row.nodes), row.routes.to_string(), became(row)]
        })?;
        told(f, routes)?;
        rows(f, ["Layer 2", "owner now", "then"], owners, |row| {
            let now = match &row.now {
                None => "not known".to_owned(),
                Some(owners) if owners.is_empty() => "nobody".to_owned(),
                Some(owners) => some(owners),
            };
            vec![row.address.to_string(), now, then(row)]
        })
    }
}

/// What becomes of routes.
pub(super) fn told(f: &mut fmt::Formatter<'_>, routes: &[RouteRow]) -> fmt::Result {
    rows(f, ["Route", "from", "to", "becomes"], routes, |row| {
        vec![prefixes(row), some(&row.nodes), some(&row.peers), turn(&row.turn)]
    })
}

fn rows<T, const N: usize>(
    f: &mut fmt::Formatter<'_>,
    heading: [&str; N],
    all: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    table(f, &cells(heading), &all.iter().take(ROWS).map(row).collect::<Vec<_>>())?;
    if all.len() > ROWS {
        writeln!(f, "and {} more (-o json has all)", all.len() - ROWS)?;
    }
    Ok(())
}

/// Each session and each route of a node counts.
fn headline(forecast: &Forecast) -> String {
    let Forecast { sessions, routes, owners, .. } = forecast;
    let of_routes = |is: fn(&Turn) -> bool| -> usize {
        let rows = routes.iter().filter(|row| is(&row.turn));
        rows.map(|row| row.prefixes.len() * row.nodes.len() * row.peers.len()).sum()
    };
    let of_sessions = |is: fn(&Became) -> bool| -> usize {
        sessions.iter().filter(|row| is(&row.became)).map(|row| row.nodes.len()).sum()
    };
    let told = [
        (
            of_sessions(|became| matches!(became, Became::Anew { .. })),
            "session begins anew",
            "sessions begin anew",
        ),
        (of_sessions(|became| *became == Became::Ends), "session ends", "sessions end"),
        (of_sessions(|became| *became == Became::Begins), "session begins", "sessions begin"),
        (of_routes(|turn| *turn == Turn::Goes), "route goes", "routes go"),
        (
            of_routes(|turn| matches!(turn, Turn::Says(_))),
            "route says something else",
            "routes say something else",
        ),
        (of_routes(|turn| *turn == Turn::Comes), "route comes", "routes come"),
        (
            owners.len(),
            "address of layer 2 gets another owner or none",
            "addresses of layer 2 get another owner or none",
        ),
    ];
    let told: Vec<String> = told
        .iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, one, many)| count(*number, one, many))
        .collect();
    match told.is_empty() {
        true => "no node would announce anything otherwise".to_owned(),
        false => told.join(", "),
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn became(row: &SessionRow) -> String {
    match &row.became {
        Became::Ends => "ends, and its routes go".to_owned(),
        Became::Begins => "begins".to_owned(),
        Became::Anew { because, keeps_routes } => {
            let then = match keeps_routes {
                true => "the router keeps the routes meanwhile, if it does graceful restart",
                false => "its routes go, and come when it is up again",
            };
            format!("begins anew ({}): {then}", because.join(", "))
        }
    }
}

fn prefixes(row: &RouteRow) -> String {
    let prefixes: Vec<String> = row.prefixes.iter().map(ToString::to_string).collect();
    and_more(&prefixes)
}

fn turn(turn: &Turn) -> String {
    match turn {
        Turn::Goes => "goes".to_owned(),
        Turn::Comes => "comes".to_owned(),
        Turn::Says(differences) => differences.join(", "),
    }
}

fn then(row: &OwnerRow) -> String {
    match &row.then {
        Then::Nobody => "nobody: no node may own it".to_owned(),
        Then::Node(node) => node.clone(),
        Then::OneOf(nodes) => format!("one of {}", count(*nodes, "node", "nodes")),
    }
}

#[cfg(test)]
mod tests {
    use herald_speaker::forecast::WayRow;

    use super::super::connections::{self, Ground, connections};
    use super::*;
    use crate::testing::golden;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn route(prefixes: &[&str], turn: Turn, nodes: &[&str], peers: &[&str]) -> RouteRow {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
        RouteRow { prefixes: prefixes.collect(), turn, nodes: names(nodes), peers: names(peers) }
    }

    fn session(peer: &str, became: Became, nodes: &[&str], routes: usize) -> SessionRow {
        SessionRow { peer: peer.to_owned(), became, nodes: names(nodes), routes }
    }

    fn way(address: &str, peer: &str, stays: usize, [restarts, lost, gained]: [&[&str]; 3]) -> WayRow {
        WayRow {
            address: address.parse().unwrap(),
            peer: peer.to_owned(),
            stays,
            restarts: names(restarts),
            lost: names(lost),
            gained: names(gained),
        }
    }

    fn owner(address: &str, now: Option<&[&str]>, then: Then) -> OwnerRow {
        OwnerRow { address: address.parse().unwrap(), now: now.map(names), then }
    }

    /// Three nodes with two routers: other timers of one, another aggregate and fewer nodes with the other, and a segment of two.
    fn much() -> Forecast {
        let (tor, spine) = ("10.0.0.1:179", "10.0.0.2:179");
        let anew = |keeps_routes| Became::Anew { because: names(&["hold time 90 s -> 9 s"]), keeps_routes };
        let all = ["node-1", "node-2", "node-3"];
        Forecast {
            nodes: 3,
            sessions: vec![
                session(tor, anew(false), &all, 12),
                session(spine, anew(true), &all[..2], 12),
                session(spine, Became::Ends, &all[2..], 12),
            ],
            routes: vec![
                route(&["192.0.2.1/32", "192.0.2.2/32"], Turn::Goes, &all[..1], &[spine]),
                route(
                    &["192.0.2.8/32", "192.0.2.9/32", "192.0.2.10/32", "192.0.2.11/32"],
                    Turn::Goes,
                    &all[..2],
                    &[spine],
                ),
                route(
                    &["192.0.2.3/32"],
                    Turn::Says(names(&["communities none -> 64600:7", "MED none -> 50"])),
                    &all,
                    &[tor, spine],
                ),
                route(&["192.0.2.0/24"], Turn::Comes, &all[..2], &[spine]),
            ],
            owners: vec![
                owner("198.51.100.1", Some(&["node-1"]), Then::Node("node-2".to_owned())),
                owner("198.51.100.2", Some(&["node-1"]), Then::Nobody),
                owner("198.51.100.3", Some(&[]), Then::Node("node-2".to_owned())),
                owner("198.51.100.4", None, Then::OneOf(2)),
            ],
            ways: vec![
                way("192.0.2.1", tor, 0, [&all, &[], &[]]),
                way("192.0.2.2", tor, 0, [&all[..1], &[], &[]]),
                way("192.0.2.1", spine, 2, [&[], &all[2..], &[]]),
                way("192.0.2.2", spine, 0, [&[], &all[2..], &[]]),
                way("192.0.2.4", spine, 2, [&[], &[], &all[2..]]),
            ],
        }
    }

    #[test]
    fn the_screen_is_as_its_golden_file() {
        let services = ["192.0.2.1 shop/web", "192.0.2.2 shop/local", "198.51.100.1 shop/lan"].map(|text| {
            let (address, service) = text.split_once(' ').unwrap();
            (address.parse().unwrap(), [service.to_owned()].into())
        });
        let gone = ["192.0.2.9".parse().unwrap()].into();
        let (services, none) = (services.into(), std::collections::BTreeSet::new());
        let ground = Ground { gone, services: &services, evicted: None, without_proxy: &none };
        let (much, nothing) = (much(), Forecast { nodes: 1, ..Forecast::default() });
        let text = format!(
            "$ herald plan -f peers.yaml\n{}{}\n$ herald plan -f same.yaml\n{}{}",
            Screen(&much),
            connections::Screen(&connections(&much, &ground)),
            Screen(&nothing),
            connections::Screen(&[])
        );
        golden("plan-announced.txt", &text);
    }
}
