//! From a running MetalLB to Herald and back, as docs/from-metallb.md tells it: every Service keeps its address.

mod by_layer2;
mod node_by_node;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use herald_e2e::bench::metallb::MetalLb;
use herald_e2e::{Lab, PodOptions, commands_after};
use serde_json::{Value, json};

use crate::services::{History, SOON, addresses_of, all, await_address, await_event, create, service};

const README: &str = include_str!("../../../README.md");
/// For MetalLB, which works by the second.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whose controller is asked on each change of a pool, and is not there any more when it is stopped.
const WEBHOOK: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: metallb-webhook-configuration}
webhooks:
- name: ipaddresspoolvalidationwebhook.metallb.io
  clientConfig: {service: {name: metallb-webhook-service, namespace: metallb-system, path: /validate}}
  rules: [{apiGroups: [metallb.io], apiVersions: [v1beta1], operations: [CREATE, UPDATE], resources: [ipaddresspools]}]
  admissionReviewVersions: [v1]
  sideEffects: None
";
const POOL: &str = "192.0.2.0/26";

fn annotated(name: &str, annotations: Value, port: u16) -> Value {
    let ports = json!([{ "port": port, "targetPort": 8080 }]);
    service(name, json!({ "metadata": { "annotations": annotations }, "spec": { "ports": ports } }))
}

/// What users of MetalLB have.
fn services() -> Vec<Value> {
    vec![
        service("plain", json!({})),
        service("asked", json!({ "spec": { "loadBalancerIP": "192.0.2.33" } })),
        annotated("new-prefix", json!({ "metallb.io/loadBalancerIPs": "192.0.2.40" }), 80),
        annotated("old-prefix", json!({ "metallb.universe.tf/address-pool": "bench" }), 80),
        annotated("shared-a", json!({ "metallb.io/allow-shared-ip": "key" }), 80),
        annotated("shared-b", json!({ "metallb.io/allow-shared-ip": "key" }), 81),
    ]
}

fn held(lab: &Lab) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    Ok(all(lab)?.into_iter().map(|(name, service)| (name, addresses_of(&service))).collect())
}

#[test]
#[ignore = "needs a network namespace"]
fn every_service_keeps_its_address_from_metallb_to_herald_and_back() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let metallb = MetalLb::start(&lab, POOL)?;
    for service in services() {
        // One after the other, so that who shares finds its partner.
        let name = service["metadata"]["name"].as_str().context("a name")?.to_owned();
        create(&lab, [service])?;
        await_address(&lab, &name).with_context(|| metallb.logs())?;
    }
    let before = held(&lab)?;
    assert_eq!(before["shared-a"], before["shared-b"]);
    let route = format!("{}/32", before["plain"][0]);
    let hops: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.router().await_route(&route, &hops, PATIENCE)?;

    // What MetalLB's own manifests have besides.
    node_by_node::workloads(&lab)?;
    lab.apply(WEBHOOK)?;

    let (history, ()) = History::during(&lab, || {
        lab.type_lines(&commands_after(README, "From MetalLB, with its objects")?)?;
        drop(metallb);
        // Its objects and their definitions stay as they are: they are all the configuration that there is.
        let controller = lab.controller("controller", &[])?;
        controller.await_log("all Services are decided", SOON)?;
        let speakers = lab.speakers(&["--take-over"])?;
        lab.router().await_route(&route, &hops, PATIENCE)?;
        lab.kubectl(&[
            "wait",
            "service/plain",
            "--for=condition=herald.io/AddressAssigned",
            "--timeout=20s",
        ])?;
        create(&lab, [service("born-here", json!({}))])?;
        let born = await_address(&lab, "born-here")?;
        assert!(before.values().all(|held| !held.contains(&born)), "{born} was given twice");
        await_event(&lab, "default", "born-here", "IPAllocated", &born.to_string())?;
        assert_eq!(addresses_of(&all(&lab)?["plain"]), before["plain"]);

        // And back: what Herald gave is MetalLB's then.
        for speaker in &speakers {
            speaker.terminate(SOON)?;
        }
        controller.terminate(SOON)?;
        for node in lab.nodes() {
            node.ns.exec(&["nft", "flush", "ruleset"])?;
        }
        let metallb = MetalLb::run(&lab)?;
        create(&lab, [service("born-again", json!({}))])?;
        let again = await_address(&lab, "born-again").with_context(|| metallb.logs())?;
        assert!(again != born && before.values().all(|held| !held.contains(&again)), "{again}");
        lab.router().await_route(&format!("{born}/32"), &hops, PATIENCE)?;
        lab.delete("v1/Service", "default", "born-here")
    })?;
    assert_kept(&history, &before);
    Ok(())
}

/// Every Service had one address all the time: what it had before, or the first that it got.
fn assert_kept(history: &History, before: &BTreeMap<String, Vec<IpAddr>>) {
    let mut has: BTreeMap<&str, &[IpAddr]> = BTreeMap::new();
    for (name, addresses) in &history.changes {
        let Some(addresses) = addresses else { continue };
        let had = has.insert(name, addresses).unwrap_or_default();
        assert!(had.is_empty() || had == addresses.as_slice(), "{name} had {had:?} and then {addresses:?}");
    }
    for (name, held) in before {
        assert_eq!(has[name.as_str()], held.as_slice(), "{name}");
    }
}
