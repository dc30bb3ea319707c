//! What the API server says of the cluster. Nothing is judged here; what it does not say is an error of the checks that need it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use herald_runtime::said;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use super::rights;
use crate::leader::version;

/// Objects in one answer of the API server.
const PAGE: u32 = 500;

/// Where a list comes from.
struct Source {
    /// As `kubectl` calls it.
    name: &'static str,
    api_version: &'static str,
    kind: &'static str,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    /// All namespaces, or objects without one.
    All,
    /// Herald's namespace.
    Ours,
    /// Objects of these names, in this namespace.
    Named(&'static str, &'static [&'static str]),
    /// Objects of these names in Herald's namespace.
    NamedOurs(&'static [&'static str]),
}

const fn source(name: &'static str, api_version: &'static str, kind: &'static str, of: Of) -> Source {
    Source { name, api_version, kind, of }
}

/// Kinds of the configuration, without what Herald writes.
const CONFIGURATION: [&str; 6] =
    ["ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities"];

const SOURCES: &[Source] = &[
    source("nodes", "v1", "Node", Of::All),
    source("services", "v1", "Service", Of::All),
    source("daemonsets", "apps/v1", "DaemonSet", Of::All),
    source("deployments", "apps/v1", "Deployment", Of::All),
    source("namespaces", "v1", "Namespace", Of::NamedOurs(&[])),
    source("servicecidrs", "networking.k8s.io/v1", "ServiceCIDR", Of::All),
    source("leases", "coordination.k8s.io/v1", "Lease", Of::NamedOurs(&["herald-controller"])),
    source("plugins", "v1", "ConfigMap", Of::Named("kube-system", &["kube-proxy", "cilium-config"])),
    source("configmaps", "v1", "ConfigMap", Of::NamedOurs(&["config", "herald"])),
    source("webhooks", "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", Of::All),
    source("ipaddresspools", "metallb.io/v1beta1", "IPAddressPool", Of::Ours),
    source("l2advertisements", "metallb.io/v1beta1", "L2Advertisement", Of::Ours),
    source("bgpadvertisements", "metallb.io/v1beta1", "BGPAdvertisement", Of::Ours),
    source("bgppeers", "metallb.io/v1beta2", "BGPPeer", Of::Ours),
    source("bfdprofiles", "metallb.io/v1beta1", "BFDProfile", Of::Ours),
    source("communities", "metallb.io/v1beta1", "Community", Of::Ours),
];

/// A cluster, as its checks need it.
#[derive(Debug, Clone)]
pub(super) struct ClusterSeen {
    /// Herald's.
    pub(super) namespace: String,
    /// By the names of [`SOURCES`]; of Services those that are reached from outside.
    pub(super) lists: BTreeMap<&'static str, Result<Vec<Value>, String>>,
    /// Names of the Secrets in Herald's namespace; what they hold is not asked for.
    pub(super) secrets: Result<Vec<String>, String>,
    /// Definitions of `metallb.io` that are installed, by name.
    pub(super) definitions: Result<BTreeMap<String, Value>, String>,
    /// As `v1.36.3`.
    pub(super) version: String,
    /// How far the API server's clock is before this machine's, in seconds.
    pub(super) ahead: Option<i64>,
    /// What Herald's accounts may not do and should: `ACCOUNT VERB RESOURCE`.
    pub(super) denied: Result<Vec<String>, String>,
}

impl ClusterSeen {
    /// Asks for everything; fails if nobody answers.
    pub(super) async fn look(client: &Client, namespace: &str) -> Result<Self> {
        let (version, ahead) = version(client).await.context("the API server does not tell its version")?;
        let mut lists = BTreeMap::new();
        for source in SOURCES {
            lists.insert(source.name, source.read(client, namespace).await);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            lists,
            secrets: secrets(client, namespace).await.map_err(said),
            definitions: definitions(client).await.map_err(said),
            version,
            ahead,
            denied: rights::denied(client, namespace).await,
        })
    }

