//! Which endpoints a Service port uses on a node: kube-proxy's `CategorizeEndpoints`, rule by rule.
//!
//! Two sets, chosen independently of each other: *cluster* (endpoints anywhere) and *local* (endpoints of this node).
//! - cluster: all ready endpoints that the topology hints leave; if that is none, all that serve while terminating.
//! - local: ready endpoints of this node; if none, those of this node that serve while terminating. No topology.
//!
//! Hints alone decide about topology (KEP-4444), computed over ready endpoints only:
//! every one has `forNodes` and one names this node → only those; else every one has `forZones` and one names this
//! node's zone → only those; else all. An endpoint that neither is ready nor serves is never used.
//!
//! Where the node probes its own endpoints, the ready ones of each set are first narrowed to those of the best
//! [`crate::probe::ProbeState`] that there is, and to those on nodes that do not count as dead; that leaves some wherever
//! there were some.
//!
//! Decision and reason come from one function ([`Selector::judge`]): what `herald explain` says is what is done.

use std::fmt;

use crate::endpoints::Endpoint;
use crate::family::IpFamily;
use crate::node::NodeView;
use crate::probe::ProbeState;
use crate::service::{ServicePort, ServiceView};

/// Above the ranks of all [`ProbeState`]s.
const SUSPECT: u8 = 128;

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
    let of = |selector: Selector<'_>| {
        endpoints.iter().filter(|endpoint| selector.judge(endpoint).is_in()).collect()
    };
    let cluster = if uses.cluster { of(Selector::cluster(endpoints, node)) } else { Vec::new() };
    let local = if uses.local { of(Selector::local(endpoints)) } else { Vec::new() };
    let has_any = endpoints.iter().any(|endpoint| endpoint.ready || endpoint.serving_terminating);
    Choice { cluster, local, has_any }
}

/// How one of the two sets is chosen, found by a look at all endpoints; then asked for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selector<'n> {
    local_only: bool,
    /// Ready endpoints must be of this rank by their probes: the best that any has.
    rank: u8,
    by: By<'n>,
}

