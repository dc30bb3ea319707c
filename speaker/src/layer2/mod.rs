//! Layer 2: addresses announced by ARP and neighbour discovery, each by one node of a segment.
//!
//! ```text
//!   Reconciler ── watch: what is offered ──> the thread "layer2", a runtime of its own
//!              <─ watch: who owns what ────    ├─ interfaces::follow      1x  rtnetlink: where to announce
//!                                              └─ port::Port              1x per interface
//!                                                   hellos (UDP multicast), ARP, neighbour discovery
//!                                                   segment::Segment: the state machine, without IO
//!                                                     election: who owns an address · bursts: when it is told
//! ```
//!
//! On a thread of its own, real-time where the kernel permits it: neither a batch of nftables nor an answer of the API
//! server may delay a hello. The thread needs no API server to keep, move or release an address.

mod alarm;
mod bursts;
mod election;
mod frame;
mod hello;
mod interfaces;
mod keys;
mod metrics;
mod port;
mod segment;
mod sockets;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_config::Layer2Spread;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub(crate) use self::election::rank;
pub(crate) use self::keys::{KeySource, follow as follow_keys};
pub(crate) use self::metrics::Layer2Metrics;
pub(crate) use self::segment::Standing;
pub(crate) use self::sockets::register;
pub(crate) use self::versions::OtherVersions;

use self::hello::Keys;
use self::interfaces::{Interface, Interfaces};
use self::port::{Port, Shared};
use crate::priority::raise_priority;

/// How long an interface whose sockets cannot be opened is left alone.
const REOPEN: Duration = Duration::from_secs(1);
/// How long stopping waits for others to take over.
const STOP: Duration = Duration::from_millis(1500);

/// One address that this node may own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Preference of the configuration for this node; the highest wins where nobody owns the address yet.
    pub(crate) score: u16,
    /// Only on these interfaces; `None`: on all.
    pub(crate) interfaces: Option<BTreeSet<String>>,
}

impl Offered {
    /// Adds what another claim of the same address wants.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.score = self.score.max(other.score);
        self.interfaces = match (self.interfaces.take(), &other.interfaces) {
            (Some(mine), Some(theirs)) => Some(&mine | theirs),
            _ => None,
        };
    }

    fn is_on(&self, interface: &str) -> bool {
        self.interfaces.as_ref().is_none_or(|interfaces| interfaces.contains(interface))
    }
}

/// What the node wants of layer 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// There is something to announce by layer 2 on this node, now or later.
    pub(crate) active: bool,
    /// What it may own.
    pub(crate) offers: BTreeMap<IpAddr, Offered>,
    /// The other nodes, with their addresses.
    pub(crate) nodes: Arc<BTreeMap<Box<str>, BTreeSet<IpAddr>>>,
    /// When addresses are spread again.
    pub(crate) spread: Layer2Spread,
    /// It hands all over and ends.
    pub(crate) stopping: bool,
}

impl Wanted {
    fn names_interfaces(&self, address: IpAddr) -> bool {
        self.offers.get(&address).is_some_and(|offered| offered.interfaces.is_some())
    }

    /// Those of the other nodes that should be on the segment.
    fn nodes_on(&self, interface: &Interface) -> BTreeMap<Box<str>, IpAddr> {
        let address =
            |addresses: &BTreeSet<IpAddr>| addresses.iter().find(|ip| interface.reaches(**ip)).copied();
        self.nodes.iter().filter_map(|(node, addresses)| Some((node.clone(), address(addresses)?))).collect()
    }

    /// Where the other nodes are that share a segment with `own`, one address of each family and node. Those that follow `own` by
    /// name come first, so that of many nodes not all choose the same ones.
    fn beside(&self, own: &str, interfaces: &Interfaces) -> Vec<IpAddr> {
        let (behind, before): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|(node, _)| ***node > *own);
        let reached = |ip: &&IpAddr| interfaces.values().any(|interface| interface.reaches(**ip));
        let of_node = |(_, addresses): (_, &BTreeSet<IpAddr>)| {
            let of_family =
                |v4: bool| addresses.iter().filter(move |ip| ip.is_ipv4() == v4).find(reached).copied();
            [of_family(true), of_family(false)]
        };
        behind.into_iter().chain(before).flat_map(of_node).flatten().collect()
    }

    fn offers_on(&self, interface: &str) -> BTreeMap<IpAddr, u16> {
        let here = self.offers.iter().filter(|(_, offered)| offered.is_on(interface));
        here.map(|(address, offered)| (*address, offered.score)).collect()
    }
}

