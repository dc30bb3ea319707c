//! Adoption: what is in the kernel is compared with what is wanted, and only the difference is written.
//!
//! A start finds the tables of an earlier run, a repair those that somebody edited. Compared are the layout (the table's
//! comment), chains and their hooks, the rules (each carries a hash of itself) and every element. Equal ones are not
//! touched, so packets see no gap, and counters and affinity stay. What cannot be mended by elements alone is refilled
//! or replaced, always in one transaction.
//!
//! The difference is committed only at the generation that it was computed from; if somebody committed meanwhile, it
//! is computed again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::decode::{find, number, text};
use super::dump::Listing;
use super::objects::{hook_number, rule_mark};
use super::userdata::comment;
use super::wire::*;
use super::{ATTEMPTS, Kernel, KernelError, check_classes};
use crate::element::{Changes, Element, Frontend};
use crate::family::IpFamily;
use crate::ruleset::{Base, Chain, Entry, Ruleset, SetName, Table, Timeouts};

/// Sets with more elements are not listed but filled anew, which is faster: the kernel walks a set from its start for
/// each 32 KiB of a listing. (135,000 elements: 2 s of processor time against 1 s.)
const LISTED_AT_MOST: usize = 75_000;

/// What it took to make the tables as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// Nothing: they were.
    Unchanged,
    /// Some elements.
    Changed {
        /// How many went.
        removed: usize,
        /// How many came.
        added: usize,
        /// Frontends that had rules and have none any more.
        gone: Vec<Frontend>,
    },
    /// All rules and elements, in the same chains and sets; with the reason.
    Refilled(String),
    /// Everything; with the reason.
    Replaced(String),
}

/// How the kernel differs from what is wanted.
enum Difference {
    /// Not known, for somebody committed meanwhile.
    Unsettled,
    /// In chains or sets, or there are no tables.
    Layout(String),
    /// In what a refill settles.
    Content(String),
    /// In elements only, or not at all.
    Elements(Changes),
}

/// The frontends of elements that went, if none of theirs is wanted.
fn gone(removed: &[Element], wanted: &[Element]) -> Vec<Frontend> {
    let frontend = |element: &Element| match *element {
        Element::Service { frontend, .. } | Element::Refused { frontend, .. } => Some(frontend),
        _ => None,
    };
    let mut gone: BTreeSet<Frontend> = removed.iter().filter_map(frontend).collect();
    if !gone.is_empty() {
        wanted.iter().filter_map(frontend).for_each(|frontend| {
            gone.remove(&frontend);
        });
    }
    gone.into_iter().collect()
}

impl Kernel {
    /// Makes our tables hold this ruleset with these elements, and writes no more than is needed for it.
    pub fn adopt(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<Adopted, KernelError> {
        check_classes(elements)?;
        let ruleset = &ruleset.clone().with_elements(elements);
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let changes = match self.compare(ruleset, elements)? {
                Difference::Layout(what) => {
                    self.rebuild(ruleset, elements)?;
                    return Ok(Adopted::Replaced(what));
                }
                Difference::Content(what) => {
                    self.refill(ruleset, elements)?;
                    return Ok(Adopted::Refilled(what));
                }
                Difference::Unsettled => continue,
                Difference::Elements(changes) => changes,
            };
            if changes.is_empty() {
                if self.generation()? == generation {
                    self.timeouts = Timeouts::of(elements);
                    return Ok(Adopted::Unchanged);
                }
                continue;
            }
            match self.apply_at(&changes, Some(generation)) {
                Ok(()) => {
                    self.timeouts = Timeouts::of(elements);
                    let (removed, added) = (changes.remove.len(), changes.add.len());
                    return Ok(Adopted::Changed { removed, added, gone: gone(&changes.remove, elements) });
                }
                Err(KernelError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ERESTART) => {
                }
                Err(error) => return Err(error),
            }
        }
        // Somebody commits all the time. To write everything needs no quiet moment.
        self.replace(ruleset, elements)?;
        Ok(Adopted::Refilled("others change nftables all the time".to_owned()))
    }

