//! The wires: who is connected to whom, and under which address.
//!
//! ```text
//!  client 203.0.113.10 ── wan ┌────────┐ lan          ┌── node1 10.0.0.11 ── cni0 10.244.1.1/24 ── pods
//!        (2001:db8:c::10)     │ router │ 10.0.0.1 ─ br0 ── node2 10.0.0.12 ── cni0 10.244.2.1/24 ── pods
//!                             └────────┘              ├── node3 …
//!                                                     └── cp    10.0.0.10 (control plane)
//! ```
//! IPv6 beside it: 2001:db8:10::/64 on the LAN with the same last digits, 2001:db8:c::/64 at the client,
//! 2001:db8:2:NODE::/64 for pods. The bridge is a switch with a namespace of its own (`-lan`), so that no packet of the
//! LAN meets the rules of a node or of the router twice. Nodes route to each other's pods statically and to everything else by
//! the router; the router knows no pod, as a router of real life. Nothing is connected to the machine's own namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::await_until::await_until;
use crate::namespace::{self, Namespace};
use crate::registry::Registry;

/// The router on the LAN.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The control plane.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// The client behind the router.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The client's IPv6 address.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10);
/// All pods: what `--cluster-cidr` wants.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,2001:db8:2::/48";
/// The Services' cluster addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/12,2001:db8:3::/112";
/// Where pods ask for names.
pub const CLUSTER_DNS: &str = "10.96.0.10";

const NO_DAD: &[(&str, &str)] =
    &[("net/ipv6/conf/default/accept_dad", "0"), ("net/ipv6/conf/all/accept_dad", "0")];
const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // Pods of one node are not to find a way past it.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// A node: a namespace with an address on the LAN and a bridge for pods.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in Kubernetes: `node1`.
    pub name: String,
    /// From 1.
    pub index: u8,
    /// Its namespace: `<lab>-node1`.
    pub ns: Namespace,
    /// On the LAN.
    pub ip: Ipv4Addr,
    /// On the LAN.
    pub ip6: Ipv6Addr,
}

impl Node {
    fn new(lab: &str, index: u8) -> Self {
        let name = format!("node{index}");
        let digits = u16::from_str_radix(&(10 + index).to_string(), 16).unwrap_or_default();
        Self {
            ns: Namespace::named(format!("{lab}-{name}")),
            name,
            index,
            ip: Ipv4Addr::new(10, 0, 0, 10 + index),
            ip6: Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, digits),
        }
    }

    /// The pods' network on this node.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    /// The pods' IPv6 network on this node.
    pub fn pod_cidr6(&self) -> String {
        format!("2001:db8:2:{}::/64", self.index)
    }

    /// A port of this node's LAN address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// A port of this node's IPv6 LAN address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.ip6, port).into()
    }
}

/// The namespaces of a lab.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) lan: Namespace,
    pub(crate) router: Namespace,
    pub(crate) client: Namespace,
    pub(crate) control_plane: Namespace,
    pub(crate) nodes: Vec<Node>,
}

impl Topology {
    /// Names only; nothing is made.
    pub(crate) fn describe(lab: &str, nodes: u8) -> Self {
        let named = |role: &str| Namespace::named(format!("{lab}-{role}"));
        Self {
            lan: named("lan"),
            router: named("router"),
            client: named("client"),
            control_plane: named("cp"),
            nodes: (1..=nodes).map(|index| Node::new(lab, index)).collect(),
        }
    }

    /// All namespaces but the pods'.
    fn namespaces(&self) -> Vec<&Namespace> {
        let mut all = vec![&self.lan, &self.router, &self.client, &self.control_plane];
        all.extend(self.nodes.iter().map(|node| &node.ns));
        all
    }

    /// Makes namespaces, links, addresses and routes.
    pub(crate) fn build(&self, registry: &Registry) -> Result<()> {
        let all = self.namespaces();
        let names: Vec<String> = all.iter().map(|ns| ns.name().to_owned()).collect();
        for name in &names {
            registry.namespace(name)?;
        }
        namespace::create(&names)?;
        // Before the links, which take their settings from "default".
        for ns in all {
            ns.sysctl(NO_DAD)?;
        }
        for ns in self.nodes.iter().map(|node| &node.ns).chain([&self.router]) {
            ns.sysctl(FORWARDING)?;
        }
        // By connection, not by client: one client shall see all nodes.
        self.router.sysctl(&[
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ])?;
        self.lan.run(no_filter)??;
        namespace::ip_batch(None, &self.links())?;
        self.lan.ip(&self.switch())?;
        self.router.ip(&[
            "link set lo up",
            "addr add 10.0.0.1/24 dev lan",
            "addr add 2001:db8:10::1/64 dev lan nodad",
            "link set lan up",
            "addr add 203.0.113.1/24 dev wan",
            "addr add 2001:db8:c::1/64 dev wan nodad",
            "link set wan up",
        ])?;
        self.client.ip(&[
            "link set lo up",
            "addr add 203.0.113.10/24 dev eth0",
            "addr add 2001:db8:c::10/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 203.0.113.1",
            "route add default via 2001:db8:c::1",
        ])?;
        self.control_plane.ip(&self.host("10.0.0.10", "2001:db8:10::10", None))?;
        for node in &self.nodes {
            node.ns.ip(&self.host(&node.ip.to_string(), &node.ip6.to_string(), Some(node)))?;
        }
        self.namespaces().into_iter().filter(|ns| **ns != self.lan).try_for_each(await_ipv6)
    }

