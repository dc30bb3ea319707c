//! A node that is a machine of its own: `e2e/kubelet/boot.sh` as process 1 in namespaces and control groups of its own, with
//! the real containerd and kubelet in them. The programs are built by `e2e/kubelet/build.sh`; runc is Debian's.
//!
//! Pods get their network by the CNI plugin `ptp`: a host address and a route each, so that pods of one node meet at its IP
//! layer. The node's disk (`/var/lib`, `/var/log`) is a directory that outlives a reboot and goes with the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::await_until::await_ok;
use crate::control_plane;
use crate::lab::Lab;
use crate::process::Process;
use crate::registry::remove_control_group;
use crate::topology::{CLUSTER_DNS, Node};

/// From a program's start to its first answer; a busy machine may need many times the usual second.
const START: Duration = Duration::from_secs(90);
/// What a pod's sandbox is made of: Kubernetes' own test image, which [`Lab::boot`] is to be given.
pub const SANDBOX_IMAGE: &str = "docker.io/library/agnhost:lab";
/// Makes a shell of the machine one of its control groups, and then the program. nsenter(1) enters namespaces only.
const JOIN: &str = "for group in /sys/fs/cgroup/*/cgroup.procs; do echo $$ >\"$group\"; done; exec \"$@\"";

/// The processes of a booted node. Dropping it ends them, as a loss of power would.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    /// How often it has booted.
    times: u32,
    boot: Process,
    /// Process 1 of the machine, as seen from outside.
    init: i32,
    programs: Option<[Process; 2]>,
}

