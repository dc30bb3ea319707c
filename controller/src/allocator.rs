//! Which Service holds which address. Pure: no API, no clock.
//!
//! Laws: an address has one holder, or several that may lawfully share it; all addresses that stand in a status are adopted
//! (or at least reserved) before any is given; the lowest free address of the pools in their order is given; a
//! freed address is given again only after the cool-down, except when nothing else is left or it is asked for by name.
//!
//! An address that a Service is to lose stays reserved for it (*leaving*) until its status does not show it any
//! more: otherwise two statuses could name one address while the first is still being rewritten.

mod cooling;
mod pool;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;

use crate::reason::Reason;
use cooling::Cooling;
use pool::PoolState;
pub use tenants::Terms;
use tenants::{Occupied, Tenants};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4 address",
            Self::V6 => "IPv6 address",
        }
    }
}

/// Which families a Service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// One address of this family.
    One(Family),
    /// One of each, from the same pool, or nothing.
    Both {
        /// The family that comes first in the status.
        primary: Family,
    },
    /// One of each from the same pool, otherwise the primary one, otherwise the other.
    BothOrOne {
        /// The family that comes first.
        primary: Family,
    },
}

/// What the user of a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Exactly these addresses; empty: any.
    pub addresses: Vec<IpAddr>,
    /// Only from this pool.
    pub pool: Option<String>,
}

/// One Service's demand.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The Service.
    pub service: &'a ObjectName,
    /// Its families.
    pub want: Want,
    /// Its wishes.
    pub request: &'a Request,
    /// What decides about sharing.
    pub terms: &'a Terms,
}

/// What a Service holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// One address, or two of different families.
    pub addresses: Vec<IpAddr>,
    /// The pool that all of them are from.
    pub pool: String,
}

/// All pools and who holds what.
#[derive(Debug)]
pub struct Allocator {
    pools: Vec<PoolState>,
    tenants: Tenants,
    assigned: HashMap<ObjectName, Assignment>,
    cooling: Cooling,
    /// Counts changes that may help a Service that waits.
    frees: u64,
}

impl Allocator {
    /// Empty pools.
    pub fn new(pools: &[herald_config::Pool], cool_down: Duration) -> Self {
        Self {
            pools: pools.iter().map(PoolState::new).collect(),
            tenants: Tenants::default(),
            assigned: HashMap::new(),
            cooling: Cooling::new(cool_down),
            frees: 0,
        }
    }

    /// Takes over what another allocator knows of freed addresses: for a change of the configuration.
    pub fn keep_cooling(&mut self, old: &Self) {
        self.cooling.keep(&old.cooling);
        self.frees = old.frees + 1;
    }

    /// What the Service holds.
    pub fn assignment(&self, service: &ObjectName) -> Option<&Assignment> {
        self.assigned.get(service)
    }

    /// Changes whenever an address was freed or may be shared anew: Services that wait are worth another look.
    pub fn frees(&self) -> u64 {
        self.frees
    }

    /// Name, size and addresses in use of each pool.
    pub fn usage(&self) -> impl Iterator<Item = (&str, i64, u64)> {
        self.pools.iter().map(|pool| (pool.name.as_str(), pool.total(), pool.in_use))
    }

    /// Gives the Service the addresses that it has already, if it may have them.
    pub fn adopt(&mut self, demand: Demand<'_>, addresses: &[IpAddr]) -> Result<(), Reason> {
        let pool = self.admissible(demand, addresses, false)?;
        self.assign(demand, addresses.to_vec(), pool);
        Ok(())
    }

    /// Keeps what the Service holds as long as it may, otherwise gives it what it may have. On an error it holds
    /// nothing any more.
    pub fn converge(&mut self, demand: Demand<'_>, now: Instant) -> Result<Assignment, Reason> {
        self.cool(now);
        if let Some(kept) = self.kept(demand) {
            return Ok(kept);
        }
        self.leave(demand.service);
        self.allocate(demand)
    }

    /// What the Service may keep: also after its families became more or fewer.
    fn kept(&mut self, demand: Demand<'_>) -> Option<Assignment> {
        let mut held = self.assigned.get(demand.service)?.addresses.clone();
        if let (Want::One(family), [_, _]) = (demand.want, held.as_slice()) {
            for address in held.extract_if(.., |address| Family::of(*address) != family) {
                self.tenants.leave(address, demand.service);
            }
        }
        let lenient = match demand.want {
            Want::Both { primary } if held.len() == 1 => Want::BothOrOne { primary },
            want => want,
        };
        let pool = self.admissible(Demand { want: lenient, ..demand }, &held, false).ok()?;
        let addresses = self.completed(Demand { want: lenient, ..demand }, pool, held);
        let complete = addresses.len() == 2 || !matches!(demand.want, Want::Both { .. });
        complete.then(|| self.assign(demand, addresses, pool))
    }

