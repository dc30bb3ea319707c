use serde_json::json;

use super::*;
use crate::probe::{Failure, ProbeSpec, Targets};
use crate::testing::{endpoints, ip, read_slice, slice, slice_of, socket};

fn web(view: &EndpointsView) -> Vec<Endpoint<'_>> {
    view.of_port(IpFamily::V4, "http", Protocol::Tcp, "a")
}

#[test]
fn the_endpoints_of_all_slices_are_one_sorted_list() {
    let view = endpoints(&[
        slice("IPv4", json!([{"addresses": ["10.244.2.9"], "nodeName": "b"}])),
        slice("IPv4", json!([{"addresses": ["10.244.1.2"], "nodeName": "a"}])),
        slice("IPv6", json!([{"addresses": ["2001:db8:2::2"], "nodeName": "a"}])),
    ]);
    let found: Vec<_> = web(&view).iter().map(|e| (e.address, e.local)).collect();
    assert_eq!(found, [(socket("10.244.1.2:8080"), true), (socket("10.244.2.9:8080"), false)]);
    let v6 = view.of_port(IpFamily::V6, "http", Protocol::Tcp, "a");
    assert_eq!(v6[0].address, socket("[2001:db8:2::2]:8080"));
    assert_eq!(view.of_port(IpFamily::V4, "http", Protocol::Udp, "a"), []);
    assert_eq!(view.of_port(IpFamily::V4, "", Protocol::Tcp, "a"), []);
}

#[test]
fn duplicates_merge_to_the_same_endpoint_in_any_order() {
    let old = slice(
        "IPv4",
        json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false}, "nodeName": "a",
                "hints": {"forZones": [{"name": "west"}]}}]),
    );
    let new = slice("IPv4", json!([{"addresses": ["10.244.1.2"], "nodeName": "b"}]));
    let (one, other) = (endpoints(&[old.clone(), new.clone()]), endpoints(&[new, old]));
    assert_eq!(web(&one), web(&other));
    let merged = &web(&one)[0];
    assert!(merged.ready && merged.local);
    assert_eq!((merged.node, &*merged.zones), (Some("a"), &["west"][..]));
    assert_eq!(web(&one).len(), 1);
}

#[test]
fn two_halves_of_a_condition_in_two_slices_make_no_whole() {
    let one = json!([{"addresses": ["10.244.1.2"],
        "conditions": {"ready": false, "serving": true, "terminating": false}}]);
    let other = json!([{"addresses": ["10.244.1.2"],
        "conditions": {"ready": false, "serving": false, "terminating": true}}]);
    let view = endpoints(&[slice("IPv4", one), slice("IPv4", other)]);
    assert!(!web(&view)[0].serving_terminating);
}

#[test]
fn an_update_replaces_its_own_slice_only() {
    let one = || read_slice(&slice("IPv4", json!([{"addresses": ["10.244.1.2"]}]))).view;
    let two = || read_slice(&slice("IPv4", json!([{"addresses": ["10.244.1.3"]}]))).view;
    let mut view = EndpointsView::default();
    assert!(view.apply("x", one()));
    assert!(view.apply("y", two()));
    assert!(!view.apply("y", two()), "nothing new");
    assert_eq!(web(&view).len(), 2);
    assert!(view.apply("x", two()));
    assert_eq!(web(&view).len(), 1);
    assert!(view.remove("y"));
    assert!(!view.remove("y"));
    assert_eq!(web(&view).len(), 1);
    assert_eq!(view.slice_names().collect::<Vec<_>>(), ["x"]);
    assert!(view.remove("x") && view.is_empty());
}

// Facts 1.11: what is counted.

