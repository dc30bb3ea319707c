//! The labels of namespaces, for pools that select namespaces by label.

use std::collections::{BTreeMap, BTreeSet};

use herald_runtime::watch::WatchEvent;
use kube::core::DynamicObject;

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl NamespaceView {
    /// Takes it out of the object.
    pub fn new(object: DynamicObject) -> Self {
        let meta = object.metadata;
        Self { name: meta.name.unwrap_or_default(), labels: meta.labels.unwrap_or_default() }
    }
}

/// All namespaces.
#[derive(Debug, Default)]
pub struct Namespaces {
    labels: BTreeMap<String, BTreeMap<String, String>>,
    listed: bool,
}

impl Namespaces {
    /// The first full list was delivered.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// The labels of a namespace.
    pub fn labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.labels.get(namespace)
    }

    /// Takes an event; returns the namespaces whose labels are other ones now.
    pub fn update(&mut self, event: WatchEvent<NamespaceView>) -> BTreeSet<String> {
        match event {
            WatchEvent::Applied(NamespaceView { name, labels }) => {
                let old = self.labels.insert(name.clone(), labels);
                let changed = old.as_ref() != self.labels.get(&name);
                changed.then_some(name).into_iter().collect()
            }
            // Its Services go one by one; until then they keep what they have.
            WatchEvent::Deleted(_) => BTreeSet::new(),
            WatchEvent::Reset(live) => {
                self.listed = true;
                let live: BTreeMap<_, _> = live.into_iter().map(|view| (view.name, view.labels)).collect();
                let old = std::mem::replace(&mut self.labels, live);
                let names: BTreeSet<&String> = old.keys().chain(self.labels.keys()).collect();
                let changed = names.into_iter().filter(|name| old.get(*name) != self.labels.get(*name));
                changed.cloned().collect()
            }
        }
    }
}
