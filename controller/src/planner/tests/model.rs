//! The reference: an allocator so simple that it can be seen to be right. It keeps nothing, walks over every
//! address of every pool and asks the same question of each. Pools are tiny, so that it can.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_config::{Config, Pool, Sharing};

use crate::allocator::{Family, Want};
use crate::service::{ServiceType, ServiceView};

/// The world as the API server has it.
pub(super) struct Model<'a> {
    pub(super) config: &'a Config,
    pub(super) services: &'a [Box<ServiceView>],
}

pub(super) fn shown(service: &ServiceView) -> Vec<IpAddr> {
    service.status_addresses().collect()
}

/// MetalLB's rule for two Services and one address.
pub(super) fn compatible(a: &ServiceView, b: &ServiceView) -> bool {
    let (a, b) = (&a.terms, &b.terms);
    a.key.is_some() && a.key == b.key && a.ports.is_disjoint(&b.ports) && a.backend == b.backend
}

impl Model<'_> {
    fn all(&self) -> impl Iterator<Item = &ServiceView> {
        self.services.iter().map(Box::as_ref)
    }

    fn others<'a>(&'a self, service: &'a ServiceView) -> impl Iterator<Item = &'a ServiceView> {
        self.all().filter(move |other| other.name != service.name)
    }

    /// Others that show the address and must not, together with this one.
    pub(super) fn in_conflict(&self, service: &ServiceView, address: IpAddr) -> bool {
        self.others(service).any(|other| shown(other).contains(&address) && !compatible(service, other))
    }

    fn serves(&self, pool: &Pool, service: &ServiceView) -> bool {
        pool.serves(&service.name.namespace, &Default::default(), &service.labels.to_map())
    }

    /// Whether pools, request and families allow the Service exactly these addresses.
    pub(super) fn may_keep(&self, service: &ServiceView, addresses: &[IpAddr]) -> bool {
        let (Ok(request), Ok(want)) = (&service.request, &service.want) else { return false };
        if service.kind != ServiceType::LoadBalancer || service.class.is_some() {
            return false;
        }
        let families: BTreeSet<Family> = addresses.iter().map(|address| Family::of(*address)).collect();
        let fits = match want {
            Want::One(family) => addresses.len() == 1 && families.contains(family),
            Want::Both { .. } => addresses.len() == 2 && families.len() == 2,
            Want::BothOrOne { .. } if request.addresses.is_empty() => {
                !addresses.is_empty() && addresses.len() == families.len()
            }
            Want::BothOrOne { .. } => addresses.len() == 2 && families.len() == 2,
        };
        let asked: BTreeSet<_> = request.addresses.iter().collect();
        if !fits || !asked.is_empty() && asked != addresses.iter().collect() {
            return false;
        }
        let pools: Option<Vec<&Pool>> =
            addresses.iter().map(|address| self.config.pool_containing(*address)).collect();
        let Some(pools) = pools else { return false };
        let one_pool = pools.iter().all(|pool| pool.name == pools[0].name) || !asked.is_empty();
        let each = pools.iter().zip(addresses).all(|(pool, address)| {
            self.serves(pool, service)
                && pool.usable(*address)
                && request.pool.as_ref().is_none_or(|wish| *wish == pool.name)
        });
        one_pool && each
    }

    /// Whether the Service may be given exactly these addresses, of which it has none yet but what `kept` says.
    pub(super) fn may_get(&self, service: &ServiceView, addresses: &[IpAddr], kept: &[IpAddr]) -> bool {
        let namespace = &service.name.namespace;
        let new = || addresses.iter().filter(|address| !kept.contains(address));
        let free = new().all(|address| {
            let joins = |other: &ServiceView| {
                let confined = self.config.herald.sharing == Sharing::Namespace;
                compatible(service, other) && (!confined || other.name.namespace == *namespace)
            };
            let has =
                |other: &&ServiceView| shown(other).contains(address) || other.external_ips.contains(address);
            // Its own externalIP is given to it only if it asks.
            let asked = service.request.as_ref().is_ok_and(|request| request.addresses.contains(address));
            let own = service.external_ips.contains(address) && !asked;
            let mut reserved = self.config.herald.reservations.iter();
            let reserved = reserved.find(|r| r.ranges.iter().any(|range| range.contains(*address)));
            !own && self.others(service).filter(has).all(joins)
                && reserved.is_none_or(|r| r.admits(namespace, &service.name.name))
        });
        let neighbours = self.all().filter(|other| other.name.namespace == *namespace);
        let holds = |other: &&ServiceView| other.kind == ServiceType::LoadBalancer && other.class.is_none();
        let held: BTreeSet<IpAddr> = neighbours.filter(holds).flat_map(shown).collect();
        let cost = new().filter(|address| !held.contains(address)).count();
        let limit = self.config.herald.quotas.of(namespace).map(|limit| limit as usize);
        let affordable = cost == 0 || limit.is_none_or(|limit| held.len() + cost <= limit);
        free && affordable && self.may_keep(service, addresses)
    }

    /// The pools that the Service may be given addresses of without naming them, or the one that it names; in order.
    fn candidates(&self, service: &ServiceView) -> Vec<&Pool> {
        let wish = service.request.as_ref().ok().and_then(|request| request.pool.as_ref());
        let suits = |pool: &&Pool| match wish {
            Some(wish) => pool.name == *wish,
            None => pool.auto_assign,
        };
        let mut pools: Vec<&Pool> = self.config.pools.iter().filter(suits).collect();
        pools.sort_by_key(|pool| pool.rank());
        pools
    }

    /// All addresses of a pool in the order in which the Service is given them.
    fn addresses(&self, pool: &Pool, service: &ServiceView) -> Vec<IpAddr> {
        let name = &service.name;
        let own = |address: &IpAddr| {
            let mut reservations = self.config.herald.reservations.iter();
            reservations.any(|r| {
                r.admits(&name.namespace, &name.name) && r.ranges.iter().any(|range| range.contains(*address))
            })
        };
        let (first, then): (Vec<IpAddr>, Vec<IpAddr>) = pool.usable_addresses().partition(own);
        first.into_iter().chain(then).collect()
    }

    /// What a Service without any is to be given now, if nothing cools; `None`: it has to wait.
    pub(super) fn choice(&self, service: &ServiceView) -> Option<Vec<IpAddr>> {
        let (Ok(request), Ok(want)) = (&service.request, &service.want) else { return None };
        if !request.addresses.is_empty() {
            return self.may_get(service, &request.addresses, &[]).then(|| request.addresses.clone());
        }
        let single = |family: Family| {
            self.candidates(service).into_iter().find_map(|pool| {
                let all = self.addresses(pool, service);
                let found = all.into_iter().find(|a| Family::of(*a) == family && self.alone(service, *a));
                found.map(|address| vec![address])
            })
        };
        let pair = |primary: Family| {
            self.candidates(service).into_iter().find_map(|pool| {
                let all = self.addresses(pool, service);
                let of = |first: bool| all.iter().filter(move |a| (Family::of(**a) == primary) == first);
                let pairs = of(true).flat_map(|one| of(false).map(move |two| vec![*one, *two]));
                pairs.into_iter().find(|pair| self.may_get(service, pair, &[]))
            })
        };
        let other = |family: Family| if family == Family::V4 { Family::V6 } else { Family::V4 };
        match *want {
            Want::One(family) => single(family),
            Want::Both { primary } => pair(primary),
            Want::BothOrOne { primary } => {
                pair(primary).or_else(|| single(primary)).or_else(|| single(other(primary)))
            }
        }
    }

    /// Whether this one address alone may be given, whatever number of families is wanted.
    fn alone(&self, service: &ServiceView, address: IpAddr) -> bool {
        self.may_get(service, &[address], &[])
    }

    /// Whether a Service that has one address and would like two could have the second.
    pub(super) fn may_complete(&self, service: &ServiceView, one: IpAddr) -> bool {
        let Some(pool) = self.config.pool_containing(one) else { return false };
        let other = pool.usable_addresses().filter(|a| Family::of(*a) != Family::of(one));
        other.into_iter().any(|two| self.may_get(service, &[one, two], &[one]))
    }
}