    fn links(&self) -> Vec<String> {
        let mut lines = vec![
            veth("lan", &self.router, "router", &self.lan),
            veth("wan", &self.router, "eth0", &self.client),
            veth("eth0", &self.control_plane, "cp", &self.lan),
        ];
        lines.extend(self.nodes.iter().map(|node| self.cable(node)));
        lines
    }

    fn cable(&self, node: &Node) -> String {
        veth("eth0", &node.ns, &node.name, &self.lan)
    }

    /// Makes a node's namespace anew, as its kernel would at a start: nothing of what was in the old one is left.
    pub(crate) fn renew(&self, node: &Node) -> Result<()> {
        let name = [node.ns.name().to_owned()];
        namespace::delete(&name)?;
        // The kernel takes the old cable away when the last user of the old namespace has gone.
        await_until(
            Duration::from_secs(10),
            &format!("the switch's port of {} to be free", node.name),
            || self.lan.exec(&["ip", "link", "show", "dev", &node.name]).is_err().then_some(()),
        )?;
        namespace::create(&name)?;
        node.ns.sysctl(NO_DAD)?;
        node.ns.sysctl(FORWARDING)?;
        namespace::ip_batch(None, &[self.cable(node)])?;
        self.lan.ip(&[format!("link set {} master br0 up", node.name)])?;
        node.ns.ip(&self.host(&node.ip.to_string(), &node.ip6.to_string(), Some(node)))?;
        await_ipv6(&node.ns)
    }

    fn switch(&self) -> Vec<String> {
        // Without snooping: a switch that drops multicast until it has seen a querier would be a case of its own.
        let mut lines =
            vec!["link add name br0 type bridge mcast_snooping 0".to_owned(), "link set br0 up".to_owned()];
        let ports = ["router", "cp"].into_iter().chain(self.nodes.iter().map(|node| node.name.as_str()));
        lines.extend(ports.map(|port| format!("link set {port} master br0 up")));
        lines
    }

    fn host(&self, ip: &str, ip6: &str, own: Option<&Node>) -> Vec<String> {
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("addr add {ip}/24 dev eth0"),
            format!("addr add {ip6}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            "route add default via 10.0.0.1".to_owned(),
            "route add default via 2001:db8:10::1".to_owned(),
        ];
        if let Some(node) = own {
            lines.extend([
                "link add name cni0 type bridge mcast_snooping 0".to_owned(),
                format!("addr add 10.244.{}.1/24 dev cni0", node.index),
                format!("addr add 2001:db8:2:{}::1/64 dev cni0 nodad", node.index),
                "link set cni0 up".to_owned(),
            ]);
        }
        for other in self.nodes.iter().filter(|other| own.is_none_or(|own| own.index != other.index)) {
            lines.push(format!("route add {} via {}", other.pod_cidr(), other.ip));
            lines.push(format!("route add {} via {}", other.pod_cidr6(), other.ip6));
        }
        lines
    }
}

/// A line of ip(8) that makes a pair of links. Their indexes differ: the kernel takes a link whose number is its peer's,
/// in whichever namespaces, for one without a lower device, and then delays "carrier is up" (and with it IPv6) by a second.
pub(crate) fn veth(name: &str, ns: &Namespace, peer: &str, other: &Namespace) -> String {
    let index = if name == "wan" { 9_001 } else { 9_000 };
    let (ns, other) = (ns.name(), other.name());
    format!("link add name {name} index {index} netns {ns} type veth peer name {peer} netns {other}")
}

/// Waits until the links of a namespace take part in IPv6, which they do some milliseconds after they are up. A neighbour
/// solicitation that is sent before is lost, and the next one follows after a second.
pub(crate) fn await_ipv6(ns: &Namespace) -> Result<()> {
    let what = format!("IPv6 on the links of {}", ns.name());
    await_until(Duration::from_secs(5), &what, || {
        let addresses = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).ok()?.ok()?;
        let on = |link: &str| {
            addresses.lines().any(|line| line.starts_with("fe80") && line.ends_with(&format!(" {link}")))
        };
        let wanted =
            |line: &str| line.split_whitespace().last().filter(|link| !["lo", "cni0"].contains(link)).map(on);
        addresses.lines().filter_map(wanted).all(|ready| ready).then_some(())
    })
}

/// A switch does not filter. Where `br_netfilter` is loaded a bridge does, and whoever sends pays for it at each port.
fn no_filter() -> Result<()> {
    for of in ["iptables", "ip6tables", "arptables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{of}");
        if std::fs::exists(&path)? {
            std::fs::write(&path, "0").context(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_same_last_digits_in_both_families() {
        let node = Node::new("t", 3);
        assert_eq!(node.ip.to_string(), "10.0.0.13");
        assert_eq!(node.ip6.to_string(), "2001:db8:10::13");
        assert_eq!(node.ns.name(), "t-node3");
    }

    #[test]
    fn a_node_routes_to_the_pods_of_all_others_only() {
        let topology = Topology::describe("t", 3);
        let lines = topology.host("10.0.0.12", "2001:db8:10::12", topology.nodes.get(1));
        let pods: Vec<&String> = lines.iter().filter(|line| line.starts_with("route add 10.244.")).collect();
        assert_eq!(pods, ["route add 10.244.1.0/24 via 10.0.0.11", "route add 10.244.3.0/24 via 10.0.0.13"]);
    }
}
