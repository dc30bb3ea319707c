use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;
use crate::testing::{ip, read, service, view};

fn port(extra: Value) -> Value {
    let mut port = json!({"name": "http", "port": 80, "protocol": "TCP"});
    for (key, value) in extra.as_object().unwrap() {
        port[key] = value.clone();
    }
    port
}

fn labelled(label: &str) -> Service {
    let mut service = service(json!({"clusterIP": "10.96.0.10"}), &[]);
    service.metadata.labels = Some([(label.to_owned(), String::new())].into());
    service
}

fn refusal(service: &Service) -> NotProxied {
    ServiceView::read(service).unwrap_err()
}

// Facts 1.1: which Services are proxied.

#[test]
fn a_label_for_another_proxy_or_for_headless_counts_by_its_presence() {
    assert_eq!(refusal(&labelled(LABEL_PROXY_NAME)), NotProxied::OtherProxy);
    assert_eq!(refusal(&labelled(LABEL_HEADLESS)), NotProxied::HeadlessLabel);
    assert!(ServiceView::read(&labelled("app")).is_ok());
}

#[test]
fn external_names_and_headless_services_are_not_proxied_even_with_an_address() {
    let lb = |spec| refusal(&service(spec, &["192.0.2.1"]));
    assert_eq!(lb(json!({"type": "ExternalName", "clusterIP": "10.96.0.10"})), NotProxied::ExternalName);
    assert_eq!(lb(json!({"type": "LoadBalancer", "clusterIP": "None"})), NotProxied::Headless);
    assert_eq!(lb(json!({"type": "LoadBalancer", "clusterIP": ""})), NotProxied::Headless);
    assert_eq!(lb(json!({"type": "LoadBalancer"})), NotProxied::Headless);
    assert_eq!(lb(json!({"clusterIPs": ["None"], "clusterIP": "None"})), NotProxied::Headless);
    assert_eq!(refusal(&Service::default()), NotProxied::NoSpec);
}

#[test]
fn ports_are_told_apart_by_name_and_protocol() {
    let view = view(
        json!({"clusterIP": "10.96.0.10", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"port": 9, "protocol": "SCTP"},
            {"name": "plain", "port": 81},
        ]}),
        &[],
    );
    let ports: Vec<_> = view.ports.iter().map(|p| (&*p.name, p.protocol, p.number)).collect();
    let wanted = [
        ("dns", Protocol::Udp, 53),
        ("dns-tcp", Protocol::Tcp, 53),
        ("", Protocol::Sctp, 9),
        ("plain", Protocol::Tcp, 81),
    ];
    assert_eq!(ports, wanted);
}

// Facts 1.2: dual stack.

#[test]
fn a_family_without_a_cluster_ip_is_not_served() {
    let single = view(json!({"clusterIP": "10.96.0.10", "externalIPs": ["2001:db8:1::1"]}), &[]);
    assert!(single.serves(IpFamily::V4));
    assert!(!single.serves(IpFamily::V6));
    let dual = view(json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "2001:db8:3::a"]}), &[]);
    assert!(dual.serves(IpFamily::V6));
    assert_eq!(*dual.cluster_ips, [ip("10.96.0.10"), ip("2001:db8:3::a")]);
}

// Facts 1.5: frontends.

#[test]
fn node_ports_belong_to_the_types_that_have_them() {
    for (service_type, wanted) in
        [("ClusterIP", None), ("NodePort", Some(30080)), ("LoadBalancer", Some(30080)), ("Nonsense", None)]
    {
        let spec = json!({"type": service_type, "clusterIP": "10.96.0.10", "ports": [port(json!({"nodePort": 30080}))]});
        assert_eq!(view(spec, &[]).ports[0].node_port, wanted, "{service_type}");
    }
    let none =
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.10", "ports": [port(json!({"nodePort": 0}))]});
    assert_eq!(view(none, &[]).ports[0].node_port, None);
}

#[test]
fn ingress_addresses_count_with_ip_mode_vip_or_none_and_for_load_balancers_only() {
    let ingress = json!([
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
        {"ip": ""},
        {"ip": "192.0.2.1"},
    ]);
    let of_type = |service_type: &str| {
        let mut service = service(json!({"type": service_type, "clusterIP": "10.96.0.10"}), &[]);
        service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
        let (view, notes) = read(&service);
        assert_eq!(notes, []);
        view.load_balancer_ips
    };
    assert_eq!(*of_type("LoadBalancer"), [ip("192.0.2.1"), ip("192.0.2.2")]);
    assert!(of_type("ClusterIP").is_empty());
}

