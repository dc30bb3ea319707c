//! kube-proxy's rules beside ours: seen, and removed without a scratch to anybody else's.

use herald_proxy::netlink::{DropRules, KubeProxy};
use herald_proxy::{Policy, Protocol};

use super::net::{Namespace, Network, PATIENCE, PODS, Seen, Server, tcp, udp};
use super::packets::{at, frontend, install, service};

/// What kube-proxy's iptables mode, kubelet and a network plugin write through iptables-nft, cut down.
const IPTABLES: &str = "
table ip nat {
    chain KUBE-SERVICES { ip daddr 10.96.0.1 tcp dport 443 jump KUBE-SVC-A; fib daddr type local jump KUBE-NODEPORTS; }
    chain KUBE-NODEPORTS { tcp dport 30080 jump KUBE-EXT-A; }
    chain KUBE-EXT-A { jump KUBE-MARK-MASQ; goto KUBE-SVC-A; }
    chain KUBE-SVC-A { jump KUBE-SEP-A; }
    chain KUBE-SEP-A { ip saddr 10.244.0.5 jump KUBE-MARK-MASQ; tcp dport 443 dnat to 10.244.0.5:6443; }
    chain KUBE-MARK-MASQ { meta mark set meta mark or 0x4000; }
    chain KUBE-POSTROUTING { masquerade; }
    chain KUBE-PROXY-CANARY { }
    chain KUBE-KUBELET-CANARY { }
    chain KUBE-MARK-DROP { meta mark set meta mark or 0x8000; }
    chain CNI-HOSTPORT { tcp dport 8080 dnat to 10.244.0.7:80; }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        counter jump KUBE-SERVICES
        jump CNI-HOSTPORT
    }
    chain OUTPUT { type nat hook output priority -100; policy accept; counter jump KUBE-SERVICES; }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        jump KUBE-POSTROUTING
        ip saddr 10.244.0.0/16 masquerade
    }
}
table ip filter {
    chain KUBE-FORWARD { ct state established accept; }
    chain KUBE-FIREWALL { meta mark and 0x8000 != 0 drop; }
    chain KUBE-PROXY-FIREWALL { }
    chain INPUT { type filter hook input priority filter; policy accept; jump KUBE-PROXY-FIREWALL; jump KUBE-FIREWALL; }
    chain FORWARD { type filter hook forward priority filter; policy accept; jump KUBE-FORWARD; ip saddr 192.0.2.7 drop; }
}
table ip6 nat { chain KUBE-SERVICES { }; chain PREROUTING { type nat hook prerouting priority dstnat; jump KUBE-SERVICES; }; }
table inet firewall { chain input { type filter hook input priority 0; tcp dport 22 accept; }; chain KUBE-SERVICES { }; }
";

