//! The one place that knows the order in which a node changes.
//!
//! Stop attracting traffic before its path goes; build the path before attracting traffic:
//!
//! 1. `Withdraw` routes and `Retract` offers that nobody wants any more,
//! 2. `InstallProxy`: all new and changed rules, one atomic batch; it takes nothing down, what is no longer wanted
//!    begins to linger,
//! 3. `AddAddress` on `lo`,
//! 4. `Announce` routes and `Offer` addresses that are new or are wanted otherwise,
//! 5. `Linger` while packets are still on their way,
//! 6. `RemoveAddress`, then
//! 7. `RemoveProxy`, what lingers: in this order, because an address on `lo` without rules would expose the node.
//!
//! Creating, changing, deleting, draining and stopping a Service all go through [`steps`]; nothing else decides an
//! order. It compares two values and knows no kernel and no peer. Both plans cover the same keys: those that a
//! batch touches, so that a change costs what it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_proxy::ByPrefix;
use herald_runtime::ObjectName;
use ipnet::IpNet;

use crate::layer2::Offered;
use crate::ledger::Attributes;

/// The rules of one Service, as far as the order has to know them.
pub(crate) trait ProxyRules: Clone + PartialEq {
    /// Whether something that `former` served is not served any more.
    fn narrows(&self, former: &Self) -> bool;
}

/// What a node does, or should do, for the keys in question. `R` are the rules of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan<R> {
    /// Rules in the kernel, by Service.
    pub(crate) rules: BTreeMap<ObjectName, R>,
    /// Addresses on `lo`.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Routes announced to all peers of the node.
    pub(crate) routes: ByPrefix<Arc<Attributes>>,
    /// Addresses that the node offers to own by layer 2; which of them it owns, the election decides.
    pub(crate) offers: BTreeMap<IpAddr, Offered>,
}

impl<R> Default for NodePlan<R> {
    fn default() -> Self {
        Self {
            rules: BTreeMap::new(),
            addresses: BTreeSet::new(),
            routes: ByPrefix::default(),
            offers: BTreeMap::new(),
        }
    }
}

/// One step. Those of a list are run in order, each only after the one before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step<R> {
    /// Take routes back from all peers; done when the withdrawals are handed to the sockets.
    Withdraw(BTreeSet<IpNet>),
    /// Offer addresses no more; where this node owns one it answers on until another node has taken it, at most a second.
    Retract(BTreeSet<IpAddr>),
    /// Put rules into the kernel; done when it has acknowledged them. `None`: all that the Service has begins to linger.
    InstallProxy(BTreeMap<ObjectName, Option<R>>),
    /// Put an address on `lo`.
    AddAddress(IpAddr),
    /// Tell routes to all peers.
    Announce(ByPrefix<Arc<Attributes>>),
    /// Offer to own addresses by layer 2.
    Offer(BTreeMap<IpAddr, Offered>),
    /// Let packets that are on their way arrive. What follows is run afterwards, and only for what is still unwanted.
    Linger,
    /// Take an address off `lo`.
    RemoveAddress(IpAddr),
    /// Take what lingers of these Services out of the kernel.
    RemoveProxy(BTreeSet<ObjectName>),
}

/// The steps from what is to what should be.
pub(crate) fn steps<R: ProxyRules>(desired: &NodePlan<R>, applied: &NodePlan<R>) -> Vec<Step<R>> {
    let mut steps = Vec::new();

    let withdraw: BTreeSet<_> =
        applied.routes.keys().filter(|prefix| !desired.routes.contains_key(prefix)).collect();
    if !withdraw.is_empty() {
        steps.push(Step::Withdraw(withdraw));
    }
    let retract: BTreeSet<_> =
        applied.offers.keys().filter(|address| !desired.offers.contains_key(address)).copied().collect();
    if !retract.is_empty() {
        steps.push(Step::Retract(retract));
    }
    let gone = applied.rules.keys().filter(|service| !desired.rules.contains_key(service));
    let mut install: BTreeMap<_, _> = gone.map(|service| (service.clone(), None)).collect();
    install.extend(
        differing(&desired.rules, &applied.rules).into_iter().map(|(service, rules)| (service, Some(rules))),
    );
    let narrowed: BTreeSet<_> = install
        .iter()
        .filter(|(service, rules)| match (rules, applied.rules.get(service)) {
            (None, _) => true,
            (Some(rules), Some(former)) => rules.narrows(former),
            (Some(_), None) => false,
        })
        .map(|(service, _)| service.clone())
        .collect();
    if !install.is_empty() {
        steps.push(Step::InstallProxy(install));
    }
    steps.extend(desired.addresses.difference(&applied.addresses).copied().map(Step::AddAddress));
    let other = desired.routes.iter().filter(|(prefix, of)| applied.routes.get(prefix) != Some(*of));
    let announce: ByPrefix<_> = other.map(|(prefix, of)| (prefix, Arc::clone(of))).collect();
    if !announce.is_empty() {
        steps.push(Step::Announce(announce));
    }
    let offer = differing(&desired.offers, &applied.offers);
    if !offer.is_empty() {
        steps.push(Step::Offer(offer));
    }

    let mut removals: Vec<_> =
        applied.addresses.difference(&desired.addresses).copied().map(Step::RemoveAddress).collect();
    if !narrowed.is_empty() {
        removals.push(Step::RemoveProxy(narrowed));
    }
    if !removals.is_empty() {
        steps.push(Step::Linger);
        steps.append(&mut removals);
    }
    steps
}

/// The entries of `desired` that `applied` does not have in the same form.
fn differing<K: Ord + Clone, V: Clone + PartialEq>(
    desired: &BTreeMap<K, V>,
    applied: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    desired
        .iter()
        .filter(|(key, value)| applied.get(key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
