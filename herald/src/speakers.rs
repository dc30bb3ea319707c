//! The speakers of the whole cluster, asked at once from outside: by the API server's pod proxy where a speaker is a pod, at the node's admin port where
//! it is not. One that does not answer in time is an answer as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use herald_runtime::admin::DEFAULT_PORT;
use herald_runtime::said;
use herald_speaker::explain::Failure;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::client::Body;
use kube::core::Status;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::explain::{ask_speaker, internal_ip};

/// For one speaker.
const SPEAKER: Duration = Duration::from_secs(5);
/// For all speakers, however many of them hang.
const SPEAKERS: Duration = Duration::from_secs(15);
/// Speakers that are asked at a time.
const AT_ONCE: usize = 64;
/// Characters of an answer that nobody understands.
const SHOWN: usize = 200;
/// The labels of their pods.
pub(crate) const PODS: &str = "app.kubernetes.io/name=herald,app.kubernetes.io/component=speaker";

/// A node, and where its speaker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeFact {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) ip: Option<IpAddr>,
    /// Its speaker, if that is a pod.
    pub(crate) pod: Option<String>,
}

impl NodeFact {
    /// Of a Node; `pods` are Herald's.
    pub(crate) fn of(node: &Node, pods: &[DynamicObject]) -> Self {
        let name = node.metadata.name.clone().unwrap_or_default();
        let pod = pods
            .iter()
            .find(|pod| pod.data["spec"]["nodeName"] == *name && pod.metadata.deletion_timestamp.is_none());
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions
            .filter(|condition| condition.type_ == "Ready")
            .any(|condition| condition.status == "True");
        Self { ready, ip: internal_ip(node), pod: pod.and_then(|pod| pod.metadata.name.clone()), name }
    }
}

/// A speaker that says nothing.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) why: String,
    /// It was reached, and these are its own words.
    pub(crate) own: bool,
    /// It could not be asked: the API server does not let whoever asks.
    pub(crate) forbidden: bool,
}

impl From<String> for Silence {
    fn from(why: String) -> Self {
        Self { why, own: false, forbidden: false }
    }
}

/// What a speaker says.
#[derive(Debug)]
pub(crate) struct Heard<A> {
    pub(crate) answer: A,
    /// When it was asked, by this machine's clock.
    pub(crate) asked: Timestamp,
    /// From then to the answer.
    pub(crate) took: Duration,
}

/// The nodes, and why their pods are not known.
pub(crate) async fn nodes(client: &Client, namespace: &str) -> Result<(Vec<NodeFact>, Option<String>)> {
    let nodes = Api::<Node>::all(client.clone());
    let pods = pods_of(client, namespace);
    let (all, herald) = (ListParams::default(), ListParams::default().labels(PODS));
    let (nodes, pods) = tokio::join!(nodes.list(&all), pods.list(&herald));
    let nodes = nodes.map_err(|error| anyhow!("the API server does not list Nodes: {}", said(error)))?;
    let (pods, unread) = match pods {
        Ok(pods) => (pods.items, None),
        Err(error) => (Vec::new(), Some(said(error))),
    };
    Ok((nodes.items.iter().map(|node| NodeFact::of(node, &pods)).collect(), unread))
}

/// What every node's speaker answers to `path`, or why it is not known.
pub(crate) async fn ask_nodes<A: DeserializeOwned>(
    client: &Client,
    namespace: &str,
    nodes: &[NodeFact],
    path: &str,
) -> BTreeMap<String, Result<Heard<A>, Silence>> {
    let question = |node: &NodeFact| {
        let (name, node) = (node.name.clone(), node.clone());
        (name, async move { ask(client, namespace, &node, path).await })
    };
    ask_all(nodes.iter().map(question)).await
}

