//! `bench-l2`: layer 2 failover, Herald beside MetalLB and keepalived, each in a lab of its own.
//!
//! The table is on standard output, its figures are kept as JSON, progress goes to standard error. A missed bar is a
//! failure. See `herald_e2e::bench::layer2`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use herald_e2e::bench::layer2::moves::{self, Way};
use herald_e2e::bench::layer2::system::{Kind, System};
use herald_e2e::bench::layer2::{endpoints, many, quiet};
use herald_e2e::bench::proxy::table::{Table, load};
use herald_e2e::bench::{herald, metallb};

/// All rows.
const ROWS: [&str; 8] = ["killed", "power", "carrier", "planned", "endpoints", "many", "false-moves", "idle"];
/// Rows of one lab of three nodes.
const MOVES: [&str; 4] = ["killed", "power", "carrier", "planned"];
/// Nodes of the row `idle`.
const IDLE_NODES: u8 = 5;

#[derive(Parser)]
#[command(name = "bench-l2", about = "Measures layer 2 failover, beside MetalLB and keepalived")]
struct Arguments {
    /// Only these rows
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    only: Vec<String>,
    /// How often Herald's owner is killed and loses power; the other moves take a third of it
    #[arg(long, default_value_t = 30)]
    times: usize,
    /// How often each move is taken of the others
    #[arg(long, default_value_t = 5)]
    others_times: usize,
    /// Only these systems
    #[arg(long, value_delimiter = ',', value_parser = ["herald", "metallb", "keepalived"])]
    systems: Vec<String>,
    /// How long owner changes are counted on a busy machine
    #[arg(long, default_value_t = 30)]
    false_minutes: u64,
    /// Where the figures are kept
    #[arg(long, default_value = "bench-l2.json")]
    json: PathBuf,
}

impl Arguments {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    fn kinds(&self) -> Vec<Kind> {
        let wanted =
            |kind: &Kind| self.systems.is_empty() || self.systems.iter().any(|name| name == kind.name());
        Kind::ALL.into_iter().filter(wanted).collect()
    }

    fn times(&self, kind: Kind) -> usize {
        if kind == Kind::Herald { self.times } else { self.others_times }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let (metallb, kube_proxy) = metallb::versions().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let header = format!(
        "{}; MetalLB {metallb} with kube-proxy {kube_proxy}, keepalived {}; Linux {}, {cores} cores, load {:.1}",
        herald::version()?,
        keepalived(),
        system.trim(),
        load(),
    );
    eprintln!("{header}");
    let mut table = Table::new("", &["metallb", "keepalived"]);
    let outcome = run(&arguments, &mut table);
    table.keep(&header, begin.elapsed(), &arguments.json)?;
    outcome?;
    table.judge()
}

fn run(arguments: &Arguments, table: &mut Table) -> Result<()> {
    for kind in arguments.kinds() {
        if MOVES.iter().any(|row| arguments.wants(row)) {
            let mut system = System::start(kind, 3)?;
            all_moves(&mut system, arguments, kind, table).with_context(|| system.logs())?;
        }
        if arguments.wants("endpoints") && kind != Kind::Keepalived {
            let mut system = System::start(kind, 3)?;
            let times = if kind == Kind::Herald { third(arguments.times) } else { 1 };
            endpoints::measure(&mut system, times, table).with_context(|| system.logs())?;
        }
        if arguments.wants("many") && kind != Kind::Keepalived {
            many::measure(kind, table)?;
        }
        if arguments.wants("idle") {
            quiet::idle(&System::start(kind, IDLE_NODES)?, table)?;
        }
    }
    if arguments.wants("false-moves") && arguments.kinds().contains(&Kind::Herald) {
        let system = System::start(Kind::Herald, 3)?;
        quiet::false_moves(&system, arguments.false_minutes, table).with_context(|| system.logs())?;
    }
    Ok(())
}

fn all_moves(system: &mut System, arguments: &Arguments, kind: Kind, table: &mut Table) -> Result<()> {
    let times = arguments.times(kind);
    for (way, times) in [(Way::Killed, times), (Way::Power, times), (Way::Carrier, third(times))] {
        if arguments.wants(way.word()) {
            moves::measure(system, way, times, table)?;
        }
    }
    if arguments.wants("planned") {
        moves::planned(system, third(times), table)?;
    }
    Ok(())
}

fn third(times: usize) -> usize {
    times.div_ceil(3)
}

/// keepalived's version.
fn keepalived() -> String {
    let output = std::process::Command::new("/usr/sbin/keepalived").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    text.split_whitespace().find(|word| word.starts_with('v')).unwrap_or_default().to_owned()
}
