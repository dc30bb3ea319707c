//! Nothing happens: no address moves under load, and hellos cost next to nothing.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::system::{Kind, System};
use crate::await_until::pause;
use crate::bench::proxy::system::Metrics;
use crate::bench::proxy::table::{Table, load};
use crate::namespace::Namespace;

/// Threads that do nothing but compute: the load average of the run.
const BUSY: usize = 4;
/// How often owner changes are counted.
const LOOK: Duration = Duration::from_secs(1);
/// The control pair's interval, and the silence after which it has missed: those of hellos.
const BEAT: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_millis(300);
/// A change counts against the control pair's silence if it is told this long after it at most.
const WINDOW: Duration = Duration::from_secs(3);
/// Of the control pair.
const PORT: u16 = 7999;
/// How long packets and CPU are counted.
const IDLE: Duration = Duration::from_secs(60);
const BAR_PACKETS: f64 = 60.0;
const BAR_CPU: f64 = 0.5;

/// Counts owner changes for a while on a machine that is busy.
pub fn false_moves(system: &System, minutes: u64, table: &mut Table) -> Result<()> {
    let end = Arc::new(AtomicBool::new(false));
    let (moves, excused, silences) = std::thread::scope(|scope| {
        for _ in 0..BUSY {
            let end = Arc::clone(&end);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let counted = count(system, Duration::from_secs(60 * minutes), &end);
        end.store(true, Ordering::Relaxed);
        counted
    })?;
    let mut row = table.row("false-moves", None);
    row.bar(&format!("{BUSY} busy threads, {minutes} min: owner changes"), moves as f64, "", 0.0);
    row.put("control pair", "owner changes when it was silent too, left out", excused as f64, "");
    row.put("control pair", "silences of 300 ms", silences as f64, "");
    row.put("machine", "load average at the end", load(), "");
    Ok(())
}

/// Owner changes, those that happened when the control pair was silent too, and how often that was.
fn count(system: &System, duration: Duration, end: &Arc<AtomicBool>) -> Result<(u64, u64, usize)> {
    let (from, to) = (system.lab.node(1), system.lab.node(2));
    let control = Control::start(&from.ns, &to.ns, (to.ip, PORT).into(), end)?;
    let changes = || -> Result<u64> {
        let nodes = system.lab.nodes().iter();
        let all = nodes
            .map(|node| Ok(Metrics::of(&node.ns)?.value("herald_layer2_owner_changes_total").unwrap_or(0.0)));
        Ok(all.sum::<Result<f64>>()? as u64)
    };
    let begin = Instant::now();
    let (mut before, mut moves, mut excused) = (changes()?, 0, 0);
    while begin.elapsed() < duration {
        pause(LOOK);
        let now = changes()?;
        if now > before {
            let missed = control.silences().iter().any(|at| at.elapsed() < WINDOW);
            let sort = if missed { &mut excused } else { &mut moves };
            *sort += now - before;
            eprintln!(
                "    {} owner changes; the control pair was {}",
                now - before,
                if missed { "silent too" } else { "well" }
            );
        }
        before = now;
    }
    let silences = control.silences().len();
    end.store(true, Ordering::Relaxed);
    control.join()?;
    Ok((moves, excused, silences))
}

/// A plain sender and a plain receiver, with the interval of hellos.
struct Control {
    silences: Arc<std::sync::Mutex<Vec<Instant>>>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

impl Control {
    fn start(from: &Namespace, to: &Namespace, at: SocketAddr, end: &Arc<AtomicBool>) -> Result<Self> {
        let sender = from.run(|| UdpSocket::bind(("0.0.0.0", 0)))?.context("the control pair's sender")?;
        let receiver = to.run(|| UdpSocket::bind(at))?.context("the control pair's receiver")?;
        let silences = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sending = std::thread::spawn({
            let end = Arc::clone(end);
            move || {
                while !end.load(Ordering::Relaxed) {
                    // What does not arrive is what is measured.
                    let _ = sender.send_to(&[0; 64], at);
                    pause(BEAT);
                }
                Ok(())
            }
        });
        let receiving = std::thread::spawn({
            let (end, silences) = (Arc::clone(end), Arc::clone(&silences));
            move || {
                receiver.set_read_timeout(Some(LOOK))?;
                let mut last = Instant::now();
                while !end.load(Ordering::Relaxed) {
                    let _ = receiver.recv(&mut [0; 64]);
                    if last.elapsed() >= SILENCE {
                        silences
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .push(Instant::now());
                    }
                    last = Instant::now();
                }
                Ok(())
            }
        });
        Ok(Self { silences, threads: vec![sending, receiving] })
    }

    fn silences(&self) -> Vec<Instant> {
        self.silences.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn join(self) -> Result<()> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("the control pair panicked"))??;
        }
        Ok(())
    }
}

/// Counts packets of liveness and CPU time at one node of an idle segment.
pub fn idle(system: &System, table: &mut Table) -> Result<()> {
    let node = system.lab.node(1);
    let what = match system.kind {
        Kind::Herald => "udp dport 7947",
        Kind::MetalLb => "th dport 7946",
        Kind::Keepalived => "ip protocol vrrp",
    };
    let rules = format!(
        "table ip bench {{\n counter sent {{ }}\n counter received {{ }}\n\
         chain in {{\n  type filter hook input priority -300;\n  {what} counter name received\n }}\n\
         chain out {{\n  type filter hook output priority -300;\n  {what} counter name sent\n }}\n}}\n"
    );
    let file = system.lab.directory().join("bench.nft");
    std::fs::write(&file, rules)?;
    node.ns.exec(&["nft", "-f", &file.display().to_string()])?;
    let pids = system.pids(1)?;
    let (begin, before, packets) = (Instant::now(), cpu(&pids)?, counted(&node.ns)?);
    pause(IDLE);
    let (after, packets) = (cpu(&pids)?, counted(&node.ns)? - packets);
    let seconds = begin.elapsed().as_secs_f64();
    node.ns.exec(&["nft", "delete", "table", "ip", "bench"])?;
    let cpu = (after - before).as_secs_f64() / seconds * 100.0;
    let rate = packets as f64 / seconds;
    let name = system.kind.name();
    let nodes = system.lab.nodes().len();
    let (packets, core) = (
        format!("{nodes} nodes idle: packets of liveness, sent and received"),
        format!("{nodes} nodes idle: CPU of the process that announces"),
    );
    let mut row = table.row("idle", None);
    if system.kind == Kind::Herald {
        row.bar(&packets, rate, "/s", BAR_PACKETS);
        row.bar(&core, cpu, "%", BAR_CPU);
    } else {
        row.put(name, &packets, rate, "/s");
        row.put(name, &core, cpu, "%");
    }
    Ok(())
}

/// What these processes have run, by the scheduler's clock: what runs for microseconds at each tick would be counted by
/// ticks a hundred times over.
fn cpu(pids: &[i32]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let ran = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
            nanoseconds += ran.context("a task's schedstat")?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Both counters together.
fn counted(namespace: &Namespace) -> Result<u64> {
    let text = namespace.exec(&["nft", "-j", "list", "counters"])?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let ours = json["nftables"]
        .as_array()
        .context("counters")?
        .iter()
        .filter(|of| of["counter"]["table"] == "bench");
    ours.map(|of| of["counter"]["packets"].as_u64().context("packets")).sum()
}
