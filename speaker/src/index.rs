//! Everything the watches have told, and which Services have to be looked at again.
//!
//! Synchronous: fed with events, asked for what is dirty. Knows no kernel, no peer and no API client. Nothing may act
//! before [`Index::is_ready`]: every watch has delivered its first full list, so partial data never reaches the kernel.
//! A watch that loses the API server says nothing, and everything stays as it is.
//!
//! Dirty is what an event touches: a Service by its own object or slices; Services that name an address as externalIP
//! whose holder changed; and all of them when the node, any node's addresses or the configuration changed.

mod resume;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_config::Config;
use herald_proxy::external_ips::Holders;
use herald_proxy::probe::ServiceProbes;
use herald_proxy::{EndpointsView, NotProxied, Note, ServiceView, SliceIgnored, SliceReading};
use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::WatchEvent;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

use crate::changes::Changes;
use crate::configured::{ConfigNews, ConfigObject, Configured};
use crate::floor::Look;
use crate::node::{NodeObject, OwnNode};
use crate::service_cidrs::{ServiceCidrObject, ServiceCidrs};
use crate::snapshot::Remembered;

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceObject {
    /// Namespace and name.
    pub(crate) name: ObjectName,
    /// `metadata.uid`, for Events.
    pub(crate) uid: Box<str>,
    /// `spec.loadBalancerClass`.
    pub(crate) class: Option<Box<str>>,
    /// `metadata.labels`, of one of type LoadBalancer: what advertisements select it by.
    pub(crate) labels: BTreeMap<String, String>,
    /// What is proxied of it, and what was left out.
    pub(crate) view: Result<(ServiceView, Vec<Note>), NotProxied>,
}

impl ServiceObject {
    /// What is proxied of it.
    fn view(&self) -> Option<&ServiceView> {
        self.view.as_ref().ok().map(|(view, _)| view)
    }
}

/// Cuts a Service down.
pub(crate) fn fold_service(service: &Service) -> ServiceObject {
    let meta = &service.metadata;
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    let balanced = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    ServiceObject {
        name: ObjectName::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        ),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        class: class.filter(|class| !class.is_empty()).map(Into::into),
        labels: meta.labels.clone().filter(|_| balanced).unwrap_or_default(),
        view: ServiceView::read(service),
    }
}

/// An EndpointSlice as read.
#[derive(Debug, Clone)]
pub(crate) struct SliceObject {
    /// Of the slice.
    pub(crate) name: ObjectName,
    /// Its content.
    pub(crate) reading: Result<SliceReading, SliceIgnored>,
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Observed {
    /// Services of all namespaces.
    Services(WatchEvent<ServiceObject>),
    /// EndpointSlices of all namespaces.
    Slices(WatchEvent<SliceObject>),
    /// All nodes.
    Nodes(WatchEvent<NodeObject>),
    /// The one ConfigMap.
    Config(WatchEvent<ConfigObject>),
    /// Objects of `metallb.io`, and Secrets.
    Object(UntypedEvent),
    /// Networks of ClusterIPs, where the API has them.
    ServiceCidrs(WatchEvent<ServiceCidrObject>),
    /// What stands in for lists that have not come, while the API server is away.
    Remembered(Box<Remembered>),
}

/// Which first lists have come.
#[derive(Debug, Default)]
struct Listed {
    services: bool,
    slices: bool,
    nodes: bool,
    config: bool,
    service_cidrs: bool,
}

/// What a Service's endpoints are besides what their slices say.
#[derive(Debug, Clone, Default)]
struct Overlay {
    probes: Option<Arc<ServiceProbes>>,
    held: Option<Arc<BTreeSet<IpAddr>>>,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    listed: Listed,
    services: BTreeMap<ObjectName, ServiceObject>,
    endpoints: HashMap<ObjectName, EndpointsView>,
    /// What stands beside the slices, by Service: here too, since slices may go and come back.
    overlays: BTreeMap<ObjectName, Overlay>,
    /// Nodes that count as dead.
    suspects: Option<Arc<BTreeSet<Box<str>>>>,
    /// Addresses that were ready and are not any more, since the last call of [`Self::take_losses`].
    losses: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    /// Slice → Service, for slices that are deleted or change their Service.
    slice_owners: HashMap<ObjectName, ObjectName>,
    nodes: BTreeMap<String, NodeObject>,
    holders: Holders,
    named_externally: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    pub(crate) configured: Configured,
    service_cidrs: ServiceCidrs,
    node_addresses: BTreeSet<IpAddr>,
    pod_cidrs: Vec<IpNet>,
    dirty: BTreeSet<ObjectName>,
    pub(crate) changes: Changes,
    settings_changed: bool,
    /// Lists for which what a snapshot has of them stands in.
    remembered: BTreeSet<&'static str>,
    /// Counts changes of all that the watches have told, but for the configuration's.
    generation: u64,
}

impl Look for Index {
    fn usable(&self, service: &ObjectName) -> bool {
        self.endpoints.get(service).is_some_and(EndpointsView::is_usable)
    }

