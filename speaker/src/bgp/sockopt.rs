//! Options of a BGP session's TCP socket, and in [`datagram`] those of BFD: the one module of this crate with `unsafe`.
//!
//! Decides nothing about sessions. It makes a connected, non-blocking socket with the options that a BGP
//! speaker needs:
//! - source address where configured (a missing one is an error with that address in it, retried by the session),
//! - `TCP_NODELAY`, DSCP CS6 in both families (RFC 4271 appendix E),
//! - GTSM (RFC 5082) where configured: sent with TTL 255, and what came over more hops than the peer is away is not heard,
//! - `TCP_USER_TIMEOUT` = hold time, so that a silent path ends the session as early as the hold timer would,
//! - its key ([`Key`]: TCP-MD5 or TCP-AO) before the first SYN.
//!
//! Invariant: it fails closed. With a key configured no byte leaves on a socket that has none.
#![allow(unsafe_code, reason = "socket options that have no safe wrapper in any maintained crate")]

pub(super) mod datagram;
mod key;

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(super) use self::key::Key;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// `linux/in6.h`; libc does not have it.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// DSCP CS6, "network control", as a TOS byte.
const TOS_CS6: u32 = 0xc0;

/// What a session wants of its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialOptions {
    /// The peer.
    pub(crate) peer: SocketAddr,
    /// The interface or VRF that the session is in; `None`: where the routes lead.
    pub(crate) device: Option<String>,
    /// Address to dial from; `None` lets the kernel's routes choose.
    pub(crate) source: Option<IpAddr>,
    /// How many hops the peer is away at most (RFC 5082), 1 or more; `None`: any distance.
    pub(crate) hops: Option<u8>,
    /// `TCP_USER_TIMEOUT`; `None` leaves the kernel's quarter of an hour.
    pub(crate) user_timeout: Option<Duration>,
    /// What signs its segments.
    pub(crate) key: Option<Key>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The key could not be installed, so nothing was sent.
    #[error("cannot set the TCP key, so the session is not dialled")]
    Key(#[source] io::Error),
    /// There is no such interface or VRF.
    #[error("cannot dial by {0}: there is no such interface or VRF on this node")]
    Device(String, #[source] io::Error),
    /// The configured source address is not an address of this node.
    #[error("cannot dial from the configured source address {0}")]
    Source(IpAddr, #[source] io::Error),
    /// Anything else about the socket itself.
    #[error("cannot prepare the socket")]
    Socket(#[source] io::Error),
    /// The peer did not take the connection.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// Nobody answered. With a password this is how a wrong key looks.
    #[error("no answer from {peer} within {} s{}", after.as_secs(), if *password { " (a password is configured: check that both ends have the same)" } else { "" })]
    TimedOut {
        /// The peer.
        peer: SocketAddr,
        /// How long it was tried.
        after: Duration,
        /// Whether a password is configured.
        password: bool,
    },
}

/// Dials the peer.
pub(crate) async fn dial(options: &DialOptions, deadline: Duration) -> Result<TcpStream, DialError> {
    let socket = prepare(options)?;
    match tokio::time::timeout(deadline, socket.connect(options.peer)).await {
        Ok(connected) => {
            let stream = connected.map_err(|error| DialError::Connect(options.peer, error))?;
            heard_within(&SockRef::from(&stream), options).map_err(DialError::Socket)?;
            Ok(stream)
        }
        Err(_) => {
            Err(DialError::TimedOut { peer: options.peer, after: deadline, password: options.key.is_some() })
        }
    }
}

/// A socket with all its options, not yet connected.
fn prepare(options: &DialOptions) -> Result<TcpSocket, DialError> {
    let domain = Domain::for_address(options.peer);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
        .map_err(DialError::Socket)?;
    if options.peer.is_ipv6() {
        socket.set_only_v6(true).map_err(DialError::Socket)?;
    }
    common_options(&socket, options).map_err(DialError::Socket)?;
    if let Some(key) = &options.key {
        key.put_on(&socket, options.peer.ip().into()).map_err(DialError::Key)?;
    }
    let device = options.device.as_deref();
    bind_device(&socket, device)
        .map_err(|error| DialError::Device(device.unwrap_or_default().to_owned(), error))?;
    if let Some(source) = options.source {
        socket
            .bind(&SockAddr::from(SocketAddr::new(source, 0)))
            .map_err(|error| DialError::Source(source, error))?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Keeps a socket to an interface or a VRF, which a link-local address needs.
fn bind_device(socket: &Socket, device: Option<&str>) -> io::Result<()> {
    device.map_or(Ok(()), |device| socket.bind_device(Some(device.as_bytes())))
}

/// A socket that has an address and does not listen yet, so that keys can be put on it before anybody connects.
pub(super) fn bind(address: SocketAddr, device: Option<&str>) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // A predecessor's connections may still be closing; and one address may be listened on beside all of them.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // What is answered before a connection is anybody's must be good for GTSM.
    match address {
        SocketAddr::V4(_) => socket.set_ttl_v4(u8::MAX.into())?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(u8::MAX.into())?;
        }
    }
    bind_device(&socket, device)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Lets peers connect.
pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Gives a connection that the peer opened what a dialled one has.
pub(super) fn accepted(stream: &TcpStream, options: &DialOptions) -> io::Result<()> {
    let socket = SockRef::from(stream);
    common_options(&socket, options)?;
    heard_within(&socket, options)
}

fn common_options(socket: &Socket, options: &DialOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    match options.peer {
        SocketAddr::V4(_) => socket.set_tos_v4(TOS_CS6)?,
        SocketAddr::V6(_) => socket.set_tclass_v6(TOS_CS6)?,
    }
    match options.peer {
        _ if options.hops.is_none() => Ok(()),
        SocketAddr::V4(_) => socket.set_ttl_v4(u8::MAX.into()),
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(u8::MAX.into()),
    }
}

/// Of a connection that stands nothing from further away is heard (RFC 5082 §3). Not before: routers answer a SYN from a socket
/// that is no neighbour's yet, with the TTL of everything else.
fn heard_within(socket: &Socket, options: &DialOptions) -> io::Result<()> {
    let Some(hops) = options.hops else { return Ok(()) };
    let lowest = libc::c_int::from(u8::MAX - hops.saturating_sub(1));
    let (level, name) = match options.peer {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    };
    // SAFETY: the file descriptor is open as long as `socket` is borrowed; pointer and length describe `lowest`, which
    // the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const lowest).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(peer: &str) -> DialOptions {
        DialOptions {
            peer: peer.parse().unwrap(),
            device: None,
            source: None,
            hops: Some(1),
            user_timeout: None,
            key: None,
        }
    }

    #[tokio::test]
    async fn a_source_address_that_is_not_ours_is_named_in_the_error() {
        let mut from = options("127.0.0.1:9");
        from.source = Some("192.0.2.77".parse().unwrap());
        let Err(error) = prepare(&from) else { panic!("bound to a foreign address") };
        assert!(error.to_string().contains("192.0.2.77"), "{error}");
    }

    #[tokio::test]
    async fn a_device_that_is_not_there_is_named_in_the_error() {
        let mut by = options("127.0.0.1:9");
        by.device = Some("red".to_owned());
        let Err(error) = prepare(&by) else { panic!("bound to nothing") };
        assert!(error.to_string().contains("by red"), "{error}");
    }

    #[tokio::test]
    async fn options_are_on_the_socket_in_both_families() {
        for peer in ["127.0.0.1:9", "[::1]:9"] {
            let mut wanted = options(peer);
            wanted.user_timeout = Some(Duration::from_secs(9));
            let socket = prepare(&wanted).unwrap();
            let socket = SockRef::from(&socket);
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
            let (ttl, tos) = if wanted.peer.is_ipv4() {
                (socket.ttl_v4().unwrap(), socket.tos_v4().unwrap())
            } else {
                (socket.unicast_hops_v6().unwrap(), socket.tclass_v6().unwrap())
            };
            assert_eq!((ttl, tos), (255, TOS_CS6));
        }
    }
}
