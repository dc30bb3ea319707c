//! What Herald is measured beside: MetalLB (native BGP, or layer 2) and kube-proxy (nftables), as published, with their defaults.
//!
//! MetalLB's controller runs beside the API server, a speaker and a kube-proxy run on each node. What a cluster would give
//! them is made here: the CRDs, Pod objects for the speakers (they read their own and find each other by their labels), the
//! secret of the member list, a configuration file for each kube-proxy. Nothing is tuned: kube-proxy keeps its
//! `minSyncPeriod` of one second. Its conntrack settings are off, for they are the machine's and no namespace's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::await_until::await_ok;
use crate::control_plane;
use crate::herald::NAMESPACE;
use crate::lab::Lab;
use crate::pod::report_running;
use crate::process::Process;
use crate::topology::{CLUSTER_CIDR, Node, ROUTER};

/// The controller's Pod, and its component.
const CONTROLLER: &str = "controller";
/// For CRDs to be served, and for sessions to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The processes; dropping them kills them.
#[derive(Debug)]
pub struct MetalLb {
    processes: Vec<Process>,
}

impl MetalLb {
    /// Starts both with one pool of this prefix, announced to the lab's BIRD, and waits for the sessions.
    pub fn start(lab: &Lab, pool: &str) -> Result<Self> {
        install_bgp(lab, pool)?;
        Self::run(lab)
    }

    /// Starts what was started before and is ended, on the objects that are there.
    pub fn run(lab: &Lab) -> Result<Self> {
        let mut processes = vec![start_controller(lab)?];
        for node in lab.nodes() {
            processes.push(start_speaker(lab, node)?);
            processes.push(start_kube_proxy(lab, node)?);
        }
        let this = Self { processes };
        for node in lab.nodes() {
            lab.router().await_session(&node.name, PATIENCE).with_context(|| this.logs())?;
        }
        Ok(this)
    }

    /// Ends the processes and takes away all that [`Self::start`] made, here and in the nodes' kernels: what is measured next
    /// lists neither their objects nor their kinds.
    pub fn remove(self, lab: &Lab) -> Result<()> {
        drop(self);
        let crds = programs()?.join("metallb/crds").display().to_string();
        lab.kubectl(&["delete", "--ignore-not-found", "--timeout=30s", "-f", &crds])?;
        // Nobody but a kubelet ends a pod with grace, and the lab's nodes have none.
        let at_once = ["--force", "--grace-period=0", "--timeout=30s"];
        lab.kubectl(&[&["delete", "pods", "-n", NAMESPACE, "-l", "app=metallb"][..], &at_once].concat())?;
        for node in lab.nodes() {
            node.ns.exec(&["nft", "flush", "ruleset"])?;
        }
        Ok(())
    }

    /// The ends of the processes' logs.
    pub fn logs(&self) -> String {
        logs(&self.processes)
    }
}

/// All objects for announcing a pool to the lab's BIRD.
pub fn install_bgp(lab: &Lab, pool: &str) -> Result<()> {
    install(lab, &bgp(pool))
}

/// All objects for announcing a pool by layer 2.
pub fn install_layer2(lab: &Lab, pool: &str) -> Result<()> {
    install(lab, &layer2(pool))
}

fn install(lab: &Lab, configuration: &str) -> Result<()> {
    apply_crds(lab, &programs()?.join("metallb/crds"))?;
    await_ok(PATIENCE, "the CRDs to be served", || lab.apply(configuration))?;
    make_pods(lab)
}

/// The directory of the built programs: `HERALD_PEERS_DIR`, or what `e2e/peers/build.sh` says.
pub fn programs() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("HERALD_PEERS_DIR") {
        return Ok(directory.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/build.sh");
    let output =
        Command::new(&script).arg("--where").output().with_context(|| format!("run {}", script.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// MetalLB's and kube-proxy's versions.
pub fn versions() -> Result<(String, String)> {
    let metallb = std::fs::read_to_string(programs()?.join("metallb/version"))?;
    let output = Command::new(control_plane::programs()?.join("kube-proxy")).arg("--version").output()?;
    let kube_proxy = String::from_utf8_lossy(&output.stdout).trim().replace("Kubernetes ", "");
    Ok((metallb.trim().to_owned(), kube_proxy))
}

pub(super) fn logs(processes: &[Process]) -> String {
    let shown = processes.iter().map(|process| {
        let state = if process.is_running() { "runs" } else { "has ended" };
        format!("── {} ({state}) ──\n{}\n", process.name(), process.log_tail())
    });
    shown.collect()
}

fn apply_crds(lab: &Lab, directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path)?;
        lab.apply(&text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn object(version: &str, kind: &str, spec: serde_json::Value) -> String {
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": "bench", "namespace": NAMESPACE },
        "spec": spec,
    })
    .to_string()
}

fn configuration(pool: &str, announcing: &[String]) -> String {
    let mut objects = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }).to_string(),
        object("v1beta1", "IPAddressPool", json!({ "addresses": [pool] })),
    ];
    objects.extend_from_slice(announcing);
    objects.join("\n---\n")
}

