use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::element::Protocol;
use crate::testing::{endpoints, ip, node, slice, socket, tcp, view};

const CLUSTER_IP: &str = "10.96.0.10";
const NODE: &str = "10.0.0.2";
const VIP: &str = "192.0.2.1";
const EXTERNAL: &str = "192.0.2.9";

/// A LoadBalancer Service with every kind of frontend.
fn all_kinds(extra: Value) -> ServiceView {
    let mut spec = json!({
        "type": "LoadBalancer", "clusterIP": CLUSTER_IP, "externalIPs": [EXTERNAL],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    view(spec, &[VIP])
}

fn on(nodes: &[&str]) -> EndpointSlice {
    let each = nodes.iter().enumerate();
    let endpoints: Vec<Value> = each
        .map(|(i, node)| json!({"addresses": [format!("10.244.1.{}", i + 2)], "nodeName": node}))
        .collect();
    slice("IPv4", Value::Array(endpoints))
}

fn at(rules: &ServiceRules, frontend: Frontend) -> &FrontendRules {
    rules.frontends.iter().find(|rules| rules.frontend == frontend).unwrap()
}

fn frontends() -> [Frontend; 4] {
    [tcp(CLUSTER_IP, 80), tcp(NODE, 30080), tcp(VIP, 80), tcp(EXTERNAL, 80)]
}

// Facts 1.13.

#[test]
fn with_affinity_drawn_slots_lead_to_numbers_that_endpoints_keep() {
    let all = all_kinds(json!({"sessionAffinity": "ClientIP"}));
    let elements = |nodes: &[&str]| {
        let rules = rules(&all, &endpoints(&[on(nodes)]), &node());
        at(&rules, tcp(VIP, 80)).elements()
    };
    let (two, three) = (elements(&["a", "b"]), elements(&["a", "b", "b"]));
    let frontend = tcp(VIP, 80);
    let scope = Scope::Cluster;
    assert!(two.contains(&Element::Affinity { frontend, scope, timeout: 10_800 }));
    assert!(two.contains(&Element::AffinePick { frontend, scope, class: 2 }));
    assert!(!two.iter().any(|e| matches!(e, Element::Pick { .. } | Element::Endpoint { .. })));
    let stable = |elements: &[Element]| -> BTreeSet<Element> {
        elements.iter().copied().filter(|e| matches!(e, Element::StableEndpoint { .. })).collect()
    };
    assert_eq!((stable(&two).len(), stable(&three).len()), (2, 3));
    assert!(stable(&two).is_subset(&stable(&three)));
    let slots = |elements: &[Element]| elements.iter().filter(|e| matches!(e, Element::Slot { .. })).count();
    assert_eq!((slots(&two), slots(&three)), (2, 3));
}

// Facts 1.10.

fn sources_of(ranges: &[&str], vips: &[&str], node: &NodeView) -> Vec<(Frontend, Option<Vec<String>>)> {
    let service = crate::testing::service(
        json!({
            "type": "LoadBalancer", "clusterIPs": [CLUSTER_IP, "2001:db8:3::a"], "externalIPs": [EXTERNAL],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}], "loadBalancerSourceRanges": ranges,
        }),
        vips,
    );
    let rules = rules(&crate::testing::read(&service).0, &endpoints(&[on(&["a"])]), node);
    let texts = |sources: &Arc<[IpNet]>| sources.iter().map(ToString::to_string).collect();
    let restricted = rules.frontends.iter().filter(|rules| rules.sources.is_some());
    restricted.map(|rules| (rules.frontend, rules.sources.as_ref().map(texts))).collect()
}

#[test]
fn source_ranges_restrict_load_balancer_addresses_and_nothing_else() {
    let ranges = ["203.0.113.0/24", "2001:db8:c::/64"];
    let v6 = tcp("2001:db8:1::1", 80);
    let found = sources_of(&ranges, &[VIP, "2001:db8:1::1"], &node());
    let one = |range: &str| Some(vec![range.to_owned()]);
    assert_eq!(found, [(tcp(VIP, 80), one("203.0.113.0/24")), (v6, one("2001:db8:c::/64"))]);
}

