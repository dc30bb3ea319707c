//! The rules of one Service on one node: every frontend, its policy and its endpoints, as set and map elements.
//!
//! Pure: `ServiceView` + `EndpointsView` + `NodeView` → [`ServiceRules`]. Frontends are kept in a compact form from
//! which the elements follow ([`FrontendRules::elements`]); `program.rs` compares them with what stands in the kernel.
//!
//! What a frontend has, by policy and endpoints (facts of kube-proxy, "no usable endpoints"):
//!
//! | endpoints                        | elements |
//! |----------------------------------|----------|
//! | none usable anywhere             | `Refused` Reject |
//! | Internal, External               | `Service`, cluster `Pick` and `Endpoint`s |
//! | InternalLocal, some local        | `Service`, local `Pick` and `Endpoint`s |
//! | InternalLocal, none local        | `Refused` Drop |
//! | ExternalLocal, some local        | `Service`, cluster and local `Pick` and `Endpoint`s |
//! | ExternalLocal, none local        | `Service`, cluster `Pick` and `Endpoint`s, `Refused` Drop |
//!
//! In the last line pods and the node itself are still served (the short circuit); everyone else finds no local pick,
//! stays without DNAT and meets the drop in the filter hooks. Source ranges come before all that: who is in none is
//! dropped at a load balancer address, with or without endpoints. All frontends but node ports have a `Vip` as well, and
//! every local endpoint in use a `Hairpin`.
//!
//! Shares are equal: slot *i* holds endpoint *i mod n* of the sorted endpoints. With session affinity it holds the number
//! of that endpoint (`stable.rs`), so that what the kernel remembers of a client outlasts changes of other endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::choice::{Choice, Uses, choose};
use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::endpoints::{Endpoint, EndpointsView};
use crate::family::IpFamily;
use crate::node::{NodeView, OtherFamilySources, ProxyMode};
use crate::probe::ProbeState;
use crate::ruleset::class_for;
use crate::service::{ServicePort, ServiceView};
use crate::stable;

/// Which of a Service's ways in a frontend is. The order is the precedence where two claim the same key: what the API
/// server hands out, then what a controller hands out, then what anyone can write into a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// A node port at one node address.
    NodePort,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

impl FrontendKind {
    /// The word, as Kubernetes writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
        }
    }
}

/// What all frontends of one Service port and family have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// Name of the Service port.
    pub port: Box<str>,
    /// Endpoints anywhere, sorted; empty where no policy needs them.
    pub cluster: Box<[SocketAddr]>,
    /// Endpoints of this node, sorted; empty where no policy needs them.
    pub local: Box<[SocketAddr]>,
    /// Those of both that run on this node.
    pub hairpin: Box<[SocketAddr]>,
    /// Endpoints that serve, and that neither policies nor topology choose here, sorted: flows that go to them stay.
    pub unchosen: Box<[SocketAddr]>,
    /// Those of `unchosen` whose node counts as dead, sorted: only what is not yet a connection does not wait for them.
    pub silent: Box<[SocketAddr]>,
    /// With session affinity: the seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// Some endpoint somewhere can be used.
    pub has_any: bool,
    /// Some endpoint of this node is ready (and not merely serving while it terminates), and its probes, if there are any, do
    /// not speak against attracting clients.
    pub local_ready: bool,
    /// Endpoints of this node are ready, and all of them fail their probes.
    pub local_probes_fail: bool,
}

/// The rules of one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendRules {
    /// The key.
    pub frontend: Frontend,
    /// Which way in it is.
    pub kind: FrontendKind,
    /// Which endpoints serve which sources.
    pub policy: Policy,
    /// The address is the Service's alone: what no rule takes ends at it.
    pub vip: bool,
    /// Who reaches it, disjoint and sorted; `None`: everyone.
    pub sources: Option<Arc<[IpNet]>>,
    /// Its endpoints.
    pub backends: Arc<Backends>,
}

/// The rules of one Service on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRules {
    /// When the Service was created; decides contested frontends.
    pub created: i64,
    /// Sorted by key, each key once.
    pub frontends: Box<[FrontendRules]>,
    /// The health check node port to serve and the number of endpoints it tells.
    pub health: Option<HealthCheck>,
    /// TCP node ports on localhost; they are served by the endpoints anywhere, as the node's own traffic is.
    pub local_ports: Box<[(SocketAddr, Arc<Backends>)]>,
}

