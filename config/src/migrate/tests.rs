use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::assemble::{Assembler, Assembly, Secrets};
use crate::manifests;
use crate::{Config, HeraldOptions};

fn migrated(document: &str) -> Migrated {
    migrate(document, "metallb-system", "config").unwrap_or_else(|errors| panic!("{errors}\n{document}"))
}

/// What the printed objects mean, with the ConfigMap that stays beside them.
fn read_back(yaml: &str) -> Config {
    let contents = manifests::read(yaml);
    assert_eq!(contents.errors, [], "{yaml}");
    let herald = match contents.documents.first() {
        Some(document) => parse(&document.text).expect("the ConfigMap that stays").config.herald,
        None => HeraldOptions::default(),
    };
    let Assembly { config, problems } =
        Assembler::default().assemble(&contents.objects, Secrets::Unread, &herald);
    let refused: Vec<String> =
        problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string).collect();
    assert!(refused.is_empty(), "{refused:#?}\n{yaml}");
    config
}

/// What does not depend on the order of objects, nor on how the order of pools is said.
fn canonical(mut config: Config) -> (Config, Vec<String>) {
    config.peers.sort_by(|a, b| a.name.cmp(&b.name));
    for peer in &mut config.peers {
        let mut distinct = Vec::new();
        for selector in std::mem::take(&mut peer.node_selectors) {
            if !distinct.contains(&selector) {
                distinct.push(selector);
            }
        }
        peer.node_selectors = distinct;
    }
    config.bfd_profiles.sort_by(|a, b| a.name.cmp(&b.name));
    config.pools.retain(|pool| !pool.ranges.is_empty());
    let mut tried: Vec<&Pool> = config.pools.iter().filter(|pool| pool.auto_assign).collect();
    tried.sort_by_key(|pool| pool.rank());
    let tried = tried.into_iter().map(|pool| pool.name.clone()).collect();
    config.pools.sort_by(|a, b| a.name.cmp(&b.name));
    for pool in &mut config.pools {
        pool.allocation = None;
    }
    (config, tried)
}

fn assert_lossless(document: &str) {
    let before = parse(document).unwrap_or_else(|errors| panic!("{errors}\n{document}")).config;
    let yaml = migrated(document).to_yaml();
    assert_eq!(canonical(read_back(&yaml)), canonical(before), "{document}\n{yaml}");
}

#[test]
fn the_documents_of_all_generations_mean_the_same_as_objects() {
    for document in [
        include_str!("../../testdata/t4-0.2.yaml"),
        include_str!("../../testdata/full-0.2.yaml"),
        include_str!("../../testdata/renamed-0.5.yaml"),
        include_str!("../../testdata/full-0.12.yaml"),
        include_str!("../../testdata/anchors.yaml"),
        include_str!("../../testdata/herald.yaml"),
    ] {
        assert_lossless(document);
    }
}

#[test]
fn names_that_kubernetes_does_not_allow_are_changed_and_told() {
    let document = "address-pools:\n\
        - {name: My_Pool, protocol: layer2, addresses: [192.0.2.0/28]}\n\
        - {name: my-pool, protocol: layer2, addresses: [192.0.2.16/28]}\n\
        - {name: _, protocol: layer2, addresses: [192.0.2.32/28]}\n";
    let Migrated { objects, notes } = migrated(document);
    let names: Vec<&str> = objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["my-pool-2", "my-pool", "pool", "l2advertisement1"]);
    assert!(
        notes.contains(
            &"pool My_Pool is called my-pool-2 now: Kubernetes does not allow the old name".to_owned()
        ),
        "{notes:?}"
    );
}

#[test]
fn aliases_keep_their_names_and_passwords_their_text() {
    let yaml = migrated(include_str!("../../testdata/full-0.12.yaml")).to_yaml();
    for piece in [
        "- name: keep-local\n    value: \"64601:100\"\n",
        "  communities:\n  - keep-local\n",
        "password: s3cr3t\n",
    ] {
        assert!(yaml.contains(piece), "{piece}\n{yaml}");
    }
}

#[test]
fn heralds_own_keys_stay_in_the_configmap() {
    let Migrated { objects, notes } = migrated(include_str!("../../testdata/herald.yaml"));
    let kept = objects.last().expect("an object");
    assert_eq!(kept["kind"], "ConfigMap");
    assert_eq!(kept["metadata"]["name"], "config");
    assert!(notes.iter().any(|note| note.contains("the ConfigMap with them stays")), "{notes:?}");
}

#[test]
fn a_pool_without_addresses_is_left_out_and_told() {
    let Migrated { objects, notes } = migrated("communities: {x: '1:2'}\naddress-pools: [{name: a}]");
    assert!(objects.iter().all(|object| object["kind"] != "IPAddressPool"));
    assert!(notes.iter().any(|note| note.starts_with("pool a has no addresses")), "{notes:?}");
}

#[test]
fn several_documents_and_none_are_refused() {
    let file = |text: &str| File { name: "config.yaml".to_owned(), text: text.to_owned() };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {config: 'peers: []'}\n";
    assert!(migrate_files(&[file(map)]).is_ok());
    let two = migrate_files(&[file(map), file(map)]).expect_err("two");
    assert!(two.starts_with("there are 2 documents"), "{two}");
    let none = migrate_files(&[file("apiVersion: v1\nkind: Secret\n")]).expect_err("none");
    assert!(none.starts_with("there is no ConfigMap"), "{none}");
}

