//! `herald plan`: what other configuration, or other Services, would do to addresses, asked of the controller's own planner; what it would do to sessions,
//! routes and owners, asked of the speakers' own plans; which connections that would break ([`mod@connections`]); and what becomes of all that when
//! a node is drained ([`drain`]). Nothing is written.

mod addresses;
mod announced;
mod connections;
mod drain;
mod facts;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use herald_config::{File, Finding, Manifests};
use herald_controller::planner::forecast as addresses_of;
use herald_controller::service::ServiceView;
use herald_speaker::SpeakerOptions;
use herald_speaker::forecast::{Forecast, World, forecast};
use kube::Client;
use serde::Serialize;

use self::connections::{Connections, Ground, connections};
use self::facts::{Heard, Listed, service_facts};
use self::services::Wanted;
use crate::flags::ReportFlags;
use crate::offline::{REFUSED, UNREADABLE, read};
use crate::print;

/// For all lists.
const API: Duration = Duration::from_secs(60);
/// For the speakers' answers too.
const SPEAKERS: Duration = Duration::from_secs(30);
/// Rows of one table; `-o json` has all.
const ROWS: usize = 200;
/// Names in one cell.
const NAMED: usize = 3;
/// What neither the API server nor a plan can tell.
const UNKNOWN: &str = "Not known from here: how many connections there are, what routers do with what they are told, keys in Secrets, neighbours \
                       that dial in, other flags of speakers, and what their probes say.";

/// `herald plan`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PlanFlags {
    #[command(subcommand)]
    of: Option<Of>,
    /// YAML files as for `kubectl apply -f`, with Services, objects of metallb.io or the ConfigMap; `-` is standard input, can be repeated. Services
    /// are judged with the API server's dry run, for which one needs the right to write them.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// As the controller's.
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    #[command(flatten)]
    report: ReportFlags,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// What becomes of addresses, routes, endpoints and connections when a node is taken out of load balancing and its pods are evicted: who would
    /// announce what it announces, and what nobody would. Exit code 1: something would not be reached.
    Drain {
        /// The Node.
        node: String,
        #[command(flatten)]
        report: ReportFlags,
    },
}

/// What other configuration would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    #[serde(flatten)]
    addresses: addresses_of::Forecast,
    announced: Forecast,
    /// That would break, or are handed over.
    connections: Vec<Connections>,
    /// Nodes whose speakers do not say what they own by layer 2 and whether they hand connections over.
    unknown: BTreeMap<String, String>,
}