/// What comes of these questions, by name.
pub(crate) async fn ask_all<A: DeserializeOwned>(
    questions: impl Iterator<Item = (String, impl Future<Output = Result<String, Silence>>)>,
) -> BTreeMap<String, Result<Heard<A>, Silence>> {
    let end = Instant::now() + SPEAKERS;
    let questions = questions.map(|(name, question)| async move {
        let (asked, began) = (Timestamp::now(), Instant::now());
        let answer = tokio::time::timeout_at(end.min(began + SPEAKER), question).await;
        let answer = answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned().into()));
        let took = began.elapsed();
        (name, answer.and_then(|body| read(&body)).map(|answer| Heard { answer, asked, took }))
    });
    futures::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await
}

fn read<A: DeserializeOwned>(body: &str) -> Result<A, Silence> {
    serde_json::from_str(body).map_err(|_| match serde_json::from_str::<Failure>(body) {
        Ok(failure) => failure.error.into(),
        Err(_) => {
            "it answers in a form that this herald does not know: is it of another version?".to_owned().into()
        }
    })
}

/// What a node's speaker says.
async fn ask(client: &Client, namespace: &str, node: &NodeFact, path: &str) -> Result<String, Silence> {
    match (&node.pod, node.ip) {
        (Some(pod), _) => by_proxy(client, namespace, pod, path).await,
        (None, Some(ip)) => {
            let body = ask_speaker(ip, path).await.map_err(|error| format!("{error:#}"))?;
            Ok(String::from_utf8_lossy(&body).into_owned())
        }
        (None, None) => {
            Err("the Node has no InternalIP, and no speaker runs there as a pod".to_owned().into())
        }
    }
}

/// What a speaker that is a pod says, by the API server's pod proxy.
pub(crate) async fn by_proxy(
    client: &Client,
    namespace: &str,
    pod: &str,
    path: &str,
) -> Result<String, Silence> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{DEFAULT_PORT}/proxy{path}");
    let request = http::Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    // Not by what makes a Status of each refusal: a speaker's own is another kind of JSON, and would be one without words.
    let answer = client.send(request).await.map_err(said)?;
    let status = answer.status();
    let body = answer.into_body().collect_bytes().await.map_err(said)?;
    let body = String::from_utf8_lossy(&body);
    if status.is_success() { Ok(body.into_owned()) } else { Err(refusal(status.as_u16(), &body)) }
}

/// Why there is no answer, in the words of the speaker, or of the API server that did not reach it.
fn refusal(code: u16, body: &str) -> Silence {
    if let Ok(Failure { error }) = serde_json::from_str(body) {
        return Silence { own: true, ..error.into() };
    }
    let status: Option<Status> = serde_json::from_str(body).ok();
    let told = status.map(|status| status.message).filter(|message| !message.is_empty());
    let why = told.unwrap_or_else(|| {
        let start: String = body.trim().chars().take(SHOWN).collect();
        format!("HTTP {code}: {start}")
    });
    Silence { why, own: false, forbidden: code == 403 }
}

/// The pods of a namespace.
pub(crate) fn pods_of(client: &Client, namespace: &str) -> Api<DynamicObject> {
    untyped(client, namespace, ("", "v1", "Pod", "pods"))
}

/// Objects of which a few fields are read, which is not worth the code for the whole types.
pub(crate) fn untyped(
    client: &Client,
    namespace: &str,
    (group, version, kind, plural): (&str, &str, &str, &str),
) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, version, kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_whoever_refuses() {
        let status = r#"{"kind": "Status", "status": "Failure", "message": "pods is forbidden", "reason": "Forbidden", "code": 403}"#;
        for (code, body, why, own, forbidden) in [
            (503, r#"{"error": "it is busy"}"#, "it is busy", true, false),
            (403, status, "pods is forbidden", false, true),
            (502, "<html>bad gateway", "HTTP 502: <html>bad gateway", false, false),
            (500, "{}", "HTTP 500: {}", false, false),
        ] {
            let silence = refusal(code, body);
            assert_eq!((&*silence.why, silence.own, silence.forbidden), (why, own, forbidden), "{body}");
        }
    }
}
