//! What MetalLB's controller does, behaviour by behaviour, and what Herald tells about it.

use super::*;

const NEW: &str = "metallb.io/";
const OLD: &str = "metallb.universe.tf/";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dual_config(v6: &str) -> String {
    format!(
        "address-pools:\n- {{name: default, protocol: bgp, addresses: [192.0.2.0/29{v6}]}}\n- {{name: other, protocol: bgp, addresses: [198.51.100.0/29], auto-assign: false}}\n"
    )
}

fn configure(planner: &mut Planner, config: &str, now: Instant) {
    planner.handle(Event::ConfigMap(WatchEvent::Applied(config_view(config))), now);
}

fn annotate(api: &mut Api, name: &str, key: &str, value: &str) {
    api.change(name, |o| o["metadata"]["annotations"][key] = json!(value));
}

/// Reason and words of the Events of one Service since the last look.
fn has(told: &[(&'static str, String)], reason: &str, words: &str) -> bool {
    told.iter().any(|(told, note)| *told == reason && note.contains(words))
}

#[test]
fn both_prefixes_of_the_input_annotations_work_and_the_old_one_is_told_to_be_deprecated() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    for (name, prefix) in [("new", NEW), ("old", OLD)] {
        api.create(name, &load_balancer());
        annotate(&mut api, name, &format!("{prefix}address-pool"), "other");
        settle(&mut planner, &mut api, now);
        assert!(api.addresses(name)[0].to_string().starts_with("198.51.100."), "{name}");
        let told = told(&mut planner);
        assert_eq!(has(&told, "deprecatedAnnotation", "write metallb.io/"), prefix == OLD, "{told:?}");
    }
    annotate(&mut api, "old", "unrelated", "change");
    settle(&mut planner, &mut api, now);
    assert!(!has(&told(&mut planner), "deprecatedAnnotation", ""), "once");
}

#[test]
fn the_output_annotation_names_the_pool_and_goes_with_the_address() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.view("web").pool_told.as_deref(), Some("default"));
    annotate(&mut api, "web", "metallb.io/address-pool", "other");
    settle(&mut planner, &mut api, now);
    assert_eq!(api.view("web").pool_told.as_deref(), Some("other"));
    annotate(&mut api, "web", "metallb.io/address-pool", "nowhere");
    settle(&mut planner, &mut api, now);
    assert_eq!((api.view("web").pool_told, api.addresses("web")), (None, vec![]));
}

#[test]
fn another_pool_or_address_that_is_asked_for_clears_and_gives_anew_and_tells_both() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    told(&mut planner);
    annotate(&mut api, "web", "metallb.io/address-pool", "other");
    let actions = settle(&mut planner, &mut api, now);
    let told: Vec<_> =
        actions.iter().flat_map(|a| &a.then).map(|tell| (tell.reason.word(), tell.note.clone())).collect();
    assert!(has(&told, "ClearAssignment", "192.0.2.0 is taken away"), "{told:?}");
    assert!(has(&told, "IPAllocated", "Assigned IP [\"198.51.100.0\"]"), "{told:?}");
    annotate(&mut api, "web", "metallb.io/loadBalancerIPs", "198.51.100.5");
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("198.51.100.5")]);
}

#[test]
fn an_address_and_a_pool_that_does_not_have_it_are_refused_together() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    annotate(&mut api, "web", "metallb.io/address-pool", "other");
    annotate(&mut api, "web", "metallb.io/loadBalancerIPs", "192.0.2.5");
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert!(api.addresses("web").is_empty());
    assert!(has(&told(&mut planner), "AllocationFailed", "not in the requested pool \"other\""));
}

#[test]
fn requests_that_cannot_be_understood_are_told_as_load_balancer_failed() {
    let dual = json!(["10.96.0.1", "2001:db8:3::1"]);
    let table = [
        ("192.0.2.1,192.0.2.2", None, "at most one address of each IP family"),
        ("nonsense", None, "is no IP address"),
        ("192.0.2.1", Some("192.0.2.1"), "both spec.loadBalancerIP and the annotation"),
        ("192.0.2.1", None, "one for each IP family"),
    ];
    for (n, (annotation, field, words)) in table.into_iter().enumerate() {
        let (mut api, now) = (Api::default(), Instant::now());
        let mut spec = load_balancer();
        if n == 3 {
            spec["clusterIPs"] = dual.clone();
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
        }
        spec["loadBalancerIP"] = json!(field);
        api.create("web", &spec);
        annotate(&mut api, "web", "metallb.io/loadBalancerIPs", annotation);
        let mut planner = start(&mut api, Some(&dual_config(", '2001:db8:1::/125'")), now);
        settle(&mut planner, &mut api, now);
        let told = told(&mut planner);
        assert!(has(&told, "LoadBalancerFailed", words), "{annotation}: {told:?}");
    }
}

