//! Session up → all routes are in the router's table, with each sender in turn; and what that costs Herald.
//!
//! The router drops the session and its routes and lets the sender dial again, so that what is measured is the session alone and
//! not how the sender learned its routes.

use std::time::Duration;

use anyhow::{Context, Result};

use super::router::Bird;
use super::senders::{Kind, Sender};
use crate::bench::proxy::system::Usage;
use crate::bench::proxy::table::{Table, percentile};
use crate::lab::Lab;
use crate::process::Process;

/// Sessions of each sender.
const SESSIONS: usize = 5;
/// From session up to all routes: routes, milliseconds.
const BARS: [(u32, f64); 2] = [(10_000, 10.0), (100_000, 60.0)];
/// Of 100,000 routes.
const CPU: f64 = 60.0;
const RESIDENT: f64 = 40.0;
const WHAT: &str = "session up → all in BIRD's table, median of 5";

/// The router, as AS 100: it waits for all nodes.
pub fn router(lab: &Lab) -> Result<Bird> {
    let peer = |node: &str, ip: &str| {
        format!(
            "protocol bgp {node} {{ local 10.0.0.1 as 100; neighbor {ip} as 42; passive on;\n\
             error wait time 1, 1; enable extended messages on; ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    let peers: String = lab.nodes().iter().map(|node| peer(&node.name, &node.ip.to_string())).collect();
    Bird::start(lab, &lab.router().ns, "receiver", &format!("router id 10.0.0.1;\n{peers}"))
}

/// All senders with so many routes, which Herald's Services have.
pub fn measure(lab: &Lab, router: &mut Bird, count: u32, table: &mut Table) -> Result<()> {
    let bar = BARS.iter().find(|(routes, _)| *routes == count).map(|(_, bar)| *bar);
    for kind in Kind::ALL {
        let sender = Sender::start(lab, kind, count)?;
        let process = sender.process().context("a sender is a process")?;
        let measured = sessions(router, kind, count, process).with_context(|| process.log_tail());
        let (times, cpu) = measured?;
        let usage = Usage::of(process)?;
        let median = percentile(&times, 50.0);
        let mut row = table.row("transfer", Some(count));
        match (kind, bar) {
            (Kind::Herald, Some(bar)) => row.bar(WHAT, median, "ms", bar),
            _ => row.put(kind.name(), WHAT, median, "ms"),
        }
        let worst = percentile(&times, 100.0);
        row.put(kind.name(), "session up → all in BIRD's table, slowest of 5", worst, "ms");
        let megabytes = usage.resident as f64 / 1e6;
        let mut row = table.row("cost", Some(count));
        let (used, resident) = ("CPU of a session with all routes, median of 5", "resident with all routes");
        if kind == Kind::Herald && count == BARS[1].0 {
            row.bar(used, percentile(&cpu, 50.0), "ms", CPU);
            row.bar(resident, megabytes, "MB", RESIDENT);
        } else {
            row.put(kind.name(), used, percentile(&cpu, 50.0), "ms");
            row.put(kind.name(), resident, megabytes, "MB");
        }
        drop(sender);
    }
    let of = |kind: Kind| table.value("transfer", Some(count), WHAT, kind.name());
    if let (Some(ours), Some(birds)) = (of(Kind::Herald), of(Kind::Bird)) {
        table.row("transfer", Some(count)).bar("as part of BIRD's own time", ours / birds, "", 1.0);
    }
    Ok(())
}

/// Times and CPU of the sessions, in milliseconds.
fn sessions(router: &mut Bird, kind: Kind, count: u32, process: &Process) -> Result<(Vec<f64>, Vec<f64>)> {
    // The first session is the sender's start.
    router.await_routes(kind.protocol(), count)?;
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let before = scheduled(process)?;
        let took = router.transfer(kind.protocol(), count)?;
        times.push(took.as_secs_f64() * 1000.0);
        cpu.push((scheduled(process)?.saturating_sub(before)).as_secs_f64() * 1000.0);
    }
    Ok((times, cpu))
}

/// The time that a process has had on all cores, which the kernel's scheduler knows by nanoseconds.
fn scheduled(process: &Process) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        all += Duration::from_nanos(nanoseconds);
    }
    Ok(all)
}
