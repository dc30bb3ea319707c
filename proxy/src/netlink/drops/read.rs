//! Others' rules and sets as the kernel lists them: addresses, and what is done; anything else makes a rule narrow or open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{DropRules, Fate, Members, Rule, Ruleset, Side, Test, With};
use crate::Element;
use crate::family::IpFamily;
use crate::netlink::attributes::attributes;
use crate::netlink::decode::{SetReader, find, number, text};
use crate::netlink::dump::Listing;
use crate::netlink::forward::FAMILIES;
use crate::netlink::objects::{hook_number, write_element_list};
use crate::netlink::wire::*;
use crate::netlink::{ATTEMPTS, Kernel, KernelError};
use crate::ruleset::{Hook, Ruleset as Own, SetName};

/// Elements of one set of others that are read; a rule with a larger one is not judged.
const ELEMENTS: usize = 100_000;

impl Kernel {
    /// Rules of others in the hooks forward and input that drop packets of what Herald serves: by address, or whatever is forwarded. None of
    /// iptables-legacy's, which is no part of nf_tables.
    pub fn drop_rules(&mut self) -> Result<DropRules, KernelError> {
        for _ in 0..ATTEMPTS {
            let mut all = DropRules::default();
            let mut whole = true;
            let addresses = self.served(&mut whole)?;
            for (number, family) in FAMILIES {
                for (table, ruleset) in self.tables(number, &mut whole)? {
                    ruleset.drops((family, &table), &addresses, &mut all);
                }
            }
            if whole {
                return Ok(all);
            }
        }
        Err(KernelError::Unsettled)
    }

    /// Addresses of Services, and their endpoints, as the own tables have them.
    fn served(&mut self, whole: &mut bool) -> Result<BTreeSet<IpAddr>, KernelError> {
        let mut addresses = BTreeSet::new();
        for family in IpFamily::ALL {
            for set in [SetName::Vips, SetName::Endpoints, SetName::LocalEndpoints] {
                let mut reader = SetReader::new(family, set);
                let listing = self.list(
                    NFT_MSG_GETSETELEM,
                    family,
                    |w| write_element_list(w, set),
                    |message| {
                        // What is not as Herald wrote it is the speaker's to mend.
                        let _ = reader.message(message, &mut |entry| {
                            addresses.extend(entry.element().and_then(|element| match element {
                                Element::Vip { address } => Some(address),
                                Element::Endpoint { endpoint, .. }
                                | Element::StableEndpoint { endpoint, .. } => Some(endpoint.ip()),
                                _ => None,
                            }));
                            Ok(())
                        });
                    },
                )?;
                *whole &= listing != Listing::Disturbed;
            }
        }
        Ok(addresses)
    }

    /// Others' tables of a family that have a chain in one of the hooks, with all that leads to a verdict.
    fn tables(&mut self, family: u8, whole: &mut bool) -> Result<BTreeMap<String, Ruleset>, KernelError> {
        let mut tables: BTreeMap<String, Ruleset> = BTreeMap::new();
        let listing = self.list_in(
            NFT_MSG_GETCHAIN,
            family,
            |_| {},
            |chain| {
                if let Some((table, name, hook)) = base(chain) {
                    tables.entry(table).or_default().hooked.push((name, hook));
                }
            },
        )?;
        *whole &= listing != Listing::Disturbed;
        let mut wanted: BTreeSet<(String, String)> = BTreeSet::new();
        for (table, ruleset) in &mut tables {
            let chains = &mut ruleset.chains;
            let listing = self.list_in(
                NFT_MSG_GETRULE,
                family,
                |w| w.string(NFTA_RULE_TABLE, table),
                |message| {
                    let chain = find(message, NFTA_RULE_CHAIN).and_then(text);
                    let of = find(message, NFTA_RULE_TABLE).and_then(text);
                    if let (Some(chain), Some(rule)) = (chain.filter(|_| of == Some(table)), rule(message)) {
                        let sets = rule.tests.iter().filter_map(|test| match &test.with {
                            With::Set { name, .. } => Some((table.clone(), name.clone())),
                            _ => None,
                        });
                        wanted.extend(sets);
                        chains.entry(chain.to_owned()).or_default().push(rule);
                    }
                },
            )?;
            *whole &= listing != Listing::Disturbed;
        }
        for (table, set) in wanted {
            let mut members = Vec::new();
            let listing = self.list_in(
                NFT_MSG_GETSETELEM,
                family,
                |w| {
                    w.string(NFTA_SET_ELEM_LIST_TABLE, &table);
                    w.string(NFTA_SET_ELEM_LIST_SET, &set);
                },
                |message| {
                    if members.len() <= ELEMENTS {
                        elements(message, &mut members);
                    }
                },
            )?;
            *whole &= listing != Listing::Disturbed;
            // Keys of several fields are not addresses.
            let readable = members.iter().all(|(key, ..)| matches!(key.len(), 4 | 16));
            if let Some(ruleset) = tables.get_mut(&table).filter(|_| readable && members.len() <= ELEMENTS) {
                ruleset.sets.insert(set, set_of(members));
            }
        }
        Ok(tables)
    }
}