#[test]
fn services_whose_family_cannot_be_known_are_told_by_metallbs_words() {
    for (policy, ips, reason) in [
        ("SingleStack", json!(["None"]), "noclusterIPsIPFamily"),
        ("RequireDualStack", json!(["10.96.0.1"]), "not enough clusterips"),
    ] {
        let (mut api, now) = (Api::default(), Instant::now());
        let mut spec = load_balancer();
        spec["clusterIP"] = ips[0].clone();
        spec["clusterIPs"] = ips;
        spec["ipFamilyPolicy"] = json!(policy);
        api.create("web", &spec);
        let mut planner = start(&mut api, Some(&dual_config("")), now);
        settle(&mut planner, &mut api, now);
        let told = told(&mut planner);
        assert!(has(&told, reason, "cluster address") && api.addresses("web").is_empty(), "{told:?}");
    }
}

#[test]
fn a_preferred_second_address_that_is_missing_is_told_once_and_comes_later() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut spec = load_balancer();
    spec["clusterIPs"] = json!(["10.96.0.1", "2001:db8:3::1"]);
    spec["ipFamilyPolicy"] = json!("PreferDualStack");
    api.create("web", &spec);
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0")]);
    let first = told(&mut planner);
    assert!(has(&first, "AdditionalAssignFailed", "has no address of the other family"), "{first:?}");
    annotate(&mut api, "web", "unrelated", "change");
    settle(&mut planner, &mut api, now);
    assert!(told(&mut planner).is_empty());
    configure(&mut planner, &dual_config(", '2001:db8:1::/125'"), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0"), ip("2001:db8:1::")]);
    assert_eq!(
        settle(&mut start(&mut api, Some(&dual_config(", '2001:db8:1::/125'")), now), &mut api, now),
        []
    );
}

#[test]
fn a_second_address_comes_as_soon_as_one_frees() {
    let (mut api, now) = (Api::default(), Instant::now());
    let config = dual_config(", '2001:db8:1::1/128'");
    let mut six = load_balancer();
    six["clusterIP"] = json!("2001:db8:3::9");
    six["clusterIPs"] = json!(["2001:db8:3::9"]);
    api.create("six", &six);
    let mut planner = start(&mut api, Some(&config), now);
    settle(&mut planner, &mut api, now);
    let mut both = load_balancer();
    both["clusterIPs"] = json!(["10.96.0.1", "2001:db8:3::1"]);
    both["ipFamilyPolicy"] = json!("PreferDualStack");
    api.create("web", &both);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0")]);
    api.delete("six");
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0"), ip("2001:db8:1::1")]);
}

#[test]
fn a_headless_service_loses_its_address() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    api.change("web", |o| {
        o["spec"]["clusterIP"] = json!("None");
        o["spec"]["clusterIPs"] = json!(["None"]);
    });
    let actions = settle(&mut planner, &mut api, now);
    assert_eq!(actions[0].then[0].reason.word(), "ClearAssignment");
    assert!(api.addresses("web").is_empty());
}

#[test]
fn the_condition_says_whether_there_is_an_address_why_not_and_since_when() {
    let (mut api, now) = (Api::default(), Instant::now());
    let condition = |api: &Api, name: &str| api.services[name].object["status"]["conditions"][0].clone();
    api.create("web", &load_balancer());
    annotate(&mut api, "web", "metallb.io/address-pool", "nowhere");
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    let waits = condition(&api, "web");
    assert_eq!((&waits["status"], &waits["reason"]), (&json!("False"), &json!("UnknownPool")));
    assert!(waits["message"].as_str().unwrap().contains("there is no pool \"nowhere\""), "{waits}");
    annotate(&mut api, "web", "metallb.io/address-pool", "other");
    settle(&mut planner, &mut api, now);
    let has = condition(&api, "web");
    assert_eq!((&has["status"], &has["reason"]), (&json!("True"), &json!("Assigned")));
    assert_eq!(has["message"], "198.51.100.0 from pool other");
    // Another address, still one: since then.
    api.change("web", |o| o["status"]["conditions"][0]["lastTransitionTime"] = json!(jiff_time(77)));
    annotate(&mut api, "web", "metallb.io/address-pool", "default");
    settle(&mut planner, &mut api, now);
    assert_eq!(condition(&api, "web")["lastTransitionTime"], json!(jiff_time(77)));
    // Somebody else's hand is put right, another type takes it away.
    api.change("web", |o| o["status"]["conditions"][0]["status"] = json!("False"));
    settle(&mut planner, &mut api, now);
    assert_eq!(condition(&api, "web")["status"], "True");
    api.change("web", |o| {
        o["spec"]["type"] = json!("ClusterIP");
        o["status"]["loadBalancer"] = json!({});
    });
    settle(&mut planner, &mut api, now);
    assert_eq!(api.services["web"].object["status"]["conditions"], json!([]));
    assert_eq!(settle(&mut planner, &mut api, now), []);
}

