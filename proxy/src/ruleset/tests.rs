//! Golden files (`UPDATE_GOLDEN=1` rewrites them) and laws of the ruleset.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};

fn config() -> RulesetConfig {
    let cluster_cidrs = ["10.244.0.0/16", "2001:db8:2::/64"].map(|cidr| cidr.parse().unwrap()).into();
    RulesetConfig { cluster_cidrs, ..RulesetConfig::default() }
}

fn frontend(address: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: address.parse().unwrap(), protocol, port }
}

/// One of each element in each family.
fn elements() -> Vec<Element> {
    let mut elements = Vec::new();
    for (vip, endpoint, prefix, client, service_cidr) in [
        ("192.0.2.1", "10.244.0.1:8080", "192.0.2.0/28", "203.0.113.0/24", "10.96.0.0/12"),
        ("2001:db8:1::1", "[2001:db8:2::1]:8080", "2001:db8:1::/96", "2001:db8:c::/64", "2001:db8:3::/112"),
    ] {
        let http = frontend(vip, Protocol::Tcp, 80);
        let dns = frontend(vip, Protocol::Udp, 5353);
        let endpoint = endpoint.parse().unwrap();
        elements.extend([
            Element::Service { frontend: http, policy: Policy::ExternalLocal },
            Element::Pick { frontend: http, scope: Scope::Cluster, class: 2048 },
            Element::Pick { frontend: http, scope: Scope::Local, class: 1 },
            Element::Endpoint { frontend: http, scope: Scope::Cluster, slot: 258, endpoint },
            Element::Endpoint { frontend: http, scope: Scope::Local, slot: 0, endpoint },
            Element::Affinity { frontend: dns, scope: Scope::Local, timeout: 10_800 },
            Element::AffinePick { frontend: dns, scope: Scope::Local, class: 3 },
            Element::Slot { frontend: dns, scope: Scope::Local, slot: 2, stable: 0x1_2345 },
            Element::StableEndpoint { frontend: dns, scope: Scope::Local, stable: 0x1_2345, endpoint },
            Element::Refused { frontend: frontend(vip, Protocol::Udp, 53), refusal: Refusal::Drop },
            Element::Refused { frontend: frontend(vip, Protocol::Sctp, 99), refusal: Refusal::Reject },
            Element::Restricted { frontend: http },
            Element::Counted { frontend: http },
            Element::Source { frontend: http, prefix: client.parse().unwrap() },
            Element::Vip { address: http.address },
            Element::Announced { prefix: prefix.parse().unwrap() },
            Element::ServiceCidr { prefix: service_cidr.parse().unwrap() },
            Element::Node { slot: 1, address: endpoint.ip() },
            Element::Hairpin { endpoint, protocol: Protocol::Tcp },
        ]);
    }
    elements
}

fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{} differs; UPDATE_GOLDEN=1 rewrites it", path.display());
}

#[test]
fn an_empty_ruleset_is_as_its_golden_file() {
    assert_golden("empty.nft", &Ruleset::new(&RulesetConfig::default()).text(&[]));
}

#[test]
fn one_of_each_element_is_as_its_golden_file() {
    assert_golden("elements.nft", &Ruleset::new(&config()).text(&elements()));
}

#[test]
fn the_ruleset_has_the_same_objects_whatever_the_elements() {
    let ruleset = Ruleset::new(&config());
    let objects = |text: &str| {
        text.lines().filter(|l| l.starts_with('\t') && l.ends_with('{') && !l.contains('=')).count()
    };
    let mut elements = elements();
    // Two chains per timeout of session affinity and table.
    assert_eq!(objects(&ruleset.text(&elements)), objects(&ruleset.text(&[])) + 4);
    elements.retain(|element| !matches!(element, Element::Affinity { .. }));
    assert_eq!(objects(&ruleset.text(&elements)), objects(&ruleset.text(&[])));
    assert_eq!(ruleset.tables[0].sets.len(), SetName::ALL.len());
    assert_eq!(ruleset.tables[0].chains.len(), ruleset.tables[1].chains.len());
}

#[test]
fn the_layout_changes_with_hooks_but_not_with_rules() {
    let layout = |config: &RulesetConfig| Ruleset::new(config).tables.map(|table| table.layout());
    let plain = layout(&RulesetConfig::default());
    assert_eq!(plain, layout(&config()));
    assert_eq!(plain[0], plain[1]);
    let ruleset = Ruleset::new(&config()).with_elements(&elements());
    assert_eq!(ruleset.tables.map(|table| table.layout()), plain, "nor with the timeouts in use");
    let mut ruleset = Ruleset::new(&config());
    ruleset.tables[0].chains[0].base.as_mut().unwrap().priority += 1;
    assert_ne!(ruleset.tables[0].layout(), plain[0]);
}

