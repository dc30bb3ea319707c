//! A node whose kernel passes nothing on: `net.ipv4.ip_forward` is 0, be it for a moment.

use anyhow::{Result, ensure};
use herald_e2e::{Lab, PodOptions, PollOptions, Poller, at};
use serde_json::json;

use super::CONFIG;
use crate::services::{SOON, await_address, create, ip, service};
use crate::status::overview;

#[test]
#[ignore = "needs a network namespace"]
fn a_node_that_passes_nothing_on_announces_nothing_until_it_does_again() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let speakers = lab.speakers(&[])?;
    let pods = lab.nodes().iter().zip(["web-1", "web-2"]);
    let _pods =
        pods.map(|(node, name)| lab.pod(node, name, &PodOptions::app("web"))).collect::<Result<Vec<_>>>()?;
    create(&lab, [service("web", json!({ "spec": { "externalTrafficPolicy": "Local" } }))])?;
    ensure!(await_address(&lab, "web")? == ip("192.0.2.0"));
    let both: Vec<_> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.router().await_route("192.0.2.0/32", &both, SOON)?;

    lab.node(1).ns.sysctl(&[("net/ipv4/ip_forward", "0")])?;
    lab.router().await_route("192.0.2.0/32", &[lab.node(2).ip.into()], SOON)?;
    lab.router().await_kernel_route("192.0.2.0/32", 1, SOON)?;
    let poller = Poller::start(lab.client(), at("192.0.2.0", 80), PollOptions::default())?;
    poller.await_answers(100, SOON)?;
    poller.stop()?.assert_no_loss();
    speakers[0].await_log("this node passes no packets on", SOON)?;
    let overview = overview(&lab)?;
    ensure!(overview.contains("net.ipv4.ip_forward is 0, so it passes nothing on"), "{overview}");

    lab.node(1).ns.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    lab.router().await_route("192.0.2.0/32", &both, SOON)
}
