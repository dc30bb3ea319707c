//! `herald status` without a subject: the whole cluster from outside, what is wrong first.
//!
//! One list each of Services, Nodes, pods of Herald, pools and ConfigurationStates, the Lease, and one question to each speaker: by the
//! API server's pod proxy where the speaker is a pod, at the node's admin port where it is not. Without Services and Nodes there is nothing
//! to tell; what else cannot be had is a finding, never the end: a cluster that is broken is when this is typed.

mod availability;
mod judge;
mod screen;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use herald_runtime::{client, said};
use herald_speaker::explain::NODE_PATH;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, ObjectList};
use kube::{Api, Client};
use serde_json::Value;

use self::judge::{Facts, PoolFact, ServiceFact, Unread, judge};
use crate::flags::ClientFlags;
use crate::speakers::{NodeFact, PODS, ask_nodes, untyped};

/// For all lists.
const API: Duration = Duration::from_secs(10);
const LEASE: &str = "herald-controller";

/// Looks at everything, and returns what to print.
pub(crate) async fn status(flags: &ClientFlags, namespace: &str, json: bool) -> Result<String> {
    let client = client::connect(&flags.options()).await.context(
        "herald status asks the API server (one node alone: herald status bgp, herald status routes)",
    )?;
    let mut facts = tokio::time::timeout(API, lists(&client, namespace)).await.map_err(|_| {
        anyhow!("the API server does not answer: ask a node itself, by herald status bgp --speaker HOST:7472")
    })??;
    let answers = ask_nodes(&client, namespace, &facts.nodes, NODE_PATH).await.into_iter();
    facts.answers = answers.map(|(node, heard)| (node, heard.map(|heard| heard.answer))).collect();
    let overview = judge(&facts);
    match json {
        true => Ok(format!("{:#}\n", serde_json::to_value(&overview)?)),
        false => Ok(overview.to_string()),
    }
}

/// All but what the speakers say.
async fn lists(client: &Client, namespace: &str) -> Result<Facts> {
    let (services, nodes) = (Api::<Service>::all(client.clone()), Api::<Node>::all(client.clone()));
    let (pods, leases) = (
        untyped(client, namespace, ("", "v1", "Pod", "pods")),
        untyped(client, namespace, ("coordination.k8s.io", "v1", "Lease", "leases")),
    );
    let ours = |kind, plural| untyped(client, namespace, ("metallb.io", "v1beta1", kind, plural));
    let (pools, states) =
        (ours("IPAddressPool", "ipaddresspools"), ours("ConfigurationState", "configurationstates"));
    let all = ListParams::default();
    let herald = ListParams::default().labels(PODS);
    let (services, nodes, pods, lease, pools, states) = tokio::join!(
        services.list(&all),
        nodes.list(&all),
        pods.list(&herald),
        leases.get_opt(LEASE),
        pools.list(&all),
        states.list(&all),
    );
    let services = services.map_err(|error| refused("Services", &error))?;
    let nodes = nodes.map_err(|error| refused("Nodes", &error))?;
    let mut unread = Vec::new();
    let mut or_told = |what, answer: kube::Result<ObjectList<DynamicObject>>| match answer {
        Ok(list) => list.items,
        // The kind is not installed, so there are none.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => {
            unread.push(Unread { what, why: said(error) });
            Vec::new()
        }
    };
    let pods = or_told("pods", pods);
    let pools = or_told("ipaddresspools.metallb.io", pools);
    let states = or_told("configurationstates.metallb.io", states);
    Ok(Facts {
        namespace: namespace.to_owned(),
        leader: lease.map(|lease| lease.as_ref().and_then(|lease| leader(&lease.data))).map_err(said),
        services: services.items.iter().filter_map(ServiceFact::of).collect(),
        nodes: nodes.items.iter().map(|node| NodeFact::of(node, &pods)).collect(),
        pools: pools.iter().filter_map(PoolFact::of).collect(),
        refused: states.iter().filter_map(judge::refused).collect(),
        unread,
        answers: BTreeMap::new(),
    })
}

fn refused(what: &str, error: &kube::Error) -> anyhow::Error {
    anyhow!("the API server does not list {what}: {}", herald_runtime::chain(error))
}

/// Who leads now, by a Lease that has not run out.
pub(crate) fn leader(lease: &Value) -> Option<String> {
    let spec = lease.get("spec")?;
    let holder = spec.get("holderIdentity")?.as_str().filter(|holder| !holder.is_empty())?;
    let renewed: Timestamp = spec.get("renewTime")?.as_str()?.parse().ok()?;
    let lasts = spec.get("leaseDurationSeconds")?.as_i64()?;
    (Timestamp::now().as_second() <= renewed.as_second() + lasts).then(|| holder.to_owned())
}
