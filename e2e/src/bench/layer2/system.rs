//! One of three systems in a lab of its own, each on nodes 1 and 2, with one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::neighbours::{self, Neighbours};
use crate::await_until::await_ok;
use crate::bench::metallb;
use crate::bench::proxy::system::Metrics;
use crate::client::HttpOptions;
use crate::lab::{Lab, at};
use crate::pod::PodOptions;
use crate::process::Process;
use crate::sandbox::Port;
use crate::topology::Node;

/// For whatever takes seconds where all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The label that keeps a node from owning addresses, of Herald and of MetalLB.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers=";
/// What keepalived's nodes share.
const KEEPALIVED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 240);
/// The Service of the others.
pub(super) const SERVICE: &str = "web";

/// Which system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `herald speaker --proxy=full`, timers as by default.
    Herald,
    /// MetalLB's speakers in layer 2 mode with their member list, beside kube-proxy (nftables).
    MetalLb,
    /// VRRP version 3 with an advertisement each 0.1 s; a server listens on the address itself.
    Keepalived,
}

impl Kind {
    /// Herald, and the two that stand beside it.
    pub const ALL: [Self; 3] = [Self::Herald, Self::MetalLb, Self::Keepalived];

    /// As it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Herald => "herald",
            Self::MetalLb => "metallb",
            Self::Keepalived => "keepalived",
        }
    }
}

/// A system that runs.
#[derive(Debug)]
pub struct System {
    pub(super) kind: Kind,
    pub(super) vip: SocketAddr,
    /// What announces, by node.
    announcers: BTreeMap<u8, Process>,
    _others: Vec<Process>,
    /// Hardware addresses of the nodes, by node.
    macs: BTreeMap<u8, String>,
    pub(super) lab: Lab,
}

impl System {
    /// Starts it in a lab of so many nodes, and waits until one node answers for the address and another one would.
    pub fn start(kind: Kind, nodes: u8) -> Result<Self> {
        eprintln!("{}: a lab of {nodes} nodes", kind.name());
        let lab = Lab::builder().nodes(nodes).control_plane().noisy().start()?;
        let macs = lab.nodes().iter().map(|node| Ok((node.index, mac(node)?))).collect::<Result<_>>()?;
        let (others, vip) = match kind {
            Kind::Keepalived => (serve(&lab)?, KEEPALIVED),
            Kind::Herald | Kind::MetalLb => {
                lab.pod(lab.node(3), "web-1", &PodOptions::app(SERVICE))?;
                for node in lab.nodes().iter().filter(|node| node.index > 2) {
                    lab.kubectl(&["label", "node", &node.name, EXCLUDED])?;
                }
                configure(&lab, kind, "10.0.0.200-10.0.0.239")?;
                let others = companions(&lab, kind)?;
                (others, service(&lab, SERVICE)?)
            }
        };
        let mut system =
            Self { kind, vip: (vip, 80).into(), announcers: BTreeMap::new(), _others: others, macs, lab };
        for node in system.announcing() {
            system.launch(node)?;
        }
        let owner = system.owner()?;
        // The first one that has it is not always the one that keeps it: the others come later.
        let spare = system.spare(owner);
        match kind {
            Kind::Herald => system.await_spare(spare)?,
            Kind::MetalLb | Kind::Keepalived => system.await_settled()?,
        }
        Ok(system)
    }

    /// Nodes on which something announces.
    fn announcing(&self) -> Vec<u8> {
        let all = self.lab.nodes().iter().map(|node| node.index);
        all.filter(|index| self.kind != Kind::Keepalived || *index <= 2).collect()
    }

    fn launch(&mut self, index: u8) -> Result<()> {
        let process = launch(&self.lab, self.kind, index, &[self.vip.ip()])?;
        self.announcers.insert(index, process);
        Ok(())
    }

    /// The process that announces on a node.
    pub(super) fn announcer(&self, index: u8) -> Result<&Process> {
        self.announcers.get(&index).with_context(|| format!("nothing announces on node{index}"))
    }

    /// The node that answers for the address on the wire.
    pub(super) fn owner(&self) -> Result<u8> {
        let IpAddr::V4(vip) = self.vip.ip() else { anyhow::bail!("IPv4 only") };
        await_ok(PATIENCE, &format!("{} to answer for {vip}", self.kind.name()), || {
            let mac = self.lab.router().ns.run(|| {
                let neighbours = Neighbours::open("lan")?;
                neighbours.forget(vip)?;
                neighbours.ask(vip);
                await_ok(Duration::from_millis(50), "an answer", || {
                    neighbours::known()?.remove(&vip).context("nobody answers")
                })
            })??;
            let owner = self.macs.iter().find(|(_, of)| **of == mac);
            owner.map(|(index, _)| *index).with_context(|| format!("{mac} answers"))
        })
    }

