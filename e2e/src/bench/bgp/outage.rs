//! What clients see: a node of three dies, a speaker is restarted with graceful restart, a node is drained.
//!
//! The client is behind the router, which spreads connections over the three nodes; each node has an endpoint of its own
//! (`externalTrafficPolicy: Local`), so that a node that is gone can be missed by the router alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::await_until::await_ok;
use crate::bench::proxy::table::{Table, percentile};
use crate::client::HttpOptions;
use crate::herald::{NAMESPACE, program};
use crate::lab::Lab;
use crate::pod::PodOptions;
use crate::poller::{PollOptions, PollReport, Poller};
use crate::process::Process;
use crate::router::RouterOptions;

/// For what takes seconds where all is well.
const SOON: Duration = Duration::from_secs(60);
/// How often a node dies.
const DEATHS: usize = 5;
/// Intervals of BFD in milliseconds.
const BFD: u32 = 50;
/// The last connection that fails begins so many milliseconds after the death.
const BAR: f64 = 200.0;
const VIP: [u8; 4] = [192, 0, 2, 1];
const ROUTE: &str = "192.0.2.1/32";
/// What excludes a node.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn object(kind: &str, version: &str, spec: &Value) -> String {
    json!({ "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": "bench", "namespace": NAMESPACE }, "spec": spec })
    .to_string()
}

/// The peer of all nodes: with BFD, or with graceful restart.
fn peer(lab: &Lab, with: &Value) -> Result<()> {
    let mut spec = json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1" });
    if let (Some(spec), Some(with)) = (spec.as_object_mut(), with.as_object()) {
        spec.extend(with.clone());
    }
    lab.apply(&object("BGPPeer", "v1beta2", &spec)).map(drop)
}

/// Both rows, as far as they are wanted.
pub fn measure(lab: &Lab, rows: &dyn Fn(&str) -> bool, table: &mut Table) -> Result<()> {
    let definitions = std::process::Command::new(program()?).arg("crds").output()?;
    let definitions = String::from_utf8(definitions.stdout)?;
    lab.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &definitions)?;
    lab.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"])?;
    lab.apply(
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }).to_string(),
    )?;
    lab.apply(&object("IPAddressPool", "v1beta1", &json!({ "addresses": ["192.0.2.1/32"] })))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", &json!({ "ipAddressPools": ["bench"] })))?;
    let timers = json!({ "transmitInterval": BFD, "receiveInterval": BFD, "detectMultiplier": 3 });
    lab.apply(&object("BFDProfile", "v1beta1", &timers))?;
    peer(lab, &json!({ "bfdProfile": "bench" }))?;
    let pods: Result<Vec<_>> = lab
        .nodes()
        .iter()
        .map(|node| lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web")))
        .collect();
    let _pods = pods?;
    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  \
         externalTrafficPolicy: Local\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n",
    )?;
    let _controller = lab.controller("controller", &[])?;
    let mut speakers = lab.speakers(&["--drain=2s"])?;
    let logs = |speakers: &[Process]| speakers.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n");
    if rows("death") {
        deaths(lab, table).with_context(|| logs(&speakers))?;
    }
    if rows("restart") {
        restart(lab, &mut speakers, table).with_context(|| logs(&speakers))?;
    }
    if rows("drain") {
        drain(lab, &mut speakers, table).with_context(|| logs(&speakers))?;
    }
    Ok(())
}

/// Waits until so many nodes attract, by the router's kernel, and the address answers.
fn await_nodes(lab: &Lab, nodes: usize) -> Result<()> {
    lab.router().await_kernel_route(ROUTE, nodes, SOON)?;
    await_ok(SOON, "the address to answer", || {
        lab.client()
            .http((VIP, 80).into(), &HttpOptions::default())
            .map(drop)
            .map_err(|error| format!("{error:?}"))
    })
}

fn load(every: u64, timeout: u64) -> PollOptions {
    PollOptions { interval: Duration::from_millis(every), timeout: Duration::from_millis(timeout) }
}

