//! The floor: when the endpoints of many Services turn not ready at once, what was good last is used for a while longer.
//!
//! That many applications fail in the same seconds is rare; that the API server, the node controller or a network
//! in between was away and calls everything not ready as it comes back is not. Dropping everything would make an outage
//! of what was none. So: a Service *falls* when it loses its last usable endpoint while its slices still list one that it lost.
//! When at least 5 Services, and a fifth of those that had usable endpoints, fall within [`WINDOW`], all of
//! them are held: the endpoints they lost within it count as ready, until
//! - some endpoint of the Service is usable by itself again, or
//! - the grace is over: then the API server is believed, or
//! - what is held is not listed any more, or terminating: deleted and scaled-down things are never held.
//!
//! Pure; time is an argument, and the endpoints are asked for through [`Look`]. Memory is what changed within the window.
//! A speaker that starts has seen nothing good yet, and holds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;

/// How near together "at once" is.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Fewer Services than this are never many.
const LEAST: usize = 5;
/// One in so many of the Services that had endpoints is many.
const SHARE: usize = 5;

/// The endpoints as the slices tell them.
pub(crate) trait Look {
    /// Whether a Service has an endpoint that can be used.
    fn usable(&self, service: &ObjectName) -> bool;
    /// Its addresses that are listed, not ready and not terminating.
    fn waiting(&self, service: &ObjectName) -> BTreeSet<IpAddr>;
    /// How many Services have an endpoint that can be used.
    fn count_usable(&self) -> usize;
}

/// What becomes of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// These addresses count as ready from now on.
    Held(Arc<BTreeSet<IpAddr>>),
    /// Of the held ones only these are left.
    Narrowed(Arc<BTreeSet<IpAddr>>),
    /// Nothing is held any more.
    Released(Release),
}

/// Why something is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Some endpoint is usable again.
    Usable,
    /// The grace is over.
    GraceOver,
    /// None of the held endpoints is there any more.
    Gone,
}

#[derive(Debug)]
struct Held {
    addresses: Arc<BTreeSet<IpAddr>>,
    until: Instant,
}

/// What was lost lately, and what is held.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    /// Addresses that turned not ready within the window.
    lost: BTreeMap<ObjectName, BTreeMap<IpAddr, Instant>>,
    /// Services that fell within the window and have not been usable since.
    fallen: BTreeMap<ObjectName, Instant>,
    held: BTreeMap<ObjectName, Held>,
    /// Services whose grace was over since something is held: for whoever tells of it.
    pub(crate) over: usize,
}

impl Floor {
    /// Judges what happened since the last step: `losses` are addresses that were ready and are not any more, `touched` the
    /// Services whose endpoints may have changed.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        grace: Duration,
        losses: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
        touched: &BTreeSet<ObjectName>,
        look: &impl Look,
    ) -> Vec<(ObjectName, Change)> {
        let mut changes = Vec::new();
        self.expire(now, grace, &mut changes);
        if grace.is_zero() {
            return changes;
        }
        let losing: BTreeSet<ObjectName> = losses.keys().cloned().collect();
        for (name, addresses) in losses {
            let times = addresses.into_iter().map(|address| (address, now));
            self.lost.entry(name).or_default().extend(times);
        }
        for name in touched {
            self.touched(now, name, losing.contains(name), look, &mut changes);
        }
        self.hold_if_many(now + grace, look, &mut changes);
        changes
    }

    /// When the next grace is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// How many Services are held.
    pub(crate) fn count(&self) -> usize {
        self.held.len()
    }

    fn expire(&mut self, now: Instant, grace: Duration, changes: &mut Vec<(ObjectName, Change)>) {
        let recent = |time: &Instant| now.saturating_duration_since(*time) < WINDOW;
        self.fallen.retain(|_, time| recent(time));
        self.lost.retain(|_, times| {
            times.retain(|_, time| recent(time));
            !times.is_empty()
        });
        let over = self.held.iter().filter(|(_, held)| held.until <= now || grace.is_zero());
        for name in over.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.release(&name, Release::GraceOver, changes);
        }
        if grace.is_zero() {
            *self = Self::default();
        }
    }

    fn touched(
        &mut self,
        now: Instant,
        name: &ObjectName,
        losing: bool,
        look: &impl Look,
        changes: &mut Vec<(ObjectName, Change)>,
    ) {
        if !losing && !self.fallen.contains_key(name) && !self.held.contains_key(name) {
            return;
        }
        if look.usable(name) {
            self.fallen.remove(name);
            self.release(name, Release::Usable, changes);
            return;
        }
        let waiting = look.waiting(name);
        if self.last_good(name, &waiting).is_empty() {
            self.fallen.remove(name);
        } else if losing {
            self.fallen.insert(name.clone(), now);
        }
        let Some(held) = self.held.get_mut(name) else { return };
        let left: BTreeSet<IpAddr> = held.addresses.intersection(&waiting).copied().collect();
        if left.is_empty() {
            self.release(name, Release::Gone, changes);
        } else if left.len() < held.addresses.len() {
            held.addresses = Arc::new(left);
            changes.push((name.clone(), Change::Narrowed(Arc::clone(&held.addresses))));
        }
    }

    fn hold_if_many(&mut self, until: Instant, look: &impl Look, changes: &mut Vec<(ObjectName, Change)>) {
        let fallen = self.fallen.len();
        let new: Vec<_> = self.fallen.keys().filter(|name| !self.held.contains_key(name)).cloned().collect();
        if fallen < LEAST || new.is_empty() || fallen * SHARE < look.count_usable() + fallen {
            return;
        }
        for name in new {
            let addresses = Arc::new(self.last_good(&name, &look.waiting(&name)));
            if !addresses.is_empty() {
                changes.push((name.clone(), Change::Held(Arc::clone(&addresses))));
                self.held.insert(name, Held { addresses, until });
            }
        }
    }

    /// Of the addresses that a Service lost within the window, those that wait to be ready again.
    fn last_good(&self, name: &ObjectName, waiting: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let lost = self.lost.get(name).into_iter().flat_map(BTreeMap::keys);
        lost.filter(|address| waiting.contains(address)).copied().collect()
    }

    fn release(&mut self, name: &ObjectName, why: Release, changes: &mut Vec<(ObjectName, Change)>) {
        if self.held.remove(name).is_some() {
            // It has had its grace: the same loss is not held once more.
            self.fallen.remove(name);
            self.lost.remove(name);
            changes.push((name.clone(), Change::Released(why)));
        }
    }
}

#[cfg(test)]
mod tests;
