//! Prefixes of one family that wait to be told with the same attributes.
//!
//! A table that is told whole is not copied: its parts are read where they are, in the set that it is, and only what differs since
//! is kept beside them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;

use super::Attributes;
use super::route::Entry;
use crate::Family;
use crate::wire::Prefixes;

/// The prefixes, in order but for those that were added one by one.
#[derive(Debug)]
pub(super) struct Pending {
    family: Family,
    attributes: Arc<Attributes>,
    /// Parts of a table, with entries of others; of the first one what is before `next` has been taken.
    table: VecDeque<Arc<[Entry]>>,
    next: usize,
    /// How many of the table wait.
    of_table: usize,
    /// Of the table, and not to be told any more.
    gone: BTreeSet<IpNet>,
    more: BTreeSet<IpNet>,
}

impl Pending {
    pub(super) fn new(family: Family, attributes: Arc<Attributes>) -> Self {
        let (table, gone, more) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        Self { family, attributes, table, next: 0, of_table: 0, gone, more }
    }

    pub(super) fn insert(&mut self, prefix: IpNet) {
        self.more.insert(prefix);
    }

    /// So many entries of the table's next part wait here. Parts come in order, and none of their prefixes is here yet.
    pub(super) fn extend(&mut self, part: &Arc<[Entry]>, count: usize) {
        if self.table.back().is_none_or(|last| !Arc::ptr_eq(last, part)) {
            self.table.push_back(Arc::clone(part));
        }
        self.of_table += count;
    }

    pub(super) fn contains(&self, prefix: &IpNet) -> bool {
        self.more.contains(prefix) || (self.is_in_table(prefix) && !self.gone.contains(prefix))
    }

    /// True: it was there.
    pub(super) fn remove(&mut self, prefix: &IpNet) -> bool {
        if self.more.remove(prefix) {
            return true;
        }
        let there = self.is_in_table(prefix) && self.gone.insert(*prefix);
        self.of_table -= usize::from(there);
        there
    }

    fn is_in_table(&self, prefix: &IpNet) -> bool {
        let begins_behind = |part: &Arc<[Entry]>| part.first().is_some_and(|(first, _)| first <= prefix);
        let Some(at) = self.table.partition_point(begins_behind).checked_sub(1) else { return false };
        let Some(part) = self.table.get(at) else { return false };
        let found = part.binary_search_by(|(other, _)| other.cmp(prefix));
        found.is_ok_and(|place| (at > 0 || place >= self.next) && self.is_ours(&part[place]))
    }

    fn is_ours(&self, (prefix, attributes): &Entry) -> bool {
        let equal = Arc::ptr_eq(attributes, &self.attributes) || *attributes == self.attributes;
        equal && Family::of(prefix) == self.family
    }
}

impl Prefixes for Pending {
    fn count(&self) -> usize {
        self.of_table + self.more.len()
    }

    fn first(&mut self) -> Option<IpNet> {
        while let Some(part) = self.table.front() {
            let Some(entry) = part.get(self.next) else {
                self.table.pop_front();
                self.next = 0;
                continue;
            };
            if self.is_ours(entry) && (self.gone.is_empty() || !self.gone.contains(&entry.0)) {
                return Some(entry.0);
            }
            let passed = entry.0;
            self.gone.remove(&passed);
            self.next += 1;
        }
        self.more.first().copied()
    }

    fn pop_first(&mut self) -> Option<IpNet> {
        let first = self.first()?;
        if self.table.is_empty() {
            self.more.pop_first();
        } else {
            self.next += 1;
            self.of_table -= 1;
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Community;

    fn prefix(n: u8) -> IpNet {
        // Both families, and an order that is that of the numbers.
        let text = if n < 20 { format!("192.0.2.{n}/32") } else { format!("2001:db8::{n:x}/128") };
        text.parse().unwrap()
    }

    fn attributes(n: u32) -> Arc<Attributes> {
        Arc::new(Attributes { communities: [Community(n)].into(), ..Attributes::default() })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8),
        Remove(u8),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0u8..24).prop_map(Step::Insert), (0u8..24).prop_map(Step::Remove), Just(Step::Take)]
    }

    proptest! {
        /// The table has entries of two kinds of attributes and of both families, of which one waits here.
        #[test]
        fn it_is_the_set_of_what_waits_and_each_is_taken_once(
            kinds in proptest::collection::vec(0u32..2, 24),
            size in 1usize..6,
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let known = [attributes(0), attributes(1)];
            let entries: Vec<Entry> =
                kinds.iter().zip(0..).map(|(kind, n)| (prefix(n), Arc::clone(&known[*kind as usize]))).collect();
            let waits = |entry: &&Entry| entry.1 == known[0] && Family::of(&entry.0) == Family::Ipv4Unicast;
            // Equal and not the same.
            let mut pending = Pending::new(Family::Ipv4Unicast, attributes(0));
            for part in entries.chunks(size).map(Arc::<[Entry]>::from) {
                let count = part.iter().filter(waits).count();
                if count > 0 {
                    pending.extend(&part, count);
                }
            }
            let mut model: BTreeSet<IpNet> = entries.iter().filter(waits).map(|(prefix, _)| *prefix).collect();
            for step in steps {
                match step {
                    Step::Insert(n) if !pending.contains(&prefix(n)) => {
                        pending.insert(prefix(n));
                        model.insert(prefix(n));
                    }
                    Step::Insert(_) => {}
                    Step::Remove(n) => prop_assert_eq!(pending.remove(&prefix(n)), model.remove(&prefix(n))),
                    Step::Take => {
                        let first = pending.first();
                        let taken = pending.pop_first();
                        prop_assert_eq!(first, taken);
                        prop_assert_eq!(taken.is_none(), model.is_empty());
                        prop_assert!(taken.is_none_or(|prefix| model.remove(&prefix)));
                    }
                }
                prop_assert_eq!(pending.count(), model.len());
                for n in 0..24 {
                    prop_assert_eq!(pending.contains(&prefix(n)), model.contains(&prefix(n)), "{}", n);
                }
            }
            let rest: BTreeSet<IpNet> = std::iter::from_fn(|| pending.pop_first()).collect();
            prop_assert_eq!(rest, model);
        }
    }
}