/// What a health check node port tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints of this node.
    pub local_endpoints: usize,
}

impl Backends {
    /// Every endpoint that serves, wherever it is; some may come twice.
    pub fn serving(&self) -> impl Iterator<Item = &SocketAddr> {
        self.cluster.iter().chain(&self.local).chain(&self.unchosen)
    }

    /// Whether an endpoint serves, chosen here or not.
    pub fn serves(&self, endpoint: &SocketAddr) -> bool {
        [&self.cluster, &self.local, &self.unchosen].iter().any(|all| all.binary_search(endpoint).is_ok())
    }

    /// Whether its node counts as dead.
    pub fn is_silent(&self, endpoint: &SocketAddr) -> bool {
        self.silent.binary_search(endpoint).is_ok()
    }
}

impl FrontendRules {
    /// Endpoints that serve cluster-wide, in slot order.
    pub fn cluster(&self) -> &[SocketAddr] {
        match self.policy {
            Policy::Internal | Policy::External | Policy::ExternalLocal => &self.backends.cluster,
            Policy::InternalLocal => &[],
        }
    }

    /// Endpoints of this node that serve under policy Local, in slot order.
    pub fn local(&self) -> &[SocketAddr] {
        match self.policy {
            Policy::InternalLocal | Policy::ExternalLocal => &self.backends.local,
            Policy::Internal | Policy::External => &[],
        }
    }

    /// What becomes of a connection that no endpoint may take; `None` when there is none such.
    pub fn refusal(&self) -> Option<Refusal> {
        if !self.backends.has_any {
            return Some(Refusal::Reject);
        }
        match self.policy {
            Policy::InternalLocal | Policy::ExternalLocal if self.backends.local.is_empty() => {
                Some(Refusal::Drop)
            }
            _ => None,
        }
    }

    /// The number of slots that a new connection draws from, and how many of them each endpoint has.
    pub fn shares(&self, scope: Scope) -> (u16, BTreeMap<SocketAddr, u16>) {
        let endpoints = self.endpoints(scope);
        let mut count = BTreeMap::new();
        for (_, endpoint) in slots(endpoints) {
            *count.entry(endpoint).or_default() += 1;
        }
        (class(endpoints).unwrap_or_default(), count)
    }

    /// True when a client that comes to this node from outside is served.
    pub fn serves_clients(&self) -> bool {
        match self.policy {
            Policy::Internal | Policy::External => !self.cluster().is_empty(),
            Policy::InternalLocal | Policy::ExternalLocal => !self.local().is_empty(),
        }
    }

    /// The frontend's elements: endpoints, then picks, then the dispatch, so that a load that is cut anywhere never
    /// sends a packet to an endpoint that is not there yet; what ends the unserved comes last.
    pub fn elements(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        for scope in [Scope::Cluster, Scope::Local] {
            elements.extend(self.table(scope));
        }
        elements.extend(self.restriction());
        elements.push(self.counted());
        elements.extend(self.dispatch());
        elements.extend(self.refused());
        elements.extend(self.shared());
        elements
    }

    fn endpoints(&self, scope: Scope) -> &[SocketAddr] {
        match scope {
            Scope::Cluster => self.cluster(),
            Scope::Local => self.local(),
        }
    }

    /// One endpoint table: the endpoints, then what leads to them.
    pub(crate) fn table(&self, scope: Scope) -> Vec<Element> {
        let frontend = self.frontend;
        let endpoints = self.endpoints(scope);
        let Some(class) = class(endpoints) else { return Vec::new() };
        let mut elements = Vec::with_capacity(usize::from(class) + 1);
        let Some(timeout) = self.backends.affinity else {
            elements.extend(slots(endpoints).map(|(slot, endpoint)| Element::Endpoint {
                frontend,
                scope,
                slot,
                endpoint,
            }));
            elements.push(Element::Pick { frontend, scope, class });
            return elements;
        };
        let numbered = stable::numbers(endpoints);
        elements.extend(numbered.iter().map(|&(stable, endpoint)| Element::StableEndpoint {
            frontend,
            scope,
            stable,
            endpoint,
        }));
        let numbers = (0..class).zip(numbered.iter().cycle());
        elements.extend(numbers.map(|(slot, &(stable, _))| Element::Slot { frontend, scope, slot, stable }));
        elements.push(Element::AffinePick { frontend, scope, class });
        elements.push(Element::Affinity { frontend, scope, timeout });
        elements
    }

