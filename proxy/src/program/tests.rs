use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::element::{Policy, Protocol};
use crate::rules::Backends;
use crate::testing::{ip, socket, tcp};

/// The kernel's sets and maps: one value per key, and strict about missing and existing keys.
#[derive(Debug, Default, Clone, PartialEq)]
struct Kernel(HashMap<Key, Element>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Service(Frontend),
    Pick(Frontend, Scope),
    Endpoint(Frontend, Scope, u16),
    AffinePick(Frontend, Scope),
    Slot(Frontend, Scope, u16),
    StableEndpoint(Frontend, Scope, u32),
    Refused(Frontend),
    Plain(Element),
}

fn key(element: Element) -> Key {
    match element {
        Element::Service { frontend, .. } => Key::Service(frontend),
        Element::Pick { frontend, scope, .. } | Element::Affinity { frontend, scope, .. } => {
            Key::Pick(frontend, scope)
        }
        Element::AffinePick { frontend, scope, .. } => Key::AffinePick(frontend, scope),
        Element::Slot { frontend, scope, slot, .. } => Key::Slot(frontend, scope, slot),
        Element::StableEndpoint { frontend, scope, stable, .. } => {
            Key::StableEndpoint(frontend, scope, stable)
        }
        Element::Endpoint { frontend, scope, slot, .. } => Key::Endpoint(frontend, scope, slot),
        Element::Refused { frontend, .. } => Key::Refused(frontend),
        Element::Restricted { .. }
        | Element::Counted { .. }
        | Element::Source { .. }
        | Element::Vip { .. }
        | Element::Announced { .. }
        | Element::ServiceCidr { .. }
        | Element::Node { .. }
        | Element::Hairpin { .. } => Key::Plain(element),
    }
}

impl Kernel {
    fn apply(&mut self, changes: Changes) {
        for element in changes.remove {
            assert_eq!(self.0.remove(&key(element)), Some(element), "removal of what is not there");
        }
        for element in changes.add {
            assert_eq!(self.0.insert(key(element), element), None, "addition of a key that is there");
        }
    }

    fn load(elements: Vec<Element>) -> Self {
        let mut kernel = Self::default();
        kernel.apply(Changes { remove: Vec::new(), add: elements });
        kernel
    }

