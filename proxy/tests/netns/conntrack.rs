//! Flows that outlive their endpoint, their Service or the time before it: clients that keep one source port.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_proxy::conntrack::{Cleaned, Conntrack, View};
use herald_proxy::{Backends, Element, Frontend, Policy, Protocol, Refusal};
use socket2::{Domain, Socket, Type};

use crate::flows::{Entry, create};
use crate::net::{CLIENT, Namespace, Network, PATIENCE, PODS, SILENCE, Seen, Server};
use crate::packets::{at, frontend, install, service};

const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const BOTH: [usize; 2] = [0, 1];
/// The client's own port.
const PORT: u16 = 40_000;

/// What the speaker knows of a frontend's endpoints; `None`: the frontend is gone.
fn view(frontends: &[(Frontend, Option<&[String]>)]) -> View {
    let mut view = View::default();
    for (frontend, serving) in frontends {
        let backends = serving.map(|serving| {
            let mut cluster: Vec<SocketAddr> =
                serving.iter().map(|address| address.parse().unwrap()).collect();
            cluster.sort_unstable();
            Arc::new(Backends {
                port: "dns".into(),
                has_any: !cluster.is_empty(),
                cluster: cluster.into(),
                ..Backends::default()
            })
        });
        view.set(*frontend, backends);
    }
    view
}

/// Cleans up in a namespace, in one family.
fn clean(namespace: &Namespace, view: View) -> Cleaned {
    let cleaned = namespace.run(move || Conntrack::open().unwrap().clean(&view).unwrap());
    assert_eq!(cleaned.len(), 1);
    cleaned[0]
}

fn counts(cleaned: &Cleaned) -> (u64, u64) {
    (cleaned.listed, cleaned.deleted)
}

/// A socket of the client that keeps its port.
fn client(network: &Network, f: usize, to: &str) -> UdpSocket {
    let (from, to): (SocketAddr, SocketAddr) = (at(CLIENT[f], PORT).parse().unwrap(), to.parse().unwrap());
    network.client.run(move || {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        socket
    })
}

