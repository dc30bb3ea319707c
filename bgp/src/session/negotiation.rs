//! Whether a peer's OPEN is acceptable (RFC 4271 §6.2) and what follows from both OPENs.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use thiserror::Error;

use super::SessionConfig;
use crate::wire::{Capability, Code, Notification, Open, Role};
use crate::{Families, Family};

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Whether the peer is in our AS.
    pub internal: bool,
    /// The families that both offered.
    pub families: Families,
    /// The smaller hold time; zero for none.
    pub hold_time: Duration,
    /// Whether AS numbers take four octets.
    pub four_octet_as: bool,
    /// Whether both know ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Whether a refresh is framed by BoRR and EoRR.
    pub enhanced_route_refresh: bool,
    /// Whether messages may have up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// Whether IPv4 routes have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// What the peer says it is to us (RFC 9234), if we told it ours.
    pub peer_role: Option<Role>,
    /// Whether the peer keeps our routes when the connection ends without NOTIFICATION (RFC 4724 §4.2).
    pub graceful_restart: bool,
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.internal { "internal" } else { "external" };
        write!(
            f,
            "AS {} ({kind}), router id {}, {}, hold time ",
            self.peer_as, self.router_id, self.families
        )?;
        if self.hold_time.is_zero() {
            f.write_str("none")?;
        } else {
            write!(f, "{} s", self.hold_time.as_secs())?;
        }
        for (has, name) in [
            (self.four_octet_as, "4-octet AS"),
            (self.route_refresh, "route refresh"),
            (self.enhanced_route_refresh, "enhanced route refresh"),
            (self.extended_messages, "extended messages"),
            (self.extended_next_hop, "IPv6 next hops for IPv4"),
            (self.graceful_restart, "graceful restart"),
        ] {
            if has {
                write!(f, ", {name}")?;
            }
        }
        if let Some(role) = self.peer_role {
            write!(f, ", peer is our {role}")?;
        }
        Ok(())
    }
}

/// Why we refuse a peer's OPEN.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenRefusal {
    /// It is in another AS than configured.
    #[error("peer is in AS {got}, configured is {}", .expected.map_or("any but ours".to_owned(), |asn| format!("AS {asn}")))]
    PeerAs {
        /// As it says.
        got: u32,
        /// As configured; `None`: any but ours.
        expected: Option<u32>,
    },
    /// Its identifier is zero, or ours within one AS.
    #[error("peer has the unusable router id {0}")]
    RouterId(Ipv4Addr),
    /// One or two seconds.
    #[error("peer proposes a hold time of {0} s")]
    HoldTime(u16),
    /// It is to us what does not go with what we are to it, or does not say it although it must.
    #[error("our role is {ours}, {}", .theirs.map_or("and the peer tells none".to_owned(), |theirs| format!("which does not go with the peer's, {theirs}")))]
    Role {
        /// Ours.
        ours: Role,
        /// The peer's.
        theirs: Option<Role>,
    },
    /// It says of itself two different roles.
    #[error("peer tells more than one role")]
    Roles,
    /// It shares no family with us.
    #[error("peer offers none of our address families ({0})")]
    Families(Families),
}

impl OpenRefusal {
    /// What the peer is told.
    pub fn notification(&self) -> Notification {
        match self {
            Self::PeerAs { .. } => Notification::new(Code::BAD_PEER_AS),
            Self::RouterId(_) => Notification::new(Code::BAD_IDENTIFIER),
            Self::HoldTime(_) => Notification::new(Code::UNACCEPTABLE_HOLD_TIME),
            Self::Role { .. } | Self::Roles => Notification::new(Code::ROLE_MISMATCH),
            Self::Families(ours) => {
                // RFC 5492 §5: the data lists the capabilities that we miss.
                let mut data = Vec::new();
                ours.iter().for_each(|family| Capability::family(family).encode(&mut data));
                Notification::with_data(Code::UNSUPPORTED_CAPABILITY, &data)
            }
        }
    }
}

