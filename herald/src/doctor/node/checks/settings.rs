//! The kernel: its version, its settings and its tables.

use super::super::seen::{Interface, NodeSeen};
use super::programs::{flag, proxies};
use super::{Verdict, one};
use crate::doctor::report::Trouble;

pub(super) fn root(seen: &NodeSeen) -> Verdict {
    one((!seen.root).then(|| {
        Trouble::warning(
            "not root: other users' processes and sockets are not seen",
            "sudo herald doctor node",
        )
    }))
}

pub(super) fn kernel(seen: &NodeSeen) -> Verdict {
    one(herald_speaker::kernel_doubt(&seen.kernel)
        .map(|doubt| Trouble::warning(doubt, "install the distribution's newer kernel and boot it")))
}

pub(super) fn ipv4_forwarding(seen: &NodeSeen) -> Verdict {
    let on = seen.setting("ipv4/ip_forward").ok_or("net.ipv4.ip_forward cannot be read")?;
    one((on == 0).then(|| {
        Trouble::error(
            "net.ipv4.ip_forward is 0: nothing is passed on, to endpoints elsewhere or from other nodes to this one's pods",
            "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d for the next boot",
        )
    }))
}

pub(super) fn ipv6_forwarding(seen: &NodeSeen) -> Verdict {
    let off = seen.setting("ipv6/conf/all/disable_ipv6").unwrap_or(1) == 1;
    let forwards = seen.setting("ipv6/conf/all/forwarding").unwrap_or(1) == 1;
    one((!off && !forwards).then(|| {
        Trouble::warning(
            "net.ipv6.conf.all.forwarding is 0: nothing of IPv6 is passed on, to endpoints elsewhere or from other nodes to this one's pods",
            "sysctl -w net.ipv6.conf.all.forwarding=1 (and accept_ra=2 on an interface that gets its routes by RA)",
        )
    }))
}

/// Interfaces by which clients or peers may come: not those that a network plugin makes for its pods.
fn outer(seen: &NodeSeen) -> impl Iterator<Item = (&str, &Interface)> {
    const OF_PODS: [&str; 6] = ["lo", "veth", "cali", "lxc", "kube-ipvs", "nodelocaldns"];
    let all = seen.interfaces.iter().map(|(name, interface)| (name.as_str(), interface));
    all.filter(|(name, interface)| interface.up && !OF_PODS.iter().any(|prefix| name.starts_with(prefix)))
}

fn conf(seen: &NodeSeen, interface: &str, setting: &str) -> Option<u64> {
    seen.setting(&format!("ipv4/conf/{interface}/{setting}"))
}

