//! Which Service holds which address. Pure: no API, no clock.
//!
//! Laws: an address has one holder, or several that may lawfully share it; all addresses that stand in a status are adopted
//! (or at least reserved) before any is given; of the pools in their order the lowest free address is given; a
//! freed address is given again only after the cool-down, except when nothing else is left (then the one that was freed
//! longest ago) or it is asked for by name.
//!
//! What is held is held as long as pools, request, families and MetalLB's rule of sharing allow it. Quotas,
//! reservations and the confinement of sharing are asked only when an address is *given*: to configure one takes
//! nobody's address away.
//!
//! An address that a Service is to lose stays reserved for it (*leaving*) until its status does not show it any
//! more: otherwise two statuses could name one address while the first is still being rewritten.

mod cooling;
mod demand;
mod places;
mod pool;
mod rules;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use herald_config::{HeraldOptions, Pool, Quotas, Reservation};
use herald_runtime::ObjectName;

use crate::reason::Reason;
use cooling::Cooling;
pub use demand::{Assignment, Demand, Family, Grant, Labels, Request, Want};
use places::{Place, Places};
pub use pool::Usage;
use pool::{PoolState, to_bits};
pub use tenants::Terms;
use tenants::{Holdings, Occupied, Tenants, distinct};

/// All pools and who holds what.
#[derive(Debug)]
pub struct Allocator {
    pools: Vec<PoolState>,
    /// Indices of the pools in the order in which they are tried.
    order: Vec<usize>,
    places: Places,
    reservations: Vec<Reservation>,
    quotas: Quotas,
    holdings: Holdings,
    tenants: Tenants,
    assigned: HashMap<ObjectName, Held>,
    /// What statuses show that could not be adopted, or not all of it.
    refused: HashMap<ObjectName, Vec<IpAddr>>,
    cooling: Cooling,
    /// Counts changes that may help a Service that waits.
    frees: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    addresses: Vec<IpAddr>,
    pool: usize,
}

impl Allocator {
    /// Empty pools.
    pub fn new(pools: &[Pool], options: &HeraldOptions) -> Self {
        let mut order: Vec<usize> = (0..pools.len()).collect();
        order.sort_by_key(|&pool| pools[pool].rank());
        let pools: Vec<PoolState> =
            pools.iter().map(|pool| PoolState::new(pool, &options.reservations)).collect();
        Self {
            order,
            places: Places::new(&pools),
            pools,
            reservations: options.reservations.clone(),
            quotas: options.quotas.clone(),
            holdings: Holdings::default(),
            tenants: Tenants::new(options.sharing),
            assigned: HashMap::new(),
            refused: HashMap::new(),
            cooling: Cooling::new(options.cool_down),
            frees: 0,
        }
    }

    /// Takes over what another allocator knows of freed addresses: for a change of the configuration.
    pub fn keep_cooling(&mut self, old: &Self) {
        self.cooling.keep(&old.cooling);
        self.frees = old.frees + 1;
    }

    /// What the Service holds.
    pub fn assignment(&self, service: &ObjectName) -> Option<Assignment> {
        self.assigned.get(service).map(|held| self.told(held))
    }

    /// Whether the Service holds anything.
    pub fn holds(&self, service: &ObjectName) -> bool {
        self.assigned.contains_key(service)
    }

    /// Changes whenever an address was freed or may be shared anew: Services that wait are worth another look.
    pub fn frees(&self) -> u64 {
        self.frees
    }

    /// Name and use of each pool, IPv4 and IPv6.
    pub fn usage(&self) -> impl Iterator<Item = (&str, [Usage; 2])> {
        self.pools.iter().map(|pool| (pool.name(), pool.usage))
    }

    /// The pool that the address belongs to.
    pub fn pool_of(&self, address: IpAddr) -> Option<&str> {
        self.places.of(address).map(|place| self.pools[place.pool].name())
    }

    /// Gives the Service the addresses that it has already, if it may have them. Otherwise [`Allocator::converge`]
    /// sees what of them it may keep.
    pub fn adopt(&mut self, demand: Demand<'_>, addresses: &[IpAddr]) {
        match self.keepable(demand, addresses) {
            Ok(pool) => {
                self.assign(demand, addresses.to_vec(), pool);
            }
            Err(_) => {
                self.refused.insert(demand.service.clone(), addresses.to_vec());
            }
        }
    }

    /// Keeps what the Service holds as long as it may, otherwise gives it what it may have. On an error it holds
    /// nothing any more.
    pub fn converge(&mut self, demand: Demand<'_>, now: Instant) -> Result<Grant, Reason> {
        self.cool(now);
        let refused = self.refused.remove(demand.service);
        let held = self.assigned.get(demand.service).map(|held| held.addresses.clone());
        let mut lost = None;
        if let Some(addresses) = held.or(refused) {
            match self.kept(demand, addresses) {
                Ok(grant) => return Ok(grant),
                Err(reason) => lost = Some(reason),
            }
        }
        self.leave(demand.service);
        let mut grant = self.allocate(demand)?;
        grant.lost = lost;
        Ok(grant)
    }

