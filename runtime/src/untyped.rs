//! Objects of a group that may not be installed, as JSON.
//!
//! A cluster without the group is asked for it again, with a back-off: once it is there all its kinds are watched. Until
//! then each kind counts as an empty list, so that nobody waits for what may never come. One loop for all kinds and both roles,
//! because each typed watch costs the binary more than all of this.
//!
//! What is watched is never forgotten by an outage, nor when the group is removed: objects that go are told as deleted,
//! lists that fail are not.

use std::time::Duration;

use futures::future::try_join_all;
use kube::Client;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::chain;
use crate::metrics::ClientMetrics;
use crate::readiness::{Handle, Readiness};
use crate::watch::{Watch, WatchEvent};

/// First wait before a missing group is asked for again; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A kind, as the API server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntypedKind {
    /// Its group; empty for the core.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// As objects name it.
    pub kind: &'static str,
    /// As URLs name it.
    pub plural: &'static str,
    /// Only objects that match this field selector.
    pub fields: Option<&'static str>,
}

impl UntypedKind {
    /// For `kube`'s API.
    pub fn resource(&self) -> ApiResource {
        let Self { group, version, kind, plural, .. } = self;
        let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        ApiResource {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            api_version,
            kind: (*kind).to_owned(),
            plural: (*plural).to_owned(),
        }
    }
}

/// Kinds of the core of which little is read: a typed watch of each would cost the binary more than it is worth.
pub const CONFIG_MAP: UntypedKind =
    UntypedKind { group: "", version: "v1", kind: "ConfigMap", plural: "configmaps", fields: None };
/// See [`CONFIG_MAP`].
pub const NAMESPACE: UntypedKind =
    UntypedKind { group: "", version: "v1", kind: "Namespace", plural: "namespaces", fields: None };
/// See [`CONFIG_MAP`].
pub const SERVICE_CIDR: UntypedKind = UntypedKind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    fields: None,
};

/// What became of the objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct UntypedEvent {
    /// The kind.
    pub kind: &'static str,
    /// The objects, as JSON.
    pub event: WatchEvent<Value>,
}

/// Watches kinds of one namespace from the moment on when the API server has a group, until nobody listens.
pub async fn watch_group(
    client: Client,
    namespace: String,
    group: &'static str,
    kinds: Vec<UntypedKind>,
    metrics: ClientMetrics,
    events: mpsc::Sender<UntypedEvent>,
    readiness: Readiness,
) -> anyhow::Result<()> {
    let listed: Vec<Handle> = kinds.iter().map(|kind| readiness.handle(kind.plural)).collect();
    let mut told = false;
    let mut wait = FIRST_WAIT;
    while !installed(&client, group).await {
        if !told {
            told = true;
            tracing::info!(group, "not installed in this cluster: going on without");
            for kind in &kinds {
                let event = UntypedEvent { kind: kind.kind, event: WatchEvent::Reset(Vec::new()) };
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            listed.iter().for_each(Handle::ready);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = events.closed() => return Ok(()),
        }
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
    let watches = kinds.iter().zip(listed).map(|(of, listed)| {
        let kind = of.kind;
        let watch = Watch::untyped(client.clone(), Some(&namespace), &of.resource())
            .optional()
            .metrics(metrics.clone());
        let watch = match of.fields {
            Some(fields) => watch.fields(fields),
            None => watch,
        };
        let wrap = move |event| UntypedEvent { kind, event };
        watch.run(to_json, wrap, events.clone(), listed)
    });
    try_join_all(watches).await.map(drop)
}

fn to_json(object: DynamicObject) -> Value {
    // Was JSON a moment ago.
    serde_json::to_value(object).unwrap_or_default()
}

/// Waits for an answer: an API server that is away has not said that the group is missing.
async fn installed(client: &Client, group: &str) -> bool {
    let mut wait = FIRST_WAIT;
    loop {
        let request = http::Request::get(format!("/apis/{group}")).body(Vec::new());
        let Ok(request) = request else { return false };
        match tokio::time::timeout(ANSWER, client.request_text(request)).await {
            Ok(Ok(_)) => return true,
            // A path that does not exist is answered in plain text, without a reason.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => return false,
            Ok(Err(error)) => tracing::debug!(group, error = chain(&error), "no answer about the group"),
            Err(_) => tracing::debug!(group, "no answer about the group in time"),
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}
