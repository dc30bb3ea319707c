//! Runs steps, and knows what is applied.
//!
//! Gets the desired state of the Services of one batch, asks `steps.rs` for the order, and performs each step
//! through [`Effects`]. What is applied is recorded here, step by step; it is never read back from the kernel.
//!
//! A step that fails changes what is desired: the Services behind it lose their claims, the steps are computed
//! again, and so whatever they share with nobody is withdrawn and what waited for the failed step is not announced.
//! A refused batch of rules is halved until the Services at fault are known; all others are programmed. A failed
//! Service is tried again after a back-off ([`Applier::take_due`]).
//!
//! Removals wait for the linger and are then checked against what is wanted by that time.
//!
//! Others can edit Herald's tables or take them away (`nft flush ruleset`, a restart of the host's firewall). A monitor
//! tells it at once ([`Applier::suspect`]), and as a safety net each second it is asked whether they are there: one
//! question, no listing. Then they are compared and mended ([`Applier::verify`]). If that fails, everything is programmed
//! anew, and what cannot be is withdrawn.
//!
//! Invariants, property-tested: no route is out whose rules the kernel has not acknowledged; no rules go while a
//! route of theirs is out or within the linger after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_proxy::ByPrefix;
use herald_runtime::ObjectName;
use ipnet::IpNet;

use crate::foreign::{Look, Repairs};
use crate::layer2::Offered;
use crate::ledger::{Attributes, Claims, Ledger, Touched};
use crate::reason::Reason;
use crate::steps::{NodePlan, ProxyRules, Step, steps};

/// When this many single Services in a row are refused and none was taken, the fault is not in the Services.
const HOPELESS: usize = 8;
/// First pause before a failed Service is tried again; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often the kernel is asked whether Herald's tables are still there.
const VERIFY: Duration = Duration::from_secs(1);

/// What steps do to the world.
pub(crate) trait Effects {
    /// The rules of one Service.
    type Rules: ProxyRules;

    /// Takes routes back; returns when that is handed to the sockets of all peers, or a deadline has passed.
    async fn withdraw(&mut self, prefixes: &BTreeSet<IpNet>);
    /// Tells routes to the peers.
    async fn announce(&mut self, routes: &ByPrefix<Arc<Attributes>>);
    /// Offers addresses no more for layer 2.
    fn retract(&mut self, addresses: &BTreeSet<IpAddr>);
    /// Offers addresses for layer 2.
    fn offer(&mut self, offers: &BTreeMap<IpAddr, Offered>);
    /// Makes the kernel hold exactly these rules, in one atomic swap with whatever an earlier run left.
    async fn replace(&mut self, rules: &BTreeMap<ObjectName, Option<Self::Rules>>) -> anyhow::Result<()>;
    /// Changes the rules of some Services, atomically; what they no longer want lingers. After an error the kernel and
    /// what is known of it are as before, which for Services is `former`.
    async fn install(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Self::Rules>>,
        former: &BTreeMap<ObjectName, Self::Rules>,
    ) -> anyhow::Result<()>;
    /// Whether the kernel still has the tables that were last put there.
    async fn intact(&mut self) -> bool;
    /// Makes the tables what they were last made, if others edited them; true: they had.
    async fn repair(&mut self) -> anyhow::Result<bool>;
    /// Takes out what lingers of some Services.
    async fn remove(&mut self, services: &BTreeSet<ObjectName>) -> anyhow::Result<()>;
    /// The linger after a withdrawal is over: these routes are all that are out.
    async fn settled(&mut self, routes: &ByPrefix<Arc<Attributes>>);
    /// Puts an address on `lo`.
    async fn add_address(&mut self, address: IpAddr) -> anyhow::Result<()>;
    /// Takes an address off `lo`.
    async fn remove_address(&mut self, address: IpAddr) -> anyhow::Result<()>;
}

/// What one Service should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired<R> {
    /// Its rules; `None`: none.
    pub(crate) rules: Option<R>,
    /// Its routes and local addresses.
    pub(crate) claims: Claims,
}

impl<R> Default for Desired<R> {
    fn default() -> Self {
        Self { rules: None, claims: Claims::default() }
    }
}

/// Why a Service is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The word.
    pub(crate) reason: Reason,
    /// What the kernel said.
    pub(crate) error: String,
    attempts: u32,
    retry_at: Instant,
}