#[test]
fn ip_mode_and_ports_are_written_where_asked_for_and_follow_the_annotation() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    let entry = |api: &Api| api.services["web"].object["status"]["loadBalancer"]["ingress"][0].clone();
    assert_eq!(entry(&api), json!({"ip": "192.0.2.0"}));
    annotate(&mut api, "web", crate::service::IP_MODE, "Proxy");
    annotate(&mut api, "web", crate::service::STATUS_PORTS, "true");
    settle(&mut planner, &mut api, now);
    let asked = json!({"ip": "192.0.2.0", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]});
    assert_eq!(entry(&api), asked);
    annotate(&mut api, "web", crate::service::IP_MODE, "proxy");
    settle(&mut planner, &mut api, now);
    assert_eq!(entry(&api), json!({"ip": "192.0.2.0"}));
    assert!(has(&told(&mut planner), "InvalidAnnotation", "write VIP or Proxy"));
}

#[test]
fn a_status_of_another_controller_is_left_alone_and_told() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("theirs", &load_balancer());
    api.change("theirs", |o| {
        o["status"]["loadBalancer"]["ingress"] = json!([{"hostname": "lb.example"}]);
        own(o, "cloud", Some(json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}})));
    });
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    assert_eq!(settle(&mut planner, &mut api, now), []);
    assert!(has(&told(&mut planner), "ForeignStatus", "\"cloud\""));
    assert_eq!(settle(&mut start(&mut api, Some(&dual_config("")), now), &mut api, now), []);
    // Cleared, it is served; and what Herald gave is not taken for somebody else's when its pool goes.
    api.change("theirs", |o| o["status"]["loadBalancer"] = json!({}));
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("theirs"), [ip("192.0.2.0")]);
    configure(&mut planner, &dual_config("").replace("192.0.2.0/29", "192.0.2.64/29"), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("theirs"), [ip("192.0.2.64")]);
}

#[test]
fn what_metallb_gave_is_taken_over_with_its_annotation() {
    let (mut api, now) = (Api::default(), Instant::now());
    let pool = "metallb.io/ip-allocated-from-pool";
    let by_metallb = |o: &mut Value, address: &str| {
        o["status"]["loadBalancer"]["ingress"] = json!([{"ip": address}]);
        o["metadata"]["annotations"][pool] = json!("default");
        o["metadata"]["managedFields"] = json!([]);
        own(
            o,
            "controller",
            Some(json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}},
            "f:metadata": {"f:annotations": {"f:metallb.io/ip-allocated-from-pool": {}}}})),
        );
    };
    api.create("a-new", &load_balancer());
    api.create("kept", &load_balancer());
    api.change("kept", |o| by_metallb(o, "192.0.2.0"));
    api.create("gone", &load_balancer());
    api.change("gone", |o| by_metallb(o, "198.51.100.200"));
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("kept"), [ip("192.0.2.0")]);
    assert_eq!(api.addresses("a-new"), [ip("192.0.2.1")]);
    assert_eq!(api.addresses("gone"), [ip("192.0.2.2")]);
    // MetalLB is still named as an owner of the annotation: it goes nevertheless.
    api.change("kept", |o| {
        o["spec"]["type"] = json!("ClusterIP");
        o["status"]["loadBalancer"] = json!({});
    });
    settle(&mut planner, &mut api, now);
    assert_eq!(api.view("kept").pool_told, None);
}

#[test]
fn another_class_that_shows_an_address_of_a_pool_is_told_and_the_address_given_to_nobody() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut spec = load_balancer();
    spec["loadBalancerClass"] = json!("example.com/other");
    api.create("other", &spec);
    api.change("other", |o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.0"}]));
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.1")]);
    assert!(has(&told(&mut planner), "ForeignAddress", "192.0.2.0 is in Herald's pool \"default\""));
}

