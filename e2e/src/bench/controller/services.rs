//! Services of the benchmark: one is made through the API, with and without an address; all others are copies of what the
//! API server made of it, written into etcd.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::await_until::{await_ok, pause};
use crate::bench::proxy::etcd;
use crate::lab::Lab;

/// The pool: addresses that RFC 2544 sets aside for benchmarks.
pub(super) const POOL: &str = "198.18.0.0/15";
/// The namespace of all.
const NAMESPACE: &str = "default";
/// For the API server to hear of them.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two Services that are made one by one.
const REST: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Services {
    /// The first one without an address, as the API server made it.
    waiting: String,
    /// The same with the address and all else that the controller wrote.
    served: String,
    address: String,
}

fn name(number: u32) -> String {
    format!("bench-{number:05}")
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 1)) + number)
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number)
}

fn service(name: &str, cluster_ip: Option<Ipv4Addr>) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/name": name, "bench": "controller" } },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "clusterIP": cluster_ip, "ipFamilyPolicy": "SingleStack",
            "selector": { "app.kubernetes.io/name": name },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    })
}

impl Services {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let first: Service = serde_json::from_value(service(&name(0), Some(cluster_ip(0))))?;
        lab.block_on(async |client| {
            let api: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
            let made = api.create(&PostParams::default(), &first).await?;
            let address = Api::<IPAddress>::all(client).get(&cluster_ip(0).to_string()).await?;
            Ok(Self {
                waiting: serde_json::to_string(&made)?,
                served: String::new(),
                address: serde_json::to_string(&address)?,
            })
        })
    }

    /// Has the controller give the first one its address, to copy that.
    pub(super) fn give_addresses(&mut self, lab: &Lab) -> Result<()> {
        let controller = lab.controller("controller", &["--identity=bench"])?;
        let first = address(0).to_string();
        self.served = await_ok(PATIENCE, "the first Service to have its address", || {
            let service = lab.block_on(async |client| {
                Ok(Api::<Service>::namespaced(client, NAMESPACE).get(&name(0)).await?)
            })?;
            let text = serde_json::to_string(&service)?;
            ensure!(text.contains(&first), "{text}");
            Ok(text)
        })?;
        controller.terminate(PATIENCE).map(drop)
    }

    /// So many Services that have no address; those that had one have none any more.
    pub(super) fn put_waiting(&self, lab: &Lab, count: u32) -> Result<()> {
        self.put(lab, &self.waiting, count)
    }

    /// So many Services with an address each.
    pub(super) fn put_served(&self, lab: &Lab, count: u32) -> Result<()> {
        self.put(lab, &self.served, count)
    }

    fn put(&self, lab: &Lab, pattern: &str, count: u32) -> Result<()> {
        let objects = (0..count).flat_map(|number| self.copies(pattern, number));
        etcd::put(lab.control_plane_ns(), objects, |_| {})?;
        let marker = serde_json::from_str::<Value>(&pattern.replace(&name(0), &name(count - 1)))?;
        let served = marker["status"]["loadBalancer"]["ingress"].is_array();
        await_ok(PATIENCE, "the API server to have all", || {
            let last = lab.block_on(async |client| {
                Ok(Api::<Service>::namespaced(client, NAMESPACE).get(&name(count - 1)).await?)
            })?;
            ensure!(has_address(&last) == served, "not yet");
            Ok(())
        })
    }

    fn copies(&self, pattern: &str, number: u32) -> Vec<(String, Value)> {
        let (name, ip) = (name(number), cluster_ip(number));
        let renamed = |text: &str| {
            let text = text
                .replace(&self::name(0), &name)
                .replace(&cluster_ip(0).to_string(), &ip.to_string())
                .replace(&address(0).to_string(), &address(number).to_string());
            serde_json::from_str::<Value>(&text).unwrap_or_default()
        };
        let mut copies = vec![
            (format!("/registry/services/specs/{NAMESPACE}/{name}"), renamed(pattern)),
            (format!("/registry/ipaddresses/{ip}"), renamed(&self.address)),
        ];
        for (kind, (_, object)) in (0..).zip(&mut copies) {
            let kind: u32 = kind;
            object["metadata"]["uid"] = json!(format!("7d1f0b5e-0000-4000-801{kind}-{number:012}"));
            // The server knows it by the revision in etcd.
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
        }
        copies
    }

    /// Every Service has an address of its own.
    pub(super) fn assert_all_served(&self, lab: &Lab, count: u32) -> Result<()> {
        let (services, addresses) = lab.block_on(async |client| {
            let api: Api<Service> = Api::namespaced(client, NAMESPACE);
            let list = api.list(&ListParams::default().labels("bench=controller")).await?;
            let addresses: std::collections::BTreeSet<String> =
                list.items.iter().filter_map(ingress).collect();
            Ok((list.items.len(), addresses.len()))
        })?;
        ensure!(
            services == count as usize && addresses == services,
            "{addresses} addresses for {services} of {count} Services"
        );
        Ok(())
    }

    /// Makes Services one by one through the API, each after the one before has its address; then deletes them.
    pub(super) fn create(&self, lab: &Lab, count: u32) -> Result<()> {
        let single = |number: u32| format!("more-{number:04}");
        lab.block_on(async |client| {
            let api: Api<Service> = Api::namespaced(client, NAMESPACE);
            for number in 0..count {
                let service: Service = serde_json::from_value(service(&single(number), None))?;
                api.create(&PostParams::default(), &service).await?;
                let name = single(number);
                let served = |service: Option<&Service>| service.is_some_and(has_address);
                tokio::time::timeout(PATIENCE, await_condition(api.clone(), &name, served))
                    .await
                    .with_context(|| format!("{name} has no address"))??;
            }
            Ok(())
        })?;
        pause(REST);
        lab.block_on(async |client| {
            let api: Api<Service> = Api::namespaced(client, NAMESPACE);
            for number in 0..count {
                api.delete(&single(number), &Default::default()).await.context("delete a Service")?;
            }
            Ok(())
        })
    }
}

fn ingress(service: &Service) -> Option<String> {
    service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
}

fn has_address(service: &Service) -> bool {
    ingress(service).is_some()
}
