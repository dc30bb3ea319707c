//! The loop of the thread.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::select_all;
use herald_bfd::{Change, Event, Packet, Session, SessionConfig};
use herald_runtime::sleep_until;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::{Request, Target, Told};
use crate::bgp::sockopt::datagram::{Datagram, receive, receiver, sender};
use crate::priority::raise_priority;

/// RFC 5881 §4.
const SINGLE_HOP: u16 = 3784;
/// RFC 5883 §5.
const MULTIHOP: u16 = 4784;
/// RFC 5881 §4: the source ports, one per session.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// RFC 5881 §5.
const DIRECT_TTL: u8 = 255;
/// Datagrams read from one socket before the others have their turn.
const TURN: usize = 64;

/// A session and its ways out.
struct Entry {
    session: Session,
    target: Target,
    socket: Socket,
    told: Told,
}

/// The address and port that packets are received at, and the interface or VRF that they are of.
type At = (SocketAddr, Option<String>);

/// All of the thread.
#[derive(Default)]
struct Sessions {
    entries: BTreeMap<NonZeroU32, Entry>,
    receivers: BTreeMap<At, UdpSocket>,
    last: u32,
}

pub(super) fn run(runtime: &Runtime, mut asked: mpsc::Receiver<Request>) {
    tracing::info!(priority = raise_priority(), "BFD has a thread of its own");
    runtime.block_on(async {
        let mut sessions = Sessions::default();
        loop {
            let deadline = sessions.entries.values().filter_map(|entry| entry.session.next_deadline()).min();
            tokio::select! {
                request = asked.recv() => match request {
                    Some(Request::Watch(target, told, answer)) => {
                        let _ = answer.send(sessions.watch(target, told));
                    }
                    Some(Request::End(id, done)) => {
                        sessions.end(id);
                        let _ = done.send(());
                    }
                    None => break,
                },
                () = readable(&sessions.receivers) => {}
                () = sleep_until(deadline) => {}
            }
            // First what arrived, then the deadlines.
            sessions.read();
            sessions.expire();
        }
        let all: Vec<_> = sessions.entries.keys().copied().collect();
        all.into_iter().for_each(|id| sessions.end(id));
    });
}

async fn readable(receivers: &BTreeMap<At, UdpSocket>) {
    if receivers.is_empty() {
        return std::future::pending().await;
    }
    // Readiness is taken back where reading finds nothing left.
    select_all(receivers.values().map(|socket| socket.readable().map(drop).boxed_local())).await;
}

impl Sessions {
    fn watch(&mut self, target: Target, told: Told) -> io::Result<NonZeroU32> {
        if let Vacant(place) = self.receivers.entry(at(&target)) {
            let (address, device) = place.key();
            let socket = receiver(*address, device.as_deref()).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot receive BFD at {address}: {error}"))
            })?;
            place.insert(UdpSocket::from_std(socket.into())?);
        }
        let socket = source(&target)?;
        let id = self.name();
        let profile = &target.profile;
        let config = SessionConfig {
            discriminator: id,
            desired_min_tx: profile.transmit_interval,
            required_min_rx: profile.receive_interval,
            detect_mult: NonZeroU8::new(profile.detect_multiplier).unwrap_or(NonZeroU8::MIN),
            passive: profile.passive_mode,
        };
        let session = Session::new(config, Instant::now());
        self.entries.insert(id, Entry { session, target, socket, told });
        Ok(id)
    }

    /// A name that no session has, and that the one before it did not have.
    fn name(&mut self) -> NonZeroU32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if let Some(id) = NonZeroU32::new(self.last).filter(|id| !self.entries.contains_key(id)) {
                return id;
            }
        }
    }

    /// RFC 5880 §6.8.16: tells the neighbour; as often as packets may be missing, for nobody repeats it.
    fn end(&mut self, id: NonZeroU32) {
        let Some(mut entry) = self.entries.remove(&id) else { return };
        entry.told.metrics.up.set(0);
        if let Some(packet) = entry.session.handle(Instant::now(), Event::AdminDown).send {
            for _ in 0..entry.target.profile.detect_multiplier {
                entry.send(&packet);
            }
        }
        let place = at(&entry.target);
        if !self.entries.values().any(|other| at(&other.target) == place) {
            self.receivers.remove(&place);
        }
    }

    /// Reads what has arrived.
    fn read(&mut self) {
        let Self { entries, receivers, .. } = self;
        let mut buffer = [0; 128];
        for (at, socket) in receivers {
            for _ in 0..TURN {
                let Ok(came) = socket.try_io(Interest::READABLE, || receive(socket, &mut buffer)) else {
                    // Nothing is left, or an error that an earlier packet of ours brought back.
                    break;
                };
                let Ok(packet) = Packet::decode(&buffer[..came.length]) else { continue };
                let entry = match packet.your_discriminator {
                    Some(id) => entries.get_mut(&id).filter(|entry| entry.is_of(at, &came)),
                    None => entries.values_mut().find(|entry| entry.is_of(at, &came)),
                };
                if let Some(entry) = entry {
                    entry.told.metrics.received();
                    entry.handle(Event::Received(packet, arrival(came.at)));
                }
            }
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for entry in self.entries.values_mut() {
            if entry.session.next_deadline().is_some_and(|at| at <= now) {
                entry.handle(Event::DeadlineReached);
            }
        }
    }
}

impl Entry {
    fn handle(&mut self, event: Event) {
        let outputs = self.session.handle(Instant::now(), event);
        if let Some(packet) = outputs.send {
            self.send(&packet);
        }
        if let Some(change) = outputs.change {
            self.told.metrics.changed(change == Change::Up);
            if self.told.changes.try_send(change).is_err() {
                tracing::debug!(peer = %self.target.peer, ?change, "nobody takes the change");
            }
        }
    }

    /// A packet that the kernel does not take is one that got lost.
    fn send(&self, packet: &Packet) {
        let to = SocketAddr::new(self.target.peer, port_of(&self.target));
        match self.socket.send_to(&packet.encode(), &to.into()) {
            Ok(_) => self.told.metrics.sent(),
            Err(error) => tracing::trace!(%to, %error, "BFD packet not sent"),
        }
    }

    /// Whether a datagram that came at this address is of its neighbour, and as near as it has to be.
    fn is_of(&self, (address, device): &At, came: &Datagram) -> bool {
        let lowest = if self.target.multihop { self.target.profile.minimum_ttl } else { DIRECT_TTL };
        *address == SocketAddr::new(self.target.local, port_of(&self.target))
            && *device == self.target.device
            && came.from == self.target.peer
            && came.ttl.is_some_and(|ttl| ttl >= lowest)
    }
}

fn source(target: &Target) -> io::Result<Socket> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in SOURCE_PORTS {
        match sender(SocketAddr::new(target.local, port), target.device.as_deref()) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn at(target: &Target) -> At {
    (SocketAddr::new(target.local, port_of(target)), target.device.clone())
}

fn port_of(target: &Target) -> u16 {
    if target.multihop { MULTIHOP } else { SINGLE_HOP }
}

/// The kernel tells the time of day; how long ago that was is what counts.
fn arrival(at: Option<SystemTime>) -> Instant {
    let now = Instant::now();
    let ago = at.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    // A clock that was set meanwhile must not make a packet old.
    let ago = if ago < Duration::from_secs(1) { ago } else { Duration::ZERO };
    now.checked_sub(ago).unwrap_or(now)
}
