//! The tracer against a separate reading of Kubernetes' semantics (`oracle.rs`), and the few walks that a reader wants
//! to see written out.

mod oracle;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::endpoints::EndpointsView;
use crate::node::{NodeView, OtherFamilySources, ProxyMode};
use crate::rules::rules;
use crate::ruleset::MasqueradeMode;
use crate::service::ServiceView;
use crate::testing::{endpoints, ip, net, node, read_slice, slice, socket, tcp, view};

const CLIENT: &str = "203.0.113.5";
const LOCAL_POD: &str = "10.244.1.2";
const REMOTE_POD: &str = "10.244.2.2";
const NODE: &str = "10.0.0.2";

fn tracer(service: &ServiceView, endpoints: &EndpointsView) -> Tracer {
    let elements = rules(service, endpoints, &node()).elements();
    Tracer::new(elements, [net("10.244.0.0/16")], [ip(NODE), ip("10.244.1.1")])
}

fn packet(source: &str, address: &str, port: u16) -> Packet {
    let hook = if source == NODE { Hook::Output } else { Hook::Prerouting };
    Packet { hook, source: ip(source), destination: tcp(address, port) }
}

fn web(policy: &str) -> ServiceView {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.10", "externalTrafficPolicy": policy,
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    view(spec, &["192.0.2.1"])
}

fn pods(local: bool) -> EndpointsView {
    let mut all = vec![json!({"addresses": [REMOTE_POD], "nodeName": "b"})];
    if local {
        all.push(json!({"addresses": [LOCAL_POD], "nodeName": "a"}));
    }
    endpoints(&[slice("IPv4", Value::Array(all))])
}

fn to(endpoints: &[(&str, Option<Masquerade>)]) -> Verdict {
    let share = |&(endpoint, masquerade): &(&str, _)| Share {
        endpoint: socket(&format!("{endpoint}:8080")),
        slots: 1,
        masquerade,
    };
    Verdict::Dnat {
        class: endpoints.len() as u16,
        shares: endpoints.iter().map(share).collect(),
        affinity: None,
    }
}

// Facts 1.8.

#[test]
fn a_cluster_ip_masquerades_who_is_no_pod_and_who_talks_to_itself() {
    let tracer = tracer(&web("Cluster"), &pods(true));
    let from = |source| tracer.trace(&packet(source, "10.96.0.10", 80));
    let not_pod = Some(Masquerade::NotPod);
    assert_eq!(from("10.244.1.77"), to(&[(LOCAL_POD, None), (REMOTE_POD, None)]));
    assert_eq!(from(LOCAL_POD), to(&[(LOCAL_POD, Some(Masquerade::Hairpin)), (REMOTE_POD, None)]));
    assert_eq!(from(NODE), to(&[(LOCAL_POD, not_pod), (REMOTE_POD, not_pod)]));
    assert_eq!(from(CLIENT), to(&[(LOCAL_POD, not_pod), (REMOTE_POD, not_pod)]));
}

#[test]
fn without_a_pod_network_nobody_is_masqueraded_on_the_way_to_a_cluster_ip() {
    let elements = rules(&web("Cluster"), &pods(false), &node()).elements();
    let tracer = Tracer::new(elements, [net("2001:db8:2::/64")], [ip(NODE)]);
    assert_eq!(tracer.trace(&packet(CLIENT, "10.96.0.10", 80)), to(&[(REMOTE_POD, None)]));
}

#[test]
fn policy_cluster_masquerades_everyone_who_comes_from_outside() {
    let tracer = tracer(&web("Cluster"), &pods(false));
    for (address, port) in [("192.0.2.1", 80), (NODE, 30080)] {
        for source in [CLIENT, LOCAL_POD, NODE] {
            let wanted = to(&[(REMOTE_POD, Some(Masquerade::External))]);
            assert_eq!(tracer.trace(&packet(source, address, port)), wanted, "{source} {address}");
        }
    }
}

