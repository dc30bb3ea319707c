//! What is pending for one family: prefixes to withdraw, prefixes to announce grouped by their attributes, markers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::Attributes;

/// How far a route refresh of the family is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Refresh {
    #[default]
    None,
    /// The peer asked; nothing was done yet. Asking again changes nothing.
    Requested,
    /// The family is pending again.
    Running,
}

/// Pending changes of a family. A prefix is in at most one place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) withdraw: BTreeSet<IpNet>,
    announce: BTreeMap<Arc<Attributes>, BTreeSet<IpNet>>,
    pub(super) end_of_rib: bool,
    pub(super) refresh: Refresh,
}

impl Queue {
    pub(super) fn new(end_of_rib: bool) -> Self {
        Self { end_of_rib, ..Self::default() }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty()
    }

    /// How many prefixes wait.
    pub(super) fn pending(&self) -> usize {
        self.withdraw.len() + self.announce.values().map(BTreeSet::len).sum::<usize>()
    }

    pub(super) fn has_message(&self) -> bool {
        !self.is_settled() || self.end_of_rib || self.refresh != Refresh::None
    }

    pub(super) fn announce(&mut self, attributes: &Arc<Attributes>, prefix: IpNet) {
        self.announce_all(attributes, vec![prefix]);
    }

    pub(super) fn announce_all(&mut self, attributes: &Arc<Attributes>, prefixes: Vec<IpNet>) {
        match self.announce.get_mut(attributes) {
            Some(pending) => pending.extend(prefixes),
            None if prefixes.is_empty() => {}
            None => {
                self.announce.insert(Arc::clone(attributes), prefixes.into_iter().collect());
            }
        }
    }

    /// Whether a prefix waits to be told with these attributes.
    pub(super) fn is_announcing(&self, attributes: &Arc<Attributes>, prefix: &IpNet) -> bool {
        self.announce.get(attributes).is_some_and(|prefixes| prefixes.contains(prefix))
    }

    /// Forgets whatever is pending for a prefix that was desired with these attributes; false: nothing was.
    pub(super) fn forget(&mut self, desired: Option<&Arc<Attributes>>, prefix: &IpNet) -> bool {
        let mut pending = self.withdraw.remove(prefix);
        if let Some(attributes) = desired
            && let Some(prefixes) = self.announce.get_mut(attributes)
        {
            pending |= prefixes.remove(prefix);
            if prefixes.is_empty() {
                self.announce.remove(attributes);
            }
        }
        pending
    }

    pub(super) fn take_group(&mut self) -> Option<(Arc<Attributes>, BTreeSet<IpNet>)> {
        self.announce.pop_first()
    }

    pub(super) fn put_group(&mut self, attributes: &Arc<Attributes>, prefixes: BTreeSet<IpNet>) {
        if !prefixes.is_empty() {
            self.announce.insert(Arc::clone(attributes), prefixes);
        }
    }
}
