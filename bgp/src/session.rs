//! One peer: the state machine of RFC 4271 §8 for a speaker that announces.
//!
//! The driver calls [`Session::handle`] for whatever happens and performs the outputs in their order; it calls it with
//! [`Event::DeadlineReached`] when [`Session::next_deadline`] has come and nothing else happened (before that it reads
//! what the sockets hold: a starved driver must not take its own delay for the peer's silence). UPDATEs are drawn by
//! [`Session::poll_update`] when the socket has room, so that memory stays bounded and a KEEPALIVE overtakes them.
//!
//! RFC 4271 gives every connection a machine of its own. Here a session has up to two connections, one per direction, and
//! what they share: the dial, its back-off, the Adj-RIB-Out. [`Session::state`] is that of the furthest.
//!
//! Invariants: nothing but OPEN, KEEPALIVE and NOTIFICATION is sent before Established; at most one connection is
//! Established; after `handle` the next deadline lies ahead; a generation of routes is answered by exactly one
//! [`Output::Synced`] of it or a later one.
//!
//! Not here: DelayOpen, TCP options, the limit of half-open connections (the driver's, before it accepts). Of graceful restart the
//! driver's part is to hand in the whole table before `Start`: the End-of-RIB behind it ends what the peer kept.

mod backoff;
mod collision;
mod config;
mod connection;
mod counters;
mod dial;
mod event;
mod jitter;
mod negotiation;
mod offer;
mod reason;
mod receive;

#[cfg(test)]
mod attribute_tests;
#[cfg(test)]
mod collision_tests;
#[cfg(test)]
mod fsm_tests;
#[cfg(test)]
mod offer_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod timer_tests;

use std::time::{Duration, Instant};

use crate::rib::{AdjRibOut, RibMessage, Terms};
pub use crate::wire::Role;
use crate::wire::{Cease, Code, MAX_EXTENDED, MAX_MESSAGE, Notification, PathContext, encode_keepalive};
use backoff::Backoff;
pub use config::{ConfigError, GracefulRestartConfig, HoldTime, RoleConfig, SessionConfig};
use connection::{Connection, Phase};
pub use counters::Counters;
use dial::Dial;
pub use event::{ConnId, Direction, Event, Generation, LocalAddresses, Output};
use jitter::Jitter;
pub use negotiation::{Negotiated, OpenRefusal};
use offer::Offer;
pub use reason::DownReason;

/// RFC 4271 §8.2.2: a "large value" for the hold timer until the OPENs have been exchanged.
const LARGE_HOLD: Duration = Duration::from_secs(240);
/// How long a connection that is ready waits for the one that the collision rule prefers.
const COLLISION_WAIT: Duration = Duration::from_secs(2);
/// How long a session without hold time must have been up to count as stable.
const STABLE_WITHOUT_HOLD: Duration = Duration::from_secs(90);

/// The states of RFC 4271 §8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped: dials nothing, refuses everything.
    Idle,
    /// Waits: for the next dial, or for the peer to dial. (RFC 4271 would call the wait after an error Idle; it
    /// accepts connections, so it is Active here.)
    Active,
    /// Dials.
    Connect,
    /// A connection is up, our OPEN is out.
    OpenSent,
    /// OPENs have been exchanged, our KEEPALIVE is out.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// The RFC's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Active => "Active",
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One peer's session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    started: bool,
    dial: Dial,
    backoff: Backoff,
    /// At most one per direction.
    connections: Vec<Connection>,
    offer: Offer,
    rib: AdjRibOut,
    /// The generation whose changes are not all drawn yet.
    unsynced: Option<Generation>,
    jitter: Jitter,
    counters: Counters,
    last_failure: Option<DownReason>,
    /// No deadline is due before this: the last time `handle` was called.
    seen: Instant,
}