/// Documents of any size of which every one is good.
fn document() -> impl Strategy<Value = String> {
    let peer = (
        (1..=u32::MAX, 1..=u32::MAX, 0..=65535_u16, any::<bool>()),
        proptest::option::of(3..=65535_u16),
        proptest::option::of("[a-z ]{1,8}"),
        proptest::option::of(proptest::collection::vec(("[a-z]{1,3}", "[a-z0-9]{0,3}"), 0..3)),
        proptest::option::of(0..3_usize),
        any::<bool>(),
    );
    let pool = (
        proptest::sample::select(vec!["zoo", "edge", "Edge", "a_b", "a-b", "7", "no", "x.y", "ü"]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::collection::btree_map((24..=32_u8, 64..=128_u8), (0..3_u32, 0..4_usize), 0..12),
    );
    let profile = (10..=60_000_u32, 2..=255_u16, 1..=254_u8, any::<bool>());
    (
        proptest::collection::vec(peer, 0..12),
        proptest::collection::vec(pool, 0..6),
        proptest::collection::vec(profile, 0..3),
        proptest::option::of(0..100_u8),
    )
        .prop_map(|(peers, pools, profiles, cool_down)| {
            let aliases = ["blue", "Green_1", "64600:9"];
            let mut document = json!({ "bgp-communities": { "blue": "1:2", "Green_1": "65535:65535", "twin": "1:2" } });
            let list: Vec<Value> = profiles
                .iter()
                .enumerate()
                .map(|(index, (interval, multiplier, ttl, echo))| {
                    json!({ "name": format!("Profile_{index}"), "receive-interval": interval, "echo-mode": echo,
                        "detect-multiplier": multiplier, "minimum-ttl": ttl })
                })
                .collect();
            document["bfd-profiles"] = json!(list);
            let list: Vec<Value> = peers
                .into_iter()
                .enumerate()
                .map(|(index, ((mine, other, port, v6), hold, password, labels, profile, multihop))| {
                    let address = if v6 { format!("2001:db8::{index}:1") } else { format!("10.0.0.{}", index + 1) };
                    let mut peer = json!({ "my-asn": mine, "peer-asn": other, "peer-address": address, "peer-port": port,
                        "ebgp-multihop": multihop && mine != other });
                    if let Some(hold) = hold {
                        peer["hold-time"] = json!(format!("{hold}s"));
                        peer["keepalive-time"] = json!(format!("{}s", hold / 2));
                    }
                    if let Some(password) = password {
                        peer["password"] = json!(password);
                    }
                    if let Some(labels) = labels {
                        let labels: BTreeMap<_, _> = labels.into_iter().collect();
                        peer["node-selectors"] = json!([{ "match-labels": labels }, { "match-expressions":
                            [{ "key": "rack", "operator": "NotIn", "values": ["yes", "1"] }] }]);
                    }
                    if let Some(index) = profile.filter(|index| *index < profiles.len()) {
                        peer["bfd-profile"] = json!(format!("Profile_{index}"));
                    }
                    peer
                })
                .collect();
            document["peers"] = json!(list);
            let mut names = BTreeSet::new();
            let list: Vec<Value> = pools
                .into_iter()
                .enumerate()
                .filter(|(_, (name, ..))| names.insert(*name))
                .map(|(index, (name, layer2, auto, avoid, ads))| {
                    let addresses =
                        [format!("10.1.{index}.0/24"), format!("10.2.{index}.3-10.2.{index}.9"), format!("2001:db8:{index}::/64")];
                    let mut pool = json!({ "name": name, "addresses": addresses, "auto-assign": auto, "avoid-buggy-ips": avoid,
                        "protocol": if layer2 { "layer2" } else { "bgp" } });
                    if !layer2 {
                        let ads: Vec<Value> = ads
                            .into_iter()
                            .map(|((v4, v6), (_, communities))| {
                                json!({ "aggregation-length": v4.max(30), "aggregation-length-v6": v6, "localpref": 7,
                                    "communities": &aliases[..communities.min(3)] })
                            })
                            .collect();
                        pool["bgp-advertisements"] = json!(ads);
                    }
                    pool
                })
                .collect();
            document["address-pools"] = json!(list);
            if let Some(seconds) = cool_down {
                document["herald"] = json!({ "cool-down": format!("{seconds}s"), "local-addresses": "all" });
            }
            to_yaml(&document)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_good_document_means_the_same_as_objects(document in document()) {
        let names = |config: &Config| -> Vec<String> { config.pools.iter().map(|pool| pool.name.clone()).collect() };
        let mut before = parse(&document).map_err(|errors| TestCaseError::fail(format!("{errors}\n{document}")))?.config;
        let yaml = migrated(&document).to_yaml();
        let after = read_back(&yaml);
        // Names that are not allowed are other ones afterwards, in the same order.
        let old = names(&before);
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        for (pool, name) in before.pools.iter_mut().zip(Names::default().all(&old, "pool")) {
            pool.name = name;
        }
        for profile in &mut before.bfd_profiles {
            profile.name = profile.name.to_lowercase().replace('_', "-");
        }
        for peer in &mut before.peers {
            peer.bfd_profile = peer.bfd_profile.take().map(|name| name.to_lowercase().replace('_', "-"));
        }
        prop_assert_eq!(names(&after).len(), names(&before).len());
        prop_assert_eq!(canonical(after), canonical(before), "{}\n{}", document, yaml);
    }
}