#[test]
fn a_node_that_may_come_may_come_from_the_address_as_well() {
    let found = sources_of(&["10.0.0.0/24"], &[VIP], &node());
    let both = ["10.0.0.0/24", "192.0.2.1/32"].map(str::to_owned).to_vec();
    assert_eq!(found, [(tcp(VIP, 80), Some(both))]);
    let all = sources_of(&["0.0.0.0/0"], &[VIP], &node());
    assert_eq!(all, [(tcp(VIP, 80), Some(vec!["0.0.0.0/0".to_owned()]))]);
}

#[test]
fn ranges_of_the_other_family_close_an_address_unless_the_switch_opens_it() {
    let v6 = tcp("2001:db8:1::1", 80);
    let closed = sources_of(&["203.0.113.0/24"], &["2001:db8:1::1"], &node());
    assert_eq!(closed, [(v6, Some(vec![]))]);
    let open = NodeView { other_family_sources: OtherFamilySources::Allow, ..node() };
    assert_eq!(sources_of(&["203.0.113.0/24"], &["2001:db8:1::1"], &open), []);
    assert_eq!(
        sources_of(&["nonsense"], &["2001:db8:1::1"], &open),
        [(v6, Some(vec![]))],
        "nonsense opens nothing"
    );
}

// Facts 1.5, 1.8.

#[test]
fn every_way_in_is_a_frontend_with_its_policy() {
    let rules = rules(&all_kinds(json!({})), &endpoints(&[on(&["a", "b"])]), &node());
    let found: Vec<_> = rules.frontends.iter().map(|r| (r.frontend, r.kind, r.policy, r.vip)).collect();
    let wanted = [
        (tcp(NODE, 30080), FrontendKind::NodePort, Policy::External, false),
        (tcp(CLUSTER_IP, 80), FrontendKind::ClusterIp, Policy::Internal, true),
        (tcp(VIP, 80), FrontendKind::LoadBalancer, Policy::External, true),
        (tcp(EXTERNAL, 80), FrontendKind::ExternalIp, Policy::External, true),
    ];
    assert_eq!(found, wanted);
    assert_eq!(*at(&rules, tcp(VIP, 80)).backends.port, *"http");
}

#[test]
fn a_tcp_node_port_on_localhost_has_the_endpoints_of_the_nodes_own_traffic() {
    let on_nodes = endpoints(&[on(&["a", "b"])]);
    let all: Box<[SocketAddr]> = ["10.244.1.2:8080", "10.244.1.3:8080"].map(socket).into();
    for policy in ["Cluster", "Local"] {
        let service = all_kinds(json!({"externalTrafficPolicy": policy}));
        let rules = rules(&service, &on_nodes, &node());
        let [(address, backends)] = &*rules.local_ports else { panic!("{:?}", rules.local_ports) };
        assert_eq!((*address, &backends.cluster), (socket("127.0.0.1:30080"), &all), "{policy}");
    }
    let udp = json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "UDP"}]});
    assert!(rules(&all_kinds(udp), &on_nodes, &node()).local_ports.is_empty());
    let off = NodeView { localhost: Vec::new(), ..node() };
    assert!(rules(&all_kinds(json!({})), &on_nodes, &off).local_ports.is_empty());
}

#[test]
fn the_elements_of_a_frontend_are_complete_and_lead_to_nothing_that_comes_later() {
    let rules = rules(&all_kinds(json!({})), &endpoints(&[on(&["a", "b"])]), &node());
    let frontend = tcp(VIP, 80);
    let (scope, protocol) = (Scope::Cluster, Protocol::Tcp);
    let (first, second) = (socket("10.244.1.2:8080"), socket("10.244.1.3:8080"));
    let wanted = [
        Element::Endpoint { frontend, scope, slot: 0, endpoint: first },
        Element::Endpoint { frontend, scope, slot: 1, endpoint: second },
        Element::Pick { frontend, scope, class: 2 },
        Element::Counted { frontend },
        Element::Service { frontend, policy: Policy::External },
        Element::Hairpin { endpoint: first, protocol },
        Element::Vip { address: ip(VIP) },
    ];
    assert_eq!(at(&rules, frontend).elements(), wanted);
    let all = rules.elements();
    let hairpins = all.iter().filter(|element| matches!(element, Element::Hairpin { .. })).count();
    assert_eq!(hairpins, 1, "shared by four frontends");
    assert_eq!(all.len(), 4 * 5 + 1 + 3, "one hairpin, three vips and no vip for the node's address");
}

