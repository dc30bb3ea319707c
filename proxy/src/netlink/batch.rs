//! One transaction: messages between BATCH_BEGIN and BATCH_END that the kernel commits together or not at all.
//!
//! Each message has its own sequence number, and a batch remembers what each was about, so that a refusal can name the
//! element, chain or set. Only the last message asks for an acknowledgement: the kernel sends it after the commit, and
//! refusals come unasked.

use std::collections::BTreeMap;
use std::fmt;

use super::attributes::Writer;
use super::objects::{
    write_base, write_counter, write_element, write_element_list, write_rule, write_set, write_table,
};
use super::wire::*;
use crate::element::Element;
use crate::family::IpFamily;
use crate::reason::EndReason;
use crate::ruleset::{Entry, Ruleset, SetName, Table};

/// An attribute's length has 16 bits, so a list of elements ends before. Also about what one error may blur.
const BYTES_PER_MESSAGE: usize = 48 * 1024;

/// What one element takes at most, in bytes (an IPv6 source 104): to size the buffer.
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
pub(crate) fn protocol_family(family: IpFamily) -> u8 {
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
    /// A batch whose messages are numbered from `first` on, with room for a number of elements. With a generation, the
    /// kernel refuses it if somebody committed after that.
    pub(super) fn new(first: u32, elements: usize, generation: Option<u32>) -> Self {
        let mut writer = Writer::with_capacity(elements * BYTES_PER_ELEMENT + 4096);
        writer.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, 0, NFNL_SUBSYS_NFTABLES, |w| {
            if let Some(generation) = generation {
                w.number(NFNL_BATCH_GENID, generation);
            }
        });
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
    pub(super) fn delete_table(&mut self, family: IpFamily, name: &str) {
        for (kind, flags) in [(NFT_MSG_NEWTABLE, NLM_F_CREATE), (NFT_MSG_DELTABLE, 0)] {
            self.object(kind, flags, family, format!("old table {name}"), |w| {
                w.string(NFTA_TABLE_NAME, name);
            });
        }
    }

    /// Removes a rule of somebody's chain, or without a handle all of them.
    pub(super) fn delete_rules(&mut self, family: IpFamily, table: &str, chain: &str, handle: Option<u64>) {
        self.object(NFT_MSG_DELRULE, 0, family, format!("rule of {table} {chain}"), |w| {
            w.string(NFTA_RULE_TABLE, table);
            w.string(NFTA_RULE_CHAIN, chain);
            if let Some(handle) = handle {
                w.bytes(NFTA_RULE_HANDLE, &handle.to_be_bytes());
            }
        });
    }

    /// Removes somebody's chain, which must be empty and unused.
    pub(super) fn delete_chain(&mut self, family: IpFamily, table: &str, chain: &str) {
        self.object(NFT_MSG_DELCHAIN, 0, family, format!("chain {table} {chain}"), |w| {
            w.string(NFTA_CHAIN_TABLE, table);
            w.string(NFTA_CHAIN_NAME, chain);
        });
    }

    /// A table with its chains and sets, all empty.
    pub(super) fn add_table(&mut self, table: &Table) {
        let family = table.family;
        self.object(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, "table".to_owned(), |w| write_table(w, table));
        for reason in EndReason::ALL {
            let what = format!("counter {}", reason.counter());
            self.object(NFT_MSG_NEWOBJ, NLM_F_CREATE, family, what, |w| write_counter(w, reason));
        }
        self.add_chains(table);
        for set in &table.sets {
            let what = format!("set {}", set.name.as_str());
            self.object(NFT_MSG_NEWSET, NLM_F_CREATE, family, what, |w| write_set(w, family, set.name));
        }
    }

    /// The chains of a table, where they are missing.
    pub(super) fn add_chains(&mut self, table: &Table) {
        let family = table.family;
        for chain in &table.chains {
            self.object(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, format!("chain {}", chain.name), |w| {
                w.string(NFTA_CHAIN_TABLE, Ruleset::TABLE);
                w.string(NFTA_CHAIN_NAME, &chain.name);
                if let Some(base) = &chain.base {
                    write_base(w, base);
                }
            });
        }
    }

    /// Takes the rules out of these chains.
    pub(super) fn flush_chains(&mut self, table: &Table) {
        for chain in &table.chains {
            let what = format!("old rules of {}", chain.name);
            self.object(NFT_MSG_DELRULE, 0, table.family, what, |w| {
                w.string(NFTA_RULE_TABLE, Ruleset::TABLE);
                w.string(NFTA_RULE_CHAIN, &chain.name);
            });
        }
    }

    /// Empties the chains and sets of a table that has this layout already, but for what packets have put there, and adds
    /// the chains that are missing.
    pub(super) fn flush_table(&mut self, table: &Table) {
        let family = table.family;
        self.object(NFT_MSG_DELRULE, 0, family, "old rules".to_owned(), |w| {
            w.string(NFTA_RULE_TABLE, Ruleset::TABLE);
        });
        for set in table.sets.iter().filter(|set| set.name.dynamic_size().is_none()) {
            let what = format!("old elements of {}", set.name.as_str());
            self.object(NFT_MSG_DELSETELEM, 0, family, what, |w| write_element_list(w, set.name));
        }
        self.add_chains(table);
    }

    /// The constant elements of a table's maps.
    pub(super) fn add_constants(&mut self, table: &Table) {
        for set in table.sets.iter().filter(|set| !set.elements.is_empty()) {
            let what = format!("elements of {}", set.name.as_str());
            self.object(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table.family, what, |w| {
                write_element_list(w, set.name);
                w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    for entry in &set.elements {
                        write_element(w, entry);
                    }
                });
            });
        }
    }

    /// The rules of a table.
    pub(super) fn add_rules(&mut self, table: &Table) {
        let (kind, flags) = (NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        for chain in &table.chains {
            for rule in &chain.rules {
                let what = format!("rule of {}", chain.name);
                self.object(kind, flags, table.family, what, |w| {
                    write_rule(w, table.family, &chain.name, rule);
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
