//! The dump of a real kernel against the model, and adoption: a start writes what differs and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herald_proxy::netlink::{Adopted, Kernel, KernelError};
use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{
    Backends, Changes, Element, Frontend, FrontendKind, FrontendRules, Policy, Program, Protocol,
    ServiceRules,
};
use herald_runtime::ObjectName;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::net::{Namespace, PATIENCE, SILENCE};

fn ruleset() -> Ruleset {
    let cluster_cidrs = ["10.244.0.0/16", "2001:db8:2::/48"].map(|cidr| cidr.parse().unwrap()).into();
    Ruleset::new(&RulesetConfig { cluster_cidrs, ..RulesetConfig::default() })
}

/// Disjoint source ranges, which differ from choice to choice.
fn sources(frontend: Frontend, choice: u16) -> Arc<[ipnet::IpNet]> {
    let text = match (frontend.address.is_ipv4(), choice % 4) {
        (true, 0) => vec!["0.0.0.0/0"],
        (true, 1) => vec!["10.0.0.0/8", "203.0.113.5/32"],
        (true, 2) => vec!["10.0.0.0/9"],
        (false, 0) => vec!["::/0"],
        (false, 1) => vec!["2001:db8:c::/64", "2001:db8:c:1::1/128"],
        (false, 2) => vec!["2001:db8::/32"],
        _ => vec![],
    };
    text.into_iter().map(|range| range.parse().unwrap()).collect()
}

fn any_service() -> impl Strategy<Value = ServiceRules> {
    let kind = prop::sample::select(vec![
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
    ]);
    let policy = prop::sample::select(vec![
        Policy::Internal,
        Policy::InternalLocal,
        Policy::External,
        Policy::ExternalLocal,
    ]);
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let frontend = (any::<bool>(), 1..4u16, protocol, 80..82u16).prop_map(|(v6, last, protocol, port)| {
        let address = if v6 {
            IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, last])
        } else {
            [192, 0, 2, last as u8].into()
        };
        Frontend { address, protocol, port }
    });
    // Beyond 64 now and then, for the large classes.
    let count = prop_oneof![12 => 0..6u16, 1 => 64..67u16];
    let rules =
        (frontend, kind, policy, (count, 0..9u16)).prop_map(|(frontend, kind, policy, (count, first))| {
            let endpoint = |i: u16| match frontend.address {
                IpAddr::V4(_) => SocketAddr::from(([10, 244, 1, (first + i) as u8], 8080)),
                IpAddr::V6(_) => SocketAddr::from(([0x2001, 0xdb8, 2, 0, 0, 0, 0, first + i], 8080)),
            };
            let endpoints: Vec<SocketAddr> = (0..count).map(endpoint).collect();
            let local: Box<[SocketAddr]> = endpoints.iter().copied().take(2).collect();
            let backends = Backends {
                port: "http".into(),
                unchosen: Box::default(),
                silent: Box::default(),
                cluster: endpoints.into(),
                hairpin: local.clone(),
                local,
                affinity: [None, None, Some(10_800), Some(u32::from(first))][usize::from(first % 4)],
                has_any: count > 0,
                local_ready: count > 0,
                local_probes_fail: false,
            };
            FrontendRules {
                frontend,
                kind,
                policy,
                vip: kind != FrontendKind::NodePort,
                sources: (kind == FrontendKind::LoadBalancer).then(|| sources(frontend, first)),
                backends: Arc::new(backends),
            }
        });
    prop::collection::btree_map(0..9u8, rules, 0..4).prop_map(|rules| {
        let by_key: BTreeMap<Frontend, FrontendRules> =
            rules.into_values().map(|rules| (rules.frontend, rules)).collect();
        ServiceRules {
            created: 1,
            frontends: by_key.into_values().collect(),
            health: None,
            local_ports: Box::default(),
        }
    })
}

#[derive(Debug, Clone)]
enum Op {
    Set(u8, Option<ServiceRules>),
    Install(u8, Option<ServiceRules>),
    Expire(u8),
}

fn any_op() -> impl Strategy<Value = Op> {
    let rules = || proptest::option::weighted(0.8, any_service());
    prop_oneof![
        (0..4u8, rules()).prop_map(|(service, rules)| Op::Set(service, rules)),
        (0..4u8, rules()).prop_map(|(service, rules)| Op::Install(service, rules)),
        (0..4u8).prop_map(Op::Expire),
    ]
}

fn run(program: &mut Program, op: Op) -> Changes {
    let name = |service: u8| ObjectName::new("shop", service.to_string());
    match op {
        Op::Set(service, rules) => program.set(&name(service), rules),
        Op::Install(service, rules) => program.install(&name(service), rules),
        Op::Expire(service) => program.expire(&name(service)),
    }
}

/// A value that is another one in each run; the seed is printed by a failure.
fn sample<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

