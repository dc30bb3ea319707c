//! The service proxy at scale: Herald beside kube-proxy in nftables mode, one after the other, on one API server.
//!
//! ```text
//!  scale   : the Services and EndpointSlices; no controller has a part in them
//!  system  : one proxy on one node: process, memory, CPU, metrics
//!  start   : process start → the last Service works; memory       (beside a bare program that only lists)
//!  change  : one endpoint changed; so many changes a second
//!  more    : one Service more → it works from a pod                (beside a bare watch)
//!  latency : connections through many rules and through few, in turns
//!  planned : restart, rolling update, an endpoint that dies: connections that fail
//!  table   : what was measured, the bars, JSON
//! ```
//! Herald is on `node1`, kube-proxy on `node3`, and never both at a time: they would take the machine from each other.
//! `node2` has the rules of ten Services, to compare with. All times are of one clock of one process, but for those that
//! Herald takes itself (from its watch to the kernel's acknowledgement), which are read from its metrics.

pub mod change;
pub(super) mod etcd;
pub mod latency;
pub mod more;
pub mod planned;
pub mod scale;
pub mod start;
pub mod system;
pub mod table;
