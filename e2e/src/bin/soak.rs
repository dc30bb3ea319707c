//! `soak`: churn of Services, endpoints, peers and owners under a load of connections, and a look at what it costs. See
//! `herald_e2e::bench::soak`. The table is on standard output, the page is a file; a failed connection or a process that grows is a
//! failure.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use herald_e2e::Lab;
use herald_e2e::bench::proxy::table::{Table, load};
use herald_e2e::bench::{create, herald, soak};

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Runs Herald under churn and load for long, and looks for what fails or grows"
)]
struct Arguments {
    /// How long, in minutes; the round that runs is finished
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Where the page goes
    #[arg(long, default_value = "soak.html")]
    page: PathBuf,
    /// Where the figures are kept
    #[arg(long, default_value = "soak.json")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let mut table = Table::new("-", &[]);
    let lab = Lab::builder().nodes(3).control_plane().bird().noisy().start()?;
    let kubernetes = create::kubernetes(&lab)?;
    let header = format!(
        "{}, {} min; Kubernetes {kubernetes}, load {:.1}",
        herald::version()?,
        arguments.minutes,
        load()
    );
    eprintln!("{header}");
    let outcome = soak::run(&lab, Duration::from_secs(arguments.minutes * 60), &mut table, &arguments.page);
    table.keep(&header, begin.elapsed(), &arguments.json)?;
    outcome?;
    println!("the page: {}", arguments.page.display());
    table.judge()
}
