//! Routes as the speaker wants them, and sets of them that are cheap to share and to compare.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
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

/// Routes by prefix, one per prefix. Of two routes for one prefix the first in their order (`Ord`) counts: no next hop
/// before one, no preference before one, a lower MED first, fewer or smaller communities first.
///
/// Share it as `Arc<RouteSet>`; equal attributes are held once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSet(Vec<(IpNet, Arc<Attributes>)>);

impl RouteSet {
    /// How many prefixes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The attributes of a prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Attributes> {
        let prefix = prefix.trunc();
        let at = self.0.binary_search_by(|(other, _)| other.cmp(&prefix)).ok()?;
        self.0.get(at).map(|(_, attributes)| &**attributes)
    }

    /// All in order of prefix.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Arc<Attributes>)> {
        self.0.iter().map(|(prefix, attributes)| (*prefix, attributes))
    }

    /// The prefixes whose attributes differ, with those of `self` and of `new`.
    pub(crate) fn differences<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        let (mut old, mut new) = (self.0.iter().peekable(), new.0.iter().peekable());
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

impl FromIterator<Route> for RouteSet {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut known = HashSet::<Arc<Attributes>>::new();
        let mut set: Vec<_> = routes
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
        set.sort_unstable();
        set.dedup_by_key(|(prefix, _)| *prefix);
        Self(set)
    }
}