// Facts 1.9.

#[test]
fn without_any_endpoint_every_frontend_rejects() {
    for policies in [json!({}), json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"})] {
        let rules = rules(&all_kinds(policies), &EndpointsView::default(), &node());
        for frontend in frontends() {
            let at = at(&rules, frontend);
            let mut wanted =
                vec![Element::Counted { frontend }, Element::Refused { frontend, refusal: Refusal::Reject }];
            wanted.extend(at.vip.then_some(Element::Vip { address: frontend.address }));
            assert_eq!(at.elements(), wanted);
            assert!(!at.serves_clients());
        }
    }
}

#[test]
fn policy_local_without_a_local_endpoint_drops_and_keeps_the_short_circuit() {
    let local = all_kinds(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}));
    let rules = rules(&local, &endpoints(&[on(&["b"])]), &node());
    let cluster_ip = at(&rules, tcp(CLUSTER_IP, 80));
    assert_eq!(cluster_ip.policy, Policy::InternalLocal);
    let refused = |frontend| Element::Refused { frontend, refusal: Refusal::Drop };
    let counted = Element::Counted { frontend: tcp(CLUSTER_IP, 80) };
    let cluster_ip_wanted = [counted, refused(tcp(CLUSTER_IP, 80)), Element::Vip { address: ip(CLUSTER_IP) }];
    assert_eq!(cluster_ip.elements(), cluster_ip_wanted);
    for frontend in &frontends()[1..] {
        let (frontend, scope) = (*frontend, Scope::Cluster);
        let at = at(&rules, frontend);
        let endpoint = socket("10.244.1.2:8080");
        let wanted = [
            Element::Endpoint { frontend, scope, slot: 0, endpoint },
            Element::Pick { frontend, scope, class: 1 },
            Element::Counted { frontend },
            Element::Service { frontend, policy: Policy::ExternalLocal },
            refused(frontend),
        ];
        assert_eq!(at.elements()[..5], wanted);
        assert!(!at.serves_clients() && !at.backends.local_ready);
    }
}

#[test]
fn policy_local_with_a_local_endpoint_has_both_tables() {
    let local = all_kinds(json!({"externalTrafficPolicy": "Local"}));
    let rules = rules(&local, &endpoints(&[on(&["a", "b"])]), &node());
    let vip = at(&rules, tcp(VIP, 80));
    assert_eq!(vip.cluster().len(), 2);
    assert_eq!(vip.local(), [socket("10.244.1.2:8080")]);
    assert_eq!(vip.refusal(), None);
    assert!(vip.serves_clients() && vip.backends.local_ready);
    assert_eq!(at(&rules, tcp(CLUSTER_IP, 80)).local(), [], "the internal policy is Cluster");
}

#[test]
fn a_terminating_local_endpoint_serves_but_is_not_ready() {
    let ending = slice(
        "IPv4",
        json!([{"addresses": ["10.244.1.9"], "nodeName": "a",
                "conditions": {"ready": false, "serving": true, "terminating": true}}]),
    );
    let local = all_kinds(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}));
    let rules = rules(&local, &endpoints(&[ending, on(&["b"])]), &node());
    let vip = at(&rules, tcp(VIP, 80));
    assert!(vip.serves_clients() && !vip.backends.local_ready);
    assert_eq!(vip.local(), [socket("10.244.1.9:8080")]);
    assert_eq!(vip.cluster(), [socket("10.244.1.2:8080")], "the short circuit uses the ready one");
    assert_eq!(*vip.backends.hairpin, [socket("10.244.1.9:8080")]);
    assert_eq!(rules.health, Some(HealthCheck { port: 32000, local_endpoints: 0 }));
}

// Modes.

