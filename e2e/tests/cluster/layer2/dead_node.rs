//! Endpoints on a node that has died, and on one of which only the speaker has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, PodOptions, Signal, at, await_ok};

use super::{Layer2, outage};
use crate::order::{SOON, ready};

/// From a node's end to the last connection to one of its endpoints.
const PASSED_OVER: Duration = Duration::from_millis(800);
/// Long enough for every verdict about a silent speaker.
const VERDICT: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs a network namespace"]
fn endpoints_of_a_node_that_dies_get_no_new_connections_and_those_of_a_killed_speaker_do() -> Result<()> {
    let mut layer2 = Layer2::start()?;
    for index in [1, 2] {
        let node = layer2.lab.node(index);
        layer2.lab.pod(node, &format!("web-on-{}", node.name), &PodOptions::app("web"))?;
    }
    let [vip, _] = layer2.service("web")?;
    layer2.owner(vip.ip(), None)?;
    let answering = |layer2: &Layer2, count: usize| {
        await_ok(SOON, &format!("{count} endpoints that answer"), || {
            let mut seen = BTreeSet::new();
            for _ in 0..20 {
                seen.insert(layer2.lab.router().ns.get(vip)?.pod);
            }
            ensure!(seen.len() == count, "{seen:?}");
            Ok(())
        })
    };
    answering(&layer2, 3)?;

    // A speaker that is killed takes no endpoint with it: its node answers.
    layer2.speakers[2].kill();
    let silent = "herald_layer2_peers{interface=\"eth0\"} 1";
    let metrics = |layer2: &Layer2, index: u8| -> Result<String> {
        let path = HttpOptions::default().path("/metrics");
        Ok(layer2.lab.node(index).ns.http(at("127.0.0.1", 7472), &path)?.body)
    };
    await_ok(SOON, "its silence to be heard", || {
        ensure!(metrics(&layer2, 1)?.contains(silent), "not yet");
        Ok(())
    })?;
    herald_e2e::holds_for(VERDICT, "a node that answers is no dead one", || {
        let metrics = metrics(&layer2, 1).map_err(|error| format!("{error:#}"))?;
        if metrics.contains("herald_suspect_nodes 0") { Ok(()) } else { Err("it is suspect".to_owned()) }
    })?;
    answering(&layer2, 3)?;
    layer2.speakers[2] = layer2.lab.speaker(layer2.lab.node(3), &[])?;
    ready(layer2.lab.node(3))?;
    await_ok(SOON, "it to be heard again", || {
        ensure!(!metrics(&layer2, 1)?.contains(silent), "not yet");
        Ok(())
    })?;

    // The whole node.
    let poller = layer2.poll(vip)?;
    let pod = layer2.lab.existing_pod("default", "web-1").context("the pod on node 3")?;
    let gone = Instant::now();
    layer2.speakers[2].signal(Signal::SIGSTOP);
    pod.freeze();
    layer2.lab.cut_node(layer2.lab.node(3))?;
    poller.await_answers(300, SOON)?;
    let report = poller.stop()?;
    let outage = outage(&report, gone);
    eprintln!("the last connection to a dead node's endpoint began {outage:?} after its death");
    ensure!(!report.failures.is_empty() && outage < PASSED_OVER, "{}", report.explain());
    let explain = HttpOptions::default().path("/explain/service/default/web");
    let explained = layer2.lab.node(1).ns.http(at("127.0.0.1", 7472), &explain)?.body;
    ensure!(explained.contains("NodeSilent"), "{explained}");
    // What nobody answered there would catch every new connection from its port for two minutes.
    let owner = layer2.owner(vip.ip(), None)?;
    await_ok(SOON, "connections that the dead node's endpoint never answered to be forgotten", || {
        let entries = owner.ns.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))??;
        let dead = format!("src={} ", pod.ip);
        let unanswered: Vec<_> =
            entries.lines().filter(|entry| entry.contains("SYN_SENT") && entry.contains(&dead)).collect();
        ensure!(unanswered.is_empty(), "{unanswered:#?}");
        Ok(())
    })?;
    for reason in ["NodeSilent", "NodeHeard"] {
        if reason == "NodeHeard" {
            layer2.lab.heal_node(layer2.lab.node(3))?;
            pod.thaw();
            layer2.speakers[2].thaw();
            answering(&layer2, 3)?;
        }
        await_ok(SOON, &format!("the Event {reason}"), || {
            let events = layer2.lab.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
            ensure!(events.contains(reason), "{events}");
            Ok(())
        })?;
    }
    Ok(())
}
