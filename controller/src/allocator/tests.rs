use std::collections::BTreeMap;
use std::time::Duration;

use herald_config::Advertisement;
use proptest::prelude::*;

use super::*;

mod beyond;
mod dual_stack;
mod pools;
mod sharing;

const COOL_DOWN: Duration = Duration::from_secs(30);

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.to_owned(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        allocation: None,
        advertisements: vec![Advertisement::default()],
        layer2: Vec::new(),
    }
}

/// A Service's demand, owned.
#[derive(Debug, Clone)]
struct Wish {
    service: ObjectName,
    want: Want,
    request: Request,
    terms: Terms,
    labels: Labels,
    namespace: BTreeMap<String, String>,
}

/// A Service of the namespace `default`, or of the one before a slash.
fn wish(name: &str) -> Wish {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    Wish {
        service: ObjectName::new(namespace, name),
        want: Want::One(Family::V4),
        request: Request::default(),
        terms: Terms::default(),
        labels: Labels::default(),
        namespace: BTreeMap::new(),
    }
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

impl Wish {
    fn want(mut self, want: Want) -> Self {
        self.want = want;
        self
    }

    fn addresses(mut self, addresses: &[&str]) -> Self {
        self.request.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self
    }

    fn pool(mut self, pool: &str) -> Self {
        self.request.pool = Some(pool.to_owned());
        self
    }

    fn shares(mut self, key: &str, port: i32, backend: &str) -> Self {
        self.terms = Terms {
            key: Some(key.to_owned()),
            ports: [("TCP".to_owned(), port)].into(),
            backend: backend.to_owned(),
        };
        self
    }

    fn labelled(mut self, key: &str, value: &str) -> Self {
        self.labels = labels(key, value).into();
        self
    }

    fn in_namespace_labelled(mut self, key: &str, value: &str) -> Self {
        self.namespace = labels(key, value);
        self
    }

    fn demand(&self) -> Demand<'_> {
        Demand {
            service: &self.service,
            want: self.want,
            request: &self.request,
            terms: &self.terms,
            labels: &self.labels,
            namespace: &self.namespace,
        }
    }
}

struct Lab {
    allocator: Allocator,
    now: Instant,
}

impl Lab {
    fn new(pools: &[Pool]) -> Self {
        Self::with(pools, HeraldOptions::default())
    }

    fn with(pools: &[Pool], options: HeraldOptions) -> Self {
        let options = HeraldOptions { cool_down: COOL_DOWN, ..options };
        Self { allocator: Allocator::new(pools, &options), now: Instant::now() }
    }

    /// Another configuration, as the planner takes it: who holds something keeps it where it may.
    fn reconfigure(&mut self, pools: &[Pool], options: HeraldOptions, wishes: &[&Wish]) {
        let mut other = Self::with(pools, options).allocator;
        other.keep_cooling(&self.allocator);
        for wish in wishes {
            if let Some(held) = self.allocator.assignment(&wish.service) {
                other.adopt(wish.demand(), &held.addresses);
            }
        }
        self.allocator = other;
    }

    fn grant(&mut self, wish: &Wish) -> Result<Grant, Reason> {
        self.allocator.converge(wish.demand(), self.now)
    }

    fn give(&mut self, wish: &Wish) -> Result<String, Reason> {
        let addresses = self.grant(wish)?.assignment.addresses;
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Ok(addresses.join(" "))
    }

    /// The Service is given what it wishes and its status shows it.
    fn settle(&mut self, wish: &Wish) -> Result<String, Reason> {
        let given = self.give(wish)?;
        let addresses: Vec<IpAddr> = given.split(' ').map(|address| address.parse().unwrap()).collect();
        self.allocator.settle(&wish.service, addresses.into_iter(), self.now);
        Ok(given)
    }

    fn in_use(&self, pool: usize) -> [u64; 2] {
        self.allocator.usage().nth(pool).unwrap().1.map(|usage| usage.in_use)
    }

    fn release(&mut self, wish: &Wish) {
        self.allocator.release(&wish.service, self.now);
    }
}

