//! The types of a ruleset. Plain values; nothing here knows a socket or a text format.

use std::time::Duration;

use ipnet::IpNet;

use super::entry::Entry;
use crate::family::IpFamily;
use crate::reason::EndReason;

/// A table: one family's sets and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `ip` or `ip6`.
    pub family: IpFamily,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// Base chains and the chains that they reach.
    pub chains: Vec<Chain>,
}

impl Table {
    /// A word that changes with the tables' sets and hooks, but not with rules, elements and the chains that rules go to:
    /// a refill of the tables can add those. The kernel keeps it
    /// as the table's comment, so that a later run knows what it finds.
    pub fn layout(&self) -> String {
        use std::fmt::Write;
        let mut shape = String::new();
        for set in &self.sets {
            let name = set.name;
            // Writing to a String cannot fail.
            let (key, data, size) = (name.key(), name.data(), name.dynamic_size());
            let _ = write!(shape, "{} {key:?} {data:?} {} {size:?}", name.as_str(), name.is_interval());
            shape.push_str(if name.is_counted() { " counted;" } else { ";" });
        }
        for reason in EndReason::ALL {
            let _ = write!(shape, "counter {};", reason.counter());
        }
        for chain in self.chains.iter().filter(|chain| chain.base.is_some()) {
            let _ = write!(shape, "{} {:?};", chain.name, chain.base);
        }
        format!("herald layout {:016x}", fingerprint(shape.bytes()))
    }
}

/// FNV-1a, 64 bits: equal in every version of Herald and on every machine.
pub(crate) fn fingerprint(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Unique in the table.
    pub name: String,
    /// Where it is hooked in; `None` for a chain that others go to.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Statements, each of which the packet must pass to reach the next.
pub type Rule = Vec<Statement>;

/// The hook of a base chain. Its policy is always accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Type of the chain.
    pub kind: ChainType,
    /// Hook.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Sees the first packet of a connection only.
    Nat,
    /// Sees every packet.
    Filter,
}

/// Netfilter's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets for this node.
    Input,
    /// Packets that pass through.
    Forward,
    /// Packets of this node's processes.
    Output,
    /// Packets that leave.
    Postrouting,
}

/// The sets and maps. Their shapes are constant, so the name says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// frontend → number of its policy.
    Services,
    /// frontend → number of its class.
    Picks,
    /// The same for endpoints of this node.
    LocalPicks,
    /// frontend with session affinity → number of its class.
    AffinePicks,
    /// The same for endpoints of this node.
    LocalAffinePicks,
    /// frontend and drawn slot → number of its endpoint, with session affinity.
    Slots,
    /// The same for endpoints of this node.
    LocalSlots,
    /// client and frontend → number of its endpoint; the kernel fills it.
    Affinity,
    /// frontend and slot → endpoint.
    Endpoints,
    /// The same for endpoints of this node.
    LocalEndpoints,
    /// Frontends that answer nothing.
    Dropped,
    /// Frontends that answer with port unreachable.
    Rejected,
    /// Frontends that not everyone reaches.
    Restricted,
    /// frontend and prefix: who reaches those.
    Sources,
    /// Frontends whose packets are counted.
    Traffic,
    /// Addresses of Services.
    Vips,
    /// Prefixes that this node announces.
    Announced,
    /// Networks of ClusterIPs.
    ServiceCidrs,
    /// slot → another node on a segment of this one.
    Nodes,
    /// Connections that this node has just asked the others for; the kernel fills it, as the next three.
    Asking,
    /// Connections that it has asked for some time ago.
    Asked,
    /// Connections that another node has said to know.
    Elsewhere,
    /// Connections that this node has just said to know.
    Told,
    /// Endpoints of this node that may talk to themselves.
    Hairpin,
    /// Number of a class → chain that draws a slot and comes back; constant.
    Draws,
    /// Number of a policy → its chain; constant.
    Policies,
    /// Number of a class → chain that draws from `endpoints`; constant.
    Classes,
    /// Number of a class → chain that draws from `local-endpoints`; constant.
    LocalClasses,
}

