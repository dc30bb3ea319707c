//! What is asked of a machine. Each check is a function of what was seen; the table at the top is the list that people read.

mod programs;
mod settings;

pub(super) use self::programs::flag;
use super::seen::NodeSeen;
use crate::doctor::report::{Check, Trouble};

/// All of them, in the order in which a packet would meet them.
pub(super) const CHECKS: &[Check<NodeSeen>] = &[
    Check {
        id: "root",
        holds: "doctor runs as root, so that all processes and sockets can be seen",
        judge: settings::root,
    },
    Check { id: "kernel", holds: "the kernel is one that Herald is made for", judge: settings::kernel },
    Check {
        id: "ipv4-forwarding",
        holds: "IPv4 packets are routed on to other nodes' endpoints",
        judge: settings::ipv4_forwarding,
    },
    Check {
        id: "ipv6-forwarding",
        holds: "IPv6 packets are routed on, unless IPv6 is off",
        judge: settings::ipv6_forwarding,
    },
    Check {
        id: "rp-filter",
        holds: "no interface drops packets whose way back is another",
        judge: settings::rp_filter,
    },
    Check {
        id: "arp-settings",
        holds: "the kernel leaves ARP for Services' addresses to the speaker",
        judge: settings::arp_settings,
    },
    Check {
        id: "route-localnet",
        holds: "127.0.0.0/8 cannot be reached from outside",
        judge: settings::route_localnet,
    },
    Check {
        id: "bridge-netfilter",
        holds: "packets between pods of one bridge meet the rules",
        judge: settings::bridge_netfilter,
    },
    Check { id: "conntrack-room", holds: "the connection table has room", judge: settings::conntrack_room },
    Check {
        id: "conntrack-size",
        holds: "the connection table is as large as kube-proxy would make it",
        judge: settings::conntrack_size,
    },
    Check {
        id: "conntrack-liberal",
        holds: "delayed TCP segments are translated",
        judge: settings::conntrack_liberal,
    },
    Check { id: "neighbour-table", holds: "the ARP table has room", judge: settings::neighbour_table },
    Check {
        id: "local-ports",
        holds: "the kernel gives no node port to outgoing connections",
        judge: settings::local_ports,
    },
    Check {
        id: "default-route",
        holds: "there is a way to clients elsewhere",
        judge: settings::default_route,
    },
    Check {
        id: "overlay-mtu",
        holds: "the pods' packets fit into the uplink's",
        judge: settings::overlay_mtu,
    },
    Check {
        id: "kube-proxy",
        holds: "kube-proxy and Herald's proxy do not run side by side",
        judge: programs::kube_proxy,
    },
    Check {
        id: "kube-proxy-rules",
        holds: "no former kube-proxy's rules are left",
        judge: programs::kube_proxy_rules,
    },
    Check {
        id: "second-announcer",
        holds: "nothing else announces addresses of Services here",
        judge: programs::second_announcer,
    },
    Check { id: "second-speaker", holds: "one speaker runs here", judge: programs::second_speaker },
    Check {
        id: "admin-port",
        holds: "port 7472 is the speaker's",
        judge: |seen| {
            programs::port(
                seen,
                "tcp",
                7472,
                "the speaker does not start: its health, metrics and herald status are there (--admin-address)",
            )
        },
    },
    Check {
        id: "hello-port",
        holds: "UDP port 7947 is the speaker's",
        judge: |seen| {
            programs::port(
                seen,
                "udp",
                7947,
                "hellos of layer 2 are not received, so this node takes no address",
            )
        },
    },
    Check {
        id: "health-ports",
        holds: "ports 10249 and 10256 are the speaker's",
        judge: programs::health_ports,
    },
    Check { id: "bgp-port", holds: "port 179 is free, or the speaker's", judge: programs::bgp_port },
    Check {
        id: "firewall",
        holds: "no firewall manager's rules stand in the way",
        judge: programs::firewall,
    },
    Check {
        id: "forward-policy",
        holds: "nobody's chain drops what is forwarded unless a rule accepts it",
        judge: programs::forward_policy,
    },
    Check {
        id: "drop-rules",
        holds: "nobody's rule drops packets of Services or their endpoints",
        judge: programs::drop_rules,
    },
    Check {
        id: "state-directory",
        holds: "what a speaker keeps on the disk is root's alone",
        judge: programs::state_directory,
    },
];

type Verdict = Result<Vec<Trouble>, String>;

fn one(trouble: Option<Trouble>) -> Verdict {
    Ok(trouble.into_iter().collect())
}

#[cfg(test)]
mod tests;
