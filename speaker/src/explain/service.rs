//! A node's view of one Service: what its rules do, and why each endpoint and address is in or out.
//!
//! Pure. The Service is planned by the same function that the loop plans it with, and its endpoints are judged by the
//! selectors that choose them; nothing is decided here a second time. Only who holds a frontend, and what the kernel
//! refused, is taken from what is in force.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use herald_proxy::ruleset::MasqueradeMode;
use herald_proxy::{
    DropReason, EndpointsView, FrontendKind, FrontendRules, IpFamily, Masquerade, Policy, Program,
    RejectReason, Scope, Selector, ServicePort, ServiceView, Standing,
};
use ipnet::IpNet;

use super::advice;
use super::model::{
    AnnouncementAnswer, EndpointAnswer, FrontendAnswer, HealthCheckAnswer, Layer2Answer, PortAnswer, Said,
    ServiceAnswer, StandingAnswer,
};
use crate::index::ServiceObject;
use crate::layer2::View as Owners;
use crate::options::ProxyMode;
use crate::plan::{ServicePlan, Verdict, View, plan};
use crate::reason::Reason;

/// Frontends and endpoints per port that are listed; the rest is counted. Keeps an answer below 4 MiB.
const LISTED: usize = 1000;

/// What is in force on the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InForce<'a> {
    /// How much is served.
    pub(crate) mode: ProxyMode,
    /// Whether the kernel holds this run's rules.
    pub(crate) programmed: bool,
    /// What it holds; `None` when nothing is programmed on this node.
    pub(crate) program: Option<&'a Program>,
    /// Where pods have their addresses.
    pub(crate) cluster_cidrs: &'a [IpNet],
    /// Which marked connections are masqueraded.
    pub(crate) masquerade: MasqueradeMode,
    /// Why the Service is not as it should be, and what the kernel said.
    pub(crate) failure: Option<(Reason, &'a str)>,
    /// Who owns what by layer 2.
    pub(crate) layer2: &'a Owners,
}

/// Explains one Service.
pub(crate) fn explain(
    view: &View<'_>,
    in_force: InForce<'_>,
    service: &ServiceObject,
    endpoints: &EndpointsView,
) -> ServiceAnswer {
    let mut answer = ServiceAnswer {
        service: service.name.to_string(),
        node: view.node.name.clone(),
        proxy: in_force.mode.to_string(),
        programmed: in_force.programmed,
        not_proxied: None,
        refused: in_force
            .failure
            .map(|(reason, error)| Said::new(reason, format!("{}: {error}", reason.sentence()))),
        frontends: Vec::new(),
        frontends_left_out: 0,
        ports: Vec::new(),
        announcements: Vec::new(),
        health_check: None,
        notes: Vec::new(),
        advice: Vec::new(),
    };
    match &service.view {
        Err(not_proxied) => answer.not_proxied = Some(Said::new(not_proxied.word(), not_proxied)),
        Ok((proxied, _)) => {
            let plan = plan(view, service, endpoints);
            fill(&mut answer, view, in_force, service, proxied, &plan, endpoints);
        }
    }
    answer.advice = advice::of_service(&answer, service, endpoints);
    answer
}

fn fill(
    answer: &mut ServiceAnswer,
    view: &View<'_>,
    in_force: InForce<'_>,
    service: &ServiceObject,
    proxied: &ServiceView,
    plan: &ServicePlan,
    endpoints: &EndpointsView,
) {
    let frontends = plan.rules.as_ref().map(|rules| &*rules.frontends).unwrap_or_default();
    answer.not_proxied = match in_force.mode {
        ProxyMode::Off => Some(Said::new("ProxyOff", "this speaker only announces (--proxy=off)")),
        ProxyMode::External if frontends.is_empty() => Some(Said::new(
            "ProxyExternal",
            "this speaker serves only load balancer addresses and externalIPs (--proxy=external)",
        )),
        ProxyMode::Full | ProxyMode::External => None,
    };
    // By kind, as `kubectl get service` tells them.
    let mut ordered: Vec<&FrontendRules> = frontends.iter().collect();
    ordered.sort_by_key(|rules| (rank(rules.kind), rules.frontend));
    answer.frontends_left_out = frontends.len().saturating_sub(LISTED);
    answer.frontends =
        ordered.into_iter().take(LISTED).map(|rules| frontend(in_force, service, rules)).collect();
    for family in IpFamily::ALL.into_iter().filter(|&family| proxied.serves(family)) {
        answer.ports.extend(proxied.ports.iter().map(|of| port(view, frontends, of, family, endpoints)));
    }
    answer.announcements = plan
        .verdicts
        .iter()
        .map(|(address, verdict)| {
            let routes = plan.claims.routes.keys().filter(|route| route.contains(address));
            let layer2 = owners(in_force.layer2, *address);
            let owned = layer2.iter().any(|of| of.owner.as_ref() == Some(&view.node.name));
            let reason = match (verdict, in_force.failure) {
                (Verdict::Skip(reason), _) => Some(*reason),
                (_, Some((reason, _))) => Some(reason),
                (Verdict::Offer { bgp: false }, None) if !owned => Some(Reason::NotOwner),
                (Verdict::Announce | Verdict::Offer { .. }, None) => None,
            };
            AnnouncementAnswer {
                address: address.to_string(),
                announced: reason.is_none(),
                routes: if reason.is_none() {
                    routes.map(|route| route.to_string()).collect()
                } else {
                    Vec::new()
                },
                layer2,
                reason: reason.map(|reason| Said::new(reason, reason.sentence())),
            }
        })
        .collect();
    let health = plan.rules.as_ref().and_then(|rules| rules.health);
    answer.health_check =
        health.map(|health| HealthCheckAnswer { port: health.port, local_endpoints: health.local_endpoints });
    answer.notes = plan.remarks.iter().map(|remark| Said::new(remark.reason.word(), &remark.text)).collect();
}

