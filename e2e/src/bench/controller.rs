//! The controller at scale: ten thousand Services that wait, one more, a restart, memory.
//!
//! ```text
//!  services: Services as the API server makes them, copied into etcd; waiting, or with an address
//!  pending : process start → all have an address               (beside a bare program that writes the same)
//!  more    : one Service more: event → write
//!  restart : process start → all are adopted; writes; memory
//! ```
//! No speaker and no controller manager runs: nothing moves but what is measured. Times are of one clock of one process, but for
//! the one that Herald takes itself (from an event to its write), which is read from its metrics.

mod services;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::services::Services;
use super::proxy::system::{Metrics, Usage};
use super::proxy::table::{Table, percentile};
use crate::await_until::pause;
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::CONTROL_PLANE;

/// The size of all rows but memory's.
pub const SIZE: u32 = 10_000;
/// The larger size of memory.
pub const LARGE: u32 = 50_000;
/// How often each start is taken; the median counts.
const TIMES: usize = 3;
/// Services made one by one.
const MORE: u32 = 300;
/// For ten thousand writes, or a list, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the log says when all Services are adopted, and what had to be written is under way.
const DECIDED: &str = "all Services are decided";
/// After the start, before memory is read: what is left of the lists has gone by then.
const SETTLE: Duration = Duration::from_secs(3);
const MIB: f64 = 1024.0 * 1024.0;

const BAR_PENDING: f64 = 1.15;
const BAR_MORE: f64 = 2.0;
const BAR_RESTART: f64 = 1.5;
const BARS_MEMORY: [(u32, f64); 2] = [(SIZE, 40.0), (LARGE, 120.0)];

/// Takes the rows that are wanted.
pub fn measure(lab: &Lab, wants: &dyn Fn(&str) -> bool, table: &mut Table) -> Result<()> {
    lab.stop_controllers()?;
    lab.configure_herald(&format!(
        "address-pools:\n- {{name: bench, protocol: bgp, addresses: [{}]}}\n",
        services::POOL
    ))?;
    let mut services = Services::new(lab)?;
    if wants("pending") {
        pending(lab, &services, table)?;
    }
    if wants("more") || wants("restart") || wants("memory") {
        services.give_addresses(lab)?;
        services.put_served(lab, SIZE)?;
    }
    if wants("more") {
        more(lab, &services, table)?;
    }
    if wants("restart") {
        restart(lab, table)?;
    }
    if wants("memory") {
        for (size, bar) in BARS_MEMORY {
            services.put_served(lab, size)?;
            memory(lab, size, bar, table)?;
        }
    }
    Ok(())
}

/// The controller, and what its log had before it.
struct Controller<'a> {
    lab: &'a Lab,
    process: Process,
    begin: Instant,
    logged: usize,
}

impl<'a> Controller<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let log = lab.directory().join("log").join("controller.log");
        let logged = std::fs::metadata(log).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        let begin = Instant::now();
        // Also one that was killed is followed at once: it takes its own Lease back.
        let process = lab.controller("controller", &["--identity=bench"])?;
        Ok(Self { lab, process, begin, logged })
    }

    fn metrics(&self) -> Result<Metrics> {
        Metrics::of(self.lab.control_plane_ns())
    }

    fn writes(&self) -> Result<f64> {
        Ok(self.metrics()?.value("herald_controller_writes_total").unwrap_or_default())
    }

    /// How long after its start all are adopted.
    fn await_decided(&self) -> Result<Duration> {
        loop {
            if self.process.log().get(self.logged..).is_some_and(|log| log.contains(DECIDED)) {
                return Ok(self.begin.elapsed());
            }
            self.check()?;
            pause(Duration::from_millis(2));
        }
    }

    /// How long after its start it has written so often.
    fn await_writes(&self, count: u32) -> Result<Duration> {
        loop {
            // Not there yet, or not yet that far.
            if self.writes().is_ok_and(|writes| writes >= f64::from(count)) {
                return Ok(self.begin.elapsed());
            }
            self.check()?;
            pause(Duration::from_millis(100));
        }
    }

    fn check(&self) -> Result<()> {
        if !self.process.is_running() || self.begin.elapsed() > PATIENCE {
            bail!("the controller has ended or takes too long:\n{}", self.process.log_tail());
        }
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.process.terminate(Duration::from_secs(20)).map(drop)
    }
}

