//! Addresses that were freed a short while ago: clients and routers may still hold connections to their last owner.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Cooling {
    period: Duration,
    freed: HashMap<IpAddr, Instant>,
    in_order: BTreeSet<(Instant, IpAddr)>,
}

impl Cooling {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, freed: HashMap::new(), in_order: BTreeSet::new() }
    }

    /// Takes over the addresses of another one; its own period decides when they have cooled.
    pub(super) fn keep(&mut self, old: &Self) {
        self.freed.clone_from(&old.freed);
        self.in_order.clone_from(&old.in_order);
    }

    pub(super) fn begin(&mut self, address: IpAddr, now: Instant) {
        self.forget(address);
        if !self.period.is_zero() {
            self.freed.insert(address, now);
            self.in_order.insert((now, address));
        }
    }

    pub(super) fn forget(&mut self, address: IpAddr) {
        if let Some(at) = self.freed.remove(&address) {
            self.in_order.remove(&(at, address));
        }
    }

    pub(super) fn is_cooling(&self, address: IpAddr) -> bool {
        self.freed.contains_key(&address)
    }

    /// Removes and returns what has cooled.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut cooled = Vec::new();
        while let Some(&(at, address)) = self.in_order.first() {
            if at + self.period > now {
                break;
            }
            self.forget(address);
            cooled.push(address);
        }
        cooled
    }

    /// What was freed longest ago first.
    pub(super) fn longest(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.in_order.iter().map(|(_, address)| *address)
    }
}