#[test]
fn policy_local_keeps_the_client_and_short_circuits_pods_and_the_node() {
    let with = tracer(&web("Local"), &pods(true));
    let without = tracer(&web("Local"), &pods(false));
    for (address, port) in [("192.0.2.1", 80), (NODE, 30080)] {
        let client = packet(CLIENT, address, port);
        assert_eq!(with.trace(&client), to(&[(LOCAL_POD, None)]));
        assert_eq!(without.trace(&client), Verdict::Drop(DropReason::NoLocalEndpoint));
        assert_eq!(without.trace(&packet("10.244.1.77", address, port)), to(&[(REMOTE_POD, None)]));
        // The bridge's address is local and a pod's: pods come first.
        assert_eq!(without.trace(&packet("10.244.1.1", address, port)), to(&[(REMOTE_POD, None)]));
        let own = to(&[(REMOTE_POD, Some(Masquerade::OwnNode))]);
        assert_eq!(without.trace(&packet(NODE, address, port)), own);
    }
}

// Facts 6.6.

#[test]
fn with_masquerade_remote_an_endpoint_of_this_node_sees_the_client() {
    let tracer = tracer(&web("Cluster"), &pods(true)).with_masquerade(MasqueradeMode::Remote);
    let external = Some(Masquerade::External);
    for (address, port) in [("192.0.2.1", 80), (NODE, 30080)] {
        for source in [CLIENT, NODE, REMOTE_POD] {
            let wanted = to(&[(LOCAL_POD, None), (REMOTE_POD, external)]);
            assert_eq!(tracer.trace(&packet(source, address, port)), wanted, "{source}");
        }
        let itself = to(&[(LOCAL_POD, external), (REMOTE_POD, external)]);
        assert_eq!(tracer.trace(&packet(LOCAL_POD, address, port)), itself);
    }
}

// Facts 1.13.

#[test]
fn affinity_changes_no_share_and_the_verdict_says_for_how_long_it_lasts() {
    let mut service = web("Local");
    service.affinity = Some(100);
    let tracer = tracer(&service, &pods(true));
    let with = |endpoints| match to(endpoints) {
        Verdict::Dnat { class, shares, .. } => Verdict::Dnat { class, shares, affinity: Some(100) },
        other => other,
    };
    assert_eq!(tracer.trace(&packet(CLIENT, "192.0.2.1", 80)), with(&[(LOCAL_POD, None)]));
    let everywhere = with(&[(LOCAL_POD, None), (REMOTE_POD, None)]);
    assert_eq!(tracer.trace(&packet("10.244.1.77", "192.0.2.1", 80)), everywhere);
    let drawn = tracer.endpoint(&packet(CLIENT, "192.0.2.1", 80), |class| class - 1);
    assert_eq!(drawn, Some((socket("10.244.1.2:8080"), None)));
}

// Facts 1.10.

#[test]
fn who_is_in_no_source_range_is_dropped_at_the_load_balancer_address_and_nowhere_else() {
    let mut service = web("Cluster");
    service.source_ranges = Some([net("203.0.113.0/24"), net("10.0.0.0/24")].into());
    for endpoints in [pods(true), EndpointsView::default()] {
        let tracer = tracer(&service, &endpoints);
        let dropped = |source, address, port| {
            tracer.trace(&packet(source, address, port)) == Verdict::Drop(DropReason::SourceNotAllowed)
        };
        assert!(!dropped(CLIENT, "192.0.2.1", 80) && dropped("198.51.100.1", "192.0.2.1", 80));
        assert!(!dropped(NODE, "192.0.2.1", 80) && !dropped("192.0.2.1", "192.0.2.1", 80));
        assert!(dropped(LOCAL_POD, "192.0.2.1", 80) && !dropped(LOCAL_POD, "10.96.0.10", 80));
        assert!(!dropped("198.51.100.1", NODE, 30080));
    }
}

// Facts 1.9 and 6.4.

#[test]
fn what_no_rule_takes_ends_at_the_address_and_a_nodes_own_traffic_passes() {
    let tracer = tracer(&web("Cluster"), &EndpointsView::default());
    for (address, port, wanted) in [
        ("10.96.0.10", 80, Verdict::Reject(RejectReason::NoEndpoint)),
        ("192.0.2.1", 80, Verdict::Reject(RejectReason::NoEndpoint)),
        (NODE, 30080, Verdict::Reject(RejectReason::NoEndpoint)),
        ("192.0.2.1", 22, Verdict::Reject(RejectReason::UnservedPort)),
        (NODE, 22, Verdict::Pass),
        ("192.0.2.2", 80, Verdict::Pass),
    ] {
        assert_eq!(tracer.trace(&packet(CLIENT, address, port)), wanted, "{address} {port}");
    }
}

