//! The controller's decisions over time: index, configuration and allocator together. Synchronous and without a clock.
//!
//! ```text
//!   handle(event) ──> index, configuration ──> dirty Services ──next()──> plan ──> Action (one per Service at a time)
//!                                                    ^                               │ performed by the writer
//!                                                    └──────── finished(result) <────┘
//! ```
//!
//! Nothing is planned before both watches delivered their first list; then every status is adopted before the first
//! address is given. The answer to a write is applied like an event, so that the next plan sees it without
//! waiting for the watch. A Service whose write failed waits on its own and holds up no other.

mod backoff;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use herald_runtime::ObjectName;
use herald_runtime::events::EventType;
use herald_runtime::watch::WatchEvent;

use crate::allocator::{Allocator, Demand};
use crate::config_map::{ConfigState, ConfigView};
use crate::index::Index;
use crate::plan::{Action, Allotment, Tell, plan};
use crate::reason::Reason;
use crate::service::{ServiceType, ServiceView};
use backoff::Backoff;

/// What the watches deliver.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all events are Services: a box would cost more than it saves"
)]
pub enum Event {
    /// Services.
    Service(WatchEvent<ServiceView>),
    /// The ConfigMap.
    ConfigMap(WatchEvent<ConfigView>),
}

/// How a write ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The Service as it is now.
    Written(Box<ServiceView>),
    /// Somebody else changed it meanwhile: its new version is on its way.
    Conflict,
    /// It is gone; so says the watch soon.
    Gone,
    /// Anything else.
    Failed,
}

/// Everything that the controller knows and decides.
#[derive(Debug)]
pub struct Planner {
    class: Option<String>,
    index: Index,
    config: ConfigState,
    config_listed: bool,
    /// Only with at least one pool: without any nothing is touched.
    allocator: Option<Allocator>,
    /// The allocator stands on all statuses.
    adopted: bool,
    in_flight: HashSet<ObjectName>,
    backoff: Backoff,
    /// Who waits for an address, and what it was told.
    waiting: BTreeMap<ObjectName, Reason>,
    frees_seen: u64,
    tells: Vec<Tell>,
}