#[test]
fn the_health_count_is_of_distinct_ready_local_addresses_over_all_ports() {
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let family = |address_type: &str, endpoints| {
        slice_of(json!({"addressType": address_type, "ports": ports, "endpoints": endpoints}))
    };
    let view = endpoints(&[
        family(
            "IPv4",
            json!([
                {"addresses": ["10.244.1.2"], "nodeName": "a"},
                {"addresses": ["10.244.1.3"], "nodeName": "a",
                 "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.244.2.2"], "nodeName": "b"},
                {"addresses": ["10.244.2.3"]},
            ]),
        ),
        family("IPv6", json!([{"addresses": ["2001:db8:2::2"], "nodeName": "a"}])),
        family("IPv4", json!([{"addresses": ["10.244.1.2"], "nodeName": "a"}])),
        slice_of(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.9"], "nodeName": "a"}]}),
        ),
    ]);
    assert_eq!(view.local_ready("a"), 1);
    assert_eq!(view.local_ready("c"), 0);
}

fn probed(spec: &str, failing: &[(&str, ProbeState)]) -> Option<Arc<ServiceProbes>> {
    let failing = failing.iter().map(|(at, state)| (socket(at), (*state, Failure::Refused)));
    let spec = Arc::new(ProbeSpec::parse(spec).unwrap());
    let targets = Arc::new(Targets { spec, sockets: BTreeSet::new() });
    Some(Arc::new(ServiceProbes { targets, failing: failing.collect() }))
}

#[test]
fn the_health_check_counts_endpoints_that_pass_and_where_none_does_those_that_never_have() {
    let (a, b) = ("10.244.1.1:8080", "10.244.1.2:8080");
    let local = |address: &str| json!({"addresses": [address], "nodeName": "a"});
    let mut view = endpoints(&[slice("IPv4", json!([local("10.244.1.1"), local("10.244.1.2")]))]);
    for (failing, expected) in [
        (&[][..], 2),
        (&[(a, ProbeState::Failed)], 1),
        (&[(a, ProbeState::Unproven)], 1),
        (&[(a, ProbeState::Failed), (b, ProbeState::LastGood)], 0),
        (&[(a, ProbeState::Unproven), (b, ProbeState::LastGood)], 1),
        (&[(a, ProbeState::Unproven), (b, ProbeState::Unproven)], 2),
    ] {
        view.set_probes(probed("tcp", failing));
        assert_eq!(view.local_ready("a"), expected, "{failing:?}");
    }
    assert!(view.set_probes(None) && !view.set_probes(probed("tcp", &[])), "only failing ones matter");
}

#[test]
fn a_held_address_counts_as_ready_while_it_is_listed_and_not_terminating() {
    let states = json!([
        {"addresses": ["10.244.1.1"], "nodeName": "a", "conditions": {"ready": false}},
        {"addresses": ["10.244.1.2"], "nodeName": "a", "conditions": {"ready": false, "serving": false, "terminating": true}},
        {"addresses": ["10.244.1.3"], "nodeName": "a", "conditions": {"ready": false}},
    ]);
    let mut view = endpoints(&[slice("IPv4", states)]);
    let ready = |view: &EndpointsView| -> Vec<SocketAddr> {
        let all = view.of_port(IpFamily::V4, "http", Protocol::Tcp, "a");
        all.iter().filter(|endpoint| endpoint.ready).map(|endpoint| endpoint.address).collect()
    };
    assert!(ready(&view).is_empty() && view.local_ready("a") == 0);
    view.set_held(Some(Arc::new([ip("10.244.1.1"), ip("10.244.1.2"), ip("10.244.1.9")].into())));
    assert_eq!((ready(&view), view.local_ready("a")), (vec![socket("10.244.1.1:8080")], 1));
    assert!(!view.is_usable(), "what is held is not in the slices");
    assert_eq!(view.waiting().into_keys().collect::<Vec<_>>(), [ip("10.244.1.1"), ip("10.244.1.3")]);
}

#[test]
fn what_a_slice_loses_was_ready_in_it_before() {
    let states = |first: bool| json!([{"addresses": ["10.244.1.1"], "conditions": {"ready": first}}, {"addresses": ["10.244.1.2"]}]);
    let view = endpoints(&[slice("IPv4", states(true))]);
    let next = read_slice(&slice("IPv4", states(false))).view;
    assert_eq!(view.losing("web-0", Some(&next)), [ip("10.244.1.1")].into());
    assert_eq!(view.losing("web-0", None).len(), 2);
    assert!(view.losing("web-1", None).is_empty());
}
