//! The planner against an API server that is a map: every write is fenced, told back by events, and may be cut off.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use herald_config::{LabelSelector, ServiceAllocation};
use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::Change;
use crate::service::{Condition, ServiceType};

mod behaviours;
mod laws;
mod model;

const CONFIG: &str =
    "address-pools:\n- name: default\n  cidr: [192.0.2.0/29]\n  advertisements: [{aggregation-length: 32}]\n";

fn config_view(text: &str) -> ConfigView {
    let name = ObjectName::new("metallb-system", "config");
    ConfigView { name, uid: "config".to_owned(), text: Some(text.to_owned()) }
}

/// One Service as the API holds it.
#[derive(Debug, Clone)]
struct Stored {
    object: Value,
    version: u64,
}

/// The API server.
#[derive(Debug, Default)]
struct Api {
    services: BTreeMap<String, Stored>,
    version: u64,
    uids: u64,
    events: VecDeque<WatchEvent<Box<ServiceView>>>,
}

impl Api {
    fn create(&mut self, name: &str, spec: &Value) {
        if self.services.contains_key(name) {
            return;
        }
        self.uids += 1;
        let object = json!({
            "metadata": {
                "namespace": &*named(name).namespace, "name": &*named(name).name,
                "uid": format!("uid-{}", self.uids), "annotations": {},
                "creationTimestamp": jiff_time(self.uids),
                "managedFields": [{"manager": crate::service::STATUS_MANAGER, "fieldsV1":
                    {"f:metadata": {"f:annotations": {"f:metallb.io/ip-allocated-from-pool": {}}}}}],
            },
            "spec": spec, "status": {"loadBalancer": {}},
        });
        self.put(name, object);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(stored) = self.services.get(name) {
            let mut object = stored.object.clone();
            change(&mut object);
            self.put(name, object);
        }
    }

    fn put(&mut self, name: &str, object: Value) {
        self.version += 1;
        self.services.insert(name.to_owned(), Stored { object, version: self.version });
        self.events.push_back(WatchEvent::Applied(self.view(name)));
    }

