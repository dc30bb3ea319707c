//! Figures, printed: `cargo test --release -p herald-proxy --test netns -- --ignored --nocapture figures`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use herald_proxy::netlink::Adopted;
use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{Changes, Element, Frontend, Policy, Protocol, Scope};

use crate::net::Namespace;

/// A Service of one port with three endpoints.
fn service(index: u32) -> Vec<Element> {
    let address = IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + index));
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
    let mut elements = vec![
        Element::Service { frontend, policy: Policy::Internal },
        Element::Pick { frontend, scope: Scope::Cluster, class: 3 },
        Element::Vip { address },
        Element::Counted { frontend },
    ];
    elements.extend((0..3).map(|slot| {
        let pod = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + 3 * index + u32::from(slot));
        let endpoint = SocketAddr::from((pod, 8080));
        Element::Endpoint { frontend, scope: Scope::Cluster, slot, endpoint }
    }));
    elements
}

/// Median and worst of a list of durations.
fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
#[ignore = "needs a network namespace"]
fn figures_at_45000_services_of_3_endpoints_are_within_their_bars() {
    let namespace = Namespace::new();
    let ruleset = Ruleset::new(&RulesetConfig::default());
    let mut kernel = namespace.unchecked_kernel();
    for services in [10_000, 45_000] {
        kernel.remove().unwrap();
        let elements: Vec<Element> = (0..services).flat_map(service).collect();
        let start = Instant::now();
        kernel.replace(&ruleset, &elements).unwrap();
        let load = start.elapsed();
        if std::env::var_os("ONLY").is_some() {
            continue;
        }
        let start = Instant::now();
        kernel.replace(&ruleset, &elements).unwrap();
        let again = start.elapsed();
        let start = Instant::now();
        let adopted = kernel.adopt(&ruleset, &elements).unwrap();
        assert!(matches!(
            (services, &adopted),
            (10_000, Adopted::Unchanged) | (45_000, Adopted::Refilled(_))
        ));
        println!("{services} services x 3: {adopted:?} in {:.2?}", start.elapsed());
        let (mut adds, mut removals) = (Vec::new(), Vec::new());
        for index in services..services + 100 {
            let start = Instant::now();
            kernel.apply(&Changes { remove: vec![], add: service(index) }).unwrap();
            adds.push(start.elapsed());
            let start = Instant::now();
            kernel.apply(&Changes { remove: service(index), add: vec![] }).unwrap();
            removals.push(start.elapsed());
        }
        let (add, add_worst) = median_and_worst(adds);
        let (removal, removal_worst) = median_and_worst(removals);
        println!(
            "{services} services x 3 ({} elements): load {load:.2?}, replace {again:.2?}, one more {add:.2?} \
             (worst {add_worst:.2?}), one less {removal:.2?} (worst {removal_worst:.2?})",
            elements.len()
        );
        // The bars are those of a release build on a machine with nothing else to do.
        let slack = if cfg!(debug_assertions) { 4 } else { 1 };
        assert!(load <= slack * Duration::from_secs(3), "{load:?}");
        assert!(again <= slack * Duration::from_secs(3), "{again:?}");
        assert!(add <= Duration::from_millis(5), "{add:?}");
        assert!(removal <= Duration::from_millis(5), "{removal:?}");
    }
    let start = Instant::now();
    kernel.remove().unwrap();
    println!("all removed {:.2?}", start.elapsed());
}

/// A load balancer frontend that ten disjoint ranges reach; `last` makes one of them another.
fn restricted(index: u32, last: u8) -> Vec<Element> {
    let address = IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 0, 0)) + index));
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 443 };
    let range = |n: u8| ipnet::IpNet::from(IpAddr::from([10, n, 0, 0])).supernet();
    let prefixes = (0..9).chain([last]).filter_map(range);
    let sources = prefixes.map(|prefix| Element::Source { frontend, prefix });
    sources.chain([Element::Restricted { frontend }]).collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn figures_at_1000_restricted_frontends_of_10_ranges_are_within_their_bars() {
    let namespace = Namespace::new();
    let ruleset = Ruleset::new(&RulesetConfig::default());
    let mut kernel = namespace.unchecked_kernel();
    let elements: Vec<Element> = (0..1000).flat_map(|index| restricted(index, 9)).collect();
    let start = Instant::now();
    kernel.replace(&ruleset, &elements).unwrap();
    let load = start.elapsed();
    let mut changes = Vec::new();
    for index in 0..50 {
        let (before, after) = (restricted(index, 9), restricted(index, 99));
        let start = Instant::now();
        kernel
            .apply(&Changes {
                remove: before.iter().filter(|element| !after.contains(element)).copied().collect(),
                add: after.iter().filter(|element| !before.contains(element)).copied().collect(),
            })
            .unwrap();
        changes.push(start.elapsed());
    }
    let (change, worst) = median_and_worst(changes);
    println!(
        "1000 restricted x 10 ranges: load {load:.2?}, one range changed {change:.2?} (worst {worst:.2?})"
    );
    let slack = if cfg!(debug_assertions) { 4 } else { 1 };
    assert!(load <= slack * Duration::from_millis(500), "{load:?}");
    assert!(change <= slack * Duration::from_millis(20), "{change:?}");
}
