//! Services and EndpointSlices that the API server accepts and nobody should have made: they hurt nobody else.

use anyhow::Result;
use herald_e2e::{Lab, at, await_ok};
use serde_json::{Value, json};

use super::{Served, answers};
use crate::services::{SOON, addresses_of, all, await_event, await_service, create, ip, service};

/// The longest name that a Service may have.
fn long_name() -> String {
    "n".repeat(63)
}

/// Services, each odd in a way of its own.
fn odd_services(web: &str, node: &str) -> Vec<Value> {
    let annotated =
        |name: &str, annotations: Value| service(name, json!({ "metadata": { "annotations": annotations } }));
    let ports = |name: &str, ports: Value| service(name, json!({ "spec": { "ports": ports } }));
    let inside = |name: &str, ips: Value| {
        service(
            name,
            json!({ "spec": { "type": "ClusterIP", "selector": { "app": "nobody" }, "externalIPs": ips } }),
        )
    };
    let many: Vec<Value> =
        (1..=200).map(|port| json!({ "name": format!("p{port}"), "port": port, "targetPort": 1 })).collect();
    vec![
        annotated(
            "a-garbage",
            json!({
                "metallb.io/loadBalancerIPs": "\u{1f4a5}, ; DROP TABLE pools",
                "metallb.io/address-pool": " \t ",
                "metallb.io/allow-shared-ip": "\u{e9}\t ".repeat(4000),
                "service.beta.kubernetes.io/external-traffic": "onlylocal ",
                "service.beta.kubernetes.io/healthcheck-nodeport": "-1",
                "metallb.io/ip-allocated-from-pool": "another",
            }),
        ),
        annotated(
            "a-empty",
            json!({ "metallb.io/loadBalancerIPs": ",,,", "metallb.universe.tf/address-pool": "" }),
        ),
        annotated(
            "a-all-at-once",
            json!({
                "metallb.io/loadBalancerIPs": "0.0.0.0,::", "service.beta.kubernetes.io/external-traffic": "OnlyLocal",
            }),
        ),
        annotated("a-the-pool-s-last", json!({ "metallb.io/loadBalancerIPs": "192.0.2.15/28" })),
        annotated(&long_name(), json!({ "metallb.io/loadBalancerIPs": "x".repeat(100_000) })),
        ports("p-named", json!([{ "port": 80, "targetPort": "no-such-port" }])),
        ports(
            "p-sctp",
            json!([{ "name": "s", "protocol": "SCTP", "port": 80 }, { "name": "t", "port": 80, "targetPort": 8080 }]),
        ),
        ports(
            "p-all-protocols",
            json!([
                { "name": "a", "protocol": "TCP", "port": 65535, "targetPort": 1 },
                { "name": "b", "protocol": "UDP", "port": 65535, "targetPort": 65535 },
                { "name": "c", "protocol": "SCTP", "port": 65535 },
            ]),
        ),
        ports("p-many", Value::Array(many)),
        service("s-selects-none", json!({ "spec": { "selector": Value::Null } })),
        service(
            "s-source-ranges",
            json!({ "spec": { "loadBalancerSourceRanges": [" 0.0.0.0/0", "::/0", "203.0.113.0/24 "] } }),
        ),
        service(
            "s-affinity",
            json!({ "spec": {
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 86400 } },
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "publishNotReadyAddresses": true,
        } }),
        ),
        service("s-no-node-ports", json!({ "spec": { "allocateLoadBalancerNodePorts": false } })),
        service(
            "s-headless",
            json!({ "spec": { "type": "ClusterIP", "clusterIP": "None", "selector": { "app": "nobody" }, "externalIPs": ["192.0.2.0"] } }),
        ),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s-external-name" },
            "spec": { "type": "ExternalName", "externalName": "192.0.2.0", "externalIPs": [web] },
        }),
        // Others' addresses: another Service's VIP, its cluster address, a node's, the API server's, everybody's.
        inside("x-vip", json!(["192.0.2.0"])),
        inside("x-cluster-ip", json!([web])),
        inside("x-node", json!([node, "10.0.0.1", "10.0.0.10"])),
        inside("x-broadcast", json!(["255.255.255.255", "239.1.2.3", "240.0.0.1", "ff0e::1"])),
        inside("x-twice", json!(["198.51.100.9", "198.51.100.9", "10.244.1.10"])),
        inside("x-mapped", json!(["2001:db8::198.51.100.9", "64:ff9b::1"])),
    ]
}

