//! Who had an address before: connections that began there go on there, for its kernel knows them and this one's does not.
//!
//! A former owner is named as long as it is heard: its rules and its entries of connection tracking stay when it lets go. One
//! that said that it stops is given time to come back, since its kernel works on. One that fell silent is gone with
//! what it knew, and so is one that was never heard.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Segment;
use super::peers::Peers;
use crate::layer2::hello::Participant;

/// How long the new owner keeps to itself that the address has moved, so that its rules know the former one by then.
pub(super) const PREPARE: Duration = Duration::from_millis(50);

/// A node that gave an address to this one.
#[derive(Debug)]
pub(super) struct Former {
    participant: Participant,
    node: Box<str>,
}

impl Former {
    /// Who has the address just now, of the others; it may be leaving.
    pub(super) fn of(peers: &Peers, address: IpAddr) -> Option<Self> {
        let participant = peers.claimant(address)?;
        Some(Self { participant, node: peers.name(participant)? })
    }
}

impl Segment {
    /// What this participant owns and another one had before, with that one's node.
    pub(crate) fn formers(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &str)> {
        self.own.iter().filter(|(_, own)| own.claim.is_some()).filter_map(move |(address, own)| {
            let former = own.former.as_ref()?;
            self.peers.works_on(former.participant, now).then_some((*address, &*former.node))
        })
    }
}
