//! What the API server said: Services by name, and which of them are worth a new plan.
//!
//! Synchronous; nobody acts on it before the first full list. Older Services come first, so that of several that wait
//! for one address the one that waits longest is served.

use std::collections::{BTreeSet, HashMap};

use herald_runtime::ObjectName;

use crate::service::ServiceView;

/// All Services and the dirty ones among them.
#[derive(Debug, Default)]
pub struct Index {
    /// Boxed: a table that grows is there twice, and the list that fills it beside it.
    services: HashMap<ObjectName, Box<ServiceView>>,
    dirty: BTreeSet<(i64, ObjectName)>,
    listed: bool,
}

impl Index {
    /// The first full list was delivered.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// How many of them are marked.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// A Service.
    pub fn get(&self, name: &ObjectName) -> Option<&ServiceView> {
        self.services.get(name).map(Box::as_ref)
    }

    /// All Services, oldest first.
    pub fn by_age(&self) -> Vec<&ServiceView> {
        let mut all: Vec<&ServiceView> = self.services.values().map(Box::as_ref).collect();
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        all
    }

    /// Takes a Service as it is now and marks it dirty; false if it is older than what is known.
    pub fn apply(&mut self, view: Box<ServiceView>) -> bool {
        if let Some(known) = self.services.get(&view.name) {
            if known.uid == view.uid && is_older(&view.version, &known.version) {
                return false;
            }
            if known.version == view.version && known == &view {
                return false;
            }
        }
        self.dirty.insert((view.created, view.name.clone()));
        self.services.insert(view.name.clone(), view);
        true
    }

    /// Forgets a Service.
    pub fn delete(&mut self, name: &ObjectName) -> Option<Box<ServiceView>> {
        let view = self.services.remove(name)?;
        self.dirty.remove(&(view.created, name.clone()));
        Some(view)
    }

    /// These are all Services. Returns what is gone.
    pub fn reset(&mut self, live: Vec<Box<ServiceView>>) -> Vec<Box<ServiceView>> {
        let names: BTreeSet<&ObjectName> = live.iter().map(|view| &view.name).collect();
        let gone: Vec<ObjectName> =
            self.services.keys().filter(|name| !names.contains(name)).cloned().collect();
        let gone = gone.iter().filter_map(|name| self.delete(name)).collect();
        for view in live {
            self.apply(view);
        }
        self.listed = true;
        gone
    }

    /// Marks a Service for a new plan.
    pub fn mark(&mut self, name: &ObjectName) {
        if let Some(view) = self.services.get(name) {
            self.dirty.insert((view.created, name.clone()));
        }
    }

    /// Marks those for which it holds.
    pub fn mark_where(&mut self, meant: impl Fn(&ServiceView) -> bool) {
        let meant = self.services.values().filter(|view| meant(view));
        self.dirty.extend(meant.map(|view| (view.created, view.name.clone())));
    }

    /// Marks all.
    pub fn mark_all(&mut self) {
        self.dirty = self.services.values().map(|view| (view.created, view.name.clone())).collect();
    }

    /// Takes the oldest dirty Service.
    pub fn next_dirty(&mut self) -> Option<ObjectName> {
        self.dirty.pop_first().map(|(_, name)| name)
    }
}

/// Resource versions are numbers that grow; what is no number is never older.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}
