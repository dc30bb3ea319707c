//! The overview as people read it.

use super::facts::PoolFact;
use super::judge::{NodeRow, Overview, ServiceRow};
use super::sheet::{Grid, Row, Sheet, counted, dash, some};

/// Nodes that are named in a row.
const NAMED: usize = 3;
/// Rows of Services; `-o json` and the subject have all.
const ROWS: usize = 200;
/// Where speakers run without `--probe-addresses`.
const NOT_PROBED: &str = "Not probed: herald try NAMESPACE/NAME asks its endpoints from every node, herald doctor node looks at the node it is run on; \
                          --probe-addresses asks the addresses all the time.";

impl Overview {
    fn headline(&self) -> String {
        let with = self.services.iter().filter(|row| row.address.is_some()).count();
        let (up, all) =
            self.nodes.iter().fold((0, 0), |(up, all), row| (up + row.sessions_up, all + row.sessions));
        let answering = self.nodes.iter().filter(|row| row.version.is_some()).count();
        let sessions = if all > 0 { format!(", {up} of {all} BGP sessions up") } else { String::new() };
        let wrong = match (self.findings.len(), &self.availability) {
            (0, Some(_)) => "all is well".to_owned(),
            // What lies before the nodes and between them may still lose packets.
            (0, None) => "nothing is known to be wrong".to_owned(),
            (count, _) => counted(count, "thing is wrong", "things are wrong"),
        };
        let probes = self
            .availability
            .as_ref()
            .map_or_else(|| "addresses are not probed".to_owned(), ToString::to_string);
        format!(
            "{wrong}: {} of Services, {answering} of {} speakers answer{sessions}, {probes}",
            counted(with, "address", "addresses"),
            self.nodes.len()
        )
    }

    pub(super) fn sheet(&self) -> Sheet {
        let service = |row: &ServiceRow| {
            let address = row.address.map_or_else(|| "none yet".to_owned(), |address| address.to_string());
            let cells = vec![row.service.clone(), address, some(&row.bgp, NAMED), some(&row.layer2, NAMED)];
            Row { wrong: false, cells }
        };
        let services = Grid {
            heading: &["Services", "address", "by BGP from", "by ARP or NDP from"],
            rows: self.services.iter().map(service).collect(),
            shown: Some(ROWS),
            wide: 0,
        };
        let node = |row: &NodeRow| {
            let sessions = format!("{}/{}", row.sessions_up, row.sessions);
            let (version, proxy) = (dash(row.version.as_ref()), dash(row.proxy.as_ref()));
            let cells = vec![row.node.clone(), version, proxy, sessions, row.announces.to_string()];
            Row { wrong: row.version.is_none(), cells }
        };
        let nodes = Grid {
            heading: &["Nodes", "speaker", "proxy", "sessions up", "announces"],
            rows: self.nodes.iter().map(node).collect(),
            shown: Some(ROWS),
            wide: 0,
        };
        let pool = |pool: &PoolFact| {
            let cells = vec![pool.name.clone(), pool.assigned.to_string(), pool.available.to_string()];
            Row { wrong: pool.is_full(), cells }
        };
        let pools = Grid {
            heading: &["Pools", "in use", "free"],
            rows: self.pools.iter().filter(|pool| pool.is_counted()).map(pool).collect(),
            shown: Some(ROWS),
            wide: 0,
        };
        let mut foot = vec![format!("The controller that leads: {}", dash(self.leader.as_ref()))];
        if self.availability.is_none() && self.services.iter().any(|row| row.address.is_some()) {
            foot.push(NOT_PROBED.to_owned());
        }
        Sheet {
            headline: self.headline(),
            findings: self.findings.clone(),
            grids: vec![services, nodes, pools],
            foot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{facts, pool, service};
    use super::super::judge::judge;
    use crate::testing::{documented, golden};

    #[test]
    fn the_screen_is_as_in_its_golden_file() {
        let mut facts = facts(
            &[("192.0.2.1", "bgp"), ("192.0.2.2", "layer2"), ("192.0.2.3", "noEndpoints")],
            &[("192.0.2.1", "bgp"), ("192.0.2.2", "notOwner"), ("192.0.2.3", "noEndpoints")],
        );
        facts.services = vec![
            service("shop/web", &["192.0.2.1"], None),
            service("shop/dns", &["192.0.2.2"], None),
            service("shop/cart", &["192.0.2.3"], None),
            service("lab/new", &[], Some("pool edge is full")),
        ];
        facts.pools = vec![pool("edge", 3, 0)];
        let text = judge(&facts).sheet().text(false, false);
        golden("status.txt", &text);
        documented(include_str!("../../../docs/explain.md"), &format!("$ herald status\n{text}"));
    }
}
