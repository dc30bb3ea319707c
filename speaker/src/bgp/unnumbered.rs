//! Neighbours without a configured address: found by the router advertisements that they send on an interface, as they find
//! this node by its own (RFC 4861 §4.2, §6.2). Ours say that nobody may route by this node: their lifetime is 0.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use herald_runtime::sleep_until;
use netlink_packet_route::link::LinkAttribute;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::sockopt::datagram::{Datagram, advertisements, receive};

/// The link-local addresses of routers, by the interface that they are on.
pub(crate) type Routers = BTreeMap<String, Ipv6Addr>;

/// Between two advertisements: RFC 4861 §6.2.4 and §10, MIN_DELAY_BETWEEN_RAS.
const INTERVAL: Duration = Duration::from_secs(3);
/// So long after its last advertisement a router stays the one, whoever else is heard. FRR sends one each 10 s.
const STAYS: Duration = Duration::from_secs(35);
/// RFC 4861 §4.2: type and length without options.
const ADVERTISEMENT: u8 = 134;
const HEADER: usize = 16;
/// RFC 4861 §6.1.2: the hop limit that no router can have lowered.
const HOP_LIMIT: u8 = 255;
/// RFC 4861 §4.6.1.
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An interface on which a neighbour is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: u32,
    address: Vec<u8>,
}

/// The router of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    address: Ipv6Addr,
    at: Instant,
}

/// Looks for neighbours on the interfaces that are wanted, as long as any are.
pub(crate) async fn look_for_routers(
    mut wanted: watch::Receiver<BTreeSet<String>>,
    found: watch::Sender<Routers>,
) -> anyhow::Result<()> {
    let mut told = String::new();
    loop {
        // Who wants them ends with the role.
        wanted.wait_for(|interfaces| !interfaces.is_empty()).await?;
        let error = match advertisements().and_then(|socket| UdpSocket::from_std(socket.into())) {
            Ok(socket) => match search(&socket, &mut wanted, &found).await {
                Ok(()) => continue,
                Err(error) => error,
            },
            Err(error) => error,
        };
        if told != error.to_string() {
            told = error.to_string();
            tracing::error!(%error, "cannot look for BGP neighbours on interfaces; trying again");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is known of the interfaces that are wanted.
#[derive(Debug)]
struct Search {
    wanted: BTreeSet<String>,
    links: BTreeMap<String, Link>,
    heard: BTreeMap<String, Heard>,
    /// When to look for the interfaces and to advertise again.
    next: Instant,
}

impl Search {
    fn new(now: Instant) -> Self {
        Self { wanted: BTreeSet::new(), links: BTreeMap::new(), heard: BTreeMap::new(), next: now }
    }

    /// Whether to look for these interfaces: they come and go, and an index is not kept. Not at each packet for one that is not
    /// there: whoever sends many would have as many answers.
    fn is_due(&self, wanted: &BTreeSet<String>, now: Instant) -> bool {
        self.next <= now || self.wanted != *wanted
    }

    /// These are there of those that are wanted.
    fn found(&mut self, wanted: BTreeSet<String>, links: BTreeMap<String, Link>, now: Instant) {
        self.heard.retain(|name, _| wanted.contains(name));
        (self.wanted, self.links, self.next) = (wanted, links, now + INTERVAL);
    }

    fn came(&mut self, came: &Datagram, octets: &[u8], now: Instant) {
        let Some(router) = router(came, octets) else { return };
        let Some((name, _)) = self.links.iter().find(|(_, link)| link.index == came.interface) else {
            return;
        };
        let kept = elect(self.heard.get(name).copied(), router, now);
        self.heard.insert(name.clone(), kept);
    }

    fn routers(&self) -> Routers {
        self.heard.iter().map(|(name, heard)| (name.clone(), heard.address)).collect()
    }
}

/// Until nothing is wanted any more.
async fn search(
    socket: &UdpSocket,
    wanted: &mut watch::Receiver<BTreeSet<String>>,
    found: &watch::Sender<Routers>,
) -> io::Result<()> {
    let mut search = Search::new(Instant::now());
    let mut buffer = [0; 256];
    loop {
        let interfaces = wanted.borrow_and_update().clone();
        if interfaces.is_empty() {
            found.send_replace(Routers::new());
            return Ok(());
        }
        if search.is_due(&interfaces, Instant::now()) {
            let links = of_names(&interfaces).await;
            links.values().for_each(|link| advertise(socket, link));
            search.found(interfaces, links, Instant::now());
        }
        let routers = search.routers();
        found.send_if_modified(|found| std::mem::replace(found, routers.clone()) != routers);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return Ok(());
            },
            () = sleep_until(Some(search.next)) => {}
            came = socket.async_io(Interest::READABLE, || receive(socket, &mut buffer)) => {
                let came = came?;
                search.came(&came, &buffer[..came.length], Instant::now());
            }
        }
    }
}

/// Who sent a good router advertisement (RFC 4861 §6.1.2).
fn router(came: &Datagram, octets: &[u8]) -> Option<Ipv6Addr> {
    let IpAddr::V6(from) = came.from else { return None };
    let good = from.is_unicast_link_local()
        && came.ttl == Some(HOP_LIMIT)
        && octets.len() >= HEADER
        && octets.starts_with(&[ADVERTISEMENT, 0]);
    good.then_some(from)
}

/// The router of an interface after one was heard there: the one that it was, unless that has been silent.
fn elect(former: Option<Heard>, address: Ipv6Addr, at: Instant) -> Heard {
    match former {
        Some(former) if former.address != address && at.duration_since(former.at) < STAYS => former,
        _ => Heard { address, at },
    }
}

/// Nobody's default router, with the address of the interface; the kernel writes the checksum.
fn advertisement(link: &Link) -> Vec<u8> {
    let mut octets = vec![0; HEADER];
    octets[0] = ADVERTISEMENT;
    if link.address.len() == 6 {
        octets.extend([SOURCE_LINK_LAYER_ADDRESS, 1]);
        octets.extend(&link.address);
    }
    octets
}

fn advertise(socket: &UdpSocket, link: &Link) {
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, link.index);
    if let Err(error) = SockRef::from(socket).send_to(&advertisement(link), &to.into()) {
        tracing::debug!(interface = link.index, %error, "a router advertisement was not sent");
    }
}

