//! Pools of addresses, and how their addresses are announced.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address_range::AddressRange;
use crate::community::Community;

/// Addresses to give to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Unique among the pools, not empty.
    pub name: String,
    /// How the addresses are announced.
    pub protocol: Protocol,
    /// In the order of the document; no two of them overlap.
    pub ranges: Vec<AddressRange>,
    /// Whether a Service that does not ask for this pool may get an address of it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out, even when asked for.
    pub avoid_buggy_ips: bool,
    /// The routes of each address. Always empty for layer 2. Empty for BGP: given to Services, never announced.
    pub advertisements: Vec<Advertisement>,
}

impl Pool {
    /// Whether an address lies in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether an address may be given to a Service: in a range and not left out by `avoid_buggy_ips`.
    pub fn usable(&self, address: IpAddr) -> bool {
        self.contains(address) && !self.leaves_out(address)
    }

    /// The addresses that may be given to Services, in the order in which they are tried.
    pub fn usable_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ranges.iter().flat_map(AddressRange::iter).filter(|&address| !self.leaves_out(address))
    }

    fn leaves_out(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.avoid_buggy_ips && matches!(v4.octets()[3], 0 | 255),
            IpAddr::V6(_) => false,
        }
    }
}

/// How a pool's addresses are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// As routes to the BGP peers.
    Bgp,
    /// By ARP and NDP on the node's own segment.
    Layer2,
}

/// One route for each address of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// The prefix length of an IPv4 address's route, 1 to 32.
    pub aggregation_length: u8,
    /// The prefix length of an IPv6 address's route, 1 to 128.
    pub aggregation_length_v6: u8,
    /// LOCAL_PREF towards iBGP peers, sent as it is, 0 too.
    pub local_pref: u32,
    /// The communities of the route, aliases resolved.
    pub communities: BTreeSet<Community>,
}

impl Advertisement {
    /// The prefix that is announced for an address; several addresses of a pool may share one.
    pub fn prefix_for(&self, address: IpAddr) -> IpNet {
        let length = match address {
            IpAddr::V4(_) => self.aggregation_length,
            IpAddr::V6(_) => self.aggregation_length_v6,
        };
        // A length beyond the family's width can only mean the address itself.
        IpNet::new(address, length).map_or_else(|_| address.into(), |prefix| prefix.trunc())
    }
}

/// One host route per address and nothing else about it.
impl Default for Advertisement {
    fn default() -> Self {
        Self {
            aggregation_length: 32,
            aggregation_length_v6: 128,
            local_pref: 0,
            communities: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn pool(ranges: &[&str], avoid_buggy_ips: bool) -> Pool {
        Pool {
            name: "edge".into(),
            protocol: Protocol::Bgp,
            ranges: ranges.iter().map(|range| range.parse().expect(range)).collect(),
            auto_assign: true,
            avoid_buggy_ips,
            advertisements: vec![Advertisement::default()],
        }
    }

    #[test]
    fn buggy_addresses_are_in_the_pool_but_not_usable() {
        let pool = pool(&["192.0.2.0/24", "2001:db8:1::/120"], true);
        for (text, contained, usable) in [
            ("192.0.2.0", true, false),
            ("192.0.2.255", true, false),
            ("192.0.2.1", true, true),
            ("192.0.3.1", false, false),
            ("2001:db8:1::", true, true),
            ("2001:db8:1::ff", true, true),
        ] {
            assert_eq!(pool.contains(address(text)), contained, "{text}");
            assert_eq!(pool.usable(address(text)), usable, "{text}");
        }
        assert_eq!(pool.usable_addresses().count(), 254 + 256);
        assert_eq!(pool.usable_addresses().next(), Some(address("192.0.2.1")));
    }

    #[test]
    fn addresses_are_tried_in_the_order_of_the_ranges() {
        let pool = pool(&["192.0.2.255/32", "192.0.2.0/31"], false);
        let order: Vec<String> = pool.usable_addresses().map(|address| address.to_string()).collect();
        assert_eq!(order, ["192.0.2.255", "192.0.2.0", "192.0.2.1"]);
    }

    #[test]
    fn the_prefix_of_an_address_has_the_length_of_its_family() {
        let advertisement =
            Advertisement { aggregation_length: 26, aggregation_length_v6: 64, ..Advertisement::default() };
        assert_eq!(advertisement.prefix_for(address("192.0.2.77")).to_string(), "192.0.2.64/26");
        assert_eq!(advertisement.prefix_for(address("2001:db8:1::9")).to_string(), "2001:db8:1::/64");
        let host = Advertisement::default();
        assert_eq!(host.prefix_for(address("192.0.2.77")).to_string(), "192.0.2.77/32");
        assert_eq!(host.prefix_for(address("2001:db8:1::9")).to_string(), "2001:db8:1::9/128");
        let beyond = Advertisement { aggregation_length: 99, ..host };
        assert_eq!(beyond.prefix_for(address("192.0.2.77")).to_string(), "192.0.2.77/32");
    }
}
