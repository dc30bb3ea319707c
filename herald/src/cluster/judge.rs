//! From what the API server and the speakers say to what is wrong and what there is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{Finding, NodeAnswer};
use k8s_openapi::api::core::v1::Service;
use kube::core::DynamicObject;
use serde::Serialize;

use super::availability::Availability;
use crate::speakers::{NodeFact, Silence};

/// Nodes that are named in a sentence.
const NAMED: usize = 5;
const CONDITION: &str = "herald.io/AddressAssigned";

/// All that is known.
#[derive(Debug)]
pub(super) struct Facts {
    /// Herald's.
    pub(super) namespace: String,
    /// The controller that leads, or why that is not known.
    pub(super) leader: Result<Option<String>, String>,
    /// Those of type LoadBalancer.
    pub(super) services: Vec<ServiceFact>,
    pub(super) nodes: Vec<NodeFact>,
    pub(super) pools: Vec<PoolFact>,
    /// What is refused of the configuration.
    pub(super) refused: Vec<String>,
    /// What the API server does not give, which is missing above.
    pub(super) unread: Vec<Unread>,
    /// By node.
    pub(super) answers: BTreeMap<String, Result<NodeAnswer, Silence>>,
}

/// A list that the API server does not give.
#[derive(Debug)]
pub(super) struct Unread {
    /// As `kubectl` calls it.
    pub(super) what: &'static str,
    pub(super) why: String,
}

/// A Service of type LoadBalancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceFact {
    /// `NAMESPACE/NAME`.
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Why it has none, in the controller's words.
    pub(super) waits: Option<String>,
    /// Somebody else's, by its class.
    pub(super) class: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolFact {
    pub(super) name: String,
    pub(super) assigned: u64,
    pub(super) available: u64,
}

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

impl ServiceFact {
    /// `None`: it is of another type.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("LoadBalancer"))?;
        let (meta, status) = (&service.metadata, service.status.as_ref());
        let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let addresses = ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok());
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let mut waits =
            conditions.filter(|c| c.type_ == CONDITION && c.status == "False").map(|c| c.message.clone());
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        Some(Self {
            name: format!("{}/{}", name(&meta.namespace), name(&meta.name)),
            addresses: addresses.collect(),
            waits: waits.next(),
            class: spec.load_balancer_class.clone(),
        })
    }
}

impl PoolFact {
    pub(super) fn of(pool: &DynamicObject) -> Option<Self> {
        let status = pool.data.get("status")?;
        let sum = |keys: [&str; 2]| {
            keys.iter().filter_map(|key| status.get(*key)?.as_u64()).fold(0u64, u64::saturating_add)
        };
        Some(Self {
            name: pool.metadata.name.clone()?,
            assigned: sum(["assignedIPv4", "assignedIPv6"]),
            available: sum(["availableIPv4", "availableIPv6"]),
        })
    }
}

/// What a ConfigurationState says is not in force.
pub(super) fn refused(state: &DynamicObject) -> Option<String> {
    let status = state.data.get("status")?;
    let summary = status.get("errorSummary")?.as_str()?;
    (!summary.is_empty()).then(|| summary.to_owned())
}

/// Says what is wrong, and what there is.
pub(super) fn judge(facts: &Facts) -> Overview {
    let mut findings = of_nodes(facts);
    findings.extend(of_cluster(facts));
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

fn is_out(said: &str) -> bool {
    said.split('+').all(|word| matches!(word, "bgp" | "layer2"))
}

fn finding(text: String, next: impl Into<String>) -> Finding {
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
    for Unread { what, why } in &facts.unread {
        findings.push(finding(
            format!("{what} are not read, and nothing is said of them here: {why}"),
            format!("kubectl -n {namespace} auth can-i list {what}"),
        ));
    }
    for refused in facts.refused.iter().collect::<BTreeSet<_>>() {
        findings.push(finding(
            format!("a part of the configuration is refused, and what was in force before stays: {refused}"),
            format!("kubectl -n {namespace} get configurationstates -o yaml"),
        ));
    }
    for pool in facts.pools.iter().filter(|pool| pool.available == 0) {
        findings.push(finding(
            format!("pool {} is full: {} addresses, all of them in use", pool.name, pool.assigned),
            format!("kubectl -n {namespace} edit ipaddresspool {}", pool.name),
        ));
    }
    findings
}

/// What nodes say of themselves, once for all that say the same.
fn of_nodes<'a>(facts: &'a Facts) -> Vec<Finding> {
    let mut order: Vec<(Finding, Vec<&'a str>)> = Vec::new();
    let mut add =
        |finding: Finding, node: &'a str| match order.iter_mut().find(|(one, _)| one.text == finding.text) {
            Some((_, nodes)) => nodes.push(node),
            None => order.push((finding, vec![node])),
        };
    for node in &facts.nodes {
        match facts.answers.get(&node.name) {
            Some(Ok(answer)) => answer.findings.iter().for_each(|finding| add(finding.clone(), &node.name)),
            Some(Err(silence)) => {
                let state = if node.ready { "" } else { " (and the Node is not Ready)" };
                let next = match &node.pod {
                    _ if silence.forbidden => {
                        format!("kubectl -n {} auth can-i get pods --subresource=proxy", facts.namespace)
                    }
                    Some(pod) => format!("kubectl -n {} describe pod {pod}", facts.namespace),
                    None => format!("kubectl -n {} get pods -o wide", facts.namespace),
                };
                add(finding(format!("no word from its speaker{state}: {}", silence.why), next), &node.name);
            }
            None => {}
        }
    }
    let said = order.into_iter().map(|(finding, nodes)| {
        let text = format!("{}: {}", names(&nodes), finding.text);
        Finding { text, ..finding }
    });
    said.collect()
}