/// Judges the peer's OPEN against the configuration and what we offered.
pub(super) fn negotiate(
    config: &SessionConfig,
    offered: &[Capability],
    open: &Open,
) -> Result<Negotiated, OpenRefusal> {
    let peer_as = open.asn();
    // RFC 4271 §6.2: the AS must be the configured one. RFC 6793 §4.1: the capability's if there is one. RFC 7607 §2: 0 is none.
    if config.peer_as.map_or(peer_as == config.local_as || peer_as == 0, |expected| expected != peer_as) {
        return Err(OpenRefusal::PeerAs { got: peer_as, expected: config.peer_as });
    }
    // RFC 6286 §2.2: zero is invalid; so is ours, but only within one AS.
    let same = config.is_internal() && open.router_id == config.router_id;
    if open.router_id.is_unspecified() || same {
        return Err(OpenRefusal::RouterId(open.router_id));
    }
    // RFC 4271 §6.2: hold times of one or two seconds are refused.
    if matches!(open.hold_time, 1 | 2) {
        return Err(OpenRefusal::HoldTime(open.hold_time));
    }
    let families = families(offered).intersection(families(&open.capabilities));
    if families.is_empty() {
        return Err(OpenRefusal::Families(config.offered()));
    }
    let peer_role = judge_role(config, offered, &open.capabilities)?;
    let both =
        |capability: &Capability| offered.contains(capability) && open.capabilities.contains(capability);
    let offers_as4 = offered.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
    Ok(Negotiated {
        peer_as,
        router_id: open.router_id,
        internal: config.is_internal(),
        families,
        // RFC 4271 §4.2: the smaller of both.
        hold_time: Duration::from_secs(u64::from(config.hold_time.seconds().min(open.hold_time))),
        four_octet_as: offers_as4 && open.four_octet_as().is_some(),
        route_refresh: both(&Capability::RouteRefresh),
        enhanced_route_refresh: both(&Capability::EnhancedRouteRefresh),
        extended_messages: both(&Capability::ExtendedMessage),
        extended_next_hop: v4_over_v6(offered) && v4_over_v6(&open.capabilities),
        peer_role,
        // RFC 4724 §3: a peer that lists no family of its own still keeps ours.
        graceful_restart: graceful(offered) && graceful(&open.capabilities),
    })
}

/// RFC 9234 §4.2: whether both roles go together. Only if we told ours.
fn judge_role(
    config: &SessionConfig,
    offered: &[Capability],
    theirs: &[Capability],
) -> Result<Option<Role>, OpenRefusal> {
    let role = |capability: &Capability| match capability {
        Capability::Role(role) => Some(*role),
        _ => None,
    };
    let Some(ours) = offered.iter().find_map(role) else { return Ok(None) };
    let mut told = theirs.iter().filter_map(role);
    let first = told.next();
    match first {
        Some(theirs) if told.any(|other| other != theirs) => Err(OpenRefusal::Roles),
        Some(theirs) if !ours.suits(theirs) => Err(OpenRefusal::Role { ours, theirs: Some(theirs) }),
        None if config.role.is_some_and(|role| role.strict) => Err(OpenRefusal::Role { ours, theirs: None }),
        _ => Ok(first),
    }
}

fn v4_over_v6(capabilities: &[Capability]) -> bool {
    let (v4, v6) = (Family::Ipv4Unicast.afi(), Family::Ipv6Unicast.afi());
    let wanted = (v4, u16::from(Family::SAFI), v6);
    capabilities.iter().any(|c| matches!(c, Capability::ExtendedNextHop(list) if list.contains(&wanted)))
}

fn graceful(capabilities: &[Capability]) -> bool {
    capabilities.iter().any(|capability| matches!(capability, Capability::GracefulRestart(_)))
}

/// The families of a list of capabilities. RFC 4760 §8: without any multiprotocol capability, IPv4 unicast.
fn families(capabilities: &[Capability]) -> Families {
    let mut codes = capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::MultiProtocol { afi, safi } => Some((*afi, *safi)),
            _ => None,
        })
        .peekable();
    if codes.peek().is_none() {
        return Families::IPV4;
    }
    codes.filter_map(|(afi, safi)| Family::from_codes(afi, safi)).collect()
}
