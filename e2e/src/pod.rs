//! Pods as tests make them: the object at the API server, bound to a node, and the namespace behind it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::sandbox::Port;
use crate::topology::Node;

/// A pod to make.
#[derive(Clone, Debug)]
pub struct PodOptions {
    namespace: String,
    labels: Vec<(String, String)>,
    ports: Vec<Port>,
    ready: bool,
}

impl PodOptions {
    /// In namespace `default`, with the label `app=<app>`, HTTP and datagrams on port 8080, ready.
    pub fn app(app: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            labels: vec![("app".to_owned(), app.to_owned())],
            ports: vec![Port::Tcp(8080), Port::Udp(8080)],
            ready: true,
        }
    }

    /// In another namespace, which must exist.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// With one label more.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Serving these ports instead.
    #[must_use]
    pub fn ports(self, ports: &[Port]) -> Self {
        Self { ports: ports.to_vec(), ..self }
    }

    /// Not ready at first.
    #[must_use]
    pub fn not_ready(self) -> Self {
        Self { ready: false, ..self }
    }
}

/// A pod. The lab removes it in the end; dropping this handle does nothing.
#[derive(Debug)]
pub struct Pod<'lab> {
    lab: &'lab Lab,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub node: Node,
    /// Its network namespace.
    pub ns: Namespace,
    /// Its IPv4 address.
    pub ip: IpAddr,
    /// Its IPv6 address.
    pub ip6: IpAddr,
}

impl Lab {
    /// Makes a pod on a node: its namespace and server first, then the object, and its status.
    pub fn pod(&self, node: &Node, name: &str, options: &PodOptions) -> Result<Pod<'_>> {
        let ports: Vec<_> = options.ports.iter().map(|port| container_port(*port)).collect();
        let labels: serde_json::Map<_, _> =
            options.labels.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let object: PodObject = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": options.namespace, "labels": labels },
            "spec": {
                "nodeName": node.name,
                "containers": [{ "name": "server", "image": "lab.example/server", "ports": ports }],
            },
        }))?;
        let [ip, ip6] = self.block_on(async |client| {
            let api: Api<PodObject> = Api::namespaced(client.clone(), &options.namespace);
            let created = api.create(&PostParams::default(), &object).await?;
            let uid = created.metadata.uid.clone().unwrap_or_default();
            let ips = self.ensure_sandbox(node, (&options.namespace, name), &uid, &options.ports, &[])?;
            report_running(&client, &created, node, ips, options.ready).await?;
            Ok(ips)
        })?;
        self.existing_pod(&options.namespace, name)
            .with_context(|| format!("pod {name} at {ip}, {ip6} has no sandbox"))
    }

    /// A pod that [`Self::pod`] or [`Self::settle`] has made.
    pub fn existing_pod(&self, namespace: &str, name: &str) -> Option<Pod<'_>> {
        let sandboxes = self.sandboxes();
        let sandbox = sandboxes.get(&(namespace.to_owned(), name.to_owned()))?;
        let [ip, ip6] = sandbox.ips();
        Some(Pod {
            lab: self,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: sandbox.node.clone(),
            ns: sandbox.ns.clone(),
            ip,
            ip6,
        })
    }

    /// All pods that have a network namespace, by namespace and name.
    pub fn pods(&self) -> Vec<Pod<'_>> {
        let keys: Vec<(String, String)> = self.sandboxes().keys().cloned().collect();
        keys.iter().filter_map(|(namespace, name)| self.existing_pod(namespace, name)).collect()
    }
}

impl Pod<'_> {
    /// A port of its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// A port of its IPv6 address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.ip6, port).into()
    }

    /// Tells the API server that the pod is ready, or is not. The server goes on serving.
    pub fn set_ready(&self, ready: bool) -> Result<()> {
        self.lab.block_on(async |client| {
            let api: Api<PodObject> = Api::namespaced(client.clone(), &self.namespace);
            let object = api.get(&self.name).await?;
            report_running(&client, &object, &self.node, [self.ip, self.ip6], ready).await
        })
    }

    /// Deletes the object with a grace period and lets the server go on: the pod is terminating, and still serving, until
    /// [`Self::delete`] or [`Lab::settle`].
    pub fn start_terminating(&self) -> Result<()> {
        self.delete_object(600)
    }

    /// Deletes the object without grace, and then ends the server at once.
    pub fn delete(&self) -> Result<()> {
        self.delete_object(0)?;
        self.lab.remove_sandbox(&self.namespace, &self.name)?;
        Ok(())
    }

    /// Ends the server as a crash would: its port refuses, the object says Ready still.
    pub fn crash(&self) {
        let key = (self.namespace.clone(), self.name.clone());
        if let Some(sandbox) = self.lab.sandboxes().get(&key) {
            sandbox.server.kill();
        }
    }

    /// Lets the server hang (SIGSTOP): connections are accepted by the kernel and never answered.
    pub fn freeze(&self) {
        let key = (self.namespace.clone(), self.name.clone());
        if let Some(sandbox) = self.lab.sandboxes().get(&key) {
            sandbox.server.signal(Signal::SIGSTOP);
        }
    }

    /// Lets the server go on after [`Self::freeze`].
    pub fn thaw(&self) {
        let key = (self.namespace.clone(), self.name.clone());
        if let Some(sandbox) = self.lab.sandboxes().get(&key) {
            sandbox.server.thaw();
        }
    }

    fn delete_object(&self, grace: u32) -> Result<()> {
        self.lab.block_on(async |client| {
            let api: Api<PodObject> = Api::namespaced(client, &self.namespace);
            match api.delete(&self.name, &DeleteParams::default().grace_period(grace)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }
}

fn container_port(port: Port) -> serde_json::Value {
    match port {
        Port::Tcp(number) => json!({ "containerPort": number, "protocol": "TCP" }),
        Port::Udp(number) => json!({ "containerPort": number, "protocol": "UDP" }),
    }
}

/// Writes the status that a kubelet would write for a running pod.
pub(crate) async fn report_running(
    client: &Client,
    object: &PodObject,
    node: &Node,
    ips: [IpAddr; 2],
    ready: bool,
) -> Result<()> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().context("a pod without a name")?;
    let since = &object.metadata.creation_timestamp;
    let condition = |kind: &str, holds: bool| json!({ "type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": since });
    let containers = object.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let statuses: Vec<_> = containers
        .iter()
        .map(|container| {
            let image = container.image.as_deref().unwrap_or_default();
            json!({
                "name": container.name, "image": image, "imageID": image, "ready": ready, "started": true,
                "restartCount": 0, "state": { "running": { "startedAt": since } },
            })
        })
        .collect();
    let status = json!({ "status": {
        "phase": "Running",
        "hostIP": node.ip, "hostIPs": [{ "ip": node.ip }, { "ip": node.ip6 }],
        "podIP": ips[0], "podIPs": ips.map(|ip| json!({ "ip": ip })),
        "startTime": since,
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": statuses,
    }});
    let api: Api<PodObject> = Api::namespaced(client.clone(), namespace);
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}