    /// All objects of a kind, or why they are not known.
    pub(super) fn list(&self, name: &'static str) -> Result<&[Value], String> {
        match self.lists.get(name) {
            Some(Ok(items)) => Ok(items),
            Some(Err(why)) => Err(format!("{name} cannot be read: {why}")),
            None => Err(format!("{name} were not asked for")),
        }
    }

    /// One object of a list by its name; `None` where there is none.
    pub(super) fn object(&self, list: &'static str, name: &str) -> Result<Option<&Value>, String> {
        Ok(self.list(list)?.iter().find(|object| object["metadata"]["name"] == name))
    }

    /// Addresses are announced by layer 2.
    pub(super) fn layer2(&self) -> bool {
        let advertised = self.list("l2advertisements").is_ok_and(|list| !list.is_empty());
        let text = self.object("configmaps", "config").ok().flatten();
        let text = text.and_then(|map| map["data"]["config"].as_str()).unwrap_or_default();
        advertised || text.contains("layer2")
    }

    /// The configuration as files for [`herald_config::check`].
    pub(super) fn configuration(&self) -> Result<Vec<herald_config::File>, String> {
        let mut files = Vec::new();
        for kind in CONFIGURATION {
            for object in self.list(kind)? {
                let name = format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
                files.push(herald_config::File { name, text: object.to_string() });
            }
        }
        if let Some(map) = self.object("configmaps", "config")? {
            files.push(herald_config::File { name: "configmaps/config".to_owned(), text: map.to_string() });
        }
        Ok(files)
    }
}

impl Source {
    async fn read(&self, client: &Client, ours: &str) -> Result<Vec<Value>, String> {
        let (namespace, names) = match self.of {
            Of::All => (None, None),
            Of::Ours => (Some(ours), None),
            Of::Named(namespace, names) => (Some(namespace), Some(names)),
            Of::NamedOurs(names) => (Some(ours), Some(names)),
        };
        let plural = match self.kind {
            "ConfigMap" => "configmaps",
            "ValidatingWebhookConfiguration" => "validatingwebhookconfigurations",
            _ => self.name,
        };
        if self.kind == "Namespace" {
            let found = api(client, self.api_version, self.kind, plural, None).get_opt(ours).await;
            return Ok(found.map_err(said)?.map(value).into_iter().collect());
        }
        let api = api(client, self.api_version, self.kind, plural, namespace);
        let Some(names) = names else { return pages(&api).await };
        let mut found = Vec::new();
        for name in names {
            found.extend(api.get_opt(name).await.map_err(said)?.map(value));
        }
        Ok(found)
    }
}

/// All of a kind; none where the kind is not installed. Of Services most are of no interest, and there may be many.
async fn pages(api: &Api<DynamicObject>) -> Result<Vec<Value>, String> {
    let (mut found, mut parameters) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = match api.list(&parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            list => list.map_err(said)?,
        };
        found.extend(list.items.into_iter().map(value).filter(of_interest));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(found),
        }
    }
}

async fn secrets(client: &Client, namespace: &str) -> kube::Result<Vec<String>> {
    let secrets = api(client, "v1", "Secret", "secrets", Some(namespace));
    let list = secrets.list_metadata(&ListParams::default()).await?;
    Ok(list.items.into_iter().filter_map(|object| object.metadata.name).collect())
}

async fn definitions(client: &Client) -> kube::Result<BTreeMap<String, Value>> {
    let (version, kind) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let definitions = api(client, version, kind, "customresourcedefinitions", None);
    let mut installed = BTreeMap::new();
    for definition in herald_config::definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(found) = definitions.get_opt(name).await? {
            installed.insert(name.to_owned(), value(found));
        }
    }
    Ok(installed)
}

fn of_interest(object: &Value) -> bool {
    let spec = &object["spec"];
    object["kind"] != "Service" || spec["type"] == "LoadBalancer" || spec["externalIPs"].is_array()
}

fn value(object: DynamicObject) -> Value {
    // Maps with text as keys, and nothing else.
    serde_json::to_value(object).unwrap_or_default()
}

fn api(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}