/// What an endpoint must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By<'n> {
    Ready,
    HintForNode(&'n str),
    HintForZone(&'n str),
    ServingTerminating,
}

impl<'n> Selector<'n> {
    /// For endpoints anywhere.
    pub fn cluster(endpoints: &[Endpoint<'_>], node: &'n NodeView) -> Self {
        let rank = best_rank(endpoints.iter().filter(|endpoint| endpoint.ready));
        let ready = || endpoints.iter().filter(|endpoint| endpoint.ready && rank_of(endpoint) == rank);
        let (name, zone) = (node.name.as_str(), node.zone.as_deref().unwrap_or_default());
        let by = if ready().next().is_none() {
            By::ServingTerminating
        } else if ready().all(|e| !e.nodes.is_empty()) && ready().any(|e| e.nodes.contains(&name)) {
            By::HintForNode(name)
        } else if !zone.is_empty()
            && ready().all(|e| !e.zones.is_empty())
            && ready().any(|e| e.zones.contains(&zone))
        {
            By::HintForZone(zone)
        } else {
            By::Ready
        };
        Self { local_only: false, rank, by }
    }

    /// For endpoints of this node.
    pub fn local(endpoints: &[Endpoint<'_>]) -> Self {
        let ready = endpoints.iter().any(|endpoint| endpoint.local && endpoint.ready);
        let rank = best_rank(endpoints.iter().filter(|endpoint| endpoint.local && endpoint.ready));
        Self { local_only: true, rank, by: if ready { By::Ready } else { By::ServingTerminating } }
    }

    /// Whether an endpoint is in the set, and why or why not.
    pub fn judge(&self, endpoint: &Endpoint<'_>) -> Standing {
        if self.local_only && !endpoint.local {
            return Standing::NotLocal;
        }
        match self.by {
            By::ServingTerminating if endpoint.serving_terminating => Standing::ServingTerminating,
            By::ServingTerminating => Standing::NotReady,
            _ if !endpoint.ready && endpoint.serving_terminating => Standing::Terminating,
            _ if !endpoint.ready => Standing::NotReady,
            _ if endpoint.suspect && rank_of(endpoint) != self.rank => Standing::NodeSilent,
            _ if rank_of(endpoint) != self.rank => Standing::ProbeFailed,
            _ if endpoint.suspect => Standing::AllNodesSilent,
            By::Ready if endpoint.probes != ProbeState::Passing => Standing::AllProbesFail,
            By::Ready => Standing::Ready,
            By::HintForNode(name) if endpoint.nodes.contains(&name) => Standing::ThisNode,
            By::HintForNode(_) => Standing::OtherNode,
            By::HintForZone(zone) if endpoint.zones.contains(&zone) => Standing::ThisZone,
            By::HintForZone(_) => Standing::OtherZone,
        }
    }
}

fn best_rank<'e, 'a: 'e>(endpoints: impl Iterator<Item = &'e Endpoint<'a>>) -> u8 {
    endpoints.map(rank_of).min().unwrap_or_default()
}

/// The lowest is the best: on a live node before what probes say.
fn rank_of(endpoint: &Endpoint<'_>) -> u8 {
    endpoint.probes.rank() + if endpoint.suspect { SUSPECT } else { 0 }
}

/// Why an endpoint is in a set or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// In: it is ready.
    Ready,
    /// In: it is ready, and its hints name this node.
    ThisNode,
    /// In: it is ready, and its hints name this node's zone.
    ThisZone,
    /// In: it terminates and still serves, and no other of the set is ready.
    ServingTerminating,
    /// In: it is ready, and fails this node's probes as all of the set do.
    AllProbesFail,
    /// In: it is ready, on a node that counts as dead, as all of the set are.
    AllNodesSilent,
    /// Out: it is not ready.
    NotReady,
    /// Out: it terminates, and others of the set are ready.
    Terminating,
    /// Out: it is ready, and fails this node's probes.
    ProbeFailed,
    /// Out: it is ready, on a node that counts as dead.
    NodeSilent,
    /// Out: its hints name other nodes.
    OtherNode,
    /// Out: its hints name other zones.
    OtherZone,
    /// Out: it does not run on this node.
    NotLocal,
}

impl Standing {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Ready,
        Self::ThisNode,
        Self::ThisZone,
        Self::ServingTerminating,
        Self::AllProbesFail,
        Self::AllNodesSilent,
        Self::NotReady,
        Self::Terminating,
        Self::ProbeFailed,
        Self::NodeSilent,
        Self::OtherNode,
        Self::OtherZone,
        Self::NotLocal,
    ];

    /// Whether new connections go to it.
    pub fn is_in(self) -> bool {
        matches!(
            self,
            Self::Ready
                | Self::ThisNode
                | Self::ThisZone
                | Self::ServingTerminating
                | Self::AllProbesFail
                | Self::AllNodesSilent
        )
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::ThisNode => "ThisNode",
            Self::ThisZone => "ThisZone",
            Self::ServingTerminating => "ServingTerminating",
            Self::AllProbesFail => "AllProbesFail",
            Self::AllNodesSilent => "AllNodesSilent",
            Self::NotReady => "NotReady",
            Self::Terminating => "Terminating",
            Self::ProbeFailed => "ProbeFailed",
            Self::NodeSilent => "NodeSilent",
            Self::OtherNode => "OtherNode",
            Self::OtherZone => "OtherZone",
            Self::NotLocal => "NotLocal",
        }
    }

    /// What it means, in words that follow the endpoint's address.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::ThisNode => "ready, and hinted for this node",
            Self::ThisZone => "ready, and hinted for this zone",
            Self::ServingTerminating => "on its way out and still serving, since none is ready",
            Self::AllProbesFail => "ready, and fails this node's probes as all do",
            Self::AllNodesSilent => "ready, on a node that has fallen silent, as all are",
            Self::NotReady => "not ready",
            Self::Terminating => "on its way out, and others are ready",
            Self::ProbeFailed => "ready, but fails this node's probes",
            Self::NodeSilent => "ready, but on a node that has fallen silent",
            Self::OtherNode => "hinted for other nodes",
            Self::OtherZone => "hinted for other zones",
            Self::NotLocal => "not on this node",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests;
