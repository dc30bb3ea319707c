//! BFD on a busy machine: nobody hangs, so whoever misses somebody is wrong. Two BIRDs beside it tell what the machine itself does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::detect::Neighbours;
use crate::await_until::{await_ok, holds_for};
use crate::bench::proxy::table::{Table, load};
use crate::lab::Lab;

/// Threads that compute all the time, with the priority of everything else.
const BUSY: usize = 4;
/// In milliseconds; the harder one of the two that are measured.
const INTERVAL: u32 = 50;

/// Counts sessions that failed in so many minutes.
pub fn measure(lab: &Lab, minutes: u64, table: &mut Table) -> Result<()> {
    let neighbours = Neighbours::start(lab, INTERVAL)?;
    let Neighbours { herald, bird, frr, control, .. } = &neighbours;
    await_ok(Duration::from_secs(30), "BFD of the two BIRDs", || {
        ensure!(
            control.log().contains("changed state from Init to Up") || up(&control.log()),
            "{}",
            control.log()
        );
        Ok(())
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let busy = || {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    let (heralds, birds) = (herald.log().len(), bird.log().len());
    let (frrs, controls) = (frr.log().len(), control.log().len());
    let threads: Vec<_> = (0..BUSY).map(|_| busy()).collect();
    let begin = Instant::now();
    let ran = holds_for(Duration::from_secs(minutes * 60), "Herald to run", || {
        herald.is_running().then_some(()).ok_or_else(|| herald.log_tail())
    });
    let loaded = load();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    ran.with_context(|| format!("after {} s", begin.elapsed().as_secs()))?;
    let count = |log: &str, from: usize, words: &[&str]| {
        let new = log.get(from..).unwrap_or_default();
        new.lines().filter(|line| words.iter().all(|word| line.contains(word))).count() as f64
    };
    let mut row = table.row("false", None);
    let what = |who: &str| format!("{INTERVAL} ms × 3, {minutes} min, {BUSY} busy threads: {who}");
    row.bar(&what("misses of Herald"), count(&herald.log(), heralds, &["session down", "BFD"]), "", 0.0);
    let of_herald = ["Session to 10.0.0.11", "from Up to Down"];
    row.bar(&what("BIRD misses Herald"), count(&bird.log(), birds, &of_herald), "", 0.0);
    row.bar(&what("FRR misses Herald"), count(&frr.log(), frrs, &["ADJCHANGE", "Down"]), "", 0.0);
    let down = ["Session to 10.0.0.13", "from Up to Down"];
    let both = count(&bird.log(), birds, &down)
        + count(&control.log(), controls, &["Session to 10.0.0.1 ", "from Up to Down"]);
    row.put("bird", &what("two BIRDs miss each other"), both, "");
    row.put("herald", &what("load at the end"), loaded, "");
    Ok(())
}

/// The session of the control pair came up.
fn up(log: &str) -> bool {
    log.lines().any(|line| line.contains("Session to 10.0.0.1 ") && line.ends_with("to Up"))
}
