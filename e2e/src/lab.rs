//! A lab: the namespaces, the control plane, the router and the pods, as one value. Dropping it removes everything.

mod logs;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::control_plane::{self, ControlPlane, ControlPlaneOptions};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::registry::{self, Registry};
use crate::router::{Router, RouterOptions};
use crate::sandbox::{FIRST, Port, Sandbox, serve_arguments};
use crate::spawn::Lifetime;
use crate::topology::{Node, Topology};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What a lab shall have.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    name: Option<String>,
    nodes: u8,
    router: Option<RouterOptions>,
    control_plane: Option<ControlPlaneOptions>,
    noisy: bool,
}

/// A lab.
#[derive(Debug)]
pub struct Lab {
    pub(crate) registry: Registry,
    pub(crate) topology: Topology,
    pub(crate) lifetime: Lifetime,
    owned: bool,
    noisy: bool,
    router: Router,
    control_plane: Option<ControlPlane>,
    sandboxes: Mutex<BTreeMap<(String, String), Sandbox>>,
    /// The last pod's number on each node.
    octets: Mutex<BTreeMap<u8, u8>>,
}

impl LabBuilder {
    /// The number of nodes, 1 to 9; 3 unless said otherwise.
    #[must_use]
    pub fn nodes(self, nodes: u8) -> Self {
        Self { nodes: nodes.clamp(1, 9), ..self }
    }

    /// With a control plane of the usual kind.
    #[must_use]
    pub fn control_plane(self) -> Self {
        self.control_plane_with(ControlPlaneOptions::default())
    }

    /// With a control plane.
    #[must_use]
    pub fn control_plane_with(self, options: ControlPlaneOptions) -> Self {
        Self { control_plane: Some(options), ..self }
    }

    /// With BIRD on the router, as AS 100, waiting for all nodes as AS 42.
    #[must_use]
    pub fn bird(self) -> Self {
        let options = RouterOptions::t4(&Topology::describe("", self.nodes).nodes);
        self.bird_with(options)
    }

    /// With BIRD on the router, as the sample of the manifests wants it.
    #[must_use]
    pub fn bird_of_sample(self) -> Self {
        let options = RouterOptions::sample(&Topology::describe("", self.nodes).nodes);
        self.bird_with(options)
    }

    /// With BIRD on the router.
    #[must_use]
    pub fn bird_with(self, options: RouterOptions) -> Self {
        Self { router: Some(options), ..self }
    }

    /// The same may happen in it again and again, as in a benchmark: its logs may tell that each time.
    #[must_use]
    pub fn noisy(self) -> Self {
        Self { noisy: true, ..self }
    }

    /// Builds the lab. It is removed when the value is dropped, and everything in it is killed by the kernel when this
    /// process ends in any other way.
    pub fn start(self) -> Result<Lab> {
        self.build(Lifetime::Owner)
    }

    /// Builds a lab that stays when this process ends, until [`registry::remove`].
    pub(crate) fn start_detached(mut self, name: &str) -> Result<Lab> {
        self.name = Some(name.to_owned());
        self.build(Lifetime::Detached)
    }

    fn build(self, lifetime: Lifetime) -> Result<Lab> {
        registry::sweep();
        let name = self.name.unwrap_or_else(|| {
            format!("lab{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
        });
        let registry = Registry::claim(&name, lifetime == Lifetime::Detached)?;
        std::fs::create_dir_all(registry.directory().join("log"))?;
        std::fs::write(registry.directory().join("nodes"), self.nodes.to_string())?;
        let topology = Topology::describe(&name, self.nodes);
        let router = Router::new(&registry, &topology.router, lifetime);
        // From here on a failure drops the lab, and so removes what is there.
        let mut lab = Lab {
            registry,
            topology,
            lifetime,
            owned: true,
            noisy: self.noisy,
            router,
            control_plane: None,
            sandboxes: Mutex::default(),
            octets: Mutex::default(),
        };
        lab.topology.build(&lab.registry)?;
        if let Some(options) = self.router {
            lab.router.configure(&options)?;
            lab.router.start_bird()?;
        }
        if let Some(options) = self.control_plane {
            let kubelets = options.kubelets;
            let nodes: Vec<&str> = lab.topology.nodes.iter().map(|node| node.name.as_str()).collect();
            let place = &lab.topology.control_plane;
            lab.control_plane = Some(ControlPlane::start(&lab.registry, place, lifetime, options, &nodes)?);
            // With kubelets, nodes and Herald come as in any cluster: by themselves, and by the manifests.
            if !kubelets {
                lab.register_nodes()?;
                lab.make_accounts()?;
            }
        }
        lab.owned = lifetime == Lifetime::Owner;
        Ok(lab)
    }
}

impl Lab {
    /// A lab of three nodes, a router without BIRD, a client, and no control plane, unless the builder is told more.
    pub fn builder() -> LabBuilder {
        LabBuilder { name: None, nodes: 3, router: None, control_plane: None, noisy: false }
    }

