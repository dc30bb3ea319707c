//! The driver of one session: owns its socket, feeds the session, performs what it asks for.
//!
//! One task, one loop. UPDATEs are drawn from the session only while the socket has room for another chunk, so that
//! memory stays bounded and a due KEEPALIVE waits for at most one chunk. Reading never stops while something is to be
//! written: a peer that is busy sending to us must not make us miss its KEEPALIVEs, nor it ours.
//!
//! A generation of routes counts as synced when its last byte was taken by the socket, or when the session that it
//! was drawn for is no more (the peer has dropped everything of it).
//!
//! It dials, takes what its peer dials (`listener.rs`), or both, as configured; of two connections the session chooses (RFC 4271
//! §6.8).

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use herald_bgp::{
    Cease, ConnId, Decoder, Direction, DownReason, Event, Families, Family, Generation,
    GracefulRestartConfig, HoldTime, LocalAddresses, Output, RoleConfig, Session, SessionConfig,
};
use herald_config::{BfdProfile, Connect, Peer, TcpAo};
use herald_runtime::sleep_until;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::Told;
use super::connection::{Connection, addresses, connect, ready};
use super::notices::Notices;
use super::outbox::Outbox;
use super::path::Path;
use super::sockopt::{self, DialError, DialOptions, Key};
use super::status::{Ended, Shared, advice};
use crate::metrics::PeerMetrics;

/// How long a dial may take; a second less than the session gives, so that our words are the ones logged.
const DIAL: Duration = Duration::from_secs(4);
/// Type octet of a NOTIFICATION (RFC 4271 §4.1).
const NOTIFICATION: u8 = 3;

/// What makes a session this session: equal settings keep it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    /// As configured.
    pub(crate) peer: Peer,
    /// Our identifier, already chosen.
    pub(crate) router_id: Ipv4Addr,
    /// The families to offer.
    pub(crate) families: Families,
    /// How BFD watches the path; `None`: not at all.
    pub(crate) bfd: Option<BfdProfile>,
    /// GTSM (RFC 5082): over so many hops at most.
    pub(crate) ttl_security: Option<u8>,
    /// What this node is to the peer (RFC 9234).
    pub(crate) role: Option<RoleConfig>,
    /// Who opens the connection.
    pub(crate) connect: Connect,
    /// TCP-AO in place of TCP-MD5.
    pub(crate) tcp_ao: Option<TcpAo>,
}

impl fmt::Display for PeerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.peer.address, &self.peer.device) {
            (_, Some(device)) if self.peer.found_on().is_some() => write!(f, "neighbour on {device}"),
            (IpAddr::V6(address), Some(device)) if address.is_unicast_link_local() => {
                write!(f, "[{address}%{device}]:{}", self.peer.port)
            }
            (address, _) => SocketAddr::new(address, self.peer.port).fmt(f),
        }
    }
}

/// How a session is to end.
#[derive(Debug)]
pub(super) enum End {
    /// With this NOTIFICATION.
    Stop(Cease),
    /// To be begun anew: in silence where the peer keeps the routes, otherwise with this NOTIFICATION.
    Restart(Cease),
}

/// What of a session others wait for or decide by.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// The last generation of routes that was handed to the socket, or that nobody is there to be told.
    pub(super) synced: Generation,
    /// Established.
    pub(super) up: bool,
    /// Established, and the peer keeps the routes while this speaker restarts.
    pub(super) retains: bool,
}

impl PeerSettings {
    fn session(&self, restart: GracefulRestartConfig) -> anyhow::Result<SessionConfig> {
        let peer = &self.peer;
        let mut config = SessionConfig::new(peer.local_asn.unwrap_or(peer.my_asn), peer.asn, self.router_id)?;
        config.behind_as = peer.local_asn.map(|_| peer.my_asn).filter(|asn| *asn != config.local_as);
        config.keepalive = peer.keepalive_time;
        config.connect_retry = peer.connect_time;
        // An IPv4 next hop is of no use to a neighbour that is reached by IPv6 and says that it can do without.
        config.extended_next_hop = peer.address.is_ipv6();
        let seconds = u16::try_from(self.peer.hold_time.as_secs()).unwrap_or(u16::MAX);
        config.hold_time = HoldTime::new(seconds)?;
        config.role = self.role;
        config.passive = self.connect == Connect::Accept;
        config.families = self.families;
        config.graceful_restart = self.peer.graceful_restart.then_some(restart);
        config.connect_timeout = DIAL + Duration::from_secs(1);
        Ok(config)
    }