/// One interface, as it is just now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortView {
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
    /// How many other nodes are heard.
    pub(crate) hears: usize,
    /// What this node owns.
    pub(crate) owned: BTreeSet<IpAddr>,
    /// Those of them of which an advertisement names the interfaces.
    pub(crate) named: BTreeSet<IpAddr>,
    /// Who owns what this node offers.
    pub(crate) standings: BTreeMap<IpAddr, Standing>,
    /// The nodes that are heard.
    pub(crate) heard: BTreeSet<Box<str>>,
    /// Nodes that were heard here and count as dead.
    pub(crate) suspects: BTreeSet<Box<str>>,
    /// Nodes whose hellos are of another version.
    pub(crate) other_versions: OtherVersions,
    /// Since when it is so; who reads it may be late.
    pub(crate) since: Option<Instant>,
}

/// All interfaces, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Those that are announced on.
    pub(crate) ports: BTreeMap<String, PortView>,
    /// Where the other nodes are on segments of this one.
    pub(crate) beside: Vec<IpAddr>,
    /// Hosts outside the cluster that have been seen to have an address, in words.
    pub(crate) conflicts: BTreeMap<IpAddr, String>,
}

impl View {
    /// What this node owns on some interface.
    pub(crate) fn owned(&self) -> BTreeSet<IpAddr> {
        self.ports.values().flat_map(|port| port.owned.iter().copied()).collect()
    }

    /// The interfaces on which this node owns an address, where an advertisement names some.
    pub(crate) fn named(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut named: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for (interface, port) in &self.ports {
            for address in &port.named {
                named.entry(*address).or_default().insert(interface.clone());
            }
        }
        named
    }

    /// Nodes that count as dead where they were heard, and are heard nowhere else.
    pub(crate) fn suspects(&self) -> BTreeSet<Box<str>> {
        let heard = |node: &str| self.ports.values().any(|port| port.heard.contains(node));
        let all = self.ports.values().flat_map(|port| &port.suspects);
        all.filter(|node| !heard(node)).cloned().collect()
    }

    /// Nodes whose hellos cannot be read on some interface, and what is to be told of them.
    pub(crate) fn other_versions(&self) -> BTreeMap<&str, String> {
        self.ports.values().flat_map(|port| port.other_versions.told()).collect()
    }

    /// Whether of all that are heard this node is the one that speaks for them.
    pub(crate) fn is_first(&self, node: &str) -> bool {
        self.ports.values().flat_map(|port| &port.heard).all(|other| node < &**other)
    }
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Layer2 {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<View>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl Layer2 {
    /// Starts it. Nothing is sent before there are keys and something is wanted.
    pub(crate) fn start(
        node: &str,
        keys: watch::Receiver<Option<Keys>>,
        metrics: Layer2Metrics,
    ) -> io::Result<Self> {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (publish, view) = watch::channel(View::default());
        let (end, ended) = oneshot::channel();
        let node = node.to_owned();
        let run = move || {
            tracing::info!(priority = raise_priority(), "layer 2 has a thread of its own");
            let (found, interfaces) = watch::channel(Interfaces::new());
            let shared = Shared { node, keys, wanted: wants, found: interfaces, view: publish, metrics };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(alone(supervise(Arc::new(shared), found))));
            let _ = end.send(result);
        };
        std::thread::Builder::new().name("layer2".to_owned()).spawn(run)?;
        Ok(Self { wanted, view, ended })
    }

    /// Changes what is wanted.
    pub(crate) fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.clone();
            change(wanted);
            *wanted != before
        });
    }

    /// Who owns what.
    pub(crate) fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Waits for the end of the thread, which is an error.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.ended).await {
            Ok(Err(error)) => error.context("layer 2 has ended"),
            _ => anyhow::anyhow!("the thread of layer 2 has ended"),
        }
    }

    /// Hands everything over to other nodes.
    pub(crate) async fn stop(&mut self) {
        self.want(|wanted| wanted.stopping = true);
        // It has failed, and its end was taken by `failed`.
        if self.ended.is_terminated() {
            return;
        }
        if tokio::time::timeout(STOP, &mut self.ended).await.is_err() {
            tracing::warn!(
                "layer 2 did not stop in time: other nodes take its addresses when they miss its hellos"
            );
        }
    }
}

