//! Health checks that each node makes of its own endpoints, for Services that ask for them.
//!
//! The annotation `herald.io/probe` ([`ProbeSpec`]) asks; [`Targets`] says which sockets of this node are probed for it;
//! [`Prober`] decides when, and what the outcomes mean; [`run`] is the one task that opens sockets. What comes out is a
//! [`ServiceProbes`] per Service, which [`crate::EndpointsView`] carries to the endpoint choice.
//!
//! An endpoint is trusted until its probes have failed `fail` times in a row, and again once they have passed `pass`
//! times. Probing only ever narrows what readiness from the API allows, and never to nothing:
//! - *Rules.* Of the endpoints that a table would have, those that pass are used. Where none passes, those that passed
//!   last (the last known good set) and those that never passed are used; where there is none of these either, all. So
//!   a table that has endpoints without probing has endpoints with it. The cluster-wide table thus goes on with the
//!   endpoints of other nodes, about which this node knows nothing, and the local one with the last good ones.
//! - *Health check node port and announcement under policy Local* follow the probes: no local endpoint that passes,
//!   no announcement. One that has never passed counts while none passes: a probe that nothing ever answered (a wrong
//!   path, say) is more likely wrong than all that it asks, and must not take a Service off the air on every node.
//!
//! A node knows its own probes only. Where all endpoints of a Service of policy Local, on all nodes, pass first and fail
//! then, all nodes withdraw, just as if the pods had turned not ready.

mod attempt;
mod driver;
mod endpoint;
mod metrics;
mod prober;
mod spec;
mod state;
mod targets;

pub use attempt::{Failure, Outcome};
pub use driver::{Probes, Verdicts, run};
pub use metrics::ProbeMetrics;
pub use prober::{Attempt, Prober};
pub use spec::{ANNOTATION, ProbeKind, ProbeSpec, SpecError};
pub use state::{ProbeState, ServiceProbes};
pub use targets::Targets;
