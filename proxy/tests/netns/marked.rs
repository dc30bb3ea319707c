//! What the node sends with the mark of availability probes goes where its routes lead; all else is translated here.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use herald_proxy::ruleset::{PROBE_MARK, Ruleset, RulesetConfig};
use herald_proxy::{Element, Policy, Protocol, Refusal};
use socket2::{Domain, Socket, Type};

use crate::net::{CLIENT, Namespace, Network, PATIENCE, PODS, SILENCE, Seen, Server, tcp};
use crate::packets::{at, frontend, service};

const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];

/// What a connection with the mark sees.
fn marked(from: &Namespace, to: &str) -> Seen {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_mark(PROBE_MARK).unwrap();
        if let Err(error) = socket.connect_timeout(&to.into(), SILENCE) {
            return Seen::from_error(&error);
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Seen::Answer(answer)
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_probe_goes_where_the_routes_lead_and_other_connections_of_the_node_to_the_endpoint() {
    let network = Network::new();
    // The client is another node, which has the addresses.
    network.client.ip(&["addr add 192.0.2.1/32 dev lo", "addr add 2001:db8:1::1/128 dev lo nodad"]);
    for f in [0, 1] {
        let gateway = format!("route add {} via {}", VIP[f], CLIENT[f]);
        network.node.ip(&[&gateway]);
        let (endpoint, vip) = (at(PODS[1][f], 8080), at(VIP[f], 80));
        let _servers =
            [Server::tcp(&network.pods[1], "here", &endpoint), Server::tcp(&network.client, "there", &vip)];
        let http = frontend(VIP[f], Protocol::Tcp, 80);
        let served = service(http, Policy::External, std::slice::from_ref(&endpoint), &[]);
        // As on a node without an endpoint of its own: what is not translated meets the guard.
        let refused = [
            Element::Refused { frontend: http, refusal: Refusal::Drop },
            Element::Vip { address: http.address },
        ];
        let mut kernel = network.node.kernel();
        let mut load = |probes_pass, elements: &[Element]| {
            kernel
                .replace(&Ruleset::new(&RulesetConfig { probes_pass, ..RulesetConfig::default() }), elements)
                .unwrap();
        };
        let seen = |answer: Seen| match answer {
            Seen::Answer(text) => text.split(' ').next().unwrap_or_default().to_owned(),
            other => format!("{other:?}"),
        };
        let both = || [marked(&network.node, &vip), tcp(&network.node, &vip, SILENCE)].map(seen);
        load(true, &served);
        assert_eq!(both(), ["there", "here"]);
        load(true, &refused);
        assert_eq!(both()[0], "there");
        assert_ne!(both()[1], "there", "the guard");
        // Nobody asked for probes, so the mark is anybody's.
        load(false, &served);
        assert_eq!(both(), ["here", "here"]);
        load(false, &refused);
        assert_ne!(both()[0], "there");
    }
}
