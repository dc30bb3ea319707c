//! Which pool: MetalLB's service allocation, priorities, requests; and pools that change.

use herald_config::{LabelSelector, ServiceAllocation};

use super::*;

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: labels(key, value), ..LabelSelector::default() }
}

fn pinned(name: &str, range: &str, allocation: ServiceAllocation) -> Pool {
    Pool { allocation: Some(allocation), ..pool(name, &[range]) }
}

fn for_namespace(namespace: &str, priority: i32) -> ServiceAllocation {
    ServiceAllocation { priority, namespaces: [namespace.to_owned()].into(), ..ServiceAllocation::default() }
}

#[test]
fn pools_for_a_namespace_come_first_by_priority_then_those_for_all_in_their_order() {
    let pools = [
        pool("all", &["192.0.2.0/32"]),
        pinned("last", "192.0.2.1/32", for_namespace("shop", 0)),
        pinned("second", "192.0.2.2/32", for_namespace("shop", 20)),
        pinned("first", "192.0.2.3/32", for_namespace("shop", 10)),
        pinned("others", "192.0.2.4/32", for_namespace("lab", 1)),
        pool("more", &["192.0.2.5/32"]),
    ];
    let mut lab = Lab::new(&pools);
    let order = ["192.0.2.3", "192.0.2.2", "192.0.2.1", "192.0.2.0", "192.0.2.5"];
    for (n, address) in order.into_iter().enumerate() {
        assert_eq!(lab.give(&wish(&format!("shop/web-{n}"))).unwrap(), address);
    }
    let reason = lab.give(&wish("shop/web-5")).unwrap_err();
    assert!(reason.to_string().contains("free in first, second, last, all, more"), "{reason}");
}

#[test]
fn equal_pools_are_tried_in_the_order_of_the_configuration() {
    let pools = [
        pinned("b", "192.0.2.1/32", for_namespace("shop", 7)),
        pinned("a", "192.0.2.0/32", for_namespace("shop", 7)),
    ];
    let mut lab = Lab::new(&pools);
    assert_eq!(lab.give(&wish("shop/one")).unwrap(), "192.0.2.1");
    assert_eq!(lab.give(&wish("shop/two")).unwrap(), "192.0.2.0");
}

#[test]
fn a_pool_serves_namespaces_by_name_or_label_and_services_by_label() {
    let allocation = ServiceAllocation {
        namespaces: ["shop".to_owned()].into(),
        namespace_selectors: vec![selector("tenant", "a"), selector("tenant", "b")],
        service_selectors: vec![selector("tier", "web"), selector("tier", "mail")],
        ..ServiceAllocation::default()
    };
    let pools = [pinned("some", "192.0.2.0/28", allocation)];
    let table = [
        (wish("shop/one").labelled("tier", "web"), true),
        (wish("shop/one").labelled("tier", "db"), false),
        (wish("shop/one"), false),
        (wish("lab/one").labelled("tier", "mail").in_namespace_labelled("tenant", "b"), true),
        (wish("lab/one").labelled("tier", "mail").in_namespace_labelled("tenant", "c"), false),
        (wish("lab/one").labelled("tier", "mail"), false),
    ];
    for (wish, served) in table {
        assert_eq!(Lab::new(&pools).give(&wish).is_ok(), served, "{wish:?}");
    }
}

