//! Bidirectional Forwarding Detection (RFC 5880) without IO: is the path to a neighbour alive, within some packets' time?
//!
//! Asynchronous mode without authentication, as RFC 5881 (one hop) and RFC 5883 (several hops) use it. This crate has
//! no socket, no clock and no task: a driver feeds [`Session::handle`] with what arrived and when, sends the packets that it
//! returns, and comes back at [`Session::next_deadline`].
//!
//! * [`Packet`]: 24 octets and back (RFC 5880 §4.1), with the rules of §6.8.6 that need no session.
//! * [`Session`]: the state machine, its timers and their negotiation (RFC 5880 §6).
//!
//! Not here: UDP ports and TTL checks (the driver's), which session a packet belongs to, what a failure means for routing; echo
//! and demand mode are never asked for. A neighbour that asks for demand mode is obeyed.

mod jitter;
mod packet;
mod session;

pub use packet::{DecodeError, Diagnostic, LENGTH, Packet, State};
pub use session::{Cause, Change, Event, Outputs, Session, SessionConfig};
