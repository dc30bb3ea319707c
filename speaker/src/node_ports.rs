//! At which addresses of the node its node ports answer, and the health check node ports with them.
//!
//! Pure. `primary` stands for the first InternalIP of each family in the Node object; a prefix for the addresses of the
//! node's interfaces inside it. Both may stand together. Never chosen: Herald's own addresses (the list of found ones has
//! none), and loopback, where a translated packet could not leave. A prefix that lies *in* loopback
//! (`127.0.0.0/8`, `::1/128`) asks for the user-space listener there instead; `0.0.0.0/0` does not.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use herald_proxy::IpFamily;
use ipnet::IpNet;

/// What `--nodeport-addresses` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePortAddresses {
    primary: bool,
    prefixes: Vec<IpNet>,
}

impl Default for NodePortAddresses {
    /// kube-proxy's default in nftables mode.
    fn default() -> Self {
        Self { primary: true, prefixes: Vec::new() }
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut read = Self { primary: false, prefixes: Vec::new() };
        for part in text.split(',').map(str::trim) {
            match part {
                "primary" => read.primary = true,
                part => {
                    read.prefixes.push(IpNet::from_str(part).map(|prefix| prefix.trunc()).map_err(|_| {
                        format!("{part:?} is neither \"primary\" nor a prefix like 10.0.0.0/24")
                    })?)
                }
            }
        }
        Ok(read)
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = self.primary.then(|| "primary".to_owned());
        let words: Vec<String> =
            primary.into_iter().chain(self.prefixes.iter().map(ToString::to_string)).collect();
        f.write_str(&words.join(","))
    }
}

impl NodePortAddresses {
    /// Whether the addresses of the node's interfaces matter.
    pub(crate) fn follows_interfaces(&self) -> bool {
        self.prefixes.iter().any(|prefix| !prefix.network().is_loopback())
    }

    /// Where node ports are translated, given the Node's own addresses and those that its interfaces have.
    pub(crate) fn choose(&self, primary: &[IpAddr], found: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let mut chosen: BTreeSet<IpAddr> = found
            .iter()
            .filter(|ip| self.prefixes.iter().any(|prefix| prefix.contains(*ip)))
            .copied()
            .collect();
        if self.primary {
            chosen.extend(primary);
        }
        chosen.retain(|ip| !ip.is_loopback());
        chosen.into_iter().collect()
    }

    /// Where health check node ports listen: everywhere in a family that is chosen whole, else at each of its addresses.
    pub(crate) fn listen(&self, chosen: &[IpAddr]) -> BTreeSet<IpAddr> {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let whole = |any: IpAddr| self.prefixes.iter().any(|p| p.prefix_len() == 0 && p.contains(&any));
        // The one socket of all IPv6 addresses takes IPv4 as well; a second one could not be bound beside it.
        if whole(v6) {
            return [v6].into();
        }
        let mut listen: BTreeSet<IpAddr> = chosen.iter().copied().collect();
        if whole(v4) {
            listen.retain(IpAddr::is_ipv6);
            listen.insert(v4);
        }
        listen
    }

    /// The loopback addresses at which TCP node ports are served in user space.
    pub(crate) fn localhost(&self) -> Vec<IpAddr> {
        let loopback = |family| match family {
            IpFamily::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpFamily::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
        };
        let asked = |ip: &IpAddr| {
            self.prefixes.iter().any(|prefix| prefix.network().is_loopback() && prefix.contains(ip))
        };
        IpFamily::ALL.into_iter().map(loopback).filter(asked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> NodePortAddresses {
        text.parse().unwrap()
    }

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        ips(addresses).into_iter().collect()
    }

    /// What the node has, as rtnetlink tells it: neither loopback nor Herald's own are in it.
    fn found() -> BTreeSet<IpAddr> {
        set(&["10.0.0.11", "10.0.1.11", "2001:db8:10::11"])
    }

    #[test]
    fn primary_is_the_node_objects_first_of_each_family() {
        let primary = read("primary");
        assert_eq!(primary, NodePortAddresses::default());
        assert!(!primary.follows_interfaces());
        let own = ips(&["10.0.0.11", "2001:db8:10::11"]);
        assert_eq!(primary.choose(&own, &BTreeSet::new()), own);
        assert_eq!(primary.listen(&own), set(&["10.0.0.11", "2001:db8:10::11"]));
        assert!(primary.localhost().is_empty());
    }

    #[test]
    fn prefixes_choose_among_the_interfaces_addresses() {
        let one = read("10.0.1.0/24");
        assert!(one.follows_interfaces());
        assert_eq!(one.choose(&ips(&["10.0.0.11"]), &found()), ips(&["10.0.1.11"]));
        let both = read("primary, 10.0.1.0/24");
        assert_eq!(both.choose(&ips(&["10.0.0.11"]), &found()), ips(&["10.0.0.11", "10.0.1.11"]));
        assert_eq!(read("10.0.1.7/24").to_string(), "10.0.1.0/24");
    }

    #[test]
    fn a_whole_family_listens_everywhere() {
        let chosen = ips(&["10.0.0.11", "2001:db8:10::11"]);
        assert_eq!(read("0.0.0.0/0,::/0").listen(&chosen), set(&["::"]));
        assert_eq!(read("0.0.0.0/0").listen(&ips(&["10.0.0.11"])), set(&["0.0.0.0"]));
        assert_eq!(read("0.0.0.0/0,primary").listen(&chosen), set(&["0.0.0.0", "2001:db8:10::11"]));
    }

    #[test]
    fn loopback_is_served_in_user_space_and_only_when_named() {
        let mixed = read("primary,127.0.0.0/8");
        assert_eq!(mixed.localhost(), ips(&["127.0.0.1"]));
        assert!(!mixed.follows_interfaces());
        assert_eq!(mixed.choose(&ips(&["10.0.0.11"]), &set(&["127.0.0.1"])), ips(&["10.0.0.11"]));
        assert_eq!(read("127.0.0.1/32,::1/128").localhost(), ips(&["127.0.0.1", "::1"]));
        for other in ["0.0.0.0/0,::/0", "127.1.0.0/16", "primary"] {
            assert!(read(other).localhost().is_empty(), "{other}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        let error = NodePortAddresses::from_str("primary,eth0").unwrap_err();
        assert_eq!(error, "\"eth0\" is neither \"primary\" nor a prefix like 10.0.0.0/24");
    }
}
