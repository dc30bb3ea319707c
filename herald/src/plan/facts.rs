//! What `herald plan` is judged by: what the API server has, and what the speakers say just now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use anyhow::{Result, anyhow};
use herald_controller::config_map::{ConfigView, watched};
use herald_controller::namespaces::NamespaceView;
use herald_controller::planner::forecast::Cluster;
use herald_controller::service::ServiceView;
use herald_runtime::said;
use herald_runtime::untyped::{CONFIG_MAP, NAMESPACE};
use herald_speaker::explain::{NODE_PATH, NodeAnswer};
use herald_speaker::forecast::{Objects, World};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::drain;
use super::services::Applied;
use crate::speakers::{ask_nodes, nodes};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;

/// What the API server has.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) services: Vec<Service>,
    pub(super) slices: Vec<EndpointSlice>,
    pub(super) nodes: Vec<Node>,
    namespaces: Vec<DynamicObject>,
    config_map: Option<ConfigView>,
    objects: BTreeMap<&'static str, Vec<Value>>,
}

impl Listed {
    /// All of it.
    pub(super) async fn ask(client: &Client, namespace: &str) -> Result<Self> {
        let namespaces = Api::all_with(client.clone(), &NAMESPACE.resource());
        let maps: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &CONFIG_MAP.resource());
        let config_map = maps.get_opt("config").await.map_err(|error| refused("the ConfigMap", error))?;
        let mut objects = BTreeMap::new();
        for kind in watched() {
            let api = Api::namespaced_with(client.clone(), namespace, &kind.resource());
            let found: Vec<DynamicObject> = list(kind.plural, &api).await?;
            let found = found.iter().map(serde_json::to_value).collect::<serde_json::Result<_>>()?;
            objects.insert(kind.kind, found);
        }
        Ok(Self {
            services: list("Services", &Api::all(client.clone())).await?,
            slices: list("EndpointSlices", &Api::all(client.clone())).await?,
            nodes: list("Nodes", &Api::all(client.clone())).await?,
            namespaces: list("Namespaces", &namespaces).await?,
            config_map: config_map.map(ConfigView::new),
            objects,
        })
    }

    /// For the controller's planner.
    pub(super) fn cluster(&self) -> Cluster {
        Cluster {
            services: self
                .services
                .iter()
                .map(|service| Box::new(ServiceView::new(service.clone())))
                .collect(),
            namespaces: self.namespaces.iter().cloned().map(NamespaceView::new).collect(),
            config_map: self.config_map.clone(),
            objects: self.objects.clone(),
        }
    }

    /// For the speakers' plans.
    pub(super) fn world(&self) -> World {
        World::new(&Objects {
            services: &self.services,
            slices: &self.slices,
            nodes: &self.nodes,
            document: self.config_map.as_ref().map(|map| map.text.as_deref()),
            objects: Some(&self.objects),
        })
    }

    /// The Services of each address.
    pub(super) fn by_address(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut services: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for service in &self.services {
            for address in addresses(service) {
                services.entry(address).or_default().insert(name(service));
            }
        }
        services
    }

    /// Takes a node out of load balancing, and its pods away.
    pub(super) fn drain(&mut self, drained: &str) {
        let is_it = |node: &&mut Node| node.metadata.name.as_deref() == Some(drained);
        for node in self.nodes.iter_mut().filter(is_it) {
            node.metadata.labels.get_or_insert_default().insert(EXCLUDED.to_owned(), String::new());
        }
        for slice in &mut self.slices {
            slice.endpoints.iter_mut().for_each(|endpoints| {
                endpoints.retain(|endpoint| endpoint.node_name.as_deref() != Some(drained));
            });
        }
    }

    /// Takes Services as they would be, and their endpoints.
    pub(super) fn apply(&mut self, applied: Applied) {
        let Applied { services, slices, refused: _ } = applied;
        let names: BTreeSet<String> = services.iter().map(name).collect();
        self.services.retain(|service| !names.contains(&name(service)));
        self.services.extend(services);
        self.slices.retain(|slice| !service_of(slice).is_some_and(|service| slices.contains_key(&service)));
        self.slices.extend(slices.into_values().flatten());
    }

    /// Gives Services other addresses, by namespace and name.
    pub(super) fn give(&mut self, then: &BTreeMap<String, Vec<IpAddr>>) {
        for service in &mut self.services {
            let Some(addresses) = then.get(&name(service)) else { continue };
            let entry = |address: &IpAddr| LoadBalancerIngress {
                ip: Some(address.to_string()),
                ..LoadBalancerIngress::default()
            };
            let status = service.status.get_or_insert_default();
            status.load_balancer.get_or_insert_default().ingress =
                Some(addresses.iter().map(entry).collect());
        }
    }
}

