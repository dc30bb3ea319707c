//! BFD on a busy machine: nobody hangs, so whoever misses somebody is wrong. Two BIRDs beside it tell what the machine itself does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::detect::Neighbours;
use super::{milliseconds, stamp};
use crate::await_until::{await_ok, holds_for};
use crate::bench::proxy::table::{Table, load};
use crate::lab::Lab;

/// Threads that compute all the time, with the priority of everything else.
const BUSY: usize = 4;
/// In milliseconds; the harder one of the two that are measured.
const INTERVAL: u32 = 50;

/// A miss does not count if the control pair missed within so many milliseconds of it.
const WINDOW: f64 = 1000.0;

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
    let down = |address: &str| vec![format!("Session to {address} "), "from Up to Down".to_owned()];
    let control = [(bird.log(), birds, down("10.0.0.13")), (control.log(), controls, down("10.0.0.1"))];
    let silences: Vec<SystemTime> =
        control.iter().flat_map(|(log, from, words)| stamps(log, *from, words)).collect();
    let mut row = table.row("false", None);
    let what = |who: &str| format!("{INTERVAL} ms × 3, {minutes} min, {BUSY} busy threads: {who}");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut left_out = 0;
    for (who, log, from, words) in [
        ("misses of Herald", herald.log(), heralds, words(&["session down", "BFD"])),
        ("BIRD misses Herald", bird.log(), birds, down("10.0.0.11")),
        ("FRR misses Herald", frr.log(), frrs, words(&["ADJCHANGE", "Down"])),
    ] {
        let all = stamps(&log, from, &words);
        let counted = counted(&all, &silences);
        left_out += all.len() - counted;
        row.bar(&what(who), counted as f64, "", 0.0);
    }
    row.put("bird", &what("two BIRDs miss each other"), silences.len() as f64, "");
    row.put("herald", &what("misses when the two BIRDs did too, left out"), left_out as f64, "");
    row.put("herald", &what("load at the end"), loaded, "");
    Ok(())
}

/// When the lines with all these words were written behind the first `from` bytes of a log.
fn stamps(log: &str, from: usize, words: &[String]) -> Vec<SystemTime> {
    let new = log.get(from..).unwrap_or_default();
    let of_them = |line: &&str| words.iter().all(|word| line.contains(word.as_str()));
    new.lines().filter(of_them).filter_map(stamp).collect()
}

/// How many misses were not in a window in which the control pair missed, too.
fn counted(misses: &[SystemTime], silences: &[SystemTime]) -> usize {
    let near = |a: SystemTime, b: SystemTime| milliseconds(a, b).abs() < WINDOW;
    misses.iter().filter(|at| !silences.iter().any(|silence| near(**at, *silence))).count()
}

/// The session of the control pair came up.
fn up(log: &str) -> bool {
    log.lines().any(|line| line.contains("Session to 10.0.0.1 ") && line.ends_with("to Up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_counts_unless_the_control_pair_missed_about_then() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(counted(&[at(5_000), at(9_000)], &[]), 2);
        assert_eq!(counted(&[at(5_000), at(9_000)], &[at(5_900)]), 1);
        assert_eq!(counted(&[at(5_000), at(9_000)], &[at(4_100), at(9_900)]), 0);
        assert_eq!(counted(&[at(5_000)], &[at(6_000)]), 1);
    }
}
