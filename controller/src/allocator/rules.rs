//! What a Service may hold, what it may be given, and which address that is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_runtime::ObjectName;

use super::pool::{Order, to_bits};
use super::{Allocator, Demand, Family, Reason, Want};

/// How many addresses more a namespace may be given by its quota.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    namespace: &'a str,
    limit: Option<u32>,
    left: usize,
}

impl Room<'_> {
    /// Whether an address that the namespace does not hold yet may be given.
    fn may_cost(&self) -> bool {
        self.limit.is_none() || self.left > 0
    }

    /// Why not so many new ones.
    pub(super) fn refusal(&self, needed: usize) -> Option<Reason> {
        let limit = self.limit.filter(|_| self.left < needed)?;
        Some(Reason::Quota { namespace: self.namespace.to_owned(), limit })
    }
}

impl Allocator {
    /// The pool if the Service may go on holding exactly these addresses.
    pub(super) fn keepable(&self, demand: Demand<'_>, addresses: &[IpAddr]) -> Result<usize, Reason> {
        let asked = &demand.request.addresses;
        let same = asked.len() == addresses.len() && addresses.iter().all(|a| asked.contains(a));
        if !asked.is_empty() && !same {
            return Err(Reason::OtherRequested);
        }
        self.admissible(demand, addresses, false).map_err(|reason| match reason {
            Reason::FamilyMismatch => Reason::FamiliesChanged,
            reason => reason,
        })
    }

    /// The pool if the Service may be given exactly the addresses that it asks for.
    pub(super) fn givable(&self, demand: Demand<'_>, addresses: &[IpAddr]) -> Result<usize, Reason> {
        self.admissible(demand, addresses, true)
    }

    /// `anew`: the Service does not hold them yet, so that also who is about to leave is in the way.
    fn admissible(&self, demand: Demand<'_>, addresses: &[IpAddr], anew: bool) -> Result<usize, Reason> {
        let families: Vec<Family> = addresses.iter().map(|&address| Family::of(address)).collect();
        let fits = match (demand.want, families.as_slice()) {
            (Want::One(family), [one]) => family == *one,
            (Want::Both { .. } | Want::BothOrOne { .. }, [one, two]) => one != two,
            // MetalLB: an explicit request must name both.
            (Want::BothOrOne { .. }, [_]) => demand.asks_for_nothing(),
            _ => false,
        };
        if !fits {
            return Err(Reason::FamilyMismatch);
        }
        let mut found = None;
        for &address in addresses {
            let place = self.places.of(address).ok_or(Reason::OutsidePools(address))?;
            let pool = &self.pools[place.pool];
            if let Some(wish) = demand.request.pool.as_ref().filter(|wish| *wish != pool.name()) {
                return Err(Reason::OtherPool(address, wish.clone()));
            }
            // Two addresses come from one pool, except when both were asked for by name.
            if demand.asks_for_nothing() && found.is_some_and(|found| found != place.pool) {
                return Err(Reason::TwoPools(address, pool.name().to_owned()));
            }
            if !self.serves(place.pool, demand) {
                return Err(Reason::PoolForOthers(pool.name().to_owned()));
            }
            if pool.leaves_out(address) {
                return Err(Reason::Buggy(address));
            }
            let reserved = pool.reserved(place.piece).filter(|_| anew);
            if let Some(reservation) = reserved.map(|index| &self.reservations[index])
                && !reservation.admits(&demand.service.namespace, &demand.service.name)
            {
                return Err(Reason::Reserved(address, reservation.to_string()));
            }
            if let Some(conflict) = self.tenants.conflict(address, demand.service, demand.terms, anew) {
                return Err(Reason::InUse(address, conflict.holder.to_string(), conflict.why));
            }
            found.get_or_insert(place.pool);
        }
        found.ok_or(Reason::FamilyMismatch)
    }

    /// Whether the pool is for the Service.
    fn serves(&self, pool: usize, demand: Demand<'_>) -> bool {
        let pool = &self.pools[pool].pool;
        let selects =
            |allocation: &herald_config::ServiceAllocation| !allocation.service_selectors.is_empty();
        let labels = match pool.allocation.as_ref().is_some_and(selects) {
            true => demand.labels.to_map(),
            false => BTreeMap::new(),
        };
        pool.serves(&demand.service.namespace, demand.namespace, &labels)
    }

