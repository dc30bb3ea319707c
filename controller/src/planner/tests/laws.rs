//! The laws, against the reference model: whatever happens in the cluster, whenever the controller dies and however
//! old its view is, no two Services have an address that they may not share, none has one outside its pools, none
//! moves that need not, who waits is served as soon as can be, and what is done leaves nothing to do.

use super::model::{Model, compatible, shown};
use super::*;
use crate::allocator::{Family, Want};

/// What happens in the cluster.
#[derive(Debug, Clone)]
enum Op {
    Create(usize, u8),
    Delete(usize),
    Type(usize, bool),
    Families(usize, u8),
    Request(usize, u8),
    Pool(usize, u8),
    Share(usize, u8, bool),
    External(usize, u8),
    Label(usize, bool),
    Config(usize),
    /// The controller does this many things, then dies with its last writes on their way: the API performs `late` of them.
    Restart {
        steps: usize,
        late: bool,
    },
    /// It does this many things, and hears of one change with each.
    Work(usize),
    Pass(u64),
}

fn who() -> impl Strategy<Value = usize> {
    0usize..12
}

/// What users do.
fn change() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (who(), 0u8..4).prop_map(|(n, families)| Op::Create(n, families)),
        3 => who().prop_map(Op::Delete),
        1 => (who(), any::<bool>()).prop_map(|(n, lb)| Op::Type(n, lb)),
        1 => (who(), 0u8..4).prop_map(|(n, families)| Op::Families(n, families)),
        1 => (who(), 0u8..14).prop_map(|(n, ip)| Op::Request(n, ip)),
        1 => (who(), 0u8..4).prop_map(|(n, pool)| Op::Pool(n, pool)),
        2 => (who(), 0u8..3, any::<bool>()).prop_map(|(n, key, local)| Op::Share(n, key, local)),
        1 => (who(), 0u8..14).prop_map(|(n, ip)| Op::External(n, ip)),
        1 => (who(), any::<bool>()).prop_map(|(n, web)| Op::Label(n, web)),
        2 => (0usize..CONFIGS.len()).prop_map(Op::Config),
    ]
}

/// What users do, while the controller works and dies.
fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => change(),
        1 => (0usize..6, any::<bool>()).prop_map(|(steps, late)| Op::Restart { steps, late }),
        2 => (0usize..8).prop_map(Op::Work),
        1 => (0u64..60).prop_map(Op::Pass),
    ]
}

const CONFIGS: [&str; 6] = [
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/29]}\n",
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/30, '2001:db8:1::/126']}\n- {name: more, protocol: bgp, addresses: [198.51.100.0/30]}\n",
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.4/30, '2001:db8:1::2/127'], avoid-buggy-ips: true}\n- {name: more, protocol: bgp, addresses: [192.0.2.0/31, '2001:db8:1::/127']}\nherald: {quotas: {shop: 2}, sharing: cluster}\n",
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/29, '2001:db8:1::/125']}\nherald:\n  cool-down: 0s\n  reservations:\n  - {addresses: [192.0.2.2-192.0.2.3], namespace: shop}\n  - {addresses: [192.0.2.5/32, '2001:db8:1::1/128'], namespace: default, service: web-1}\n  - {addresses: [192.0.2.0/32]}\n",
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/31], auto-assign: false}\n- {name: more, protocol: bgp, addresses: [192.0.2.2-192.0.2.9]}\nherald: {quotas: {'*': 3}}\n",
    "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/29]}\n- {name: pinned, protocol: bgp, addresses: [192.0.2.8/30, '2001:db8:1::/126']}\n- {name: labelled, protocol: bgp, addresses: [192.0.2.12/31]}\n",
];

/// The configuration of this number; the last one has what only objects can say.
fn config(number: usize) -> Config {
    let mut config = herald_config::parse(CONFIGS[number]).unwrap().config;
    for pool in &mut config.pools {
        let mut allocation = ServiceAllocation::default();
        match pool.name.as_str() {
            "pinned" => allocation.namespaces = ["shop".to_owned()].into(),
            "labelled" => {
                allocation.priority = 5;
                let match_labels = [("tier".to_owned(), "web".to_owned())].into();
                allocation.service_selectors = vec![LabelSelector { match_labels, ..Default::default() }];
            }
            _ => continue,
        }
        pool.allocation = Some(allocation);
    }
    config
}

/// A third of the Services is in another namespace.
fn name(n: usize) -> String {
    if n.is_multiple_of(3) { format!("shop/web-{n}") } else { format!("web-{n}") }
}

fn families(spec: &mut Value, families: u8) {
    let (policy, ips) = match families {
        0 => ("SingleStack", json!(["10.96.0.1"])),
        1 => ("SingleStack", json!(["2001:db8:3::1"])),
        2 => ("PreferDualStack", json!(["10.96.0.1", "2001:db8:3::1"])),
        _ => ("RequireDualStack", json!(["2001:db8:3::1", "10.96.0.1"])),
    };
    spec["ipFamilyPolicy"] = json!(policy);
    spec["clusterIP"] = ips[0].clone();
    spec["clusterIPs"] = ips;
}