/// Reads, asks and prints; the exit code is that of `herald check`.
pub(crate) async fn run(flags: PlanFlags) -> Result<ExitCode> {
    let PlanFlags { of, files, lb_class, report: ReportFlags { output, cluster } } = flags;
    if let Some(Of::Drain { node, report }) = of {
        return plan_drain(node, &report).await;
    }
    let files = files
        .into_iter()
        .map(|name| Ok(File { text: read(&name).with_context(|| name.clone())?, name }))
        .collect::<Result<Vec<File>>>()?;
    let Manifests { configuring, services } = match Manifests::read(&files) {
        Ok(manifests) => manifests,
        Err(findings) => {
            findings.iter().for_each(|finding| eprintln!("{finding}"));
            return Ok(ExitCode::from(UNREADABLE));
        }
    };
    if configuring + services.len() == 0 {
        return Err(anyhow!(
            "there is nothing to plan: name files with Services, objects of metallb.io, or the ConfigMap"
        ));
    }
    let client = cluster.connect("herald plan asks the API server for all Services").await?;
    let wanted: Vec<Wanted> =
        services.into_iter().map(|service| Wanted::new(service, client.default_namespace())).collect();
    let mut listed = in_time(API, Listed::ask(&client, &cluster.namespace)).await?;
    let applied = in_time(API, services::ask(&client, &wanted, &listed.services)).await?;
    let views = applied.services.iter().map(|service| ServiceView::new(service.clone()));
    let (class, views) = (lb_class.clone(), views.collect());
    let judged = quietly(|| {
        addresses_of::forecast((class, &cluster.namespace), listed.cluster(), (&files, views), Instant::now())
    });
    let mut addresses = judged.map_err(unread)?;
    addresses.refused.extend(applied.refused.iter().cloned());
    let now = quietly(|| listed.world());
    let mut services = listed.by_address();
    listed.apply(applied);
    let then_of = |moved: &addresses_of::Moved| (moved.service.clone(), moved.then.addresses.clone());
    listed.give(&addresses.moved.iter().map(then_of).collect());
    let mut then = quietly(|| listed.world());
    quietly(|| then.apply_files(&files)).map_err(unread)?;
    let heard = in_time(SPEAKERS, Heard::ask(&client, &cluster.namespace)).await?;
    for (address, of) in listed.by_address() {
        services.entry(address).or_default().extend(of);
    }
    let planned = Planned::of(addresses, (now, then), &speakers(&client, lb_class), (&heard, &services));
    print(&output.of(&planned, &planned)?);
    Ok(if planned.addresses.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

impl Planned {
    fn of(
        addresses: addresses_of::Forecast,
        worlds: (World, World),
        options: &SpeakerOptions,
        (heard, services): (&Heard, &BTreeMap<IpAddr, BTreeSet<String>>),
    ) -> Self {
        let announced = quietly(|| forecast(worlds, options, heard.owners().as_ref()));
        let lost = addresses.moved.iter().flat_map(|moved| {
            moved.now.addresses.iter().filter(|address| !moved.then.addresses.contains(address)).copied()
        });
        let ground =
            Ground { gone: lost.collect(), services, evicted: None, without_proxy: &heard.without_proxy() };
        let connections = connections(&announced, &ground);
        Self { addresses, announced, connections, unknown: heard.silent() }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, announced, connections, unknown } = self;
        write!(f, "{}{}", addresses::Screen(addresses), announced::Screen(announced))?;
        write!(f, "{}", connections::Screen(connections))?;
        writeln!(f)?;
        for (node, why) in unknown {
            writeln!(
                f,
                "! {node}: no word from its speaker ({why}): what it owns by layer 2, and whether it hands over, is not known"
            )?;
        }
        writeln!(f, "{UNKNOWN}")
    }
}

/// What could be read before.
fn unread(findings: Vec<Finding>) -> anyhow::Error {
    anyhow!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// What is decided here is no news for a log.
fn quietly<T>(of: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), of)
}

async fn in_time<T>(limit: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| anyhow!("the API server does not answer within {} s", limit.as_secs()))?
}

/// As speakers are started, as far as that matters here.
fn speakers(client: &Client, class: Option<String>) -> SpeakerOptions {
    SpeakerOptions { load_balancer_class: class, ..SpeakerOptions::new(client.clone(), "") }
}

/// Names, or how many.
fn some(names: &[String]) -> String {
    named(names, "nodes")
}

fn named(names: &[String], all: &str) -> String {
    match names.len() {
        0..=NAMED => names.join(", "),
        many => format!("{many} {all}"),
    }
}

/// The first names, and how many more.
fn and_more(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

async fn plan_drain(node: String, ReportFlags { output, cluster }: &ReportFlags) -> Result<ExitCode> {
    let client = cluster.connect("herald plan drain asks the API server for nodes and Services").await?;
    let heard = in_time(SPEAKERS, Heard::ask(&client, &cluster.namespace)).await?;
    let mut listed = in_time(API, Listed::ask(&client, &cluster.namespace)).await?;
    let Heard { answers, unread } = &heard;
    let facts = drain::Facts {
        node: node.clone(),
        answers,
        services: service_facts(&listed.services, &listed.slices),
    };
    let drained = drain::drained(&facts).ok_or_else(|| match answers.get(&node) {
        Some(Err(why)) => anyhow!("{node}: no word from its speaker: {why}"),
        _ => anyhow!(
            "there is no Node {node}; there are {}",
            answers.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    })?;
    let services = listed.by_address();
    let now = quietly(|| listed.world());
    listed.drain(&node);
    let worlds = (now, quietly(|| listed.world()));
    let announced = quietly(|| forecast(worlds, &speakers(&client, None), heard.owners().as_ref()));
    let drained = drained.with(announced, &services, &heard.without_proxy());
    print(&output.of(&drained, &drained)?);
    if let Some(why) = unread {
        eprintln!("herald plan drain: pods are not known ({why}); speakers were asked at their nodes");
    }
    Ok(if drained.loses() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