#[test]
fn without_what_the_kernel_needs_to_pass_on_nothing_is_asked_of_it_and_the_layout_is_the_same() {
    let without = Ruleset::new(&RulesetConfig { hand_over: false, ..config() });
    assert!(!without.text(&elements()).contains("dup to"));
    assert_eq!(
        without.tables.map(|table| table.layout()),
        Ruleset::new(&config()).tables.map(|t| t.layout())
    );
}

#[test]
fn probes_are_let_out_by_one_rule_before_the_translation_and_one_before_the_guard_where_they_are_asked_for() {
    let rulesets = [false, true].map(|probes_pass| Ruleset::new(&RulesetConfig { probes_pass, ..config() }));
    let [plain, probing] = rulesets.clone().map(|ruleset| ruleset.text(&[]));
    assert!(!plain.contains("meta mark 0x00000048"));
    let added: Vec<(&str, &str)> = probing
        .lines()
        .zip(std::iter::once("").chain(probing.lines()))
        .filter(|(line, _)| line.contains("meta mark 0x00000048"))
        .map(|(line, before)| (line.trim(), before.trim()))
        .collect();
    let rule = "meta mark 0x00000048 accept";
    let expected = ["ip", "ip6"].map(|_| {
        [
            (rule.to_owned(), "type nat hook output priority -105; policy accept;".to_owned()),
            (
                rule.to_owned(),
                "ct state untracked meta priority & ff00:0 == fe00:0 meta priority set none accept"
                    .to_owned(),
            ),
        ]
    });
    let added: Vec<_> =
        added.into_iter().map(|(line, before)| (line.to_owned(), before.to_owned())).collect();
    assert_eq!(added, expected.concat());
    let without: Vec<&str> = probing.lines().filter(|line| line.trim() != rule).collect();
    assert_eq!(without, plain.lines().collect::<Vec<_>>(), "nothing else");
    let [plain, probing] = rulesets.map(|ruleset| ruleset.tables.map(|table| table.layout()));
    assert_eq!(plain, probing, "a refill is enough");
}

#[test]
fn every_chain_that_is_gone_to_exists() {
    for table in Ruleset::new(&config()).with_elements(&elements()).tables {
        let names: BTreeSet<&str> = table.chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names.len(), table.chains.len());
        let verdicts =
            table.sets.iter().flat_map(|set| &set.elements).filter_map(|entry| match &entry.data {
                Data::Goto(chain) | Data::Jump(chain) => Some(chain.as_str()),
                _ => None,
            });
        let statements = table.chains.iter().flat_map(|c| &c.rules).flatten().filter_map(|s| match s {
            Statement::Goto(chain) | Statement::Jump(chain) => Some(*chain),
            _ => None,
        });
        for chain in verdicts.chain(statements) {
            assert!(names.contains(chain), "{chain}");
        }
    }
}

#[test]
fn without_a_pod_network_nobody_is_marked_for_being_no_pod() {
    let ruleset = Ruleset::new(&RulesetConfig::default());
    let internal = ruleset.tables[0].chains.iter().find(|chain| chain.name == "internal").unwrap();
    assert!(!internal.rules.iter().flatten().any(|s| matches!(s, Statement::SetMark(_))));
    let external = ruleset.tables[0].chains.iter().find(|chain| chain.name == "external").unwrap();
    assert!(external.rules.iter().flatten().any(|s| matches!(s, Statement::SetMark(_))));
}

#[test]
fn several_pod_networks_must_all_not_contain_a_stranger() {
    let cluster_cidrs = ["10.244.0.0/16", "10.245.0.0/16"].map(|cidr| cidr.parse().unwrap()).into();
    let text =
        Ruleset::new(&RulesetConfig { cluster_cidrs, mark_bit: 3, ..RulesetConfig::default() }).text(&[]);
    assert!(text.contains(
        "ip saddr != 10.244.0.0/16 ip saddr != 10.245.0.0/16 meta mark set meta mark | 0x00000008"
    ));
    assert!(text.contains("meta mark & 0x00000008 == 0x00000008 meta mark set meta mark & 0xfffffff7"));
}

