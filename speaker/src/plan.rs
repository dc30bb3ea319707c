//! What one Service should be on this node: its rules, its local addresses, its routes, and why not.
//!
//! Pure and per Service, so that a change costs what it touches. What Services share (an aggregate, an address) is not
//! decided here: a plan only *claims* it, the ledger owns it.
//!
//! An address of a Service is announced when, in this order of refusals ([`Reason`]): it lies in a pool; the pool has an
//! advertisement for the Service and this node; the node is known, its network available, and it is not excluded by label;
//! some peer selects it, or it is announced by layer 2; and there is an endpoint: with `externalTrafficPolicy: Cluster` any usable one anywhere, with `Local` a
//! *ready* one on this node that does not fail its probes; and the node passes packets on, where endpoints are not its own processes. One that merely serves while it terminates keeps serving what comes, but attracts no new
//! clients, as with MetalLB: its health check port says 503 at the same time. By layer 2 the node then *offers* to own the
//! address; which node owns it is decided on the segment (`layer2/`).
//!
//! A Service of a `loadBalancerClass` that is not Herald's has its rules, and its load balancer addresses nothing else. An address is put on `lo`
//! only if the node has rules for it and no node has the address: an address on `lo` without rules would expose the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_bgp::{Community, LargeCommunity};
use herald_config::{Advertisement, Config, LocalAddresses, Peer, Pool, any_or_all};
use herald_proxy::external_ips::{self, Holders, Reserved};
use herald_proxy::probe::Targets;
use herald_proxy::{
    ByPrefix, EndpointsView, FrontendKind, IpFamily, NodeView, Policy, ServiceRules, ServiceView, rules,
};
use herald_runtime::events::EventReason;
use ipnet::IpNet;

use crate::index::ServiceObject;
use crate::layer2::Offered;
use crate::ledger::{Attributes, Claims};
use crate::reason::Reason;
use crate::steps::ProxyRules;

/// What all plans of a node depend on.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The node as rules see it.
    pub(crate) node: &'a NodeView,
    /// Why the node as a whole announces nothing.
    pub(crate) node_refusal: Option<Reason>,
    /// The peers that select the node, by name.
    pub(crate) peers: &'a BTreeSet<String>,
    /// The node is excluded by label, and its routes stay a little longer.
    pub(crate) leaves: Option<Reason>,
    /// The families in which the node passes no packets on.
    pub(crate) not_forwarding: &'a BTreeSet<IpFamily>,
    /// The configuration in force.
    pub(crate) config: &'a Config,
    /// Whether rules are programmed on this node at all.
    pub(crate) proxies: bool,
    /// The one class of Services whose addresses are announced; `None`: those without a class.
    pub(crate) class: Option<&'a str>,
    /// Pod networks.
    pub(crate) pod_cidrs: &'a [IpNet],
    /// Networks of ClusterIPs.
    pub(crate) service_cidrs: &'a [IpNet],
    /// Addresses that no Service may take as externalIP.
    pub(crate) reserved: &'a BTreeMap<IpAddr, Reserved>,
    /// Who was given which address.
    pub(crate) holders: &'a Holders,
}

/// Whether an address is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By BGP.
    Announce,
    /// By layer 2, if this node owns it; and by BGP?
    Offer {
        /// As well.
        bgp: bool,
    },
    /// No.
    Skip(Reason),
}

/// Something that the users of a Service should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Remark {
    /// The word for Event and log.
    pub(crate) reason: EventReason,
    /// The sentence.
    pub(crate) text: String,
}

/// What one Service should be on this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ServicePlan {
    /// Rules to program; `None` when there are none, or nothing is programmed here.
    pub(crate) rules: Option<Arc<ServiceRules>>,
    /// Routes and local addresses.
    pub(crate) claims: Claims,
    /// Each load balancer address (and externalIP and ClusterIP of a pool, where those are announced), and whether it is announced.
    pub(crate) verdicts: BTreeMap<IpAddr, Verdict>,
    /// By name, the peers of this node that its routes are told to.
    pub(crate) peers: BTreeSet<String>,
    /// What is to be probed on this node.
    pub(crate) probes: Option<Targets>,
    /// What was left out and why.
    pub(crate) remarks: BTreeSet<Remark>,
}

