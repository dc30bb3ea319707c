//! A node with endpoints loses power: connections to a Service that has others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::beat::Client;
use super::system::{Kind, PATIENCE, SERVICE, System};
use crate::await_until::await_ok;
use crate::bench::proxy::table::{Table, percentile};
use crate::pod::PodOptions;

/// The node that goes; it owns nothing.
const GOES: u8 = 3;
/// Connections that are made after it has gone: some three seconds.
const AFTER: usize = 400;
/// Failures later than this before the end of the run: there was no end to be seen.
const QUIET: Duration = Duration::from_secs(1);
const BAR: f64 = 800.0;

/// Lets the node go so many times.
pub fn measure(system: &mut System, times: usize, table: &mut Table) -> Result<()> {
    for index in [1, 2] {
        let node = system.lab.node(index);
        system.lab.pod(node, &format!("web-on-{}", node.name), &PodOptions::app(SERVICE))?;
    }
    let mut samples = Vec::new();
    for _ in 0..times {
        await_all(system)?;
        system.await_heard()?;
        let beat = Client::Asking.start(&system.lab.router().ns, system.vip)?;
        beat.await_good(20, PATIENCE)?;
        let gone = Instant::now();
        system.freeze(GOES)?;
        pod(system)?.freeze();
        system.lab.cut_node(system.lab.node(GOES))?;
        beat.await_good(AFTER, PATIENCE)?;
        let end = Instant::now();
        let report = beat.stop()?;
        let last = report.failed.iter().max();
        let endless = last.is_some_and(|last| end.saturating_duration_since(*last) < QUIET);
        let outage = if endless { f64::INFINITY } else { report.outage(gone) };
        report.say(gone, outage, BAR);
        samples.push(outage);
        pod(system)?.thaw();
        system.relaunch(GOES)?;
    }
    let what = "endpoints' node loses power: last connection not made, max";
    let worst = percentile(&samples, 100.0);
    let mut row = table.row("endpoints", None);
    match system.kind {
        Kind::Herald => row.bar(what, worst, "ms", BAR),
        Kind::MetalLb | Kind::Keepalived => row.put(system.kind.name(), what, worst, "ms"),
    }
    row.put(system.kind.name(), "endpoints' node loses power, times", times as f64, "");
    Ok(())
}

fn pod(system: &System) -> Result<crate::pod::Pod<'_>> {
    system.lab.existing_pod("default", "web-1").context("the pod on the node that goes")
}

/// Waits until all endpoints get connections.
fn await_all(system: &System) -> Result<()> {
    await_ok(PATIENCE, "all endpoints to answer", || {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(system.lab.router().ns.get(system.vip)?.pod);
        }
        ensure!(seen.len() == 3, "{seen:?}");
        Ok(())
    })
}