    /// The other one of nodes 1 and 2.
    pub(super) fn spare(&self, owner: u8) -> u8 {
        3 - owner.min(2)
    }

    /// Ends what announces on a node at once, as a crash does.
    pub(super) fn kill(&self, index: u8) -> Result<()> {
        self.signal(index, Signal::SIGKILL)
    }

    /// Halts it, as a node without power does nothing any more.
    pub(super) fn freeze(&self, index: u8) -> Result<()> {
        self.signal(index, Signal::SIGSTOP)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self, index: u8) -> Result<()> {
        self.announcer(index)?.signal(Signal::SIGTERM);
        Ok(())
    }

    /// The processes that announce on a node.
    pub(super) fn pids(&self, index: u8) -> Result<Vec<i32>> {
        let pid = self.announcer(index)?.pid();
        Ok(std::iter::once(pid).chain(children(pid)).collect())
    }

    fn signal(&self, index: u8, signal: Signal) -> Result<()> {
        let process = self.announcer(index)?;
        let children = children(process.pid());
        process.signal(signal);
        for child in children {
            // One that has ended with its parent needs no signal.
            let _ = kill(Pid::from_raw(child), signal);
        }
        Ok(())
    }

    /// Brings a node back after its part was ended.
    pub(super) fn relaunch(&mut self, index: u8) -> Result<()> {
        self.signal(index, Signal::SIGKILL)?;
        self.announcer(index)?.kill();
        let node = self.lab.node(index).clone();
        if self.kind == Kind::Keepalived {
            // What was killed has left its address there.
            let _ = node.ns.ip(&[format!("addr del {}/32 dev eth0", self.vip.ip())]);
        }
        self.lab.heal_node(&node)?;
        if self.kind == Kind::MetalLb {
            // It ends where it does not reach the API at once, and nobody starts it again here.
            await_ok(PATIENCE, "the node to reach the API server", || {
                node.ns.connect(at("10.0.0.10", 6443), Duration::from_secs(1))
            })?;
        }
        self.launch(index)
    }

    /// [`Self::relaunch`], and waits until the node would take over.
    pub(super) fn restore(&mut self, index: u8) -> Result<()> {
        self.relaunch(index)?;
        if self.kind == Kind::Herald {
            return self.await_spare(index);
        }
        // All anew, so that what the others keep of a member that was away is no part of the next move.
        for other in self.announcing().into_iter().filter(|other| *other != index) {
            self.relaunch(other)?;
        }
        self.await_settled()
    }

    /// Waits until Herald's nodes hear each other: one that was not heard cannot fall silent.
    pub(super) fn await_heard(&self) -> Result<()> {
        if self.kind != Kind::Herald {
            return Ok(());
        }
        let others = self.announcing().len() as f64 - 1.0;
        await_ok(PATIENCE, "all nodes to hear each other", || {
            for index in self.announcing() {
                let metrics = Metrics::of(&self.lab.node(index).ns)?;
                let heard = metrics.value("herald_layer2_peers{interface=\"eth0\"}");
                ensure!(heard == Some(others), "node{index} hears {heard:?}");
            }
            Ok(())
        })
    }

    /// Waits until Herald's owner names this node as the next one.
    pub(super) fn await_spare(&self, index: u8) -> Result<()> {
        let name = &self.lab.node(index).name;
        let options = HttpOptions::default().path("/explain/service/default/web");
        await_ok(PATIENCE, &format!("{name} to be the next owner"), || {
            let owner = self.owner()?;
            let answer = self.lab.node(owner).ns.http(at("127.0.0.1", 7472), &options)?;
            let json: serde_json::Value = serde_json::from_str(&answer.body)?;
            let next = &json["announcements"][0]["layer2"][0]["next"];
            ensure!(next == name.as_str(), "it is {next}");
            Ok(())
        })
    }

    /// Waits until the others' owner is the one of their choice: they take back what a node had. On a busy machine it may
    /// move to and fro; that is theirs to answer for, and what is measured is measured then.
    fn await_settled(&self) -> Result<()> {
        let mut since = std::time::Instant::now();
        let mut owner = self.owner()?;
        let settled = await_ok(PATIENCE, "an owner that stays", || {
            let now = self.owner()?;
            if now != owner {
                (owner, since) = (now, std::time::Instant::now());
            }
            ensure!(since.elapsed() > Duration::from_secs(4), "node{now} came just now");
            Ok(())
        });
        if let Err(error) = settled {
            eprintln!("    {error:#}");
        }
        Ok(())
    }

