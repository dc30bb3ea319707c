//! What stands in the kernel's sets and maps for all Services of this node, and what must change there.
//!
//! Services are put in one by one; each call returns the [`Changes`] that take the kernel from before to after. The
//! kernel is never asked: applying every `Changes` in order gives exactly [`Program::all`], no removal names a missing
//! element and no addition an existing one (property-tested).
//!
//! **Contested keys.** Several Services may claim one frontend (two externalIPs, say). One holds it, in this order:
//! who still wants it before who lingers; then by [`FrontendKind`] (what the API server gave, what a controller gave,
//! what the user wrote); then the older Service; then by name. When the holder goes, the next takes over in the same
//! change. Elements that are nobody's alone (`Vip`, `Hairpin`) are counted and go with their last frontend.
//!
//! **Linger.** [`Program::install`] builds a path and takes none down: frontends that a Service no longer wants stay
//! with all their elements as they last were. [`Program::expire`] removes them, after the routes are withdrawn and the
//! packets on their way have come. A frontend that is wanted again meanwhile, by this Service or another, replaces
//! what lingered at its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use herald_runtime::ObjectName;

use crate::element::{Changes, Element, Frontend, Scope};
use crate::rules::{Backends, FrontendKind, FrontendRules, ServiceRules};

/// Elements that a frontend with three endpoints has to itself.
const USUAL: usize = 6;

/// All Services' claims on the kernel's sets and maps.
#[derive(Debug, Default)]
pub struct Program {
    services: HashMap<Arc<ObjectName>, Keys>,
    /// Never empty per key; sorted, so that the first claim is the one that stands in the kernel.
    claims: HashMap<Frontend, Vec<Claim>>,
    /// How many standing frontends need each shared element.
    shared: HashMap<Element, u32>,
}

/// The keys that one Service claims; sorted, disjoint.
#[derive(Debug, Default)]
struct Keys {
    wanted: Box<[Frontend]>,
    lingering: Box<[Frontend]>,
}

#[derive(Debug, Clone)]
struct Claim {
    lingering: bool,
    created: i64,
    service: Arc<ObjectName>,
    rules: FrontendRules,
}

impl Claim {
    fn holder(&self) -> Holder<'_> {
        Holder { service: &self.service, rules: &self.rules, lingering: self.lingering }
    }

    fn rank(&self) -> (bool, FrontendKind, i64, &ObjectName) {
        (self.lingering, self.rules.kind, self.created, &self.service)
    }
}

/// A frontend that a Service wants and another one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The contested key.
    pub frontend: Frontend,
    /// Who holds it.
    pub holder: ObjectName,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, holder } = self;
        write!(
            f,
            "{frontend} is served for Service {holder}, which has the better claim: change the port or the address of one of them"
        )
    }
}

/// Whose rules stand at a frontend.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'p> {
    /// The Service.
    pub service: &'p Arc<ObjectName>,
    /// Its rules.
    pub rules: &'p FrontendRules,
    /// It wants them no more: they go after the linger.
    pub lingering: bool,
}

impl Program {
    /// A program without Services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a Service's rules at once; `None` takes the Service out. Also ends its lingering.
    pub fn set(&mut self, name: &ObjectName, rules: Option<ServiceRules>) -> Changes {
        self.replace(name, rules, false)
    }

    /// Replaces a Service's rules and leaves frontends that it no longer wants in place, lingering.
    pub fn install(&mut self, name: &ObjectName, rules: Option<ServiceRules>) -> Changes {
        self.replace(name, rules, true)
    }

    /// Removes a Service's lingering frontends.
    pub fn expire(&mut self, name: &ObjectName) -> Changes {
        let Some((name, mut keys)) = self.services.remove_entry(name) else { return Changes::default() };
        let mut delta = Delta::default();
        for key in std::mem::take(&mut keys.lingering) {
            self.claim(key, &name, None, &mut delta);
        }
        if !keys.wanted.is_empty() {
            self.services.insert(name, keys);
        }
        self.finish(delta)
    }

    /// True when the Service has lingering frontends.
    pub fn lingers(&self, name: &ObjectName) -> bool {
        self.services.get(name).is_some_and(|keys| !keys.lingering.is_empty())
    }

    /// Every element that stands, lingering ones included: the first load. Of each frontend the endpoints come before
    /// the dispatch, and no element comes twice, so that the list may be cut into batches anywhere.
    pub fn all(&self) -> Vec<Element> {
        let mut keys: Vec<&Frontend> = self.claims.keys().collect();
        keys.sort_unstable();
        let standing = keys.into_iter().filter_map(|key| self.claims[key].first());
        let mut all: Vec<Element> = Vec::with_capacity(self.claims.len() * USUAL + self.shared.len());
        for claim in standing {
            let of_frontend = claim.rules.elements();
            all.extend(of_frontend.into_iter().filter(|element| !is_shared(element)));
        }
        let mut shared: Vec<Element> = self.shared.keys().copied().collect();
        shared.sort_unstable();
        all.extend(shared);
        all
    }