fn bgp(pool: &str) -> String {
    let peer = json!({ "myASN": 42, "peerASN": 100, "peerAddress": ROUTER });
    let peer = object("v1beta2", "BGPPeer", peer);
    configuration(
        pool,
        &[peer, object("v1beta1", "BGPAdvertisement", json!({ "ipAddressPools": ["bench"] }))],
    )
}

fn layer2(pool: &str) -> String {
    configuration(pool, &[object("v1beta1", "L2Advertisement", json!({ "ipAddressPools": ["bench"] }))])
}

fn pod_name(node: &Node) -> String {
    format!("speaker-{}", node.name)
}

/// Each speaker's and the controller's: they read their own.
fn make_pods(lab: &Lab) -> Result<()> {
    lab.nodes().iter().try_for_each(|node| make_speaker_pod(lab, node))?;
    make_pod(lab, CONTROLLER, CONTROLLER, lab.node(1))
}

/// The Pod of a node's speaker.
pub fn make_speaker_pod(lab: &Lab, node: &Node) -> Result<()> {
    make_pod(lab, &pod_name(node), "speaker", node)
}

fn make_pod(lab: &Lab, name: &str, component: &str, node: &Node) -> Result<()> {
    lab.block_on(async |client| {
        let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": "metallb", "component": component } },
            "spec": {
                "nodeName": node.name, "hostNetwork": true,
                "containers": [{ "name": component, "image": "lab.example/metallb" }],
            },
        }))?;
        let created = api.create(&PostParams::default(), &pod).await?;
        report_running(&client, &created, node, [node.ip.into(), node.ip6.into()], true).await
    })
}

/// MetalLB's controller, beside the API server.
pub fn start_controller(lab: &Lab) -> Result<Process> {
    let mut controller = Command::new(programs()?.join("metallb/controller"));
    controller
        .args(["--webhook-mode=disabled", "--disable-cert-rotation=true"])
        .env("KUBECONFIG", lab.kubeconfig())
        .env("METALLB_NAMESPACE", NAMESPACE)
        .env("METALLB_POD_NAME", CONTROLLER)
        .env("METALLB_BGP_TYPE", "native");
    lab.start_process(lab.control_plane_ns(), "metallb-controller", controller)
}

/// MetalLB's speaker on a node.
pub fn start_speaker(lab: &Lab, node: &Node) -> Result<Process> {
    let secret = lab.directory().join("memberlist");
    std::fs::create_dir_all(&secret)?;
    std::fs::write(secret.join("secretkey"), "herald-bench-memberlist")?;
    let mut command = Command::new(programs()?.join("metallb/speaker"));
    let ip = node.ip.to_string();
    command
        .env("KUBECONFIG", lab.kubeconfig())
        .env("METALLB_NAMESPACE", NAMESPACE)
        .env("METALLB_BGP_TYPE", "native")
        .env("METALLB_NODE_NAME", &node.name)
        .env("METALLB_POD_NAME", pod_name(node))
        .env("METALLB_HOST", &ip)
        .env("METALLB_ML_BIND_ADDR", &ip)
        .env("METALLB_ML_LABELS", "app=metallb,component=speaker")
        .env("METALLB_ML_SECRET_KEY_PATH", secret);
    lab.start_process(&node.ns, &format!("metallb-{}", pod_name(node)), command)
}

/// kube-proxy on a node.
pub fn start_kube_proxy(lab: &Lab, node: &Node) -> Result<Process> {
    let name = format!("bench-kube-proxy-{}", node.name);
    let file = lab.directory().join(format!("{name}.json"));
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clientConnection": { "kubeconfig": lab.kubeconfig() },
        "clusterCIDR": CLUSTER_CIDR, "detectLocalMode": "ClusterCIDR",
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    });
    std::fs::write(&file, configuration.to_string())?;
    let mut command = Command::new(control_plane::programs()?.join("kube-proxy"));
    command.arg(format!("--config={}", file.display()));
    lab.start_process(&node.ns, &name, command)
}