    /// Gives new addresses.
    pub fn allocate(&mut self, demand: Demand<'_>) -> Result<Assignment, Reason> {
        if !demand.request.addresses.is_empty() {
            let addresses = self.in_order(demand);
            let pool = self.admissible(demand, &addresses, true)?;
            return Ok(self.assign(demand, addresses, pool));
        }
        let pools = self.candidates(demand)?;
        let attempts: &[&[Family]] = match demand.want {
            Want::One(family) => &[&[family]],
            Want::Both { primary } => &[&[primary, primary.other()]],
            Want::BothOrOne { primary } => &[&[primary, primary.other()], &[primary], &[primary.other()]],
        };
        for families in attempts {
            for scarce in [false, true] {
                for &pool in &pools {
                    let picked: Option<Vec<IpAddr>> =
                        families.iter().map(|&family| self.pick(pool, family, demand, scarce)).collect();
                    if let Some(addresses) = picked {
                        return Ok(self.assign(demand, addresses, pool));
                    }
                }
            }
        }
        let wanted = match demand.want {
            Want::One(family) => family.word(),
            Want::Both { .. } => "pair of an IPv4 and an IPv6 address",
            Want::BothOrOne { .. } => "address",
        };
        let pools = pools.into_iter().map(|pool| self.pools[pool].name.clone()).collect();
        Err(Reason::Exhausted { wanted, pools })
    }

    /// The Service is to lose what it holds; the addresses stay reserved until [`Allocator::settle`] or
    /// [`Allocator::release`].
    pub fn leave(&mut self, service: &ObjectName) {
        if let Some(held) = self.assigned.remove(service) {
            for address in held.addresses {
                self.tenants.leave(address, service);
            }
        }
    }

    /// The Service's status shows these addresses now: those that it does not hold (any more) are reserved, and those
    /// that it left and the status does not show are free.
    pub fn settle(&mut self, service: &ObjectName, status: impl Iterator<Item = IpAddr>, now: Instant) {
        let status: Vec<IpAddr> = status.filter(|&address| self.pool_of(address).is_some()).collect();
        for address in self.tenants.leaving(service) {
            if !status.contains(&address) {
                self.vacate(address, service, now);
            }
        }
        let held = self.assigned.get(service).map_or(&[][..], |held| &held.addresses).to_vec();
        for address in status.into_iter().filter(|address| !held.contains(address)) {
            if self.tenants.reserve(address, service) {
                self.occupied(address);
            }
        }
    }

    /// The Service is gone, with its status.
    pub fn release(&mut self, service: &ObjectName, now: Instant) {
        self.leave(service);
        for address in self.tenants.leaving(service) {
            self.vacate(address, service, now);
        }
    }

    /// Addresses whose cool-down is over are free like others.
    pub fn cool(&mut self, now: Instant) {
        for address in self.cooling.expire(now) {
            if let Some(pool) = self.pool_of(address) {
                self.pools[pool].freed(address);
            }
        }
    }

    fn vacate(&mut self, address: IpAddr, service: &ObjectName, now: Instant) {
        if self.tenants.remove(address, service) {
            self.cooling.begin(address, now);
            if let Some(pool) = self.pool_of(address) {
                self.pools[pool].in_use = self.pools[pool].in_use.saturating_sub(1);
                if !self.cooling.is_cooling(address) {
                    self.pools[pool].freed(address);
                }
            }
        }
        // Also one sharer less may be what another one waits for.
        self.frees += 1;
    }

    fn assign(&mut self, demand: Demand<'_>, addresses: Vec<IpAddr>, pool: usize) -> Assignment {
        for &address in &addresses {
            let Occupied { first, opened } = self.tenants.occupy(address, demand.service, demand.terms);
            if first {
                self.occupied(address);
            }
            if opened {
                self.frees += 1;
            }
        }
        let assignment = Assignment { addresses, pool: self.pools[pool].name.clone() };
        self.assigned.insert(demand.service.clone(), assignment.clone());
        assignment
    }

    fn occupied(&mut self, address: IpAddr) {
        self.cooling.forget(address);
        if let Some(pool) = self.pool_of(address) {
            self.pools[pool].in_use += 1;
        }
    }

