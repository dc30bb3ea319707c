//! BFD between Herald and a BIRD and an FRR on its own link: who hangs is missed, in both directions.
//!
//! A process that gets SIGSTOP sends nothing any more while its kernel keeps the TCP connection: only BFD can tell.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::frr::Frr;
use super::router::Bird;
use super::{first, milliseconds};
use crate::await_until::await_ok;
use crate::bench::proxy::table::{Table, percentile};
use crate::lab::Lab;
use crate::process::Process;

/// How often each is let hang.
const TIMES: usize = 10;
/// Interval, and Herald's bars: median and worst, all in milliseconds.
const BARS: [(u32, f64, f64); 2] = [(100, 280.0, 320.0), (50, 140.0, 170.0)];
/// For sessions to come back after a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Herald's node, as its neighbours see it.
const NODE: &str = "10.0.0.11";
/// What Herald writes of its neighbours.
const BIRD: &str = "10.0.0.1:179";
const FRR: &str = "10.0.0.12:179";

/// The three of them, each with BFD to Herald; BIRD has a second session to a BIRD on `node3`.
#[derive(Debug)]
pub struct Neighbours {
    /// On `node1`.
    pub herald: Process,
    /// On the router.
    pub bird: Bird,
    /// On `node2`.
    pub frr: Frr,
    /// On `node3`: what two BIRDs see of each other tells what the machine itself does.
    pub control: Bird,
    interval: u32,
}

impl Neighbours {
    /// Starts them with BFD at `interval` milliseconds, three of which may be missing, and waits until all are up.
    pub fn start(lab: &Lab, interval: u32) -> Result<Self> {
        lab.configure_herald(&format!(
            "bfd-profiles:\n- {{name: fast, receive-interval: {interval}, transmit-interval: {interval}}}\n\
             peers:\n\
             - {{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, bfd-profile: fast}}\n\
             - {{peer-address: 10.0.0.12, peer-asn: 101, my-asn: 42, bfd-profile: fast}}\n"
        ))?;
        let bfd = format!(
            "protocol bfd bfd1 {{ interface \"*\" {{ interval {interval} ms; multiplier 3; idle tx interval 1 s; }}; }}\n"
        );
        let peer = |name: &str, own: (&str, u32), other: (&str, u32), more: &str| {
            format!(
                "protocol bgp {name} {{ local {} as {}; neighbor {} as {}; {more} bfd on; hold time 90;\n\
                 connect delay time 1; connect retry time 1; error wait time 1, 1;\n\
                 ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
                own.0, own.1, other.0, other.1
            )
        };
        let router = format!(
            "router id 10.0.0.1;\n{bfd}{}{}",
            peer("node1", ("10.0.0.1", 100), (NODE, 42), "passive on;"),
            peer("control", ("10.0.0.1", 100), ("10.0.0.13", 42), "passive on;")
        );
        let bird = Bird::start(lab, &lab.router().ns, "bfd-router", &router)?;
        let control = format!(
            "router id 10.0.0.13;\n{bfd}{}",
            peer("control", ("10.0.0.13", 42), ("10.0.0.1", 100), "")
        );
        let control = Bird::start(lab, &lab.node(3).ns, "bfd-control", &control)?;
        let config = format!(
            "router bgp 101\n bgp router-id 10.0.0.12\n no bgp ebgp-requires-policy\n bgp log-neighbor-changes\n \
             neighbor {NODE} remote-as 42\n neighbor {NODE} passive\n neighbor {NODE} bfd 3 {interval} {interval}\n"
        );
        let frr = Frr::start(lab, &lab.node(2).ns, "frr", &config, true)?;
        let herald = lab.speaker(lab.node(1), &["--proxy=off"])?;
        let mut this = Self { herald, bird, frr, control, interval };
        this.await_up().with_context(|| this.herald.log_tail())?;
        Ok(this)
    }

