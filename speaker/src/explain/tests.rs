//! What people and scripts read, as golden files in `testdata/explain` (`UPDATE_GOLDEN=1` writes them anew).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use herald_config::Config;
use herald_proxy::external_ips::{Holders, Reserved};
use herald_proxy::ruleset::MasqueradeMode;
use herald_proxy::{Element, EndpointsView, IpFamily, Names, NodeView, Program, SliceView};
use herald_runtime::ObjectName;
use herald_runtime::watch::WatchEvent;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::node::near;
use super::packet::{self, PacketQuestion, Rules};
use super::service::{InForce, explain};
use super::*;
use crate::index::{Index, Observed, ServiceObject, fold_service};
use crate::options::ProxyMode;
use crate::plan::{View, plan};
use crate::reason::Reason;

const CONFIG: &str = "
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}
";

static FORWARDS: BTreeSet<IpFamily> = BTreeSet::new();
static NONE_RESERVED: BTreeMap<IpAddr, Reserved> = BTreeMap::new();

pub(super) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/explain").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "\n{}\n{found}", path.display());
}

/// A node on which Services are in force.
struct World {
    config: Config,
    node: NodeView,
    peers: BTreeSet<String>,
    mode: ProxyMode,
    refusal: Option<Reason>,
    failure: Option<(Reason, &'static str)>,
    index: Index,
    endpoints: EndpointsView,
    program: Program,
    guards: Vec<Element>,
    masquerade: MasqueradeMode,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl World {
    /// With these slices of `shop/web`, each with its ports and endpoints.
    fn new(slices: &[Value]) -> Self {
        let mut endpoints = EndpointsView::default();
        for (i, content) in slices.iter().enumerate() {
            let mut slice = content.clone();
            slice["metadata"] = json!({"namespace": "shop", "name": format!("web-{i}"),
                "labels": {"kubernetes.io/service-name": "web"}});
            let slice = serde_json::from_value(slice).unwrap();
            let view = SliceView::read(&slice, &mut Names::default()).unwrap().view;
            endpoints.apply(&format!("web-{i}"), view);
        }
        let node = NodeView {
            localhost: Vec::new(),
            name: "node-1".to_owned(),
            zone: Some("west".to_owned()),
            port_addresses: vec!["10.0.0.11".parse().unwrap()],
            node_addresses: ["10.0.0.11".parse().unwrap(), "10.0.0.12".parse().unwrap()].into(),
            own_addresses: vec!["10.0.0.11".parse().unwrap()],
            other_family_sources: herald_proxy::OtherFamilySources::Deny,
            mode: herald_proxy::ProxyMode::Full,
        };
        Self {
            config: herald_config::parse(CONFIG).unwrap().config,
            node,
            mode: ProxyMode::Full,
            peers: ["10.0.0.1".to_owned()].into(),
            refusal: None,
            failure: None,
            index: Index::default(),
            endpoints,
            program: Program::new(),
            guards: Vec::new(),
            masquerade: MasqueradeMode::Always,
        }
    }

    fn view<'a>(&'a self, cidrs: &'a [IpNet], holders: &'a Holders) -> View<'a> {
        View {
            node: &self.node,
            node_refusal: self.refusal,
            not_forwarding: &FORWARDS,
            peers: &self.peers,
            leaves: None,
            config: &self.config,
            proxies: self.mode != ProxyMode::Off,
            class: None,
            pod_cidrs: cidrs,
            service_cidrs: &[],
            reserved: &NONE_RESERVED,
            holders,
        }
    }

    /// Brings a Service into force.
    fn has(&mut self, service: &ServiceObject) {
        let cidrs = [net("10.244.0.0/16")];
        let holders = Holders::default();
        let rules = plan(&self.view(&cidrs, &holders), service, &self.endpoints).rules;
        self.program.install(&service.name, rules.map(|rules| (*rules).clone()));
        self.index.observe(Observed::Services(WatchEvent::Applied(service.clone())));
    }

    fn explain(&mut self, service: &ServiceObject) -> ServiceAnswer {
        if self.failure.is_none() {
            self.has(service);
        }
        let (cidrs, holders) = ([net("10.244.0.0/16")], Holders::default());
        let owners = crate::layer2::View::default();
        let in_force = InForce {
            layer2: &owners,
            mode: self.mode,
            programmed: true,
            program: (self.mode != ProxyMode::Off).then_some(&self.program),
            cluster_cidrs: &cidrs,
            masquerade: self.masquerade,
            failure: self.failure,
        };
        explain(&self.view(&cidrs, &holders), in_force, service, &self.endpoints)
    }

    fn packet(&self, from: &str, to: &str) -> PacketAnswer {
        let local: BTreeSet<IpAddr> =
            ["10.0.0.11", "10.244.1.1", "127.0.0.1"].map(|ip| ip.parse().unwrap()).into();
        let rules = Rules {
            node: "node-1",
            programmed: true,
            program: Some(&self.program),
            guards: self.guards.clone(),
            cluster_cidrs: &[net("10.244.0.0/16")],
            masquerade: self.masquerade,
            local_addresses: &local,
            index: &self.index,
        };
        packet::explain(&rules, &PacketQuestion::parse(from, to).unwrap())
    }
}

