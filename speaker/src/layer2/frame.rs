//! ARP and neighbour discovery frames: those that announce and answer for an address, and what is read of others'.
//!
//! Ethernet, IPv4 over it by RFC 826, IPv6 by RFC 4861. Frames are arrays of fixed length and reading them borrows, so
//! that answering allocates nothing. Nothing here decides whether an address is answered for.
//!
//! Linux neighbours take a gratuitous request from any state, and a gratuitous reply within the first 0.3 s of an entry
//! only if its target hardware address is the sender's: so that is what [`gratuitous_reply`] has. An unsolicited
//! advertisement needs the override flag, and must not have the solicited one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub(crate) type Mac = [u8; 6];
/// A frame with an ARP packet.
pub(crate) type ArpFrame = [u8; ARP_LEN];
/// A frame with a neighbour advertisement.
pub(crate) type AdvertisementFrame = [u8; ETHERNET + IPV6 + ADVERTISEMENT];
/// A frame with a neighbour solicitation without options, as duplicate address detection sends it.
pub(crate) type SolicitationFrame = [u8; ETHERNET + IPV6 + SOLICITATION];

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ARP_LEN: usize = ETHERNET + 28;
const ADVERTISEMENT: usize = 32;
const SOLICITATION: usize = 24;

const BROADCAST: Mac = [0xff; 6];
const NO_MAC: Mac = [0; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const OP_REQUEST: u16 = 1;
const OP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// What a frame of somebody else says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The address that the sender says is its own, and by which hardware address.
    pub(crate) claim: Option<(IpAddr, Mac)>,
    /// What it asks for.
    pub(crate) question: Option<Question>,
}

/// Somebody wants to know who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// The address.
    pub(crate) target: IpAddr,
    /// Who asks; unspecified while it checks whether the address is free.
    pub(crate) asker: IpAddr,
    /// Where the answer goes.
    pub(crate) mac: Mac,
}

/// A gratuitous ARP request: sender and target address are the announced one, the target hardware address is empty.
pub(crate) fn gratuitous_request(mac: Mac, vip: Ipv4Addr) -> ArpFrame {
    arp(BROADCAST, OP_REQUEST, (mac, vip), (NO_MAC, vip))
}

/// A gratuitous ARP reply, to everybody.
pub(crate) fn gratuitous_reply(mac: Mac, vip: Ipv4Addr) -> ArpFrame {
    arp(BROADCAST, OP_REPLY, (mac, vip), (mac, vip))
}

/// An ARP probe: whether somebody has the address, without touching anybody's cache (RFC 5227 §2.1.1).
pub(crate) fn arp_probe(mac: Mac, vip: Ipv4Addr) -> ArpFrame {
    arp(BROADCAST, OP_REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (NO_MAC, vip))
}

/// The answer to an ARP request.
pub(crate) fn arp_reply(mac: Mac, vip: Ipv4Addr, to: Mac, asker: Ipv4Addr) -> ArpFrame {
    arp(to, OP_REPLY, (mac, vip), (to, asker))
}

/// An unsolicited neighbour advertisement with the override flag, to all nodes.
pub(crate) fn unsolicited_advertisement(mac: Mac, vip: Ipv6Addr) -> AdvertisementFrame {
    advertisement(mac, multicast_mac(ALL_NODES), vip, ALL_NODES, FLAG_OVERRIDE)
}

/// The answer to a neighbour solicitation.
pub(crate) fn solicited_advertisement(
    mac: Mac,
    vip: Ipv6Addr,
    to: Mac,
    asker: Ipv6Addr,
) -> AdvertisementFrame {
    // RFC 4861 §7.2.4: whoever has no address yet is told by everybody's, and not as one who asked.
    if asker.is_unspecified() {
        return unsolicited_advertisement(mac, vip);
    }
    advertisement(mac, to, vip, asker, FLAG_SOLICITED | FLAG_OVERRIDE)
}

/// A neighbour solicitation that asks whether somebody has the address (RFC 4862 §5.4.2).
pub(crate) fn solicitation_probe(mac: Mac, vip: Ipv6Addr) -> SolicitationFrame {
    let group = solicited_node(vip);
    let mut message = [0; SOLICITATION];
    message[0] = NEIGHBOR_SOLICITATION;
    message[8..24].copy_from_slice(&vip.octets());
    in_ipv6(multicast_mac(group), mac, Ipv6Addr::UNSPECIFIED, group, &mut message)
}

