//! The kernel against the tracer: random small clusters are loaded, real packets are sent through them, and what becomes
//! of each must be what the tracer says. `HERALD_SEED` repeats a run.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use herald_proxy::ruleset::{MasqueradeMode, Ruleset, RulesetConfig};
use herald_proxy::{
    EndpointsView, Frontend, Hook, Names, NodeView, OtherFamilySources, Packet, Program, Protocol, ProxyMode,
    ServiceView, SliceView, Tracer, Verdict, rules,
};
use herald_runtime::ObjectName;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::net::{CLIENT, GATEWAYS, NODE, Network, PATIENCE, PODS, Seen, Server, tcp, udp};

/// Packets that are sent at least.
const PACKETS: usize = 150;

/// How long the test takes at most.
const BUDGET: Duration = Duration::from_secs(40);

/// How long a dropped packet is waited for.
const SILENCE: Duration = Duration::from_millis(250);

/// Ports that endpoints listen at, with both protocols.
const PORTS: [u16; 2] = [8080, 8081];

const SERVICES: usize = 3;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// The addresses of a Service, that no other one of this run has: connections of before stay out of its way.
struct Addresses {
    cluster: [String; 2],
    vip: [String; 2],
    external: [String; 2],
    node_port: u16,
}

impl Addresses {
    fn of(number: usize) -> Self {
        Self {
            cluster: [format!("10.96.0.{number}"), format!("2001:db8:3::{number:x}")],
            vip: [format!("192.0.2.{number}"), format!("2001:db8:1::{number:x}")],
            external: [format!("198.51.100.{number}"), format!("2001:db8:1::e:{number:x}")],
            node_port: 30_000 + 2 * number as u16,
        }
    }
}

fn any_service(random: &mut Random, addresses: &Addresses) -> Value {
    let policy = [Value::Null, json!("Cluster"), json!("Local")];
    let range =
        ["203.0.113.0/24", "10.244.0.0/16", "10.0.0.0/24", "0.0.0.0/0", "2001:db8::/32", "2001:db8:2::/48"];
    let ranges: Vec<&str> = match random.percent(40) {
        true => (0..1 + random.below(3)).map(|_| random.one(&range)).collect(),
        false => Vec::new(),
    };
    let external: &[String] = if random.percent(40) { &addresses.external } else { &[] };
    json!({
        "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": random.one(&["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"]),
            "clusterIPs": addresses.cluster,
            "externalIPs": external,
            "ports": [
                {"name": "http", "port": 80, "nodePort": addresses.node_port},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": addresses.node_port},
            ],
            "internalTrafficPolicy": random.one(&policy),
            "externalTrafficPolicy": random.one(&policy),
            "sessionAffinity": random.one(&["None", "ClientIP"]),
            "loadBalancerSourceRanges": ranges,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": addresses.vip[0]}, {"ip": addresses.vip[1]}]}},
    })
}