/// Who owns an address, by interface.
fn owners(all: &Owners, address: IpAddr) -> Vec<Layer2Answer> {
    let standing =
        all.ports.iter().filter_map(|(interface, port)| Some((interface, port.standings.get(&address)?)));
    let answer = standing.map(|(interface, standing)| Layer2Answer {
        interface: interface.clone(),
        owner: standing.owner.as_deref().map(str::to_owned),
        claim: standing.claim,
        next: standing.next.as_deref().map(str::to_owned),
        next_by: standing.next_by.map(|by| by.word().to_owned()),
    });
    answer.collect()
}

fn frontend(in_force: InForce<'_>, service: &ServiceObject, rules: &FrontendRules) -> FrontendAnswer {
    let holder = in_force.program.and_then(|program| program.holder(&rules.frontend));
    let held_by = holder.map(|holder| &**holder.service).filter(|holder| **holder != service.name);
    let (state, text) = match held_by {
        Some(name) => ("HeldByOther", format!("nothing of this Service: {name} has the better claim")),
        None => match holder {
            // What is in force, which is older where the kernel refused a change.
            Some(holder) => state(holder.rules),
            None => ("NotInKernel", "its rules are not in the kernel".to_owned()),
        },
    };
    FrontendAnswer {
        address: rules.frontend.address.to_string(),
        port: rules.frontend.port,
        protocol: rules.frontend.protocol.to_string(),
        kind: rules.kind.word().to_owned(),
        policy: policy_word(rules.policy).to_owned(),
        service_port: rules.backends.port.to_string(),
        state: state.to_owned(),
        text,
        held_by: held_by.map(ToString::to_string),
        sources: rules
            .sources
            .as_ref()
            .map(|sources| sources.iter().take(LISTED).map(ToString::to_string).collect()),
        affinity_seconds: rules.backends.affinity,
        masquerade: masquerade(in_force, rules),
    }
}

fn rank(kind: FrontendKind) -> u8 {
    match kind {
        FrontendKind::ClusterIp => 0,
        FrontendKind::NodePort => 1,
        FrontendKind::LoadBalancer => 2,
        FrontendKind::ExternalIp => 3,
    }
}

pub(super) fn policy_word(policy: Policy) -> &'static str {
    match policy {
        Policy::Internal | Policy::External => "Cluster",
        Policy::InternalLocal | Policy::ExternalLocal => "Local",
    }
}

/// What becomes of a client from outside.
fn state(rules: &FrontendRules) -> (&'static str, String) {
    let (cluster, local) = (rules.cluster().len(), rules.local().len());
    let inside = match rules.policy {
        Policy::ExternalLocal => format!("; pods and this node: {} anywhere", endpoints_of(cluster)),
        Policy::Internal | Policy::InternalLocal | Policy::External => String::new(),
    };
    if rules.serves_clients() {
        let mut text = match rules.policy {
            Policy::Internal | Policy::External => endpoints_of(cluster),
            Policy::InternalLocal | Policy::ExternalLocal => {
                format!("{} of this node{inside}", endpoints_of(local))
            }
        };
        if let Some(seconds) = rules.backends.affinity {
            text.push_str(&format!("; a client keeps its endpoint for {seconds} s"));
        }
        return ("Serves", text);
    }
    match rules.refusal() {
        Some(herald_proxy::Refusal::Drop) => {
            ("Drops", format!("no answer ({}){inside}", DropReason::NoLocalEndpoint.word()))
        }
        _ => ("Rejects", format!("connection refused ({})", RejectReason::NoEndpoint.word())),
    }
}

fn endpoints_of(count: usize) -> String {
    if count == 1 { "1 endpoint".to_owned() } else { format!("{count} endpoints") }
}

