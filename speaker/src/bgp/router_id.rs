//! The BGP identifier of a node (RFC 6286): configured, else the node's first IPv4 address, else a hash of its name.
//!
//! A hash is folded into 1.0.0.0–223.255.255.255 without 127.0.0.0/8: some releases of other speakers refuse an
//! identifier that is no unicast address, though RFC 6286 asks only that it is not zero.

use std::net::{IpAddr, Ipv4Addr};

/// Chooses the identifier.
pub(crate) fn router_id(
    configured: Option<Ipv4Addr>,
    node_addresses: &[IpAddr],
    node_name: &str,
) -> Ipv4Addr {
    let of_node = node_addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) if is_unicast(*address) => Some(*address),
        _ => None,
    });
    configured.filter(|id| !id.is_unspecified()).or(of_node).unwrap_or_else(|| of_name(node_name))
}

fn is_unicast(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// FNV-1a, because it must be the same in every release of Herald.
fn of_name(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [first, second, third, fourth] = hash.to_be_bytes();
    let first = match 1 + first % 223 {
        127 => 126,
        first => first,
    };
    Ipv4Addr::new(first, second, third, fourth)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_configured_identifier_wins_then_the_nodes_ipv4_address() {
        let node: [IpAddr; 2] = ["2001:db8:10::1".parse().unwrap(), "10.0.0.11".parse().unwrap()];
        let configured = Ipv4Addr::new(9, 9, 9, 9);
        assert_eq!(router_id(Some(configured), &node, "a"), configured);
        assert_eq!(router_id(None, &node, "a"), Ipv4Addr::new(10, 0, 0, 11));
        assert_eq!(router_id(Some(Ipv4Addr::UNSPECIFIED), &node, "a"), Ipv4Addr::new(10, 0, 0, 11));
    }

    proptest! {
        #[test]
        fn a_hashed_identifier_is_always_a_unicast_address(name in ".*") {
            prop_assert!(is_unicast(router_id(None, &[], &name)));
        }
    }
}
