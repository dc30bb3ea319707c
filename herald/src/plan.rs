//! `herald plan`: what other configuration would do to the Services' addresses, asked of the controller's own planner; and what becomes of them when
//! a node is drained ([`drain`]). Nothing is written.

mod drain;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use herald_config::File;
use herald_controller::config_map::{ConfigView, watched};
use herald_controller::namespaces::NamespaceView;
use herald_controller::planner::forecast::{Cluster, Failure, Forecast, Held, Moved, forecast};
use herald_controller::service::ServiceView;
use herald_runtime::said;
use herald_runtime::untyped::{CONFIG_MAP, NAMESPACE};
use herald_speaker::explain::{NODE_PATH, NodeAnswer, cells, table};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use crate::flags::ReportFlags;
use crate::offline::{REFUSED, UNREADABLE, read};
use crate::print;
use crate::speakers::{ask_nodes, nodes};

/// For all lists.
const API: Duration = Duration::from_secs(60);
/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// Rows of Services; `-o json` has all.
const ROWS: usize = 200;

/// `herald plan`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PlanFlags {
    #[command(subcommand)]
    of: Option<Of>,
    /// YAML files as for `kubectl apply -f`, with objects of metallb.io or the ConfigMap; `-` is standard input, can be repeated.
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
    /// What becomes of addresses and endpoints when a node is taken out of load balancing and its pods are evicted: who would announce what it
    /// announces, and what nobody would. Exit code 1: something would not be reached.
    Drain {
        /// The Node.
        node: String,
        #[command(flatten)]
        report: ReportFlags,
    },
}

