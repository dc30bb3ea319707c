//! A bounded memory of what happened to many things: so much of each, so much of all, the oldest goes first.
//!
//! What is dropped is counted, and it is known from when on nothing is missing: an answer can say what it cannot know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// The last entries of each key.
#[derive(Debug)]
pub(crate) struct Ring<K, E> {
    each: usize,
    all: usize,
    next: u64,
    held: usize,
    of: BTreeMap<K, Held<E>>,
    /// In the order in which they came, with some that are gone: not more than as many again.
    order: VecDeque<(u64, K)>,
    /// Entries that had to go for those of other keys.
    dropped: Dropped,
}

/// What a key has.
#[derive(Debug)]
struct Held<E> {
    entries: VecDeque<(u64, Instant, E)>,
    /// Entries that had to go for newer ones of the same key.
    dropped: Dropped,
}

impl<E> Default for Held<E> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), dropped: Dropped::default() }
    }
}

impl<E> Held<E> {
    /// Whether it still has its entry of this number: the older ones went first.
    fn has(&self, number: u64) -> bool {
        self.entries.front().is_some_and(|(first, ..)| *first <= number)
    }
}

/// What is not remembered any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// How many.
    pub(crate) count: u64,
    /// When the last of them happened.
    pub(crate) until: Option<Instant>,
}

impl Dropped {
    fn one(&mut self, at: Instant) {
        self.count = self.count.saturating_add(1);
        self.until = self.until.max(Some(at));
    }
}

impl<K: Ord + Clone, E> Ring<K, E> {
    /// So many entries of each key, and of all together.
    pub(crate) fn new(each: usize, all: usize) -> Self {
        let (of, order) = (BTreeMap::new(), VecDeque::new());
        Self { each, all, next: 0, held: 0, of, order, dropped: Dropped::default() }
    }

    /// This happened just now.
    pub(crate) fn push(&mut self, key: K, now: Instant, entry: E) {
        let held = self.of.entry(key.clone()).or_default();
        if held.entries.len() == held.entries.capacity() {
            // Most have one or two, and a queue would begin with room for four.
            held.entries.reserve_exact(held.entries.len().max(1));
        }
        held.entries.push_back((self.next, now, entry));
        self.held += 1;
        if held.entries.len() > self.each
            && let Some((_, at, _)) = held.entries.pop_front()
        {
            held.dropped.one(at);
            self.held -= 1;
        }
        self.order.push_back((self.next, key));
        self.next += 1;
        if self.held > self.all {
            self.drop_oldest();
        }
        if self.order.len() > 2 * self.all {
            let of = &self.of;
            self.order.retain(|(number, key)| of.get(key).is_some_and(|held| held.has(*number)));
        }
    }

    fn drop_oldest(&mut self) {
        while let Some((number, key)) = self.order.pop_front() {
            let Some(held) = self.of.get_mut(&key).filter(|held| held.has(number)) else { continue };
            if let Some((_, at, _)) = held.entries.pop_front() {
                self.dropped.one(at);
                self.held -= 1;
            }
            if held.entries.is_empty() {
                // What it dropped itself is older than what went now.
                self.of.remove(&key);
            }
            return;
        }
    }

    /// What is remembered of a key, the oldest first.
    pub(crate) fn of(&self, key: &K) -> impl Iterator<Item = (Instant, &E)> {
        let entries = self.of.get(key).into_iter().flat_map(|held| &held.entries);
        entries.map(|(_, at, entry)| (*at, entry))
    }

    /// What is not remembered of a key any more, or may not be.
    pub(crate) fn dropped(&self, key: &K) -> Dropped {
        let own = self.of.get(key).map(|held| held.dropped).unwrap_or_default();
        let count = own.count.saturating_add(self.dropped.count);
        Dropped { count, until: own.until.max(self.dropped.until) }
    }

    /// What is not remembered any more for the sake of other keys.
    pub(crate) fn dropped_of_all(&self) -> Dropped {
        self.dropped
    }

