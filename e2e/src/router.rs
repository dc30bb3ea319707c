//! The router's BIRD: its configuration, its routes, its restarts.
//!
//! Learned routes go to the router's kernel with all their next hops, so the client's packets really take them. The
//! control socket is a file in the lab's directory; it is spoken directly, as birdc does, in well under a millisecond.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::await_until::{await_ok, await_until};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::registry::Registry;
use crate::spawn::Lifetime;
use crate::topology::Node;

/// Routes by prefix, each with its next hops in order.
pub type Routes = BTreeMap<String, Vec<IpAddr>>;

/// What BIRD shall be.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Its AS number.
    pub asn: u32,
    /// Whom it peers with.
    pub peers: Vec<BirdPeer>,
    /// The interval of BFD packets in milliseconds, three of which may be missing; `None`: no BFD.
    pub bfd: Option<u32>,
}

/// One neighbour of BIRD.
#[derive(Clone, Debug)]
pub struct BirdPeer {
    /// The protocol's name in `birdc`.
    pub name: String,
    /// The neighbour.
    pub address: IpAddr,
    /// The neighbour's AS number.
    pub asn: u32,
    /// Waits for the neighbour to connect instead of connecting too.
    pub passive: bool,
    /// Further lines of the protocol: `hold time 3;`, `password "x";`.
    pub extra: Vec<String>,
}

impl RouterOptions {
    /// As in MetalLB's 0.2.1 example: the router is AS 100, the nodes are AS 42.
    pub fn t4(nodes: &[Node]) -> Self {
        Self::waiting(100, nodes, 42)
    }

    /// As in `manifests/samples/bgp.yaml`.
    pub fn sample(nodes: &[Node]) -> Self {
        Self::waiting(64_601, nodes, 64_600)
    }

    /// Waits for all nodes to connect.
    fn waiting(asn: u32, nodes: &[Node], of_nodes: u32) -> Self {
        let peers = nodes.iter().map(|node| BirdPeer {
            name: node.name.clone(),
            address: node.ip.into(),
            asn: of_nodes,
            passive: true,
            extra: Vec::new(),
        });
        Self { asn, peers: peers.collect(), bfd: None }
    }

    /// With this line in every peer's protocol.
    #[must_use]
    pub fn every_peer(mut self, line: &str) -> Self {
        for peer in &mut self.peers {
            peer.extra.push(line.to_owned());
        }
        self
    }

    /// With BFD at this interval in milliseconds to every peer.
    #[must_use]
    pub fn with_bfd(self, milliseconds: u32) -> Self {
        Self { bfd: Some(milliseconds), ..self.every_peer("bfd on;") }
    }

    fn render(&self) -> String {
        let mut text = String::from(
            "log stderr all;\n\
             debug protocols { states, events };\n\
             router id 10.0.0.1;\n\
             protocol device { scan time 1; }\n",
        );
        if let Some(interval) = self.bfd {
            let timers = format!("interval {interval} ms; multiplier 3; idle tx interval 1 s;");
            let _ = writeln!(text, "protocol bfd {{ interface \"*\" {{ {timers} }}; }}");
        }
        for family in ["ipv4", "ipv6"] {
            let _ = writeln!(
                text,
                "protocol kernel kernel_{family} {{\n\
                 \x20 {family} {{ import none; export where source = RTS_BGP; }};\n\
                 \x20 merge paths on;\n\
                 }}"
            );
        }
        for peer in &self.peers {
            let local = if peer.address.is_ipv4() { "10.0.0.1" } else { "2001:db8:10::1" };
            let _ = writeln!(
                text,
                "protocol bgp {} {{\n\
                 \x20 local {local} as {};\n\
                 \x20 neighbor {} as {};\n\
                 \x20 passive {};\n\
                 \x20 connect delay time 1;\n\
                 \x20 connect retry time 1;\n\
                 \x20 error wait time 1, 2;\n\
                 \x20 {}\n\
                 \x20 ipv4 {{ import all; export none; }};\n\
                 \x20 ipv6 {{ import all; export none; }};\n\
                 }}",
                peer.name,
                self.asn,
                peer.address,
                peer.asn,
                if peer.passive { "on" } else { "off" },
                peer.extra.join("\n  "),
            );
        }
        text
    }
}

