//! The verdict on a packet: a second, pure reading of the elements that the kernel's chains read.
//!
//! Given all elements, the pod networks and the node's addresses, [`Tracer::trace`] tells what becomes of the first
//! packet of a connection: the endpoints with their shares and for each why it is masqueraded, or drop, reject, or
//! none of Herald's business. Tests hold it against Kubernetes' semantics and against the kernel; `herald explain`
//! prints it. Under session affinity the shares are those of a client that is not known yet; which endpoint a known one
//! has stands in the kernel alone.
//!
//! The walk, in the order of the chains: `restricted` and `sources` (who is in none is dropped); `services` → policy →
//! `picks`/`local-picks` → `endpoints`/`local-endpoints`; what stays without DNAT: `refused`, then `vips` (rejected: an address of Services has no other ports), then `announced`
//! (dropped where it would be routed on), then the rest of the world. The short circuit of `ExternalLocal` looks at pods first, then at the node's own addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::family::IpFamily;
use crate::reason::{DropReason, RejectReason};
use crate::ruleset::MasqueradeMode;

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

impl Masquerade {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::NotPod, Self::External, Self::OwnNode, Self::Hairpin];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotPod => "NotPod",
            Self::External => "External",
            Self::OwnNode => "OwnNode",
            Self::Hairpin => "Hairpin",
        }
    }

    /// Which sources it concerns.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotPod => "sources outside the pod network",
            Self::External => "every source: it comes from outside under policy Cluster",
            Self::OwnNode => "this node's own connections",
            Self::Hairpin => "an endpoint that reaches itself",
        }
    }
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
        /// With session affinity: the seconds for which the client stays with the endpoint that it got, counted from its
        /// last new connection.
        affinity: Option<u32>,
    },
    /// Silence.
    Drop(DropReason),
    /// ICMP port unreachable.
    Reject(RejectReason),
    /// No rule of Herald concerns it.
    Pass,
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The chain, set or map, as `nft list` has it.
    pub at: &'static str,
    /// What came of it.
    pub text: String,
}

/// Takes the steps while the packet goes; the text is made only where somebody reads it.
type Say<'s> = dyn FnMut(&'static str, fmt::Arguments<'_>) + 's;

/// The chain of a policy.
fn chain(policy: Policy) -> &'static str {
    match policy {
        Policy::Internal => "internal",
        Policy::InternalLocal => "internal-local",
        Policy::External => "external",
        Policy::ExternalLocal => "external-local",
    }
}

