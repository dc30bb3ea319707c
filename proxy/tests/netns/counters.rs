//! What the rules count, against packets that were sent.

use std::collections::BTreeMap;

use herald_proxy::netlink::{Adopted, Count};
use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{Changes, Element, EndReason, Frontend, IpFamily, Policy, Protocol, Refusal, Scope};

use crate::checked::CheckedKernel;
use crate::net::{Network, PATIENCE, PODS, SILENCE, Seen, Server, udp};

fn ended(kernel: &mut CheckedKernel) -> BTreeMap<(IpFamily, EndReason), Count> {
    kernel.ended().unwrap().into_iter().map(|ended| ((ended.family, ended.reason), ended.count)).collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn each_packet_that_a_rule_ends_is_counted_under_its_reason_and_refills_keep_the_counts() {
    let network = Network::new();
    let mut elements = Vec::new();
    // An address of Services and another of the announced prefix.
    let vips = [("192.0.2.1", "192.0.2.2"), ("2001:db8:1::1", "2001:db8:1::2")];
    // A ClusterIP that no Service has.
    let free = ["10.96.0.9", "2001:db8:3::9"];
    let prefixes = [("192.0.2.0/24", "10.96.0.0/12"), ("2001:db8:1::/64", "2001:db8:3::/112")];
    for ((vip, _), (aggregate, cidr)) in vips.into_iter().zip(prefixes) {
        let frontend = |port| Frontend { address: vip.parse().unwrap(), protocol: Protocol::Udp, port };
        elements.extend([
            Element::Vip { address: vip.parse().unwrap() },
            Element::Refused { frontend: frontend(1), refusal: Refusal::Drop },
            Element::Refused { frontend: frontend(2), refusal: Refusal::Reject },
            Element::Restricted { frontend: frontend(3) },
            Element::ServiceCidr { prefix: cidr.parse().unwrap() },
            Element::Announced { prefix: aggregate.parse().unwrap() },
        ]);
    }
    let mut kernel = network.node.kernel();
    kernel.replace(&Ruleset::new(&RulesetConfig::default()), &elements).unwrap();
    let all = ended(&mut kernel);
    assert_eq!(all.len(), 2 * EndReason::ALL.len());
    assert!(all.values().all(|count| *count == Count::default()), "{all:?}");
    for ((vip, other), free) in vips.into_iter().zip(free) {
        let at = |vip: &str, port| std::net::SocketAddr::new(vip.parse().unwrap(), port).to_string();
        // One datagram to port 1, two to port 2, and so on; port 4 is nobody's.
        for port in 1..=4 {
            for _ in 0..port {
                udp(&network.client, &at(vip, port), SILENCE / 8);
            }
        }
        udp(&network.client, &at(other, 9), SILENCE / 8);
        for _ in 0..5 {
            udp(&network.client, &at(free, 9), SILENCE / 8);
        }
    }
    let counted = ended(&mut kernel);
    for family in IpFamily::ALL {
        let packets = EndReason::ALL.map(|reason| (reason.word(), counted[&(family, reason)].packets));
        let expected = [
            ("SourceNotAllowed", 3),
            ("NoLocalEndpoint", 1),
            ("RoutedBack", 1),
            ("UnallocatedClusterIP", 5),
            ("NoEndpoint", 2),
            ("UnservedPort", 4),
            ("Invalid", 0),
        ];
        assert_eq!(packets, expected, "{family}");
        // A UDP header and the payload behind the network header.
        let header = if family == IpFamily::V4 { 20 } else { 40 };
        let reason = EndReason::ALL[1];
        assert!(counted[&(family, reason)].bytes > header + 8);
    }
    // Other rules: refilled, and counted on.
    let cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    let other = Ruleset::new(&RulesetConfig { cluster_cidrs, ..RulesetConfig::default() });
    assert!(matches!(kernel.adopt(&other, &elements).unwrap(), Adopted::Refilled(_)));
    assert_eq!(ended(&mut kernel), counted);
    kernel.remove().unwrap();
    assert_eq!(ended(&mut kernel), BTreeMap::new());
}

#[test]
#[ignore = "needs a network namespace"]
fn packets_and_bytes_of_clients_are_counted_by_frontend_and_a_restart_keeps_them() {
    let network = Network::new();
    let mut elements = Vec::new();
    let mut frontends = Vec::new();
    for (vip, pod) in ["192.0.2.1", "2001:db8:1::1"].into_iter().zip(PODS[0]) {
        let frontend = Frontend { address: vip.parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let endpoint = std::net::SocketAddr::new(pod.parse().unwrap(), 5353);
        elements.extend([
            Element::Counted { frontend },
            Element::Service { frontend, policy: Policy::External },
            Element::Pick { frontend, scope: Scope::Cluster, class: 1 },
            Element::Endpoint { frontend, scope: Scope::Cluster, slot: 0, endpoint },
        ]);
        frontends.push((frontend, endpoint));
    }
    let quiet = Frontend { port: 54, ..frontends[0].0 };
    elements.push(Element::Counted { frontend: quiet });
    let ruleset = Ruleset::new(&RulesetConfig::default());
    let mut kernel = network.node.kernel();
    kernel.replace(&ruleset, &elements).unwrap();
    for (frontend, endpoint) in &frontends {
        let _server = Server::udp(&network.pods[0], "pod0", &endpoint.to_string());
        let to = std::net::SocketAddr::new(frontend.address, frontend.port).to_string();
        for from in [&network.client, &network.client, &network.pods[1], &network.node] {
            assert!(matches!(udp(from, &to, PATIENCE), Seen::Answer(_)));
        }
    }
    let traffic = |kernel: &mut CheckedKernel| {
        let mut seen = BTreeMap::new();
        kernel.traffic(&mut |frontend, _, count| assert!(seen.insert(frontend, count).is_none())).unwrap();
        seen
    };
    // Four datagrams there; answers are not counted. One byte in UDP in IP.
    let (v4, v6) = (Count { packets: 4, bytes: 4 * 29 }, Count { packets: 4, bytes: 4 * 49 });
    let expected = BTreeMap::from([(frontends[0].0, v4), (frontends[1].0, v6), (quiet, Count::default())]);
    assert_eq!(traffic(&mut kernel), expected);
    let mut restarted = network.node.kernel();
    assert_eq!(restarted.adopt(&ruleset, &elements).unwrap(), Adopted::Unchanged);
    restarted.apply(&Changes { remove: vec![Element::Counted { frontend: quiet }], add: vec![] }).unwrap();
    let kept = BTreeMap::from([(frontends[0].0, v4), (frontends[1].0, v6)]);
    assert_eq!(traffic(&mut restarted), kept);
    // Where nobody wants it, no packet meets the set.
    let without = Ruleset::new(&RulesetConfig { count_traffic: false, ..RulesetConfig::default() });
    assert!(!without.text(&[]).contains("@traffic"));
}