/// The router of a lab.
#[derive(Debug)]
pub struct Router {
    /// Its namespace.
    pub ns: Namespace,
    registry: Registry,
    lifetime: Lifetime,
    bird: Mutex<Option<Process>>,
}

impl Router {
    pub(crate) fn new(registry: &Registry, ns: &Namespace, lifetime: Lifetime) -> Self {
        Self { ns: ns.clone(), registry: registry.clone(), lifetime, bird: Mutex::new(None) }
    }

    /// BIRD's control socket: `birdc -s <path>`.
    pub fn socket(&self) -> PathBuf {
        self.registry.directory().join("bird.sock")
    }

    fn config(&self) -> PathBuf {
        self.registry.directory().join("bird.conf")
    }

    /// Writes BIRD's configuration, and has a running BIRD read it: sessions that did not change stay.
    pub fn configure(&self, options: &RouterOptions) -> Result<()> {
        std::fs::write(self.config(), options.render())?;
        if self.bird_runs() {
            self.birdc("configure")?;
        }
        Ok(())
    }

    /// Starts BIRD and waits until it answers.
    pub fn start_bird(&self) -> Result<()> {
        let mut bird = self.bird.lock().unwrap_or_else(PoisonError::into_inner);
        if bird.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        let mut command = Command::new(bird_program());
        command.arg("-f").arg("-c").arg(self.config()).arg("-s").arg(self.socket());
        let process = Process::start(&self.registry, Some(&self.ns), "bird", command, self.lifetime)?;
        let up = await_until(Duration::from_secs(10), "BIRD to answer", || {
            if !process.is_running() {
                Some(false)
            } else {
                self.birdc("show status").is_ok().then_some(true)
            }
        });
        if !up.with_context(|| process.log_tail())? {
            bail!("BIRD ended:\n{}", process.log_tail());
        }
        *bird = Some(process);
        Ok(())
    }

    /// Ends BIRD in order (SIGTERM): it tells its neighbours and takes its routes out of the kernel.
    pub fn stop_bird(&self) -> Result<()> {
        match self.bird.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(process) => process.terminate(Duration::from_secs(10)).map(drop),
            None => Ok(()),
        }
    }

    /// Kills BIRD: connections are reset by the kernel, its routes stay in the kernel.
    pub fn kill_bird(&self) {
        if let Some(process) = self.bird.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.kill();
        }
    }

    /// Lets BIRD hang: its connections stay, it neither reads nor writes.
    pub fn freeze_bird(&self, frozen: bool) {
        if let Some(process) = &*self.bird.lock().unwrap_or_else(PoisonError::into_inner) {
            process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// [`Self::stop_bird`] and [`Self::start_bird`].
    pub fn restart_bird(&self) -> Result<()> {
        self.stop_bird()?;
        self.start_bird()
    }

    fn bird_runs(&self) -> bool {
        self.bird.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Process::is_running)
    }

    /// What BIRD has logged: states and events of its protocols.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.registry.directory().join("log/bird.log")).unwrap_or_default()
    }

    /// A command of birdc: `show route`, `show protocols all node1`, `disable node2`.
    pub fn birdc(&self, command: &str) -> Result<String> {
        let path = self.socket();
        let stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(&stream);
        let greeting = read_reply(&mut reader)?;
        (&stream).write_all(format!("{command}\n").as_bytes())?;
        read_reply(&mut reader).with_context(|| format!("birdc {command} ({})", greeting.trim()))
    }

    /// All routes that BIRD holds, best and others.
    pub fn routes(&self) -> Result<Routes> {
        Ok(parse_routes(&self.birdc("show route")?))
    }

    /// The next hops of one prefix; none when there is no such route.
    pub fn next_hops(&self, prefix: &str) -> Result<Vec<IpAddr>> {
        Ok(self.routes()?.remove(prefix).unwrap_or_default())
    }

    /// The routes that BIRD has put into the router's kernel, as `ip route` shows them.
    pub fn kernel_routes(&self) -> Result<String> {
        Ok(self.ns.exec(&["ip", "route", "show", "proto", "bird"])?
            + &self.ns.exec(&["ip", "-6", "route", "show", "proto", "bird"])?)
    }

    /// Waits until a prefix has exactly these next hops, in any order; none of them means that the route is gone.
    pub fn await_route(&self, prefix: &str, next_hops: &[IpAddr], deadline: Duration) -> Result<()> {
        let mut wanted = next_hops.to_vec();
        wanted.sort();
        await_ok(deadline, &format!("the route {prefix} by {wanted:?}"), || {
            let found = self.next_hops(prefix)?;
            if found != wanted {
                bail!("BIRD has {found:?}");
            }
            Ok(())
        })
    }

    /// Waits until a route is in the router's kernel with this many next hops, so that packets take it; 0 for gone.
    pub fn await_kernel_route(&self, prefix: &str, next_hops: usize, deadline: Duration) -> Result<()> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        await_ok(deadline, &format!("{next_hops} next hops of {prefix} in the router's kernel"), || {
            let text = self.ns.exec(&["ip", family, "route", "show", "exact", prefix, "proto", "bird"])?;
            let found = text.matches("via ").count();
            if found != next_hops {
                bail!("{found} are there: {}", text.trim());
            }
            Ok(())
        })
    }

    /// Waits until the session with a neighbour is established.
    pub fn await_session(&self, peer: &str, deadline: Duration) -> Result<()> {
        await_ok(deadline, &format!("BIRD's session with {peer}"), || {
            let text = self.birdc(&format!("show protocols {peer}"))?;
            if !text.contains("Established") {
                bail!("{}", text.lines().last().unwrap_or_default());
            }
            Ok(())
        })
    }
}

