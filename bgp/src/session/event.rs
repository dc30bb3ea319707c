//! What a session is told and what it asks for: the whole vocabulary between it and its driver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{DownReason, Negotiated};
use crate::RouteSet;
use crate::wire::{Cease, DecodeError, Message};

/// A TCP connection, named by the driver; a name is never used again within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

/// Counts the sets of routes that a driver hands in; only its order matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Our addresses on a connection, the next hops of routes that name none: the one that the socket is bound to and, if the same
/// interface has one, that of the other family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// For IPv4 routes.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6 routes.
    pub v6: Option<Ipv6Addr>,
}

impl From<IpAddr> for LocalAddresses {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => Self { v4: None, v6: Some(v6) },
        }
    }
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin to dial, or to accept if passive (RFC 4271 §8.1.2, ManualStart).
    Start,
    /// End with this NOTIFICATION and stay down (ManualStop). To withdraw first, hand in no routes and await `Synced`.
    Stop(Cease),
    /// End because this speaker starts anew, and stay down: an Established session with graceful restart ends without
    /// NOTIFICATION, so that the peer keeps the routes (RFC 4724 §4.1); everything else ends as by `Stop`.
    Restart(Cease),
    /// A connection is up: the one dialled, or one from the peer.
    Connected(ConnId, Direction, LocalAddresses),
    /// The dial failed; in words.
    ConnectFailed(String),
    /// A message came.
    Received(ConnId, Message),
    /// Something came that is no message.
    Malformed(ConnId, DecodeError),
    /// The connection ended: by the peer (`None`), or by an error in words. The driver closes its side on `Close`.
    Disconnected(ConnId, Option<String>),
    /// Something that watches the path to the peer says that it is dead, and why: an Established session ends.
    PathFailed(String),
    /// The peer shall have exactly these routes.
    RoutesChanged(Generation, Arc<RouteSet>),
    /// [`Session::next_deadline`](super::Session::next_deadline) has come. Too early is harmless.
    DeadlineReached,
}

/// What a session asks its driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial the peer; answer with `Connected` or `ConnectFailed`.
    Connect,
    /// Drop the dial in progress; no answer. A `Connected` that crosses it is closed.
    AbandonConnect,
    /// Write one whole message.
    Send(ConnId, Vec<u8>),
    /// Write what is still to be written within a short bound, then close. No event of it counts from now on.
    Close(ConnId),
    /// The session is Established: draw UPDATEs.
    Up(Negotiated),
    /// The session was Established and is not any more: what was not drawn is forgotten.
    Down(DownReason),
    /// A dial or a connection ended before it was Established.
    AttemptFailed(DownReason),
    /// All changes up to this generation of routes have been handed out, or there is no session to hand them to.
    Synced(Generation),
}
