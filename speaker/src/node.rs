//! What a speaker keeps of Node objects.
//!
//! One watch of all nodes, folded at once to what is needed: of every node its addresses and pod networks (they
//! decide which externalIPs belong to somebody), of the own node its labels, conditions and zone as well. Node objects change rarely since
//! heartbeats are Leases; a change that leaves these values alone makes nothing dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_proxy::{IpFamily, health::node_eligible};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

/// Label that keeps a node out of load balancing (KEP-1143).
const LABEL_EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// What is kept of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeObject {
    /// `metadata.name`.
    pub(crate) name: String,
    /// All addresses in `status.addresses`.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// More of the own node.
    pub(crate) own: Option<OwnNode>,
}

/// What is kept of the own node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnNode {
    /// `metadata.labels`.
    pub(crate) labels: BTreeMap<String, String>,
    /// Addresses of type InternalIP in their order.
    pub(crate) internal_ips: Vec<IpAddr>,
    /// Condition `NetworkUnavailable` is true.
    pub(crate) network_unavailable: bool,
    /// `spec.unschedulable`: it is cordoned.
    pub(crate) cordoned: bool,
    /// It may be sent traffic, in kube-proxy's sense.
    pub(crate) eligible: bool,
}

impl OwnNode {
    /// The label that keeps the node out of load balancing is there, whatever its value.
    pub(crate) fn excluded(&self) -> bool {
        self.labels.contains_key(LABEL_EXCLUDE)
    }

    /// Its zone.
    pub(crate) fn zone(&self) -> Option<String> {
        self.labels.get(LABEL_ZONE).cloned()
    }

    /// The first InternalIP of each family: what kube-proxy calls primary.
    pub(crate) fn primary_ips(&self) -> Vec<IpAddr> {
        let first = |family| self.internal_ips.iter().copied().find(|ip| IpFamily::of(*ip) == family);
        IpFamily::ALL.into_iter().filter_map(first).collect()
    }
}

/// Cuts a Node down.
pub(crate) fn fold(node: &Node, own_name: &str) -> NodeObject {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.as_ref();
    let api_addresses = || status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses = api_addresses().filter_map(|address| address.address.parse().ok()).collect();
    let spec = node.spec.as_ref();
    let mut pod_cidrs: Vec<IpNet> = spec
        .iter()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten())
        .filter_map(|cidr| cidr.parse().ok())
        .collect();
    if pod_cidrs.is_empty() {
        pod_cidrs.extend(
            spec.and_then(|spec| spec.pod_cidr.as_deref()).and_then(|cidr| cidr.parse::<IpNet>().ok()),
        );
    }
    let own = (name == own_name).then(|| OwnNode {
        labels: node.metadata.labels.clone().unwrap_or_default(),
        internal_ips: api_addresses()
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        network_unavailable: status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "True"),
        cordoned: spec.is_some_and(|spec| spec.unschedulable == Some(true)),
        eligible: node_eligible(Some(node)),
    });
    NodeObject { name, addresses, pod_cidrs, own }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "node-1", "labels": {LABEL_ZONE: "a", LABEL_EXCLUDE: ""}},
            "spec": {"unschedulable": true, "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "2001:db8:2:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node-1"},
                    {"type": "InternalIP", "address": "10.0.0.11"},
                    {"type": "InternalIP", "address": "10.0.0.12"},
                    {"type": "InternalIP", "address": "2001:db8:10::11"},
                    {"type": "ExternalIP", "address": "203.0.113.11"},
                ],
                "conditions": [{"type": "NetworkUnavailable", "status": "True"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn of_the_own_node_everything_needed_is_kept() {
        let folded = fold(&node(), "node-1");
        let own = folded.own.unwrap();
        assert!(own.network_unavailable && own.excluded() && own.cordoned && own.eligible);
        assert_eq!(own.zone().as_deref(), Some("a"));
        assert_eq!(
            own.primary_ips(),
            ["10.0.0.11".parse::<IpAddr>().unwrap(), "2001:db8:10::11".parse().unwrap()]
        );
        assert_eq!(folded.pod_cidrs.len(), 2);
        assert_eq!(folded.addresses.len(), 4);
    }

    #[test]
    fn of_other_nodes_only_addresses_and_pod_networks_are_kept() {
        let folded = fold(&node(), "node-2");
        assert_eq!(folded.own, None);
        assert_eq!(folded.addresses.len(), 4);
    }
}
