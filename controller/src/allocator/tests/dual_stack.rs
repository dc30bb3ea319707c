//! The three policies of dual stack, and what happens to them later.

use super::*;

const BOTH: Want = Want::Both { primary: Family::V4 };
const EITHER: Want = Want::BothOrOne { primary: Family::V4 };

fn dual(name: &str, v4: &str, v6: &str) -> Pool {
    pool(name, &[v4, v6])
}

#[test]
fn preferred_dual_stack_takes_a_pool_with_both_before_an_earlier_one_with_one() {
    let pools = [pool("four", &["192.0.2.0/28"]), dual("dual", "192.0.2.16/28", "2001:db8:1::/124")];
    let mut lab = Lab::new(&pools);
    let grant = lab.grant(&wish("one").want(EITHER)).unwrap();
    assert_eq!((grant.assignment.pool.as_str(), grant.lacks), ("dual", None));
    let mut lab = Lab::new(&pools[..1]);
    let grant = lab.grant(&wish("one").want(EITHER)).unwrap();
    assert_eq!(grant.lacks, Some(Reason::OneFamily("four".to_owned())));
}

#[test]
fn preferred_dual_stack_takes_the_primary_family_else_the_other() {
    let pools = [pool("six", &["2001:db8:1::/124"]), pool("four", &["192.0.2.0/28"])];
    assert_eq!(Lab::new(&pools).give(&wish("one").want(EITHER)).unwrap(), "192.0.2.0");
    assert_eq!(Lab::new(&pools[..1]).give(&wish("one").want(EITHER)).unwrap(), "2001:db8:1::");
    let six_first = Want::BothOrOne { primary: Family::V6 };
    assert_eq!(Lab::new(&pools).give(&wish("one").want(six_first)).unwrap(), "2001:db8:1::");
}

#[test]
fn the_second_address_is_added_from_the_same_pool_as_soon_as_there_is_one() {
    let mut lab = Lab::new(&[
        dual("a", "192.0.2.0/28", "2001:db8:1::/128"),
        dual("b", "192.0.2.16/28", "2001:db8:2::/124"),
    ]);
    lab.settle(&wish("holder").want(Want::One(Family::V6)).pool("a")).unwrap();
    let one = wish("one").want(EITHER).pool("a");
    let grant = lab.grant(&one).unwrap();
    assert_eq!(grant.assignment.addresses, ["192.0.2.0".parse::<IpAddr>().unwrap()]);
    assert!(matches!(grant.lacks, Some(Reason::Exhausted { .. })), "{grant:?}");
    // The request for a pool is dropped: still it does not jump to the pool that has both.
    assert_eq!(lab.give(&wish("one").want(EITHER)).unwrap(), "192.0.2.0");
    let frees = lab.allocator.frees();
    lab.release(&wish("holder"));
    assert_ne!(lab.allocator.frees(), frees);
    assert_eq!(lab.give(&wish("one").want(EITHER)).unwrap(), "192.0.2.0 2001:db8:1::");
}

#[test]
fn a_pool_that_becomes_dual_adds_the_second_address() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    let one = wish("one").want(EITHER);
    lab.settle(&one).unwrap();
    lab.reconfigure(&[dual("a", "192.0.2.0/28", "2001:db8:1::/124")], HeraldOptions::default(), &[&one]);
    assert_eq!(lab.give(&one).unwrap(), "192.0.2.0 2001:db8:1::");
}

#[test]
fn a_pool_that_loses_a_family_moves_the_pair_to_a_dual_pool() {
    let dual_b = dual("b", "192.0.2.16/28", "2001:db8:2::/124");
    for want in [BOTH, EITHER] {
        let mut lab = Lab::new(&[dual("a", "192.0.2.0/28", "2001:db8:1::/124"), dual_b.clone()]);
        let one = wish("one").want(want);
        assert_eq!(lab.settle(&one).unwrap(), "192.0.2.0 2001:db8:1::");
        lab.reconfigure(&[pool("a", &["192.0.2.0/28"]), dual_b.clone()], HeraldOptions::default(), &[&one]);
        assert_eq!(lab.give(&one).unwrap(), "192.0.2.16 2001:db8:2::");
    }
}

#[test]
fn without_a_dual_pool_left_preferred_dual_stack_keeps_the_address_that_it_may_and_required_waits() {
    for (want, kept) in [(EITHER, true), (BOTH, false)] {
        let mut lab = Lab::new(&[dual("a", "192.0.2.0/28", "2001:db8:1::/124")]);
        lab.settle(&wish("before")).unwrap();
        let one = wish("one").want(want);
        assert_eq!(lab.settle(&one).unwrap(), "192.0.2.1 2001:db8:1::");
        lab.release(&wish("before"));
        lab.now += COOL_DOWN;
        lab.reconfigure(&[pool("a", &["192.0.2.0/28"])], HeraldOptions::default(), &[&one]);
        assert_eq!(lab.give(&one).ok(), kept.then(|| "192.0.2.1".to_owned()), "no needless move");
    }
}

#[test]
fn of_a_pair_only_the_address_that_must_go_is_replaced() {
    let pools = [dual("a", "192.0.2.0/28", "2001:db8:1::/124")];
    for want in [BOTH, EITHER] {
        let mut lab = Lab::new(&pools);
        lab.settle(&wish("one").want(want)).unwrap();
        let narrower = [dual("a", "192.0.2.8/29", "2001:db8:1::/124")];
        lab.reconfigure(&narrower, HeraldOptions::default(), &[&wish("one").want(want)]);
        assert_eq!(lab.give(&wish("one").want(want)).unwrap(), "192.0.2.8 2001:db8:1::");
    }
}

#[test]
fn required_dual_stack_has_both_or_nothing() {
    let mut lab =
        Lab::new(&[dual("a", "192.0.2.0/28", "2001:db8:1::/128"), pool("six", &["2001:db8:2::/124"])]);
    lab.settle(&wish("one").want(BOTH)).unwrap();
    let reason = lab.give(&wish("two").want(BOTH)).unwrap_err();
    assert!(
        reason.to_string().contains("no pair of an IPv4 and an IPv6 address is free in a, six"),
        "{reason}"
    );
}

#[test]
fn two_addresses_that_are_requested_may_come_from_two_pools() {
    let mut lab = Lab::new(&[pool("four", &["192.0.2.0/28"]), pool("six", &["2001:db8:1::/124"])]);
    let asks = wish("one").want(BOTH).addresses(&["192.0.2.5", "2001:db8:1::5"]);
    assert_eq!(lab.give(&asks).unwrap(), "192.0.2.5 2001:db8:1::5");
}

#[test]
fn a_preferred_dual_stack_service_must_request_both_or_none() {
    let mut lab = Lab::new(&[dual("a", "192.0.2.0/28", "2001:db8:1::/124")]);
    let one = wish("one").want(EITHER).addresses(&["192.0.2.5"]);
    assert_eq!(lab.give(&one), Err(Reason::FamilyMismatch));
}
