//! Session affinity: the chains that keep a client at its endpoint.
//!
//! A frontend with affinity has the number of its timeout in `picks`, and `classes` leads from there to the chain of that
//! timeout, since the time that an element of `affinity` lives is part of a rule. All else is common to all timeouts.
//!
//! Chains of timeouts come with the first Service that wants them, in the transaction that brings its elements, and
//! stay until the tables are refilled. There are at most [`MAX_TIMEOUTS`] (the kernel walks all chains at a commit that
//! adds one); beyond that, a timeout is rounded up to the next that has a chain.
//!
//! These chains are the only ones with statements that change a map, and a family without affinity has none of them:
//! `nft` 1.0.6 prints them in both families, but reads them in IPv4 only (it keeps one register for the key).

use std::collections::{BTreeMap, BTreeSet};

use super::build::{FRONTEND, Ruleset, chain};
use super::entry::{Data, Entry, timeout_number};
use super::model::{Chain, Expression, Rule, Set, SetName, Statement, Table};
use crate::element::Element;
use crate::family::IpFamily;

/// How many different timeouts have chains of their own. One more may come: a day, for those longer than all others.
const MAX_TIMEOUTS: usize = 64;

/// The longest that Kubernetes allows.
pub(super) const MAX_TIMEOUT: u32 = 86_400;

/// Timeouts in use in each family, each with the timeout of the chain that serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Timeouts(BTreeMap<(IpFamily, u32), u32>);

impl Timeouts {
    /// The timeouts that these elements ask for.
    pub(crate) fn of(elements: &[Element]) -> Self {
        Self::default().add(elements)
    }

    /// Adds the timeouts that these elements ask for; those that are new.
    pub(crate) fn add(&mut self, elements: &[Element]) -> Self {
        let asked: BTreeSet<(IpFamily, u32)> = elements
            .iter()
            .filter_map(|element| match element {
                Element::Affinity { frontend, timeout, .. } => {
                    Some((IpFamily::of(frontend.address), *timeout))
                }
                _ => None,
            })
            .collect();
        let mut new = Self::default();
        // Built once a call: the timeouts are users' and may be tens of thousands.
        let mut chains: BTreeMap<IpFamily, BTreeSet<u32>> = BTreeMap::new();
        for (family, timeout) in asked {
            if self.0.contains_key(&(family, timeout)) {
                continue;
            }
            let chains = chains.entry(family).or_insert_with(|| self.served_by(family));
            let served_by = match chains.range(timeout..).next() {
                _ if chains.len() < MAX_TIMEOUTS => timeout,
                Some(longer) => *longer,
                None => MAX_TIMEOUT,
            };
            chains.insert(served_by);
            self.0.insert((family, timeout), served_by);
            new.0.insert((family, timeout), served_by);
        }
        new
    }

    /// The timeouts that have chains.
    fn served_by(&self, family: IpFamily) -> BTreeSet<u32> {
        self.of_family(family).map(|(_, served_by)| served_by).collect()
    }

    fn of_family(&self, family: IpFamily) -> impl Iterator<Item = (u32, u32)> {
        self.0.range((family, 0)..=(family, u32::MAX)).map(|((_, timeout), served_by)| (*timeout, *served_by))
    }

    /// Says which are rounded up.
    pub(crate) fn warn_of_rounded(&self) {
        for ((family, timeout), served_by) in self.0.iter().filter(|((_, timeout), to)| timeout != *to) {
            tracing::warn!(
                "more than {MAX_TIMEOUTS} different timeouts of session affinity ({family}): {timeout} s is rounded \
                 up to {served_by} s"
            );
        }
    }

    /// True for an element that leads to the chain of a timeout. One that no element of a Service asks for any more does
    /// no harm and stays until the tables are refilled.
    pub(crate) fn is_entry(entry: &Entry) -> bool {
        let is_chain = matches!(&entry.data, Data::Goto(chain) if Self::is_chain(chain));
        matches!(entry.set, SetName::Classes | SetName::LocalClasses) && is_chain
    }