#[test]
fn up_to_64_endpoints_have_a_class_of_their_own_and_more_have_16_slots_each() {
    assert_eq!(class_for(0), 0);
    for endpoints in 1..=1024 {
        let class = class_for(endpoints);
        assert!(is_class(class), "{endpoints}");
        assert!(usize::from(class) == endpoints || usize::from(class) >= 16 * endpoints, "{endpoints}");
    }
    assert_eq!(class_for(65), 2048);
    assert_eq!(class_for(1025), 16384);
    assert_eq!(class_for(usize::MAX), 16384);
}

#[test]
fn an_interval_ends_behind_its_last_address_unless_that_is_the_last_of_all() {
    let end = |prefix: &str| {
        let entry = Entry::from(&Element::Announced { prefix: prefix.parse().unwrap() });
        entry.end().map(|end| end.as_slice().to_vec())
    };
    assert_eq!(end("192.0.2.7/24"), Some(vec![192, 0, 3, 0]));
    assert_eq!(end("255.255.255.0/24"), None);
    assert_eq!(end("::/0"), None);
    assert_eq!(end("2001:db8::/32").unwrap()[..4], [0x20, 0x01, 0x0d, 0xb9]);
}

#[test]
fn an_interval_in_a_concatenation_ends_with_its_last_address() {
    let frontend = frontend("192.0.2.1", Protocol::Udp, 53);
    let entry = |prefix: &str| Entry::from(&Element::Source { frontend, prefix: prefix.parse().unwrap() });
    let bytes = |entry: &Entry| (entry.key.as_slice().to_vec(), entry.last().unwrap().as_slice().to_vec());
    let key = |address: [u8; 4]| [&[192, 0, 2, 1, 17, 0, 0, 0, 0, 53, 0, 0][..], &address].concat();
    assert_eq!(bytes(&entry("203.0.113.7/24")), (key([203, 0, 113, 0]), key([203, 0, 113, 255])));
    assert_eq!(bytes(&entry("0.0.0.0/0")), (key([0; 4]), key([255; 4])));
    assert_eq!(entry("0.0.0.0/0").end(), None);
}

fn affinities(timeouts: impl IntoIterator<Item = u32>) -> Vec<Element> {
    let frontend = frontend("192.0.2.1", Protocol::Tcp, 80);
    let element = |timeout| Element::Affinity { frontend, scope: Scope::Cluster, timeout };
    timeouts.into_iter().map(element).collect()
}

#[test]
fn chains_of_timeouts_come_when_first_used_and_are_bounded() {
    let chains = |timeouts: &Timeouts| timeouts.ruleset().tables[0].chains.len();
    let constants = |timeouts: &Timeouts| timeouts.ruleset().tables[0].sets[0].elements.len();
    let mut timeouts = Timeouts::default();
    assert!(timeouts.add(&affinities([])).is_empty());
    let new = timeouts.add(&affinities([10, 10_800, 10]));
    assert_eq!((chains(&new), constants(&new)), (4, 2));
    assert!(timeouts.add(&affinities([10, 10_800])).is_empty());
    timeouts.add(&affinities(100..162));
    assert_eq!((chains(&timeouts), constants(&timeouts)), (128, 64));
    // Rounded up: to the next, and to a day.
    let text = |new: &Timeouts| format!("{:?}", new.ruleset().tables[0].sets[0].elements);
    let new = timeouts.add(&affinities([50]));
    assert!(text(&new).contains("\"affinity-100\""), "{}", text(&new));
    let new = timeouts.add(&affinities([20_000]));
    assert!(text(&new).contains("\"affinity-86400\""), "{}", text(&new));
    timeouts.add(&affinities(1..80_000));
    assert_eq!(chains(&timeouts), 130);
}

#[test]
fn elements_and_numbers_of_affinity_keep_apart() {
    let value = |element: &Element| match Entry::from(element).data {
        Data::Value(value) => u32::from_ne_bytes(value.as_slice()[..4].try_into().unwrap()),
        other => panic!("{other:?}"),
    };
    let frontend = frontend("192.0.2.1", Protocol::Tcp, 80);
    let timeout = |timeout| value(&Element::Affinity { frontend, scope: Scope::Local, timeout });
    let stable = |stable| value(&Element::Slot { frontend, scope: Scope::Local, slot: 0, stable });
    let class = |class| value(&Element::AffinePick { frontend, scope: Scope::Local, class });
    assert_eq!((timeout(1), timeout(86_400)), (0xfe10_0001, 0xfe11_5180));
    assert_eq!((stable(0), stable(0x7f_ffff)), (0xfe80_0000, 0xfeff_ffff));
    assert_eq!(class(16_384), 0xfe02_4000);
    for number in [timeout(86_400), stable(0x7f_ffff), class(1)] {
        assert_eq!(number & NUMBERS_MASK, NUMBERS);
    }
}