pub(super) fn rp_filter(seen: &NodeSeen) -> Verdict {
    let all = conf(seen, "all", "rp_filter").ok_or("net.ipv4.conf.all.rp_filter cannot be read")?;
    // The kernel takes the higher one: 1 is strict, 2 loose.
    let strict: Vec<&str> = outer(seen)
        .map(|(name, _)| name)
        .filter(|name| all.max(conf(seen, name, "rp_filter").unwrap_or(0)) == 1)
        .collect();
    // With one way in and out there is no other way back.
    one((strict.len() > 1).then(|| {
        Trouble::warning(
            format!(
                "rp_filter is strict on {}: packets for a Service that come in by one and would be answered by another are dropped",
                strict.join(", ")
            ),
            "sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
    }))
}

/// The UDP port of layer 2's hellos.
const HELLOS: u16 = 7947;

pub(super) fn arp_settings(seen: &NodeSeen) -> Verdict {
    // A speaker that announces by layer 2 hears the others' hellos.
    let layer2 = seen.sockets.iter().any(|socket| socket.protocol == "udp" && socket.port == HELLOS);
    if seen.speaker().is_none() || !layer2 {
        // It sets them as soon as it has an address to add; and where nothing is announced by ARP nobody else's answer is in the way.
        return Ok(Vec::new());
    }
    let read = |name: &str| {
        conf(seen, "all", name).ok_or_else(|| format!("net.ipv4.conf.all.{name} cannot be read"))
    };
    let (ignore, announce) = (read("arp_ignore")?, read("arp_announce")?);
    one((ignore < 1 || announce < 2).then(|| {
        Trouble::error(
            format!(
                "arp_ignore is {ignore} and arp_announce {announce}: the kernel of every node answers ARP for addresses that all of \
                 them have, beside the one speaker that should"
            ),
            "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2, and look for what sets them back",
        )
    }))
}

pub(super) fn route_localnet(seen: &NodeSeen) -> Verdict {
    let on: Vec<&str> = seen
        .settings
        .iter()
        .filter(|(name, value)| name.ends_with("/route_localnet") && value.as_str() != "0")
        .filter_map(|(name, _)| name.split('/').nth(2))
        .collect();
    one((!on.is_empty()).then(|| {
        Trouble::warning(
            format!(
                "route_localnet is on for {}: neighbours can send to 127.0.0.0/8 of this node; kube-proxy sets it, Herald has no use \
                 for it",
                on.join(", ")
            ),
            format!("sysctl -w net.ipv4.conf.{}.route_localnet=0, once kube-proxy is gone", on[0]),
        )
    }))
}

pub(super) fn bridge_netfilter(seen: &NodeSeen) -> Verdict {
    let bridge = seen
        .interfaces
        .iter()
        .find(|(name, of)| of.kind == "bridge" && (name.starts_with("cni") || *name == "docker0"));
    let off = seen.setting("bridge/bridge-nf-call-iptables") != Some(1);
    one(bridge.filter(|_| off).map(|(name, _)| {
        Trouble::warning(
            format!(
                "pods are on bridge {name} and bridge-nf-call-iptables is not 1: a pod that is answered by a pod of the same node, \
                 through a Service, gets the answer from the wrong address"
            ),
            "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1",
        )
    }))
}

/// Per cent of the table from which on it is told, and from which on it is an error.
const FULL: (u64, u64) = (75, 95);

fn room(what: &str, used: u64, size: u64, comes: &str, remedy: &str) -> Option<Trouble> {
    let percent = used.saturating_mul(100).checked_div(size)?;
    let text = format!("{what} holds {used} of {size} entries: {comes}");
    match percent {
        percent if percent >= FULL.1 => Some(Trouble::error(text, remedy)),
        percent if percent >= FULL.0 => Some(Trouble::warning(text, remedy)),
        _ => None,
    }
}

pub(super) fn conntrack_room(seen: &NodeSeen) -> Verdict {
    let (Some(used), Some(size)) =
        (seen.setting("netfilter/nf_conntrack_count"), seen.setting("netfilter/nf_conntrack_max"))
    else {
        return Err("connection tracking has not been used yet, or its module is missing".to_owned());
    };
    one(room(
        "the connection table",
        used,
        size,
        "when it is full, new connections are dropped",
        "raise --conntrack-max-per-core, and look for who opens them: conntrack -L -o extended",
    ))
}

pub(super) fn conntrack_size(seen: &NodeSeen) -> Verdict {
    let Some(size) = seen.setting("netfilter/nf_conntrack_max") else { return Ok(Vec::new()) };
    let least = (32_768 * seen.cores as u64).max(131_072);
    let off = seen
        .speaker()
        .is_some_and(|speaker| flag(speaker, "--conntrack-max-per-core").as_deref() == Some("0"));
    one((size < least && !off && proxies(seen)).then(|| {
        Trouble::warning(
            format!("nf_conntrack_max is {size}, below the {least} of kube-proxy's default: the speaker could not raise it"),
            format!("sysctl -w net.netfilter.nf_conntrack_max={least}, or mount the node's /proc/sys/net (--sysctl-directory)"),
        )
    }))
}

pub(super) fn conntrack_liberal(seen: &NodeSeen) -> Verdict {
    let strict = seen.setting("netfilter/nf_conntrack_tcp_be_liberal") == Some(0);
    let wanted = seen
        .speaker()
        .is_none_or(|speaker| flag(speaker, "--conntrack-tcp-be-liberal").as_deref() != Some("false"));
    one((strict && wanted && proxies(seen)).then(|| {
        Trouble::warning(
            "nf_conntrack_tcp_be_liberal is 0: a delayed segment passes untranslated, and its connection is reset",
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1, or mount the node's /proc/sys/net (--sysctl-directory)",
        )
    }))
}

pub(super) fn neighbour_table(seen: &NodeSeen) -> Verdict {
    let size = seen.setting("ipv4/neigh/default/gc_thresh3").ok_or("gc_thresh3 cannot be read")?;
    one(room(
        "the ARP table",
        seen.neighbours as u64,
        size,
        "when it is full, packets to new neighbours are dropped",
        "sysctl -w net.ipv4.neigh.default.gc_thresh3=16384 net.ipv4.neigh.default.gc_thresh2=8192",
    ))
}

/// Kubernetes' default range of node ports.
const NODE_PORTS: (u64, u64) = (30_000, 32_767);

pub(super) fn local_ports(seen: &NodeSeen) -> Verdict {
    let range = seen.settings.get("ipv4/ip_local_port_range");
    let mut numbers =
        range.into_iter().flat_map(|range| range.split_whitespace()).flat_map(str::parse::<u64>);
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else {
        return Err("net.ipv4.ip_local_port_range cannot be read".to_owned());
    };
    one((first <= NODE_PORTS.1 && last >= NODE_PORTS.0).then(|| {
        Trouble::warning(
            format!(
                "the kernel opens connections from ports {first} to {last}, among them the node ports {} to {}: their answers may be \
                 taken for a Service's",
                NODE_PORTS.0, NODE_PORTS.1
            ),
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999' (or another --service-node-port-range of the API server)",
        )
    }))
}

pub(super) fn default_route(seen: &NodeSeen) -> Verdict {
    one(seen.uplink.is_none().then(|| {
        Trouble::warning(
            "there is no IPv4 default route: clients that no other route leads to are not answered",
            "ip route; add the router's, unless IPv6 is all that is used",
        )
    }))
}

pub(super) fn overlay_mtu(seen: &NodeSeen) -> Verdict {
    let Some((uplink, outer)) =
        seen.uplink.as_ref().and_then(|name| Some((name, seen.interfaces.get(name)?)))
    else {
        return Err("there is no default route, so no uplink".to_owned());
    };
    // What each way of tunnelling puts before a packet.
    let overhead = |name: &str, kind: &str| match kind {
        "vxlan" | "geneve" => Some(50),
        "wireguard" => Some(60),
        _ if name.starts_with("tunl") => Some(20),
        _ => None,
    };
    let mut troubles = Vec::new();
    for (name, interface) in &seen.interfaces {
        let Some(overhead) = overhead(name, &interface.kind) else { continue };
        let largest = outer.mtu.saturating_sub(overhead);
        if interface.mtu > largest {
            troubles.push(Trouble::warning(
                format!(
                    "{name} has an MTU of {} and packets of {} at most fit through {uplink} (MTU {}): large answers to clients may \
                     get lost",
                    interface.mtu, largest, outer.mtu
                ),
                format!("set the network plugin's MTU to {largest}"),
            ));
        }
    }
    Ok(troubles)
}