/// What has been applied, and by what means.
#[derive(Debug)]
pub(crate) struct Applier<E: Effects> {
    effects: E,
    linger: Duration,
    ledger: Ledger,
    applied: NodePlan<E::Rules>,
    /// Whether the kernel's tables are this run's.
    programmed: bool,
    failures: BTreeMap<ObjectName, Failure>,
    /// Services of which something lingers, until when.
    unwanted_rules: BTreeMap<ObjectName, Instant>,
    unwanted_addresses: BTreeMap<IpAddr, Instant>,
    /// When the linger of the last withdrawal is over.
    withdrawn_until: Option<Instant>,
    /// When [`Self::verify`] last looked.
    verified: Option<Instant>,
    repairs: Repairs,
    /// What the kernel said when it refused rules last.
    refusal: String,
}

impl<E: Effects> Applier<E> {
    /// Nothing is applied but the addresses that an earlier run left on `lo`.
    pub(crate) fn new(effects: E, linger: Duration, adopted: &BTreeSet<IpAddr>) -> Self {
        Self {
            effects,
            linger,
            ledger: Ledger::default(),
            applied: NodePlan { addresses: adopted.clone(), ..NodePlan::default() },
            programmed: false,
            failures: BTreeMap::new(),
            unwanted_rules: BTreeMap::new(),
            unwanted_addresses: BTreeMap::new(),
            withdrawn_until: None,
            verified: None,
            repairs: Repairs::default(),
            refusal: String::new(),
        }
    }

    /// Brings the node to what these Services want. The first call must have all Services of the node: it replaces
    /// whatever tables and addresses an earlier run left.
    pub(crate) async fn apply(&mut self, now: Instant, mut batch: BTreeMap<ObjectName, Desired<E::Rules>>) {
        let mut touched = Touched::default();
        if !self.programmed {
            self.verified = Some(now);
            touched.addresses.clone_from(&self.applied.addresses);
        }
        for (service, desired) in &mut batch {
            touched.extend(self.ledger.claim(service, std::mem::take(&mut desired.claims)));
        }
        let mut rules: BTreeMap<_, _> =
            batch.into_iter().map(|(service, desired)| (service, desired.rules)).collect();
        let mut recovered: BTreeSet<_> =
            self.failures.keys().filter(|service| rules.contains_key(service)).cloned().collect();
        let mut failed = BTreeMap::new();
        if !self.programmed {
            // What the kernel takes of them is as desired, and needs no comparison.
            let mut first = std::mem::take(&mut rules);
            first.retain(|_, rules| rules.is_some());
            failed = self.install(first).await;
        }
        loop {
            for (service, (reason, error)) in std::mem::take(&mut failed) {
                touched.extend(self.ledger.claim(&service, Claims::default()));
                // What the kernel has of it stays as it is until the next try.
                rules.remove(&service);
                recovered.remove(&service);
                self.fail(now, service, reason, error);
            }
            let (desired, applied) = self.compare(&rules, &touched);
            failed = self.run(now, steps(&desired, &applied)).await;
            if failed.is_empty() {
                break;
            }
        }
        self.failures.retain(|service, _| !recovered.contains(service));
    }

    /// Others may have edited Herald's tables.
    pub(crate) fn suspect(&mut self) {
        self.repairs.suspect();
    }

    /// Looks into suspicions, and from time to time whether Herald's tables are still there. After [`Look::Lost`] nothing
    /// is programmed any more: the next call of [`Self::apply`] must have all Services, as the first one had.
    pub(crate) async fn verify(&mut self, now: Instant) -> Look {
        if !self.programmed {
            return Look::None;
        }
        if self.verified.is_none_or(|at| at + VERIFY <= now) {
            self.verified = Some(now);
            if !self.effects.intact().await {
                self.repairs.suspect();
            }
        }
        if !self.repairs.take(now) {
            return Look::None;
        }
        match self.effects.repair().await {
            Ok(false) => Look::Intact,
            Ok(true) => Look::Mended,
            Err(error) => {
                tracing::error!(
                    error = %format!("{error:#}"),
                    "Herald's tables were changed by others and cannot be mended: programming everything anew"
                );
                self.programmed = false;
                self.applied.rules.clear();
                self.unwanted_rules.clear();
                Look::Lost
            }
        }
    }

    /// When [`Self::verify`] has something to do.
    pub(crate) fn next_verification(&self) -> Option<Instant> {
        let verified = self.verified.filter(|_| self.programmed)?;
        Some((verified + VERIFY).min(self.repairs.next(verified).unwrap_or(verified + VERIFY)))
    }

    /// True while repairs are held back, for others edit the tables again and again.
    pub(crate) fn contested(&self, now: Instant) -> bool {
        self.repairs.contested(now)
    }