#[test]
#[ignore = "needs a network namespace"]
fn after_every_change_of_the_program_the_dump_is_the_model() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    let mut runner = TestRunner::new(Config::default());
    for sequence in 0..12 {
        let mut program = Program::new();
        kernel.replace(&ruleset(), &[]).unwrap();
        for op in sample(&mut runner, prop::collection::vec(any_op(), 1..20)) {
            let changes = run(&mut program, op.clone());
            kernel.apply(&changes).unwrap_or_else(|error| panic!("sequence {sequence}, {op:?}: {error}"));
            let mut dump = kernel.dump(&ruleset()).unwrap();
            let mut all = program.all();
            dump.sort_unstable();
            all.sort_unstable();
            assert_eq!(dump, all, "sequence {sequence}, after {op:?}");
        }
        // A restart with other Services ends at their model as well.
        let mut restarted = Program::new();
        for op in sample(&mut runner, prop::collection::vec(any_op(), 1..10)) {
            run(&mut restarted, op);
        }
        kernel.adopt(&ruleset(), &restarted.all()).unwrap();
    }
}

/// `count` Services of one port and three endpoints, from number `first` on.
fn services(first: u16, count: u16) -> Vec<Element> {
    let mut program = Program::new();
    for index in first..first + count {
        let [high, low] = index.to_be_bytes();
        let endpoint = |i: u8| SocketAddr::from(([10, 244, high, low], 8000 + u16::from(i)));
        let endpoints: Box<[SocketAddr]> = (0..3).map(endpoint).collect();
        let backends = Backends {
            port: "http".into(),
            unchosen: Box::default(),
            silent: Box::default(),
            cluster: endpoints.clone(),
            local: endpoints,
            hairpin: Box::default(),
            affinity: None,
            has_any: true,
            local_ready: true,
            local_probes_fail: false,
        };
        let frontend = Frontend { address: [10, 96, high, low].into(), protocol: Protocol::Tcp, port: 80 };
        let rules = FrontendRules {
            frontend,
            kind: FrontendKind::ClusterIp,
            policy: Policy::Internal,
            vip: true,
            sources: None,
            backends: Arc::new(backends),
        };
        let rules =
            ServiceRules { created: 1, frontends: [rules].into(), health: None, local_ports: Box::default() };
        program.set(&ObjectName::new("shop", index.to_string()), Some(rules));
    }
    program.all()
}

#[test]
#[ignore = "needs a network namespace"]
fn a_restart_with_nothing_changed_commits_nothing_and_with_one_service_its_elements_only() {
    let namespace = Namespace::new();
    let mut first = namespace.kernel();
    let before = services(0, 300);
    assert!(matches!(first.adopt(&ruleset(), &before).unwrap(), Adopted::Replaced(_)));
    let generation = first.generation().unwrap();
    drop(first);
    let mut kernel = namespace.kernel();
    assert_eq!(kernel.adopt(&ruleset(), &before).unwrap(), Adopted::Unchanged);
    assert_eq!(kernel.generation().unwrap(), generation);
    // Service 0 goes, 300 comes: seven elements each (dispatch, class, three endpoints, address, counter).
    let after = services(1, 300);
    let gone = before.iter().filter_map(|element| match *element {
        Element::Service { frontend, .. } if !after.contains(element) => Some(frontend),
        _ => None,
    });
    let changed = Adopted::Changed { removed: 7, added: 7, gone: gone.collect() };
    assert!(matches!(&changed, Adopted::Changed { gone, .. } if gone.len() == 1));
    assert_eq!(kernel.adopt(&ruleset(), &after).unwrap(), changed);
    assert_eq!(kernel.generation().unwrap(), generation + 1);
    assert_eq!(kernel.adopt(&ruleset(), &after).unwrap(), Adopted::Unchanged);
    assert_eq!(kernel.generation().unwrap(), generation + 1);
}