    /// A detached lab that another process has made. Its control plane and BIRD can be used, not restarted.
    pub fn attach(name: &str) -> Result<Self> {
        let registry = Registry::open(name)?;
        let nodes =
            std::fs::read_to_string(registry.directory().join("nodes")).context("the number of nodes")?;
        let topology = Topology::describe(name, nodes.trim().parse().context("the number of nodes")?);
        let router = Router::new(&registry, &topology.router, Lifetime::Owner);
        Ok(Self {
            registry,
            topology,
            lifetime: Lifetime::Owner,
            owned: false,
            noisy: true,
            router,
            control_plane: None,
            sandboxes: Mutex::default(),
            octets: Mutex::default(),
        })
    }

    /// Its name, with which its namespaces' names begin.
    pub fn name(&self) -> &str {
        self.registry.name()
    }

    /// Its directory: `log/`, `kubeconfig`, `bird.conf`, `bird.sock`.
    pub fn directory(&self) -> &Path {
        self.registry.directory()
    }

    /// The kubeconfig of an administrator. It works in every namespace that reaches 10.0.0.10.
    pub fn kubeconfig(&self) -> PathBuf {
        control_plane::kubeconfig(&self.registry)
    }

    /// The node of this number, from 1. Panics when there is none: that is a mistake of the test.
    pub fn node(&self, index: u8) -> &Node {
        let found = self.topology.nodes.iter().find(|node| node.index == index);
        assert!(found.is_some(), "the lab has {} nodes, not {index}", self.topology.nodes.len());
        found.unwrap_or(&self.topology.nodes[0])
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.topology.nodes
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.topology.client
    }

    /// The switch's namespace: the bridge `br0`, with a port for each host of the LAN, named after it.
    pub fn lan(&self) -> &Namespace {
        &self.topology.lan
    }

