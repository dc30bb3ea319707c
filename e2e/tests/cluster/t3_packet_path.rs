//! Tutorial T3, the packet's way: even shares, and what is masqueraded.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use herald_e2e::{HttpOptions, Lab, Namespace, PodOptions};

use crate::tutorial::{Cluster, PROTOCOLS, Protocol, SOON, ask, await_answer, both, client_of, each_answers};

/// Asks this often, and how often each pod answered.
fn shares(ns: &Namespace, protocol: Protocol, to: SocketAddr, asked: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..asked {
        let answer = ask(ns, protocol, to).unwrap_or_else(|error| panic!("{protocol:?} to {to}: {error}"));
        *shares.entry(answer.pod).or_default() += 1;
    }
    shares
}

/// Line 2, its first part.
#[test]
#[ignore = "needs a network namespace"]
fn new_connections_spread_evenly_over_the_endpoints() -> Result<()> {
    // A share of 400 × 1/4 has a standard deviation of 8.7: seven of them happen once in 10^11 runs, while an endpoint
    // with a slot too many or too few (1/5 or 1/3 of all, say) is told nearly always.
    const ASKED: usize = 400;
    const EVEN: std::ops::RangeInclusive<usize> = 40..=160;
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    let names = ["web-1", "web-2", "web-3", "web-4"];
    for (name, node) in names.into_iter().zip([1, 1, 1, 2]) {
        cluster.pod(cluster.node(node), name, &PodOptions::app("web"))?;
    }
    let asker = cluster.pod(cluster.node(2), "asker", &PodOptions::app("asker"))?;
    let service = cluster.service("web", "", "type: NodePort")?;
    let [cluster_ip, cluster_ip6] = service.cluster_addresses()?;
    let node_port = cluster.node(2).at(service.node_port(Protocol::Udp)?);
    // Endpoints count, wherever they are: three are on one node.
    let ways = [
        (&asker.ns, Protocol::Tcp, cluster_ip),
        (&cluster.node(1).ns, Protocol::Udp, cluster_ip6),
        (cluster.client(), Protocol::Udp, node_port),
    ];
    for (ns, protocol, to) in ways {
        each_answers(ns, protocol, to, &names, |_| {})?;
        let shares = shares(ns, protocol, to, ASKED);
        assert!(
            shares.len() == 4 && shares.values().all(|share| EVEN.contains(share)),
            "{protocol:?} to {to}: {shares:?}"
        );
    }
    Ok(())
}

/// Line 2, the rest.
#[test]
#[ignore = "needs a network namespace"]
fn hairpins_and_sources_outside_the_pod_network_are_masqueraded_and_pods_are_not() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    let web = cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    let asker = cluster.pod(cluster.node(2), "asker", &PodOptions::app("asker"))?;
    let service = cluster.service("web", "", "type: NodePort")?;
    let (home, other) = (cluster.node(1), cluster.node(2));
    // The way of clients that know a route to cluster addresses.
    cluster.router().ns.ip(&[
        format!("route add 10.96.0.0/12 via {}", other.ip),
        format!("route add 2001:db8:3::/112 via {}", other.ip6),
    ])?;
    // Nodes may have addresses that others have no way back to.
    other.ns.ip(&["addr add 198.51.100.2/32 dev lo", "addr add 2001:db8:ff::2/128 dev lo"])?;

    for (to, node_ports) in service
        .cluster_addresses()?
        .into_iter()
        .zip([both_of(&cluster, &service, true)?, both_of(&cluster, &service, false)?])
    {
        let is_v4 = to.is_ipv4();
        let family = |v4: IpAddr, v6: IpAddr| if is_v4 { v4 } else { v6 };
        for (protocol, node_port) in PROTOCOLS.into_iter().zip(node_ports) {
            await_answer(&asker.ns, protocol, to)?;
            await_answer(&web.ns, protocol, to)?;
            // A pod that reaches itself: its own address as source would never come back through the node.
            for hairpin in [to, node_port] {
                each_answers(&web.ns, protocol, hairpin, &["web-1"], |answer| {
                    cluster.assert_masqueraded_by(home, answer);
                })?;
            }
            // Another pod keeps its address.
            each_answers(&asker.ns, protocol, to, &["web-1"], |answer| {
                assert_eq!(client_of(answer), family(asker.ip, asker.ip6), "{protocol:?} to {to}");
            })?;
            // The client and the nodes themselves are outside.
            for (ns, node) in [(cluster.client(), other), (&other.ns, other), (&home.ns, home)] {
                each_answers(ns, protocol, to, &["web-1"], |answer| {
                    cluster.assert_masqueraded_by(node, answer)
                })?;
            }
        }
        let odd: IpAddr =
            family([198, 51, 100, 2].into(), Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2).into());
        let options = HttpOptions::default().timeout(SOON).source((odd, 0).into());
        cluster.assert_masqueraded_by(other, &other.ns.http(to, &options)?);
    }
    Ok(())
}

/// The node ports at the first node, TCP and UDP, of one family.
fn both_of(cluster: &Cluster, service: &crate::tutorial::ServiceObject, v4: bool) -> Result<[SocketAddr; 2]> {
    let of = |protocol| -> Result<SocketAddr> {
        let [four, six] = both(cluster.node(1), service.node_port(protocol)?);
        Ok(if v4 { four } else { six })
    };
    Ok([of(Protocol::Tcp)?, of(Protocol::Udp)?])
}
