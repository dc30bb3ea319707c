//! Layer 2 failover: Herald beside MetalLB's speakers (memberlist) and keepalived (an advertisement each 0.1 s).
//!
//! ```text
//!  system     : one of the three in a lab of its own: processes, who answers for an address, the end of one node's part
//!  beat       : a client on the segment: a connection each five milliseconds
//!  neighbours : what the client knows of the segment: forgotten, asked, read
//!  moves      : owner killed, power lost, carrier lost, planned: the last connection that was not made
//!  endpoints  : a node with endpoints loses power
//!  many       : five hundred addresses move at once
//!  quiet      : an hour without events: owner changes under load, packets and CPU when idle
//! ```
//! The client is the router, a host on the segment. Nodes 1 and 2 may own the address; the pods are on node 3, which the
//! label keeps out of load balancing, so that what is measured is the owner and not its pods. A move is judged by the begin
//! of the last connection that was not made within 500 ms. All times are of one clock of one process.

mod beat;
pub mod endpoints;
pub mod many;
pub mod moves;
mod neighbours;
pub mod quiet;
pub mod system;
