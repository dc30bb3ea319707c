//! The next hops of a session: the address that its socket is bound to, and for the other family an address of the
//! same interface (RFC 2545 §2). Asked anew for every connection, because addresses change.

use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use herald_bgp::LocalAddresses;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};

use crate::addresses::{address_of, is_ours};

/// The session's own addresses; `both` asks for the other family as well.
pub(crate) async fn local_addresses(bound: IpAddr, both: bool) -> LocalAddresses {
    let mut local = LocalAddresses::from(bound);
    if !both {
        return local;
    }
    match dump().await {
        Ok(addresses) => match of_other_family(bound.to_canonical(), &addresses) {
            Some(IpAddr::V4(v4)) => local.v4 = Some(v4),
            Some(IpAddr::V6(v6)) => local.v6 = Some(v6),
            None => tracing::warn!(
                local = %bound,
                "the interface of a session's local address has no usable address of the other family, so routes of that are not sent over it: give it one"
            ),
        },
        Err(error) => tracing::warn!(
            local = %bound, %error,
            "cannot look up the next hop of a session for the other family, so routes of that are not sent over it"
        ),
    }
    local
}

/// Whether a network of one of the node's interfaces contains the address: no router stands between.
pub(crate) async fn is_neighbour(address: IpAddr) -> bool {
    let within = |message: &AddressMessage| {
        let own = address_of(message)?;
        Some(ipnet::IpNet::new(own, message.header.prefix_len).ok()?.contains(&address))
    };
    match dump().await {
        Ok(addresses) => addresses.iter().any(|message| within(message).unwrap_or(false)),
        Err(error) => {
            tracing::warn!(peer = %address, %error, "cannot look up whether a router stands before the peer: BFD is for one hop");
            true
        }
    }
}

async fn dump() -> anyhow::Result<Vec<AddressMessage>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::select! {
        () = connection => anyhow::bail!("rtnetlink closed"),
        addresses = handle.address().get().execute().try_collect() => Ok(addresses?),
    }
}

fn of_other_family(bound: IpAddr, addresses: &[AddressMessage]) -> Option<IpAddr> {
    let interface = addresses.iter().find(|m| address_of(m) == Some(bound))?.header.index;
    let candidates = addresses.iter().filter(|m| m.header.index == interface && !is_ours(m)).filter(|m| {
        !m.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated)
    });
    candidates.filter_map(address_of).find(|ip| match ip {
        IpAddr::V4(v4) => bound.is_ipv6() && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => bound.is_ipv4() && is_routable(v6),
    })
}

fn is_routable(address: &Ipv6Addr) -> bool {
    !address.is_loopback() && !address.is_unicast_link_local() && !address.is_multicast()
}
