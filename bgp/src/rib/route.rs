//! Routes as the speaker wants them, and sets of them that are cheap to share and to compare.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Community, ExtendedCommunity, LargeCommunity};

/// What of a route, besides its prefix, a peer is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// `None`: the session's own address of the prefix's family.
    pub next_hop: Option<IpAddr>,
    /// Sent to internal peers only; `None` is 100 there.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4): the lower is preferred among routes of one AS.
    pub med: Option<u32>,
    /// How often our AS number stands in the path beyond the one time it must; not for internal peers.
    pub prepend: u8,
    /// RFC 1997.
    pub communities: BTreeSet<Community>,
    /// RFC 4360.
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// RFC 8092.
    pub large_communities: BTreeSet<LargeCommunity>,
}

/// A route to announce; ordered by prefix, then by attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Bits beyond its length do not count.
    pub prefix: IpNet,
    /// The rest.
    pub attributes: Attributes,
}

impl Route {
    /// A route with the session's own next hop and no further attribute.
    pub fn new(prefix: IpNet) -> Self {
        Self { prefix, attributes: Attributes::default() }
    }
}

/// A prefix and what is told of it.
pub(super) type Entry = (IpNet, Arc<Attributes>);

/// How many routes a chunk begins with; one that grows to twice as many is cut. With its two counts it has eight kibibytes, which
/// allocators have a size for.
const CHUNK: usize = 255;

/// Routes by prefix, one per prefix. Of two routes for one prefix the first in their order (`Ord`) counts: no next hop
/// before one, no preference before one, a lower MED first, fewer or smaller communities first.
///
/// Share it as `Arc<RouteSet>`; equal attributes are held once. It is kept in chunks that a set and the one made of it by
/// [`RouteSet::with`] share, so that one change of a hundred thousand routes costs microseconds to make and to find.
#[derive(Clone, Debug, Default)]
pub struct RouteSet {
    /// None is empty; prefixes ascend over all.
    chunks: Vec<Arc<[Entry]>>,
    len: usize,
}

impl PartialEq for RouteSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl Eq for RouteSet {}

impl RouteSet {
    /// Of entries whose prefixes ascend.
    fn of(entries: &[Entry]) -> Self {
        Self { chunks: entries.chunks(CHUNK).map(Arc::from).collect(), len: entries.len() }
    }