/// A LoadBalancer Service with port `http` 80 and node port 30080, and whatever more its spec says.
fn web(more: Value) -> ServiceObject {
    named("web", "2026-01-01T00:00:00Z", more)
}

fn named(name: &str, created: &str, more: Value) -> ServiceObject {
    let mut spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let object = json!({
        "metadata": {"namespace": "shop", "name": name, "uid": "1", "creationTimestamp": created},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    fold_service(&serde_json::from_value(object).unwrap())
}

fn slice(port: &str, endpoints: Value) -> Value {
    json!({"addressType": "IPv4", "ports": [{"name": port, "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn pod(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "nodeName": node})
}

fn two_nodes() -> World {
    World::new(&[slice(
        "http",
        json!([
            pod("10.244.1.7", "node-1"),
            pod("10.244.2.9", "node-2"),
            {"addresses": ["10.244.2.10"], "nodeName": "node-2", "conditions": {"ready": false}},
            {"addresses": ["10.244.2.11"], "nodeName": "node-2",
             "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]),
    )])
}

fn remote_only() -> World {
    World::new(&[slice("http", json!([pod("10.244.2.9", "node-2"), pod("10.244.2.10", "node-2")]))])
}

fn local_policy() -> ServiceObject {
    web(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31234}))
}

#[test]
fn a_service_in_good_order() {
    golden("service.txt", &two_nodes().explain(&web(json!({}))).to_string());
}

#[test]
fn policy_local_on_a_node_with_an_endpoint() {
    golden("local.txt", &two_nodes().explain(&local_policy()).to_string());
}

#[test]
fn policy_local_on_a_node_without_an_endpoint() {
    golden("local-without.txt", &remote_only().explain(&local_policy()).to_string());
}

#[test]
fn no_endpoint_is_ready() {
    let not_ready =
        json!({"addresses": ["10.244.1.7"], "nodeName": "node-1", "conditions": {"ready": false}});
    let mut world = World::new(&[slice("http", json!([not_ready]))]);
    golden("not-ready.txt", &world.explain(&web(json!({}))).to_string());
}

#[test]
fn no_slice_and_a_port_that_no_slice_has() {
    let mut text = World::new(&[]).explain(&web(json!({}))).to_string();
    let mut other = World::new(&[slice("web", json!([pod("10.244.1.7", "node-1")]))]);
    text.push_str(&other.explain(&web(json!({}))).to_string());
    let dual = json!({"clusterIPs": ["10.96.0.10", "2001:db8:3::a"], "type": "ClusterIP"});
    text.push_str(&two_nodes().explain(&web(dual)).to_string());
    golden("no-endpoints.txt", &text);
}

#[test]
fn endpoints_that_are_held_and_source_ranges() {
    let not_ready = |address: &str, node: &str| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": false}});
    let endpoints = json!([not_ready("10.244.1.7", "node-1"), not_ready("10.244.2.9", "node-2")]);
    let mut world = World::new(&[slice("http", endpoints)]);
    let held = ["10.244.1.7".parse().unwrap()].into();
    world.endpoints.set_held(Some(std::sync::Arc::new(held)));
    let service = web(json!({"loadBalancerSourceRanges": ["203.0.113.0/25", "198.51.100.0/24"]}));
    let mut text = world.explain(&service).to_string();
    for from in ["203.0.113.5", "203.0.113.200"] {
        text.push_str(&format!("\n{}", world.packet(from, "192.0.2.1:80")));
    }
    golden("held-and-ranges.txt", &text);
}

#[test]
fn session_affinity_and_masquerade_of_remote_endpoints_only() {
    let endpoint = |address: &str, node: &str| json!({"addresses": [address], "nodeName": node});
    let endpoints = json!([endpoint("10.244.1.7", "node-1"), endpoint("10.244.2.9", "node-2")]);
    let mut world = World::new(&[slice("http", endpoints)]);
    world.masquerade = MasqueradeMode::Remote;
    let service = web(json!({"sessionAffinity": "ClientIP"}));
    let mut text = world.explain(&service).to_string();
    for from in ["203.0.113.5", "10.244.1.7"] {
        text.push_str(&format!("\n{}", world.packet(from, "192.0.2.1:80")));
    }
    golden("affinity-and-remote.txt", &text);
}

#[test]
fn hints_keep_traffic_in_the_zone() {
    let hinted = |address: &str, node: &str, zone: &str| json!({"addresses": [address], "nodeName": node, "hints": {"forZones": [{"name": zone}]}});
    let endpoints = json!([hinted("10.244.1.7", "node-1", "west"), hinted("10.244.2.9", "node-2", "east")]);
    let mut world = World::new(&[slice("http", endpoints)]);
    golden("zones.txt", &world.explain(&web(json!({"type": "ClusterIP"}))).to_string());
}

#[test]
fn an_address_that_another_service_holds_and_one_that_is_a_nodes() {
    let mut world = two_nodes();
    world.has(&named("old", "2025-01-01T00:00:00Z", json!({"clusterIPs": ["10.96.0.9"]})));
    let service = web(json!({"externalIPs": ["10.0.0.12"], "ports": [
        {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "bad", "port": 0, "protocol": "TCP"}]}));
    golden("contested.txt", &world.explain(&service).to_string());
}

#[test]
fn a_service_that_the_kernel_refuses_and_a_node_that_announces_nothing() {
    let mut world = two_nodes();
    world.failure = Some((Reason::RulesRefused, "the kernel refused the batch: No space left on device"));
    let mut text = world.explain(&web(json!({}))).to_string();
    let mut world = two_nodes();
    world.refusal = Some(Reason::NodeExcluded);
    text.push_str(&world.explain(&web(json!({}))).to_string());
    golden("refused.txt", &text);
}

#[test]
fn services_that_are_not_proxied() {
    let mut text = String::new();
    for spec in [json!({"type": "ExternalName"}), json!({"clusterIP": "None", "clusterIPs": ["None"]})] {
        text.push_str(&two_nodes().explain(&web(spec)).to_string());
    }
    let mut world = two_nodes();
    world.mode = ProxyMode::Off;
    text.push_str(&world.explain(&web(json!({}))).to_string());
    let mut world = two_nodes();
    (world.mode, world.node.mode) = (ProxyMode::External, herald_proxy::ProxyMode::External);
    text.push_str(&world.explain(&web(json!({"type": "ClusterIP"}))).to_string());
    golden("not-proxied.txt", &text);
}

#[test]
fn the_fates_of_packets() {
    let mut world = two_nodes();
    world.has(&web(json!({})));
    let mut text = String::new();
    let mut tell = |world: &World, from: &str, to: &str| {
        let answer = world.packet(from, to);
        text.push_str(&format!("$ herald explain packet --from {from} --to {to}\n{answer}\n"));
    };
    for (from, to) in [
        ("10.244.1.5", "10.96.0.10:80"),
        ("10.244.1.7", "10.96.0.10:80/tcp"),
        ("203.0.113.5", "10.0.0.11:30080"),
        ("203.0.113.5", "192.0.2.1:443"),
        ("203.0.113.5", "198.51.100.7:80"),
        ("203.0.113.5", "10.0.0.11:22"),
    ] {
        tell(&world, from, to);
    }
    let mut world = remote_only();
    world.has(&local_policy());
    world.guards = vec![
        Element::Announced { prefix: net("192.0.2.0/24") },
        Element::ServiceCidr { prefix: net("10.96.0.0/12") },
    ];
    for (from, to) in [
        ("203.0.113.5", "192.0.2.1:80"),
        ("10.244.1.5", "192.0.2.1:80"),
        ("10.0.0.11", "192.0.2.1:80"),
        ("203.0.113.5", "192.0.2.77:80"),
        ("10.244.1.5", "10.96.0.99:80"),
    ] {
        tell(&world, from, to);
    }
    let mut world = World::new(&[]);
    world.has(&web(json!({})));
    tell(&world, "203.0.113.5", "192.0.2.1:80/tcp");
    golden("packets.txt", &text);
}

// Scripts read these: fields may be added, and nothing else.

#[test]
fn the_json_keeps_its_form() {
    let mut world = remote_only();
    let service = world.explain(&local_policy());
    golden("service.json", &format!("{:#}\n", serde_json::to_value(&service).unwrap()));
    let packet = world.packet("203.0.113.5", "192.0.2.1:80");
    golden("packet.json", &format!("{:#}\n", serde_json::to_value(&packet).unwrap()));
    let read: ServiceAnswer = serde_json::from_slice(&serde_json::to_vec(&service).unwrap()).unwrap();
    assert_eq!(read, service);
    let read: PacketAnswer = serde_json::from_slice(&serde_json::to_vec(&packet).unwrap()).unwrap();
    assert_eq!(read, packet);
}

#[test]
fn a_service_of_very_many_endpoints_has_an_answer_of_bounded_size() {
    let pods: Vec<Value> =
        (0..5000u32).map(|i| pod(&format!("10.244.{}.{}", i / 250, i % 250 + 1), "node-2")).collect();
    let answer = World::new(&[slice("http", pods.into())]).explain(&web(json!({})));
    let port = &answer.ports[0];
    assert_eq!((port.endpoints.len(), port.endpoints_left_out), (1000, 4000));
    assert_eq!(answer.advice, Vec::<String>::new());
    assert!(serde_json::to_vec(&answer).unwrap().len() < 1 << 20);
}

#[test]
fn near_names_are_of_the_same_namespace_or_the_same_name() {
    let names: Vec<ObjectName> =
        [("a", "web"), ("shop", "wep"), ("shop", "web-1"), ("shop", "cart"), ("z", "wep")]
            .map(|(namespace, name)| ObjectName::new(namespace, name))
            .into();
    assert_eq!(near(names.iter(), &ObjectName::new("shop", "web")), ["a/web", "shop/wep", "shop/web-1"]);
}