    /// True for the name of a timeout's chain.
    pub(crate) fn is_chain(name: &str) -> bool {
        let timeout = name.strip_prefix("local-").unwrap_or(name).strip_prefix("affinity-");
        timeout.and_then(|timeout| timeout.parse().ok()).is_some_and(|t| (1..=MAX_TIMEOUT).contains(&t))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a ruleset needs besides for these timeouts: chains, and elements of `classes` and `local-classes`.
    pub(crate) fn ruleset(&self) -> Ruleset {
        Ruleset {
            tables: IpFamily::ALL.map(|family| Table {
                family,
                sets: [SetName::Classes, SetName::LocalClasses]
                    .map(|name| Set { name, elements: self.entries(family, name) })
                    .into(),
                chains: self.chains(family),
            }),
        }
    }

    fn entries(&self, family: IpFamily, set: SetName) -> Vec<Entry> {
        let local = set == SetName::LocalClasses;
        let entry = |(timeout, served_by)| {
            let verdict = Data::Goto(chain_name(served_by, local));
            Entry::dispatch(family, set, timeout_number(timeout), verdict)
        };
        self.of_family(family).map(entry).collect()
    }

    fn chains(&self, family: IpFamily) -> Vec<Chain> {
        let both =
            |timeout| [false, true].map(|local| chain(chain_name(timeout, local), keep(timeout, local)));
        self.served_by(family).into_iter().flat_map(both).collect()
    }
}

impl Ruleset {
    /// The ruleset with all that these elements need: chains depend on nothing else about them.
    pub fn with_elements(mut self, elements: &[Element]) -> Self {
        let besides = Timeouts::of(elements).ruleset();
        for (table, besides) in self.tables.iter_mut().zip(besides.tables) {
            for set in besides.sets {
                let own = table.sets.iter_mut().find(|own| own.name == set.name);
                own.into_iter().for_each(|own| own.elements.extend_from_slice(&set.elements));
            }
            table.chains.extend(besides.chains);
        }
        self
    }
}

fn chain_name(timeout: u32, local: bool) -> String {
    if local { format!("local-affinity-{timeout}") } else { format!("affinity-{timeout}") }
}

fn client() -> Vec<Expression> {
    let mut key = vec![Expression::SourceAddress];
    key.extend(FRONTEND);
    key
}

/// The client's endpoint if it has one that serves, else a new one. Each new connection gives it the time anew.
fn keep(timeout: u32, local: bool) -> Vec<Rule> {
    let (endpoint, draw) = if local { ("local-endpoint", "local-redraw") } else { ("endpoint", "redraw") };
    let remember = || Statement::Remember(client(), SetName::Affinity, timeout);
    vec![
        vec![Statement::SetPriority(client(), SetName::Affinity), remember(), Statement::Jump(endpoint)],
        // What is remembered of an endpoint that went must go first: an element that is there keeps its value.
        vec![Statement::Forget(client(), SetName::Affinity), Statement::Jump(draw)],
        // A full map ends this rule, and the next one serves without it.
        vec![remember()],
        vec![Statement::Goto(endpoint)],
    ]
}

/// The chains that all timeouts share.
pub(super) fn common() -> [Chain; 2] {
    [
        chain("redraw", redraw(SetName::AffinePicks, SetName::Slots)),
        chain("local-redraw", redraw(SetName::LocalAffinePicks, SetName::LocalSlots)),
    ]
}

/// Draws an endpoint for a client that has none, and leaves its number in the priority. A slot may be missing between two
/// lookups, as in `translate`.
fn redraw(picks: SetName, slots: SetName) -> Vec<Rule> {
    let mut slot = Vec::from(FRONTEND);
    slot.push(Expression::Priority);
    vec![
        vec![Statement::SetPriority(FRONTEND.into(), picks), Statement::DispatchPriority(SetName::Draws)],
        vec![Statement::SetPriority(slot.clone(), slots), Statement::Return],
        vec![Statement::Slot(0), Statement::SetPriority(slot, slots)],
    ]
}
