//! From what the API server and the speakers say to what is wrong and what there is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::Finding;
use serde::Serialize;

use super::availability::Availability;
use super::facts::{Answers, Facts, PoolFact, ServiceFact, Unread};
use crate::speakers::NodeFact;

/// Nodes that are named in a sentence.
const NAMED: usize = 5;

/// What is printed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    /// What is wrong, the worst first.
    pub(super) findings: Vec<Finding>,
    pub(super) services: Vec<ServiceRow>,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) pools: Vec<PoolFact>,
    /// What probes of addresses say; `null`: there are none.
    pub(super) availability: Option<Availability>,
    /// The controller that leads. `null`: none, or it is not known.
    pub(super) leader: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceRow {
    pub(super) service: String,
    /// `null`: it waits for one.
    pub(super) address: Option<IpAddr>,
    /// Nodes that announce it by BGP.
    pub(super) bgp: Vec<String>,
    /// The one that answers for it by ARP or NDP; more than one on several segments.
    pub(super) layer2: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRow {
    pub(super) node: String,
    /// `null`: its speaker does not answer.
    pub(super) version: Option<String>,
    pub(super) proxy: Option<String>,
    pub(super) sessions_up: usize,
    pub(super) sessions: usize,
    /// Addresses that it announces.
    pub(super) announces: usize,
}

/// Says what is wrong, and what there is.
pub(super) fn judge(facts: &Facts) -> Overview {
    let mut findings = of_nodes(facts, &|_: &str| true);
    findings.extend(of_cluster(facts));
    findings.extend(of_pools(facts, &|_: &str| true));
    let mut services = Vec::new();
    for service in &facts.services {
        findings.extend(of_service(facts, service));
        services.extend(rows(facts, service));
    }
    let node = |node: &NodeFact| {
        let answer = facts.answers.get(&node.name).and_then(|answer| answer.as_ref().ok());
        NodeRow {
            node: node.name.clone(),
            version: answer.map(|answer| answer.version.clone()),
            proxy: answer.map(|answer| answer.proxy.clone()),
            sessions_up: answer.map_or(0, |answer| answer.sessions_up),
            sessions: answer.map_or(0, |answer| answer.sessions),
            announces: answer
                .map_or(0, |answer| answer.addresses.values().filter(|said| is_out(said)).count()),
        }
    };
    Overview {
        findings,
        services,
        nodes: facts.nodes.iter().map(node).collect(),
        pools: facts.pools.clone(),
        availability: Availability::of(facts.answers.values().filter_map(|answer| answer.as_ref().ok())),
        leader: facts.leader.clone().unwrap_or_default(),
    }
}

pub(super) fn is_out(said: &str) -> bool {
    said.split('+').all(|word| matches!(word, "bgp" | "layer2"))
}

pub(super) fn finding(text: String, next: impl Into<String>) -> Finding {
    Finding { text, next: Some(next.into()) }
}

fn of_cluster(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let namespace = &facts.namespace;
    match &facts.leader {
        Ok(Some(_)) => {}
        Ok(None) => findings.push(finding(
            "no controller leads: Services that come now get no address".to_owned(),
            format!("kubectl -n {namespace} get pods -l app.kubernetes.io/component=controller"),
        )),
        Err(why) => findings.push(finding(
            format!("which controller leads is not known: {why}"),
            format!("kubectl -n {namespace} auth can-i get leases.coordination.k8s.io"),
        )),
    }
    findings.extend(unread(facts));
    findings
}

/// What the API server does not give.
pub(super) fn unread(facts: &Facts) -> Vec<Finding> {
    let namespace = &facts.namespace;
    let told = facts.unread.iter().map(|Unread { what, why }| {
        finding(
            format!("{what} are not read, and nothing is said of them here: {why}"),
            format!("kubectl -n {namespace} auth can-i list {what}"),
        )
    });
    told.collect()
}

/// What is wrong with the configuration, and pools of which nothing is left.
pub(super) fn of_pools(facts: &Facts, wanted: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let namespace = &facts.namespace;
    for refused in facts.refused.iter().collect::<BTreeSet<_>>() {
        findings.push(finding(
            format!("a part of the configuration is refused, and what was in force before stays: {refused}"),
            format!("kubectl -n {namespace} get configurationstates -o yaml"),
        ));
    }
    for pool in facts.pools.iter().filter(|pool| pool.is_full() && wanted(&pool.name)) {
        findings.push(finding(
            format!("pool {} is full: {} addresses, all of them in use", pool.name, pool.assigned),
            format!("kubectl -n {namespace} edit ipaddresspool {}", pool.name),
        ));
    }
    findings
}

/// What nodes say of themselves, once for all that say the same, and who says nothing.
pub(super) fn of_nodes(facts: &Facts, wanted: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let own = |node: &NodeFact| match facts.answers.get(&node.name) {
        Some(Ok(answer)) => answer.findings.clone(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for node in facts.nodes.iter().filter(|node| wanted(&node.name)) {
        all.extend(own(node).into_iter().map(|finding| (finding, node.name.as_str())));
        all.extend(silence(facts, &facts.answers, node).map(|finding| (finding, node.name.as_str())));
    }
    once(all)
}

/// Who says nothing, once for all of whom the same is known.
pub(super) fn silent<A>(facts: &Facts, answers: &Answers<A>) -> Vec<Finding> {
    let found =
        facts.nodes.iter().filter_map(|node| Some((silence(facts, answers, node)?, node.name.as_str())));
    once(found.collect())
}

fn silence<A>(facts: &Facts, answers: &Answers<A>, node: &NodeFact) -> Option<Finding> {
    let silence = answers.get(&node.name)?.as_ref().err()?;
    let state = if node.ready { "" } else { " (and the Node is not Ready)" };
    let next = match &node.pod {
        _ if silence.forbidden => {
            format!("kubectl -n {} auth can-i get pods --subresource=proxy", facts.namespace)
        }
        Some(pod) => format!("kubectl -n {} describe pod {pod}", facts.namespace),
        None => format!("kubectl -n {} get pods -o wide", facts.namespace),
    };
    Some(finding(format!("no word from its speaker{state}: {}", silence.why), next))
}

/// Each finding once, with the nodes that it is of before it; in the order in which they come first.
pub(super) fn once(all: Vec<(Finding, &str)>) -> Vec<Finding> {
    let mut order: Vec<(Finding, Vec<&str>)> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (finding, node) in all {
        match known.get(&finding.text) {
            Some(at) => order[*at].1.push(node),
            None => {
                known.insert(finding.text.clone(), order.len());
                order.push((finding, vec![node]));
            }
        }
    }
    let said = order.into_iter().map(|(finding, nodes)| {
        let text = format!("{}: {}", names(&nodes), finding.text);
        Finding { text, ..finding }
    });
    said.collect()
}

pub(super) fn names(nodes: &[&str]) -> String {
    let shown = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What is wrong with a Service.
pub(super) fn of_service(facts: &Facts, service: &ServiceFact) -> Option<Finding> {
    let (namespace, name) = service.parts();
    if service.addresses.is_empty() {
        if service.is_anothers() {
            return None;
        }
        let why = service.waits.as_deref().unwrap_or("the controller has not said why");
        let next = format!("kubectl -n {namespace} describe service {name}");
        return Some(finding(format!("{} waits for an address: {why}", service.name), next));
    }
    let (dark, why) = service.addresses.iter().find_map(|address| Some((address, dark(facts, address)?)))?;
    let (first, _) = said(facts, dark).into_iter().next()?;
    Some(finding(
        format!("{dark} of {} is announced from no node: {why}", service.name),
        format!("herald explain service {} --node {first}", service.name),
    ))
}

/// Why no node announces an address; `None`: one does, or nobody knows the address: it is of a class of others.
pub(super) fn dark(facts: &Facts, address: &IpAddr) -> Option<String> {
    let said = said(facts, address);
    if said.is_empty() || said.iter().any(|(_, said)| is_out(said)) {
        return None;
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, said) in said {
        reasons.entry(said).or_default().push(node);
    }
    let reasons = reasons.into_iter().map(|(reason, nodes)| format!("{reason} ({})", names(&nodes)));
    Some(reasons.collect::<Vec<_>>().join(", "))
}

/// What each node says of an address.
pub(super) fn said<'a>(facts: &'a Facts, address: &IpAddr) -> Vec<(&'a str, &'a str)> {
    let answers = facts.answers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)));
    answers
        .filter_map(|(node, answer)| Some((node.as_str(), answer.addresses.get(address)?.as_str())))
        .collect()
}

