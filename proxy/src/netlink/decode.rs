//! Listed set elements and rules, read strictly: pure, no length is trusted, nothing unknown is passed over.
//!
//! The inverse of `objects.rs`. What Herald would not have written is [`Foreign`]: somebody edited the table, and only a
//! refill makes sure what is in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::attributes::attributes;
use super::wire::*;
use crate::family::IpFamily;
use crate::ruleset::{Buffer, Data, Entry, SetName};

/// What is not as Herald left it, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Foreign(pub(super) String);

/// Reads the messages of one set's listing.
#[derive(Debug)]
pub(super) struct SetReader {
    family: IpFamily,
    set: SetName,
    /// Of a set of prefixes: where one starts (false) or has ended (true).
    boundaries: Vec<(IpAddr, bool)>,
}

/// One element.
struct Read {
    key: Buffer,
    data: Data,
    /// It only says where an interval ends.
    is_end: bool,
    /// The last key of its range.
    last: Option<Buffer>,
}

impl SetReader {
    pub(super) fn new(family: IpFamily, set: SetName) -> Self {
        Self { family, set, boundaries: Vec::new() }
    }

    /// Reads the attributes of one message. Prefixes come at the end, from [`Self::finish`].
    pub(super) fn message(
        &mut self,
        message: &[u8],
        each: &mut dyn FnMut(Entry) -> Result<(), Foreign>,
    ) -> Result<(), Foreign> {
        let lists = attributes(message).filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
        for (kind, element) in lists.flat_map(|(_, list)| attributes(list)) {
            if kind != NFTA_LIST_ELEM {
                return Err(self.foreign("a thing that is no element"));
            }
            let Read { key, data, is_end, last } = self.element(element)?;
            if self.set.is_range() {
                let range = last.filter(|_| data == Data::None && !is_end);
                let entry = range.and_then(|last| Entry::read_range(self.family, self.set, key, last));
                each(entry.ok_or_else(|| self.foreign("a range that is no prefix"))?)?;
            } else if last.is_some() {
                return Err(self.foreign("a range"));
            } else if self.set.is_interval() {
                let address = address(self.family, key.as_slice());
                let address = address.ok_or_else(|| self.foreign("a key of another type"))?;
                if data != Data::None {
                    return Err(self.foreign("a value in a set"));
                }
                self.boundaries.push((address, is_end));
            } else if is_end {
                return Err(self.foreign("the end of an interval"));
            } else {
                each(Entry::read(self.family, self.set, key, data))?;
            }
        }
        Ok(())
    }

    /// The prefixes of a set of prefixes.
    pub(super) fn finish(
        mut self,
        each: &mut dyn FnMut(Entry) -> Result<(), Foreign>,
    ) -> Result<(), Foreign> {
        // An end stands before a start at the same address.
        self.boundaries.sort_unstable_by_key(|&(address, is_end)| (address, !is_end));
        self.boundaries.dedup();
        let boundaries = std::mem::take(&mut self.boundaries);
        let mut rest = boundaries.iter();
        while let Some(&(start, is_end)) = rest.next() {
            let end = match rest.as_slice().first() {
                Some(&(end, true)) => {
                    rest.next();
                    Some(end)
                }
                // Up to the last address of all.
                None => None,
                Some(_) => return Err(self.foreign("intervals that overlap")),
            };
            let prefix = if is_end { None } else { prefix(start, end) };
            let prefix = prefix.ok_or_else(|| self.foreign("an interval that is no prefix"))?;
            each(Entry::interval(self.set, prefix))?;
        }
        Ok(())
    }

    fn element(&self, element: &[u8]) -> Result<Read, Foreign> {
        let (mut key, mut data, mut is_end, mut last) = (None, Data::None, false, None);
        for (kind, value) in attributes(element) {
            match kind {
                NFTA_SET_ELEM_KEY => {
                    let bytes = find(value, NFTA_DATA_VALUE).and_then(Buffer::from_slice);
                    key = Some(bytes.ok_or_else(|| self.foreign("a key of another type"))?);
                }
                NFTA_SET_ELEM_KEY_END => {
                    let bytes = find(value, NFTA_DATA_VALUE).and_then(Buffer::from_slice);
                    last = Some(bytes.ok_or_else(|| self.foreign("a key of another type"))?);
                }
                NFTA_SET_ELEM_DATA => {
                    data = read_data(value).ok_or_else(|| self.foreign("a value of another type"))?;
                }
                NFTA_SET_ELEM_FLAGS => {
                    let flags = number(value).ok_or_else(|| self.foreign("unreadable flags"))?;
                    if flags & !NFT_SET_ELEM_INTERVAL_END != 0 {
                        return Err(self.foreign("a catch-all element"));
                    }
                    is_end = flags != 0;
                }
                NFTA_SET_ELEM_PAD => {}
                NFTA_SET_ELEM_EXPR if self.set.is_counted() => {}
                // A timeout, a comment, an expression.
                _ => return Err(self.foreign("an element with more than key and value")),
            }
        }
        let key = key.ok_or_else(|| self.foreign("an element without a key"))?;
        Ok(Read { key, data, is_end, last })
    }

    fn foreign(&self, what: &str) -> Foreign {
        Foreign(format!("{what} in {} ({})", self.set.as_str(), self.family))
    }
}

fn read_data(value: &[u8]) -> Option<Data> {
    if let Some(bytes) = find(value, NFTA_DATA_VALUE) {
        return Buffer::from_slice(bytes).map(Data::Value);
    }
    let verdict = find(value, NFTA_DATA_VERDICT)?;
    let code = find(verdict, NFTA_VERDICT_CODE).and_then(number)?;
    let chain = find(verdict, NFTA_VERDICT_CHAIN).and_then(text)?;
    match code.cast_signed() {
        NFT_GOTO => Some(Data::Goto(chain.to_owned())),
        NFT_JUMP => Some(Data::Jump(chain.to_owned())),
        _ => None,
    }
}

/// The first attribute of a type.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A number in network order.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes)
}

/// A string with its closing NUL.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    let (0, text) = bytes.split_last()? else { return None };
    std::str::from_utf8(text).ok()
}

fn address(family: IpFamily, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        IpFamily::V4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        IpFamily::V6 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
    }
}

/// The prefix from one address up to before another; `None` as end is what follows the last address.
fn prefix(start: IpAddr, end: Option<IpAddr>) -> Option<IpNet> {
    let (bits, first, behind) = match (start, end) {
        (IpAddr::V4(start), None) => (32, u128::from(u32::from(start)), 1 << 32),
        (IpAddr::V4(start), Some(IpAddr::V4(end))) => {
            (32, u128::from(u32::from(start)), u128::from(u32::from(end)))
        }
        // One less than what follows the last address does not matter: the length is computed modulo.
        (IpAddr::V6(start), None) => (128, u128::from(start), 0),
        (IpAddr::V6(start), Some(IpAddr::V6(end))) => (128, u128::from(start), u128::from(end)),
        _ => return None,
    };
    let size = behind.wrapping_sub(first);
    // All of IPv6 is of size 2^128, which is 0 here.
    let host_bits = if size == 0 { 128 } else { size.is_power_of_two().then(|| size.trailing_zeros())? };
    let length = u8::try_from(bits).ok()?.checked_sub(u8::try_from(host_bits).ok()?)?;
    let prefix = IpNet::new(start, length).ok()?;
    (prefix.trunc() == prefix).then_some(prefix)
}

#[cfg(test)]
mod tests;