#[test]
fn external_policy_local_counts_only_where_there_is_a_way_in_from_outside() {
    for (service_type, external, wanted) in [
        ("LoadBalancer", json!([]), true),
        ("NodePort", json!([]), true),
        ("ClusterIP", json!(["192.0.2.9"]), true),
        ("ClusterIP", json!([]), false),
    ] {
        let spec = json!({
            "type": service_type, "clusterIP": "10.96.0.10",
            "externalIPs": external, "externalTrafficPolicy": "Local",
        });
        assert_eq!(view(spec, &[]).external_local, wanted, "{service_type} {external}");
    }
    let internal = view(json!({"clusterIP": "10.96.0.10", "internalTrafficPolicy": "Local"}), &[]);
    assert!(internal.internal_local && !internal.external_local);
}

// Facts 1.11: health check node ports.

#[test]
fn a_health_check_node_port_needs_a_load_balancer_of_policy_local() {
    for (service_type, policy, wanted) in [
        ("LoadBalancer", "Local", Some(32000)),
        ("LoadBalancer", "Cluster", None),
        ("NodePort", "Local", None),
    ] {
        let spec = json!({
            "type": service_type, "clusterIP": "10.96.0.10",
            "externalTrafficPolicy": policy, "healthCheckNodePort": 32000,
        });
        assert_eq!(view(spec, &[]).health_check_node_port, wanted, "{service_type} {policy}");
    }
}

// Facts 1.13.

#[test]
fn affinity_lasts_three_hours_unless_the_service_says_otherwise() {
    let affinity = |affinity: Value, timeout: Value| {
        let config = json!({"clientIP": {"timeoutSeconds": timeout}});
        let spec =
            json!({"clusterIP": "10.96.0.10", "sessionAffinity": affinity, "sessionAffinityConfig": config});
        let (view, notes) = read(&service(spec, &[]));
        (view.affinity, notes.len())
    };
    let (client, none) = (|| json!("ClientIP"), || Value::Null);
    assert_eq!(affinity(none(), json!(10)), (None, 0));
    assert_eq!(affinity(json!("None"), json!(10)), (None, 0));
    assert_eq!(affinity(json!("Cookie"), json!(10)), (None, 1));
    assert_eq!(affinity(client(), none()), (Some(10_800), 0));
    for (timeout, wanted) in
        [(1, (1, 0)), (86_400, (86_400, 0)), (86_401, (86_400, 1)), (0, (10_800, 1)), (-5, (10_800, 1))]
    {
        assert_eq!(affinity(client(), json!(timeout)), (Some(wanted.0), wanted.1), "{timeout}");
    }
}

// Facts 1.10.

fn ranges(service_type: &str, ranges: &[&str]) -> (Option<Vec<String>>, Vec<&'static str>) {
    let spec = json!({"type": service_type, "clusterIP": "10.96.0.10", "loadBalancerSourceRanges": ranges});
    let (view, notes) = read(&service(spec, &["192.0.2.1", "2001:db8:1::1"]));
    let ranges = view.source_ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect());
    (ranges, notes.iter().map(|note| note.reason().word()).collect())
}

#[test]
fn source_ranges_are_of_load_balancers_trimmed_and_joined_where_they_overlap() {
    let both =
        [" 203.0.113.64/26", "203.0.113.0/24\t", "198.51.100.0/25", "198.51.100.128/25", "2001:db8:c::/64"];
    let joined = ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:c::/64"].map(str::to_owned).to_vec();
    assert_eq!(ranges("LoadBalancer", &both), (Some(joined), vec![]));
    assert_eq!(ranges("LoadBalancer", &[]), (None, vec![]));
    assert_eq!(ranges("NodePort", &both), (None, vec![]));
    assert_eq!(ranges("LoadBalancer", &["0.0.0.0/0", "::/0"]).1, Vec::<&str>::new());
}

#[test]
fn source_ranges_that_are_all_nonsense_let_nobody_in() {
    let all = ranges("LoadBalancer", &["203.0.113.0", ""]);
    assert_eq!(all, (Some(vec![]), vec!["InvalidSourceRange"; 3]));
}

#[test]
fn source_ranges_of_one_family_are_told_where_the_other_has_an_address() {
    let told = ranges("LoadBalancer", &["203.0.113.0/24"]).1;
    assert_eq!(told, ["SourceRangesOfOtherFamily"]);
}

// Nonsense.

