use herald_proxy::{Names, SliceView};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::*;

fn service(name: &str, cluster_ip: &str, external_ips: &[&str]) -> ServiceObject {
    let object: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "uid": "1"},
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "ports": [{"port": 80}], "externalIPs": external_ips,
        },
    }))
    .unwrap();
    fold_service(&object)
}

fn slice(name: &str, service: &str, address: &str) -> SliceObject {
    let object: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [address]}],
    }))
    .unwrap();
    SliceObject { name: name_of(name), reading: SliceView::read(&object, &mut Names::default()) }
}

fn node(name: &str, address: &str) -> NodeObject {
    NodeObject {
        name: name.to_owned(),
        addresses: [address.parse().unwrap()].into(),
        pod_cidrs: Vec::new(),
        own: None,
    }
}

fn name_of(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn names(names: &[&str]) -> BTreeSet<ObjectName> {
    names.iter().map(|name| name_of(name)).collect()
}

fn config(document: &str) -> ConfigObject {
    ConfigObject(Some(document.to_owned()))
}

/// An index that is ready, with two Services and nothing dirty.
fn index() -> Index {
    let mut index = Index::default();
    let services = vec![service("a", "10.96.0.1", &[]), service("b", "10.96.0.2", &["169.10.10.1"])];
    index.observe(Observed::Services(WatchEvent::Reset(services)));
    index.observe(Observed::Slices(WatchEvent::Reset(vec![slice("a-1", "a", "10.244.1.1")])));
    index.observe(Observed::Nodes(WatchEvent::Reset(vec![node("node-1", "10.0.0.11")])));
    index.observe(Observed::Config(WatchEvent::Reset(vec![])));
    index.observe(Observed::ServiceCidrs(WatchEvent::Reset(vec![])));
    index.take_dirty();
    index
}

#[test]
fn it_is_ready_when_every_watch_has_delivered_its_first_list() {
    let mut index = Index::default();
    let lists = [
        Observed::Services(WatchEvent::Reset(vec![])),
        Observed::Slices(WatchEvent::Reset(vec![])),
        Observed::Nodes(WatchEvent::Reset(vec![])),
        Observed::Config(WatchEvent::Reset(vec![])),
        Observed::ServiceCidrs(WatchEvent::Reset(vec![])),
    ];
    for list in lists {
        assert!(!index.is_ready());
        index.observe(list);
    }
    assert!(index.is_ready());
}

#[test]
fn a_change_marks_what_it_touches_and_an_unchanged_object_nothing() {
    let mut index = index();
    index.observe(Observed::Services(WatchEvent::Applied(service("a", "10.96.0.1", &[]))));
    index.observe(Observed::Slices(WatchEvent::Applied(slice("a-1", "a", "10.244.1.1"))));
    index.observe(Observed::Nodes(WatchEvent::Applied(node("node-1", "10.0.0.11"))));
    assert_eq!(index.take_dirty(), names(&[]));
    index.observe(Observed::Slices(WatchEvent::Applied(slice("a-1", "a", "10.244.1.2"))));
    assert_eq!(index.take_dirty(), names(&["a"]));
    index.observe(Observed::Services(WatchEvent::Deleted(name_of("b"))));
    assert_eq!(index.take_dirty(), names(&["b"]));
    assert!(index.service(&name_of("b")).is_none());
}

#[test]
fn what_is_missing_in_a_new_list_is_gone() {
    let mut index = index();
    index.observe(Observed::Services(WatchEvent::Reset(vec![service("a", "10.96.0.1", &[])])));
    assert_eq!(index.take_dirty(), names(&["b"]));
    index.observe(Observed::Slices(WatchEvent::Reset(vec![])));
    assert_eq!(index.take_dirty(), names(&["a"]));
    assert!(index.endpoints(&name_of("a")).is_none());
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first() {
    let mut index = index();
    index.observe(Observed::Slices(WatchEvent::Applied(slice("a-1", "b", "10.244.1.1"))));
    assert_eq!(index.take_dirty(), names(&["a", "b"]));
    assert!(index.endpoints(&name_of("a")).is_none() && index.endpoints(&name_of("b")).is_some());
}

#[test]
fn a_service_is_judged_again_when_the_holder_of_its_external_ip_changes() {
    let mut index = index();
    index.observe(Observed::Services(WatchEvent::Applied(service("c", "169.10.10.1", &[]))));
    assert_eq!(index.take_dirty(), names(&["b", "c"]));
    index.observe(Observed::Services(WatchEvent::Deleted(name_of("c"))));
    assert_eq!(index.take_dirty(), names(&["b", "c"]));
}

#[test]
fn a_change_of_any_nodes_addresses_marks_every_service() {
    let mut index = index();
    index.observe(Observed::Nodes(WatchEvent::Applied(node("node-2", "10.0.0.12"))));
    assert_eq!(index.take_dirty(), names(&["a", "b"]));
    assert_eq!(index.node_addresses().len(), 2);
}

#[test]
fn a_bad_configuration_names_its_line_and_leaves_the_last_good_one_in_force() {
    let mut index = index();
    let good = "address-pools:\n- name: default\n  cidr: [192.0.2.0/24]\n";
    assert_eq!(index.observe(Observed::Config(WatchEvent::Applied(config(good)))), Some(ConfigNews::Taken));
    assert_eq!(index.take_dirty(), names(&["a", "b"]));
    let bad = "address-pools:\n- name: default\n  cidr: [nonsense]\n";
    let Some(ConfigNews::Refused(error)) = index.observe(Observed::Config(WatchEvent::Applied(config(bad))))
    else {
        panic!("taken")
    };
    assert!(error.contains("line 3"), "{error}");
    assert_eq!(index.config().unwrap().pools.len(), 1);
    assert_eq!(
        index.observe(Observed::Config(WatchEvent::Deleted(name_of("config")))),
        Some(ConfigNews::Gone)
    );
    assert_eq!(index.config().unwrap().pools.len(), 1);
    assert_eq!(index.take_dirty(), names(&[]));
}

#[test]
fn the_same_configuration_after_a_refused_one_is_told_as_taken() {
    let good = "address-pools:\n- name: default\n  cidr: [192.0.2.0/24]\n";
    for refused in [config("address-pools: 7\n"), ConfigObject(None)] {
        let mut index = index();
        index.observe(Observed::Config(WatchEvent::Applied(config(good))));
        let news = index.observe(Observed::Config(WatchEvent::Applied(refused.clone())));
        assert!(matches!(news, Some(ConfigNews::Refused(_))), "{news:?}");
        let news = index.observe(Observed::Config(WatchEvent::Applied(config(good))));
        assert_eq!(news, Some(ConfigNews::Taken), "{refused:?}");
    }
}

fn slice_that_is(ready: bool, name: &str, service: &str, address: &str) -> SliceObject {
    let mut slice = slice(name, service, address);
    let reading = slice.reading.as_mut().unwrap();
    reading.view.endpoints.iter_mut().for_each(|endpoint| endpoint.ready = ready);
    slice
}

#[test]
fn what_was_ready_and_is_not_any_more_is_a_loss_until_it_is_taken() {
    let mut index = index();
    let address: IpAddr = "10.244.1.1".parse().unwrap();
    assert!(index.take_losses().is_empty(), "the first list loses nothing");
    index.observe(Observed::Slices(WatchEvent::Applied(slice_that_is(false, "a-1", "a", "10.244.1.1"))));
    assert_eq!(index.take_losses(), [(name_of("a"), [address].into())].into());
    assert!(!index.usable(&name_of("a")) && index.waiting(&name_of("a")) == [address].into());
    assert_eq!(index.count_usable(), 0);
    index.observe(Observed::Slices(WatchEvent::Applied(slice("a-1", "a", "10.244.1.1"))));
    assert!(index.take_losses().is_empty() && index.count_usable() == 1);
    index.observe(Observed::Slices(WatchEvent::Deleted(name_of("a-1"))));
    assert_eq!(index.take_losses().len(), 1);
    assert!(index.waiting(&name_of("a")).is_empty(), "what is not listed does not wait");
}

#[test]
fn what_is_held_stays_held_while_slices_go_and_come_back() {
    let mut index = index();
    let held = |index: &Index| index.endpoints(&name_of("a")).is_some_and(|view| view.held().is_some());
    index.set_held(&name_of("a"), Some(Arc::new(["10.244.1.1".parse().unwrap()].into())));
    assert_eq!(index.take_dirty(), names(&["a"]));
    index.observe(Observed::Slices(WatchEvent::Deleted(name_of("a-1"))));
    index.observe(Observed::Slices(WatchEvent::Applied(slice("a-2", "a", "10.244.1.1"))));
    assert!(held(&index));
    index.set_held(&name_of("a"), None);
    assert!(!held(&index) && index.overlays.is_empty());
}