/// The sets and maps as the kernel has them, and what is local.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    services: HashMap<Frontend, Policy>,
    picks: HashMap<(Frontend, Scope), u16>,
    endpoints: HashMap<(Frontend, Scope, u16), SocketAddr>,
    timeouts: HashMap<(Frontend, Scope), u32>,
    slots: HashMap<(Frontend, Scope, u16), u32>,
    stable: HashMap<(Frontend, Scope, u32), SocketAddr>,
    refused: HashMap<Frontend, Refusal>,
    restricted: HashSet<Frontend>,
    sources: HashMap<Frontend, Vec<IpNet>>,
    vips: HashSet<IpAddr>,
    announced: Vec<IpNet>,
    service_cidrs: Vec<IpNet>,
    hairpin: HashSet<(SocketAddr, Protocol)>,
    cluster_cidrs: Vec<IpNet>,
    local_addresses: BTreeSet<IpAddr>,
    masquerade: MasqueradeMode,
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

    /// The same with another mode of masquerading than the default.
    pub fn with_masquerade(self, masquerade: MasqueradeMode) -> Self {
        Self { masquerade, ..self }
    }

    fn load(&mut self, element: Element) {
        match element {
            Element::Service { frontend, policy } => {
                self.services.insert(frontend, policy);
            }
            Element::Affinity { frontend, scope, timeout } => {
                self.timeouts.insert((frontend, scope), timeout);
            }
            Element::Slot { frontend, scope, slot, stable } => {
                self.slots.insert((frontend, scope, slot), stable);
            }
            Element::StableEndpoint { frontend, scope, stable, endpoint } => {
                self.stable.insert((frontend, scope, stable), endpoint);
            }
            Element::Pick { frontend, scope, class } | Element::AffinePick { frontend, scope, class } => {
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
            // What is counted is not changed.
            Element::Counted { .. } => {}
            Element::Vip { address } => {
                self.vips.insert(address);
            }
            Element::Announced { prefix } => self.announced.push(prefix),
            Element::ServiceCidr { prefix } => self.service_cidrs.push(prefix),
            // A trace is of a connection's first packet.
            Element::Node { .. } => {}
            Element::Hairpin { endpoint, protocol } => {
                self.hairpin.insert((endpoint, protocol));
            }
        }
    }

    /// What becomes of a packet.
    pub fn trace(&self, packet: &Packet) -> Verdict {
        self.follow(packet, &mut |_, _| {})
    }

    /// What becomes of a packet, and its way there.
    pub fn walk(&self, packet: &Packet) -> (Verdict, Vec<Step>) {
        let mut steps = Vec::new();
        let verdict = self.follow(packet, &mut |at, text| steps.push(Step { at, text: text.to_string() }));
        (verdict, steps)
    }

    fn follow(&self, packet: &Packet, say: &mut Say<'_>) -> Verdict {
        let to = packet.destination;
        let (sources, dnat, what) = match packet.hook {
            Hook::Prerouting => ("prerouting-sources", "prerouting-dnat", "a new connection comes in"),
            Hook::Output => ("output-sources", "output-dnat", "this node opens a connection"),
        };
        if !self.is_source_allowed(packet) {
            say(sources, format_args!("{to} is restricted, and {} is in no range: dropped", packet.source));
            return Verdict::Drop(DropReason::SourceNotAllowed);
        }
        if self.restricted.contains(&to) {
            say(sources, format_args!("{to} is restricted, and {} is in a range", packet.source));
        }
        say(dnat, format_args!("{what}, to {to}"));
        match self.services.get(&to) {
            Some(&policy) => {
                say("map services", format_args!("{to} is a frontend, its chain is {}", chain(policy)));
                if let Some(verdict) = self.draw(packet, policy, say) {
                    return verdict;
                }
            }
            None => say("map services", format_args!("{to} is no frontend with endpoints")),
        }
        self.guard(packet, say)
    }

    /// What becomes of a packet that was not translated.
    fn guard(&self, packet: &Packet, say: &mut Say<'_>) -> Verdict {
        let to = packet.destination;
        match self.refused.get(&to) {
            Some(Refusal::Drop) => {
                say("set dropped", format_args!("{to} has no endpoint on this node: dropped"));
                Verdict::Drop(DropReason::NoLocalEndpoint)
            }
            Some(Refusal::Reject) => {
                say("set rejected", format_args!("{to} has no endpoint anywhere: port unreachable"));
                Verdict::Reject(RejectReason::NoEndpoint)
            }
            None if self.vips.contains(&to.address) => {
                say(
                    "set vips",
                    format_args!("{} has no port {}/{}: port unreachable", to.address, to.port, to.protocol),
                );
                Verdict::Reject(RejectReason::UnservedPort)
            }
            None if self.routed_back(packet) => {
                say(
                    "set announced",
                    format_args!("{} is in a prefix that this node announces: dropped", to.address),
                );
                Verdict::Drop(DropReason::RoutedBack)
            }
            None if self.unallocated(packet) => {
                say(
                    "set service-cidrs",
                    format_args!("{} is a ClusterIP that no Service has: dropped", to.address),
                );
                Verdict::Drop(DropReason::UnallocatedClusterIp)
            }
            None => {
                say(
                    "guards",
                    format_args!(
                        "nothing of Herald's concerns {}: it goes on as if Herald were not there",
                        to.address
                    ),
                );
                Verdict::Pass
            }
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

    /// A ClusterIP that no Service has.
    fn unallocated(&self, packet: &Packet) -> bool {
        let destination = packet.destination.address;
        let routed_on = packet.hook == Hook::Output || !self.local_addresses.contains(&destination);
        routed_on && self.service_cidrs.iter().any(|prefix| prefix.contains(&destination))
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
        let endpoint = self.slot(packet.destination, scope, draw(class))?;
        Some((endpoint, self.masquerade(packet, endpoint, masquerade)))
    }

    fn draw(&self, packet: &Packet, policy: Policy, say: &mut Say<'_>) -> Option<Verdict> {
        let (scope, marked) = self.way(packet, policy);
        self.say_way(packet, policy, (scope, marked), say);
        let (picks, endpoints) = match scope {
            Scope::Cluster => ("map picks", "map endpoints"),
            Scope::Local => ("map local-picks", "map local-endpoints"),
        };
        let Some(&class) = self.picks.get(&(packet.destination, scope)) else {
            say(picks, format_args!("no endpoint there: not translated"));
            return None;
        };
        if let Some(seconds) = self.timeouts.get(&(packet.destination, scope)) {
            say(
                "map affinity",
                format_args!("{} keeps the endpoint that it has for {seconds} s; else:", packet.source),
            );
        }
        say(picks, format_args!("one of {class} {} is drawn", if class == 1 { "slot" } else { "slots" }));
        let mut count: BTreeMap<SocketAddr, u16> = BTreeMap::new();
        for slot in 0..class {
            if let Some(endpoint) = self.slot(packet.destination, scope, slot) {
                *count.entry(endpoint).or_default() += 1;
            }
        }
        let shares = count.into_iter().map(|(endpoint, slots)| Share {
            endpoint,
            slots,
            masquerade: self.masquerade(packet, endpoint, marked),
        });
        let shares: Vec<Share> = shares.collect();
        for Share { endpoint, slots, masquerade } in &shares {
            say(endpoints, format_args!("{slots}/{class}: the destination becomes {endpoint}"));
            if let Some(Masquerade::Hairpin) = masquerade {
                say("postrouting-masquerade", format_args!("{endpoint} is the sender: masqueraded"));
            }
            if let (None, Some(_)) = (masquerade, marked) {
                say(
                    "postrouting-masquerade",
                    format_args!(
                        "{endpoint} is on this node: the mark goes, the source stays {}",
                        packet.source
                    ),
                );
            }
        }
        match marked {
            Some(_) if shares.iter().all(|share| share.masquerade.is_none()) => {}
            Some(_) => say("postrouting-masquerade", format_args!("marked: the source becomes this node's")),
            None => {
                say("postrouting-masquerade", format_args!("not marked: the source stays {}", packet.source))
            }
        }
        let affinity = self.timeouts.get(&(packet.destination, scope)).copied();
        Some(Verdict::Dnat { class, shares, affinity })
    }

    /// Tells what the policy's chain does.
    fn say_way(&self, packet: &Packet, policy: Policy, way: (Scope, Option<Masquerade>), say: &mut Say<'_>) {
        let scope = match way.0 {
            Scope::Cluster => "any endpoint",
            Scope::Local => "endpoints of this node only",
        };
        let source = packet.source;
        let mark = match (way.1, policy) {
            (Some(Masquerade::NotPod), _) => "is outside the pod network: marked",
            (Some(Masquerade::OwnNode), _) => "is this node: marked",
            (Some(_), _) => "comes from outside under policy Cluster: marked",
            (None, Policy::ExternalLocal) if way.0 == Scope::Local => {
                "is neither a pod nor this node: not marked"
            }
            (None, _) if self.is_pod(source).is_none() => "may be a pod, no pod network is known: not marked",
            (None, _) => "is in the pod network: not marked",
        };
        say(chain(policy), format_args!("{source} {mark}; {scope}"));
    }

    /// Whether a source is a pod; `None` where no pod network of its family is known.
    fn is_pod(&self, source: IpAddr) -> Option<bool> {
        let family = IpFamily::of(source);
        let mut pods =
            self.cluster_cidrs.iter().filter(|cidr| IpFamily::of(cidr.network()) == family).peekable();
        pods.peek()?;
        Some(pods.any(|cidr| cidr.contains(&source)))
    }

    /// The endpoint in a slot; with affinity by way of its number.
    fn slot(&self, frontend: Frontend, scope: Scope, slot: u16) -> Option<SocketAddr> {
        if !self.timeouts.contains_key(&(frontend, scope)) {
            return self.endpoints.get(&(frontend, scope, slot)).copied();
        }
        let stable = *self.slots.get(&(frontend, scope, slot))?;
        self.stable.get(&(frontend, scope, stable)).copied()
    }

    /// Which table the policy's chain looks into for this source, and whether it marks for masquerading.
    fn way(&self, packet: &Packet, policy: Policy) -> (Scope, Option<Masquerade>) {
        let pod = self.is_pod(packet.source);
        let not_pod = (pod == Some(false)).then_some(Masquerade::NotPod);
        match policy {
            Policy::Internal => (Scope::Cluster, not_pod),
            Policy::InternalLocal => (Scope::Local, not_pod),
            Policy::External => (Scope::Cluster, Some(Masquerade::External)),
            Policy::ExternalLocal if pod == Some(true) => (Scope::Cluster, None),
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
        let is_local = self.hairpin.contains(&(endpoint, packet.destination.protocol));
        let itself = is_local && endpoint.ip() == packet.source;
        let marked = marked.filter(|_| itself || !is_local || self.masquerade == MasqueradeMode::Always);
        marked.or_else(|| itself.then_some(Masquerade::Hairpin))
    }
}

#[cfg(test)]
mod tests;