fn names(nodes: &[&str]) -> String {
    let shown = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn of_service(facts: &Facts, service: &ServiceFact) -> Option<Finding> {
    let (namespace, name) = service.name.split_once('/').unwrap_or(("default", &service.name));
    if service.addresses.is_empty() {
        if service.waits.is_none() && service.class.is_some() {
            return None;
        }
        let why = service.waits.as_deref().unwrap_or("the controller has not said why");
        let next = format!("kubectl -n {namespace} describe service {name}");
        return Some(finding(format!("{} waits for an address: {why}", service.name), next));
    }
    // A class that nobody's answers know is another's.
    let dark = service.addresses.iter().find(|address| {
        let said = said(facts, address);
        !said.is_empty() && !said.iter().any(|(_, said)| is_out(said))
    })?;
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, said) in said(facts, dark) {
        reasons.entry(said).or_default().push(node);
    }
    let (first, _) = said(facts, dark).into_iter().next()?;
    let reasons: Vec<String> =
        reasons.into_iter().map(|(reason, nodes)| format!("{reason} ({})", names(&nodes))).collect();
    Some(finding(
        format!("{dark} of {} is announced from no node: {}", service.name, reasons.join(", ")),
        format!("herald explain service {} --node {first}", service.name),
    ))
}

/// What each node says of an address.
fn said<'a>(facts: &'a Facts, address: &IpAddr) -> Vec<(&'a str, &'a str)> {
    let answers = facts.answers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)));
    answers
        .filter_map(|(node, answer)| Some((node.as_str(), answer.addresses.get(address)?.as_str())))
        .collect()
}

fn rows(facts: &Facts, service: &ServiceFact) -> Vec<ServiceRow> {
    let row = |address: Option<IpAddr>| {
        let said = address.map(|address| said(facts, &address)).unwrap_or_default();
        let by = |protocol: &str| {
            let nodes = said.iter().filter(|(_, said)| said.split('+').any(|word| word == protocol));
            nodes.map(|(node, _)| (*node).to_owned()).collect::<Vec<_>>()
        };
        // A node without a session tells nobody.
        let mut bgp = by("bgp");
        bgp.retain(|node| matches!(facts.answers.get(node), Some(Ok(answer)) if answer.sessions_up > 0));
        ServiceRow { service: service.name.clone(), address, bgp, layer2: by("layer2") }
    };
    match service.addresses.as_slice() {
        [] => vec![row(None)],
        addresses => addresses.iter().map(|address| row(Some(*address))).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cluster) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(in crate::cluster) fn answer(node: &str, addresses: &[(&str, &str)]) -> NodeAnswer {
        NodeAnswer {
            node: node.to_owned(),
            version: "0.1.0".to_owned(),
            proxy: "full".to_owned(),
            sessions_up: 1,
            sessions: 1,
            findings: Vec::new(),
            availability: None,
            addresses: addresses.iter().map(|(address, said)| (ip(address), (*said).to_owned())).collect(),
        }
    }

    pub(in crate::cluster) fn service(name: &str, addresses: &[&str], waits: Option<&str>) -> ServiceFact {
        let addresses = addresses.iter().map(|address| ip(address)).collect();
        ServiceFact { name: name.to_owned(), addresses, waits: waits.map(str::to_owned), class: None }
    }

    /// Two nodes that say this of addresses.
    pub(in crate::cluster) fn facts(first: &[(&str, &str)], second: &[(&str, &str)]) -> Facts {
        let node = |n: u8| NodeFact {
            name: format!("node-{n}"),
            ready: true,
            ip: Some(ip("10.0.0.11")),
            pod: Some(format!("herald-speaker-{n}")),
        };
        Facts {
            namespace: "metallb-system".to_owned(),
            leader: Ok(Some("herald-controller-1".to_owned())),
            nodes: vec![node(1), node(2)],
            services: Vec::new(),
            pools: Vec::new(),
            refused: Vec::new(),
            unread: Vec::new(),
            answers: [("node-1", first), ("node-2", second)]
                .map(|(name, said)| (name.to_owned(), Ok(answer(name, said))))
                .into(),
        }
    }

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
        facts.pools = vec![PoolFact { name: "edge".to_owned(), assigned: 4, available: 0 }];
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
