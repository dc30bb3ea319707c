//! Services that stand in the files: what `kubectl apply` would make of them, by the API server's own word (a dry run, which writes nothing).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use herald_runtime::said;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;

use super::facts::name;
use crate::speakers::pods_of;

/// What `kubectl apply` remembers of the last time.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Dry runs that are under way at a time.
const AT_ONCE: usize = 16;

/// A Service of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    namespace: String,
    name: String,
    object: Value,
}

/// What would come of those of the files.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// As they would be; their status is as it is.
    pub(super) services: Vec<Service>,
    /// The endpoints, by namespace and name, of new ones, and of those that would select other pods.
    pub(super) slices: BTreeMap<String, Vec<EndpointSlice>>,
    /// One sentence for each that would be refused.
    pub(super) refused: Vec<String>,
}

impl Wanted {
    /// What says no namespace is of this one.
    pub(super) fn new(object: Value, namespace: &str) -> Self {
        let of = |key: &str| object["metadata"][key].as_str().map(str::to_owned);
        Self {
            namespace: of("namespace").unwrap_or_else(|| namespace.to_owned()),
            name: of("name").unwrap_or_default(),
            object,
        }
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Each Service where it stands first, and what stands again: which of them is meant, nobody knows.
fn once(wanted: &[Wanted]) -> (Vec<&Wanted>, Vec<&Wanted>) {
    let mut seen = BTreeSet::new();
    wanted.iter().partition(|of| of.name.is_empty() || seen.insert(of.full_name()))
}

/// Asks what would come of them, beside those that there are.
pub(super) async fn ask(client: &Client, wanted: &[Wanted], live: &[Service]) -> Result<Applied> {
    let live: BTreeMap<String, &Service> = live.iter().map(|service| (name(service), service)).collect();
    let live = &live;
    let (wanted, again) = once(wanted);
    let asked = wanted.into_iter().map(|wanted| async move {
        let of = wanted.full_name();
        let before = live.get(&of).copied();
        let service = match dry_run(client, wanted, before).await {
            Ok(service) => service,
            Err(why) => return Ok((of, Err(why))),
        };
        let selects_others = before.is_none_or(|before| selector(before) != selector(&service));
        let slices = if selects_others { Some(endpoints(client, &service).await?) } else { None };
        anyhow::Ok((of, Ok((service, slices))))
    });
    let mut asked = futures::stream::iter(asked).buffered(AT_ONCE);
    let again = again
        .iter()
        .map(|of| format!("Service {}: the files have it more than once: let it stand once", of.full_name()));
    let mut applied = Applied { refused: again.collect(), ..Applied::default() };
    while let Some(answer) = asked.next().await {
        match answer? {
            (of, Ok((service, slices))) => {
                applied.services.push(service);
                applied.slices.extend(slices.map(|slices| (of, slices)));
            }
            (of, Err(why)) => applied.refused.push(format!("Service {of}: {why}")),
        }
    }
    Ok(applied)
}

/// The Service as it would be, or why the API server refuses it.
async fn dry_run(client: &Client, wanted: &Wanted, before: Option<&Service>) -> Result<Service, String> {
    if wanted.name.is_empty() {
        return Err("it has no metadata.name: name it".to_owned());
    }
    let api: Api<Service> = Api::namespaced(client.clone(), &wanted.namespace);
    let asked = match before {
        Some(before) => {
            let said = before.metadata.annotations.as_ref().and_then(|all| all.get(LAST_APPLIED));
            let said = said.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
            api.patch(&wanted.name, &parameters, &Patch::Merge(merge(&said, &wanted.object))).await
        }
        None => {
            let parameters = PatchParams::apply("herald-plan").dry_run();
            api.patch(&wanted.name, &parameters, &Patch::Apply(&wanted.object)).await
        }
    };
    asked.map_err(said)
}

/// The merge patch (RFC 7386) of `kubectl apply`: what is said now, and null for what was said the last time only.
fn merge(said: &Value, says: &Value) -> Value {
    let (Value::Object(said), Value::Object(says)) = (said, says) else { return says.clone() };
    let gone = said.keys().filter(|key| !says.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let now = says.iter().map(|(key, value)| {
        (key.clone(), said.get(key).map_or_else(|| value.clone(), |before| merge(before, value)))
    });
    Value::Object(gone.chain(now).collect())
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// As the endpoints of a Service will be with the pods that there are; none without a selector.
async fn endpoints(client: &Client, service: &Service) -> Result<Vec<EndpointSlice>> {
    let Some(selector) = selector(service) else { return Ok(Vec::new()) };
    let labels = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let found = pods_of(client, namespace).list(&ListParams::default().labels(&labels)).await;
    let found = found.map_err(|error| anyhow!("the API server does not list Pods: {}", said(error)))?;
    Ok(slices(service, &found.items))
}

fn slices(service: &Service, pods: &[DynamicObject]) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    // Which number a name stands for is the pod's matter, and not what is asked here.
    let port = |port: ServicePort| EndpointPort {
        name: Some(port.name.unwrap_or_default()),
        protocol: port.protocol,
        port: Some(port.port),
        app_protocol: port.app_protocol,
    };
    let ports: Vec<EndpointPort> = spec.ports.into_iter().flatten().map(port).collect();
    let mut of: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        let status = &pod.data["status"];
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let is_ready = conditions.any(|is| is["type"] == "Ready" && is["status"] == "True")
            && pod.metadata.deletion_timestamp.is_none();
        let addresses = status["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str());
        for address in addresses {
            let family = match address.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            of.entry(family).or_default().push(Endpoint {
                addresses: vec![address.to_owned()],
                node_name: pod.data["spec"]["nodeName"].as_str().map(str::to_owned),
                conditions: Some(EndpointConditions {
                    ready: Some(is_ready),
                    ..EndpointConditions::default()
                }),
                ..Endpoint::default()
            });
        }
    }
    let families = spec.ip_families.unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let label = ("kubernetes.io/service-name".to_owned(), name.to_owned());
    let slice = |(family, endpoints): (&str, Vec<Endpoint>)| EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            name: Some(format!("{name}-{}", family.to_lowercase())),
            labels: Some(BTreeMap::from([label.clone()])),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.clone()),
        endpoints: Some(endpoints),
    };
    of.into_iter().filter(|(family, _)| families.iter().any(|of| of == family)).map(slice).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_no_more_is_taken_away_and_what_others_said_stays() {
        for (said, says, patch) in [
            (json!(null), json!({ "a": { "b": 1 } }), json!({ "a": { "b": 1 } })),
            (
                json!({ "a": { "b": 1, "c": 2 } }),
                json!({ "a": { "b": 3 } }),
                json!({ "a": { "b": 3, "c": null } }),
            ),
            (json!({ "a": [1, 2] }), json!({ "a": [1] }), json!({ "a": [1] })),
            (json!({ "a": 1 }), json!({}), json!({ "a": null })),
        ] {
            assert_eq!(merge(&said, &says), patch, "{said} {says}");
        }
    }

    #[test]
    fn what_stands_again_is_not_asked_for() {
        let of = |object| Wanted::new(object, "shop");
        let web = json!({ "metadata": { "name": "web" } });
        let other = json!({ "metadata": { "name": "web", "namespace": "other" } });
        let same = json!({ "metadata": { "name": "web", "namespace": "shop" } });
        let wanted = [web, other, json!({}), same, json!({})].map(of);
        let [web, other, nameless, same, also] = &wanted;
        assert_eq!(once(&wanted), (vec![web, other, nameless, also], vec![same]));
    }

    #[test]
    fn endpoints_are_the_pods_with_addresses_of_its_families() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": { "ipFamilies": ["IPv4"], "ports": [{ "port": 80, "protocol": "TCP" }] },
        }))
        .unwrap();
        let pod = |name: &str, ready: &str, ips: &[&str]| -> DynamicObject {
            let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": { "nodeName": "node1" },
                "status": { "podIPs": ips, "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap()
        };
        let pods = [
            pod("a", "True", &["10.244.1.2", "2001:db8::2"]),
            pod("b", "False", &["10.244.1.3"]),
            pod("starts", "False", &[]),
        ];
        let found = slices(&service, &pods);
        assert_eq!(found.len(), 1);
        let endpoint = |place: usize| {
            let endpoint = &found[0].endpoints.as_ref().unwrap()[place];
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
            (endpoint.addresses.clone(), endpoint.node_name.clone(), ready)
        };
        assert_eq!(endpoint(0), (vec!["10.244.1.2".to_owned()], Some("node1".to_owned()), Some(true)));
        assert_eq!(endpoint(1), (vec!["10.244.1.3".to_owned()], Some("node1".to_owned()), Some(false)));
    }
}
