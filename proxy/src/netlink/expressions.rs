//! Statements as nf_tables expressions: small programs over registers, just as `nft` 1.0.6 would write them.
//!
//! There are sixteen registers of four bytes (8 to 23), also addressed as four of sixteen (1 to 4), and the verdict (0).
//! A lookup's fields lie in a row from the first on.

use std::net::IpAddr;

use ipnet::IpNet;

use super::attributes::Writer;
use super::wire::{
    NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, NFT_OBJECT_COUNTER, NFT_RETURN, NFTA_DATA_VALUE,
    NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
};
use crate::family::IpFamily;
use crate::ruleset::{
    CONNECTION, Expression, FIRST_SLOT, IcmpType, NUMBERS, NUMBERS_MASK, SetName, Statement, TcpFlag, Word,
    slot_number,
};

/// First data register.
const FIRST: u32 = 1;
const VERDICT: u32 = 0;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const LESS: u32 = 2;

/// `NFT_BYTEORDER_HTON`: numbers are compared as octets.
const HOST_TO_NETWORK: u32 = 1;

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// In milliseconds.
const CT_EXPIRATION: u32 = 5;
/// Bits of `ct state`, in the host's order.
const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_NEW: u32 = 8;
const STATE_UNTRACKED: u32 = 64;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 32;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const TCP: u8 = 6;
/// The octet of TCP's header with the flags, and the one that says that a connection begins (RFC 9293 §3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = TcpFlag::Syn.bit();

const FIB_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;

/// `NFT_DYNSET_OP_UPDATE` and `NFT_DYNSET_OP_DELETE`.
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;

/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;

/// `NFT_NG_RANDOM`.
const NUMGEN_RANDOM: u32 = 1;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 0x10;

/// Register at a place in the row of four-byte registers.
fn register(place: u32) -> u32 {
    if place.is_multiple_of(4) { FIRST + place / 4 } else { 8 + place }
}