    fn dial_options(&self) -> DialOptions {
        let hold = self.peer.hold_time;
        DialOptions {
            peer: SocketAddr::new(self.peer.address, self.peer.port),
            device: self.peer.device.clone(),
            source: self.peer.source_address,
            // Without it as MetalLB's native mode, which never limited the distance.
            hops: self.ttl_security,
            user_timeout: (!hold.is_zero()).then_some(hold),
            key: self.key(),
        }
    }

    /// What signs the session's segments.
    pub(super) fn key(&self) -> Option<Key> {
        Key::of(self.peer.password.as_ref(), self.tcp_ao)
    }
}

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;
type Dialling = Pin<Box<dyn Future<Output = Result<(TcpStream, LocalAddresses), DialError>> + Send>>;

struct Driver {
    settings: PeerSettings,
    session: Session,
    dialling: Option<Dialling>,
    /// One, or two until the session has chosen.
    connections: Vec<Connection>,
    /// The connection before them, while it ends: nobody waits for that but the end of all.
    closing: Option<Closing>,
    opened: u64,
    status: watch::Sender<Status>,
    seen: Shared,
    notices: Notices,
    path: Path,
    metrics: PeerMetrics,
    /// The first change of routes that is not yet handed to the socket, and when it was decided.
    changed: Option<(Generation, Instant)>,
    last_failure: String,
}

/// Keeps the session up until told to stop.
pub(crate) async fn run(
    settings: PeerSettings,
    restart: GracefulRestartConfig,
    path: Path,
    (mut told, mut incoming): (watch::Receiver<Told>, Option<mpsc::Receiver<TcpStream>>),
    (status, seen): (watch::Sender<Status>, Shared),
    mut end: oneshot::Receiver<End>,
    (metrics, notices): (PeerMetrics, Notices),
) {
    let config = match settings.session(restart) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(peer = %settings, %error, "session cannot be configured and is not started");
            seen.get().ended[0] = Some(Ended { at: Instant::now(), text: error.to_string(), advice: None });
            refuse(told, status, end).await;
            return;
        }
    };
    let mut driver = Driver {
        session: Session::new(config, Instant::now()),
        settings,
        dialling: None,
        connections: Vec::new(),
        closing: None,
        opened: 0,
        status,
        seen,
        notices,
        path,
        metrics,
        changed: None,
        last_failure: String::new(),
    };
    let address = driver.settings.peer.address;
    // The table first: the End-of-RIB of a session that came up without would end what the peer kept.
    let routes = |driver: &mut Driver, told: &mut watch::Receiver<Told>| {
        let told = told.borrow_and_update().clone();
        driver.changed.get_or_insert((told.generation, told.at));
        Event::RoutesChanged(told.generation, told.to(address))
    };
    let table = routes(&mut driver, &mut told);
    driver.handle(table).await;
    driver.handle(Event::Start).await;
    loop {
        driver.draw();
        let deadline = driver.session.next_deadline();
        let event = tokio::select! {
            (id, ready) = ready(&driver.connections) => {
                driver.transfer(id, ready).await;
                continue;
            }
            stream = accepted(&mut incoming) => {
                driver.accepted(stream).await;
                continue;
            }
            dialled = dialled(&mut driver.dialling) => driver.dialled(dialled),
            changed = told.changed() => match changed {
                Ok(()) => routes(&mut driver, &mut told),
                Err(_) => break,
            },
            why = driver.path.failed() => Event::PathFailed(why),
            () = closed(&mut driver.closing) => continue,
            how = &mut end => {
                match how {
                    Ok(End::Stop(cease)) => driver.handle(Event::Stop(cease)).await,
                    Ok(End::Restart(cease)) => driver.handle(Event::Restart(cease)).await,
                    Err(_) => {}
                }
                break;
            }
            () = sleep_until(deadline) => Event::DeadlineReached,
        };
        driver.handle(event).await;
    }
    closed_at_last(&mut driver.closing).await;
    // After BGP: a neighbour in graceful restart does not take it for a failure (RFC 5882 §4.3.2), one before it might.
    driver.path.end().await;
    driver.metrics.gone();
}

/// Stands in for a session that cannot be: nothing is ever out, so everything is synced.
async fn refuse(
    mut told: watch::Receiver<Told>,
    status: watch::Sender<Status>,
    mut end: oneshot::Receiver<End>,
) {
    loop {
        status.send_replace(Status { synced: told.borrow_and_update().generation, ..Status::default() });
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            _ = &mut end => return,
        }
    }
}