    fn pool_of(&self, address: IpAddr) -> Option<usize> {
        self.pools.iter().position(|pool| pool.contains(address))
    }

    /// The pool if the Service may hold exactly these addresses. `anew`: it does not hold them yet, so that also who
    /// is about to leave is in the way.
    fn admissible(&self, demand: Demand<'_>, addresses: &[IpAddr], anew: bool) -> Result<usize, Reason> {
        let families: Vec<Family> = addresses.iter().map(|&address| Family::of(address)).collect();
        let fits = match (demand.want, families.as_slice()) {
            (Want::One(family), [one]) => family == *one,
            (Want::Both { .. } | Want::BothOrOne { .. }, [one, two]) => one != two,
            // MetalLB: an explicit request must name both.
            (Want::BothOrOne { .. }, [_]) => demand.request.addresses.is_empty(),
            _ => false,
        };
        if !fits {
            return Err(Reason::FamilyMismatch);
        }
        let asked = &demand.request.addresses;
        if !asked.is_empty()
            && (asked.len() != addresses.len() || !addresses.iter().all(|a| asked.contains(a)))
        {
            return Err(Reason::FamilyMismatch);
        }
        let mut found = None;
        for &address in addresses {
            let pool = self.pool_of(address).ok_or(Reason::OutsidePools(address))?;
            let name = &self.pools[pool].name;
            if let Some(wish) = demand.request.pool.as_ref().filter(|wish| *wish != name) {
                return Err(Reason::OtherPool(address, wish.clone()));
            }
            // Two addresses come from one pool, except when both were asked for by name.
            if asked.is_empty() && found.is_some_and(|found| found != pool) {
                return Err(Reason::OtherPool(address, name.clone()));
            }
            if self.pools[pool].leaves_out(address) {
                return Err(Reason::Buggy(address));
            }
            if let Some(holder) = self.tenants.conflict(address, demand.service, demand.terms, anew) {
                return Err(Reason::InUse(address, holder.to_string()));
            }
            found.get_or_insert(pool);
        }
        found.ok_or(Reason::FamilyMismatch)
    }

    fn candidates(&self, demand: Demand<'_>) -> Result<Vec<usize>, Reason> {
        if let Some(wish) = &demand.request.pool {
            let found = self.pools.iter().position(|pool| pool.name == *wish);
            return found.map(|pool| vec![pool]).ok_or_else(|| Reason::UnknownPool(wish.clone()));
        }
        Ok((0..self.pools.len()).filter(|&pool| self.pools[pool].auto_assign).collect())
    }

    /// The lowest address of the pool that is free or may be shared; if it is `scarce`, the one that cools longest.
    fn pick(&mut self, pool: usize, family: Family, demand: Demand<'_>, scarce: bool) -> Option<IpAddr> {
        let Self { pools, tenants, cooling, .. } = self;
        let pool = &mut pools[pool];
        let free =
            pool.lowest_free(family, |address| !tenants.is_occupied(address) && !cooling.is_cooling(address));
        let shared = tenants.shareable(demand.service, demand.terms).filter_map(|address| {
            let usable = Family::of(address) == family && !pool.leaves_out(address);
            pool.order(address).filter(|_| usable).map(|order| (order, address))
        });
        let free = free.and_then(|address| pool.order(address).map(|order| (order, address)));
        if let Some((_, address)) = shared.chain(free).min() {
            return Some(address);
        }
        let usable = |address: &IpAddr| {
            Family::of(*address) == family && pool.contains(*address) && !pool.leaves_out(*address)
        };
        scarce.then(|| cooling.longest().find(usable)).flatten()
    }

    /// Adds the missing family from the same pool, where one of two is held and both are preferred.
    fn completed(&mut self, demand: Demand<'_>, pool: usize, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        if let (Want::BothOrOne { primary }, [one]) = (demand.want, addresses.as_slice()) {
            // Never by a cooling address: what the Service has works.
            let missing = Family::of(*one).other();
            if let Some(other) = self.pick(pool, missing, demand, false) {
                addresses.insert(usize::from(missing != primary), other);
            }
        }
        addresses
    }

    /// The requested addresses, primary family first.
    fn in_order(&self, demand: Demand<'_>) -> Vec<IpAddr> {
        let mut addresses = demand.request.addresses.clone();
        if let Want::Both { primary } | Want::BothOrOne { primary } = demand.want {
            addresses.sort_by_key(|&address| Family::of(address) != primary);
        }
        addresses
    }
}