impl Session {
    /// A stopped session.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        Self {
            jitter: Jitter::new(config.jitter_seed),
            config,
            started: false,
            dial: Dial::Off,
            backoff: Backoff::default(),
            connections: Vec::new(),
            offer: Offer::default(),
            rib: AdjRibOut::default(),
            unsynced: None,
            counters: Counters::default(),
            last_failure: None,
            seen: now,
        }
    }

    /// Takes an event; the outputs are to be performed in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Output> {
        self.seen = self.seen.max(now);
        let now = self.seen;
        let mut out = Vec::new();
        match event {
            Event::Start => self.start(now, &mut out),
            Event::Stop(cease) => self.stop(&cease, false, &mut out),
            Event::Restart(cease) => self.stop(&cease, true, &mut out),
            Event::Connected(id, direction, local) => self.connected(now, id, direction, local, &mut out),
            Event::ConnectFailed(cause) => {
                self.connect_failed(now, DownReason::ConnectFailed(cause), &mut out)
            }
            Event::Received(id, message) => self.received(now, id, message, &mut out),
            Event::Malformed(id, error) => {
                let notification = error.notification();
                self.fail(now, id, Some(&notification), DownReason::Malformed(error), &mut out);
            }
            Event::Disconnected(id, cause) => {
                self.fail(now, id, None, DownReason::Disconnected(cause), &mut out);
            }
            Event::PathFailed(why) => self.path_failed(now, why, &mut out),
            Event::RoutesChanged(generation, routes) => {
                self.rib.set_desired(routes);
                self.unsynced = Some(generation);
                self.sync(&mut out);
            }
            Event::DeadlineReached => {}
        }
        // Timers that are due are due whatever the event was.
        self.expire(now, &mut out);
        out
    }

    /// Draws the next UPDATE (or a marker of a refresh, or the news that a generation is handed out); `None` when there is
    /// nothing to send. Call it while the socket has room.
    pub fn poll_update(&mut self, now: Instant) -> Option<Output> {
        if self.rib.is_settled()
            && let Some(generation) = self.unsynced.take()
        {
            return Some(Output::Synced(generation));
        }
        let (message, counter) = match self.rib.next_message()? {
            RibMessage::Update(message) => (message, &mut self.counters.updates_sent),
            RibMessage::Refresh(message) => (message, &mut self.counters.route_refreshes_sent),
        };
        *counter += 1;
        let connection = self.connections.iter_mut().find(|c| c.state() == State::Established)?;
        // RFC 4271 §8.2.2: each UPDATE sent restarts the keepalive timer.
        connection.restart_keepalive(now, self.config.keepalive, &mut self.jitter);
        Some(Output::Send(connection.id, message))
    }

    /// Whether [`Session::poll_update`] has something.
    pub fn has_updates(&self) -> bool {
        self.rib.has_message() || self.unsynced.is_some()
    }

    /// When to call with [`Event::DeadlineReached`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.connections.iter().flat_map(Connection::deadlines).chain(self.dial.deadline()).min()
    }

    /// The state of the furthest connection, or of the dial.
    pub fn state(&self) -> State {
        let waiting = match (self.started, &self.dial) {
            (false, _) => State::Idle,
            (true, Dial::InProgress { .. }) => State::Connect,
            (true, Dial::Off | Dial::At(_)) => State::Active,
        };
        self.connections.iter().map(Connection::state).max().unwrap_or(waiting)
    }

    /// What was negotiated, while Established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.connections.iter().find(|c| c.state() == State::Established).and_then(|c| c.negotiated.as_ref())
    }

    /// What has been counted since the session was made.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why the last connection or attempt ended.
    pub const fn last_failure(&self) -> Option<&DownReason> {
        self.last_failure.as_ref()
    }

    /// How many routes of a family the peer has of us.
    pub fn advertised(&self, family: crate::Family) -> usize {
        self.rib.advertised(family)
    }

    /// How many prefixes wait to be told to the peer, or to be untold.
    pub fn pending(&self) -> usize {
        self.rib.pending()
    }

    /// How many desired routes cannot be sent on this session: no usable next hop, or attributes that fill a message.
    pub fn unusable(&self) -> usize {
        self.rib.unusable()
    }

    /// Says that a generation is handed out if nothing of it is pending.
    fn sync(&mut self, out: &mut Vec<Output>) {
        if self.rib.is_settled() {
            out.extend(self.unsynced.take().map(Output::Synced));
        }
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.started {
            return;
        }
        self.started = true;
        self.backoff = Backoff::default();
        self.offer = Offer::default();
        if !self.config.passive {
            self.dial_now(now, out);
        }
    }

    /// RFC 4271 §8.2.2, ManualStop in every state: Cease, close, Idle. RFC 4724 §4.2: a NOTIFICATION would make the peer drop
    /// the routes, so a restart ends a session that keeps them without.
    fn stop(&mut self, cease: &Cease, restart: bool, out: &mut Vec<Output>) {
        self.started = false;
        self.abandon_dial(out);
        let notification = cease.notification();
        let mut reason = DownReason::Stopped(notification.clone());
        let mut was_up = false;
        for connection in std::mem::take(&mut self.connections) {
            let up = connection.state() == State::Established;
            was_up |= up;
            if restart && up && connection.negotiated.as_ref().is_some_and(|n| n.graceful_restart) {
                reason = DownReason::Restarting;
            } else {
                self.send_notification(connection.id, &notification, out);
            }
            out.push(Output::Close(connection.id));
        }
        if was_up {
            self.rib.down();
            out.push(Output::Down(reason.clone()));
            self.sync(out);
        }
        self.last_failure = Some(reason);
    }

    fn send_notification(&mut self, id: ConnId, notification: &Notification, out: &mut Vec<Output>) {
        self.counters.notifications_sent += 1;
        out.push(Output::Send(id, notification.encode()));
    }

    fn send_keepalive(&mut self, index: usize, now: Instant, out: &mut Vec<Output>) {
        if let Some(connection) = self.connections.get_mut(index) {
            self.counters.keepalives_sent += 1;
            connection.restart_keepalive(now, self.config.keepalive, &mut self.jitter);
            out.push(Output::Send(connection.id, encode_keepalive()));
        }
    }

    fn index_of(&self, id: ConnId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == id)
    }

    /// Ends a connection: tells the peer if there is something to tell, closes, and goes on dialling.
    fn fail(
        &mut self,
        now: Instant,
        id: ConnId,
        notification: Option<&Notification>,
        reason: DownReason,
        out: &mut Vec<Output>,
    ) {
        let Some(index) = self.index_of(id) else { return };
        let connection = self.connections.remove(index);
        if let Some(notification) = notification {
            self.send_notification(id, notification, out);
        }
        out.push(Output::Close(id));
        if reason.is_collision() && !self.connections.is_empty() && connection.state() < State::Established {
            // RFC 4271 §6.8: the peer chose the other one.
            self.counters.collisions += 1;
            return;
        }
        let mut progress = false;
        if let DownReason::NotificationReceived(notification) = &reason
            && connection.state() < State::Established
        {
            // RFC 5492 §3: a peer that cannot bear our capabilities is tried again without them.
            progress = self.offer.reduce(notification, &self.config);
        }
        if let Phase::Established { since } = connection.phase {
            let hold = connection.negotiated.as_ref().map(|n| n.hold_time).unwrap_or_default();
            let stable = if hold.is_zero() { STABLE_WITHOUT_HOLD } else { hold };
            if now.saturating_duration_since(since) >= stable {
                self.backoff.reset();
            }
            self.offer = Offer::default();
            self.rib.down();
            out.push(Output::Down(reason.clone()));
            self.sync(out);
        } else {
            out.push(Output::AttemptFailed(reason.clone()));
        }
        self.retry_after(now, &reason, progress);
        self.last_failure = Some(reason);
    }

    /// RFC 5882 §4.1: what BFD says of the path counts as the end of the connection; RFC 9384 names it.
    fn path_failed(&mut self, now: Instant, why: String, out: &mut Vec<Output>) {
        let up = self.connections.iter().find(|c| c.state() == State::Established).map(|c| c.id);
        if let Some(id) = up {
            self.fail(now, id, Some(&Cease::BfdDown.notification()), DownReason::PathFailed(why), out);
        }
    }

    /// Closes the losing connection of a collision (RFC 4271 §6.8). Not a failure: the other one lives.
    fn cede(&mut self, id: ConnId, out: &mut Vec<Output>) {
        if let Some(index) = self.index_of(id) {
            self.connections.remove(index);
            self.counters.collisions += 1;
            self.send_notification(id, &Notification::new(Code::COLLISION_RESOLUTION), out);
            out.push(Output::Close(id));
        }
    }

    /// Everything whose time has come.
    fn expire(&mut self, now: Instant, out: &mut Vec<Output>) {
        let held: Vec<ConnId> =
            self.connections.iter().filter(|c| c.hold.is_some_and(|at| at <= now)).map(|c| c.id).collect();
        for id in held {
            let after = self.index_of(id).and_then(|n| self.connections.get(n)).map(Connection::hold_time);
            // RFC 4271 §6.5, §8.2.2: HoldTimer_Expires in OpenSent, OpenConfirm and Established.
            let reason = DownReason::HoldTimerExpired(after.unwrap_or_default());
            self.fail(now, id, Some(&Notification::new(Code::HOLD_TIMER_EXPIRED)), reason, out);
        }
        for index in 0..self.connections.len() {
            // RFC 4271 §8.2.2: KeepaliveTimer_Expires.
            if self.connections[index].keepalive.is_some_and(|at| at <= now) {
                self.send_keepalive(index, now, out);
            }
        }
        // The preferred connection is gone, or took too long.
        let alone = self.connections.len() == 1;
        let ready = self.connections.iter().find(|c| c.yields_until().is_some_and(|at| alone || at <= now));
        if let Some(id) = ready.map(|connection| connection.id) {
            self.establish(now, id, out);
        }
        self.expire_dial(now, out);
    }

    /// RFC 4271 §8.2.2: KEEPALIVE in OpenConfirm, the session is up. Every other connection loses.
    fn establish(&mut self, now: Instant, id: ConnId, out: &mut Vec<Output>) {
        let others: Vec<ConnId> =
            self.connections.iter().map(|c| c.id).filter(|other| *other != id).collect();
        for other in others {
            self.cede(other, out);
        }
        self.abandon_dial(out);
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let Some(negotiated) = connection.negotiated.clone() else { return };
        connection.phase = Phase::Established { since: now };
        connection.restart_hold(now);
        self.counters.established += 1;
        if let Some(restart) = &mut self.config.graceful_restart {
            restart.established();
        }
        self.rib.up(Terms {
            path: PathContext {
                local_as: self.config.local_as,
                behind_as: self.config.behind_as,
                max_message: if negotiated.extended_messages { MAX_EXTENDED } else { MAX_MESSAGE },
                internal: negotiated.internal,
                four_octet_as: negotiated.four_octet_as,
            },
            families: negotiated.families,
            local: connection.local,
            extended_next_hop: negotiated.extended_next_hop,
            enhanced_refresh: negotiated.enhanced_route_refresh,
        });
        out.push(Output::Up(negotiated));
    }
}
