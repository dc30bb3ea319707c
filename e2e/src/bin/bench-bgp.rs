//! `bench-bgp`: BGP and BFD, Herald beside BIRD, GoBGP and FRR, in one lab and in one run.
//!
//! The table is on standard output, its figures are kept as JSON, progress goes to standard error. A missed bar is a
//! failure. `--only`, `--routes` and `--false-minutes` make a short form. See `herald_e2e::bench::bgp`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use herald_e2e::Lab;
use herald_e2e::bench::bgp::{detect, outage, quiet, routes, senders, single, transfer};
use herald_e2e::bench::proxy::table::{Table, load};
use herald_e2e::bench::{create, herald};

/// All rows; `cost` comes with `transfer`.
const ROWS: [&str; 7] = ["transfer", "single", "bfd", "false", "death", "restart", "drain"];
/// So many routes are there when one is added.
const BESIDE: u32 = 10_000;

#[derive(Parser)]
#[command(name = "bench-bgp", about = "Measures BGP and BFD, beside BIRD, GoBGP and FRR")]
struct Arguments {
    /// Only these rows
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    only: Vec<String>,
    /// Numbers of routes, in thousands of which each Service has one
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    routes: Vec<u32>,
    /// How long the row `false` waits for failures that are none
    #[arg(long, default_value_t = 30)]
    false_minutes: u64,
    /// Where the figures are kept
    #[arg(long, default_value = "bench-bgp.json")]
    json: PathBuf,
}

impl Arguments {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    arguments.routes.sort_unstable();
    arguments.routes.dedup();
    let whole = |count: &u32| count.is_multiple_of(1000) && (1000..=100_000).contains(count);
    ensure!(arguments.routes.iter().all(whole), "routes are whole thousands up to 100000");
    let begin = Instant::now();
    let mut table = Table::new("routes", &["bird", "gobgp", "frr"]);
    let mut header = String::new();
    let outcome = run(&arguments, &mut table, &mut header);
    table.keep(&header, begin.elapsed(), &arguments.json)?;
    outcome?;
    table.judge()
}

fn run(arguments: &Arguments, table: &mut Table, header: &mut String) -> Result<()> {
    eprintln!("the lab: three nodes, a router, Kubernetes");
    let lab = Lab::builder().nodes(3).control_plane().noisy().start()?;
    let kubernetes = create::kubernetes(&lab)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    *header = format!(
        "{}; {}; Kubernetes {kubernetes}, Linux {}, {cores} cores, load {:.1}",
        herald::version()?,
        senders::versions()?,
        system.trim(),
        load(),
    );
    eprintln!("{header}");
    // Nothing moves but what is measured.
    lab.stop_controllers()?;
    if ["transfer", "single"].iter().any(|row| arguments.wants(row)) {
        tables(&lab, arguments, table)?;
    }
    if arguments.wants("bfd") {
        detect::measure(&lab, table)?;
    }
    if arguments.wants("false") {
        quiet::measure(&lab, arguments.false_minutes, table)?;
    }
    lab.remove()?;
    if ["death", "restart", "drain"].iter().any(|row| arguments.wants(row)) {
        let lab = Lab::builder().nodes(3).control_plane().bird().noisy().start()?;
        outage::measure(&lab, &|row| arguments.wants(row), table)?;
        lab.remove()?;
    }
    Ok(())
}

/// With many routes.
fn tables(lab: &Lab, arguments: &Arguments, table: &mut Table) -> Result<()> {
    lab.configure_herald(&format!(
        "peers:\n- {{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}}\n\
         address-pools:\n- {{name: routes, protocol: bgp, addresses: [{}]}}\n",
        routes::POOL
    ))?;
    let mut router = transfer::router(lab)?;
    let mut made = 0;
    let mut grow = |count: u32| {
        routes::make(lab, made, count)?;
        made = made.max(count);
        anyhow::Ok(made)
    };
    if arguments.wants("single") {
        grow(BESIDE)?;
        single::measure(lab, &mut router, BESIDE, table)?;
    }
    if arguments.wants("transfer") {
        for count in &arguments.routes {
            if grow(*count)? == *count {
                transfer::measure(lab, &mut router, *count, table)?;
            } else {
                eprintln!("there are more than {count} routes already");
            }
        }
    }
    Ok(())
}