#[test]
fn external_mode_serves_external_and_load_balancer_addresses_only() {
    let service = all_kinds(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}));
    let beside = NodeView { mode: ProxyMode::External, ..node() };
    let endpoints = endpoints(&[on(&["a"])]);
    let found = rules(&service, &endpoints, &beside);
    let keys: Vec<_> = found.frontends.iter().map(|rules| rules.frontend).collect();
    assert_eq!(keys, [tcp(VIP, 80), tcp(EXTERNAL, 80)]);
    assert_eq!(found.health, None);
    let full = rules(&service, &endpoints, &node());
    assert_eq!(full.health, Some(HealthCheck { port: 32000, local_endpoints: 1 }));
}

#[test]
fn families_do_not_mix() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIPs": [CLUSTER_IP, "2001:db8:3::a"], "clusterIP": CLUSTER_IP,
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    let service = view(spec, &[VIP, "2001:db8:1::1"]);
    let v6 = slice("IPv6", json!([{"addresses": ["2001:db8:2::2"], "nodeName": "b"}]));
    let found = rules(&service, &endpoints(&[v6]), &node());
    for rules in &found.frontends {
        match rules.frontend.address {
            IpAddr::V4(_) => assert_eq!(rules.refusal(), Some(Refusal::Reject)),
            IpAddr::V6(_) => assert_eq!(rules.cluster(), [socket("[2001:db8:2::2]:8080")]),
        }
    }
    assert_eq!(found.frontends.len(), 6);
    let single = all_kinds(json!({"externalIPs": ["2001:db8:1::9"]}));
    let found = rules(&single, &EndpointsView::default(), &node());
    assert!(found.frontends.iter().all(|rules| rules.frontend.address.is_ipv4()), "no clusterIP, no family");
}

#[test]
fn an_address_that_is_a_nodes_is_served_and_never_a_vip() {
    // Some load balancers give the address of a node, this one's or another's.
    for address in [NODE, "10.0.0.3"] {
        let spec =
            json!({"type": "LoadBalancer", "clusterIP": CLUSTER_IP, "ports": [{"name": "http", "port": 80}]});
        let rules = rules(&view(spec, &[address]), &endpoints(&[on(&["a"])]), &node());
        let at = at(&rules, tcp(address, 80));
        assert!(at.serves_clients());
        assert!(!at.elements().contains(&Element::Vip { address: ip(address) }));
    }
}

