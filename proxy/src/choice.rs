//! Which endpoints a Service port uses on a node: kube-proxy's `CategorizeEndpoints`, rule by rule.
//!
//! Two sets, chosen independently of each other: *cluster* (endpoints anywhere) and *local* (endpoints of this node).
//! - cluster: all ready endpoints that the topology hints leave; if that is none, all that serve while terminating.
//! - local: ready endpoints of this node; if none, those of this node that serve while terminating. No topology.
//!
//! Hints alone decide about topology (KEP-4444), computed over ready endpoints only:
//! every one has `forNodes` and one names this node → only those; else every one has `forZones` and one names this
//! node's zone → only those; else all. An endpoint that neither is ready nor serves is never used.

use crate::endpoints::Endpoint;
use crate::family::IpFamily;
use crate::node::NodeView;
use crate::service::{ServicePort, ServiceView};

/// Which of the two sets a Service port needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Endpoints anywhere: some policy is `Cluster`, or a way in from outside exists. The latter under
    /// `externalTrafficPolicy: Local` too, since pods and the node itself are served cluster-wide.
    pub cluster: bool,
    /// Endpoints of this node: some policy that counts is `Local`.
    pub local: bool,
}

impl Uses {
    /// What a port of a Service needs in one family.
    pub fn of(service: &ServiceView, port: &ServicePort, family: IpFamily) -> Self {
        let external = service.externally_reachable(port, family);
        Self {
            cluster: !service.internal_local || external,
            local: service.internal_local || (service.external_local && external),
        }
    }
}

/// The endpoints that a Service port uses on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'e, 'a> {
    /// Endpoints anywhere; empty when not needed.
    pub cluster: Vec<&'e Endpoint<'a>>,
    /// Endpoints of this node; empty when not needed.
    pub local: Vec<&'e Endpoint<'a>>,
    /// Some endpoint somewhere can be used.
    pub has_any: bool,
}

/// Chooses among the merged endpoints of a port; order is kept.
pub fn choose<'e, 'a>(uses: Uses, endpoints: &'e [Endpoint<'a>], node: &NodeView) -> Choice<'e, 'a> {
    let cluster = if uses.cluster { cluster(endpoints, node) } else { Vec::new() };
    let local = if uses.local { local(endpoints) } else { Vec::new() };
    let has_any = endpoints.iter().any(|endpoint| endpoint.ready || endpoint.serving_terminating);
    Choice { cluster, local, has_any }
}

fn cluster<'e, 'a>(endpoints: &'e [Endpoint<'a>], node: &NodeView) -> Vec<&'e Endpoint<'a>> {
    let ready: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    if ready.is_empty() {
        return endpoints.iter().filter(|endpoint| endpoint.serving_terminating).collect();
    }
    let this_node = |endpoint: &Endpoint<'_>| endpoint.nodes.contains(&node.name.as_str());
    if ready.iter().all(|endpoint| !endpoint.nodes.is_empty()) && ready.iter().any(|e| this_node(e)) {
        return ready.into_iter().filter(|endpoint| this_node(endpoint)).collect();
    }
    let Some(zone) = node.zone.as_deref().filter(|zone| !zone.is_empty()) else { return ready };
    let this_zone = |endpoint: &Endpoint<'_>| endpoint.zones.contains(&zone);
    if ready.iter().all(|endpoint| !endpoint.zones.is_empty()) && ready.iter().any(|e| this_zone(e)) {
        return ready.into_iter().filter(|endpoint| this_zone(endpoint)).collect();
    }
    ready
}

fn local<'e, 'a>(endpoints: &'e [Endpoint<'a>]) -> Vec<&'e Endpoint<'a>> {
    let of_node = || endpoints.iter().filter(|endpoint| endpoint.local);
    let ready: Vec<_> = of_node().filter(|endpoint| endpoint.ready).collect();
    if ready.is_empty() { of_node().filter(|endpoint| endpoint.serving_terminating).collect() } else { ready }
}

#[cfg(test)]
mod tests;
