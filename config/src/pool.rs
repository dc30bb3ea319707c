//! Pools of addresses: who may get them, and how they are announced.
//!
//! A pool carries its advertisements resolved: whoever wants to know how an address is announced finds its pool and
//! looks no further. A pool without any is given to Services and never announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address_range::AddressRange;
use crate::community::{Community, LargeCommunity};
use crate::selector::{LabelSelector, any_or_all};

/// Addresses to give to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Unique among the pools, not empty.
    pub name: String,
    /// In the order of the document; no two of them overlap.
    pub ranges: Vec<AddressRange>,
    /// Whether a Service that does not ask for this pool may get an address of it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out, even when asked for.
    pub avoid_buggy_ips: bool,
    /// Which Services it is for; `None`: for all, after the pools that are for some.
    pub allocation: Option<ServiceAllocation>,
    /// The BGP routes of each address.
    pub advertisements: Vec<Advertisement>,
    /// How addresses are announced by ARP and NDP on the nodes' own segments.
    pub layer2: Vec<Layer2Advertisement>,
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

    /// Whether a Service with these labels, in this namespace with these, may have addresses of this pool, also when
    /// it asks for them by name.
    pub fn serves(
        &self,
        namespace: &str,
        namespace_labels: &BTreeMap<String, String>,
        service_labels: &BTreeMap<String, String>,
    ) -> bool {
        let of =
            |allocation: &ServiceAllocation| allocation.serves(namespace, namespace_labels, service_labels);
        self.allocation.as_ref().is_none_or(of)
    }

    /// In which order pools are tried for a Service that names none, lowest first: those with a service allocation by
    /// their priority, of which 0 is the last, then those without; the order of the configuration decides between equals.
    pub fn rank(&self) -> (bool, bool, i32) {
        let priority = self.allocation.as_ref().map_or(0, |allocation| allocation.priority);
        (self.allocation.is_none(), priority == 0, priority)
    }

    fn leaves_out(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.avoid_buggy_ips && matches!(v4.octets()[3], 0 | 255),
            IpAddr::V6(_) => false,
        }
    }
}

/// Which Services a pool is for (MetalLB's `serviceAllocation`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ServiceAllocation {
    /// Among the pools that a Service matches the lowest is tried first; 0 is after all others.
    pub priority: i32,
    /// Namespaces by name.
    pub namespaces: BTreeSet<String>,
    /// Namespaces by their labels, beside those by name.
    pub namespace_selectors: Vec<LabelSelector>,
    /// Services by their labels.
    pub service_selectors: Vec<LabelSelector>,
}

impl ServiceAllocation {
    /// Whether a Service is meant: its namespace is named or selected, and it is selected itself; what is left empty
    /// restricts nothing.
    pub fn serves(
        &self,
        namespace: &str,
        namespace_labels: &BTreeMap<String, String>,
        service_labels: &BTreeMap<String, String>,
    ) -> bool {
        let anywhere = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let selected = || self.namespace_selectors.iter().any(|selector| selector.matches(namespace_labels));
        (anywhere || self.namespaces.contains(namespace) || selected())
            && any_or_all(&self.service_selectors, service_labels)
    }
}

/// How a pool's addresses are announced by ARP and NDP; the default is by every node on every interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Layer2Advertisement {
    /// The nodes that may announce; none means all.
    pub node_selectors: Vec<LabelSelector>,
    /// The interfaces to announce on; none means all.
    pub interfaces: BTreeSet<String>,
    /// The Services that are announced; none means all.
    pub service_selectors: Vec<LabelSelector>,
    /// Which of the nodes are preferred.
    pub preferred_nodes: Vec<PreferredNodes>,
}

/// Nodes that are preferred as owners of addresses; weights of all that match a node are added.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PreferredNodes {
    /// 1 to 100.
    pub weight: u8,
    /// The nodes.
    pub preference: LabelSelector,
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
    /// The large communities of the route, aliases resolved.
    pub large_communities: BTreeSet<LargeCommunity>,
    /// The names of the peers that get the route; none means all.
    pub peers: BTreeSet<String>,
    /// The nodes that announce it; none means all.
    pub node_selectors: Vec<LabelSelector>,
    /// The Services whose addresses are announced by it; none means all.
    pub service_selectors: Vec<LabelSelector>,
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
            large_communities: BTreeSet::new(),
            peers: BTreeSet::new(),
            node_selectors: Vec::new(),
            service_selectors: Vec::new(),
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
            ranges: ranges.iter().map(|range| range.parse().expect(range)).collect(),
            auto_assign: true,
            avoid_buggy_ips,
            allocation: None,
            advertisements: vec![Advertisement::default()],
            layer2: Vec::new(),
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

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn selector(key: &str, value: &str) -> LabelSelector {
        LabelSelector { match_labels: labels(&[(key, value)]), ..LabelSelector::default() }
    }

    #[test]
    fn a_pool_is_for_namespaces_by_name_or_label_and_for_services_by_label() {
        let mut pool = pool(&["192.0.2.0/24"], false);
        let serves =
            |pool: &Pool, namespace: &str, of_namespace: &[(&str, &str)], of_service: &[(&str, &str)]| {
                pool.serves(namespace, &labels(of_namespace), &labels(of_service))
            };
        assert!(serves(&pool, "shop", &[], &[]), "without a service allocation it is for all");
        pool.allocation = Some(ServiceAllocation { priority: 7, ..ServiceAllocation::default() });
        assert!(serves(&pool, "shop", &[], &[]), "a priority alone restricts nothing");
        pool.allocation = Some(ServiceAllocation {
            namespaces: BTreeSet::from(["shop".to_owned()]),
            namespace_selectors: vec![selector("tenant", "a"), selector("tenant", "b")],
            ..ServiceAllocation::default()
        });
        assert!(serves(&pool, "shop", &[], &[]), "by name");
        assert!(serves(&pool, "lab", &[("tenant", "b")], &[]), "by label");
        assert!(!serves(&pool, "lab", &[("tenant", "c")], &[("tenant", "a")]));
        if let Some(allocation) = &mut pool.allocation {
            allocation.service_selectors = vec![selector("tier", "web"), selector("tier", "mail")];
        }
        assert!(serves(&pool, "shop", &[], &[("tier", "mail")]));
        assert!(!serves(&pool, "shop", &[], &[("tier", "db")]), "namespace and Service must both match");
        assert!(!serves(&pool, "lab", &[], &[("tier", "web")]));
    }

    #[test]
    fn pools_for_some_services_come_first_by_priority_and_zero_is_the_last_of_them() {
        let with = |priority: Option<i32>| Pool {
            allocation: priority
                .map(|priority| ServiceAllocation { priority, ..ServiceAllocation::default() }),
            ..pool(&["192.0.2.0/24"], false)
        };
        let mut order = [None, Some(0), Some(5), Some(-1), Some(1)];
        order.sort_by_key(|priority| with(*priority).rank());
        assert_eq!(order, [Some(-1), Some(1), Some(5), Some(0), None]);
    }
}
