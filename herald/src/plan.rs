//! `herald plan`: what other configuration would do to the Services' addresses, asked of the controller's own planner; nothing is written.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use herald_config::File;
use herald_controller::config_map::{ConfigView, watched};
use herald_controller::namespaces::NamespaceView;
use herald_controller::planner::forecast::{Cluster, Failure, Forecast, Held, Moved, forecast};
use herald_controller::service::ServiceView;
use herald_runtime::untyped::{CONFIG_MAP, NAMESPACE};
use herald_runtime::{client, said};
use herald_speaker::explain::{cells, table};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use crate::explain::Output;
use crate::flags::ClientFlags;
use crate::offline::{REFUSED, UNREADABLE, read};
use crate::print;

/// For all lists.
const API: Duration = Duration::from_secs(60);
/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// Rows of Services; `-o json` has all.
const ROWS: usize = 200;

/// `herald plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanFlags {
    /// YAML files as for `kubectl apply -f`, with objects of metallb.io or the ConfigMap; `-` is standard input, can be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Where the configuration is.
    #[arg(long, env = "HERALD_NAMESPACE", default_value = "metallb-system", value_name = "NAME")]
    namespace: String,
    /// As the controller's.
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    /// Text for people or JSON for scripts.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    client: ClientFlags,
}

/// Reads, asks and prints; the exit code is that of `herald check`.
pub(crate) async fn run(flags: PlanFlags) -> Result<ExitCode> {
    let PlanFlags { files, namespace, lb_class, output, client } = flags;
    let files = files
        .into_iter()
        .map(|name| Ok(File { text: read(&name).with_context(|| name.clone())?, name }))
        .collect::<Result<Vec<File>>>()?;
    let client = client::connect(&client.options())
        .await
        .context("herald plan asks the API server for all Services")?;
    let cluster = tokio::time::timeout(API, cluster(&client, &namespace))
        .await
        .map_err(|_| anyhow!("the API server does not answer within {} s", API.as_secs()))??;
    let judged = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
        forecast((lb_class, &namespace), cluster, &files, Instant::now())
    });
    match judged {
        Ok(forecast) => {
            match output {
                Output::Text => print(&Screen(&forecast).to_string()),
                Output::Json => print(&format!("{:#}\n", serde_json::to_value(&forecast)?)),
            }
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
                    of(&["198.51.100.1", "2001:db8::8"], Some("new"), Some("192.0.2.8 is in no pool")),
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
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/plan.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            text,
            "UPDATE_GOLDEN=1 rewrites {path}"
        );
    }
}