    fn delete(&mut self, name: &str) {
        self.change(name, |object| object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z"));
        if self.services.get(name).is_some_and(|stored| !stored.object["metadata"]["finalizers"].is_array()) {
            // Gone at once: the deletion timestamp is never seen.
            self.events.pop_back();
        }
        self.collect(name);
    }

    fn view(&self, name: &str) -> Box<ServiceView> {
        let stored = &self.services[name];
        let mut object = stored.object.clone();
        object["metadata"]["resourceVersion"] = json!(stored.version.to_string());
        Box::new(ServiceView::new(serde_json::from_value::<Service>(object).unwrap()))
    }

    #[expect(clippy::vec_box, reason = "as the watch delivers them")]
    fn list(&self) -> Vec<Box<ServiceView>> {
        self.services.keys().map(|name| self.view(name)).collect()
    }

    fn perform(&mut self, action: &Action) -> Outcome {
        let name = key_of(&action.target.name);
        let Some(stored) = self.services.get(&name) else { return Outcome::Gone };
        let uid = stored.object["metadata"]["uid"] == json!(action.target.uid);
        if !uid || stored.version.to_string() != action.target.version {
            return Outcome::Conflict;
        }
        self.change(&name, |object| match &action.change {
            Change::Status { addresses, form, pool, condition } => {
                let ingress: Vec<Value> = addresses.iter().map(|a| form.entry(*a)).collect();
                object["status"]["loadBalancer"]["ingress"] = json!(ingress);
                object["status"]["conditions"] = condition.iter().map(told_condition).collect();
                let fields = json!({"f:metadata": {"f:annotations": {"f:metallb.io/ip-allocated-from-pool": {}}},
                    "f:status": {"f:loadBalancer": {"f:ingress": {}}, "f:conditions":
                        if condition.is_some() { json!({CONDITION_KEY: {}}) } else { json!({}) }}});
                own(object, crate::service::STATUS_MANAGER, Some(fields));
                let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
                annotations.remove(crate::service::POOL_TOLD);
                if let Some(pool) = pool {
                    annotations.insert(crate::service::POOL_TOLD.to_owned(), json!(pool));
                }
            }
            Change::ForgetPool => {
                object["metadata"]["annotations"].as_object_mut().unwrap().remove(crate::service::POOL_TOLD);
            }
            Change::AddFinalizer => {
                object["metadata"]["finalizers"] = json!([crate::service::CLEANUP_FINALIZER]);
                let item = format!("v:\"{}\"", crate::service::CLEANUP_FINALIZER);
                own(object, crate::service::FINALIZER_MANAGER, Some(json!({"f:metadata": {"f:finalizers": {item: {}}}})));
            }
            Change::ReleaseFinalizer => {
                object["metadata"]["finalizers"] = json!([]);
                own(object, crate::service::FINALIZER_MANAGER, None);
            }
            Change::LocalTraffic { health_port } => {
                object["spec"]["externalTrafficPolicy"] = json!("Local");
                object["spec"]["healthCheckNodePort"] = json!(30_000);
                if let Some(managed) = object["metadata"]["managedFields"].as_array_mut() {
                    managed.push(json!({"manager": crate::service::TRAFFIC_MANAGER}));
                }
                if let Some(port) = health_port {
                    object["metadata"]["annotations"][crate::service::HEALTH_PORT_TOLD] =
                        json!(port.to_string());
                }
            }
            Change::ReleaseTraffic => {
                object["spec"]["externalTrafficPolicy"] = json!("Cluster");
                object["spec"]["healthCheckNodePort"] = Value::Null;
                if let Some(managed) = object["metadata"]["managedFields"].as_array_mut() {
                    managed.retain(|entry| entry["manager"] != json!(crate::service::TRAFFIC_MANAGER));
                }
                if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                    annotations.remove(crate::service::HEALTH_PORT_TOLD);
                }
            }
        });
        let written = Outcome::Written(self.view(&name));
        self.collect(&name);
        written
    }

    /// A deleted object without finalizers goes.
    fn collect(&mut self, name: &str) {
        let metadata = self.services.get(name).map(|stored| &stored.object["metadata"]);
        let kept = metadata.is_some_and(|m| m["finalizers"].as_array().is_some_and(|list| !list.is_empty()));
        if metadata.is_some_and(|metadata| metadata["deletionTimestamp"].is_string()) && !kept {
            self.services.remove(name);
            self.version += 1;
            self.events.push_back(WatchEvent::Deleted(named(name)));
        }
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.services.get(name).map_or(Vec::new(), |_| self.view(name).status_addresses().collect())
    }
}

const CONDITION_KEY: &str = "k:{\"type\":\"herald.io/AddressAssigned\"}";

/// A name as tests write it: without a namespace it is in `default`.
fn named(key: &str) -> ObjectName {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    ObjectName::new(namespace, name)
}

fn key_of(name: &ObjectName) -> String {
    if &*name.namespace == "default" { name.name.to_string() } else { name.to_string() }
}

fn told_condition(condition: &Condition) -> Value {
    json!({"type": crate::service::CONDITION, "status": if condition.met { "True" } else { "False" },
           "reason": condition.reason, "message": condition.message,
           "lastTransitionTime": jiff_time(condition.since.map_or(0, |since| u64::try_from(since).unwrap() % 86_400))})
}

/// The field manager owns these fields now, or nothing.
fn own(object: &mut Value, manager: &str, fields: Option<Value>) {
    let managed = object["metadata"]["managedFields"].as_array_mut().unwrap();
    managed.retain(|entry| entry["manager"] != json!(manager));
    managed.extend(fields.map(|fields| json!({"manager": manager, "fieldsV1": fields})));
}

fn jiff_time(n: u64) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600 % 24, n / 60 % 60, n % 60)
}

fn load_balancer() -> Value {
    json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
           "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP"}]})
}

