//! The verdict on a packet: a second, pure reading of the elements that the kernel's chains read.
//!
//! Given all elements, the pod networks and the node's addresses, [`Tracer::trace`] tells what becomes of the first
//! packet of a connection: the endpoints with their shares and for each why it is masqueraded, or drop, reject, or
//! none of Herald's business. Tests hold it against Kubernetes' semantics and against the kernel; `herald explain`
//! prints it. Session affinity is not part of it.
//!
//! The walk, in the order of the chains: `restricted` and `sources` (who is in none is dropped); `services` → policy → `picks`/`local-picks` → `endpoints`/`local-endpoints`;
//! what stays without DNAT: `refused`, then `vips` (rejected: an address of Services has no other ports), then `announced`
//! (dropped where it would be routed on), then the rest of the world. The short circuit of `ExternalLocal` looks at pods first, then at the node's own addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::family::IpFamily;
use crate::reason::{DropReason, RejectReason};

/// Where a packet meets the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It came in: from a pod, another node or a client.
    Prerouting,
    /// The node itself sends it.
    Output,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it meets the rules.
    pub hook: Hook,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, protocol and port.
    pub destination: Frontend,
}

/// Why the source address becomes the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// To a ClusterIP from outside the pod network.
    NotPod,
    /// To a node port, externalIP or load balancer address under policy Cluster.
    External,
    /// From the node itself to such a frontend under policy Local.
    OwnNode,
    /// The endpoint is the sender.
    Hairpin,
}

/// One endpoint's part of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// Where they go.
    pub endpoint: SocketAddr,
    /// In how many of the slots it stands.
    pub slots: u16,
    /// Whether and why they are masqueraded.
    pub masquerade: Option<Masquerade>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one of these, drawn from `class` slots.
    Dnat {
        /// Number of slots; the shares add up to it, else slots are missing in the kernel.
        class: u16,
        /// Sorted by endpoint.
        shares: Vec<Share>,
    },
    /// Silence.
    Drop(DropReason),
    /// ICMP port unreachable.
    Reject(RejectReason),
    /// No rule of Herald concerns it.
    Pass,
}

/// The sets and maps as the kernel has them, and what is local.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    services: HashMap<Frontend, Policy>,
    picks: HashMap<(Frontend, Scope), u16>,
    endpoints: HashMap<(Frontend, Scope, u16), SocketAddr>,
    refused: HashMap<Frontend, Refusal>,
    restricted: HashSet<Frontend>,
    sources: HashMap<Frontend, Vec<IpNet>>,
    vips: HashSet<IpAddr>,
    announced: Vec<IpNet>,
    hairpin: HashSet<(SocketAddr, Protocol)>,
    cluster_cidrs: Vec<IpNet>,
    local_addresses: BTreeSet<IpAddr>,
}

impl Tracer {
    /// Loads elements. Without a pod network of a family, no source of that family counts as a pod, and (as kube-proxy
    /// has it) none is masqueraded for not being one.
    pub fn new(
        elements: impl IntoIterator<Item = Element>,
        cluster_cidrs: impl IntoIterator<Item = IpNet>,
        local_addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut tracer = Self {
            cluster_cidrs: cluster_cidrs.into_iter().collect(),
            local_addresses: local_addresses.into_iter().collect(),
            ..Self::default()
        };
        for element in elements {
            tracer.load(element);
        }
        tracer
    }

    fn load(&mut self, element: Element) {
        match element {
            Element::Service { frontend, policy } => {
                self.services.insert(frontend, policy);
            }
            Element::Pick { frontend, scope, class } => {
                self.picks.insert((frontend, scope), class);
            }
            Element::Endpoint { frontend, scope, slot, endpoint } => {
                self.endpoints.insert((frontend, scope, slot), endpoint);
            }
            Element::Refused { frontend, refusal } => {
                self.refused.insert(frontend, refusal);
            }
            Element::Restricted { frontend } => {
                self.restricted.insert(frontend);
            }
            Element::Source { frontend, prefix } => {
                self.sources.entry(frontend).or_default().push(prefix);
            }
            Element::Vip { address } => {
                self.vips.insert(address);
            }
            Element::Announced { prefix } => self.announced.push(prefix),
            Element::Hairpin { endpoint, protocol } => {
                self.hairpin.insert((endpoint, protocol));
            }
        }
    }

