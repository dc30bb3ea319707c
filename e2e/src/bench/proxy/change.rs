//! One endpoint changed, and many of them one after the other: how long until the kernel has it, and what it costs.
//!
//! The time is Herald's own: from the moment when its watch had the event to the kernel's acknowledgement. It is read
//! from a histogram, and the value told is the upper bound of the bucket, so it is never better than the truth.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::scale::{self, Scale};
use super::system::{Metrics, System};
use super::table::Table;
use crate::await_until::await_ok;
use crate::bench::steal::undisturbed;
use crate::lab::Lab;

const DURATION: &str = "herald_speaker_change_duration_seconds";
/// How many changes make the row "change": the tenth slowest is the 99th percentile, so that it is no matter of one or two stalls.
const CHANGES: u32 = 1000;
/// Changes a second.
const RATE: u32 = 20;
/// For the last change to be in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the row "churn".
const LONG: Duration = Duration::from_secs(60);

/// One endpoint changed at a time.
pub fn single(lab: &Lab, scale: &mut Scale, system: &System, table: &mut Table) -> Result<()> {
    let ([p50, p99], stolen) = undisturbed("change", || {
        let before = system.metrics()?;
        // Slow enough that each is a batch of its own.
        changes(lab, scale, CHANGES, Duration::from_millis(25))?;
        measured(system, &before, CHANGES)
    })?;
    let mut row = table.row("change", Some(scale.count()));
    row.put("herald", "one endpoint: event → acknowledged, p50", p50, "ms");
    let bar = if scale.count() > 10_000 { 10.0 } else { 5.0 };
    row.bar("one endpoint: event → acknowledged, p99", p99, "ms", bar);
    row.put("machine", "one endpoint: processor time the host took meanwhile", stolen, "%");
    Ok(())
}

/// Twenty a second for a minute.
pub fn churn(lab: &Lab, scale: &mut Scale, system: &System, table: &mut Table) -> Result<()> {
    let (before, used, begin) = (system.metrics()?, system.usage()?.cpu, Instant::now());
    let count = RATE * u32::try_from(LONG.as_secs())?;
    changes(lab, scale, count, Duration::from_secs(1) / RATE)?;
    let cpu = (system.usage()?.cpu - used).as_secs_f64() / begin.elapsed().as_secs_f64();
    let [p50, p99] = measured(system, &before, count)?;
    let mut row = table.row("churn", Some(scale.count()));
    row.put("herald", "20 changes/s: event → acknowledged, p50", p50, "ms");
    row.bar("20 changes/s: event → acknowledged, p99", p99, "ms", 50.0);
    row.bar("20 changes/s: CPU, of one core", cpu * 100.0, "%", 10.0);
    Ok(())
}

/// kube-proxy under the same changes: its CPU.
pub fn churn_kube_proxy(lab: &Lab, scale: &mut Scale, system: &System, table: &mut Table) -> Result<()> {
    let (used, begin) = (system.usage()?.cpu, Instant::now());
    changes(lab, scale, RATE * u32::try_from(LONG.as_secs())?, Duration::from_secs(1) / RATE)?;
    let cpu = (system.usage()?.cpu - used).as_secs_f64() / begin.elapsed().as_secs_f64();
    table.row("churn", Some(scale.count())).put(
        "kube-proxy",
        "20 changes/s: CPU, of one core",
        cpu * 100.0,
        "%",
    );
    Ok(())
}

/// Median and 99th percentile of the changes since `before`, once all of them are in the kernel.
fn measured(system: &System, before: &Metrics, count: u32) -> Result<[f64; 2]> {
    await_ok(PATIENCE, "all changes are in the kernel", || {
        let (seen, values) = system.metrics()?.since(before, DURATION, &[50.0, 99.0]);
        ensure!(seen >= f64::from(count), "only {seen} of {count} are");
        Ok([values[0], values[1]])
    })
}

/// Changes one endpoint each of Services all over the range, at this pace.
fn changes(lab: &Lab, scale: &mut Scale, count: u32, every: Duration) -> Result<()> {
    let changes = scale.next_changes(count);
    lab.block_on(async |client| {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for (number, endpoints) in changes {
            tick.tick().await;
            scale::change(&client, number, &endpoints).await?;
        }
        Ok(())
    })
}
