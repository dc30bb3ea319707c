//! So many Services with three endpoints each, read by nobody but the proxies.
//!
//! The first is made through the API; all others are copies of what the API server made of it, written into etcd, since the
//! API server takes many minutes for tens of thousands. What it tells of them is the same.
//! The Services have no selector and their slices are written here, so that no controller works on them. The endpoints
//! are addresses of pods that do not exist, on a hundred nodes of which the lab has three; but the first ten Services and
//! the last one of each size have the lab's pods behind them, so that it can be seen that they work.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::etcd;
use crate::await_until::await_ok;
use crate::lab::Lab;

/// The port of every Service.
pub const PORT: u16 = 80;
/// The port of the lab's pods.
pub const TARGET_PORT: u16 = 8080;
/// How often a request is made before its failure counts.
const ATTEMPTS: u32 = 6;
/// The namespace of all.
const NAMESPACE: &str = "default";
/// How many Services have real pods, besides the last one of each size.
const REAL: u32 = 10;
/// For the API server to hear of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Services that are there.
#[derive(Debug)]
pub struct Scale {
    made: u32,
    /// Sizes: the last Service of each works.
    sizes: Vec<u32>,
    pods: Vec<(String, IpAddr)>,
    /// The first one, of which all others are copies.
    pattern: Option<Pattern>,
    /// Services whose third endpoint is not the one that they were made with.
    changed: HashSet<u32>,
}

impl Scale {
    /// None yet. `pods` are those that answer: their node and address.
    pub fn new(sizes: &[u32], pods: Vec<(String, IpAddr)>) -> Self {
        Self { made: 0, sizes: sizes.to_vec(), pods, pattern: None, changed: HashSet::new() }
    }

    /// Makes Services until there are so many; progress goes to standard error.
    pub fn grow(&mut self, lab: &Lab, count: u32) -> Result<()> {
        if self.made >= count {
            return Ok(());
        }
        let begin = Instant::now();
        if self.pattern.is_none() {
            self.pattern = Some(self.first(lab)?);
            self.made = 1;
        }
        let pattern = self.pattern.as_ref().context("there is a pattern")?;
        let this = &*self;
        let objects = (self.made..count).flat_map(|number| pattern.copies(number, this.endpoints(number)));
        let written = |written: usize| {
            if written.is_multiple_of(30_000) {
                eprintln!("{} of {count} Services", this.made as usize + written / 3);
            }
        };
        etcd::put(lab.control_plane_ns(), objects, written)?;
        await_ok(PATIENCE, "the API server to have all", || {
            lab.block_on(async |client| {
                let name = name(count - 1);
                Api::<Service>::namespaced(client.clone(), NAMESPACE).get(&name).await?;
                Api::<EndpointSlice>::namespaced(client, NAMESPACE).get(&name).await?;
                Ok(())
            })
        })?;
        let new = count - std::mem::replace(&mut self.made, count);
        eprintln!("{count} Services are there; {:.1} s for {new} more", begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// The first one, as the API server made it.
    fn first(&self, lab: &Lab) -> Result<Pattern> {
        lab.block_on(async |client| {
            let (name, ip) = (name(0), cluster_ip(0));
            create(&client, "scale", &name, ip, &self.endpoints(0)).await?;
            let service = Api::<Service>::namespaced(client.clone(), NAMESPACE).get(&name).await?;
            let slice = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE).get(&name).await?;
            let address = Api::<IPAddress>::all(client).get(&ip.to_string()).await?;
            Ok(Pattern {
                service: serde_json::to_string(&service)?,
                slice: serde_json::to_value(&slice)?,
                address: serde_json::to_string(&address)?,
                vip: None,
            })
        })
    }

    /// Copies that are made from now on have what was written to the first one meanwhile, and addresses of their own that follow
    /// on its.
    pub fn with_addresses(&mut self, lab: &Lab) -> Result<()> {
        let service = lab.block_on(async |client| {
            Ok(Api::<Service>::namespaced(client, NAMESPACE).get(&name(0)).await?)
        })?;
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let entry = status.and_then(|balancer| balancer.ingress.as_ref()?.first());
        let vip = entry.and_then(|entry| entry.ip.as_ref()).context("the first one has no address")?;
        let pattern = self.pattern.as_mut().context("there is no first one")?;
        pattern.vip = Some(vip.parse()?);
        pattern.service = serde_json::to_string(&service)?;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.made
    }

    /// The last one, which works.
    pub fn last(&self) -> SocketAddr {
        at(self.made.saturating_sub(1))
    }

    /// The next changes of one endpoint each, of Services all over the range.
    pub fn next_changes(&mut self, count: u32) -> Vec<(u32, Value)> {
        let range = self.made.saturating_sub(2 * REAL).max(1);
        let change = |n: u32| {
            // A large prime as step; both ends of the range have real pods and are left alone.
            let number = REAL + (n * 7919) % range;
            let back = self.changed.remove(&number) || !self.changed.insert(number);
            (number, endpoints(number, u32::from(!back)))
        };
        (0..count).map(change).collect()
    }

    fn endpoints(&self, number: u32) -> Value {
        let real = number < REAL || self.sizes.contains(&(number + 1));
        if real { real_endpoints(&self.pods) } else { endpoints(number, 0) }
    }
}

/// What the API server makes of a Service: the copies have all that it adds, `managedFields` too.
#[derive(Debug)]
struct Pattern {
    service: String,
    slice: Value,
    address: String,
    /// Its load balancer address, if it has one.
    vip: Option<Ipv4Addr>,
}

impl Pattern {
    /// What etcd holds of one Service: key and value of the Service, its slice, and the claim of its address.
    fn copies(&self, number: u32, endpoints: Value) -> Vec<(String, Value)> {
        let (name, ip) = (name(number), cluster_ip(number));
        let renamed = |text: &str| {
            let mut text =
                text.replace(&self::name(0), &name).replace(&cluster_ip(0).to_string(), &ip.to_string());
            if let Some(vip) = self.vip {
                text = text.replace(&vip.to_string(), &Ipv4Addr::from(u32::from(vip) + number).to_string());
            }
            serde_json::from_str::<Value>(&text).unwrap_or_default()
        };
        let mut slice = renamed(&self.slice.to_string());
        slice["endpoints"] = endpoints;
        let keyed = [
            (format!("/registry/services/specs/{NAMESPACE}/{name}"), renamed(&self.service)),
            (format!("/registry/endpointslices/{NAMESPACE}/{name}"), slice),
            (format!("/registry/ipaddresses/{ip}"), renamed(&self.address)),
        ];
        let mut copies = Vec::from(keyed);
        for (kind, (_, object)) in (0..).zip(&mut copies) {
            let kind: u32 = kind;
            object["metadata"]["uid"] = json!(format!("7d1f0b5e-0000-4000-800{kind}-{number:012}"));
            // The server knows it by the revision in etcd.
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
        }
        copies
    }
}

/// Where a Service answers.
pub fn at(number: u32) -> SocketAddr {
    (cluster_ip(number), PORT).into()
}

/// A Service's name, which is its slice's too.
pub fn name(number: u32) -> String {
    format!("scale-{number:05}")
}

/// An address that no Service of [`Scale`] has.
pub fn spare_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 110, 0, 1)) + number)
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 1)) + number)
}

