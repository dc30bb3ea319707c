//! `herald explain`, `herald status` and `herald history`: what this node does with one Service or one packet and why, its BGP sessions, its routes,
//! and what happened to an address.
//!
//! ```text
//!   admin server: GET /explain/…  ──(mpsc, depth QUEUE, answered)──> the reconcile loop, between two batches
//!   herald explain ──HTTP──> admin server; JSON in both directions of the contract (model.rs), text.rs prints it
//! ```
//!
//! Answers are made of the live index, plan and program by pure functions (`service.rs`, `packet.rs`). What a question
//! costs depends on the Service that it is about, not on how many there are, and questions are paced (`serve.rs`): the
//! loop is never kept from its work for longer than one plan takes. Read-only, but for `herald try` (`tries.rs`), which connects to endpoints; addresses and
//! names are all that is told.

mod advice;
mod announced;
mod availability;
mod endpoints;
mod history;
mod model;
mod node;
mod overview;
mod packet;
mod serve;
mod service;
mod status;
mod text;
mod tries;

#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;

pub use announced::{AnnouncedAnswer, InterfaceAnswer, OwnedAnswer, ToldAnswer};
pub use availability::{AvailabilityAnswer, ProbedAnswer};
pub use endpoints::{EndpointsAnswer, EndpointsCount};
pub use history::{EntryAnswer, HeldAnswer, HistoryAnswer, LAST, SESSION_DOWN, SESSION_UP, Subject};
pub use model::{
    AnnouncementAnswer, EndpointAnswer, Failure, FrontendAnswer, HealthCheckAnswer, Layer2Answer,
    PacketAnswer, PortAnswer, Said, ServiceAnswer, StandingAnswer, StepAnswer, TargetAnswer,
};
pub use overview::{Finding, NodeAnswer};
pub use packet::PacketQuestion;
pub use status::span;
pub use status::{BgpAnswer, FailureAnswer, MakerAnswer, PeerAnswer, RouteAnswer, RoutesAnswer};
pub use text::{aligned, cells, table};
pub use tries::{TriedAnswer, TryAnswer};

pub(crate) use serve::{Asker, QUEUE, page};

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_runtime::ObjectName;
use tokio::sync::oneshot;

/// Where a Service is asked about, under the admin address: `/explain/service/NAMESPACE/NAME`.
pub const SERVICE_PATH: &str = "/explain/service/";
/// Where a packet is asked about: `/explain/packet?from=…&to=…`.
pub const PACKET_PATH: &str = "/explain/packet";
/// Where it is asked how addresses are announced: the peers that are told, and who owns what on the segments.
pub const ANNOUNCED_PATH: &str = "/explain/announced";
/// Where the endpoints of all Services of type LoadBalancer are counted.
pub const ENDPOINTS_PATH: &str = "/explain/endpoints";
/// Where the sessions are asked about.
pub const BGP_PATH: &str = "/explain/bgp";
/// Where an address or a Service's addresses are asked about: `/explain/history/ADDRESS`, `/explain/history/NAMESPACE/NAME`.
pub const HISTORY_PATH: &str = "/explain/history/";
/// Where a Service's endpoints are tried: `/explain/try/NAMESPACE/NAME`.
pub const TRY_PATH: &str = "/explain/try/";
/// Where the node as a whole is asked about.
pub const NODE_PATH: &str = "/explain/node";
/// Where the routes are asked about.
pub const ROUTES_PATH: &str = "/explain/routes";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// About a Service.
    Service(ObjectName),
    /// About a packet, on a node with these addresses.
    Packet(PacketQuestion, BTreeSet<IpAddr>),
    /// About the node as a whole.
    Node,
    /// About how addresses are announced.
    Announced,
    /// About the endpoints of all Services of type LoadBalancer.
    Endpoints,
    /// About the BGP sessions.
    Bgp,
    /// About the routes that peers are told.
    Routes,
    /// About what happened.
    History(Subject),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The question makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is no such Service.
    #[error("{0}")]
    Unknown(String),
    /// Not every watch has delivered.
    #[error(
        "the speaker has not heard everything from the API server yet, and does nothing before it has: look at its /readyz and its log"
    )]
    NotSynced,
    /// The loop did not answer in time.
    #[error("the speaker is busy and did not answer in time: ask again, and look at its log if that goes on")]
    Busy,
}

/// The answer, as JSON.
pub(crate) type Answer = Result<Vec<u8>, Refusal>;

/// A question on its way to the loop.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) answer: oneshot::Sender<Answer>,
}
