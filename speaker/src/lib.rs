//! The node role: serves Services' addresses on this node and announces them.
//!
//! ```text
//!   API server
//!     │ watch: Services · EndpointSlices · Nodes · ServiceCIDRs · ConfigMap   5x, each with one list, then changes
//!     ▼ mpsc, depth 256, no drops: a watch waits while the loop is busy
//!   reconcile::Reconciler                                              1x  index -> plan -> steps -> apply
//!     ├─ calls, depth 1, answered ────> kernel::KernelThread           1x  a thread: nf_tables over netlink
//!     ├─ view, merged, never waited for ─> conntrack::Housekeeper     1x  a thread: stale entries over ctnetlink
//!     ├─ rtnetlink ───────────────────> addresses::LocalAddresses      1x  addresses on lo
//!     ├─ watch: routes, generation ───> bgp::peer                      1x per peer: socket + sans-IO session
//!     │  <─ watch: its status; <─ mpsc ─> bgp::bfd                   1x  a thread: BFD of all sessions, where asked for
//!     ├─ watch: ports ────────────────> proxy::health                  1x, full mode only: node ports, 10256, 10249
//!     ├─ watch: targets, verdicts <───> proxy::probe                   1x  probes of local endpoints, <= 512 at a time
//!     ├─ watch: what to probe ────────> availability                   1x, where asked for: whether addresses answer, <= 200 at a time
//!     ├─ watch: ports ────────────────> proxy::localhost               1x, where asked for: node ports on loopback
//!     ├─ mpsc, depth 2 ───────────────> snapshot                       1x  a thread: the last view on the node's disk
//!     └─ mpsc, drops when full ───────> runtime::events                1x
//!   addresses::watch ── watch: the node's addresses ──> Reconciler     1x, where node ports are chosen by prefix
//!   runtime::admin: /livez /readyz /metrics /explain/                  1x
//!     └─ mpsc, depth 1, answered ───> Reconciler                       questions of `herald explain`, paced
//! ```
//!
//! All tasks stand in one set; one that ends, ends the role. Decisions (`plan.rs`, `floor.rs`, `drain.rs`, `steps.rs`, `ledger.rs`, `index.rs`,
//! `settings.rs`) are pure; `apply.rs` runs steps through a trait that the tests implement as well.
//!
//! Invariants: nothing acts before every watch has delivered its first list, or a snapshot stands in for it; an address is announced only after the
//! kernel has acknowledged its rules, and withdrawn before they go; the API server may be away for any time.

mod addresses;
mod apply;
mod availability;
mod bgp;
mod changes;
mod cleanup;
mod configured;
mod conntrack;
mod counters;
mod drain;
mod effects;
pub mod explain;
mod floor;
pub mod forecast;
mod foreign;
mod forwarding;
mod history;
mod index;
mod kernel;
mod kernel_version;
mod layer2;
mod ledger;
mod metrics;
mod neighbours;
mod node;
mod node_ports;
mod options;
mod overlays;
mod plan;
mod ports;
mod priority;
mod probing;
mod proxy_kernel;
mod reason;
mod received;
mod reconcile;
mod report;
mod run;
mod service_cidrs;
mod service_status;
mod settings;
mod snapshot;
mod steps;
mod sync;
mod sysctl;
#[cfg(test)]
mod testing;
mod told;
mod traffic;

pub use cleanup::{Cleaned, cleanup};
pub use conntrack::ConntrackLimits;
pub use herald_proxy::netlink::{DropRule, DropRules};
pub use kernel::{drop_rules, forward_drops};
pub use kernel_version::kernel_doubt;
pub use node_ports::NodePortAddresses;
pub use options::{ProxyMode, SpeakerOptions};
pub use run::run;
pub use sysctl::SYSCTLS;
