//! A sorted map that takes hardly more room than its entries.
//!
//! Entries stand in order in chunks: a search, and one chunk to move for a change. A B-tree that is filled in ascending order, as lists
//! of the API are, leaves its nodes half empty; here what is added behind the last entry leaves full chunks.

/// The most that a chunk has.
const CHUNK: usize = 512;

/// The map.
#[derive(Debug, Clone)]
pub(crate) struct Packed<K, V> {
    /// None is empty; keys ascend over all.
    chunks: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Packed<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Packed<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for Packed<K, V> {}

impl<K, V> Packed<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.chunks.iter().flatten()
    }
}

impl<K, V> Packed<K, V> {
    /// What all keys have, in order, to change it.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.chunks.iter_mut().flatten().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Packed<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (chunk, at) = self.find(key);
        Some(&self.chunks.get(chunk)?.get(at.ok()?)?.1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (chunk, at) = self.find(key);
        Some(&mut self.chunks.get_mut(chunk)?.get_mut(at.ok()?)?.1)
    }

    /// Gives a key this instead of what it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, at) = self.find(&key);
        let last = chunk + 1 >= self.chunks.len();
        let Some(entries) = self.chunks.get_mut(chunk) else {
            self.chunks.push(vec![(key, value)]);
            self.len += 1;
            return None;
        };
        let at = match at {
            Ok(at) => return Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => at,
        };
        self.len += 1;
        match entries.len() {
            CHUNK.. if last && at == entries.len() => self.chunks.push(vec![(key, value)]),
            CHUNK.. => {
                let mut behind = entries.split_off(CHUNK / 2);
                match at.checked_sub(CHUNK / 2) {
                    Some(at) => behind.insert(at, (key, value)),
                    None => entries.insert(at, (key, value)),
                }
                self.chunks.insert(chunk + 1, behind);
            }
            _ => entries.insert(at, (key, value)),
        }
        None
    }

    /// Takes out what a key has.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (chunk, at) = self.find(key);
        let entries = self.chunks.get_mut(chunk)?;
        let (_, value) = entries.remove(at.ok()?);
        self.len -= 1;
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else if entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
        }
        Some(value)
    }

    /// Takes all of `other`; what both have is as `other` has it.
    pub(crate) fn append(&mut self, other: Self) {
        if self.len == 0 {
            *self = other;
            return;
        }
        if other.len < self.len {
            for (key, value) in other.chunks.into_iter().flatten() {
                self.insert(key, value);
            }
            return;
        }
        let mine = std::mem::take(self);
        *self = mine.chunks.into_iter().chain(other.chunks).flatten().collect();
    }

    /// The chunk that a key belongs in, the first if there is none, and its place there.
    fn find(&self, key: &K) -> (usize, Result<usize, usize>) {
        let begins_behind = |chunk: &Vec<(K, V)>| chunk.first().is_some_and(|(first, _)| first <= key);
        let chunk = self.chunks.partition_point(begins_behind).saturating_sub(1);
        let search = |entries: &Vec<(K, V)>| entries.binary_search_by(|(other, _)| other.cmp(key));
        (chunk, self.chunks.get(chunk).map_or(Err(0), search))
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Packed<K, V> {
    /// Of several entries with one key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        let mut entries: Vec<(K, V)> = all.into_iter().collect();
        // Stable: the last of equals stays the last.
        entries.sort_by(|(key, _), (other, _)| key.cmp(other));
        entries.dedup_by(|later, former| {
            let equal = later.0 == former.0;
            if equal {
                std::mem::swap(later, former);
            }
            equal
        });
        let len = entries.len();
        if len <= CHUNK {
            entries.shrink_to_fit();
            return Self { chunks: if len == 0 { Vec::new() } else { vec![entries] }, len };
        }
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        let mut rest = entries.into_iter();
        loop {
            let chunk: Vec<_> = rest.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Self { chunks, len };
            }
            chunks.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn checked(map: &Packed<u16, u8>, model: &BTreeMap<u16, u8>) -> Result<(), TestCaseError> {
        prop_assert_eq!(map.len(), model.len());
        let all: Vec<_> = model.iter().map(|(key, value)| (*key, *value)).collect();
        prop_assert_eq!(map.iter().copied().collect::<Vec<_>>(), all);
        prop_assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
        Ok(())
    }

    proptest! {
        /// Runs of keys, so that chunks fill, are cut, and go empty.
        #[test]
        fn it_is_a_map_in_order(
            runs in proptest::collection::vec((0u16..4000, 1u16..1500, proptest::option::of(0u8..4)), 0..12),
            more in proptest::collection::btree_map(0u16..4000, 0u8..4, 0..2000),
        ) {
            let (mut map, mut model) = (Packed::default(), BTreeMap::new());
            for (from, count, value) in runs {
                for key in from..from + count {
                    match value {
                        Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                        None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    }
                }
                prop_assert_eq!(map.get(&from), model.get(&from));
                checked(&map, &model)?;
            }
            let other: Packed<_, _> = more.clone().into_iter().collect();
            checked(&other, &more)?;
            map.append(other);
            model.extend(more);
            checked(&map, &model)?;
            prop_assert!(map == model.into_iter().collect(), "how it is cut into chunks tells two from each other");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let map: Packed<_, _> = [(2, 'a'), (1, 'b'), (2, 'c'), (2, 'd')].into_iter().collect();
        assert_eq!(map.iter().copied().collect::<Vec<_>>(), [(1, 'b'), (2, 'd')]);
    }

    #[test]
    fn ascending_keys_leave_full_chunks() {
        let mut map = Packed::default();
        for key in 0..10 * CHUNK {
            map.insert(key, ());
        }
        assert!(map.chunks.iter().all(|chunk| chunk.len() == CHUNK && chunk.capacity() == CHUNK));
    }
}
