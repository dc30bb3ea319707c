//! Which externalIPs of a Service are served.
//!
//! Anyone who may write a Service may write any address into `spec.externalIPs` and so take traffic that is not theirs
//! (CVE-2020-8554). Served by default is everything but what visibly belongs to somebody: addresses of nodes, pod and
//! Service networks, of BGP peers and API servers (a node that took these would cut its own session), and addresses that
//! another Service was given (ClusterIP or load balancer address). With an
//! allow-list only addresses inside it are served, and the rest of the rules still hold.
//!
//! Two Services may name the same externalIP and share it by ports; a port that both want is `Program`'s to decide.
//! A refused address is left out and told by an Event; the rest of the Service is served.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::EventReason;
use ipnet::IpNet;

use crate::owners::Owners;
use crate::service::ServiceView;

/// What an externalIP is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Addresses of all nodes.
    pub node_addresses: &'a BTreeSet<IpAddr>,
    /// Pod networks.
    pub pod_cidrs: &'a [IpNet],
    /// Networks of ClusterIPs.
    pub service_cidrs: &'a [IpNet],
    /// Addresses that this node itself depends on.
    pub reserved: &'a BTreeMap<IpAddr, Reserved>,
    /// The allow-list, where one is configured; an empty one allows nothing.
    pub allowed: Option<&'a [IpNet]>,
    /// Addresses that Services were given.
    pub holders: &'a Holders,
}

/// What a node depends on at an address that is nobody's Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// A BGP peer.
    Peer,
    /// An API server.
    ApiServer,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "a BGP peer",
            Self::ApiServer => "the API server",
        })
    }
}

/// Why an externalIP is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A node has it.
    #[error("externalIP {ip} is not served: it is the address of a node")]
    NodeAddress {
        /// The address.
        ip: IpAddr,
    },
    /// The node depends on who has it.
    #[error("externalIP {ip} is not served: it is the address of {by}")]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        by: Reserved,
    },
    /// Pods have it.
    #[error("externalIP {ip} is not served: it is inside the pod network {cidr}")]
    PodCidr {
        /// The address.
        ip: IpAddr,
        /// The network.
        cidr: IpNet,
    },
    /// ClusterIPs have it.
    #[error("externalIP {ip} is not served: it is inside the Service network {cidr}")]
    ServiceCidr {
        /// The address.
        ip: IpAddr,
        /// The network.
        cidr: IpNet,
    },
    /// Another Service was given it.
    #[error("externalIP {ip} is not served: it is the address of Service {holder}")]
    HeldBy {
        /// The address.
        ip: IpAddr,
        /// The Service.
        holder: ObjectName,
    },
    /// An allow-list is configured without it.
    #[error("externalIP {ip} is not served: it is in none of the networks of herald.external-ips.allow")]
    NotAllowed {
        /// The address.
        ip: IpAddr,
    },
}

impl Refused {
    /// What the Event is called.
    pub fn reason(&self) -> EventReason {
        match self {
            Self::NodeAddress { .. } => EventReason::ExternalIpIsNodeAddress,
            Self::Reserved { by: Reserved::Peer, .. } => EventReason::ExternalIpIsPeerAddress,
            Self::Reserved { by: Reserved::ApiServer, .. } => EventReason::ExternalIpIsApiServerAddress,
            Self::PodCidr { .. } => EventReason::ExternalIpInPodNetwork,
            Self::ServiceCidr { .. } => EventReason::ExternalIpInServiceNetwork,
            Self::HeldBy { .. } => EventReason::ExternalIpHeldByService,
            Self::NotAllowed { .. } => EventReason::ExternalIpNotAllowed,
        }
    }
}

/// Judges one externalIP of one Service.
pub fn judge(ip: IpAddr, service: &ObjectName, context: &Context<'_>) -> Result<(), Refused> {
    let inside = |cidrs: &[IpNet]| cidrs.iter().copied().find(|cidr| cidr.contains(&ip));
    if context.node_addresses.contains(&ip) {
        return Err(Refused::NodeAddress { ip });
    }
    if let Some(by) = context.reserved.get(&ip).copied() {
        return Err(Refused::Reserved { ip, by });
    }
    if let Some(cidr) = inside(context.pod_cidrs) {
        return Err(Refused::PodCidr { ip, cidr });
    }
    // A Service's own address is its own, wherever it lies.
    let (own, other) = context.holders.of(ip, service);
    if !own && let Some(cidr) = inside(context.service_cidrs) {
        return Err(Refused::ServiceCidr { ip, cidr });
    }
    if !own && let Some(holder) = other {
        return Err(Refused::HeldBy { ip, holder: holder.clone() });
    }
    match context.allowed {
        Some(allowed) if inside(allowed).is_none() => Err(Refused::NotAllowed { ip }),
        _ => Ok(()),
    }
}

/// The Service with the admitted externalIPs only, and the refusals.
pub fn admit<'a>(
    name: &ObjectName,
    service: &'a ServiceView,
    context: &Context<'_>,
) -> (Cow<'a, ServiceView>, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut admitted = Vec::with_capacity(service.external_ips.len());
    for &ip in &service.external_ips {
        match judge(ip, name, context) {
            Ok(()) => admitted.push(ip),
            Err(reason) => refused.push(reason),
        }
    }
    if refused.is_empty() {
        return (Cow::Borrowed(service), refused);
    }
    let service = ServiceView { external_ips: admitted.into_boxed_slice(), ..service.clone() };
    (Cow::Owned(service), refused)
}

/// Who was given which address: ClusterIPs and load balancer addresses of all Services.
#[derive(Debug, Default)]
pub struct Holders(Owners);

impl Holders {
    /// A Service was given what `now` has (`None`: it is gone) instead of what it had `before`. Returns the addresses
    /// whose holders changed; Services that name one of them as externalIP are to be judged again.
    pub fn replace(
        &mut self,
        name: &ObjectName,
        before: Option<&ServiceView>,
        now: Option<&ServiceView>,
    ) -> BTreeSet<IpAddr> {
        let given = |view: Option<&ServiceView>| -> BTreeSet<IpAddr> {
            view.into_iter()
                .flat_map(|view| view.cluster_ips.iter().chain(&view.load_balancer_ips))
                .copied()
                .collect()
        };
        let (before, now) = (given(before), given(now));
        let prefixes = |left: &BTreeSet<IpAddr>, right| -> Vec<IpNet> {
            left.difference(right).map(|ip| IpNet::from(*ip)).collect()
        };
        self.0.replace(name, prefixes(&before, &now), prefixes(&now, &before));
        before.symmetric_difference(&now).copied().collect()
    }

    /// The Services that were given an address.
    pub fn at(&self, ip: IpAddr) -> &[ObjectName] {
        self.0.of(&ip.into())
    }

    /// Whether `service` itself holds the address, and the first other Service that does.
    fn of(&self, ip: IpAddr, service: &ObjectName) -> (bool, Option<&ObjectName>) {
        let holders = self.at(ip);
        (holders.contains(service), holders.iter().find(|holder| *holder != service))
    }
}

#[cfg(test)]
mod tests;
