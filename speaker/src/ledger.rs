//! Who wants which route, which local address and which address of layer 2: the owner of what Services share.
//!
//! An aggregate covers many Services, and two Services may hold one address. So a Service never announces a
//! prefix itself: it *claims* it here, and a prefix is wanted while somebody claims it. When claims of one prefix
//! differ in their attributes the route carries the union of the communities and the highest local preference,
//! whatever the order in which they came.
//!
//! Invariant: what is wanted is a function of the set of claims, never of their history; replacing one Service's
//! claims costs what that Service claims, not what the node announces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_proxy::{ByPrefix, Owners};
use herald_runtime::ObjectName;
use ipnet::IpNet;

use crate::layer2::Offered;

/// So many different attributes are remembered before those that no route has are forgotten.
const SAID: usize = 64;

/// What a route says besides its prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attributes {
    /// To everybody who is told.
    pub(crate) said: Arc<herald_bgp::Attributes>,
    /// The peers that are told; `None` means all.
    pub(crate) peers: Option<BTreeSet<IpAddr>>,
}

impl Attributes {
    /// Adds what another claim of the same prefix wants.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.peers = match (self.peers.take(), &other.peers) {
            (Some(mine), Some(theirs)) => Some(&mine | theirs),
            _ => None,
        };
        if self.said != other.said {
            let (said, other) = (Arc::make_mut(&mut self.said), &other.said);
            said.communities.extend(&other.communities);
            said.large_communities.extend(&other.large_communities);
            said.local_pref = said.local_pref.max(other.local_pref);
        }
    }
}

/// What one Service wants of the node, besides its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Routes.
    pub(crate) routes: ByPrefix<Arc<Attributes>>,
    /// Addresses on `lo`.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Addresses that the node may own by layer 2.
    pub(crate) offers: BTreeMap<IpAddr, Offered>,
}

impl Claims {
    /// True when nothing is claimed.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.addresses.is_empty() && self.offers.is_empty()
    }
}

/// What a change of claims may have an effect on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Prefixes that were or are claimed.
    pub(crate) prefixes: BTreeSet<IpNet>,
    /// Addresses that were or are claimed.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Addresses that were or are offered.
    pub(crate) offers: BTreeSet<IpAddr>,
}

impl Touched {
    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        self.prefixes.extend(other.prefixes);
        self.addresses.extend(other.addresses);
        self.offers.extend(other.offers);
    }

    fn add(&mut self, claims: &Claims) {
        self.prefixes.extend(claims.routes.keys());
        self.addresses.extend(&claims.addresses);
        self.offers.extend(claims.offers.keys());
    }
}

/// All claims of all Services.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    claims: BTreeMap<ObjectName, Claims>,
    routes: Owners,
    addresses: Owners,
    offers: Owners,
    /// What routes say, once for all that say the same.
    said: BTreeSet<Arc<Attributes>>,
}

impl Ledger {
    /// Replaces what a Service claims; empty claims forget it. Returns what must be looked at again.
    pub(crate) fn claim(&mut self, service: &ObjectName, mut claims: Claims) -> Touched {
        let mut touched = Touched::default();
        touched.add(&claims);
        let former = self.claims.remove(service).unwrap_or_default();
        touched.add(&former);
        self.share_all(&mut claims.routes);
        self.routes.replace(service, former.routes.keys(), claims.routes.keys());
        let hosts =
            |addresses: &BTreeSet<IpAddr>| addresses.iter().map(|ip| IpNet::from(*ip)).collect::<Vec<_>>();
        self.addresses.replace(service, hosts(&former.addresses), hosts(&claims.addresses));
        let hosts =
            |offers: &BTreeMap<IpAddr, Offered>| offers.keys().map(|ip| IpNet::from(*ip)).collect::<Vec<_>>();
        self.offers.replace(service, hosts(&former.offers), hosts(&claims.offers));
        if !claims.is_empty() {
            self.claims.insert(service.clone(), claims);
        }
        touched
    }

    /// The attributes that a prefix is wanted with; `None` when nobody claims it.
    pub(crate) fn route(&self, prefix: &IpNet) -> Option<Arc<Attributes>> {
        let owners = self.routes.of(prefix).iter();
        let mut claimed =
            owners.filter_map(|owner| self.claims.get(owner).and_then(|claims| claims.routes.get(prefix)));
        let mut merged = Arc::clone(claimed.next()?);
        for attributes in claimed.filter(|attributes| !Arc::ptr_eq(attributes, &merged)).collect::<Vec<_>>() {
            Arc::make_mut(&mut merged).merge(attributes);
        }
        Some(self.said.get(&merged).cloned().unwrap_or(merged))
    }

    /// How an address is offered for layer 2; `None` when nobody does.
    pub(crate) fn offer(&self, address: &IpAddr) -> Option<Offered> {
        let owners = self.offers.of(&(*address).into()).iter();
        let mut claimed =
            owners.filter_map(|owner| self.claims.get(owner).and_then(|claims| claims.offers.get(address)));
        let mut merged = claimed.next()?.clone();
        claimed.for_each(|offered| merged.merge(offered));
        Some(merged)
    }

    /// Whether an address is wanted on `lo`.
    pub(crate) fn wants_address(&self, address: &IpAddr) -> bool {
        !self.owners_of_address(address).is_empty()
    }

    /// The Services that want an address on `lo`.
    pub(crate) fn owners_of_address(&self, address: &IpAddr) -> &[ObjectName] {
        self.addresses.of(&(*address).into())
    }

