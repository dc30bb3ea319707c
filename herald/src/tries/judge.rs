//! From what each node could reach to what is wrong where. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use herald_speaker::explain::{TryAnswer, cells, table};
use serde::Serialize;

/// Nodes that are named in a sentence.
const NAMED: usize = 5;

/// What was found.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    service: String,
    endpoints: Vec<Endpoint>,
    /// Nodes that could not be asked, and why.
    unknown: BTreeMap<String, String>,
    left_out: usize,
}

/// One endpoint, as all nodes see it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    address: SocketAddr,
    node: Option<String>,
    slices: Vec<String>,
    used: bool,
    /// Nodes that it answers.
    answers: Vec<String>,
    /// Why it does not answer others, by node.
    fails: BTreeMap<String, String>,
}

/// Puts together what the nodes say.
pub(super) fn judge(service: String, answers: BTreeMap<String, Result<TryAnswer, String>>) -> Verdict {
    let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    let (mut unknown, mut left_out) = (BTreeMap::new(), 0);
    for (node, answer) in answers {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                unknown.insert(node, why);
                continue;
            }
        };
        left_out = left_out.max(answer.left_out);
        for tried in answer.endpoints {
            let endpoint = endpoints.entry(tried.address).or_insert_with(|| Endpoint {
                address: tried.address,
                node: tried.node,
                slices: tried.slices,
                used: false,
                answers: Vec::new(),
                fails: BTreeMap::new(),
            });
            endpoint.used |= tried.used;
            match tried.failed {
                Some(why) => _ = endpoint.fails.insert(node.clone(), why),
                None => endpoint.answers.push(node.clone()),
            }
        }
    }
    let mut endpoints: Vec<Endpoint> = endpoints.into_values().collect();
    // Wrong first.
    endpoints.sort_by_key(|endpoint| (endpoint.fails.is_empty(), !endpoint.used, endpoint.address));
    Verdict { service, endpoints, unknown, left_out }
}

/// What is left where every endpoint answers every node.
const BEFORE_THE_NODES: &str = "if clients outside get no answer all the same, it is lost before the nodes or on the way back: herald status services -o wide says what \
                                 routers and hosts were told; compare it with what the router does (birdc show route, ip route, ip neigh)";

impl Verdict {
    /// Every endpoint that gets connections answers every node, and all nodes were asked.
    pub(super) fn is_well(&self) -> bool {
        self.unknown.is_empty() && self.troubles().next().is_none()
    }

    fn troubles(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.used && !endpoint.fails.is_empty())
    }
}

impl Endpoint {
    /// What is wrong with it, and what to type next.
    fn trouble(&self, service: &str) -> [String; 2] {
        let namespace = service.split('/').next().unwrap_or_default();
        let place = self.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        let why = self.reasons();
        let own = self.node.as_ref();
        if self.answers.is_empty() {
            let slices = self.slices.join(", ");
            let text = format!(
                "{}{place} answers no node: {why}; is it a pod that is there? EndpointSlice {slices} says so",
                self.address
            );
            return [
                text,
                format!(
                    "kubectl -n {namespace} get pods -o wide; kubectl -n {namespace} describe endpointslice {}",
                    self.slices.join(" ")
                ),
            ];
        }
        match own.filter(|own| self.answers.len() == 1 && self.answers[0] == **own) {
            Some(own) => [
                format!("{} answers {own}, where it runs, and no other node: {why}", self.address),
                format!(
                    "what comes in at {own} from other nodes is lost: on {own}, herald doctor node, nft list ruleset and ip route"
                ),
            ],
            None => [
                format!("{}{place} does not answer every node: {why}", self.address),
                format!(
                    "the way between them: ip route get {} on those nodes, nft list ruleset on both ends",
                    self.address.ip()
                ),
            ],
        }
    }

    /// Each reason with who has it.
    fn reasons(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for (node, why) in &self.fails {
            by_reason.entry(why).or_default().push(node);
        }
        let told = by_reason.into_iter().map(|(why, nodes)| format!("{why} ({})", named(nodes.into_iter())));
        told.collect::<Vec<_>>().join(", ")
    }
}

