//! ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`): what is asked, and how an entry is read. Nothing here trusts a
//! length; an entry that is not exactly as expected is no entry of ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::stale::{Flow, View};
use crate::element::{Frontend, Protocol};
use crate::family::IpFamily;
use crate::netlink::attributes::{Writer, attributes};
use crate::netlink::batch::protocol_family;
use crate::netlink::wire::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use crate::ruleset::protocol_number;

/// `NFNL_SUBSYS_CTNETLINK`, as the upper half of a message's type.
const CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_NEW: u16 = CTNETLINK;
const IPCTNL_MSG_CT_GET: u16 = CTNETLINK | 1;
const IPCTNL_MSG_CT_DELETE: u16 = CTNETLINK | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const TCP_CONNTRACK_SYN_SENT: u8 = 1;

const IPS_SEEN_REPLY: u32 = 1 << 1;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_F_CTA_IP_DST: u32 = 1 << 1;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;

/// What one dump asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selection {
    /// Always compared by the kernel.
    pub(super) family: IpFamily,
    /// Compared by kernels that know filters, like the rest.
    pub(super) protocol: Protocol,
    /// The one address in question.
    pub(super) address: Option<IpAddr>,
    /// The one port in question.
    pub(super) port: Option<u16>,
}

impl Selection {
    /// The fewest dumps that show every entry in question: one per family and protocol.
    pub(super) fn covering(view: &View) -> Vec<Self> {
        let mut all: BTreeMap<(IpFamily, Protocol), Self> = BTreeMap::new();
        for &Frontend { address, protocol, port } in view.frontends() {
            let family = IpFamily::of(address);
            let one = Self { family, protocol, address: Some(address), port: Some(port) };
            let selection = all.entry((family, protocol)).or_insert(one);
            selection.address = selection.address.filter(|other| *other == address);
            selection.port = selection.port.filter(|other| *other == port);
        }
        all.into_values().collect()
    }
}

/// Asks for entries; with filters only for the selected, without for all of the family.
pub(super) fn dump(writer: &mut Writer, sequence: u32, selection: &Selection, filters: bool) {
    let Selection { family, protocol, address, port } = *selection;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    writer.message(IPCTNL_MSG_CT_GET, flags, sequence, protocol_family(family), 0, |w| {
        if !filters {
            return;
        }
        let mut compared = CTA_FILTER_F_CTA_PROTO_NUM;
        w.nest(CTA_TUPLE_ORIG, |w| {
            // An IPv6 address is not given: there the kernel's comparison is the wrong way round (seen in 6.18), and
            // leaves out exactly what was asked for.
            if let Some(address) = address.filter(IpAddr::is_ipv4) {
                compared |= CTA_FILTER_F_CTA_IP_DST;
                w.nest(CTA_TUPLE_IP, |w| write_address(w, address, CTA_IP_V4_DST, CTA_IP_V6_DST));
            }
            w.nest(CTA_TUPLE_PROTO, |w| {
                w.bytes(CTA_PROTO_NUM, &[protocol_number(protocol)]);
                if let Some(port) = port {
                    compared |= CTA_FILTER_F_CTA_PROTO_DST_PORT;
                    w.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                }
            });
        });
        // The kernel's flags are in host order, unlike everything else.
        w.nest(CTA_FILTER, |w| w.bytes(CTA_FILTER_ORIG_FLAGS, &compared.to_ne_bytes()));
        if protocol == Protocol::Tcp {
            // Established connections are most of a table, and never in question. Older kernels pass this over.
            w.number(CTA_STATUS, 0);
            w.number(CTA_STATUS_MASK, IPS_SEEN_REPLY);
        }
    });
}

/// Deletes one entry. Refusals are always told; with `acknowledge` success too.
pub(super) fn delete(writer: &mut Writer, sequence: u32, flow: &Flow, acknowledge: bool) {
    let flags = if acknowledge { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
    let family = protocol_family(IpFamily::of(flow.destination.ip()));
    writer.message(IPCTNL_MSG_CT_DELETE, flags, sequence, family, 0, |w| {
        w.nest(CTA_TUPLE_ORIG, |w| {
            w.nest(CTA_TUPLE_IP, |w| {
                write_address(w, flow.source.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC);
                write_address(w, flow.destination.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST);
            });
            w.nest(CTA_TUPLE_PROTO, |w| {
                w.bytes(CTA_PROTO_NUM, &[protocol_number(flow.protocol)]);
                w.bytes(CTA_PROTO_SRC_PORT, &flow.source.port().to_be_bytes());
                w.bytes(CTA_PROTO_DST_PORT, &flow.destination.port().to_be_bytes());
            });
        });
        w.number(CTA_ID, flow.id);
    });
}

/// Whether a message is an entry of a dump.
pub(super) fn is_entry(kind: u16) -> bool {
    kind == IPCTNL_MSG_CT_NEW
}

/// Reads an entry; `None`: of another protocol, of a zone, or not as expected.
pub(super) fn decode(entry: &[u8]) -> Option<Flow> {
    let find = |kind| find(entry, kind);
    if find(CTA_ZONE).is_some() {
        return None;
    }
    let (protocol, source, destination) = tuple(find(CTA_TUPLE_ORIG)?)?;
    let (reply_protocol, reply_source, _) = tuple(find(CTA_TUPLE_REPLY)?)?;
    let tcp_state = || {
        let info = self::find(find(CTA_PROTOINFO)?, CTA_PROTOINFO_TCP)?;
        exactly::<1>(self::find(info, CTA_PROTOINFO_TCP_STATE)?)
    };
    (protocol == reply_protocol).then_some(Flow {
        protocol,
        source,
        destination,
        reply_source,
        syn_sent: protocol == Protocol::Tcp && tcp_state() == Some([TCP_CONNTRACK_SYN_SENT]),
        id: u32::from_be_bytes(exactly(find(CTA_ID)?)?),
    })
}

/// Protocol, source and destination.
fn tuple(tuple: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    if find(tuple, CTA_TUPLE_ZONE).is_some() {
        return None;
    }
    let (ip, proto) = (find(tuple, CTA_TUPLE_IP)?, find(tuple, CTA_TUPLE_PROTO)?);
    let [protocol] = exactly(find(proto, CTA_PROTO_NUM)?)?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| protocol_number(*p) == protocol)?;
    let port = |kind| Some(u16::from_be_bytes(exactly(find(proto, kind)?)?));
    let address = |v4, v6| match (find(ip, v4), find(ip, v6)) {
        (Some(v4), None) => exactly::<4>(v4).map(IpAddr::from),
        (None, Some(v6)) => exactly::<16>(v6).map(IpAddr::from),
        _ => None,
    };
    let source = SocketAddr::new(address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)?);
    let destination = SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)?);
    (source.is_ipv4() == destination.is_ipv4()).then_some((protocol, source, destination))
}

fn write_address(writer: &mut Writer, address: IpAddr, v4: u16, v6: u16) {
    match address {
        IpAddr::V4(address) => writer.bytes(v4, &address.octets()),
        IpAddr::V6(address) => writer.bytes(v6, &address.octets()),
    }
}

pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn exactly<const LEN: usize>(bytes: &[u8]) -> Option<[u8; LEN]> {
    bytes.try_into().ok()
}