/// Table, name and hook of a chain of others that packets of Services come to.
fn base(chain: &[u8]) -> Option<(String, String, &'static str)> {
    let hook = find(find(chain, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM).and_then(number)?;
    let hooks = [(Hook::Forward, "forward"), (Hook::Input, "input")];
    let (_, name) = hooks.into_iter().find(|(of, _)| hook_number(*of) == hook)?;
    let table = find(chain, NFTA_CHAIN_TABLE).and_then(text).filter(|table| *table != Own::TABLE)?;
    Some((table.to_owned(), find(chain, NFTA_CHAIN_NAME).and_then(text)?.to_owned(), name))
}

/// What a register holds.
#[derive(Debug, Clone)]
enum Held {
    /// Octets of an address, from this one on, masked.
    Address {
        side: Side,
        offset: usize,
        length: usize,
        mask: Vec<u8>,
    },
    Family,
    /// A protocol, port or interface.
    Narrow,
    Unknown,
}

/// `None`: it cannot be read at all.
pub(super) fn rule(message: &[u8]) -> Option<Rule> {
    let handle = u64::from_be_bytes(find(message, NFTA_RULE_HANDLE)?.first_chunk().copied()?);
    let mut reader = Reader {
        rule: Rule { handle, tests: Vec::new(), v6: None, narrow: false, open: false, fate: Fate::Next },
        registers: BTreeMap::new(),
    };
    for (_, expression) in attributes(find(message, NFTA_RULE_EXPRESSIONS)?) {
        let name = find(expression, NFTA_EXPR_NAME).and_then(text)?;
        let data = find(expression, NFTA_EXPR_DATA).unwrap_or_default();
        if reader.expression(name, data).is_none() {
            reader.rule.open = true;
        }
    }
    Some(reader.rule)
}

struct Reader {
    rule: Rule,
    registers: BTreeMap<u32, Held>,
}

impl Reader {
    /// `None`: it is not understood.
    fn expression(&mut self, name: &str, data: &[u8]) -> Option<()> {
        let value = |kind| find(data, kind).and_then(number);
        match name {
            "payload" => {
                let place =
                    (value(NFTA_PAYLOAD_BASE)?, value(NFTA_PAYLOAD_OFFSET)?, value(NFTA_PAYLOAD_LEN)?);
                let held = self.payload(place);
                self.registers.insert(value(NFTA_PAYLOAD_DREG)?, held);
            }
            "meta" => {
                let held = match value(NFTA_META_KEY)? {
                    NFT_META_NFPROTO => Held::Family,
                    NFT_META_IIF..=NFT_META_OIFTYPE | NFT_META_L4PROTO => Held::Narrow,
                    _ => Held::Unknown,
                };
                self.registers.insert(value(NFTA_META_DREG)?, held);
            }
            "bitwise" => {
                let mut held = self.registers.get(&value(NFTA_BITWISE_SREG)?)?.clone();
                if let Held::Address { mask, .. } = &mut held {
                    *mask = find(find(data, NFTA_BITWISE_MASK)?, NFTA_DATA_VALUE)?.to_vec();
                }
                self.registers.insert(value(NFTA_BITWISE_DREG)?, held);
            }
            "cmp" => {
                let with = find(find(data, NFTA_CMP_DATA)?, NFTA_DATA_VALUE)?;
                self.compare(value(NFTA_CMP_SREG)?, value(NFTA_CMP_OP)?, with)?;
            }
            "range" => {
                let end = |kind| find(find(data, kind)?, NFTA_DATA_VALUE).map(<[u8]>::to_vec);
                let (first, last) = (end(NFTA_RANGE_FROM_DATA)?, end(NFTA_RANGE_TO_DATA)?);
                let inside = value(NFTA_RANGE_OP)? == NFT_CMP_EQ;
                self.test(value(NFTA_RANGE_SREG)?, With::Range { first, last, inside })?;
            }
            "lookup" => {
                // A map.
                if find(data, NFTA_LOOKUP_DREG).is_some() {
                    return None;
                }
                let name = find(data, NFTA_LOOKUP_SET).and_then(text)?.to_owned();
                let inside = value(NFTA_LOOKUP_FLAGS).is_none_or(|flags| flags & NFT_LOOKUP_F_INV == 0);
                let register = value(NFTA_LOOKUP_SREG)?;
                let whole = match self.registers.get(&register)? {
                    Held::Address { offset, length, mask, .. } => {
                        *offset == 0 && mask.is_empty() && matches!(length, 4 | 16)
                    }
                    Held::Narrow => true,
                    Held::Family | Held::Unknown => false,
                };
                whole.then_some(())?;
                self.test(register, With::Set { name, inside })?;
            }
            "immediate" => {
                let data = find(data, NFTA_IMMEDIATE_DATA)?;
                // A value for a register is no verdict.
                if let Some(verdict) = find(data, NFTA_DATA_VERDICT) {
                    self.rule.fate = fate(verdict)?;
                }
            }
            "reject" => self.rule.fate = Fate::Drop,
            "target" => {
                if matches!(find(data, NFTA_TARGET_NAME).and_then(text)?, "REJECT" | "DROP") {
                    self.rule.fate = Fate::Drop;
                }
            }
            "match" => match find(data, NFTA_MATCH_NAME).and_then(text)? {
                "comment" => {}
                "tcp" | "udp" | "multiport" => self.rule.narrow = true,
                _ => return None,
            },
            "counter" | "log" | "notrack" => {}
            _ => return None,
        }
        Some(())
    }

    /// Octets of a packet.
    fn payload(&self, (base, offset, length): (u32, u32, u32)) -> Held {
        let (first, length) = (offset as usize, length as usize);
        if base == NFT_PAYLOAD_TRANSPORT_HEADER {
            return Held::Narrow;
        }
        // RFC 791 §3.1 and RFC 8200 §3: where source and destination stand.
        let v6 = self.rule.v6.unwrap_or(first >= 20 || length > 4 || first == 8);
        let (source, width) = if v6 { (8, 16) } else { (12, 4) };
        for (side, begin) in [(Side::Source, source), (Side::Destination, source + width)] {
            if (begin..begin + width).contains(&first)
                && first + length <= begin + width
                && base == NFT_PAYLOAD_NETWORK_HEADER
            {
                return Held::Address { side, offset: first - begin, length, mask: Vec::new() };
            }
        }
        // The protocol, or the next header.
        match base == NFT_PAYLOAD_NETWORK_HEADER && length == 1 && first == if v6 { 6 } else { 9 } {
            true => Held::Narrow,
            false => Held::Unknown,
        }
    }

    fn compare(&mut self, register: u32, operator: u32, with: &[u8]) -> Option<()> {
        if let Held::Family = self.registers.get(&register)? {
            let equal = operator == NFT_CMP_EQ;
            self.rule.v6 = Some(match (with.first()?, equal) {
                (10, true) | (2, false) => true,
                (2, true) | (10, false) => false,
                _ => return None,
            });
            return Some(());
        }
        let with = with.to_vec();
        let test = match operator {
            NFT_CMP_EQ => With::Equal(with),
            NFT_CMP_NEQ => With::NotEqual(with),
            // nft writes a range as these two, too.
            NFT_CMP_LTE => With::Range { first: vec![0; with.len()], last: with, inside: true },
            NFT_CMP_GTE => With::Range { last: vec![0xff; with.len()], first: with, inside: true },
            _ => return None,
        };
        self.test(register, test)
    }

    fn test(&mut self, register: u32, with: With) -> Option<()> {
        match self.registers.get(&register)? {
            Held::Address { side, offset, mask, .. } => {
                self.rule.tests.push(Test { side: *side, offset: *offset, mask: mask.clone(), with });
            }
            Held::Narrow => self.rule.narrow = true,
            Held::Family | Held::Unknown => return None,
        }
        Some(())
    }
}

fn fate(verdict: &[u8]) -> Option<Fate> {
    let code = find(verdict, NFTA_VERDICT_CODE).and_then(number)?;
    let chain = || Some(find(verdict, NFTA_VERDICT_CHAIN).and_then(text)?.to_owned());
    Some(match code {
        NF_DROP => Fate::Drop,
        NF_ACCEPT => Fate::Accept,
        _ => match code.cast_signed() {
            NFT_JUMP => Fate::Jump(chain()?),
            NFT_GOTO => Fate::Goto(chain()?),
            NFT_RETURN => Fate::Return,
            _ => return None,
        },
    })
}

/// Key, and whether an interval ends there.
type Member = (Vec<u8>, bool);

fn elements(message: &[u8], members: &mut Vec<Member>) {
    let lists = attributes(message).filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
    for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
        let key = find(element, NFTA_SET_ELEM_KEY).and_then(|key| find(key, NFTA_DATA_VALUE));
        let flags = find(element, NFTA_SET_ELEM_FLAGS).and_then(number).unwrap_or(0);
        members.extend(key.map(|key| (key.to_vec(), flags & NFT_SET_ELEM_INTERVAL_END != 0)));
    }
}

fn set_of(members: Vec<Member>) -> Members {
    let intervals = members.iter().any(|(_, is_end)| *is_end);
    if !intervals {
        return Members::Keys(members.into_iter().map(|(key, ..)| key).collect());
    }
    let mut boundaries = BTreeMap::new();
    for (key, is_end) in members {
        // Where one ends and another begins, one goes on.
        *boundaries.entry(key).or_insert(false) |= !is_end;
    }
    Members::Intervals(boundaries)
}
