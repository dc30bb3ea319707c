//! What to do next, where something is wrong: sentences for an engineer at three in the morning.
//!
//! Pure, made of the answer itself. What is as its owner asked for gets no advice.

use std::collections::BTreeSet;

use herald_proxy::EndpointsView;
use herald_runtime::ObjectName;

use super::model::{PortAnswer, ServiceAnswer};
use super::service::family_word;
use crate::index::ServiceObject;
use crate::reason::Reason;

/// Of a Service.
pub(super) fn of_service(
    answer: &ServiceAnswer,
    service: &ServiceObject,
    endpoints: &EndpointsView,
) -> Vec<String> {
    let name = &service.name;
    let mut advice = Vec::new();
    if !answer.programmed && answer.not_proxied.is_none() {
        advice.push(
            "the kernel does not have the rules of this speaker yet: look at its log and /readyz".to_owned(),
        );
    }
    if let Some(refused) = &answer.refused {
        advice.push(format!(
            "{}: {}; it is tried again by itself, and what was taken before stays in force",
            refused.reason, refused.text
        ));
    }
    if service.view.is_err() {
        return advice;
    }
    advice.extend(endpoints_of(answer, name, endpoints));
    let holders: BTreeSet<&str> = answer.frontends.iter().filter_map(|f| f.held_by.as_deref()).collect();
    for holder in holders {
        advice.push(format!(
            "an address and port is also {holder}'s, which has the better claim: kubectl get service {}; \
             change the port or the address of one of them",
            arguments(holder)
        ));
    }
    for (policy, internal) in [("internalTrafficPolicy", true), ("externalTrafficPolicy", false)] {
        let mut dropped = answer.frontends.iter().filter(|frontend| frontend.state == "Drops");
        if dropped.any(|frontend| (frontend.kind == "ClusterIP") == internal) {
            advice.push(format!(
                "clients are dropped on {}: {policy} is Local and no endpoint of this node is usable; \
                 send them to a node that has one, or set {policy}: Cluster",
                answer.node
            ));
        }
    }
    let reasons: BTreeSet<&str> = answer
        .announcements
        .iter()
        .filter_map(|address| address.reason.as_ref())
        .map(|said| said.reason.as_str())
        .collect();
    let told = answer.refused.as_ref().map(|refused| refused.reason.as_str());
    for reason in Reason::ALL.into_iter().filter(|reason| reasons.contains(reason.word())) {
        if told == Some(reason.word()) {
            continue;
        }
        advice.extend(reason.remedy().map(|remedy| format!("not announced ({reason}): {remedy}")));
    }
    let mut told = BTreeSet::new();
    advice.retain(|line| told.insert(line.clone()));
    advice
}

/// `web -n shop` of `shop/web`.
pub(super) fn arguments(name: &str) -> String {
    match name.split_once('/') {
        Some((namespace, name)) => format!("{name} -n {namespace}"),
        None => name.to_owned(),
    }
}

/// The command that shows a Service's slices.
pub(super) fn look_at_slices(name: &ObjectName) -> String {
    let ObjectName { namespace, name } = name;
    format!("kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}")
}

/// Ports without endpoints, and why.
fn endpoints_of(answer: &ServiceAnswer, name: &ObjectName, endpoints: &EndpointsView) -> Vec<String> {
    let look = look_at_slices(name);
    if endpoints.is_empty() {
        let ObjectName { namespace, name } = name;
        return vec![format!(
            "there is no EndpointSlice: does the selector match any pod? \
             kubectl describe service {name} -n {namespace}; {look}"
        )];
    }
    let (empty, filled): (Vec<_>, Vec<_>) = answer.ports.iter().partition(|port| port.endpoints.is_empty());
    let mut advice: Vec<String> = empty.into_iter().map(|port| unmatched(port, endpoints, &look)).collect();
    // Whether any is used is told of all endpoints anywhere; policy Local has its own advice.
    let anywhere = |port: &PortAnswer| {
        port.endpoints.iter().filter_map(|endpoint| endpoint.cluster.clone()).collect::<Vec<_>>()
    };
    let has =
        |port: &PortAnswer, word: &str| anywhere(port).iter().any(|standing| standing.said.reason == word);
    let mut tell = |what: &str, then: &str, applies: &dyn Fn(&PortAnswer) -> bool| {
        let ports: Vec<&PortAnswer> = filled.iter().copied().filter(|port| applies(port)).collect();
        if ports.len() == answer.ports.len() {
            advice.push(format!("{what}: {then}"));
        } else if !ports.is_empty() {
            let ports: Vec<String> = ports.into_iter().map(of_port).collect();
            advice.push(format!("{what} for {}: {then}", ports.join(", ")));
        }
    };
    tell("no endpoint is ready", &look, &|port| {
        port.uses_cluster
            && port.endpoints_left_out == 0
            && !anywhere(port).iter().any(|standing| standing.used)
    });
    tell("only terminating pods serve", &look, &|port| has(port, "ServingTerminating"));
    tell("endpoints that are not ready are kept for a grace (herald.floor)", &look, &|port| {
        has(port, "Held")
    });
    let probes = "see annotation herald.io/probe, the Service's Events, and the pods";
    tell("endpoints fail this node's probes", probes, &|port| {
        has(port, "ProbeFailed") || has(port, "AllProbesFail")
    });
    advice
}

/// No slice has the port in the family.
fn unmatched(port: &PortAnswer, endpoints: &EndpointsView, look: &str) -> String {
    let mut of_family = endpoints.slices().filter(|(_, slice)| family_word(slice.family) == port.family);
    let Some((_, slice)) = of_family.next() else {
        return format!("no EndpointSlice is {}, so {} has no endpoint: {look}", port.family, of_port(port));
    };
    if slice.endpoints.is_empty() {
        return format!(
            "the EndpointSlices have no endpoint for {}: does the selector match any pod? {look}",
            of_port(port)
        );
    }
    let mut has: Vec<String> =
        slice.ports.iter().map(|p| format!("{:?} {}/{}", p.name, p.number, p.protocol)).collect();
    if has.is_empty() {
        has.push("none".to_owned());
    }
    format!(
        "no {} endpoint has a port named {:?} ({}); the EndpointSlices have {}: \
         compare the names of the Service's ports and targetPort with the pods' ports",
        port.family,
        port.name,
        port.protocol,
        has.join(", ")
    )
}

fn of_port(port: &PortAnswer) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
    format!("port {name}{}/{} ({})", port.port, port.protocol, port.family)
}