/// The directory of the built programs: `HERALD_KUBELET_DIR`, or what `e2e/kubelet/build.sh` says.
pub fn node_programs() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("HERALD_KUBELET_DIR") {
        return Ok(directory.into());
    }
    let script = script("build.sh");
    let output =
        Command::new(&script).arg("--where").output().with_context(|| format!("run {}", script.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubelet").join(name)
}

impl Machine {
    /// Runs a program in all namespaces of the machine and returns what it wrote to standard output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let words = self.enter(command);
        self.node.ns.exec(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Whether process 1, containerd and kubelet run.
    pub fn is_running(&self) -> bool {
        self.boot.is_running() && self.programs.iter().flatten().all(Process::is_running)
    }

    fn log_tails(&self) -> String {
        let processes = [&self.boot].into_iter().chain(self.programs.iter().flatten());
        processes.map(|process| format!("── {} ──\n{}\n", process.name(), process.log_tail())).collect()
    }

    /// What the containers of a pod on this node have written, as its kubelet keeps it.
    pub fn pod_log(&self, pod: &str) -> Result<String> {
        self.exec(&["sh", "-c", &format!("cat /var/log/pods/*_{pod}_*/*/*.log")])
    }

    /// The node that this is.
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn enter(&self, command: &[&str]) -> Vec<String> {
        let target = self.init.to_string();
        let nsenter =
            ["nsenter", "--target", &target, "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"];
        let join = ["sh", "-c", JOIN, "sh"];
        [&nsenter[..], &join[..], command].concat().iter().map(|word| (*word).to_owned()).collect()
    }

    /// Starts a program that stays.
    fn start(&self, lab: &Lab, name: &str, arguments: &[&str]) -> Result<Process> {
        let directory = node_programs()?;
        let program = directory.join(name).display().to_string();
        let words = self.enter(&[&[program.as_str()], arguments].concat());
        let mut command = Command::new(&words[0]);
        // containerd looks for its shim in the path, and the shim for runc.
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
        command.args(&words[1..]).env("PATH", path);
        lab.start_process(&self.node.ns, &format!("{name}-{}", self.node.name), command)
    }
}

impl Lab {
    /// Starts a node as a machine whose container runtime has these images (OCI layouts in tar files), and waits until
    /// Kubernetes calls it Ready.
    pub fn boot(&self, node: &Node, images: &[&Path]) -> Result<Machine> {
        self.boot_again(node, images, 1)
    }

    fn boot_again(&self, node: &Node, images: &[&Path], times: u32) -> Result<Machine> {
        let disks = std::env::temp_dir().join(format!("herald-lab-{}-nodes", self.name()));
        let disk = disks.join(&node.name);
        self.registry.directory_outside(&disks)?;
        self.registry.control_group(node.ns.name())?;
        fs::create_dir_all(&disk)?;
        for (name, text) in configuration(&node_programs()?, node, &disk) {
            fs::write(disk.join(name), text)?;
        }
        let kubeconfig = control_plane::write_kubelet_kubeconfig(&self.registry, &node.name, &disk)?;

        let mut command = Command::new(script("boot.sh"));
        command.arg(&disk).arg(node.ns.name()).arg(&node.name);
        // Each time a log of its own, or the last boot's words would be taken for this one's.
        let boot = self.start_process(&node.ns, &format!("boot-{}-{times}", node.name), command)?;
        boot.await_log("booted", START)?;
        let init = only_child(boot.pid())?;
        let mut machine = Machine { node: node.clone(), times, boot, init, programs: None };

        let file = |name: &str| disk.join(name).display().to_string();
        let containerd = machine.start(self, "containerd", &["--config", &file("containerd.toml")])?;
        let ctr = node_programs()?.join("ctr").display().to_string();
        await_ok(START, "containerd to answer", || match containerd.is_running() {
            true => machine.exec(&[&ctr, "version"]).map(drop),
            false => Ok(()),
        })
        .with_context(|| containerd.log_tail())?;
        for image in images {
            machine.exec(&[
                &ctr,
                "--namespace",
                "k8s.io",
                "images",
                "import",
                &image.display().to_string(),
            ])?;
        }
        let kubelet = machine.start(
            self,
            "kubelet",
            &[
                &format!("--config={}", file("kubelet.yaml")),
                &format!("--kubeconfig={}", kubeconfig.display()),
                &format!("--hostname-override={}", node.name),
                &format!("--node-ip={},{}", node.ip, node.ip6),
            ],
        )?;
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        await_ok(START, &format!("{} to be Ready", node.name), || match kubelet.is_running() {
            true => self.admit(node, started),
            false => Ok(()),
        })
        .with_context(|| kubelet.log_tail())?;
        machine.programs = Some([containerd, kubelet]);
        ensure!(machine.is_running(), "{} has ended: {}", node.name, machine.log_tails());
        Ok(machine)
    }

    /// The node loses its power and starts again: all its processes end at once, its network is made anew, and it boots
    /// with what is on its disk.
    pub fn reboot(&self, machine: Machine) -> Result<Machine> {
        let (node, times) = (machine.node.clone(), machine.times);
        drop(machine);
        remove_control_group(node.ns.name())?;
        self.topology.renew(&node)?;
        self.boot_again(&node, &[], times + 1)
    }

    /// What the node IPAM controller of a cluster does: gives the node its pods' networks. Then says whether its kubelet calls
    /// it Ready since that time, in seconds since 1970: before a reboot it was called so too.
    fn admit(&self, node: &Node, since: u64) -> Result<()> {
        self.block_on(async |client| {
            let api: Api<NodeObject> = Api::all(client);
            let object = api.get(&node.name).await?;
            if object.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()).is_none() {
                let cidrs = [node.pod_cidr(), node.pod_cidr6()];
                let cidrs = json!({ "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs } });
                api.patch(&node.name, &PatchParams::default(), &Patch::Merge(&cidrs)).await?;
            }
            let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready =
                conditions.iter().find(|condition| condition.type_ == "Ready").context("no condition")?;
            let heard = ready.last_heartbeat_time.as_ref().map_or(0, |time| time.0.as_second());
            ensure!(heard.cast_unsigned() >= since, "its kubelet has not said yet");
            ensure!(ready.status == "True", "{}", ready.message.as_deref().unwrap_or_default());
            Ok(())
        })
    }
}

/// The process that unshare(1) has made, which is process 1 of the machine.
fn only_child(pid: i32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.trim().parse().with_context(|| format!("the child of {pid}: “{children}”"))
}

/// The files that containerd, its CNI plugin and kubelet are configured by.
fn configuration(programs: &Path, node: &Node, disk: &Path) -> [(&'static str, String); 3] {
    let containerd = format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
# It makes a directory outside the node's disk.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{SANDBOX_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{}"]
conf_dir = "{}"
"#,
        programs.display(),
        disk.display(),
    );
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                // A kubelet that starts does not know the pods of before, so their addresses are free.
                "dataDir": "/run/cni",
                "ranges": [
                    [{ "subnet": node.pod_cidr(), "rangeStart": format!("10.244.{}.10", node.index) }],
                    [{ "subnet": node.pod_cidr6() }],
                ],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        }],
    });
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": disk.join("ca.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "resolvConf": "",
        // Whether anybody answers there is the test's affair.
        "clusterDNS": [CLUSTER_DNS],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
        // The disk is the machine's, and full or not for reasons of its own.
        "evictionHard": { "memory.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
    });
    [
        ("containerd.toml", containerd),
        ("10-pods.conflist", network.to_string()),
        ("kubelet.yaml", kubelet.to_string()),
    ]
}
