//! The service proxy: endpoint choice, ruleset, netlink, health servers.

mod by_prefix;
mod choice;
pub mod conntrack;
mod element;
mod endpoints;
pub mod external_ips;
mod family;
pub mod health;
pub mod localhost;
mod metrics;
pub mod netlink;
mod node;
mod note;
mod owners;
mod packed;
pub mod probe;
mod program;
mod reason;
mod rules;
pub mod ruleset;
mod service;
mod slice;
mod stable;
mod tracer;

#[cfg(test)]
mod testing;

pub use by_prefix::ByPrefix;
pub use choice::{Choice, Selector, Standing, Uses, choose};
pub use element::{Changes, Element, Frontend, Policy, Protocol, Refusal, Scope, UnknownProtocol};
pub use endpoints::{Endpoint, EndpointsView};
pub use family::IpFamily;
pub use metrics::{FamilyLabel, PolicyLabel, ProxyMetrics, TrafficPolicy};
pub use node::{NodeView, OtherFamilySources, ProxyMode};
pub use note::{AddressField, Note};
pub use owners::Owners;
pub use program::{Conflict, Holder, Program};
pub use reason::{DropReason, EndReason, RejectReason};
pub use rules::{Backends, FrontendKind, FrontendRules, HealthCheck, ServiceRules, rules};
pub use service::{NotProxied, ServicePort, ServiceType, ServiceView};
pub use slice::{
    Hints, Names, SliceEndpoint, SliceIgnored, SlicePort, SliceReading, SliceView, service_name,
};
pub use tracer::{Hook, Masquerade, Packet, Share, Step, Tracer, Verdict};