    /// How many prefixes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The attributes of a prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Attributes> {
        let prefix = prefix.trunc();
        let at =
            self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| *first <= prefix));
        let chunk = self.chunks.get(at.checked_sub(1)?)?;
        let at = chunk.binary_search_by(|(other, _)| other.cmp(&prefix)).ok()?;
        chunk.get(at).map(|(_, attributes)| &**attributes)
    }

    /// This set after these changes; `None` takes a prefix out. Prefixes have no bits beyond their length.
    #[must_use]
    pub fn with(&self, changes: &BTreeMap<IpNet, Option<Arc<Attributes>>>) -> Self {
        let mut set = Self { chunks: Vec::with_capacity(self.chunks.len() + 1), len: 0 };
        let mut changes = changes.iter().peekable();
        let mut following = self.chunks.iter().skip(1).map(|chunk| chunk.first().map(|(first, _)| *first));
        // What is added to an empty set goes where its one chunk would be.
        let none = [];
        let chunks = self.chunks.iter().map(|chunk| (&**chunk, Some(chunk)));
        let chunks = chunks.chain(self.chunks.is_empty().then_some((&none[..], None)));
        for (entries, chunk) in chunks {
            let end = following.next().flatten();
            let is_here = |change: &(&IpNet, &Option<Arc<Attributes>>)| end.is_none_or(|end| *change.0 < end);
            match chunk {
                Some(chunk) if !changes.peek().is_some_and(is_here) => {
                    set.len += chunk.len();
                    set.chunks.push(Arc::clone(chunk));
                }
                _ => {
                    let here = std::iter::from_fn(|| changes.next_if(is_here));
                    let merged = merge(entries, here);
                    set.len += merged.len();
                    let size = if merged.len() < 2 * CHUNK { 2 * CHUNK } else { CHUNK };
                    set.chunks.extend(merged.chunks(size).map(Arc::from));
                }
            }
        }
        set
    }

    /// The routes of these prefixes only.
    #[must_use]
    pub fn filtered(&self, wanted: impl Fn(&IpNet) -> bool) -> Self {
        let entries: Vec<Entry> = self.entries().filter(|(prefix, _)| wanted(prefix)).cloned().collect();
        Self::of(&entries)
    }

    /// The same prefixes with other attributes.
    #[must_use]
    pub fn mapped(&self, other: impl Fn(&Attributes) -> Attributes) -> Self {
        let mut known = BTreeMap::<&Arc<Attributes>, Arc<Attributes>>::new();
        let entries = self.entries().map(|(prefix, attributes)| {
            let mapped = known.entry(attributes).or_insert_with(|| Arc::new(other(attributes)));
            (*prefix, Arc::clone(mapped))
        });
        Self::of(&entries.collect::<Vec<_>>())
    }

    /// All in order of prefix.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Arc<Attributes>)> {
        self.entries().map(|(prefix, attributes)| (*prefix, attributes))
    }

    /// What it consists of, in order; none is empty.
    pub(super) fn parts(&self) -> &[Arc<[Entry]>] {
        &self.chunks
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The chunks that only one of two sets has: what they share begins with the same prefix in both.
    fn own_chunks<'a>(&'a self, other: &'a Self) -> [Vec<&'a [Entry]>; 2] {
        let mut own = [Vec::new(), Vec::new()];
        let (mut mine, mut others) = (self.chunks.iter().peekable(), other.chunks.iter().peekable());
        loop {
            let first = |chunk: &Arc<[Entry]>| chunk.first().map(|(prefix, _)| *prefix);
            let order = match (mine.peek(), others.peek()) {
                (None, None) => return own,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(mine), Some(other)) => first(mine).cmp(&first(other)),
            };
            let a = if order.is_le() { mine.next() } else { None };
            let b = if order.is_ge() { others.next() } else { None };
            if a.zip(b).is_some_and(|(a, b)| Arc::ptr_eq(a, b)) {
                continue;
            }
            own[0].extend(a.map(|chunk| &**chunk));
            own[1].extend(b.map(|chunk| &**chunk));
        }
    }

    /// The prefixes whose attributes differ, with those of `self` and of `new`.
    pub(crate) fn differences<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        let [old, new] = self.own_chunks(new).map(|chunks| chunks.into_iter().flatten().peekable());
        let (mut old, mut new) = (old, new);
        std::iter::from_fn(move || {
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((old, _)), Some((new, _))) => old.cmp(new),
                };
                let was = if order.is_le() { old.next() } else { None };
                let is = if order.is_ge() { new.next() } else { None };
                match (was, is) {
                    (Some((_, was)), Some((_, is))) if Arc::ptr_eq(was, is) || was == is => {}
                    (Some((prefix, was)), is) => return Some((*prefix, Some(was), is.map(|(_, is)| is))),
                    (None, Some((prefix, is))) => return Some((*prefix, None, Some(is))),
                    (None, None) => return None,
                }
            }
        })
    }
}

type Difference<'a> = (IpNet, Option<&'a Arc<Attributes>>, Option<&'a Arc<Attributes>>);

/// These entries after these changes, both in order of prefix.
fn merge<'a>(
    entries: &[Entry],
    changes: impl Iterator<Item = (&'a IpNet, &'a Option<Arc<Attributes>>)>,
) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(entries.len() + 1);
    let mut rest = entries;
    for (prefix, attributes) in changes {
        let (before, from) = rest.split_at(rest.partition_point(|(other, _)| other < prefix));
        merged.extend_from_slice(before);
        rest = match from.split_first() {
            Some(((other, _), behind)) if other == prefix => behind,
            _ => from,
        };
        merged.extend(attributes.as_ref().map(|attributes| (*prefix, Arc::clone(attributes))));
    }
    merged.extend_from_slice(rest);
    merged
}

impl FromIterator<Route> for RouteSet {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut known = HashSet::<Arc<Attributes>>::new();
        let mut entries: Vec<Entry> = routes
            .into_iter()
            .map(|Route { prefix, attributes }| {
                let attributes = match known.get(&attributes) {
                    Some(attributes) => Arc::clone(attributes),
                    None => {
                        let attributes = Arc::new(attributes);
                        known.insert(Arc::clone(&attributes));
                        attributes
                    }
                };
                (prefix.trunc(), attributes)
            })
            .collect();
        entries.sort_unstable();
        entries.dedup_by_key(|(prefix, _)| *prefix);
        Self::of(&entries)
    }
}