/// Writes the expressions of one statement, inside a rule's list. `set_id` numbers the sets of this batch.
pub(super) fn write(
    w: &mut Writer,
    family: IpFamily,
    statement: &Statement,
    set_id: &dyn Fn(SetName) -> u32,
) {
    match statement {
        Statement::SourceIn(prefix) => source(w, *prefix, EQUAL),
        Statement::SourceNotIn(prefix) => source(w, *prefix, NOT_EQUAL),
        Statement::SourceIsLocal => local(w, FIB_SADDR),
        Statement::DestinationIsLocal => local(w, FIB_DADDR),
        Statement::StateNew => any_bit(w, CT_STATE, STATE_NEW),
        Statement::StateInvalid => any_bit(w, CT_STATE, STATE_INVALID),
        Statement::StateUntracked => any_bit(w, CT_STATE, STATE_UNTRACKED),
        Statement::StateNotKnown => any_bit(w, CT_STATE, STATE_INVALID | STATE_NEW | STATE_UNTRACKED),
        Statement::StateEstablished => any_bit(w, CT_STATE, STATE_ESTABLISHED),
        Statement::UnknownTcp => {
            any_bit(w, CT_STATE, STATE_INVALID | STATE_NEW);
            tcp_flags(w, SYN);
            compare(w, NOT_EQUAL, &[SYN]);
        }
        Statement::ExpiresWithin(time) => {
            connection(w, CT_EXPIRATION);
            expression(w, "byteorder", |w| {
                w.number(1, FIRST);
                w.number(2, FIRST);
                w.number(3, HOST_TO_NETWORK);
                w.number(4, 4);
                w.number(5, 4);
            });
            let time = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            compare(w, LESS, &time.to_be_bytes());
        }
        Statement::TcpWithout(flags) => {
            tcp_flags(w, flags.iter().fold(0, |bits, flag| bits | flag.bit()));
            compare(w, EQUAL, &[0]);
        }
        Statement::ConnectionMarkHas(mask) => {
            connection(w, CT_MARK);
            bitwise(w, &mask.to_ne_bytes(), &[0; 4]);
            compare(w, EQUAL, &mask.to_ne_bytes());
        }
        Statement::SetConnectionMark(mask) => {
            connection(w, CT_MARK);
            bitwise(w, &(!mask).to_ne_bytes(), &mask.to_ne_bytes());
            expression(w, "ct", |w| {
                w.number(2, CT_MARK);
                w.number(4, FIRST);
            });
        }
        Statement::StatusDnat => any_bit(w, CT_STATUS, STATUS_DNAT),
        Statement::Icmp(kind) => icmp(w, family, *kind),
        Statement::Tcp => {
            meta(w, META_L4PROTO, FIRST);
            compare(w, EQUAL, &[TCP]);
        }
        Statement::Says(word) => {
            payload(w, NETWORK_HEADER, hops(family), 1, FIRST);
            bitwise(w, &[Word::MASK], &[0]);
            compare(w, EQUAL, &[word.bits()]);
        }
        Statement::Say(word) => set_hops(w, family, word.ttl()),
        Statement::Limit(rate) => expression(w, "limit", |w| {
            w.bytes(1, &u64::from(*rate).to_be_bytes());
            // A second.
            w.bytes(2, &1_u64.to_be_bytes());
            w.number(3, *rate);
            // Packets, not bytes.
            w.number(4, 0);
            w.number(5, 0);
        }),
        Statement::MarkHas(mask) => {
            meta(w, META_MARK, FIRST);
            bitwise(w, &mask.to_ne_bytes(), &[0; 4]);
            compare(w, EQUAL, &mask.to_ne_bytes());
        }
        Statement::MarkIs(mark) => {
            meta(w, META_MARK, FIRST);
            compare(w, EQUAL, &mark.to_ne_bytes());
        }
        Statement::SetMark(mask) => change_mark(w, !mask, *mask),
        Statement::ClearMark(mask) => change_mark(w, !mask, 0),
        Statement::InSet(key, set) => {
            load(w, family, key);
            lookup(w, *set, None, 0, set_id);
        }
        Statement::NotInSet(key, set) => {
            load(w, family, key);
            lookup(w, *set, None, LOOKUP_INVERTED, set_id);
        }
        Statement::SetPriority(key, map) => {
            load(w, family, key);
            lookup(w, *map, Some(FIRST), 0, set_id);
            set_meta(w, META_PRIORITY);
        }
        Statement::DrawSlot(slots) => {
            expression(w, "numgen", |w| {
                w.number(1, FIRST);
                w.number(2, u32::from(*slots));
                w.number(3, NUMGEN_RANDOM);
                w.number(4, FIRST_SLOT);
            });
            set_meta(w, META_PRIORITY);
        }
        Statement::Slot(slot) => set_priority(w, slot_number(*slot)),
        Statement::ClearNumber => {
            meta(w, META_PRIORITY, FIRST);
            bitwise(w, &NUMBERS_MASK.to_ne_bytes(), &[0; 4]);
            compare(w, EQUAL, &NUMBERS.to_ne_bytes());
            set_priority(w, 0);
        }
        Statement::DispatchPriority(map) => {
            load(w, family, &[Expression::Priority]);
            lookup(w, *map, Some(VERDICT), 0, set_id);
        }
        Statement::Remember(key, map, seconds) => {
            let value = priority_behind(w, family, key);
            let time = Some(u64::from(*seconds) * 1000);
            dynamic(w, *map, DYNSET_UPDATE, Some(value), time, set_id);
        }
        Statement::Note(set, time) => {
            load(w, family, &CONNECTION);
            let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            dynamic(w, *set, DYNSET_UPDATE, None, Some(time), set_id);
        }
        Statement::Forget(key, map) => {
            let value = priority_behind(w, family, key);
            dynamic(w, *map, DYNSET_DELETE, Some(value), None, set_id);
        }
        Statement::Dnat(key, map) => {
            load(w, family, key);
            lookup(w, *map, Some(FIRST), 0, set_id);
            dnat(w, family);
        }
        Statement::PassOn(map) => {
            load(w, family, &[Expression::Priority]);
            lookup(w, *map, Some(FIRST), 0, set_id);
            expression(w, "dup", |w| w.number(1, FIRST));
        }
        Statement::Masquerade => expression(w, "masq", |w| w.number(1, RANDOM_FULLY)),
        Statement::Goto(chain) => verdict(w, NFT_GOTO.cast_unsigned(), Some(chain)),
        Statement::Jump(chain) => verdict(w, NFT_JUMP.cast_unsigned(), Some(chain)),
        Statement::Count(reason) => expression(w, "objref", |w| {
            w.number(1, NFT_OBJECT_COUNTER);
            w.string(2, reason.counter());
        }),
        Statement::Return => verdict(w, NFT_RETURN.cast_unsigned(), None),
        Statement::Accept => verdict(w, NF_ACCEPT, None),
        Statement::Drop => verdict(w, NF_DROP, None),
        Statement::Reject => reject(w, family),
    }
}

