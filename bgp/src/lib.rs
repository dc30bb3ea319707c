//! BGP-4 without IO: wire format, session state machine, Adj-RIB-Out.
//!
//! Herald only announces. This crate therefore encodes everything an announcer sends, validates the framing of
//! everything it receives, and discards received routes unread. It has no socket, no clock and no task: a driver
//! feeds [`session::Event`]s with the present time and performs the [`session::Output`]s.
//!
//! * [`wire`]: messages to bytes and back (RFC 4271 §4, 4760, 5492, 6793, 8654, 8950, 9003, 9234, 2918, 7313).
//! * [`rib`]: which routes a peer shall have and which it was told (Adj-RIB-Out, RFC 4271 §3.2).
//! * [`session`]: one peer's state machine (RFC 4271 §8), collisions, timers, back-off.
//!
//! Not here: TCP options (MD5, GTSM, user timeout), listening, source address selection, BFD. `docs/rfc.md` maps
//! RFC sections to functions and tests and names the gaps.

mod community;
mod family;
pub mod rib;
pub mod session;
pub mod wire;

pub use community::{Community, ExtendedCommunity, LargeCommunity};
pub use family::{Families, Family};
pub use rib::{Attributes, Route, RouteSet};
pub use session::{
    ConfigError, ConnId, Counters, Direction, DownReason, Event, Generation, GracefulRestartConfig, HoldTime,
    LocalAddresses, Negotiated, OpenRefusal, Output, Role, RoleConfig, Session, SessionConfig, State,
};
pub use wire::{Cease, DecodeError, Decoder, Message, Notification, ShutdownText};
