//! Speakers of two releases on one segment: what a newer one says more is skipped, and what cannot be read at all is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, Lab, Node, PollOptions, Poller, at, await_ok};

use super::translator::{OURS, Translator};
use super::{Layer2, await_next};
use crate::order::{SOON, ready};

/// 500 new connections a second.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };

/// How many hellos a node has refused for their version, and for all reasons.
fn refused(node: &Node) -> Result<[f64; 2]> {
    let metrics = node.ns.http(at("127.0.0.1", 7472), &HttpOptions::default().path("/metrics"))?.body;
    let series = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("herald_layer2_hellos_refused_total{reason=\"")?;
        let (reason, value) = rest.split_once("\"} ")?;
        Some((reason, value.parse::<f64>().ok()?))
    });
    let mut found = [0.0, 0.0];
    for (reason, value) in series {
        found[0] += if reason == "otherVersion" { value } else { 0.0 };
        found[1] += value;
    }
    Ok(found)
}

fn events(lab: &Lab, node: &str) -> Result<String> {
    let of = format!("involvedObject.kind=Node,involvedObject.name={node},reason=HellosOfOtherVersion");
    lab.kubectl(&["get", "events", "-A", "--field-selector", &of, "-o", "jsonpath={.items[*].message}"])
}

#[test]
#[ignore = "needs a network namespace"]
fn a_newer_speaker_shares_the_segment_under_load_and_one_of_another_version_is_told_by_name() -> Result<()> {
    let mut translator = None;
    let mut layer2 = Layer2::start_after(|lab| {
        translator = Some(Translator::start(lab, lab.node(2))?);
        Ok(())
    })?;
    let translator = translator.context("the translator")?;
    let [vip, _] = layer2.service("web")?;
    let (one, two) = (layer2.lab.node(1).clone(), layer2.lab.node(2).clone());

    // Node 2 is of a release that says more. Each owner is replaced by the other one, twice.
    layer2.owner(vip.ip(), None)?;
    let poller = Poller::start(&layer2.lab.router().ns, vip, LOAD)?;
    let mut owners = Vec::new();
    for _ in 0..2 {
        let owner = layer2.owner(vip.ip(), None)?.clone();
        await_next(if owner.index == 1 { &two } else { &one }, vip.ip())?;
        let mut held = layer2.hold(vip)?;
        poller.await_answers(200, SOON)?;
        let speaker = layer2.speakers.get_mut(usize::from(owner.index) - 1).context("its speaker")?;
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
        layer2.owner(vip.ip(), Some(&owner))?;
        poller.await_answers(200, SOON)?;
        held.ask().context("held over the stop")?;
        let restarted = layer2.lab.speaker(&owner, &[])?;
        layer2.speakers[usize::from(owner.index) - 1] = restarted;
        ready(&owner)?;
        await_next(&owner, vip.ip())?;
        owners.push(owner.name);
    }
    let report = poller.stop()?;
    eprintln!("owners that were replaced: {owners:?}; {}", report.explain());
    report.assert_no_loss();
    ensure!(owners[0] != owners[1], "{owners:?}");
    ensure!(translator.translated()?.iter().all(|count| *count > 20), "{:?}", translator.translated()?);
    for node in [&one, &two] {
        ensure!(refused(node)? == [0.0, 0.0], "{} has refused hellos: {:?}", node.name, refused(node)?);
    }

    // The next release cannot be read. Each says of the other what there is to do, once.
    translator.set_version(OURS + 1);
    for (node, other) in [(&one, &two), (&two, &one)] {
        await_ok(SOON, &format!("{} to be told", other.name), || {
            let told = events(&layer2.lab, &other.name)?;
            let words = [
                &format!("as node {} sees it", node.name),
                &format!("hellos from node {} are of version 2", other.name),
                "this speaker knows version 1 alone",
                "this one is the older one: bring all speakers to one release",
            ];
            let missing: Vec<_> = words.iter().filter(|words| !told.contains(**words)).collect();
            ensure!(missing.is_empty(), "{missing:?} in {told:?}");
            ensure!(refused(node)?[0] > 1.0, "{:?}", refused(node)?);
            Ok(())
        })?;
        let log = layer2.speakers[usize::from(node.index) - 1].log();
        let lines = log.lines().filter(|line| line.contains("are of version 2"));
        let of_other = lines.filter(|line| line.contains(&format!("from node {}", other.name))).count();
        ensure!(of_other == 1, "{} says it {of_other} times: {log}", node.name);
    }

    // All are of one release again: one owner, whom both know.
    translator.set_version(OURS);
    let owner = layer2.owner(vip.ip(), None)?.clone();
    await_next(if owner.index == 1 { &two } else { &one }, vip.ip())?;
    layer2.forget(vip)?;
    await_ok(SOON, "the Service", || layer2.lab.router().ns.get(vip).map(drop))
}