/// The lab's pods as endpoints.
pub fn real_endpoints(pods: &[(String, IpAddr)]) -> Value {
    pods.iter().map(|(node, ip)| endpoint(&ip.to_string(), node)).collect()
}

/// Three endpoints; those of another `version` differ in one.
fn endpoints(number: u32, version: u32) -> Value {
    let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 245, 0, 0)) + n).to_string();
    let node = |n: u32| format!("node{}", 1 + n % 100);
    let of = |slot: u32| {
        let n = number * 4 + slot;
        endpoint(&address(n), &node(n))
    };
    [of(0), of(1), of(2 + version % 2)].into_iter().collect()
}

fn endpoint(address: &str, node: &str) -> Value {
    json!({
        "addresses": [address], "nodeName": node,
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "targetRef": { "kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{address}"),
                       "uid": "3f0f9c1e-6c6d-4c2b-9f0e-5b1f0c8d7a42" },
    })
}

/// Makes a Service and its slice at the same time; both have the label `bench=<bench>`.
pub async fn create(
    client: &Client,
    bench: &str,
    name: &str,
    cluster_ip: Ipv4Addr,
    endpoints: &Value,
) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/name": name, "bench": bench } },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "clusterIP": cluster_ip, "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "http", "port": PORT, "targetPort": TARGET_PORT }],
        },
    }))?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": {
            "kubernetes.io/service-name": name, "bench": bench,
            "endpointslice.kubernetes.io/managed-by": "bench.herald.io",
        } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": TARGET_PORT, "protocol": "TCP" }],
        "endpoints": endpoints,
    }))?;
    let parameters = PostParams::default();
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let (service, slice) = futures::join!(
        again(async || services.create(&parameters, &service).await.map(drop)),
        again(async || slices.create(&parameters, &slice).await.map(drop)),
    );
    service.with_context(|| format!("create Service {name}"))?;
    slice.with_context(|| format!("create EndpointSlice {name}"))?;
    Ok(())
}

/// A request that may be repeated: a busy API server refuses some of tens of thousands, or answers too late. What such a
/// one has made all the same is there already.
async fn again(request: impl AsyncFn() -> kube::Result<()>) -> kube::Result<()> {
    for attempt in 1.. {
        match request().await {
            Err(kube::Error::Api(status)) if attempt > 1 && status.reason == "AlreadyExists" => break,
            Err(error) if attempt < ATTEMPTS && is_busy(&error) => {
                tokio::time::sleep(Duration::from_millis(500)).await
            }
            outcome => return outcome,
        }
    }
    Ok(())
}

/// The server, or the way to it, and not the request is at fault.
fn is_busy(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

/// Writes a Service's endpoints.
pub async fn change(client: &Client, number: u32, endpoints: &Value) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = json!({ "endpoints": endpoints });
    let name = name(number);
    let parameters = PatchParams::default();
    again(async || slices.patch(&name, &parameters, &Patch::Merge(&patch)).await.map(drop))
        .await
        .with_context(|| format!("change EndpointSlice {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_of_a_service_differs_in_one_endpoint() {
        let of = |version| endpoints(7, version).as_array().cloned().unwrap_or_default();
        let (before, after) = (of(0), of(1));
        assert_eq!(before.len(), 3);
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
        assert_eq!(before, of(2));
    }

    #[test]
    fn no_spare_address_is_a_services() {
        assert!(cluster_ip(50_000) < spare_ip(0));
    }
}
