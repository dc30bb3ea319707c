//! Whether each address answers, seen from nodes that it is not on: by ARP and neighbour discovery, and by way of the router.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, Lab, Node, PodOptions, at, await_ok, herald_program, holds_for};

use crate::order::{SOON, address, config, herald, ready, service};

const PROBES: [&str; 2] = ["--probe-addresses", "200ms"];
const LAYER2: &str = "address-pools:\n\
    - {name: lan, protocol: layer2, addresses: [10.0.0.200-10.0.0.239, '2001:db8:10::200-2001:db8:10::23f']}\n";
/// What goes through the node's forward hook to a pod ends there: the node takes connections and delivers none.
const BREAK: &str = "add table inet broken; \
    add chain inet broken forward { type filter hook forward priority 10; policy accept; }; \
    add rule inet broken forward tcp dport 8080 drop";

fn metrics(node: &Node) -> Result<String> {
    Ok(node.ns.http(at("127.0.0.1", 7472), &HttpOptions::default().path("/metrics"))?.body)
}

/// The probes of an address by a node with this result; `None`: it probes it not.
fn probes(node: &Node, address: IpAddr, result: &str) -> Result<Option<u64>> {
    let series = format!("herald_availability_probes_total{{ip=\"{address}\",result=\"{result}\"}} ");
    let metrics = metrics(node)?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.map(|value| value.parse().context("a number")).transpose()
}

/// The nodes that probe an address.
fn probers(lab: &Lab, address: IpAddr) -> Result<Vec<&Node>> {
    let mut found = Vec::new();
    for node in lab.nodes() {
        if probes(node, address, "answered")?.is_some() {
            found.push(node);
        }
    }
    Ok(found)
}

/// Waits until so many more probes of an address have ended like this, on all nodes together.
fn await_more(lab: &Lab, address: IpAddr, result: &str, more: u64) -> Result<()> {
    let count = || -> Result<u64> {
        lab.nodes().iter().map(|node| Ok(probes(node, address, result)?.unwrap_or_default())).sum()
    };
    let before = count()?;
    await_ok(SOON, &format!("{more} more probes of {address} to be {result}"), || {
        let now = count()?;
        // One that is not the node's any more takes its series along.
        ensure!(now >= before + more, "{before}, and now {now}");
        Ok(())
    })
}

/// Once an address answers, so many more probes of it do, and none fails.
fn all_answered(lab: &Lab, address: IpAddr, more: u64) -> Result<()> {
    let failed = || -> Result<u64> {
        let of = |result| {
            lab.nodes().iter().map(move |node| Ok(probes(node, address, result)?.unwrap_or_default()))
        };
        of("refused").chain(of("unanswered")).sum()
    };
    // The first may have been too early, on a busy machine.
    await_more(lab, address, "answered", 4)?;
    let before = failed()?;
    await_more(lab, address, "answered", more)?;
    let now = failed()?;
    ensure!(now == before, "{} probes of {address} failed", now - before);
    Ok(())
}

/// What `herald status SUBJECT` prints to the administrator.
fn subject(lab: &Lab, subject: &str) -> Result<String> {
    let (program, kubeconfig) = (herald_program()?.display().to_string(), lab.kubeconfig());
    let kubeconfig = kubeconfig.display().to_string();
    lab.control_plane_ns().exec(&[&program, "status", subject, "--kubeconfig", &kubeconfig])
}

/// What `herald status` prints to the administrator.
fn status(lab: &Lab) -> Result<String> {
    let (program, kubeconfig) =
        (herald_program()?.display().to_string(), lab.kubeconfig().display().to_string());
    lab.control_plane_ns().exec(&[&program, "status", "--kubeconfig", &kubeconfig])
}

