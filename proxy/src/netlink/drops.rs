//! Others' rules that drop what Services are made of, where their chain's policy does not (`forward.rs`): a drop in any chain of a hook is the end
//! of a packet, whoever accepts it elsewhere.
//!
//! The chains of others in the hooks forward and input are walked, from each base chain on, with the packets that Herald's rules mean: for an endpoint, from
//! an endpoint, and the same of the addresses that are served. A rule is told if it drops some of them by address and by nothing else but protocols, ports and
//! interfaces, or if it drops whatever is forwarded and comes so far. What a rule asks besides (marks, the state of a connection, iptables' own
//! matches) is not judged, and neither is such a rule: a network plugin's policies are made of them. Pure; `read.rs` makes the rules.

pub(super) mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Chains that lead to chains: nft itself allows 16.
const DEPTH: usize = 16;
/// Packets that are held against a rule, from one base chain on: those of 50,000 addresses against a thousand rules, which takes seconds.
const STEPS: usize = 100_000_000;
/// What a rule costs, in packets, also where none comes: chains may lead to chains in more ways than can be followed.
const RULE: usize = 100;

/// Others' rules that drop packets of Services, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropRules {
    /// Those that were found.
    pub found: Vec<DropRule>,
    /// Base chains that lead to more than can be followed, as `nft` names them: `inet filter forward`. What drops behind that is not known.
    pub unfinished: Vec<String>,
}

/// A rule of somebody's that drops packets of Services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropRule {
    /// `inet`, `ip` or `ip6`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// By which `nft delete rule` knows it.
    pub handle: u64,
    /// `forward` or `input`: where its packets come from.
    pub hook: &'static str,
    /// Endpoints and served addresses whose packets it drops; empty: whatever comes so far.
    pub addresses: BTreeSet<IpAddr>,
}

/// Which of a packet's addresses is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Source,
    Destination,
}

/// A test of an address, or of some octets of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) side: Side,
    /// The first octet of the address that is tested.
    pub(super) offset: usize,
    /// Empty: all bits.
    pub(super) mask: Vec<u8>,
    pub(super) with: With,
}

/// What it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum With {
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// From one to another, both included; or outside of that.
    Range {
        first: Vec<u8>,
        last: Vec<u8>,
        inside: bool,
    },
    /// A set of the table, by name; or what is not in it.
    Set {
        name: String,
        inside: bool,
    },
}

/// What a rule does with what passes its tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Next,
    Drop,
    Accept,
    Return,
    Jump(String),
    Goto(String),
}

/// A rule of others, as far as it is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) tests: Vec<Test>,
    /// It is for IPv6, or IPv4, alone.
    pub(super) v6: Option<bool>,
    /// It is for some protocols, ports or interfaces.
    pub(super) narrow: bool,
    /// It asks for something that is not known here.
    pub(super) open: bool,
    pub(super) fate: Fate,
}

impl Rule {
    /// Whatever it does, of no packet it is known that it does it, and no drop behind it is judged: most rules of network plugins.
    fn says_nothing(&self) -> bool {
        match self.fate {
            Fate::Next => true,
            Fate::Accept | Fate::Return => self.open || self.narrow,
            Fate::Drop | Fate::Jump(_) | Fate::Goto(_) => self.open,
        }
    }
}

/// A set: keys that are in it, or boundaries of intervals (true: one begins).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Members {
    Keys(BTreeSet<Vec<u8>>),
    Intervals(BTreeMap<Vec<u8>, bool>),
}

impl Members {
    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Keys(keys) => keys.contains(key),
            Self::Intervals(boundaries) => {
                boundaries.range(..=key.to_vec()).next_back().is_some_and(|(_, begins)| *begins)
            }
        }
    }
}

/// All of one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Ruleset {
    pub(super) chains: BTreeMap<String, Vec<Rule>>,
    /// Base chains, and their hook.
    pub(super) hooked: Vec<(String, &'static str)>,
    pub(super) sets: BTreeMap<String, Members>,
}

/// A packet of a Service, of which one address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packet {
    address: IpAddr,
    /// Where that stands.
    side: Side,
    /// Some rule on the way has asked for it.
    named: bool,
}

/// How a test ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    Yes,
    No,
    /// For some of the addresses of the other end.
    Some,
}

