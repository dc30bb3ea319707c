//! One pool of the allocator: its ranges with a cursor each.
//!
//! Everything below a range's cursor is taken, cooling or left out, so that the lowest free address is found without
//! walking over those that are taken; freeing one moves the cursor back. A /64 costs no more than a /30.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;

/// A pool as the allocator keeps it.
#[derive(Debug, Clone)]
pub(super) struct PoolState {
    pub(super) name: String,
    pub(super) auto_assign: bool,
    pub(super) in_use: u64,
    avoid_buggy: bool,
    ranges: Vec<Range>,
}

#[derive(Debug, Clone)]
struct Range {
    family: Family,
    first: u128,
    last: u128,
    /// The lowest address that may be free; `None`: the range is full.
    cursor: Option<u128>,
}

impl PoolState {
    pub(super) fn new(pool: &herald_config::Pool) -> Self {
        let ranges = pool
            .ranges
            .iter()
            .map(|range| {
                let first = to_bits(range.first());
                Range {
                    family: Family::of(range.first()),
                    first,
                    last: to_bits(range.last()),
                    cursor: Some(first),
                }
            })
            .collect();
        Self {
            name: pool.name.clone(),
            auto_assign: pool.auto_assign,
            in_use: 0,
            avoid_buggy: pool.avoid_buggy_ips,
            ranges,
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.order(address).is_some()
    }

    pub(super) fn leaves_out(&self, address: IpAddr) -> bool {
        self.avoid_buggy && matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
    }

    /// Where the address stands in the order of allocation.
    pub(super) fn order(&self, address: IpAddr) -> Option<(usize, u128)> {
        let (family, bits) = (Family::of(address), to_bits(address));
        let position = |range: &Range| range.family == family && (range.first..=range.last).contains(&bits);
        self.ranges.iter().position(position).map(|index| (index, bits))
    }

    /// The lowest address of the family for which `free` holds; moves the cursors over all others.
    pub(super) fn lowest_free(&mut self, family: Family, free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let avoid_buggy = self.avoid_buggy;
        for range in self.ranges.iter_mut().filter(|range| range.family == family) {
            while let Some(bits) = range.cursor {
                let address = from_bits(bits, family);
                let buggy = avoid_buggy && family == Family::V4 && matches!(bits & 0xff, 0 | 255);
                if !buggy && free(address) {
                    return Some(address);
                }
                range.cursor = (bits < range.last).then(|| bits + 1);
            }
        }
        None
    }

    /// The address may be free again.
    pub(super) fn freed(&mut self, address: IpAddr) {
        if let Some((index, bits)) = self.order(address) {
            let cursor = &mut self.ranges[index].cursor;
            *cursor = Some(cursor.map_or(bits, |cursor| cursor.min(bits)));
        }
    }

    /// How many addresses it can give in all.
    pub(super) fn total(&self) -> i64 {
        let total = self.ranges.iter().fold(0u128, |total, range| {
            let all = (range.last - range.first).saturating_add(1);
            let buggy = match (self.avoid_buggy, range.family) {
                (true, Family::V4) => buggy_between(range.first, range.last),
                _ => 0,
            };
            total.saturating_add(all - buggy)
        });
        i64::try_from(total).unwrap_or(i64::MAX)
    }
}

/// Addresses that end in .0 or .255, both ends included.
fn buggy_between(first: u128, last: u128) -> u128 {
    // Below n there are as many multiples of 256 as numbers one below such a multiple, shifted by one.
    let up_to = |n: u128| n.div_ceil(256) + (n + 1).div_ceil(256).saturating_sub(1);
    up_to(last + 1) - up_to(first)
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buggy_addresses_are_counted_without_walking() {
        for first in [0u128, 1, 254, 255, 256, 300, 511, 512] {
            for last in first..first + 700 {
                let walked = (first..=last).filter(|n| matches!(n & 0xff, 0 | 255)).count() as u128;
                assert_eq!(buggy_between(first, last), walked, "{first}..={last}");
            }
        }
    }
}
