//! The node's own addresses, as rtnetlink tells them: what node ports are matched on when CIDRs are configured.
//!
//! Publishes the full set after every change. Herald's own addresses, loopback, link-local and tentative ones are
//! left out: a served address must never expose node ports. An overrun of the socket leads to a fresh dump.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use super::{AddressError, address_of, is_ours};

/// Follows the node's addresses until the receiver's other end is gone or rtnetlink ends.
pub(crate) async fn follow(addresses: watch::Sender<Option<BTreeSet<IpAddr>>>) -> anyhow::Result<()> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(AddressError::Open)?;
    // By a socket of its own: what others' requests change is told with the numbers of their requests, and a dump under
    // way on the same socket would take it for its own answer.
    let (asking, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
    tokio::select! {
        () = connection => anyhow::bail!("the rtnetlink socket that tells the node's addresses was closed"),
        () = asking => anyhow::bail!("the rtnetlink socket that lists the node's addresses was closed"),
        ended = publish(handle, messages, addresses) => ended,
    }
}

async fn publish(
    handle: Handle,
    mut messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    addresses: watch::Sender<Option<BTreeSet<IpAddr>>>,
) -> anyhow::Result<()> {
    loop {
        let dump: Vec<AddressMessage> =
            handle.address().get().execute().try_collect().await.map_err(AddressError::List)?;
        let found: BTreeSet<IpAddr> =
            dump.iter().filter(|m| serves_node_ports(m)).filter_map(address_of).collect();
        addresses.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&found);
            if changed {
                *current = Some(found);
            }
            changed
        });
        // One dump answers for all messages that have arrived by now.
        let None = messages.next().await.map(drop) else {
            while messages.try_recv().is_ok() {}
            continue;
        };
        return Ok(());
    }
}

fn serves_node_ports(message: &AddressMessage) -> bool {
    let usable = match address_of(message) {
        Some(IpAddr::V4(ip)) => !ip.is_loopback() && !ip.is_link_local(),
        Some(IpAddr::V6(ip)) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        None => false,
    };
    usable && !is_ours(message) && !message.header.flags.contains(AddressHeaderFlags::Tentative)
}
