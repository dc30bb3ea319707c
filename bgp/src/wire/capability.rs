//! Capabilities (RFC 5492) that an OPEN carries.
//!
//! Known ones are typed; all others, and known ones whose value has another length than their RFC gives, are kept
//! raw and ignored, with one exception: four-octet AS (RFC 6793), for a peer that botches it would misread every AS_PATH.

use super::{DecodeError, take, take_u8, take_u16};
use crate::Family;

mod code {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const EXTENDED_MESSAGE: u8 = 6;
    pub(super) const ROLE: u8 = 9;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
    pub(super) const ENHANCED_ROUTE_REFRESH: u8 = 70;
}

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// RFC 4760 §8: an address family by its code points.
    MultiProtocol {
        /// Address family identifier.
        afi: u16,
        /// Subsequent address family identifier.
        safi: u8,
    },
    /// RFC 2918.
    RouteRefresh,
    /// RFC 7313.
    EnhancedRouteRefresh,
    /// RFC 8950 §4: address family, subsequent family and the family that its next hops may be of as well.
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 9234 §4.1: what the sender is to the receiver.
    Role(Role),
    /// RFC 6793: the sender's AS number.
    FourOctetAs(u32),
    /// RFC 4724.
    GracefulRestart(GracefulRestart),
    /// Anything else.
    Unknown {
        /// Capability code.
        code: u8,
        /// Capability value; at most 255 octets are sent.
        value: Vec<u8>,
    },
}

/// What a speaker is to its neighbour (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sells transit to the neighbour.
    Provider,
    /// A route server.
    RouteServer,
    /// A client of a route server.
    RouteServerClient,
    /// Buys transit from the neighbour.
    Customer,
    /// Neither pays.
    Peer,
    /// Not assigned.
    Other(u8),
}

impl Role {
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            other => Self::Other(other),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
            Self::Other(code) => code,
        }
    }

    /// RFC 9234 §4.2, table 2: whether the two ends of a session may have these roles.
    pub fn suits(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Provider, Self::Customer)
                | (Self::Customer, Self::Provider)
                | (Self::RouteServer, Self::RouteServerClient)
                | (Self::RouteServerClient, Self::RouteServer)
                | (Self::Peer, Self::Peer)
        )
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider => f.write_str("provider"),
            Self::RouteServer => f.write_str("route server"),
            Self::RouteServerClient => f.write_str("route server client"),
            Self::Customer => f.write_str("customer"),
            Self::Peer => f.write_str("peer"),
            Self::Other(code) => write!(f, "role {code}"),
        }
    }
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GracefulRestart {
    /// R: the sender has just restarted.
    pub restarting: bool,
    /// N: routes are kept after a NOTIFICATION too.
    pub notification: bool,
    /// Seconds that the sender needs to come back, 0..=4095.
    pub restart_time: u16,
    /// AFI, SAFI and whether forwarding state was preserved.
    pub families: Vec<(u16, u8, bool)>,
}

impl Capability {
    /// The multiprotocol capability of a family.
    pub const fn family(family: Family) -> Self {
        Self::MultiProtocol { afi: family.afi(), safi: Family::SAFI }
    }

    /// The capability code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::MultiProtocol { .. } => code::MULTIPROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => code::EXTENDED_MESSAGE,
            Self::Role(_) => code::ROLE,
            Self::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Self::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// What it is called, as in what was negotiated.
    pub(super) fn name(&self) -> String {
        let name = match self {
            Self::MultiProtocol { afi, safi } => match Family::from_codes(*afi, *safi) {
                Some(family) => return family.to_string(),
                None => return format!("AFI {afi} SAFI {safi}"),
            },
            Self::RouteRefresh => "route refresh",
            Self::ExtendedNextHop(_) => "IPv6 next hops for IPv4",
            Self::ExtendedMessage => "extended messages",
            Self::Role(role) => return format!("role {role}"),
            Self::GracefulRestart(_) => "graceful restart",
            Self::FourOctetAs(_) => "4-octet AS",
            Self::EnhancedRouteRefresh => "enhanced route refresh",
            Self::Unknown { code, .. } => return format!("capability {code}"),
        };
        name.to_owned()
    }

