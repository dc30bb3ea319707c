//! Session affinity in a real kernel: who stays, who is drawn anew, and when a client is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_proxy::netlink::Adopted;
use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{
    Backends, Element, Frontend, FrontendKind, FrontendRules, Policy, Program, Protocol, ServiceRules,
};
use herald_runtime::ObjectName;

use crate::checked::CheckedKernel;
use crate::net::{Network, PATIENCE, PODS, Server};

const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const PORTS: [u16; 4] = [8080, 8081, 8082, 8083];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: u8 = 12;

fn ruleset() -> Ruleset {
    Ruleset::new(&RulesetConfig::default())
}

/// One family's network with four servers on one pod, and a Service of these.
struct Lab {
    network: Network,
    family: usize,
    protocol: Protocol,
    _servers: Vec<Server>,
    kernel: CheckedKernel,
    program: Program,
    policy: Policy,
    affinity: Option<u32>,
}

impl Lab {
    fn new(family: usize, protocol: Protocol, policy: Policy, affinity: Option<u32>) -> Self {
        let network = Network::new();
        let pod = |port| SocketAddr::new(PODS[1][family].parse().unwrap(), port).to_string();
        let start = if protocol == Protocol::Tcp { Server::tcp } else { Server::udp };
        let servers = NAMES.iter().zip(PORTS).map(|(name, port)| start(&network.pods[1], name, &pod(port)));
        let servers = servers.collect();
        let more = (0..CLIENTS).map(|n| match family {
            0 => format!("addr add {}/24 dev eth0", client(0, n)),
            _ => format!("addr add {}/64 dev eth0 nodad", client(1, n)),
        });
        network.client.ip(&more.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
        let mut kernel = network.node.kernel();
        kernel.replace(&ruleset(), &[]).unwrap();
        let program = Program::new();
        let mut lab =
            Self { network, family, protocol, _servers: servers, kernel, program, policy, affinity };
        lab.serve(&NAMES);
        lab
    }

    fn frontend(&self) -> Frontend {
        Frontend { address: VIP[self.family].parse().unwrap(), protocol: self.protocol, port: 80 }
    }

    /// Changes the Service to these endpoints.
    fn serve(&mut self, names: &[&str]) {
        let address: IpAddr = PODS[1][self.family].parse().unwrap();
        let all = NAMES.iter().zip(PORTS).filter(|(name, _)| names.contains(name));
        let endpoints: Box<[SocketAddr]> = all.map(|(_, port)| SocketAddr::new(address, port)).collect();
        let frontend = self.frontend();
        let rules = FrontendRules {
            frontend,
            kind: FrontendKind::LoadBalancer,
            policy: self.policy,
            vip: true,
            sources: None,
            backends: Arc::new(Backends {
                port: "http".into(),
                cluster: endpoints.clone(),
                hairpin: Box::default(),
                unchosen: Box::default(),
                silent: Box::default(),
                local: endpoints,
                affinity: self.affinity,
                has_any: true,
                local_ready: true,
                local_probes_fail: false,
            }),
        };
        let rules =
            ServiceRules { created: 1, frontends: [rules].into(), health: None, local_ports: Box::default() };
        let changes = self.program.set(&ObjectName::new("shop", "web"), Some(rules));
        self.kernel.apply(&changes).unwrap();
    }

    /// The server that a client's new connection gets.
    fn ask(&self, number: u8) -> String {
        let (from, to) =
            (client(self.family, number), SocketAddr::new(VIP[self.family].parse().unwrap(), 80));
        let protocol = self.protocol;
        let answer = self.network.client.run(move || {
            let from = SocketAddr::new(from, 0);
            let mut answer = String::new();
            if protocol == Protocol::Udp {
                let socket = UdpSocket::bind(from).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(to).unwrap();
                socket.send(b"?").unwrap();
                let mut datagram = [0; 64];
                let len = socket.recv(&mut datagram).unwrap();
                return String::from_utf8_lossy(&datagram[..len]).into_owned();
            }
            let domain = socket2::Domain::for_address(to);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            (&socket).read_to_string(&mut answer).unwrap();
            answer
        });
        answer.split(' ').next().unwrap().to_owned()
    }

    /// The server of each client.
    fn ask_all(&self) -> BTreeMap<u8, String> {
        (0..CLIENTS).map(|number| (number, self.ask(number))).collect()
    }

    /// What the kernel remembers.
    fn remembered(&self) -> String {
        let list: &[&str] = match self.family {
            0 => &["list", "map", "ip", "herald", "affinity"],
            _ => &["list", "map", "ip6", "herald", "affinity"],
        };
        self.network.node.list(list)
    }
}

fn client(family: usize, number: u8) -> IpAddr {
    match family {
        0 => [203, 0, 113, 100 + number].into(),
        _ => [0x2001, 0xdb8, 0xcb, 0, 0, 0, 1, u16::from(number)].into(),
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn clients_stay_while_endpoints_come_and_go_and_over_a_restart() {
    for (family, protocol, policy) in [
        (0, Protocol::Tcp, Policy::External),
        (0, Protocol::Udp, Policy::ExternalLocal),
        (1, Protocol::Tcp, Policy::ExternalLocal),
        (1, Protocol::Udp, Policy::External),
    ] {
        let mut lab = Lab::new(family, protocol, policy, Some(10_800));
        let mut pinned = lab.ask_all();
        assert!(pinned.values().collect::<BTreeSet<_>>().len() > 1, "{pinned:?}");
        assert_eq!(lab.ask_all(), pinned);
        // The first client's endpoint goes: who had another stays, who had it gets a new one and stays there.
        let gone = pinned[&0].clone();
        let left: Vec<&str> = NAMES.into_iter().filter(|name| *name != gone).collect();
        lab.serve(&left);
        let moved = lab.ask_all();
        for (number, had) in &pinned {
            assert!(
                if *had == gone { moved[number] != gone } else { moved[number] == *had },
                "{pinned:?} {moved:?}"
            );
        }
        assert_eq!(lab.ask_all(), moved);
        // It returns, and one more goes that nobody has to leave.
        lab.serve(&NAMES);
        assert_eq!(lab.ask_all(), moved);
        pinned = moved;
        // A restart that adopts, one that refills, and one of a program that has forgotten everything.
        let elements = lab.program.all();
        lab.kernel = lab.network.node.kernel();
        assert_eq!(lab.kernel.adopt(&ruleset(), &elements).unwrap(), Adopted::Unchanged);
        assert_eq!(lab.ask_all(), pinned);
        lab.kernel = lab.network.node.kernel();
        lab.kernel.replace(&ruleset(), &elements).unwrap();
        assert_eq!(lab.ask_all(), pinned);
        lab.kernel = lab.network.node.kernel();
        lab.kernel.replace(&ruleset(), &[]).unwrap();
        lab.program = Program::new();
        lab.serve(&NAMES);
        assert_eq!(lab.ask_all(), pinned);
        assert_eq!(lab.remembered().matches("expires").count(), usize::from(CLIENTS));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn each_connection_begins_the_time_anew_and_without_one_a_client_is_forgotten() {
    let timeout = Duration::from_secs(2);
    for family in [0, 1] {
        let lab = Lab::new(family, Protocol::Tcp, Policy::ExternalLocal, Some(2));
        // The first packets wait for neighbours to be found.
        lab.ask(1);
        let start = Instant::now();
        let first = lab.ask(0);
        // Any pause as long as the timeout would be a draw out of four, again and again.
        let mut asked = 0;
        while start.elapsed() < 3 * timeout {
            let before = Instant::now();
            assert_eq!(lab.ask(0), first, "after {:?}", start.elapsed());
            assert!(before.elapsed() < timeout, "this machine is too slow to tell");
            asked += 1;
        }
        assert!(asked > 10);
        assert!(lab.remembered().contains("expires"));
        let quiet = Instant::now();
        while lab.remembered().contains("expires") {
            assert!(quiet.elapsed() < 5 * timeout, "never forgotten");
        }
        assert!(quiet.elapsed() > timeout / 2, "forgotten too early");
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn affinity_is_switched_on_and_off_and_given_another_time_while_it_serves() {
    let mut lab = Lab::new(0, Protocol::Tcp, Policy::ExternalLocal, None);
    let spread = |lab: &Lab| (0..30).map(|_| lab.ask(0)).collect::<BTreeSet<_>>().len();
    let base = |lab: &Lab| {
        let listing = lab.network.node.list(&["-a", "list", "chain", "ip", "herald", "prerouting-dnat"]);
        listing.lines().find(|line| line.contains("vmap")).unwrap().to_owned()
    };
    let rule = base(&lab);
    for (affinity, wanted) in
        [(None, false), (Some(100), true), (Some(200), true), (None, false), (Some(100), true)]
    {
        lab.affinity = affinity;
        lab.serve(&NAMES);
        assert_eq!(spread(&lab) == 1, wanted, "{affinity:?}");
        assert_eq!(base(&lab), rule, "nothing was reloaded");
    }
    let rules =
        |name: &'static [&'static str]| lab.network.node.list(name).matches("update @affinity").count();
    assert_eq!(rules(&["list", "chain", "ip", "herald", "affinity-100"]), 2);
    assert_eq!(rules(&["list", "chain", "ip", "herald", "local-affinity-200"]), 2);
    // What is not used any more does not disturb the next start.
    let elements = lab.program.all();
    assert_eq!(lab.network.node.kernel().adopt(&ruleset(), &elements).unwrap(), Adopted::Unchanged);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_full_map_serves_new_clients_and_does_not_keep_them() {
    let lab = Lab::new(0, Protocol::Tcp, Policy::ExternalLocal, Some(10_800));
    let elements: Vec<Element> = lab.program.all();
    let text = ruleset().text(&elements).replace("size 1048576", "size 2");
    let (v4, _) = text.split_once("table ip6").unwrap();
    lab.network.node.nft(v4);
    let known = [lab.ask(0), lab.ask(1)];
    let spread = (0..30).map(|_| lab.ask(2)).collect::<BTreeSet<_>>();
    assert!(spread.len() > 1, "{spread:?}");
    for _ in 0..5 {
        assert_eq!([lab.ask(0), lab.ask(1)], known);
    }
}
