//! Herald's own settings, which MetalLB does not have: the map `herald:` of the document.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::address_range::AddressRange;
use crate::sessions::SessionOptions;

/// The map `herald:`; the defaults are those of an absent map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeraldOptions {
    /// Which Service addresses each node also has as local addresses on `lo`.
    pub local_addresses: LocalAddresses,
    /// Which externalIPs of Services are served.
    pub external_ips: ExternalIps,
    /// Whether externalIPs inside pools are announced as load balancer addresses are.
    pub announce_external_ips: bool,
    /// Whether ClusterIPs inside pools are announced as load balancer addresses are.
    pub announce_cluster_ips: bool,
    /// Whether each node announces those of its pod networks that are inside a pool, by BGP.
    pub announce_pod_cidrs: bool,
    /// Who reaches load balancer addresses of a family that a Service's `loadBalancerSourceRanges` leave out.
    pub source_ranges_other_family: SourceRangesOtherFamily,
    /// Which connections are masqueraded.
    pub masquerade: Masquerade,
    /// How long a released address rests before another Service gets it.
    pub cool_down: Duration,
    /// Who may share an address by MetalLB's sharing key.
    pub sharing: Sharing,
    /// How many addresses the Services of one namespace may hold.
    pub quotas: Quotas,
    /// Addresses that are kept for somebody, or from everybody; no two of them overlap.
    pub reservations: Vec<Reservation>,
    /// How long a deleted Service is kept by the finalizer after its address was withdrawn; zero: without finalizer.
    pub finalizer_wait: Duration,
    /// How long the endpoints of many Services that turned not ready at once are used on; zero: not at all.
    pub floor_grace: Duration,
    /// Whether endpoints on nodes whose neighbours' hellos call them dead are passed over where there are others.
    pub suspect_endpoints: bool,
    /// Whether cordoned nodes go on announcing.
    pub cordoned_nodes: CordonedNodes,
    /// When addresses of layer 2 go back to the nodes that would have them if nobody owned any.
    pub layer2_spread: Layer2Spread,
    /// More about BGP sessions.
    pub bgp_peers: BgpPeers,
}

impl Default for HeraldOptions {
    fn default() -> Self {
        Self {
            local_addresses: LocalAddresses::None,
            external_ips: ExternalIps::Default,
            announce_external_ips: false,
            announce_cluster_ips: false,
            announce_pod_cidrs: false,
            source_ranges_other_family: SourceRangesOtherFamily::Deny,
            masquerade: Masquerade::Always,
            cool_down: Duration::from_secs(30),
            sharing: Sharing::Namespace,
            quotas: Quotas::default(),
            reservations: Vec::new(),
            finalizer_wait: Duration::ZERO,
            floor_grace: Duration::from_secs(60),
            suspect_endpoints: true,
            cordoned_nodes: CordonedNodes::Announce,
            layer2_spread: Layer2Spread::Never,
            bgp_peers: BgpPeers::default(),
        }
    }
}

/// More about BGP sessions, by the name of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BgpPeers {
    /// For peers that are not named.
    pub others: SessionOptions,
    /// By name.
    pub named: BTreeMap<String, SessionOptions>,
}

impl BgpPeers {
    /// What a peer has.
    pub fn of(&self, peer: &str) -> &SessionOptions {
        self.named.get(peer).unwrap_or(&self.others)
    }
}

/// What becomes of a node's announcements when it is cordoned (`spec.unschedulable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CordonedNodes {
    /// Nothing: cordoning is about new pods, as Kubernetes has it.
    #[default]
    Announce,
    /// They go, as with the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    Leave,
}

/// When addresses of layer 2 are spread over the nodes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layer2Spread {
    /// They stay where they are while their owners are healthy.
    #[default]
    Never,
    /// At any time.
    Always,
    /// Each day from one minute (UTC) until before another one, maybe of the next day.
    Daily {
        /// Minutes since midnight, below 1,440.
        from: u16,
        /// The same.
        until: u16,
    },
}

impl Layer2Spread {
    /// Whether it is time for it, so many seconds after 1970 began (UTC).
    pub fn is_on(self, seconds: u64) -> bool {
        let minute = seconds / 60 % 1440;
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Daily { from, until } if from < until => {
                (u64::from(from)..u64::from(until)).contains(&minute)
            }
            Self::Daily { from, until } => minute >= from.into() || minute < until.into(),
        }
    }
}

/// Which Service addresses are put on `lo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LocalAddresses {
    /// None: traffic is taken by the rules alone.
    #[default]
    None,
    /// Addresses of Services of type LoadBalancer.
    LoadBalancer,
    /// Those, and externalIPs.
    All,
}

/// What source ranges mean for addresses of a family of which there is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceRangesOtherFamily {
    /// Nobody is let in.
    #[default]
    Deny,
    /// Everyone is let in, as by kube-proxy.
    Allow,
}