    fn waiting(&self, service: &ObjectName) -> BTreeSet<IpAddr> {
        self.endpoints
            .get(service)
            .map(|endpoints| endpoints.waiting().into_keys().collect())
            .unwrap_or_default()
    }

    fn count_usable(&self) -> usize {
        self.endpoints.values().filter(|endpoints| endpoints.is_usable()).count()
    }
}

impl Index {
    /// Takes what a watch says; news of the configuration are for the log.
    pub(crate) fn observe(&mut self, observed: Observed) -> Option<ConfigNews> {
        let was_ready = self.is_ready();
        let mut news = None;
        if let Some(list) = observed.list() {
            self.remembered.remove(list);
        }
        match observed {
            Observed::Services(event) => self.services(event),
            Observed::Slices(event) => self.slices(event),
            Observed::Nodes(event) => self.nodes(event),
            Observed::Config(event) => {
                let outcome = self.configured.document(event);
                news = self.configured(outcome);
            }
            Observed::Object(event) => {
                let outcome = self.configured.object(event);
                news = self.configured(outcome);
            }
            Observed::ServiceCidrs(event) => self.service_cidrs(event),
            Observed::Remembered(remembered) => self.resume(*remembered, &mut news),
        }
        if !was_ready && self.is_ready() {
            self.mark_all();
        }
        news
    }

    /// Whether every watch has delivered its first full list.
    pub(crate) fn is_ready(&self) -> bool {
        let Listed { services, slices, nodes, config, service_cidrs } = self.listed;
        services && slices && nodes && config && service_cidrs
    }

    /// Marks one Service. Until the index is ready nobody looks, and then all are marked.
    pub(crate) fn mark(&mut self, service: ObjectName) {
        if self.is_ready() {
            self.dirty.insert(service);
        }
    }

    /// Marks all Services: something that all depend on has changed.
    pub(crate) fn mark_all(&mut self) {
        self.changes.everything();
        // In order, and so without a search for each.
        let mut all: BTreeSet<ObjectName> = self.services.keys().cloned().collect();
        self.dirty.append(&mut all);
    }

    /// The Services to look at again, also those that are gone.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.dirty)
    }

    /// Something else that settings depend on has changed.
    pub(crate) fn mark_settings(&mut self) {
        self.settings_changed = true;
    }

    /// Whether the configuration or the nodes have changed since the last call.
    pub(crate) fn take_settings_changed(&mut self) -> bool {
        std::mem::take(&mut self.settings_changed)
    }

    /// A Service.
    pub(crate) fn service(&self, name: &ObjectName) -> Option<&ServiceObject> {
        self.services.get(name)
    }

    /// Names of all Services.
    pub(crate) fn service_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// A Service that has an address: that was given it, or else names it as externalIP.
    pub(crate) fn has_address(&self, address: IpAddr) -> Option<ObjectName> {
        let named = self.named_externally.get(&address).into_iter().flatten();
        self.holders.at(address).iter().chain(named).next().cloned()
    }

    /// Its endpoints.
    pub(crate) fn endpoints(&self, name: &ObjectName) -> Option<&EndpointsView> {
        self.endpoints.get(name)
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Option<&Config> {
        self.configured.in_force()
    }

    /// The own node, once its object has been seen.
    pub(crate) fn own_node(&self, name: &str) -> Option<(&NodeObject, &OwnNode)> {
        let node = self.nodes.get(name)?;
        Some((node, node.own.as_ref()?))
    }

    /// The addresses of all nodes but this one.
    pub(crate) fn addresses_of_others(&self, own: &str) -> BTreeMap<Box<str>, BTreeSet<IpAddr>> {
        let others = self.nodes.values().filter(|node| node.name != own);
        others.map(|node| (node.name.as_str().into(), node.addresses.clone())).collect()
    }

    /// Addresses of all nodes.
    pub(crate) fn node_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.node_addresses
    }

    /// Pod networks of all nodes.
    pub(crate) fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Networks of ClusterIPs; empty where the API does not tell.
    pub(crate) fn service_networks(&self) -> Vec<IpNet> {
        self.service_cidrs.all()
    }

    /// Where the API servers are, as they say themselves.
    pub(crate) fn api_servers(&self) -> impl Iterator<Item = IpAddr> {
        let endpoints = self.endpoints.get(&ObjectName::new("default", "kubernetes"));
        endpoints.into_iter().flat_map(EndpointsView::addresses)
    }