fn pending(lab: &Lab, services: &Services, table: &mut Table) -> Result<()> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        services.put_waiting(lab, SIZE)?;
        bare.push(bare_patch(lab)?.as_secs_f64());
        services.assert_all_served(lab, SIZE)?;
        services.put_waiting(lab, SIZE)?;
        let controller = Controller::start(lab)?;
        ours.push(controller.await_writes(SIZE)?.as_secs_f64());
        services.assert_all_served(lab, SIZE)?;
        controller.stop()?;
    }
    let median = |values: &[f64]| percentile(values, 50.0);
    let mut row = table.row("pending", Some(SIZE));
    row.put("herald", "process start → all have an address", median(&ours), "s");
    row.put("bare loop", "a bare program writes the same", median(&bare), "s");
    row.bar("start / bare loop", median(&ours) / median(&bare), "", BAR_PENDING);
    Ok(())
}

fn more(lab: &Lab, services: &Services, table: &mut Table) -> Result<()> {
    const DECISION: &str = "herald_controller_decision_duration_seconds";
    let controller = Controller::start(lab)?;
    controller.await_decided()?;
    let before = controller.metrics()?;
    services.create(lab, MORE)?;
    let after = controller.metrics()?;
    let (count, at) = after.since(&before, DECISION, &[50.0, 99.0]);
    ensure!(
        count >= f64::from(MORE),
        "{count} writes for {MORE} Services:\n{}",
        controller.process.log_tail()
    );
    let mut row = table.row("more", Some(SIZE));
    row.put("herald", "watch event → status patch sent, p50", at[0], "ms");
    row.bar("watch event → status patch sent, p99", at[1], "ms", BAR_MORE);
    controller.stop()
}

fn restart(lab: &Lab, table: &mut Table) -> Result<()> {
    let mut starts = Vec::new();
    let mut writes: f64 = 0.0;
    for _ in 0..TIMES {
        let controller = Controller::start(lab)?;
        starts.push(controller.await_decided()?.as_secs_f64());
        pause(SETTLE);
        writes = writes.max(controller.writes()?);
        controller.stop()?;
    }
    let mut row = table.row("restart", Some(SIZE));
    row.bar("process start → adopted, ready", percentile(&starts, 50.0), "s", BAR_RESTART);
    row.bar("writes", writes, "", 0.0);
    Ok(())
}

fn memory(lab: &Lab, size: u32, bar: f64, table: &mut Table) -> Result<()> {
    let controller = Controller::start(lab)?;
    controller.await_decided()?;
    pause(SETTLE);
    let usage = Usage::of(&controller.process)?;
    let mut row = table.row("memory", Some(size));
    row.bar("resident", usage.resident as f64 / MIB, "MiB", bar);
    row.put("herald", "resident at most, in the start", usage.peak as f64 / MIB, "MiB");
    controller.stop()
}

/// How long the bare program takes.
fn bare_patch(lab: &Lab) -> Result<Duration> {
    let program = std::env::current_exe()?.with_file_name("bare-patch");
    ensure!(program.exists(), "{} is not built", program.display());
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(lab.kubeconfig());
    command.arg("--api-server").arg(format!("https://{CONTROL_PLANE}:6443"));
    let begin = Instant::now();
    let process = lab.start_process(lab.control_plane_ns(), "bare-patch", command)?;
    let status = loop {
        if let Some(status) = process.exit_status() {
            break status;
        }
        ensure!(begin.elapsed() < PATIENCE, "bare-patch takes too long: {}", process.log_tail());
        pause(Duration::from_millis(2));
    };
    let took = begin.elapsed();
    ensure!(status.success(), "bare-patch: {status}: {}", process.log_tail());
    Ok(took)
}

/// What the benchmark's own failure says besides.
pub fn log_tail(lab: &Lab) -> String {
    let log = std::fs::read_to_string(lab.directory().join("log").join("controller.log"));
    let log = log.context("no log of the controller").unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