fn named<'a>(nodes: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = nodes.len().saturating_sub(NAMED);
    let shown = nodes.take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.endpoints.iter().filter(|endpoint| endpoint.used).count();
        let of = format!("of {} that get connections", self.service);
        match self.troubles().count() {
            _ if self.endpoints.is_empty() => {
                writeln!(f, "{} has no TCP endpoint that could be tried", self.service)?;
            }
            0 if used == 0 => writeln!(f, "{} has no TCP endpoint that gets connections", self.service)?,
            0 => writeln!(f, "the endpoints {of} answer every node that was asked: {used} of {used}")?,
            wrong => writeln!(f, "{wrong} of the {used} endpoints {of} do not answer every node")?,
        }
        for (node, why) in &self.unknown {
            writeln!(f, "! {node}: no word from its speaker, and nothing was tried from there: {why}")?;
        }
        for endpoint in self.troubles() {
            let [text, next] = endpoint.trouble(&self.service);
            writeln!(f, "! {text}\n    {next}")?;
        }
        if self.left_out > 0 {
            writeln!(f, "! {} more endpoints were not tried", self.left_out)?;
        }
        if self.endpoints.is_empty() {
            return Ok(());
        }
        if used > 0 && self.is_well() {
            writeln!(f, "    {}", BEFORE_THE_NODES)?;
        }
        let row = |endpoint: &Endpoint| {
            let asked = endpoint.answers.len() + endpoint.fails.len();
            let dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
            vec![
                endpoint.address.to_string(),
                dash(endpoint.node.as_ref()),
                endpoint.slices.join(", "),
                if endpoint.used { "yes" } else { "no" }.to_owned(),
                format!("{} of {asked} nodes", endpoint.answers.len()),
            ]
        };
        let rows: Vec<_> = self.endpoints.iter().map(row).collect();
        table(f, &cells(["Endpoints", "node", "EndpointSlice", "used", "answers"]), &rows)
    }
}

#[cfg(test)]
mod tests {
    use herald_speaker::explain::TriedAnswer;

    use super::*;
    use crate::testing::golden;

    fn answer(node: &str, fails: &[(&str, &str)]) -> Result<TryAnswer, String> {
        let endpoint = |address: &str, on: &str, slice: &str, used| TriedAnswer {
            address: address.parse().unwrap(),
            node: Some(on.to_owned()),
            slices: vec![slice.to_owned()],
            used,
            failed: fails.iter().find(|(of, _)| *of == address).map(|(_, why)| (*why).to_owned()),
        };
        Ok(TryAnswer {
            node: node.to_owned(),
            service: "shop/web".to_owned(),
            endpoints: vec![
                endpoint("10.244.1.10:8080", "node-1", "web-x7k2p", true),
                endpoint("10.244.1.77:8080", "node-1", "web-canary", true),
                endpoint("10.244.2.10:8080", "node-2", "web-x7k2p", true),
                endpoint("10.244.3.10:8080", "node-3", "web-x7k2p", true),
                endpoint("10.244.3.11:8080", "node-3", "web-x7k2p", false),
            ],
            left_out: 0,
        })
    }

    fn verdict(of: [(&str, Result<TryAnswer, String>); 3]) -> Verdict {
        judge("shop/web".to_owned(), of.map(|(node, answer)| (node.to_owned(), answer)).into())
    }

    #[test]
    fn what_does_not_answer_is_told_with_whom_and_what_next() {
        let late = "no answer within a second";
        let gone = ("10.244.1.77:8080", "no host has that address");
        let off = ("10.244.3.11:8080", "refused: nothing listens there");
        let broken = verdict([
            ("node-1", answer("node-1", &[gone, ("10.244.2.10:8080", late), off])),
            ("node-2", answer("node-2", &[("10.244.1.77:8080", late), off])),
            (
                "node-3",
                answer(
                    "node-3",
                    &[
                        ("10.244.1.77:8080", late),
                        ("10.244.2.10:8080", late),
                        ("10.244.1.10:8080", late),
                        off,
                    ],
                ),
            ),
        ]);
        let well = verdict(["node-1", "node-2", "node-3"].map(|node| (node, answer(node, &[off]))));
        assert!(!broken.is_well() && well.is_well(), "what gets no connections need not answer");
        let silent = verdict([
            ("node-1", answer("node-1", &[])),
            ("node-2", answer("node-2", &[])),
            ("node-3", Err("it does not answer in time".to_owned())),
        ]);
        assert!(!silent.is_well());
        let screens = [broken, well, silent].map(|verdict| format!("$ herald try shop/web\n{verdict}"));
        golden("try.txt", &screens.join("\n"));
    }

    #[test]
    fn without_an_endpoint_nothing_is_said_to_answer() {
        let none = judge("shop/web".to_owned(), BTreeMap::new());
        assert_eq!(none.to_string(), "shop/web has no TCP endpoint that could be tried\n");
    }
}