    /// Who was given which address.
    pub(crate) fn holders(&self) -> &Holders {
        &self.holders
    }

    fn services(&mut self, event: WatchEvent<ServiceObject>) {
        match event {
            WatchEvent::Applied(service) => self.put_service(service),
            WatchEvent::Deleted(name) => self.drop_service(&name),
            WatchEvent::Reset(services) => {
                if !self.services.is_empty() {
                    let live: HashSet<&ObjectName> = services.iter().map(|service| &service.name).collect();
                    let gone: Vec<_> =
                        self.services.keys().filter(|name| !live.contains(name)).cloned().collect();
                    gone.iter().for_each(|name| self.drop_service(name));
                }
                services.into_iter().for_each(|service| self.put_service(service));
                self.listed.services = true;
            }
        }
    }

    fn put_service(&mut self, service: ServiceObject) {
        let known = self.services.get(&service.name);
        if known == Some(&service) {
            return;
        }
        self.generation += 1;
        let name = service.name.clone();
        let before = known.and_then(ServiceObject::view);
        let view = service.view();
        name_externally(&mut self.named_externally, &name, before, view);
        self.changes.service(&name, before, view);
        let changed = self.holders.replace(&name, before, view);
        self.mark_naming(&changed);
        self.services.insert(name.clone(), service);
        self.mark(name);
    }

    fn drop_service(&mut self, name: &ObjectName) {
        if let Some(service) = self.services.remove(name) {
            self.generation += 1;
            name_externally(&mut self.named_externally, name, service.view(), None);
            self.changes.service(name, service.view(), None);
            let changed = self.holders.replace(name, service.view(), None);
            self.mark_naming(&changed);
            self.mark(name.clone());
        }
    }

    /// Services that name one of these addresses as externalIP are to be judged again.
    fn mark_naming(&mut self, addresses: &BTreeSet<IpAddr>) {
        let naming = addresses.iter().filter_map(|address| self.named_externally.get(address)).flatten();
        let naming: Vec<ObjectName> = naming.cloned().collect();
        naming.into_iter().for_each(|name| self.mark(name));
    }

    fn slices(&mut self, event: WatchEvent<SliceObject>) {
        match event {
            WatchEvent::Applied(slice) => self.put_slice(slice),
            WatchEvent::Deleted(name) => self.drop_slice(&name),
            WatchEvent::Reset(slices) => {
                if !self.slice_owners.is_empty() {
                    let live: HashSet<&ObjectName> = slices.iter().map(|slice| &slice.name).collect();
                    let gone: Vec<_> =
                        self.slice_owners.keys().filter(|name| !live.contains(name)).cloned().collect();
                    gone.iter().for_each(|name| self.drop_slice(name));
                }
                slices.into_iter().for_each(|slice| self.put_slice(slice));
                self.listed.slices = true;
            }
        }
    }

    fn put_slice(&mut self, slice: SliceObject) {
        let Ok(reading) = slice.reading else { return self.drop_slice(&slice.name) };
        let service = ObjectName::new(&*slice.name.namespace, reading.service);
        if self.slice_owners.get(&slice.name).is_some_and(|owner| *owner != service) {
            self.drop_slice(&slice.name);
        }
        let endpoints = self.endpoints.entry(service.clone()).or_insert_with(|| {
            let Overlay { probes, held } = self.overlays.get(&service).cloned().unwrap_or_default();
            let mut endpoints = EndpointsView::default();
            endpoints.set_probes(probes);
            endpoints.set_held(held);
            endpoints.set_suspects(self.suspects.clone());
            endpoints
        });
        let lost = endpoints.losing(&slice.name.name, Some(&reading.view));
        let family = reading.view.family;
        if endpoints.apply(&slice.name.name, reading.view) {
            self.generation += 1;
            self.changes.slice(&service, family, reading.triggered);
            self.mark(service.clone());
            // Whose addresses they are decides about externalIPs; API servers come and go rarely.
            self.settings_changed |= is_api_server(&service);
        }
        self.lost(&service, lost);
        self.slice_owners.insert(slice.name, service);
    }