#[test]
fn the_lowest_free_address_of_the_first_pool_is_given() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/31"]), pool("b", &["192.0.2.16/28"])]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("two")).unwrap(), "192.0.2.1");
    assert_eq!(lab.give(&wish("three")).unwrap(), "192.0.2.16");
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.0");
}

#[test]
fn an_adopted_address_is_not_given() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/30"])]);
    lab.allocator.adopt(wish("old").demand(), &["192.0.2.0".parse().unwrap()]);
    assert_eq!(lab.give(&wish("new")).unwrap(), "192.0.2.1");
    assert_eq!(lab.give(&wish("old")).unwrap(), "192.0.2.0");
}

#[test]
fn a_freed_address_is_given_again_only_after_the_cool_down() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/30"])]);
    lab.give(&wish("one")).unwrap();
    lab.release(&wish("one"));
    assert_eq!(lab.give(&wish("two")).unwrap(), "192.0.2.1");
    lab.now += COOL_DOWN;
    assert_eq!(lab.give(&wish("three")).unwrap(), "192.0.2.0");
}

#[test]
fn when_nothing_else_is_left_what_cools_longest_is_given() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/31"])]);
    lab.give(&wish("one")).unwrap();
    lab.give(&wish("two")).unwrap();
    lab.release(&wish("two"));
    lab.now += Duration::from_secs(1);
    lab.release(&wish("one"));
    assert_eq!(lab.give(&wish("three")).unwrap(), "192.0.2.1");
    assert_eq!(lab.give(&wish("four")).unwrap(), "192.0.2.0");
    assert!(matches!(lab.give(&wish("five")), Err(Reason::Exhausted { .. })));
}

#[test]
fn a_full_pool_says_so_and_gives_as_soon_as_one_frees() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.7/32"])]);
    lab.give(&wish("one")).unwrap();
    let reason = lab.give(&wish("two")).unwrap_err();
    assert!(reason.to_string().contains("free in a"), "{reason}");
    let frees = lab.allocator.frees();
    lab.release(&wish("one"));
    assert_ne!(lab.allocator.frees(), frees);
    assert_eq!(lab.give(&wish("two")).unwrap(), "192.0.2.7");
}

#[test]
fn an_address_that_is_left_stays_reserved_until_the_status_does_not_show_it() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/31"])]);
    lab.give(&wish("one")).unwrap();
    assert_eq!(lab.give(&wish("one").addresses(&["192.0.2.1"])).unwrap(), "192.0.2.1");
    assert!(lab.give(&wish("two")).is_err());
    let shown = ["192.0.2.0".parse().unwrap()];
    lab.allocator.settle(&wish("one").service, shown.into_iter(), lab.now);
    assert!(lab.give(&wish("two")).is_err());
    let shown = ["192.0.2.1".parse().unwrap()];
    lab.allocator.settle(&wish("one").service, shown.into_iter(), lab.now);
    assert_eq!(lab.give(&wish("two")).unwrap(), "192.0.2.0");
}

