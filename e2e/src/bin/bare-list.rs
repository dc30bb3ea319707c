//! `bare-list`: lists what a service proxy has to know, by the library that Herald uses, and does nothing with it.
//!
//! The yardstick of a cold start: the kinds, selectors and pages are those of Herald's watches, all kinds at the same
//! time, each object decoded into the type that `k8s-openapi` has for it and dropped. It has Herald's allocator, too.

use std::fmt::Debug;

use anyhow::Result;
use clap::Parser;
use herald_e2e::bench::bare::{ClientFlags, PAGE};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Herald's selector of Services and slices.
const PROXIED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

#[derive(Parser)]
#[command(name = "bare-list", about = "Lists what a service proxy has to know, and does nothing with it")]
struct Arguments {
    #[command(flatten)]
    client: ClientFlags,
    /// Objects per page
    #[arg(long, default_value_t = PAGE)]
    page: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.client.client().await?;
    let proxied = ListParams::default().labels(PROXIED).limit(arguments.page);
    let all = ListParams::default().limit(arguments.page);
    let mut lists = JoinSet::new();
    lists.spawn(list::<Service>(Api::all(client.clone()), proxied.clone()));
    lists.spawn(list::<EndpointSlice>(Api::all(client.clone()), proxied));
    lists.spawn(list::<Node>(Api::all(client.clone()), all.clone()));
    lists.spawn(list::<ConfigMap>(Api::namespaced(client, herald_e2e::NAMESPACE), all));
    let mut objects = 0;
    while let Some(listed) = lists.join_next().await {
        objects += listed??;
    }
    println!("{objects} objects");
    Ok(())
}

/// All pages of one kind; how many objects there were.
async fn list<K>(api: Api<K>, mut parameters: ListParams) -> Result<usize>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut count = 0;
    loop {
        let page = api.list(&parameters).await?;
        count += page.items.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(count),
        }
    }
}
