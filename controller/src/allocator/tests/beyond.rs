//! What MetalLB does not have: quotas, reservations, pools of any size, claimed externalIPs.

use herald_config::{Quotas, Reservation};

use super::*;
use crate::reason::Clash;

fn quota(namespace: &str, limit: u32) -> HeraldOptions {
    let quotas = Quotas { others: None, namespaces: [(namespace.to_owned(), limit)].into() };
    HeraldOptions { quotas, ..HeraldOptions::default() }
}

fn reserved(ranges: &[&str], namespace: Option<&str>, service: Option<&str>) -> HeraldOptions {
    let reservation = Reservation {
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        namespace: namespace.map(str::to_owned),
        service: service.map(str::to_owned),
    };
    HeraldOptions { reservations: vec![reservation], ..HeraldOptions::default() }
}

#[test]
fn a_namespace_is_given_no_more_than_its_quota_and_is_told_so() {
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/28"])], quota("shop", 2));
    lab.settle(&wish("shop/one")).unwrap();
    lab.settle(&wish("shop/two")).unwrap();
    let reason = lab.give(&wish("shop/three")).unwrap_err();
    assert_eq!(reason, Reason::Quota { namespace: "shop".to_owned(), limit: 2 });
    assert!(reason.to_string().contains("raise herald.quotas"), "{reason}");
    assert_eq!(lab.give(&wish("shop/four").addresses(&["192.0.2.9"])), Err(reason), "nor by request");
    lab.settle(&wish("lab/one")).unwrap();
    let frees = lab.allocator.frees();
    lab.release(&wish("shop/one"));
    assert_ne!(lab.allocator.frees(), frees);
    assert!(lab.give(&wish("shop/three")).is_ok());
}

#[test]
fn the_quota_of_all_others_is_each_ones_own() {
    let quotas = Quotas { others: Some(1), namespaces: [("big".to_owned(), 2)].into() };
    let mut lab =
        Lab::with(&[pool("a", &["192.0.2.0/28"])], HeraldOptions { quotas, ..HeraldOptions::default() });
    for (service, given) in [
        ("a/one", true),
        ("a/two", false),
        ("b/one", true),
        ("big/one", true),
        ("big/two", true),
        ("big/three", false),
    ] {
        assert_eq!(lab.give(&wish(service)).is_ok(), given, "{service}");
    }
}

#[test]
fn a_shared_address_counts_once() {
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/28"])], quota("shop", 1));
    lab.settle(&wish("shop/one").shares("k", 80, "")).unwrap();
    assert_eq!(lab.settle(&wish("shop/two").shares("k", 81, "")).unwrap(), "192.0.2.0");
    assert!(lab.give(&wish("shop/three").shares("k", 80, "")).is_err());
    lab.release(&wish("shop/one"));
    assert!(lab.give(&wish("shop/four")).is_err(), "the other one still holds it");
}

#[test]
fn a_second_address_needs_room_in_the_quota() {
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/28", "2001:db8:1::/124"])], quota("shop", 1));
    let grant = lab.grant(&wish("shop/one").want(Want::BothOrOne { primary: Family::V4 })).unwrap();
    assert_eq!(grant.assignment.addresses.len(), 1);
    assert!(matches!(grant.lacks, Some(Reason::Quota { .. })), "{grant:?}");
    lab.release(&wish("shop/one"));
    assert!(lab.give(&wish("shop/two").want(Want::Both { primary: Family::V4 })).is_err());
}

#[test]
fn a_lower_quota_takes_nothing_away_and_lets_services_move() {
    let pools = [pool("a", &["192.0.2.0/28"]), pool("b", &["192.0.2.16/28"])];
    let mut lab = Lab::new(&pools);
    let (one, two) = (wish("shop/one"), wish("shop/two"));
    lab.settle(&one).unwrap();
    lab.settle(&two).unwrap();
    lab.reconfigure(&pools, quota("shop", 0), &[&one, &two]);
    assert_eq!(lab.settle(&one).unwrap(), "192.0.2.0");
    assert_eq!(lab.settle(&wish("shop/two").pool("b")).unwrap(), "192.0.2.16");
    assert!(lab.give(&wish("shop/three")).is_err());
}

#[test]
fn reserved_addresses_are_given_only_to_whom_they_are_reserved_for_and_to_them_first() {
    let mut lab = Lab::with(
        &[pool("a", &["192.0.2.0/28"])],
        reserved(&["192.0.2.0/31", "192.0.2.6/32"], Some("shop"), None),
    );
    assert_eq!(lab.give(&wish("lab/one")).unwrap(), "192.0.2.2");
    for (n, address) in ["192.0.2.0", "192.0.2.1", "192.0.2.6", "192.0.2.3"].into_iter().enumerate() {
        assert_eq!(lab.give(&wish(&format!("shop/web-{n}"))).unwrap(), address);
    }
    let reason = lab.give(&wish("lab/two").addresses(&["192.0.2.1"])).unwrap_err();
    assert_eq!(reason, Reason::Reserved("192.0.2.1".parse().unwrap(), "namespace shop".to_owned()));
    assert!(reason.to_string().contains("herald.reservations"), "{reason}");
}

