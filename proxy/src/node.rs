//! What the rules of a Service depend on besides the Service: the node that they are for.
//!
//! A value, made by the speaker from its own Node object, its flags and rtnetlink. A change of it makes the rules of
//! every Service stale.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// How much of kube-proxy's work Herald does on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Replaces kube-proxy.
    Full,
    /// Serves externalIPs and load balancer addresses only, beside a kube-proxy or CNI that does the rest and keeps its
    /// own ports (health check node ports, 10249, 10256).
    External,
}

/// The node that rules are made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// `metadata.name`; endpoints are local when their `nodeName` is this.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Addresses at which node ports answer, both families. Never an address that Herald itself gave to the node.
    pub port_addresses: Vec<IpAddr>,
    /// Loopback addresses at which TCP node ports are served in user space (`localhost/`).
    pub localhost: Vec<IpAddr>,
    /// Addresses of all nodes of the cluster. A Service that claims one (through its status, say) gets no `Vip` for it:
    /// what no rule takes must still reach the node.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The node's own addresses: where its own connections come from.
    pub own_addresses: Vec<IpAddr>,
    /// Who reaches load balancer addresses of a family that a Service's source ranges leave out.
    pub other_family_sources: OtherFamilySources,
    /// What is programmed at all.
    pub mode: ProxyMode,
}

/// What `loadBalancerSourceRanges` mean for addresses of a family of which there is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtherFamilySources {
    /// Nobody is let in: who lists IPv4 ranges does not mean to open IPv6.
    #[default]
    Deny,
    /// Everyone is let in, as by kube-proxy.
    Allow,
}

impl NodeView {
    /// True when the address belongs to a node, so that a Service cannot have it for itself.
    pub fn is_node_address(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address) || self.port_addresses.contains(&address)
    }
}
