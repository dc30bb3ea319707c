//! Connections that peers open: taken on port 179 where a session wants them, and handed to it.
//!
//! Only sessions that say so are handed any; whoever else connects is hung up on. The key of a peer is on the listening socket
//! before anything is accepted, so that a SYN without it is not answered. While the address or the port is not to be had, it is
//! tried again, and the sessions that wait for it tell so.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_config::Password;
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::PeerSettings;
use super::sockopt::{bind, forget_md5, listen, set_md5};
use super::status::Shared;

/// RFC 4271 §8: where BGP listens.
const PORT: u16 = 179;
/// Connections that wait for their session; more are hung up on, and their peers try again.
const WAITING: usize = 2;
/// After the system had no socket or no connection to give for want of something.
const REST: Duration = Duration::from_millis(500);

/// The listening sockets of the node, by their addresses: one for each that sessions are from, for as long as there are such.
#[derive(Debug, Default)]
pub(super) struct Listener(BTreeMap<Place, Listening>);

/// An address, and the interface or VRF that it is of.
type Place = (IpAddr, Option<String>);

#[derive(Debug)]
struct Listening {
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it could be opened.
    socket: Option<Arc<TcpListener>>,
    /// By the address of the peer.
    takers: BTreeMap<IpAddr, Taker>,
}

/// A session that takes connections.
#[derive(Debug)]
struct Taker {
    hand: mpsc::Sender<TcpStream>,
    password: Option<Password>,
    seen: Shared,
}

impl Listener {
    /// Hands on what a peer opens from now on; the tasks that accept are in the set.
    pub(super) fn admit(
        &mut self,
        settings: &PeerSettings,
        seen: Shared,
        tasks: &mut JoinSet<()>,
    ) -> mpsc::Receiver<TcpStream> {
        let place = local(settings);
        let listening = self.0.entry(place.clone()).or_insert_with(|| {
            let state = Arc::default();
            let task = tasks.spawn(take(place, Arc::clone(&state)));
            Listening { state, task }
        });
        let (hand, taken) = mpsc::channel(WAITING);
        let taker = Taker { hand, password: settings.peer.password.clone(), seen };
        guard(&listening.state).admit(settings.peer.address, taker);
        taken
    }

    /// Hangs up on a peer again.
    pub(super) fn dismiss(&mut self, settings: &PeerSettings) {
        let place = local(settings);
        let Some(listening) = self.0.get(&place) else { return };
        let mut state = guard(&listening.state);
        state.dismiss(settings.peer.address);
        let unused = state.takers.is_empty();
        drop(state);
        if unused && let Some(listening) = self.0.remove(&place) {
            listening.task.abort();
        }
    }
}

impl State {
    /// Fails closed: without its key on the socket a peer is hung up on.
    fn admit(&mut self, peer: IpAddr, taker: Taker) {
        if let Some(socket) = &self.socket
            && let Err(error) = key(&SockRef::from(&**socket), peer, &taker)
        {
            return taker.seen.cannot_listen(&error);
        }
        self.takers.insert(peer, taker);
    }

    fn dismiss(&mut self, peer: IpAddr) {
        if self.takers.remove(&peer).is_some()
            && let Some(socket) = &self.socket
        {
            // There may have been none.
            let _ = forget_md5(&SockRef::from(&**socket), SocketAddr::new(peer, 0));
        }
    }

    /// Opens the socket, with the keys of all who wait for it before anybody can connect.
    fn open(&mut self, address: SocketAddr, device: Option<&str>) -> io::Result<Arc<TcpListener>> {
        let opened = bind(address, device).and_then(|socket| {
            self.takers.retain(|peer, taker| {
                key(&socket, *peer, taker).inspect_err(|error| taker.seen.cannot_listen(error)).is_ok()
            });
            listen(socket)
        });
        let socket = opened
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
            .inspect_err(|error| self.takers.values().for_each(|taker| taker.seen.cannot_listen(error)))?;
        let socket = Arc::new(socket);
        self.socket = Some(Arc::clone(&socket));
        Ok(socket)
    }
}

fn key(socket: &Socket, peer: IpAddr, taker: &Taker) -> io::Result<()> {
    match &taker.password {
        Some(password) => set_md5(socket, SocketAddr::new(peer, 0), password)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot set the TCP MD5 key: {error}"))),
        None => Ok(()),
    }
}

/// The address that a session is from; without one all of its family.
fn local(settings: &PeerSettings) -> Place {
    let any = match settings.peer.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    (settings.peer.source_address.unwrap_or(any), settings.peer.device.clone())
}

/// Accepts, and hands each connection to the session that it is for.
async fn take((address, device): Place, state: Arc<Mutex<State>>) {
    let address = SocketAddr::new(address, PORT);
    let mut told = String::new();
    let socket = loop {
        let opened = guard(&state).open(address, device.as_deref());
        match opened {
            Ok(socket) => break socket,
            Err(error) => {
                if told != error.to_string() {
                    told = error.to_string();
                    tracing::error!(%error, "the peers that dial this node cannot reach it; it is tried again");
                }
                tokio::time::sleep(REST).await;
            }
        }
    };
    tracing::debug!(%address, "listens for BGP");
    loop {
        match socket.accept().await {
            Ok((stream, from)) => {
                let taker = guard(&state).takers.get(&from.ip()).map(|taker| taker.hand.clone());
                if taker.is_none_or(|taker| taker.try_send(stream).is_err()) {
                    tracing::debug!(peer = %from, "hung up: no session takes connections of it, or enough wait");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept BGP connections just now");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn guard(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