#[test]
fn nonsense_is_dropped_value_by_value_and_told() {
    let (view, notes) = read(&service(
        json!({
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.10", "elsewhere"],
            "externalIPs": ["192.0.2.9", "192.0.2.300", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1",
                            "::ffff:192.0.2.1", "fe80::1", "255.255.255.255", ""],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Sometimes",
            "healthCheckNodePort": 70000,
            "loadBalancerSourceRanges": ["203.0.113.0", "x/8", "10.0.0.0/33", " 203.0.113.7/24 "],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}},
            "ports": [
                {"name": "zero", "port": 0},
                {"name": "large", "port": 65536},
                {"name": "negative", "port": -1},
                {"name": "quic", "port": 443, "protocol": "QUIC"},
                {"name": "good", "port": 443, "nodePort": 99999},
                {"name": "again", "port": 443},
                {"name": "other", "port": 443, "protocol": "UDP"},
            ],
        }),
        &["192.0.2.1", "not-one", "::1"],
    ));
    assert_eq!(*view.cluster_ips, [ip("10.96.0.10")]);
    assert_eq!(*view.external_ips, [ip("192.0.2.9")]);
    assert_eq!(*view.load_balancer_ips, [ip("192.0.2.1")]);
    assert!(view.external_local && !view.internal_local);
    let ports: Vec<_> = view.ports.iter().map(|port| (&*port.name, port.node_port)).collect();
    assert_eq!(ports, [("good", None), ("other", None)]);
    let count = |reason: &str| notes.iter().filter(|note| note.reason().word() == reason).count();
    for (reason, wanted) in [
        ("InvalidAddress", 1 + 9 + 2),
        ("InvalidPort", 3),
        ("UnknownProtocol", 1),
        ("InvalidNodePort", 1),
        ("DuplicatePort", 1),
        ("UnknownTrafficPolicy", 1),
        ("InvalidHealthCheckNodePort", 1),
        ("InvalidSourceRange", 3),
        ("InvalidSessionAffinity", 1),
    ] {
        assert_eq!(count(reason), wanted, "{reason} in {notes:#?}");
    }
}

#[test]
fn notes_say_where_and_what() {
    let note = Note::NotAnAddress { field: AddressField::ExternalIp, value: "x".to_owned() };
    assert_eq!(note.to_string(), r#"spec.externalIPs: "x" is not an IP address"#);
    let note = Note::PortNumber { port: "http".to_owned(), value: 0 };
    assert_eq!(note.to_string(), r#"port "http": 0 is outside 1 to 65535, so the port is not served"#);
}

#[test]
fn an_annotation_asks_for_probes_and_nonsense_asks_for_none_and_is_named() {
    for (protocol, text, probes, note) in [
        ("TCP", "http path=/healthz", true, None),
        ("UDP", "tcp port=8080", true, None),
        (
            "UDP",
            "tcp",
            false,
            Some("the Service has no TCP port to probe; name one, for example \"tcp port=8080\""),
        ),
        (
            "TCP",
            "tcp port=none",
            false,
            Some("port=\"none\" is not a number from 1 to 65535; write for example \"http"),
        ),
    ] {
        let ports = json!([{"port": 53, "protocol": protocol}]);
        let mut object = service(json!({"clusterIP": "10.96.0.10", "ports": ports}), &[]);
        object.metadata.annotations = Some([("herald.io/probe".to_owned(), text.to_owned())].into());
        let (view, notes) = read(&object);
        assert_eq!(view.probe.is_some(), probes, "{text}");
        match note {
            None => assert_eq!(notes, [], "{text}"),
            Some(note) => {
                assert_eq!(notes.len(), 1, "{text}");
                assert_eq!(notes[0].reason().word(), "InvalidProbe");
                let told = notes[0].to_string();
                assert!(told.starts_with("annotation herald.io/probe: ") && told.contains(note), "{told}");
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_value_makes_reading_panic(
        port in proptest::prelude::any::<i32>(),
        node_port in proptest::prelude::any::<i32>(),
        health in proptest::prelude::any::<i32>(),
        text in ".{0,80}",
    ) {
        let service = service(
            json!({
                "type": "LoadBalancer", "clusterIPs": ["10.96.0.10", text], "externalIPs": [text],
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": text, "healthCheckNodePort": health,
                "ports": [{"name": text, "port": port, "nodePort": node_port, "protocol": text}, {"port": 80}],
            }),
            &[&text],
        );
        let (view, _) = read(&service);
        proptest::prop_assert_eq!(view.ports.last().map(|port| port.number), Some(80));
    }
}
