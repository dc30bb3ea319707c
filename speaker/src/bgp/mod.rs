//! The node's BGP sessions: which peers there are, what they are told, and when they have been told it.
//!
//! ```text
//!   Peers (owned by the reconcile loop)
//!     ├─ watch: routes and their generation (latest wins) ──────────> peer task, one per peer: socket + Session
//!     ├─ oneshot: how to end ───────────────────────────────────────>
//!     └─ watch: its status <────────────────────────────────────────
//! ```
//!
//! Every peer of the node gets all routes of the node, but for those that name their peers. A peer whose settings are equal before and after a change of
//! the configuration is not touched; one whose settings differ is stopped and started anew. What a session says and
//! when is `herald-bgp`'s to decide, the socket is `peer.rs`' and `sockopt.rs`'.
//!
//! Graceful restart (RFC 4724): the End-of-RIB behind the first table ends what a peer kept over a restart, so no session may
//! begin before that table is whole: [`Peers::set`] is called when the rules of all Services are in force.
//!
//! Invariant: [`Peers::withdraw`] returns when every session has handed the withdrawals to its socket, or at its
//! deadline; a session that is down has nothing to withdraw and does not delay it.

mod bfd;
mod connection;
mod export;
mod listener;
mod met;
mod next_hop;
mod notices;
mod outbox;
mod path;
mod peer;
mod router_id;
mod sockopt;
mod status;
mod unnumbered;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_bgp::{Cease, Community, Families, Generation, GracefulRestartConfig, RouteSet};
use herald_config::Connect;
use herald_proxy::ByPrefix;
use ipnet::IpNet;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::ledger::Attributes;
use crate::metrics::BgpMetrics;

use bfd::Bfd;
use listener::Listener;
use peer::{End, Status};
use status::Shared;

pub(crate) use export::{Export, Exports, role};
pub(crate) use met::{Met, Range, neighbours, ranges};
pub(crate) use notices::Notices;
pub(crate) use peer::PeerSettings;
pub(crate) use router_id::router_id;
pub(crate) use status::{By, Seen};
pub(crate) use unnumbered::{Routers, look_for_routers};
#[cfg(test)]
pub(crate) use {status::Ended, tests::settings};

/// How long a withdrawal may take until it is in all sockets.
const WITHDRAW: Duration = Duration::from_secs(1);
/// How long a session may take to end in good order.
const END: Duration = Duration::from_secs(2);

/// How long peers keep routes over a restart of the speaker, in seconds: as FRR, and so MetalLB, has it.
const RESTART_TIME: u16 = 120;

/// What all peers are told.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) generation: Generation,
    /// When it was decided.
    pub(crate) at: Instant,
    pub(crate) routes: Arc<RouteSet>,
    /// Routes that are for these peers only.
    pub(crate) only: Arc<BTreeMap<IpNet, BTreeSet<IpAddr>>>,
    /// What the routes say besides to these peers.
    pub(crate) exports: Arc<Exports>,
}

impl Told {
    /// What the peer with this address is told.
    pub(crate) fn to(&self, peer: IpAddr) -> Arc<RouteSet> {
        let mut routes = Arc::clone(&self.routes);
        if !self.only.is_empty() {
            let meant = |prefix: &IpNet| self.only.get(prefix).is_none_or(|peers| peers.contains(&peer));
            routes = Arc::new(routes.filtered(meant));
        }
        match self.exports.get(&peer) {
            Some(export) => Arc::new(routes.mapped(|said| export.add_to(said))),
            None => routes,
        }
    }
}

#[derive(Debug)]
struct Running {
    settings: PeerSettings,
    end: Option<oneshot::Sender<End>>,
    status: watch::Receiver<Status>,
    seen: Shared,
    task: AbortHandle,
}

