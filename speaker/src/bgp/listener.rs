//! Connections that peers open: taken on port 179 where a session wants them, and handed to it.
//!
//! Only sessions that say so are handed any; whoever else connects from a network of neighbours ([`Range`]) is met, and its connection
//! kept until there is a session for it; everybody else is hung up on.
//!
//! Keys are on a socket before it listens, and other keys are another socket: what came without its key is in no queue. While the
//! address or the port is not to be had, it is tried again, and the sessions that wait for it tell so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::PeerSettings;
use super::met::{MOST, Met, Range, is_gone};
use super::sockopt::{Key, bind, listen};
use super::status::Shared;

/// RFC 4271 §8: where BGP listens.
const PORT: u16 = 179;
/// Connections that wait for their session; more are hung up on, and their peers try again.
const WAITING: usize = 2;
/// After the system had no socket or no connection to give for want of something.
const REST: Duration = Duration::from_millis(500);
/// Between two looks at who has gone of those that were met.
const LOOK: Duration = Duration::from_secs(30);

/// The listening sockets of the node, by their addresses: one for each that sessions are from, for as long as there are such.
#[derive(Debug, Default)]
pub(super) struct Listener {
    places: BTreeMap<Place, Listening>,
    ranges: Vec<Range>,
    met: watch::Sender<Met>,
}

/// An address, and the interface or VRF that it is of.
type Place = (IpAddr, Option<String>);

#[derive(Debug)]
struct Listening {
    shared: Arc<Door>,
    task: AbortHandle,
}

/// What the task that accepts shares with its owner.
#[derive(Debug)]
struct Door {
    state: Mutex<State>,
    /// Other keys are wanted.
    reopen: Notify,
    met: watch::Sender<Met>,
}

#[derive(Debug, Default)]
struct State {
    /// The keys of the socket that listens; `None` until it does.
    keys: Option<Keys>,
    /// By the address of the peer.
    takers: BTreeMap<IpAddr, Taker>,
    /// Networks of neighbours.
    ranges: Vec<Range>,
    /// Connections of neighbours that have no session yet.
    kept: BTreeMap<IpAddr, TcpStream>,
    /// That there are too many neighbours was told.
    full: bool,
}

/// Whose connections need which key.
type Keys = BTreeMap<IpNet, Key>;

/// A session that takes connections.
#[derive(Debug)]
struct Taker {
    hand: mpsc::Sender<TcpStream>,
    key: Option<Key>,
    seen: Shared,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Its session is handed it.
    Hand,
    /// It waits for a session.
    Keep,
    /// It would have to wait, and too many neighbours are there already.
    Full,
    /// Nobody takes it.
    HangUp,
}

impl Listener {
    /// Whoever dialled from the networks of neighbours.
    pub(super) fn met(&self) -> watch::Receiver<Met> {
        self.met.subscribe()
    }

    /// Hands on what a peer opens from now on; the tasks that accept are in the set.
    pub(super) fn admit(
        &mut self,
        settings: &PeerSettings,
        seen: Shared,
        tasks: &mut JoinSet<()>,
    ) -> mpsc::Receiver<TcpStream> {
        let (hand, taken) = mpsc::channel(WAITING);
        let taker = Taker { hand, key: settings.key(), seen };
        self.at(local(settings), tasks).change(|state| state.admit(settings.peer.address, taker));
        taken
    }

    /// Hangs up on a peer again.
    pub(super) fn dismiss(&mut self, settings: &PeerSettings) {
        let place = local(settings);
        if let Some(listening) = self.places.get(&place) {
            listening.shared.state().takers.remove(&settings.peer.address);
        }
        self.close_unused();
    }

    /// Meets whoever dials from these networks, and no others any more.
    pub(super) fn accept_from(&mut self, ranges: &[Range], tasks: &mut JoinSet<()>) {
        if self.ranges == ranges {
            return;
        }
        self.ranges = ranges.to_vec();
        let mut by_place: BTreeMap<Place, Vec<Range>> =
            self.places.keys().map(|place| (place.clone(), Vec::new())).collect();
        for range in ranges {
            let local = range.source.unwrap_or_else(|| any(range.network.addr()));
            by_place.entry((local, range.device.clone())).or_default().push(range.clone());
        }
        for (place, ranges) in by_place {
            self.at(place, tasks).change(|state| {
                state.kept.retain(|from, _| narrowest(&ranges, from).is_some());
                state.ranges = ranges;
            });
        }
        self.close_unused();
        self.met.send_if_modified(|met| {
            let before = met.len();
            met.retain(|from| narrowest(ranges, from).is_some());
            met.len() != before
        });
    }

    fn at(&mut self, place: Place, tasks: &mut JoinSet<()>) -> &Door {
        let met = &self.met;
        let listening = self.places.entry(place.clone()).or_insert_with(|| {
            let shared = Arc::new(Door { state: Mutex::default(), reopen: Notify::new(), met: met.clone() });
            let task = tasks.spawn(take(place, Arc::clone(&shared)));
            Listening { shared, task }
        });
        &listening.shared
    }

