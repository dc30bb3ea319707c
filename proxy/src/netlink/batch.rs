//! One transaction: messages between BATCH_BEGIN and BATCH_END that the kernel commits together or not at all.
//!
//! Each message has its own sequence number, and a batch remembers what each was about, so that a refusal can name the
//! element, chain or set. Only the last message asks for an acknowledgement: the kernel sends it after the commit, and
//! refusals come unasked.

use std::collections::BTreeMap;
use std::fmt;

use super::attributes::Writer;
use super::expressions;
use super::wire::*;
use crate::element::Element;
use crate::family::IpFamily;
use crate::ruleset::{Base, ChainType, Data, DataType, Entry, FieldType, Hook, Ruleset, SetName, Table};

use super::userdata::userdata;

/// An attribute's length has 16 bits, so a list of elements ends before. Also about what one error may blur.
const BYTES_PER_MESSAGE: usize = 48 * 1024;

/// What one element takes at most, in bytes: to size the buffer.
const BYTES_PER_ELEMENT: usize = 104;

/// What a message was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The transaction as a whole.
    Batch,
    /// A table, chain, set or rule, in words.
    Object(String),
    /// This element was to be added.
    Addition(Element),
    /// This element was to be removed.
    Removal(Element),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("the transaction"),
            Self::Object(object) => f.write_str(object),
            Self::Addition(element) => write!(f, "to add {element:?}"),
            Self::Removal(element) => write!(f, "to remove {element:?}"),
        }
    }
}

/// A message with many elements.
#[derive(Debug)]
struct Chunk {
    sequence: u32,
    set: SetName,
    removal: bool,
    /// Offset in the message, and index of the element in its list; ascending.
    elements: Vec<(u32, u32)>,
}

/// A transaction in the making.
#[derive(Debug)]
pub(super) struct Batch {
    writer: Writer,
    first: u32,
    next: u32,
    last_message: usize,
    chunks: Vec<Chunk>,
    objects: BTreeMap<u32, String>,
}

/// Number of a family in `struct nfgenmsg`.
pub(super) fn protocol_family(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    }
}