#[test]
fn an_announced_prefix_is_not_routed_on() {
    let announced = [Element::Announced { prefix: net("192.0.2.0/24") }];
    let tracer = Tracer::new(announced, [], [ip("192.0.2.200")]);
    assert_eq!(tracer.trace(&packet(CLIENT, "192.0.2.5", 80)), Verdict::Drop(DropReason::RoutedBack));
    assert_eq!(tracer.trace(&packet(CLIENT, "192.0.2.200", 22)), Verdict::Pass, "the node's own address");
    assert_eq!(tracer.trace(&packet(NODE, "192.0.2.5", 80)), Verdict::Pass, "its way to a router");
    assert_eq!(tracer.trace(&packet(CLIENT, "198.51.100.5", 80)), Verdict::Pass);
}

#[test]
fn a_cluster_ip_that_no_service_has_is_dropped_from_wherever() {
    let service_cidr = [Element::ServiceCidr { prefix: net("10.96.0.0/12") }];
    let tracer = Tracer::new(service_cidr, [], [ip("10.100.0.1")]);
    for source in [CLIENT, NODE, LOCAL_POD] {
        let unallocated = Verdict::Drop(DropReason::UnallocatedClusterIp);
        assert_eq!(tracer.trace(&packet(source, "10.96.0.99", 80)), unallocated, "{source}");
        assert_eq!(tracer.trace(&packet(source, "10.112.0.1", 80)), Verdict::Pass, "behind the network");
    }
    assert_eq!(tracer.trace(&packet(CLIENT, "10.100.0.1", 80)), Verdict::Pass, "an address of the node");
}

#[test]
fn a_drawn_slot_gives_its_endpoint() {
    let tracer = tracer(&web("Cluster"), &pods(true));
    let packet = packet(LOCAL_POD, "10.96.0.10", 80);
    let drawn = |slot| tracer.endpoint(&packet, |class| slot % class);
    assert_eq!(drawn(0), Some((socket("10.244.1.2:8080"), Some(Masquerade::Hairpin))));
    assert_eq!(drawn(3), Some((socket("10.244.2.2:8080"), None)));
}

/// One endpoint as it stands in a slice.
fn any_endpoint() -> impl Strategy<Value = Value> {
    let condition = || proptest::option::of(any::<bool>());
    let hint = || proptest::option::weighted(0.7, proptest::sample::select(vec!["west", "east"]));
    let node = || proptest::option::weighted(0.8, proptest::sample::select(vec!["a", "b"]));
    let conditions = (condition(), condition(), condition());
    (1..6u8, 1..3u8, node(), conditions, hint(), node()).prop_map(
        |(host, net, node, (ready, serving, terminating), zone, hinted)| {
            let zones: Vec<_> = zone.iter().map(|zone| json!({"name": zone})).collect();
            let nodes: Vec<_> = hinted.iter().map(|node| json!({"name": node})).collect();
            json!({
                "addresses": [[net, host]],
                "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "hints": {"forZones": zones, "forNodes": nodes},
            })
        },
    )
}

/// Fills in the address of a family.
fn place(mut endpoint: Value, v6: bool) -> Value {
    let (net, host) = (endpoint["addresses"][0][0].clone(), endpoint["addresses"][0][1].clone());
    let address = if v6 { format!("2001:db8:2::{net}:{host}") } else { format!("10.244.{net}.{host}") };
    endpoint["addresses"] = json!([address]);
    endpoint
}

fn any_service() -> impl Strategy<Value = Value> {
    let policy = || proptest::sample::select(vec![None, Some("Cluster"), Some("Local")]);
    let types = proptest::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer"]);
    let range = proptest::sample::select(vec![
        "203.0.113.0/24",
        "0.0.0.0/0",
        "10.0.0.0/24",
        "10.244.1.2/31",
        "2001:db8:2::/48",
        "::/0",
        "nonsense",
    ]);
    let ranges = prop_oneof![Just(vec![]), proptest::collection::vec(range, 0..4)];
    let affinity = proptest::option::weighted(0.4, 1..=86_400i32);
    let all = (types, policy(), policy(), any::<[bool; 4]>(), (ranges, affinity));
    all.prop_map(|(service_type, internal, external, has, (ranges, affinity))| {
        let [dual, node_port, external_ip, second_port] = has;
        let mut ports =
            vec![json!({"name": "http", "port": 80, "nodePort": if node_port { 30080 } else { 0 }})];
        if second_port {
            ports.push(json!({"name": "dns", "port": 80, "protocol": "UDP", "nodePort": 30080}));
        }
        let cluster_ips = if dual { vec!["10.96.0.10", "2001:db8:3::a"] } else { vec!["10.96.0.10"] };
        json!({
            "type": service_type, "clusterIPs": cluster_ips, "ports": ports,
            "sessionAffinity": if affinity.is_some() { "ClientIP" } else { "None" },
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": affinity}},
            "loadBalancerSourceRanges": ranges, "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
            "externalIPs": if external_ip { vec!["192.0.2.9", "2001:db8:1::9"] } else { vec![] },
        })
    })
}

