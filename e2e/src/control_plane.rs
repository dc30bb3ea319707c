//! A real control plane in the namespace `-cp`: etcd, kube-apiserver, kube-controller-manager.
//!
//! The programs are built by `e2e/cluster/build.sh`. Usually no kubelet and no scheduler run (see `kubelet.rs`), so the node
//! lifecycle controller is off unless wanted: it would call nodes without Leases dead after 40 s. With real kubelets
//! (`machine.rs`) nothing is left out.
//! Everything it keeps is in a directory of its own below the temporary directory, gone with the lab.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::api;
use crate::await_until::await_ok;
use crate::certificates;
use crate::machine::node_programs;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::registry::Registry;
use crate::spawn::Lifetime;
use crate::topology::{CONTROL_PLANE, SERVICE_CIDR};

/// From the API server's start to `/readyz`; a loaded machine may need many times the usual two seconds.
const READY: Duration = Duration::from_secs(90);
const TOKEN: &str = "lab-admin-token";

/// What may differ between labs.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// Runs the node lifecycle controller too: nodes whose Lease is not renewed become NotReady.
    pub node_lifecycle: bool,
    /// The nodes are machines with kubelets of their own ([`crate::Lab::boot`]): a scheduler runs, pods have their
    /// ServiceAccount's token, kubelets may do what the Node authorizer lets them, and the Node objects are theirs to make.
    pub kubelets: bool,
    /// Further flags of kube-apiserver.
    pub api_flags: Vec<String>,
}

/// The control plane's processes.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    registry: Registry,
    namespace: Namespace,
    lifetime: Lifetime,
    options: ControlPlaneOptions,
    programs: PathBuf,
    files: Files,
    etcd: Process,
    api: Mutex<Option<Process>>,
    controllers: Mutex<Option<Process>>,
    scheduler: Option<Process>,
}

/// Where its files are.
#[derive(Clone, Debug)]
struct Files {
    etcd: PathBuf,
    pki: PathBuf,
    kubeconfig: PathBuf,
}

/// The lab's kubeconfig file.
pub(crate) fn kubeconfig(registry: &Registry) -> PathBuf {
    registry.directory().join("kubeconfig")
}

/// The directory of the built programs: `HERALD_CLUSTER_DIR`, or what `e2e/cluster/build.sh` says.
pub fn programs() -> Result<PathBuf> {
    match std::env::var_os("HERALD_CLUSTER_DIR") {
        Some(directory) => Ok(directory.into()),
        None => built("cluster/build.sh"),
    }
}

/// The directory of the tools that `e2e/tools/build.sh` builds: `helm`, and the definitions of the Prometheus operator.
pub fn tools() -> Result<PathBuf> {
    built("tools/build.sh")
}

/// The directory of Kubernetes' own e2e suite, built by `e2e/conformance/build.sh`: `e2e.test`, `ginkgo`, and `images/`.
pub fn e2e_suite() -> Result<PathBuf> {
    built("conformance/build.sh")
}

