//! What whole documents of each generation mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn range(text: &str) -> AddressRange {
    text.parse().expect(text)
}

fn peer(my_asn: u32, asn: u32, address: &str) -> Peer {
    Peer {
        device: None,
        name: "peer1".to_owned(),
        my_asn,
        asn: Some(asn),
        address: ip(address),
        port: 179,
        hold_time: Duration::from_secs(90),
        router_id: None,
        source_address: None,
        node_selectors: Vec::new(),
        password: None,
        keepalive_time: None,
        connect_time: None,
        local_asn: None,
        bfd_profile: None,
        ebgp_multihop: false,
        graceful_restart: false,
        dual_stack: false,
    }
}

fn community(asn: u16, value: u16) -> Community {
    Community { asn, value }
}

#[test]
fn the_tutorials_config_map_is_one_pool_one_peer_and_one_host_route() {
    let Parsed { config, warnings, .. } = parsed(include_str!("../../testdata/t4-0.2.yaml"));
    assert_eq!(config.peers, [peer(42, 100, "10.0.0.1")]);
    assert_eq!(
        config.pools,
        [Pool {
            name: "default".into(),
            ranges: vec![range("192.168.10.0/24")],
            auto_assign: true,
            avoid_buggy_ips: false,
            allocation: None,
            advertisements: vec![Advertisement::default()],
            layer2: Vec::new(),
        }]
    );
    assert_eq!(config.pools[0].usable_addresses().next(), Some(ip("192.168.10.0")));
    assert_eq!(config.herald, HeraldOptions::default());
    assert_eq!(warnings, []);
}

#[test]
fn every_key_of_0_2_has_its_meaning() {
    let config = config(include_str!("../../testdata/full-0.2.yaml"));
    let expected = Peer { port: 1179, hold_time: Duration::from_secs(30), ..peer(64600, 64601, "192.0.2.1") };
    assert_eq!(config.peers, [expected]);
    let [edge, silent] = config.pools.as_slice() else { panic!("two pools: {:?}", config.pools) };
    assert_eq!((edge.name.as_str(), edge.layer2.as_slice()), ("edge", &[][..]));
    assert_eq!(edge.ranges, [range("203.0.113.0/26"), range("203.0.113.128/28")]);
    assert!(edge.avoid_buggy_ips && edge.auto_assign);
    assert_eq!(
        edge.advertisements,
        [
            Advertisement {
                local_pref: 150,
                communities: BTreeSet::from([community(64601, 666), community(64600, 7)]),
                ..Advertisement::default()
            },
            Advertisement { aggregation_length: 28, ..Advertisement::default() },
        ]
    );
    assert_eq!(silent.ranges, [range("198.51.100.0/24")]);
    assert_eq!(silent.advertisements, []);
    assert_eq!(
        warnings(include_str!("../../testdata/full-0.2.yaml")),
        "line 12, address-pools[1]: pool silent has no advertisements: its addresses are given to Services but \
         never announced; to announce them add advertisements: [{aggregation-length: 32}]\n\
         line 14, address-pools[1].cidr[0]: the address has host bits: read as 198.51.100.0/24\n"
    );
}

#[test]
fn the_old_and_new_names_of_0_5_stand_beside_each_other() {
    let document = include_str!("../../testdata/renamed-0.5.yaml");
    let config = config(document);
    assert_eq!(config.peers[0].router_id, Some("10.0.0.20".parse().expect("an id")));
    assert_eq!(config.pools[0].ranges, [range("192.0.2.0/26"), range("192.0.2.64/28")]);
    assert_eq!(config.pools[0].advertisements[0].communities, BTreeSet::from([community(64600, 100)]));
    assert_eq!(config.pools[1].layer2, [Layer2Advertisement::default()]);
    assert_eq!(config.pools[1].advertisements, []);
    assert_eq!(
        warnings(document),
        "line 18, address-pools[1].arp-network: no longer needed, ignored: remove it\n"
    );
}

