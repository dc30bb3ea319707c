//! From a process's start to the last Service that works, and the memory that it takes.
//!
//! "Works" is seen by packets: a pod connects to the last Service. For Herald it is also what the speaker says, and the
//! later of both counts. Beside it a bare program lists the same objects by the same library and does nothing with them:
//! what no proxy can be faster than, as long as it asks the API server in the same way.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::scale::Scale;
use super::system::{Kind, System};
use super::table::{Table, percentile};
use crate::await_until::pause;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::topology::{CONTROL_PLANE, Node};

/// How often each is started; the median counts.
const TIMES: usize = 3;
/// Lists again and again would not fit in less.
const LIST_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks from the pod.
const LOOK: Duration = Duration::from_millis(5);
/// Before memory is read, and before the next start: what is left of lists and former rules has gone by then.
const SETTLE: Duration = Duration::from_secs(3);

const MIB: f64 = 1024.0 * 1024.0;
const BAR_RATIO: f64 = 1.25;
const BAR_KERNEL: f64 = 3.0;

/// Measures Herald's start, beside the bare list; leaves it running.
pub fn herald(lab: &Lab, scale: &Scale, node: &Node, pod: &Namespace, table: &mut Table) -> Result<System> {
    let size = scale.count();
    let (mut bare, mut starts, mut kernel, mut running) = (Vec::new(), Vec::new(), Vec::new(), None);
    for _ in 0..TIMES {
        drop(running.take());
        node.ns.exec(&["nft", "flush", "ruleset"])?;
        // What stood there is freed in the background, and so is the garbage that a list leaves in the API server: at the
        // cost of whoever starts next.
        pause(SETTLE);
        bare.push(bare_list(lab, node)?.as_secs_f64());
        pause(SETTLE);
        let system = System::start(lab, Kind::Herald, node)?;
        let said = system.await_programmed(Duration::from_secs(120))?;
        await_service(&system, pod, scale, Duration::from_secs(5))?;
        starts.push(said.as_secs_f64());
        // The metric comes some moments after the word: what became of each Service is told first.
        pause(SETTLE);
        let metrics = system.metrics()?;
        let sum = |name: &str| metrics.value(&format!("herald_speaker_{name}_duration_seconds_sum"));
        kernel.push(sum("sync").zip(sum("plan")).map(|(sync, plan)| sync - plan).context("no durations")?);
        running = Some(system);
    }
    let system = running.context("no start")?;
    let median = |values: &[f64]| percentile(values, 50.0);
    let mut row = table.row("cold-start", Some(size));
    row.put("herald", "process start → last Service works", median(&starts), "s");
    row.put("bare list", "a bare program lists the same", median(&bare), "s");
    row.bar("start / bare list", median(&starts) / median(&bare), "", BAR_RATIO);
    match size {
        45_000.. => row.bar("of it encoding and kernel", median(&kernel), "s", BAR_KERNEL),
        _ => row.put("herald", "of it encoding and kernel", median(&kernel), "s"),
    }
    memory(&system, size, table)?;
    Ok(system)
}

fn memory(system: &System, size: u32, table: &mut Table) -> Result<()> {
    let usage = system.usage()?;
    let bar = match size {
        0..=1000 => 40.0,
        1001..=10_000 => 80.0,
        _ => 200.0,
    };
    let mut row = table.row("memory", Some(size));
    row.bar("resident", usage.resident as f64 / MIB, "MiB", bar);
    row.put("herald", "resident at most, in the start", usage.peak as f64 / MIB, "MiB");
    Ok(())
}

/// The same of kube-proxy, once; leaves it running.
pub fn kube_proxy(
    lab: &Lab,
    scale: &Scale,
    node: &Node,
    pod: &Namespace,
    table: &mut Table,
) -> Result<System> {
    node.ns.exec(&["nft", "flush", "ruleset"])?;
    let system = System::start(lab, Kind::KubeProxy, node)?;
    let works = await_service(&system, pod, scale, Duration::from_secs(600))?;
    let size = scale.count();
    table.row("cold-start", Some(size)).put(
        "kube-proxy",
        "process start → last Service works",
        works.as_secs_f64(),
        "s",
    );
    pause(SETTLE);
    let usage = system.usage()?;
    let mut row = table.row("memory", Some(size));
    row.put("kube-proxy", "resident", usage.resident as f64 / MIB, "MiB");
    row.put("kube-proxy", "resident at most, in the start", usage.peak as f64 / MIB, "MiB");
    Ok(system)
}

/// Waits until the last Service answers a pod of the node.
pub fn await_service(
    system: &System,
    pod: &Namespace,
    scale: &Scale,
    patience: Duration,
) -> Result<Duration> {
    let (to, deadline) = (scale.last(), Instant::now() + patience);
    pod.run(|| {
        loop {
            if std::net::TcpStream::connect_timeout(&to, Duration::from_millis(250)).is_ok() {
                return Ok(system.begin.elapsed());
            }
            system.check(deadline).with_context(|| format!("{to} does not answer"))?;
            pause(LOOK);
        }
    })?
}

/// How long the bare program takes on this node.
fn bare_list(lab: &Lab, node: &Node) -> Result<Duration> {
    let mut command = Command::new(program()?);
    command
        .arg("--kubeconfig")
        .arg(lab.kubeconfig())
        .arg("--api-server")
        .arg(format!("https://{CONTROL_PLANE}:6443"));
    let begin = Instant::now();
    let process = lab.start_process(&node.ns, "bare-list", command)?;
    let status = loop {
        if let Some(status) = process.exit_status() {
            break status;
        }
        anyhow::ensure!(begin.elapsed() < LIST_PATIENCE, "bare-list takes too long: {}", process.log_tail());
        pause(Duration::from_millis(2));
    };
    let took = begin.elapsed();
    anyhow::ensure!(status.success(), "bare-list: {status}: {}", process.log_tail());
    Ok(took)
}

/// The bare program, beside this one and so of the same build.
fn program() -> Result<std::path::PathBuf> {
    let program = std::env::current_exe()?.with_file_name("bare-list");
    anyhow::ensure!(program.exists(), "{} is not built", program.display());
    Ok(program)
}
