//! Sockets that tell with each datagram its TTL and when the kernel had it: what BFD needs, and router advertisements.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, Socket, Type};

use super::{TOS_CS6, bind_device};

/// RFC 5881 §5, RFC 5082: the TTL that no router can have lowered.
const TTL: u32 = 255;

/// `linux/icmpv6.h`; libc does not have it.
const ICMP6_FILTER: libc::c_int = 1;
/// RFC 4861 §4.2.
const ADVERTISEMENT: u8 = 134;

/// What came, but for its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bgp) struct Datagram {
    /// The octets that were written to the buffer.
    pub(in crate::bgp) length: usize,
    /// Who sent it.
    pub(in crate::bgp) from: IpAddr,
    /// The interface of a link-local sender; 0: of another one.
    pub(in crate::bgp) interface: u32,
    /// Its TTL or hop limit on arrival.
    pub(in crate::bgp) ttl: Option<u8>,
    /// When the kernel received it.
    pub(in crate::bgp) at: Option<SystemTime>,
}

/// A socket that receives at this address, on this interface or in this VRF if one is given.
pub(in crate::bgp) fn receiver(at: SocketAddr, device: Option<&str>) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Another BFD on the node receives at other addresses, or at all of them, where ours comes first.
    socket.set_reuse_address(true)?;
    let fd = socket.as_raw_fd();
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    match at {
        SocketAddr::V4(_) => set(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        }
    }
    bind_device(&socket, device)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// A socket that sends from this address, with the TTL that the receiver checks; the same with an interface or VRF.
pub(in crate::bgp) fn sender(from: SocketAddr, device: Option<&str>) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(from), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    match from {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(TOS_CS6)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(TOS_CS6)?;
        }
    }
    bind_device(&socket, device)?;
    socket.bind(&from.into())?;
    Ok(socket)
}

/// A socket that sends and receives router advertisements (RFC 4861 §4.2) on every interface, and not its own.
pub(in crate::bgp) fn advertisements() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(TTL)?;
    socket.set_multicast_loop_v6(false)?;
    set(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
    // A bit is set for each type that is not passed (RFC 3542 §3.2).
    let mut blocked = [u32::MAX; 8];
    blocked[usize::from(ADVERTISEMENT) / 32] &= !(1 << (ADVERTISEMENT % 32));
    set(socket.as_raw_fd(), libc::IPPROTO_ICMPV6, ICMP6_FILTER, blocked)?;
    Ok(socket)
}

fn set<T: Copy>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the caller's socket is open; pointer and length describe `value`, which the kernel only reads.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Aligned as control messages are.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Takes the next datagram; `WouldBlock` if there is none.
pub(in crate::bgp) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = Control([0; 128]);
    // SAFETY: as above, plain integers.
    let mut from: libc::sockaddr_storage = unsafe { zeroed() };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all fields are integers or pointers, for which zero is a valid value.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the socket is open; every pointer in `header` is to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    let told = control.0.get(..header.msg_controllen as usize).unwrap_or_default();
    let (mut ttl, mut at) = (None, None);
    for (level, name, data) in messages(told) {
        match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                ttl = data.first_chunk().and_then(|octets| u8::try_from(i32::from_ne_bytes(*octets)).ok());
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => at = timestamp(data),
            _ => {}
        }
    }
    let (from, interface) = address(&from).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Datagram { length, from, interface, ttl, at })
}

/// The control messages, as `struct cmsghdr` and its macros lay them out (cmsg(3)): length, level, type, data, padding.
fn messages(mut rest: &[u8]) -> Vec<(libc::c_int, libc::c_int, &[u8])> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut found = Vec::new();
    while let Some(length) = rest.first_chunk::<WORD>().map(|octets| usize::from_ne_bytes(*octets)) {
        let Some(message) = rest.get(..length).filter(|_| length >= HEADER) else { break };
        let integer = |at: usize| {
            message.get(at..at + 4).and_then(|o| o.try_into().ok()).map_or(0, libc::c_int::from_ne_bytes)
        };
        found.push((integer(WORD), integer(WORD + 4), &message[HEADER..]));
        rest = rest.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    found
}

/// Two words: seconds and nanoseconds.
fn timestamp(data: &[u8]) -> Option<SystemTime> {
    let (seconds, rest) = data.split_first_chunk::<8>()?;
    let nanoseconds = rest.first_chunk::<8>()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanoseconds = u32::try_from(i64::from_ne_bytes(*nanoseconds)).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// And the scope of an IPv6 address.
fn address(storage: &libc::sockaddr_storage) -> Option<(IpAddr, u32)> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a `sockaddr_in`, as the family says; the storage is large enough and aligned for it.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            Some((Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into(), 0))
        }
        libc::AF_INET6 => {
            // SAFETY: the same with a `sockaddr_in6`.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            Some((Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), v6.sin6_scope_id))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_comes_with_its_sender_its_ttl_and_its_time() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let receiving = receiver(local.parse().unwrap(), None).unwrap();
            let to = receiving.local_addr().unwrap();
            let sending = sender(local.parse().unwrap(), None).unwrap();
            let before = SystemTime::now();
            sending.send_to(b"hello", &to).unwrap();
            let mut buffer = [0; 16];
            let came = receive(&receiving, &mut buffer).unwrap();
            assert_eq!(&buffer[..came.length], b"hello");
            assert_eq!((came.from, came.ttl), (to.as_socket().unwrap().ip(), Some(255)));
            let at = came.at.unwrap();
            assert!(at >= before - Duration::from_millis(1) && at <= SystemTime::now(), "{at:?}");
            assert_eq!(receive(&receiving, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn control_messages_that_do_not_add_up_are_not_read() {
        for bytes in [&[][..], &[1; 7], &[0; 16], &[255; 32], &[16, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(messages(bytes), []);
        }
    }
}
