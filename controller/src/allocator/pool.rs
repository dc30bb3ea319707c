//! One pool of the allocator: its ranges, cut where reservations begin and end.
//!
//! A piece knows its *frontier* (nothing from there on was ever free again) and the free addresses below it. So the lowest
//! free address is found without walking over those that are taken, and a /64 costs no more than a /30: what is kept
//! grows with the addresses that were in use at one time, never with the size of the pool.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_config::{AddressRange, Pool, Reservation};
use herald_runtime::ObjectName;

use super::Family;

/// A pool as the allocator keeps it.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) pool: Pool,
    pub(super) usage: [Usage; 2],
    pieces: Vec<Piece>,
}

/// How many addresses of one family there are, and how many of them somebody has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Those that can be given at all.
    pub total: u128,
    /// Those that are given, left or claimed.
    pub in_use: u64,
}

impl Usage {
    /// How many are left, as far as an `int64` tells.
    pub fn available(&self) -> i64 {
        i64::try_from(self.total.saturating_sub(self.in_use.into())).unwrap_or(i64::MAX)
    }

    /// How many there are, as far as an `int64` tells.
    pub fn size(&self) -> i64 {
        i64::try_from(self.total).unwrap_or(i64::MAX)
    }
}

/// Where an address stands in its pool; orders as they are given.
pub(super) type Order = (usize, u128);

#[derive(Debug)]
struct Piece {
    family: Family,
    first: u128,
    last: u128,
    /// From here on every address is free unless somebody occupies it; `None`: beyond the last.
    frontier: Option<u128>,
    /// The free ones below the frontier.
    free: BTreeSet<u128>,
    /// Index of the reservation that it is the whole or a part of.
    reserved: Option<usize>,
}

impl PoolState {
    pub(super) fn new(pool: &Pool, reservations: &[Reservation]) -> Self {
        let mut pieces = Vec::new();
        for range in &pool.ranges {
            cut(range, reservations, &mut pieces);
        }
        let mut this = Self { pool: pool.clone(), usage: [Usage::default(); 2], pieces };
        for piece in &this.pieces {
            let nobody = piece.reserved.is_some_and(|index| reservations[index].namespace.is_none());
            if !nobody {
                let total = &mut this.usage[piece.family as usize].total;
                *total = total.saturating_add(piece.size(pool.avoid_buggy_ips));
            }
        }
        this
    }

    pub(super) fn name(&self) -> &str {
        &self.pool.name
    }

    pub(super) fn has(&self, family: Family) -> bool {
        self.pieces.iter().any(|piece| piece.family == family)
    }

    pub(super) fn leaves_out(&self, address: IpAddr) -> bool {
        self.pool.avoid_buggy_ips && is_buggy(address)
    }

    /// The pieces, for [`super::places::Places`].
    pub(super) fn bounds(&self) -> impl Iterator<Item = (Family, u128, u128)> {
        self.pieces.iter().map(|piece| (piece.family, piece.first, piece.last))
    }

    /// The reservation that a piece belongs to.
    pub(super) fn reserved(&self, piece: usize) -> Option<usize> {
        self.pieces[piece].reserved
    }

    /// The free address that the Service is given first: of those reserved for it the lowest, else of the others.
    pub(super) fn lowest_free(
        &mut self,
        family: Family,
        service: &ObjectName,
        reservations: &[Reservation],
        occupied: impl Fn(IpAddr) -> bool,
    ) -> Option<(bool, Order, IpAddr)> {
        let avoid_buggy = self.pool.avoid_buggy_ips;
        for own in [true, false] {
            for (index, piece) in self.pieces.iter_mut().enumerate() {
                let suits = match piece.reserved {
                    Some(at) => own && reservations[at].admits(&service.namespace, &service.name),
                    None => !own,
                };
                if piece.family != family || !suits {
                    continue;
                }
                if let Some(bits) = piece.lowest_free(avoid_buggy, &occupied) {
                    return Some((!own, (index, bits), from_bits(bits, family)));
                }
            }
        }
        None
    }

    /// Nobody has the address any more, and it does not cool.
    pub(super) fn freed(&mut self, piece: usize, bits: u128) {
        let avoid_buggy = self.pool.avoid_buggy_ips;
        self.pieces[piece].freed(bits, avoid_buggy);
    }