/// Whose address the endpoints do not see.
fn masquerade(in_force: InForce<'_>, rules: &FrontendRules) -> Vec<Said> {
    let family = IpFamily::of(rules.frontend.address);
    let pods: Vec<String> = in_force
        .cluster_cidrs
        .iter()
        .filter(|cidr| IpFamily::of(cidr.network()) == family)
        .map(ToString::to_string)
        .collect();
    let mut why = Vec::new();
    if rules.cluster().is_empty() && rules.local().is_empty() {
        return why;
    }
    match rules.policy {
        // Without a pod network nobody is known to be none.
        Policy::Internal | Policy::InternalLocal if pods.is_empty() => {}
        Policy::Internal | Policy::InternalLocal => {
            let text = format!("{} {}", Masquerade::NotPod.sentence(), pods.join(", "));
            why.push(Said::new(Masquerade::NotPod.word(), text));
        }
        Policy::External => why.push(said(Masquerade::External)),
        Policy::ExternalLocal => why.push(said(Masquerade::OwnNode)),
    }
    if in_force.masquerade == MasqueradeMode::Remote {
        why.iter_mut().for_each(|said| said.text.push_str(", to endpoints on other nodes"));
    }
    if rules.policy != Policy::External && !rules.backends.hairpin.is_empty() {
        why.push(said(Masquerade::Hairpin));
    }
    why
}

pub(super) fn said(masquerade: Masquerade) -> Said {
    Said::new(masquerade.word(), masquerade.sentence())
}

fn port(
    view: &View<'_>,
    frontends: &[FrontendRules],
    port: &ServicePort,
    family: IpFamily,
    endpoints: &EndpointsView,
) -> PortAnswer {
    let own = || {
        frontends.iter().filter(|rules| {
            let frontend = rules.frontend;
            rules.backends.port == port.name
                && frontend.protocol == port.protocol
                && IpFamily::of(frontend.address) == family
        })
    };
    // All frontends of a port share their tables: the first that looks into one speaks for all.
    let cluster = own().find(|rules| rules.policy != Policy::InternalLocal);
    let local = own().find(|rules| matches!(rules.policy, Policy::InternalLocal | Policy::ExternalLocal));
    let shares = |rules: Option<&FrontendRules>, scope| rules.map(|rules| rules.shares(scope));
    let (cluster, local) = (shares(cluster, Scope::Cluster), shares(local, Scope::Local));

    let merged = endpoints.of_port(family, &port.name, port.protocol, &view.node.name);
    let (anywhere, here) = (Selector::cluster(&merged, view.node), Selector::local(&merged));
    let slices = slices_of(endpoints, port, family);
    let is_held = |address: SocketAddr| endpoints.held().is_some_and(|held| held.contains(&address.ip()));
    let listed = merged.iter().take(LISTED).map(|endpoint| EndpointAnswer {
        address: endpoint.address.to_string(),
        node: endpoint.node.map(str::to_owned),
        cluster: cluster.as_ref().map(|shares| {
            standing(anywhere.judge(endpoint), shares, endpoint.address, is_held(endpoint.address))
        }),
        local: local.as_ref().map(|shares| {
            standing(here.judge(endpoint), shares, endpoint.address, is_held(endpoint.address))
        }),
        slices: slices.get(&endpoint.address).cloned().unwrap_or_default(),
    });
    PortAnswer {
        name: port.name.to_string(),
        port: port.number,
        protocol: port.protocol.to_string(),
        family: family_word(family).to_owned(),
        uses_cluster: cluster.is_some(),
        uses_local: local.is_some(),
        endpoints: listed.collect(),
        endpoints_left_out: merged.len().saturating_sub(LISTED),
    }
}

pub(super) fn family_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

fn standing(
    standing: Standing,
    (of, slots): &(u16, BTreeMap<SocketAddr, u16>),
    address: SocketAddr,
    is_held: bool,
) -> StandingAnswer {
    let slots = slots.get(&address).copied().unwrap_or_default();
    let said = match is_held && standing.is_in() {
        true => Said::new("Held", "not ready, and kept for a grace: many endpoints turned so at once"),
        false => Said::new(standing, standing.sentence()),
    };
    StandingAnswer { used: slots > 0, slots, of: *of, said }
}

/// In which slices each endpoint of a port stands.
fn slices_of(
    endpoints: &EndpointsView,
    port: &ServicePort,
    family: IpFamily,
) -> HashMap<SocketAddr, Vec<String>> {
    let mut found: HashMap<SocketAddr, Vec<String>> = HashMap::new();
    for (name, slice) in endpoints.slices().filter(|(_, slice)| slice.family == family) {
        for of in slice.ports.iter().filter(|of| of.name == port.name && of.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, of.number);
                let names = found.entry(address).or_default();
                if names.last().is_none_or(|last| last != name) {
                    names.push(name.to_owned());
                }
            }
        }
    }
    found
}