    /// The control plane's namespace.
    pub fn control_plane_ns(&self) -> &Namespace {
        &self.topology.control_plane
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Kills kube-apiserver.
    pub fn stop_api(&self) -> Result<()> {
        self.plane()?.stop_api();
        Ok(())
    }

    /// Starts kube-apiserver again and waits until it is ready.
    pub fn start_api(&self) -> Result<()> {
        self.plane()?.start_api()
    }

    /// Stops etcd where it stands, as a disk that hangs does.
    pub fn freeze_etcd(&self) -> Result<()> {
        self.plane()?.etcd().freeze();
        Ok(())
    }

    /// Ends [`Self::freeze_etcd`].
    pub fn thaw_etcd(&self) -> Result<()> {
        self.plane()?.etcd().thaw();
        Ok(())
    }

    /// Kills kube-controller-manager: slices no longer follow pods.
    pub fn stop_controllers(&self) -> Result<()> {
        self.plane()?.stop_controllers();
        Ok(())
    }

    /// Starts kube-controller-manager again.
    pub fn start_controllers(&self) -> Result<()> {
        self.plane()?.start_controllers()
    }

    /// Whether all processes of the control plane run.
    pub fn control_plane_runs(&self) -> bool {
        self.control_plane.as_ref().is_some_and(ControlPlane::is_running)
    }

    /// Takes the control plane off the network: nobody gets an answer, not even a refusal. [`Self::block_on`] and
    /// [`Self::kubectl`] go on working.
    pub fn cut_api(&self) -> Result<()> {
        self.unplug("cp")
    }

    /// Ends [`Self::cut_api`].
    pub fn heal_api(&self) -> Result<()> {
        self.plug("cp")
    }

    /// Takes a node off the LAN, as if its cable were pulled (or its power, as others see it).
    pub fn cut_node(&self, node: &Node) -> Result<()> {
        self.unplug(&node.name)
    }

    /// Ends [`Self::cut_node`].
    pub fn heal_node(&self, node: &Node) -> Result<()> {
        self.plug(&node.name)
    }

    /// Starts a server in any namespace, as pods have it: it tells who it is and who asks.
    pub fn serve(&self, ns: &Namespace, name: &str, ports: &[Port]) -> Result<Process> {
        let process = self.start_process(ns, &format!("serve-{name}"), self.serve_command(name, ports)?)?;
        process.await_log("listening", Duration::from_secs(10))?;
        Ok(process)
    }

    /// Starts any program in a namespace of the lab; its output goes to `log/<name>.log`.
    pub fn start_process(&self, ns: &Namespace, name: &str, command: Command) -> Result<Process> {
        Process::start(&self.registry, Some(ns), name, command, self.lifetime)
    }

    /// [`Self::start_process`] for what works on namespaces instead of living in one.
    pub(crate) fn start_process_outside(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&self.registry, None, name, command, self.lifetime)
    }

    /// Removes the lab now and tells what could not be removed. Dropping it does the same, silently.
    pub fn remove(mut self) -> Result<()> {
        self.owned = false;
        let noise = self.noise();
        self.registry.remove()?;
        ensure!(noise.is_empty(), "{}", noise.join("\n"));
        Ok(())
    }

    pub(crate) fn serve_command(&self, name: &str, ports: &[Port]) -> Result<Command> {
        let mut command = Command::new(lab_program()?);
        command.arg("serve").arg("--name").arg(name).args(serve_arguments(ports));
        Ok(command)
    }

    pub(crate) fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<(String, String), Sandbox>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn last_octet(&self, node: &Node) -> u8 {
        let octets = self.octets.lock().unwrap_or_else(PoisonError::into_inner);
        octets.get(&node.index).copied().unwrap_or(FIRST - 1)
    }

    pub(crate) fn set_last_octet(&self, node: &Node, octet: u8) {
        self.octets.lock().unwrap_or_else(PoisonError::into_inner).insert(node.index, octet);
    }

    fn plane(&self) -> Result<&ControlPlane> {
        self.control_plane.as_ref().context("the lab has no control plane of its own")
    }

    fn unplug(&self, port: &str) -> Result<()> {
        self.topology.lan.ip(&[format!("link set {port} down")])
    }

    fn plug(&self, port: &str) -> Result<()> {
        self.topology.lan.ip(&[format!("link set {port} up")])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // A second panic would end all tests of this process.
        let failed = std::thread::panicking();
        let noise = if failed { Vec::new() } else { self.noise() };
        if failed || !noise.is_empty() {
            self.print_logs();
        }
        self.keep_logs();
        if let Err(error) = self.registry.remove() {
            eprintln!("{error:#}");
        }
        assert!(
            noise.is_empty(),
            "Herald says the same too often (if the test returned an error as well, this has taken its place):\n{}",
            noise.join("\n")
        );
    }
}

/// A port of an address in the form the clients want.
pub fn at(address: &str, port: u16) -> SocketAddr {
    let ip = address.parse();
    assert!(ip.is_ok(), "not an address: {address}");
    SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
}

/// The program `lab`: `HERALD_LAB_BIN`, this program itself, or the one built beside this test.
pub(crate) fn lab_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HERALD_LAB_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    if own.file_name().is_some_and(|name| name == "lab") {
        return Ok(own);
    }
    let beside =
        own.ancestors().skip(1).take(3).map(|directory| directory.join("lab")).find(|path| path.is_file());
    beside.context("the program `lab` is not built: cargo build -p herald-e2e --bin lab")
}