    /// Who reaches the frontend: the sources before what makes them count.
    pub(crate) fn restriction(&self) -> impl Iterator<Item = Element> {
        let frontend = self.frontend;
        let sources = self.sources.iter().flat_map(|sources| sources.iter());
        let sources = sources.map(move |&prefix| Element::Source { frontend, prefix });
        sources.chain(self.sources.is_some().then_some(Element::Restricted { frontend }))
    }

    /// What counts its packets.
    pub(crate) fn counted(&self) -> Element {
        Element::Counted { frontend: self.frontend }
    }

    /// The dispatch element, when some endpoint serves.
    pub(crate) fn dispatch(&self) -> Option<Element> {
        let serves = !self.cluster().is_empty() || !self.local().is_empty();
        serves.then_some(Element::Service { frontend: self.frontend, policy: self.policy })
    }

    /// The refusal element.
    pub(crate) fn refused(&self) -> Option<Element> {
        self.refusal().map(|refusal| Element::Refused { frontend: self.frontend, refusal })
    }

    /// The elements that other frontends and Services may need as well.
    pub(crate) fn shared(&self) -> impl Iterator<Item = Element> {
        let protocol = self.frontend.protocol;
        let hairpin =
            self.backends.hairpin.iter().map(move |&endpoint| Element::Hairpin { endpoint, protocol });
        hairpin.chain(self.vip.then_some(Element::Vip { address: self.frontend.address }))
    }
}

impl ServiceRules {
    /// All elements; shared ones once.
    pub fn elements(&self) -> Vec<Element> {
        let mut seen = std::collections::BTreeSet::new();
        let all = self.frontends.iter().flat_map(FrontendRules::elements);
        all.filter(|element| seen.insert(*element)).collect()
    }
}

/// The class of a table of endpoints; none for an empty one.
fn class(endpoints: &[SocketAddr]) -> Option<u16> {
    (!endpoints.is_empty()).then(|| class_for(endpoints.len()))
}

/// The slots of a table of endpoints.
fn slots(endpoints: &[SocketAddr]) -> impl Iterator<Item = (u16, SocketAddr)> {
    (0..class(endpoints).unwrap_or(0)).zip(endpoints.iter().copied().cycle())
}

/// Makes the rules of a Service. `service.external_ips` are the admitted ones (`external_ips::admit`).
pub fn rules(service: &ServiceView, endpoints: &EndpointsView, node: &NodeView) -> ServiceRules {
    let mut frontends = Vec::new();
    let mut local_ports = Vec::new();
    for family in IpFamily::ALL.into_iter().filter(|&family| service.serves(family)) {
        for port in &service.ports {
            let ways = ways_in(service, port, family, node);
            let local = localhost(port, family, node);
            if ways.is_empty() && local.is_none() {
                continue;
            }
            let backends = Arc::new(backends(service, port, family, endpoints, node));
            // Localhost is this node, and so served cluster-wide under either policy.
            local_ports.extend(local.map(|address| (address, Arc::clone(&backends))));
            frontends.extend(ways.into_iter().map(|(kind, address, number)| FrontendRules {
                frontend: Frontend { address, protocol: port.protocol, port: number },
                kind,
                policy: policy(service, kind),
                vip: kind != FrontendKind::NodePort && !node.is_node_address(address),
                sources:
                    (kind == FrontendKind::LoadBalancer).then(|| sources(service, address, node)).flatten(),
                backends: Arc::clone(&backends),
            }));
        }
    }
    // A key that a Service has twice (an externalIP that is its load balancer address, say) has one set of rules; the
    // sort is stable, so of equal kinds the earlier port's.
    frontends.sort_by_key(|rules| (rules.frontend, rules.kind));
    frontends.dedup_by_key(|rules| rules.frontend);
    let health = match (node.mode, service.health_check_node_port) {
        (ProxyMode::Full, Some(port)) => {
            Some(HealthCheck { port, local_endpoints: endpoints.local_ready(&node.name) })
        }
        _ => None,
    };
    ServiceRules {
        created: service.created,
        frontends: frontends.into_boxed_slice(),
        health,
        local_ports: local_ports.into(),
    }
}

