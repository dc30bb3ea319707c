//! What the rules do with packets: client – node – two pods, in both families, each case as a user would meet it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checked::CheckedKernel;
use crate::net::{
    CLIENT, GATEWAYS, NODE, Namespace, Network, PATIENCE, PODS, SILENCE, Seen, Server, ping, tcp, tcp_here,
    udp,
};
use herald_proxy::netlink::Kernel;
use herald_proxy::ruleset::{MasqueradeMode, Ruleset, RulesetConfig, class_for};
use herald_proxy::{Changes, Element, Frontend, Policy, Protocol, Refusal, Scope};

const CLUSTER_IP: [&str; 2] = ["10.96.0.10", "2001:db8:3::a"];
const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const BOTH: [usize; 2] = [0, 1];

fn ruleset() -> Ruleset {
    let cluster_cidrs = ["10.244.0.0/16", "2001:db8:2::/48"].map(|cidr| cidr.parse().unwrap()).into();
    Ruleset::new(&RulesetConfig { cluster_cidrs, ..RulesetConfig::default() })
}

/// `address:port`, with the brackets of IPv6.
pub(crate) fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

pub(crate) fn frontend(address: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: address.parse().unwrap(), protocol, port }
}

/// The elements of one frontend; its address is a VIP.
pub(crate) fn service(
    frontend: Frontend,
    policy: Policy,
    cluster: &[String],
    local: &[String],
) -> Vec<Element> {
    let mut elements =
        vec![Element::Service { frontend, policy }, Element::Vip { address: frontend.address }];
    for (scope, endpoints) in [(Scope::Cluster, cluster), (Scope::Local, local)] {
        if endpoints.is_empty() {
            continue;
        }
        let class = class_for(endpoints.len());
        elements.push(Element::Pick { frontend, scope, class });
        elements.extend((0..class).zip(endpoints.iter().cycle()).map(|(slot, endpoint)| Element::Endpoint {
            frontend,
            scope,
            slot,
            endpoint: endpoint.parse().unwrap(),
        }));
    }
    elements
}

pub(crate) fn install(network: &Network, elements: &[Element]) -> CheckedKernel {
    let mut kernel = network.node.kernel();
    kernel.replace(&ruleset(), elements).unwrap();
    kernel
}