/// `NFTA_DATA_VERDICT`, also the value of an element of a verdict map.
pub(super) fn verdict_data(w: &mut Writer, code: u32, chain: Option<&str>) {
    w.nest(NFTA_DATA_VERDICT, |w| {
        w.number(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            w.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

fn expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.string(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, body);
    });
}

/// Four-byte words of an address.
fn words(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 4,
    }
}

/// Loads fields into registers in a row; the place behind them.
fn load(w: &mut Writer, family: IpFamily, fields: &[Expression]) -> u32 {
    let (saddr, daddr) = match family {
        IpFamily::V4 => (12, 16),
        IpFamily::V6 => (8, 24),
    };
    let mut place = 0;
    for field in fields {
        let to = register(place);
        match field {
            Expression::SourceAddress => payload(w, NETWORK_HEADER, saddr, 4 * words(family), to),
            Expression::DestinationAddress => payload(w, NETWORK_HEADER, daddr, 4 * words(family), to),
            Expression::Protocol => meta(w, META_L4PROTO, to),
            Expression::SourcePort => payload(w, TRANSPORT_HEADER, 0, 2, to),
            Expression::DestinationPort => payload(w, TRANSPORT_HEADER, 2, 2, to),
            Expression::Priority => meta(w, META_PRIORITY, to),
        }
        place += match field {
            Expression::SourceAddress | Expression::DestinationAddress => words(family),
            _ => 1,
        };
    }
    place
}

fn payload(w: &mut Writer, header: u32, offset: u32, len: u32, to: u32) {
    expression(w, "payload", |w| {
        w.number(1, to);
        w.number(2, header);
        w.number(3, offset);
        w.number(4, len);
    });
}

fn meta(w: &mut Writer, key: u32, to: u32) {
    expression(w, "meta", |w| {
        w.number(2, key);
        w.number(1, to);
    });
}

/// A field of the packet's connection into the first register.
fn connection(w: &mut Writer, key: u32) {
    expression(w, "ct", |w| {
        w.number(2, key);
        w.number(1, FIRST);
    });
}

/// Flags of TCP into the first register, the others cleared.
fn tcp_flags(w: &mut Writer, mask: u8) {
    meta(w, META_L4PROTO, FIRST);
    compare(w, EQUAL, &[TCP]);
    payload(w, TRANSPORT_HEADER, TCP_FLAGS, 1, FIRST);
    bitwise(w, &[mask], &[0]);
}

fn set_meta(w: &mut Writer, key: u32) {
    expression(w, "meta", |w| {
        w.number(2, key);
        w.number(3, FIRST);
    });
}

fn set_priority(w: &mut Writer, number: u32) {
    immediate(w, &number.to_ne_bytes());
    set_meta(w, META_PRIORITY);
}

/// A constant into the first register.
fn immediate(w: &mut Writer, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.number(1, FIRST);
        w.nest(2, |w| w.bytes(NFTA_DATA_VALUE, value));
    });
}

fn compare(w: &mut Writer, operator: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(1, FIRST);
        w.number(2, operator);
        w.nest(3, |w| w.bytes(NFTA_DATA_VALUE, value));
    });
}

/// The first register, masked and changed.
fn bitwise(w: &mut Writer, mask: &[u8], xor: &[u8]) {
    expression(w, "bitwise", |w| {
        w.number(1, FIRST);
        w.number(2, FIRST);
        w.number(3, u32::try_from(mask.len()).unwrap_or(4));
        w.nest(4, |w| w.bytes(NFTA_DATA_VALUE, mask));
        w.nest(5, |w| w.bytes(NFTA_DATA_VALUE, xor));
    });
}

fn change_mark(w: &mut Writer, keep: u32, set: u32) {
    meta(w, META_MARK, FIRST);
    bitwise(w, &keep.to_ne_bytes(), &set.to_ne_bytes());
    set_meta(w, META_MARK);
}

fn lookup(w: &mut Writer, set: SetName, to: Option<u32>, flags: u32, set_id: &dyn Fn(SetName) -> u32) {
    expression(w, "lookup", |w| {
        w.number(2, FIRST);
        if let Some(to) = to {
            w.number(3, to);
        }
        w.string(1, set.as_str());
        w.number(4, set_id(set));
        if flags != 0 {
            w.number(5, flags);
        }
    });
}

