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

mod allot;
mod backoff;
pub mod forecast;
mod notes;
#[cfg(test)]
mod tests;
mod withdrawals;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use herald_config::Config;
use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::WatchEvent;

use crate::allocator::Allocator;
use crate::config_map::{ConfigState, ConfigView};
use crate::index::Index;
use crate::namespaces::{NamespaceView, Namespaces};
use crate::plan::{Action, Tell, plan};
use crate::pool_status::{PoolStatus, PoolStatuses};
use crate::service::ServiceView;
use allot::{demand, is_foreign, is_ours};
use backoff::Backoff;
use notes::{Note, Notes};
use withdrawals::Withdrawals;

/// What the watches deliver.
#[derive(Debug, Clone)]
pub enum Event {
    /// Services.
    Service(WatchEvent<Box<ServiceView>>),
    /// The ConfigMap.
    ConfigMap(WatchEvent<ConfigView>),
    /// Objects of `metallb.io`.
    Object(UntypedEvent),
    /// Namespaces.
    Namespace(WatchEvent<NamespaceView>),
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
    namespaces: Namespaces,
    config: ConfigState,
    /// Pools that are objects, and what their statuses show.
    pool_objects: BTreeMap<String, Option<PoolStatus>>,
    /// Only with at least one pool: without any nothing is touched.
    allocator: Option<Allocator>,
    /// The allocator stands on all statuses.
    adopted: bool,
    in_flight: HashSet<ObjectName>,
    backoff: Backoff,
    withdrawals: Withdrawals,
    notes: Notes,
    pool_statuses: PoolStatuses,
    frees_seen: u64,
    /// Zero: without finalizer.
    finalizer_wait: Duration,
}

