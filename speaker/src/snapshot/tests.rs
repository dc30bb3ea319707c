//! Round trips, damage, the file, and when it is written.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant, SystemTime};

use herald_proxy::{Names, SliceView};
use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::{Reach, WatchEvent};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::codec::{Field, Reader};
use super::*;
use crate::configured::{Configured, watched};
use crate::index::{Index, Observed, fold_service};
use crate::node;

fn identity() -> Identity {
    Identity { node: "node-1".to_owned(), namespace: "metallb-system".to_owned(), boot: "b1".to_owned() }
}

fn service(name: &str, spec: &Value) -> ServiceObject {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name},
            "annotations": {"herald.io/probe": "http path=/healthz port=8080 interval=150ms fail=5"}},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "2001:db8:3::1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["203.0.113.0/24"],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8:1::1"}]}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    let object: Service = serde_json::from_value(object).unwrap();
    fold_service(&object)
}

fn slice(name: &str, service: &str, endpoints: &Value) -> SliceObject {
    let object: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
    .unwrap();
    SliceObject {
        name: ObjectName::new("shop", name),
        reading: SliceView::read(&object, &mut Names::default()),
    }
}

fn endpoint(ip: &str, node: &str) -> Value {
    json!({"addresses": [ip], "nodeName": node, "hints": {"forZones": [{"name": "a"}]},
        "conditions": {"ready": true, "serving": true, "terminating": false}})
}

fn nodes() -> Vec<NodeObject> {
    let node = |name: &str, ip: &str| -> NodeObject {
        let object: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "a"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "2001:db8:2:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}, {"type": "InternalIP", "address": "2001:db8:10::11"}]},
        }))
        .unwrap();
        node::fold(&object, "node-1")
    };
    vec![node("node-1", "10.0.0.11"), node("node-2", "10.0.0.12")]
}

fn object(kind: &str, version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("metallb.io/{version}"), "kind": kind, "spec": spec, "status": {"x": 1},
        "metadata": {"name": name, "namespace": "metallb-system", "uid": name, "generation": 2, "resourceVersion": "7",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "…"}}})
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth", "metadata": {"name": name},
        "data": {"username": "eA==", "password": "czNjcjN0"}})
}

/// What the API server has; by kind.
fn objects() -> Vec<(&'static str, Vec<Value>)> {
    let of = |kind: &str| match kind {
        "IPAddressPool" => vec![object(kind, "v1beta1", "default", json!({"addresses": ["192.0.2.0/24"]}))],
        "BGPPeer" => {
            let spec = json!({"myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1", "passwordSecret": {"name": "tor"}});
            vec![object(kind, "v1beta2", "tor", spec)]
        }
        "Secret" => vec![secret("tor"), secret("of-nobody")],
        _ => Vec::new(),
    };
    watched().into_iter().map(|watched| (watched.kind, of(watched.kind))).collect()
}

fn lists(services: Vec<ServiceObject>, slices: Vec<SliceObject>) -> Vec<Observed> {
    let cidr =
        ServiceCidrObject { name: "kubernetes".to_owned(), cidrs: vec!["10.96.0.0/12".parse().unwrap()] };
    let config = ConfigObject(Some("herald: {masquerade: remote}\n".to_owned()));
    let mut lists = vec![
        Observed::Nodes(WatchEvent::Reset(nodes())),
        Observed::ServiceCidrs(WatchEvent::Reset(vec![cidr])),
        Observed::Config(WatchEvent::Reset(vec![config])),
        Observed::Services(WatchEvent::Reset(services)),
        Observed::Slices(WatchEvent::Reset(slices)),
    ];
    let event = |(kind, live)| Observed::Object(UntypedEvent { kind, event: WatchEvent::Reset(live) });
    lists.extend(objects().into_iter().map(event));
    lists
}

fn empty() -> Index {
    let mut index = Index::default();
    index.configured = Configured::with_objects(watch::Sender::new(None));
    index
}

fn index_of(services: Vec<ServiceObject>, slices: Vec<SliceObject>) -> Index {
    let mut index = empty();
    for list in lists(services, slices) {
        index.observe(list);
    }
    assert!(index.generation().is_some());
    index
}