#[test]
fn a_pool_with_a_priority_alone_serves_all_before_pools_without() {
    let allocation = ServiceAllocation { priority: 50, ..ServiceAllocation::default() };
    let mut lab = Lab::new(&[pool("plain", &["192.0.2.0/32"]), pinned("prior", "192.0.2.1/32", allocation)]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.1");
}

#[test]
fn a_request_for_a_pool_or_an_address_does_not_bypass_the_service_allocation() {
    let mut lab = Lab::new(&[
        pinned("shop", "192.0.2.0/28", for_namespace("shop", 0)),
        pool("all", &["192.0.2.16/28"]),
    ]);
    let forbidden = Err(Reason::PoolForOthers("shop".to_owned()));
    assert_eq!(lab.give(&wish("lab/by-pool").pool("shop")), forbidden);
    assert_eq!(lab.give(&wish("lab/by-address").addresses(&["192.0.2.5"])), forbidden);
    assert_eq!(lab.give(&wish("shop/by-pool").pool("shop")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("shop/by-address").addresses(&["192.0.2.5"])).unwrap(), "192.0.2.5");
}

#[test]
fn a_pool_for_a_namespace_without_auto_assign_is_given_from_only_when_named() {
    let mut manual = pinned("manual", "192.0.2.0/28", for_namespace("shop", 1));
    manual.auto_assign = false;
    let mut lab = Lab::new(&[manual, pool("all", &["192.0.2.16/28"])]);
    assert_eq!(lab.give(&wish("shop/one")).unwrap(), "192.0.2.16");
    assert_eq!(lab.give(&wish("shop/two").pool("manual")).unwrap(), "192.0.2.0");
}

#[test]
fn who_is_not_for_its_pool_any_more_moves_and_is_told_why() {
    let open = [pool("a", &["192.0.2.0/28"]), pool("b", &["192.0.2.16/28"])];
    let mut lab = Lab::new(&open);
    let (shop, other) = (wish("shop/one"), wish("lab/one"));
    lab.settle(&shop).unwrap();
    lab.settle(&other).unwrap();
    let closed = [pinned("a", "192.0.2.0/28", for_namespace("shop", 0)), open[1].clone()];
    lab.reconfigure(&closed, HeraldOptions::default(), &[&shop, &other]);
    assert_eq!(lab.give(&shop).unwrap(), "192.0.2.0");
    let grant = lab.grant(&other).unwrap();
    assert_eq!(grant.assignment.pool, "b");
    assert_eq!(grant.lost, Some(Reason::PoolForOthers("a".to_owned())));
}

#[test]
fn a_pool_that_goes_moves_its_services_and_a_renamed_one_does_not() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"]), pool("b", &["192.0.2.16/28"])]);
    let (one, two) = (wish("one"), wish("two"));
    lab.settle(&one).unwrap();
    lab.settle(&two).unwrap();
    let renamed = [pool("new", &["192.0.2.0/28"]), pool("b", &["192.0.2.16/28"])];
    lab.reconfigure(&renamed, HeraldOptions::default(), &[&one, &two]);
    let grant = lab.grant(&one).unwrap();
    assert_eq!((grant.assignment.pool.as_str(), grant.lost), ("new", None));
    lab.reconfigure(&renamed[1..], HeraldOptions::default(), &[&one, &two]);
    let grant = lab.grant(&one).unwrap();
    assert_eq!(grant.assignment.addresses, ["192.0.2.16".parse::<IpAddr>().unwrap()]);
    assert_eq!(grant.lost, Some(Reason::OutsidePools("192.0.2.0".parse().unwrap())));
}

#[test]
fn avoid_buggy_ips_set_later_moves_only_who_has_such_an_address() {
    let mut pools = [pool("a", &["192.0.2.0/24"])];
    let mut lab = Lab::new(&pools);
    let (one, two) = (wish("one"), wish("two"));
    assert_eq!(lab.settle(&one).unwrap(), "192.0.2.0");
    assert_eq!(lab.settle(&two).unwrap(), "192.0.2.1");
    pools[0].avoid_buggy_ips = true;
    lab.reconfigure(&pools, HeraldOptions::default(), &[&one, &two]);
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.2");
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.1");
}

#[test]
fn in_a_pool_the_ranges_are_used_in_the_order_in_which_they_are_written() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.9/32", "192.0.2.0/31", "2001:db8:1::/126"])]);
    for (n, address) in ["192.0.2.9", "192.0.2.0", "192.0.2.1"].into_iter().enumerate() {
        assert_eq!(lab.give(&wish(&format!("web-{n}"))).unwrap(), address);
    }
}