impl Planner {
    /// Handles Services of this class only; `None`: those without a class.
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            index: Index::default(),
            config: ConfigState::default(),
            config_listed: false,
            allocator: None,
            adopted: false,
            in_flight: HashSet::new(),
            backoff: Backoff::default(),
            waiting: BTreeMap::new(),
            frees_seen: 0,
            tells: Vec::new(),
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Service(WatchEvent::Applied(view)) => self.applied(view, now),
            Event::Service(WatchEvent::Deleted(name)) => {
                if let Some(view) = self.index.delete(&name) {
                    self.gone(&view, now);
                }
            }
            Event::Service(WatchEvent::Reset(live)) => {
                for view in self.index.reset(live) {
                    self.gone(&view, now);
                }
                self.adopt_all(now);
            }
            Event::ConfigMap(event) => {
                self.config_listed |= matches!(event, WatchEvent::Reset(_));
                let view = match event {
                    WatchEvent::Applied(view) => Some(view),
                    WatchEvent::Deleted(_) => None,
                    WatchEvent::Reset(mut live) => live.pop(),
                };
                if self.config.update(view, &mut self.tells) {
                    self.reconfigure();
                }
                self.adopt_all(now);
            }
        }
        self.wake_waiting();
    }

    /// The next write, if a Service needs one. Call until `None`; each action must be answered by
    /// [`Planner::finished`].
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        if !self.ready() {
            return None;
        }
        for name in self.backoff.due(now) {
            self.index.mark(&name);
        }
        while let Some(name) = self.index.next_dirty() {
            if self.in_flight.contains(&name) || self.backoff.holds(&name, now) {
                continue;
            }
            let Some(view) = self.index.get(&name).cloned() else { continue };
            let allotment = self.allot(&view, now);
            self.wake_waiting();
            self.note_waiting(&view, &allotment);
            if let Some(action) = plan(&view, &allotment) {
                self.in_flight.insert(name);
                return Some(action);
            }
        }
        None
    }

    /// An action was performed.
    pub fn finished(&mut self, name: &ObjectName, outcome: Outcome, now: Instant) {
        self.in_flight.remove(name);
        match outcome {
            Outcome::Written(view) => {
                self.backoff.succeeded(name);
                // The watch may have told of the deletion first.
                if self.index.get(name).is_some_and(|known| known.uid == view.uid) {
                    self.applied(*view, now);
                }
                // What came while the write was on its way was left for now.
                self.index.mark(name);
            }
            Outcome::Conflict => self.backoff.conflict(name, now),
            Outcome::Gone | Outcome::Failed => self.backoff.failed(name, now),
        }
        self.wake_waiting();
    }

    /// When [`Planner::next`] is worth a call although nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.backoff.next_deadline()
    }

    /// Takes the Events to publish.
    pub fn take_tells(&mut self) -> Vec<Tell> {
        std::mem::take(&mut self.tells)
    }

    /// Both watches delivered and every status is adopted.
    pub fn ready(&self) -> bool {
        self.index.listed() && self.config_listed
    }

    /// The configuration's state.
    pub fn config(&self) -> &ConfigState {
        &self.config
    }

    /// The allocator, once there are pools.
    pub fn allocator(&self) -> Option<&Allocator> {
        self.allocator.as_ref()
    }

    /// How many Services wait for an address.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn applied(&mut self, view: ServiceView, now: Instant) {
        let name = view.name.clone();
        let replaced = self.index.get(&name).filter(|known| known.uid != view.uid).cloned();
        if let Some(old) = replaced {
            // Deleted and created again while the watch looked elsewhere.
            self.gone(&old, now);
        }
        let status: Vec<_> = view.status_addresses().collect();
        if self.index.apply(view) {
            self.backoff.changed(&name);
            if let Some(allocator) = self.allocator.as_mut().filter(|_| self.adopted) {
                allocator.settle(&name, status.into_iter(), now);
            }
        }
    }

    fn gone(&mut self, view: &ServiceView, now: Instant) {
        self.waiting.remove(&view.name);
        self.backoff.succeeded(&view.name);
        if let Some(allocator) = &mut self.allocator {
            allocator.release(&view.name, now);
        }
    }

    /// Other pools: what is held stays held where the new pools allow it.
    fn reconfigure(&mut self) {
        let Some(config) = self.config.in_force() else { return };
        if config.pools.is_empty() {
            self.allocator = None;
        } else {
            let mut allocator = Allocator::new(&config.pools, config.herald.cool_down);
            if let Some(old) = self.allocator.take() {
                allocator.keep_cooling(&old);
                for view in self.index.by_age() {
                    let (Some(held), Some(demand)) = (old.assignment(&view.name), demand(view)) else {
                        continue;
                    };
                    // What is refused here is given anew by the plan.
                    let _ = allocator.adopt(demand, &held.addresses);
                }
            }
            self.allocator = Some(allocator);
        }
        self.adopted = false;
        self.index.mark_all();
    }

    /// Adopts the statuses of all Services that hold nothing yet, oldest first.
    fn adopt_all(&mut self, now: Instant) {
        let Some(allocator) = self.allocator.as_mut().filter(|_| self.index.listed()) else { return };
        let all = self.index.by_age();
        for view in &all {
            let ours = is_ours(view, self.class.as_deref());
            if let Some(demand) = demand(view).filter(|_| ours && allocator.assignment(&view.name).is_none())
            {
                let addresses: Option<Vec<_>> = view.status.iter().copied().collect();
                if let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) {
                    let _ = allocator.adopt(demand, &addresses);
                }
            }
        }
        for view in all {
            allocator.settle(&view.name, view.status_addresses(), now);
        }
        if !self.adopted {
            self.adopted = true;
            self.frees_seen = allocator.frees();
            self.index.mark_all();
        }
    }

    fn allot(&mut self, view: &ServiceView, now: Instant) -> Allotment {
        let ours = is_ours(view, self.class.as_deref());
        let Some(allocator) = &mut self.allocator else {
            return if ours && view.status.is_empty() {
                Allotment::Waits(Reason::NoPools)
            } else {
                Allotment::Untouched
            };
        };
        if !ours {
            allocator.leave(&view.name);
            allocator.settle(&view.name, view.status_addresses(), now);
            // A type that has no address at all shows none, whoever wrote it; another class is somebody else's.
            let empty = view.kind != ServiceType::LoadBalancer && view.class.is_none();
            return if empty { Allotment::Nothing } else { Allotment::Untouched };
        }
        let (request, want) = match (&view.request, &view.want) {
            (Ok(request), Ok(want)) => (request, *want),
            (Err(reason), _) | (_, Err(reason)) => {
                let reason = reason.clone();
                allocator.leave(&view.name);
                allocator.settle(&view.name, view.status_addresses(), now);
                return Allotment::Waits(reason);
            }
        };
        if view.deleting && allocator.assignment(&view.name).is_none() {
            return Allotment::Untouched;
        }
        let demand = Demand { service: &view.name, want, request, terms: &view.terms };
        let result = allocator.converge(demand, now);
        allocator.settle(&view.name, view.status_addresses(), now);
        match result {
            Ok(assignment) => Allotment::Holds(assignment),
            Err(reason) => Allotment::Waits(reason),
        }
    }

    /// Tells a Service once why it waits, and remembers that it does.
    fn note_waiting(&mut self, view: &ServiceView, allotment: &Allotment) {
        let Allotment::Waits(reason) = allotment else {
            self.waiting.remove(&view.name);
            return;
        };
        if self.waiting.get(&view.name) == Some(reason) {
            return;
        }
        tracing::info!(service = %view.name, reason = reason.word(), "no address: {reason}");
        self.tells.push(Tell {
            regarding: view.reference(),
            kind: EventType::Warning,
            reason: "AllocationFailed",
            note: format!("Failed to allocate IP for \"{}\": {reason}", view.name),
        });
        self.waiting.insert(view.name.clone(), reason.clone());
    }

    /// After anything was freed, who waits is worth another look.
    fn wake_waiting(&mut self) {
        let frees = self.allocator.as_ref().map_or(0, Allocator::frees);
        if frees != self.frees_seen {
            self.frees_seen = frees;
            for name in self.waiting.keys() {
                self.index.mark(name);
            }
        }
    }
}

fn is_ours(view: &ServiceView, class: Option<&str>) -> bool {
    view.kind == ServiceType::LoadBalancer && view.class.as_deref() == class
}

fn demand(view: &ServiceView) -> Option<Demand<'_>> {
    let request = view.request.as_ref().ok()?;
    let want = *view.want.as_ref().ok()?;
    Some(Demand { service: &view.name, want, request, terms: &view.terms })
}