#[test]
fn buggy_addresses_are_left_out_and_refused() {
    let mut buggy = pool("a", &["192.0.2.0/24"]);
    buggy.avoid_buggy_ips = true;
    let mut lab = Lab::new(&[buggy]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.1");
    let address = "192.0.2.255".parse().unwrap();
    assert_eq!(lab.give(&wish("two").addresses(&["192.0.2.255"])), Err(Reason::Buggy(address)));
    let [v4, v6] = lab.allocator.usage().next().unwrap().1;
    assert_eq!((v4.size(), v4.available(), v6.size()), (254, 253, 0));
}

#[test]
fn pools_without_auto_assign_are_given_from_only_when_named() {
    let mut reserved = pool("reserved", &["192.0.2.0/28"]);
    reserved.auto_assign = false;
    let mut lab = Lab::new(&[reserved, pool("a", &["192.0.2.16/28"])]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.16");
    assert_eq!(lab.give(&wish("two").pool("reserved")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("three").addresses(&["192.0.2.5"])).unwrap(), "192.0.2.5");
    assert_eq!(lab.give(&wish("four").pool("none")), Err(Reason::UnknownPool("none".to_owned())));
}

#[test]
fn another_requested_pool_moves_the_service() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"]), pool("b", &["192.0.2.16/28"])]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("one").pool("b")).unwrap(), "192.0.2.16");
    let both = wish("two").pool("a").addresses(&["192.0.2.17"]);
    assert!(matches!(lab.give(&both), Err(Reason::OtherPool(..))));
}

#[test]
fn a_requested_address_is_given_unless_somebody_has_it() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    let asks = wish("one").addresses(&["192.0.2.9"]);
    assert_eq!(lab.give(&asks).unwrap(), "192.0.2.9");
    let reason = lab.give(&wish("two").addresses(&["192.0.2.9"])).unwrap_err();
    assert!(reason.to_string().contains("default/one"), "{reason}");
    lab.release(&asks);
    assert_eq!(lab.give(&wish("two").addresses(&["192.0.2.9"])).unwrap(), "192.0.2.9");
    let outside = "198.51.100.1".parse().unwrap();
    assert_eq!(lab.give(&wish("three").addresses(&["198.51.100.1"])), Err(Reason::OutsidePools(outside)));
}

#[test]
fn the_rule_of_sharing() {
    let table: [(&str, i32, &str, &str, i32, &str, bool); 6] = [
        ("k", 80, "", "k", 443, "", true),
        ("k", 80, "", "k", 80, "", false),
        ("k", 80, "", "other", 443, "", false),
        ("k", 80, "Local,a=b", "k", 443, "Local,a=b", true),
        ("k", 80, "Local,a=b", "k", 443, "Local,a=c", false),
        ("k", 80, "", "k", 443, "Local,a=b", false),
    ];
    for (key, port, backend, key2, port2, backend2, shared) in table {
        let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
        assert_eq!(lab.give(&wish("one").shares(key, port, backend)).unwrap(), "192.0.2.0");
        let second = lab.give(&wish("two").shares(key2, port2, backend2)).unwrap();
        assert_eq!(second == "192.0.2.0", shared, "{key} {port} {backend} with {key2} {port2} {backend2}");
    }
}

#[test]
fn of_two_that_share_one_goes_and_the_other_keeps_the_address() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    let (one, two) = (wish("one").shares("k", 80, ""), wish("two").shares("k", 443, ""));
    lab.give(&one).unwrap();
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.0");
    assert_eq!(lab.in_use(0), [1, 0]);
    lab.release(&one);
    assert_eq!(lab.give(&two).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("three")).unwrap(), "192.0.2.1");
}

#[test]
fn a_sole_holder_may_change_its_terms_and_a_co_holder_that_conflicts_moves() {
    let mut lab = Lab::new(&[pool("a", &["192.0.2.0/28"])]);
    lab.give(&wish("one").shares("k", 80, "")).unwrap();
    assert_eq!(lab.give(&wish("one").shares("k2", 80, "")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("two").shares("k2", 81, "")).unwrap(), "192.0.2.0");
    assert_eq!(lab.give(&wish("two").shares("k2", 80, "")).unwrap(), "192.0.2.1");
}

#[test]
fn dual_stack_takes_both_from_one_pool() {
    let both = Want::Both { primary: Family::V6 };
    let pools = [pool("four", &["192.0.2.0/28"]), pool("dual", &["192.0.2.16/28", "2001:db8:1::/124"])];
    let mut lab = Lab::new(&pools);
    assert_eq!(lab.give(&wish("one").want(both)).unwrap(), "2001:db8:1:: 192.0.2.16");
    assert_eq!(lab.give(&wish("two").want(Want::One(Family::V6))).unwrap(), "2001:db8:1::1");
    let mut lab = Lab::new(&pools[..1]);
    assert!(lab.give(&wish("one").want(both)).is_err());
    let either = Want::BothOrOne { primary: Family::V6 };
    assert_eq!(lab.give(&wish("one").want(either)).unwrap(), "192.0.2.0");
}