/// A controller that was just started on the API.
fn start(api: &mut Api, config: Option<&str>, now: Instant) -> Planner {
    let mut planner = Planner::new(None);
    api.events.clear();
    planner.handle(Event::Service(WatchEvent::Reset(api.list())), now);
    planner.handle(Event::ConfigMap(WatchEvent::Reset(config.map(config_view).into_iter().collect())), now);
    planner.handle(Event::Namespace(WatchEvent::Reset(Vec::new())), now);
    planner
}

/// Events and writes until nothing is left to do; returns the writes.
fn settle(planner: &mut Planner, api: &mut Api, now: Instant) -> Vec<Action> {
    let mut done = Vec::new();
    loop {
        while let Some(event) = api.events.pop_front() {
            planner.handle(Event::Service(event), now);
        }
        let Some(action) = planner.next(now) else { return done };
        let outcome = api.perform(&action);
        planner.finished(&action.target.name, outcome, now);
        done.push(action);
        assert!(done.len() < 1000, "the plan does not come to rest: {:?}", done.last());
    }
}

fn told(planner: &mut Planner) -> Vec<(&'static str, String)> {
    planner.take_tells().into_iter().map(|tell| (tell.reason.word(), tell.note)).collect()
}

#[test]
fn a_service_is_given_the_first_address_and_then_there_is_nothing_to_do() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    let actions = settle(&mut planner, &mut api, now);
    assert_eq!(actions.len(), 1);
    assert_eq!(actions[0].then[0].note, "Assigned IP [\"192.0.2.0\"]");
    assert_eq!(api.addresses("web"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(settle(&mut planner, &mut api, now), []);
    assert_eq!(settle(&mut start(&mut api, Some(CONFIG), now), &mut api, now), []);
}

#[test]
fn nothing_is_planned_before_all_lists_are_there() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = Planner::new(None);
    planner.handle(Event::ConfigMap(WatchEvent::Reset(vec![config_view(CONFIG)])), now);
    assert_eq!(planner.next(now), None);
    planner.handle(Event::Service(WatchEvent::Applied(api.view("web"))), now);
    assert_eq!(planner.next(now), None);
    planner.handle(Event::Service(WatchEvent::Reset(api.list())), now);
    assert_eq!(planner.next(now), None);
    planner.handle(Event::Namespace(WatchEvent::Reset(Vec::new())), now);
    assert!(planner.next(now).is_some());
}

#[test]
fn without_any_configuration_nothing_is_touched() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("served", &load_balancer());
    api.create("waits", &load_balancer());
    api.change("served", |o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "198.51.100.1"}]));
    for config in [None, Some("peers: []\n")] {
        let mut planner = start(&mut api, config, now);
        assert_eq!(settle(&mut planner, &mut api, now), []);
        let told = told(&mut planner);
        assert!(
            told.iter().any(|(r, note)| *r == "AllocationFailed" && note.contains("default/waits")),
            "{told:?}"
        );
    }
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("served"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
}

