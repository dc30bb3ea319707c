//! `herald status` without a subject: the whole cluster from outside, what is wrong first.
//!
//! One list each of Services, Nodes, pods of Herald, pools and ConfigurationStates, the Lease, and one question to each speaker: by the
//! API server's pod proxy where the speaker is a pod, at the node's admin port where it is not. Without Services and Nodes there is nothing
//! to tell; what else cannot be had is a finding, never the end: a cluster that is broken is when this is typed.

mod judge;
mod screen;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use herald_runtime::client;
use herald_speaker::explain::{Failure, NODE_PATH, NodeAnswer};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectList};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::Instant;

use self::judge::{Facts, NodeFact, PoolFact, ServiceFact, Silence, Unread, judge};
use crate::explain::{ask_speaker, internal_ip};
use crate::flags::ClientFlags;

/// For all lists.
const API: Duration = Duration::from_secs(10);
/// For one speaker.
const SPEAKER: Duration = Duration::from_secs(5);
/// For all speakers, however many of them hang.
const SPEAKERS: Duration = Duration::from_secs(15);
/// Speakers that are asked at a time.
const AT_ONCE: usize = 64;
const PODS: &str = "app.kubernetes.io/name=herald,app.kubernetes.io/component=speaker";
const LEASE: &str = "herald-controller";

/// Looks at everything, and returns what to print.
pub(crate) async fn status(flags: &ClientFlags, namespace: &str, json: bool) -> Result<String> {
    let client = client::connect(&flags.options()).await.context(
        "herald status asks the API server (one node alone: herald status bgp, herald status routes)",
    )?;
    let mut facts = tokio::time::timeout(API, lists(&client, namespace)).await.map_err(|_| {
        anyhow!("the API server does not answer: ask a node itself, by herald status bgp --speaker HOST:7472")
    })??;
    facts.answers = answers(&client, namespace, &facts.nodes).await;
    let overview = judge(&facts);
    match json {
        true => Ok(format!("{:#}\n", serde_json::to_value(&overview)?)),
        false => Ok(overview.to_string()),
    }
}

/// All but what the speakers say.
async fn lists(client: &Client, namespace: &str) -> Result<Facts> {
    let (services, nodes) = (Api::<Service>::all(client.clone()), Api::<Node>::all(client.clone()));
    // Of pods and Leases a few fields are read, which is not worth the code for the whole types.
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
            unread.push(Unread { what, why: why(error) });
            Vec::new()
        }
    };
    let pods = or_told("pods", pods);
    let pools = or_told("ipaddresspools.metallb.io", pools);
    let states = or_told("configurationstates.metallb.io", states);
    Ok(Facts {
        namespace: namespace.to_owned(),
        leader: lease.map(|lease| lease.as_ref().and_then(|lease| leader(&lease.data))).map_err(why),
        services: services.items.iter().filter_map(ServiceFact::of).collect(),
        nodes: nodes.items.iter().map(|node| node_fact(node, &pods)).collect(),
        pools: pools.iter().filter_map(PoolFact::of).collect(),
        refused: states.iter().filter_map(judge::refused).collect(),
        unread,
        answers: BTreeMap::new(),
    })
}

/// What every node's speaker says, or why it is not known.
async fn answers(
    client: &Client,
    namespace: &str,
    nodes: &[NodeFact],
) -> BTreeMap<String, Result<NodeAnswer, Silence>> {
    let end = Instant::now() + SPEAKERS;
    let questions = nodes.iter().map(|node| async move {
        let deadline = end.min(Instant::now() + SPEAKER);
        let answer = tokio::time::timeout_at(deadline, ask(client, namespace, node)).await;
        (node.name.clone(), answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned().into())))
    });
    futures::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await
}

fn refused(what: &str, error: &kube::Error) -> anyhow::Error {
    anyhow!("the API server does not list {what}: {}", herald_runtime::chain(error))
}

/// The API server's own words where it has any.
fn why(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        error => herald_runtime::chain(&error),
    }
}

fn untyped(
    client: &Client,
    namespace: &str,
    (group, version, kind, plural): (&str, &str, &str, &str),
) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, version, kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, plural))
}

/// Who leads now, by a Lease that has not run out.
pub(crate) fn leader(lease: &Value) -> Option<String> {
    let spec = lease.get("spec")?;
    let holder = spec.get("holderIdentity")?.as_str().filter(|holder| !holder.is_empty())?;
    let renewed: Timestamp = spec.get("renewTime")?.as_str()?.parse().ok()?;
    let lasts = spec.get("leaseDurationSeconds")?.as_i64()?;
    (Timestamp::now().as_second() <= renewed.as_second() + lasts).then(|| holder.to_owned())
}

fn node_fact(node: &Node, pods: &[DynamicObject]) -> NodeFact {
    let name = node.metadata.name.clone().unwrap_or_default();
    let pod = pods
        .iter()
        .find(|pod| pod.data["spec"]["nodeName"] == *name && pod.metadata.deletion_timestamp.is_none());
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready =
        conditions.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status == "True");
    NodeFact { ready, ip: internal_ip(node), pod: pod.and_then(|pod| pod.metadata.name.clone()), name }
}

/// What a node's speaker says of it.
async fn ask(client: &Client, namespace: &str, node: &NodeFact) -> Result<NodeAnswer, Silence> {
    let body = match (&node.pod, node.ip) {
        (Some(pod), _) => {
            let port = herald_runtime::admin::DEFAULT_PORT;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{NODE_PATH}");
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            client.request_text(request).await.map_err(|error| Silence {
                forbidden: matches!(&error, kube::Error::Api(status) if status.is_forbidden()),
                why: why(error),
            })?
        }
        (None, Some(ip)) => {
            let body = ask_speaker(ip, NODE_PATH).await.map_err(|error| format!("{error:#}"))?;
            String::from_utf8_lossy(&body).into_owned()
        }
        (None, None) => {
            return Err("the Node has no InternalIP, and no speaker runs there as a pod".to_owned().into());
        }
    };
    serde_json::from_str(&body).map_err(|_| match serde_json::from_str::<Failure>(&body) {
        Ok(failure) => failure.error.into(),
        Err(_) => {
            "it answers in a form that this herald does not know: is it of another version?".to_owned().into()
        }
    })
}
