//! What was left out of an object and why: nonsense is dropped value by value, and each dropped value has a note.
//!
//! The API server refuses most of these values, but not all servers, not all ages of objects and not the status. A
//! note never stops the rest of the object from being served; the speaker makes Events and log lines of notes.

use std::net::IpAddr;

use herald_runtime::events::EventReason;

use crate::element::Protocol;
use crate::probe::SpecError;

/// The field that an address stood in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressField {
    /// `spec.clusterIPs` or `spec.clusterIP`.
    ClusterIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `endpoints[].addresses[0]` of an EndpointSlice.
    Endpoint,
}

impl AddressField {
    /// The path as users write it.
    pub fn path(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIPs",
            Self::ExternalIp => "spec.externalIPs",
            Self::LoadBalancer => "status.loadBalancer.ingress",
            Self::Endpoint => "endpoints.addresses",
        }
    }
}

/// One value that is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// A port number that no packet can carry. The port is not served.
    #[error("port {port:?}: {value} is outside 1 to 65535, so the port is not served")]
    PortNumber {
        /// Port name, empty when unnamed.
        port: String,
        /// What stood there.
        value: i32,
    },
    /// A protocol that Services do not have. The port is not served.
    #[error("port {port:?}: protocol {value:?} is none of TCP, UDP and SCTP, so the port is not served")]
    UnknownProtocol {
        /// Port name, empty when unnamed.
        port: String,
        /// What stood there.
        value: String,
    },
    /// Two ports of one Service with the same number and protocol. The first one counts.
    #[error("port {port:?}: {protocol:?} {number} is taken by an earlier port, so the port is not served")]
    DuplicatePort {
        /// Port name, empty when unnamed.
        port: String,
        /// Protocol of both.
        protocol: Protocol,
        /// Number of both.
        number: u16,
    },
    /// A node port that no packet can carry. The port is served without it.
    #[error("port {port:?}: node port {value} is outside 1 to 65535, so the port has none")]
    NodePortNumber {
        /// Port name, empty when unnamed.
        port: String,
        /// What stood there.
        value: i32,
    },
    /// Not an address.
    #[error("{}: {value:?} is not an IP address", .field.path())]
    NotAnAddress {
        /// Where it stood.
        field: AddressField,
        /// What stood there.
        value: String,
    },
    /// An address that cannot be served or be reached: unspecified, loopback, link-local, multicast, broadcast, mapped.
    #[error("{}: {address} cannot be the address of a Service or of an endpoint", .field.path())]
    SpecialAddress {
        /// Where it stood.
        field: AddressField,
        /// The address.
        address: IpAddr,
    },
    /// An address of the other family than the slice says.
    #[error("endpoints.addresses: {address} is not of the slice's address type")]
    WrongFamily {
        /// The address.
        address: IpAddr,
    },
    /// A traffic policy that is neither `Cluster` nor `Local`; it counts as `Cluster`.
    #[error("{field}: {value:?} is neither Cluster nor Local, so Cluster is used")]
    UnknownPolicy {
        /// `spec.internalTrafficPolicy` or `spec.externalTrafficPolicy`.
        field: &'static str,
        /// What stood there.
        value: String,
    },
    /// A health check node port that no socket can have. None is opened.
    #[error("spec.healthCheckNodePort: {value} is outside 1 to 65535, so no health check is served")]
    HealthCheckNodePort {
        /// What stood there.
        value: i32,
    },
    /// A source range that is no prefix. The others count.
    #[error("spec.loadBalancerSourceRanges: {value:?} is not a CIDR, so it lets nobody in")]
    SourceRange {
        /// What stood there.
        value: String,
    },
    /// Source ranges are set and not one is a prefix.
    #[error(
        "spec.loadBalancerSourceRanges: no range is valid, so nobody reaches the load balancer addresses"
    )]
    NoSourceRange,
    /// Source ranges are set, and none is of the family of a load balancer address.
    #[error(
        "spec.loadBalancerSourceRanges: no range is of the family of {address}; unless \
         source-ranges-other-family is allow, nobody reaches it"
    )]
    OtherFamilySourceRanges {
        /// The address.
        address: IpAddr,
    },
    /// A session affinity that is neither `None` nor `ClientIP`; it counts as `None`.
    #[error("spec.sessionAffinity: {value:?} is neither None nor ClientIP, so None is used")]
    UnknownAffinity {
        /// What stood there.
        value: String,
    },
    /// A timeout of session affinity that Kubernetes does not have.
    #[error("spec.sessionAffinityConfig: {value} s is outside 1 to 86400, so {used} is used")]
    AffinityTimeout {
        /// What stood there.
        value: i32,
        /// What counts.
        used: u32,
    },
    /// An annotation `herald.io/probe` that is not understood.
    #[error("annotation {}: {problem}; until then the endpoints are not probed", crate::probe::ANNOTATION)]
    Probe {
        /// What is wrong, and what is right.
        problem: SpecError,
    },
    /// An annotation `herald.io/probe` without a port, on a Service without TCP ports.
    #[error(
        "annotation {}: the Service has no TCP port to probe; name one, for example \"tcp port=8080\"; until then the \
         endpoints are not probed",
        crate::probe::ANNOTATION
    )]
    ProbeWithoutPort,
}

impl Note {
    /// What the Event is called.
    pub fn reason(&self) -> EventReason {
        match self {
            Self::PortNumber { .. } => EventReason::InvalidPort,
            Self::UnknownProtocol { .. } => EventReason::UnknownProtocol,
            Self::DuplicatePort { .. } => EventReason::DuplicatePort,
            Self::NodePortNumber { .. } => EventReason::InvalidNodePort,
            Self::NotAnAddress { .. } | Self::SpecialAddress { .. } | Self::WrongFamily { .. } => {
                EventReason::InvalidAddress
            }
            Self::UnknownPolicy { .. } => EventReason::UnknownTrafficPolicy,
            Self::HealthCheckNodePort { .. } => EventReason::InvalidHealthCheckNodePort,
            Self::SourceRange { .. } | Self::NoSourceRange => EventReason::InvalidSourceRange,
            Self::OtherFamilySourceRanges { .. } => EventReason::SourceRangesOfOtherFamily,
            Self::UnknownAffinity { .. } | Self::AffinityTimeout { .. } => {
                EventReason::InvalidSessionAffinity
            }
            Self::Probe { .. } | Self::ProbeWithoutPort => EventReason::InvalidProbe,
        }
    }
}

/// Reads an address, or says why it is none that a Service or an endpoint can have.
pub(crate) fn address(field: AddressField, value: &str) -> Result<IpAddr, Note> {
    let address: IpAddr =
        value.trim().parse().map_err(|_| Note::NotAnAddress { field, value: shortened(value) })?;
    // As Kubernetes' validation of externalIPs and endpoints has it, plus what could only harm in a rule of ours:
    // a loopback VIP would take the node's own traffic away.
    let special = match address {
        IpAddr::V4(v4) => {
            v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    };
    if special { Err(Note::SpecialAddress { field, address }) } else { Ok(address) }
}

/// Reads a port number.
pub(crate) fn port_number(value: i32) -> Option<u16> {
    u16::try_from(value).ok().filter(|&number| number != 0)
}

/// Reads a protocol; absent is TCP.
pub(crate) fn protocol(value: Option<&str>) -> Result<Protocol, String> {
    match value {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(shortened(other)),
    }
}

/// Notes end up in Events and logs: what users wrote is cut to a length that fits there.
pub(crate) fn shortened(value: &str) -> String {
    value.chars().take(64).collect()
}