fn all_packets() -> Vec<Packet> {
    let v4 = (
        [
            CLIENT,
            "10.244.1.1",
            "10.244.1.2",
            "10.244.1.3",
            "10.244.2.2",
            "10.244.9.9",
            NODE,
            "10.0.0.3",
            "192.0.2.1",
        ]
        .as_slice(),
        ["10.96.0.10", "192.0.2.1", "192.0.2.9", NODE, "10.0.0.3", "192.0.2.77"],
    );
    let v6 = (
        ["2001:db8:99::5", "2001:db8:2::1:1", "2001:db8:2::1:2", "2001:db8:2::9:9", "2001:db8:10::2"]
            .as_slice(),
        ["2001:db8:3::a", "2001:db8:1::1", "2001:db8:1::9", "2001:db8:10::2", "2001:db8:1::77"].as_slice(),
    );
    let mut packets = Vec::new();
    for (sources, destinations) in [(v4.0, &v4.1[..]), v6] {
        for source in sources {
            for address in destinations {
                for (protocol, port) in
                    [(Protocol::Tcp, 80), (Protocol::Tcp, 30080), (Protocol::Udp, 80), (Protocol::Tcp, 22)]
                {
                    let destination = Frontend { address: ip(address), protocol, port };
                    packets.push(Packet { hook: Hook::Prerouting, source: ip(source), destination });
                }
            }
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_rules_do_what_kubernetes_says(
        spec in any_service(),
        slices in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any_endpoint(), 0..5)), 0..4),
        many in proptest::bool::weighted(0.05),
        external_mode in any::<bool>(),
        other_family in proptest::sample::select(vec![OtherFamilySources::Deny, OtherFamilySources::Allow]),
        detector in any::<bool>(),
        masquerade in proptest::sample::select(vec![MasqueradeMode::Always, MasqueradeMode::Remote]),
    ) {
        let (service, _) = crate::testing::read(&crate::testing::service(spec, &["192.0.2.1", "2001:db8:1::1"]));
        let mut raw: Vec<_> = slices
            .into_iter()
            .map(|(v6, endpoints)| {
                let placed = endpoints.into_iter().map(|endpoint| place(endpoint, v6)).collect();
                slice(if v6 { "IPv6" } else { "IPv4" }, Value::Array(placed))
            })
            .collect();
        if many {
            let crowd = (1..=80).map(|i| json!({"addresses": [format!("10.244.3.{i}")], "nodeName": "a"}));
            raw.push(slice("IPv4", crowd.collect()));
        }
        let endpoints = endpoints(&raw);
        let mode = if external_mode { ProxyMode::External } else { ProxyMode::Full };
        let node = NodeView { mode, other_family_sources: other_family, ..node() };
        let cidrs = if detector { vec![net("10.244.0.0/16"), net("2001:db8:2::/64")] } else { vec![] };
        let own = vec![ip(NODE), ip("10.244.1.1"), ip("2001:db8:10::2")];
        let tracer = Tracer::new(rules(&service, &endpoints, &node).elements(), cidrs.clone(), own.clone())
            .with_masquerade(masquerade);
        let world = oracle::World {
            service: &service,
            slices: &raw.iter().map(|slice| read_slice(slice).view).collect::<Vec<_>>(),
            node: &node,
            pods: &cidrs,
            own: &own,
            masquerade,
        };
        for packet in all_packets() {
            let verdict = tracer.trace(&packet);
            if let Verdict::Dnat { affinity, .. } = verdict {
                prop_assert_eq!(affinity, service.affinity);
            }
            let found = oracle::Outcome::of(verdict);
            prop_assert_eq!(found, world.outcome(&packet), "{:?}", packet);
        }
    }
}
