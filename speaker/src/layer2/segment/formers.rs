//! Who had an address before: connections that began there go on there, for its kernel knows them and this one's does not.
//!
//! A former owner is named as long as it is heard: its rules and its entries of connection tracking stay when it lets go. One
//! that said that it stops is given time to come back, since its kernel works on. One that fell silent is gone with
//! what it knew, and so is one that was never heard.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::peers::Peers;
use super::{Own, Segment};
use crate::layer2::hello::Participant;

/// How long an address is left where it is once its next owner knows that it comes: so long its rules may take to learn who
/// had it, on a busy node too. A packet of a connection that is handed over would otherwise be taken for the beginning of one.
const PREPARE: Duration = Duration::from_millis(200);

/// What holds a claim up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preparation {
    /// It begins now, and lasts until then.
    Begins(Instant),
    /// It has begun.
    GoesOn,
}

/// A node that gave an address to this one.
#[derive(Debug)]
pub(super) struct Former {
    participant: Participant,
    node: Box<str>,
}

impl Former {
    /// Who has the address just now, of the others; it may be leaving.
    pub(super) fn of(peers: &Peers, address: IpAddr) -> Option<Self> {
        let (_, participant) = peers.claimant(address)?;
        Some(Self { participant, node: peers.name(participant)? })
    }
}

impl Own {
    /// What keeps it from being claimed, for the sake of who has it now. One that fell silent is not waited for.
    pub(super) fn prepare(&mut self, now: Instant, former: Option<Former>) -> Option<Preparation> {
        let Some(former) = former else {
            // Who was prepared for may be known still, be it that it has stopped meanwhile.
            self.claim_at = None;
            return None;
        };
        self.former = Some(former);
        match self.claim_at {
            None => {
                self.claim_at = Some(now + PREPARE);
                Some(Preparation::Begins(now + PREPARE))
            }
            Some(at) if now < at => Some(Preparation::GoesOn),
            Some(_) => {
                self.claim_at = None;
                None
            }
        }
    }

    /// It is another's.
    pub(super) fn forget_former(&mut self) {
        self.former = None;
        self.claim_at = None;
    }
}

impl Segment {
    /// What this participant owns, or is about to, and another one had before, with that one's node.
    pub(crate) fn formers(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &str)> {
        self.own.iter().filter_map(move |(address, own)| {
            let former = own.former.as_ref()?;
            self.peers.works_on(former.participant, now).then_some((*address, &*former.node))
        })
    }
}
