//! A connection whose packets come to another node goes on with the node that knows it, and one that no node knows ends soon.
//!
//! Client, three nodes and a server share one segment; the client's route says which node gets its packets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{Element, Policy, Protocol};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::checked::CheckedKernel;
use crate::net::{Namespace, PATIENCE, Server};
use crate::packets::{at, frontend, service};

const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const PREFIX: [&str; 2] = ["203.0.113.", "2001:db8:cb::"];
const CLIENT: u8 = 9;
const SERVER: u8 = 20;
const NODES: [u8; 3] = [1, 2, 3];

fn address(family: usize, host: u8) -> String {
    format!("{}{host}", PREFIX[family])
}

struct Segment {
    /// The bridge.
    _lan: Namespace,
    client: Namespace,
    nodes: [Namespace; 3],
    server: Namespace,
}

impl Segment {
    fn new() -> Self {
        let lan = Namespace::new();
        lan.ip(&["link add br0 type bridge", "link set br0 up"]);
        let host = |number: u8| {
            let host = Namespace::new();
            // A neighbour is asked after from the link-local address, which is there at once so.
            host.sysctl("ipv6/conf/default/accept_dad", "0");
            lan.ip(&[
                &format!("link add h{number} type veth peer name eth0 netns {}", host.path()),
                &format!("link set h{number} master br0"),
                &format!("link set h{number} up"),
            ]);
            host.ip(&[
                &format!("addr add {}/24 dev eth0", address(0, number)),
                &format!("addr add {}/64 dev eth0 nodad", address(1, number)),
                "link set eth0 up",
            ]);
            host
        };
        let nodes = NODES.map(|number| {
            let node = host(number);
            node.sysctl("ipv4/ip_forward", "1");
            node.sysctl("ipv6/conf/all/forwarding", "1");
            node
        });
        let (client, server) = (host(CLIENT), host(SERVER));
        Self { _lan: lan, client, nodes, server }
    }

    /// Rules of one Service on each node, each with the others' addresses, in both families.
    fn serve(&self, hand_over: bool) -> Vec<CheckedKernel> {
        let ruleset = Ruleset::new(&RulesetConfig { hand_over, ..RulesetConfig::default() });
        let load = |(index, node): (usize, &Namespace)| {
            let mut elements = Vec::new();
            for f in [0, 1] {
                let endpoint = at(&address(f, SERVER), 8080);
                elements.extend(service(
                    frontend(VIP[f], Protocol::Tcp, 80),
                    Policy::External,
                    &[endpoint],
                    &[],
                ));
                let others = NODES.iter().enumerate().filter(|(other, _)| *other != index);
                elements.extend((0..).zip(others).map(|(slot, (_, number))| Element::Node {
                    slot,
                    address: address(f, *number).parse().unwrap(),
                }));
            }
            let mut kernel = node.kernel();
            kernel.replace(&ruleset, &elements).unwrap();
            kernel
        };
        self.nodes.iter().enumerate().map(load).collect()
    }

    /// The client's packets go to this node from now on.
    fn turn(&self, f: usize, node: usize) {
        self.client.ip(&[&format!("route replace {} via {}", VIP[f], address(f, NODES[node]))]);
    }

    fn connect(&self, f: usize) -> Held {
        self.connect_from(f, 0)
    }