/// Waits for the end of the connection that ends, if there is one.
async fn closed(closing: &mut Option<Closing>) {
    match closing {
        Some(end) => {
            end.await;
            *closing = None;
        }
        None => std::future::pending().await,
    }
}

async fn closed_at_last(closing: &mut Option<Closing>) {
    if closing.is_some() {
        closed(closing).await;
    }
}

async fn accepted(incoming: &mut Option<mpsc::Receiver<TcpStream>>) -> TcpStream {
    if let Some(taken) = incoming
        && let Some(stream) = taken.recv().await
    {
        return stream;
    }
    std::future::pending().await
}

async fn dialled(dialling: &mut Option<Dialling>) -> Result<(TcpStream, LocalAddresses), DialError> {
    match dialling {
        Some(dial) => {
            let result = dial.await;
            *dialling = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn handle(&mut self, event: Event) {
        for output in self.session.handle(Instant::now(), event) {
            self.perform(output).await;
        }
        self.count();
    }

    async fn perform(&mut self, output: Output) {
        match output {
            Output::Connect => {
                self.dialling =
                    Some(Box::pin(connect(self.settings.dial_options(), self.settings.families, DIAL)))
            }
            Output::AbandonConnect => self.dialling = None,
            Output::Send(id, bytes) => {
                if let Some(connection) = self.connection(id) {
                    if bytes.get(18) == Some(&NOTIFICATION) {
                        connection.outbox.push_last(bytes);
                    } else {
                        connection.outbox.push_urgent(bytes);
                    }
                }
            }
            Output::Close(id) => {
                if let Some(at) = self.connections.iter().position(|connection| connection.id == id) {
                    let mut connection = self.connections.remove(at);
                    // What it had not taken, the peer drops with the session.
                    self.changed = None;
                    if let Some(mark) = connection.outbox.last_mark() {
                        self.sync(Generation(mark));
                    }
                    closed_at_last(&mut self.closing).await;
                    let peer = self.settings.to_string();
                    self.closing = Some(Box::pin(async move {
                        let handed_over = connection.close().await;
                        tracing::trace!(peer, handed_over, "connection closed");
                    }));
                }
            }
            Output::Up(negotiated) => {
                self.last_failure.clear();
                // There is no other any more.
                if let Some(connection) =
                    self.connections.first_mut().filter(|_| negotiated.extended_messages)
                {
                    connection.decoder.extend();
                }
                self.up(true, negotiated.graceful_restart);
                tracing::info!(peer = %self.settings, %negotiated, "session up");
                self.seen.get().negotiated = Some(negotiated.to_string());
                self.notices.up(&self.settings, &negotiated.to_string());
                let local =
                    self.connections.first().and_then(|connection| connection.stream.local_addr().ok());
                self.path.begin(local).await;
            }
            Output::Down(reason) => {
                self.up(false, false);
                self.seen.get().negotiated = None;
                self.seen.ended(&reason, &self.settings.peer);
                self.notices.down(&self.settings, &reason);
                if !matches!(reason, DownReason::Stopped(_) | DownReason::Restarting) {
                    self.path.end().await;
                }
                match reason {
                    DownReason::Stopped(_) | DownReason::Restarting => {
                        tracing::info!(peer = %self.settings, %reason, "session down")
                    }
                    _ => {
                        let advice = advice(&reason, &self.settings.peer).unwrap_or_default();
                        tracing::warn!(peer = %self.settings, %reason, advice, "session down");
                    }
                }
            }
            Output::AttemptFailed(reason) => {
                self.seen.ended(&reason, &self.settings.peer);
                let advice = advice(&reason, &self.settings.peer).unwrap_or_default();
                // Once per kind of failure, not per attempt.
                let reason = reason.to_string();
                if reason == self.last_failure {
                    tracing::debug!(peer = %self.settings, %reason, "session still not up");
                } else {
                    tracing::warn!(peer = %self.settings, %reason, advice, "session does not come up; trying again");
                    self.notices.failed(&self.settings, &reason, &advice);
                    self.last_failure = reason;
                }
            }
            Output::Synced(generation) => self.sync(generation),
        }
    }

    fn sync(&mut self, generation: Generation) {
        if let Some((_, decided)) = self.changed.take_if(|(changed, _)| *changed <= generation)
            && self.status.borrow().up
        {
            self.metrics.told(decided.elapsed());
        }
        self.status.send_if_modified(|status| {
            let newer = generation > status.synced;
            if newer {
                status.synced = generation;
            }
            newer
        });
    }

    fn up(&mut self, up: bool, retains: bool) {
        // A first table is no change.
        self.changed = None;
        self.metrics.up(up);
        self.status.send_modify(|status| (status.up, status.retains) = (up, retains));
    }

    fn dialled(&mut self, dialled: Result<(TcpStream, LocalAddresses), DialError>) -> Event {
        match dialled {
            Ok((stream, local)) => Event::Connected(self.open(stream), Direction::Outgoing, local),
            Err(error) => Event::ConnectFailed(words(&error)),
        }
    }

    /// Takes a connection that the peer has opened.
    async fn accepted(&mut self, stream: TcpStream) {
        let prepared = sockopt::accepted(&stream, &self.settings.dial_options());
        match (prepared, addresses(&stream, self.settings.families).await) {
            (Ok(()), Ok(local)) => {
                let id = self.open(stream);
                self.handle(Event::Connected(id, Direction::Incoming, local)).await;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(peer = %self.settings, %error, "a connection of the peer ended before it began");
            }
        }
    }

    fn open(&mut self, stream: TcpStream) -> ConnId {
        self.opened += 1;
        let id = ConnId(self.opened);
        self.connections.push(Connection { id, stream, decoder: Decoder::new(), outbox: Outbox::default() });
        id
    }

    fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Draws UPDATEs into an outbox that has room for more.
    fn draw(&mut self) {
        let now = Instant::now();
        let Some(connection) = self.connections.first_mut() else { return };
        if !self.session.has_updates() {
            return;
        }
        while connection.outbox.wants_more() {
            match self.session.poll_update(now) {
                Some(Output::Send(id, bytes)) if id == connection.id => connection.outbox.push_update(bytes),
                Some(Output::Synced(generation)) => connection.outbox.mark(generation.0),
                Some(_) => {}
                None => break,
            }
        }
        // Marks with nothing before them need no socket.
        if connection.outbox.chunk().is_empty()
            && let Some(mark) = connection.outbox.advance(0)
        {
            self.sync(Generation(mark));
        }
        self.count();
    }

    fn count(&mut self) {
        let routes = Family::ALL.map(|family| self.session.advertised(family));
        let (state, unusable) = (self.session.state(), self.session.unusable());
        let pending = self.session.pending();
        self.metrics.counted(self.session.counters(), routes.iter().sum(), pending, unusable);
        let mut seen = self.seen.get();
        if seen.state != state {
            (seen.state, seen.since) = (state, Instant::now());
        }
        (seen.routes, seen.unusable) = (routes, unusable);
    }

    /// Reads and writes what the socket takes just now.
    async fn transfer(&mut self, id: ConnId, ready: std::io::Result<tokio::io::Ready>) {
        let Some(connection) = self.connection(id) else { return };
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => return self.handle(Event::Disconnected(id, Some(error.to_string()))).await,
        };
        if ready.is_writable() {
            let chunk = connection.outbox.chunk();
            let written = if chunk.is_empty() { Ok(0) } else { connection.stream.try_write(chunk) };
            match written {
                Ok(count) => {
                    if let Some(mark) = connection.outbox.advance(count) {
                        self.sync(Generation(mark));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return self.handle(Event::Disconnected(id, Some(error.to_string()))).await,
            }
        }
        if ready.is_readable() || ready.is_read_closed() {
            self.receive(id).await;
        }
    }

    async fn receive(&mut self, id: ConnId) {
        let Some(connection) = self.connection(id) else { return };
        let end = match connection.stream.try_read(connection.decoder.space()) {
            Ok(0) => Some(None),
            Ok(count) => {
                connection.decoder.filled(count);
                None
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) => Some(Some(error.to_string())),
        };
        if let Some(cause) = end {
            return self.handle(Event::Disconnected(id, cause)).await;
        }
        // The session may close the connection at any message; then there is no next one.
        while let Some(connection) = self.connection(id) {
            let event = match connection.decoder.next_message() {
                Ok(Some(message)) => Event::Received(id, message),
                Ok(None) => return,
                Err(error) => Event::Malformed(id, error),
            };
            self.handle(event).await;
        }
    }
}

/// An error and its causes in one line.
fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", words(cause)),
        None => error.to_string(),
    }
}