#[test]
#[ignore = "needs a network namespace"]
fn whatever_others_edited_is_found_and_mended_in_one_transaction() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    let mut elements = services(0, 20);
    let prefixes = ["192.0.2.0/25", "192.0.2.128/25", "2001:db8:1::/64"];
    elements.extend(prefixes.map(|prefix| Element::Announced { prefix: prefix.parse().unwrap() }));
    elements.extend(prefixes.map(|prefix| Element::ServiceCidr { prefix: prefix.parse().unwrap() }));
    kernel.replace(&ruleset(), &elements).unwrap();
    let before = namespace.list_ruleset();
    let (first, address) = (elements[0], "10.96.0.0");
    assert!(format!("{first:?}").contains(address));
    let changed = |removed, added| Some(Adopted::Changed { removed, added, gone: Vec::new() });
    for (edit, expected) in [
        ("table ip other { set s { type ipv4_addr; }; }; delete table ip other", Some(Adopted::Unchanged)),
        ("delete element ip herald vips { 10.96.0.0 }", changed(0, 1)),
        ("add element ip6 herald vips { 2001:db8:1::5 }", changed(1, 0)),
        ("delete element ip herald announced { 192.0.2.128/25 }", changed(0, 1)),
        ("flush set ip herald vips", changed(0, 20)),
        ("flush map ip herald endpoints", changed(0, 60)),
        (
            "delete element ip herald services { 10.96.0.0 . tcp . 80 : fe01:1 }; \
             add element ip herald services { 10.96.0.0 . tcp . 80 : fe01:3 }",
            changed(1, 1),
        ),
        // What Herald would not have written, and all rules: refilled.
        ("add element ip herald vips { 192.0.2.77 comment \"mine\" }", None),
        ("add element ip herald announced { 198.51.100.1-198.51.100.3 }", None),
        ("add rule ip herald guard drop", None),
        ("insert rule ip herald guard accept", None),
        ("flush chain ip6 herald translate", None),
        ("flush chain ip herald prerouting-dnat; delete element ip herald policies { fe01:1 }", None),
        // Chains, hooks, tables: replaced.
        ("add chain ip herald mine { type filter hook input priority 0; drop; }", None),
        ("add chain ip herald input-guard { policy drop; }", None),
        ("add table ip herald { flags dormant; }", None),
        ("delete table ip6 herald", None),
        ("flush ruleset", None),
    ] {
        namespace.nft(edit);
        let generation = kernel.generation().unwrap();
        let adopted = kernel.adopt(&ruleset(), &elements).unwrap_or_else(|error| panic!("{edit}: {error}"));
        if let Some(expected) = expected {
            assert_eq!(adopted, expected, "{edit}");
        } else {
            assert!(matches!(adopted, Adopted::Refilled(_) | Adopted::Replaced(_)), "{edit}: {adopted:?}");
        }
        let commits = u32::from(adopted != Adopted::Unchanged);
        assert_eq!(kernel.generation().unwrap(), generation + commits, "{edit}");
        assert_eq!(sorted(&namespace.list_ruleset()), sorted(&before), "{edit}");
    }
}

/// Elements are listed in the order of the kernel's hashes, several on a line.
fn sorted(listing: &str) -> Vec<&str> {
    let mut words: Vec<&str> = listing.split([',', '\n', '{', '}']).map(|word| word.trim()).collect();
    words.sort_unstable();
    words
}

#[test]
#[ignore = "needs a network namespace"]
fn other_rules_are_refilled_and_the_dump_says_what_is_foreign() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    let elements = services(0, 3);
    assert!(matches!(kernel.dump(&ruleset()), Err(KernelError::Foreign(_))), "there are no tables");
    kernel.replace(&ruleset(), &elements).unwrap();
    let other = Ruleset::new(&RulesetConfig::default());
    assert!(matches!(kernel.adopt(&other, &elements).unwrap(), Adopted::Refilled(_)));
    namespace.nft("add element ip herald rejected { 192.0.2.9 . 47 . 0 }");
    let error = kernel.dump(&other).unwrap_err();
    assert!(error.to_string().contains("rejected (IPv4)"), "{error}");
}

#[test]
#[ignore = "needs a network namespace"]
fn the_monitor_hears_what_others_do_to_our_tables_and_nothing_else() {
    let namespace = Namespace::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (mut kernel, mut monitor) = namespace.run(move || {
        let _entered = handle.enter();
        let mut kernel = Kernel::open().unwrap();
        let monitor = kernel.monitor().unwrap();
        (kernel, monitor)
    });
    let mut hears = |patience: Duration| {
        runtime.block_on(async { tokio::time::timeout(patience, monitor.changed()).await }).is_ok()
    };
    let load = services(0, 2000);
    kernel.replace(&ruleset(), &services(0, 5)).unwrap();
    kernel.replace(&ruleset(), &load).unwrap();
    kernel.apply(&Changes { remove: vec![load[0]], add: vec![] }).unwrap();
    assert!(!hears(SILENCE), "own changes, small and large");
    namespace.nft("table ip other { set herald { type ipv4_addr; elements = { 192.0.2.1 }; }; }");
    namespace.nft("table inet herald { }");
    assert!(!hears(SILENCE), "other tables");
    for edit in
        ["add element ip herald vips { 192.0.2.1 }", "add rule ip6 herald guard drop", "flush ruleset"]
    {
        namespace.nft(edit);
        assert!(hears(PATIENCE), "{edit}");
        assert!(!hears(Duration::from_millis(50)), "one transaction is one hint: {edit}");
    }
    // What somebody commits while the monitor is out of its group is not missed.
    kernel.replace(&ruleset(), &[]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let others = namespace.spawn(move || {
        let mut kernel = Kernel::open().unwrap();
        let element = Element::Vip { address: [192, 0, 2, 1].into() };
        while !stopped.load(Ordering::Relaxed) {
            let _ = kernel.apply(&Changes { remove: vec![], add: vec![element] });
        }
    });
    assert!(hears(PATIENCE));
    kernel.replace(&ruleset(), &load).unwrap();
    stop.store(true, Ordering::Relaxed);
    others.join().unwrap();
    assert!(hears(PATIENCE));
}