#[test]
fn every_status_is_adopted_before_the_first_address_is_given() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("a-new", &load_balancer());
    api.create("b-old", &load_balancer());
    api.change("b-old", |o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.0"}]));
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("b-old"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(api.addresses("a-new"), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn of_two_statuses_with_one_address_the_older_service_keeps_it() {
    let (mut api, now) = (Api::default(), Instant::now());
    for name in ["z-older", "a-younger"] {
        api.create(name, &load_balancer());
        api.change(name, |o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.3"}]));
    }
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("z-older"), ["192.0.2.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(api.addresses("a-younger"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_address_that_a_status_still_shows_is_given_to_nobody_even_if_its_service_must_lose_it() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("moves", &load_balancer());
    api.change("moves", |o| {
        o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.0"}]);
        o["spec"]["loadBalancerIP"] = json!("192.0.2.5");
    });
    api.create("new", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    let on_their_way = [planner.next(now).unwrap(), planner.next(now).unwrap()];
    assert_eq!(&*on_their_way[1].target.name.name, "new");
    for action in on_their_way.iter().rev() {
        let outcome = api.perform(action);
        planner.finished(&action.target.name, outcome, now);
    }
    assert_eq!(api.addresses("new"), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(api.addresses("moves"), ["192.0.2.5".parse::<IpAddr>().unwrap()]);
}

#[test]
fn another_class_is_somebody_elses() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut spec = load_balancer();
    spec["loadBalancerClass"] = json!("example.com/other");
    api.create("other", &spec);
    api.change("other", |o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "198.51.100.1"}]));
    let mut planner = start(&mut api, Some(CONFIG), now);
    assert_eq!(settle(&mut planner, &mut api, now), []);
    let mut own = Planner::new(Some("example.com/other".to_owned()));
    own.handle(Event::Service(WatchEvent::Reset(api.list())), now);
    own.handle(Event::ConfigMap(WatchEvent::Reset(vec![config_view(CONFIG)])), now);
    own.handle(Event::Namespace(WatchEvent::Reset(Vec::new())), now);
    settle(&mut own, &mut api, now);
    assert_eq!(api.addresses("other"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_type_change_clears_the_status_and_frees_the_address() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    // Whether the API server has cleared the status already (as it does) or not.
    for cleared in [true, false] {
        api.change("web", |o| {
            o["spec"]["type"] = json!("ClusterIP");
            if cleared {
                o["status"]["loadBalancer"] = json!({});
            }
        });
        settle(&mut planner, &mut api, now);
        assert!(api.addresses("web").is_empty() && api.view("web").pool_told.is_none());
        if cleared {
            api.change("web", |o| o["spec"]["type"] = json!("LoadBalancer"));
            settle(&mut planner, &mut api, now);
            assert_eq!(api.addresses("web"), ["192.0.2.1".parse::<IpAddr>().unwrap()], "the first one cools");
        }
    }
    api.create("next", &load_balancer());
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("next"), ["192.0.2.2".parse::<IpAddr>().unwrap()], "both cool");
}

#[test]
fn a_full_pool_is_told_once_and_who_waits_is_served_as_soon_as_one_frees() {
    let (mut api, now) = (Api::default(), Instant::now());
    for n in 0..10 {
        api.create(&format!("web-{n}"), &load_balancer());
    }
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(planner.waiting(), 2);
    let told_first = told(&mut planner);
    assert_eq!(told_first.iter().filter(|(reason, _)| *reason == "AllocationFailed").count(), 2);
    api.delete("web-3");
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web-8"), ["192.0.2.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(planner.waiting(), 1);
    let wider = CONFIG.replace("192.0.2.0/29", "192.0.2.0/28");
    planner.handle(Event::ConfigMap(WatchEvent::Applied(config_view(&wider))), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web-9"), ["192.0.2.8".parse::<IpAddr>().unwrap()]);
    assert!(told(&mut planner).is_empty());
}

#[test]
fn a_bad_configuration_after_a_good_one_changes_no_address() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    planner.handle(Event::ConfigMap(WatchEvent::Applied(config_view("address-pools: nonsense\n"))), now);
    assert_eq!(settle(&mut planner, &mut api, now), []);
    let told = told(&mut planner);
    assert!(
        told.iter().any(|(reason, note)| *reason == "ConfigRejected" && note.contains("line 1")),
        "{told:?}"
    );
    api.create("more", &load_balancer());
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("more").len(), 1);
}

#[test]
fn other_pools_move_only_who_must_move() {
    let (mut api, now) = (Api::default(), Instant::now());
    for n in 0..4 {
        api.create(&format!("web-{n}"), &load_balancer());
    }
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    let narrower =
        CONFIG.replace("192.0.2.0/29", "192.0.2.0-192.0.2.1, 198.51.100.0/24").replace("cidr", "addresses");
    let narrower = narrower.replace("  advertisements: [{aggregation-length: 32}]\n", "  protocol: bgp\n");
    planner.handle(Event::ConfigMap(WatchEvent::Applied(config_view(&narrower))), now);
    assert_eq!(settle(&mut planner, &mut api, now).len(), 2, "{:?}", told(&mut planner));
    assert_eq!(api.addresses("web-1"), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(api.addresses("web-3"), ["198.51.100.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_service_with_nonsense_waits_alone() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("bad", &load_balancer());
    api.change("bad", |o| {
        o["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] = json!("not an address")
    });
    api.create("good", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("good").len(), 1);
    assert!(api.addresses("bad").is_empty());
    assert!(told(&mut planner).iter().any(|(_, note)| note.contains("not an address")));
}

#[test]
fn the_old_annotation_sets_policy_local_publishes_the_health_port_and_is_reversible() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    api.change("web", |o| {
        o["metadata"]["annotations"][crate::service::EXTERNAL_TRAFFIC] = json!("OnlyLocal")
    });
    let mut planner = start(&mut api, Some(CONFIG), now);
    settle(&mut planner, &mut api, now);
    let view = api.view("web");
    assert!(view.local && view.health_port_told.as_deref() == Some("30000"), "{view:?}");
    assert_eq!(api.addresses("web").len(), 1);
    api.change("web", |o| o["metadata"]["annotations"][crate::service::EXTERNAL_TRAFFIC] = json!("Global"));
    settle(&mut planner, &mut api, now);
    let view = api.view("web");
    assert!(!view.local && view.health_port_told.is_none() && !view.traffic_owned, "{view:?}");
}

#[test]
fn policy_local_without_the_annotation_is_left_alone() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut spec = load_balancer();
    spec["externalTrafficPolicy"] = json!("Local");
    spec["healthCheckNodePort"] = json!(30_001);
    api.create("web", &spec);
    let mut planner = start(&mut api, Some(CONFIG), now);
    let actions = settle(&mut planner, &mut api, now);
    assert!(actions.iter().all(|action| matches!(action.change, Change::Status { .. })));
}

#[test]
fn a_write_that_fails_is_tried_again_and_holds_up_nobody() {
    let (mut api, mut now) = (Api::default(), Instant::now());
    api.create("first", &load_balancer());
    api.create("second", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    let action = planner.next(now).unwrap();
    assert_eq!(&*action.target.name.name, "first");
    planner.finished(&action.target.name, Outcome::Failed, now);
    settle(&mut planner, &mut api, now);
    assert!(api.addresses("first").is_empty() && api.addresses("second").len() == 1);
    now = planner.next_deadline().unwrap();
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("first"), ["192.0.2.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(planner.next_deadline(), None);
}

#[test]
fn a_conflict_waits_for_the_newer_version() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(CONFIG), now);
    let action = planner.next(now).unwrap();
    api.change("web", |o| o["metadata"]["labels"] = json!({"a": "b"}));
    let outcome = api.perform(&action);
    assert!(matches!(outcome, Outcome::Conflict));
    planner.finished(&action.target.name, outcome, now);
    assert_eq!(planner.next(now), None);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web").len(), 1);
}

#[test]
fn who_waits_is_given_an_address_as_soon_as_its_holder_agrees_to_share_it() {
    let (mut api, now) = (Api::default(), Instant::now());
    let full =
        "address-pools:\n- {name: one, cidr: [192.0.2.1/32], advertisements: [{aggregation-length: 32}]}\n";
    let mut planner = start(&mut api, Some(full), now);
    api.create("holder", &load_balancer());
    settle(&mut planner, &mut api, now);
    api.create("waits", &load_balancer());
    let share = |port: u16| {
        move |o: &mut Value| {
            o["metadata"]["annotations"]["metallb.io/allow-shared-ip"] = json!("key");
            o["spec"]["ports"] = json!([{"port": port, "protocol": "TCP"}]);
        }
    };
    api.change("waits", share(81));
    settle(&mut planner, &mut api, now);
    assert!(api.addresses("waits").is_empty());
    api.change("holder", share(80));
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("waits"), api.addresses("holder"));
}