    /// The frontends that a Service claims, lingering ones included.
    pub fn frontends(&self, name: &ObjectName) -> impl Iterator<Item = Frontend> {
        let keys = self.services.get(name).into_iter();
        keys.flat_map(|keys| keys.wanted.iter().chain(&keys.lingering).copied())
    }

    /// The endpoints of whoever holds a frontend.
    pub fn backends(&self, frontend: &Frontend) -> Option<&Arc<Backends>> {
        self.claims.get(frontend)?.first().map(|claim| &claim.rules.backends)
    }

    /// All frontends that stand, with the endpoints of their holders.
    pub fn all_backends(&self) -> impl Iterator<Item = (Frontend, &Arc<Backends>)> {
        self.holders().map(|(key, holder)| (key, &holder.rules.backends))
    }

    /// The standing rules of a Service's frontends, lingering ones included.
    pub fn standing(&self, name: &ObjectName) -> Vec<&FrontendRules> {
        let Some(keys) = self.services.get(name) else { return Vec::new() };
        let claims =
            keys.wanted.iter().chain(&keys.lingering).filter_map(|key| self.claims.get(key)?.first());
        claims.filter(|claim| *claim.service == *name).map(|claim| &claim.rules).collect()
    }

    /// Whose rules stand at a frontend.
    pub fn holder(&self, frontend: &Frontend) -> Option<Holder<'_>> {
        Some(self.claims.get(frontend)?.first()?.holder())
    }

    /// The same of all frontends that stand, in no order.
    pub fn holders(&self) -> impl Iterator<Item = (Frontend, Holder<'_>)> {
        self.claims.iter().filter_map(|(key, claims)| Some((*key, claims.first()?.holder())))
    }

    /// Every standing element of Services that a new connection to `destination` can meet: what it costs depends on
    /// the one frontend, not on the number of Services.
    pub fn met_by(&self, destination: &Frontend) -> Vec<Element> {
        let mut met: Vec<Element> = Vec::new();
        let mut shared = BTreeSet::from([Element::Vip { address: destination.address }]);
        if let Some(Holder { rules, .. }) = self.holder(destination) {
            met.extend(rules.elements().into_iter().filter(|element| !is_shared(element)));
            let endpoints = rules.cluster().iter().chain(rules.local());
            let protocol = destination.protocol;
            shared.extend(endpoints.map(|&endpoint| Element::Hairpin { endpoint, protocol }));
        }
        // Of these, another frontend is reason enough.
        met.extend(shared.into_iter().filter(|element| self.shared.contains_key(element)));
        met
    }

    /// The frontends that a Service wants and does not hold.
    pub fn conflicts(&self, name: &ObjectName) -> Vec<Conflict> {
        let Some(keys) = self.services.get(name) else { return Vec::new() };
        let holders = keys.wanted.iter().filter_map(|&frontend| {
            let holder = &self.claims.get(&frontend)?.first()?.service;
            (**holder != *name).then(|| Conflict { frontend, holder: ObjectName::clone(holder) })
        });
        holders.collect()
    }

    fn replace(&mut self, name: &ObjectName, rules: Option<ServiceRules>, linger: bool) -> Changes {
        let (name, before) =
            self.services.remove_entry(name).unwrap_or_else(|| (Arc::new(name.clone()), Keys::default()));
        let (created, frontends) =
            rules.map_or((0, Vec::new()), |rules| (rules.created, rules.frontends.into_vec()));
        let wanted: Box<[Frontend]> = frontends.iter().map(|rules| rules.frontend).collect();
        let mut gone: BTreeSet<Frontend> = before.wanted.into_iter().chain(before.lingering).collect();
        let mut delta = Delta::default();
        for rules in frontends {
            gone.remove(&rules.frontend);
            let claim = Claim { lingering: false, created, service: Arc::clone(&name), rules };
            self.claim(claim.rules.frontend, &name, Some(claim), &mut delta);
        }
        for &key in &gone {
            let last = self.claims.get(&key).and_then(|claims| claims.iter().find(|c| c.service == name));
            let lingering = last.filter(|_| linger).map(|last| Claim { lingering: true, ..last.clone() });
            self.claim(key, &name, lingering, &mut delta);
        }
        let lingering: Box<[Frontend]> = if linger { gone.into_iter().collect() } else { Box::default() };
        if !wanted.is_empty() || !lingering.is_empty() {
            self.services.insert(name, Keys { wanted, lingering });
        }
        self.finish(delta)
    }

    /// Puts one Service's claim on a key in place of its earlier one, and notes what that changes in the kernel. Each
    /// key is touched once per call from outside; else an element could be removed and added in one change.
    fn claim(&mut self, key: Frontend, service: &ObjectName, claim: Option<Claim>, delta: &mut Delta) {
        let claims = self.claims.entry(key).or_default();
        let before = claims.first().map(|claim| claim.rules.clone());
        claims.retain(|claim| *claim.service != *service);
        if let Some(claim) = claim {
            let at = claims.partition_point(|other| other.rank() < claim.rank());
            claims.reserve_exact(1);
            claims.insert(at, claim);
        }
        delta.replace(before.as_ref(), claims.first().map(|claim| &claim.rules));
        if claims.is_empty() {
            self.claims.remove(&key);
        }
    }

    /// Turns counted needs of shared elements into the few that come or go.
    fn finish(&mut self, delta: Delta) -> Changes {
        let mut changes = delta.changes;
        for (element, change) in delta.shared.into_iter().filter(|&(_, change)| change != 0) {
            let before = self.shared.get(&element).copied().unwrap_or(0);
            let after = before.saturating_add_signed(change);
            match (before, after) {
                (0, 0) => {}
                (0, _) => changes.add.push(element),
                (_, 0) => changes.remove.push(element),
                _ => {}
            }
            if after == 0 {
                self.shared.remove(&element);
            } else {
                self.shared.insert(element, after);
            }
        }
        changes
    }
}