/// Loads a key, and the packet's priority into the register behind it, which is returned.
fn priority_behind(w: &mut Writer, family: IpFamily, key: &[Expression]) -> u32 {
    let value = register(load(w, family, key));
    meta(w, META_PRIORITY, value);
    value
}

/// Changes what a set or map says of the key that is loaded, for so many milliseconds.
fn dynamic(
    w: &mut Writer,
    set: SetName,
    operation: u32,
    value: Option<u32>,
    time: Option<u64>,
    set_id: &dyn Fn(SetName) -> u32,
) {
    expression(w, "dynset", |w| {
        w.number(4, FIRST);
        w.number(3, operation);
        if let Some(value) = value {
            w.number(5, value);
        }
        if let Some(time) = time {
            w.bytes(6, &time.to_be_bytes());
        }
        w.string(1, set.as_str());
        w.number(2, set_id(set));
    });
}

/// Where the TTL is, or the hop limit.
fn hops(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => 8,
        IpFamily::V6 => 7,
    }
}

/// Writes the TTL, or the hop limit. IPv4's checksum (at 10) is mended by words, so two octets are written there.
fn set_hops(w: &mut Writer, family: IpFamily, hops_left: u8) {
    let at = hops(family);
    let (len, checksum) = match family {
        IpFamily::V4 => {
            payload(w, NETWORK_HEADER, at, 2, FIRST);
            bitwise(w, &[0, 0xff], &[hops_left, 0]);
            (2, Some(10))
        }
        IpFamily::V6 => {
            immediate(w, &[hops_left]);
            (1, None)
        }
    };
    expression(w, "payload", |w| {
        w.number(5, FIRST);
        w.number(2, NETWORK_HEADER);
        w.number(3, at);
        w.number(4, len);
        // NFT_PAYLOAD_CSUM_NONE, NFT_PAYLOAD_CSUM_INET.
        w.number(6, u32::from(checksum.is_some()));
        w.number(7, checksum.unwrap_or_default());
    });
}

fn source(w: &mut Writer, prefix: IpNet, operator: u32) {
    load(w, IpFamily::of(prefix.addr()), &[Expression::SourceAddress]);
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    if prefix.prefix_len() < prefix.max_prefix_len() {
        let mask = octets(prefix.netmask());
        bitwise(w, &mask, &vec![0; mask.len()]);
    }
    compare(w, operator, &octets(prefix.network()));
}

fn local(w: &mut Writer, side: u32) {
    expression(w, "fib", |w| {
        w.number(3, side);
        w.number(2, FIB_ADDRTYPE);
        w.number(1, FIRST);
    });
    compare(w, EQUAL, &RTN_LOCAL.to_ne_bytes());
}

fn any_bit(w: &mut Writer, key: u32, bits: u32) {
    connection(w, key);
    bitwise(w, &bits.to_ne_bytes(), &[0; 4]);
    compare(w, NOT_EQUAL, &[0; 4]);
}

fn icmp(w: &mut Writer, family: IpFamily, kind: IcmpType) {
    let (protocol, kind) = match (family, kind) {
        (IpFamily::V4, IcmpType::EchoRequest) => (1, 8),
        (_, IcmpType::EchoRequest) => (58, 128),
        (_, IcmpType::NeighborSolicitation) => (58, 135),
        (_, IcmpType::NeighborAdvertisement) => (58, 136),
    };
    meta(w, META_L4PROTO, FIRST);
    compare(w, EQUAL, &[protocol]);
    payload(w, TRANSPORT_HEADER, 0, 1, FIRST);
    compare(w, EQUAL, &[kind]);
}

fn dnat(w: &mut Writer, family: IpFamily) {
    let number = match family {
        IpFamily::V4 => libc::NFPROTO_IPV4,
        IpFamily::V6 => libc::NFPROTO_IPV6,
    };
    expression(w, "nat", |w| {
        w.number(1, 1);
        w.number(2, number.cast_unsigned());
        w.number(3, FIRST);
        w.number(5, register(words(family)));
    });
}

fn verdict(w: &mut Writer, code: u32, chain: Option<&str>) {
    expression(w, "immediate", |w| {
        w.number(1, VERDICT);
        w.nest(2, |w| verdict_data(w, code, chain));
    });
}

fn reject(w: &mut Writer, family: IpFamily) {
    let port_unreachable = match family {
        IpFamily::V4 => 3,
        IpFamily::V6 => 4,
    };
    expression(w, "reject", |w| {
        w.number(1, 0);
        w.bytes(2, &[port_unreachable]);
    });
}
