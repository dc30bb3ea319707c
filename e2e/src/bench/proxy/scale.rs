//! So many Services with three endpoints each, made through the API and read by nobody but the proxies.
//!
//! The Services have no selector and their slices are written here, so that no controller works on them. The endpoints
//! are addresses of pods that do not exist, on a hundred nodes of which the lab has three; but the first ten Services and
//! the last one of each size have the lab's pods behind them, so that it can be seen that they work.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::lab::Lab;

/// The port of every Service.
pub const PORT: u16 = 80;
/// The port of the lab's pods.
pub const TARGET_PORT: u16 = 8080;
/// Requests under way at a time. More only wait in the API server.
const AT_ONCE: usize = 24;
/// How often a request is made before its failure counts.
const ATTEMPTS: u32 = 6;
/// The namespace of all.
const NAMESPACE: &str = "default";
/// How many Services have real pods, besides the last one of each size.
const REAL: u32 = 10;
/// For one size; a machine that is shared may make 200 Services a second.
const PATIENCE: Duration = Duration::from_secs(600);

/// The Services that are there.
#[derive(Debug)]
pub struct Scale {
    made: u32,
    /// Sizes: the last Service of each works.
    sizes: Vec<u32>,
    pods: Vec<(String, IpAddr)>,
    /// Services whose third endpoint is not the one that they were made with.
    changed: HashSet<u32>,
}

impl Scale {
    /// None yet. `pods` are those that answer: their node and address.
    pub fn new(sizes: &[u32], pods: Vec<(String, IpAddr)>) -> Self {
        Self { made: 0, sizes: sizes.to_vec(), pods, changed: HashSet::new() }
    }

    /// Makes Services until there are so many; progress goes to standard error.
    pub fn grow(&mut self, lab: &Lab, count: u32) -> Result<()> {
        if self.made >= count {
            return Ok(());
        }
        let begin = Instant::now();
        let done = AtomicU32::new(0);
        let (first, this) = (self.made, &*self);
        lab.block_on(async |client| {
            let made = stream::iter(first..count).map(|number| {
                let (client, done) = (client.clone(), &done);
                async move {
                    create(&client, "scale", &name(number), cluster_ip(number), &this.endpoints(number))
                        .await?;
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(2500) {
                        eprintln!("{} Services after {:.0} s", first + done, begin.elapsed().as_secs_f64());
                    }
                    if begin.elapsed() > PATIENCE {
                        bail!("only {done} Services in {PATIENCE:?}");
                    }
                    Ok(())
                }
            });
            made.buffer_unordered(AT_ONCE).try_collect::<()>().await
        })?;
        self.made = count;
        eprintln!(
            "{count} Services are there; {:.1} s for the last {}",
            begin.elapsed().as_secs_f64(),
            count - first
        );
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

/// A request that may be repeated; a busy API server answers some of tens of thousands too late. What such a one has made
/// all the same is there already.
async fn again(request: impl AsyncFn() -> kube::Result<()>) -> kube::Result<()> {
    for attempt in 1.. {
        match request().await {
            Err(kube::Error::Api(status)) if attempt > 1 && status.reason == "AlreadyExists" => break,
            Err(_) if attempt < ATTEMPTS => tokio::time::sleep(Duration::from_millis(500)).await,
            outcome => return outcome,
        }
    }
    Ok(())
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
