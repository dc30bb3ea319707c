//! What is pending for one family: prefixes to withdraw, prefixes to announce grouped by their attributes, markers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::Attributes;
use super::pending::Pending;
use super::route::Entry;
use crate::Family;
use crate::wire::Prefixes;

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
#[derive(Debug)]
pub(super) struct Queue {
    family: Family,
    pub(super) withdraw: BTreeSet<IpNet>,
    announce: BTreeMap<Arc<Attributes>, Pending>,
    pub(super) end_of_rib: bool,
    pub(super) refresh: Refresh,
}

impl Queue {
    pub(super) fn new(family: Family, end_of_rib: bool) -> Self {
        let (withdraw, announce) = (BTreeSet::new(), BTreeMap::new());
        Self { family, withdraw, announce, end_of_rib, refresh: Refresh::None }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty()
    }

    /// How many prefixes wait.
    pub(super) fn pending(&self) -> usize {
        self.withdraw.len() + self.announce.values().map(Pending::count).sum::<usize>()
    }

    pub(super) fn has_message(&self) -> bool {
        !self.is_settled() || self.end_of_rib || self.refresh != Refresh::None
    }

    pub(super) fn announce(&mut self, attributes: &Arc<Attributes>, prefix: IpNet) {
        self.group(attributes).insert(prefix);
    }

    /// Nothing waits to be announced: a whole table is to follow.
    pub(super) fn begin_table(&mut self) {
        self.announce.clear();
    }

    /// So many entries of the table's next part wait, those with these attributes.
    pub(super) fn announce_part(&mut self, attributes: &Arc<Attributes>, part: &Arc<[Entry]>, count: usize) {
        self.group(attributes).extend(part, count);
    }

    fn group(&mut self, attributes: &Arc<Attributes>) -> &mut Pending {
        let family = self.family;
        let new = || Pending::new(family, Arc::clone(attributes));
        self.announce.entry(Arc::clone(attributes)).or_insert_with(new)
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
            if prefixes.count() == 0 {
                self.announce.remove(attributes);
            }
        }
        pending
    }

    pub(super) fn take_group(&mut self) -> Option<(Arc<Attributes>, Pending)> {
        self.announce.pop_first()
    }

    pub(super) fn put_group(&mut self, attributes: &Arc<Attributes>, prefixes: Pending) {
        if prefixes.count() > 0 {
            self.announce.insert(Arc::clone(attributes), prefixes);
        }
    }
}