fn ways_in(
    service: &ServiceView,
    port: &ServicePort,
    family: IpFamily,
    node: &NodeView,
) -> Vec<(FrontendKind, IpAddr, u16)> {
    let mut ways = Vec::new();
    let mut add = |kind, addresses: &[IpAddr], number| {
        let of_family = addresses.iter().filter(|&&address| IpFamily::of(address) == family);
        ways.extend(of_family.map(|&address| (kind, address, number)));
    };
    if node.mode == ProxyMode::Full {
        add(FrontendKind::ClusterIp, &service.cluster_ips, port.number);
        if let Some(node_port) = port.node_port {
            add(FrontendKind::NodePort, &node.port_addresses, node_port);
        }
    }
    add(FrontendKind::LoadBalancer, &service.load_balancer_ips, port.number);
    add(FrontendKind::ExternalIp, &service.external_ips, port.number);
    ways
}

fn localhost(port: &ServicePort, family: IpFamily, node: &NodeView) -> Option<SocketAddr> {
    let number = port.node_port.filter(|_| node.mode == ProxyMode::Full && port.protocol == Protocol::Tcp)?;
    let address = node.localhost.iter().find(|ip| IpFamily::of(**ip) == family)?;
    Some(SocketAddr::new(*address, number))
}

fn policy(service: &ServiceView, kind: FrontendKind) -> Policy {
    match kind {
        FrontendKind::ClusterIp if service.internal_local => Policy::InternalLocal,
        FrontendKind::ClusterIp => Policy::Internal,
        _ if service.external_local => Policy::ExternalLocal,
        _ => Policy::External,
    }
}

/// Who reaches a load balancer address. The node itself may come from the address, where that is on `lo`: it is let
/// in by it when it is let in by its own.
fn sources(service: &ServiceView, vip: IpAddr, node: &NodeView) -> Option<Arc<[IpNet]>> {
    let ranges = service.source_ranges.as_ref()?;
    let of_family = |address: IpAddr| address.is_ipv4() == vip.is_ipv4();
    let mut sources: Vec<IpNet> = ranges.iter().copied().filter(|range| of_family(range.addr())).collect();
    if sources.is_empty() && !ranges.is_empty() && node.other_family_sources == OtherFamilySources::Allow {
        return None;
    }
    let mut own = node.own_addresses.iter().filter(|&&address| of_family(address));
    if own.any(|own| sources.iter().any(|range| range.contains(own))) {
        sources.push(IpNet::from(vip));
        sources = IpNet::aggregate(&sources);
        sources.sort_unstable();
    }
    Some(sources.into())
}

fn backends(
    service: &ServiceView,
    port: &ServicePort,
    family: IpFamily,
    endpoints: &EndpointsView,
    node: &NodeView,
) -> Backends {
    let endpoints = endpoints.of_port(family, &port.name, port.protocol, &node.name);
    let Choice { cluster, local, has_any } = choose(Uses::of(service, port, family), &endpoints, node);
    let mut hairpin: Vec<SocketAddr> =
        cluster.iter().chain(&local).filter(|endpoint| endpoint.local).map(|e| e.address).collect();
    hairpin.sort_unstable();
    hairpin.dedup();
    let addresses = |chosen: &[&Endpoint<'_>]| chosen.iter().map(|endpoint| endpoint.address).collect();
    let ready = || endpoints.iter().filter(|endpoint| endpoint.local && endpoint.ready);
    let local_ready = ready().any(|endpoint| endpoint.probes.attracts());
    // Endpoints are merged and sorted by address, and so is what was chosen of them.
    let is_chosen = |endpoint: &Endpoint<'_>| {
        let address = endpoint.address;
        [&cluster, &local].iter().any(|chosen| chosen.binary_search_by_key(&address, |e| e.address).is_ok())
    };
    // One that has failed its probes serves nobody as far as this node knows, and holds no flows.
    let serves = |endpoint: &&Endpoint<'_>| {
        let ready = endpoint.ready && endpoint.probes != ProbeState::Failed;
        ready || endpoint.serving_terminating
    };
    let unchosen: Vec<_> = endpoints.iter().filter(serves).filter(|endpoint| !is_chosen(endpoint)).collect();
    let silent: Vec<_> = unchosen.iter().copied().filter(|endpoint| endpoint.suspect).collect();
    Backends {
        port: port.name.clone(),
        cluster: addresses(&cluster),
        local: addresses(&local),
        hairpin: hairpin.into_boxed_slice(),
        unchosen: addresses(&unchosen),
        silent: addresses(&silent),
        affinity: service.affinity,
        has_any,
        local_ready,
        local_probes_fail: !local_ready && ready().next().is_some(),
    }
}

#[cfg(test)]
mod tests;
