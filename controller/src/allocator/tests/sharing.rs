//! Sharing by key: who may join, who is told what, and who has to go.

use herald_config::Sharing;

use super::*;
use crate::reason::Clash;

fn cluster() -> HeraldOptions {
    HeraldOptions { sharing: Sharing::Cluster, ..HeraldOptions::default() }
}

#[test]
fn a_request_for_a_shared_address_is_given_or_names_the_holder_and_the_rule() {
    let pools = [pool("a", &["192.0.2.0/28"])];
    let holder = wish("holder").shares("k", 80, "").addresses(&["192.0.2.3"]);
    let asks = |name: &str, key: &str, port: i32, backend: &str| {
        wish(name).shares(key, port, backend).addresses(&["192.0.2.3"])
    };
    let table = [
        (asks("ok", "k", 443, ""), None),
        (asks("key", "other", 443, ""), Some((Clash::Key, "the same metallb.io/allow-shared-ip"))),
        (asks("port", "k", 80, ""), Some((Clash::Port("TCP/80".to_owned()), "the port TCP/80"))),
        (
            asks("policy", "k", 443, "Local,a=b"),
            Some((Clash::TrafficPolicy, "externalTrafficPolicy Cluster")),
        ),
        (asks("other/namespace", "k", 443, ""), Some((Clash::Namespace, "herald.sharing: cluster"))),
        (wish("none").addresses(&["192.0.2.3"]), Some((Clash::Key, "allow-shared-ip on both"))),
    ];
    for (wish, expected) in table {
        let mut lab = Lab::new(&pools);
        lab.settle(&holder).unwrap();
        match (lab.give(&wish), expected) {
            (Ok(given), None) => assert_eq!(given, "192.0.2.3"),
            (Err(Reason::InUse(address, by, clash)), Some((why, words))) => {
                assert_eq!((by.as_str(), &clash), ("default/holder", &why));
                let text = Reason::InUse(address, by, clash).to_string();
                assert!(text.contains("192.0.2.3 was requested but default/holder has it"), "{text}");
                assert!(text.contains(words), "{text}");
            }
            (result, expected) => panic!("{wish:?}: {result:?}, not {expected:?}"),
        }
    }
}

#[test]
fn the_same_port_with_another_protocol_may_be_shared() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    let tcp = wish("tcp").shares("dns", 53, "");
    let mut udp = wish("udp").shares("dns", 53, "");
    udp.terms.ports = [("UDP".to_owned(), 53)].into();
    assert_eq!(lab.give(&tcp).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&udp).unwrap(), "192.0.2.0");
}

#[test]
fn sharing_takes_a_shared_address_before_a_higher_free_one_and_after_a_lower() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    lab.settle(&wish("low")).unwrap();
    lab.settle(&wish("holder").shares("k", 80, "")).unwrap();
    assert_eq!(lab.settle(&wish("joins").shares("k", 81, "")).unwrap(), "192.0.2.1");
    lab.release(&wish("low"));
    lab.now += COOL_DOWN;
    assert_eq!(lab.give(&wish("lower").shares("k", 82, "")).unwrap(), "192.0.2.0", "as MetalLB does");
}

#[test]
fn each_address_of_two_families_is_checked() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/31", "2001:db8:1::/127"])]);
    let both = Want::Both { primary: Family::V4 };
    assert_eq!(lab.give(&wish("one").want(both).shares("k", 80, "")).unwrap(), "192.0.2.0 2001:db8:1::");
    let six = wish("six").want(Want::One(Family::V6)).shares("k", 81, "");
    assert_eq!(lab.give(&six).unwrap(), "2001:db8:1::");
    assert_eq!(lab.give(&wish("two").want(both).shares("k", 81, "")).unwrap(), "192.0.2.0 2001:db8:1::1");
}

#[test]
fn sharing_is_confined_to_a_namespace_unless_allowed() {
    let pools = [pool("a", &["192.0.2.0/28"])];
    let (one, two) = (wish("shop/one").shares("k", 80, ""), wish("lab/two").shares("k", 81, ""));
    let mut lab = Lab::new(&pools);
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.1");
    let mut lab = Lab::with(&pools, cluster());
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.0");
}

#[test]
fn what_two_namespaces_share_already_stays_shared() {
    let pools = [pool("a", &["192.0.2.0/28"])];
    let (one, two) = (wish("shop/one").shares("k", 80, ""), wish("lab/two").shares("k", 81, ""));
    let mut lab = Lab::with(&pools, cluster());
    lab.settle(&one).unwrap();
    lab.settle(&two).unwrap();
    lab.reconfigure(&pools, HeraldOptions::default(), &[&one, &two]);
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("lab/three").shares("k", 82, "")).unwrap(), "192.0.2.1", "nobody joins");
}

#[test]
fn a_co_holder_that_changes_its_policy_loses_the_address_and_the_other_keeps_it() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    let (one, two) = (wish("one").shares("k", 80, ""), wish("two").shares("k", 81, ""));
    lab.settle(&one).unwrap();
    lab.settle(&two).unwrap();
    let grant = lab.grant(&wish("two").shares("k", 81, "Local,a=b")).unwrap();
    assert_eq!(grant.assignment.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert!(matches!(grant.lost, Some(Reason::InUse(_, _, Clash::TrafficPolicy))), "{grant:?}");
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.0");
}

#[test]
fn a_service_of_many_keys_costs_no_walk_over_the_pool() {
    let mut lab = Lab::new(&[pool("a", &["2001:db8:1::/64"])]);
    for n in 0..2_000 {
        let wish = wish(&format!("service-{n}")).want(Want::One(Family::V6));
        lab.give(&wish.shares(&format!("key-{}", n % 500), n / 500, "")).unwrap();
    }
    assert_eq!(lab.in_use(0), [0, 500]);
}