impl Ruleset {
    /// Adds the rules that drop packets of these addresses.
    pub(super) fn drops(
        &self,
        (family, table): (&'static str, &str),
        addresses: &BTreeSet<IpAddr>,
        all: &mut DropRules,
    ) {
        let mut found: BTreeMap<(u64, &'static str), DropRule> = BTreeMap::new();
        let packets: Vec<Packet> = addresses
            .iter()
            .flat_map(|address| {
                [Side::Destination, Side::Source].map(|side| Packet { address: *address, side, named: false })
            })
            .collect();
        for (chain, hook) in &self.hooked {
            let mut walk = Walk { of: self, family, table, hook, steps: STEPS, found: &mut found };
            walk.chain(chain, packets.clone(), false, DEPTH);
            if walk.steps == 0 {
                all.unfinished.push(format!("{family} {table} {chain}"));
            }
        }
        all.found.extend(found.into_values());
    }

    fn passes(&self, rule: &Rule, packet: &Packet) -> Passes {
        if rule.v6.is_some_and(|v6| v6 != packet.address.is_ipv6()) {
            return Passes::No;
        }
        let mut all = Passes::Yes;
        for test in &rule.tests {
            if test.side != packet.side {
                all = Passes::Some;
            } else if !self.holds(test, packet.address) {
                return Passes::No;
            }
        }
        all
    }

    fn holds(&self, test: &Test, address: IpAddr) -> bool {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let part = |length: usize| -> Option<Vec<u8>> {
            let part = octets.get(test.offset..test.offset.checked_add(length)?)?;
            let masks = test.mask.iter().copied().chain(std::iter::repeat(0xff));
            let mask = part.iter().zip(masks);
            Some(if test.mask.is_empty() {
                part.to_vec()
            } else {
                mask.map(|(octet, mask)| octet & mask).collect()
            })
        };
        match &test.with {
            With::Equal(value) => part(value.len()).is_some_and(|part| part == *value),
            With::NotEqual(value) => part(value.len()).is_some_and(|part| part != *value),
            With::Range { first, last, inside } => {
                part(first.len()).is_some_and(|part| (*first <= part && part <= *last) == *inside)
            }
            With::Set { name, inside } => {
                let members = self.sets.get(name);
                members.is_some_and(|members| members.contains(&octets) == *inside)
            }
        }
    }
}

struct Walk<'a> {
    of: &'a Ruleset,
    family: &'static str,
    table: &'a str,
    hook: &'static str,
    steps: usize,
    found: &'a mut BTreeMap<(u64, &'static str), DropRule>,
}

impl Walk<'_> {
    /// Takes packets through a chain, and returns those that come out at its end. `narrow`: the way here is for some addresses, protocols, ports or
    /// interfaces.
    fn chain(&mut self, name: &str, mut packets: Vec<Packet>, narrow: bool, depth: usize) -> Vec<Packet> {
        let mut back = Vec::new();
        let ruleset = self.of;
        for rule in ruleset.chains.get(name).into_iter().flatten() {
            if rule.says_nothing() {
                continue;
            }
            let Some(left) = self.steps.checked_sub(RULE + packets.len()).filter(|_| depth > 0) else {
                // What was not followed to its end says nothing about what comes after it.
                self.steps = 0;
                break;
            };
            self.steps = left;
            let passing = self.passing(rule, &packets);
            let narrow = narrow || rule.narrow;
            let asks = narrow || !rule.tests.is_empty();
            // Of those that surely pass all tests nothing is left behind.
            let sure: BTreeSet<(IpAddr, Side)> = passing
                .iter()
                .filter(|(_, passes)| *passes == Passes::Yes && !rule.narrow)
                .map(|(packet, _)| key(packet))
                .collect();
            let passed: Vec<Packet> = passing.into_iter().map(|(packet, _)| packet).collect();
            let mut returned = BTreeSet::new();
            match &rule.fate {
                Fate::Next | Fate::Accept => {}
                Fate::Drop => self.drops(name, rule, &passed, narrow),
                Fate::Return => {
                    back.extend(passed.iter().filter(|packet| sure.contains(&key(packet))).copied())
                }
                Fate::Jump(to) => {
                    returned = self.chain(to, passed, asks, depth - 1).iter().map(key).collect();
                }
                Fate::Goto(to) => back.extend(self.chain(to, passed, asks, depth - 1)),
            }
            packets.retain(|packet| !sure.contains(&key(packet)) || returned.contains(&key(packet)));
        }
        packets.extend(back);
        packets
    }

    fn passing(&self, rule: &Rule, packets: &[Packet]) -> Vec<(Packet, Passes)> {
        let asks = |side| rule.tests.iter().any(|test| test.side == side);
        let of = |packet: &Packet| {
            let passes = self.of.passes(rule, packet);
            let named = packet.named || asks(packet.side);
            (passes != Passes::No).then_some((Packet { named, ..*packet }, passes))
        };
        packets.iter().filter_map(of).collect()
    }

    fn drops(&mut self, chain: &str, rule: &Rule, packets: &[Packet], narrow: bool) {
        let named: BTreeSet<IpAddr> =
            packets.iter().filter(|packet| packet.named).map(|packet| packet.address).collect();
        // Input is for the node itself: to drop the rest is what a firewall is for.
        let all = named.is_empty() && rule.tests.is_empty() && !narrow && self.hook == "forward";
        if packets.is_empty() || (named.is_empty() && !all) {
            return;
        }
        let drop = self.found.entry((rule.handle, self.hook)).or_insert_with(|| DropRule {
            family: self.family,
            table: self.table.to_owned(),
            chain: chain.to_owned(),
            handle: rule.handle,
            hook: self.hook,
            addresses: BTreeSet::new(),
        });
        drop.addresses.extend(named);
    }
}

fn key(packet: &Packet) -> (IpAddr, Side) {
    (packet.address, packet.side)
}
