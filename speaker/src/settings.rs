//! What all Services' plans share: the node as it is just now, and the peers that follow from it.
//!
//! Pure: computed from the index, the options and the node's own addresses whenever one of them changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_config::{Config, Connect, CordonedNodes, Masquerade, Peer, SourceRangesOtherFamily, any_or_all};
use herald_proxy::external_ips::Reserved;
use herald_proxy::ruleset::{MasqueradeMode, RulesetConfig};
use herald_proxy::{IpFamily, NodeView, OtherFamilySources};
use ipnet::IpNet;

use crate::bgp::{
    Export, Exports, Met, PeerSettings, Range, Routers, families, neighbours, ranges, role, router_id,
};
use crate::index::Index;
use crate::options::{ProxyMode, SpeakerOptions};
use crate::plan::View;
use crate::reason::Reason;

/// The node, as decisions see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// For rules.
    pub(crate) node: NodeView,
    /// Why nothing is announced from this node.
    pub(crate) refusal: Option<Reason>,
    /// The peers that select this node, by name, and by address where they have none.
    pub(crate) peer_names: BTreeSet<String>,
    /// Why the node leaves; its routes stay a little longer, for routers to take another way.
    pub(crate) leaves: Option<Reason>,
    /// The families in which it passes no packets on.
    pub(crate) not_forwarding: BTreeSet<IpFamily>,
    /// There are pools that this node announces by layer 2.
    pub(crate) layer2: bool,
    /// The other nodes' addresses.
    pub(crate) others: Arc<BTreeMap<Box<str>, BTreeSet<IpAddr>>>,
    /// The configuration in force; the empty one before there is any.
    pub(crate) config: Config,
    /// Pod networks, for judging externalIPs.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Networks of ClusterIPs.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Addresses that no Service may take as externalIP.
    pub(crate) reserved: BTreeMap<IpAddr, Reserved>,
    /// The constant part of the rules.
    pub(crate) ruleset: RulesetConfig,
    /// Who is told routes.
    pub(crate) peers: Vec<PeerSettings>,
    /// The interfaces on which neighbours are looked for.
    pub(crate) unnumbered: BTreeSet<String>,
    /// Those that have not been found.
    pub(crate) sought: Vec<PeerSettings>,
    /// Networks that neighbours dial from.
    pub(crate) ranges: Vec<Range>,
    /// The node's own pod networks, where they are announced.
    pub(crate) own_pod_cidrs: Vec<IpNet>,
    /// What they are told besides.
    pub(crate) exports: Arc<Exports>,
    /// Where health check node ports listen.
    pub(crate) health_addresses: BTreeSet<IpAddr>,
    /// kube-proxy's `/healthz`: the node may be sent traffic.
    pub(crate) eligible: bool,
}