#[test]
fn an_external_ip_that_is_anothers_address_is_told_and_takes_it_from_nobody() {
    let (mut api, now) = (Api::default(), Instant::now());
    let mut spec = load_balancer();
    spec["type"] = json!("ClusterIP");
    spec["externalIPs"] = json!(["192.0.2.1"]);
    api.create("external", &spec);
    api.create("web", &load_balancer());
    api.create("more", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0")]);
    assert_eq!(api.addresses("more"), [ip("192.0.2.2")]);
    assert!(told(&mut planner).is_empty());
    api.change("external", |o| o["spec"]["externalIPs"] = json!(["192.0.2.0"]));
    settle(&mut planner, &mut api, now);
    assert!(has(&told(&mut planner), "ExternalIPInUse", "192.0.2.0 is the address of default/web"));
    assert_eq!(api.addresses("web"), [ip("192.0.2.0")]);
    // The restart finds both and decides the same.
    assert_eq!(settle(&mut start(&mut api, Some(&dual_config("")), now), &mut api, now), []);
}

#[test]
fn pools_that_vanish_leave_every_status_as_it_is() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    configure(&mut planner, "peers: []\n", now);
    assert_eq!(settle(&mut planner, &mut api, now), []);
    assert_eq!(api.addresses("web"), [ip("192.0.2.0")]);
}

fn with_finalizer() -> String {
    format!("{}herald: {{finalizer: {{wait: 5s}}, cool-down: 0s}}\n", dual_config(""))
}

#[test]
fn a_deleted_service_stays_until_its_address_is_withdrawn_and_no_longer() {
    let (mut api, mut now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&with_finalizer()), now);
    let actions = settle(&mut planner, &mut api, now);
    assert!(matches!(actions[0].change, Change::AddFinalizer), "before the address: {actions:?}");
    assert!(api.view("web").finalizer_owned && api.addresses("web").len() == 1);
    api.delete("web");
    settle(&mut planner, &mut api, now);
    assert!(api.services.contains_key("web") && api.addresses("web").is_empty());
    assert_eq!(planner.next_deadline(), Some(now + Duration::from_secs(5)));
    // Its address is nobody else's before it is gone.
    api.create("next", &load_balancer());
    now += Duration::from_secs(4);
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("next"), [ip("192.0.2.1")]);
    now += Duration::from_secs(1);
    settle(&mut planner, &mut api, now);
    assert!(!api.services.contains_key("web"));
    assert_eq!(planner.next_deadline(), None);
    api.create("after", &load_balancer());
    settle(&mut planner, &mut api, now);
    assert_eq!(api.addresses("after"), [ip("192.0.2.0")]);
}

#[test]
fn a_controller_that_restarts_while_a_service_is_kept_lets_it_go() {
    let (mut api, mut now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&with_finalizer()), now);
    settle(&mut planner, &mut api, now);
    api.delete("web");
    // Also one to which the configuration or its pools are lost meanwhile.
    for config in [with_finalizer(), dual_config(""), "peers: []\n".to_owned()] {
        let mut api = Api { services: api.services.clone(), version: api.version, ..Api::default() };
        let mut planner = start(&mut api, Some(&config), now);
        settle(&mut planner, &mut api, now);
        assert!(!api.services.contains_key("web") || api.addresses("web").is_empty());
        now += Duration::from_secs(5);
        settle(&mut planner, &mut api, now);
        assert!(!api.services.contains_key("web"), "{config}");
    }
}

#[test]
fn the_finalizer_goes_when_it_is_switched_off_and_when_the_type_changes() {
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    api.create("other", &load_balancer());
    let mut planner = start(&mut api, Some(&with_finalizer()), now);
    settle(&mut planner, &mut api, now);
    api.change("other", |o| o["spec"]["type"] = json!("ClusterIP"));
    settle(&mut planner, &mut api, now);
    assert!(!api.view("other").finalizer && api.view("web").finalizer);
    configure(&mut planner, &dual_config(""), now);
    settle(&mut planner, &mut api, now);
    assert!(!api.view("web").finalizer && api.addresses("web").len() == 1);
}

#[test]
fn labels_of_a_namespace_that_change_move_its_services_only() {
    // Pools for namespaces by label come from objects, not from the ConfigMap: the planner's part is to look again.
    let (mut api, now) = (Api::default(), Instant::now());
    api.create("web", &load_balancer());
    let mut planner = start(&mut api, Some(&dual_config("")), now);
    settle(&mut planner, &mut api, now);
    let namespace = |name: &str, value: &str| NamespaceView {
        name: name.to_owned(),
        labels: [("tenant".to_owned(), value.to_owned())].into(),
    };
    for (name, value, dirty) in [("default", "a", true), ("default", "a", false), ("other", "a", false)] {
        planner.handle(Event::Namespace(WatchEvent::Applied(namespace(name, value))), now);
        assert_eq!(planner.index.next_dirty().is_some(), dirty, "{name} {value}");
    }
}
