//! A router two hops away: the test's namespace, one that forwards, and one for the router.

use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::bird::{BIRD as ROUTER, NODE};

/// Both namespaces; they end with the value.
pub(crate) struct Far {
    hop: Child,
    place: Child,
}

impl Far {
    /// Lays them out, and takes the router's address from here to there.
    pub(crate) fn new() -> Self {
        let far = Self { hop: namespace(), place: namespace() };
        let (hop, place) = (far.hop.id(), far.place.id());
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        run(&mut within(Some(hop), "sh", &["-c", forward]));
        connect(None, Some(hop), "near", 1);
        connect(Some(hop), Some(place), "far", 2);
        let [ours, nears, fars, theirs] =
            [[1, 1], [1, 2], [2, 1], [2, 2]].map(|[net, host]| Ipv4Addr::new(10, 9, net, host).to_string());
        run(&mut within(None, "ip", &["address", "del", &format!("{ROUTER}/32"), "dev", "lo"]));
        run(&mut within(Some(place), "ip", &["link", "set", "lo", "up"]));
        run(&mut within(Some(place), "ip", &["address", "add", &format!("{ROUTER}/32"), "dev", "lo"]));
        for (place, own, other, gateway) in [(None, NODE, ROUTER, &nears), (Some(place), ROUTER, NODE, &fars)]
        {
            run(&mut within(place, "ip", &["route", "add", other, "via", gateway, "src", own]));
        }
        run(&mut within(Some(hop), "ip", &["route", "add", NODE, "via", &ours]));
        run(&mut within(Some(hop), "ip", &["route", "add", ROUTER, "via", &theirs]));
        far
    }

    /// Where the router is.
    pub(crate) fn place(&self) -> u32 {
        self.place.id()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        for process in [&mut self.hop, &mut self.place] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A router that sends 192.0.2.1 and 2001:db8:1::1 back to where it has them from, as one does that chooses the sender itself, and has
/// no way to 192.0.2.9.
pub(crate) struct Mirror(Child);

impl Mirror {
    /// Lays it out, as the way of the test's namespace to these addresses.
    pub(crate) fn new() -> Self {
        let mirror = Self(namespace());
        let place = Some(mirror.0.id());
        let settings = "echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects; echo 0 >/proc/sys/net/ipv4/conf/default/send_redirects; \
                        echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        run(&mut within(place, "sh", &["-c", settings]));
        connect(None, place, "near", 3);
        for (place, link, host) in [(None, "near", 1), (place, "near-peer", 2)] {
            let address = format!("2001:db8:9::{host}/64");
            run(&mut within(place, "ip", &["address", "add", &address, "dev", link, "nodad"]));
        }
        for (place, host) in [(None, 2), (place, 1)] {
            let (v4, v6) = (format!("10.9.3.{host}"), format!("2001:db8:9::{host}"));
            run(&mut within(place, "ip", &["route", "add", "192.0.2.1", "via", &v4]));
            run(&mut within(place, "ip", &["-6", "route", "add", "2001:db8:1::1", "via", &v6]));
        }
        run(&mut within(None, "ip", &["route", "add", "192.0.2.9", "via", "10.9.3.2"]));
        run(&mut within(place, "ip", &["route", "add", "unreachable", "192.0.2.9"]));
        mirror
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command in the network namespace of a process, or in the test's own.
pub(crate) fn within(place: Option<u32>, program: &str, arguments: &[&str]) -> Command {
    let mut command = match place {
        None => Command::new(program),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
            command
        }
    };
    command.args(arguments);
    command
}

/// A process with a network namespace of its own that does nothing but hold it, for two minutes at most.
fn namespace() -> Child {
    let mut process = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo; exec sleep 120"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    // Once it writes, it is there.
    let written = process.stdout.take().expect("it is piped").read_exact(&mut [0]);
    written.expect("unshare gets a namespace");
    process
}

/// A veth pair of the net 10.9.`net`.0/30 that takes packets: what is sent before the kernel has noticed its carrier is lost.
fn connect(one: Option<u32>, other: Option<u32>, name: &str, net: u8) {
    let peer = format!("{name}-peer");
    let pid = other.unwrap_or_else(std::process::id).to_string();
    run(&mut within(one, "ip", &["link", "add", name, "type", "veth", "peer", "name", &peer, "netns", &pid]));
    for (place, link, host) in [(one, name, 1), (other, peer.as_str(), 2)] {
        let address = format!("{}/30", Ipv4Addr::new(10, 9, net, host));
        run(&mut within(place, "ip", &["address", "add", &address, "dev", link]));
        run(&mut within(place, "ip", &["link", "set", link, "up"]));
    }
    for (place, link) in [(one, name), (other, peer.as_str())] {
        let begin = Instant::now();
        while !run(&mut within(place, "ip", &["link", "show", "dev", link])).contains("state UP") {
            assert!(begin.elapsed() < Duration::from_secs(10), "{link} does not come up");
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("iproute2 and util-linux are installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
