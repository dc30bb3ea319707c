//! An [`Element`] as the bytes of a set element: key, value, set and family.
//!
//! The layout is the kernel's: each field of a concatenation starts at a multiple of four bytes, addresses and ports in
//! network order, numbers that the kernel itself made (slots, priorities) in the host's. The text rendering reads these
//! bytes back by the set's field types, so text and netlink cannot differ.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::model::SetName;
use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::family::IpFamily;
use crate::stable;

/// Longest key: two IPv6 addresses, protocol and port.
const CAPACITY: usize = 40;

/// A few bytes, without an allocation per element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Buffer {
    pub(crate) const EMPTY: Self = Self { bytes: [0; CAPACITY], len: 0 };

    /// Appends, padded to four bytes. What would not fit is left out; no key of this module is that long.
    fn push(mut self, field: &[u8]) -> Self {
        let end = self.len + field.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(field);
            self.len = end.next_multiple_of(4);
        }
        self
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }

    fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    fn number(self, number: u32) -> Self {
        self.push(&number.to_ne_bytes())
    }

    fn protocol(self, protocol: Protocol) -> Self {
        self.push(&[protocol_number(protocol)])
    }

    fn frontend(self, frontend: &Frontend) -> Self {
        self.address(frontend.address).protocol(frontend.protocol).port(frontend.port)
    }

    /// These bytes, if a key of this module could be of their length.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= CAPACITY && bytes.len().is_multiple_of(4)).then(|| Self::EMPTY.push(bytes))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// Value of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// A set has none.
    None,
    /// `goto` this chain.
    Goto(String),
    /// `jump` to this chain.
    Jump(String),
    /// Bytes of a number, or of address and port.
    Value(Buffer),
}

/// One element of one set or map, as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which table.
    pub(crate) family: IpFamily,
    /// Which set.
    pub(crate) set: SetName,
    /// The key; of an interval, where it starts.
    pub(crate) key: Buffer,
    /// For an interval, all of it; of a concatenation, its last field.
    pub(crate) prefix: Option<IpNet>,
    /// The value.
    pub(crate) data: Data,
}

impl Entry {
    fn new(address: IpAddr, set: SetName, key: Buffer, data: Data) -> Self {
        Self { family: IpFamily::of(address), set, key, prefix: None, data }
    }

    /// A prefix in a set of prefixes.
    pub(crate) fn interval(set: SetName, prefix: IpNet) -> Self {
        let prefix = prefix.trunc();
        let start = prefix.network();
        let entry = Self::new(start, set, Buffer::EMPTY.address(start), Data::None);
        Self { prefix: Some(prefix), ..entry }
    }

    /// A constant element: a number and the chain that it stands for.
    pub(super) fn dispatch(family: IpFamily, set: SetName, number: u32, verdict: Data) -> Self {
        Self { family, set, key: Buffer::EMPTY.number(number), prefix: None, data: verdict }
    }

    /// The last key of an interval in a concatenation; there, unlike in a set of plain intervals, it belongs to it.
    pub(crate) fn last(&self) -> Option<Buffer> {
        let prefix = self.prefix.filter(|_| self.set.is_range())?;
        let fixed = self.key.len.checked_sub(usize::from(prefix.max_prefix_len()) / 8)?;
        Some(Buffer { bytes: self.key.bytes, len: fixed }.address(prefix.broadcast()))
    }

    /// Where a plain interval ends: the first address behind it, unless it reaches the last of all.
    pub(crate) fn end(&self) -> Option<Buffer> {
        if self.set.is_range() {
            return None;
        }
        match self.prefix?.broadcast() {
            IpAddr::V4(last) => {
                let end = u32::from(last).checked_add(1)?;
                Some(Buffer::EMPTY.push(&end.to_be_bytes()))
            }
            IpAddr::V6(last) => {
                let end = u128::from(last).checked_add(1)?;
                Some(Buffer::EMPTY.push(&end.to_be_bytes()))
            }
        }
    }
}

