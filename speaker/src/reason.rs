//! Why this node does not announce an address: a closed list, one word each.
//!
//! The same word stands in the log, the Event and the metric. Where MetalLB has a word for it, it is MetalLB's.

use std::fmt;

/// Why an address of a Service is not announced by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    /// The address is in none of the configured pools.
    NotInPool,
    /// The pool has no advertisement for the Service and this node, so its addresses are given but not announced.
    NoAdvertisement,
    /// No configured peer selects this node.
    NoPeer,
    /// The Node object has not been seen.
    NodeUnknown,
    /// Condition `NetworkUnavailable` of the Node is true.
    NodeNetworkUnavailable,
    /// The Node has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    NodeExcluded,
    /// The Node is cordoned, and the configuration has such nodes leave.
    NodeCordoned,
    /// No endpoint of the Service can take traffic anywhere.
    NoEndpoints,
    /// `externalTrafficPolicy: Local`, and no endpoint on this node is ready.
    NoLocalEndpoints,
    /// `externalTrafficPolicy: Local`, and all ready endpoints on this node fail the probes that the Service asks for.
    LocalProbesFail,
    /// The node passes no packets on, and the endpoints are not its own processes.
    NotForwarding,
    /// By layer 2 another node owns the address, or none does yet.
    NotOwner,
    /// The kernel refused the Service's rules.
    RulesRefused,
    /// The address could not be put on `lo`, where the configuration wants it.
    LocalAddressRefused,
}

impl Reason {
    /// All of them, in order; the label values of the metric.
    pub(crate) const ALL: [Self; 14] = [
        Self::NotInPool,
        Self::NoAdvertisement,
        Self::NoPeer,
        Self::NodeUnknown,
        Self::NodeNetworkUnavailable,
        Self::NodeExcluded,
        Self::NodeCordoned,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::LocalProbesFail,
        Self::NotForwarding,
        Self::NotOwner,
        Self::RulesRefused,
        Self::LocalAddressRefused,
    ];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NotInPool => "notInPool",
            Self::NoAdvertisement => "noAdvertisement",
            Self::NoPeer => "noPeer",
            Self::NodeUnknown => "nodeUnknown",
            Self::NodeNetworkUnavailable => "nodeNetworkUnavailable",
            Self::NodeExcluded => "nodeLabeledExcludeBalancers",
            Self::NodeCordoned => "nodeCordoned",
            Self::NoEndpoints => "noEndpoints",
            Self::NoLocalEndpoints => "noLocalEndpoints",
            Self::LocalProbesFail => "localProbesFail",
            Self::NotForwarding => "notForwarding",
            Self::NotOwner => "notOwner",
            Self::RulesRefused => "rulesRefused",
            Self::LocalAddressRefused => "localAddressRefused",
        }
    }

    /// Whether somebody has taken the node out of load balancing, which it leaves gently.
    pub(crate) fn is_leaving(self) -> bool {
        matches!(self, Self::NodeExcluded | Self::NodeCordoned)
    }

    /// What it means.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::NotInPool => "the address is in no pool of the configuration",
            Self::NoAdvertisement => "its pool has no advertisement for this Service and this node",
            Self::NoPeer => "no peer of the configuration selects this node",
            Self::NodeUnknown => "the Node object of this node has not been seen",
            Self::NodeNetworkUnavailable => "condition NetworkUnavailable of this Node is true",
            Self::NodeExcluded => {
                "this Node has label node.kubernetes.io/exclude-from-external-load-balancers"
            }
            Self::NodeCordoned => "this Node is cordoned, and herald.cordoned-nodes has such nodes leave",
            Self::NoEndpoints => "no endpoint can take traffic anywhere",
            Self::NoLocalEndpoints => "externalTrafficPolicy is Local and no endpoint on this node is ready",
            Self::LocalProbesFail => {
                "externalTrafficPolicy is Local and all ready endpoints on this node fail its probes"
            }
            Self::NotForwarding => {
                "this node passes no packets on: net.ipv4.ip_forward or net.ipv6.conf.all.forwarding is 0"
            }
            Self::NotOwner => "another node of the segment owns the address, or none does yet",
            Self::RulesRefused => "the kernel refused the Service's rules",
            Self::LocalAddressRefused => "the address could not be put on lo",
        }
    }

    /// What to do about it; nothing where that is told of the endpoints or with what the kernel said.
    pub(crate) fn remedy(self) -> Option<&'static str> {
        match self {
            Self::NotInPool => Some("add it to a pool in the ConfigMap, or take the address off the Service"),
            Self::NoAdvertisement => {
                Some("give the pool an advertisement that selects the Service and the node")
            }
            Self::NoPeer => Some("compare node-selectors of the peers with kubectl get node --show-labels"),
            Self::NodeUnknown => Some("compare --node-name of the speaker with kubectl get nodes"),
            Self::NodeNetworkUnavailable => Some("look at the network plugin: kubectl describe node"),
            Self::NodeExcluded => Some("remove the label if the node is to serve clients again"),
            Self::NodeCordoned => Some("kubectl uncordon it if it is to serve clients again"),
            Self::LocalProbesFail => Some("see annotation herald.io/probe and the Service's Events"),
            Self::NotForwarding => Some("set it to 1 on the node, and find what set it to 0"),
            Self::NoEndpoints
            | Self::NoLocalEndpoints
            | Self::NotOwner
            | Self::RulesRefused
            | Self::LocalAddressRefused => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn the_document_has_all_of_them() {
        let rows = Reason::ALL.into_iter().map(|reason| {
            format!("| `{reason}` | {} | {} |\n", reason.sentence(), reason.remedy().unwrap_or_default())
        });
        let rows: String = rows.collect();
        assert!(
            include_str!("../../docs/reasons.md").contains(&rows),
            "docs/reasons.md should have:\n{rows}"
        );
    }
}
