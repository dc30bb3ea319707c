//! `herald status` without a subject: the whole cluster from outside, what is wrong first.
//!
//! One list each of Services, Nodes, pods of Herald, pools and ConfigurationStates, the Lease, and one question to each speaker: by the
//! API server's pod proxy where the speaker is a pod, at the node's admin port where it is not. What cannot be had is a finding, never the
//! end: a cluster that is broken is when this is typed.

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
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};

use self::judge::{Facts, NodeFact, PoolFact, ServiceFact, judge};
use crate::explain::{ask_speaker, internal_ip};
use crate::flags::ClientFlags;

/// For all that the API server is asked.
const API: Duration = Duration::from_secs(10);
/// For one speaker.
const SPEAKER: Duration = Duration::from_secs(5);
/// Speakers that are asked at a time.
const AT_ONCE: usize = 16;
const PODS: &str = "app.kubernetes.io/name=herald,app.kubernetes.io/component=speaker";
const LEASE: &str = "herald-controller";

/// Looks at everything, and returns what to print.
pub(crate) async fn status(flags: &ClientFlags, namespace: &str, json: bool) -> Result<String> {
    let client = client::connect(&flags.options()).await.context(
        "herald status asks the API server (one node alone: herald status bgp, herald status routes)",
    )?;
    let facts = tokio::time::timeout(API, facts(&client, namespace)).await.map_err(|_| {
        anyhow!("the API server does not answer: ask a node itself, by herald status bgp --speaker HOST:7472")
    })??;
    let overview = judge(&facts);
    match json {
        true => Ok(format!("{:#}\n", serde_json::to_value(&overview)?)),
        false => Ok(overview.to_string()),
    }
}

async fn facts(client: &Client, namespace: &str) -> Result<Facts> {
    let (services, nodes) = (Api::<Service>::all(client.clone()), Api::<Node>::all(client.clone()));
    // Of pods and Leases a few fields are read, which is not worth the code for the whole types.
    let (pods, leases) = (
        untyped(client, namespace, ("", "v1", "Pod", "pods")),
        untyped(client, namespace, ("coordination.k8s.io", "v1", "Lease", "leases")),
    );
    let all = ListParams::default();
    let herald = ListParams::default().labels(PODS);
    let (services, nodes, pods, lease, pools, states) = tokio::try_join!(
        async { services.list(&all).await.map_err(|error| refused("Services", &error)) },
        async { nodes.list(&all).await.map_err(|error| refused("Nodes", &error)) },
        // Without these there is less to tell, and no more.
        async { Ok(pods.list(&herald).await.map(|pods| pods.items).unwrap_or_default()) },
        async { Ok(leases.get_opt(LEASE).await.ok().flatten()) },
        async { Ok(ours(client, namespace, "IPAddressPool", "ipaddresspools").await) },
        async { Ok(ours(client, namespace, "ConfigurationState", "configurationstates").await) },
    )?;
    let nodes: Vec<NodeFact> = nodes.items.iter().map(|node| node_fact(node, &pods)).collect();
    let questions = nodes.iter().map(|node| async move {
        let asked = tokio::time::timeout(SPEAKER, ask(client, namespace, node));
        let answer = asked.await.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
        (node.name.clone(), answer)
    });
    let answers: BTreeMap<_, _> = futures::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
    Ok(Facts {
        namespace: namespace.to_owned(),
        leader: lease.as_ref().and_then(leader),
        services: services.items.iter().filter_map(ServiceFact::of).collect(),
        pools: pools.iter().filter_map(PoolFact::of).collect(),
        refused: states.iter().filter_map(judge::refused).collect(),
        nodes,
        answers,
    })
}

fn refused(what: &str, error: &kube::Error) -> anyhow::Error {
    anyhow!("the API server does not list {what}: {}", herald_runtime::chain(error))
}

/// Objects of `metallb.io`; none where the kind is not installed.
async fn ours(client: &Client, namespace: &str, kind: &str, plural: &str) -> Vec<DynamicObject> {
    let objects = untyped(client, namespace, ("metallb.io", "v1beta1", kind, plural));
    objects.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default()
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
fn leader(lease: &DynamicObject) -> Option<String> {
    let spec = lease.data.get("spec")?;
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
async fn ask(client: &Client, namespace: &str, node: &NodeFact) -> Result<NodeAnswer, String> {
    let body = match (&node.pod, node.ip) {
        (Some(pod), _) => {
            let port = herald_runtime::admin::DEFAULT_PORT;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{NODE_PATH}");
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            client.request_text(request).await.map_err(|error| match error {
                kube::Error::Api(status) => status.message,
                error => herald_runtime::chain(&error),
            })?
        }
        (None, Some(ip)) => {
            let body = ask_speaker(ip, NODE_PATH).await.map_err(|error| format!("{error:#}"))?;
            String::from_utf8_lossy(&body).into_owned()
        }
        (None, None) => {
            return Err("the Node has no InternalIP, and no speaker runs there as a pod".to_owned());
        }
    };
    serde_json::from_str(&body).map_err(|_| match serde_json::from_str::<Failure>(&body) {
        Ok(failure) => failure.error,
        Err(_) => "it answers in a form that this herald does not know: is it of another version?".to_owned(),
    })
}