impl From<&Element> for Entry {
    fn from(element: &Element) -> Self {
        let key = Buffer::EMPTY;
        match element {
            Element::Service { frontend, policy } => {
                let value = Buffer::EMPTY.number(policy_number(*policy));
                Self::new(frontend.address, SetName::Services, key.frontend(frontend), Data::Value(value))
            }
            Element::Pick { frontend, scope, class } => {
                let set = of_scope(*scope, SetName::Picks, SetName::LocalPicks);
                let value = Buffer::EMPTY.number(class_number(*class));
                Self::new(frontend.address, set, key.frontend(frontend), Data::Value(value))
            }
            Element::Endpoint { frontend, scope, slot, endpoint } => {
                let set = of_scope(*scope, SetName::Endpoints, SetName::LocalEndpoints);
                let value = socket_address(Buffer::EMPTY, endpoint);
                let key = key.frontend(frontend).number(slot_number(*slot));
                Self::new(frontend.address, set, key, Data::Value(value))
            }
            Element::Affinity { frontend, scope, timeout } => {
                let set = of_scope(*scope, SetName::Picks, SetName::LocalPicks);
                let value = Buffer::EMPTY.number(timeout_number(*timeout));
                Self::new(frontend.address, set, key.frontend(frontend), Data::Value(value))
            }
            Element::AffinePick { frontend, scope, class } => {
                let set = of_scope(*scope, SetName::AffinePicks, SetName::LocalAffinePicks);
                let value = Buffer::EMPTY.number(class_number(*class));
                Self::new(frontend.address, set, key.frontend(frontend), Data::Value(value))
            }
            Element::Slot { frontend, scope, slot, stable } => {
                let set = of_scope(*scope, SetName::Slots, SetName::LocalSlots);
                let value = Buffer::EMPTY.number(stable_number(*stable));
                let key = key.frontend(frontend).number(slot_number(*slot));
                Self::new(frontend.address, set, key, Data::Value(value))
            }
            Element::StableEndpoint { frontend, scope, stable, endpoint } => {
                let set = of_scope(*scope, SetName::Endpoints, SetName::LocalEndpoints);
                let value = socket_address(Buffer::EMPTY, endpoint);
                let key = key.frontend(frontend).number(stable_number(*stable));
                Self::new(frontend.address, set, key, Data::Value(value))
            }
            Element::Refused { frontend, refusal } => {
                let set = match refusal {
                    Refusal::Drop => SetName::Dropped,
                    Refusal::Reject => SetName::Rejected,
                };
                Self::new(frontend.address, set, key.frontend(frontend), Data::None)
            }
            Element::Restricted { frontend } => {
                Self::new(frontend.address, SetName::Restricted, key.frontend(frontend), Data::None)
            }
            Element::Source { frontend, prefix } => {
                let prefix = prefix.trunc();
                let key = key.frontend(frontend).address(prefix.network());
                let entry = Self::new(frontend.address, SetName::Sources, key, Data::None);
                Self { prefix: Some(prefix), ..entry }
            }
            Element::Counted { frontend } => {
                Self::new(frontend.address, SetName::Traffic, key.frontend(frontend), Data::None)
            }
            Element::Vip { address } => Self::new(*address, SetName::Vips, key.address(*address), Data::None),
            Element::Announced { prefix } => Self::interval(SetName::Announced, *prefix),
            Element::ServiceCidr { prefix } => Self::interval(SetName::ServiceCidrs, *prefix),
            Element::Node { slot, address } => {
                let value = Data::Value(Buffer::EMPTY.address(*address));
                Self::new(*address, SetName::Nodes, key.number(slot_number(*slot)), value)
            }
            Element::Hairpin { endpoint, protocol } => {
                let address = endpoint.ip();
                let key = key.address(address).address(address).protocol(*protocol).port(endpoint.port());
                Self::new(address, SetName::Hairpin, key, Data::None)
            }
        }
    }
}

/// The one of two sets that holds endpoints of this scope.
fn of_scope(scope: Scope, cluster: SetName, local: SetName) -> SetName {
    match scope {
        Scope::Cluster => cluster,
        Scope::Local => local,
    }
}

fn socket_address(buffer: Buffer, address: &SocketAddr) -> Buffer {
    buffer.address(address.ip()).port(address.port())
}

/// IANA protocol number.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// What all our numbers in a packet's priority have in common: a class of a queueing discipline that nobody has.
pub(crate) const NUMBERS: u32 = 0xfe00_0000;

/// Which bits of a priority say that it is a number of ours.
pub(crate) const NUMBERS_MASK: u32 = 0xff00_0000;

/// Slot 0 as a `classid`: `fe03:0` in listings, followed by the others.
pub(crate) const FIRST_SLOT: u32 = NUMBERS | 0x3_0000;

/// A policy as a `classid`: `fe01:1` to `fe01:4` in listings.
pub(super) fn policy_number(policy: Policy) -> u32 {
    let number = match policy {
        Policy::Internal => 1,
        Policy::InternalLocal => 2,
        Policy::External => 3,
        Policy::ExternalLocal => 4,
    };
    NUMBERS | 0x1_0000 | number
}

/// A class as a `classid`: `fe02:` and the number of slots in hexadecimal in listings.
pub(super) fn class_number(class: u16) -> u32 {
    NUMBERS | 0x2_0000 | u32::from(class)
}

/// A timeout in seconds, up to a day, as a `classid`: `fe10:1` to `fe11:5180`.
pub(super) fn timeout_number(seconds: u32) -> u32 {
    NUMBERS | 0x10_0000 | (seconds & 0x1_ffff)
}

/// The number of an endpoint as a `classid`: `fe80:0` to `feff:ffff`.
pub(super) fn stable_number(stable: u32) -> u32 {
    NUMBERS | 0x80_0000 | (stable % stable::NUMBERS)
}

pub(crate) fn slot_number(slot: u16) -> u32 {
    FIRST_SLOT | u32::from(slot)
}
