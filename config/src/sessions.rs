//! What a BGP session can have beyond MetalLB's fields: the entries of `herald.bgp-peers`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::problem::shown;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SessionOptions {
    /// GTSM (RFC 5082): the neighbour is at most so many hops away, 1 to 254, and nothing from further away is heard.
    pub ttl_security: Option<u8>,
    /// Who opens the connection.
    pub connect: Connect,
    /// TCP-AO in place of TCP-MD5; the peer's password is the master key.
    pub tcp_ao: Option<TcpAo>,
    /// Whoever dials from these networks is such a neighbour, too; the neighbour's own address counts as one of them if it lies in
    /// one.
    pub accept_from: Vec<IpNet>,
    /// What this node is to the neighbour (RFC 9234).
    pub role: Option<BgpRole>,
    /// Whether a neighbour that tells no role is refused.
    pub strict_role: bool,
    /// MULTI_EXIT_DISC of the routes (RFC 4271 §5.1.4).
    pub med: Option<u32>,
    /// How often our AS number stands in the path beyond the one time it must, at most 16; not to internal neighbours.
    pub prepend: u8,
    /// Of the routes (RFC 4360).
    pub extended_communities: BTreeSet<ExtendedCommunity>,
}

/// Who opens the TCP connection of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Connect {
    /// The node, as MetalLB's native mode has it.
    #[default]
    Dial,
    /// The neighbour: the session is passive.
    Accept,
    /// Whoever comes first.
    Both,
}

/// How TCP-AO (RFC 5925) signs a session's segments. There is one key at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcpAo {
    /// The KeyID of segments that we send (§3.1); the neighbour's RecvID.
    pub send_id: u8,
    /// The KeyID of segments that we take; the neighbour's SendID.
    pub receive_id: u8,
    /// What makes keys and MACs.
    pub algorithm: TcpAoAlgorithm,
}

/// The two algorithms that every TCP-AO has (RFC 5926 §3), with MACs of 96 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpAoAlgorithm {
    /// HMAC-SHA-1-96.
    HmacSha1,
    /// AES-128-CMAC-96.
    AesCmac,
}

/// A role of RFC 9234.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BgpRole {
    /// It sells transit to the neighbour.
    Provider,
    /// It buys transit of the neighbour.
    Customer,
    /// Neither.
    Peer,
    /// It is a route server.
    RouteServer,
    /// It is a client of a route server.
    RouteServerClient,
}

/// Whom an extended community is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtendedKind {
    /// `rt`: route target (RFC 4360 §4).
    RouteTarget,
    /// `soo`: route origin (RFC 4360 §5).
    RouteOrigin,
}

/// An extended community, written `rt:AS:NUMBER` or `soo:AS:NUMBER`; one of both numbers has at most 16 bits (RFC 5668).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity {
    /// What it is.
    pub kind: ExtendedKind,
    /// The AS that defines the meaning.
    pub asn: u32,
    /// What it means there.
    pub value: u32,
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ExtendedKind::RouteTarget => "rt",
            ExtendedKind::RouteOrigin => "soo",
        };
        write!(f, "{kind}:{}:{}", self.asn, self.value)
    }
}

/// Why a text is no extended community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not an extended community: write rt:AS:NUMBER or soo:AS:NUMBER, one of both below 65536, such as rt:64500:7", shown(.0))]
pub struct NotExtended(String);

impl FromStr for ExtendedCommunity {
    type Err = NotExtended;

    fn from_str(text: &str) -> Result<Self, NotExtended> {
        let wrong = || NotExtended(text.to_owned());
        let mut parts = text.split(':');
        let kind = match parts.next() {
            Some("rt") => ExtendedKind::RouteTarget,
            Some("soo") => ExtendedKind::RouteOrigin,
            _ => return Err(wrong()),
        };
        let numbers: Vec<u32> = parts
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?)
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        match numbers.as_slice() {
            &[asn, value] if asn.min(value) <= u32::from(u16::MAX) => Ok(Self { kind, asn, value }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_communities_are_read_as_written_and_must_fit_eight_octets() {
        for text in ["rt:64500:7", "soo:65535:4294967295", "rt:4200000000:65535"] {
            assert_eq!(text.parse::<ExtendedCommunity>().unwrap().to_string(), text);
        }
        for text in ["64500:7", "rt:64500", "rt:64500:7:1", "rt:65536:65536", "rt:+1:2", "rt::2", "xx:1:2"] {
            let error = text.parse::<ExtendedCommunity>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("such as rt:64500:7"), "{error}");
        }
    }
}