    fn has(&self, element: Element) -> bool {
        self.0.get(&key(element)) == Some(&element)
    }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn frontend_rules(
    frontend: Frontend,
    kind: FrontendKind,
    policy: Policy,
    endpoints: &[SocketAddr],
) -> FrontendRules {
    FrontendRules {
        frontend,
        kind,
        policy,
        vip: kind != FrontendKind::NodePort,
        sources: None,
        backends: Arc::new(Backends {
            port: "http".into(),
            cluster: endpoints.into(),
            local: endpoints.iter().copied().take(1).collect(),
            hairpin: endpoints.iter().copied().take(1).collect(),
            unchosen: Box::default(),
            silent: Box::default(),
            affinity: None,
            has_any: !endpoints.is_empty(),
            local_ready: !endpoints.is_empty(),
            local_probes_fail: false,
        }),
    }
}

fn rules_of(created: i64, mut frontends: Vec<FrontendRules>) -> ServiceRules {
    frontends.sort_by_key(|rules| rules.frontend);
    frontends.dedup_by_key(|rules| rules.frontend);
    ServiceRules {
        created,
        frontends: frontends.into_boxed_slice(),
        health: None,
        local_ports: Box::default(),
    }
}

/// One load balancer frontend on port 80 with one endpoint.
fn simple(created: i64, vip: &str, endpoint: &str) -> ServiceRules {
    let endpoints = [socket(endpoint)];
    let frontend = tcp(vip, 80);
    rules_of(
        created,
        vec![frontend_rules(frontend, FrontendKind::LoadBalancer, Policy::External, &endpoints)],
    )
}

const ONE: &str = "10.244.1.2:8080";
const TWO: &str = "10.244.1.3:8080";

#[test]
fn the_same_rules_again_change_nothing() {
    let mut program = Program::new();
    assert!(!program.set(&name("web"), Some(simple(1, "192.0.2.1", ONE))).is_empty());
    assert!(program.set(&name("web"), Some(simple(1, "192.0.2.1", ONE))).is_empty());
    assert!(program.set(&name("other"), None).is_empty());
    assert!(program.expire(&name("other")).is_empty());
}

#[test]
fn a_changed_endpoint_is_one_replaced_slot() {
    let mut program = Program::new();
    program.set(&name("web"), Some(simple(1, "192.0.2.1", ONE)));
    let changes = program.set(&name("web"), Some(simple(1, "192.0.2.1", TWO)));
    let (frontend, scope, protocol) = (tcp("192.0.2.1", 80), Scope::Cluster, Protocol::Tcp);
    let slot = |endpoint| Element::Endpoint { frontend, scope, slot: 0, endpoint: socket(endpoint) };
    let hairpin = |endpoint| Element::Hairpin { endpoint: socket(endpoint), protocol };
    assert_eq!(changes.remove, [slot(ONE), hairpin(ONE)]);
    assert_eq!(changes.add, [slot(TWO), hairpin(TWO)]);
}

#[test]
fn a_shared_address_and_a_shared_endpoint_go_with_their_last_service() {
    let mut program = Program::new();
    let mut https = simple(1, "192.0.2.1", ONE);
    https.frontends[0].frontend.port = 443;
    program.set(&name("web"), Some(simple(1, "192.0.2.1", ONE)));
    program.set(&name("tls"), Some(https));
    let vip = Element::Vip { address: ip("192.0.2.1") };
    let hairpin = Element::Hairpin { endpoint: socket(ONE), protocol: Protocol::Tcp };
    let first = program.set(&name("web"), None);
    assert!(!first.remove.contains(&vip) && !first.remove.contains(&hairpin));
    let last = program.set(&name("tls"), None);
    assert!(last.remove.contains(&vip) && last.remove.contains(&hairpin));
    assert_eq!(program.all(), []);
}

#[test]
fn a_contested_key_goes_to_the_given_address_then_to_the_older_service_then_by_name() {
    let external = |created| {
        let mut rules = simple(created, "192.0.2.1", TWO);
        rules.frontends[0].kind = FrontendKind::ExternalIp;
        rules
    };
    for (mine, theirs, mine_wins) in [
        (simple(5, "192.0.2.1", ONE), external(1), true),
        (simple(5, "192.0.2.1", ONE), simple(1, "192.0.2.1", TWO), false),
        (simple(1, "192.0.2.1", ONE), simple(5, "192.0.2.1", TWO), true),
        (simple(1, "192.0.2.1", ONE), simple(1, "192.0.2.1", TWO), true),
    ] {
        for mine_first in [true, false] {
            let mut program = Program::new();
            let mut both = [(name("a"), mine.clone()), (name("b"), theirs.clone())];
            if !mine_first {
                both.reverse();
            }
            for (name, rules) in both {
                program.install(&name, Some(rules));
            }
            let (winner, loser) = if mine_wins { ("a", "b") } else { ("b", "a") };
            assert_eq!(program.conflicts(&name(winner)), []);
            let conflict = Conflict { frontend: tcp("192.0.2.1", 80), holder: name(winner) };
            assert_eq!(program.conflicts(&name(loser)), [conflict]);
            assert_eq!(program.standing(&name(winner)).len(), 1);
            assert_eq!(program.standing(&name(loser)).len(), 0);
            program.set(&name(winner), None);
            assert_eq!(program.conflicts(&name(loser)), [], "the next one takes over");
            assert_eq!(program.standing(&name(loser)).len(), 1);
        }
    }
}

#[test]
fn an_installed_path_stays_until_it_expires() {
    let mut program = Program::new();
    let mut kernel = Kernel::default();
    kernel.apply(program.install(&name("web"), Some(simple(1, "192.0.2.1", ONE))));
    let before = kernel.clone();
    kernel.apply(program.install(&name("web"), None));
    assert_eq!(kernel, before);
    assert!(program.lingers(&name("web")));
    kernel.apply(program.expire(&name("web")));
    assert_eq!(kernel, Kernel::default());
    assert!(!program.lingers(&name("web")));
}

#[test]
fn a_new_address_is_built_beside_the_lingering_one() {
    let mut program = Program::new();
    let mut kernel = Kernel::default();
    let vip = |address| Element::Vip { address: ip(address) };
    kernel.apply(program.install(&name("web"), Some(simple(1, "192.0.2.1", ONE))));
    kernel.apply(program.install(&name("web"), Some(simple(1, "192.0.2.2", ONE))));
    assert!(kernel.has(vip("192.0.2.1")) && kernel.has(vip("192.0.2.2")));
    kernel.apply(program.expire(&name("web")));
    assert!(!kernel.has(vip("192.0.2.1")) && kernel.has(vip("192.0.2.2")));
    assert_eq!(kernel, Kernel::load(program.all()));
}

#[test]
fn an_address_that_is_given_again_during_the_linger_replaces_the_keys() {
    let mut program = Program::new();
    let mut kernel = Kernel::default();
    kernel.apply(program.install(&name("old"), Some(simple(1, "192.0.2.1", ONE))));
    kernel.apply(program.install(&name("old"), None));
    kernel.apply(program.install(&name("new"), Some(simple(9, "192.0.2.1", TWO))));
    let (frontend, scope) = (tcp("192.0.2.1", 80), Scope::Cluster);
    let slot = Element::Endpoint { frontend, scope, slot: 0, endpoint: socket(TWO) };
    assert!(kernel.has(slot), "who wants it goes before who lingers, though younger");
    assert_eq!(program.conflicts(&name("new")), []);
    let nothing = program.expire(&name("old"));
    assert_eq!(nothing, Changes::default(), "nothing of it stood any more");
    kernel.apply(program.install(&name("new"), None));
    kernel.apply(program.install(&name("new"), Some(simple(9, "192.0.2.1", TWO))));
    assert!(program.expire(&name("new")).is_empty(), "wanted again: nothing lingers");
    assert!(kernel.has(slot));
}

fn any_rules() -> impl Strategy<Value = ServiceRules> {
    let frontend = (0..3u8, 0..2u16, 0..2u8).prop_map(|(address, port, protocol)| Frontend {
        address: IpAddr::from([192, 0, 2, address]),
        protocol: if protocol == 0 { Protocol::Tcp } else { Protocol::Udp },
        port: 80 + port,
    });
    let kind = prop_oneof![
        Just(FrontendKind::ClusterIp),
        Just(FrontendKind::NodePort),
        Just(FrontendKind::LoadBalancer),
        Just(FrontendKind::ExternalIp),
    ];
    let policy = prop_oneof![
        Just(Policy::Internal),
        Just(Policy::InternalLocal),
        Just(Policy::External),
        Just(Policy::ExternalLocal),
    ];
    // A count beyond 64 now and then, for the large classes.
    let count = prop_oneof![20 => 0..5u8, 1 => 64..67u8];
    let all = (frontend, kind, policy, count, 0..3u8, 0..12u8);
    let rules = all.prop_map(|(frontend, kind, policy, count, first, extra)| {
        let endpoints: Vec<SocketAddr> =
            (0..count).map(|i| SocketAddr::from(([10, 244, 1, first + i], 8080))).collect();
        let mut rules = frontend_rules(frontend, kind, policy, &endpoints);
        let backends = Arc::make_mut(&mut rules.backends);
        backends.affinity = [None, Some(10), Some(20)][usize::from(extra % 3)];
        let ranges =
            [None, Some(vec![]), Some(vec!["10.0.0.0/8"]), Some(vec!["10.0.0.0/9", "203.0.113.0/24"])];
        let ranges = ranges[usize::from(extra / 3)].clone();
        let parsed = |ranges: Vec<&str>| ranges.iter().map(|range| range.parse().unwrap()).collect();
        FrontendRules { sources: ranges.map(parsed), ..rules }
    });
    (0..3i64, proptest::collection::vec(rules, 0..4)).prop_map(|(created, all)| rules_of(created, all))
}

#[derive(Debug, Clone)]
enum Op {
    Set(u8, Option<ServiceRules>),
    Install(u8, Option<ServiceRules>),
    Expire(u8),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..4u8, proptest::option::weighted(0.8, any_rules())).prop_map(|(i, rules)| Op::Set(i, rules)),
        (0..4u8, proptest::option::weighted(0.7, any_rules())).prop_map(|(i, rules)| Op::Install(i, rules)),
        (0..4u8).prop_map(Op::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changes_applied_in_order_give_what_a_load_from_scratch_gives(
        ops in proptest::collection::vec(any_op(), 1..25),
    ) {
        let mut program = Program::new();
        let mut kernel = Kernel::default();
        let mut wanted: BTreeMap<u8, ServiceRules> = BTreeMap::new();
        let mut batch = Vec::new();
        for op in ops {
            let standing: HashSet<Frontend> = program.claims.keys().copied().collect();
            let (changes, keeps) = match op {
                Op::Set(i, rules) => {
                    note(&mut wanted, i, &rules);
                    (program.set(&name(&i.to_string()), rules), false)
                }
                Op::Install(i, rules) => {
                    note(&mut wanted, i, &rules);
                    (program.install(&name(&i.to_string()), rules), true)
                }
                Op::Expire(i) => (program.expire(&name(&i.to_string())), false),
            };
            batch.push(changes.clone());
            kernel.apply(changes);
            prop_assert_eq!(&kernel, &Kernel::load(program.all()));
            if keeps {
                let after: HashSet<Frontend> = program.claims.keys().copied().collect();
                prop_assert!(standing.is_subset(&after), "install took a frontend down");
            }
        }
        // All changes as one are the same change.
        let mut at_once = Kernel::default();
        at_once.apply(Changes::join(batch));
        prop_assert_eq!(&at_once, &kernel);
        // Without lingerers only what is wanted counts, not in which order it came.
        for i in 0..4u8 {
            kernel.apply(program.expire(&name(&i.to_string())));
        }
        let mut fresh = Program::new();
        for (i, rules) in wanted.iter().rev() {
            fresh.set(&name(&i.to_string()), Some(rules.clone()));
        }
        prop_assert_eq!(program.all(), fresh.all());
        for i in 0..4u8 {
            kernel.apply(program.set(&name(&i.to_string()), None));
        }
        prop_assert_eq!(kernel, Kernel::default());
        prop_assert!(program.services.is_empty() && program.claims.is_empty() && program.shared.is_empty());
    }

    #[test]
    fn what_a_packet_meets_is_all_that_decides_about_it(all in proptest::collection::vec(any_rules(), 1..4)) {
        use crate::tracer::{Hook, Packet, Tracer};
        let mut program = Program::new();
        for (i, rules) in all.iter().enumerate() {
            program.set(&name(&i.to_string()), Some(rules.clone()));
        }
        let whole = Tracer::new(program.all(), [], []);
        let frontends = all.iter().flat_map(|rules| &rules.frontends).map(|rules| rules.frontend);
        for frontend in frontends {
            let (held, closed) = (frontend, Frontend { port: 9, ..frontend });
            for destination in [held, closed] {
                let part = Tracer::new(program.met_by(&destination), [], []);
                for source in [ip("203.0.113.5"), ip("10.244.1.2")] {
                    let packet = Packet { hook: Hook::Prerouting, source, destination };
                    prop_assert_eq!(part.trace(&packet), whole.trace(&packet));
                }
            }
            prop_assert_eq!(program.holder(&held).map(|holder| holder.rules.frontend), Some(held));
            prop_assert!(program.holder(&closed).is_none());
        }
    }

    #[test]
    fn a_first_load_that_is_cut_anywhere_leads_to_no_missing_endpoint(
        all in proptest::collection::vec(any_rules(), 1..4), cut in 0..1000usize,
    ) {
        let mut program = Program::new();
        for (i, rules) in all.into_iter().enumerate() {
            program.set(&name(&i.to_string()), Some(rules));
        }
        let mut elements = program.all();
        elements.truncate(elements.len() * cut / 1000);
        let kernel = Kernel::load(elements.clone());
        for element in elements {
            match element {
                Element::Pick { frontend, scope, class } => {
                    for slot in 0..class {
                        prop_assert!(kernel.0.contains_key(&Key::Endpoint(frontend, scope, slot)));
                    }
                }
                Element::Service { frontend, policy } => {
                    let scope = if policy == Policy::InternalLocal { Scope::Local } else { Scope::Cluster };
                    prop_assert!(kernel.0.contains_key(&Key::Pick(frontend, scope)));
                }
                _ => {}
            }
        }
    }
}

fn note(wanted: &mut BTreeMap<u8, ServiceRules>, i: u8, rules: &Option<ServiceRules>) {
    match rules {
        Some(rules) => wanted.insert(i, rules.clone()),
        None => wanted.remove(&i),
    };
}
