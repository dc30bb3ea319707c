//! `bench-controller`: the controller with ten thousand Services and more, beside a bare program that writes the same.
//!
//! The table is on standard output, its figures are kept as JSON, progress goes to standard error. A missed bar is a
//! failure. See `herald_e2e::bench::controller`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use herald_e2e::Lab;
use herald_e2e::bench::proxy::table::{Table, load};
use herald_e2e::bench::{controller, create, herald};

/// All rows.
const ROWS: [&str; 4] = ["pending", "more", "restart", "memory"];

#[derive(Parser)]
#[command(name = "bench-controller", about = "Measures the controller at scale")]
struct Arguments {
    /// Only these rows
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    only: Vec<String>,
    /// Where the figures are kept
    #[arg(long, default_value = "bench-controller.json")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    eprintln!("the lab: one node, BIRD, Kubernetes");
    let lab = Lab::builder().nodes(1).control_plane().bird().noisy().start()?;
    let (_, kubernetes) = create::versions(&lab)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let header = format!(
        "{}; Kubernetes {kubernetes}, Linux {}, {cores} cores, load {:.1}",
        herald::version()?,
        system.trim(),
        load(),
    );
    eprintln!("{header}");
    let mut table = Table::default();
    let wants = |row: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == row);
    let outcome = controller::measure(&lab, &wants, &mut table).with_context(|| controller::log_tail(&lab));
    table.keep(&header, begin.elapsed(), &arguments.json)?;
    outcome?;
    lab.remove()?;
    table.judge()
}