#[test]
#[ignore = "needs a network namespace"]
fn kube_proxys_tables_and_chains_are_seen_and_removed() {
    for (rules, tables, chains) in [
        ("table ip kube-proxy { }", true, false),
        ("table ip6 kube-proxy { }", true, false),
        ("table ip nat { chain KUBE-SERVICES { }; }", false, true),
        ("table ip6 nat { chain KUBE-SERVICES { }; }", false, true),
    ] {
        let namespace = Namespace::new();
        let mut kernel = namespace.kernel();
        namespace.nft("table ip nat { chain KUBE-KUBELET-CANARY { }; }");
        assert_eq!(kernel.kube_proxy().unwrap(), KubeProxy::default());
        namespace.nft(rules);
        assert_eq!(kernel.kube_proxy().unwrap(), KubeProxy { tables, chains }, "{rules}");
        kernel.remove_kube_proxy().unwrap();
        assert_eq!(kernel.kube_proxy().unwrap(), KubeProxy::default(), "{rules}");
        assert!(namespace.list_ruleset().contains("KUBE-KUBELET-CANARY"));
        kernel.remove_kube_proxy().unwrap();
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn what_is_removed_of_iptables_is_kube_proxys_and_nobody_elses() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    namespace.nft(IPTABLES);
    let before = namespace.list_ruleset();
    kernel.remove_kube_proxy().unwrap();
    let after = namespace.list_ruleset();
    // Line by line: what is left stood there, and what went is kube-proxy's.
    let own = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT-", "KUBE-SVC-", "KUBE-SEP-", "KUBE-MARK-MASQ"];
    let own = own.iter().chain(&["KUBE-POSTROUTING", "KUBE-PROXY-", "KUBE-FORWARD"]);
    let firewall = after.find("table inet firewall").unwrap();
    for word in own {
        assert!(!after[..firewall].contains(word), "{word} in {after}");
    }
    for kept in [
        "KUBE-KUBELET-CANARY",
        "KUBE-MARK-DROP",
        "jump KUBE-FIREWALL",
        "jump CNI-HOSTPORT",
        "ip saddr 10.244.0.0/16 masquerade",
        "ip saddr 192.0.2.7 drop",
        "type nat hook prerouting priority dstnat; policy accept;",
    ] {
        assert!(before.contains(kept) && after.contains(kept), "{kept} in {after}");
    }
    assert_eq!(before[before.find("table inet firewall").unwrap()..], after[firewall..]);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_chain_that_somebody_elses_chain_uses_stays_with_what_it_uses() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    namespace.nft(IPTABLES);
    namespace.nft("add rule ip nat CNI-HOSTPORT jump KUBE-EXT-A");
    kernel.remove_kube_proxy().unwrap();
    let after = namespace.list_ruleset();
    for kept in ["chain KUBE-EXT-A", "chain KUBE-SVC-A", "chain KUBE-SEP-A", "chain KUBE-MARK-MASQ"] {
        assert!(after.contains(kept), "{kept} in {after}");
    }
    for gone in ["chain KUBE-NODEPORTS", "jump KUBE-SERVICES", "chain KUBE-POSTROUTING"] {
        let nat = &after[..after.find("table inet firewall").unwrap()];
        assert!(!nat.contains(gone), "{gone} in {after}");
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn chains_that_drop_what_is_forwarded_are_named_and_no_others() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    assert_eq!(kernel.forward_drops().unwrap(), Vec::<String>::new());
    let chain = |table: &str, name: &str, hook: &str, policy: &str| {
        format!(
            "add table {table}; add chain {table} {name} {{ type filter hook {hook} priority 0; policy {policy}; }}; "
        )
    };
    namespace.nft(
        &[
            chain("inet filter", "forward", "forward", "drop"),
            chain("ip6 filter", "FORWARD", "forward", "drop"),
            chain("ip filter", "FORWARD", "forward", "accept"),
            chain("ip filter", "INPUT", "input", "drop"),
            "add chain inet filter plain".to_owned(),
        ]
        .concat(),
    );
    assert_eq!(kernel.forward_drops().unwrap(), ["inet filter forward", "ip6 filter FORWARD"]);
}

#[test]
#[ignore = "needs a network namespace"]
fn rules_that_drop_what_is_served_or_an_endpoint_are_named_and_no_others() {
    let network = Network::new();
    let endpoints = PODS[0].map(|pod| at(pod, 8080));
    let mut kernel = install(
        &network,
        &[
            service(frontend("192.0.2.1", Protocol::Tcp, 80), Policy::External, &endpoints[..1], &[]),
            service(frontend("2001:db8:1::1", Protocol::Tcp, 80), Policy::External, &endpoints[1..], &[]),
        ]
        .concat(),
    );
    assert_eq!(kernel.drop_rules().unwrap(), DropRules::default());
    let (pod4, pod6) = (PODS[0][0], PODS[0][1]);
    // Each line is a rule; those that end with a star are told.
    let rules = [
        "ct state invalid drop".to_owned(),
        "ip daddr 198.51.100.0/24 drop".to_owned(),
        "ip saddr 203.0.113.9 drop".to_owned(),
        "meta mark 7 ip daddr 192.0.2.1 drop".to_owned(),
        format!("ip daddr {pod4} tcp dport 8080 drop *"),
        format!("iifname eth0 ip saddr {pod4} reject *"),
        format!("ip daddr {{ 198.51.100.7, {pod4} }} counter drop *"),
        format!("ip6 daddr {pod6} drop *"),
        "ip daddr 192.0.2.0-192.0.2.9 drop *".to_owned(),
        "ip saddr @blocked drop *".to_owned(),
        "ip6 daddr 2001:db8:1::/64 jump more".to_owned(),
        "drop *".to_owned(),
    ];
    let mut script = String::from(
        "add table inet firewall; add set inet firewall blocked { type ipv4_addr; flags interval; elements = { 10.244.1.0/24 }; }; \
         add chain inet firewall more; add rule inet firewall more udp dport 53 drop; \
         add chain inet firewall pass { type filter hook forward priority 0; }; ",
    );
    for rule in &rules {
        let rule = rule.trim_end_matches(" *");
        script += &format!("add rule inet firewall pass {rule}; ");
    }
    network.node.nft(&script);
    let listed = network.node.list(&["-a", "list", "table", "inet", "firewall"]);
    let handle_of = |rule: &str| -> u64 {
        let (_, handle) = rule.rsplit_once("# handle ").unwrap();
        handle.trim().parse().unwrap()
    };
    let pass: Vec<u64> =
        listed.split("chain pass").nth(1).unwrap().lines().skip(2).take(rules.len()).map(handle_of).collect();
    let expected: Vec<u64> =
        rules.iter().zip(&pass).filter(|(rule, _)| rule.ends_with('*')).map(|(_, handle)| *handle).collect();
    let told = kernel.drop_rules().unwrap().found;
    let in_pass: Vec<u64> = told.iter().filter(|drop| drop.chain == "pass").map(|drop| drop.handle).collect();
    assert_eq!(in_pass, expected, "{told:#?}\n{listed}");
    assert!(
        told.iter().all(|drop| (drop.handle == *pass.last().unwrap()) == drop.addresses.is_empty()),
        "{told:#?}"
    );
    let more: Vec<_> = told.iter().filter(|drop| drop.chain == "more").collect();
    assert!(
        matches!(more.as_slice(), [drop] if drop.addresses == ["2001:db8:1::1".parse().unwrap()].into()),
        "{told:#?}"
    );
    assert!(
        told.iter().all(|drop| (drop.family, &*drop.table, drop.hook) == ("inet", "firewall", "forward"))
    );
}

/// NodeLocal DNS holds the address of `kube-dns` on the node, and takes packets to it and from it out of tracking.
#[test]
#[ignore = "needs a network namespace"]
fn what_another_serves_untracked_at_a_cluster_ip_on_this_node_is_left_to_it() {
    let network = Network::new();
    let addresses = ["10.96.0.10", "2001:db8:3::a"];
    network.node.ip(&["addr add 10.96.0.10/32 dev lo", "addr add 2001:db8:3::a/128 dev lo nodad"]);
    for (f, address) in addresses.into_iter().enumerate() {
        let _pod = Server::udp(&network.pods[1], "pod", &at(PODS[1][f], 53));
        let _cache = Server::udp(&network.node, "cache", &at(address, 53));
        let _other = Server::tcp(&network.node, "other", &at(address, 22));
        let endpoints = [at(PODS[1][f], 53)];
        install(&network, &service(frontend(address, Protocol::Udp, 53), Policy::Internal, &endpoints, &[]));
        let ask = || udp(&network.pods[0], &at(address, 53), PATIENCE);
        assert_eq!(ask(), Seen::answer("pod", PODS[0][f]));
        let family = ["ip", "ip6"][f];
        network.node.nft(&format!(
            "table {family} cache {{\n\
             chain to {{ type filter hook prerouting priority raw; {family} daddr {address} udp dport 53 notrack; }}\n\
             chain from {{ type filter hook output priority raw; {family} saddr {address} udp sport 53 notrack; }}\n\
             }}"
        ));
        assert_eq!(ask(), Seen::answer("cache", PODS[0][f]));
        // What is tracked meets the guard as before.
        assert_eq!(tcp(&network.pods[0], &at(address, 22), PATIENCE), Seen::Refused);
    }
}