    /// The keys that have an entry like this.
    pub(crate) fn keys_with(&self, like: impl Fn(&E) -> bool) -> BTreeSet<K> {
        let found = self.of.iter().filter(|(_, held)| held.entries.iter().any(|(.., entry)| like(entry)));
        found.map(|(key, _)| key.clone()).collect()
    }

    /// The last of all keys, at most so many, in the order in which they came.
    pub(crate) fn last(&self, count: usize) -> Vec<(&K, Instant, &E)> {
        let newest = self.order.iter().rev().filter_map(|(number, key)| {
            let entries = &self.of.get(key)?.entries;
            let at = entries.binary_search_by_key(number, |(number, ..)| *number).ok()?;
            let (_, at, entry) = entries.get(at)?;
            Some((key, *at, entry))
        });
        let mut last: Vec<_> = newest.take(count).collect();
        last.reverse();
        last
    }

    /// All that is remembered, key by key, of each the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, Instant, &E)> {
        let of = self.of.iter();
        of.flat_map(|(key, held)| held.entries.iter().map(move |(_, at, entry)| (key, *at, entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn of(ring: &Ring<char, u32>, key: char) -> Vec<u32> {
        ring.of(&key).map(|(_, entry)| *entry).collect()
    }

    #[test]
    fn of_each_the_last_are_kept_and_of_all_the_last() {
        let begin = Instant::now();
        let at = |n: u32| begin + Duration::from_secs(n.into());
        let mut ring = Ring::new(3, 5);
        for n in 0..5 {
            ring.push('a', at(n), n);
        }
        assert_eq!(of(&ring, 'a'), [2, 3, 4], "one that changes often drops its own");
        assert_eq!(ring.dropped(&'a'), Dropped { count: 2, until: Some(at(1)) });
        assert_eq!(ring.dropped(&'b'), Dropped::default(), "and nobody else's");
        ring.push('b', at(5), 5);
        ring.push('c', at(6), 6);
        ring.push('c', at(7), 7);
        assert_eq!((of(&ring, 'a'), of(&ring, 'b'), of(&ring, 'c')), (vec![3, 4], vec![5], vec![6, 7]));
        assert_eq!(
            ring.dropped(&'b'),
            Dropped { count: 1, until: Some(at(2)) },
            "of whom is not known any more"
        );
        for n in 8..11 {
            ring.push('d', at(n), n);
        }
        assert_eq!((of(&ring, 'a'), of(&ring, 'b')), (vec![], vec![]));
        assert_eq!(ring.keys_with(|entry| *entry > 6), BTreeSet::from(['c', 'd']));
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may_and_counts_what_it_drops(
            each in 1usize..5, all in 1usize..12, keys in proptest::collection::vec(0u8..6, 0..60)
        ) {
            let (begin, mut ring) = (Instant::now(), Ring::new(each, all));
            for (n, key) in keys.iter().enumerate() {
                ring.push(*key, begin + Duration::from_secs(n as u64), n);
            }
            prop_assert!(ring.all().count() <= all);
            prop_assert_eq!(ring.held, ring.all().count());
            prop_assert!(ring.order.len() <= 2 * all);
            let mut kept: Vec<usize> = ring.all().map(|(.., entry)| *entry).collect();
            kept.sort_unstable();
            for count in [0, 1, 3, all + 1] {
                let last: Vec<usize> = ring.last(count).into_iter().map(|(.., entry)| *entry).collect();
                prop_assert_eq!(&kept[kept.len().saturating_sub(count)..], &last[..]);
            }
            for key in 0..6 {
                let kept: Vec<usize> = ring.of(&key).map(|(_, entry)| *entry).collect();
                prop_assert!(kept.len() <= each);
                // The last ones, and all since what was dropped.
                let came: Vec<usize> = (0..keys.len()).filter(|n| keys[*n] == key).collect();
                prop_assert_eq!(&came[came.len() - kept.len()..], &kept[..]);
                let until = ring.dropped(&key).until;
                let since = came.iter().filter(|n| until.is_none_or(|at| begin + Duration::from_secs(**n as u64) > at));
                prop_assert!(since.count() <= kept.len());
            }
        }
    }
}
