//! Objects of metallb.io: installed, explained, read, refused, and gone.

use std::process::Command;

use anyhow::{Context, Result};
use herald_e2e::{Lab, NAMESPACE, await_ok, herald_program};
use serde_json::{Value, json};

use crate::services::{SOON, all, await_address, await_event, await_no_address, create, ip, service};

const EXAMPLES: &str = include_str!("../../../config/testdata/objects/accepted.yaml");
/// Of a BGP session.
pub(crate) const PASSWORD: &str = "s3cr3t";
const REFUSED: &str = include_str!("../../../config/testdata/objects/refused.yaml");

fn lab() -> Result<Lab> {
    Lab::builder().nodes(1).control_plane().start()
}

/// What `herald crds` prints.
fn definitions() -> Result<String> {
    let output = Command::new(herald_program()?).arg("crds").output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Installs the definitions, and waits until they are served.
pub(crate) fn install(lab: &Lab) -> Result<()> {
    lab.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &definitions()?)?;
    lab.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]).map(drop)
}

/// An object of metallb.io.
pub(crate) fn object(kind: &str, version: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
    .to_string()
}

pub(crate) fn pool(name: &str, addresses: &[&str]) -> String {
    object("IPAddressPool", "v1beta1", name, &json!({ "addresses": addresses }))
}

/// The Secret `tor` with [`PASSWORD`], and the peer that has it.
pub(crate) fn peer_with_password() -> [String; 2] {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": { "name": "tor", "namespace": NAMESPACE },
        "stringData": { "username": "x", "password": PASSWORD } });
    let spec = json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1",
        "passwordSecret": { "name": "tor" } });
    [secret.to_string(), object("BGPPeer", "v1beta2", "tor", &spec)]
}

/// What BIRD is told so that it has the same password for every peer.
pub(crate) fn bird_password() -> String {
    format!("password \"{PASSWORD}\";")
}

fn get(lab: &Lab, kind: &str, name: &str) -> Result<Value> {
    let text = lab.kubectl(&["-n", NAMESPACE, "get", kind, name, "-o", "json"])?;
    serde_json::from_str(&text).context("what kubectl prints")
}

