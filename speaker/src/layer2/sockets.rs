//! The sockets of one interface: frames of ARP and neighbour discovery, hellos, and multicast groups.
//!
//! Frames come by `AF_PACKET` with a filter in the kernel, attached before anything can arrive: an unfiltered IPv6 socket
//! would see all traffic of the node. The solicited-node groups are really joined, by an IPv6 socket: switches that snoop
//! and the network card would not deliver solicitations otherwise. All sockets are non-blocking; what the kernel has no
//! room for is lost, as on any wire.
#![allow(unsafe_code, reason = "a packet socket is bound by no safe function")]

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frame::solicited_node;

/// UDP port of hellos.
pub(crate) const HELLO_PORT: u16 = 7947;
/// Where hellos go by IPv4: a group of the local network (RFC 5771 §4), which switches flood, snooping or not.
const HELLO_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
/// Where hellos go by IPv6: "HERALD", link-local and not assigned permanently (RFC 4291 §2.7).
const HELLO_GROUP6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0x4845, 0x5241, 0x4c44);
/// Hellos go before other traffic: DSCP CS6.
const TOS_CS6: u32 = 0xc0;
/// Groups that one socket joins; more would not fit into the kernel's `optmem_max`.
const GROUPS_PER_SOCKET: usize = 1000;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What a packet socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frames {
    /// ARP.
    Arp,
    /// Neighbour solicitations and advertisements.
    Ndp,
}

/// A packet socket on one interface.
pub(crate) fn packet_socket(frames: Frames, interface: u32) -> io::Result<AsyncFd<Socket>> {
    // Without a protocol nothing arrives until the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open a packet socket (CAP_NET_RAW is needed): {error}"))
    })?;
    let ethertype = match frames {
        Frames::Arp => libc::ETH_P_ARP,
        Frames::Ndp => {
            socket.attach_filter(&ndp_filter())?;
            libc::ETH_P_IPV6
        }
    };
    let protocol = u16::try_from(ethertype).unwrap_or_default().to_be();
    let interface = i32::try_from(interface).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed and larger than a `sockaddr_ll`, any bits of which are valid; the length is its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = protocol;
            (*address).sll_ifindex = interface;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    register(socket)
}

/// For the runtime, which wakes who reads.
pub(crate) fn register<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what is moved in here owns its descriptor, which is closed by nobody but the value that is returned.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(io::Error::from)
}

/// Ethernet, then IPv6 with ICMPv6 as its first header, then the type; the rest is checked by `frame.rs`.
fn ndp_filter() -> [SockFilter; 7] {
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
        SockFilter::new(JUMP_EQUAL, 0, 4, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
        SockFilter::new(JUMP_EQUAL, 1, 0, 135),
        SockFilter::new(JUMP_EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, 2048),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Sends a frame; one that the kernel has no room for is lost.
pub(crate) fn send_frame(socket: &AsyncFd<Socket>, frame: &[u8]) -> bool {
    socket.get_ref().send(frame).is_ok()
}

/// Takes a datagram or frame if there is one; waits for none.
pub(crate) fn receive<'b>(socket: &AsyncFd<Socket>, buffer: &'b mut [u8; 2048]) -> Option<&'b [u8]> {
    let raw: &mut [u8] = buffer;
    // SAFETY: octets that are initialised may be taken for such that need not be, and `recv` writes only initialised ones.
    let unset = unsafe { &mut *(raw as *mut [u8] as *mut [MaybeUninit<u8>]) };
    let length = socket.get_ref().recv(unset).ok()?;
    buffer.get(..length)
}

/// [`receive`] of a datagram, and where it came from.
pub(crate) fn receive_from<'b>(
    socket: &Socket,
    buffer: &'b mut [u8; 2048],
) -> Option<(&'b [u8], Option<IpAddr>)> {
    let raw: &mut [u8] = buffer;
    // SAFETY: as above.
    let unset = unsafe { &mut *(raw as *mut [u8] as *mut [MaybeUninit<u8>]) };
    let (length, from) = socket.recv_from(unset).ok()?;
    Some((buffer.get(..length)?, from.as_socket().map(|from| from.ip())))
}

/// A socket for hellos of one family on one interface, with where they go. Nobody is woken by it: see [`super::port`].
pub(crate) fn hello_socket(v6: bool, name: &str, index: u32) -> io::Result<(Socket, SockAddr)> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Each interface has one of its own.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(name.as_bytes()))?;
    let group: SocketAddr = if v6 {
        socket.set_only_v6(true)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_unicast_hops_v6(1)?;
        socket.set_tclass_v6(TOS_CS6)?;
        socket.join_multicast_v6(&HELLO_GROUP6, index)?;
        SocketAddrV6::new(HELLO_GROUP6, HELLO_PORT, 0, index).into()
    } else {
        let interface = InterfaceIndexOrAddress::Index(index);
        socket.join_multicast_v4_n(&HELLO_GROUP, &interface)?;
        // Where they leave follows from the device.
        socket.set_multicast_loop_v4(false)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_ttl_v4(1)?;
        socket.set_tos_v4(TOS_CS6)?;
        (HELLO_GROUP, HELLO_PORT).into()
    };
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    give_room(&socket);
    socket.bind(&SocketAddr::new(any, HELLO_PORT).into())?;
    Ok((socket, group.into()))
}

/// Room for the hellos of a thousand nodes between two looks; with less of it, some of so many are lost.
fn give_room(socket: &Socket) {
    const ROOM: usize = 4 << 20;
    if setsockopt(socket, RcvBufForce, &ROOM).is_err() {
        // Without CAP_NET_ADMIN as much as everybody may have.
        let _ = socket.set_recv_buffer_size(ROOM);
    }
}

/// The solicited-node groups of the addresses that are offered on one interface.
#[derive(Debug)]
pub(crate) struct Groups {
    interface: u32,
    /// How many addresses share a group, and the socket that joined it.
    joined: BTreeMap<Ipv6Addr, (usize, usize)>,
    /// With how many groups each has joined.
    sockets: Vec<(Socket, usize)>,
}

impl Groups {
    /// None is joined.
    pub(crate) fn new(interface: u32) -> Self {
        Self { interface, joined: BTreeMap::new(), sockets: Vec::new() }
    }

    /// Solicitations of an address are wanted.
    pub(crate) fn join(&mut self, address: Ipv6Addr) -> io::Result<()> {
        let group = solicited_node(address);
        if let Some((users, _)) = self.joined.get_mut(&group) {
            *users += 1;
            return Ok(());
        }
        let at = match self.sockets.iter().position(|(_, groups)| *groups < GROUPS_PER_SOCKET) {
            Some(at) => at,
            None => {
                let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
                self.sockets.push((socket, 0));
                self.sockets.len() - 1
            }
        };
        if let Some((socket, groups)) = self.sockets.get_mut(at) {
            socket.join_multicast_v6(&group, self.interface)?;
            *groups += 1;
        }
        self.joined.insert(group, (1, at));
        Ok(())
    }

    /// They are not any more.
    pub(crate) fn leave(&mut self, address: Ipv6Addr) {
        let group = solicited_node(address);
        let Some((users, at)) = self.joined.get_mut(&group) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        if let Some((socket, groups)) = self.sockets.get_mut(*at) {
            // The link may be gone, and the group with it.
            let _ = socket.leave_multicast_v6(&group, self.interface);
            *groups -= 1;
        }
        self.joined.remove(&group);
    }
}