    /// What the Service may keep, and what it needs beside it: also after its families became more or fewer.
    fn kept(&mut self, demand: Demand<'_>, mut held: Vec<IpAddr>) -> Result<Grant, Reason> {
        if let (Want::One(family), [_, _]) = (demand.want, held.as_slice()) {
            held.retain(|address| Family::of(*address) == family);
        }
        let reason = match (demand.want, held.as_slice()) {
            (Want::Both { primary } | Want::BothOrOne { primary }, &[one]) if demand.asks_for_nothing() => {
                let kept = self.keepable(Demand { want: Want::One(Family::of(one)), ..demand }, &[one])?;
                return self.completed(demand, kept, one, primary);
            }
            _ => match self.keepable(demand, &held) {
                Ok(pool) => {
                    let assignment = self.assign(demand, held, pool);
                    return Ok(Grant { assignment, lost: None, lacks: None });
                }
                Err(reason) => reason,
            },
        };
        let (Want::Both { primary } | Want::BothOrOne { primary }, [_, _]) = (demand.want, held.as_slice())
        else {
            return Err(reason);
        };
        if !demand.asks_for_nothing() {
            return Err(reason);
        }
        // One of the two went out of its pool, say: the other one is kept if that does not cost the pair.
        held.sort_by_key(|address| Family::of(*address) != primary);
        let mut single = None;
        for &one in &held {
            let Ok(pool) = self.keepable(Demand { want: Want::One(Family::of(one)), ..demand }, &[one])
            else {
                continue;
            };
            let both = Demand { want: Want::Both { primary }, ..demand };
            if let Ok(grant) = self.completed(both, pool, one, primary) {
                return Ok(Grant { lost: Some(reason), ..grant });
            }
            single.get_or_insert((one, pool));
        }
        if let (Want::BothOrOne { .. }, Some((one, pool))) = (demand.want, single) {
            self.leave(demand.service);
            if let Ok(grant) = self.allocate(Demand { want: Want::Both { primary }, ..demand }) {
                return Ok(Grant { lost: Some(reason), ..grant });
            }
            let grant = self.completed(demand, pool, one, primary)?;
            return Ok(Grant { lost: Some(reason), ..grant });
        }
        Err(reason)
    }

    /// Beside the one address that is kept, the one of the other family from the same pool, where there is one.
    fn completed(
        &mut self,
        demand: Demand<'_>,
        pool: usize,
        one: IpAddr,
        primary: Family,
    ) -> Result<Grant, Reason> {
        let missing = Family::of(one).other();
        let room = self.room(demand.service);
        let picked =
            [false, true].into_iter().find_map(|scarce| self.pick(pool, missing, demand, scarce, &room));
        let mut addresses = vec![one];
        let lacks = match picked {
            Some(other) => {
                addresses.insert(usize::from(missing != primary), other);
                None
            }
            None if !self.pools[pool].has(missing) => {
                Some(Reason::OneFamily(self.pools[pool].name().to_owned()))
            }
            None => Some(room.refusal(1).unwrap_or_else(|| Reason::Exhausted {
                wanted: missing.word(),
                pools: vec![self.pools[pool].name().to_owned()],
            })),
        };
        match lacks {
            Some(reason) if matches!(demand.want, Want::Both { .. }) => Err(reason),
            lacks => {
                let assignment = self.assign(demand, addresses, pool);
                Ok(Grant { assignment, lost: None, lacks })
            }
        }
    }