/// Two Services with slices, one without, and one that is not proxied.
fn sample() -> Index {
    let services = vec![
        service("web", &json!({})),
        service("db", &json!({"type": "ClusterIP", "externalIPs": ["198.51.100.7"]})),
        service("idle", &json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000})),
        service("headless", &json!({"clusterIP": "None", "clusterIPs": ["None"]})),
    ];
    let mixed = json!([endpoint("10.244.1.7", "node-1"), endpoint("10.244.2.9", "node-2")]);
    let slices = vec![
        slice("web-1", "web", &mixed),
        slice("web-2", "web", &json!([endpoint("10.244.2.10", "node-2")])),
        slice("db-1", "db", &json!([endpoint("10.244.1.8", "node-1")])),
    ];
    index_of(services, slices)
}

/// The octets, encoded in parts of about this size.
fn octets(index: &Index, part: usize) -> Vec<u8> {
    let (mut all, mut last) = (Vec::new(), None);
    image::begin(&identity(), Some("uid-of-kube-system"), index, &mut all);
    loop {
        let mut to = Vec::new();
        let complete = image::services(index, &mut last, &mut to, part);
        all.extend(to);
        if complete {
            break;
        }
    }
    let checksum = digest(&SHA256, &all);
    all.extend(checksum.as_ref());
    all
}

fn resumed(remembered: Remembered) -> Index {
    let mut index = empty();
    index.observe(Observed::Remembered(Box::new(remembered)));
    assert!(index.is_ready());
    index
}

/// What is served of an index, as far as a snapshot has it: without notes.
fn told(index: &Index) -> Vec<String> {
    let served = index.services_after(None).filter_map(|service| {
        let (view, _) = service.view.as_ref().ok()?;
        let endpoints = index.endpoints(&service.name);
        let ServiceObject { name, uid, class, labels, view: _ } = service;
        Some(format!("{name} {uid} {class:?} {labels:?} {view:?} {endpoints:?}"))
    });
    let shared = [
        format!("{:?}", index.all_nodes().collect::<Vec<_>>()),
        format!("{:?}", index.service_cidr_objects()),
        format!("{:?}", index.config()),
    ];
    served.chain(shared).collect()
}

#[test]
fn what_is_read_is_what_was_written_in_parts_of_any_size() {
    let index = sample();
    let whole = octets(&index, usize::MAX);
    for part in [1, 50, 200, 1000] {
        assert_eq!(octets(&index, part), whole);
    }
    let remembered = image::read(&whole, &identity()).unwrap();
    assert_eq!(remembered.cluster.as_deref(), Some("uid-of-kube-system"));
    let again = resumed(remembered);
    assert_eq!(told(&again), told(&index));
    assert_eq!(again.config(), index.config(), "with the password");
    assert!(again.config().unwrap().peers[0].password.is_some());
    assert!(again.service(&ObjectName::new("shop", "headless")).is_none());
}

