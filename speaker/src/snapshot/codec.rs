//! How values are laid out in a snapshot: one after the other, without names.
//!
//! Numbers are big-endian; lengths and counts in groups of seven bits, the lowest first, the eighth bit says that there is
//! more. Texts are UTF-8 behind their length, sequences stand behind their count, what may be missing behind an octet of 0 or 1.
//!
//! Reading takes nothing for granted, although a checksum stands before it: it never panics, never takes memory that the
//! input does not account for, and refuses what it does not understand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use herald_proxy::Names;
use herald_runtime::ObjectName;
use ipnet::IpNet;

/// The octets are no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its content makes no sense")]
pub(super) struct Damaged;

/// What has not been read yet.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Names of nodes and zones, each kept once.
    names: Names,
}

impl<'a> Reader<'a> {
    pub(super) fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets, names: Names::default() }
    }

    /// Nothing is left.
    pub(super) fn end(self) -> Result<(), Damaged> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damaged) }
    }

    fn octets(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (octets, rest) = self.rest.split_at_checked(count).ok_or(Damaged)?;
        self.rest = rest;
        Ok(octets)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (octets, rest) = self.rest.split_first_chunk().ok_or(Damaged)?;
        self.rest = rest;
        Ok(*octets)
    }

    /// A length or a count: whatever is counted has an octet at least.
    fn count(&mut self) -> Result<usize, Damaged> {
        let mut count = 0_usize;
        for shift in (0..32).step_by(7) {
            let octet = u8::take(self)?;
            count |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return if count <= self.rest.len() { Ok(count) } else { Err(Damaged) };
            }
        }
        Err(Damaged)
    }

    fn text(&mut self) -> Result<&'a str, Damaged> {
        let length = self.count()?;
        std::str::from_utf8(self.octets(length)?).map_err(|_| Damaged)
    }
}

pub(super) fn put_count(mut count: usize, to: &mut Vec<u8>) {
    while count > 0x7f {
        to.push(count as u8 | 0x80);
        count >>= 7;
    }
    to.push(count as u8);
}

/// Puts a sequence.
pub(super) fn put_all<'a, T: Field + 'a>(values: impl ExactSizeIterator<Item = &'a T>, to: &mut Vec<u8>) {
    put_count(values.len(), to);
    values.for_each(|value| value.put(to));
}

/// Puts a text.
pub(super) fn put_text(text: &str, to: &mut Vec<u8>) {
    put_count(text.len(), to);
    to.extend_from_slice(text.as_bytes());
}

/// A value of a snapshot.
pub(super) trait Field: Sized {
    /// Appends it.
    fn put(&self, to: &mut Vec<u8>);
    /// Reads what [`Self::put`] has appended.
    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged>;
}

macro_rules! numbers {
    ($($number:ty),+) => { $(
        impl Field for $number {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_be_bytes());
            }

            fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                from.array().map(Self::from_be_bytes)
            }
        }
    )+ };
}

numbers!(u8, u16, u32, u64, i64, u128);

/// A struct: its fields in this order. One that is missing here does not compile.
macro_rules! record {
    ($type:ident { $($field:ident),+ $(,)? }) => {
        impl Field for $type {
            fn put(&self, to: &mut Vec<u8>) {
                let Self { $($field),+ } = self;
                $($field.put(to);)+
            }

            fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                Ok(Self { $($field: Field::take(from)?),+ })
            }
        }
    };
}

/// An enum without fields: an octet for each variant.
macro_rules! choice {
    ($type:ident { $($variant:ident = $octet:literal),+ $(,)? }) => {
        impl Field for $type {
            fn put(&self, to: &mut Vec<u8>) {
                to.push(match self { $(Self::$variant => $octet),+ });
            }

            fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                match u8::take(from)? {
                    $($octet => Ok(Self::$variant),)+
                    _ => Err(Damaged),
                }
            }
        }
    };
}

pub(super) use {choice, record};

impl Field for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push((*self).into());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }
}

impl Field for String {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(self, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        from.text().map(str::to_owned)
    }
}

impl Field for Box<str> {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(self, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        from.text().map(Into::into)
    }
}

/// A name of a node or zone.
impl Field for Arc<str> {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(self, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let text = from.text()?;
        Ok(from.names.share(text))
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        if bool::take(from)? { T::take(from).map(Some) } else { Ok(None) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        put_all(self.iter(), to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let count = from.count()?;
        // Not with a capacity: values may be larger in memory than here.
        let mut values = Self::new();
        for _ in 0..count {
            values.push(T::take(from)?);
        }
        Ok(values)
    }
}

impl<T: Field> Field for Box<[T]> {
    fn put(&self, to: &mut Vec<u8>) {
        put_all(self.iter(), to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Vec::take(from).map(Vec::into_boxed_slice)
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (**self).put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        T::take(from).map(Self::new)
    }
}

impl<T: Field> Field for Arc<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (**self).put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        T::take(from).map(Self::new)
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl<T: Field + Ord> Field for BTreeSet<T> {
    fn put(&self, to: &mut Vec<u8>) {
        put_all(self.iter(), to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Vec::take(from).map(|values| values.into_iter().collect())
    }
}

impl<K: Field + Ord, V: Field> Field for BTreeMap<K, V> {
    fn put(&self, to: &mut Vec<u8>) {
        put_count(self.len(), to);
        for (key, value) in self {
            key.put(to);
            value.put(to);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Vec::<(K, V)>::take(from).map(|entries| entries.into_iter().collect())
    }
}

impl Field for IpAddr {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::V4(ip) => {
                to.push(4);
                ip.to_bits().put(to);
            }
            Self::V6(ip) => {
                to.push(6);
                ip.to_bits().put(to);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::take(from)? {
            4 => Field::take(from).map(Ipv4Addr::from_bits).map(Self::V4),
            6 => Field::take(from).map(Ipv6Addr::from_bits).map(Self::V6),
            _ => Err(Damaged),
        }
    }
}

impl Field for IpNet {
    fn put(&self, to: &mut Vec<u8>) {
        self.addr().put(to);
        self.prefix_len().put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Self::new(Field::take(from)?, Field::take(from)?).map_err(|_| Damaged)
    }
}

/// In nanoseconds: up to 584 years.
impl Field for Duration {
    fn put(&self, to: &mut Vec<u8>) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        u64::take(from).map(Self::from_nanos)
    }
}

/// Each is its own: Services have few names in common.
impl Field for ObjectName {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(&self.namespace, to);
        put_text(&self.name, to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self::new(from.text()?, from.text()?))
    }
}
