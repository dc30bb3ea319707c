//! The law of restarts: whatever happens in the cluster and whenever the controller dies, no Service changes its address
//! for it and no address is given twice.

use super::*;

/// What happens in the cluster.
#[derive(Debug, Clone)]
enum Op {
    Create(usize),
    Delete(usize),
    Type(usize, bool),
    Request(usize, u8),
    Share(usize, u8),
    Config(usize),
    /// The controller does this many things, then dies with its last writes on their way: the API performs `late` of them.
    Restart {
        steps: usize,
        late: bool,
    },
    Work(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..10).prop_map(Op::Create),
        2 => (0usize..10).prop_map(Op::Delete),
        1 => (0usize..10, any::<bool>()).prop_map(|(n, lb)| Op::Type(n, lb)),
        1 => (0usize..10, 0u8..12).prop_map(|(n, ip)| Op::Request(n, ip)),
        1 => (0usize..10, 0u8..3).prop_map(|(n, key)| Op::Share(n, key)),
        1 => (0usize..3).prop_map(Op::Config),
        3 => (0usize..6, any::<bool>()).prop_map(|(steps, late)| Op::Restart { steps, late }),
        4 => (0usize..8).prop_map(Op::Work),
        1 => (0u64..60).prop_map(Op::Pass),
    ]
}

const CONFIGS: [&str; 3] = [
    CONFIG,
    "address-pools:\n- name: default\n  cidr: [192.0.2.0/30]\n  advertisements: [{aggregation-length: 32}]\n- name: more\n  cidr: [198.51.100.0/30]\n  advertisements: [{aggregation-length: 32}]\n",
    "address-pools:\n- name: default\n  cidr: [192.0.2.4/30]\n  advertisements: [{aggregation-length: 32}]\n",
];

/// No two statuses name one address, except those that may share it (now or when they were given it).
fn none_twice(api: &Api, shared: &std::collections::BTreeSet<IpAddr>) -> Result<(), TestCaseError> {
    let mut holders: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for name in api.services.keys() {
        for address in api.addresses(name) {
            holders.entry(address).or_default().push(name.clone());
        }
    }
    for (address, names) in holders {
        prop_assert!(names.len() < 2 || shared.contains(&address), "{address} is in the status of {names:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_restart_after_any_effect_changes_no_address_and_gives_none_twice(ops in prop::collection::vec(op(), 1..60)) {
        let mut api = Api::default();
        let mut now = Instant::now();
        let mut config = CONFIG;
        let mut planner = start(&mut api, Some(config), now);
        // Addresses that were ever shared lawfully: a change of terms needs a write to separate the two.
        let mut shared = std::collections::BTreeSet::new();
        for op in ops {
            let mut work = 0;
            match op {
                Op::Create(n) => api.create(&format!("web-{n}"), &load_balancer()),
                Op::Delete(n) => api.delete(&format!("web-{n}")),
                Op::Type(n, lb) => api.change(&format!("web-{n}"), |o| {
                    o["spec"]["type"] = json!(if lb { "LoadBalancer" } else { "ClusterIP" });
                }),
                Op::Request(n, ip) => api.change(&format!("web-{n}"), |o| {
                    o["spec"]["loadBalancerIP"] = json!(if ip < 8 { format!("192.0.2.{ip}") } else { String::new() });
                }),
                Op::Share(n, key) => api.change(&format!("web-{n}"), |o| {
                    o["metadata"]["annotations"]["metallb.io/allow-shared-ip"] = json!(if key == 0 { "" } else { "key" });
                    o["spec"]["ports"] = json!([{"port": 80 + n, "protocol": "TCP"}]);
                }),
                Op::Config(n) => {
                    config = CONFIGS[n];
                    planner.handle(Event::ConfigMap(WatchEvent::Applied(config_view(config))), now);
                }
                Op::Pass(seconds) => now += Duration::from_secs(seconds),
                Op::Work(steps) => work = steps,
                Op::Restart { steps, late } => {
                    // Up to `steps` writes stand in flight at once when the process dies.
                    let mut on_their_way = Vec::new();
                    for _ in 0..steps {
                        on_their_way.extend(planner.next(now));
                    }
                    note_shared(&planner, &api, &mut shared);
                    if late {
                        // They overtake each other.
                        for action in on_their_way.iter().rev() {
                            api.perform(action);
                            none_twice(&api, &shared)?;
                        }
                    }
                    let before: BTreeMap<String, (Value, Vec<IpAddr>)> = api
                        .services
                        .iter()
                        .map(|(name, stored)| (name.clone(), (stored.object["spec"].clone(), api.addresses(name))))
                        .collect();
                    // A process that has come to rest is restarted: nothing may move.
                    let rested = settle(&mut start(&mut api, Some(config), now), &mut api, now);
                    for (name, (_, addresses)) in before {
                        let view = api.view(&name);
                        let kept = api.addresses(&name) == addresses;
                        let asked = view.request.as_ref().map_or(true, |r| !r.addresses.is_empty()) || view.terms.key.is_some();
                        let inside = addresses.iter().all(|address| {
                            herald_config::parse(config).unwrap().config.pool_containing(*address).is_some()
                        });
                        if view.kind == ServiceType::LoadBalancer && !addresses.is_empty() && inside && !asked {
                            prop_assert!(kept, "{name} had {addresses:?}, has {:?} after {rested:?}", api.addresses(&name));
                        }
                    }
                    planner = start(&mut api, Some(config), now);
                }
            }
            for _ in 0..work {
                if let Some(event) = api.events.pop_front() {
                    planner.handle(Event::Service(event), now);
                }
                if let Some(action) = planner.next(now) {
                    let outcome = api.perform(&action);
                    planner.finished(&action.target.name, outcome, now);
                }
                note_shared(&planner, &api, &mut shared);
                none_twice(&api, &shared)?;
            }
        }
        now += Duration::from_secs(60);
        settle(&mut planner, &mut api, now);
        note_shared(&planner, &api, &mut shared);
        none_twice(&api, &shared)?;
        prop_assert_eq!(settle(&mut planner, &mut api, now), []);
        prop_assert_eq!(settle(&mut start(&mut api, Some(config), now), &mut api, now), []);
        for name in api.services.keys() {
            let view = api.view(name);
            let waits = planner.waiting.contains_key(&view.name);
            prop_assert_eq!(view.kind == ServiceType::LoadBalancer && !waits, !view.status.is_empty());
        }
    }
}

fn note_shared(planner: &Planner, api: &Api, shared: &mut std::collections::BTreeSet<IpAddr>) {
    let views = api.list();
    for (n, one) in views.iter().enumerate() {
        for two in &views[n + 1..] {
            let held =
                |view: &ServiceView| planner.allocator().and_then(|a| a.assignment(&view.name).cloned());
            if let (Some(a), Some(b)) = (held(one), held(two)) {
                shared.extend(a.addresses.iter().filter(|address| b.addresses.contains(address)));
            }
        }
    }
}