#[test]
fn a_key_that_a_service_has_twice_has_one_set_of_rules() {
    let both = all_kinds(json!({"externalIPs": [VIP, CLUSTER_IP]}));
    let rules = rules(&both, &endpoints(&[on(&["a"])]), &node());
    let found: Vec<_> = rules.frontends.iter().map(|r| (r.frontend, r.kind)).collect();
    let wanted = [
        (tcp(NODE, 30080), FrontendKind::NodePort),
        (tcp(CLUSTER_IP, 80), FrontendKind::ClusterIp),
        (tcp(VIP, 80), FrontendKind::LoadBalancer),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn ports_of_one_number_and_two_protocols_are_independent() {
    let spec = json!({"clusterIP": CLUSTER_IP, "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]});
    let udp_only = crate::testing::slice_of(json!({
        "addressType": "IPv4", "ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["10.244.1.2"]}],
    }));
    let rules = rules(&view(spec, &[]), &endpoints(&[udp_only]), &node());
    let udp = Frontend { protocol: Protocol::Udp, ..tcp(CLUSTER_IP, 53) };
    assert_eq!(at(&rules, udp).cluster(), [socket("10.244.1.2:5353")]);
    assert_eq!(at(&rules, tcp(CLUSTER_IP, 53)).refusal(), Some(Refusal::Reject));
}

#[test]
fn slots_are_filled_evenly_in_the_order_of_endpoints() {
    for n in [1usize, 2, 63, 64, 65, 100, 1000, 1024, 5000, 20_000] {
        let endpoints: Vec<SocketAddr> =
            (0..n).map(|i| SocketAddr::from(([10, 244, (i / 200) as u8, (i % 200) as u8], 80))).collect();
        let class = class(&endpoints).unwrap();
        let mut count = vec![0u32; n];
        for (i, (slot, endpoint)) in slots(&endpoints).enumerate() {
            assert_eq!(usize::from(slot), i);
            count[i % n] += 1;
            assert_eq!(endpoint, endpoints[i % n]);
        }
        assert_eq!(count.iter().sum::<u32>(), u32::from(class));
        let served = &count[..n.min(usize::from(class))];
        assert!(served.iter().max().unwrap() - served.iter().min().unwrap() <= 1);
        assert!(n > 64 || usize::from(class) == n);
        assert!(n > 1024 || n <= 64 || usize::from(class) >= 16 * n);
    }
    assert_eq!(slots(&[]).count(), 0);
}

#[test]
fn endpoints_that_serve_and_are_not_chosen_are_known_as_serving() {
    let slice = slice(
        "IPv4",
        json!([
            {"addresses": ["10.244.1.2"], "nodeName": "a", "hints": {"forNodes": [{"name": "a"}]}},
            {"addresses": ["10.244.2.2"], "nodeName": "b", "hints": {"forNodes": [{"name": "b"}]}},
            {"addresses": ["10.244.2.3"], "nodeName": "b",
             "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.2.4"], "nodeName": "b",
             "conditions": {"ready": false, "serving": false, "terminating": true}},
        ]),
    );
    let rules = rules(&all_kinds(json!({})), &endpoints(&[slice]), &node());
    let backends = &at(&rules, tcp(VIP, 80)).backends;
    assert_eq!(*backends.cluster, [socket("10.244.1.2:8080")]);
    assert_eq!(*backends.unchosen, [socket("10.244.2.2:8080"), socket("10.244.2.3:8080")]);
    for (endpoint, serves) in
        [("10.244.1.2", true), ("10.244.2.2", true), ("10.244.2.3", true), ("10.244.2.4", false)]
    {
        assert_eq!(backends.serves(&socket(&format!("{endpoint}:8080"))), serves, "{endpoint}");
    }
    assert_eq!(backends.serving().count(), 3);
}

#[test]
fn endpoints_on_a_node_that_counts_as_dead_serve_and_are_known_as_silent_as_long_as_there_are_others() {
    let slice = slice(
        "IPv4",
        json!([{"addresses": ["10.244.1.2"], "nodeName": "a"}, {"addresses": ["10.244.2.2"], "nodeName": "b"}]),
    );
    let of = |suspects: &[&str]| {
        let mut endpoints = endpoints(std::slice::from_ref(&slice));
        endpoints.set_suspects(Some(Arc::new(suspects.iter().map(|node| Box::from(*node)).collect())));
        let rules = rules(&all_kinds(json!({})), &endpoints, &node());
        let backends = &at(&rules, tcp(VIP, 80)).backends;
        assert!(backends.serves(&socket("10.244.2.2:8080")));
        (backends.cluster.len(), backends.is_silent(&socket("10.244.2.2:8080")))
    };
    assert_eq!(of(&[]), (2, false));
    assert_eq!(of(&["b"]), (1, true));
    assert_eq!(of(&["a", "b"]), (2, false));
}

#[test]
fn the_shares_are_those_of_the_elements_with_affinity_and_without() {
    use crate::tracer::{Hook, Packet, Tracer, Verdict};
    for affinity in ["None", "ClientIP"] {
        let spec = json!({
            "clusterIP": "10.96.0.10", "sessionAffinity": affinity, "ports": [{"name": "http", "port": 80}],
        });
        // More than there are exact classes for: some endpoints have a slot more than others.
        let pods = (1..=100).map(|i| json!({"addresses": [format!("10.244.3.{i}")], "nodeName": "b"}));
        let slices = [slice("IPv4", pods.collect())];
        let rules = rules(&view(spec, &[]), &endpoints(&slices), &node());
        let frontend = &rules.frontends[0];
        let packet =
            Packet { hook: Hook::Prerouting, source: ip("10.244.1.1"), destination: frontend.frontend };
        let Verdict::Dnat { class, shares, .. } = Tracer::new(rules.elements(), [], []).trace(&packet) else {
            panic!("not served")
        };
        let shares = shares.into_iter().map(|share| (share.endpoint, share.slots)).collect();
        assert_eq!(frontend.shares(Scope::Cluster), (class, shares), "{affinity}");
    }
}
