//! The overview as people read it: a sentence, what is wrong with the next command under each, then tables.

use std::fmt;

use herald_speaker::explain::{cells, table};

use super::judge::Overview;

/// Nodes that are named in a row.
const NAMED: usize = 3;
/// Findings, the worst first; `-o json` has all.
const FINDINGS: usize = 20;
/// Rows of Services; `-o json` has all.
const ROWS: usize = 200;

fn nodes(nodes: &[String]) -> String {
    match nodes.len() {
        0 => "-".to_owned(),
        1..=NAMED => nodes.join(", "),
        many => format!("{many} nodes"),
    }
}

impl Overview {
    fn headline(&self) -> String {
        let with = self.services.iter().filter(|row| row.address.is_some()).count();
        let (up, all) =
            self.nodes.iter().fold((0, 0), |(up, all), row| (up + row.sessions_up, all + row.sessions));
        let answering = self.nodes.iter().filter(|row| row.version.is_some()).count();
        let sessions = if all > 0 { format!(", {up} of {all} BGP sessions up") } else { String::new() };
        let wrong = match self.findings.len() {
            0 => "all is well".to_owned(),
            1 => "1 thing is wrong".to_owned(),
            many => format!("{many} things are wrong"),
        };
        let addresses = if with == 1 { "address" } else { "addresses" };
        let probes = self.availability.as_ref().map(|all| format!(", {all}")).unwrap_or_default();
        format!(
            "{wrong}: {with} {addresses} of Services, {answering} of {} speakers answer{sessions}{probes}",
            self.nodes.len()
        )
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        for finding in self.findings.iter().take(FINDINGS) {
            writeln!(f, "! {}", finding.text)?;
            if let Some(next) = &finding.next {
                writeln!(f, "    {next}")?;
            }
        }
        if self.findings.len() > FINDINGS {
            writeln!(f, "! and {} more (-o json has all)", self.findings.len() - FINDINGS)?;
        }
        let service = |row: &super::judge::ServiceRow| {
            let address = row.address.map_or_else(|| "none yet".to_owned(), |address| address.to_string());
            vec![row.service.clone(), address, nodes(&row.bgp), nodes(&row.layer2)]
        };
        if !self.services.is_empty() {
            let rows: Vec<_> = self.services.iter().take(ROWS).map(service).collect();
            table(f, &cells(["Services", "address", "by BGP from", "by ARP or NDP from"]), &rows)?;
            if self.services.len() > ROWS {
                writeln!(f, "  and {} more (-o json has all)", self.services.len() - ROWS)?;
            }
        }
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let node = |row: &super::judge::NodeRow| {
            let sessions = format!("{}/{}", row.sessions_up, row.sessions);
            vec![row.node.clone(), dash(&row.version), dash(&row.proxy), sessions, row.announces.to_string()]
        };
        let rows: Vec<_> = self.nodes.iter().map(node).collect();
        table(f, &cells(["Nodes", "speaker", "proxy", "sessions up", "announces"]), &rows)?;
        if !self.pools.is_empty() {
            let pool = |pool: &super::judge::PoolFact| {
                vec![pool.name.clone(), pool.assigned.to_string(), pool.available.to_string()]
            };
            let rows: Vec<_> = self.pools.iter().map(pool).collect();
            table(f, &cells(["Pools", "in use", "free"]), &rows)?;
        }
        writeln!(f, "\nThe controller that leads: {}", dash(&self.leader))
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{facts, service};
    use super::super::judge::{PoolFact, judge};

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
        facts.pools = vec![PoolFact { name: "edge".to_owned(), assigned: 3, available: 0 }];
        let expected = include_str!("../../testdata/status.txt");
        assert_eq!(judge(&facts).to_string(), expected);
    }
}