#[test]
fn every_key_of_0_12_has_its_meaning_or_its_warning() {
    let document = include_str!("../../testdata/full-0.12.yaml");
    let config = config(document);
    let requirement = |key: &str, operator, values: &[&str]| Requirement {
        key: key.into(),
        operator,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    assert_eq!(
        config.peers,
        [Peer {
            source_address: Some(ip("10.9.0.20")),
            hold_time: Duration::from_secs(9),
            router_id: Some("10.9.0.20".parse().expect("an id")),
            password: Password::new("s3cr3t").expect("short"),
            keepalive_time: Some(Duration::from_secs(3)),
            bfd_profile: Some("quick".to_owned()),
            ebgp_multihop: true,
            node_selectors: vec![
                LabelSelector {
                    match_labels: BTreeMap::from([("rack".into(), "r1".into())]),
                    match_expressions: vec![requirement("node-role", Operator::NotIn, &["storage", "gpu"])],
                },
                LabelSelector {
                    match_labels: BTreeMap::new(),
                    match_expressions: vec![requirement("edge", Operator::Exists, &[])],
                },
            ],
            ..peer(64600, 64601, "10.9.0.1")
        }]
    );
    let quick = BfdProfile {
        receive_interval: Duration::from_millis(150),
        transmit_interval: Duration::from_millis(150),
        ..BfdProfile::named("quick")
    };
    assert_eq!(config.bfd_profiles, [quick]);
    let [public, lan] = config.pools.as_slice() else { panic!("two pools: {:?}", config.pools) };
    assert_eq!(public.ranges, [range("203.0.113.0/25"), range("2001:db8:5::/120")]);
    assert!(!public.auto_assign);
    assert_eq!(
        public.advertisements,
        [Advertisement {
            local_pref: 200,
            communities: BTreeSet::from([community(64601, 100)]),
            ..Advertisement::default()
        }]
    );
    assert_eq!(lan.ranges, [range("192.168.40.10-192.168.40.60")]);
    assert!(lan.avoid_buggy_ips && lan.advertisements.is_empty() && !lan.layer2.is_empty());
    assert_eq!(warnings(document), "");
}

#[test]
fn anchors_aliases_and_merge_keys_are_expanded() {
    let Parsed { config, warnings, .. } = parsed(include_str!("../../testdata/anchors.yaml"));
    let tor = Peer { hold_time: Duration::from_secs(9), ..peer(64600, 64601, "10.0.0.1") };
    assert_eq!(
        config.peers,
        [tor.clone(), Peer { name: "peer2".to_owned(), address: ip("10.0.0.2"), ..tor }]
    );
    assert_eq!(config.pools[0].advertisements[0].local_pref, 50);
    assert_eq!(config.pools[0].advertisements, config.pools[1].advertisements);
    assert_eq!(warnings, []);
}

#[test]
fn heralds_own_keys_have_their_meaning() {
    let Parsed { config, warnings, .. } = parsed(include_str!("../../testdata/herald.yaml"));
    assert_eq!(
        config.herald,
        HeraldOptions {
            local_addresses: LocalAddresses::LoadBalancer,
            external_ips: ExternalIps::Allow(vec![
                "169.10.10.0/24".parse().expect("a prefix"),
                "2001:db8:10::7/128".parse().expect("a prefix"),
            ]),
            announce_cluster_ips: true,
            announce_pod_cidrs: true,
            source_ranges_other_family: SourceRangesOtherFamily::Allow,
            masquerade: Masquerade::Remote,
            announce_external_ips: true,
            cool_down: Duration::from_secs(90),
            sharing: Sharing::Cluster,
            quotas: Quotas { others: Some(20), namespaces: [("shop".to_owned(), 5)].into() },
            reservations: vec![
                Reservation {
                    ranges: vec![range("192.0.2.7/32")],
                    namespace: Some("shop".into()),
                    service: Some("web".into()),
                },
                Reservation {
                    ranges: vec![range("192.0.2.32/28"), range("2001:db8:1::/112")],
                    namespace: Some("shop".into()),
                    service: None,
                },
                Reservation { ranges: vec![range("192.0.2.1-192.0.2.3")], namespace: None, service: None },
            ],
            finalizer_wait: Duration::from_secs(5),
            floor_grace: Duration::from_secs(90),
            suspect_endpoints: false,
            cordoned_nodes: CordonedNodes::Leave,
            layer2_spread: Layer2Spread::Daily { from: 23 * 60 + 30, until: 60 },
            bgp_peers: BgpPeers {
                others: SessionOptions { ttl_security: Some(3), ..SessionOptions::default() },
                named: [(
                    "tor".to_owned(),
                    SessionOptions {
                        ttl_security: Some(1),
                        connect: Connect::Both,
                        accept_from: vec!["10.0.0.0/24".parse().unwrap()],
                        tcp_ao: Some(TcpAo { send_id: 7, receive_id: 9, algorithm: TcpAoAlgorithm::AesCmac }),
                        role: Some(BgpRole::Customer),
                        strict_role: true,
                        med: Some(50),
                        prepend: 2,
                        extended_communities: [
                            ExtendedCommunity { kind: ExtendedKind::RouteTarget, asn: 64500, value: 7 },
                            ExtendedCommunity {
                                kind: ExtendedKind::RouteOrigin,
                                asn: 4_200_000_000,
                                value: 1
                            },
                        ]
                        .into(),
                    },
                )]
                .into(),
            },
        }
    );
    assert_eq!(config.herald.bgp_peers.of("tor").ttl_security, Some(1));
    assert_eq!(config.herald.bgp_peers.of("another").ttl_security, Some(3));
    assert_eq!(warnings, []);
}

#[test]
fn heralds_own_keys_have_defaults_one_by_one() {
    let herald = |document: &str| config(document).herald;
    let default = HeraldOptions::default();
    assert_eq!(default.cool_down, Duration::from_secs(30));
    assert_eq!(herald("herald: {}"), default);
    assert_eq!(herald("herald:"), default);
    assert_eq!(herald("herald: {external-ips: {}}"), default);
    assert_eq!(herald("herald: {cool-down: 0}").cool_down, Duration::ZERO);
    assert_eq!(default.floor_grace, Duration::from_secs(60));
    assert_eq!(herald("herald: {floor: }"), default);
    assert_eq!(herald("herald: {floor: {}}"), default);
    assert!(default.suspect_endpoints && default.cordoned_nodes == CordonedNodes::Announce);
    assert_eq!(herald("herald: {layer2-spread: always}").layer2_spread, Layer2Spread::Always);
    assert_eq!(herald("herald: {layer2-spread: never}"), default);
    assert_eq!(herald("herald: {floor: {grace: 0s}}").floor_grace, Duration::ZERO);
    for absent in ["sharing: namespace", "quotas: {}", "reservations: []", "finalizer: {}", "bgp-peers: {}"] {
        assert_eq!(herald(&format!("herald: {{{absent}}}")), default, "{absent}");
    }
    assert!(herald("herald: {quotas: {}}").quotas.is_empty() && default.finalizer_wait.is_zero());
    let quotas = herald("herald: {quotas: {shop: 0}}").quotas;
    assert_eq!((quotas.of("shop"), quotas.of("other")), (Some(0), None));
    assert_eq!(herald("herald: {local-addresses: all}").local_addresses, LocalAddresses::All);
    assert_eq!(herald("herald: {local-addresses: none}").local_addresses, LocalAddresses::None);
    let open = herald("herald: {source-ranges-other-family: allow}").source_ranges_other_family;
    assert_eq!(open, SourceRangesOtherFamily::Allow);
    assert_eq!(herald("herald: {masquerade: remote}").masquerade, Masquerade::Remote);
    assert_eq!(default.masquerade, Masquerade::Always);
    assert_eq!(default.source_ranges_other_family, SourceRangesOtherFamily::Deny);
    assert_eq!(herald("herald: {external-ips: {allow: []}}").external_ips, ExternalIps::Allow(Vec::new()));
    let masked = ExternalIps::Allow(vec!["10.1.0.0/16".parse().expect("a prefix")]);
    assert_eq!(herald("herald: {external-ips: {allow: [10.1.2.3/16]}}").external_ips, masked);
    let lists = [
        ("shop".to_owned(), vec!["10.1.0.0/16".parse().expect("a prefix")]),
        ("none".to_owned(), Vec::new()),
    ];
    assert_eq!(
        herald("herald: {external-ips: {allow: {shop: [10.1.2.3/16], none: []}}}").external_ips,
        ExternalIps::AllowByNamespace(lists.into())
    );
    assert_eq!(
        herald("herald: {external-ips: {allow: {}}}").external_ips,
        ExternalIps::AllowByNamespace(BTreeMap::new()),
        "no namespace is allowed any"
    );
}

#[test]
fn a_later_pool_without_advertisements_is_announced_by_host_routes() {
    for more in ["", "bgp-advertisements: []", "bgp-advertisements:", "advertisements: [{}]"] {
        assert_eq!(config(&with_pool(more)).pools[0].advertisements, [Advertisement::default()], "{more}");
    }
}

#[test]
fn the_generation_is_told_by_the_keys_that_only_one_has() {
    // Silent in 0.2, announced later.
    let routes = |document: &str| config(document).pools[0].advertisements.len();
    assert_eq!(routes("address-pools: [{name: a, cidr: [192.0.2.0/24]}]"), 0);
    assert_eq!(routes("communities: {x: '1:2'}\naddress-pools: [{name: a}]"), 0);
    assert_eq!(routes("address-pools: [{name: a, protocol: bgp, cidr: [192.0.2.0/24]}]"), 1);
    assert_eq!(
        routes("communities: {x: '1:2'}\naddress-pools: [{name: a, protocol: bgp, cidr: [192.0.2.0/24]}]"),
        1
    );
    // A later key in a 0.2 pool means what it says.
    let mixed = "address-pools: [{name: a, cidr: [192.0.2.0/24], auto-assign: no, bgp-advertisements: [{}]}]";
    assert_eq!(routes(mixed), 1);
    assert!(!config(mixed).pools[0].auto_assign);
}

#[test]
fn values_are_read_as_liberally_as_their_meaning_is_clear() {
    for (written, expected) in [
        ("true", true),
        ("True", true),
        ("yes", true),
        ("on", true),
        ("Y", true),
        ("'true'", true),
        ("false", false),
        ("no", false),
        ("OFF", false),
        ("n", false),
    ] {
        assert_eq!(
            config(&with_pool(&format!("auto-assign: {written}"))).pools[0].auto_assign,
            expected,
            "{written}"
        );
    }
    for (written, expected) in
        [("no", "no"), ("12", "12"), ("'null'", "null"), ("!!str null", "null"), ("a b", "a b")]
    {
        let document =
            format!("address-pools: [{{name: {written}, protocol: bgp, addresses: [192.0.2.0/24]}}]");
        assert_eq!(config(&document).pools[0].name, expected);
    }
    let port = |written: &str| config(&with_peer(&format!("peer-port: {written}"))).peers[0].port;
    assert_eq!([port("0"), port("'1179'"), port("65535"), port("")], [179, 1179, 65535, 179]);
    let hold =
        |written: &str| config(&with_peer(&format!("hold-time: {written}"))).peers[0].hold_time.as_secs();
    assert_eq!(
        [hold("3s"), hold("1m30.9s"), hold("0"), hold("900ms"), hold("65535s"), hold("")],
        [3, 90, 0, 0, 65535, 90]
    );
    let layer2 = |written: &str| {
        config(&format!("address-pools: [{{name: a, protocol: {written}, addresses: [192.0.2.0/24]}}]")).pools
            [0]
        .layer2
        .len()
    };
    assert_eq!([layer2("BGP"), layer2("ndp"), layer2("arp")], [0, 1, 1]);
    assert_eq!(config(&with_peer("password: 1234")).peers[0].password, Password::new("1234").expect("short"));
    assert_eq!(config(&with_peer("password: ''")).peers[0].password, None);
    let largest = "peers: [{my-asn: 4294967295, peer-asn: 1, peer-address: '2001:db8:10::1'}]";
    assert_eq!(config(largest).peers, [peer(u32::MAX, 1, "2001:db8:10::1")]);
}

#[test]
fn a_peer_is_for_the_nodes_that_any_of_its_selectors_matches() {
    let config = config(include_str!("../../testdata/full-0.12.yaml"));
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let selects = |pairs: &[(&str, &str)]| config.peers[0].selects(&labels(pairs));
    assert!(selects(&[("rack", "r1")]));
    assert!(!selects(&[("rack", "r1"), ("node-role", "gpu")]));
    assert!(selects(&[("rack", "r1"), ("node-role", "gpu"), ("edge", "")]));
    assert!(!selects(&[]));
    assert!(peer(1, 2, "10.0.0.1").selects(&labels(&[])));
}

#[test]
fn an_aggregate_may_be_as_wide_as_the_narrowest_entry_of_the_pool() {
    let length = |addresses: &str, written: u8| {
        let pool = format!(
            "address-pools: [{{name: a, protocol: bgp, addresses: {addresses}, \
             bgp-advertisements: [{{aggregation-length: {written}}}]}}]"
        );
        parse(&pool).is_ok()
    };
    assert!(length("[203.0.113.0/26, 203.0.113.128/28]", 28));
    assert!(!length("[203.0.113.0/26, 203.0.113.128/28]", 27));
    // 64/27, 96/30, 100/32: only wider than the largest block is refused.
    assert!(length("[203.0.113.64-203.0.113.100]", 27));
    assert!(!length("[203.0.113.64-203.0.113.100]", 26));
    assert!(length("['2001:db8:1::/64']", 1));
}

#[test]
fn pools_are_found_by_name_and_by_address() {
    let config = config(include_str!("../../testdata/full-0.12.yaml"));
    assert_eq!(config.pool("lan").map(|pool| pool.avoid_buggy_ips), Some(true));
    assert_eq!(config.pool("wan"), None);
    assert_eq!(config.pool_containing(ip("2001:db8:5::7")).map(|pool| pool.name.as_str()), Some("public"));
    assert_eq!(config.pool_containing(ip("192.168.40.9")), None);
}
