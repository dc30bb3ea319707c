//! Another BGP speaker on the node, as Calico's BIRD is one: at port 179, and with a session of its own to the same router.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{BirdPeer, Lab, Node, PodOptions, Process, RouterOptions, await_ok, bird_program};

use super::{doctor, herald, through};
use crate::order::{SOON, address, ready, service};

/// A second address of the node on the segment.
const SECOND: &str = "10.0.0.111";

/// Starts a BIRD on a node that listens on port 179, and perhaps dials the router from the node's own address.
fn bird(lab: &Lab, node: &Node, dials: bool) -> Result<Process> {
    let neighbour = if dials { "10.0.0.1 as 100" } else { "10.0.0.99 as 100; passive on" };
    let config = format!(
        "log stderr all;\nrouter id {ip};\nprotocol device {{}}\n\
         protocol bgp calico {{ local {ip} as 42; neighbor {neighbour}; connect delay time 1; ipv4 {{ import none; export none; }}; }}\n",
        ip = node.ip
    );
    let file = lab.directory().join("other-bird.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new(bird_program());
    command.arg("-f").arg("-c").arg(file).arg("-s").arg(lab.directory().join("other-bird.sock"));
    let process = lab.start_process(&node.ns, "other-bird", command)?;
    await_ok(SOON, "somebody at port 179", || {
        let sockets = node.ns.exec(&["ss", "-ltn"])?;
        ensure!(sockets.contains(":179 "), "{sockets}");
        Ok(())
    })?;
    Ok(process)
}

/// Waits until `herald status bgp` says all of this.
fn says(node: &Node, words: &[&str]) -> Result<()> {
    await_ok(SOON, "words about the session", || {
        let told = herald(node, "status bgp")?;
        // A screen breaks lines.
        let flat = told.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(words.iter().all(|words| flat.contains(words)), "{told}");
        Ok(())
    })
}

/// One peer, with more of its settings, and more of the document.
fn configure(lab: &Lab, peer: &str, more: &str) -> Result<()> {
    lab.configure_herald(&format!(
        "peers:\n- {{my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1{peer}}}\n\
         address-pools:\n- {{name: default, protocol: bgp, addresses: [192.0.2.0/24]}}\n{more}"
    ))
}

#[test]
#[ignore = "needs a network namespace"]
fn a_port_179_that_is_anothers_is_no_hindrance_and_a_router_that_is_anothers_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    configure(&lab, "", "")?;
    let _controller = lab.controller("controller", &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = (address(&lab, "web")?, 80).into();
    let prefix = format!("{}/32", address(&lab, "web")?);

    // Another has the port, and no session with this router: Herald dials.
    let other = bird(&lab, node, false)?;
    let speaker = lab.speaker(node, &[])?;
    ready(node)?;
    lab.router().await_route(&prefix, &[node.ip.into()], SOON)?;
    through(&lab, node, vip)?;
    let told = doctor(node, "bgp-port")?.join("\n");
    ensure!(told.contains("bird listens at port 179") && told.contains("from another address"), "{told}");
    // If the router is to dial, the port is missing.
    configure(&lab, "", "herald: {bgp-peers: {'*': {connect: accept}}}\n")?;
    says(node, &["another BGP daemon of this node has the port", "connect: dial"])?;
    configure(&lab, "", "")?;
    ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
    other.terminate(SOON)?;

    // Another has the session: the router takes no second one from the same address, which is told.
    let _other = bird(&lab, node, true)?;
    lab.router().await_session(&node.name, SOON)?;
    let _speaker = lab.speaker(node, &[])?;
    says(
        node,
        &["0 of 1 sessions up", "a session with another BGP speaker at it", "a sourceAddress of its own"],
    )?;
    ensure!(lab.router().next_hops(&prefix)?.is_empty(), "the router has taken it");

    // From another address of the node there is room for both.
    let mut options = RouterOptions::t4(lab.nodes());
    let second = SECOND.parse().context("an address")?;
    options.peers.push(BirdPeer {
        name: "second".to_owned(),
        address: second,
        asn: 42,
        passive: true,
        extra: Vec::new(),
    });
    lab.router().configure(&options)?;
    node.ns.ip(&[format!("addr add {SECOND}/24 dev eth0")])?;
    configure(&lab, &format!(", source-address: {SECOND}"), "")?;
    lab.router().await_session("second", SOON)?;
    lab.router().await_session(&node.name, SOON)?;
    lab.router().await_route(&prefix, &[second], SOON)?;
    through(&lab, node, vip)
}
