//! Listings: what is in our sets, and nothing of anybody else's.
//!
//! A listing comes in many messages, and somebody's commit may fall between them; the kernel says so, and the generation
//! says it for several listings. Whoever needs one moment's truth asks again ([`KernelError::Unsettled`] after some
//! tries).

use super::attributes::Writer;
use super::batch::{message_type, protocol_family};
use super::decode::{Foreign, SetReader, find, number};
use super::objects::write_element_list;
use super::wire::*;
use super::{ATTEMPTS, Kernel, KernelError, Subject, refused};
use crate::element::Element;
use crate::family::IpFamily;
use crate::ruleset::{Entry, Ruleset, Timeouts};

/// How a listing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// All of it came, of one moment.
    Whole,
    /// Somebody committed meanwhile.
    Disturbed,
    /// There is no such table or set.
    Missing,
}

impl Kernel {
    /// All elements that are in the sets of this ruleset's tables, constants aside. An error says what is not as Herald
    /// would have left it.
    pub fn dump(&mut self, ruleset: &Ruleset) -> Result<Vec<Element>, KernelError> {
        for _ in 0..ATTEMPTS {
            let mut elements = Vec::new();
            let generation = self.generation()?;
            let listing = self.list_elements(ruleset, &mut |element| elements.push(element))?;
            if listing == Listing::Missing {
                return Err(KernelError::Foreign("a table or a set is missing".to_owned()));
            }
            if listing == Listing::Whole && generation == self.generation()? {
                return Ok(elements);
            }
        }
        Err(KernelError::Unsettled)
    }

    /// How many transactions were committed in this network namespace, by whomever. Wraps.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let found = self.get(NFT_MSG_GETGEN, IpFamily::V4, |_| {})?;
        let generation = found.and_then(|found| number(find(&found, NFTA_GEN_ID)?));
        generation.ok_or_else(|| refused(Subject::Batch, libc::EPROTO, Some("no generation".to_owned())))
    }

    /// Every element of every set that Services have elements in; the constant ones are compared.
    pub(super) fn list_elements(
        &mut self,
        ruleset: &Ruleset,
        each: &mut dyn FnMut(Element),
    ) -> Result<Listing, KernelError> {
        for table in &ruleset.tables {
            // What packets put there is theirs.
            for set in table.sets.iter().filter(|set| set.name.dynamic_size().is_none()) {
                let constants = &set.elements;
                let mut seen = 0;
                let mut take = |entry: Entry| {
                    if let Some(element) = entry.element() {
                        each(element);
                    } else if constants.contains(&entry) {
                        seen += 1;
                    } else if !Timeouts::is_entry(&entry) {
                        let what = format!("an element of {} ({})", set.name.as_str(), table.family);
                        return Err(Foreign(what));
                    }
                    Ok(())
                };
                let mut reader = SetReader::new(table.family, set.name);
                let mut foreign = Ok(());
                let listing = self.list(
                    NFT_MSG_GETSETELEM,
                    table.family,
                    |w| write_element_list(w, set.name),
                    |message| {
                        if foreign.is_ok() {
                            foreign = reader.message(message, &mut take);
                        }
                    },
                )?;
                if listing != Listing::Whole {
                    return Ok(listing);
                }
                foreign
                    .and_then(|()| reader.finish(&mut take))
                    .map_err(|Foreign(what)| KernelError::Foreign(what))?;
                if seen < constants.len() {
                    let what =
                        format!("a constant element of {} is missing ({})", set.name.as_str(), table.family);
                    return Err(KernelError::Foreign(what));
                }
            }
        }
        Ok(Listing::Whole)
    }

    /// One listing. It is always read to its end, or the socket could not begin another.
    pub(super) fn list(
        &mut self,
        kind: u16,
        family: IpFamily,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(&[u8]),
    ) -> Result<Listing, KernelError> {
        self.list_in(kind, protocol_family(family), body, each)
    }

    /// [`Self::list`] of any family, by its number in `struct nfgenmsg`.
    pub(super) fn list_in(
        &mut self,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&[u8]),
    ) -> Result<Listing, KernelError> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut writer = Writer::default();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        writer.message(message_type(kind), flags, sequence, family, 0, body);
        self.send(writer.as_slice())?;
        let mut disturbed = false;
        let answer = self.answer(|reply| {
            if reply.sequence != sequence {
                return None;
            }
            disturbed |= reply.interrupted;
            if reply.error.is_none() {
                each(reply.attributes);
            }
            Some((reply.error?, reply.reason))
        });
        let (error, reason) = match answer {
            Err(KernelError::Lost) => return Ok(Listing::Disturbed),
            answer => answer?,
        };
        match error {
            0 if disturbed => Ok(Listing::Disturbed),
            0 => Ok(Listing::Whole),
            libc::EINTR | libc::EAGAIN | libc::EBUSY => Ok(Listing::Disturbed),
            libc::ENOENT => Ok(Listing::Missing),
            error => Err(refused(Subject::Batch, error, reason)),
        }
    }
}