    /// Somebody has the address, or it cools.
    pub(super) fn taken(&mut self, piece: usize, bits: u128) {
        self.pieces[piece].free.remove(&bits);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.pieces.iter().map(|piece| piece.free.len()).sum()
    }
}

impl Piece {
    fn size(&self, avoid_buggy: bool) -> u128 {
        let all = (self.last - self.first).saturating_add(1);
        match (avoid_buggy, self.family) {
            (true, Family::V4) => all - buggy_between(self.first, self.last),
            _ => all,
        }
    }

    fn lowest_free(&mut self, avoid_buggy: bool, occupied: impl Fn(IpAddr) -> bool) -> Option<u128> {
        if let Some(bits) = self.free.first() {
            return Some(*bits);
        }
        while let Some(bits) = self.frontier {
            let address = from_bits(bits, self.family);
            let left_out = avoid_buggy && is_buggy(address);
            if !left_out && !occupied(address) {
                return Some(bits);
            }
            self.frontier = (bits < self.last).then(|| bits + 1);
        }
        None
    }

    fn freed(&mut self, bits: u128, avoid_buggy: bool) {
        let below = self.frontier.is_none_or(|frontier| bits < frontier);
        if !below || (avoid_buggy && is_buggy(from_bits(bits, self.family))) {
            return;
        }
        self.free.insert(bits);
        // What is free in one run up to the frontier need not be remembered one by one.
        while let Some(&highest) = self.free.last() {
            let next = (highest < self.last).then(|| highest + 1);
            if next != self.frontier {
                break;
            }
            self.free.remove(&highest);
            self.frontier = Some(highest);
        }
    }
}

/// Adds the range's pieces: each lies in one reservation or in none.
fn cut(range: &AddressRange, reservations: &[Reservation], pieces: &mut Vec<Piece>) {
    let family = Family::of(range.first());
    let (first, last) = (to_bits(range.first()), to_bits(range.last()));
    let mut inside: Vec<(u128, u128, usize)> = Vec::new();
    for (index, reservation) in reservations.iter().enumerate() {
        let overlapping = reservation.ranges.iter().filter(|reserved| reserved.overlaps(range));
        inside.extend(overlapping.map(|reserved| {
            (to_bits(reserved.first()).max(first), to_bits(reserved.last()).min(last), index)
        }));
    }
    inside.sort_unstable();
    let mut piece = |first, last, reserved| {
        pieces.push(Piece { family, first, last, frontier: Some(first), free: BTreeSet::new(), reserved });
    };
    let mut next = Some(first);
    for (from, to, index) in inside {
        if let Some(start) = next.filter(|start| *start < from) {
            piece(start, from - 1, None);
        }
        piece(from, to, Some(index));
        next = (to < last).then(|| to + 1);
    }
    if let Some(start) = next {
        piece(start, last, None);
    }
}

/// Addresses that old networks take for broadcasts.
fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

/// Addresses that end in .0 or .255, both ends included.
fn buggy_between(first: u128, last: u128) -> u128 {
    // Below n there are as many multiples of 256 as numbers one below such a multiple, shifted by one.
    let up_to = |n: u128| n.div_ceil(256) + (n + 1).div_ceil(256).saturating_sub(1);
    up_to(last + 1) - up_to(first)
}

pub(super) fn to_bits(address: IpAddr) -> u128 {
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

    #[test]
    fn a_range_is_cut_where_reservations_begin_and_end() {
        let reservation = |ranges: &[&str]| Reservation {
            ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            namespace: None,
            service: None,
        };
        let reservations =
            [reservation(&["192.0.2.4-192.0.2.5"]), reservation(&["192.0.2.0/31", "192.0.2.15-192.0.2.99"])];
        let mut pieces = Vec::new();
        cut(&"192.0.2.0/28".parse().unwrap(), &reservations, &mut pieces);
        let of = |piece: &Piece| (piece.first & 0xff, piece.last & 0xff, piece.reserved);
        assert_eq!(
            pieces.iter().map(of).collect::<Vec<_>>(),
            [(0, 1, Some(1)), (2, 3, None), (4, 5, Some(0)), (6, 14, None), (15, 15, Some(1))]
        );
    }
}