/// Type of a message of nf_tables.
pub(super) fn message_type(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

impl Batch {
    /// A batch whose messages are numbered from `first` on, with room for a number of elements.
    pub(super) fn new(first: u32, elements: usize) -> Self {
        let mut writer = Writer::with_capacity(elements * BYTES_PER_ELEMENT + 4096);
        writer.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, 0, NFNL_SUBSYS_NFTABLES, |_| {});
        let next = first.wrapping_add(1);
        Self { writer, first, next, last_message: 0, chunks: Vec::new(), objects: BTreeMap::new() }
    }

    /// Closes the batch: the bytes to send.
    pub(super) fn finish(&mut self) {
        self.writer.add_flags(self.last_message, NLM_F_ACK);
        self.writer.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, self.next, 0, NFNL_SUBSYS_NFTABLES, |_| {});
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.writer.as_slice()
    }

    /// Sequence number of the first message, under which the kernel speaks of the whole.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Sequence number of the message that is acknowledged.
    pub(super) fn last(&self) -> u32 {
        self.next.wrapping_sub(1)
    }

    /// The first sequence number behind the batch.
    pub(super) fn end(&self) -> u32 {
        self.next.wrapping_add(1)
    }

    /// True when the batch has a message of this number.
    pub(super) fn contains(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.first) <= self.next.wrapping_sub(self.first)
    }

    fn message(&mut self, kind: u16, flags: u16, family: IpFamily, body: impl FnOnce(&mut Writer)) -> u32 {
        let sequence = self.next;
        self.next = sequence.wrapping_add(1);
        self.last_message = self.writer.len();
        let flags = NLM_F_REQUEST | flags;
        self.writer.message(message_type(kind), flags, sequence, protocol_family(family), 0, body);
        sequence
    }

    fn object(
        &mut self,
        kind: u16,
        flags: u16,
        family: IpFamily,
        name: String,
        body: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.message(kind, flags, family, body);
        self.objects.insert(sequence, format!("{name} ({family})"));
    }

    /// Makes sure that there is no table of this family, whether there was one or not.
    pub(super) fn delete_table(&mut self, family: IpFamily) {
        self.create_table(family);
        self.object(NFT_MSG_DELTABLE, 0, family, "deletion of table".to_owned(), |w| {
            w.string(NFTA_TABLE_NAME, Ruleset::TABLE);
        });
    }

    fn create_table(&mut self, family: IpFamily) {
        self.object(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, "table".to_owned(), |w| {
            w.string(NFTA_TABLE_NAME, Ruleset::TABLE);
            w.number(NFTA_TABLE_FLAGS, 0);
        });
    }

    /// A table with its chains, sets and constant elements, but without rules: elements are cheapest to add before a
    /// rule uses their set.
    pub(super) fn add_table(&mut self, table: &Table) {
        let family = table.family;
        self.create_table(family);
        for chain in &table.chains {
            self.object(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, format!("chain {}", chain.name), |w| {
                w.string(NFTA_CHAIN_TABLE, Ruleset::TABLE);
                w.string(NFTA_CHAIN_NAME, &chain.name);
                if let Some(base) = &chain.base {
                    write_base(w, base);
                }
            });
        }
        for set in &table.sets {
            let name = set.name;
            self.object(NFT_MSG_NEWSET, NLM_F_CREATE, family, format!("set {}", name.as_str()), |w| {
                write_set(w, family, name);
            });
            if !set.elements.is_empty() {
                let what = format!("elements of {}", name.as_str());
                self.object(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, what, |w| {
                    write_element_list(w, name);
                    w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                        for entry in &set.elements {
                            write_element(w, entry);
                        }
                    });
                });
            }
        }
    }

    /// The rules of a table.
    pub(super) fn add_rules(&mut self, table: &Table) {
        let family = table.family;
        for chain in &table.chains {
            for rule in &chain.rules {
                let what = format!("rule of {}", chain.name);
                self.object(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, what, |w| {
                    w.string(NFTA_RULE_TABLE, Ruleset::TABLE);
                    w.string(NFTA_RULE_CHAIN, &chain.name);
                    w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                        for statement in rule {
                            expressions::write(w, family, statement, &|set| set_id(family, set));
                        }
                    });
                });
            }
        }
    }

    /// Adds or removes elements, as many per message as fit.
    pub(super) fn elements(&mut self, elements: &[Element], removal: bool) {
        let mut groups: BTreeMap<(IpFamily, SetName), Vec<u32>> = BTreeMap::new();
        for (index, element) in (0u32..).zip(elements) {
            let entry = Entry::from(element);
            groups.entry((entry.family, entry.set)).or_default().push(index);
        }
        for ((family, set), indices) in groups {
            let mut rest = indices.as_slice();
            while !rest.is_empty() {
                let done = self.chunk(family, set, elements, rest, removal);
                rest = rest.get(done..).unwrap_or_default();
            }
        }
    }

    /// One message of elements; how many of them it took.
    fn chunk(
        &mut self,
        family: IpFamily,
        set: SetName,
        elements: &[Element],
        indices: &[u32],
        removal: bool,
    ) -> usize {
        let (kind, flags) =
            if removal { (NFT_MSG_DELSETELEM, 0) } else { (NFT_MSG_NEWSETELEM, NLM_F_CREATE) };
        let start = self.writer.len();
        let mut places = Vec::new();
        let sequence = self.message(kind, flags, family, |w| {
            write_element_list(w, set);
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                for index in indices {
                    let offset = w.len() - start;
                    let element = usize::try_from(*index).ok().and_then(|index| elements.get(index));
                    let (Some(element), true) = (element, offset < BYTES_PER_MESSAGE) else { break };
                    places.push((u32::try_from(offset).unwrap_or(u32::MAX), *index));
                    write_element(w, &Entry::from(element));
                }
            });
        });
        let done = places.len().max(1);
        self.chunks.push(Chunk { sequence, set, removal, elements: places });
        done
    }

    /// What a refusal is about: the message's number, and where in the message the kernel points.
    pub(super) fn subject(
        &self,
        sequence: u32,
        offset: Option<u32>,
        removed: &[Element],
        added: &[Element],
    ) -> Subject {
        if let Some(object) = self.objects.get(&sequence) {
            return Subject::Object(object.clone());
        }
        let Some(chunk) = self.chunks.iter().find(|chunk| chunk.sequence == sequence) else {
            return Subject::Batch;
        };
        let list = if chunk.removal { removed } else { added };
        // Alone in its message, or the last one that starts at or before the place.
        let found = match (chunk.elements.as_slice(), offset) {
            ([(start, only)], Some(offset)) if offset >= *start => Some(*only),
            ([(_, only)], None) => Some(*only),
            (many, Some(offset)) => {
                let behind = many.partition_point(|(start, _)| *start <= offset);
                behind.checked_sub(1).and_then(|at| many.get(at)).map(|(_, index)| *index)
            }
            (_, None) => None,
        };
        let element = found.and_then(|index| list.get(usize::try_from(index).ok()?));
        match element {
            Some(element) if chunk.removal => Subject::Removal(*element),
            Some(element) => Subject::Addition(*element),
            None => Subject::Object(format!("elements of {}", chunk.set.as_str())),
        }
    }
}