/// All sessions of the node.
#[derive(Debug)]
pub(crate) struct Peers {
    /// What is told while the node is not to be avoided.
    routes: Arc<RouteSet>,
    told: watch::Sender<Told>,
    running: Vec<Running>,
    tasks: JoinSet<()>,
    metrics: BgpMetrics,
    notices: Notices,
    restart: GracefulRestartConfig,
    /// Whether other ways are to be preferred to this node.
    avoid: bool,
    /// From the first peer on that has a profile.
    bfd: Option<Bfd>,
    listener: Listener,
    /// The routes that no Service is behind.
    networks: ByPrefix<Arc<Attributes>>,
}

impl Peers {
    /// No peers, no routes. `predecessor`: the rules of an earlier run are in the kernel, and its routes may be with peers.
    pub(crate) fn new(metrics: BgpMetrics, predecessor: bool) -> Self {
        let told = watch::Sender::new(Told {
            generation: Generation::default(),
            at: Instant::now(),
            routes: Arc::default(),
            only: Arc::default(),
            exports: Arc::default(),
        });
        let restart = GracefulRestartConfig {
            restart_time: RESTART_TIME,
            restarted: predecessor,
            forwarding: predecessor,
        };
        Self {
            routes: Arc::default(),
            told,
            running: Vec::new(),
            tasks: JoinSet::new(),
            metrics,
            notices: Notices::default(),
            restart,
            avoid: false,
            bfd: None,
            listener: Listener::default(),
            networks: ByPrefix::default(),
        }
    }

    /// Tells of sessions in Events, too.
    #[must_use]
    pub(crate) fn telling(self, notices: Notices) -> Self {
        Self { notices, ..self }
    }

    /// Lets in whoever dials from these networks, and tells of it by [`Peers::met`].
    pub(crate) fn accept_from(&mut self, ranges: &[Range]) {
        self.listener.accept_from(ranges, &mut self.tasks);
    }

    /// Whoever dialled from the networks of neighbours, and is to be made a peer.
    pub(crate) fn met(&self) -> watch::Receiver<Met> {
        self.listener.met()
    }

