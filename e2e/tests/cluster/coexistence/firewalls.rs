//! Firewalls of the node: chains that drop what is forwarded, as ufw and nftables.service have them and as firewalld does, and a
//! reload that begins with `flush ruleset`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herald_e2e::{Lab, Node, PodOptions, await_ok};

use super::{doctor, nobody_answers, through};
use crate::order::{SOON, address, config, herald, ready, service};

/// As /etc/nftables.conf has it, with rules for what is forwarded.
fn of_nftables_service(forward: &str) -> String {
    format!(
        "flush ruleset\n\
         table inet filter {{\n\
         chain input {{ type filter hook input priority filter; policy accept; }}\n\
         chain forward {{ type filter hook forward priority filter; policy drop; {forward} }}\n\
         }}\n"
    )
}

/// As firewalld writes it with its backend nftables: what was translated is let through, and the rest is rejected.
const FIREWALLD: &str = "table inet firewalld {\n\
    chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;\n\
    ct state { established, related } accept\n ct status dnat accept\n iifname \"lo\" accept\n\
    ct state invalid drop\n reject with icmpx admin-prohibited\n }\n}\n";

fn load(node: &Node, rules: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    node.ns.exec(&["nft", "-f", &file.path().display().to_string()]).map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_firewall_that_drops_what_is_forwarded_is_told_and_one_that_flushes_everything_is_survived() -> Result<()>
{
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let node = lab.node(1);
    // On another node, so that packets are forwarded, and pods have something to ask.
    let pod = lab.pod(lab.node(2), "web-1", &PodOptions::app("web"))?;
    let near = lab.pod(node, "near-1", &PodOptions::app("near"))?;
    let (_controller, mut speakers) = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    through(&lab, node, vip)?;
    ensure!(doctor(node, "forward-policy")?.is_empty(), "{:?}", doctor(node, "forward-policy")?);

    // A reload with `flush ruleset`: Herald's tables are back within a second, and what is forwarded is dropped all the same.
    let begin = Instant::now();
    load(node, &of_nftables_service(""))?;
    await_ok(SOON, "Herald's tables", || node.ns.exec(&["nft", "list", "map", "ip", "herald", "services"]))?;
    eprintln!("Herald's tables were back after {:?}", begin.elapsed());
    ensure!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    nobody_answers(&lab, vip)?;
    let told = doctor(node, "forward-policy")?.join("\n");
    ensure!(told.contains("chain inet filter forward drops what is forwarded"), "{told}");
    ensure!(told.contains("let the pods' network pass"), "{told}");
    let speaker = speakers.remove(0);
    speaker.terminate(SOON)?;
    let speaker = lab.speaker(node, &[])?;
    ready(node)?;
    let log = speaker.log();
    let told = |line: &str| line.contains("drops what is forwarded") && line.contains("inet filter forward");
    ensure!(log.lines().any(told), "{log}");

    // As the document says: the pods' network may be forwarded to, and answers come back.
    load(node, &of_nftables_service("ct state established,related accept; ip daddr 10.244.0.0/16 accept;"))?;
    through(&lab, node, vip)?;

    // firewalld lets what was translated through, and nothing else that nobody allowed.
    load(node, &format!("delete table inet filter\n{FIREWALLD}"))?;
    through(&lab, node, vip)?;
    ensure!(near.ns.get(pod.at(8080)).is_err(), "it rejects pods' own packets");
    load(node, "insert rule inet firewalld filter_FORWARD ip saddr 10.244.0.0/16 accept\n")?;
    ensure!(near.ns.get(pod.at(8080)).is_ok(), "a trusted zone");
    ensure!(doctor(node, "forward-policy")?.is_empty(), "its policy is accept");
    Ok(())
}
