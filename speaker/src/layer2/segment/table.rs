//! What one participant offers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::layer2::election::rank;
use crate::layer2::hello::{Offer, Update};

/// Offers of one participant that are kept; more are not.
const MAX_OFFERS: usize = 65_536;

/// Its offers, with how it ranks for each address.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) version: u32,
    pub(super) offers: BTreeMap<IpAddr, (Offer, u64)>,
}

impl Table {
    pub(super) fn apply(&mut self, node: &str, update: &Update) {
        for (address, offer) in &update.offers {
            match offer {
                Some(offer) if self.offers.len() < MAX_OFFERS || self.offers.contains_key(address) => {
                    let rank =
                        self.offers.get(address).map_or_else(|| rank(node, *address), |(_, rank)| *rank);
                    self.offers.insert(*address, (*offer, rank));
                }
                Some(_) => {}
                None => {
                    self.offers.remove(address);
                }
            }
        }
        self.version = update.to;
    }
}