#[test]
fn a_service_that_becomes_dual_stack_keeps_its_address_and_one_that_becomes_single_keeps_the_other() {
    let mut lab = Lab::new(&[pool("dual", &["192.0.2.16/28", "2001:db8:1::/124"])]);
    assert_eq!(lab.give(&wish("one")).unwrap(), "192.0.2.16");
    let both = Want::Both { primary: Family::V4 };
    assert_eq!(lab.give(&wish("one").want(both)).unwrap(), "192.0.2.16 2001:db8:1::");
    assert_eq!(lab.give(&wish("one").want(Want::One(Family::V6))).unwrap(), "2001:db8:1::");
}

#[test]
fn a_dual_stack_request_needs_exactly_one_address_of_each_family() {
    let mut lab = Lab::new(&[pool("dual", &["192.0.2.16/28", "2001:db8:1::/124"])]);
    let both = Want::Both { primary: Family::V4 };
    assert_eq!(lab.give(&wish("one").want(both).addresses(&["192.0.2.16"])), Err(Reason::FamilyMismatch));
    let asks = wish("one").want(both).addresses(&["2001:db8:1::5", "192.0.2.20"]);
    assert_eq!(lab.give(&asks).unwrap(), "192.0.2.20 2001:db8:1::5");
}

#[test]
fn ten_thousand_services_are_given_addresses_in_well_under_a_second() {
    let mut lab = Lab::new(&[pool("a", &["10.0.0.0/16"]), pool("b", &["2001:db8:1::/64"])]);
    let wishes: Vec<Wish> = (0..10_000).map(|n| wish(&format!("service-{n}"))).collect();
    let start = Instant::now();
    for wish in &wishes {
        lab.give(wish).unwrap();
    }
    for wish in &wishes {
        lab.give(wish).unwrap();
    }
    // An unoptimised build on a busy machine; a walk over the pool for each would take minutes.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn no_address_is_held_twice_except_by_lawful_sharing(
        ops in prop::collection::vec((0u8..5, 0usize..8, 0usize..3, 0u64..40), 1..80),
    ) {
        let mut lab = Lab::new(&[pool("a", &["192.0.2.0/30"]), pool("b", &["192.0.2.8-192.0.2.9"])]);
        let mut held: BTreeMap<String, Wish> = Default::default();
        for (op, who, how, seconds) in ops {
            lab.now += Duration::from_secs(seconds);
            let name = format!("service-{who}");
            let base = wish(&name);
            let wished = match how {
                0 => base,
                1 => base.shares("k", i32::try_from(who % 3).unwrap(), ""),
                _ => base.addresses(&["192.0.2.1"]),
            };
            if op == 0 {
                lab.release(&wished);
                held.remove(&name);
                continue;
            }
            match lab.give(&wished) {
                Ok(_) => { held.insert(name, wished); }
                Err(_) => { held.remove(&name); }
            }
            let shown = lab.allocator.assignment(&wish(&format!("service-{who}")).service).map_or(Vec::new(), |a| a.addresses);
            lab.allocator.settle(&ObjectName::new("default", format!("service-{who}")), shown.into_iter(), lab.now);
            let all: Vec<&Wish> = held.values().collect();
            for (n, one) in all.iter().enumerate() {
                for two in &all[n + 1..] {
                    let of = |w: &Wish| lab.allocator.assignment(&w.service).unwrap().addresses.clone();
                    if of(one) == of(two) {
                        prop_assert!(one.terms.clash(&two.terms).is_none(), "{one:?} and {two:?}");
                    }
                }
            }
            let distinct: std::collections::BTreeSet<IpAddr> = all
                .iter()
                .flat_map(|w| lab.allocator.assignment(&w.service).unwrap().addresses.clone())
                .collect();
            let counted: u64 = lab.allocator.usage().map(|(_, [v4, v6])| v4.in_use + v6.in_use).sum();
            prop_assert_eq!(counted, distinct.len() as u64);
        }
    }
}
