//! `herald doctor`: on a real API server with and without Herald's manifests, and on a node whose settings are wrong.

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Namespace, PodOptions, at, await_ok, herald_program};
use serde_json::{Value, json};

use crate::objects::install;
use crate::services::{SOON, await_address, create, service};

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");

/// The exit code and the checks that found something, with what was seen.
fn doctor(ns: &Namespace, arguments: &str) -> Result<(i64, Vec<(String, String)>)> {
    let program = herald_program()?.display().to_string();
    let script = format!("{program} doctor {arguments} -o json; echo $?");
    let text = ns.exec(&["sh", "-c", &script])?;
    let (json, code) = text.trim_end().rsplit_once('\n').context("no exit code")?;
    let report: Value = serde_json::from_str(json).with_context(|| text.clone())?;
    let mut found = Vec::new();
    for check in report["checks"].as_array().context("checks")? {
        let id = check["id"].as_str().unwrap_or_default();
        let troubles = check["troubles"].as_array().into_iter().flatten();
        found.extend(troubles.map(|trouble| (id.to_owned(), trouble["seen"].to_string())));
        found.extend(check["why"].as_str().map(|why| (id.to_owned(), format!("unknown: {why}"))));
    }
    Ok((code.parse()?, found))
}

fn ids(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(id, _)| id.as_str()).collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn the_cluster_is_judged_before_herald_is_installed_and_after() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().start()?;
    let kubeconfig = lab.kubeconfig().display().to_string();
    let doctor = || doctor(lab.control_plane_ns(), &format!("cluster --kubeconfig {kubeconfig}"));
    let (code, found) = doctor()?;
    ensure!(code == 1, "{code}: {found:#?}");
    for id in ["controllers", "speakers", "leader", "definitions", "configuration"] {
        ensure!(ids(&found).contains(&id), "{id}: {found:#?}");
    }
    ensure!(!found.iter().any(|(_, text)| text.contains("unknown")), "an administrator may look: {found:#?}");

    install(&lab)?;
    lab.kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-k",
        &format!("{MANIFESTS}/overlays/layer2"),
    ])?;
    lab.kubectl(&["apply", "--server-side", "-f", &format!("{MANIFESTS}/samples/layer2.yaml")])?;
    // No kubelet runs the pods here: what is left is that, the key and the address of the API server.
    let found = await_ok(SOON, "what is left", || {
        let (_, found) = doctor()?;
        ensure!(
            ids(&found) == ["controllers", "leader", "speakers", "hello-key", "api-server"],
            "{found:#?}"
        );
        Ok(found)
    })?;
    println!("{found:#?}");

    // What an operator may do by mistake at night.
    lab.kubectl(&["delete", "clusterrole", "herald-speaker"])?;
    let address = lab.node(2).ip.to_string();
    let range = format!(r#"[{{"op": "add", "path": "/spec/addresses/-", "value": "{address}/32"}}]"#);
    let pools = lab.kubectl(&["-n", "metallb-system", "get", "ipaddresspools", "-o", "name"])?;
    let pool = pools.lines().next().context("the sample has a pool")?;
    lab.kubectl(&["-n", "metallb-system", "patch", pool, "--type=json", "-p", &range])?;
    let (code, found) = doctor()?;
    ensure!(code == 1);
    let told = |id: &str, word: &str| found.iter().any(|(at, text)| at == id && text.contains(word));
    ensure!(told("rights", "herald-speaker: list services") && told("pool-nodes", &address), "{found:#?}");

    // And nobody there to be asked.
    let nobody = lab.control_plane_ns().exec(&[
        "sh",
        "-c",
        &format!("{} doctor cluster --kubeconfig /nonexistent 2>&1; echo $?", herald_program()?.display()),
    ])?;
    ensure!(nobody.contains("herald doctor: ") && nobody.ends_with("2\n"), "{nobody}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_nodes_settings_and_neighbours_are_judged_on_it() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().start()?;
    lab.configure_herald("address-pools: [{name: edge, protocol: layer2, addresses: [10.0.0.240/28]}]\n")?;
    let node = lab.node(1);
    let _speakers = lab.speakers(&[])?;
    let doctor = || doctor(&node.ns, "node");
    // The other node's speaker is on the same machine as well, and so are other labs' processes, of which only some are asked for.
    let of_settings = |found: &[(String, String)]| -> Vec<String> {
        let ids = [
            "second-speaker",
            "ipv4-forwarding",
            "conntrack-liberal",
            "admin-port",
            "hello-port",
            "bgp-port",
            "local-ports",
            "kernel",
        ];
        found.iter().map(|(id, _)| id.clone()).filter(|id| ids.contains(&id.as_str())).collect()
    };
    await_ok(SOON, "a node that is fit", || {
        let (_, found) = doctor()?;
        ensure!(of_settings(&found).is_empty(), "{found:#?}");
        Ok(())
    })?;
    node.ns.sysctl(&[("net/ipv4/ip_forward", "0"), ("net/ipv4/ip_local_port_range", "1024 65535")])?;
    let listener = node.ns.run(|| std::net::TcpListener::bind(("127.0.0.1", 179)))??;
    let (code, found) = doctor()?;
    ensure!(code == 1 && of_settings(&found) == ["ipv4-forwarding", "local-ports", "bgp-port"], "{found:#?}");
    drop(listener);
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_rule_that_drops_an_endpoints_packets_is_named_with_its_handle_and_the_node_with_its_name() -> Result<()>
{
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let (_controller, _speakers) = crate::order::herald(&lab, &crate::order::config("192.0.2.0/28"), &[])?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let address = await_address(&lab, "web")?;
    await_ok(SOON, "the Service", || lab.client().get(at(&address.to_string(), 80)))?;
    let drops = || -> Result<Vec<String>> {
        let (_, found) = doctor(&node.ns, "node")?;
        Ok(found.into_iter().filter(|(id, _)| id == "drop-rules").map(|(_, seen)| seen).collect())
    };
    ensure!(drops()?.is_empty(), "{:?}", drops()?);
    let pod = pod.ip;
    node.ns.exec(&[
        "nft",
        &format!(
            "add table inet hardening; add chain inet hardening forward {{ type filter hook forward priority 0; }}; \
             add rule inet hardening forward ct state invalid drop; \
             add rule inet hardening forward iifname eth0 ip daddr {pod} tcp dport 8080 drop"
        ),
    ])?;
    let listed = node.ns.exec(&["nft", "-a", "list", "chain", "inet", "hardening", "forward"])?;
    let handle = listed.lines().find(|line| line.contains("daddr")).and_then(|line| line.rsplit(' ').next());
    let handle = handle.context("a handle")?;
    let found = drops()?;
    let words = format!(
        "inet hardening forward (handle {handle}, hook forward) drops packets of what is served: {pod}"
    );
    ensure!(matches!(found.as_slice(), [seen] if seen.contains(&words)), "{found:?}");
    ensure!(lab.client().get(at(&address.to_string(), 80)).is_err(), "and so it does");

    let text = |arguments: &str| {
        let program = herald_program()?.display().to_string();
        node.ns.exec(&["sh", "-c", &format!("{program} doctor node {arguments}; true")])
    };
    ensure!(text("--node-name=node1")?.starts_with("node node1: "), "{}", text("--node-name=node1")?);
    Ok(())
}
