//! The HTTP ports that kube-proxy has: health check node ports, 10256 and 10249.
//!
//! - [`serve_health_ports`]: one listener per `healthCheckNodePort`; load balancers ask it whether this node has ready
//!   endpoints of the Service. The desired ports come through a `watch` channel and change while it runs.
//! - [`serve_proxy_ports`]: 10256 (`/healthz`, `/livez`) and 127.0.0.1:10249 (`/metrics`, `/proxyMode`, `/healthz`).
//! - [`ProxyState`]: what these answers are computed from; pure, the time is an argument.
//!
//! Only *full* mode serves them: beside a kube-proxy the ports are its own. The answers never depend on the API server
//! being there. Tasks: one per listener, one per connection (at most 64 a listener), all in `JoinSet`s that end with
//! the function that was called. A port that cannot be bound is tried again with back-off until it is no longer wanted,
//! and told once per kind of failure through an `mpsc` channel; when that is full the report is dropped, the log has it.

mod http;
mod ports;
mod proxy;
mod state;

use std::io;
use std::net::SocketAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::EventReason;

pub use ports::{HealthPort, HealthPorts, serve_health_ports};
pub use proxy::{ProxyPorts, serve_proxy_ports};
pub use state::{ProxyState, node_eligible};

pub(crate) use http::listen;

/// A port could not be opened; it is being tried again.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct BindFailure {
    /// Where.
    pub address: SocketAddr,
    /// For which Service, when it is one's.
    pub service: Option<ObjectName>,
    /// Reason of the Event on that Service.
    pub reason: EventReason,
    /// Why.
    #[source]
    pub error: io::Error,
}
