//! The elements of the constant sets and maps: the whole vocabulary between the rules of a Service and the kernel.
//!
//! A Service becomes a list of [`Element`]s (pure, `rules.rs`); the ruleset turns each into one set or map element
//! (`ruleset/`). Sets, maps and chains never change with the number of Services; only elements come and go.
//! A NodePort is a [`Frontend`] at each node address, so it needs no maps of its own.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// Transport protocol of a Service port (IANA protocol numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 132.
    Sctp,
}

/// As people write it behind a port: `80/tcp`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        let known = [Self::Tcp, Self::Udp, Self::Sctp];
        known.into_iter().find(|known| known.to_string() == text.to_ascii_lowercase()).ok_or(UnknownProtocol)
    }
}

/// A protocol that Services do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protocol is none of tcp, udp and sctp")]
pub struct UnknownProtocol;

/// Where clients connect to: one address, protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// ClusterIP, externalIP, load balancer address or (for a NodePort) node address.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Service port or node port.
    pub port: u16,
}

/// `192.0.2.1:80/tcp`.
impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// Which rules a new connection to a frontend passes; one chain each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// ClusterIP, `internalTrafficPolicy: Cluster`: sources outside the pod network are masqueraded.
    Internal,
    /// ClusterIP, `internalTrafficPolicy: Local`: only endpoints of this node.
    InternalLocal,
    /// NodePort, externalIP or load balancer address, `externalTrafficPolicy: Cluster`: always masqueraded.
    External,
    /// The same with `externalTrafficPolicy: Local`: pods and this node itself are served cluster-wide (the short
    /// circuit), everyone else only by endpoints of this node and with the client's address kept.
    ExternalLocal,
}

/// Which of a frontend's two endpoint tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Endpoints anywhere.
    Cluster,
    /// Endpoints of this node.
    Local,
}

/// What happens to a new connection that no endpoint can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Silence: endpoints exist, but the policy keeps them from being used here.
    Drop,
    /// ICMP port unreachable: there is no endpoint anywhere.
    Reject,
}

/// One element of one set or map. All elements are of the IP family of their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Map `services`: frontend → chain of its policy.
    Service {
        /// Key.
        frontend: Frontend,
        /// Value.
        policy: Policy,
    },
    /// Map `picks` or `local-picks`: frontend → the chain that draws one of `class` slots.
    Pick {
        /// Key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// Number of slots; one of the classes that the ruleset has a chain for.
        class: u16,
    },
    /// Map `endpoints` or `local-endpoints`: frontend and slot → address and port to DNAT to.
    Endpoint {
        /// First part of the key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// Second part of the key, `0..class`.
        slot: u16,
        /// Value.
        endpoint: SocketAddr,
    },
    /// Map `picks` or `local-picks`, in place of a `Pick`: frontend → the chain that keeps clients at their endpoint.
    Affinity {
        /// Key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// So many seconds after its last new connection a client is forgotten; 1 to 86,400.
        timeout: u32,
    },
    /// Map `affine-picks` or `local-affine-picks`: frontend with session affinity → the chain that draws one of `class`
    /// slots for a client that has no endpoint yet.
    AffinePick {
        /// Key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// Number of slots; one of the classes that the ruleset has a chain for.
        class: u16,
    },
    /// Map `slots` or `local-slots`: frontend and drawn slot → the number that its endpoint keeps while it serves.
    Slot {
        /// First part of the key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// Second part of the key, `0..class`.
        slot: u16,
        /// Value.
        stable: u32,
    },
    /// Map `endpoints` or `local-endpoints` with session affinity: frontend and number → address and port to DNAT to.
    StableEndpoint {
        /// First part of the key.
        frontend: Frontend,
        /// Which of the two maps.
        scope: Scope,
        /// Second part of the key.
        stable: u32,
        /// Value.
        endpoint: SocketAddr,
    },
    /// Set `dropped` or `rejected`: a frontend whose new connections are refused.
    Refused {
        /// Key.
        frontend: Frontend,
        /// Which of the two sets.
        refusal: Refusal,
    },
    /// Set `restricted`: a frontend that only the sources in set `sources` reach.
    Restricted {
        /// Key.
        frontend: Frontend,
    },
    /// Set `sources`: who reaches a restricted frontend. Prefixes of one frontend are disjoint; the kernel refuses
    /// overlaps.
    Source {
        /// First part of the key.
        frontend: Frontend,
        /// Second part; host bits are ignored.
        prefix: IpNet,
    },
    /// Set `traffic`: a frontend whose packets are counted.
    Counted {
        /// Key.
        frontend: Frontend,
    },
    /// Set `vips`: an address that Services hold. What no rule took ends here, never at the node or the next router.
    Vip {
        /// Key.
        address: IpAddr,
    },
    /// Set `announced`: a prefix that this node announces. What enters the node for an address inside it and has no rule
    /// is dropped, never routed on. Prefixes of one set are disjoint; the kernel refuses overlaps.
    Announced {
        /// Key; host bits are ignored.
        prefix: IpNet,
    },
    /// Set `service-cidrs`: a network of ClusterIPs, of a ServiceCIDR object. An address inside it that no Service has is
    /// nobody's: what is sent there is dropped. Prefixes of one set are disjoint.
    ServiceCidr {
        /// Key; host bits are ignored.
        prefix: IpNet,
    },
    /// Map `nodes`: slot → another node, which may know a connection that this one does not.
    Node {
        /// Key, `0..`[`crate::ruleset::NODES`]; the slots of a family are filled from the first on.
        slot: u16,
        /// Value: an address of that node on a segment of this one.
        address: IpAddr,
    },
    /// Set `hairpin`: an endpoint of this node that may reach itself through a Service and is then masqueraded.
    Hairpin {
        /// Key, twice: as source and as destination address.
        endpoint: SocketAddr,
        /// Transport protocol.
        protocol: Protocol,
    },
}

/// One atomic change of the kernel's sets and maps. A replaced value is a removal and an addition of the same key;
/// removals are applied before additions, in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Elements that go.
    pub remove: Vec<Element>,
    /// Elements that come.
    pub add: Vec<Element>,
}

impl Changes {
    /// True when nothing would change.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Joins changes that follow each other into one atomic change. An element that one of them adds and a later one
    /// removes again (or the other way round) does not appear at all.
    pub fn join(changes: impl IntoIterator<Item = Self>) -> Self {
        let changes: Vec<Self> = changes.into_iter().collect();
        let mut net: HashMap<Element, i32> = HashMap::new();
        for Self { remove, add } in &changes {
            remove.iter().for_each(|element| *net.entry(*element).or_default() -= 1);
            add.iter().for_each(|element| *net.entry(*element).or_default() += 1);
        }
        // The order of additions is kept: endpoints before the dispatch that leads to them.
        let mut joined = Self::default();
        for Self { remove, add } in changes {
            joined.remove.extend(remove.into_iter().filter(|e| net.get_mut(e).is_some_and(|n| took(n, -1))));
            joined.add.extend(add.into_iter().filter(|e| net.get_mut(e).is_some_and(|n| took(n, 1))));
        }
        joined
    }
}

/// Takes the whole of a net change of this sign, once.
fn took(net: &mut i32, sign: i32) -> bool {
    let takes = net.signum() == sign;
    if takes {
        *net = 0;
    }
    takes
}