/// The label that takes a node out of load balancing.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// `NAMESPACE/NAME` of the Service that a slice is of.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

/// `NAMESPACE/NAME`.
pub(super) fn name(service: &Service) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&service.metadata.namespace), part(&service.metadata.name))
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancer.filter_map(|balancer| balancer.ingress.as_ref()).flatten();
    ingress.filter_map(|entry| entry.ip.as_ref()?.parse().ok())
}

/// What the speakers say.
#[derive(Debug)]
pub(super) struct Heard {
    /// By node, or why one says nothing.
    pub(super) answers: BTreeMap<String, Result<NodeAnswer, String>>,
    /// Why pods are not known.
    pub(super) unread: Option<String>,
}

impl Heard {
    /// Of all nodes.
    pub(super) async fn ask(client: &Client, namespace: &str) -> Result<Self> {
        let (nodes, unread) = nodes(client, namespace).await?;
        let answers = ask_nodes::<NodeAnswer>(client, namespace, &nodes, NODE_PATH).await;
        let answers = answers
            .into_iter()
            .map(|(node, answer)| (node, answer.map(|heard| heard.answer).map_err(|silence| silence.why)));
        Ok(Self { answers: answers.collect(), unread })
    }

    /// Who owns which address by layer 2; `None`: some do not say.
    pub(super) fn owners(&self) -> Option<BTreeMap<IpAddr, BTreeSet<String>>> {
        let mut owners: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for (node, answer) in &self.answers {
            let owned = answer.as_ref().ok()?.addresses.iter();
            for (address, _) in owned.filter(|(_, word)| word.split('+').any(|word| word == "layer2")) {
                owners.entry(*address).or_default().insert(node.clone());
            }
        }
        Some(owners)
    }

    /// Nodes where another proxy serves.
    pub(super) fn without_proxy(&self) -> BTreeSet<String> {
        let answers = self.answers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)));
        answers.filter(|(_, answer)| answer.proxy == "off").map(|(node, _)| node.clone()).collect()
    }

    /// Nodes whose speakers say nothing, and why.
    pub(super) fn silent(&self) -> BTreeMap<String, String> {
        let silent = self.answers.iter();
        silent.filter_map(|(node, answer)| Some((node.clone(), answer.as_ref().err()?.clone()))).collect()
    }
}

/// What a drain is judged by.
pub(super) fn service_facts(services: &[Service], slices: &[EndpointSlice]) -> Vec<drain::ServiceFact> {
    let mut ready: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for slice in slices {
        let Some(service) = service_of(slice) else { continue };
        let of = ready.entry(service).or_default();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            // Of both families it is one pod.
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_ref());
            let who = pod.or_else(|| endpoint.addresses.first());
            if let (true, Some(node), Some(who)) = (is_ready, &endpoint.node_name, who) {
                of.entry(node.clone()).or_default().insert(who.clone());
            }
        }
    }
    let fact = |service: &Service| {
        let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
        let name = name(service);
        let endpoints = ready.remove(&name).into_iter().flatten();
        drain::ServiceFact {
            addresses: addresses(service).collect(),
            local: policy == Some("Local"),
            endpoints: endpoints.map(|(node, pods)| (node, pods.len())).collect(),
            name,
        }
    };
    services.iter().map(fact).collect()
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
