//! Conntrack entries made by hand (ctnetlink), for protocols that this kernel has no sockets of, and many at a time.

use std::net::{IpAddr, SocketAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

/// An entry of a client that reaches an endpoint through a frontend; TCP is established.
pub(crate) struct Entry {
    pub(crate) protocol: u8,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) endpoint: SocketAddr,
}

/// Creates entries in the calling thread's namespace; all must be taken.
pub(crate) fn create(entries: &[Entry]) {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&NetlinkAddress::new(0, 0)).unwrap();
    for some in entries.chunks(200) {
        let mut datagram = Vec::new();
        for (index, entry) in some.iter().enumerate() {
            datagram.extend(message(entry, index + 1 == some.len()));
        }
        assert_eq!(socket.send(&datagram, 0).unwrap(), datagram.len());
        let mut answer = Vec::with_capacity(65536);
        socket.recv(&mut answer, 0).unwrap();
        // One answer, to the last message, and it is no error.
        assert_eq!(i32::from_ne_bytes(answer[16..20].try_into().unwrap()), 0, "{}", some.len());
        assert_eq!(u32::from_ne_bytes(answer[8..12].try_into().unwrap()), 2);
    }
}

fn message(entry: &Entry, last: bool) -> Vec<u8> {
    let Entry { protocol, source, destination, endpoint } = entry;
    // CTA_STATUS: SEEN_REPLY, ASSURED, CONFIRMED; CTA_TIMEOUT.
    let mut body =
        [tuple(1, *protocol, *source, *destination), tuple(2, *protocol, *endpoint, *source)].concat();
    body.extend(attribute(3, &0b1110u32.to_be_bytes()));
    body.extend(attribute(7, &600u32.to_be_bytes()));
    match protocol {
        // CTA_PROTOINFO: TCP or SCTP, state ESTABLISHED.
        6 => body.extend(nest(4, &nest(1, &attribute(1, &[3])))),
        132 => {
            let tags = [attribute(2, &1u32.to_be_bytes()), attribute(3, &2u32.to_be_bytes())].concat();
            body.extend(nest(4, &nest(3, &[attribute(1, &[4]), tags].concat())));
        }
        _ => {}
    }
    let mut message = Vec::new();
    message.extend(u32::try_from(20 + body.len()).unwrap().to_ne_bytes());
    // IPCTNL_MSG_CT_NEW; REQUEST, CREATE, EXCL, and ACK for the last.
    message.extend((1u16 << 8).to_ne_bytes());
    message.extend(if last { 0x605u16 } else { 0x601 }.to_ne_bytes());
    message.extend((1 + u32::from(last)).to_ne_bytes());
    message.extend([0; 4]);
    message.extend([if source.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
    message.extend(body);
    message
}

fn tuple(kind: u16, protocol: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let address = |ip: IpAddr, v4, v6| match ip {
        IpAddr::V4(ip) => attribute(v4, &ip.octets()),
        IpAddr::V6(ip) => attribute(v6, &ip.octets()),
    };
    let ip = [address(source.ip(), 1, 3), address(destination.ip(), 2, 4)].concat();
    let ports = [(2, source.port()), (3, destination.port())]
        .map(|(kind, port)| attribute(kind, &port.to_be_bytes()));
    let proto = [attribute(1, &[protocol]), ports.concat()].concat();
    nest(kind, &[nest(1, &ip), nest(2, &proto)].concat())
}

fn nest(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | 0x8000, value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    attribute.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}
