//! On which interfaces addresses can be announced, as rtnetlink tells it.
//!
//! Those with Ethernet frames, carrier and broadcast, that are no port of a bridge or bond and are not made for pods. Any
//! change on the node leads to a fresh look at all of them, at once; nothing is asked by a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::watch;

use super::frame::Mac;

/// Interfaces with such names belong to pods and containers; MetalLB's own list.
const EXCLUDED: [&str; 13] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "nodelocaldns",
    "lxc",
];

/// An interface to announce on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its hardware address.
    pub(crate) mac: Mac,
    /// It has an IPv4 address to send from.
    pub(crate) v4: bool,
    /// It has a link-local IPv6 address to send from.
    pub(crate) v6: bool,
    /// The networks of its addresses, which are the segment's.
    pub(crate) networks: BTreeSet<IpNet>,
}

impl Interface {
    /// Whether an address belongs to the segment.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// By index.
pub(crate) type Interfaces = BTreeMap<u32, Interface>;

/// Follows the node's interfaces until nobody wants to know any more or rtnetlink ends.
pub(crate) async fn follow(found: watch::Sender<Interfaces>) -> anyhow::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    // By a socket of its own: what others' requests change is told with the numbers of their requests, and a dump under
    // way on the same socket would take it for its own answer.
    let (asking, handle, _) = rtnetlink::new_connection()?;
    let look = async {
        loop {
            let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
            let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
            let now = usable(&links, &addresses);
            found.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
            // One look answers for all messages that have arrived by now.
            if messages.next().await.is_none() {
                return Ok(());
            }
            while messages.try_recv().is_ok() {}
        }
    };
    tokio::select! {
        () = connection => anyhow::bail!("the rtnetlink socket that tells interfaces was closed"),
        () = asking => anyhow::bail!("the rtnetlink socket that lists interfaces was closed"),
        ended = look => ended,
    }
}

/// Those to announce on.
fn usable(links: &[LinkMessage], addresses: &[AddressMessage]) -> Interfaces {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    let mut networks: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for message in addresses {
        if message.header.flags.contains(AddressHeaderFlags::Tentative) {
            continue;
        }
        for attribute in &message.attributes {
            if let AddressAttribute::Address(ip) = attribute
                && let Ok(network) = IpNet::new(*ip, message.header.prefix_len)
            {
                networks.entry(message.header.index).or_default().insert(network.trunc());
            }
            match attribute {
                AddressAttribute::Address(IpAddr::V4(_)) => v4.insert(message.header.index),
                AddressAttribute::Address(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                    v6.insert(message.header.index)
                }
                _ => false,
            };
        }
    }
    let usable = links.iter().filter_map(|link| {
        let index = link.header.index;
        let (name, mac) = name_and_mac(link)?;
        let (v4, v6) = (v4.contains(&index), v6.contains(&index));
        let networks = networks.get(&index).cloned().unwrap_or_default();
        Some((index, Interface { name, mac, v4, v6, networks }))
    });
    usable.collect()
}

fn name_and_mac(link: &LinkMessage) -> Option<(String, Mac)> {
    let needed = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Broadcast;
    let flags = link.header.flags;
    let unfit = flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
    if !flags.contains(needed) || unfit || link.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let (mut name, mut mac) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            // A port of a bridge or bond: its master is the one that has the segment.
            LinkAttribute::Controller(_) => return None,
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(octets) => mac = Mac::try_from(octets.as_slice()).ok(),
            _ => {}
        }
    }
    let name = name.filter(|name| !EXCLUDED.iter().any(|excluded| name.starts_with(excluded)))?;
    Some((name, mac?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, flags: LinkFlags, more: &[LinkAttribute]) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        link.attributes.extend_from_slice(more);
        link
    }

    fn address(index: u32, ip: &str, flags: AddressHeaderFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        let ip: IpAddr = ip.parse().unwrap();
        message.header.prefix_len = if ip.is_ipv4() { 24 } else { 64 };
        message.attributes = vec![AddressAttribute::Address(ip)];
        message
    }

    #[test]
    fn an_interface_needs_carrier_broadcast_and_no_master() {
        let up = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Broadcast;
        let mut tunnel = link(8, "gre0", up, &[]);
        tunnel.header.link_layer_type = LinkLayerType::Ipgre;
        let links = [
            link(1, "lo", up | LinkFlags::Loopback, &[]),
            link(2, "eth0", up, &[]),
            link(3, "eth1", LinkFlags::Up | LinkFlags::Broadcast, &[]),
            link(4, "eth2", up, &[LinkAttribute::Controller(5)]),
            link(5, "bond0", up, &[]),
            link(6, "veth12", up, &[]),
            link(7, "tun0", up | LinkFlags::Noarp, &[]),
            tunnel,
        ];
        let none = AddressHeaderFlags::default();
        let addresses = [
            address(2, "10.0.0.11", none),
            address(2, "fe80::1", none),
            address(5, "fe80::2", AddressHeaderFlags::Tentative),
            address(5, "2001:db8:10::11", none),
        ];
        let found = usable(&links, &addresses);
        let told: Vec<_> = found.iter().map(|(index, of)| (*index, of.name.as_str(), of.v4, of.v6)).collect();
        assert_eq!(told, [(2, "eth0", true, true), (5, "bond0", false, false)]);
        assert_eq!(found[&2].mac, [2, 0, 0, 0, 0, 2]);
        let reached = |index, ip: &str| found[&index].reaches(ip.parse().unwrap());
        assert!(reached(2, "10.0.0.12") && !reached(2, "10.0.1.12") && !reached(2, "2001:db8:10::12"));
        assert!(reached(5, "2001:db8:10::12") && !reached(5, "10.0.0.12"));
    }
}
