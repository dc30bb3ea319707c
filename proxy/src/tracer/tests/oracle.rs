//! Kubernetes' Service semantics read straight from the objects, endpoint by endpoint, without any of the code that
//! makes rules. Written from the facts' sections 1.1, 1.2, 1.4, 1.5 and 1.8 to 1.10.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::node::{NodeView, OtherFamilySources, ProxyMode};
use crate::reason::{DropReason, RejectReason};
use crate::ruleset::MasqueradeMode;
use crate::service::{ServicePort, ServiceType, ServiceView};
use crate::slice::SliceView;
use crate::tracer::{Packet, Verdict};

#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Endpoint → masqueraded.
    Served(BTreeMap<SocketAddr, bool>),
    Drop(DropReason),
    Reject(RejectReason),
    Pass,
}

impl Outcome {
    /// The verdict with shares checked and forgotten.
    pub(super) fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Dnat { class, shares, .. } => {
                assert_eq!(shares.iter().map(|share| share.slots).sum::<u16>(), class, "no slot is missing");
                let slots = || shares.iter().map(|share| share.slots);
                assert!(slots().max().unwrap() - slots().min().unwrap() <= 1, "shares are equal");
                Self::Served(shares.into_iter().map(|s| (s.endpoint, s.masquerade.is_some())).collect())
            }
            Verdict::Drop(reason) => Self::Drop(reason),
            Verdict::Reject(reason) => Self::Reject(reason),
            Verdict::Pass => Self::Pass,
        }
    }
}

pub(super) struct World<'a> {
    pub(super) service: &'a ServiceView,
    pub(super) slices: &'a [SliceView],
    pub(super) node: &'a NodeView,
    pub(super) pods: &'a [IpNet],
    pub(super) own: &'a [IpAddr],
    pub(super) masquerade: MasqueradeMode,
}

#[derive(Default)]
struct Seen {
    ready: bool,
    ending: bool,
    here: bool,
    zones: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl World<'_> {
    pub(super) fn outcome(&self, packet: &Packet) -> Outcome {
        let to = packet.destination;
        let v4 = to.address.is_ipv4();
        let served_family = self.service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
        if !served_family {
            return Outcome::Pass;
        }
        let full = self.node.mode == ProxyMode::Full;
        let internal = full && self.service.cluster_ips.contains(&to.address);
        let given = self.service.load_balancer_ips.contains(&to.address)
            || self.service.external_ips.contains(&to.address);
        let at_node = full && self.node.port_addresses.contains(&to.address);
        let mut ports = self.service.ports.iter().filter(|port| port.protocol == to.protocol);
        let port = ports.find(|port| {
            ((internal || given) && port.number == to.port) || (at_node && port.node_port == Some(to.port))
        });
        // A load balancer address is that, whatever else the Service calls it.
        let load_balancer = !internal && self.service.load_balancer_ips.contains(&to.address);
        if load_balancer && port.is_some() && !self.lets_in(packet) {
            return Outcome::Drop(DropReason::SourceNotAllowed);
        }
        match port {
            Some(port) => self.serve(packet, port, internal),
            // An address of Services has no other ports; without any port there is no frontend and no claim to it.
            None if (internal || given) && !self.service.ports.is_empty() => {
                Outcome::Reject(RejectReason::UnservedPort)
            }
            None => Outcome::Pass,
        }
    }

    fn lets_in(&self, packet: &Packet) -> bool {
        let Some(ranges) = &self.service.source_ranges else { return true };
        let v4 = packet.source.is_ipv4();
        let listed = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
        if !ranges.is_empty()
            && !ranges.iter().any(|range| range.network().is_ipv4() == v4)
            && self.node.other_family_sources == OtherFamilySources::Allow
        {
            return true;
        }
        let mut own = self.node.own_addresses.iter().filter(|own| own.is_ipv4() == v4);
        let itself = packet.source == packet.destination.address && own.any(listed);
        listed(&packet.source) || itself
    }

    fn serve(&self, packet: &Packet, port: &ServicePort, internal: bool) -> Outcome {
        let seen = self.seen(port, packet.destination.address.is_ipv4());
        if !seen.values().any(|e| e.ready || e.ending) {
            return Outcome::Reject(RejectReason::NoEndpoint);
        }
        let detects = self.pods.iter().any(|cidr| cidr.addr().is_ipv4() == packet.source.is_ipv4());
        let pod = self.pods.iter().any(|cidr| cidr.contains(&packet.source));
        let (only_local, masquerade) = if internal {
            (self.service.internal_local, detects && !pod)
        } else if !self.external_local() {
            (false, true)
        } else if pod {
            (false, false)
        } else if self.own.contains(&packet.source) {
            (false, true)
        } else {
            (true, false)
        };
        let usable = if only_local { local(&seen) } else { self.anywhere(&seen) };
        if usable.is_empty() {
            return Outcome::Drop(DropReason::NoLocalEndpoint);
        }
        let mine = |to: &SocketAddr| {
            let (here, itself) = (seen[to].here, to.ip() == packet.source);
            let spared = here && self.masquerade == MasqueradeMode::Remote;
            (masquerade && !spared) || (here && itself)
        };
        Outcome::Served(usable.into_iter().map(|to| (to, mine(&to))).collect())
    }

    fn external_local(&self) -> bool {
        self.service.external_local
            && (self.service.service_type != ServiceType::ClusterIp || !self.service.external_ips.is_empty())
    }

    fn seen(&self, port: &ServicePort, v4: bool) -> BTreeMap<SocketAddr, Seen> {
        let mut seen: BTreeMap<SocketAddr, Seen> = BTreeMap::new();
        for slice in self.slices {
            for of_slice in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol)
            {
                for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                    let entry = seen.entry(SocketAddr::new(endpoint.address, of_slice.number)).or_default();
                    entry.ready |= endpoint.ready;
                    entry.ending |= endpoint.serving && endpoint.terminating;
                    entry.here |= endpoint.node.as_deref() == Some(&*self.node.name);
                    if let Some(hints) = &endpoint.hints {
                        entry.zones.extend(hints.zones.iter().map(|zone| zone.to_string()));
                        entry.nodes.extend(hints.nodes.iter().map(|node| node.to_string()));
                    }
                }
            }
        }
        seen
    }

    fn anywhere(&self, seen: &BTreeMap<SocketAddr, Seen>) -> Vec<SocketAddr> {
        let ready: BTreeMap<_, _> = seen.iter().filter(|(_, e)| e.ready).collect();
        if ready.is_empty() {
            return seen.iter().filter(|(_, e)| e.ending).map(|(to, _)| *to).collect();
        }
        let zone = self.node.zone.clone().unwrap_or_default();
        for (hints, mine) in [
            (ready.values().map(|e| &e.nodes).collect::<Vec<_>>(), &self.node.name),
            (ready.values().map(|e| &e.zones).collect(), &zone),
        ] {
            let hinted = hints.iter().all(|hint| !hint.is_empty());
            if hinted && hints.iter().any(|hint| hint.contains(mine)) {
                let with = ready.keys().zip(hints).filter(|(_, hint)| hint.contains(mine));
                return with.map(|(to, _)| **to).collect();
            }
        }
        ready.keys().map(|to| **to).collect()
    }
}

fn local(seen: &BTreeMap<SocketAddr, Seen>) -> Vec<SocketAddr> {
    let here = |wanted: fn(&Seen) -> bool| {
        seen.iter().filter(|(_, e)| e.here && wanted(e)).map(|(to, _)| *to).collect::<Vec<_>>()
    };
    let ready = here(|e| e.ready);
    if ready.is_empty() { here(|e| e.ending) } else { ready }
}