fn is_shared(element: &Element) -> bool {
    matches!(element, Element::Vip { .. } | Element::Hairpin { .. })
}

/// Changes under way: of elements with a key of one frontend, and of how often shared ones are needed.
#[derive(Default)]
struct Delta {
    changes: Changes,
    shared: BTreeMap<Element, i32>,
}

impl Delta {
    fn replace(&mut self, before: Option<&FrontendRules>, after: Option<&FrontendRules>) {
        if before == after {
            return;
        }
        for scope in [Scope::Cluster, Scope::Local] {
            self.table(scope, before, after);
        }
        self.restriction(before, after);
        self.element(before.map(FrontendRules::counted), after.map(FrontendRules::counted));
        self.element(before.and_then(FrontendRules::dispatch), after.and_then(FrontendRules::dispatch));
        self.element(before.and_then(FrontendRules::refused), after.and_then(FrontendRules::refused));
        for (rules, change) in [(before, -1), (after, 1)] {
            for element in rules.into_iter().flat_map(FrontendRules::shared) {
                *self.shared.entry(element).or_default() += change;
            }
        }
    }

    fn restriction(&mut self, before: Option<&FrontendRules>, after: Option<&FrontendRules>) {
        if before.map(|rules| &rules.sources) == after.map(|rules| &rules.sources) {
            return;
        }
        let elements = |rules: Option<&FrontendRules>| -> Vec<Element> {
            rules.into_iter().flat_map(FrontendRules::restriction).collect()
        };
        let (old, new) = (elements(before), elements(after));
        self.changes.remove.extend(old.iter().filter(|element| !new.contains(element)));
        self.changes.add.extend(new.iter().filter(|element| !old.contains(element)));
    }

    /// One endpoint table: only what differs.
    fn table(&mut self, scope: Scope, before: Option<&FrontendRules>, after: Option<&FrontendRules>) {
        let table = |rules: Option<&FrontendRules>| rules.map(|r| r.table(scope)).unwrap_or_default();
        let (old, new) = (table(before), table(after));
        if old == new {
            return;
        }
        // Most tables are a few slots, and compared in order; an endpoint's number may stand anywhere in its table.
        let is_stable = |element: &Element| matches!(element, Element::StableEndpoint { .. });
        let stable =
            |table: &[Element]| -> BTreeSet<Element> { table.iter().copied().filter(is_stable).collect() };
        let (old_stable, new_stable) = (stable(&old), stable(&new));
        self.changes.remove.extend(old_stable.difference(&new_stable));
        self.changes.add.extend(new_stable.difference(&old_stable));
        let others = |table: Vec<Element>, picks: bool| {
            let is_pick = |element: &Element| {
                matches!(
                    element,
                    Element::Pick { .. } | Element::AffinePick { .. } | Element::Affinity { .. }
                )
            };
            table.into_iter().filter(move |e| !is_stable(e) && is_pick(e) == picks)
        };
        for picks in [false, true] {
            let (mut old, mut new) = (others(old.clone(), picks), others(new.clone(), picks));
            loop {
                match (old.next(), new.next()) {
                    (None, None) => break,
                    (old, new) => self.element(old, new),
                }
            }
        }
    }

    fn element(&mut self, before: Option<Element>, after: Option<Element>) {
        if before != after {
            self.changes.remove.extend(before);
            self.changes.add.extend(after);
        }
    }
}

#[cfg(test)]
mod tests;