    /// The pools to try, in their order.
    pub(super) fn candidates(&self, demand: Demand<'_>) -> Result<Vec<usize>, Reason> {
        if let Some(wish) = &demand.request.pool {
            let found = self.pools.iter().position(|pool| pool.name() == wish);
            let pool = found.ok_or_else(|| Reason::UnknownPool(wish.clone()))?;
            return match self.serves(pool, demand) {
                true => Ok(vec![pool]),
                false => Err(Reason::PoolForOthers(wish.clone())),
            };
        }
        let suits = |pool: &usize| self.pools[*pool].pool.auto_assign && self.serves(*pool, demand);
        Ok(self.order.iter().copied().filter(suits).collect())
    }

    /// What the quota leaves to the Service's namespace. To move costs nothing: the Service may have as many as it is to
    /// lose.
    pub(super) fn room<'a>(&self, service: &'a ObjectName) -> Room<'a> {
        let namespace = &*service.namespace;
        let limit = self.quotas.of(namespace);
        let free = |limit: u32| (limit as usize).saturating_sub(self.holdings.count(namespace));
        let left = limit.map_or(0, |limit| free(limit).max(self.tenants.leaving(service).len()));
        Room { namespace, limit, left }
    }

    /// What the namespace does not hold yet.
    pub(super) fn cost(&self, namespace: &str, addresses: &[IpAddr]) -> usize {
        addresses.iter().filter(|address| !self.holdings.has(namespace, **address)).count()
    }

    /// An address of each family, each from this pool.
    pub(super) fn pick_all(
        &mut self,
        pool: usize,
        families: &[Family],
        demand: Demand<'_>,
        scarce: bool,
        mut room: Room<'_>,
    ) -> Option<Vec<IpAddr>> {
        let mut addresses = Vec::with_capacity(families.len());
        for &family in families {
            // One that is plentiful is not taken from those that cool because the other is scarce.
            let plenty = self.pick(pool, family, demand, false, &room);
            let address =
                plenty.or_else(|| scarce.then(|| self.pick(pool, family, demand, true, &room)).flatten())?;
            room.left = room.left.saturating_sub(self.cost(room.namespace, &[address]));
            addresses.push(address);
        }
        Some(addresses)
    }

    /// The lowest address of the pool that is free or may be shared, of those reserved for the Service first; if it
    /// is `scarce`, the one that was freed longest ago.
    pub(super) fn pick(
        &mut self,
        pool: usize,
        family: Family,
        demand: Demand<'_>,
        scarce: bool,
        room: &Room<'_>,
    ) -> Option<IpAddr> {
        if scarce {
            return self.pick_cooling(pool, family, demand).filter(|_| room.may_cost());
        }
        let Self { pools, tenants, cooling, places, reservations, holdings, .. } = self;
        let state = &mut pools[pool];
        let occupied = |address| tenants.is_occupied(address) || cooling.is_cooling(address);
        let free = match room.may_cost() {
            true => state.lowest_free(family, demand.service, reservations, occupied),
            false => None,
        };
        let shared = tenants.shareable(demand.service, demand.terms).filter_map(|address| {
            let place = places.of(address).filter(|place| place.pool == pool)?;
            let usable = Family::of(address) == family && !state.leaves_out(address);
            let affordable = room.may_cost() || holdings.has(&demand.service.namespace, address);
            let general = match state.reserved(place.piece) {
                None => true,
                Some(at) if reservations[at].admits(&demand.service.namespace, &demand.service.name) => false,
                Some(_) => return None,
            };
            let order: Order = (place.piece, to_bits(address));
            (usable && affordable).then_some((general, order, address))
        });
        shared.chain(free).min().map(|(_, _, address)| address)
    }

    fn pick_cooling(&self, pool: usize, family: Family, demand: Demand<'_>) -> Option<IpAddr> {
        let state = &self.pools[pool];
        let usable = |address: &IpAddr| {
            let Some(place) = self.places.of(*address).filter(|place| place.pool == pool) else {
                return false;
            };
            let reserved = state.reserved(place.piece).map(|index| &self.reservations[index]);
            Family::of(*address) == family
                && !state.leaves_out(*address)
                && reserved.is_none_or(|r| r.admits(&demand.service.namespace, &demand.service.name))
        };
        self.cooling.longest().find(usable)
    }

    /// Why the second address is missing beside this one.
    pub(super) fn lacking(&self, pool: usize, one: IpAddr, room: &Room<'_>) -> Reason {
        let name = self.pools[pool].name().to_owned();
        let missing = Family::of(one).other();
        if !self.pools[pool].has(missing) {
            return Reason::OneFamily(name);
        }
        room.refusal(2).unwrap_or_else(|| Reason::Exhausted { wanted: missing.word(), pools: vec![name] })
    }
}
