//! What stands in for lists that have not come, and what a snapshot is made of.
//!
//! A snapshot never contradicts the API: it stands in for lists that have not come, and each list that comes takes the
//! place of what stood in for it, so that what has vanished meanwhile goes by the way that every deletion goes.

use std::collections::BTreeSet;
use std::ops::Bound;

use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::WatchEvent;

use super::{Index, Observed, ServiceObject};
use crate::configured::ConfigNews;
use crate::node::NodeObject;
use crate::service_cidrs::ServiceCidrObject;
use crate::snapshot::Remembered;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const NODES: &str = "nodes";
const SERVICE_CIDRS: &str = "servicecidrs";
const CONFIG: &str = "config";

impl Observed {
    /// The list that this is, if it is one.
    pub(super) fn list(&self) -> Option<&'static str> {
        match self {
            Self::Services(WatchEvent::Reset(_)) => Some(SERVICES),
            Self::Slices(WatchEvent::Reset(_)) => Some(SLICES),
            Self::Nodes(WatchEvent::Reset(_)) => Some(NODES),
            Self::ServiceCidrs(WatchEvent::Reset(_)) => Some(SERVICE_CIDRS),
            Self::Config(WatchEvent::Reset(_)) => Some(CONFIG),
            Self::Object(UntypedEvent { kind, event: WatchEvent::Reset(_) }) => Some(kind),
            _ => None,
        }
    }
}

impl Index {
    /// Lets a snapshot stand in for the lists that have not come.
    pub(super) fn resume(&mut self, remembered: Remembered, news: &mut Option<ConfigNews>) {
        if self.is_ready() {
            return;
        }
        let Remembered { cluster: _, nodes, service_cidrs, document, objects, services, slices } = remembered;
        let objects = objects
            .into_iter()
            .map(|(kind, live)| Observed::Object(UntypedEvent { kind, event: WatchEvent::Reset(live) }));
        let lists = [
            Observed::Nodes(WatchEvent::Reset(nodes)),
            Observed::ServiceCidrs(WatchEvent::Reset(service_cidrs)),
            Observed::Config(WatchEvent::Reset(document.into_iter().collect())),
            Observed::Services(WatchEvent::Reset(services)),
            Observed::Slices(WatchEvent::Reset(slices)),
        ];
        for observed in lists.into_iter().chain(objects) {
            let Some(list) = observed.list().filter(|list| !self.has_list(list)) else { continue };
            *news = self.observe(observed).or_else(|| news.take());
            self.remembered.insert(list);
        }
    }

    fn has_list(&self, list: &str) -> bool {
        match list {
            SERVICES => self.listed.services,
            SLICES => self.listed.slices,
            NODES => self.listed.nodes,
            SERVICE_CIDRS => self.listed.service_cidrs,
            CONFIG => self.configured.written().document().is_some(),
            kind => self.configured.written().objects().contains_key(kind),
        }
    }

    /// The lists for which a snapshot stands in.
    pub(crate) fn remembered(&self) -> &BTreeSet<&'static str> {
        &self.remembered
    }

    /// The number of what the API server has told by now, where all of it was told in this run: another number, another view.
    pub(crate) fn generation(&self) -> Option<u64> {
        let complete = self.is_ready() && self.remembered.is_empty();
        complete.then(|| self.generation + self.configured.written().generation())
    }

    /// All nodes.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = &NodeObject> {
        self.nodes.values()
    }

    /// Networks of ClusterIPs as they are told.
    pub(crate) fn service_cidr_objects(&self) -> Vec<ServiceCidrObject> {
        self.service_cidrs.objects()
    }

    /// The Services behind this one in the order of their names; `None`: all.
    pub(crate) fn services_after(&self, last: Option<&ObjectName>) -> impl Iterator<Item = &ServiceObject> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.services.range((after, Bound::Unbounded)).map(|(_, service)| service)
    }
}