/// Takes the power of one node of three, as others see it.
fn deaths(lab: &Lab, table: &mut Table) -> Result<()> {
    let router = lab.router();
    router.configure(&RouterOptions::t4(lab.nodes()).with_bfd(BFD))?;
    let (mut last, mut count) = (Vec::new(), 0);
    for n in 0..DEATHS {
        let node = &lab.nodes()[n % lab.nodes().len()];
        await_nodes(lab, lab.nodes().len())?;
        await_ok(SOON, "BFD of all nodes at its interval", || {
            let sessions = router.birdc("show bfd sessions")?;
            let up = sessions.lines().filter(|line| line.contains("Up") && line.contains("0.050")).count();
            anyhow::ensure!(up == lab.nodes().len(), "{sessions}");
            Ok(())
        })?;
        let poller = Poller::start(lab.client(), (VIP, 80).into(), load(5, 500))?;
        poller.await_answers(100, SOON)?;
        let death = Instant::now();
        lab.cut_node(node)?;
        router.await_kernel_route(ROUTE, lab.nodes().len() - 1, SOON)?;
        poller.await_answers(200, SOON)?;
        let report = poller.stop()?;
        lab.heal_node(node)?;
        let latest = report.failures.iter().map(|failure| failure.at).max();
        last.push(latest.map_or(0.0, |at| at.saturating_duration_since(death).as_secs_f64() * 1000.0));
        count += report.failures.len();
    }
    await_nodes(lab, lab.nodes().len())?;
    let mut row = table.row("death", None);
    row.put("herald", "a node of three dies: last failed after, median of 5", percentile(&last, 50.0), "ms");
    row.bar("a node of three dies: last failed after, worst of 5", percentile(&last, 100.0), "ms", BAR);
    row.put("herald", "a node of three dies: failed connections, each", count as f64 / DEATHS as f64, "");
    Ok(())
}

/// Restarts every speaker, one after the other, under 500 connections a second.
fn restart(lab: &Lab, speakers: &mut [Process], table: &mut Table) -> Result<()> {
    let router = lab.router();
    router.configure(&RouterOptions::t4(lab.nodes()))?;
    // Whether a peer keeps routes cannot be changed, so it is another object.
    lab.delete("metallb.io/v1beta2/BGPPeer", NAMESPACE, "bench")?;
    peer(lab, &json!({ "enableGracefulRestart": true }))?;
    for node in lab.nodes() {
        await_ok(SOON, "sessions with graceful restart", || {
            let shown = router.birdc(&format!("show protocols all {}", node.name))?;
            anyhow::ensure!(shown.contains("Established") && shown.contains("Restart time"), "{shown}");
            Ok(())
        })?;
    }
    await_nodes(lab, lab.nodes().len())?;
    let poller = Poller::start(lab.client(), (VIP, 80).into(), load(2, 950))?;
    poller.await_answers(200, SOON)?;
    for (speaker, node) in speakers.iter_mut().zip(lab.nodes()) {
        let before = router.log().matches(&established(&node.name)).count();
        speaker.terminate(SOON)?;
        // Without a speaker for a while, too.
        poller.await_answers(500, SOON)?;
        *speaker = lab.speaker(node, &["--drain=2s"])?;
        await_ok(SOON, "the next session", || {
            let now = router.log().matches(&established(&node.name)).count();
            anyhow::ensure!(now > before, "{now} sessions");
            Ok(())
        })?;
        poller.await_answers(500, SOON)?;
    }
    let report = poller.stop()?;
    failed(table, "restart", "3 speakers restarted with graceful restart, 500/s: failed", &report);
    Ok(())
}

fn established(node: &str) -> String {
    format!("{node}: BGP session established")
}

/// Excludes a node, stops its speaker when its route is gone, and lets both come back.
fn drain(lab: &Lab, speakers: &mut [Process], table: &mut Table) -> Result<()> {
    lab.delete("metallb.io/v1beta2/BGPPeer", NAMESPACE, "bench")?;
    peer(lab, &json!({}))?;
    lab.router().configure(&RouterOptions::t4(lab.nodes()))?;
    await_nodes(lab, lab.nodes().len())?;
    let poller = Poller::start(lab.client(), (VIP, 80).into(), load(2, 950))?;
    poller.await_answers(200, SOON)?;
    let node = lab.node(1);
    lab.kubectl(&["label", "node", &node.name, &format!("{EXCLUDE}=")])?;
    lab.router().await_kernel_route(ROUTE, lab.nodes().len() - 1, SOON)?;
    if let Some(speaker) = speakers.first_mut() {
        speaker.terminate(SOON)?;
        poller.await_answers(500, SOON)?;
        *speaker = lab.speaker(node, &["--drain=2s"])?;
    }
    lab.kubectl(&["label", "node", &node.name, &format!("{EXCLUDE}-")])?;
    await_nodes(lab, lab.nodes().len())?;
    poller.await_answers(500, SOON)?;
    failed(table, "drain", "a node drained, its speaker restarted, 500/s: failed", &poller.stop()?);
    Ok(())
}

fn failed(table: &mut Table, row: &'static str, what: &str, report: &PollReport) {
    if !report.failures.is_empty() {
        eprintln!("{what}: {}", report.explain());
    }
    table.row(row, None).bar(what, report.failures.len() as f64, "", 0.0);
}