/// A set or map and its constant elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name; also decides the shape.
    pub name: SetName,
    /// Elements that never change.
    pub(crate) elements: Vec<Entry>,
}

/// One field of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Address of the table's family.
    Address,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`.
    Port,
    /// `classid`: a number in the packet's priority; a policy, a class or a slot.
    ClassId,
}

/// Value of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `goto` or `jump` to a chain.
    Verdict,
    /// A number for the packet's priority.
    ClassId,
    /// Address and port to translate to.
    AddressPort,
    /// Address of a node to pass on to.
    Address,
}

impl DataType {
    /// Fields of the value; a verdict has none.
    pub(crate) const fn fields(self) -> &'static [FieldType] {
        match self {
            Self::Verdict => &[],
            Self::ClassId => &[FieldType::ClassId],
            Self::AddressPort => &[FieldType::Address, FieldType::Port],
            Self::Address => &[FieldType::Address],
        }
    }
}

impl SetName {
    /// All, in the order in which they are declared.
    pub const ALL: [Self; 28] = [
        Self::Services,
        Self::Picks,
        Self::LocalPicks,
        Self::AffinePicks,
        Self::LocalAffinePicks,
        Self::Slots,
        Self::LocalSlots,
        Self::Affinity,
        Self::Endpoints,
        Self::LocalEndpoints,
        Self::Dropped,
        Self::Rejected,
        Self::Restricted,
        Self::Sources,
        Self::Traffic,
        Self::Vips,
        Self::Announced,
        Self::ServiceCidrs,
        Self::Nodes,
        Self::Asking,
        Self::Asked,
        Self::Elsewhere,
        Self::Told,
        Self::Hairpin,
        Self::Policies,
        Self::Classes,
        Self::LocalClasses,
        Self::Draws,
    ];

    /// The name in the kernel.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Picks => "picks",
            Self::LocalPicks => "local-picks",
            Self::AffinePicks => "affine-picks",
            Self::LocalAffinePicks => "local-affine-picks",
            Self::Slots => "slots",
            Self::LocalSlots => "local-slots",
            Self::Affinity => "affinity",
            Self::Endpoints => "endpoints",
            Self::LocalEndpoints => "local-endpoints",
            Self::Dropped => "dropped",
            Self::Rejected => "rejected",
            Self::Restricted => "restricted",
            Self::Sources => "sources",
            Self::Traffic => "traffic",
            Self::Vips => "vips",
            Self::Announced => "announced",
            Self::ServiceCidrs => "service-cidrs",
            Self::Nodes => "nodes",
            Self::Asking => "asking",
            Self::Asked => "asked",
            Self::Elsewhere => "elsewhere",
            Self::Told => "told",
            Self::Hairpin => "hairpin",
            Self::Policies => "policies",
            Self::Classes => "classes",
            Self::LocalClasses => "local-classes",
            Self::Draws => "draws",
        }
    }

    /// Fields of the key.
    pub const fn key(self) -> &'static [FieldType] {
        use FieldType::{Address, ClassId, Port, Protocol};
        match self {
            Self::Services
            | Self::Picks
            | Self::LocalPicks
            | Self::AffinePicks
            | Self::LocalAffinePicks
            | Self::Dropped
            | Self::Rejected
            | Self::Restricted
            | Self::Traffic => &[Address, Protocol, Port],
            Self::Sources => &[Address, Protocol, Port, Address],
            Self::Endpoints | Self::LocalEndpoints | Self::Slots | Self::LocalSlots => {
                &[Address, Protocol, Port, ClassId]
            }
            Self::Affinity => &[Address, Address, Protocol, Port],
            Self::Vips | Self::Announced | Self::ServiceCidrs => &[Address],
            Self::Asking | Self::Asked | Self::Elsewhere | Self::Told => &[Address, Address, Port, Port],
            Self::Hairpin => &[Address, Address, Protocol, Port],
            Self::Nodes | Self::Policies | Self::Classes | Self::LocalClasses | Self::Draws => &[ClassId],
        }
    }

    /// Value; `None` for a set.
    pub const fn data(self) -> Option<DataType> {
        match self {
            Self::Services
            | Self::Picks
            | Self::LocalPicks
            | Self::AffinePicks
            | Self::LocalAffinePicks
            | Self::Slots
            | Self::LocalSlots
            | Self::Affinity => Some(DataType::ClassId),
            Self::Endpoints | Self::LocalEndpoints => Some(DataType::AddressPort),
            Self::Nodes => Some(DataType::Address),
            Self::Policies | Self::Classes | Self::LocalClasses | Self::Draws => Some(DataType::Verdict),
            Self::Dropped
            | Self::Rejected
            | Self::Restricted
            | Self::Sources
            | Self::Traffic
            | Self::Vips
            | Self::Announced
            | Self::ServiceCidrs
            | Self::Asking
            | Self::Asked
            | Self::Elsewhere
            | Self::Told
            | Self::Hairpin => None,
        }
    }

    /// True when each element counts the packets that are looked up in it.
    pub const fn is_counted(self) -> bool {
        matches!(self, Self::Traffic)
    }

    /// True when the keys are ranges of a concatenation: their last field is a prefix.
    pub const fn is_range(self) -> bool {
        self.is_interval() && self.key().len() > 1
    }

    /// True when the keys are prefixes, or end with one.
    pub const fn is_interval(self) -> bool {
        matches!(self, Self::Announced | Self::ServiceCidrs | Self::Sources)
    }

    /// For what packets fill and whose elements expire: how many it holds at most. What Herald puts into its
    /// sets is bounded by the cluster; what clients put there must be bounded here. A full map takes no new clients:
    /// they are served, and drawn anew for each connection; a connection that finds no room is not asked for.
    pub const fn dynamic_size(self) -> Option<u32> {
        match self {
            Self::Affinity => Some(1 << 20),
            Self::Asking | Self::Asked | Self::Elsewhere | Self::Told => Some(1 << 16),
            _ => None,
        }
    }
}

/// Something that a packet has: one field of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expression {
    /// `ip saddr`.
    SourceAddress,
    /// `ip daddr`.
    DestinationAddress,
    /// `meta l4proto`.
    Protocol,
    /// `th sport`.
    SourcePort,
    /// `th dport`.
    DestinationPort,
    /// `meta priority`.
    Priority,
}

/// One statement of a rule: a match, an effect or a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Goes on when the source is inside the prefix.
    SourceIn(IpNet),
    /// Goes on when the source is outside the prefix.
    SourceNotIn(IpNet),
    /// Goes on when the source is an address of this node.
    SourceIsLocal,
    /// Goes on when the destination is an address of this node.
    DestinationIsLocal,
    /// Goes on for `ct state new`.
    StateNew,
    /// Goes on for `ct state invalid`.
    StateInvalid,
    /// Goes on for a packet that somebody took out of connection tracking.
    StateUntracked,
    /// Goes on for everything but established and related.
    StateNotKnown,
    /// Goes on for a packet of a connection that connection tracking knows.
    StateEstablished,
    /// Goes on for a packet in the middle of a TCP connection that connection tracking does not know.
    UnknownTcp,
    /// Goes on when connection tracking forgets the connection within this time unless a packet comes: each state of TCP has its own. Packets
    /// that it does not know yet may go on as well.
    ExpiresWithin(Duration),
    /// Goes on for TCP without any of these flags.
    TcpWithout(&'static [TcpFlag]),
    /// Goes on when all bits of the mask are set in the connection's mark.
    ConnectionMarkHas(u32),
    /// Sets the bits of the mask in the connection's mark.
    SetConnectionMark(u32),
    /// Goes on when the destination was translated, by whomever.
    StatusDnat,
    /// Goes on for an ICMP or ICMPv6 message of a type.
    Icmp(IcmpType),
    /// Goes on for TCP.
    Tcp,
    /// Goes on when another node has passed the packet on with this word.
    Says(Word),
    /// Has the packet say this word when it is passed on.
    Say(Word),
    /// Goes on so many times a second, and as many times at once.
    Limit(u32),
    /// Goes on when all bits of the mask are set in the packet's mark.
    MarkHas(u32),
    /// Goes on when the packet's mark is just this.
    MarkIs(u32),
    /// Goes on when the key is in the set.
    InSet(Vec<Expression>, SetName),
    /// Goes on when the key is not in the set.
    NotInSet(Vec<Expression>, SetName),
    /// Sets the bits of the mask in the packet's mark.
    SetMark(u32),
    /// Clears them.
    ClearMark(u32),
    /// Sets the packet's priority to the map's value; goes on when the key is there.
    SetPriority(Vec<Expression>, SetName),
    /// Sets the packet's priority to one of so many slots, by chance.
    DrawSlot(u16),
    /// Sets the packet's priority to a slot.
    Slot(u16),
    /// Goes on when a number of ours is in the packet's priority, and clears it.
    ClearNumber,
    /// Goes where the map of verdicts says for the packet's priority.
    DispatchPriority(SetName),
    /// Keeps the packet's priority in the map for so many seconds. A key that is there keeps its value and gets the time
    /// anew. Goes on unless the map is full.
    Remember(Vec<Expression>, SetName, u32),
    /// Keeps the packet's connection ([`CONNECTION`]) in the set for so long. Goes on unless the set is full.
    Note(SetName, Duration),
    /// Takes the key out of the map, if it is there.
    Forget(Vec<Expression>, SetName),
    /// Translates the destination to the map's value, if the key is there.
    Dnat(Vec<Expression>, SetName),
    /// Sends a copy, its destination as it is, by way of the node that the map names for the packet's priority.
    PassOn(SetName),
    /// Translates the source to the address of the interface that the packet leaves by, with a random port.
    Masquerade,
    /// Goes to a chain and does not come back.
    Goto(&'static str),
    /// Goes to a chain and comes back.
    Jump(&'static str),
    /// Counts the packet.
    Count(EndReason),
    /// Goes back to where the chain was jumped to from.
    Return,
    /// Ends the base chain.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet with port unreachable.
    Reject,
}

/// A TCP connection, as the client sees it.
pub const CONNECTION: [Expression; 4] = [
    Expression::SourceAddress,
    Expression::DestinationAddress,
    Expression::SourcePort,
    Expression::DestinationPort,
];

/// What nodes say of a connection whose packets they pass on to each other. The packet's TTL (hop limit) carries the word in
/// its upper three bits: packets of clients, which begin at 64, 128 or 255 and come over some 30 routers at most, have other values, and
/// unlike DSCP no switch rewrites it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Who knows this connection is to serve it, and to say so.
    Whose,
    /// The sender knows this connection.
    Mine,
}

impl Word {
    /// The bits of the TTL that are the word.
    pub(crate) const MASK: u8 = 0xe0;

    /// Their value.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::Whose => 0xc0,
            Self::Mine => 0xa0,
        }
    }

    /// The TTL to send it with: as many routers as possible leave the word as it is.
    pub(crate) const fn ttl(self) -> u8 {
        self.bits() | !Self::MASK
    }
}

/// Flags of a TCP segment (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpFlag {
    /// The last one of this end.
    Fin,
    /// The first one.
    Syn,
    /// The end of the connection.
    Rst,
}

impl TcpFlag {
    /// Its bit in the octet of the flags.
    pub(crate) const fn bit(self) -> u8 {
        match self {
            Self::Fin => 1,
            Self::Syn => 2,
            Self::Rst => 4,
        }
    }
}

/// ICMP types that the rules tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpType {
    /// Ping.
    EchoRequest,
    /// RFC 4861 §4.3; the unicast probes of §7.3.3 go to the address itself. IPv6 only.
    NeighborSolicitation,
    /// RFC 4861 §4.4. IPv6 only.
    NeighborAdvertisement,
}
