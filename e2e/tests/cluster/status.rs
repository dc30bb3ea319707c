//! `herald status bgp` and `herald status routes`: what a session and a route are, and what is told of a peer that refuses.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, PodOptions, RouterOptions, await_ok, herald_program};
use serde_json::{Value, json};

use crate::services::{SOON, await_address, create, events, service};

const CONFIG: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/28]}
";

/// What it prints on the node.
pub(crate) fn status(lab: &Lab, of: &str, json: bool) -> Result<String> {
    let program = herald_program()?;
    let program = program.to_str().context("a path in UTF-8")?;
    lab.node(1).ns.exec(&[program, "status", of, "-o", if json { "json" } else { "text" }])
}

#[test]
#[ignore = "needs a network namespace"]
fn a_session_its_routes_and_a_refusal_are_told_with_their_causes() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let node = lab.node(1);
    let speaker = lab.speaker(node, &[])?;
    let _pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let route = format!("{}/32", await_address(&lab, "web")?);
    let answer = await_ok(SOON, "a session with one route", || {
        let answer: Value = serde_json::from_str(&status(&lab, "bgp", true)?)?;
        ensure!(answer["peers"][0]["ipv4Routes"] == 1, "{answer:#}");
        Ok(answer)
    })
    .with_context(|| speaker.log_tail())?;
    let peer = &answer["peers"][0];
    ensure!(peer["state"] == "Established" && peer["peer"] == "10.0.0.1:179", "{answer:#}");
    let text = status(&lab, "bgp", false)?;
    println!("$ herald status bgp\n{text}");
    ensure!(text.contains("1 of 1 sessions up") && text.contains("agreed: AS 100 (external)"), "{text}");
    let text = status(&lab, "routes", false)?;
    println!("$ herald status routes\n{text}");
    ensure!(text.contains(&route) && text.contains("default/web"), "{text}");
    let told = |word: &str| -> Result<String> {
        await_ok(SOON, &format!("the Event {word}"), || {
            let events = events(&lab, "default", &node.name)?;
            let found = events.iter().find(|(reason, _)| reason == word);
            found.map(|(_, note)| note.clone()).with_context(|| format!("{events:?}"))
        })
    };
    ensure!(told("BGPSessionUp")?.contains("10.0.0.1:179"));

    // From now on BIRD expects another AS of the node.
    let mut other = RouterOptions::t4(lab.nodes());
    other.peers.iter_mut().for_each(|peer| peer.asn = 43);
    lab.router().configure(&other)?;
    let text = await_ok(SOON, "a refusal", || {
        let text = status(&lab, "bgp", false)?;
        ensure!(text.contains("0 of 1 sessions up") && text.contains("another AS than 42"), "{text}");
        Ok(text)
    })?;
    println!("$ herald status bgp\n{text}");
    told("BGPSessionDown")?;
    ensure!(told("BGPSessionFailed")?.contains("another AS than 42"));
    Ok(())
}

/// What `herald status` prints to the administrator, outside the nodes.
pub(crate) fn overview(lab: &Lab) -> Result<String> {
    overview_for(lab, &lab.kubeconfig())
}

/// What it prints to somebody else.
fn overview_for(lab: &Lab, kubeconfig: &Path) -> Result<String> {
    let (program, kubeconfig) = (herald_program()?.display().to_string(), kubeconfig.display().to_string());
    lab.control_plane_ns().exec(&[&program, "status", "--kubeconfig", &kubeconfig])
}

#[test]
#[ignore = "needs a network namespace"]
fn the_whole_cluster_is_told_from_outside_with_what_is_wrong_first() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let first = lab.speaker(lab.node(1), &[])?;
    let second = lab.speaker(lab.node(2), &[])?;
    let _pod = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let address = await_address(&lab, "web")?;
    let text = await_ok(SOON, "all to be well", || {
        let text = overview(&lab)?;
        ensure!(
            text.starts_with(
                "nothing is known to be wrong: 1 address of Services, 2 of 2 speakers answer, 2 of 2"
            ),
            "{text}"
        );
        ensure!(text.contains("node1, node2"), "{text}");
        Ok(text)
    })
    .with_context(|| first.log_tail())?;
    println!("$ herald status\n{text}");
    ensure!(text.contains(&address.to_string()), "{text}");

    // Three things at once: no router, no endpoint, no speaker.
    lab.router().stop_bird()?;
    create(&lab, [service("dark", json!({ "spec": { "selector": { "app": "nobody" } } }))])?;
    let dark = await_address(&lab, "dark")?;
    drop(second);
    let text = await_ok(SOON, "all three to be told", || {
        let text = overview(&lab)?;
        for wanted in [
            "node1: the BGP session with 10.0.0.1:179 is not up",
            "herald status bgp --node node1",
            "node2: no word from its speaker",
            &format!("{dark} of default/dark is announced from no node: noEndpoints (node1)"),
            "herald explain service default/dark --node node1",
        ] {
            ensure!(text.contains(wanted), "{wanted}: {text}");
        }
        Ok(text)
    })?;
    println!("$ herald status\n{text}");
    Ok(())
}