impl Settings {
    /// What all plans depend on.
    pub(crate) fn view<'a>(&'a self, index: &'a Index, options: &'a SpeakerOptions) -> View<'a> {
        View {
            node: &self.node,
            node_refusal: self.refusal,
            not_forwarding: &self.not_forwarding,
            peers: &self.peer_names,
            leaves: self.leaves,
            config: &self.config,
            proxies: options.proxy != ProxyMode::Off,
            class: options.load_balancer_class.as_deref(),
            pod_cidrs: &self.pod_cidrs,
            service_cidrs: &self.service_cidrs,
            reserved: &self.reserved,
            holders: index.holders(),
        }
    }

    /// `found` are the addresses of the node's interfaces, where they matter, `routers` those of neighbours without a
    /// configured address, `met` of those that dialled from the networks of neighbours, `not_forwarding` the families in which the
    /// node passes no packets on.
    pub(crate) fn of(
        index: &Index,
        options: &SpeakerOptions,
        found: &BTreeSet<IpAddr>,
        routers: &Routers,
        met: &Met,
        not_forwarding: &BTreeSet<IpFamily>,
    ) -> Self {
        let own = index.own_node(&options.node_name);
        let mut config = index.config().cloned().unwrap_or_default();
        let primary = own.map(|(_, own)| own.primary_ips()).unwrap_or_default();
        let port_addresses = options.nodeport_addresses.choose(&primary, found);
        let health_addresses = options.nodeport_addresses.listen(&port_addresses);
        let unnumbered: BTreeSet<String> = own.map_or_else(BTreeSet::new, |(_, own)| {
            let selected = config.peers.iter().filter(|peer| peer.selects(&own.labels));
            selected.filter_map(Peer::found_on).map(str::to_owned).collect()
        });
        for peer in &mut config.peers {
            if let Some(router) = peer.found_on().and_then(|device| routers.get(device)) {
                peer.address = (*router).into();
            }
        }
        // Until the node is known its labels and addresses are not, and a session would begin with the wrong identity.
        let selected: Vec<Peer> = own.map_or_else(Vec::new, |(_, own)| {
            config.peers.iter().filter(|peer| peer.selects(&own.labels)).cloned().collect()
        });
        let name = |peer: &Peer| match peer.name.is_empty() {
            true => peer.address.to_string(),
            false => peer.name.clone(),
        };
        let peer_names: BTreeSet<String> = selected.iter().map(name).collect();
        let ranges = ranges(&selected, &config.herald.bgp_peers);
        let selected = neighbours(&selected, &config.herald.bgp_peers, met);
        // What is told to one peer alone, or must not be a Service's, goes by address.
        config.peers.extend(selected.iter().filter(|(_, dials)| *dials).map(|(peer, _)| peer.clone()));
        let options_of = |peer: &Peer| config.herald.bgp_peers.of(&peer.name);
        let exports =
            selected.iter().filter_map(|(peer, _)| Some((peer.address, Export::of(options_of(peer))?)));
        let exports = Arc::new(exports.collect());
        let internal_ips = own.map_or(&[][..], |(_, own)| &own.internal_ips);
        let peers = selected.into_iter().map(|(peer, dials)| PeerSettings {
            router_id: router_id(peer.router_id, internal_ips, &options.node_name),
            families: families(&config.pools),
            ttl_security: options_of(&peer).ttl_security,
            tcp_ao: options_of(&peer).tcp_ao,
            connect: if dials { Connect::Accept } else { options_of(&peer).connect },
            role: role(options_of(&peer)),
            bfd: peer
                .bfd_profile
                .as_ref()
                .and_then(|name| config.bfd_profiles.iter().find(|profile| profile.name == *name).cloned()),
            // A new name for the same neighbour ends no session, nor does a selector that selects the node still.
            peer: Peer { name: String::new(), bfd_profile: None, node_selectors: Vec::new(), ..peer },
        });
        let (sought, peers): (Vec<_>, Vec<_>) = peers.partition(|peer| peer.peer.found_on().is_some());
        let own_pod_cidrs = own.filter(|_| config.herald.announce_pod_cidrs);
        let own_pod_cidrs = own_pod_cidrs.map(|(node, _)| node.pod_cidrs.clone()).unwrap_or_default();
        if let Some((_, own)) = own {
            let speaks = |name: &String| peer_names.contains(name);
            for pool in &mut config.pools {
                pool.advertisements.retain(|of| {
                    any_or_all(&of.node_selectors, &own.labels)
                        && (of.peers.is_empty() || of.peers.iter().any(speaks))
                });
                pool.layer2.retain(|of| any_or_all(&of.node_selectors, &own.labels));
                for of in &mut pool.layer2 {
                    of.preferred_nodes.retain(|preferred| preferred.preference.matches(&own.labels));
                }
            }
        }
        let refusal = match own {
            None => Some(Reason::NodeUnknown),
            Some((_, own)) if own.network_unavailable => Some(Reason::NodeNetworkUnavailable),
            Some((_, own)) if own.excluded() => Some(Reason::NodeExcluded),
            Some((_, own)) if own.cordoned && config.herald.cordoned_nodes == CordonedNodes::Leave => {
                Some(Reason::NodeCordoned)
            }
            Some(_) => None,
        };
        let cluster_cidrs = if options.cluster_cidrs.is_empty() {
            own.map(|(node, _)| node.pod_cidrs.clone()).unwrap_or_default()
        } else {
            options.cluster_cidrs.clone()
        };
        let service_cidrs = match index.service_networks() {
            none if none.is_empty() => options.service_cidrs.clone(),
            told => told,
        };
        // A node that takes these addresses for a Service cuts its own way to its router or to the API.
        let api_servers = options.api_servers.iter().copied().chain(index.api_servers());
        let reserved = api_servers
            .map(|ip| (ip, Reserved::ApiServer))
            .chain(config.peers.iter().map(|peer| (peer.address, Reserved::Peer)))
            .filter(|(address, _)| !address.is_unspecified());
        let masquerade = match config.herald.masquerade {
            Masquerade::Always => MasqueradeMode::Always,
            Masquerade::Remote => MasqueradeMode::Remote,
        };
        Self {
            service_cidrs,
            reserved: reserved.collect(),
            node: NodeView {
                name: options.node_name.clone(),
                zone: own.and_then(|(_, own)| own.zone()),
                port_addresses,
                localhost: options.nodeport_addresses.localhost(),
                node_addresses: index.node_addresses().clone(),
                own_addresses: own.map(|(_, own)| own.primary_ips()).unwrap_or_default(),
                other_family_sources: match config.herald.source_ranges_other_family {
                    SourceRangesOtherFamily::Deny => OtherFamilySources::Deny,
                    SourceRangesOtherFamily::Allow => OtherFamilySources::Allow,
                },
                mode: options.proxy.rules(),
            },
            health_addresses,
            refusal,
            own_pod_cidrs,
            exports,
            peer_names,
            leaves: None,
            not_forwarding: not_forwarding.clone(),
            others: Arc::new(index.addresses_of_others(&options.node_name)),
            layer2: own.is_some() && config.pools.iter().any(|pool| !pool.layer2.is_empty()),
            pod_cidrs: cluster_cidrs.iter().chain(index.pod_cidrs()).copied().collect(),
            ruleset: RulesetConfig {
                cluster_cidrs,
                masquerade,
                count_traffic: options.service_metrics_limit > 0,
                probes_pass: options.probe_addresses.is_some(),
                ..RulesetConfig::default()
            },
            peers,
            unnumbered,
            sought,
            ranges,
            config,
            eligible: own.is_some_and(|(_, own)| own.eligible),
        }
    }
}