/// Where a script has put what it builds.
fn built(script: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output =
        Command::new(&script).arg("--where").output().with_context(|| format!("run {}", script.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

impl ControlPlane {
    /// Starts all and waits until the API server is ready and has its first namespaces.
    pub(crate) fn start(
        registry: &Registry,
        namespace: &Namespace,
        lifetime: Lifetime,
        options: ControlPlaneOptions,
        nodes: &[&str],
    ) -> Result<Self> {
        let programs = programs()?;
        let data = std::env::temp_dir().join(format!("herald-lab-{}", registry.name()));
        registry.directory_outside(&data)?;
        let files = Files {
            etcd: data.join("etcd"),
            pki: registry.directory().join("pki"),
            kubeconfig: kubeconfig(registry),
        };
        for directory in [&files.etcd, &files.pki] {
            fs::create_dir_all(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        }
        let etcd = start_etcd(registry, namespace, lifetime, &programs, &files.etcd)?;
        certificates::write(&files.pki)?;
        let mut tokens = format!("{TOKEN},lab,lab,system:masters\n");
        for node in nodes {
            tokens.push_str(&format!("{},system:node:{node},{node},system:nodes\n", kubelet_token(node)));
        }
        fs::write(files.pki.join("tokens.csv"), tokens)?;
        fs::write(&files.kubeconfig, kubeconfig_text(&files.pki.join("ca.crt"), TOKEN))?;
        let etcd_up = || namespace.run(|| std::net::TcpStream::connect(("127.0.0.1", 2379)));
        await_ok(READY, "etcd to listen", || match etcd_up() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error),
        })
        .with_context(|| etcd.log_tail())?;
        let mut this = Self {
            registry: registry.clone(),
            namespace: namespace.clone(),
            lifetime,
            options,
            programs,
            files,
            etcd,
            api: Mutex::new(None),
            controllers: Mutex::new(None),
            scheduler: None,
        };
        this.start_api()?;
        this.start_controllers()?;
        if this.options.kubelets {
            let mut command = Command::new(node_programs()?.join("kube-scheduler"));
            command
                .arg(format!("--kubeconfig={}", this.files.kubeconfig.display()))
                .arg("--leader-elect=false");
            this.scheduler = Some(this.start_process("kube-scheduler", command)?);
        }
        Ok(this)
    }

    /// Starts kube-apiserver, when it does not run, and waits until it is ready.
    pub(crate) fn start_api(&self) -> Result<()> {
        let mut api = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        if api.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        let process = self.start_process("kube-apiserver", self.api_command())?;
        let ready =
            api::await_ready(&self.namespace, &self.files.kubeconfig, READY, &|| process.is_running());
        if let Err(error) = ready {
            return Err(error.context(process.log_tail()));
        }
        *api = Some(process);
        Ok(())
    }

    /// Kills kube-apiserver.
    pub(crate) fn stop_api(&self) {
        if let Some(process) = self.api.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.kill();
        }
    }

    pub(crate) fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// Starts kube-controller-manager, when it does not run.
    pub(crate) fn start_controllers(&self) -> Result<()> {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        if controllers.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        *controllers = Some(self.start_process("kube-controller-manager", self.controllers_command())?);
        Ok(())
    }

    /// Kills kube-controller-manager: EndpointSlices no longer follow the pods.
    pub(crate) fn stop_controllers(&self) {
        if let Some(process) = self.controllers.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.kill();
        }
    }

    /// Whether all of it runs.
    pub(crate) fn is_running(&self) -> bool {
        let running = |process: &Mutex<Option<Process>>| {
            process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Process::is_running)
        };
        let scheduled = self.scheduler.as_ref().is_none_or(Process::is_running);
        scheduled && self.etcd.is_running() && running(&self.api) && running(&self.controllers)
    }

    fn start_process(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&self.registry, Some(&self.namespace), name, command, self.lifetime)
    }

    fn api_command(&self) -> Command {
        let pki = |file: &str| self.files.pki.join(file).display().to_string();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            "--secure-port=6443".to_owned(),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--advertise-address={CONTROL_PLANE}"),
            format!("--tls-cert-file={}", pki("server.crt")),
            format!("--tls-private-key-file={}", pki("server.key")),
            format!("--token-auth-file={}", pki("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", pki("accounts.pub")),
            format!("--service-account-signing-key-file={}", pki("accounts.key")),
            "--allow-privileged=true".to_owned(),
            // A lab's few clients need no fair queues; they cost start-up time.
            "--enable-priority-and-fairness=false".to_owned(),
        ]);
        if self.options.kubelets {
            command.args([
                "--authorization-mode=Node".to_owned(),
                format!("--kubelet-client-certificate={}", pki("kubelets.crt")),
                format!("--kubelet-client-key={}", pki("kubelets.key")),
                // Nobody resolves their names.
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ]);
        } else {
            // Pods need not wait for their ServiceAccount, and no kubelet would mount its token.
            command.arg("--disable-admission-plugins=ServiceAccount");
        }
        command.args(&self.options.api_flags);
        command
    }

    fn controllers_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        let mut controllers = "*,-pod-garbage-collector-controller,-node-ipam-controller,\
                               -persistentvolume-binder-controller,-persistentvolume-attach-detach-controller,\
                               -persistentvolume-expander-controller,-horizontal-pod-autoscaler-controller,\
                               -clusterrole-aggregation-controller,-certificatesigningrequest-signing-controller"
            .to_owned();
        if !self.options.node_lifecycle && !self.options.kubelets {
            controllers.push_str(",-node-lifecycle-controller,-taint-eviction-controller");
        }
        command.args([
            format!("--kubeconfig={}", self.files.kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            format!("--service-account-private-key-file={}", self.files.pki.join("accounts.key").display()),
            format!("--root-ca-file={}", self.files.pki.join("ca.crt").display()),
            format!("--controllers={controllers}"),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]);
        command
    }
}

fn start_etcd(
    registry: &Registry,
    namespace: &Namespace,
    lifetime: Lifetime,
    programs: &Path,
    data: &Path,
) -> Result<Process> {
    let mut command = Command::new(programs.join("etcd"));
    command.arg(format!("--data-dir={}", data.display())).args([
        "--name=lab",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=lab=http://127.0.0.1:2380",
        // The data lives as long as the lab.
        "--unsafe-no-fsync",
        // A single member elects itself; no need to wait a second for it.
        "--heartbeat-interval=10",
        "--election-timeout=100",
        "--log-level=warn",
    ]);
    Process::start(registry, Some(namespace), "etcd", command, lifetime)
}

fn kubelet_token(node: &str) -> String {
    format!("lab-{node}-token")
}

/// What a node's kubelet logs in with, in a directory of its own: the node sees nothing of the lab's.
pub(crate) fn write_kubelet_kubeconfig(registry: &Registry, node: &str, directory: &Path) -> Result<PathBuf> {
    let authority = directory.join("ca.crt");
    fs::copy(registry.directory().join("pki/ca.crt"), &authority)?;
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, kubeconfig_text(&authority, &kubelet_token(node)))?;
    Ok(kubeconfig)
}

/// A kubeconfig for who has this token.
pub(crate) fn kubeconfig_text(authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: lab\n\
         \x20 cluster: {{server: \"https://{CONTROL_PLANE}:6443\", certificate-authority: \"{}\"}}\n\
         users:\n\
         - name: lab\n\
         \x20 user: {{token: {token}}}\n\
         contexts:\n\
         - name: lab\n\
         \x20 context: {{cluster: lab, user: lab}}\n\
         current-context: lab\n",
        authority.display()
    )
}
