//! What nodes would announce in another world: each node's own settings and plans, asked before and after, and nothing done.
//!
//! A [`World`] is what the API server has, and a configuration. What only a running speaker knows is not in it: probes of endpoints,
//! nodes that have fallen silent, neighbours that have dialled, routers that were found on an interface, what the kernel refuses.
//!
//! ```text
//!   World ─on each node─> Announced ─┐
//!                                    ├─> Folding ──> Forecast
//!   World ─on each node─> Announced ─┘
//! ```
//!
//! Node after node, since all nodes' routes are many: what does not change is forgotten with its node.

mod fold;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_bgp::{Attributes, Family};
use herald_config::{File, Finding};
use herald_proxy::{EndpointsView, Names, SliceView};
use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::WatchEvent;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::bgp::{Met, PeerSettings, Routers};
use crate::configured::{ConfigObject, Configured};
use crate::index::{Index, Observed, SliceObject, fold_service};
use crate::layer2::Offered;
use crate::ledger::Ledger;
use crate::node;
use crate::options::SpeakerOptions;
use crate::plan::{Verdict, networks, plan};
use crate::settings::Settings;

pub use fold::{Forecast, OwnerRow, RouteRow, Then, Turn, WayRow};
pub use sessions::{Became, SessionRow};

/// What speakers decide by.
#[derive(Debug)]
pub struct World {
    index: Index,
    nodes: Vec<Node>,
}

/// What the API server has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Objects<'a> {
    /// All Services.
    pub services: &'a [Service],
    /// Their endpoints.
    pub slices: &'a [EndpointSlice],
    /// All nodes.
    pub nodes: &'a [Node],
    /// The ConfigMap's document: `Some(None)` without its key, `None` where there is no ConfigMap.
    pub document: Option<Option<&'a str>>,
    /// The objects of each kind that the controller watches; of Secrets none is read.
    pub objects: Option<&'a BTreeMap<&'static str, Vec<Value>>>,
}

impl World {
    /// As it is now.
    pub fn new(objects: &Objects<'_>) -> Self {
        let Objects { services, slices, nodes, document, objects } = *objects;
        let mut index = Index::default();
        index.configured = Configured::without_secrets();
        let mut names = Names::default();
        let slice = |slice: &EndpointSlice| SliceObject {
            reading: SliceView::read(slice, &mut names),
            name: ObjectName::new(
                slice.metadata.namespace.clone().unwrap_or_default(),
                slice.metadata.name.clone().unwrap_or_default(),
            ),
        };
        index.observe(Observed::Slices(WatchEvent::Reset(slices.iter().map(slice).collect())));
        index.observe(Observed::Services(WatchEvent::Reset(services.iter().map(fold_service).collect())));
        let document = document.map(|text| ConfigObject(text.map(str::to_owned)));
        index.observe(Observed::Config(WatchEvent::Reset(document.into_iter().collect())));
        for (kind, live) in objects.into_iter().flatten() {
            let event = WatchEvent::Reset(live.clone());
            index.observe(Observed::Object(UntypedEvent { kind, event }));
        }
        Self { index, nodes: nodes.to_vec() }
    }

    /// What `kubectl apply -f` would make of files.
    ///
    /// # Errors
    /// What cannot be read; nothing is taken then.
    pub fn apply_files(&mut self, files: &[File]) -> Result<(), Vec<Finding>> {
        self.index.configured.apply_files(files)
    }

    /// What a node announces. `options`: as its speaker is started.
    fn announced(&mut self, options: &SpeakerOptions) -> Announced {
        let nodes = self.nodes.iter().map(|node| node::fold(node, &options.node_name)).collect();
        self.index.observe(Observed::Nodes(WatchEvent::Reset(nodes)));
        // What is found on a node only is not known here; that it passes packets on is taken for granted.
        let (routers, met) = (Routers::default(), Met::default());
        let settings = Settings::of(&self.index, options, &BTreeSet::new(), &routers, &met, &BTreeSet::new());
        Announced::of(&self.index, &settings, options)
    }

    fn node_names(&self) -> impl Iterator<Item = String> {
        self.nodes.iter().filter_map(|node| node.metadata.name.clone())
    }
}

/// What one node announces.
#[derive(Debug, Default)]
struct Announced {
    sessions: Vec<Told>,
    /// Addresses that are announced by BGP.
    by_bgp: BTreeSet<IpAddr>,
    /// Addresses that the node may own by layer 2.
    offers: BTreeMap<IpAddr, Offered>,
}

/// A session, and what is told by it.
#[derive(Debug)]
struct Told {
    settings: PeerSettings,
    routes: BTreeMap<IpNet, Arc<Attributes>>,
}

impl Announced {
    fn of(index: &Index, settings: &Settings, options: &SpeakerOptions) -> Self {
        let view = settings.view(index, options);
        let (mut ledger, none) = (Ledger::default(), EndpointsView::default());
        let (mut prefixes, mut offered, mut by_bgp) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for name in index.service_names() {
            let Some(service) = index.service(name) else { continue };
            let plan = plan(&view, service, index.endpoints(name).unwrap_or(&none));
            let told = plan
                .verdicts
                .iter()
                .filter(|(_, verdict)| matches!(verdict, Verdict::Announce | Verdict::Offer { bgp: true }));
            by_bgp.extend(told.map(|(address, _)| *address));
            let touched = ledger.claim(name, plan.claims);
            prefixes.extend(touched.prefixes);
            offered.extend(touched.offers);
        }
        let of_services = prefixes.into_iter().filter_map(|prefix| Some((prefix, ledger.route(&prefix)?)));
        let pods = networks(&view, &settings.own_pod_cidrs);
        let of_pods = pods.iter().map(|(prefix, said)| (prefix, Arc::clone(said)));
        let routes: BTreeMap<IpNet, _> = of_pods.chain(of_services).collect();
        let sessions = settings.peers.iter().chain(&settings.sought).map(|peer| {
            let address = peer.peer.address;
            let meant = routes.iter().filter(|(prefix, said)| {
                let family =
                    if prefix.network().is_ipv6() { Family::Ipv6Unicast } else { Family::Ipv4Unicast };
                peer.families.contains(family)
                    && said.peers.as_ref().is_none_or(|peers| peers.contains(&address))
            });
            let export = settings.exports.get(&address);
            let told = meant.map(|(prefix, said)| {
                let said = match export {
                    Some(export) => Arc::new(export.add_to(&said.said)),
                    None => Arc::clone(&said.said),
                };
                (*prefix, said)
            });
            Told { routes: told.collect(), settings: peer.clone() }
        });
        let sessions = sessions.collect();
        let offers = offered.into_iter().filter_map(|address| Some((address, ledger.offer(&address)?)));
        Self { sessions, by_bgp, offers: offers.collect() }
    }
}

/// What would change from one world to another. `options`: as speakers are started, but for their node. `owners`: which nodes own which
/// address by layer 2 now; `None` where that is not known.
pub fn forecast(
    (mut now, mut then): (World, World),
    options: &SpeakerOptions,
    owners: Option<&BTreeMap<IpAddr, BTreeSet<String>>>,
) -> Forecast {
    let names: BTreeSet<String> = now.node_names().chain(then.node_names()).collect();
    let mut folding = fold::Folding::new(owners);
    for node_name in names {
        let options = SpeakerOptions { node_name, ..options.clone() };
        let (before, after) = (now.announced(&options), then.announced(&options));
        folding.node(&options.node_name, &before, &after);
    }
    folding.finish()
}
