//! An address moves: because its owner's process is killed, its node loses power or its carrier, or as planned.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::beat::Client;
use super::system::{Kind, PATIENCE, System};
use crate::await_until::await_until;
use crate::bench::proxy::system::Metrics;
use crate::bench::proxy::table::{Table, percentile};
use crate::bench::steal::{MOST, Meter};
use crate::client::Connection;

/// Connections after which a move is over.
const WHOLE: usize = 100;
/// Before a move.
const BEFORE: usize = 20;
/// What a client may wait for more than a hello's silence and a claim.
const BAR_P50: f64 = 320.0;
const BAR_MAX: f64 = 450.0;
/// How soon a node that has lost its carrier lets go.
const BAR_SELF: f64 = 100.0;
/// Connections that are held over a planned move.
const HELD: usize = 20;
/// On a held connection, for one answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How an owner goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its process gets SIGKILL.
    Killed,
    /// Its processes are halted and its link is down.
    Power,
    /// Its link is down.
    Carrier,
}

impl Way {
    /// The row's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Power => "power",
            Self::Carrier => "carrier",
        }
    }
}

/// Lets the owner go so many times; a move of which the machine's host took a part is made again, as many times at most.
pub fn measure(system: &mut System, way: Way, times: usize, table: &mut Table) -> Result<()> {
    let (mut samples, mut own, mut again) = (Vec::new(), Vec::new(), 0_usize);
    while samples.len() < times {
        let owner = system.owner()?;
        let node = system.lab.node(owner).clone();
        let beat = Client::Forgetful.start(&system.lab.router().ns, system.vip)?;
        beat.await_good(BEFORE, PATIENCE)?;
        let (gone, meter) = (Instant::now(), Meter::start()?);
        let mut alone = None;
        match way {
            Way::Killed => system.kill(owner)?,
            Way::Power => {
                system.freeze(owner)?;
                system.lab.cut_node(&node)?;
            }
            Way::Carrier => {
                system.lab.cut_node(&node)?;
                if system.kind == Kind::Herald {
                    alone = Some(let_go(system, owner, gone)?);
                }
            }
        }
        // A kernel goes on answering for the address that a killed keepalived has left there.
        if (system.kind, way) != (Kind::Keepalived, Way::Killed) {
            await_owner(system, system.spare(owner))?;
        }
        beat.await_good(WHOLE, PATIENCE)?;
        let stolen = meter.stolen()?;
        let report = beat.stop()?;
        let outage = report.outage(gone);
        report.say(gone, outage, BAR_MAX);
        if stolen > MOST && again < times {
            again += 1;
            eprintln!("    made again: the host took {stolen:.1} % of the processors");
        } else {
            samples.push(outage);
            own.extend(alone);
        }
        system.restore(owner)?;
    }
    let mut row = table.row(way.word(), None);
    let what = match way {
        Way::Killed => "owner's process killed: last connection not made",
        Way::Power => "owner loses power: last connection not made",
        Way::Carrier => "owner's carrier lost: last connection not made",
    };
    let (p50, max) = (percentile(&samples, 50.0), percentile(&samples, 100.0));
    let (median, worst) = (format!("{what}, p50"), format!("{what}, max"));
    if system.kind == Kind::Herald {
        match way {
            Way::Killed | Way::Power => row.bar(&median, p50, "ms", BAR_P50),
            Way::Carrier => row.put(system.kind.name(), &median, p50, "ms"),
        }
        row.bar(&worst, max, "ms", BAR_MAX);
    } else {
        row.put(system.kind.name(), &median, p50, "ms");
        row.put(system.kind.name(), &worst, max, "ms");
    }
    row.put(system.kind.name(), &format!("{} moves", way.word()), samples.len() as f64, "");
    row.put(system.kind.name(), &format!("moves made again, the host took over {MOST} %"), again as f64, "");
    if !own.is_empty() {
        row.bar("owner's carrier lost: it lets go itself, max", percentile(&own, 100.0), "ms", BAR_SELF);
    }
    Ok(())
}

fn await_owner(system: &System, wanted: u8) -> Result<()> {
    await_until(PATIENCE, "another owner", || (system.owner().ok()? == wanted).then_some(()))
}

/// When a node says that it does not announce the address any more, in milliseconds.
fn let_go(system: &System, owner: u8, gone: Instant) -> Result<f64> {
    let series = format!("ip=\"{}\"", system.vip.ip());
    let node = system.lab.node(owner);
    let series = format!("protocol=\"layer2\",node=\"{}\",{series}", node.name);
    await_until(PATIENCE, "the node without carrier to let go", || {
        let metrics = Metrics::of(&node.ns).ok()?;
        (!metrics.has(&series)).then(|| gone.elapsed().as_secs_f64() * 1000.0)
    })
}

/// Stops the owner so many times, while new connections are made and others are held.
pub fn planned(system: &mut System, times: usize, table: &mut Table) -> Result<()> {
    let (mut failed, mut cut, mut held_cut, mut tried) = (0, 0, 0, 0);
    for _ in 0..times {
        let owner = system.owner()?;
        let beat = Client::Asking.start(&system.lab.router().ns, system.vip)?;
        beat.await_good(BEFORE, PATIENCE)?;
        let hold = || {
            let connected = system.lab.router().ns.connect(system.vip, ANSWER);
            let mut connection = connected.context("a connection to hold")?;
            connection.ask().context("an answer on it")?;
            Ok(connection)
        };
        let mut held = (0..HELD).map(|_| hold()).collect::<Result<Vec<Connection>>>()?;
        let stopped = Instant::now();
        system.terminate(owner)?;
        await_owner(system, system.spare(owner))?;
        beat.await_good(WHOLE, PATIENCE)?;
        let report = beat.stop()?;
        held_cut += held.iter_mut().filter_map(|connection| connection.ask().err()).count();
        failed += report.failed.len();
        cut += report.cut;
        tried += report.tried;
        let after = |at: &Instant| at.saturating_duration_since(stopped).as_millis();
        eprintln!(
            "    not made: {:?} ms after the signal, {} cut of {}; {held_cut} held cut",
            report.failed.iter().map(after).collect::<Vec<_>>(),
            report.cut,
            report.tried
        );
        system.restore(owner)?;
    }
    let name = system.kind.name();
    let mut row = table.row("planned", None);
    let what = format!("owner stopped, {times} times: new connections not made");
    match system.kind {
        Kind::Herald => row.bar(&what, failed as f64, "", 0.0),
        Kind::MetalLb | Kind::Keepalived => row.put(name, &what, failed as f64, ""),
    }
    row.put(name, "owner stopped: connections tried", tried as f64, "");
    row.put(name, "owner stopped: made, but cut within their milliseconds", cut as f64, "");
    row.put(name, &format!("owner stopped: held connections cut, of {}", HELD * times), held_cut as f64, "");
    Ok(())
}
