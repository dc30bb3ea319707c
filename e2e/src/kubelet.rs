//! What scheduler and kubelets would do: Node objects, pending pods bound to nodes and started, deleted pods ended.
//!
//! [`Lab::settle`] does it once, for tests that want to know when; `lab kubelet` does it in a loop, so that
//! `kubectl create deployment`, `scale` and `delete pod` work in the demo.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod as PodObject};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::await_until::{await_ok, pause};
use crate::lab::Lab;
use crate::pod::report_running;
use crate::sandbox::Port;

/// What one [`Lab::settle`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Pods that run now and did not before.
    pub started: usize,
    /// Pods whose namespaces are gone.
    pub ended: usize,
}

impl Lab {
    /// Makes the Node objects: Ready, with addresses and pod networks.
    pub(crate) fn register_nodes(&self) -> Result<()> {
        self.block_on(async |client| {
            let api: Api<NodeObject> = Api::all(client);
            for node in self.nodes() {
                let object: NodeObject = serde_json::from_value(json!({
                    "metadata": {
                        "name": node.name,
                        "labels": { "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux" },
                    },
                    "spec": { "podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr(), node.pod_cidr6()] },
                    "status": {
                        "addresses": [
                            { "type": "InternalIP", "address": node.ip },
                            { "type": "InternalIP", "address": node.ip6 },
                            { "type": "Hostname", "address": node.name },
                        ],
                        "capacity": { "pods": "200", "cpu": "4", "memory": "8Gi" },
                        "allocatable": { "pods": "200", "cpu": "4", "memory": "8Gi" },
                        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
                        "nodeInfo": {
                            "kubeletVersion": "v1.36.3", "osImage": "lab", "kernelVersion": "", "architecture": "amd64",
                            "operatingSystem": "linux", "containerRuntimeVersion": "lab://", "bootID": "", "machineID": "",
                            "systemUUID": "", "kubeProxyVersion": "",
                        },
                    },
                }))?;
                api.create(&PostParams::default(), &object).await?;
                // A taint "not ready" is put on by admission, and nobody else would take it off.
                let untaint = json!({ "spec": { "taints": null } });
                api.patch(&node.name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&untaint)).await?;
            }
            Ok(())
        })
    }

    /// Binds pending pods to nodes in turn, starts them and reports them ready; ends terminating pods and those whose
    /// object is gone.
    pub fn settle(&self) -> Result<Settled> {
        self.block_on(async |client| {
            let mut settled = Settled::default();
            let pods = Api::<PodObject>::all(client.clone()).list(&ListParams::default()).await?.items;
            let mut load: BTreeMap<String, usize> =
                self.nodes().iter().map(|node| (node.name.clone(), 0)).collect();
            for pod in &pods {
                if let Some(count) = node_name(pod).and_then(|name| load.get_mut(name)) {
                    *count += 1;
                }
            }
            let mut taken: Vec<IpAddr> = pods.iter().flat_map(ips).collect();
            for pod in &pods {
                if pod.metadata.deletion_timestamp.is_some() {
                    settled.ended += usize::from(self.end_pod(&client, pod).await?);
                } else if self.start_pod(&client, pod, &mut load, &mut taken).await? {
                    settled.started += 1;
                }
            }
            let alive: BTreeSet<(String, String)> =
                pods.iter().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())).collect();
            let orphans: Vec<(String, String)> =
                self.sandboxes().keys().filter(|key| !alive.contains(*key)).cloned().collect();
            for (namespace, name) in orphans {
                settled.ended += usize::from(self.remove_sandbox(&namespace, &name)?);
            }
            Ok(settled)
        })
    }

    /// Settles until `count` pods with this label (`app=nginx`) run in the namespace and no other does.
    pub fn await_pods(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
        deadline: Duration,
    ) -> Result<Vec<String>> {
        await_ok(deadline, &format!("{count} pods of {selector} in {namespace}"), || {
            self.settle()?;
            let names = self.block_on(async |client| {
                let api: Api<PodObject> = Api::namespaced(client, namespace);
                let pods = api.list(&ListParams::default().labels(selector)).await?.items;
                Ok(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
            })?;
            let running = names.iter().filter(|name| self.existing_pod(namespace, name).is_some()).count();
            if running != count || names.len() != count {
                bail!("{} objects, {running} running", names.len());
            }
            Ok(names)
        })
    }

    /// Settles again and again, until this process is killed. Failures are written to standard error once each.
    pub fn run_kubelet(&self) {
        let mut last = String::new();
        loop {
            let failure = self.settle().err().map(|error| format!("{error:#}")).unwrap_or_default();
            if failure != last {
                eprintln!("{}", if failure.is_empty() { "settled" } else { &failure });
                last = failure;
            }
            pause(Duration::from_millis(100));
        }
    }

    async fn start_pod(
        &self,
        client: &Client,
        pod: &PodObject,
        load: &mut BTreeMap<String, usize>,
        taken: &mut Vec<IpAddr>,
    ) -> Result<bool> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let uid = pod.uid().unwrap_or_default();
        let known = self.sandboxes().get(&(namespace.clone(), name.clone())).is_some_and(|s| s.uid == uid);
        let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        if known && running {
            return Ok(false);
        }
        let chosen = match node_name(pod) {
            Some(name) => name.to_owned(),
            None => {
                let least =
                    load.iter().min_by_key(|(_, count)| **count).context("a lab without nodes")?.0.clone();
                bind(client, &namespace, &name, &least).await?;
                *load.entry(least.clone()).or_default() += 1;
                least
            }
        };
        // A node that a test has made up has no place to run anything.
        let Some(node) = self.nodes().iter().find(|node| node.name == chosen) else { return Ok(false) };
        let found = self.ensure_sandbox(node, (&namespace, &name), &uid, &ports(pod), taken)?;
        taken.extend(found);
        report_running(client, pod, node, found, true).await?;
        Ok(true)
    }

    async fn end_pod(&self, client: &Client, pod: &PodObject) -> Result<bool> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let ended = self.remove_sandbox(&namespace, &name)?;
        let api: Api<PodObject> = Api::namespaced(client.clone(), &namespace);
        match api.delete(&name, &DeleteParams::default().grace_period(0)).await {
            Ok(_) => Ok(ended),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(ended),
            Err(error) => Err(error.into()),
        }
    }
}

async fn bind(client: &Client, namespace: &str, name: &str, node: &str) -> Result<()> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": name, "namespace": namespace },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let api: Api<PodObject> = Api::namespaced(client.clone(), namespace);
    let _: serde_json::Value =
        api.create_subresource("binding", name, &PostParams::default(), &binding).await?;
    Ok(())
}

fn node_name(pod: &PodObject) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn ips(pod: &PodObject) -> Vec<IpAddr> {
    let listed = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    listed.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// What the containers say they serve; without a word of it, HTTP on port 80.
fn ports(pod: &PodObject) -> Vec<Port> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let named: Vec<Port> = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            Some(if port.protocol.as_deref() == Some("UDP") { Port::Udp(number) } else { Port::Tcp(number) })
        })
        .collect();
    if named.is_empty() { vec![Port::Tcp(80)] } else { named }
}