/// Those that there are.
async fn of_names(names: &BTreeSet<String>) -> BTreeMap<String, Link> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return BTreeMap::new() };
    let ask = async {
        let mut links = BTreeMap::new();
        for name in names {
            let mut found = handle.link().get().match_name(name.clone()).execute();
            let Ok(Some(link)) = found.try_next().await else { continue };
            let address = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Address(address) => Some(address.clone()),
                _ => None,
            });
            links.insert(
                name.clone(),
                Link { index: link.header.index, address: address.unwrap_or_default() },
            );
        }
        links
    };
    tokio::select! {
        () = connection => BTreeMap::new(),
        links = ask => links,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_no_router_can_have_passed_on_is_an_advertisement() {
        let octets = advertisement(&Link { index: 2, address: vec![2, 0, 0, 0, 0, 9] });
        assert_eq!(octets.len(), 24);
        assert_eq!(octets[6..8], [0, 0], "a lifetime");
        let good = Datagram {
            length: octets.len(),
            from: ip("fe80::9").into(),
            interface: 2,
            ttl: Some(255),
            at: None,
        };
        assert_eq!(router(&good, &octets), Some(ip("fe80::9")));
        for bad in [
            Datagram { ttl: Some(254), ..good },
            Datagram { ttl: None, ..good },
            Datagram { from: ip("2001:db8::9").into(), ..good },
            Datagram { from: "10.0.0.9".parse().unwrap(), ..good },
        ] {
            assert_eq!(router(&bad, &octets), None, "{bad:?}");
        }
        assert_eq!(router(&good, &octets[..HEADER - 1]), None);
        assert_eq!(router(&good, &[136; 24]), None);
    }

    #[test]
    fn interfaces_are_looked_for_at_their_time_and_when_others_are_wanted_whatever_comes_in() {
        let now = Instant::now();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let octets = advertisement(&Link { index: 2, address: Vec::new() });
        let came = Datagram {
            length: octets.len(),
            from: ip("fe80::9").into(),
            interface: 2,
            ttl: Some(255),
            at: None,
        };
        let mut search = Search::new(now);
        assert!(search.is_due(&names(&["eth1"]), now));
        // It is not there.
        search.found(names(&["eth1"]), BTreeMap::new(), now);
        search.came(&came, &octets, now);
        assert!(search.routers().is_empty() && !search.is_due(&names(&["eth1"]), now));
        assert!(search.is_due(&names(&["eth1", "eth2"]), now));
        assert!(search.is_due(&names(&["eth1"]), now + INTERVAL));
        let links = BTreeMap::from([("eth1".to_owned(), Link { index: 2, address: Vec::new() })]);
        search.found(names(&["eth1"]), links, now);
        search.came(&came, &octets, now);
        assert_eq!(search.routers(), Routers::from([("eth1".to_owned(), ip("fe80::9"))]));
        search.found(names(&["eth2"]), BTreeMap::new(), now);
        assert!(search.routers().is_empty(), "heard on an interface that is not wanted any more");
    }

    #[test]
    fn a_router_stays_the_one_until_it_has_been_silent() {
        let start = Instant::now();
        let first = elect(None, ip("fe80::1"), start);
        let soon = start + STAYS - Duration::from_millis(1);
        assert_eq!(elect(Some(first), ip("fe80::2"), soon), first);
        assert_eq!(elect(Some(first), ip("fe80::1"), soon).at, soon);
        assert_eq!(elect(Some(first), ip("fe80::2"), start + STAYS).address, ip("fe80::2"));
    }
}
