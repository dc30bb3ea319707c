//! The service proxy: endpoint choice, ruleset, netlink, health servers.

mod element;

pub use element::{Changes, Element, Frontend, Policy, Protocol, Refusal, Scope};