struct World {
    api: Api,
    planner: Planner,
    config: Config,
    now: Instant,
    /// Addresses that were ever shared lawfully: a change of terms needs a write to separate the two.
    shared: std::collections::BTreeSet<IpAddr>,
}

impl World {
    fn new() -> Self {
        let (mut api, now, config) = (Api::default(), Instant::now(), config(0));
        let planner = started(&mut api, &config, now);
        Self { api, planner, config, now, shared: Default::default() }
    }

    fn apply(&mut self, op: &Op) {
        let api = &mut self.api;
        match op {
            Op::Create(n, of) => {
                let mut spec = load_balancer();
                families(&mut spec, *of);
                api.create(&name(*n), &spec);
            }
            Op::Delete(n) => api.delete(&name(*n)),
            Op::Type(n, lb) => api.change(&name(*n), |o| {
                o["spec"]["type"] = json!(if *lb { "LoadBalancer" } else { "ClusterIP" });
            }),
            Op::Families(n, of) => api.change(&name(*n), |o| families(&mut o["spec"], *of)),
            Op::Request(n, ip) => api.change(&name(*n), |o| {
                let asked = if *ip < 10 { format!("192.0.2.{ip}") } else { String::new() };
                o["spec"]["loadBalancerIP"] = json!(asked);
            }),
            Op::Pool(n, pool) => api.change(&name(*n), |o| {
                let pool = ["", "default", "more", "pinned"][usize::from(*pool)];
                o["metadata"]["annotations"]["metallb.io/address-pool"] = json!(pool);
            }),
            Op::Share(n, key, local) => api.change(&name(*n), |o| {
                o["metadata"]["annotations"]["metallb.io/allow-shared-ip"] =
                    json!(["", "key", "other"][usize::from(*key)]);
                o["spec"]["ports"] = json!([{"port": 80 + n % 4, "protocol": "TCP"}]);
                o["spec"]["externalTrafficPolicy"] = json!(if *local { "Local" } else { "Cluster" });
            }),
            Op::External(n, ip) => api.change(&name(*n), |o| {
                o["spec"]["externalIPs"] =
                    if *ip < 10 { json!([format!("192.0.2.{ip}")]) } else { json!([]) };
            }),
            Op::Label(n, web) => api.change(&name(*n), |o| {
                o["metadata"]["labels"] = json!({"tier": if *web { "web" } else { "db" }});
            }),
            Op::Config(number) => {
                self.config = config(*number);
                self.planner.configure(self.config.clone(), self.now);
            }
            Op::Pass(seconds) => self.now += Duration::from_secs(*seconds),
            Op::Restart { .. } | Op::Work(_) => {}
        }
    }

    /// No two statuses name one address, except those that may share it (now or when they were given it).
    fn none_twice(&self) -> Result<(), TestCaseError> {
        let mut holders: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for name in self.api.services.keys() {
            for address in self.api.addresses(name) {
                holders.entry(address).or_default().push(name.clone());
            }
        }
        for (address, names) in holders {
            let lawful = names.len() < 2 || self.shared.contains(&address);
            prop_assert!(lawful, "{address} is in the status of {names:?}");
        }
        Ok(())
    }

    fn note_shared(&mut self) {
        let Some(allocator) = self.planner.allocator() else { return };
        let mut seen = std::collections::BTreeSet::new();
        for view in self.api.list() {
            let held = allocator.assignment(&view.name).map(|held| held.addresses);
            self.shared.extend(held.into_iter().flatten().filter(|address| !seen.insert(*address)));
        }
    }

    /// One event, one plan, one write.
    fn step(&mut self) -> Result<(), TestCaseError> {
        if let Some(event) = self.api.events.pop_front() {
            self.planner.handle(Event::Service(event), self.now);
        }
        let action = self.planner.next(self.now);
        self.note_shared();
        if let Some(action) = action {
            let outcome = self.api.perform(&action);
            self.planner.finished(&action.target.name, outcome, self.now);
        }
        self.none_twice()
    }

    /// Everything is done; returns how much there was to do.
    fn rest(&mut self) -> Result<usize, TestCaseError> {
        for steps in 0..2000 {
            let before = self.api.version;
            let idle = self.api.events.is_empty();
            self.step()?;
            if idle && self.api.version == before {
                return Ok(steps);
            }
        }
        Err(TestCaseError::fail("the plan does not come to rest"))
    }

    /// Who may keep what its status shows, and that.
    fn entitled(&self) -> Vec<(String, Vec<IpAddr>)> {
        let services = self.api.list();
        let model = Model { config: &self.config, services: &services };
        let mut entitled = Vec::new();
        for view in &services {
            let mut has = shown(view);
            if let (Ok(Want::One(family)), [_, _]) = (&view.want, has.as_slice()) {
                has.retain(|address| Family::of(*address) == *family);
            }
            let alone = has.iter().all(|address| !model.in_conflict(view, *address));
            if model.may_keep(view, &has) && alone {
                entitled.push((key_of(&view.name), has));
            }
        }
        entitled
    }