    /// Waits until both sessions of Herald are up at the interval.
    pub fn await_up(&mut self) -> Result<()> {
        let interval = self.interval;
        let shown = format!("{:.3}", f64::from(interval) / 1000.0);
        let bird = &mut self.bird;
        await_ok(PATIENCE, "BFD of Herald and BIRD", || {
            let sessions = bird.ask("show bfd sessions")?;
            let up = |line: &str| [NODE, "Up", &shown].iter().all(|word| line.contains(word));
            ensure!(sessions.lines().any(up), "{sessions}");
            let session = bird.ask("show protocols node1")?;
            ensure!(session.contains("Established"), "{session}");
            Ok(())
        })?;
        let frr = &self.frr;
        await_ok(PATIENCE, "BFD of Herald and FRR", || {
            let text = frr.ask("show bfd peers json")?;
            let peers: serde_json::Value = serde_json::from_str(&text)?;
            let up = |peer: &serde_json::Value| {
                peer["peer"] == NODE
                    && peer["status"] == "up"
                    && peer["remote-transmit-interval"] == interval
                    && peer["transmit-interval"] == interval
            };
            ensure!(peers.as_array().is_some_and(|peers| peers.iter().any(up)), "{text}");
            let text = frr.ask("show bgp summary json")?;
            ensure!(text.contains("\"state\":\"Established\""), "{text}");
            Ok(())
        })
    }
}

/// Waits for a line with all these words behind the first `from` bytes of a log, and tells when it was written.
fn await_line(log: impl Fn() -> String, from: usize, words: &[&str]) -> Result<SystemTime> {
    await_ok(Duration::from_secs(20), &format!("{words:?} in a log"), || {
        let log = log();
        first(&log, from, words).with_context(|| log.get(from..).unwrap_or_default().to_owned())
    })
}

/// Lets each hang ten times.
pub fn measure(lab: &Lab, table: &mut Table) -> Result<()> {
    for (interval, median, worst) in BARS {
        let mut neighbours = Neighbours::start(lab, interval)?;
        // Who misses whom: BIRD Herald, FRR Herald, Herald BIRD, Herald FRR.
        let mut missed: [Vec<f64>; 4] = Default::default();
        for _ in 0..TIMES {
            let Neighbours { herald, bird, frr, .. } = &neighbours;
            let (birds, frrs) = (bird.log().len(), frr.log().len());
            let begin = SystemTime::now();
            herald.freeze();
            let at = await_line(|| bird.log(), birds, &["Session to", NODE, "from Up to Down"]);
            let other = await_line(|| frr.log(), frrs, &["ADJCHANGE", NODE, "Down"]);
            herald.thaw();
            missed[0].push(milliseconds(begin, at?));
            missed[1].push(milliseconds(begin, other?));
            neighbours.await_up()?;

            let Neighbours { herald, bird, .. } = &neighbours;
            let logged = herald.log().len();
            let begin = SystemTime::now();
            bird.process().freeze();
            let at = await_line(|| herald.log(), logged, &["session down", BIRD, "BFD"]);
            bird.process().thaw();
            missed[2].push(milliseconds(begin, at?));
            neighbours.await_up()?;

            let Neighbours { herald, frr, .. } = &neighbours;
            let logged = herald.log().len();
            let begin = SystemTime::now();
            frr.hang(true);
            let at = await_line(|| herald.log(), logged, &["session down", FRR, "BFD"]);
            frr.hang(false);
            missed[3].push(milliseconds(begin, at?));
            neighbours.await_up()?;
        }
        let mut row = table.row("bfd", None);
        let [bird, frr, of_bird, of_frr] = &missed;
        for (who, values) in [("bird", bird), ("frr", frr)] {
            let what =
                |which: &str| format!("{interval} ms × 3: Herald hangs, missed after, {which} of {TIMES}");
            row.put(who, &what("median"), percentile(values, 50.0), "ms");
            row.put(who, &what("worst"), percentile(values, 100.0), "ms");
        }
        for (who, values) in [("BIRD", of_bird), ("FRR", of_frr)] {
            let what =
                |which: &str| format!("{interval} ms × 3: {who} hangs, missed after, {which} of {TIMES}");
            row.bar(&what("median"), percentile(values, 50.0), "ms", median);
            row.bar(&what("worst"), percentile(values, 100.0), "ms", worst);
        }
    }
    Ok(())
}