/// Reads, asks and prints; the exit code is that of `herald check`.
pub(crate) async fn run(flags: PlanFlags) -> Result<ExitCode> {
    let PlanFlags { of, files, lb_class, report: ReportFlags { output, cluster: asked } } = flags;
    if let Some(Of::Drain { node, report }) = of {
        return plan_drain(node, &report).await;
    }
    let files = files
        .into_iter()
        .map(|name| Ok(File { text: read(&name).with_context(|| name.clone())?, name }))
        .collect::<Result<Vec<File>>>()?;
    let client = asked.connect("herald plan asks the API server for all Services").await?;
    let cluster = tokio::time::timeout(API, cluster(&client, &asked.namespace))
        .await
        .map_err(|_| anyhow!("the API server does not answer within {} s", API.as_secs()))??;
    let judged = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
        forecast((lb_class, &asked.namespace), cluster, &files, Instant::now())
    });
    match judged {
        Ok(forecast) => {
            print(&output.of(&forecast, Screen(&forecast))?);
            Ok(if forecast.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
        Err(Failure::Unreadable(findings)) => {
            findings.iter().for_each(|finding| eprintln!("{finding}"));
            Ok(ExitCode::from(UNREADABLE))
        }
        Err(Failure::Nothing) => Err(anyhow!(
            "there is nothing to plan: name files with objects of metallb.io, or with the ConfigMap"
        )),
    }
}

async fn plan_drain(node: String, ReportFlags { output, cluster }: &ReportFlags) -> Result<ExitCode> {
    let client = cluster.connect("herald plan drain asks the API server for nodes and Services").await?;
    let (facts, unread) = tokio::time::timeout(API, drain_facts(&client, &cluster.namespace, node.clone()))
        .await
        .map_err(|_| anyhow!("the API server does not answer within {} s", API.as_secs()))??;
    let drained = drain::drained(&facts).ok_or_else(|| match facts.answers.get(&node) {
        Some(Err(why)) => anyhow!("{node}: no word from its speaker: {why}"),
        _ => anyhow!(
            "there is no Node {node}; there are {}",
            facts.answers.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    })?;
    print(&output.of(&drained, &drained)?);
    if let Some(why) = unread {
        eprintln!("herald plan drain: pods are not known ({why}); speakers were asked at their nodes");
    }
    Ok(if drained.loses() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn drain_facts(
    client: &Client,
    namespace: &str,
    node: String,
) -> Result<(drain::Facts, Option<String>)> {
    let (nodes, unread) = nodes(client, namespace).await?;
    let answers = ask_nodes::<NodeAnswer>(client, namespace, &nodes, NODE_PATH).await;
    let answers = answers
        .into_iter()
        .map(|(node, answer)| (node, answer.map(|heard| heard.answer).map_err(|silence| silence.why)));
    let services: Vec<Service> = list("Services", &Api::all(client.clone())).await?;
    let slices: Vec<EndpointSlice> = list("EndpointSlices", &Api::all(client.clone())).await?;
    Ok((drain::Facts { node, answers: answers.collect(), services: service_facts(services, slices) }, unread))
}

fn service_facts(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Vec<drain::ServiceFact> {
    let mut ready: BTreeMap<(String, String), BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.unwrap_or_default();
        let Some(service) = labels.get("kubernetes.io/service-name") else { continue };
        let of = ready.entry((slice.metadata.namespace.unwrap_or_default(), service.clone())).or_default();
        for endpoint in slice.endpoints.into_iter().flatten() {
            let is_ready =
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            // Of both families it is one pod.
            let pod = endpoint.target_ref.and_then(|target| target.name);
            let who = pod.or_else(|| endpoint.addresses.first().cloned());
            if let (true, Some(node), Some(who)) = (is_ready, endpoint.node_name, who) {
                of.entry(node).or_default().insert(who);
            }
        }
    }
    let fact = |service: Service| {
        let meta = service.metadata;
        let name = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let ingress =
            service.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
        let addresses = ingress.into_iter().flatten().filter_map(|entry| entry.ip?.parse().ok());
        let policy = service.spec.and_then(|spec| spec.external_traffic_policy);
        drain::ServiceFact {
            addresses: addresses.collect(),
            local: policy.as_deref() == Some("Local"),
            endpoints: ready
                .remove(&name)
                .into_iter()
                .flatten()
                .map(|(node, pods)| (node, pods.len()))
                .collect(),
            name: format!("{}/{}", name.0, name.1),
        }
    };
    services.into_iter().map(fact).collect()
}

async fn cluster(client: &Client, namespace: &str) -> Result<Cluster> {
    let services: Vec<Service> = list("Services", &Api::all(client.clone())).await?;
    let namespaces = Api::all_with(client.clone(), &NAMESPACE.resource());
    let namespaces: Vec<DynamicObject> = list("Namespaces", &namespaces).await?;
    let maps: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &CONFIG_MAP.resource());
    let config_map = maps.get_opt("config").await.map_err(|error| refused("the ConfigMap", error))?;
    let mut objects = BTreeMap::new();
    for kind in watched() {
        let api = Api::namespaced_with(client.clone(), namespace, &kind.resource());
        let found: Vec<DynamicObject> = list(kind.plural, &api).await?;
        let found = found.iter().map(serde_json::to_value).collect::<serde_json::Result<_>>()?;
        objects.insert(kind.kind, found);
    }
    Ok(Cluster {
        services: services.into_iter().map(|service| Box::new(ServiceView::new(service))).collect(),
        namespaces: namespaces.into_iter().map(NamespaceView::new).collect(),
        config_map: config_map.map(ConfigView::new),
        objects,
    })
}

/// All of a kind; none where the API has no such kind.
async fn list<K>(what: &str, api: &Api<K>) -> Result<Vec<K>>
where
    K: Clone + fmt::Debug + DeserializeOwned,
{
    let (mut found, mut parameters) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = match api.list(&parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            list => list.map_err(|error| refused(what, error))?,
        };
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn refused(what: &str, error: kube::Error) -> anyhow::Error {
    anyhow!("the API server does not tell {what}: {}", said(error))
}

/// As people read it.
struct Screen<'a>(&'a Forecast);

fn held(held: &Held) -> String {
    let addresses: Vec<String> = held.addresses.iter().map(ToString::to_string).collect();
    match (&held.pool, addresses.is_empty()) {
        (_, true) => "-".to_owned(),
        (None, _) => addresses.join(", "),
        (Some(pool), _) => format!("{} ({pool})", addresses.join(", ")),
    }
}

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Forecast { services, moved, pools, refused }) = self;
        for text in refused {
            writeln!(f, "! refused, and what is in force stays: {text}")?;
        }
        let gone = moved.iter().filter(|moved| !moved.now.addresses.is_empty()).count();
        match (moved.len(), gone) {
            (0, _) => writeln!(f, "no Service of {services} would have another address")?,
            (some, 0) => {
                writeln!(f, "{some} of {services} Services would have an address that have none now")?
            }
            (some, gone) => writeln!(
                f,
                "{some} of {services} Services would have other addresses; clients of {gone} lose the one that they know"
            )?,
        }
        if !moved.is_empty() {
            let row = |moved: &Moved| {
                let why = moved.then.why.clone().unwrap_or_else(|| "-".to_owned());
                vec![moved.service.clone(), held(&moved.now), held(&moved.then), why]
            };
            let rows: Vec<_> = moved.iter().take(ROWS).map(row).collect();
            table(f, &cells(["Service", "now", "then", "why"]), &rows)?;
            if moved.len() > ROWS {
                writeln!(f, "and {} more (-o json has all)", moved.len() - ROWS)?;
            }
        }
        if !pools.is_empty() {
            let used = |used: Option<(u64, u128)>| {
                used.map_or_else(|| "-".to_owned(), |(used, all)| format!("{used} of {all}"))
            };
            let rows: Vec<_> =
                pools.iter().map(|pool| vec![pool.pool.clone(), used(pool.now), used(pool.then)]).collect();
            table(f, &cells(["Pool", "in use now", "then"]), &rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use herald_controller::planner::forecast::PoolUse;

    use super::*;
    use crate::testing::golden;

    fn of(addresses: &[&str], pool: Option<&str>, why: Option<&str>) -> Held {
        Held {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pool: pool.map(str::to_owned),
            why: why.map(str::to_owned),
        }
    }

    #[test]
    fn the_screen_is_as_its_golden_file() {
        let moved = |service: &str, now, then| Moved { service: service.to_owned(), now, then };
        let used = |pool: &str, now, then| PoolUse { pool: pool.to_owned(), now, then };
        let changes = Forecast {
            services: 14,
            moved: vec![
                moved(
                    "shop/db",
                    of(&["192.0.2.9"], Some("edge"), None),
                    of(
                        &[],
                        None,
                        Some(
                            "no IPv4 address is free in edge: add addresses or delete a Service; it is tried again as soon as one frees",
                        ),
                    ),
                ),
                moved(
                    "shop/web",
                    of(&["192.0.2.8", "2001:db8::8"], Some("edge"), None),
                    of(
                        &["198.51.100.1", "2001:db8::8"],
                        Some("new"),
                        Some("192.0.2.8 is in no pool: add it to one or request another"),
                    ),
                ),
                moved("test/waits", of(&[], None, None), of(&["198.51.100.2"], Some("new"), None)),
            ],
            pools: vec![used("edge", Some((14, 16)), Some((12, 12))), used("new", None, Some((2, 254)))],
            refused: Vec::new(),
        };
        let nothing = Forecast {
            services: 1,
            moved: Vec::new(),
            pools: vec![used("edge", Some((1, 16)), Some((1, 16)))],
            refused: vec!["IPAddressPool edge, spec.addresses[0]: 192.0.2.0/33 is no range".to_owned()],
        };
        let text = format!(
            "$ herald plan -f pools.yaml\n{}\n$ herald plan -f typo.yaml\n{}",
            Screen(&changes),
            Screen(&nothing)
        );
        golden("plan.txt", &text);
    }
}
