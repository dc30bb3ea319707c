//! `bench-proxy`: the service proxy at scale, Herald beside kube-proxy in nftables mode, on one API server and in one run.
//!
//! The table is on standard output, its figures are kept as JSON, progress goes to standard error. A missed bar is a
//! failure. `--only` and `--sizes` make a short form. See `herald_e2e::bench::proxy`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use herald_e2e::bench::proxy::scale::{self, Scale};
use herald_e2e::bench::proxy::system::{Kind, System};
use herald_e2e::bench::proxy::table::{Table, load};
use herald_e2e::bench::proxy::{change, latency, more, planned, start};
use herald_e2e::bench::{create, herald, metallb};
use herald_e2e::{Lab, Namespace, PodOptions};

/// All rows.
const ROWS: [&str; 8] = ["cold-start", "change", "more", "churn", "latency", "restart", "rolling", "death"];
/// The size of the rows that are measured at one size only, if it is among the sizes.
const MIDDLE: u32 = 10_000;
/// Halves of the plan's addresses for Services.
const HERALD_POOL: &str = "192.0.2.0/25";
const METALLB_POOL: &str = "192.0.2.128/25";

#[derive(Parser)]
#[command(name = "bench-proxy", about = "Measures the service proxy at scale, beside kube-proxy")]
struct Arguments {
    /// Only these rows (memory comes with cold-start)
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    only: Vec<String>,
    /// Numbers of Services
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,45000")]
    sizes: Vec<u32>,
    /// kube-proxy is started up to this number of Services: it needs many minutes for more
    #[arg(long, default_value_t = MIDDLE)]
    kube_proxy_up_to: u32,
    /// Herald alone
    #[arg(long)]
    herald_only: bool,
    /// Where the figures are kept
    #[arg(long, default_value = "bench-proxy.json")]
    json: PathBuf,
}

impl Arguments {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    fn wants_any(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| self.wants(row))
    }
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    arguments.sizes.sort_unstable();
    arguments.sizes.dedup();
    ensure!(arguments.sizes.iter().all(|size| (100..=65_000).contains(size)), "sizes are 100 to 65000");
    let begin = Instant::now();
    eprintln!("the lab: three nodes, BIRD, a client, Kubernetes");
    let lab = Lab::builder().nodes(3).control_plane().bird().noisy().start()?;
    let (_, kubernetes) = create::versions(&lab)?;
    let (_, kube_proxy) = metallb::versions().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let header = format!(
        "{}; kube-proxy {kube_proxy} (nftables); Kubernetes {kubernetes}, Linux {}, {cores} cores, load {:.1}",
        herald::version()?,
        read("/proc/sys/kernel/osrelease"),
        load(),
    );
    eprintln!("{header}");
    let mut table = Table::default();
    let outcome = run(&lab, &arguments, &mut table);
    table.keep(&header, begin.elapsed(), &arguments.json)?;
    outcome?;
    lab.remove()?;
    table.judge()
}

fn run(lab: &Lab, arguments: &Arguments, table: &mut Table) -> Result<()> {
    if arguments.wants_any(&["rolling", "death"]) {
        planned_work(lab, arguments, table)?;
    }
    if arguments.wants_any(&["cold-start", "change", "more", "churn", "latency", "restart"]) {
        at_scale(lab, arguments, table)?;
    }
    Ok(())
}

/// With an announcer and controllers, and few Services.
fn planned_work(lab: &Lab, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let rows = |row: &str| arguments.wants(row);
    let running = herald::Herald::start(lab, HERALD_POOL)?;
    planned::measure(lab, Kind::Herald, &rows, table).with_context(|| running.logs())?;
    running.stop(lab)?;
    if !arguments.herald_only {
        let running = metallb::MetalLb::start(lab, METALLB_POOL)?;
        planned::measure(lab, Kind::KubeProxy, &rows, table).with_context(|| running.logs())?;
        running.remove(lab)?;
    }
    Ok(())
}