/// The node that owns an address by layer 2.
fn owner(lab: &Lab, address: IpAddr) -> Result<&Node> {
    await_ok(SOON, &format!("an owner of {address}"), || {
        for node in lab.nodes() {
            let series = format!("protocol=\"layer2\",node=\"{}\",ip=\"{address}\"", node.name);
            if metrics(node)?.contains(&series) {
                return Ok(node);
            }
        }
        anyhow::bail!("nobody says so")
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn by_layer_2_an_address_that_its_owner_does_not_deliver_is_told_from_where_since_when_and_why() -> Result<()>
{
    let lab = Lab::builder().nodes(3).control_plane().start()?;
    for node in lab.nodes() {
        lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
    }
    let (_controller, _speakers) = herald(&lab, LAYER2, &PROBES)?;
    lab.apply(&service("web", "web", "ipFamilyPolicy: RequireDualStack"))?;
    let ips = await_ok(SOON, "two addresses", || {
        let jsonpath = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        let text = lab.kubectl(&["get", "service", "web", "-o", jsonpath])?;
        let ips: Vec<IpAddr> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(ips.len() == 2, "{ips:?}");
        Ok(ips)
    })?;
    for ip in &ips {
        let owner = owner(&lab, *ip)?;
        all_answered(&lab, *ip, 10)?;
        let probers = probers(&lab, *ip)?;
        ensure!(!probers.is_empty() && probers.iter().all(|node| node.index != owner.index), "{probers:?}");
    }
    let well = await_ok(SOON, "all to be well", || {
        let text = status(&lab)?;
        ensure!(
            text.starts_with("all is well") && text.contains("probes of the last hour answered"),
            "{text}"
        );
        Ok(text)
    })?;
    println!("$ herald status\n{well}");

    let (ip, owner) = (ips[0], owner(&lab, ips[0])?);
    owner.ns.exec(&["nft", BREAK])?;
    await_more(&lab, ip, "unanswered", 3)?;
    let wrong = await_ok(SOON, "the finding", || {
        let text = status(&lab)?;
        for wanted in [
            &format!("all probes of {ip} (default/web, port 80) have failed for "),
            ": no answer within a second",
            &format!("herald history {ip}"),
        ] {
            ensure!(text.contains(wanted), "{wanted}: {text}");
        }
        Ok(text)
    })?;
    println!("$ herald status\n{wrong}");
    let line = wrong.lines().find(|line| line.contains("all probes of")).context("a line")?;
    ensure!(!line.contains(&owner.name), "the owner does not probe it: {wrong}");
    owner.ns.exec(&["nft", "delete", "table", "inet", "broken"])?;
    await_more(&lab, ip, "answered", 3)?;
    await_ok(SOON, "all to be well again", || {
        let text = status(&lab)?;
        ensure!(text.starts_with("all is well") && text.contains(" % of "), "{text}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn by_bgp_probes_go_by_way_of_the_router_and_what_it_sends_back_is_tried_again() -> Result<()> {
    let lab = Lab::builder().nodes(3).control_plane().bird().start()?;
    for node in lab.nodes() {
        lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
    }
    let _herald = herald(&lab, &config("192.0.2.0/28"), &PROBES)?;
    lab.apply(&service("web", "web", ""))?;
    let ip = address(&lab, "web")?;
    lab.router().await_kernel_route(&format!("{ip}/32"), 3, SOON)?;
    let ip = IpAddr::from(ip);
    // The router sends one of three back to the node that probes: thirty without a failure are no chance.
    all_answered(&lab, ip, 30)?;
    let probers = probers(&lab, ip)?;
    ensure!(probers.len() == 2, "{probers:?}");
    let services = subject(&lab, "services")?;
    ensure!(services.contains("probes answered") && services.contains("  100 %"), "{services}");

    // One node of three delivers nothing: some probes meet it.
    let broken = probers.first().context("a node")?;
    broken.ns.exec(&["nft", BREAK])?;
    await_more(&lab, ip, "unanswered", 3)?;
    await_more(&lab, ip, "answered", 3)?;
    broken.ns.exec(&["nft", "delete", "table", "inet", "broken"])?;

    // Nobody announces it: the router says so.
    lab.router().stop_bird()?;
    await_more(&lab, ip, "unanswered", 10)?;
    let text = await_ok(SOON, "the finding", || {
        let text = status(&lab)?;
        ensure!(
            text.contains(&format!("all probes of {ip} (default/web, port 80) have failed for ")),
            "{text}"
        );
        Ok(text)
    })?;
    println!("$ herald status\n{text}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn without_the_flag_nothing_is_probed_and_beside_another_proxy_the_flag_is_refused() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().start()?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let (_controller, mut speakers) = herald(&lab, LAYER2, &[])?;
    lab.apply(&service("web", "web", ""))?;
    let ip = IpAddr::from(address(&lab, "web")?);
    let owner = owner(&lab, ip)?;
    let other = lab.nodes().iter().find(|node| node.index != owner.index).context("another node")?;
    let count = "add table inet counted; \
        add chain inet counted begins { type filter hook prerouting priority -200; }; \
        add rule inet counted begins meta l4proto tcp th dport 80 counter";
    owner.ns.exec(&["nft", count])?;
    let counted = || owner.ns.exec(&["nft", "list", "table", "inet", "counted"]);
    holds_for(Duration::from_secs(2), "nothing is probed", || match counted() {
        Ok(text) if text.contains("packets 0") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    for node in lab.nodes() {
        ensure!(!metrics(node)?.contains("herald_availability_"), "{}", metrics(node)?);
        ensure!(!node.ns.exec(&["nft", "list", "ruleset"])?.contains("mark 0x00000048"));
    }
    // The other one is asked to.
    let at_fault = usize::from(other.index) - 1;
    speakers[at_fault].terminate(Duration::from_secs(10))?;
    speakers[at_fault] = lab.speaker(other, &PROBES)?;
    ready(other)?;
    await_ok(SOON, "probes to be counted", || {
        ensure!(!counted()?.contains("packets 0"), "{}", counted()?);
        Ok(())
    })?;
    ensure!(other.ns.exec(&["nft", "list", "ruleset"])?.contains("mark 0x00000048"));

    speakers[at_fault].terminate(Duration::from_secs(10))?;
    let refused = lab.speaker(other, &[&PROBES[..], &["--proxy=external"]].concat())?;
    refused.await_exit(Duration::from_secs(20))?;
    ensure!(refused.log().contains("--probe-addresses needs --proxy=full"), "{}", refused.log_tail());
    Ok(())
}
