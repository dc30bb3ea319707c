//! Giving addresses back to the nodes that would have them if nobody claimed any.
//!
//! Owners stay owners, so after the work on one node the others have its addresses. Where the configuration asks for it they
//! go back as planned moves: one at a time, and only to a node that has been heard for a while.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Segment;
use crate::layer2::election::{Candidate, winner};

/// Between two addresses that a node gives.
const PAUSE: Duration = Duration::from_secs(5);
/// For how long a node must have been heard.
const STEADY: Duration = Duration::from_secs(60);

/// When the next address is given.
#[derive(Debug, Default)]
pub(super) struct Spread(Option<Instant>);

impl Spread {
    pub(super) fn switch(&mut self, now: Instant, on: bool) {
        self.0 = on.then(|| self.0.unwrap_or(now + PAUSE));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0
    }
}

impl Segment {
    /// Gives an address, if it is time for one.
    pub(super) fn give_one(&mut self, now: Instant) {
        if self.spread.next().is_none_or(|at| now < at) {
            return;
        }
        self.spread = Spread(Some(now + PAUSE));
        let Some(address) = self.to_give(now) else { return };
        if let Some(own) = self.own.get_mut(&address) {
            own.given = true;
            self.dirty.insert(address);
        }
    }

    /// The first address of its own that another node would have.
    fn to_give(&self, now: Instant) -> Option<IpAddr> {
        let unclaimed = |mut candidate: Candidate| {
            candidate.offer.claim = None;
            candidate
        };
        self.owned().find(|address| {
            let mine = self.own.get(address).map(|own| self.mine(own));
            let all = self.peers.candidates(*address).chain(mine).map(unclaimed);
            winner(all).is_some_and(|winner| self.peers.is_steady(winner.participant, now, STEADY))
        })
    }
}