    /// Gives routes the attributes that others have, too.
    fn share_all(&mut self, routes: &mut ByPrefix<Arc<Attributes>>) {
        let mut last: Option<(Arc<Attributes>, Arc<Attributes>)> = None;
        for attributes in routes.values_mut() {
            let shared = match &last {
                Some((own, shared)) if Arc::ptr_eq(own, attributes) => Arc::clone(shared),
                _ => {
                    let shared = self.share(attributes);
                    last = Some((Arc::clone(attributes), Arc::clone(&shared)));
                    shared
                }
            };
            *attributes = shared;
        }
    }

    fn share(&mut self, attributes: &Arc<Attributes>) -> Arc<Attributes> {
        if let Some(shared) = self.said.get(attributes) {
            return Arc::clone(shared);
        }
        if self.said.len() >= SAID {
            self.said.retain(|said| Arc::strong_count(said) > 1);
        }
        self.said.insert(Arc::clone(attributes));
        Arc::clone(attributes)
    }
}

#[cfg(test)]
mod tests {
    use herald_bgp::{Community, LargeCommunity};
    use proptest::prelude::*;

    use super::*;

    fn name(n: u8) -> ObjectName {
        ObjectName::new("shop", format!("svc-{n}"))
    }

    fn said(communities: &[u32], local_pref: u32) -> Attributes {
        let communities = communities.iter().copied().map(Community).collect();
        let said = herald_bgp::Attributes {
            communities,
            local_pref: Some(local_pref),
            ..herald_bgp::Attributes::default()
        };
        Attributes { said: Arc::new(said), peers: None }
    }

    fn claims(routes: &[(&str, &[u32], u32)]) -> Claims {
        let routes = routes.iter().map(|(prefix, communities, local_pref)| {
            (prefix.parse().unwrap(), Arc::new(said(communities, *local_pref)))
        });
        Claims { routes: routes.collect(), ..Claims::default() }
    }

    #[test]
    fn an_aggregate_is_wanted_until_its_last_service_goes() {
        let mut ledger = Ledger::default();
        let aggregate = "192.0.2.0/24".parse().unwrap();
        ledger.claim(&name(1), claims(&[("192.0.2.0/24", &[], 0)]));
        ledger.claim(&name(2), claims(&[("192.0.2.0/24", &[], 0)]));
        assert!(ledger.claim(&name(1), Claims::default()).prefixes.contains(&aggregate));
        assert!(ledger.route(&aggregate).is_some());
        ledger.claim(&name(2), Claims::default());
        assert_eq!(ledger.route(&aggregate), None);
    }

    #[test]
    fn differing_attributes_merge_to_all_communities_and_the_highest_preference() {
        let mut ledger = Ledger::default();
        ledger.claim(&name(1), claims(&[("192.0.2.0/24", &[7], 50)]));
        ledger.claim(&name(2), claims(&[("192.0.2.0/24", &[3], 200)]));
        let large = BTreeSet::from([LargeCommunity(64500, 1, 2)]);
        let prefix = "192.0.2.0/24".parse().unwrap();
        let mut third = said(&[3], 0);
        Arc::make_mut(&mut third.said).large_communities.clone_from(&large);
        let third = [(prefix, Arc::new(third))].into_iter().collect();
        ledger.claim(&name(3), Claims { routes: third, ..Claims::default() });
        let mut expected = said(&[3, 7], 200);
        Arc::make_mut(&mut expected.said).large_communities = large;
        assert_eq!(ledger.route(&prefix).as_deref(), Some(&expected));
    }

    #[test]
    fn a_route_is_for_the_peers_of_all_its_claims_and_one_for_all_is_for_all() {
        let to = |peers: Option<&[u8]>| Attributes {
            peers: peers.map(|peers| peers.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect()),
            ..Attributes::default()
        };
        let merged = |mut one: Attributes, other: Attributes| {
            one.merge(&other);
            one
        };
        assert_eq!(merged(to(Some(&[1])), to(Some(&[2]))), to(Some(&[1, 2])));
        assert_eq!(merged(to(Some(&[1])), to(None)), to(None));
        assert_eq!(merged(to(None), to(Some(&[1]))), to(None));
    }

    fn any_claims() -> impl Strategy<Value = Claims> {
        let attributes = (proptest::collection::vec(0u32..4, 0..3), 0u32..3)
            .prop_map(|(communities, local_pref)| Arc::new(said(&communities, local_pref)));
        let routes = proptest::collection::btree_map(0u8..4, attributes, 0..3);
        let addresses = proptest::collection::btree_set(0u8..4, 0..3);
        (routes, addresses).prop_map(|(routes, addresses)| Claims {
            routes: routes
                .into_iter()
                .map(|(n, attributes)| (format!("192.0.2.{n}/32").parse().unwrap(), attributes))
                .collect(),
            addresses: addresses.into_iter().map(|n| IpAddr::from([192, 0, 2, n])).collect(),
            offers: BTreeMap::new(),
        })
    }

    proptest! {
        #[test]
        fn what_is_wanted_depends_on_the_claims_and_not_on_their_history(
            history in proptest::collection::vec((0u8..4, any_claims()), 0..12)
        ) {
            let mut ledger = Ledger::default();
            let mut last = BTreeMap::new();
            for (n, claims) in history {
                ledger.claim(&name(n), claims.clone());
                last.insert(n, claims);
            }
            let mut fresh = Ledger::default();
            for (n, claims) in last.into_iter().rev() {
                fresh.claim(&name(n), claims);
            }
            for n in 0u8..4 {
                let address = IpAddr::from([192, 0, 2, n]);
                let prefix = IpNet::from(address);
                prop_assert_eq!(ledger.route(&prefix), fresh.route(&prefix));
                prop_assert_eq!(ledger.owners_of_address(&address), fresh.owners_of_address(&address));
            }
        }
    }
}
