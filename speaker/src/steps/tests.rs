use herald_bgp::Community;
use proptest::prelude::*;

use super::*;

type Plan = NodePlan<u8>;

impl ProxyRules for u8 {
    fn narrows(&self, former: &Self) -> bool {
        self < former
    }
}

fn said(communities: impl IntoIterator<Item = u32>) -> Arc<Attributes> {
    let communities = communities.into_iter().map(Community).collect();
    let said = herald_bgp::Attributes { communities, ..herald_bgp::Attributes::default() };
    Arc::new(Attributes { said: Arc::new(said), peers: None })
}

fn name(n: u8) -> ObjectName {
    ObjectName::new("shop", format!("svc-{n}"))
}

fn vip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

/// Service `n` with its rules, its address on `lo` and its route.
fn served(services: &[u8]) -> Plan {
    let mut plan = Plan::default();
    for n in services {
        plan.rules.insert(name(*n), 0);
        plan.addresses.insert(vip(*n));
        plan.routes.insert(vip(*n).into(), said([]));
        plan.offers.insert(vip(*n), Offered::default());
    }
    plan
}

/// What a step changes; the meaning of "applied".
fn run(plan: &mut Plan, desired: &Plan, step: &Step<u8>) {
    match step {
        Step::Withdraw(prefixes) => prefixes.iter().for_each(|prefix| _ = plan.routes.remove(prefix)),
        Step::InstallProxy(rules) => {
            for (service, rules) in rules {
                // What is gone lingers: it is still in the kernel.
                if let Some(rules) = rules {
                    plan.rules.insert(service.clone(), *rules);
                }
            }
        }
        Step::AddAddress(address) => {
            plan.addresses.insert(*address);
        }
        Step::Announce(routes) => plan.routes.append(routes.clone()),
        Step::Retract(addresses) => plan.offers.retain(|address, _| !addresses.contains(address)),
        Step::Offer(offers) => plan.offers.extend(offers.clone()),
        Step::Linger => {}
        Step::RemoveAddress(address) => {
            plan.addresses.remove(address);
        }
        Step::RemoveProxy(services) => {
            plan.rules
                .retain(|service, _| !services.contains(service) || desired.rules.contains_key(service));
        }
    }
}

#[test]
fn a_new_service_is_announced_last() {
    let steps = steps(&served(&[1]), &Plan::default());
    assert!(
        matches!(steps[..], [Step::InstallProxy(_), Step::AddAddress(_), Step::Announce(_), Step::Offer(_)]),
        "{steps:?}"
    );
}

#[test]
fn a_removed_service_is_withdrawn_first_and_loses_its_rules_last() {
    let steps = steps(&Plan::default(), &served(&[1]));
    let order = [
        Step::Withdraw(BTreeSet::from([vip(1).into()])),
        Step::Retract(BTreeSet::from([vip(1)])),
        Step::InstallProxy(BTreeMap::from([(name(1), None)])),
        Step::Linger,
        Step::RemoveAddress(vip(1)),
        Step::RemoveProxy(BTreeSet::from([name(1)])),
    ];
    assert_eq!(steps, order);
}

#[test]
fn an_endpoint_change_is_one_install_and_touches_no_route() {
    let mut desired = served(&[1]);
    desired.rules.insert(name(1), 9);
    assert_eq!(steps(&desired, &served(&[1])), [Step::InstallProxy(BTreeMap::from([(name(1), Some(9))]))]);
}

#[test]
fn what_a_changed_service_no_longer_serves_goes_after_the_linger() {
    let mut applied = served(&[1]);
    applied.rules.insert(name(1), 9);
    let steps = steps(&served(&[1]), &applied);
    assert!(matches!(steps[..], [Step::InstallProxy(_), Step::Linger, Step::RemoveProxy(_)]), "{steps:?}");
}

#[test]
fn other_attributes_are_announced_over_the_old_ones_without_a_withdrawal() {
    let mut desired = served(&[1]);
    desired.routes.insert(vip(1).into(), said([7]));
    let announced = [(vip(1).into(), said([7]))].into_iter().collect();
    assert_eq!(steps(&desired, &served(&[1])), [Step::Announce(announced)]);
}

#[test]
fn stopping_withdraws_and_leaves_rules_and_addresses() {
    let applied = served(&[1, 2]);
    let stopped = Plan { routes: ByPrefix::default(), offers: BTreeMap::new(), ..applied.clone() };
    let steps = steps(&stopped, &applied);
    let both = matches!(&steps[..], [Step::Withdraw(prefixes), Step::Retract(addresses)]
        if prefixes.len() == 2 && addresses.len() == 2);
    assert!(both, "{steps:?}");
}

/// Any plan: Services with and without address or route, and aggregates.
fn any_plan() -> impl Strategy<Value = Plan> {
    let attributes = proptest::collection::btree_set(0u32..3, 0..3).prop_map(said);
    (
        proptest::collection::btree_map(0u8..6, 0u8..3, 0..6),
        proptest::collection::btree_set(0u8..6, 0..6),
        proptest::collection::btree_map(0u8..6, attributes, 0..6),
        proptest::collection::btree_map(0u8..6, 0u16..3, 0..6),
    )
        .prop_map(|(rules, addresses, routes, offers)| Plan {
            rules: rules.into_iter().map(|(n, rules)| (name(n), rules)).collect(),
            addresses: addresses.into_iter().map(vip).collect(),
            routes: routes.into_iter().map(|(n, attributes)| (vip(n).into(), attributes)).collect(),
            offers: offers
                .into_iter()
                .map(|(n, score)| (vip(n), Offered { score, interfaces: None }))
                .collect(),
        })
}

proptest! {
    #[test]
    fn running_the_steps_makes_applied_equal_desired(desired in any_plan(), applied in any_plan()) {
        let mut state = applied;
        for step in steps(&desired, &state.clone()) {
            run(&mut state, &desired, &step);
        }
        prop_assert_eq!(&state, &desired);
        prop_assert!(steps(&desired, &state).is_empty(), "an applied plan needs no steps");
    }

    #[test]
    fn nothing_is_announced_before_its_path_is_built(desired in any_plan(), applied in any_plan()) {
        let mut state = applied;
        for step in steps(&desired, &state.clone()) {
            if matches!(step, Step::Announce(_)) {
                for (service, rules) in &desired.rules {
                    prop_assert_eq!(state.rules.get(service), Some(rules));
                }
                prop_assert!(desired.addresses.is_subset(&state.addresses));
            }
            run(&mut state, &desired, &step);
        }
    }

    #[test]
    fn no_path_goes_before_it_is_withdrawn_and_the_linger_is_over(desired in any_plan(), applied in any_plan()) {
        let mut state = applied;
        let mut lingered = false;
        let mut proxy_removed = false;
        for step in steps(&desired, &state.clone()) {
            lingered |= step == Step::Linger;
            if matches!(step, Step::RemoveAddress(_) | Step::RemoveProxy(_)) {
                prop_assert!(lingered);
                prop_assert_eq!(&state.routes, &desired.routes);
            }
            prop_assert!(!(proxy_removed && matches!(step, Step::RemoveAddress(_))), "rules go after the address");
            proxy_removed |= matches!(step, Step::RemoveProxy(_));
            run(&mut state, &desired, &step);
        }
    }
}