    /// From a port of the client that may have been in use just now.
    fn connect_from(&self, f: usize, port: u16) -> Held {
        let to: SocketAddr = at(VIP[f], 80).parse().unwrap();
        let from: SocketAddr = at(["0.0.0.0", "::"][f], port).parse().unwrap();
        Held(self.client.run(move || {
            let begin = Instant::now();
            loop {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&from.into()).unwrap();
                match socket.connect_timeout(&to.into(), PATIENCE) {
                    // The client itself remembers the former connection for a second (tcp_tw_reuse).
                    Err(error)
                        if error.kind() == ErrorKind::AddrNotAvailable && begin.elapsed() < PATIENCE =>
                    {
                        std::thread::yield_now();
                    }
                    connected => {
                        connected.unwrap();
                        let stream = TcpStream::from(socket);
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        stream.set_nodelay(true).unwrap();
                        return stream;
                    }
                }
            }
        }))
    }

    /// The server, and a connection to it that the first node knows.
    fn held_by_the_first(&self, f: usize) -> (Server, Held) {
        let server = echo(&self.server, f);
        self.turn(f, 0);
        let mut held = self.connect(f);
        held.goes_on();
        (server, held)
    }

    /// Packets that a node's interface has got so far.
    fn received(&self, node: usize) -> u64 {
        let count = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let table = self.nodes[node].run(count);
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// What the client says to have the server end a connection first.
const END: &[u8; 4] = b"end.";

/// Echoes whatever it gets.
fn echo(namespace: &Namespace, f: usize) -> Server {
    let address: SocketAddr = at(&address(f, SERVER), 8080).parse().unwrap();
    Server::start(namespace, async move |ready| {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        ready.send(()).unwrap();
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut octets = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut octets).await {
                    if octets[..count] == END[..] || stream.write_all(&octets[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}

/// Who ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
    Reset,
}

const ENDS: [End; 3] = [End::Client, End::Server, End::Reset];

/// A connection that is held.
struct Held(TcpStream);

impl Held {
    /// Whether it answers, and after what time it is known.
    fn asks(&mut self) -> (std::io::Result<()>, Duration) {
        let begin = Instant::now();
        let mut answer = [0; 4];
        let result = self.0.write_all(b"ping").and_then(|()| self.0.read_exact(&mut answer));
        (result, begin.elapsed())
    }

    /// Ends it, whoever is the first to say so, and waits until both have.
    fn ends(mut self, how: End) {
        match how {
            End::Client => self.0.shutdown(Shutdown::Write).unwrap(),
            End::Server => self.0.write_all(END).unwrap(),
            End::Reset => SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap(),
        }
        if how != End::Reset {
            assert_eq!(self.0.read(&mut [0; 4]).unwrap(), 0, "{how:?}");
        }
    }

    fn goes_on(&mut self) {
        let (result, time) = self.asks();
        result.unwrap();
        assert!(time < Duration::from_millis(150), "nothing was lost: {time:?}");
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_goes_on_wherever_its_packets_come_to() {
    let segment = Segment::new();
    let _kernels = segment.serve(true);
    for f in [0, 1] {
        let (_server, mut held) = segment.held_by_the_first(f);
        for node in [1, 2, 1, 0, 2] {
            segment.turn(f, node);
            let before = segment.received(node);
            for _ in 0..20 {
                held.goes_on();
            }
            // Some forty packets of the client, and few between the nodes.
            let received = segment.received(node) - before;
            assert!((20..120).contains(&received), "{received} packets at node {node}");
        }
        // Also one that begins with the others, and its end.
        let mut other = segment.connect(f);
        segment.turn(f, 1);
        other.goes_on();
        other.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.0.read(&mut [0; 4]).unwrap(), 0, "its end arrives");
        held.goes_on();
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_that_no_node_knows_ends_with_its_first_retransmission() {
    let segment = Segment::new();
    let _kernels = segment.serve(true);
    for f in [0, 1] {
        let (_server, mut held) = segment.held_by_the_first(f);
        segment.nodes[0].ip(&["link set eth0 down"]);
        segment.turn(f, 1);
        let before = segment.received(2);
        let (result, time) = held.asks();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(time < Duration::from_secs(1), "{time:?}");
        assert!(segment.received(2) - before < 20, "nothing goes round");
        // New ones are served meanwhile.
        segment.connect(f).goes_on();
        segment.nodes[0].ip(&["link set eth0 up"]);
        if f == 0 {
            // The kernel has removed it with the link.
            segment.nodes[0].ip(&[&format!("addr add {}/64 dev eth0 nodad", address(1, NODES[0]))]);
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn without_hand_over_a_connection_ends_where_its_packets_come_to_another_node() {
    let segment = Segment::new();
    let _kernels = segment.serve(false);
    for f in [0, 1] {
        let (_server, mut held) = segment.held_by_the_first(f);
        segment.turn(f, 1);
        assert_eq!(held.asks().0.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_port_that_a_client_uses_again_is_not_taken_for_the_connection_that_is_over() {
    let segment = Segment::new();
    let _kernels = segment.serve(true);
    segment.client.sysctl("ipv4/tcp_tw_reuse", "1");
    segment.nodes.iter().for_each(|node| node.sysctl("netfilter/nf_conntrack_tcp_be_liberal", "1"));
    let ports = 40_000..;
    for (port, (f, how)) in ports.zip([0, 1].into_iter().flat_map(|f| ENDS.map(|how| (f, how)))) {
        let _server = echo(&segment.server, f);
        segment.turn(f, 1);
        let mut former = segment.connect_from(f, port);
        former.goes_on();
        former.ends(how);
        segment.turn(f, 0);
        let mut held = segment.connect_from(f, port);
        held.goes_on();
        // Node 1 knows a connection from this port, and it is not this one.
        segment.turn(f, 1);
        held.goes_on();
        held.ends(how);
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_that_ends_where_it_began_is_nobody_elses() {
    let segment = Segment::new();
    let _kernels = segment.serve(true);
    for f in [0, 1] {
        let _server = echo(&segment.server, f);
        segment.turn(f, 0);
        segment.connect(f).goes_on();
        let before = segment.received(2);
        for _ in 0..20 {
            for how in ENDS {
                let mut held = segment.connect(f);
                held.goes_on();
                held.ends(how);
            }
        }
        let received = segment.received(2) - before;
        assert!(received < 10, "{received} packets at a node that has nothing to do with it");
    }
}