    /// The sessions as they are now.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&PeerSettings, Seen)> {
        self.running.iter().map(|running| (&running.settings, running.seen.get().clone()))
    }

    /// What the peers are told while the node is not to be avoided, before each is left out what is not for it.
    pub(crate) fn routes(&self) -> Told {
        Told { routes: Arc::clone(&self.routes), ..self.told.borrow().clone() }
    }

    /// Whether other ways are to be preferred to this node.
    pub(crate) fn avoided(&self) -> bool {
        self.avoid
    }

    /// What the routes say besides, by peer: another MED is an UPDATE and ends no session.
    pub(crate) fn export(&mut self, exports: &Arc<Exports>) {
        let former = self.told.borrow().clone();
        if former.exports != *exports {
            let generation = Generation(former.generation.0 + 1);
            let exports = Arc::clone(exports);
            self.told.send_replace(Told { generation, at: Instant::now(), exports, ..former });
        }
    }

    /// Makes these the peers of the node. Takes time only where a session has to end.
    pub(crate) async fn set(&mut self, desired: &[PeerSettings]) {
        let mut ending = Vec::new();
        for running in &mut self.running {
            if desired.contains(&running.settings) {
                continue;
            }
            let address = running.settings.peer.address;
            let gone = !desired.iter().any(|settings| settings.peer.address == address);
            running.end(if gone {
                End::Stop(Cease::PeerDeconfigured)
            } else {
                End::Restart(Cease::OtherConfigurationChange)
            });
            ending.push(running.task.clone());
        }
        self.join(ending).await;
        for settings in desired {
            if !self.running.iter().any(|running| running.settings == *settings) {
                self.start(settings.clone());
            }
        }
        // Sessions that begin from now on find the rules in force, and nothing restarted.
        self.restart = GracefulRestartConfig { restarted: false, forwarding: true, ..self.restart };
    }

    /// Takes routes back and waits until that is handed to all sockets.
    pub(crate) async fn withdraw(&mut self, prefixes: &BTreeSet<IpNet>) {
        let at = Instant::now();
        let generation = self.tell(at, prefixes.iter().map(|prefix| (*prefix, None)));
        let handed_out = async {
            for running in &mut self.running {
                // An error means that the task is gone, and its connection with it.
                let _ = running.status.wait_for(|status| status.synced >= generation).await;
            }
        };
        if tokio::time::timeout(WITHDRAW, handed_out).await.is_err() {
            let behind: Vec<_> =
                self.running.iter().filter(|running| running.status.borrow().synced < generation).collect();
            for running in behind {
                tracing::warn!(peer = %running.settings, "the peer does not take a withdrawal; going on without waiting for it");
            }
        }
    }

    /// Tells routes to all peers.
    pub(crate) fn announce(&mut self, routes: &ByPrefix<Arc<Attributes>>) {
        self.tell(Instant::now(), routes.iter().map(|(prefix, of)| (prefix, Some(&**of))));
    }

    /// Tells routes that no Service is behind: these, and no others that this was told before.
    pub(crate) async fn networks(&mut self, networks: ByPrefix<Arc<Attributes>>) {
        if networks == self.networks {
            return;
        }
        let gone: BTreeSet<IpNet> =
            self.networks.keys().filter(|prefix| !networks.contains_key(prefix)).collect();
        if !gone.is_empty() {
            self.withdraw(&gone).await;
        }
        self.announce(&networks);
        self.networks = networks;
    }

    /// Asks the peers to prefer any other way to this node, or not any more (RFC 8326).
    pub(crate) fn avoid(&mut self, avoid: bool) {
        if self.avoid != avoid {
            self.avoid = avoid;
            let routes = match avoid {
                true => Arc::new(self.routes.mapped(avoiding)),
                false => Arc::clone(&self.routes),
            };
            let former = self.told.borrow().clone();
            let generation = Generation(former.generation.0 + 1);
            self.told.send_replace(Told { generation, at: Instant::now(), routes, ..former });
        }
    }

    /// Ends the sessions whose peers keep the routes until the next run (RFC 4724 §4.2), without withdrawing them; the others
    /// stay. Returns how many ended.
    pub(crate) async fn leave(&mut self, text: &str) -> usize {
        let mut ending = Vec::new();
        for running in self.running.iter_mut().filter(|running| running.status.borrow().retains) {
            running.end(End::Restart(Cease::AdministrativeShutdown(text.into())));
            ending.push(running.task.clone());
        }
        let count = ending.len();
        self.join(ending).await;
        count
    }

    /// Ends all sessions in good order: the routes must have been withdrawn before.
    pub(crate) async fn stop(&mut self, text: &str) {
        for running in &mut self.running {
            running.end(End::Stop(Cease::AdministrativeShutdown(text.into())));
        }
        self.join(self.running.iter().map(|running| running.task.clone()).collect()).await;
    }

    /// Waits for a session task that ends without having been told to; pending while all is well.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        loop {
            let thread = async {
                match &self.bfd {
                    Some(bfd) => bfd.ended().await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                () = thread => return anyhow::anyhow!("the BFD thread ended"),
                ended = self.tasks.join_next_with_id() => ended,
            };
            match ended {
                None => std::future::pending().await,
                Some(Ok((id, ()))) => {
                    if let Some(at) = self.running.iter().position(|running| running.task.id() == id) {
                        return anyhow::anyhow!(
                            "the session of {} ended by itself",
                            self.running.remove(at).settings
                        );
                    }
                }
                // Whoever cancels one has no use for it: a port that nobody is let in at any more, a session that did not end in time.
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => return anyhow::Error::new(error).context("a BGP session failed"),
            }
        }
    }

    /// Tells the peers what changes; `None`: a prefix is gone.
    fn tell<'a>(
        &mut self,
        at: Instant,
        changes: impl Iterator<Item = (IpNet, Option<&'a Attributes>)>,
    ) -> Generation {
        let former = self.told.borrow().clone();
        let generation = Generation(former.generation.0 + 1);
        let mut only = former.only;
        let said = changes.map(|(prefix, attributes)| {
            let peers = attributes.and_then(|of| of.peers.as_ref());
            if only.get(&prefix) != peers {
                let only = Arc::make_mut(&mut only);
                match peers {
                    Some(peers) => only.insert(prefix, peers.clone()),
                    None => only.remove(&prefix),
                };
            }
            (prefix, attributes.map(|of| Arc::clone(&of.said)))
        });
        let said = said.collect();
        self.routes = Arc::new(self.routes.with(&said));
        let routes = match self.avoid {
            true => Arc::new(self.routes.mapped(avoiding)),
            false => Arc::clone(&self.routes),
        };
        self.told.send_replace(Told { generation, at, routes, only, exports: former.exports });
        generation
    }

    fn start(&mut self, settings: PeerSettings) {
        let (end, ending) = oneshot::channel();
        let (status, changes) = watch::channel(Status::default());
        let seen = Shared::default();
        let metrics = self.metrics.peer(&settings);
        let told = self.told.subscribe();
        let bfd = settings.bfd.as_ref().and_then(|_| self.bfd());
        let path = path::Path::new(bfd.map(|bfd| (bfd, metrics.bfd())), &settings);
        let (telling, by) = ((status, seen.clone()), (metrics, self.notices.clone()));
        let incoming = (settings.connect != Connect::Dial)
            .then(|| self.listener.admit(&settings, seen.clone(), &mut self.tasks));
        let task = peer::run(settings.clone(), self.restart, path, (told, incoming), telling, ending, by);
        let task = self.tasks.spawn(task);
        self.running.push(Running { settings, end: Some(end), status: changes, seen, task });
    }

    fn bfd(&mut self) -> Option<Bfd> {
        if self.bfd.is_none() {
            match Bfd::start() {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => {
                    tracing::error!(%error, "cannot start the BFD thread: only hold timers watch the sessions")
                }
            }
        }
        self.bfd.clone()
    }

    /// Waits for tasks that were told to end, and aborts them at the deadline.
    async fn join(&mut self, mut ending: Vec<AbortHandle>) {
        let is_ending = |ending: &[AbortHandle], id| ending.iter().any(|task| task.id() == id);
        for running in self.running.iter().filter(|running| is_ending(&ending, running.task.id())) {
            self.listener.dismiss(&running.settings);
        }
        self.running.retain(|running| !is_ending(&ending, running.task.id()));
        let ended = async {
            while !ending.is_empty() {
                let id = match self.tasks.join_next_with_id().await {
                    None => break,
                    Some(Ok((id, ()))) => id,
                    Some(Err(error)) => error.id(),
                };
                ending.retain(|task| task.id() != id);
            }
        };
        if tokio::time::timeout(END, ended).await.is_err() {
            tracing::warn!(
                sessions = ending.len(),
                "BGP sessions did not end in time and are dropped with their sockets"
            );
            ending.iter().for_each(AbortHandle::abort);
        }
    }
}

impl Running {
    fn end(&mut self, how: End) {
        if let Some(end) = self.end.take() {
            // A task that is gone already needs no end.
            let _ = end.send(how);
        }
    }
}

/// The families that sessions offer: those that routes can be of (RFC 4760 §8); IPv4 when there are none.
pub(crate) fn families(pools: &[herald_config::Pool]) -> Families {
    let bgp = pools.iter().filter(|pool| !pool.advertisements.is_empty());
    let ranges = || bgp.clone().flat_map(|pool| &pool.ranges);
    match (ranges().any(|range| range.is_ipv4()), ranges().any(|range| !range.is_ipv4())) {
        (_, false) => Families::IPV4,
        (true, true) => Families::BOTH,
        (false, true) => Families::IPV6,
    }
}

/// Asks for any other way (RFC 8326 §4.3): within one AS the preference does, other ones set it by the community.
fn avoiding(said: &herald_bgp::Attributes) -> herald_bgp::Attributes {
    let mut said = herald_bgp::Attributes { local_pref: Some(0), ..said.clone() };
    said.communities.insert(Community::GRACEFUL_SHUTDOWN);
    said
}

#[cfg(test)]
mod interop_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
