//! What Events are called: the closed list. The words that MetalLB and kube-proxy have for the same are theirs, since scripts and
//! alerts wait for them.

use std::fmt;

/// `reason` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is described by its sentence")]
pub enum EventReason {
    IpAllocated,
    ClearAssignment,
    AllocationFailed,
    LoadBalancerFailed,
    NoClusterIps,
    NotEnoughClusterIps,
    AdditionalAssignFailed,
    ForeignStatus,
    ForeignAddress,
    ExternalIpInUse,
    DeprecatedAnnotation,
    InvalidAnnotation,
    ExternalTrafficPolicySet,
    ExternalTrafficPolicyReleased,
    NodeAssigned,
    AddressConflict,
    RulesRefused,
    LocalAddressRefused,
    FrontendHeldByService,
    EndpointProbeFailed,
    EndpointProbeRecovered,
    EndpointsHeld,
    HealthCheckPortFailed,
    LocalhostPortFailed,
    InvalidPort,
    UnknownProtocol,
    DuplicatePort,
    InvalidNodePort,
    InvalidAddress,
    UnknownTrafficPolicy,
    InvalidHealthCheckNodePort,
    InvalidSourceRange,
    SourceRangesOfOtherFamily,
    InvalidSessionAffinity,
    InvalidProbe,
    ExternalIpIsNodeAddress,
    ExternalIpIsPeerAddress,
    ExternalIpIsApiServerAddress,
    ExternalIpInPodNetwork,
    ExternalIpInServiceNetwork,
    ExternalIpHeldByService,
    ExternalIpNotAllowed,
    ConfigRejected,
    ConfigIgnored,
    ConfigWarning,
    ConfigDeleted,
    BgpSessionUp,
    BgpSessionDown,
    BgpSessionFailed,
    NodeSilent,
    NodeHeard,
    HellosOfOtherVersion,
    ProxyTablesContested,
}

impl EventReason {
    /// All of them, by what they regard.
    pub const ALL: [Self; 53] = [
        Self::IpAllocated,
        Self::ClearAssignment,
        Self::AllocationFailed,
        Self::LoadBalancerFailed,
        Self::NoClusterIps,
        Self::NotEnoughClusterIps,
        Self::AdditionalAssignFailed,
        Self::ForeignStatus,
        Self::ForeignAddress,
        Self::ExternalIpInUse,
        Self::DeprecatedAnnotation,
        Self::InvalidAnnotation,
        Self::ExternalTrafficPolicySet,
        Self::ExternalTrafficPolicyReleased,
        Self::NodeAssigned,
        Self::AddressConflict,
        Self::RulesRefused,
        Self::LocalAddressRefused,
        Self::FrontendHeldByService,
        Self::EndpointProbeFailed,
        Self::EndpointProbeRecovered,
        Self::EndpointsHeld,
        Self::HealthCheckPortFailed,
        Self::LocalhostPortFailed,
        Self::InvalidPort,
        Self::UnknownProtocol,
        Self::DuplicatePort,
        Self::InvalidNodePort,
        Self::InvalidAddress,
        Self::UnknownTrafficPolicy,
        Self::InvalidHealthCheckNodePort,
        Self::InvalidSourceRange,
        Self::SourceRangesOfOtherFamily,
        Self::InvalidSessionAffinity,
        Self::InvalidProbe,
        Self::ExternalIpIsNodeAddress,
        Self::ExternalIpIsPeerAddress,
        Self::ExternalIpIsApiServerAddress,
        Self::ExternalIpInPodNetwork,
        Self::ExternalIpInServiceNetwork,
        Self::ExternalIpHeldByService,
        Self::ExternalIpNotAllowed,
        Self::ConfigRejected,
        Self::ConfigIgnored,
        Self::ConfigWarning,
        Self::ConfigDeleted,
        Self::BgpSessionUp,
        Self::BgpSessionDown,
        Self::BgpSessionFailed,
        Self::NodeSilent,
        Self::NodeHeard,
        Self::HellosOfOtherVersion,
        Self::ProxyTablesContested,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        self.described().0
    }

