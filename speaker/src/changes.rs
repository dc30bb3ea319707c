//! Which changes of Services and endpoints wait for the kernel, and since when they were true.
//!
//! Pure: kept by the index as events come, read by `sync.rs`. kube-proxy's metrics tell changes by IP family, so a
//! change knows which families it touches. The time at which a change of endpoints began to be true is the slices'
//! annotation; it counts if it is not older than this process, for what came before is another process' delay, and it is
//! forgotten when a slice of the Service is deleted, as kube-proxy has it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use herald_proxy::{IpFamily, ServiceView};
use herald_runtime::ObjectName;
use k8s_openapi::jiff::Timestamp;

/// Changes of one Service that are measured while it cannot be programmed; further ones are not.
const TRIGGERS: usize = 64;

/// Changes that wait.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// When this process began; without it no change has a time.
    pub(crate) started: Option<Timestamp>,
    /// Changes of Services that came since [`Self::take_counts`].
    services: u64,
    /// The same of slices.
    endpoints: u64,
    families: BTreeSet<IpFamily>,
    waiting_services: HashSet<ObjectName>,
    waiting_endpoints: HashSet<ObjectName>,
    triggers: BTreeMap<ObjectName, Vec<(IpFamily, Timestamp)>>,
}

impl Changes {
    /// A Service has come, changed or gone.
    pub(crate) fn service(
        &mut self,
        name: &ObjectName,
        before: Option<&ServiceView>,
        after: Option<&ServiceView>,
    ) {
        let views = || before.into_iter().chain(after);
        let touched = IpFamily::ALL.into_iter().filter(|family| views().any(|view| view.serves(*family)));
        self.families.extend(touched);
        self.services += 1;
        self.waiting_services.insert(name.clone());
    }

    /// A slice of a Service has come or changed.
    pub(crate) fn slice(&mut self, service: &ObjectName, family: IpFamily, triggered: Option<Timestamp>) {
        self.endpoints(service, family);
        // In whole seconds, as the API tells most times: what began in this process' first second is not older than it.
        let counts = |at: &Timestamp| self.started.is_some_and(|began| at.as_second() >= began.as_second());
        if let Some(at) = triggered.filter(counts) {
            let triggers = self.triggers.entry(service.clone()).or_default();
            if triggers.len() < TRIGGERS {
                triggers.push((family, at));
            }
        }
    }

    /// A slice of a Service has gone.
    pub(crate) fn slice_gone(&mut self, service: &ObjectName, family: IpFamily) {
        self.endpoints(service, family);
        self.triggers.remove(service);
    }

    /// Something that all Services depend on has changed, or nobody can say what.
    pub(crate) fn everything(&mut self) {
        self.families.extend(IpFamily::ALL);
    }

    /// Families with changes that wait.
    pub(crate) fn families(&self) -> &BTreeSet<IpFamily> {
        &self.families
    }

    /// How many Services wait because of their own object, and how many because of their endpoints.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.waiting_services.len(), self.waiting_endpoints.len())
    }

    /// Changes of Services and of slices since the last call.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.services), std::mem::take(&mut self.endpoints))
    }

    /// All Services but those that `failed` are in the kernel: the times of their changes, each once.
    pub(crate) fn settle(&mut self, failed: impl Fn(&ObjectName) -> bool) -> Vec<(IpFamily, Timestamp)> {
        self.families.clear();
        self.waiting_services.retain(&failed);
        self.waiting_endpoints.retain(&failed);
        let mut settled = Vec::new();
        self.triggers.retain(|service, triggers| {
            let keep = failed(service);
            if !keep {
                settled.append(triggers);
            }
            keep
        });
        settled
    }

    fn endpoints(&mut self, service: &ObjectName, family: IpFamily) {
        self.families.insert(family);
        self.endpoints += 1;
        self.waiting_endpoints.insert(service.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn changes() -> Changes {
        Changes { started: Some(at(100)), ..Changes::default() }
    }

    #[test]
    fn each_committed_change_is_measured_once_and_a_failed_one_when_it_is_in() {
        let (web, db) = (ObjectName::new("shop", "web"), ObjectName::new("shop", "db"));
        let mut changes = changes();
        changes.slice(&web, IpFamily::V4, Some(at(101)));
        changes.slice(&web, IpFamily::V4, Some(at(102)));
        changes.slice(&db, IpFamily::V6, Some(at(103)));
        assert_eq!(changes.take_counts(), (0, 3));
        assert_eq!(changes.waiting(), (0, 2));
        assert_eq!(changes.settle(|name| *name == db), [(IpFamily::V4, at(101)), (IpFamily::V4, at(102))]);
        assert_eq!(changes.waiting(), (0, 1));
        assert_eq!(changes.settle(|_| false), [(IpFamily::V6, at(103))]);
        assert_eq!(changes.settle(|_| false), []);
        assert_eq!((changes.take_counts(), changes.waiting()), ((0, 0), (0, 0)));
    }

    #[test]
    fn what_began_before_this_process_or_went_with_a_slice_is_not_measured() {
        let web = ObjectName::new("shop", "web");
        let mut changes = changes();
        changes.slice(&web, IpFamily::V4, Some(at(99)));
        changes.slice(&web, IpFamily::V4, None);
        assert_eq!(changes.settle(|_| false), []);
        changes.slice(&web, IpFamily::V4, Some(at(101)));
        changes.slice_gone(&web, IpFamily::V4);
        assert_eq!(changes.settle(|_| false), []);
    }

    #[test]
    fn a_change_touches_the_families_that_it_is_of() {
        let web = ObjectName::new("shop", "web");
        let mut changes = changes();
        changes.slice(&web, IpFamily::V6, None);
        assert_eq!(changes.families(), &BTreeSet::from([IpFamily::V6]));
        changes.settle(|_| false);
        assert!(changes.families().is_empty());
        changes.everything();
        assert_eq!(changes.families().len(), 2);
    }

    #[test]
    fn changes_that_pile_up_are_bounded() {
        let web = ObjectName::new("shop", "web");
        let mut changes = changes();
        (0..1000).for_each(|n| changes.slice(&web, IpFamily::V4, Some(at(100 + n))));
        assert_eq!(changes.settle(|_| false).len(), TRIGGERS);
    }
}
