//! ServiceL2Status and ServiceBGPStatus: which node announces a Service on which interfaces and to which peers, as MetalLB
//! writes them.
//!
//! One object per Service that this node announces, in the namespace of the configuration, deleted when it announces the
//! Service no more. Who announces all of a Service's addresses by layer 2 deletes what others have left: they may be dead. (A
//! Service's two families may have two owners, who leave each other alone.) Told to people only: nothing depends on it, and a
//! failure is told once and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedKind;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use ring::digest;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Between two Services: a node that takes over thousands must not keep the API server from its work.
const PACE: Duration = Duration::from_millis(20);
/// How long one request may take.
const ANSWER: Duration = Duration::from_secs(10);
/// After a failure: twice as long each time, for the kind may be installed any moment or never.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest value of a label.
const LABEL: usize = 63;

/// A kind of statuses.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    kind: UntypedKind,
    /// What names of its objects begin with, as MetalLB has it.
    prefix: &'static str,
    /// Field and value of the names.
    names: fn(&BTreeSet<String>) -> (&'static str, Value),
}

const fn kind(kind: &'static str, plural: &'static str) -> UntypedKind {
    UntypedKind { group: "metallb.io", version: "v1beta1", kind, plural, fields: None }
}

/// By layer 2: the names are those of interfaces, where an advertisement names some.
pub(crate) const LAYER2: Kind = Kind {
    kind: kind("ServiceL2Status", "servicel2statuses"),
    prefix: "l2",
    names: |names| ("interfaces", names.iter().map(|name| json!({ "name": name })).collect()),
};

/// By BGP: the names are those of the peers by configuration, whether their sessions are up or not.
pub(crate) const BGP: Kind = Kind {
    kind: kind("ServiceBGPStatus", "servicebgpstatuses"),
    prefix: "bgp",
    names: |names| ("peers", json!(names)),
};

/// The Services that this node announces.
pub(crate) type Announced = BTreeMap<ObjectName, Shown>;

/// How it announces one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// On which interfaces, or to which peers.
    pub(crate) names: Arc<BTreeSet<String>>,
    /// All of its addresses are this node's, and what others have written is old.
    pub(crate) alone: bool,
}

/// Whose they are.
#[derive(Debug)]
pub(crate) struct Writer {
    kind: Kind,
    api: Api<DynamicObject>,
    node: String,
    /// What the API server has of this node; `None` before it was asked.
    written: Option<Announced>,
}

impl Writer {
    /// For the objects of a kind of one node.
    pub(crate) fn new(kind: Kind, client: Client, namespace: &str, node: &str) -> Self {
        let api = Api::namespaced_with(client, namespace, &kind.kind.resource());
        Self { kind, api, node: node.to_owned(), written: None }
    }

    /// Writes until the sender is dropped.
    pub(crate) async fn run(mut self, mut announced: watch::Receiver<Announced>) -> anyhow::Result<()> {
        let mut wait = RETRY.0;
        let mut told = false;
        loop {
            let wanted = announced.borrow_and_update().clone();
            let changed = match self.write(&wanted, &announced).await {
                Ok(()) => {
                    (wait, told) = (RETRY.0, false);
                    announced.changed().await.is_ok()
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        self.failed(&error);
                    }
                    // What is wanted by then counts.
                    let changed = tokio::time::timeout(wait, announced.changed()).await;
                    wait = (wait * 2).min(RETRY.1);
                    !matches!(changed, Ok(Err(_)))
                }
            };
            if !changed {
                return Ok(());
            }
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        let kind = self.kind.kind.kind;
        match error.downcast_ref() {
            Some(kube::Error::Api(status)) if status.code == 404 => {
                tracing::info!(kind, "not shown by the API server (`herald crds`): going on without");
            }
            _ => {
                let error = herald_runtime::chain(error.as_ref());
                tracing::warn!(
                    kind,
                    error,
                    "objects that tell what this node announces are not written; trying again"
                );
            }
        }
    }

