//! Runs of addresses of one family, as pools are made of them.
//!
//! A range is inclusive at both ends and never empty. Users write a CIDR, whose host bits are masked, or
//! `first-last` with or without spaces round the dash. A bare address is refused as MetalLB refuses it: it is as
//! often a forgotten prefix length as one address.

use std::fmt;
use std::iter::FusedIterator;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::problem::shown;

#[cfg(test)]
mod tests;

/// The addresses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why two addresses, or a text, are not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither a prefix length nor a second address.
    #[error("{address} has no prefix length: write {address}/{} for this one address", width(*.address))]
    Bare {
        /// The address.
        address: IpAddr,
    },
    /// The last address is below the first.
    #[error("{first}-{last} ends before it starts: write {last}-{first}")]
    Reversed {
        /// What was written first.
        first: IpAddr,
        /// What was written last.
        last: IpAddr,
    },
    /// One IPv4 and one IPv6 address.
    #[error("{first}-{last} mixes IPv4 and IPv6: write one range for each family")]
    Mixed {
        /// What was written first.
        first: IpAddr,
        /// What was written last.
        last: IpAddr,
    },
    /// A prefix length that the family does not have.
    #[error("{} has a prefix length beyond /{width}: use /0 to /{width}", shown(.text))]
    PrefixLength {
        /// The whole text.
        text: String,
        /// The bits of the family.
        width: u8,
    },
    /// Anything else.
    #[error("{} is no range of addresses: write a CIDR such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20", shown(.0))]
    Malformed(String),
}

/// The number of bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with these bits in the family of `like`; bits beyond the family's width are cut.
fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[expect(clippy::len_without_is_empty, reason = "a range has at least one address")]
impl AddressRange {
    /// The range between two addresses of one family.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::Mixed { first, last });
        }
        if first > last {
            return Err(RangeError::Reversed { first, last });
        }
        Ok(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether an address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether any address is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// The number of addresses; all of IPv6, one more than fits, counts as the highest number.
    pub fn len(&self) -> u128 {
        (to_bits(self.last) - to_bits(self.first)).saturating_add(1)
    }

    /// The addresses, lowest first.
    pub fn iter(&self) -> AddressIter {
        AddressIter { remaining: Some(*self) }
    }

    /// The fewest CIDRs that are together exactly this range, lowest first.
    pub fn to_cidrs(&self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                IpSubnets::from(Ipv4Subnets::new(first, last, 0)).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                IpSubnets::from(Ipv6Subnets::new(first, last, 0)).collect()
            }
            // Both ends are of one family by construction.
            _ => Vec::new(),
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(cidr: IpNet) -> Self {
        Self { first: cidr.network(), last: cidr.broadcast() }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let malformed = || RangeError::Malformed(text.to_owned());
        let address = |text: &str| text.trim().parse::<IpAddr>();
        if let Some((first, last)) = text.split_once('-') {
            return Self::new(
                address(first).map_err(|_| malformed())?,
                address(last).map_err(|_| malformed())?,
            );
        }
        let Some((network, length)) = text.trim().split_once('/') else {
            return Err(address(text).map_or_else(|_| malformed(), |address| RangeError::Bare { address }));
        };
        let network: IpAddr = network.parse().map_err(|_| malformed())?;
        if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let too_long = || RangeError::PrefixLength { text: text.to_owned(), width: width(network) };
        let length = length.parse().map_err(|_| too_long())?;
        Ok(IpNet::new(network, length).map_err(|_| too_long())?.into())
    }
}

/// A CIDR where the range is one, else `first-last`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_cidrs().as_slice() {
            [cidr] => write!(f, "{cidr}"),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The addresses of a range, from either end.
#[derive(Debug, Clone)]
pub struct AddressIter {
    remaining: Option<AddressRange>,
}

impl Iterator for AddressIter {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        let AddressRange { first, last } = self.remaining?;
        self.remaining =
            (first < last).then(|| AddressRange { first: from_bits(to_bits(first) + 1, first), last });
        Some(first)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.remaining.map_or(0, |range| range.len());
        (usize::try_from(left).unwrap_or(usize::MAX), usize::try_from(left).ok())
    }
}

impl DoubleEndedIterator for AddressIter {
    fn next_back(&mut self) -> Option<IpAddr> {
        let AddressRange { first, last } = self.remaining?;
        self.remaining =
            (first < last).then(|| AddressRange { first, last: from_bits(to_bits(last) - 1, last) });
        Some(last)
    }
}

impl FusedIterator for AddressIter {}

impl IntoIterator for &AddressRange {
    type Item = IpAddr;
    type IntoIter = AddressIter;

    fn into_iter(self) -> AddressIter {
        self.iter()
    }
}

/// Pairs of ranges with common addresses, as positions in `ranges`, the smaller first.
///
/// Every range that shares an address with one that starts no later is named once, so that the list is no longer
/// than the input; it is empty exactly when no two ranges overlap.
pub fn overlapping(ranges: &[AddressRange]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| (ranges[index].first, index));
    let mut pairs = Vec::new();
    let mut furthest: Option<usize> = None;
    for index in order {
        let range = &ranges[index];
        if let Some(reach) = furthest.filter(|&reach| ranges[reach].overlaps(range)) {
            pairs.push((reach.min(index), reach.max(index)));
            if ranges[reach].last >= range.last {
                continue;
            }
        }
        furthest = Some(index);
    }
    pairs.sort_unstable();
    pairs
}