fn ask(socket: &UdpSocket, patience: Duration) -> Seen {
    socket.set_read_timeout(Some(patience)).unwrap();
    // An error that an earlier datagram has met is not this one's.
    let _ = socket.take_error();
    socket.send(b"?").unwrap();
    let mut datagram = [0; 128];
    match socket.recv(&mut datagram) {
        Ok(len) => Seen::Answer(String::from_utf8_lossy(&datagram[..len]).into_owned()),
        Err(error) => Seen::from_error(&error),
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_client_that_keeps_its_port_reaches_another_endpoint_at_once() {
    let network = Network::new();
    for f in BOTH {
        let pods = [0, 1].map(|p| at(PODS[p][f], 5353));
        let _servers = [0, 1].map(|p| Server::udp(&network.pods[p], ["pod0", "pod1"][p], &pods[p]));
        let dns = frontend(VIP[f], Protocol::Udp, 53);
        let rules = |pod: &String| service(dns, Policy::ExternalLocal, &[], std::slice::from_ref(pod));
        install(&network, &rules(&pods[0]));
        let socket = client(&network, f, &at(VIP[f], 53));
        assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod0", CLIENT[f]));
        install(&network, &rules(&pods[1]));
        // The rules alone do not move it.
        assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod0", CLIENT[f]));
        let cleaned = clean(&network.node, view(&[(dns, Some(&pods[1..]))]));
        assert_eq!((counts(&cleaned), cleaned.requests), ((1, 1), 2));
        assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod1", CLIENT[f]));
        // A second look finds nothing, and lets the new flow be.
        assert_eq!(counts(&clean(&network.node, view(&[(dns, Some(&pods[1..]))]))), (1, 0));
        assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod1", CLIENT[f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_flow_from_before_its_service_is_healed() {
    let network = Network::new();
    for f in BOTH {
        let pod = at(PODS[1][f], 5353);
        let _server = Server::udp(&network.pods[1], "pod1", &pod);
        let dns = frontend(VIP[f], Protocol::Udp, 53);
        install(&network, &[]);
        let socket = client(&network, f, &at(VIP[f], 53));
        assert_eq!(ask(&socket, SILENCE), Seen::Silence);
        let pods = std::slice::from_ref(&pod);
        install(&network, &service(dns, Policy::ExternalLocal, &[], pods));
        // The kernel does not ask for a translation again: what is untranslated ends at the VIP.
        assert_eq!(ask(&socket, SILENCE), Seen::Refused);
        assert_eq!(counts(&clean(&network.node, view(&[(dns, Some(pods))]))), (1, 1));
        assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod1", CLIENT[f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn the_flow_of_a_service_without_endpoints_or_without_rules_goes() {
    let network = Network::new();
    for f in BOTH {
        let pod = at(PODS[1][f], 5353);
        let _server = Server::udp(&network.pods[1], "pod1", &pod);
        let dns = frontend(VIP[f], Protocol::Udp, 53);
        let rules = service(dns, Policy::ExternalLocal, &[], std::slice::from_ref(&pod));
        let socket = client(&network, f, &at(VIP[f], 53));
        for left in [Some(&[][..]), None] {
            install(&network, &rules);
            // What was refused while there were no rules left no entry.
            assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod1", CLIENT[f]));
            let refused = Element::Refused { frontend: dns, refusal: Refusal::Reject };
            install(&network, &[refused, Element::Vip { address: dns.address }]);
            assert_eq!(ask(&socket, PATIENCE), Seen::answer("pod1", CLIENT[f]), "nothing else ends it");
            assert_eq!(counts(&clean(&network.node, view(&[(dns, left)]))), (1, 1));
            assert_eq!(ask(&socket, PATIENCE), Seen::Refused);
            assert_eq!(counts(&clean(&network.node, view(&[(dns, left)]))), (0, 0));
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_restart_leaves_good_flows_alone() {
    let network = Network::new();
    for f in BOTH {
        let pods = [0, 1].map(|p| at(PODS[p][f], 5353));
        let _servers = [0, 1].map(|p| Server::udp(&network.pods[p], ["pod0", "pod1"][p], &pods[p]));
        let dns = frontend(VIP[f], Protocol::Udp, 53);
        let rules = service(dns, Policy::ExternalLocal, &[], &pods);
        install(&network, &rules);
        let socket = client(&network, f, &at(VIP[f], 53));
        let first = ask(&socket, PATIENCE);
        assert!(matches!(first, Seen::Answer(_)));
        for _ in 0..8 {
            install(&network, &rules);
            assert_eq!(counts(&clean(&network.node, view(&[(dns, Some(&pods))]))), (1, 0));
            assert_eq!(ask(&socket, PATIENCE), first);
        }
    }
}

/// Connects from the client's own port.
fn connect(network: &Network, f: usize, to: &str, patience: Duration) -> Seen {
    let (from, to): (SocketAddr, SocketAddr) = (at(CLIENT[f], PORT).parse().unwrap(), to.parse().unwrap());
    network.client.run(move || {
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        match socket.connect_timeout(&to.into(), patience) {
            Ok(()) => {
                let mut answer = String::new();
                socket.set_read_timeout(Some(patience)).unwrap();
                TcpStream::from(socket).read_to_string(&mut answer).unwrap();
                Seen::Answer(answer)
            }
            Err(error) => Seen::from_error(&error),
        }
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_that_was_never_answered_does_not_catch_the_next_one_from_its_port() {
    let network = Network::new();
    for f in BOTH {
        let dead = at(["10.244.1.77", "2001:db8:2:1::77"][f], 8080);
        let pod = at(PODS[1][f], 8080);
        let _server = Server::tcp(&network.pods[1], "pod1", &pod);
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        let to = at(VIP[f], 80);
        install(&network, &service(http, Policy::ExternalLocal, &[], std::slice::from_ref(&dead)));
        assert_eq!(connect(&network, f, &to, SILENCE), Seen::Silence);
        install(&network, &service(http, Policy::ExternalLocal, &[], std::slice::from_ref(&pod)));
        assert_eq!(connect(&network, f, &to, SILENCE), Seen::Silence, "caught by the entry of the first");
        let pods = std::slice::from_ref(&pod);
        assert_eq!(counts(&clean(&network.node, view(&[(http, Some(pods))]))), (1, 1));
        assert_eq!(connect(&network, f, &to, PATIENCE), Seen::answer("pod1", CLIENT[f]));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn an_established_connection_survives_its_endpoints_removal() {
    let network = Network::new();
    for f in BOTH {
        let pods = [0, 1].map(|p| at(PODS[p][f], 8080));
        let listening: SocketAddr = pods[0].parse().unwrap();
        let listener = network.pods[0].run(move || TcpListener::bind(listening).unwrap());
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        install(&network, &service(http, Policy::ExternalLocal, &[], &pods[..1]));
        let to: SocketAddr = at(VIP[f], 80).parse().unwrap();
        let mut stream = network.client.run(move || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answers = move || {
            let mut byte = [7];
            stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).is_ok()
        };
        assert!(answers());
        install(&network, &service(http, Policy::ExternalLocal, &[], &pods[1..]));
        assert_eq!(clean(&network.node, view(&[(http, Some(&pods[1..]))])).deleted, 0);
        assert_eq!(clean(&network.node, view(&[(http, None)])).deleted, 0);
        assert!(answers());
        drop(answers);
        echo.join().unwrap();
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn sctp_entries_go_with_their_endpoint() {
    let namespace = Namespace::new();
    for f in BOTH {
        let pods = [0, 1].map(|p| at(PODS[p][f], 3868));
        let diameter = frontend(VIP[f], Protocol::Sctp, 3868);
        let entries = pods.iter().zip(PORT..).map(|(pod, port)| Entry {
            protocol: 132,
            source: at(CLIENT[f], port).parse().unwrap(),
            destination: at(VIP[f], 3868).parse().unwrap(),
            endpoint: pod.parse().unwrap(),
        });
        let entries: Vec<Entry> = entries.collect();
        namespace.run(move || create(&entries));
        assert_eq!(counts(&clean(&namespace, view(&[(diameter, Some(&pods))]))), (2, 0));
        assert_eq!(counts(&clean(&namespace, view(&[(diameter, Some(&pods[1..]))]))), (2, 1));
        assert_eq!(counts(&clean(&namespace, view(&[(diameter, None)]))), (1, 1));
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn the_kernel_lists_only_what_is_in_question() {
    let namespace = Namespace::new();
    let entry = |protocol, destination: &str, port| Entry {
        protocol,
        source: at(CLIENT[0], port).parse().unwrap(),
        destination: destination.parse().unwrap(),
        endpoint: at(PODS[0][0], 5353).parse().unwrap(),
    };
    let entries = [
        entry(17, "192.0.2.1:53", 1),
        entry(17, "192.0.2.1:54", 2),
        entry(17, "192.0.2.2:53", 3),
        entry(132, "192.0.2.1:53", 4),
        entry(6, "192.0.2.1:53", 5),
    ];
    namespace.run(move || create(&entries));
    let [dns, neighbour] = VIP_AND_NEIGHBOUR.map(|address| frontend(address, Protocol::Udp, 53));
    let stays = [at(PODS[0][0], 5353)];
    assert_eq!(counts(&clean(&namespace, view(&[(dns, Some(&stays))]))), (1, 0));
    assert_eq!(counts(&clean(&namespace, view(&[(dns, Some(&stays)), (neighbour, Some(&stays))]))), (2, 0));
    let tcp = frontend(VIP[0], Protocol::Tcp, 53);
    assert_eq!(
        counts(&clean(&namespace, view(&[(tcp, None)]))),
        (0, 0),
        "established TCP is not even listed"
    );
}

const VIP_AND_NEIGHBOUR: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Puts back what it finds when the figures are taken: the limit is the machine's.
struct Limit(String);

impl Limit {
    const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

    fn raised() -> Self {
        let former = std::fs::read_to_string(Self::PATH).unwrap();
        let _ = std::fs::write(Self::PATH, "1100000");
        Self(former)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::PATH, self.0.trim());
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn figures_of_a_full_table() {
    const PER_FRONTEND: u32 = 1000;
    let _limit = Limit::raised();
    let room: u32 = std::fs::read_to_string(Limit::PATH).unwrap().trim().parse().unwrap();
    let wanted = (room - 10_000).min(1_000_000) / PER_FRONTEND;
    let vip = |n: u32| IpAddr::from((0x0a60_0000u32 + n).to_be_bytes());
    let pod = |n: u32| SocketAddr::new((0x0af4_0000u32 + n).to_be_bytes().into(), 5353);
    let namespace = Namespace::new();
    let started = Instant::now();
    let mut frontends = 0;
    while frontends < wanted && started.elapsed() < Duration::from_secs(10) {
        let entries: Vec<Entry> = (0..PER_FRONTEND)
            .map(|client| Entry {
                protocol: 17,
                source: SocketAddr::new([203, 0, 113, (frontends % 250) as u8].into(), 1024 + client as u16),
                destination: SocketAddr::new(vip(frontends), 53),
                endpoint: pod(frontends * 2 + client % 2),
            })
            .collect();
        namespace.run(move || create(&entries));
        frontends += 1;
    }
    println!("{} flows made in {:.1?}", frontends * PER_FRONTEND, started.elapsed());
    let frontend = |n| Frontend { address: vip(n), protocol: Protocol::Udp, port: 53 };
    // Each frontend has lost the second of its two endpoints.
    let serving = |n: u32| [pod(n * 2).to_string()];
    for (what, range) in [("one frontend", 0..1), ("ten frontends", 1..11), ("all frontends", 11..frontends)]
    {
        let serving: Vec<_> = range.clone().map(serving).collect();
        let count = u64::from(range.end - range.start);
        let of: Vec<_> = range.map(frontend).zip(serving.iter().map(|s| Some(&s[..]))).collect();
        let cleaned = clean(&namespace, view(&of));
        println!("{what}: {cleaned:?}");
        assert_eq!(cleaned.deleted, count * u64::from(PER_FRONTEND) / 2);
        assert_eq!(cleaned.requests, 1 + cleaned.deleted);
    }
    let tcp = Frontend { protocol: Protocol::Tcp, ..frontend(0) };
    println!("one frontend without entries: {:?}", clean(&namespace, view(&[(tcp, None)])));
}