    fn compare(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<Difference, KernelError> {
        for table in &ruleset.tables {
            let family = table.family;
            if !self.is_table_ours(table)? {
                return Ok(Difference::Layout(format!("no table of this layout ({family})")));
            }
            let Some(found) = self.list_chains(table)? else { return Ok(Difference::Unsettled) };
            if hooked(&found) != hooked(&chains(table)) {
                return Ok(Difference::Layout(format!("other base chains ({family})")));
            }
            let missing = table.chains.iter().find(|chain| !found.contains_key(&chain.name));
            if let Some(chain) = missing {
                return Ok(Difference::Content(format!("no chain {} ({family})", chain.name)));
            }
            let own = |name: &String| {
                Timeouts::is_chain(name) || table.chains.iter().any(|chain| chain.name == *name)
            };
            if let Some(name) = found.keys().find(|name| !own(name)) {
                return Ok(Difference::Layout(format!("a chain {name} ({family})")));
            }
            let Some(rules) = self.list_rules(table)? else { return Ok(Difference::Unsettled) };
            let differs = |chain: &&Chain| {
                rules.get(&chain.name).map_or(&[][..], Vec::as_slice) != marks(table, chain).as_slice()
            };
            if let Some(chain) = table.chains.iter().find(differs) {
                return Ok(Difference::Content(format!("other rules in {} ({family})", chain.name)));
            }
        }
        if largest_set(elements) > LISTED_AT_MOST {
            return Ok(Difference::Content("too many elements to compare".to_owned()));
        }
        // A listing may show an element twice while the kernel resizes a set.
        let mut wanted: HashMap<&Element, bool> = elements.iter().map(|element| (element, false)).collect();
        let mut extra: HashSet<Element> = HashSet::new();
        let listing = self.list_elements(ruleset, &mut |element| match wanted.get_mut(&element) {
            Some(found) => *found = true,
            None => {
                extra.insert(element);
            }
        });
        match listing {
            Ok(Listing::Whole) => {
                let mut remove: Vec<Element> = extra.into_iter().collect();
                remove.sort_unstable();
                let add = elements.iter().filter(|element| wanted.get(element) == Some(&false)).copied();
                Ok(Difference::Elements(Changes { remove, add: add.collect() }))
            }
            Ok(Listing::Disturbed) => Ok(Difference::Unsettled),
            Ok(Listing::Missing) => Ok(Difference::Layout("a set is missing".to_owned())),
            Err(KernelError::Foreign(what)) => Ok(Difference::Content(what)),
            Err(error) => Err(error),
        }
    }

    /// True when the table says that it has this layout and is not dormant.
    fn is_table_ours(&mut self, table: &Table) -> Result<bool, KernelError> {
        let found =
            self.get(NFT_MSG_GETTABLE, table.family, |w| w.string(NFTA_TABLE_NAME, Ruleset::TABLE))?;
        let Some(found) = found else { return Ok(false) };
        Ok(find(&found, NFTA_TABLE_USERDATA) == Some(comment(&table.layout()).as_slice())
            && find(&found, NFTA_TABLE_FLAGS).and_then(number).is_none_or(|flags| flags == 0))
    }

    /// The chains of our table; `None`: somebody committed meanwhile.
    fn list_chains(&mut self, table: &Table) -> Result<Option<Chains>, KernelError> {
        let mut chains = Chains::new();
        let listing = self.list(
            NFT_MSG_GETCHAIN,
            table.family,
            |_| {},
            |message| {
                if find(message, NFTA_CHAIN_TABLE).and_then(text) == Some(Ruleset::TABLE) {
                    chains.extend([read_chain(message)]);
                }
            },
        )?;
        Ok((listing == Listing::Whole).then_some(chains))
    }

    /// The marks of all rules, by chain and in order; `None`: somebody committed meanwhile.
    fn list_rules(&mut self, table: &Table) -> Result<Option<RuleMarks>, KernelError> {
        let mut rules = RuleMarks::new();
        let listing = self.list(
            NFT_MSG_GETRULE,
            table.family,
            |w| w.string(NFTA_RULE_TABLE, Ruleset::TABLE),
            |message| {
                if find(message, NFTA_RULE_TABLE).and_then(text) != Some(Ruleset::TABLE) {
                    return;
                }
                let chain = find(message, NFTA_RULE_CHAIN).and_then(text).unwrap_or_default();
                let mark = find(message, NFTA_RULE_USERDATA).unwrap_or_default();
                rules.entry(chain.to_owned()).or_default().push(mark.to_vec());
            },
        )?;
        Ok((listing == Listing::Whole).then_some(rules))
    }
}

/// How many of these elements are in one set.
fn largest_set(elements: &[Element]) -> usize {
    if elements.len() <= LISTED_AT_MOST {
        return elements.len();
    }
    let mut sizes: BTreeMap<(IpFamily, SetName), usize> = BTreeMap::new();
    for entry in elements.iter().map(Entry::from) {
        *sizes.entry((entry.family, entry.set)).or_default() += 1;
    }
    sizes.into_values().max().unwrap_or_default()
}

fn marks(table: &Table, chain: &Chain) -> Vec<Vec<u8>> {
    chain.rules.iter().map(|rule| rule_mark(table.family, rule)).collect()
}

/// Marks of rules, by chain and in order.
type RuleMarks = BTreeMap<String, Vec<Vec<u8>>>;

/// Chains by name; hook, priority and policy of those that are hooked in.
type Chains = BTreeMap<String, Option<[u32; 3]>>;

/// Those that are hooked in.
fn hooked(chains: &Chains) -> BTreeMap<&String, &[u32; 3]> {
    chains.iter().filter_map(|(name, hook)| Some((name, hook.as_ref()?))).collect()
}

fn chains(table: &Table) -> Chains {
    let hook = |base: &Base| [hook_number(base.hook), base.priority.cast_unsigned(), NF_ACCEPT];
    table.chains.iter().map(|chain| (chain.name.clone(), chain.base.as_ref().map(hook))).collect()
}

fn read_chain(message: &[u8]) -> (String, Option<[u32; 3]>) {
    let name = find(message, NFTA_CHAIN_NAME).and_then(text).unwrap_or_default();
    let base = find(message, NFTA_CHAIN_HOOK).map(|hook| {
        let numbers =
            [find(hook, NFTA_HOOK_HOOKNUM), find(hook, NFTA_HOOK_PRIORITY), find(message, NFTA_CHAIN_POLICY)];
        numbers.map(|value| value.and_then(number).unwrap_or(u32::MAX))
    });
    (name.to_owned(), base)
}