impl Planner {
    /// Handles Services of this class only; `None`: those without a class.
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            index: Index::default(),
            namespaces: Namespaces::default(),
            config: ConfigState::default(),
            pool_objects: BTreeMap::new(),
            allocator: None,
            adopted: false,
            in_flight: HashSet::new(),
            backoff: Backoff::default(),
            withdrawals: Withdrawals::default(),
            notes: Notes::default(),
            pool_statuses: PoolStatuses::default(),
            frees_seen: 0,
            finalizer_wait: Duration::ZERO,
        }
    }

    /// Objects of `metallb.io` in this namespace count too; nothing is ready before they are listed.
    #[must_use]
    pub fn with_objects(self, namespace: &str) -> Self {
        Self { config: ConfigState::with_objects(namespace), ..self }
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
                let view = match event {
                    WatchEvent::Applied(view) => Some(view),
                    WatchEvent::Deleted(_) => None,
                    WatchEvent::Reset(mut live) => live.pop(),
                };
                let changed = self.config.update(view, self.notes.tells());
                self.configured(changed, now);
            }
            Event::Object(event) => {
                self.show_pools(&event);
                let changed = self.config.object(&event, self.notes.tells());
                self.configured(changed, now);
            }
            Event::Namespace(event) => {
                // Only pools that select namespaces by label ask for them; Services elsewhere come to the same plan.
                let changed = self.namespaces.update(event);
                self.index.mark_where(|view| changed.contains(&*view.name.namespace));
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
        for name in self.backoff.due(now).into_iter().chain(self.withdrawals.due(now)) {
            self.index.mark(&name);
        }
        while let Some(name) = self.index.next_dirty() {
            if self.in_flight.contains(&name) || self.backoff.holds(&name, now) {
                continue;
            }
            let Some(view) = self.index.get(&name).cloned() else { continue };
            let allotment = self.allot(&view, now);
            self.wake_waiting();
            self.notes.decided(&view, &allotment);
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
                    self.applied(view, now);
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
        [self.backoff.next_deadline(), self.withdrawals.next_deadline()].into_iter().flatten().min()
    }

    /// Takes the Events to publish.
    pub fn take_tells(&mut self) -> Vec<Tell> {
        self.notes.take()
    }

    /// All watches delivered and every status is adopted.
    pub fn ready(&self) -> bool {
        self.index.listed() && self.config.listed() && self.namespaces.listed()
    }

    /// The configuration's state.
    pub fn config(&self) -> &ConfigState {
        &self.config
    }

    /// The allocator, once there are pools.
    pub fn allocator(&self) -> Option<&Allocator> {
        self.allocator.as_ref()
    }

    /// The statuses of pools to write now.
    pub fn pool_statuses(&mut self, now: Instant) -> Vec<(String, PoolStatus)> {
        if !self.ready() {
            return Vec::new();
        }
        self.pool_statuses.due(self.allocator.iter().flat_map(Allocator::usage), now)
    }

    /// How many Services are still to be decided.
    pub fn backlog(&self) -> usize {
        self.index.dirty()
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.index.len()
    }

    /// How many Services wait for an address.
    pub fn waiting(&self) -> usize {
        self.notes.waiting()
    }

    fn configured(&mut self, changed: bool, now: Instant) {
        if let Some(config) = self.config.in_force().filter(|_| changed).cloned() {
            self.configure(config, now);
        }
    }

    /// What the statuses of pools show, for those that are objects.
    fn show_pools(&mut self, event: &UntypedEvent) {
        if event.kind != "IPAddressPool" {
            return;
        }
        let shown = |object: &serde_json::Value| {
            let name = object["metadata"]["name"].as_str()?.to_owned();
            Some((name, PoolStatus::read(&object["status"])))
        };
        match &event.event {
            WatchEvent::Reset(live) => self.pool_objects = live.iter().filter_map(shown).collect(),
            WatchEvent::Applied(object) => self.pool_objects.extend(shown(object)),
            WatchEvent::Deleted(name) => {
                self.pool_objects.remove(&*name.name);
            }
        }
        self.pool_statuses.shown(self.pool_objects.clone());
    }

    fn applied(&mut self, view: Box<ServiceView>, now: Instant) {
        let name = view.name.clone();
        let replaced = self.index.get(&name).filter(|known| known.uid != view.uid).cloned();
        if let Some(old) = replaced {
            // Deleted and created again while the watch looked elsewhere.
            self.gone(&old, now);
        }
        if !self.index.apply(view) {
            return;
        }
        self.backoff.changed(&name);
        if !self.adopted {
            return;
        }
        if let (Some(allocator), Some(view)) = (&mut self.allocator, self.index.get(&name)) {
            allocator.settle(&name, view.status_addresses(), now);
            claim(allocator, &mut self.notes, view, now);
            let deprecated = (view.deprecated && is_ours(view, self.class.as_deref())).then(|| {
                "the prefix metallb.universe.tf/ of annotations is deprecated: write metallb.io/".to_owned()
            });
            self.notes.say(view, Note::Deprecated, deprecated);
        }
    }

    fn gone(&mut self, view: &ServiceView, now: Instant) {
        self.notes.forget(&view.name);
        self.withdrawals.forget(&view.name);
        self.backoff.succeeded(&view.name);
        if let Some(allocator) = &mut self.allocator {
            allocator.release(&view.name, now);
        }
    }

    /// Another configuration is in force: what is held stays held where its pools allow it.
    pub fn configure(&mut self, config: Config, now: Instant) {
        if config.pools.is_empty() {
            self.allocator = None;
        } else {
            let mut allocator = Allocator::new(&config.pools, &config.herald);
            if let Some(old) = self.allocator.take() {
                allocator.keep_cooling(&old);
                for view in self.index.by_age() {
                    let demand = demand(view, &self.namespaces);
                    let (Some(held), Some(demand)) = (old.assignment(&view.name), demand) else {
                        continue;
                    };
                    // What is refused here is given anew by the plan.
                    allocator.adopt(demand, &held.addresses);
                }
            }
            self.allocator = Some(allocator);
        }
        self.finalizer_wait = config.herald.finalizer_wait;
        self.adopted = false;
        self.index.mark_all();
        self.adopt_all(now);
    }

    /// Adopts the statuses of all Services that hold nothing yet, oldest first; then what must be given to nobody.
    fn adopt_all(&mut self, now: Instant) {
        let listed = self.index.listed() && self.namespaces.listed();
        let Some(allocator) = self.allocator.as_mut().filter(|_| listed) else { return };
        let all = self.index.by_age();
        for view in &all {
            let ours = is_ours(view, self.class.as_deref()) && is_foreign(view, allocator).is_none();
            let demand = demand(view, &self.namespaces).filter(|_| ours && !allocator.holds(&view.name));
            let addresses: Option<Vec<_>> = view.status.iter().copied().collect();
            if let (Some(demand), Some(addresses)) = (demand, addresses.filter(|some| !some.is_empty())) {
                allocator.adopt(demand, &addresses);
            }
        }
        for view in &all {
            allocator.settle(&view.name, view.status_addresses(), now);
        }
        for view in all {
            claim(allocator, &mut self.notes, view, now);
        }
        if !self.adopted {
            self.adopted = true;
            self.frees_seen = allocator.frees();
            self.index.mark_all();
        }
    }

    /// After anything was freed, who waits is worth another look.
    fn wake_waiting(&mut self) {
        let frees = self.allocator.as_ref().map_or(0, Allocator::frees);
        if frees != self.frees_seen {
            self.frees_seen = frees;
            for name in self.notes.hopeful() {
                self.index.mark(name);
            }
        }
    }
}

/// The Service's externalIPs are given to nobody else.
fn claim(allocator: &mut Allocator, notes: &mut Notes, view: &ServiceView, now: Instant) {
    let clashes = allocator.claim(&view.name, &view.external_ips, &view.terms, now);
    let told: Vec<String> =
        clashes.iter().map(|(address, holder)| format!("{address} is the address of {holder}")).collect();
    let text = (!told.is_empty()).then(|| {
        format!(
            "{}: request another externalIP; both Services would be meant by one address",
            told.join(", ")
        )
    });
    notes.say(view, Note::ExternalIp, text);
}