/// The group in which solicitations of an address are sent (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Reads a frame that arrived on an interface with this hardware address; `None`: it is malformed, or about nothing that
/// matters here.
pub(crate) fn read(frame: &[u8], own: Mac) -> Option<Heard> {
    let (destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<6>()?;
    let (ethertype, payload) = rest.split_first_chunk::<2>()?;
    if *source == own {
        return None;
    }
    match *ethertype {
        ETHERTYPE_ARP => read_arp(payload, *destination == own || *destination == BROADCAST),
        ETHERTYPE_IPV6 => read_ndp(payload, *source),
        _ => None,
    }
}

fn read_arp(packet: &[u8], for_us: bool) -> Option<Heard> {
    let (kind, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<6>()?;
    let (target, _) = rest.split_first_chunk::<4>()?;
    let operation = u16::from_be_bytes(*operation);
    // A group or nobody as owner is nonsense, and nothing may be answered to it.
    if *kind != ARP_ETHERNET_IPV4 || !matches!(operation, OP_REQUEST | OP_REPLY) || !is_unicast(*sender_mac) {
        return None;
    }
    let (sender, target) = (Ipv4Addr::from(*sender), Ipv4Addr::from(*target));
    let asks = operation == OP_REQUEST && for_us && sender != target;
    Some(Heard {
        claim: (!sender.is_unspecified()).then_some((sender.into(), *sender_mac)),
        question: asks.then_some(Question { target: target.into(), asker: sender.into(), mac: *sender_mac }),
    })
}

fn read_ndp(packet: &[u8], source_mac: Mac) -> Option<Heard> {
    let (header, rest) = packet.split_first_chunk::<IPV6>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // RFC 4861 §7.1: hop limit 255, so it cannot have come through a router; the checksum is right; code 0.
    let message = rest.get(..length)?;
    let (source, destination) = (ipv6(&header[8..24])?, ipv6(&header[24..40])?);
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 || !is_unicast(source_mac) {
        return None;
    }
    let (fixed, mut options) = message.split_first_chunk::<SOLICITATION>()?;
    if fixed[1] != 0 || checksum(source, destination, message) != 0 {
        return None;
    }
    let target = ipv6(&fixed[8..24]).filter(|target| !target.is_multicast())?;
    let wanted = match fixed[0] {
        NEIGHBOR_SOLICITATION => SOURCE_LINK_LAYER_ADDRESS,
        NEIGHBOR_ADVERTISEMENT => TARGET_LINK_LAYER_ADDRESS,
        _ => return None,
    };
    let mut told = None;
    while let [kind, units, ..] = options {
        // RFC 4861 §4.6: an option of length 0 makes the packet invalid.
        let length = usize::from(*units) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if *kind == wanted && told.is_none() {
            told = option.get(2..8).and_then(|mac| Mac::try_from(mac).ok());
        }
        options = options.get(length..)?;
    }
    // RFC 4861 §7.2.3: unicast solicitations may come without the option; the frame tells it as well.
    let mac = told.filter(|mac| is_unicast(*mac)).unwrap_or(source_mac);
    Some(if wanted == TARGET_LINK_LAYER_ADDRESS {
        Heard { claim: Some((target.into(), mac)), question: None }
    } else {
        let question = Question { target: target.into(), asker: source.into(), mac };
        Heard { claim: None, question: Some(question) }
    })
}

fn arp(to: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> ArpFrame {
    let mut frame = [0; ARP_LEN];
    put(
        &mut frame,
        &[
            &to,
            &sender.0,
            &ETHERTYPE_ARP,
            &ARP_ETHERNET_IPV4,
            &operation.to_be_bytes(),
            &sender.0,
            &sender.1.octets(),
            &target.0,
            &target.1.octets(),
        ],
    );
    frame
}

fn advertisement(mac: Mac, to: Mac, vip: Ipv6Addr, destination: Ipv6Addr, flags: u8) -> AdvertisementFrame {
    let mut message = [0; ADVERTISEMENT];
    message[0] = NEIGHBOR_ADVERTISEMENT;
    // The router flag stays 0: a Service address is no router.
    message[4] = flags;
    message[8..24].copy_from_slice(&vip.octets());
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message[26..32].copy_from_slice(&mac);
    in_ipv6(to, mac, vip, destination, &mut message)
}

/// Puts an ICMPv6 message into a frame of `N` octets, and its checksum into it.
fn in_ipv6<const N: usize>(
    to: Mac,
    from: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &mut [u8],
) -> [u8; N] {
    let sum = checksum(source, destination, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut frame = [0; N];
    put(
        &mut frame,
        &[
            &to,
            &from,
            &ETHERTYPE_IPV6,
            &[0x60, 0, 0, 0],
            &length.to_be_bytes(),
            &[ICMPV6, 255],
            &source.octets(),
            &destination.octets(),
            message,
        ],
    );
    frame
}

/// Writes the parts one after the other; together they are as long as the frame.
fn put(frame: &mut [u8], parts: &[&[u8]]) {
    let octets = parts.iter().copied().flatten();
    frame.iter_mut().zip(octets).for_each(|(place, octet)| *place = *octet);
}

/// RFC 4443 §2.3; 0 for a message that has the right one in it.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |octets: &[u8]| -> u32 {
        let pair = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        octets.chunks(2).map(pair).sum()
    };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += length + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn ipv6(octets: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from)
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != NO_MAC
}

#[cfg(test)]
mod tests;