impl ProxyRules for Arc<ServiceRules> {
    fn narrows(&self, former: &Self) -> bool {
        let still = |frontend| self.frontends.binary_search_by_key(frontend, |rules| rules.frontend).is_ok();
        !former.frontends.iter().all(|rules| still(&rules.frontend))
    }
}

/// Plans one Service.
pub(crate) fn plan(view: &View<'_>, service: &ServiceObject, endpoints: &EndpointsView) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let Ok((proxied, notes)) = &service.view else { return plan };
    plan.remarks.extend(notes.iter().map(|note| Remark { reason: note.reason(), text: note.to_string() }));

    let context = external_ips::Context {
        node_addresses: &view.node.node_addresses,
        pod_cidrs: view.pod_cidrs,
        service_cidrs: view.service_cidrs,
        reserved: view.reserved,
        allowed: view.config.herald.external_ips.of_namespace(&service.name.namespace),
        holders: view.holders,
    };
    let (admitted, refused) = external_ips::admit(&service.name, proxied, &context);
    plan.remarks
        .extend(refused.iter().map(|refused| Remark { reason: refused.reason(), text: refused.to_string() }));

    plan.probes = Targets::of(&admitted, endpoints, &view.node.name);
    let rules = rules(&admitted, endpoints, view.node);
    let ours = service.class.as_deref() == view.class;
    if ours {
        announce(
            view,
            &admitted.load_balancer_ips,
            &service.labels,
            FrontendKind::LoadBalancer,
            &rules,
            &mut plan,
        );
    }
    let herald = &view.config.herald;
    for (announced, addresses, kind) in [
        (herald.announce_external_ips, &admitted.external_ips, FrontendKind::ExternalIp),
        (herald.announce_cluster_ips, &admitted.cluster_ips, FrontendKind::ClusterIp),
    ] {
        // They have no class; outside the pools nobody said how to announce them.
        let inside = |address: &&IpAddr| announced && view.config.pool_containing(**address).is_some();
        let addresses: Vec<IpAddr> = addresses.iter().filter(inside).copied().collect();
        announce(view, &addresses, &service.labels, kind, &rules, &mut plan);
    }
    local_addresses(view, ours, &admitted, &rules, &mut plan);
    plan.rules = (view.proxies && !rules.frontends.is_empty()).then(|| Arc::new(rules));
    plan
}

/// The node's own pod networks inside pools, as routes: no Service's, and not the node's to refuse while its pods are there.
pub(crate) fn networks(view: &View<'_>, pod_cidrs: &[IpNet]) -> ByPrefix<Arc<Attributes>> {
    let mut said = Said::default();
    let mut networks = ByPrefix::default();
    for network in pod_cidrs {
        let Some(pool) = view.config.pool_containing(network.network()) else { continue };
        let whole = view.config.pool_containing(network.broadcast()).is_some_and(|end| end.name == pool.name);
        for advertisement in wanted(pool, &BTreeMap::new()).filter(|_| whole) {
            claim(&mut networks, *network, said.by(view, advertisement));
        }
    }
    networks
}