/// Runs as a task of its own: to wake what `block_on` itself runs takes a system call.
async fn alone(task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    tasks.join_next().await.unwrap_or(Ok(Ok(())))?
}

/// Keeps one port for each interface.
async fn supervise(shared: Arc<Shared>, found: watch::Sender<Interfaces>) -> anyhow::Result<()> {
    let (mut wanted, mut interfaces, mut keys) =
        (shared.wanted.clone(), shared.found.clone(), shared.keys.clone());
    let mut ports = JoinSet::new();
    let mut running = BTreeSet::new();
    let following = interfaces::follow(found);
    tokio::pin!(following);
    loop {
        let stopping = wanted.borrow_and_update().stopping;
        let beside = wanted.borrow().beside(&shared.node, &interfaces.borrow());
        shared.view.send_if_modified(|view| {
            let changed = view.beside != beside;
            view.beside = beside;
            changed
        });
        if stopping && running.is_empty() {
            return Ok(());
        }
        if wanted.borrow().active && !stopping && keys.borrow_and_update().is_some() {
            for (index, interface) in interfaces.borrow_and_update().iter() {
                if running.insert(*index) {
                    ports.spawn(run_port(Arc::clone(&shared), *index, interface.clone()));
                }
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            // Whoever reads the keys stops first.
            Ok(()) = keys.changed() => {}
            changed = interfaces.changed() => changed?,
            ended = &mut following => return ended,
            Some(ended) = ports.join_next() => {
                running.remove(&ended?);
            }
        }
    }
}

/// Runs a port; returns its interface's index.
async fn run_port(shared: Arc<Shared>, index: u32, interface: Interface) -> u32 {
    let name = interface.name.clone();
    tracing::info!(interface = name, v4 = interface.v4, v6 = interface.v6, "layer 2 on this interface");
    let ended = match Port::open(shared, index, interface) {
        Ok(port) => port.run().await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => tracing::info!(interface = name, "layer 2 no more on this interface"),
        Err(error) => {
            tracing::warn!(%error, interface = name, "layer 2 has failed on this interface; trying again");
            tokio::time::sleep(REOPEN).await;
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_are_the_nodes_of_its_segments_and_those_behind_it_by_name_come_first() {
        let interface = |networks: &[&str]| Interface {
            name: "eth0".to_owned(),
            mac: [2; 6],
            v4: true,
            v6: true,
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        };
        let node = |name: &str, addresses: &[&str]| {
            (name.into(), addresses.iter().map(|address| address.parse().unwrap()).collect())
        };
        let nodes = [
            node("a", &["10.0.0.1", "fd00::1"]),
            node("b", &["10.0.1.2", "fd00::2"]),
            node("d", &["198.51.100.4", "10.0.0.4", "10.0.0.44"]),
            node("e", &["10.0.7.5", "fd00:7::5"]),
        ];
        let wanted = Wanted { nodes: Arc::new(nodes.into()), ..Wanted::default() };
        let two = [(2, interface(&["10.0.0.0/24", "fd00::/64"])), (3, interface(&["10.0.1.0/24"]))].into();
        let beside = |interfaces: &Interfaces| {
            wanted.beside("c", interfaces).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(beside(&two), ["10.0.0.4", "10.0.0.1", "fd00::1", "10.0.1.2", "fd00::2"]);
        assert_eq!(beside(&Interfaces::new()), [""; 0], "nothing is known of the interfaces yet");
    }
}
