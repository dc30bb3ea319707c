//! Who sends routes to the router: Herald on `node1`, BIRD, GoBGP or FRR on `node3`; one at a time.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::frr::Frr;
use super::router::Bird;
use super::routes;
use crate::await_until::{await_ok, pause};
use crate::bench::bird::Bird as Control;
use crate::lab::Lab;
use crate::process::Process;

/// The AS of all senders; the router's is 100.
const AS: u32 = 42;
/// How often BIRD's timers are kicked: left alone it may leave the end of its queue for three seconds.
const KICK: Duration = Duration::from_millis(5);
/// Where routes come from that a sender cannot read from a file: an address of `node3` itself.
const FEEDER: &str = "10.0.0.93";

/// A sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `herald speaker --proxy=off`.
    Herald,
    /// BIRD with static routes.
    Bird,
    /// GoBGP, fed by a BIRD beside it.
    GoBgp,
    /// FRR with `network` statements.
    Frr,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 4] = [Self::Herald, Self::Bird, Self::GoBgp, Self::Frr];

    /// As it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Herald => "herald",
            Self::Bird => "bird",
            Self::GoBgp => "gobgp",
            Self::Frr => "frr",
        }
    }

    /// The router's protocol that it speaks to.
    pub fn protocol(self) -> &'static str {
        if self == Self::Herald { "node1" } else { "node3" }
    }
}

/// A sender that has all routes; dropping it kills it.
#[derive(Debug)]
pub enum Sender {
    /// Herald.
    Herald(Process),
    /// BIRD, and who kicks it.
    Bird(Bird, Kicking),
    /// GoBGP, and who feeds it.
    GoBgp(Process, Bird),
    /// FRR.
    Frr(Frr),
}

impl Sender {
    /// Starts one that sends the first `count` routes.
    pub fn start(lab: &Lab, kind: Kind, count: u32) -> Result<Self> {
        let node = lab.node(3);
        match kind {
            Kind::Herald => Ok(Self::Herald(lab.speaker(lab.node(1), &["--proxy=off"])?)),
            Kind::Bird => {
                let config = format!(
                    "router id {ip};\nprotocol bgp uplink {{ local {ip} as {AS}; neighbor 10.0.0.1 as 100;\n\
                     connect delay time 1; connect retry time 1; error wait time 1, 1;\n\
                     ipv4 {{ import none; export all; next hop self; }}; }}\n{}",
                    statics(lab, "sender", count)?,
                    ip = node.ip,
                );
                let bird = Bird::start(lab, &node.ns, "sender", &config)?;
                let kicking = Kicking::start(bird.socket())?;
                Ok(Self::Bird(bird, kicking))
            }
            Kind::GoBgp => {
                if !node.ns.exec(&["ip", "addr", "show", "dev", "lo"])?.contains(FEEDER) {
                    node.ns.ip(&[format!("addr add {FEEDER}/32 dev lo")])?;
                }
                let path = lab.directory().join("gobgpd.toml");
                std::fs::write(&path, gobgp(&node.ip.to_string()))?;
                let mut command = Command::new("/usr/bin/gobgpd");
                command.args(["-t", "toml", "--api-hosts", "127.0.0.1:50051", "-f"]).arg(&path);
                let gobgpd = lab.start_process(&node.ns, "gobgpd", command)?;
                let config = format!(
                    "router id {FEEDER};\nprotocol bgp uplink {{ strict bind; multihop; local {FEEDER} as 43;\n\
                     neighbor {} as {AS}; connect delay time 1; connect retry time 1; error wait time 1, 1;\n\
                     ipv4 {{ import none; export all; next hop self; }}; }}\n{}",
                    node.ip,
                    statics(lab, "feeder", count)?,
                );
                let feeder = Bird::start(lab, &node.ns, "feeder", &config)?;
                await_ok(Duration::from_secs(60), "GoBGP to have all routes", || {
                    let text =
                        node.ns.exec(&["/usr/bin/gobgp", "-u", "127.0.0.1", "global", "rib", "summary"])?;
                    ensure!(text.contains(&format!("Path: {count}")), "{text}");
                    Ok(())
                })
                .with_context(|| gobgpd.log_tail())?;
                Ok(Self::GoBgp(gobgpd, feeder))
            }
            Kind::Frr => {
                let mut config = format!(
                    "router bgp {AS}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
                     neighbor 10.0.0.1 remote-as 100\n neighbor 10.0.0.1 timers connect 1\n \
                     address-family ipv4 unicast\n",
                    node.ip
                );
                for number in 0..count {
                    let _ = writeln!(config, "  network {}/32", routes::address(number));
                }
                config.push_str(" exit-address-family\n");
                Ok(Self::Frr(Frr::start(lab, &node.ns, "frr-sender", &config, false)?))
            }
        }
    }

    /// The process whose CPU and memory are the sender's.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Herald(process) | Self::GoBgp(process, _) => Some(process),
            Self::Bird(bird, _) => Some(bird.process()),
            Self::Frr(frr) => frr.processes().last(),
        }
    }
}

/// The first lines of what the three others say of their versions.
pub fn versions() -> Result<String> {
    let programs = ["/usr/sbin/bird", "/usr/bin/gobgpd", "/usr/lib/frr/bgpd"];
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().with_context(|| program.to_owned())?;
        // BIRD tells its version as an error.
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
    };
    Ok(programs.into_iter().map(version).collect::<Result<Vec<_>>>()?.join(", "))
}

/// Static routes of a BIRD, in a file of their own.
fn statics(lab: &Lab, name: &str, count: u32) -> Result<String> {
    let path = lab.directory().join(format!("{name}.routes"));
    let mut text = String::new();
    for number in 0..count {
        let _ = writeln!(text, "route {}/32 blackhole;", routes::address(number));
    }
    std::fs::write(&path, text)?;
    Ok(format!("protocol static many {{ ipv4;\ninclude \"{}\";\n}}\n", path.display()))
}

fn gobgp(ip: &str) -> String {
    let neighbour = |address: &str, asn: u32, passive: bool| {
        format!(
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.transport.config]\npassive-mode = {passive}\nlocal-address = \"{ip}\"\n\
             [neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 2\n\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n"
        )
    };
    format!(
        "[global.config]\nas = {AS}\nrouter-id = \"{ip}\"\nlocal-address-list = [\"{ip}\"]\n{}{}",
        neighbour("10.0.0.1", 100, false),
        neighbour(FEEDER, 43, true)
    )
}

/// Asks a BIRD all the time, so that its event loop never sleeps for long; ends with the value.
#[derive(Debug)]
pub struct Kicking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kicking {
    fn start(socket: &Path) -> Result<Self> {
        let mut control = Control::connect(socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && control.ask("show status\n").is_ok() {
                pause(KICK);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Kicking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