/// Without controllers: nothing moves but what is measured.
fn at_scale(lab: &Lab, arguments: &Arguments, table: &mut Table) -> Result<()> {
    lab.stop_controllers()?;
    // No peers, no pools: the proxy alone.
    lab.configure_herald("{}")?;
    let pod = |node: u8, name: &str| lab.pod(lab.node(node), name, &PodOptions::app("scale"));
    let servers = [pod(3, "server-1")?, pod(3, "server-2")?, pod(3, "server-3")?];
    let servers: Vec<(String, IpAddr)> = servers.iter().map(|pod| (pod.node.name.clone(), pod.ip)).collect();
    let clients = [pod(1, "client-1")?.ns, pod(2, "client-2")?.ns, pod(3, "client-3")?.ns];
    let mut scale = Scale::new(&arguments.sizes, servers.clone());

    if arguments.wants("latency") {
        scale.grow(lab, 10)?;
        let system = System::start(lab, Kind::Herald, lab.node(2))?;
        system.await_programmed(std::time::Duration::from_secs(30))?;
        system.stop()?;
    }
    for (round, size) in (0u32..).zip(&arguments.sizes) {
        scale.grow(lab, *size)?;
        let system = herald_at(lab, arguments, &mut scale, &servers, &clients, round, table)?;
        drop(system);
        lab.node(1).ns.exec(&["nft", "flush", "ruleset"])?;
        if !arguments.herald_only && *size <= arguments.kube_proxy_up_to {
            kube_proxy_at(lab, arguments, &mut scale, &servers, &clients[2], round, table)?;
        }
    }
    Ok(())
}

/// The size at which rows of one size are taken: 10,000, or the largest of a short form without it.
fn is_middle(arguments: &Arguments, size: u32) -> bool {
    match arguments.sizes.contains(&MIDDLE) {
        true => size == MIDDLE,
        false => arguments.sizes.last() == Some(&size),
    }
}

fn herald_at(
    lab: &Lab,
    arguments: &Arguments,
    scale: &mut Scale,
    servers: &[(String, IpAddr)],
    clients: &[Namespace; 3],
    round: u32,
    table: &mut Table,
) -> Result<System> {
    let (node, pod, size) = (lab.node(1), &clients[0], scale.count());
    let mut system = if arguments.wants("cold-start") {
        start::herald(lab, scale, node, pod, table)?
    } else {
        let system = System::start(lab, Kind::Herald, node)?;
        system.await_programmed(std::time::Duration::from_secs(120))?;
        system
    };
    let middle = is_middle(arguments, size);
    if arguments.wants("change") && (middle || size > MIDDLE) {
        change::single(lab, scale, &system, table).with_context(|| system.log_tail())?;
    }
    if arguments.wants("more") && middle {
        let first = round * 1000;
        let options = more::Options { kind: Kind::Herald, pod, count: 100, first, services: size };
        more::measure(lab, servers, &options, table).with_context(|| system.log_tail())?;
    }
    if arguments.wants("latency") && middle {
        let to = scale::at(0);
        latency::measure((pod, to), (&clients[1], to), size, table)?;
    }
    if arguments.wants("churn") && middle {
        change::churn(lab, scale, &system, table).with_context(|| system.log_tail())?;
    }
    if arguments.wants("restart") && middle {
        let (again, report) = planned::restart(lab, system, node, pod, planned::LOAD)?;
        system = again;
        planned::failed(table, "restart", Some(size), Kind::Herald, "restart under 500/s: failed", &report);
    }
    Ok(system)
}

fn kube_proxy_at(
    lab: &Lab,
    arguments: &Arguments,
    scale: &mut Scale,
    servers: &[(String, IpAddr)],
    pod: &Namespace,
    round: u32,
    table: &mut Table,
) -> Result<()> {
    let (size, middle) = (scale.count(), is_middle(arguments, scale.count()));
    if !(arguments.wants("cold-start") || middle && arguments.wants_any(&["more", "churn"])) {
        return Ok(());
    }
    let system = start::kube_proxy(lab, scale, lab.node(3), pod, table)?;
    if arguments.wants("more") && middle {
        let first = round * 1000 + 500;
        let options = more::Options { kind: Kind::KubeProxy, pod, count: 10, first, services: size };
        more::measure(lab, servers, &options, table).with_context(|| system.log_tail())?;
    }
    if arguments.wants("churn") && middle {
        change::churn_kube_proxy(lab, scale, &system, table).with_context(|| system.log_tail())?;
    }
    drop(system);
    lab.node(3).ns.exec(&["nft", "flush", "ruleset"])?;
    Ok(())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
