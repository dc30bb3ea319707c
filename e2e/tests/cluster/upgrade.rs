//! An upgrade as the DaemonSet rolls it out: every speaker is stopped and started again, one after the other, while 500 new
//! connections a second come in by every way that leads to a Service.

pub(crate) mod route_changes;
mod tables;
mod without_graceful_restart;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, Lab, Node, PodOptions, PollOptions, Poller, at, await_ok};
use serde_json::{Value, json};

use crate::objects::{install, object, pool};
use crate::order::ready;
use crate::services::{SOON, all, await_address, create, service};

/// For each of three clients.
const LOAD: PollOptions =
    PollOptions { interval: Duration::from_millis(6), timeout: Duration::from_millis(1000) };

fn of_pool(name: &str, pool: &str) -> Value {
    service(name, json!({ "metadata": { "annotations": { "metallb.io/address-pool": pool } } }))
}

/// What layer 2 knows of a Service's address on a node: who owns it.
fn owner(node: &Node, service: &str) -> Result<String> {
    let path = format!("/explain/service/default/{service}");
    let answer = node.ns.http(at("127.0.0.1", 7472), &HttpOptions::default().path(&path))?;
    let json: Value = serde_json::from_str(&answer.body)?;
    let owner = json["announcements"][0]["layer2"][0]["owner"].as_str();
    Ok(owner
        .with_context(|| format!("{} knows of no owner: {}", node.name, json["announcements"]))?
        .to_owned())
}

#[test]
#[ignore = "needs a network namespace"]
fn replacing_every_speaker_fails_no_connection_by_bgp_layer_2_or_cluster_ip() -> Result<()> {
    let lab = Lab::builder().nodes(3).control_plane().bird().start()?;
    install(&lab)?;
    lab.apply(&pool("routed", &["192.0.2.0/28"]))?;
    lab.apply(&pool("lan", &["10.0.0.200-10.0.0.239"]))?;
    let peer =
        json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1", "enableGracefulRestart": true });
    lab.apply(&object("BGPPeer", "v1beta2", "router", &peer))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", "router", &json!({ "ipAddressPools": ["routed"] })))?;
    lab.apply(&object("L2Advertisement", "v1beta1", "lan", &json!({ "ipAddressPools": ["lan"] })))?;
    let _controller = lab.controller("controller", &[])?;
    let mut speakers = lab.speakers(&[])?;
    let pods = lab.nodes().iter().zip(["web-1", "web-2", "web-3"]);
    let _pods =
        pods.map(|(node, name)| lab.pod(node, name, &PodOptions::app("web"))).collect::<Result<Vec<_>>>()?;
    create(&lab, [of_pool("routed", "routed"), of_pool("lan", "lan")])?;
    let (routed, lan) = (await_address(&lab, "routed")?, await_address(&lab, "lan")?);
    let spec = all(&lab)?.remove("routed").and_then(|service| service.spec);
    let cluster_ip = spec.and_then(|spec| spec.cluster_ip).context("a ClusterIP")?;
    lab.router().await_kernel_route(&format!("{routed}/32"), 3, SOON)?;
    await_ok(SOON, "an owner", || owner(lab.node(1), "lan"))?;

    let ways = [
        ("BGP", lab.client(), (routed, 80).into()),
        ("layer 2", &lab.router().ns, (lan, 80).into()),
        ("ClusterIP", &lab.node(2).ns, at(&cluster_ip, 80)),
    ];
    let mut held = lab.client().connect((routed, 80).into(), SOON)?;
    held.ask()?;
    let start = |(way, from, to)| Ok((way, Poller::start(from, to, LOAD)?));
    let pollers = ways.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut owners = Vec::new();
    for (node, speaker) in lab.nodes().iter().zip(&mut speakers) {
        owners.push(owner(node, "lan")?);
        for (_, poller) in &pollers {
            poller.await_answers(100, SOON)?;
        }
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
        *speaker = lab.speaker(node, &[])?;
        ready(node)?;
        lab.router().await_kernel_route(&format!("{routed}/32"), 3, SOON)?;
        await_ok(SOON, "it to take part in layer 2", || owner(node, "lan"))?;
    }
    held.ask().context("held over the upgrade, by BGP")?;
    eprintln!("owners of {lan} before each step: {owners:?}");
    for (way, poller) in pollers {
        poller.await_answers(100, SOON)?;
        let report = poller.stop()?;
        ensure!(report.failures.is_empty(), "by {way}: {}", report.explain());
    }
    Ok(())
}
