//! `bench-create`: from a new Service to its first byte, Herald beside MetalLB and kube-proxy, in one lab and one run.
//!
//! Herald goes first, on an API server that has only just started; then its Services and rules are removed, and MetalLB and
//! kube-proxy are measured on the same nodes with addresses that were never used before. The result is on standard
//! output, progress on standard error. A missed bar is a failure. See `herald_e2e::bench`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use herald_e2e::bench::create::{self, Options, Sample};
use herald_e2e::bench::report::{self, Series};
use herald_e2e::bench::{herald, metallb};
use herald_e2e::{Lab, PodOptions};

/// Halves of the plan's addresses for Services.
const HERALD_POOL: &str = "192.0.2.0/25";
const METALLB_POOL: &str = "192.0.2.128/25";
/// A pool has 128 addresses, and one Service more than those measured shows that everything is up.
const MOST: u32 = 127;

#[derive(Parser)]
#[command(
    name = "bench-create",
    about = "Times a new Service to its first byte, beside MetalLB and kube-proxy"
)]
struct Arguments {
    /// How many Services
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    services: u32,
    /// Measures only one of the two; bars that need both are not judged
    #[arg(long)]
    only: Option<System>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    Herald,
    Metallb,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |system| arguments.only.is_none_or(|only| only == system);
    let begin = Instant::now();
    eprintln!("the lab: three nodes, BIRD, a client, Kubernetes");
    let lab = Lab::builder().nodes(3).control_plane().bird().noisy().start()?;
    for node in lab.nodes() {
        lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
    }
    let (bird, kubernetes) = create::versions(&lab)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{} Services one after the other, 3 nodes, 3 pods; Kubernetes {kubernetes}, {bird}, Linux {}, {cores} cores",
        arguments.services,
        read("/proc/sys/kernel/osrelease"),
    );

    let ours = wants(System::Herald).then(|| measure_herald(&lab, arguments.services)).transpose()?;
    let theirs = wants(System::Metallb).then(|| measure_metallb(&lab, arguments.services)).transpose()?;

    let series: Vec<Series> = ours.iter().chain(&theirs).cloned().collect();
    println!("\n{}", report::table(&series));
    let bars = report::bars(ours.as_ref(), theirs.as_ref());
    print!("{}", report::verdict(&bars));
    println!("{:.0} s in all", begin.elapsed().as_secs_f64());
    lab.remove()?;
    let missed = bars.iter().filter(|bar| !bar.met).count();
    if missed > 0 {
        bail!("{missed} of {} bars missed", bars.len());
    }
    Ok(())
}

fn measure_herald(lab: &Lab, services: u32) -> Result<Series> {
    let version = herald::version()?;
    eprintln!("{version}: starting");
    let herald = herald::Herald::start(lab, HERALD_POOL)?;
    let samples = measure(lab, "herald", services).with_context(|| herald.logs())?;
    create::delete_all(lab).with_context(|| herald.logs())?;
    herald.stop(lab)?;
    Ok(Series { system: version, samples })
}

fn measure_metallb(lab: &Lab, services: u32) -> Result<Series> {
    let (metallb, kube_proxy) = metallb::versions()?;
    let system = format!("MetalLB {metallb} (native BGP) + kube-proxy {kube_proxy} (nftables)");
    eprintln!("{system}: starting");
    let running = metallb::MetalLb::start(lab, METALLB_POOL)?;
    let samples = measure(lab, "metallb", services).with_context(|| running.logs())?;
    Ok(Series { system, samples })
}

fn measure(lab: &Lab, name: &str, services: u32) -> Result<Vec<Sample>> {
    let before = load();
    let options = Options {
        name,
        app: "web",
        services,
        patience: Duration::from_secs(5),
        limit: Duration::from_secs(150),
    };
    let samples = create::measure(lab, &options)?;
    let attempts: u32 = samples.iter().map(|sample| sample.attempts).sum();
    println!("{name}: {attempts} connections tried; load of the machine {before} before, {} after", load());
    Ok(samples)
}

fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