/// Somebody whose rights are what a ClusterRole of this name gives.
const VIEWER: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer, namespace: metallb-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: herald-viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: herald-viewer}
subjects: [{kind: ServiceAccount, name: viewer, namespace: metallb-system}]
"#;
/// Too little.
const SOME_RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: herald-viewer}
rules: [{apiGroups: [""], resources: [services, nodes, pods], verbs: [list]}]
"#;
const DOCUMENT: &str = include_str!("../../../docs/explain.md");
/// The speaker as the manifests would have it there.
const SPEAKER_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: herald-speaker-1
  namespace: metallb-system
  labels: {app.kubernetes.io/name: herald, app.kubernetes.io/component: speaker}
spec:
  nodeName: node1
  hostNetwork: true
  containers: [{name: speaker, image: lab.example/herald}]
"#;

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_that_is_a_pod_is_asked_by_the_api_server_and_what_may_not_be_read_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let speaker = lab.speaker(lab.node(1), &[])?;
    lab.apply(SPEAKER_POD)?;
    let status = format!(
        r#"{{"status": {{"phase": "Running", "podIP": "{0}", "podIPs": [{{"ip": "{0}"}}]}}}}"#,
        lab.node(1).ip
    );
    let pod = [
        "-n",
        "metallb-system",
        "patch",
        "pod",
        "herald-speaker-1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    lab.kubectl(&pod)?;
    lab.apply(VIEWER)?;
    lab.apply(SOME_RIGHTS)?;
    let viewer = lab.log_in("viewer")?;
    let text = await_ok(SOON, "four refusals", || {
        let text = overview_for(&lab, &viewer)?;
        for wanted in [
            r#"node1: no word from its speaker: pods "herald-speaker-1:7472" is forbidden"#,
            "kubectl -n metallb-system auth can-i get pods --subresource=proxy",
            "which controller leads is not known: leases.coordination.k8s.io",
            "ipaddresspools.metallb.io are not read",
            "configurationstates.metallb.io are not read",
        ] {
            ensure!(text.contains(wanted), "{wanted}: {text}");
        }
        Ok(text)
    })?;
    println!("$ herald status\n{text}");

    let rights = DOCUMENT.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    lab.apply(rights.context("the document has no ClusterRole")?)?;
    let text = await_ok(SOON, "all to be well", || {
        let text = overview_for(&lab, &viewer)?;
        ensure!(
            text.starts_with("nothing is known to be wrong") && text.contains("1 of 1 speakers answer"),
            "{text}"
        );
        Ok(text)
    })
    .with_context(|| speaker.log_tail())?;
    println!("$ herald status\n{text}");
    // The same rights do for the history, and addresses of both families are asked about in a path.
    let (program, kubeconfig) = (herald_program()?.display().to_string(), viewer.display().to_string());
    for subject in ["192.0.2.1", "2001:db8:1::1", "shop/web"] {
        let command = [&*program, "history", subject, "--kubeconfig", &kubeconfig];
        let text = lab.control_plane_ns().exec(&command)?;
        ensure!(text.contains("no speaker that answers remembers") && !text.contains("! "), "{text}");
    }

    // One node's speaker is asked the same way, and its refusal comes in its own words; the Node's own address leads nowhere.
    let addresses = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.201"}]}}"#;
    lab.kubectl(&["patch", "node", "node1", "--subresource=status", "--type=merge", "-p", addresses])?;
    let one = |arguments: &[&str]| {
        let of = ["--node", "node1", "--kubeconfig", &*kubeconfig];
        lab.control_plane_ns().exec(&[&[&*program], arguments, &of].concat())
    };
    let text = one(&["status", "bgp"])?;
    ensure!(text.starts_with("BGP on node1: "), "{text}");
    let unknown = one(&["explain", "service", "shop/none"]).err().map(|error| format!("{error:#}"));
    ensure!(
        unknown.as_ref().is_some_and(|text| text.contains("node1 knows no Service shop/none")),
        "{unknown:?}"
    );
    let addresses = addresses.replace("10.0.0.201", &lab.node(1).ip.to_string());
    lab.kubectl(&["patch", "node", "node1", "--subresource=status", "--type=merge", "-p", &addresses])?;

    // An address where no speaker is: the question went there, and not to the Node's own.
    lab.kubectl(&pod.map(|word| {
        if word == status {
            r#"{"status": {"podIP": "10.0.0.200", "podIPs": [{"ip": "10.0.0.200"}]}}"#
        } else {
            word
        }
    }))?;
    await_ok(SOON, "silence", || {
        let text = overview_for(&lab, &viewer)?;
        ensure!(text.contains("node1: no word from its speaker"), "{text}");
        Ok(())
    })
}