    fn kept(&self, entitled: &[(String, Vec<IpAddr>)], after: &str) -> Result<(), TestCaseError> {
        for (name, had) in entitled {
            let has = self.api.addresses(name);
            let kept = had.iter().all(|address| has.contains(address));
            prop_assert!(kept, "{name} had {had:?} and has {has:?} after {after}");
        }
        Ok(())
    }

    /// The laws of a world that is at rest.
    fn assert_lawful(&self) -> Result<(), TestCaseError> {
        let services = self.api.list();
        let model = Model { config: &self.config, services: &services };
        for (n, view) in services.iter().enumerate() {
            let has = shown(view);
            for other in &services[n + 1..] {
                let common = shown(other).iter().any(|address| has.contains(address));
                prop_assert!(!common || compatible(view, other), "{} and {}", view.name, other.name);
            }
            if view.kind != ServiceType::LoadBalancer {
                prop_assert!(has.is_empty() && view.condition.is_none() && view.pool_told.is_none());
            } else if has.is_empty() {
                let choice = model.choice(view);
                prop_assert_eq!(choice, None, "{} waits: {:?}", view.name, self.planner.notes);
                prop_assert!(self.planner.notes.waits(&view.name) && view.condition.is_some());
            } else {
                prop_assert!(model.may_keep(view, &has), "{} has {has:?}", view.name);
                if let (Ok(Want::BothOrOne { .. }), [one]) = (&view.want, has.as_slice()) {
                    prop_assert!(!model.may_complete(view, *one), "{} could have two", view.name);
                }
                let pool = self.config.pool_containing(has[0]).map(|pool| pool.name.clone());
                prop_assert_eq!(&view.pool_told, &pool);
            }
        }
        Ok(())
    }
}

/// A controller that was just started on the API.
fn started(api: &mut Api, config: &Config, now: Instant) -> Planner {
    let mut planner = start(api, None, now);
    planner.configure(config.clone(), now);
    planner
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_laws_hold_whatever_happens_and_whenever_the_controller_dies(
        ops in prop::collection::vec(op(), 1..60),
        calm in prop::collection::vec(change(), 0..20),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            match op {
                Op::Work(steps) => {
                    for _ in 0..*steps {
                        world.step()?;
                    }
                }
                Op::Restart { steps, late } => {
                    // Up to `steps` writes stand in flight at once when the process dies.
                    let mut on_their_way = Vec::new();
                    for _ in 0..*steps {
                        on_their_way.extend(world.planner.next(world.now));
                    }
                    world.note_shared();
                    if *late {
                        // They overtake each other.
                        for action in on_their_way.iter().rev() {
                            world.api.perform(action);
                            world.none_twice()?;
                        }
                    }
                    let entitled = world.entitled();
                    world.planner = started(&mut world.api, &world.config, world.now);
                    world.rest()?;
                    world.kept(&entitled, "a restart")?;
                    world.assert_lawful()?;
                }
                _ => {}
            }
        }
        world.rest()?;
        world.assert_lawful()?;
        // One change at a time, each seen to its end.
        for op in &calm {
            world.now += Duration::from_secs(60);
            let nobody_waits = world.planner.waiting() == 0;
            let before = world.api.list();
            world.apply(op);
            let entitled = world.entitled();
            let created = match op {
                Op::Create(n, _) if nobody_waits && world.api.list().len() > before.len() => Some(name(*n)),
                _ => None,
            };
            let choice = created.as_ref().and_then(|name| {
                let services = world.api.list();
                let model = Model { config: &world.config, services: &services };
                model.choice(&world.api.view(name))
            });
            world.rest()?;
            world.kept(&entitled, &format!("{op:?}"))?;
            world.assert_lawful()?;
            if let Some(name) = created {
                prop_assert_eq!(world.api.addresses(&name), choice.unwrap_or_default(), "the model's choice");
            }
        }
        prop_assert_eq!(settle(&mut world.planner, &mut world.api, world.now), []);
        // Who waits, or lacks a second address, may be told another reason than at its last look; then there is nothing to do.
        let before: BTreeMap<ObjectName, Vec<IpAddr>> =
            world.api.list().iter().map(|view| (view.name.clone(), shown(view))).collect();
        let mut again = started(&mut world.api, &world.config, world.now);
        for action in settle(&mut again, &mut world.api, world.now) {
            let Change::Status { addresses, .. } = &action.change else {
                return Err(TestCaseError::fail(format!("{action:?}")));
            };
            prop_assert_eq!(addresses, &before[&action.target.name], "words only: {:?}", action);
        }
        let mut again = started(&mut world.api, &world.config, world.now);
        prop_assert_eq!(settle(&mut again, &mut world.api, world.now), []);
    }
}