#[test]
fn an_address_reserved_for_a_service_waits_for_it() {
    let options = reserved(&["192.0.2.0/32"], Some("shop"), Some("web"));
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/31"])], options);
    assert_eq!(lab.give(&wish("shop/other")).unwrap(), "192.0.2.1");
    assert!(lab.give(&wish("shop/more")).is_err());
    assert_eq!(lab.give(&wish("shop/web")).unwrap(), "192.0.2.0");
}

#[test]
fn what_is_reserved_for_nobody_is_given_to_nobody_and_not_counted() {
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/30"])], reserved(&["192.0.2.0-192.0.2.2"], None, None));
    assert_eq!(lab.allocator.usage().next().unwrap().1[0].size(), 1);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.3");
    assert!(lab.give(&wish("two")).is_err());
    assert!(lab.give(&wish("three").addresses(&["192.0.2.1"])).is_err());
}

#[test]
fn a_reservation_takes_nothing_from_who_has_it() {
    let pools = [pool("a", &["192.0.2.0/28"])];
    let mut lab = Lab::new(&pools);
    let one = wish("lab/one");
    lab.settle(&one).unwrap();
    lab.reconfigure(&pools, reserved(&["192.0.2.0/32"], Some("shop"), None), &[&one]);
    assert_eq!(lab.settle(&one).unwrap(), "192.0.2.0");
    lab.release(&one);
    lab.now += COOL_DOWN;
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.1");
    assert_eq!(lab.give(&wish("shop/web")).unwrap(), "192.0.2.0");
}

#[test]
fn a_reserved_address_that_cools_is_given_early_only_to_whom_it_is_reserved_for() {
    let options = reserved(&["192.0.2.0/32"], Some("shop"), None);
    let mut lab = Lab::with(&[pool("a", &["192.0.2.0/32"])], options);
    lab.give(&wish("shop/one")).unwrap();
    lab.release(&wish("shop/one"));
    assert!(lab.give(&wish("lab/one")).is_err());
    assert_eq!(lab.give(&wish("shop/two")).unwrap(), "192.0.2.0");
}

#[test]
fn a_pool_of_any_size_costs_what_is_in_use_of_it() {
    let six = |n: usize| wish(&format!("service-{n}")).want(Want::One(Family::V6));
    let mut lab = Lab::new(&[pool("huge", &["2001:db8:1::/64", "2001:db8:8000::/33"])]);
    let [_, usage] = lab.allocator.usage().next().unwrap().1;
    assert_eq!((usage.size(), usage.available()), (i64::MAX, i64::MAX));
    let start = Instant::now();
    // Addresses that were asked for, in the middle of nowhere, are stepped over and leave nothing behind.
    lab.give(&wish("asks").want(Want::One(Family::V6)).addresses(&["2001:db8:1::ffff:ffff"])).unwrap();
    for n in 0..5_000 {
        lab.settle(&six(n)).unwrap();
    }
    // One goes and comes, many times: no walk over those that stay.
    for _ in 0..5_000 {
        lab.release(&six(7));
        lab.now += COOL_DOWN;
        assert_eq!(lab.settle(&six(7)).unwrap(), "2001:db8:1::7");
        assert_eq!(lab.settle(&six(5_000)).unwrap(), "2001:db8:1::1388");
        lab.release(&six(5_000));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for n in 0..5_000 {
        lab.release(&six(n));
    }
    lab.now += COOL_DOWN;
    lab.allocator.cool(lab.now);
    assert_eq!(lab.allocator.pools[0].remembered(), 0, "nothing is remembered of what is free again");
}

#[test]
fn an_external_ip_inside_a_pool_is_given_to_nobody_else() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/30"])]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let external = [address("192.0.2.0"), address("192.0.2.0"), address("203.0.113.1")];
    let owner = wish("external");
    assert_eq!(lab.allocator.claim(&owner.service, &external, &owner.terms, lab.now), []);
    assert_eq!(lab.in_use(0), [1, 0]);
    assert_eq!(lab.settle(&wish("one")).unwrap(), "192.0.2.1");
    let reason = lab.give(&wish("two").addresses(&["192.0.2.0"])).unwrap_err();
    assert_eq!(reason, Reason::InUse(external[0], "default/external".to_owned(), Clash::External));
    assert_eq!(lab.give(&owner.clone().addresses(&["192.0.2.0"])).unwrap(), "192.0.2.0", "its own");
    lab.release(&owner);
    lab.now += COOL_DOWN;
    assert_eq!(lab.give(&wish("two")).unwrap(), "192.0.2.0");
    assert_eq!(lab.in_use(0), [2, 0]);
}

#[test]
fn an_external_ip_that_a_service_holds_already_takes_nothing_from_it() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/30"])]);
    let one = wish("one");
    lab.settle(&one).unwrap();
    let external = wish("external");
    let clashes =
        lab.allocator.claim(&external.service, &["192.0.2.0".parse().unwrap()], &external.terms, lab.now);
    assert_eq!(clashes, [("192.0.2.0".parse().unwrap(), one.service.clone())]);
    assert_eq!(lab.settle(&one).unwrap(), "192.0.2.0");
    // Both go: then it is free.
    lab.release(&one);
    assert_eq!(lab.in_use(0), [1, 0]);
    assert_eq!(lab.allocator.claim(&external.service, &[], &external.terms, lab.now), []);
    assert_eq!(lab.in_use(0), [0, 0]);
}