/// Waits for the ConfigurationState of a component.
fn await_state(lab: &Lab, name: &str, result: &str, summary: &str) -> Result<()> {
    await_ok(SOON, &format!("{name} is {result}"), || {
        let state = get(lab, "configurationstates", name).map_err(|error| error.to_string())?;
        let text = state["status"]["errorSummary"].as_str().unwrap_or_default();
        let good = state["status"]["result"] == result && text.contains(summary);
        if good { Ok(()) } else { Err(state["status"].to_string()) }
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn the_definitions_are_installed_explained_and_listed_and_both_versions_of_a_peer_are_served() -> Result<()> {
    let lab = lab()?;
    install(&lab)?;
    let explained = lab.kubectl(&["explain", "ipaddresspool.spec"])?;
    for word in ["addresses", "autoAssign", "serviceAllocation", "No two of all pools"] {
        assert!(explained.contains(word), "{word}: {explained}");
    }
    lab.kubectl_with_input(&["apply", "-f", "-"], EXAMPLES)?;
    let table = lab.kubectl(&["-n", NAMESPACE, "get", "ipaddresspools"])?;
    let heading = table.lines().next().unwrap_or_default();
    assert!(heading.contains("AUTO ASSIGN") && heading.contains("AVOID BUGGY IPS"), "{table}");
    let edge = table.lines().find(|line| line.starts_with("edge")).unwrap_or_default();
    assert!(edge.contains("false") && edge.contains("true") && edge.contains("192.0.2.0/25"), "{table}");
    let plain = get(&lab, "ipaddresspool", "plain")?;
    assert_eq!(
        (&plain["spec"]["autoAssign"], &plain["spec"]["avoidBuggyIPs"]),
        (&json!(true), &json!(false))
    );
    for (kind, column) in [
        ("bgppeers", "BFD PROFILE"),
        ("bgpadvertisements", "IPADDRESSPOOL SELECTORS"),
        ("l2advertisements", "INTERFACES"),
        ("bfdprofiles", "TRANSMIT INTERVAL"),
        ("communities", "AGE"),
    ] {
        let table = lab.kubectl(&["-n", NAMESPACE, "get", kind])?;
        assert!(table.contains(column), "{kind}: {table}");
    }
    // An object of either version is there in both.
    for (name, field) in [("older", "bfdProfile"), ("full", "holdTime")] {
        for version in ["v1beta1", "v1beta2"] {
            let peer = get(&lab, &format!("bgppeers.{version}.metallb.io"), name)?;
            assert_eq!(peer["apiVersion"], format!("metallb.io/{version}"));
            assert!(peer["spec"][field].is_string(), "{peer}");
            assert_eq!(peer["spec"]["localASN"].is_null(), version == "v1beta1" || name == "older", "{peer}");
        }
    }
    // What the API server refuses by itself is refused by `herald check` too; the rest Herald tells.
    let mut refused = 0;
    for example in REFUSED.split("---\n").skip(1) {
        let example =
            example.replace("metadata: {name: x}", &format!("metadata: {{name: x, namespace: {NAMESPACE}}}"));
        if lab.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &example).is_err() {
            refused += 1;
        }
    }
    assert!(refused >= 60, "only {refused} of the examples are refused by the schema");
    let error = lab.kubectl_with_input(
        &["apply", "--dry-run=server", "-f", "-"],
        &json!({
            "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": { "name": "x", "namespace": NAMESPACE },
            "spec": { "myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "connectTime": "500ms" },
        })
        .to_string(),
    );
    let error = error.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("use whole seconds"), "{error}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn pools_that_are_objects_count_alone_and_stay_in_force_when_they_are_gone() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald("address-pools: [{name: old, protocol: bgp, addresses: [192.0.2.0/28]}]\n")?;
    let controller = lab.controller("controller", &[])?;
    create(&lab, [service("first", json!({}))])?;
    assert_eq!(await_address(&lab, "first").with_context(|| controller.log_tail())?, ip("192.0.2.0"));
    // The definitions alone change nothing; the first pool does, found without a restart.
    install(&lab)?;
    lab.apply(&pool("new", &["192.0.2.0/30"]))?;
    await_event(&lab, NAMESPACE, "config", "ConfigIgnored", "they alone count")?;
    await_state(&lab, "controller", "Valid", "")?;
    assert_eq!(await_address(&lab, "first")?, ip("192.0.2.0"), "it is in the new pool too");
    await_ok(SOON, "the status of the pool", || {
        let pool = get(&lab, "ipaddresspool", "new").map_err(|error| error.to_string())?;
        let status = &pool["status"];
        let good = status["assignedIPv4"] == 1 && status["availableIPv4"] == 3;
        if good { Ok(()) } else { Err(status.to_string()) }
    })?;
    // A bad change is refused alone, told on the object, and the last good state stays.
    lab.apply(&pool("new", &["192.0.2.0"]))?;
    await_event(&lab, NAMESPACE, "new", "ConfigRejected", "write 192.0.2.0/32 for this one address")?;
    await_state(&lab, "controller", "Invalid", "IPAddressPool new, spec.addresses[0]")?;
    create(&lab, [service("second", json!({}))])?;
    assert_eq!(await_address(&lab, "second")?, ip("192.0.2.1"));
    lab.apply(&pool("new", &["192.0.2.0/30"]))?;
    await_state(&lab, "controller", "Valid", "")?;
    lab.apply(&pool("more", &["192.0.2.2/32"]))?;
    await_event(&lab, NAMESPACE, "more", "ConfigRejected", "overlaps 192.0.2.0/30 of pool new")?;
    // All gone: the last state stays, and somebody is asked.
    for name in ["more", "new"] {
        lab.delete("metallb.io/v1beta1/IPAddressPool", NAMESPACE, name)?;
    }
    await_event(&lab, NAMESPACE, "config", "ConfigDeleted", "stays in force")?;
    create(&lab, [service("third", json!({}))])?;
    assert_eq!(await_address(&lab, "third")?, ip("192.0.2.2"));
    assert_eq!(all(&lab)?.len(), 3);
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_state_that_somebody_deletes_is_written_again() -> Result<()> {
    let lab = lab()?;
    install(&lab)?;
    lab.apply(&pool("a", &["nonsense"]))?;
    let _controller = lab.controller("controller", &[])?;
    await_state(&lab, "controller", "Invalid", "IPAddressPool a")?;
    lab.delete("metallb.io/v1beta1/ConfigurationState", NAMESPACE, "controller")?;
    await_state(&lab, "controller", "Invalid", "IPAddressPool a")
}

#[test]
#[ignore = "needs a network namespace"]
fn a_pool_serves_the_namespaces_that_its_labels_select_as_soon_as_they_have_them() -> Result<()> {
    let lab = lab()?;
    install(&lab)?;
    let object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": "shops", "namespace": NAMESPACE },
        "spec": {
            "addresses": ["192.0.2.0/28"],
            "serviceAllocation": { "namespaceSelectors": [{ "matchLabels": { "team": "shop" } }] },
        },
    });
    lab.apply(&object.to_string())?;
    let _controller = lab.controller("controller", &[])?;
    create(&lab, [service("first", json!({}))])?;
    await_event(&lab, "default", "first", "AllocationFailed", "")?;
    lab.kubectl(&["label", "namespace", "default", "team=shop"])?;
    assert_eq!(await_address(&lab, "first")?, ip("192.0.2.0"));
    lab.kubectl(&["label", "namespace", "default", "team-"])?;
    await_no_address(&lab, "first")?;
    await_event(&lab, "default", "first", "ClearAssignment", "Its address is taken away").map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_controller_that_starts_with_a_refused_pool_takes_no_address_away() -> Result<()> {
    let lab = lab()?;
    install(&lab)?;
    lab.apply(&pool("a", &["192.0.2.0/30"]))?;
    lab.apply(&pool("b", &["198.51.100.0/30"]))?;
    // By one name, so that the second one need not wait until the first one's Lease has run out.
    let named = ["--identity=herald-0"];
    let controller = lab.controller("controller", &named)?;
    let annotated = json!({ "metadata": { "annotations": { "metallb.io/address-pool": "b" } } });
    create(&lab, [service("first", annotated)])?;
    assert_eq!(await_address(&lab, "first")?, ip("198.51.100.0"));
    drop(controller);
    lab.apply(&pool("b", &["nonsense"]))?;
    let _controller = lab.controller("controller-again", &named)?;
    await_event(&lab, NAMESPACE, "b", "ConfigRejected", "the object is not in force")?;
    create(&lab, [service("second", json!({}))])?;
    assert_eq!(await_address(&lab, "second")?, ip("192.0.2.0"), "the other pool serves");
    assert_eq!(await_address(&lab, "first")?, ip("198.51.100.0"), "its pool is only refused");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_peers_by_objects_with_a_password_from_a_secret_and_announces_to_whom_it_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    install(&lab)?;
    let options = herald_e2e::RouterOptions::t4(lab.nodes()).every_peer(&bird_password());
    lab.router().configure(&options)?;
    let [secret, peer] = peer_with_password();
    lab.apply(&pool("default", &["192.168.10.0/24"]))?;
    lab.apply(&peer)?;
    let only = lab.node(1).name.clone();
    lab.apply(&object("BGPAdvertisement", "v1beta1", "routes", &json!({ "ipAddressPools": ["default"], "peers": ["tor"],
        "nodeSelectors": [{ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [only] }] }],
        "serviceSelectors": [{ "matchLabels": { "app": "web" } }] })))?;
    for node in lab.nodes() {
        lab.kubectl(&[
            "label",
            "node",
            &node.name,
            &format!("kubernetes.io/hostname={}", node.name),
            "--overwrite",
        ])?;
    }
    let _controller = lab.controller("controller", &[])?;
    let _speakers = lab.speakers(&[])?;
    // Without the Secret the peer is refused, and told so by each speaker.
    let state = format!("speaker-{}", lab.node(1).name);
    await_state(&lab, &state, "Invalid", "there is no Secret tor")?;
    lab.apply(&secret)?;
    await_state(&lab, &state, "Valid", "")?;
    let _pod = lab.pod(lab.node(1), "web-1", &herald_e2e::PodOptions::app("web"))?;
    create(
        &lab,
        [
            service("first", json!({ "metadata": { "labels": { "app": "web" } } })),
            service("other", json!({ "metadata": { "labels": { "app": "db" } } })),
        ],
    )?;
    lab.settle()?;
    let address = await_address(&lab, "first")?;
    let other = await_address(&lab, "other")?;
    lab.router().await_route(&format!("{address}/32"), &[lab.node(1).ip.into()], SOON)?;
    let routes = lab.router().routes()?;
    assert!(!routes.contains_key(&format!("{other}/32")), "{routes:?}");
    Ok(())
}