    async fn write(&mut self, wanted: &Announced, now: &watch::Receiver<Announced>) -> anyhow::Result<()> {
        if self.written.is_none() {
            self.written = Some(self.adopt().await?);
        }
        let written = self.written.clone().unwrap_or_default();
        for service in written.keys().filter(|service| !wanted.contains_key(*service)) {
            answered(self.delete(service, "=")).await?;
            self.note(service, None);
        }
        for (service, shown) in wanted.iter().filter(|(name, shown)| written.get(*name) != Some(*shown)) {
            if self.node.len() <= LABEL && service.name.len() <= LABEL {
                answered(self.put(service, &shown.names)).await?;
                // Another may have taken it over meanwhile.
                let alone = now.borrow().get(service).is_some_and(|shown| shown.alone);
                if alone {
                    answered(self.delete(service, "!=")).await?;
                }
            }
            self.note(service, Some(shown));
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    fn note(&mut self, service: &ObjectName, shown: Option<&Shown>) {
        let written = self.written.get_or_insert_default();
        match shown {
            Some(shown) => drop(written.insert(service.clone(), shown.clone())),
            None => drop(written.remove(service)),
        }
    }

    /// What an earlier run has left.
    async fn adopt(&self) -> anyhow::Result<Announced> {
        let own = ListParams::default().labels(&format!("metallb.io/node={}", self.node));
        let found = tokio::time::timeout(ANSWER, self.api.list(&own)).await??;
        // With a name that nothing has, so that it is written again if it is wanted still.
        let stale = Shown { names: Arc::new(BTreeSet::from(["?".to_owned()])), alone: false };
        let services = found.items.iter().filter_map(|object| {
            let label = |key: &str| object.labels().get(key).map(String::as_str);
            let (namespace, name) =
                (label("metallb.io/service-namespace")?, label("metallb.io/service-name")?);
            Some((ObjectName::new(namespace, name), stale.clone()))
        });
        Ok(services.collect())
    }

    async fn put(&self, service: &ObjectName, names: &BTreeSet<String>) -> kube::Result<()> {
        let params = PatchParams::apply("herald").force();
        let name = self.kind.object_name(&self.node, service);
        let mut object = self.kind.object(&self.node, service);
        self.api.patch(&name, &params, &Patch::Apply(&object)).await?;
        object["status"] = self.kind.status(&self.node, service, names);
        self.api.patch_status(&name, &params, &Patch::Apply(&object)).await.map(drop)
    }

    /// This node's (`=`), or those of all others (`!=`).
    async fn delete(&self, service: &ObjectName, of_this_node: &str) -> kube::Result<()> {
        let whose = format!("{},metallb.io/node{of_this_node}{}", selector(service), self.node);
        let whose = ListParams::default().labels(&whose);
        self.api.delete_collection(&DeleteParams::default(), &whose).await.map(drop)
    }
}

async fn answered(request: impl Future<Output = kube::Result<()>>) -> anyhow::Result<()> {
    Ok(tokio::time::timeout(ANSWER, request).await??)
}

fn selector(service: &ObjectName) -> String {
    format!("metallb.io/service-namespace={},metallb.io/service-name={}", service.namespace, service.name)
}

impl Kind {
    /// One for each node and Service, in MetalLB's form.
    fn object_name(&self, node: &str, service: &ObjectName) -> String {
        let hash = digest::digest(&digest::SHA256, format!("{node}/{service}").as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|octet| format!("{octet:02x}")).collect();
        format!("{}-{hash}", self.prefix)
    }

    fn object(&self, node: &str, service: &ObjectName) -> Value {
        json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": self.kind.kind,
            "metadata": {
                "name": self.object_name(node, service),
                "labels": {
                    "metallb.io/node": node,
                    "metallb.io/service-name": &*service.name,
                    "metallb.io/service-namespace": &*service.namespace,
                },
            },
        })
    }

    fn status(&self, node: &str, service: &ObjectName, names: &BTreeSet<String>) -> Value {
        let mut status = json!({
            "node": node,
            "serviceName": &*service.name,
            "serviceNamespace": &*service.namespace,
        });
        let (field, names) = (self.names)(names);
        status[field] = names;
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_as_metallb_writes_it() {
        let web = ObjectName::new("shop", "web");
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        for (kind, word, field, some) in [
            (LAYER2, "ServiceL2Status", "interfaces", json!([{ "name": "eth0" }])),
            (BGP, "ServiceBGPStatus", "peers", json!(["eth0"])),
        ] {
            let written = kind.object("node-1", &web);
            assert_eq!(written["kind"], word);
            let label = |key: &str| written["metadata"]["labels"][format!("metallb.io/{key}")].clone();
            assert_eq!(
                [label("node"), label("service-name"), label("service-namespace")],
                ["node-1", "web", "shop"]
            );
            let status = kind.status("node-1", &web, &names(&["eth0"]));
            assert_eq!(status[field], some);
            assert_eq!(
                (&status["serviceName"], &status["serviceNamespace"]),
                (&json!("web"), &json!("shop"))
            );
            assert_eq!(kind.status("node-1", &web, &names(&[]))[field], json!([]));
        }
    }

    #[test]
    fn each_node_has_an_object_of_its_own_for_a_service() {
        let names: BTreeSet<String> = ["node-1", "node-2"]
            .iter()
            .flat_map(|node| ["web", "api"].map(|name| BGP.object_name(node, &ObjectName::new("shop", name))))
            .collect();
        assert_eq!(names.len(), 4);
        assert!(names.iter().all(|name| name.starts_with("bgp-") && name.len() == 20), "{names:?}");
    }
}