    fn drop_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_owners.remove(name) else { return };
        self.generation += 1;
        if let Some(endpoints) = self.endpoints.get_mut(&service) {
            let lost = endpoints.losing(&name.name, None);
            if let Some(family) = endpoints.family(&name.name) {
                self.changes.slice_gone(&service, family);
            }
            endpoints.remove(&name.name);
            if endpoints.is_empty() {
                self.endpoints.remove(&service);
            }
            self.lost(&service, lost);
        }
        self.mark(service);
    }

    fn lost(&mut self, service: &ObjectName, addresses: BTreeSet<IpAddr>) {
        if !addresses.is_empty() {
            self.losses.entry(service.clone()).or_default().extend(addresses);
        }
    }

    /// Addresses that were ready in some slice and are not any more in that one, since the last call.
    pub(crate) fn take_losses(&mut self) -> BTreeMap<ObjectName, BTreeSet<IpAddr>> {
        std::mem::take(&mut self.losses)
    }

    /// What this node's probes say of a Service's endpoints.
    pub(crate) fn set_probes(&mut self, service: &ObjectName, probes: Option<Arc<ServiceProbes>>) {
        self.overlay(service, |overlay| overlay.probes.clone_from(&probes));
        if self.endpoints.get_mut(service).is_some_and(|endpoints| endpoints.set_probes(probes)) {
            self.mark(service.clone());
        }
    }

    /// Which of a Service's endpoints count as ready although they are not.
    pub(crate) fn set_held(&mut self, service: &ObjectName, held: Option<Arc<BTreeSet<IpAddr>>>) {
        self.overlay(service, |overlay| overlay.held.clone_from(&held));
        if self.endpoints.get_mut(service).is_some_and(|endpoints| endpoints.set_held(held)) {
            self.mark(service.clone());
        }
    }

    /// Whether a snapshot stands in for a list.
    pub(crate) fn is_remembered(&self) -> bool {
        !self.remembered.is_empty()
    }

    /// Which nodes count as dead: their endpoints are chosen only where there are no others. False: as before.
    pub(crate) fn set_suspects(&mut self, nodes: BTreeSet<Box<str>>) -> bool {
        if nodes == *self.suspects() {
            return false;
        }
        self.suspects = (!nodes.is_empty()).then(|| Arc::new(nodes));
        let suspects = &self.suspects;
        let all = self.endpoints.iter_mut();
        let touched = all.filter_map(|(name, of)| of.set_suspects(suspects.clone()).then(|| name.clone()));
        let touched: Vec<ObjectName> = touched.collect();
        touched.into_iter().for_each(|name| self.mark(name));
        true
    }

    /// The nodes that count as dead.
    pub(crate) fn suspects(&self) -> &BTreeSet<Box<str>> {
        static NONE: BTreeSet<Box<str>> = BTreeSet::new();
        self.suspects.as_deref().unwrap_or(&NONE)
    }

    fn overlay(&mut self, service: &ObjectName, change: impl FnOnce(&mut Overlay)) {
        let overlay = self.overlays.entry(service.clone()).or_default();
        change(overlay);
        if overlay.probes.is_none() && overlay.held.is_none() {
            self.overlays.remove(service);
        }
    }

    /// The Services to look at again, as they are by now.
    pub(crate) fn dirty(&self) -> &BTreeSet<ObjectName> {
        &self.dirty
    }

    fn nodes(&mut self, event: WatchEvent<NodeObject>) {
        if let WatchEvent::Applied(node) = &event
            && self.nodes.get(&node.name) == Some(node)
        {
            return;
        }
        let mut nodes = self.nodes.clone();
        match event {
            WatchEvent::Applied(node) => {
                nodes.insert(node.name.clone(), node);
            }
            WatchEvent::Deleted(name) => {
                nodes.remove(&*name.name);
            }
            WatchEvent::Reset(all) => {
                nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect();
                self.listed.nodes = true;
            }
        }
        if nodes != self.nodes {
            self.node_addresses = nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
            self.pod_cidrs = nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
            self.nodes = nodes;
            self.generation += 1;
            self.settings_changed = true;
            self.mark_all();
        }
    }

    fn service_cidrs(&mut self, event: WatchEvent<ServiceCidrObject>) {
        self.listed.service_cidrs |= matches!(event, WatchEvent::Reset(_));
        if self.service_cidrs.observe(event) {
            self.generation += 1;
            self.settings_changed = true;
            self.mark_all();
        }
    }

    fn configured(&mut self, (changed, news): (bool, Option<ConfigNews>)) -> Option<ConfigNews> {
        self.listed.config |= self.configured.listed();
        if changed {
            self.settings_changed = true;
            self.mark_all();
        }
        news
    }
}

/// Keeps who names which address as externalIP.
fn name_externally(
    named: &mut BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    name: &ObjectName,
    before: Option<&ServiceView>,
    now: Option<&ServiceView>,
) {
    for ip in before.into_iter().flat_map(|view| &view.external_ips) {
        if let Some(services) = named.get_mut(ip) {
            services.remove(name);
            if services.is_empty() {
                named.remove(ip);
            }
        }
    }
    for ip in now.into_iter().flat_map(|view| &view.external_ips) {
        named.entry(*ip).or_default().insert(name.clone());
    }
}

fn is_api_server(service: &ObjectName) -> bool {
    &*service.namespace == "default" && &*service.name == "kubernetes"
}

#[cfg(test)]
mod tests;
