//! BFD sessions beside BGP sessions (RFC 5880, 5881, 5883, 5882): the thread that sends and hears packets.
//!
//! ```text
//!   bgp::peer, one per peer ── mpsc, depth 64, waits ──> the thread: sockets + sans-IO sessions, all of the node
//!     <── mpsc, depth 16 per session: changes; a peer that takes none is gone
//! ```
//!
//! A thread of its own, of real-time priority where that is allowed: detection in 150 ms bears no delay by anything else that
//! the node does. What has arrived is read before any deadline is looked at, and counts from when the kernel had it, so
//! that a thread that was late itself declares nobody dead.
//!
//! Packets count only if they come from the neighbour with the TTL that its distance asks for: 255 from a direct one (RFC 5881
//! §5), the profile's minimum over several hops (RFC 5883 §5). Receiving sockets are bound to the session's own address, so that
//! another BFD on the node can be.
//!
//! What a failure means is decided in [`judge`] and by the peer's task; a BFD that cannot start or never comes up ends nothing.

mod judge;
mod thread;

use std::net::IpAddr;
use std::num::NonZeroU32;

use herald_bfd::{Cause, Change};
use herald_config::BfdProfile;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::BfdMetrics;

pub(super) use judge::ends_bgp;

/// Requests on their way to the thread.
const REQUESTS: usize = 64;
/// Changes on their way to a peer's task.
const CHANGES: usize = 16;

/// Whom a session watches, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Our address of the BGP session.
    pub(super) local: IpAddr,
    /// The neighbour's.
    pub(super) peer: IpAddr,
    /// The interface or VRF that the session is in, if that is configured.
    pub(super) device: Option<String>,
    /// Whether routers may stand between (RFC 5883).
    pub(super) multihop: bool,
    /// Its timers.
    pub(super) profile: BfdProfile,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    Watch(Target, Told, oneshot::Sender<std::io::Result<NonZeroU32>>),
    End(NonZeroU32, oneshot::Sender<()>),
}

/// Who hears of a session.
#[derive(Debug)]
struct Told {
    changes: mpsc::Sender<Change>,
    metrics: BfdMetrics,
}

/// The thread; it ends when the last of these is dropped, and switches its sessions off.
#[derive(Debug, Clone)]
pub(super) struct Bfd(mpsc::Sender<Request>);

impl Bfd {
    /// Starts the thread in the caller's network namespace.
    pub(super) fn start() -> std::io::Result<Self> {
        let (requests, asked) = mpsc::channel(REQUESTS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        std::thread::Builder::new().name("bfd".to_owned()).spawn(move || thread::run(&runtime, asked))?;
        Ok(Self(requests))
    }

    /// Begins to watch a neighbour.
    pub(super) async fn watch(&self, target: Target, metrics: BfdMetrics) -> std::io::Result<Watched> {
        let ended = || std::io::Error::other("the BFD thread has ended");
        let (changes, changed) = mpsc::channel(CHANGES);
        let (answer, answered) = oneshot::channel();
        let told = Told { changes, metrics };
        self.0.send(Request::Watch(target, told, answer)).await.map_err(|_| ended())?;
        let id = answered.await.map_err(|_| ended())??;
        Ok(Watched { thread: self.clone(), id, changed })
    }

    /// Waits for the thread's end, which is a failure.
    pub(super) async fn ended(&self) {
        self.0.closed().await;
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Watched {
    thread: Bfd,
    id: NonZeroU32,
    changed: mpsc::Receiver<Change>,
}

impl Watched {
    /// The next change.
    pub(super) async fn changed(&mut self) -> Option<Change> {
        self.changed.recv().await
    }

    /// Switches the session off and tells the neighbour, to whom that is no failure (RFC 5882 §3.2).
    pub(super) async fn end(self) {
        let (done, ended) = oneshot::channel();
        // Without the thread there is no session either.
        if self.thread.0.send(Request::End(self.id, done)).await.is_ok() {
            let _ = ended.await;
        }
    }
}

/// In words, for the log.
pub(super) fn words(cause: Cause) -> String {
    format!("BFD: {cause}")
}

#[cfg(test)]
mod tests;
