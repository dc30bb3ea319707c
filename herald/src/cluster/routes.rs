//! `herald status routes` of a whole cluster: each route once, with the nodes that announce it. Pure.

use std::collections::BTreeMap;

use herald_speaker::explain::{Finding, MakerAnswer, RouteAnswer};
use ipnet::IpNet;
use serde::Serialize;

use super::facts::Facts;
use super::judge::silent;
use super::sheet::{Grid, Row, Sheet, counted, some};

/// Nodes that are named in a cell.
const NAMED: usize = 3;

/// All routes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Routes {
    findings: Vec<Finding>,
    /// In order of prefix.
    routes: Vec<Route>,
    /// Nodes that have more routes than they tell.
    cut: Vec<String>,
}

/// A route, and the nodes that announce it with the same attributes to the same peers.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    prefix: String,
    nodes: Vec<String>,
    communities: Vec<String>,
    local_pref: u32,
    /// The peers that are told; `null`: all.
    peers: Option<Vec<String>>,
    /// Whose addresses it is announced for; nobody's: it is a pod network.
    services: Vec<String>,
}

impl Routes {
    /// Of all nodes.
    pub(super) fn of(facts: &Facts) -> Self {
        let answers = || facts.routes.values().filter_map(|answer| answer.as_ref().ok());
        type Key = (Option<IpNet>, String, Vec<String>, u32, Option<Vec<String>>, Vec<String>);
        let mut routes: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for answer in answers() {
            for route in &answer.routes {
                let RouteAnswer { prefix, services, communities, local_pref, peers } = route;
                let services = services.iter().map(|maker: &MakerAnswer| maker.service.clone()).collect();
                let key = (
                    prefix.parse().ok(),
                    prefix.clone(),
                    communities.clone(),
                    *local_pref,
                    peers.clone(),
                    services,
                );
                routes.entry(key).or_default().push(answer.node.clone());
            }
        }
        let routes =
            routes.into_iter().map(|((_, prefix, communities, local_pref, peers, services), nodes)| Route {
                prefix,
                nodes,
                communities,
                local_pref,
                peers,
                services,
            });
        let cut = answers().filter(|answer| answer.total > answer.routes.len());
        Self {
            findings: silent(facts, &facts.routes),
            routes: routes.collect(),
            cut: cut.map(|answer| answer.node.clone()).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Each prefix once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.routes.iter().map(|route| route.prefix.clone()).collect();
        names.dedup();
        names
    }

    pub(super) fn sheet(&self) -> Sheet {
        let headline = match self.routes.len() {
            0 => "nothing is announced by BGP from a node that answers: herald explain service NAMESPACE/NAME tells why not".to_owned(),
            all => counted(all, "route", "routes"),
        };
        let row = |route: &Route| Row {
            wrong: false,
            cells: vec![
                route.prefix.clone(),
                some(&route.nodes, NAMED),
                if route.communities.is_empty() { "-".to_owned() } else { route.communities.join(" ") },
                route.local_pref.to_string(),
                route.peers.as_ref().map_or_else(|| "all".to_owned(), |peers| peers.join(", ")),
                match route.services.len() {
                    0 => "pods".to_owned(),
                    1..=NAMED => route.services.join(", "),
                    many => format!("{many} Services"),
                },
            ],
        };
        let grid = Grid {
            heading: &["Prefix", "from", "communities", "preference", "peers", "for"],
            wide: 0,
            rows: self.routes.iter().map(row).collect(),
            shown: None,
        };
        let cut = some(&self.cut, NAMED);
        let foot = (!self.cut.is_empty())
            .then(|| format!("More routes than are told here are announced from {cut}"));
        Sheet {
            headline,
            findings: self.findings.clone(),
            grids: vec![grid],
            foot: foot.into_iter().collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use herald_speaker::explain::RoutesAnswer;

    use super::super::facts::tests::facts;
    use super::*;
    use crate::testing::golden;

    /// Two nodes that announce one route alike, and one each for itself.
    pub(in crate::cluster) fn two() -> Facts {
        let route = |prefix: &str, service: &str| RouteAnswer {
            prefix: prefix.to_owned(),
            services: vec![MakerAnswer {
                service: service.to_owned(),
                addresses: vec!["192.0.2.1".to_owned()],
                pools: vec!["edge".to_owned()],
            }],
            communities: Vec::new(),
            local_pref: 0,
            peers: None,
        };
        let pods = |number: u8| RouteAnswer {
            prefix: format!("10.244.{number}.0/24"),
            services: Vec::new(),
            ..route("", "")
        };
        let only = RouteAnswer {
            communities: vec!["64600:7".to_owned(), "large:64600:1:2".to_owned()],
            peers: Some(vec!["10.0.0.1".to_owned()]),
            ..route("192.0.2.2/32", "shop/local")
        };
        let answer = |number: u8, routes: Vec<RouteAnswer>, total| {
            let node = format!("node-{number}");
            (node.clone(), Ok(RoutesAnswer { node, drained: false, total, routes }))
        };
        let web = || route("192.0.2.1/32", "shop/web");
        let mut facts = facts(&[], &[]);
        facts.routes =
            [answer(1, vec![pods(1), web()], 2), answer(2, vec![pods(2), web(), only], 1004)].into();
        facts
    }

    #[test]
    fn the_screen_is_as_in_its_golden_file() {
        let routes = Routes::of(&two());
        assert_eq!(routes.names().len(), 4);
        let text = routes.sheet().text(false, false);
        golden("status-routes.txt", &format!("$ herald status routes --kubeconfig admin.conf\n{text}"));
    }
}