    /// Code, length, value.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut value = match self {
            Self::MultiProtocol { afi, safi } => {
                let [high, low] = afi.to_be_bytes();
                vec![high, low, 0, *safi]
            }
            Self::RouteRefresh | Self::EnhancedRouteRefresh | Self::ExtendedMessage => Vec::new(),
            Self::ExtendedNextHop(list) => list
                .iter()
                .flat_map(|(afi, safi, next)| [*afi, *safi, *next])
                .flat_map(u16::to_be_bytes)
                .collect(),
            Self::Role(role) => vec![role.code()],
            Self::FourOctetAs(asn) => asn.to_be_bytes().to_vec(),
            Self::GracefulRestart(restart) => restart.encode(),
            Self::Unknown { value, .. } => value.clone(),
        };
        value.truncate(255);
        out.extend_from_slice(&[self.code(), u8::try_from(value.len()).unwrap_or(u8::MAX)]);
        out.append(&mut value);
    }

    /// Reads a list of capabilities: the value of a parameter of type 2, or the data of a 2/7.
    pub(crate) fn decode_list(mut input: &[u8]) -> Result<Vec<Self>, DecodeError> {
        const SHORT: DecodeError = DecodeError::Open("a capability exceeds its parameter");
        let mut list = Vec::new();
        while !input.is_empty() {
            let code = take_u8(&mut input).ok_or(SHORT)?;
            let length = take_u8(&mut input).ok_or(SHORT)?;
            let value = take(&mut input, usize::from(length)).ok_or(SHORT)?;
            list.push(Self::decode(code, value)?);
        }
        Ok(list)
    }

    fn decode(code: u8, value: &[u8]) -> Result<Self, DecodeError> {
        Ok(match (code, value) {
            // RFC 4760 §8: the third octet is reserved and ignored.
            (code::MULTIPROTOCOL, [high, low, _, safi]) => {
                Self::MultiProtocol { afi: u16::from_be_bytes([*high, *low]), safi: *safi }
            }
            (code::ROUTE_REFRESH, []) => Self::RouteRefresh,
            (code::ENHANCED_ROUTE_REFRESH, []) => Self::EnhancedRouteRefresh,
            (code::EXTENDED_MESSAGE, []) => Self::ExtendedMessage,
            (code::ROLE, [role]) => Self::Role(Role::from_code(*role)),
            (code::EXTENDED_NEXT_HOP, value) => match value.as_chunks::<6>() {
                (list, []) => Self::ExtendedNextHop(list.iter().map(next_hop_family).collect()),
                _ => Self::Unknown { code, value: value.to_vec() },
            },
            (code::FOUR_OCTET_AS, value) => {
                let octets: [u8; 4] = value
                    .try_into()
                    .map_err(|_| DecodeError::Open("the four-octet AS capability is not four octets long"))?;
                Self::FourOctetAs(u32::from_be_bytes(octets))
            }
            (code::GRACEFUL_RESTART, value) => match GracefulRestart::decode(value) {
                Some(restart) => Self::GracefulRestart(restart),
                None => Self::Unknown { code, value: value.to_vec() },
            },
            // RFC 5492 §3: what is not understood is ignored.
            (code, value) => Self::Unknown { code, value: value.to_vec() },
        })
    }
}

fn next_hop_family([a, b, c, d, e, f]: &[u8; 6]) -> (u16, u16, u16) {
    (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]), u16::from_be_bytes([*e, *f]))
}

impl GracefulRestart {
    fn encode(&self) -> Vec<u8> {
        let flags = u16::from(self.restarting) << 15 | u16::from(self.notification) << 14;
        let mut value = (flags | self.restart_time & 0x0fff).to_be_bytes().to_vec();
        for (afi, safi, forwarding) in &self.families {
            value.extend_from_slice(&afi.to_be_bytes());
            value.extend_from_slice(&[*safi, u8::from(*forwarding) << 7]);
        }
        value
    }

    fn decode(mut value: &[u8]) -> Option<Self> {
        let head = take_u16(&mut value)?;
        let (families, []) = value.as_chunks::<4>() else { return None };
        Some(Self {
            restarting: head & 0x8000 != 0,
            notification: head & 0x4000 != 0,
            restart_time: head & 0x0fff,
            families: families
                .iter()
                .map(|[high, low, safi, flags]| (u16::from_be_bytes([*high, *low]), *safi, flags & 0x80 != 0))
                .collect(),
        })
    }
}