/// Slices for the Service `web` (whose own are made by Kubernetes) and others, each odd.
fn odd_slices() -> Vec<Value> {
    let slice = |name: &str, service: &str, kind: &str, ports: Value, endpoints: Value| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
            "ports": ports, "endpoints": endpoints,
        })
    };
    let http = || json!([{ "port": 8080 }]);
    let one = |address: &str| json!([{ "addresses": [address] }]);
    let hundred: Vec<Value> = (0..1000)
        .map(|number| json!({ "addresses": [format!("10.244.{}.{}", 100 + number / 250, number % 250 + 1)], "conditions": { "ready": false } }))
        .collect();
    vec![
        slice("e-no-ports", "web", "IPv4", Value::Null, one("10.244.9.1")),
        slice("e-no-endpoints", "web", "IPv4", http(), json!([])),
        slice("e-any-port", "web", "IPv4", json!([{}]), one("10.244.9.2")),
        slice("e-other-port", "web", "IPv4", json!([{ "name": "other", "port": 0 }]), one("10.244.9.3")),
        slice("e-other-family", "web", "IPv6", http(), one("2001:db8:2:9::1")),
        slice("e-name", "web", "FQDN", http(), one("web.example")),
        slice("e-not-ready", "web", "IPv4", http(), Value::Array(hundred)),
        slice("e-sctp", "web", "IPv4", json!([{ "port": 8080, "protocol": "SCTP" }]), one("10.244.9.4")),
        slice("e-nobody", "no-such-service", "IPv4", http(), one("10.244.9.5")),
        slice("e-no-service", "", "IPv4", http(), one("10.244.9.6")),
        slice("e-for-itself", "s-selects-none", "IPv4", json!([{ "port": 80 }]), one("192.0.2.1")),
        slice(
            "e-strange",
            "s-selects-none",
            "IPv4",
            json!([{ "port": 80 }]),
            json!([
                { "addresses": ["255.255.255.255"] }, { "addresses": ["239.1.2.3"], "nodeName": "no-such-node" },
                { "addresses": ["10.0.0.11"], "conditions": {}, "zone": "z".repeat(63), "hints": { "forZones": [{ "name": "nowhere" }] } },
                { "addresses": ["10.244.9.7"] }, { "addresses": ["10.244.9.7"] },
            ]),
        ),
    ]
}

/// Makes what the API server takes; what it refuses is no matter. How many it took.
fn try_all(lab: &Lab, objects: &[Value]) -> usize {
    let refused = |object: &Value| lab.apply(&object.to_string()).err();
    let refusals: Vec<String> = objects
        .iter()
        .filter_map(|object| Some(format!("{}: {:#}", object["metadata"]["name"], refused(object)?)))
        .collect();
    eprintln!("refused by the API server: {refusals:#?}");
    objects.len() - refusals.len()
}

#[test]
#[ignore = "needs a network namespace"]
fn services_and_slices_that_are_nonsense_hurt_nobody_else() -> Result<()> {
    let served = Served::start()?;
    let lab = &served.lab;
    let before = served.sessions()?;
    let poller = served.poll()?;
    let web = all(lab)?["web"].clone();
    let cluster_ip = web.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    let odd = odd_services(&cluster_ip, &lab.node(1).ip.to_string());
    let slices = odd_slices();
    assert!(try_all(lab, &odd) > odd.len() - 6, "nearly all are accepted");
    assert!(try_all(lab, &slices) > slices.len() - 4, "nearly all are accepted");

    // Whoever comes after them is served like whoever was there before.
    create(lab, [service("good", json!({ "spec": { "loadBalancerIP": "192.0.2.14" } }))])?;
    let good = await_service(lab, "good", SOON, "its address", |service| {
        addresses_of(service) == [ip("192.0.2.14")]
    })?;
    lab.router().await_route("192.0.2.14/32", &served.hops(), SOON)?;
    answers(lab, at("192.0.2.14", 80))?;
    let cluster = at(good.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default().as_str(), 80);
    for node in lab.nodes() {
        await_ok(SOON, "the cluster address on a node", || node.ns.get(cluster).map(drop))?;
    }
    // What is wrong with the odd ones is said where their users look.
    for (name, part) in [
        ("a-garbage", "is no IP address: request one like 192.0.2.10"),
        ("a-all-at-once", "are not one for each IP family of the Service"),
        ("a-the-pool-s-last", "\"192.0.2.15/28\" is no IP address"),
        (&long_name(), "is no IP address"),
    ] {
        await_event(lab, "default", name, "LoadBalancerFailed", part)?;
    }
    // The one that shares a port number with a protocol that is not served works by its other port.
    let address = addresses_of(&await_service(lab, "p-sctp", SOON, "an address", |service| {
        !addresses_of(service).is_empty()
    })?)[0];
    answers(lab, (address, 80).into())?;
    // The Service whose slices were forged is served as before by its own pods.
    let pods: Vec<_> =
        (0..20).map(|_| lab.client().get(at("192.0.2.0", 80)).map(|answer| answer.pod)).collect();
    assert!(pods.iter().all(|pod| pod.as_ref().is_ok_and(|pod| pod.starts_with("web-"))), "{pods:?}");

    for object in slices.iter().chain(&odd) {
        let kind =
            if object["kind"] == "Service" { "v1/Service" } else { "discovery.k8s.io/v1/EndpointSlice" };
        lab.delete(kind, "default", object["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    served.works("last", "192.0.2.13", json!({ "spec": { "loadBalancerIP": "192.0.2.13" } }), SOON)?;
    poller.stop()?.assert_no_loss();
    for (was, is) in before.iter().zip(served.sessions()?) {
        assert_eq!(was.1, is.1, "the sessions are the same");
    }
    assert_eq!(lab.router().next_hops("192.0.2.0/32")?, served.hops());
    for process in served.speakers.iter().chain([&served.controller]) {
        let log = process.log();
        assert!(
            process.is_running() && !log.contains("panicked") && !log.contains("ERROR"),
            "{}",
            process.log_tail()
        );
    }
    Ok(())
}