/// Judges each address, and claims its routes and its offer.
fn announce(
    view: &View<'_>,
    addresses: &[IpAddr],
    labels: &BTreeMap<String, String>,
    kind: FrontendKind,
    rules: &ServiceRules,
    plan: &mut ServicePlan,
) {
    let mut said = Said::default();
    for address in addresses {
        if plan.verdicts.contains_key(address) {
            continue;
        }
        let judged = advertised(view, *address, labels)
            .and_then(|advertised| view.node_refusal.map_or(Ok(advertised), Err))
            .and_then(|advertised| advertised.by_this_node(view))
            .and_then(|advertised| attracts(rules, *address, kind).map(|()| advertised))
            .and_then(|advertised| reaches(view, rules, *address, kind).map(|()| advertised));
        let verdict = match judged {
            Err(reason) => Verdict::Skip(reason),
            Ok(Advertised { pool, bgp, offered }) => {
                if bgp {
                    routes(view, pool, *address, labels, &mut said, &mut plan.claims);
                }
                match offered {
                    None => Verdict::Announce,
                    Some(offered) => {
                        plan.claims.offers.insert(*address, offered);
                        Verdict::Offer { bgp }
                    }
                }
            }
        };
        plan.verdicts.insert(*address, verdict);
    }
    plan.peers.append(&mut said.peers);
}

/// How an address is announced.
struct Advertised<'a> {
    pool: &'a Pool,
    bgp: bool,
    offered: Option<Offered>,
}

impl Advertised<'_> {
    /// What is left of it on this node.
    fn by_this_node(mut self, view: &View<'_>) -> Result<Self, Reason> {
        self.bgp &= !view.peers.is_empty();
        if view.leaves.is_some() {
            // By layer 2 another node is ready before this one lets go: there is nothing to wait for.
            self.offered = None;
        }
        match self.bgp || self.offered.is_some() {
            true => Ok(self),
            false => Err(view.leaves.unwrap_or(Reason::NoPeer)),
        }
    }
}

fn advertised<'a>(
    view: &View<'a>,
    address: IpAddr,
    labels: &BTreeMap<String, String>,
) -> Result<Advertised<'a>, Reason> {
    let pool = view.config.pool_containing(address).ok_or(Reason::NotInPool)?;
    let bgp = wanted(pool, labels).next().is_some();
    let layer2 = pool.layer2.iter().filter(|of| any_or_all(&of.service_selectors, labels));
    // Those for other nodes, and preferences for others, are left out already.
    let offers = layer2.map(|of| Offered {
        score: of.preferred_nodes.iter().map(|preferred| u16::from(preferred.weight)).sum(),
        interfaces: (!of.interfaces.is_empty()).then(|| of.interfaces.clone()),
    });
    let offered = offers.reduce(|mut all, of| {
        // MetalLB adds the weights of all advertisements.
        let score = all.score.saturating_add(of.score);
        all.merge(&of);
        Offered { score, ..all }
    });
    if bgp || offered.is_some() {
        Ok(Advertised { pool, bgp, offered })
    } else {
        Err(Reason::NoAdvertisement)
    }
}

fn routes<'a>(
    view: &View<'a>,
    pool: &'a Pool,
    address: IpAddr,
    labels: &BTreeMap<String, String>,
    said: &mut Said<'a>,
    claims: &mut Claims,
) {
    for advertisement in wanted(pool, labels) {
        claim(&mut claims.routes, advertisement.prefix_for(address), said.by(view, advertisement));
    }
}

fn claim(routes: &mut ByPrefix<Arc<Attributes>>, prefix: IpNet, attributes: Arc<Attributes>) {
    match routes.get_mut(&prefix) {
        Some(route) if *route != attributes => Arc::make_mut(route).merge(&attributes),
        Some(_) => {}
        None => _ = routes.insert(prefix, attributes),
    }
}

/// What advertisements say and to whom, made once for all addresses of a Service.
#[derive(Default)]
struct Said<'a> {
    by: Vec<(&'a Advertisement, Arc<Attributes>)>,
    peers: BTreeSet<String>,
}