/// Puts a VIP on the node's `lo`, as the speaker does where local addresses are configured.
fn hold_vip(network: &Network) {
    network.node.ip(&["addr add 192.0.2.1/32 dev lo", "addr add 2001:db8:1::1/128 dev lo nodad"]);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_pod_reaches_a_cluster_ip_with_its_own_address_and_others_are_masqueraded() {
    let network = Network::new();
    for f in BOTH {
        let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        let http = frontend(CLUSTER_IP[f], Protocol::Tcp, 80);
        install(&network, &service(http, Policy::Internal, &[at(PODS[1][f], 8080)], &[]));
        let to = at(CLUSTER_IP[f], 80);
        assert_eq!(tcp(&network.pods[0], &to, PATIENCE), Seen::answer("pod1", PODS[0][f]));
        assert_eq!(tcp(&network.client, &to, PATIENCE), Seen::answer("pod1", GATEWAYS[1][f]));
        assert_eq!(tcp(&network.node, &to, PATIENCE), Seen::answer("pod1", GATEWAYS[1][f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_local_internal_policy_uses_the_local_endpoints_only() {
    let network = Network::new();
    for f in BOTH {
        let _servers =
            [0, 1].map(|p| Server::tcp(&network.pods[p], ["pod0", "pod1"][p], &at(PODS[p][f], 8080)));
        let http = frontend(CLUSTER_IP[f], Protocol::Tcp, 80);
        let (all, local) = ([at(PODS[0][f], 8080)], [at(PODS[1][f], 8080)]);
        install(&network, &service(http, Policy::InternalLocal, &all, &local));
        for _ in 0..5 {
            let seen = tcp(&network.pods[0], &at(CLUSTER_IP[f], 80), PATIENCE);
            assert_eq!(seen, Seen::answer("pod1", PODS[0][f]));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn an_external_policy_cluster_masquerades_everyone() {
    let network = Network::new();
    for f in BOTH {
        let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        install(&network, &service(http, Policy::External, &[at(PODS[1][f], 8080)], &[]));
        for from in [&network.client, &network.pods[0], &network.node] {
            assert_eq!(tcp(from, &at(VIP[f], 80), PATIENCE), Seen::answer("pod1", GATEWAYS[1][f]));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn with_masquerade_remote_an_endpoint_of_this_node_sees_the_client_and_reaches_itself_still() {
    let network = Network::new();
    let cluster_cidrs = ["10.244.0.0/16", "2001:db8:2::/48"].map(|cidr| cidr.parse().unwrap()).into();
    let remote =
        RulesetConfig { cluster_cidrs, masquerade: MasqueradeMode::Remote, ..RulesetConfig::default() };
    for f in BOTH {
        let endpoint = at(PODS[1][f], 8080);
        let _server = Server::tcp(&network.pods[1], "pod1", &endpoint);
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        let mut elements = service(http, Policy::External, std::slice::from_ref(&endpoint), &[]);
        let mut kernel = network.node.kernel();
        kernel.replace(&Ruleset::new(&remote), &elements).unwrap();
        let seen = |from| tcp(from, &at(VIP[f], 80), PATIENCE);
        let all = [&network.client, &network.pods[0], &network.node];
        assert_eq!(all.map(seen), [0; 3].map(|_| Seen::answer("pod1", GATEWAYS[1][f])), "as on another node");
        // Local endpoints are those that may reach themselves.
        elements.push(Element::Hairpin { endpoint: endpoint.parse().unwrap(), protocol: Protocol::Tcp });
        kernel.replace(&Ruleset::new(&remote), &elements).unwrap();
        let own = [CLIENT[f], PODS[0][f], NODE[f]].map(|source| Seen::answer("pod1", source));
        assert_eq!(all.map(seen), own);
        assert_eq!(seen(&network.pods[1]), Seen::answer("pod1", GATEWAYS[1][f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn an_external_policy_local_keeps_the_clients_address_and_pods_and_the_node_are_served_cluster_wide() {
    let network = Network::new();
    hold_vip(&network);
    for f in BOTH {
        let _servers =
            [0, 1].map(|p| Server::tcp(&network.pods[p], ["pod0", "pod1"][p], &at(PODS[p][f], 8080)));
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        let (all, local) = ([at(PODS[0][f], 8080)], [at(PODS[1][f], 8080)]);
        install(&network, &service(http, Policy::ExternalLocal, &all, &local));
        let to = at(VIP[f], 80);
        assert_eq!(tcp(&network.client, &to, PATIENCE), Seen::answer("pod1", CLIENT[f]));
        assert_eq!(tcp(&network.pods[1], &to, PATIENCE), Seen::answer("pod0", PODS[1][f]));
        assert_eq!(tcp(&network.node, &to, PATIENCE), Seen::answer("pod0", GATEWAYS[0][f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn an_endpoint_reaches_itself_through_its_service() {
    let network = Network::new();
    for f in BOTH {
        let endpoint = at(PODS[0][f], 8080);
        let _server = Server::tcp(&network.pods[0], "pod0", &endpoint);
        let http = frontend(CLUSTER_IP[f], Protocol::Tcp, 80);
        let cluster = std::slice::from_ref(&endpoint);
        let mut kernel = install(&network, &service(http, Policy::Internal, cluster, &[]));
        assert_eq!(tcp(&network.pods[0], &at(CLUSTER_IP[f], 80), SILENCE), Seen::Silence);
        let hairpin = Element::Hairpin { endpoint: endpoint.parse().unwrap(), protocol: Protocol::Tcp };
        kernel.apply(&Changes { remove: vec![], add: vec![hairpin] }).unwrap();
        let seen = tcp(&network.pods[0], &at(CLUSTER_IP[f], 80), PATIENCE);
        assert_eq!(seen, Seen::answer("pod0", GATEWAYS[0][f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn only_listed_sources_reach_a_restricted_frontend_and_a_change_takes_effect_at_once() {
    let network = Network::new();
    hold_vip(&network);
    for f in BOTH {
        let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        let _udp = Server::udp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let frontend = frontend(VIP[f], protocol, 80);
            let source = |prefix: &str| Element::Source { frontend, prefix: prefix.parse().unwrap() };
            let ask = |from| {
                let ask = if protocol == Protocol::Tcp { tcp } else { udp };
                matches!(ask(from, &at(VIP[f], 80), SILENCE), Seen::Answer(_))
            };
            let asked = || [&network.client, &network.pods[0], &network.node].map(ask);
            let mut kernel =
                install(&network, &service(frontend, Policy::External, &[at(PODS[1][f], 8080)], &[]));
            assert_eq!(asked(), [true, true, true]);
            let mut change = |remove: &[Element], add: &[Element]| {
                kernel.apply(&Changes { remove: remove.to_vec(), add: add.to_vec() }).unwrap();
            };
            change(&[], &[Element::Restricted { frontend }]);
            assert_eq!(asked(), [false, false, false]);
            // The node comes from the VIP, which is its own address.
            let [client, wide, pods, own] = [
                source(["203.0.113.2/32", "2001:db8:cb::2/128"][f]),
                source(["203.0.0.0/16", "2001:db8:cb::/48"][f]),
                source(["10.244.1.0/24", "2001:db8:2:1::/64"][f]),
                source(["192.0.2.1/32", "2001:db8:1::1/128"][f]),
            ];
            change(&[], &[client, own]);
            assert_eq!(asked(), [true, false, true]);
            // A wider range in place of one inside it, in one transaction.
            change(&[client, own], &[wide, pods]);
            assert_eq!(asked(), [true, true, false]);
            change(&[wide, pods], &[source(["0.0.0.0/0", "::/0"][f])]);
            assert_eq!(asked(), [true, true, true]);
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn datagrams_are_translated_there_and_back() {
    let network = Network::new();
    for f in BOTH {
        let _server = Server::udp(&network.pods[1], "pod1", &at(PODS[1][f], 5353));
        let dns = frontend(VIP[f], Protocol::Udp, 53);
        install(&network, &service(dns, Policy::ExternalLocal, &[], &[at(PODS[1][f], 5353)]));
        assert_eq!(udp(&network.client, &at(VIP[f], 53), PATIENCE), Seen::answer("pod1", CLIENT[f]));
        // The same port of another protocol is another frontend.
        assert_eq!(tcp(&network.client, &at(VIP[f], 53), PATIENCE), Seen::Refused);
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_node_port_is_a_frontend_and_the_nodes_other_ports_stay_its_own() {
    let network = Network::new();
    for f in BOTH {
        let _pod = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        let _ssh = Server::tcp(&network.node, "node", &at(["0.0.0.0", "::"][f], 22));
        let node_port = frontend(NODE[f], Protocol::Tcp, 30080);
        let mut elements = service(node_port, Policy::External, &[at(PODS[1][f], 8080)], &[]);
        elements.retain(|element| !matches!(element, Element::Vip { .. }));
        let refused = |port| frontend(NODE[f], Protocol::Tcp, port);
        elements.extend([
            Element::Refused { frontend: refused(30081), refusal: Refusal::Reject },
            Element::Refused { frontend: refused(30082), refusal: Refusal::Drop },
        ]);
        install(&network, &elements);
        let to = |port| at(NODE[f], port);
        assert_eq!(tcp(&network.client, &to(30080), PATIENCE), Seen::answer("pod1", GATEWAYS[1][f]));
        assert_eq!(tcp(&network.client, &to(22), PATIENCE), Seen::answer("node", CLIENT[f]));
        assert_eq!(tcp(&network.node, &to(22), PATIENCE), Seen::answer("node", NODE[f]));
        let _listeners = [30081, 30082].map(|port| Server::tcp(&network.node, "node", &to(port)));
        assert_eq!(tcp(&network.client, &to(30081), PATIENCE), Seen::Refused);
        assert_eq!(tcp(&network.client, &to(30082), SILENCE), Seen::Silence);
        assert!(ping(&network.client, NODE[f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_frontend_without_endpoints_rejects_or_drops_at_once() {
    let network = Network::new();
    for f in BOTH {
        let [rejects, drops] = [80, 81].map(|port| frontend(VIP[f], Protocol::Tcp, port));
        let mut elements = service(drops, Policy::ExternalLocal, &[at(PODS[0][f], 8080)], &[]);
        elements.extend([
            Element::Refused { frontend: rejects, refusal: Refusal::Reject },
            Element::Refused { frontend: drops, refusal: Refusal::Drop },
        ]);
        install(&network, &elements);
        let _server = Server::tcp(&network.pods[0], "pod0", &at(PODS[0][f], 8080));
        for held in [false, true] {
            if held && f == 0 {
                hold_vip(&network);
            }
            for from in [&network.client, &network.pods[1], &network.node] {
                assert_eq!(tcp(from, &at(VIP[f], 80), PATIENCE), Seen::Refused);
            }
            assert_eq!(tcp(&network.client, &at(VIP[f], 81), SILENCE), Seen::Silence);
            // Pods and the node take the short circuit.
            assert_eq!(tcp(&network.pods[1], &at(VIP[f], 81), PATIENCE), Seen::answer("pod0", PODS[1][f]));
            assert_eq!(tcp(&network.node, &at(VIP[f], 81), PATIENCE), Seen::answer("pod0", GATEWAYS[0][f]));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_vip_on_lo_exposes_no_listener_of_the_node_but_answers_ping() {
    let network = Network::new();
    hold_vip(&network);
    for f in BOTH {
        let any = ["0.0.0.0", "::"][f];
        let _tcp = Server::tcp(&network.node, "node", &at(any, 22));
        let _udp = Server::udp(&network.node, "node", &at(any, 68));
        let _vip = Server::tcp(&network.node, "node", &at(VIP[f], 30080));
        for from in [&network.client, &network.pods[0], &network.node] {
            // As it is without the rule.
            install(&network, &[]);
            assert!(matches!(tcp(from, &at(VIP[f], 22), PATIENCE), Seen::Answer(_)));
            install(&network, &[Element::Vip { address: VIP[f].parse().unwrap() }]);
            assert_eq!(tcp(from, &at(VIP[f], 22), PATIENCE), Seen::Refused);
            assert_eq!(tcp(from, &at(VIP[f], 30080), PATIENCE), Seen::Refused);
            assert_eq!(udp(from, &at(VIP[f], 68), PATIENCE), Seen::Refused);
            assert!(ping(from, VIP[f]));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_that_the_node_opens_from_a_vip_gets_its_answers() {
    let network = Network::new();
    hold_vip(&network);
    for f in BOTH {
        install(&network, &[Element::Vip { address: VIP[f].parse().unwrap() }]);
        let _server = Server::tcp(&network.client, "client", &at(CLIENT[f], 80));
        let (to, from): (SocketAddr, SocketAddr) =
            (at(CLIENT[f], 80).parse().unwrap(), at(VIP[f], 0).parse().unwrap());
        let answer = network.node.run(move || {
            use std::io::Read;
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(to),
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            )
            .unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            (&socket).read_to_string(&mut answer).unwrap();
            answer
        });
        assert_eq!(Seen::Answer(answer), Seen::answer("client", VIP[f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_vip_that_is_not_held_is_never_routed_on() {
    let network = Network::new();
    // The way back to where the packet came from would be a loop; here it would reach a listener.
    network.pods[0].ip(&["addr add 192.0.2.1/32 dev lo", "addr add 2001:db8:1::1/128 dev lo nodad"]);
    let via = [PODS[0][0], PODS[0][1]];
    network.node.ip(&[
        &format!("route add 192.0.2.0/24 via {}", via[0]),
        &format!("route add 2001:db8:1::/64 via {}", via[1]),
    ]);
    for f in BOTH {
        let _server = Server::tcp(&network.pods[0], "pod0", &at(VIP[f], 80));
        let to = at(VIP[f], 80);
        install(&network, &[]);
        assert!(matches!(tcp(&network.client, &to, PATIENCE), Seen::Answer(_)));
        assert!(ping(&network.client, VIP[f]));
        install(&network, &[Element::Vip { address: VIP[f].parse().unwrap() }]);
        for from in [&network.client, &network.node] {
            assert_eq!(tcp(from, &to, PATIENCE), Seen::Refused);
            assert!(!ping(from, VIP[f]));
        }
        // An announced prefix is silent about what is not a VIP, and only on the way through.
        let prefix = ["192.0.2.0/25", "2001:db8:1::/96"][f].parse().unwrap();
        install(&network, &[Element::Announced { prefix }]);
        assert_eq!(tcp(&network.client, &to, SILENCE), Seen::Silence);
        assert!(!ping(&network.client, VIP[f]));
        assert!(matches!(tcp(&network.node, &to, PATIENCE), Seen::Answer(_)));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_cluster_ip_that_no_service_has_is_dropped_and_one_that_a_service_has_is_not() {
    let network = Network::new();
    network.pods[0].ip(&["addr add 10.96.0.99/32 dev lo", "addr add 2001:db8:3::99/128 dev lo nodad"]);
    let via = [PODS[0][0], PODS[0][1]];
    network.node.ip(&[
        &format!("route add 10.96.0.0/12 via {}", via[0]),
        &format!("route add 2001:db8:3::/112 via {}", via[1]),
    ]);
    for f in BOTH {
        let unallocated = ["10.96.0.99", "2001:db8:3::99"][f];
        let _server = Server::tcp(&network.pods[0], "pod0", &at(unallocated, 80));
        let _pod = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], 8080));
        let web = frontend(CLUSTER_IP[f], Protocol::Tcp, 80);
        let mut elements = service(web, Policy::Internal, &[at(PODS[1][f], 8080)], &[]);
        install(&network, &elements);
        let to = at(unallocated, 80);
        assert!(
            matches!(tcp(&network.node, &to, PATIENCE), Seen::Answer(_)),
            "without the set it is routed on"
        );
        elements
            .push(Element::ServiceCidr { prefix: ["10.96.0.0/12", "2001:db8:3::/112"][f].parse().unwrap() });
        install(&network, &elements);
        for from in [&network.node, &network.pods[1]] {
            assert_eq!(tcp(from, &to, SILENCE), Seen::Silence);
            assert!(!ping(from, unallocated));
        }
        assert!(matches!(tcp(&network.node, &at(CLUSTER_IP[f], 80), PATIENCE), Seen::Answer(_)));
        assert_eq!(tcp(&network.node, &at(CLUSTER_IP[f], 81), PATIENCE), Seen::Refused, "an undefined port");
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn new_connections_spread_evenly_over_the_endpoints() {
    let network = Network::new();
    let more = [8080, 8081, 8082];
    for (f, endpoints) in [(0, 3), (1, 3), (0, 65)] {
        let servers = more.map(|port| Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], port)));
        let ports = more.iter().copied().cycle().take(endpoints);
        let endpoints: Vec<String> = ports.map(|port| at(PODS[1][f], port)).collect();
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        install(&network, &service(http, Policy::ExternalLocal, &[], &endpoints));
        let to: SocketAddr = at(VIP[f], 80).parse().unwrap();
        let total: usize = 600;
        // Which endpoint took a connection shows in conntrack only; so close servers one by one and see who is refused.
        drop(servers);
        let mut counts = BTreeMap::new();
        for port in more {
            let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][f], port));
            let answered = network.client.run(move || {
                (0..total).filter(|_| matches!(tcp_here(to, PATIENCE), Seen::Answer(_))).count()
            });
            counts.insert(port, answered);
        }
        let expected = total as f64 / 3.0;
        // Each count is binomial: 600 draws of 1/3, standard deviation 11.5; five of them leave one run in a million.
        for (port, count) in &counts {
            assert!((*count as f64 - expected).abs() < 60.0, "{port}: {counts:?}");
        }
        let sum: usize = counts.values().sum();
        assert!(sum.abs_diff(total) < 100, "{counts:?}");
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn replacing_the_tables_loses_no_connection() {
    let network = Network::new();
    let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][0], 8080));
    let http = frontend(VIP[0], Protocol::Tcp, 80);
    let elements = service(http, Policy::External, &[at(PODS[1][0], 8080)], &[]);
    let mut kernel = install(&network, &elements);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let to: SocketAddr = at(VIP[0], 80).parse().unwrap();
    let clients = network.client.spawn(move || {
        let mut seen = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            seen.push(tcp_here(to, PATIENCE));
        }
        seen
    });
    // A connection of before goes on, too.
    let long = {
        let to = at(VIP[0], 80);
        network.client.run(move || std::net::TcpStream::connect(to).unwrap())
    };
    for _ in 0..100 {
        kernel.replace(&ruleset(), &elements).unwrap();
    }
    drop(kernel);
    let mut restarted = network.node.kernel();
    assert!(restarted.exists().unwrap());
    restarted.replace(&ruleset(), &elements).unwrap();
    stop.store(true, Ordering::Relaxed);
    let seen = clients.join().unwrap();
    assert!(seen.len() > 100, "{}", seen.len());
    let expected = Seen::answer("pod1", GATEWAYS[1][0]);
    let lost: Vec<(usize, &Seen)> = seen.iter().enumerate().filter(|(_, seen)| **seen != expected).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", seen.len());
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut { long }, &mut answer).unwrap();
    assert_eq!(Seen::Answer(answer), expected);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_missing_slot_is_taken_by_the_first() {
    let network = Network::new();
    for f in BOTH {
        let endpoint = at(PODS[1][f], 8080);
        let _server = Server::tcp(&network.pods[1], "pod1", &endpoint);
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        let mut elements = service(http, Policy::External, &vec![endpoint; 16], &[]);
        elements.retain(|element| !matches!(element, Element::Endpoint { slot: 1.., .. }));
        install(&network, &elements);
        for _ in 0..20 {
            assert_eq!(tcp(&network.client, &at(VIP[f], 80), PATIENCE), Seen::answer("pod1", GATEWAYS[1][f]));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn changing_the_number_of_endpoints_loses_no_connection() {
    let network = Network::new();
    let ports = [8080, 8081, 8082];
    let _servers = ports.map(|port| Server::tcp(&network.pods[1], "pod1", &at(PODS[1][0], port)));
    let endpoints = ports.map(|port| at(PODS[1][0], port));
    let http = frontend(VIP[0], Protocol::Tcp, 80);
    let with = |count: usize| -> BTreeSet<Element> {
        service(http, Policy::ExternalLocal, &[], &endpoints[..count]).into_iter().collect()
    };
    let mut kernel = install(&network, &with(1).into_iter().collect::<Vec<_>>());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let to: SocketAddr = at(VIP[0], 80).parse().unwrap();
    let clients = network.client.spawn(move || {
        let mut seen = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            seen.push(tcp_here(to, PATIENCE));
        }
        seen
    });
    for (from, to) in [(1, 3), (3, 2), (2, 3), (3, 1)].into_iter().cycle().take(20_000) {
        let (from, to) = (with(from), with(to));
        let remove = from.difference(&to).copied().collect();
        let add = to.difference(&from).copied().collect();
        // Without a dump each time.
        Kernel::apply(&mut kernel, &Changes { remove, add }).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let seen = clients.join().unwrap();
    assert!(seen.len() > 100, "{}", seen.len());
    let expected = Seen::answer("pod1", CLIENT[0]);
    let lost: Vec<(usize, &Seen)> = seen.iter().enumerate().filter(|(_, seen)| **seen != expected).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", seen.len());
}

/// A pod's interface without an address on the node's side, as some network plugins have it: masquerading takes an
/// address of another interface, and looks at `lo` first.
#[test]
#[ignore = "needs a network namespace"]
fn a_vip_on_lo_is_no_source_of_masqueraded_connections_when_its_scope_is_host() {
    let network = Network::new();
    network.node.sysctl("ipv4/conf/pod1/proxy_arp", "1");
    network.node.ip(&["addr del 10.244.2.1/24 dev pod1", "route add 10.244.2.2/32 dev pod1"]);
    let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][0], 8080));
    let http = frontend(VIP[0], Protocol::Tcp, 80);
    install(&network, &service(http, Policy::External, &[at(PODS[1][0], 8080)], &[]));
    for (scope, source) in [("global", VIP[0]), ("host", NODE[0])] {
        network.node.ip(&[&format!("addr add 192.0.2.1/32 dev lo scope {scope}")]);
        assert_eq!(tcp(&network.client, &at(VIP[0], 80), PATIENCE), Seen::answer("pod1", source));
        assert!(ping(&network.client, VIP[0]));
        network.node.ip(&["addr del 192.0.2.1/32 dev lo"]);
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn the_scratch_number_does_not_leave_the_node() {
    let network = Network::new();
    let _server = Server::tcp(&network.pods[1], "pod1", &at(PODS[1][0], 8080));
    let http = frontend(VIP[0], Protocol::Tcp, 80);
    install(&network, &service(http, Policy::External, &[at(PODS[1][0], 8080)], &[]));
    let priority_counter = |namespace: &Namespace| {
        namespace.nft(
            "table ip test { chain post { type filter hook postrouting priority 300; \
             meta priority != none counter accept; meta mark != 0 counter accept; }; }",
        );
    };
    priority_counter(&network.node);
    assert!(matches!(tcp(&network.node, &at(VIP[0], 80), PATIENCE), Seen::Answer(_)));
    assert!(matches!(tcp(&network.client, &at(VIP[0], 80), PATIENCE), Seen::Answer(_)));
    let listing = network.node.list_ruleset();
    let counted: Vec<&str> = listing.lines().filter(|line| line.contains("counter packets")).collect();
    assert_eq!(counted.len(), 2);
    assert!(counted.iter().all(|line| line.contains("packets 0 ")), "{counted:?}");
}
