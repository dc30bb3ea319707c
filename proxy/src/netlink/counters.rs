//! What the rules have counted, read back.

use super::attributes::attributes;
use super::decode::{find, text};
use super::objects::write_element_list;
use super::wire::*;
use super::{Kernel, KernelError};
use crate::element::{Element, Frontend};
use crate::family::IpFamily;
use crate::reason::EndReason;
use crate::ruleset::{Buffer, Data, Entry, Ruleset, SetName};

/// Packets, and their bytes from the network header on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub packets: u64,
    /// How long, together.
    pub bytes: u64,
}

/// How many packets the rules of one table have ended for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Of the table.
    pub family: IpFamily,
    /// The kernel's number of the table: with another one, counting began anew.
    pub table: u64,
    /// Why.
    pub reason: EndReason,
    /// How many.
    pub count: Count,
}

impl Kernel {
    /// How many packets the rules have ended, by reason. Counters that are not there are left out; somebody's commit in
    /// between does no harm, since each is read by itself.
    pub fn ended(&mut self) -> Result<Vec<Ended>, KernelError> {
        let mut ended = Vec::new();
        for family in IpFamily::ALL {
            let found = self.get(NFT_MSG_GETTABLE, family, |w| w.string(NFTA_TABLE_NAME, Ruleset::TABLE))?;
            let Some(table) = found.and_then(|found| long(find(&found, NFTA_TABLE_HANDLE)?)) else {
                continue;
            };
            self.list(
                NFT_MSG_GETOBJ,
                family,
                |w| {
                    w.string(NFTA_OBJ_TABLE, Ruleset::TABLE);
                    w.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
                },
                |message| {
                    let read = read_ended(message);
                    ended.extend(read.map(|(reason, count)| Ended { family, table, reason, count }));
                },
            )?;
        }
        Ok(ended)
    }

    /// What was counted for each frontend since its element or its table was written; with the table's number as in
    /// [`Ended`].
    pub fn traffic(&mut self, each: &mut dyn FnMut(Frontend, u64, Count)) -> Result<(), KernelError> {
        for family in IpFamily::ALL {
            let Some(table) = self.table_number(family)? else { continue };
            self.list(
                NFT_MSG_GETSETELEM,
                family,
                |w| write_element_list(w, SetName::Traffic),
                |message| read_traffic(family, message, &mut |frontend, count| each(frontend, table, count)),
            )?;
        }
        Ok(())
    }

    /// The kernel's number of our table.
    fn table_number(&mut self, family: IpFamily) -> Result<Option<u64>, KernelError> {
        let found = self.get(NFT_MSG_GETTABLE, family, |w| w.string(NFTA_TABLE_NAME, Ruleset::TABLE))?;
        Ok(found.and_then(|found| long(find(&found, NFTA_TABLE_HANDLE)?)))
    }
}

/// The elements of one message; what is not as Herald writes it is nobody's.
fn read_traffic(family: IpFamily, message: &[u8], each: &mut dyn FnMut(Frontend, Count)) {
    let lists = attributes(message).filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
    for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
        let key = find(element, NFTA_SET_ELEM_KEY).and_then(|key| find(key, NFTA_DATA_VALUE));
        let entry = key
            .and_then(Buffer::from_slice)
            .map(|key| Entry::read(family, SetName::Traffic, key, Data::None));
        let Some(Element::Counted { frontend }) = entry.and_then(|entry| entry.element()) else { continue };
        let counter = find(element, NFTA_SET_ELEM_EXPR).and_then(|counter| find(counter, NFTA_EXPR_DATA));
        if let Some(count) = counter.and_then(read_count) {
            each(frontend, count);
        }
    }
}

fn read_ended(message: &[u8]) -> Option<(EndReason, Count)> {
    if find(message, NFTA_OBJ_TABLE).and_then(text) != Some(Ruleset::TABLE) {
        return None;
    }
    let name = find(message, NFTA_OBJ_NAME).and_then(text)?;
    let reason = EndReason::ALL.into_iter().find(|reason| reason.counter() == name)?;
    Some((reason, read_count(find(message, NFTA_OBJ_DATA)?)?))
}

/// The attributes of a counter.
fn read_count(counter: &[u8]) -> Option<Count> {
    let number = |kind| find(counter, kind).and_then(long);
    Some(Count { packets: number(NFTA_COUNTER_PACKETS)?, bytes: number(NFTA_COUNTER_BYTES)? })
}

/// A long number in network order.
fn long(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