    fn close_unused(&mut self) {
        self.places.retain(|_, listening| {
            let used = listening.shared.state().is_used();
            if !used {
                listening.task.abort();
            }
            used
        });
    }
}

impl Door {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes who is let in, by another socket if that takes other keys.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if state.keys.as_ref().is_some_and(|keys| *keys != state.wanted()) {
            self.reopen.notify_one();
        }
    }

    /// Opens the socket, with all keys on it before anybody can connect.
    fn open(&self, address: SocketAddr, device: Option<&str>) -> io::Result<TcpListener> {
        let mut state = self.state();
        let opened = bind(address, device).and_then(|socket| {
            let mut keys = state.wanted();
            keys.retain(|peers, key| {
                let error = match key.put_on(&socket, *peers) {
                    Ok(()) => return true,
                    Err(error) => error,
                };
                let error = io::Error::new(error.kind(), format!("cannot set the TCP key: {error}"));
                tracing::error!(%peers, %error, "connections of these peers are not taken");
                state.tell(peers, &error);
                false
            });
            Ok((listen(socket)?, keys))
        });
        let (socket, keys) = opened
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
            .inspect_err(|error| state.takers.values().for_each(|taker| taker.seen.cannot_listen(error)))?;
        state.keys = Some(keys);
        Ok(socket)
    }

    /// Somebody has connected.
    fn came(&self, from: IpAddr, stream: TcpStream) {
        let mut state = self.state();
        let treatment = state.treatment(&from, &self.met.borrow());
        let taken = match treatment {
            Treatment::Hand => {
                state.takers.get(&from).is_some_and(|taker| taker.hand.try_send(stream).is_ok())
            }
            Treatment::Keep => {
                state.kept.insert(from, stream);
                state.full = false;
                self.met.send_if_modified(|met| met.insert(from));
                true
            }
            Treatment::Full => {
                if !std::mem::replace(&mut state.full, true) {
                    tracing::warn!(peer = %from, "a neighbour's connection is closed: {MOST} have dialled, and no more are taken; narrow the network that is listened to");
                }
                false
            }
            Treatment::HangUp => false,
        };
        if !taken {
            tracing::debug!(peer = %from, "hung up: no session takes connections of it, or enough wait");
        }
    }

    /// Forgets whom was met and has gone.
    fn look(&self, now: Instant) {
        let gone: BTreeSet<IpAddr> = {
            let state = self.state();
            let met = self.met.borrow();
            let is_gone = |taker: &Taker| is_gone(&taker.seen.get(), now);
            met.iter().filter(|from| state.takers.get(from).is_some_and(is_gone)).copied().collect()
        };
        if !gone.is_empty() {
            self.met.send_modify(|met| met.retain(|from| !gone.contains(from)));
        }
    }
}

impl State {
    fn admit(&mut self, peer: IpAddr, taker: Taker) {
        if let Some(stream) = self.kept.remove(&peer) {
            // The queue of a new session has room.
            let _ = taker.hand.try_send(stream);
        }
        self.takers.insert(peer, taker);
    }

    fn is_used(&self) -> bool {
        !self.takers.is_empty() || !self.ranges.is_empty()
    }

    /// The keys that a socket for all of them needs; a network's is that of the neighbours in it.
    fn wanted(&self) -> Keys {
        let of_range = |range: &Range| Some((range.network, range.key.clone()?));
        let mut keys: Keys = self.ranges.iter().rev().filter_map(of_range).collect();
        for (peer, taker) in &self.takers {
            if let Some(key) = &taker.key
                && key_of(&keys, peer) != Some(key)
            {
                keys.insert(IpNet::from(*peer), key.clone());
            }
        }
        keys
    }

    /// Fails closed: a connection counts only with the key, or without any, that its peer is to have.
    fn treatment(&self, from: &IpAddr, met: &Met) -> Treatment {
        let key = self.keys.as_ref().and_then(|keys| key_of(keys, from));
        match (self.takers.get(from), narrowest(&self.ranges, from)) {
            (Some(taker), _) if key == taker.key.as_ref() => Treatment::Hand,
            (None, Some(range)) if key == range.key.as_ref() => {
                if met.contains(from) || met.len() < MOST {
                    Treatment::Keep
                } else {
                    Treatment::Full
                }
            }
            _ => Treatment::HangUp,
        }
    }

    fn tell(&self, peers: &IpNet, error: &io::Error) {
        let concerned = self.takers.iter().filter(|(peer, _)| peers.contains(*peer));
        concerned.for_each(|(_, taker)| taker.seen.cannot_listen(error));
    }
}