    /// What it means.
    pub fn sentence(self) -> &'static str {
        self.described().1
    }

    fn described(self) -> (&'static str, &'static str) {
        match self {
            Self::IpAllocated => ("IPAllocated", "the Service has these addresses"),
            Self::ClearAssignment => ("ClearAssignment", "an address is taken from the Service"),
            Self::AllocationFailed => ("AllocationFailed", "the Service waits for an address"),
            Self::LoadBalancerFailed => {
                ("LoadBalancerFailed", "the Service waits: what it asks for cannot be understood or given")
            }
            Self::NoClusterIps => ("noclusterIPsIPFamily", "the Service waits: it has no ClusterIP"),
            Self::NotEnoughClusterIps => {
                ("not enough clusterips", "the Service waits: it requires two families and has one ClusterIP")
            }
            Self::AdditionalAssignFailed => (
                "AdditionalAssignFailed",
                "the Service has an address of one family and would like the other's",
            ),
            Self::ForeignStatus => {
                ("ForeignStatus", "somebody else wrote the Service's status: it is left alone")
            }
            Self::ForeignAddress => {
                ("ForeignAddress", "a Service of another controller shows an address of a pool")
            }
            Self::ExternalIpInUse => ("ExternalIPInUse", "an externalIP is the address of another Service"),
            Self::DeprecatedAnnotation => ("deprecatedAnnotation", "an annotation has MetalLB's old prefix"),
            Self::InvalidAnnotation => {
                ("InvalidAnnotation", "an annotation of Herald's own cannot be understood")
            }
            Self::ExternalTrafficPolicySet => {
                ("ExternalTrafficPolicySet", "Herald set externalTrafficPolicy, as an annotation asks")
            }
            Self::ExternalTrafficPolicyReleased => {
                ("ExternalTrafficPolicyReleased", "no annotation asks for that any more")
            }
            Self::NodeAssigned => ("nodeAssigned", "this node announces the Service"),
            Self::AddressConflict => {
                ("AddressConflict", "a host that is no node of the cluster has the address")
            }
            Self::RulesRefused => ("RulesRefused", "the kernel of this node refused the Service's rules"),
            Self::LocalAddressRefused => {
                ("LocalAddressRefused", "the address could not be put on lo of this node")
            }
            Self::FrontendHeldByService => {
                ("FrontendHeldByService", "an address and port is another Service's too, which is served")
            }
            Self::EndpointProbeFailed => ("EndpointProbeFailed", "endpoints fail this node's probes"),
            Self::EndpointProbeRecovered => ("EndpointProbeRecovered", "they pass them again"),
            Self::EndpointsHeld => (
                "EndpointsHeld",
                "endpoints of many Services turned not ready at once, and are used on for a while",
            ),
            Self::HealthCheckPortFailed => {
                ("FailedToStartServiceHealthcheck", "this node cannot listen at the health check node port")
            }
            Self::LocalhostPortFailed => {
                ("FailedToListenOnLocalhost", "this node cannot listen at the node port on localhost")
            }
            Self::InvalidPort => ("InvalidPort", "a port is none, and not served"),
            Self::UnknownProtocol => ("UnknownProtocol", "a port's protocol is unknown: it is not served"),
            Self::DuplicatePort => ("DuplicatePort", "a port stands twice: the second is not served"),
            Self::InvalidNodePort => ("InvalidNodePort", "a node port is none, and not served"),
            Self::InvalidAddress => {
                ("InvalidAddress", "an address is none that a Service or an endpoint can have")
            }
            Self::UnknownTrafficPolicy => {
                ("UnknownTrafficPolicy", "a traffic policy is unknown: Cluster is used")
            }
            Self::InvalidHealthCheckNodePort => {
                ("InvalidHealthCheckNodePort", "the health check node port is none, and not served")
            }
            Self::InvalidSourceRange => ("InvalidSourceRange", "a source range is none, and lets nobody in"),
            Self::SourceRangesOfOtherFamily => (
                "SourceRangesOfOtherFamily",
                "no source range is of the address' family, so nobody is let in there",
            ),
            Self::InvalidSessionAffinity => {
                ("InvalidSessionAffinity", "session affinity or its timeout is unknown: the default is used")
            }
            Self::InvalidProbe => {
                ("InvalidProbe", "the annotation of probes cannot be used: nothing is probed")
            }
            Self::ExternalIpIsNodeAddress => {
                ("ExternalIPIsNodeAddress", "an externalIP is not served: a node has it")
            }
            Self::ExternalIpIsPeerAddress => {
                ("ExternalIPIsPeerAddress", "an externalIP is not served: a BGP peer has it")
            }
            Self::ExternalIpIsApiServerAddress => {
                ("ExternalIPIsAPIServerAddress", "an externalIP is not served: the API server has it")
            }
            Self::ExternalIpInPodNetwork => {
                ("ExternalIPInPodNetwork", "an externalIP is not served: it is of the pods' network")
            }
            Self::ExternalIpInServiceNetwork => (
                "ExternalIPInServiceNetwork",
                "an externalIP is not served: it is of the ClusterIPs' network",
            ),
            Self::ExternalIpHeldByService => {
                ("ExternalIPHeldByService", "an externalIP is not served: it is another Service's address")
            }
            Self::ExternalIpNotAllowed => {
                ("ExternalIPNotAllowed", "an externalIP is not served: herald.external-ips does not allow it")
            }
            Self::ConfigRejected => ("ConfigRejected", "this part of the configuration is refused"),
            Self::ConfigIgnored => {
                ("ConfigIgnored", "the ConfigMap is not read, for there are objects of metallb.io")
            }
            Self::ConfigWarning => ("ConfigWarning", "this part of the configuration is taken and doubtful"),
            Self::ConfigDeleted => {
                ("ConfigDeleted", "the configuration is gone; the last one stays in force")
            }
            Self::BgpSessionUp => ("BGPSessionUp", "a BGP session of the node came up"),
            Self::BgpSessionDown => ("BGPSessionDown", "a BGP session of the node ended"),
            Self::BgpSessionFailed => ("BGPSessionFailed", "a BGP session of the node does not come up"),
            Self::NodeSilent => {
                ("NodeSilent", "the node counts as dead: its endpoints get no new connections")
            }
            Self::NodeHeard => ("NodeHeard", "it does no more"),
            Self::HellosOfOtherVersion => {
                ("HellosOfOtherVersion", "the node's hellos are of another version, and not understood")
            }
            Self::ProxyTablesContested => {
                ("ProxyTablesContested", "others edit Herald's nftables tables on the node again and again")
            }
        }
    }
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_stands_in_the_list_with_a_word_of_its_own() {
        let all: BTreeSet<_> = EventReason::ALL.into_iter().collect();
        let words: BTreeSet<_> = EventReason::ALL.map(EventReason::word).into_iter().collect();
        assert_eq!([all.len(), words.len()], [EventReason::ALL.len(); 2]);
        // The last variant's number: one that is forgotten in the list makes it too long.
        assert_eq!(EventReason::ProxyTablesContested as usize + 1, EventReason::ALL.len());
    }

    #[test]
    fn the_document_has_all_of_them() {
        let rows =
            EventReason::ALL.map(|reason| format!("| `{reason}` | {} |\n", reason.sentence())).concat();
        assert!(
            include_str!("../../../docs/reasons.md").contains(&rows),
            "docs/reasons.md should have:\n{rows}"
        );
    }
}