    /// Gives new addresses.
    pub fn allocate(&mut self, demand: Demand<'_>) -> Result<Grant, Reason> {
        let room = self.room(demand.service);
        if !demand.asks_for_nothing() {
            let addresses = demand.in_order();
            let pool = self.givable(demand, &addresses)?;
            let cost = self.cost(&demand.service.namespace, &addresses);
            if let Some(reason) = room.refusal(cost) {
                return Err(reason);
            }
            let assignment = self.assign(demand, addresses, pool);
            return Ok(Grant { assignment, lost: None, lacks: None });
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
                    let Some(addresses) = self.pick_all(pool, families, demand, scarce, room) else {
                        continue;
                    };
                    let lacks = matches!((demand.want, families.len()), (Want::BothOrOne { .. }, 1))
                        .then(|| self.lacking(pool, addresses[0], &room));
                    let assignment = self.assign(demand, addresses, pool);
                    return Ok(Grant { assignment, lost: None, lacks });
                }
            }
        }
        let (wanted, needed) = match demand.want {
            Want::One(family) => (family.word(), 1),
            Want::Both { .. } => ("pair of an IPv4 and an IPv6 address", 2),
            Want::BothOrOne { .. } => ("address", 1),
        };
        if let Some(reason) = room.refusal(needed) {
            return Err(reason);
        }
        let pools = pools.into_iter().map(|pool| self.pools[pool].name().to_owned()).collect();
        Err(Reason::Exhausted { wanted, pools })
    }

    /// The Service is to lose what it holds; the addresses stay reserved until [`Allocator::settle`] or
    /// [`Allocator::release`].
    pub fn leave(&mut self, service: &ObjectName) {
        if let Some(held) = self.assigned.remove(service) {
            for address in held.addresses {
                self.give_up(address, service);
            }
        }
    }

    /// The Service's status shows these addresses now: those that it does not hold (any more) are reserved, and those
    /// that it left and the status does not show are free.
    pub fn settle(&mut self, service: &ObjectName, status: impl Iterator<Item = IpAddr>, now: Instant) {
        let mut status: Vec<IpAddr> = status.collect();
        if self.refused.get(service).is_some_and(|refused| refused.iter().any(|a| !status.contains(a))) {
            self.refused.remove(service);
        }
        status.retain(|&address| self.places.of(address).is_some());
        let gone: Vec<IpAddr> = self
            .tenants
            .leaving(service)
            .iter()
            .filter(|address| !status.contains(address))
            .copied()
            .collect();
        for address in gone {
            let empty = self.tenants.remove(address, service);
            self.vacated(address, empty, now);
        }
        let held = self.assigned.get(service).map_or(&[][..], |held| &held.addresses);
        let shown: Vec<IpAddr> = status.into_iter().filter(|address| !held.contains(address)).collect();
        for address in shown {
            if self.tenants.reserve(address, service) {
                self.occupied(address);
            }
        }
    }

    /// The Service has these externalIPs now. Those inside pools are given to nobody else; returned are those
    /// that somebody else holds already.
    pub fn claim(
        &mut self,
        service: &ObjectName,
        external: &[IpAddr],
        terms: &Terms,
        now: Instant,
    ) -> Vec<(IpAddr, ObjectName)> {
        let inside = distinct(external.iter().copied().filter(|&address| self.places.of(address).is_some()));
        if inside.is_empty() && self.tenants.claimed(service).is_empty() {
            return Vec::new();
        }
        let (taken, freed) = self.tenants.claim(service, inside, terms);
        for address in taken {
            self.occupied(address);
        }
        for address in freed {
            self.vacated(address, true, now);
        }
        // Terms may have changed, or one of several claims gone.
        self.frees += 1;
        let clash = |address: &IpAddr| {
            let holder = self.tenants.holder_beside(*address, service, terms)?;
            Some((*address, holder.clone()))
        };
        self.tenants.claimed(service).iter().filter_map(clash).collect()
    }

    /// The Service is gone, with its status and its externalIPs.
    pub fn release(&mut self, service: &ObjectName, now: Instant) {
        self.leave(service);
        self.refused.remove(service);
        for address in self.tenants.leaving(service).to_vec() {
            let empty = self.tenants.remove(address, service);
            self.vacated(address, empty, now);
        }
        self.claim(service, &[], &Terms::default(), now);
    }

    /// Addresses whose cool-down is over are free like others.
    pub fn cool(&mut self, now: Instant) {
        for address in self.cooling.expire(now) {
            if let Some(Place { pool, piece }) = self.places.of(address) {
                self.pools[pool].freed(piece, to_bits(address));
            }
        }
    }

    /// The Service does not hold the address any more, but its status may show it.
    fn give_up(&mut self, address: IpAddr, service: &ObjectName) {
        self.tenants.leave(address, service);
        if !self.quotas.is_empty() {
            self.holdings.remove(&service.namespace, address);
        }
    }

    /// Somebody went from the address; `empty`: nobody has it now.
    fn vacated(&mut self, address: IpAddr, empty: bool, now: Instant) {
        if let Some(Place { pool, piece }) = self.places.of(address).filter(|_| empty) {
            self.cooling.begin(address, now);
            let state = &mut self.pools[pool];
            let usage = &mut state.usage[Family::of(address) as usize];
            usage.in_use = usage.in_use.saturating_sub(1);
            if !self.cooling.is_cooling(address) {
                state.freed(piece, to_bits(address));
            }
        }
        // Also one sharer less may be what another one waits for.
        self.frees += 1;
    }

    fn assign(&mut self, demand: Demand<'_>, addresses: Vec<IpAddr>, pool: usize) -> Assignment {
        let service = demand.service;
        let before = self.assigned.get(service).map(|held| held.addresses.clone()).unwrap_or_default();
        for &address in before.iter().filter(|address| !addresses.contains(address)) {
            self.give_up(address, service);
        }
        for &address in &addresses {
            let Occupied { first, opened } = self.tenants.occupy(address, service, demand.terms);
            if first {
                self.occupied(address);
            }
            if opened {
                self.frees += 1;
            }
            if !self.quotas.is_empty() && !before.contains(&address) {
                self.holdings.add(&service.namespace, address);
            }
        }
        self.refused.remove(service);
        let held = Held { addresses, pool };
        let assignment = self.told(&held);
        self.assigned.insert(service.clone(), held);
        assignment
    }

    fn told(&self, held: &Held) -> Assignment {
        Assignment { addresses: held.addresses.clone(), pool: self.pools[held.pool].name().to_owned() }
    }

    /// Somebody has the address who is the first.
    fn occupied(&mut self, address: IpAddr) {
        self.cooling.forget(address);
        if let Some(Place { pool, piece }) = self.places.of(address) {
            self.pools[pool].taken(piece, to_bits(address));
            self.pools[pool].usage[Family::of(address) as usize].in_use += 1;
        }
    }
}