    /// What becomes of a packet.
    pub fn trace(&self, packet: &Packet) -> Verdict {
        if !self.is_source_allowed(packet) {
            return Verdict::Drop(DropReason::SourceNotAllowed);
        }
        if let Some(&policy) = self.services.get(&packet.destination)
            && let Some(verdict) = self.draw(packet, policy)
        {
            return verdict;
        }
        match self.refused.get(&packet.destination) {
            Some(Refusal::Drop) => Verdict::Drop(DropReason::NoLocalEndpoint),
            Some(Refusal::Reject) => Verdict::Reject(RejectReason::NoEndpoint),
            None if self.vips.contains(&packet.destination.address) => {
                Verdict::Reject(RejectReason::UnservedPort)
            }
            None if self.routed_back(packet) => Verdict::Drop(DropReason::RoutedBack),
            None => Verdict::Pass,
        }
    }

    /// Whether the frontend's source ranges let the packet in.
    fn is_source_allowed(&self, packet: &Packet) -> bool {
        let within = |sources: &Vec<IpNet>| sources.iter().any(|prefix| prefix.contains(&packet.source));
        !self.restricted.contains(&packet.destination)
            || self.sources.get(&packet.destination).is_some_and(within)
    }

    /// A packet that came because this node announces its prefix, and would be routed on, perhaps to whom it came from.
    fn routed_back(&self, packet: &Packet) -> bool {
        let destination = packet.destination.address;
        packet.hook == Hook::Prerouting
            && !self.local_addresses.contains(&destination)
            && self.announced.iter().any(|prefix| prefix.contains(&destination))
    }

    /// The endpoint that a packet gets when `slot` is drawn out of the class, and whether it is masqueraded.
    pub fn endpoint(
        &self,
        packet: &Packet,
        draw: impl FnOnce(u16) -> u16,
    ) -> Option<(SocketAddr, Option<Masquerade>)> {
        let policy = *self.services.get(&packet.destination).filter(|_| self.is_source_allowed(packet))?;
        let (scope, masquerade) = self.way(packet, policy);
        let class = *self.picks.get(&(packet.destination, scope))?;
        let endpoint = *self.endpoints.get(&(packet.destination, scope, draw(class)))?;
        Some((endpoint, self.masquerade(packet, endpoint, masquerade)))
    }

    fn draw(&self, packet: &Packet, policy: Policy) -> Option<Verdict> {
        let (scope, masquerade) = self.way(packet, policy);
        let class = *self.picks.get(&(packet.destination, scope))?;
        let mut count: BTreeMap<SocketAddr, u16> = BTreeMap::new();
        for slot in 0..class {
            if let Some(&endpoint) = self.endpoints.get(&(packet.destination, scope, slot)) {
                *count.entry(endpoint).or_default() += 1;
            }
        }
        let shares = count.into_iter().map(|(endpoint, slots)| Share {
            endpoint,
            slots,
            masquerade: self.masquerade(packet, endpoint, masquerade),
        });
        Some(Verdict::Dnat { class, shares: shares.collect() })
    }

    /// Which table the policy's chain looks into for this source, and whether it marks for masquerading.
    fn way(&self, packet: &Packet, policy: Policy) -> (Scope, Option<Masquerade>) {
        let family = IpFamily::of(packet.source);
        let mut pods =
            self.cluster_cidrs.iter().filter(|cidr| IpFamily::of(cidr.network()) == family).peekable();
        let detector = pods.peek().is_some();
        let from_pod = pods.any(|cidr| cidr.contains(&packet.source));
        let not_pod = (detector && !from_pod).then_some(Masquerade::NotPod);
        match policy {
            Policy::Internal => (Scope::Cluster, not_pod),
            Policy::InternalLocal => (Scope::Local, not_pod),
            Policy::External => (Scope::Cluster, Some(Masquerade::External)),
            Policy::ExternalLocal if from_pod => (Scope::Cluster, None),
            Policy::ExternalLocal if self.local_addresses.contains(&packet.source) => {
                (Scope::Cluster, Some(Masquerade::OwnNode))
            }
            Policy::ExternalLocal => (Scope::Local, None),
        }
    }

    fn masquerade(
        &self,
        packet: &Packet,
        endpoint: SocketAddr,
        marked: Option<Masquerade>,
    ) -> Option<Masquerade> {
        let itself =
            endpoint.ip() == packet.source && self.hairpin.contains(&(endpoint, packet.destination.protocol));
        marked.or_else(|| itself.then_some(Masquerade::Hairpin))
    }
}

#[cfg(test)]
mod tests;