/// Nodes that announce an address by BGP, and those that own it by layer 2.
pub(super) fn out(facts: &Facts, address: &IpAddr) -> (Vec<String>, Vec<String>) {
    let said = said(facts, address);
    let by = |protocol: &str| {
        let nodes = said.iter().filter(|(_, said)| said.split('+').any(|word| word == protocol));
        nodes.map(|(node, _)| (*node).to_owned()).collect::<Vec<_>>()
    };
    // A node without a session tells nobody.
    let mut bgp = by("bgp");
    bgp.retain(|node| matches!(facts.answers.get(node), Some(Ok(answer)) if answer.sessions_up > 0));
    (bgp, by("layer2"))
}

fn rows(facts: &Facts, service: &ServiceFact) -> Vec<ServiceRow> {
    let row = |address: Option<IpAddr>| {
        let (bgp, layer2) = address.map(|address| out(facts, &address)).unwrap_or_default();
        ServiceRow { service: service.name.clone(), address, bgp, layer2 }
    };
    match service.addresses.as_slice() {
        [] => vec![row(None)],
        addresses => addresses.iter().map(|address| row(Some(*address))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{facts, pool, service};
    use super::*;

    fn lines(facts: &Facts) -> Vec<String> {
        let findings = judge(facts).findings.into_iter();
        findings.map(|finding| format!("{} -> {}", finding.text, finding.next.unwrap_or_default())).collect()
    }

    #[test]
    fn a_node_without_a_session_announces_to_nobody() {
        let mut facts = facts(&[("192.0.2.1", "bgp")], &[("192.0.2.1", "bgp")]);
        facts.services = vec![service("shop/web", &["192.0.2.1"], None)];
        facts.answers.get_mut("node-2").unwrap().as_mut().unwrap().sessions_up = 0;
        assert_eq!(judge(&facts).services[0].bgp, ["node-1"]);
    }

    #[test]
    fn a_cluster_where_all_is_well_has_no_findings() {
        let mut facts = facts(&[("192.0.2.1", "bgp")], &[("192.0.2.1", "noLocalEndpoints")]);
        facts.services = vec![service("shop/web", &["192.0.2.1"], None)];
        assert_eq!(lines(&facts), Vec::<String>::new());
        let overview = judge(&facts);
        assert_eq!(overview.services[0].bgp, ["node-1"]);
        assert_eq!((overview.nodes[0].announces, overview.nodes[1].announces), (1, 0));
    }

    #[test]
    fn an_address_that_nobody_announces_is_told_with_every_nodes_reason() {
        let mut facts = facts(&[("192.0.2.1", "noEndpoints")], &[("192.0.2.1", "noPeer")]);
        facts.services = vec![
            service("shop/web", &["192.0.2.1"], None),
            // Nobody knows it: another's.
            service("shop/other", &["198.51.100.1"], None),
            service("shop/new", &[], Some("pool edge is full")),
        ];
        assert_eq!(
            lines(&facts),
            [
                "192.0.2.1 of shop/web is announced from no node: noEndpoints (node-1), noPeer (node-2) -> herald explain service shop/web --node node-1",
                "shop/new waits for an address: pool edge is full -> kubectl -n shop describe service new",
            ]
        );
    }

    #[test]
    fn what_nodes_say_alike_is_told_once_and_silence_is_told() {
        let mut facts = facts(&[], &[]);
        let down = Finding { text: "the BGP session with 10.0.0.1:179 is not up".to_owned(), next: None };
        for answer in facts.answers.values_mut() {
            answer.as_mut().unwrap().findings.push(down.clone());
        }
        facts.nodes.push(NodeFact { name: "node-3".to_owned(), ready: false, ip: None, pod: None });
        facts.answers.insert("node-3".to_owned(), Err("connection refused".to_owned().into()));
        assert_eq!(
            lines(&facts),
            [
                "node-1, node-2: the BGP session with 10.0.0.1:179 is not up -> ",
                "node-3: no word from its speaker (and the Node is not Ready): connection refused -> kubectl -n metallb-system get pods -o wide",
            ]
        );
    }

    #[test]
    fn the_clusters_own_troubles_come_with_their_commands() {
        let mut facts = facts(&[], &[]);
        facts.leader = Ok(None);
        facts.refused = vec!["pool a: overlaps pool b".to_owned(); 2];
        facts.pools = vec![pool("edge", 4, 0)];
        assert_eq!(
            lines(&facts),
            [
                "no controller leads: Services that come now get no address -> kubectl -n metallb-system get pods -l app.kubernetes.io/component=controller",
                "a part of the configuration is refused, and what was in force before stays: pool a: overlaps pool b -> kubectl -n metallb-system get configurationstates -o yaml",
                "pool edge is full: 4 addresses, all of them in use -> kubectl -n metallb-system edit ipaddresspool edge",
            ]
        );
    }

    #[test]
    fn what_may_not_be_read_is_told_and_nothing_is_concluded_from_it() {
        let mut facts = facts(&[], &[]);
        facts.leader = Err("leases is forbidden".to_owned());
        facts.unread = vec![Unread { what: "pods", why: "pods is forbidden".to_owned() }];
        assert_eq!(
            lines(&facts),
            [
                "which controller leads is not known: leases is forbidden -> kubectl -n metallb-system auth can-i get leases.coordination.k8s.io",
                "pods are not read, and nothing is said of them here: pods is forbidden -> kubectl -n metallb-system auth can-i list pods",
            ]
        );
    }
}
