//! What `herald explain` answers, as values: the JSON that the speaker serves, `-o json` prints and the text is made of.
//!
//! A contract with scripts: fields are added, not renamed and not removed; every field is always there (`null` or an
//! empty list where there is nothing). Words (`reason`, `kind`, `policy`, `verdict`, `state`) are from closed lists.

use serde::{Deserialize, Serialize};

/// A word from a closed list, and what it means here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Said {
    /// The word, as in log, Event and metric.
    pub reason: String,
    /// One sentence.
    pub text: String,
}

impl Said {
    pub(crate) fn new(reason: impl ToString, text: impl ToString) -> Self {
        Self { reason: reason.to_string(), text: text.to_string() }
    }
}

/// A node's view of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAnswer {
    /// Namespace and name.
    pub service: String,
    /// Who answers.
    pub node: String,
    /// `full`, `external` or `off`.
    pub proxy: String,
    /// Whether all rules of this run are in the kernel.
    pub programmed: bool,
    /// Why the Service is none of the proxy's business.
    pub not_proxied: Option<Said>,
    /// Why the kernel or `lo` did not take what the Service needs.
    pub refused: Option<Said>,
    /// Where clients connect to.
    pub frontends: Vec<FrontendAnswer>,
    /// Frontends beyond those listed.
    pub frontends_left_out: usize,
    /// The Service's ports and the endpoints behind each, per family.
    pub ports: Vec<PortAnswer>,
    /// The load balancer addresses, and whether this node announces them.
    pub announcements: Vec<AnnouncementAnswer>,
    /// The health check node port that this node serves.
    pub health_check: Option<HealthCheckAnswer>,
    /// What was left out of the object and why.
    pub notes: Vec<Said>,
    /// What to do next, where something is wrong.
    pub advice: Vec<String>,
}

/// One frontend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendAnswer {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// `Cluster` or `Local`.
    pub policy: String,
    /// Name of the Service's port; empty when it has none.
    pub service_port: String,
    /// `Serves`, `Drops`, `Rejects` or `HeldByOther`: what becomes of a client from outside.
    pub state: String,
    /// The same as a sentence.
    pub text: String,
    /// The Service that holds it, when that is another one.
    pub held_by: Option<String>,
    /// The only sources that reach it; `null`: everyone does.
    pub sources: Option<Vec<String>>,
    /// So many seconds a client keeps the endpoint that it got; `null`: each connection draws anew.
    pub affinity_seconds: Option<u32>,
    /// Whose address the endpoints do not see, and why.
    pub masquerade: Vec<Said>,
}

/// One port of the Service in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAnswer {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Whether endpoints anywhere are used: by which policies is told by the frontends.
    pub uses_cluster: bool,
    /// Whether endpoints of this node are used by themselves.
    pub uses_local: bool,
    /// Sorted by address.
    pub endpoints: Vec<EndpointAnswer>,
    /// Endpoints beyond those listed.
    pub endpoints_left_out: usize,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// Address and port.
    pub address: String,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its part of connections that may go anywhere; `null` when no policy asks for that.
    pub cluster: Option<StandingAnswer>,
    /// Its part of connections that stay on this node; `null` when no policy asks for that.
    pub local: Option<StandingAnswer>,
    /// The EndpointSlices that it stands in; several while it is moved between them.
    pub slices: Vec<String>,
}

/// An endpoint's part in a set of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingAnswer {
    /// Whether it gets new connections.
    pub used: bool,
    /// So many of `of` slots.
    pub slots: u16,
    /// New connections draw one of so many.
    pub of: u16,
    /// Why it is in or out.
    #[serde(flatten)]
    pub said: Said,
}

/// One load balancer address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncementAnswer {
    /// The address.
    pub address: String,
    /// Whether this node announces it.
    pub announced: bool,
    /// By which routes.
    pub routes: Vec<String>,
    /// Who owns it by layer 2, for each interface where this node may; empty where it may not.
    pub layer2: Vec<Layer2Answer>,
    /// Why not.
    pub reason: Option<Said>,
}

/// An address on one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer2Answer {
    /// This node's interface on it.
    pub interface: String,
    /// The node that owns the address.
    pub owner: Option<String>,
    /// The number of its claim; the highest of all stands.
    #[serde(default)]
    pub claim: Option<u32>,
    /// The node that would own it if the owner went.
    pub next: Option<String>,
    /// Why that one.
    #[serde(default)]
    pub next_by: Option<String>,
}

/// The health check node port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckAnswer {
    /// Its number.
    pub port: u16,
    /// Ready endpoints of this node; none: it answers 503.
    pub local_endpoints: usize,
}

/// What becomes of the first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketAnswer {
    /// Who answers.
    pub node: String,
    /// Source address.
    pub from: String,
    /// Destination address, port and protocol.
    pub to: String,
    /// `Dnat`, `Drop`, `Reject` or `Pass`.
    pub verdict: String,
    /// Why it is dropped or rejected.
    pub reason: Option<Said>,
    /// The Service that holds the frontend.
    pub service: Option<String>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: Option<String>,
    /// `Cluster` or `Local`.
    pub policy: Option<String>,
    /// Where it may go.
    pub endpoints: Vec<TargetAnswer>,
    /// So many seconds a client keeps the endpoint that it got; `null`: each connection draws anew.
    pub affinity_seconds: Option<u32>,
    /// All in one line.
    pub summary: String,
    /// The way through hooks, chains and maps.
    pub walk: Vec<StepAnswer>,
    /// What to do next, where something is wrong.
    pub advice: Vec<String>,
}

/// Where a packet may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetAnswer {
    /// Address and port.
    pub address: String,
    /// So many of `of` slots.
    pub slots: u16,
    /// One of so many is drawn.
    pub of: u16,
    /// Whether and why the endpoint sees the node's address instead of the source.
    pub masquerade: Option<Said>,
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAnswer {
    /// Chain, or map or set, of `table ip herald` or `ip6 herald`.
    pub at: String,
    /// What was looked for or asked there, and what came of it.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One sentence with a remedy.
    pub error: String,
}
