use std::collections::BTreeMap;
use std::path::PathBuf;

use herald_speaker::{DropRule, DropRules};

use super::super::seen::{Interface, Process, Socket, StateDirectory};
use super::*;

fn process(line: &str) -> Process {
    let mut words = line.split(' ').map(str::to_owned);
    Process { id: 77, program: words.next().unwrap(), arguments: words.collect() }
}

fn socket(protocol: &'static str, port: u16, program: &str) -> Socket {
    Socket { protocol, port, program: Some(program.to_owned()) }
}

/// A node with a speaker where all is well.
fn fit() -> NodeSeen {
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/ip_local_port_range", "32768\t60999"),
        ("ipv4/neigh/default/gc_thresh3", "1024"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/eth0/rp_filter", "2"),
        ("ipv4/conf/eth1/rp_filter", "1"),
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv4/conf/all/arp_announce", "2"),
        ("ipv4/conf/all/route_localnet", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("netfilter/nf_conntrack_count", "700"),
        ("netfilter/nf_conntrack_max", "131072"),
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        ("bridge/bridge-nf-call-iptables", "1"),
    ];
    let interface = |mtu, kind: &str| Interface { mtu, up: true, kind: kind.to_owned() };
    NodeSeen {
        name: "a".to_owned(),
        root: true,
        kernel: "6.1.0-28-amd64".to_owned(),
        cores: 4,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        interfaces: BTreeMap::from([
            ("lo".to_owned(), interface(65536, "")),
            ("eth0".to_owned(), interface(1500, "")),
            ("eth1".to_owned(), interface(1500, "")),
            ("cni0".to_owned(), interface(1450, "bridge")),
            ("flannel.1".to_owned(), interface(1450, "vxlan")),
        ]),
        processes: vec![process("herald speaker --node-name=a")],
        sockets: vec![
            socket("tcp", 7472, "herald"),
            socket("udp", 7947, "herald"),
            socket("tcp", 10256, "herald"),
        ],
        legacy_tables: Vec::new(),
        ipvs_servers: 0,
        neighbours: 12,
        uplink: Some("eth0".to_owned()),
        state: Some(StateDirectory { path: PathBuf::from("/var/lib/herald"), mode: 0o700, owner: 0 }),
        ufw: false,
        forward_drops: Vec::new(),
        drop_rules: DropRules::default(),
    }
}

fn drop_rule(addresses: &[&str]) -> DropRule {
    DropRule {
        family: "inet",
        table: "hardening".to_owned(),
        chain: "pods".to_owned(),
        handle: 7,
        hook: "forward",
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

fn found(seen: &NodeSeen) -> Vec<(&'static str, String)> {
    let troubles = |check: &Check<NodeSeen>| match (check.judge)(seen) {
        Ok(troubles) => troubles.into_iter().map(|trouble| (check.id, trouble.seen)).collect::<Vec<_>>(),
        Err(why) => vec![(check.id, why)],
    };
    CHECKS.iter().flat_map(troubles).collect()
}

#[test]
fn a_node_that_is_fit_has_nothing_to_tell() {
    assert_eq!(found(&fit()), []);
}

#[test]
fn every_check_finds_its_trouble_and_no_other_does() {
    type Harm = fn(&mut NodeSeen);
    fn set(seen: &mut NodeSeen, name: &str, value: &str) {
        seen.settings.insert(name.to_owned(), value.to_owned());
    }
    let cases: &[(&str, Harm, &str)] = &[
        ("root", |n| n.root = false, "not root"),
        ("kernel", |n| n.kernel = "5.10.0".to_owned(), "older than 5.15"),
        ("ipv4-forwarding", |n| set(n, "ipv4/ip_forward", "0"), "nothing is passed on"),
        ("ipv6-forwarding", |n| set(n, "ipv6/conf/all/forwarding", "0"), "nothing of IPv6 is passed on"),
        ("rp-filter", |n| set(n, "ipv4/conf/all/rp_filter", "1"), "strict on cni0, eth1, flannel.1"),
        ("arp-settings", |n| set(n, "ipv4/conf/all/arp_announce", "0"), "arp_announce 0"),
        ("route-localnet", |n| set(n, "ipv4/conf/eth0/route_localnet", "1"), "on for eth0"),
        ("bridge-netfilter", |n| drop(n.settings.remove("bridge/bridge-nf-call-iptables")), "bridge cni0"),
        ("conntrack-room", |n| set(n, "netfilter/nf_conntrack_count", "131000"), "131000 of 131072"),
        ("conntrack-size", |n| set(n, "netfilter/nf_conntrack_max", "65536"), "below the 131072"),
        ("conntrack-liberal", |n| set(n, "netfilter/nf_conntrack_tcp_be_liberal", "0"), "is reset"),
        ("neighbour-table", |n| n.neighbours = 1000, "1000 of 1024"),
        ("local-ports", |n| set(n, "ipv4/ip_local_port_range", "1024 65535"), "30000 to 32767"),
        ("overlay-mtu", |n| n.interfaces.get_mut("flannel.1").unwrap().mtu = 1500, "packets of 1450 at most"),
        ("kube-proxy", |n| n.processes.push(process("kube-proxy --v=2")), "both translate"),
        ("kube-proxy-rules", |n| n.ipvs_servers = 3, "3 virtual servers"),
        ("kube-proxy-rules", |n| n.legacy_tables.push("nat".to_owned()), "iptables-legacy"),
        ("second-announcer", |n| n.processes.push(process("kube-vip manager")), "two owners"),
        ("second-speaker", |n| n.processes.push(process("herald speaker")), "2 speakers"),
        (
            "admin-port",
            |n| n.sockets.push(socket("tcp", 7472, "frr_exporter")),
            "frr_exporter has tcp port 7472",
        ),
        ("hello-port", |n| n.sockets.push(socket("udp", 7947, "x")), "x has udp port 7947"),
        ("health-ports", |n| n.sockets.push(socket("tcp", 10249, "x")), "x has tcp port 10249"),
        ("bgp-port", |n| n.sockets.push(socket("tcp", 179, "bird")), "bird listens at port 179"),
        ("firewall", |n| n.ufw = true, "ufw"),
        ("firewall", |n| n.processes.push(process("python3 -Es /usr/sbin/firewalld")), "firewalld"),
        (
            "forward-policy",
            |n| n.forward_drops.push("inet filter forward".to_owned()),
            "chain inet filter forward drops what is forwarded",
        ),
        (
            "drop-rules",
            |n| n.drop_rules.found.push(drop_rule(&["10.244.1.5", "10.244.1.6", "10.244.1.7", "192.0.2.1"])),
            "inet hardening pods (handle 7, hook forward) drops packets of what is served: 10.244.1.5, 10.244.1.6, 10.244.1.7 and 1 more",
        ),
        (
            "drop-rules",
            |n| n.drop_rules.found.push(drop_rule(&[])),
            "drops whatever no rule before it accepts",
        ),
        (
            "drop-rules",
            |n| n.drop_rules.unfinished.push("inet filter forward".to_owned()),
            "chain inet filter forward leads to more rules than can be followed",
        ),
        ("state-directory", |n| n.state.as_mut().unwrap().mode = 0o755, "mode 755"),
    ];
    for (id, harm, word) in cases {
        let mut seen = fit();
        harm(&mut seen);
        let found = found(&seen);
        assert!(
            matches!(found.as_slice(), [(at, text)] if at == id && text.contains(word)),
            "{id}: {found:?}"
        );
    }
    // No uplink: its MTU cannot be judged either.
    let lost = found(&NodeSeen { uplink: None, ..fit() });
    assert_eq!(lost.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["default-route", "overlay-mtu"]);
}

#[test]
fn beside_kube_proxy_there_is_nothing_wrong_with_either() {
    let mut seen = fit();
    seen.processes = vec![process("herald speaker --proxy external"), process("kube-proxy --v=2")];
    seen.sockets.push(socket("tcp", 10256, "kube-proxy"));
    assert_eq!(found(&seen), []);
}

#[test]
fn a_node_before_its_speaker_is_judged_as_well() {
    let mut seen = fit();
    (seen.processes, seen.state) = (vec![process("kube-proxy --v=2")], None);
    seen.settings.insert("ipv4/conf/all/arp_ignore".to_owned(), "0".to_owned());
    let found = found(&seen);
    assert!(
        matches!(found.as_slice(), [("kube-proxy", text)] if text.contains("must not run beside it")),
        "{found:?}"
    );
}

#[test]
fn arp_is_left_alone_where_nothing_is_announced_by_it() {
    let mut seen = fit();
    seen.settings.insert("ipv4/conf/all/arp_ignore".to_owned(), "0".to_owned());
    assert_eq!(found(&seen).len(), 1);
    seen.sockets.retain(|socket| socket.port != 7947);
    assert_eq!(found(&seen), []);
}