/// The key that the kernel asks for.
fn key_of<'a>(keys: &'a Keys, peer: &IpAddr) -> Option<&'a Key> {
    let around = keys.iter().filter(|(peers, _)| peers.contains(peer));
    around.max_by_key(|(peers, _)| peers.prefix_len()).map(|(_, key)| key)
}

/// The first of the narrowest networks around an address.
fn narrowest<'a>(ranges: &'a [Range], from: &IpAddr) -> Option<&'a Range> {
    let around = ranges.iter().rev().filter(|range| range.network.contains(from));
    around.max_by_key(|range| range.network.prefix_len())
}

/// The address that a session is from; without one all of its family.
fn local(settings: &PeerSettings) -> Place {
    let peer = &settings.peer;
    (peer.source_address.unwrap_or_else(|| any(peer.address)), peer.device.clone())
}

fn any(of_family: IpAddr) -> IpAddr {
    match of_family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Accepts, and hands each connection to the session that it is for.
async fn take((address, device): Place, door: Arc<Door>) {
    let address = SocketAddr::new(address, PORT);
    let mut told = String::new();
    loop {
        match door.open(address, device.as_deref()) {
            Ok(socket) => {
                told.clear();
                tracing::debug!(%address, "listens for BGP");
                accept(&socket, &door).await;
            }
            Err(error) => {
                if told != error.to_string() {
                    told = error.to_string();
                    tracing::error!(%error, "peers that dial this node cannot reach it; trying again");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Until other keys are wanted.
async fn accept(socket: &TcpListener, door: &Door) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        let accepted = tokio::select! {
            () = door.reopen.notified() => return,
            _ = look.tick() => {
                door.look(Instant::now());
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => door.came(from.ip(), stream),
            Err(error) => {
                tracing::debug!(%error, "cannot accept BGP connections just now");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(password: &str) -> Key {
        let document =
            format!("peers:\n- {{peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, password: {password}}}\n");
        Key::of(herald_config::parse(&document).unwrap().config.peers[0].password.as_ref(), None).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn taker(password: Option<&str>) -> Taker {
        Taker { hand: mpsc::channel(1).0, key: password.map(key), seen: Shared::default() }
    }

    fn range(network: &str, password: Option<&str>) -> Range {
        Range { network: network.parse().unwrap(), key: password.map(key), source: None, device: None }
    }

    /// One with a key of its own, one without, a network with a key, a narrower one with another.
    fn state() -> State {
        let mut state = State {
            ranges: vec![range("10.1.0.0/16", Some("wide")), range("10.1.2.0/24", Some("narrow"))],
            ..State::default()
        };
        state.admit(ip("10.0.0.1"), taker(Some("own")));
        state.admit(ip("10.0.0.2"), taker(None));
        state.admit(ip("10.1.0.1"), taker(Some("wide")));
        state
    }

    #[test]
    fn a_network_has_one_key_for_all_its_neighbours() {
        let keys = state().wanted();
        let of = |peer: &str| key_of(&keys, &ip(peer)).cloned();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert_eq!(of("10.0.0.1"), Some(key("own")));
        assert_eq!(of("10.0.0.2"), None);
        assert_eq!(of("10.1.0.1"), Some(key("wide")));
        assert_eq!(of("10.1.2.3"), Some(key("narrow")));
    }

    #[test]
    fn nobody_is_let_in_without_the_key_that_is_asked_of_it() {
        let mut state = state();
        let nobody = Met::new();
        assert_eq!(
            state.treatment(&ip("10.0.0.1"), &nobody),
            Treatment::HangUp,
            "no key is on the socket yet"
        );
        assert_eq!(state.treatment(&ip("10.1.9.9"), &nobody), Treatment::HangUp);
        assert_eq!(state.treatment(&ip("10.0.0.2"), &nobody), Treatment::Hand);
        state.keys = Some(state.wanted());
        for (from, treatment) in [
            ("10.0.0.1", Treatment::Hand),
            ("10.1.0.1", Treatment::Hand),
            ("10.1.2.3", Treatment::Keep),
            ("10.9.9.9", Treatment::HangUp),
        ] {
            assert_eq!(state.treatment(&ip(from), &nobody), treatment, "{from}");
        }
        // Its session is begun anew with another key, and the socket has the old one.
        state.admit(ip("10.0.0.1"), taker(Some("new")));
        assert_eq!(state.treatment(&ip("10.0.0.1"), &nobody), Treatment::HangUp);
    }

    #[test]
    fn the_neighbours_of_a_node_are_bounded() {
        let mut state = state();
        state.keys = Some(state.wanted());
        let met: Met = (0..MOST as u8).map(|n| IpAddr::from([10, 1, 7, n])).collect();
        assert_eq!(state.treatment(&ip("10.1.2.3"), &met), Treatment::Full);
        assert_eq!(state.treatment(&ip("10.1.7.3"), &met), Treatment::Keep, "it is one of them");
    }
}