/// BIRD's program.
pub fn bird_program() -> &'static str {
    // Debian keeps it where the path of an ordinary user does not look.
    if std::path::Path::new("/usr/sbin/bird").exists() { "/usr/sbin/bird" } else { "bird" }
}

/// One reply of BIRD's control protocol: lines `1007-text`, ` continued`, the last one `0000 text`. Codes from 8000 are errors.
fn read_reply(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("BIRD closed its control socket");
        }
        let line = line.trim_end_matches('\n');
        let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
        match (code, line.as_bytes().get(4)) {
            (Some(code), Some(b' ')) => {
                let rest = &line[5..];
                if code >= 8000 {
                    bail!("{rest}");
                }
                text.push_str(rest);
                return Ok(text);
            }
            (Some(_), Some(b'-')) => text.push_str(&line[5..]),
            _ => text.push_str(line.strip_prefix(' ').unwrap_or(line)),
        }
        text.push('\n');
    }
}

fn parse_routes(text: &str) -> Routes {
    let mut routes = Routes::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !line.starts_with(char::is_whitespace) && first.contains('/') {
            prefix = first.to_owned();
        }
        if first == "via"
            && let Some(next_hop) = words.next().and_then(|word| word.parse().ok())
        {
            routes.entry(prefix.clone()).or_default().push(next_hop);
        }
    }
    for next_hops in routes.values_mut() {
        next_hops.sort();
        next_hops.dedup();
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_of_all_paths_belong_to_their_prefix() {
        let text = "Table master4:\n\
                    192.168.10.0/32      unicast [node2 08:00:00.000] * (100) [AS42i]\n\
                    \tvia 10.0.0.12 on lan\n\
                    \x20                    unicast [node1 08:00:00.000] (100) [AS42i]\n\
                    \tvia 10.0.0.11 on lan\n\
                    192.168.10.1/32      unicast [node3 08:00:00.000] * (100) [AS42i]\n\
                    \tvia 10.0.0.13 on lan\n\n\
                    Table master6:\n\
                    2001:db8:1::/128     unicast [node1 08:00:00.000] * (100) [AS42i]\n\
                    \tvia 2001:db8:10::11 on lan\n";
        let routes = parse_routes(text);
        let hops = |prefix: &str| routes[prefix].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(hops("192.168.10.0/32"), ["10.0.0.11", "10.0.0.12"]);
        assert_eq!(hops("192.168.10.1/32"), ["10.0.0.13"]);
        assert_eq!(hops("2001:db8:1::/128"), ["2001:db8:10::11"]);
    }

    #[test]
    fn a_reply_ends_with_its_last_code() {
        let mut bytes = "1007-Table master4:\n a\n1007-b\n0000 \nrest".as_bytes();
        assert_eq!(read_reply(&mut bytes).expect("a reply"), "Table master4:\na\nb\n");
        assert_eq!(bytes, b"rest");
    }

    #[test]
    fn an_error_code_is_an_error() {
        let failed = read_reply(&mut "9001 syntax error\n".as_bytes()).expect_err("an error");
        assert_eq!(failed.to_string(), "syntax error");
    }
}