/// Which of the connections that kube-proxy would masquerade are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Masquerade {
    /// All.
    #[default]
    Always,
    /// Those whose endpoint is on another node: endpoints of the node itself see the client's address.
    Remote,
}

/// Who may share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Services of one namespace.
    #[default]
    Namespace,
    /// Services of all namespaces, as with MetalLB.
    Cluster,
}

/// How many addresses the Services of one namespace may hold together; a shared one counts once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quotas {
    /// For namespaces that are not named; `None`: no limit.
    pub others: Option<u32>,
    /// By namespace.
    pub namespaces: BTreeMap<String, u32>,
}

impl Quotas {
    /// The limit of a namespace.
    pub fn of(&self, namespace: &str) -> Option<u32> {
        self.namespaces.get(namespace).copied().or(self.others)
    }

    /// No namespace has a limit.
    pub fn is_empty(&self) -> bool {
        self.others.is_none() && self.namespaces.is_empty()
    }
}

/// Addresses that only some Services are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The addresses; they need not be in a pool.
    pub ranges: Vec<AddressRange>,
    /// Services of this namespace; `None`: nobody.
    pub namespace: Option<String>,
    /// Only the Service of this name there.
    pub service: Option<String>,
}

impl Reservation {
    /// Whether a Service is given these addresses.
    pub fn admits(&self, namespace: &str, service: &str) -> bool {
        self.namespace.as_deref() == Some(namespace)
            && self.service.as_deref().is_none_or(|name| name == service)
    }
}

/// For whom, in words.
impl std::fmt::Display for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.namespace, &self.service) {
            (Some(namespace), Some(service)) => write!(f, "Service {namespace}/{service}"),
            (Some(namespace), None) => write!(f, "namespace {namespace}"),
            (None, _) => f.write_str("nobody"),
        }
    }
}

/// Which externalIPs are served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExternalIps {
    /// All but addresses of nodes, pods, the Service network and other Services.
    #[default]
    Default,
    /// Of those only the ones in these prefixes; an empty list serves none.
    Allow(Vec<IpNet>),
    /// The same with a list for each namespace; Services of other namespaces have none.
    AllowByNamespace(BTreeMap<String, Vec<IpNet>>),
}

impl ExternalIps {
    /// The list for Services of a namespace, `None` where there is none; the default policy's exceptions come on top.
    pub fn of_namespace(&self, namespace: &str) -> Option<&[IpNet]> {
        match self {
            Self::Default => None,
            Self::Allow(prefixes) => Some(prefixes),
            Self::AllowByNamespace(lists) => Some(lists.get(namespace).map_or(&[], Vec::as_slice)),
        }
    }

    /// Whether the list, where there is one, has the address.
    pub fn allows(&self, namespace: &str, address: IpAddr) -> bool {
        self.of_namespace(namespace)
            .is_none_or(|prefixes| prefixes.iter().any(|prefix| prefix.contains(&address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_time_may_pass_midnight() {
        let at = |hour: u64, minute: u64| 86_400 * 20_000 + hour * 3600 + minute * 60 + 59;
        let night = Layer2Spread::Daily { from: 2 * 60, until: 4 * 60 + 30 };
        let midnight = Layer2Spread::Daily { from: 23 * 60, until: 60 };
        for (spread, time, on) in [
            (Layer2Spread::Never, at(3, 0), false),
            (Layer2Spread::Always, at(3, 0), true),
            (night, at(1, 59), false),
            (night, at(2, 0), true),
            (night, at(4, 29), true),
            (night, at(4, 30), false),
            (midnight, at(22, 59), false),
            (midnight, at(23, 0), true),
            (midnight, at(0, 59), true),
            (midnight, at(1, 0), false),
        ] {
            assert_eq!(spread.is_on(time), on, "{spread:?} {time}");
        }
    }

    #[test]
    fn an_allow_list_serves_only_what_it_names() {
        let inside = IpAddr::from([169, 10, 10, 1]);
        let outside = IpAddr::from([169, 10, 11, 1]);
        let allow = ExternalIps::Allow(vec!["169.10.10.0/24".parse().expect("a prefix")]);
        assert!(allow.allows("shop", inside) && !allow.allows("shop", outside));
        assert!(ExternalIps::Default.allows("shop", outside));
        assert!(!ExternalIps::Allow(Vec::new()).allows("shop", inside));
        let lists = BTreeMap::from([("shop".to_owned(), vec!["169.10.10.0/24".parse().expect("a prefix")])]);
        let allow = ExternalIps::AllowByNamespace(lists);
        assert!(allow.allows("shop", inside) && !allow.allows("shop", outside));
        assert!(!allow.allows("other", inside), "a namespace without a list");
    }
}