/// Number of a set in a batch that creates it.
fn set_id(family: IpFamily, set: SetName) -> u32 {
    let place = SetName::ALL.iter().position(|name| *name == set).unwrap_or_default();
    let base = match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 101,
    };
    base + u32::try_from(place).unwrap_or_default()
}

fn write_base(w: &mut Writer, base: &Base) {
    let hook = match base.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.number(NFTA_HOOK_HOOKNUM, hook);
        w.number(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    w.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
    let kind = match base.kind {
        ChainType::Nat => "nat",
        ChainType::Filter => "filter",
    };
    w.string(NFTA_CHAIN_TYPE, kind);
}

/// Type number and length of a concatenation: six bits per field as `nft` composes them, and each padded to a word.
fn shape(family: IpFamily, fields: &[FieldType]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, len), field| {
        let (number, bytes) = match (field, family) {
            (FieldType::Address, IpFamily::V4) => (7, 4),
            (FieldType::Address, IpFamily::V6) => (8, 16),
            (FieldType::Protocol, _) => (12, 4),
            (FieldType::Port, _) => (13, 4),
            (FieldType::Slot, _) => (4, 4),
            (FieldType::ClassId, _) => (23, 4),
        };
        (kind << 6 | number, len + bytes)
    })
}

fn write_set(w: &mut Writer, family: IpFamily, set: SetName) {
    let map = if set.data().is_some() { NFT_SET_MAP } else { 0 };
    let interval = if set.is_interval() { NFT_SET_INTERVAL } else { 0 };
    let (kind, len) = shape(family, set.key());
    w.string(NFTA_SET_TABLE, Ruleset::TABLE);
    w.string(NFTA_SET_NAME, set.as_str());
    w.number(NFTA_SET_FLAGS, map | interval);
    w.number(NFTA_SET_KEY_TYPE, kind);
    w.number(NFTA_SET_KEY_LEN, len);
    let data = match set.data() {
        None => None,
        Some(DataType::Verdict) => Some((NFT_DATA_VERDICT, 0)),
        Some(DataType::ClassId) => Some(shape(family, &[FieldType::ClassId])),
        Some(DataType::AddressPort) => Some(shape(family, &[FieldType::Address, FieldType::Port])),
    };
    if let Some((kind, len)) = data {
        w.number(NFTA_SET_DATA_TYPE, kind);
        w.number(NFTA_SET_DATA_LEN, len);
    }
    w.number(NFTA_SET_ID, set_id(family, set));
    w.bytes(NFTA_SET_USERDATA, &userdata(family, set));
}

fn write_element_list(w: &mut Writer, set: SetName) {
    w.string(NFTA_SET_ELEM_LIST_TABLE, Ruleset::TABLE);
    w.string(NFTA_SET_ELEM_LIST_SET, set.as_str());
}

fn write_element(w: &mut Writer, entry: &Entry) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, entry.key.as_slice()));
        match &entry.data {
            Data::None => {}
            Data::Goto(chain) => w.nest(NFTA_SET_ELEM_DATA, |w| {
                expressions::verdict_data(w, NFT_GOTO.cast_unsigned(), Some(chain));
            }),
            Data::Value(value) => {
                w.nest(NFTA_SET_ELEM_DATA, |w| w.bytes(NFTA_DATA_VALUE, value.as_slice()));
            }
        }
    });
    if let Some(end) = entry.end() {
        w.nest(NFTA_LIST_ELEM, |w| {
            w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, end.as_slice()));
        });
    }
}