    /// Withdraws every route and retracts every offer; rules and addresses stay.
    pub(crate) async fn withdraw_all(&mut self, now: Instant) {
        let applied = NodePlan {
            routes: self.applied.routes.clone(),
            offers: self.applied.offers.clone(),
            ..NodePlan::default()
        };
        self.ledger = Ledger::default();
        self.run(now, steps(&NodePlan::default(), &applied)).await;
    }

    /// Removes what nobody has wanted since the linger began.
    pub(crate) async fn expire(&mut self, now: Instant) {
        let due = |at: &Instant| *at <= now;
        if self.withdrawn_until.take_if(|at| due(at)).is_some() {
            self.effects.settled(&self.applied.routes).await;
        }
        let addresses: Vec<_> =
            self.unwanted_addresses.iter().filter(|(_, at)| due(at)).map(|(address, _)| *address).collect();
        for address in addresses {
            self.unwanted_addresses.remove(&address);
            if self.ledger.wants_address(&address) {
                continue;
            }
            match self.effects.remove_address(address).await {
                Ok(()) => {
                    self.applied.addresses.remove(&address);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(%address, error, "an address that no Service wants stays on lo until the next try");
                    self.unwanted_addresses.insert(address, now + RETRY_MAX);
                }
            }
        }
        let services: BTreeSet<_> = self
            .unwanted_rules
            .iter()
            .filter(|(_, at)| due(at))
            .map(|(service, _)| service.clone())
            .collect();
        if services.is_empty() {
            return;
        }
        self.unwanted_rules.retain(|service, _| !services.contains(service));
        match self.effects.remove(&services).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    services = services.len(), error = %format!("{error:#}"),
                    "rules of Services that are gone stay until the next try"
                );
                self.unwanted_rules.extend(services.into_iter().map(|service| (service, now + RETRY_MAX)));
            }
        }
    }

    /// When [`Self::expire`] or [`Self::take_due`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let retries = self.failures.values().map(|failure| failure.retry_at);
        let lingering = self.unwanted_rules.values().chain(self.unwanted_addresses.values()).copied();
        retries.chain(lingering).chain(self.withdrawn_until).min()
    }

    /// The failed Services whose pause is over; they are to be planned and applied again.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<ObjectName> {
        let mut due = Vec::new();
        for (service, failure) in self.failures.iter_mut().filter(|(_, failure)| failure.retry_at <= now) {
            // Whoever takes it applies it; should that not happen it comes again.
            failure.retry_at = now + RETRY_MAX;
            due.push(service.clone());
        }
        due
    }

    /// Why a Service is not as it should be; `None`: it is.
    pub(crate) fn failure(&self, service: &ObjectName) -> Option<&Failure> {
        self.failures.get(service)
    }

    /// The Services that failed, and what the kernel said.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.failures.iter().map(|(service, failure)| (service, failure.error.as_str()))
    }

    /// How many Services are not as they should be.
    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Whether the kernel holds this run's tables.
    pub(crate) fn programmed(&self) -> bool {
        self.programmed
    }

    /// What the kernel said when it refused rules last.
    pub(crate) fn refusal(&self) -> &str {
        &self.refusal
    }

    /// The means, to look at.
    pub(crate) fn means(&self) -> &E {
        &self.effects
    }

    /// The means.
    pub(crate) fn effects(&mut self) -> &mut E {
        &mut self.effects
    }

    fn fail(&mut self, now: Instant, service: ObjectName, reason: Reason, error: String) {
        let attempts = self.failures.get(&service).map_or(0, |failure| failure.attempts + 1);
        let pause = (RETRY_FIRST * 2u32.saturating_pow(attempts.min(16))).min(RETRY_MAX);
        self.failures.insert(service, Failure { reason, error, attempts, retry_at: now + pause });
    }

    /// Desired and applied, for the keys in question.
    fn compare(
        &self,
        rules: &BTreeMap<ObjectName, Option<E::Rules>>,
        touched: &Touched,
    ) -> (NodePlan<E::Rules>, NodePlan<E::Rules>) {
        let mut desired = NodePlan::default();
        let mut applied = NodePlan::default();
        for (service, rules) in rules {
            if let Some(rules) = rules {
                desired.rules.insert(service.clone(), rules.clone());
            }
            if let Some(rules) = self.applied.rules.get(service) {
                applied.rules.insert(service.clone(), rules.clone());
            }
        }
        for prefix in &touched.prefixes {
            if let Some(attributes) = self.ledger.route(prefix) {
                desired.routes.insert(*prefix, attributes);
            }
            if let Some(attributes) = self.applied.routes.get(prefix) {
                applied.routes.insert(*prefix, Arc::clone(attributes));
            }
        }
        for address in &touched.addresses {
            if self.ledger.wants_address(address) {
                desired.addresses.insert(*address);
            }
            if self.applied.addresses.contains(address) {
                applied.addresses.insert(*address);
            }
        }
        for address in &touched.offers {
            if let Some(offered) = self.ledger.offer(address) {
                desired.offers.insert(*address, offered);
            }
            if let Some(offered) = self.applied.offers.get(address) {
                applied.offers.insert(*address, offered.clone());
            }
        }
        (desired, applied)
    }

    /// Runs steps up to the first that fails, and of the rest only the planning of removals: what the steps before the
    /// failure took out of use lingers. Returns the Services that are to blame.
    async fn run(
        &mut self,
        now: Instant,
        steps: Vec<Step<E::Rules>>,
    ) -> BTreeMap<ObjectName, (Reason, String)> {
        let mut failed = BTreeMap::new();
        for step in steps {
            if !failed.is_empty() && !matches!(step, Step::RemoveAddress(_) | Step::RemoveProxy(_)) {
                continue;
            }
            match step {
                Step::Withdraw(prefixes) => {
                    self.effects.withdraw(&prefixes).await;
                    prefixes.iter().for_each(|prefix| _ = self.applied.routes.remove(prefix));
                    self.withdrawn_until = Some(now + self.linger);
                }
                Step::Retract(addresses) => {
                    self.effects.retract(&addresses);
                    self.applied.offers.retain(|address, _| !addresses.contains(address));
                    self.withdrawn_until = Some(now + self.linger);
                }
                Step::InstallProxy(rules) => {
                    failed = self.install(rules).await;
                }
                Step::AddAddress(address) => {
                    if let Err(error) = self.effects.add_address(address).await {
                        let blame = (Reason::LocalAddressRefused, format!("{error:#}"));
                        let owners = self.ledger.owners_of_address(&address);
                        failed = owners.iter().map(|owner| (owner.clone(), blame.clone())).collect();
                        continue;
                    }
                    self.applied.addresses.insert(address);
                    self.unwanted_addresses.remove(&address);
                }
                Step::Announce(routes) => {
                    self.effects.announce(&routes).await;
                    self.applied.routes.append(routes);
                }
                Step::Offer(offers) => {
                    self.effects.offer(&offers);
                    self.applied.offers.extend(offers);
                }
                // The removals behind it are run by `expire`, if they are still unwanted then.
                Step::Linger => {}
                Step::RemoveAddress(address) => {
                    self.unwanted_addresses.entry(address).or_insert(now + self.linger);
                }
                Step::RemoveProxy(services) => {
                    // A later deadline replaces an earlier one: each frontend has its full linger.
                    self.unwanted_rules
                        .extend(services.into_iter().map(|service| (service, now + self.linger)));
                }
            }
        }
        failed
    }

    /// Puts rules into the kernel; whatever it refuses is halved until the Services at fault stand alone.
    async fn install(
        &mut self,
        rules: BTreeMap<ObjectName, Option<E::Rules>>,
    ) -> BTreeMap<ObjectName, (Reason, String)> {
        let mut failed = BTreeMap::new();
        let mut taken = false;
        let mut batches = vec![rules];
        while let Some(mut batch) = batches.pop() {
            let result = if self.programmed {
                self.effects.install(&batch, &self.applied.rules).await
            } else {
                self.effects.replace(&batch).await
            };
            match result {
                Ok(()) => {
                    taken = true;
                    self.programmed = true;
                    if self.applied.rules.is_empty() {
                        // In order, and so without a search for each.
                        let all = batch.into_iter().filter_map(|(service, rules)| Some((service, rules?)));
                        self.applied.rules = all.collect();
                        continue;
                    }
                    for (service, rules) in batch {
                        match rules {
                            Some(rules) => self.applied.rules.insert(service, rules),
                            None => self.applied.rules.remove(&service),
                        };
                    }
                }
                Err(error) if batch.len() <= 1 || (!taken && failed.len() >= HOPELESS) => {
                    let error = format!("{error:#}");
                    tracing::debug!(services = batch.len(), error, "the kernel refused the rules");
                    self.refusal.clone_from(&error);
                    failed
                        .extend(batch.into_keys().map(|name| (name, (Reason::RulesRefused, error.clone()))));
                }
                Err(_) => {
                    let middle = batch.keys().nth(batch.len() / 2).cloned();
                    let second = middle.map(|middle| batch.split_off(&middle)).unwrap_or_default();
                    batches.push(second);
                    batches.push(batch);
                }
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests;