fn any_slice(random: &mut Random, family: usize, port: u16) -> Value {
    let condition = [Value::Null, json!(true), json!(true), json!(false)];
    let node = [Value::Null, json!("a"), json!("a"), json!("b")];
    let mut endpoints = Vec::new();
    for pod in PODS {
        if random.percent(55) {
            let zone = random.one(&["west", "east"]);
            endpoints.push(json!({
                "addresses": [pod[family]],
                "nodeName": random.one(&node),
                "conditions": {
                    "ready": random.one(&condition),
                    "serving": random.one(&condition),
                    "terminating": random.one(&condition),
                },
                "hints": if random.percent(30) { json!({"forZones": [{"name": zone}]}) } else { Value::Null },
            }));
        }
    }
    json!({
        "metadata": {"namespace": "shop", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": if family == 0 { "IPv4" } else { "IPv6" },
        "ports": [{"name": "http", "port": port}, {"name": "dns", "port": port, "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

fn node(random: &mut Random) -> NodeView {
    let own: Vec<IpAddr> = NODE.map(|ip| ip.parse().unwrap()).into();
    NodeView {
        name: "a".to_owned(),
        zone: Some("west".to_owned()),
        port_addresses: own.clone(),
        node_addresses: own.iter().copied().collect(),
        own_addresses: own,
        other_family_sources: random.one(&[OtherFamilySources::Deny, OtherFamilySources::Allow]),
        localhost: Vec::new(),
        mode: random.one(&[ProxyMode::Full, ProxyMode::Full, ProxyMode::External]),
    }
}

/// What a client must see. `None`: any of several things, or what is none of Herald's business.
fn wanted(verdict: &Verdict, packet: &Packet, family: usize) -> Option<Vec<Seen>> {
    match verdict {
        Verdict::Dnat { shares, .. } => {
            let mut answers = Vec::new();
            for share in shares {
                let pod = PODS.iter().position(|pod| share.endpoint.ip() == ip(pod[family])).unwrap();
                let source = match share.masquerade {
                    Some(_) => ip(GATEWAYS[pod][family]),
                    // A pod whose Service says that it runs on another node does not get its own packets.
                    None if share.endpoint.ip() == packet.source => return None,
                    None => packet.source,
                };
                answers.push(Seen::answer(&share.endpoint.to_string(), &source.to_string()));
            }
            Some(answers)
        }
        // The sender of a datagram on the dropping node itself is told.
        Verdict::Drop(_) if packet.hook == Hook::Output && packet.destination.protocol == Protocol::Udp => {
            Some(vec![Seen::Silence, Seen::Refused])
        }
        Verdict::Drop(_) => Some(vec![Seen::Silence]),
        Verdict::Reject(_) => Some(vec![Seen::Refused]),
        Verdict::Pass => None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
#[ignore = "needs a network namespace"]
fn the_kernel_does_with_random_packets_what_the_tracer_says() {
    let seed: u64 = match std::env::var("HERALD_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
    };
    println!("HERALD_SEED={seed}");
    let mut random = Random(seed | 1);
    let network = Network::new();
    // Refusals are counted per client, and would be withheld from one that asks so often.
    network.node.sysctl("ipv4/icmp_ratelimit", "0");
    network.node.sysctl("ipv6/icmp/ratelimit", "0");
    let mut servers = Vec::new();
    for (number, namespace) in network.pods.iter().enumerate() {
        for family in [0, 1] {
            for port in PORTS {
                let address = SocketAddr::new(ip(PODS[number][family]), port).to_string();
                let name: &'static str = address.clone().leak();
                servers.push(Server::tcp(namespace, name, &address));
                servers.push(Server::udp(namespace, name, &address));
            }
        }
    }
    let cidrs: Vec<IpNet> = ["10.244.0.0/16", "2001:db8:2::/48"].map(|cidr| cidr.parse().unwrap()).into();
    let mut local: Vec<IpAddr> =
        [NODE, ["203.0.113.1", "2001:db8:cb::1"]].concat().into_iter().map(ip).collect();
    local.extend(GATEWAYS.concat().into_iter().map(ip));
    let mut kernel = network.node.kernel();
    let (start, mut sent, mut kinds) = (Instant::now(), 0, BTreeSet::new());
    for cluster in 0.. {
        if sent >= PACKETS && (start.elapsed() > BUDGET / 2 || cluster >= 20) {
            break;
        }
        assert!(start.elapsed() < BUDGET, "only {sent} packets");
        let masquerade = random.one(&[MasqueradeMode::Always, MasqueradeMode::Remote]);
        let cluster_cidrs = if random.percent(75) { cidrs.clone() } else { Vec::new() };
        let view = node(&mut random);
        let mut program = Program::new();
        let (mut frontends, mut objects) = (Vec::new(), Vec::new());
        for service in 0..SERVICES {
            let addresses = Addresses::of(1 + cluster * SERVICES + service);
            let object = any_service(&mut random, &addresses);
            let (proxied, _) = ServiceView::read(&serde_json::from_value(object.clone()).unwrap()).unwrap();
            let mut endpoints = EndpointsView::default();
            for (family, port) in [(0, PORTS[0]), (0, PORTS[1]), (1, PORTS[0]), (1, PORTS[1])] {
                let slice = any_slice(&mut random, family, port);
                let read =
                    SliceView::read(&serde_json::from_value(slice.clone()).unwrap(), &mut Names::default());
                endpoints.apply(&format!("{family}-{port}"), read.unwrap().view);
                objects.push(slice);
            }
            objects.push(object);
            let name = ObjectName::new("shop", format!("web-{service}"));
            program.set(&name, Some(rules(&proxied, &endpoints, &view)));
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Tcp, 81)] {
                for of in [&addresses.cluster, &addresses.vip, &addresses.external] {
                    frontends.extend(of.iter().map(|a| Frontend { address: ip(a), protocol, port }));
                }
            }
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let port = addresses.node_port;
                frontends.extend(NODE.map(|a| Frontend { address: ip(a), protocol, port }));
            }
        }
        let elements = program.all();
        let ruleset = Ruleset::new(&RulesetConfig {
            cluster_cidrs: cluster_cidrs.clone(),
            masquerade,
            ..Default::default()
        });
        kernel.replace(&ruleset, &elements).unwrap();
        let tracer = Tracer::new(elements, cluster_cidrs.clone(), local.clone()).with_masquerade(masquerade);
        for _ in 0..25 {
            let destination = random.one(&frontends);
            let family = usize::from(destination.address.is_ipv6());
            let (from, source, hook) = match random.below(5) {
                0 | 1 => (&network.client, CLIENT[family], Hook::Prerouting),
                2 => (&network.node, NODE[family], Hook::Output),
                pod => (&network.pods[pod - 3], PODS[pod - 3][family], Hook::Prerouting),
            };
            let packet = Packet { hook, source: ip(source), destination };
            let verdict = tracer.trace(&packet);
            let Some(wanted) = wanted(&verdict, &packet, family) else { continue };
            let ask = if destination.protocol == Protocol::Udp { udp } else { tcp };
            let patience = if wanted[0] == Seen::Silence { SILENCE } else { PATIENCE };
            let to = SocketAddr::new(destination.address, destination.port).to_string();
            let seen = ask(from, &to, patience);
            assert!(
                wanted.contains(&seen),
                "HERALD_SEED={seed}: {packet:?}: {seen:?}, by the tracer {verdict:?}\n{view:?}\npods {cluster_cidrs:?}, \
                 {masquerade:?}\n{objects:#?}"
            );
            sent += 1;
            kinds.insert(match verdict {
                Verdict::Dnat { affinity, .. } => format!("Dnat, affinity {}", affinity.is_some()),
                other => format!("{other:?}"),
            });
        }
    }
    println!("{sent} packets in {:.1?}: {kinds:?}", start.elapsed());
    assert!(kinds.len() >= 5, "too much alike: {kinds:?}");
    drop(servers);
}