impl<'a> Said<'a> {
    fn by(&mut self, view: &View<'_>, advertisement: &'a Advertisement) -> Arc<Attributes> {
        if let Some((_, said)) = self.by.iter().find(|(of, _)| std::ptr::eq(*of, advertisement)) {
            return Arc::clone(said);
        }
        let named = |peer: &&Peer| advertisement.peers.contains(&peer.name);
        let peers = view.config.peers.iter().filter(named).map(|peer| peer.address).collect();
        let communities = advertisement.communities.iter();
        let large = advertisement.large_communities.iter();
        let said = herald_bgp::Attributes {
            communities: communities.map(|community| Community(community.to_u32())).collect(),
            large_communities: large
                .map(|community| LargeCommunity(community.global, community.local[0], community.local[1]))
                .collect(),
            local_pref: Some(advertisement.local_pref),
            ..herald_bgp::Attributes::default()
        };
        let all = advertisement.peers.is_empty();
        let told = view.peers.iter().filter(|peer| all || advertisement.peers.contains(*peer));
        self.peers.extend(told.cloned());
        let peers = (!all).then_some(peers);
        let attributes = Arc::new(Attributes { said: Arc::new(said), peers });
        self.by.push((advertisement, Arc::clone(&attributes)));
        attributes
    }
}

/// The advertisements of a pool that are for a Service with these labels; those for other nodes are left out already.
fn wanted<'p>(pool: &'p Pool, labels: &BTreeMap<String, String>) -> impl Iterator<Item = &'p Advertisement> {
    pool.advertisements.iter().filter(move |of| any_or_all(&of.service_selectors, labels))
}

/// Whether the node can pass packets on to the endpoints: all of them, for any may be chosen. Its own processes need nothing passed on.
fn reaches(view: &View<'_>, rules: &ServiceRules, address: IpAddr, kind: FrontendKind) -> Result<(), Reason> {
    if !view.not_forwarding.contains(&IpFamily::of(address)) {
        return Ok(());
    }
    let frontends =
        rules.frontends.iter().filter(|rules| rules.kind == kind && rules.frontend.address == address);
    let mut chosen = frontends.flat_map(|rules| match rules.policy {
        Policy::Internal | Policy::External => &rules.backends.cluster,
        Policy::InternalLocal | Policy::ExternalLocal => &rules.backends.local,
    });
    match chosen.all(|endpoint| view.node.own_addresses.contains(&endpoint.ip())) {
        true => Ok(()),
        false => Err(Reason::NotForwarding),
    }
}

/// Whether new clients may be attracted to an address, by the endpoints behind it: any of its ports will do.
fn attracts(rules: &ServiceRules, address: IpAddr, kind: FrontendKind) -> Result<(), Reason> {
    let frontends =
        || rules.frontends.iter().filter(|rules| rules.kind == kind && rules.frontend.address == address);
    if !frontends().any(|rules| rules.backends.has_any) {
        return Err(Reason::NoEndpoints);
    }
    let serves = frontends().any(|rules| match rules.policy {
        Policy::Internal | Policy::External => rules.serves_clients(),
        Policy::InternalLocal | Policy::ExternalLocal => rules.backends.local_ready,
    });
    match serves {
        true => Ok(()),
        false if frontends().any(|rules| rules.backends.local_probes_fail) => Err(Reason::LocalProbesFail),
        false => Err(Reason::NoLocalEndpoints),
    }
}

/// Claims the addresses that the configuration wants on `lo`; load balancer addresses only of Services that are ours.
fn local_addresses(
    view: &View<'_>,
    ours: bool,
    service: &ServiceView,
    rules: &ServiceRules,
    plan: &mut ServicePlan,
) {
    let configured = view.config.herald.local_addresses;
    let wanted = |kind| match kind {
        FrontendKind::LoadBalancer => ours && configured != LocalAddresses::None,
        FrontendKind::ExternalIp => configured == LocalAddresses::All,
        FrontendKind::ClusterIp | FrontendKind::NodePort => false,
    };
    if !view.proxies || service.ports.is_empty() {
        return;
    }
    let frontends = rules.frontends.iter().filter(|rules| wanted(rules.kind) && rules.vip);
    plan.claims.addresses.extend(frontends.map(|rules| rules.frontend.address));
}

#[cfg(test)]
pub(crate) mod tests;
