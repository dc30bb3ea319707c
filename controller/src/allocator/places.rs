//! Which pool an address belongs to, without looking at each.

use std::net::IpAddr;

use super::Family;
use super::pool::{PoolState, to_bits};

/// All pieces of all pools, in order of their first address; no two of them overlap.
#[derive(Debug, Default)]
pub(super) struct Places {
    sorted: [Vec<(u128, u128, Place)>; 2],
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: usize,
    pub(super) piece: usize,
}

impl Places {
    pub(super) fn new(pools: &[PoolState]) -> Self {
        let mut this = Self::default();
        for (pool, state) in pools.iter().enumerate() {
            for (piece, (family, first, last)) in state.bounds().enumerate() {
                this.sorted[family as usize].push((first, last, Place { pool, piece }));
            }
        }
        for sorted in &mut this.sorted {
            sorted.sort_unstable_by_key(|(first, ..)| *first);
        }
        this
    }

    pub(super) fn of(&self, address: IpAddr) -> Option<Place> {
        let bits = to_bits(address);
        let sorted = &self.sorted[Family::of(address) as usize];
        let at = sorted.partition_point(|(first, ..)| *first <= bits).checked_sub(1)?;
        let (_, last, place) = sorted[at];
        (bits <= last).then_some(place)
    }
}