    /// The ends of the announcers' logs.
    pub fn logs(&self) -> String {
        let shown = self
            .announcers
            .values()
            .map(|process| format!("── {} ──\n{}\n", process.name(), process.log_tail()));
        shown.collect()
    }
}

/// Writes the configuration with one pool.
pub(super) fn configure(lab: &Lab, kind: Kind, pool: &str) -> Result<()> {
    match kind {
        Kind::Herald => lab.configure_herald(&format!(
            "address-pools:\n- {{name: bench, protocol: layer2, addresses: [{pool}]}}\n"
        )),
        Kind::MetalLb => metallb::install_layer2(lab, pool),
        Kind::Keepalived => Ok(()),
    }
}

/// What runs beside the announcers.
pub(super) fn companions(lab: &Lab, kind: Kind) -> Result<Vec<Process>> {
    match kind {
        Kind::Herald => Ok(vec![lab.controller("controller", &[])?]),
        Kind::MetalLb => {
            let proxies = lab.nodes().iter().map(|node| metallb::start_kube_proxy(lab, node));
            std::iter::once(metallb::start_controller(lab)).chain(proxies).collect()
        }
        Kind::Keepalived => Ok(Vec::new()),
    }
}

/// Starts what announces on a node.
pub(super) fn launch(lab: &Lab, kind: Kind, index: u8, vips: &[IpAddr]) -> Result<Process> {
    let node = lab.node(index);
    match kind {
        Kind::Herald => lab.speaker(node, &[]),
        Kind::MetalLb => metallb::start_speaker(lab, node),
        Kind::Keepalived => start_keepalived(lab, node, vips),
    }
}

/// A Service and its address.
fn service(lab: &Lab, name: &str) -> Result<Ipv4Addr> {
    lab.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         selector: {{app: {SERVICE}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ))?;
    await_ok(PATIENCE, &format!("an address for {name}"), || {
        let jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let text = lab.kubectl(&["get", "service", name, "-o", jsonpath])?;
        text.parse().with_context(|| format!("it has “{text}”"))
    })
}

/// keepalived moves an address, and no packets: who holds it must serve it.
fn serve(lab: &Lab) -> Result<Vec<Process>> {
    let node = |index| lab.serve(&lab.node(index).ns, &format!("vip-{index}"), &[Port::Tcp(80)]);
    Ok(vec![node(1)?, node(2)?])
}

fn start_keepalived(lab: &Lab, node: &Node, vips: &[IpAddr]) -> Result<Process> {
    let file = |suffix: &str| lab.directory().join(format!("keepalived-{}.{suffix}", node.name));
    let addresses: String = vips.iter().map(|vip| format!("    {vip}/32 dev eth0\n")).collect();
    std::fs::write(
        file("conf"),
        format!(
            "global_defs {{\n  vrrp_version 3\n  vrrp_garp_master_delay 1\n}}\nvrrp_instance bench {{\n  state BACKUP\n  \
             interface eth0\n  virtual_router_id 51\n  priority {}\n  advert_int 0.1\n  virtual_ipaddress {{\n{addresses}  }}\n}}\n",
            110 - node.index
        ),
    )?;
    // One that was killed has left its own.
    for suffix in ["pid", "vrrp.pid"] {
        let _ = std::fs::remove_file(file(suffix));
    }
    let mut command = Command::new("/usr/sbin/keepalived");
    command.args(["--dont-fork", "--log-console", "--vrrp"]);
    for (flag, suffix) in [("--use-file", "conf"), ("--pid", "pid"), ("--vrrp_pid", "vrrp.pid")] {
        command.arg(format!("{flag}={}", file(suffix).display()));
    }
    lab.start_process(&node.ns, &format!("keepalived-{}", node.name), command)
}

/// The hardware address of a node on the segment, as the kernel writes it.
pub(super) fn mac(node: &Node) -> Result<String> {
    let links = node.ns.exec(&["ip", "-o", "link", "show", "dev", "eth0"])?;
    let mut words = links.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    words.next().map(str::to_owned).with_context(|| format!("no hardware address in {links}"))
}

/// The processes that a process has started, and those that these have.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let own: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    own.iter().flat_map(|child| std::iter::once(*child).chain(children(*child))).collect()
}
