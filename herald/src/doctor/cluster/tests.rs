use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::CHECKS;
use super::seen::ClusterSeen;
use crate::doctor::report::Report;
use crate::testing::golden;

fn workload(
    namespace: &str,
    name: &str,
    component: &str,
    image: &str,
    args: &[&str],
    status: Value,
) -> Value {
    json!({
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": { "app.kubernetes.io/name": if component.is_empty() { "other" } else { "herald" }, "app.kubernetes.io/component": component },
        },
        "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": image, "args": args }] } } },
        "status": status,
    })
}

fn node(name: &str, number: u8) -> Value {
    json!({
        "metadata": { "name": name, "labels": {} },
        "spec": { "podCIDRs": [format!("10.244.{number}.0/24")] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": format!("10.0.0.{number}") }, { "type": "Hostname", "address": name }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn service(name: &str, address: &str, annotations: Value) -> Value {
    json!({
        "kind": "Service",
        "metadata": { "namespace": "shop", "name": name, "annotations": annotations },
        "spec": { "type": "LoadBalancer" },
        "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
    })
}

fn object(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": { "namespace": "metallb-system", "name": name },
        "spec": spec,
    })
}

/// Two nodes, Herald in place of kube-proxy, layer 2 and BGP, one Service.
fn well() -> ClusterSeen {
    let lists = [
        ("nodes", json!([node("a", 1), node("b", 2)])),
        (
            "services",
            json!([service("web", "192.0.2.1", json!({ "metallb.io/ip-allocated-from-pool": "edge" }))]),
        ),
        (
            "daemonsets",
            json!([workload(
                "metallb-system",
                "herald-speaker",
                "speaker",
                "herald:0.1.0",
                &["speaker", "--proxy=full"],
                json!({ "desiredNumberScheduled": 2, "numberReady": 2 })
            )]),
        ),
        (
            "deployments",
            json!([workload(
                "metallb-system",
                "herald-controller",
                "controller",
                "herald:0.1.0",
                &["controller"],
                json!({ "replicas": 2, "readyReplicas": 2 })
            )]),
        ),
        (
            "namespaces",
            json!([{ "metadata": { "name": "metallb-system", "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } }]),
        ),
        (
            "servicecidrs",
            json!([{ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.96.0.0/16"] } }]),
        ),
        (
            "leases",
            json!([{
                "metadata": { "name": "herald-controller" },
                "spec": { "holderIdentity": "x", "leaseDurationSeconds": 15, "renewTime": Timestamp::now().to_string() },
            }]),
        ),
        ("plugins", json!([])),
        (
            "configmaps",
            json!([{ "metadata": { "name": "herald" }, "data": { "api-server": "https://10.0.0.1:6443" } }]),
        ),
        ("webhooks", json!([])),
        (
            "ipaddresspools",
            json!([object(
                "metallb.io/v1beta1",
                "IPAddressPool",
                "edge",
                json!({ "addresses": ["192.0.2.0/28"] })
            )]),
        ),
        ("l2advertisements", json!([object("metallb.io/v1beta1", "L2Advertisement", "all", json!({}))])),
        ("bgpadvertisements", json!([])),
        (
            "bgppeers",
            json!([object(
                "metallb.io/v1beta2",
                "BGPPeer",
                "tor",
                json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.254", "passwordSecret": { "name": "tor" } })
            )]),
        ),
        ("bfdprofiles", json!([])),
        ("communities", json!([])),
    ];
    let list = |value: Value| value.as_array().unwrap().clone();
    ClusterSeen {
        namespace: "metallb-system".to_owned(),
        lists: lists.map(|(name, items)| (name, Ok(list(items)))).into(),
        secrets: Ok(vec!["memberlist".to_owned(), "tor".to_owned()]),
        definitions: Ok(herald_config::definitions()
            .into_iter()
            .map(|definition| (definition["metadata"]["name"].as_str().unwrap().to_owned(), definition))
            .collect()),
        version: "v1.36.3".to_owned(),
        ahead: Some(0),
        denied: Ok(Vec::new()),
    }
}

fn list<'a>(seen: &'a mut ClusterSeen, name: &'static str) -> &'a mut Vec<Value> {
    seen.lists.get_mut(name).unwrap().as_mut().unwrap()
}

fn found(seen: &ClusterSeen) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for check in CHECKS.into_iter().flatten() {
        match (check.judge)(seen) {
            Ok(troubles) => found.extend(troubles.into_iter().map(|trouble| (check.id, trouble.seen))),
            Err(why) => found.push((check.id, format!("unknown: {why}"))),
        }
    }
    found
}

#[test]
fn a_cluster_that_is_well_has_nothing_to_tell() {
    assert_eq!(found(&well()), []);
}

fn running(namespace: &str, name: &str, image: &str) -> Value {
    workload(namespace, name, "", image, &[], json!({ "desiredNumberScheduled": 2, "numberReady": 2 }))
}

type Harm = fn(&mut ClusterSeen);

const OF_NODES: &[(&str, Harm, &str)] = &[
    ("kubernetes", |c| c.version = "v1.24.17+k3s1".to_owned(), "v1.24.17"),
    ("kubernetes", |c| c.version = "unknown".to_owned(), "unknown: the API server's version"),
    ("clock", |c| c.ahead = Some(-3600), "3600 s behind"),
    ("clock", |c| c.ahead = None, "unknown: "),
    (
        "node-ready",
        |c| list(c, "nodes")[0]["status"]["conditions"][0]["status"] = "Unknown".into(),
        "a: not Ready",
    ),
    ("node-address", |c| list(c, "nodes")[1]["status"]["addresses"] = json!([]), "b: no InternalIP"),
    (
        "node-network",
        |c| {
            list(c, "nodes")[1]["status"]["conditions"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "type": "NetworkUnavailable", "status": "True" }))
        },
        "b: NetworkUnavailable",
    ),
    (
        "node-excluded",
        |c| {
            for node in list(c, "nodes") {
                node["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"] =
                    "".into();
            }
        },
        "all 2 Nodes",
    ),
    ("pod-cidrs", |c| list(c, "nodes")[0]["spec"] = json!({}), "a: no podCIDRs"),
];

const OF_HERALD: &[(&str, Harm, &str)] = &[
    ("controllers", |c| list(c, "deployments")[0]["status"]["readyReplicas"] = 1.into(), "one controller"),
    ("leader", |c| list(c, "leases").clear(), "no controller leads"),
    (
        "leader",
        |c| list(c, "leases")[0]["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z".into(),
        "no holder who renews it",
    ),
    (
        "speakers",
        |c| list(c, "daemonsets")[0]["status"]["numberReady"] = 1.into(),
        "1 of 2 speakers are ready",
    ),
    ("speakers", |c| list(c, "nodes").push(node("c", 3)), "on 2 of 3 Nodes"),
    (
        "versions",
        |c| {
            list(c, "deployments")[0]["spec"]["template"]["spec"]["containers"][0]["image"] =
                "herald:0.2.0".into()
        },
        "herald:0.1.0, herald:0.2.0",
    ),
    (
        "rights",
        |c| c.denied = Ok(vec!["herald-speaker: list nodes".to_owned()]),
        "herald-speaker: list nodes",
    ),
    (
        "pod-security",
        |c| {
            list(c, "namespaces")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] =
                "baseline".into()
        },
        "enforces pod security \"baseline\"",
    ),
    (
        "definitions",
        |c| {
            let pools = c.definitions.as_mut().unwrap().get_mut("ipaddresspools.metallb.io").unwrap();
            let spec = &mut pools["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            spec["properties"].as_object_mut().unwrap().remove("avoidBuggyIPs");
        },
        "avoidBuggyIPs (v1beta1)",
    ),
    (
        "webhook",
        |c| {
            list(c, "webhooks").push(json!({
                "metadata": { "name": "metallb-webhook-configuration" },
                "webhooks": [{
                    "rules": [{ "apiGroups": ["metallb.io"] }], "failurePolicy": "Fail",
                    "clientConfig": { "service": { "namespace": "gone" } },
                }],
            }))
        },
        "every change is refused",
    ),
    (
        "configuration",
        |c| list(c, "ipaddresspools")[0]["spec"]["autoAssign"] = "yes".into(),
        "ipaddresspools/edge: ",
    ),
    ("hello-key", |c| c.secrets = Ok(vec!["tor".to_owned()]), "forge hellos"),
    ("passwords", |c| c.secrets = Ok(vec!["memberlist".to_owned()]), "names the Secret tor"),
    ("api-server", |c| list(c, "configmaps").clear(), "after a node's reboot"),
];

const OF_ADDRESSES: &[(&str, Harm, &str)] = &[
    (
        "pool-nodes",
        |c| list(c, "nodes")[0]["status"]["addresses"][0]["address"] = "192.0.2.9".into(),
        "192.0.2.9/32 (a)",
    ),
    ("pool-pods", |c| list(c, "nodes")[0]["spec"]["podCIDRs"][0] = "192.0.0.0/16".into(), "192.0.0.0/16 (a)"),
    (
        "pool-services",
        |c| list(c, "servicecidrs")[0]["spec"]["cidrs"][0] = "192.0.2.8/29".into(),
        "192.0.2.8/29",
    ),
    ("pool-services", |c| list(c, "servicecidrs").clear(), "unknown: "),
    (
        "pool-room",
        |c| list(c, "ipaddresspools")[0]["status"] = json!({ "availableIPv4": 0, "availableIPv6": 0 }),
        "edge is full",
    ),
    (
        "address-twice",
        |c| list(c, "services").push(service("dns", "192.0.2.1", json!({}))),
        "shop/web and shop/dns at once",
    ),
    (
        "address-pool",
        |c| {
            list(c, "services").push(service(
                "old",
                "198.51.100.1",
                json!({ "metallb.io/ip-allocated-from-pool": "gone" }),
            ))
        },
        "shop/old has 198.51.100.1",
    ),
];

const OF_OTHERS: &[(&str, Harm, &str)] = &[
    (
        "kube-proxy-beside",
        |c| {
            list(c, "daemonsets").push(running(
                "kube-system",
                "kube-proxy",
                "registry.k8s.io/kube-proxy:v1.36.3",
            ))
        },
        "daemonset/kube-proxy",
    ),
    (
        "metallb",
        |c| {
            list(c, "daemonsets").push(running(
                "metallb-system",
                "speaker",
                "quay.io:443/metallb/speaker:v0.16.1",
            ))
        },
        "daemonset/speaker",
    ),
    (
        "other-balancers",
        |c| list(c, "daemonsets").push(running("kube-system", "svclb", "rancher/klipper-lb:v0.4.9")),
        "k3s' ServiceLB",
    ),
    (
        "plugin-proxy",
        |c| {
            list(c, "plugins").push(json!({ "metadata": { "name": "cilium-config" }, "data": { "kube-proxy-replacement": "true" } }))
        },
        "Cilium replaces kube-proxy",
    ),
    (
        "plugin-bgp",
        |c| {
            list(c, "plugins").push(json!({ "metadata": { "name": "cilium-config" }, "data": { "enable-bgp-control-plane": "true" } }))
        },
        "Cilium has BGP sessions",
    ),
];

#[test]
fn every_check_finds_its_trouble_and_no_other_does() {
    for (id, harm, word) in [OF_NODES, OF_HERALD, OF_ADDRESSES, OF_OTHERS].into_iter().flatten() {
        let mut seen = well();
        harm(&mut seen);
        let found = found(&seen);
        let ours: Vec<_> = found.iter().filter(|(at, _)| at == id).collect();
        assert!(matches!(ours.as_slice(), [(_, text)] if text.contains(word)), "{id}: {found:?}");
        assert_eq!(found.len(), 1, "{id}: {found:?}");
    }
}

#[test]
fn beside_kube_proxy_its_arp_is_what_matters() {
    let mut seen = well();
    list(&mut seen, "daemonsets").push(running("kube-system", "kube-proxy", "kube-proxy:v1.36.3"));
    list(&mut seen, "daemonsets")[0]["spec"]["template"]["spec"]["containers"][0]["args"][1] =
        "--proxy=external".into();
    let mode = |mode: &str, strict: &str| json!([{ "metadata": { "name": "kube-proxy" }, "data": { "config.conf": format!("mode: \"{mode}\"\nipvs:\n  strictARP: {strict}\n") } }]);
    for (text, wrong) in
        [(mode("ipvs", "false"), true), (mode("ipvs", "true"), false), (mode("nftables", "false"), false)]
    {
        *list(&mut seen, "plugins") = text.as_array().unwrap().clone();
        let found = found(&seen);
        assert_eq!(
            found.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            if wrong { vec!["strict-arp"] } else { vec![] }
        );
    }
}

#[test]
fn without_rights_nothing_is_concluded_and_all_is_told() {
    let mut seen = well();
    for list in seen.lists.values_mut() {
        *list = Err("forbidden".to_owned());
    }
    (seen.secrets, seen.denied) = (Err("forbidden".to_owned()), Err("forbidden".to_owned()));
    seen.definitions = Err("forbidden".to_owned());
    let found = found(&seen);
    assert!(found.len() > 20 && found.iter().all(|(_, text)| text.starts_with("unknown: ")), "{found:#?}");
}

#[test]
fn where_herald_runs_without_pods_nothing_is_said_to_be_missing() {
    let mut seen = well();
    for workloads in ["deployments", "daemonsets"] {
        list(&mut seen, workloads).clear();
    }
    let bare = found(&seen);
    let ids: Vec<_> = bare.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["controllers", "speakers"]);
    assert!(bare.iter().all(|(_, text)| text.contains("Herald has no Pods here")), "{bare:#?}");

    list(&mut seen, "leases").clear();
    let nothing = found(&seen);
    assert!(nothing.iter().any(|(_, text)| text.starts_with("no Deployment")), "{nothing:#?}");
}

#[test]
fn the_screen_is_as_its_golden_file() {
    let screen = |seen: &ClusterSeen| {
        let checks = CHECKS.into_iter().flatten();
        Report::of("cluster".to_owned(), checks, seen).to_string()
    };
    let mut ill = well();
    list(&mut ill, "nodes")[0]["status"]["conditions"][0]["status"] = "Unknown".into();
    list(&mut ill, "leases").clear();
    list(&mut ill, "daemonsets").push(running(
        "kube-system",
        "kube-proxy",
        "registry.k8s.io/kube-proxy:v1.36.3",
    ));
    ill.secrets = Ok(vec!["memberlist".to_owned()]);
    ill.denied = Err("subjectaccessreviews.authorization.k8s.io is forbidden".to_owned());
    let text =
        format!("$ herald doctor cluster\n{}\n$ herald doctor cluster\n{}", screen(&well()), screen(&ill));
    golden("doctor.txt", &text);
}