#[test]
fn of_secrets_only_those_that_peers_name_are_written_and_nothing_that_repeats_or_changes_of_itself() {
    let all = octets(&sample(), usize::MAX);
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("czNjcjN0"));
    for absent in ["of-nobody", "username", "last-applied", "resourceVersion", "status"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

/// A change of what is written must be a change of [`image::VERSION`]: then put the new digest here, too.
#[test]
fn the_layout_is_that_of_its_version() {
    let hex: String = digest(&SHA256, &octets(&sample(), usize::MAX))
        .as_ref()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    assert_eq!(
        (image::VERSION, &*hex),
        (1, "23c42c44f79d43629880339ee0dec3a79730113462b7ab0c63a109611847a85a")
    );
}

#[test]
fn what_is_not_for_this_speaker_is_refused_with_the_reason() {
    let good = octets(&sample(), usize::MAX);
    let refusal = |octets: &[u8], identity: &Identity| image::read(octets, identity).unwrap_err().to_string();
    assert!(refusal(b"", &identity()).contains("no snapshot of Herald's"));
    assert!(refusal(b"#!/bin/sh\n", &identity()).contains("no snapshot of Herald's"));
    let mut other = good.clone();
    other[19] = 9;
    assert_eq!(refusal(&other, &identity()), "it has version 9, and this release reads version 1");
    let node = Identity { node: "node-2".to_owned(), ..identity() };
    assert_eq!(refusal(&good, &node), "it is of node node-1");
    let namespace = Identity { namespace: "else".to_owned(), ..identity() };
    assert_eq!(refusal(&good, &namespace), "it is of a speaker with --namespace=metallb-system");
    assert!(refusal(&good[..good.len() - 1], &identity()).contains("damaged"));
}

#[test]
fn after_the_node_was_started_anew_its_own_pods_count_as_gone() {
    let good = octets(&sample(), usize::MAX);
    let rebooted = Identity { boot: "b2".to_owned(), ..identity() };
    let index = resumed(image::read(&good, &rebooted).unwrap());
    let ready = |name: &str| -> Vec<String> {
        let slices = index.endpoints(&ObjectName::new("shop", name)).unwrap().slices();
        let endpoints = slices.flat_map(|(_, slice)| &slice.endpoints).filter(|of| of.ready);
        endpoints.map(|of| of.address.to_string()).collect()
    };
    assert_eq!(ready("web"), ["10.244.2.9", "10.244.2.10"]);
    assert_eq!(ready("db"), [""; 0]);
}

#[test]
fn a_list_that_has_come_is_not_replaced_and_one_that_comes_replaces() {
    let good = octets(&sample(), usize::MAX);
    let mut index = empty();
    index.observe(Observed::Services(WatchEvent::Reset(vec![service("new", &json!({}))])));
    index.observe(Observed::Remembered(Box::new(image::read(&good, &identity()).unwrap())));
    assert!(index.is_ready());
    assert_eq!(index.service_names().map(|name| &*name.name).collect::<Vec<_>>(), ["new"]);
    assert!(index.endpoints(&ObjectName::new("shop", "web")).is_some(), "slices have not come");
    assert!(!index.remembered().contains("services") && index.remembered().contains("endpointslices"));
    assert_eq!(index.generation(), None, "a mixture is no view of the API's");
    index.take_dirty();

    index.observe(Observed::Slices(WatchEvent::Reset(vec![])));
    assert!(index.endpoints(&ObjectName::new("shop", "web")).is_none());
    assert!(index.take_dirty().contains(&ObjectName::new("shop", "web")));
    for list in lists(vec![], vec![]) {
        index.observe(list);
    }
    assert!(index.remembered().is_empty() && index.generation().is_some());
    assert_eq!(index.service_names().count(), 0);
    // Too late: everything has come.
    index.observe(Observed::Remembered(Box::new(image::read(&good, &identity()).unwrap())));
    assert_eq!(index.service_names().count(), 0);
}

#[test]
fn only_what_is_told_anew_is_another_generation() {
    let mut index = sample();
    let before = index.generation();
    let same = object("IPAddressPool", "v1beta1", "default", json!({"addresses": ["192.0.2.0/24"]}));
    let mut status = same.clone();
    status["status"] = json!({"availableIPv4": 7});
    status["metadata"]["resourceVersion"] = json!("8");
    for event in [same, status] {
        let event = UntypedEvent { kind: "IPAddressPool", event: WatchEvent::Applied(event) };
        index.observe(Observed::Object(event));
    }
    index.observe(Observed::Services(WatchEvent::Applied(service("web", &json!({})))));
    index.observe(Observed::Nodes(WatchEvent::Reset(nodes())));
    assert_eq!(index.generation(), before);
    index.observe(Observed::Services(WatchEvent::Deleted(ObjectName::new("shop", "web"))));
    let after = index.generation();
    assert_ne!(after, before);
    let gone = UntypedEvent {
        kind: "IPAddressPool",
        event: WatchEvent::Deleted(ObjectName::new("metallb-system", "default")),
    };
    index.observe(Observed::Object(gone));
    assert_ne!(index.generation(), after);
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{0,20}"
}

proptest! {
    #[test]
    fn any_service_and_slice_comes_back(
        shape in prop::collection::vec((text(), prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer"]), 0_u16..5, any::<bool>(),
            prop::collection::vec((any::<[u8; 4]>(), prop::option::of(text()), any::<[bool; 3]>()), 0..6)), 0..12),
        part in 1_usize..2000,
    ) {
        let mut services = Vec::new();
        let mut slices = Vec::new();
        for (number, (name, kind, ports, local, endpoints)) in shape.iter().enumerate() {
            let name = format!("s{number}-{name}");
            let ports: Vec<Value> = (1..=*ports).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
            let policy = if *local { "Local" } else { "Cluster" };
            services.push(service(&name, &json!({"type": kind, "ports": ports, "externalTrafficPolicy": policy,
                "internalTrafficPolicy": policy, "sessionAffinity": if *local { "None" } else { "ClientIP" }})));
            let endpoints: Vec<Value> = endpoints.iter().map(|(ip, node, [ready, serving, terminating])| {
                json!({"addresses": [std::net::Ipv4Addr::from(*ip)], "nodeName": node,
                    "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            }).collect();
            slices.push(slice(&format!("{name}-x"), &name, &json!(endpoints)));
        }
        let index = index_of(services, slices);
        let octets = octets(&index, part);
        prop_assert_eq!(told(&resumed(image::read(&octets, &identity()).unwrap())), told(&index));
    }

    #[test]
    fn whatever_is_changed_on_the_disk_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>()) {
        let good = octets(&sample(), usize::MAX);
        let mut bad = good.clone();
        *at.get_mut(&mut bad) ^= 1 << bit;
        prop_assert!(image::read(&bad, &identity()).is_err());
        prop_assert!(image::read(&good[..cut.index(good.len())], &identity()).is_err());
        let longer = [&good[..], &[bit]].concat();
        prop_assert!(image::read(&longer, &identity()).is_err());
    }

    /// Behind the checksum, too: nothing panics, and nothing takes memory that the input does not account for.
    #[test]
    fn nonsense_with_a_good_checksum_harms_nobody(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let good = octets(&sample(), usize::MAX);
        let mut body = good[20..good.len() - 32].to_vec();
        for (at, octet) in &changes {
            *at.get_mut(&mut body) = *octet;
        }
        let mut reader = Reader::new(&body);
        for _ in 0..3 {
            let _ = String::take(&mut reader);
        }
        let _ = image::content_of(reader);
    }

    #[test]
    fn noise_is_no_content(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = image::content_of(Reader::new(&noise));
        prop_assert!(image::read(&noise, &identity()).is_err());
    }
}

/// A keeper of a directory.
struct Kept {
    directory: tempfile::TempDir,
    keeper: Keeper,
    registry: Metrics,
    cluster: watch::Sender<Option<String>>,
}

impl Kept {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = Metrics::new();
        let (cluster, known) = watch::channel(None);
        let state = directory.path().join("state");
        let metrics = SnapshotMetrics::new(&registry);
        let keeper = Keeper::start(Some(state), identity(), known, Reach::default(), metrics).unwrap();
        Self { directory, keeper, registry, cluster }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn read(&self, now: SystemTime) -> Result<Remembered, Unusable> {
        file::read(&self.state(), &identity(), now).map(|(remembered, _)| remembered)
    }

    fn metric(&self, name: &str) -> String {
        let text = self.registry.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    }
}

#[tokio::test]
async fn a_snapshot_is_of_root_alone_and_of_the_newest_view() {
    let mut kept = Kept::start();
    let mut index = sample();
    assert!(matches!(kept.read(SystemTime::now()), Err(Unusable::Missing)));
    kept.keeper.finish(&index).await;
    let file = path(&kept.state());
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.mode() & 0o777, std::fs::metadata(kept.state()).unwrap().mode() & 0o777),
        (0o600, 0o700)
    );
    assert_eq!(told(&resumed(kept.read(SystemTime::now()).unwrap())), told(&index));
    assert_eq!(kept.metric("herald_snapshot_size_bytes"), (meta.len() - 32).to_string());

    index.observe(Observed::Services(WatchEvent::Reset(vec![service("only", &json!({}))])));
    kept.cluster.send_replace(Some("uid".to_owned()));
    kept.keeper.finish(&index).await;
    let newest = kept.read(SystemTime::now()).unwrap();
    assert_eq!((newest.services.len(), newest.cluster.as_deref()), (1, Some("uid")));
    let names: Vec<_> =
        std::fs::read_dir(kept.state()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["speaker.snapshot"]);

    let late = SystemTime::now() + file::MAX_AGE + Duration::from_secs(3600);
    assert_eq!(
        kept.read(late).unwrap_err().to_string(),
        "it was right 25 hours ago, and none is used after 24"
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(kept.read(SystemTime::now()), Err(Unusable::NotOurs)));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    assert!(matches!(kept.read(SystemTime::now()), Err(Unusable::Io(_))));
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_counted_and_tried_again() {
    let mut kept = Kept::start();
    let mut index = sample();
    std::fs::write(kept.state(), "in the way").unwrap();
    kept.keeper.finish(&index).await;
    assert_eq!(kept.metric("herald_snapshot_failures_total"), "1");
    assert_eq!(kept.metric("herald_snapshot_written_timestamp_seconds"), "0");
    std::fs::remove_file(kept.state()).unwrap();
    index.observe(Observed::Services(WatchEvent::Reset(vec![])));
    kept.keeper.finish(&index).await;
    assert_ne!(kept.metric("herald_snapshot_written_timestamp_seconds"), "0");
    assert!(kept.read(SystemTime::now()).is_ok());
}

/// Turns until nothing is due any more; how many turns wrote something.
async fn settle(keeper: &mut Keeper, index: &Index, now: Instant) -> usize {
    let mut turns = 0;
    keeper.turn(index, now);
    while keeper.is_writing() {
        keeper.wake().await;
        keeper.turn(index, now);
        turns += 1;
    }
    turns
}

#[tokio::test]
async fn it_is_written_in_parts_on_change_and_at_most_once_a_second() {
    let mut kept = Kept::start();
    let many = (0..2000).map(|number| service(&format!("s{number}"), &json!({}))).collect();
    let mut index = index_of(many, vec![]);
    let start = Instant::now();
    assert_eq!(settle(&mut kept.keeper, &index, start).await, 0, "the first second is the start's");
    let second = Duration::from_secs(1);
    // How many depends on how far the writer is when the loop looks.
    assert!(settle(&mut kept.keeper, &index, start + second).await > 1, "one part");
    // Nothing is new.
    assert_eq!(settle(&mut kept.keeper, &index, start + second * 30).await, 0);
    index.observe(Observed::Services(WatchEvent::Deleted(ObjectName::new("shop", "s1"))));
    assert_eq!(settle(&mut kept.keeper, &index, start + second + second / 2).await, 0, "too soon");
    assert!(settle(&mut kept.keeper, &index, start + second * 2).await > 1, "one part");
    kept.keeper.finish(&index).await;
    assert_eq!(kept.read(SystemTime::now()).unwrap().services.len(), 1999);
}

#[tokio::test]
async fn what_a_snapshot_stands_in_for_is_not_written_again() {
    let good = octets(&sample(), usize::MAX);
    let mut kept = Kept::start();
    let mut index = resumed(image::read(&good, &identity()).unwrap());
    let start = Instant::now();
    for second in 0..5 {
        assert_eq!(settle(&mut kept.keeper, &index, start + Duration::from_secs(second)).await, 0);
    }
    assert_eq!(kept.metric("herald_snapshot_in_force"), "1");
    kept.keeper.finish(&index).await;
    assert!(matches!(kept.read(SystemTime::now()), Err(Unusable::Missing)));
    lists(vec![], vec![]).into_iter().for_each(|list| drop(index.observe(list)));
    settle(&mut kept.keeper, &index, start).await;
    assert_eq!(kept.metric("herald_snapshot_in_force"), "0");
}
