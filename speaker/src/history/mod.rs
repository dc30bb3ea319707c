//! What happened to each address on this node, and why: the last of it, in bounded memory, for `herald history`.
//!
//! ```text
//!   Reporter (what Services want, who owns what) ──> Journal <── bgp::Notices (sessions, from the peers' tasks)
//!                                                       └─ read by the loop for /explain/history/
//! ```
//!
//! Transitions are found by comparing what was with what is (`changes.rs`, pure); `ring.rs` bounds them. Times are instants: when they are told they
//! are counted back from the clock of that moment, so that a clock that is set does not mix up what happened.
//!
//! Nothing is written to disk: it begins when the speaker begins, and says so.

mod changes;
mod owners;
mod ring;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use herald_runtime::ObjectName;

pub(crate) use self::changes::{Local, of_service};
pub(crate) use self::owners::Owners;
use self::ring::{Dropped, Ring};
use crate::reason::Reason;

/// Transitions of one address: weeks of a quiet one, and enough of one that flaps to see it.
const OF_ADDRESS: usize = 64;
/// Transitions of all addresses: at most 7 MB.
const OF_ALL: usize = 16_384;
/// Of one session, and of all.
const OF_SESSION: usize = 32;
const OF_SESSIONS: usize = 1024;

/// What happened to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The Service's rules are in the kernel.
    Programmed,
    /// They are not as they should be.
    NotProgrammed,
    /// By BGP.
    Announced,
    /// From BGP.
    Withdrawn,
    /// By layer 2: the node may own it.
    Offered,
    /// It may not any more.
    Retracted,
    /// It is still not announced, for another reason than before.
    NotAnnounced,
    /// The Service has it no more.
    Gone,
    /// The node answers for it on a segment.
    Owned {
        /// The number of its claim.
        claim: Option<u32>,
    },
    /// The node answers for it no more.
    Released,
    /// Another node, or nobody, owns it there, as this node sees it.
    Seen {
        /// Which.
        owner: Option<Arc<str>>,
        /// The number of its claim.
        claim: Option<u32>,
    },
}

impl What {
    /// The word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Programmed => "programmed",
            Self::NotProgrammed => "notProgrammed",
            Self::Announced => "announced",
            Self::Withdrawn => "withdrawn",
            Self::Offered => "offered",
            Self::Retracted => "retracted",
            Self::NotAnnounced => "notAnnounced",
            Self::Gone => "gone",
            Self::Owned { .. } => "owned",
            Self::Released => "released",
            Self::Seen { .. } => "seen",
        }
    }

    /// Whom it was seen with.
    pub(crate) fn owner(&self) -> Option<&str> {
        if let Self::Seen { owner, .. } = self { owner.as_deref() } else { None }
    }

    /// The number of the claim.
    pub(crate) fn claim(&self) -> Option<u32> {
        match self {
            Self::Owned { claim } | Self::Seen { claim, .. } => *claim,
            _ => None,
        }
    }
}

/// Why it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// So it was when the speaker began.
    Began,
    /// A Service was given the address.
    Given,
    /// The Service has it no more.
    Gone,
    /// What kept it from being announced is over.
    Over(Reason),
    /// What keeps it from being announced.
    Refused(Reason),
    /// The configuration has it so.
    Configured,
    /// Nobody owned it.
    Unclaimed,
    /// Its owner, who is still there, let it go.
    Left(Arc<str>),
    /// Its owner is not heard any more.
    Silent(Arc<str>),
    /// Another node has the better claim.
    Claimed(Arc<str>),
    /// This node let it go.
    GivenUp,
    /// The interface is not announced on any more.
    NoInterface,
    /// So it was when this node began to offer it.
    Found,
    /// The owner claimed it again: its speaker began anew, or another one gave it back.
    Again,
}

impl Why {
    /// The word, as in log and metric where those have it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Began => "speakerStarted",
            Self::Given => "addressGiven",
            Self::Gone => "addressGone",
            Self::Over(_) => "over",
            Self::Refused(reason) => reason.word(),
            Self::Configured => "configured",
            Self::Unclaimed => "unclaimed",
            Self::Left(_) => "ownerLeft",
            Self::Silent(_) => "ownerSilent",
            Self::Claimed(_) => "claimedByOther",
            Self::GivenUp => "givenUp",
            Self::NoInterface => "noInterface",
            Self::Found => "found",
            Self::Again => "claimedAgain",
        }
    }

    /// The other node that it is about.
    pub(crate) fn other(&self) -> Option<&str> {
        match self {
            Self::Left(node) | Self::Silent(node) | Self::Claimed(node) => Some(node),
            _ => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Began => f.write_str("so it was when the speaker started"),
            Self::Given => f.write_str("the Service has the address now"),
            Self::Gone => f.write_str("the Service has the address no more"),
            Self::Over(reason) => write!(f, "{reason} is over"),
            Self::Refused(reason) => write!(f, "{reason}: {}", reason.sentence()),
            Self::Configured => f.write_str("the configuration has it so now"),
            Self::Unclaimed => f.write_str("nobody owned it"),
            Self::Left(node) => write!(f, "{node} let it go"),
            Self::Silent(node) => write!(f, "{node} is not heard any more"),
            Self::Claimed(node) => write!(f, "{node} claims it"),
            Self::GivenUp => f.write_str("this node offers it no more"),
            Self::NoInterface => f.write_str("the interface is down or gone"),
            Self::Found => f.write_str("so it was found"),
            Self::Again => f.write_str("its owner claimed it again"),
        }
    }
}

/// A transition of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    /// The Service by which it happened; `None`: on a segment, whatever the Service.
    pub(crate) service: Option<ObjectName>,
    /// The interface of that segment.
    pub(crate) on: Option<Arc<str>>,
    pub(crate) what: What,
    pub(crate) why: Why,
}

/// A BGP session came up or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionChange {
    pub(crate) up: bool,
    /// What was agreed, or why it ended.
    pub(crate) text: Box<str>,
}

/// All that is remembered.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Of this run.
    pub(crate) started: Instant,
    /// By address.
    pub(crate) addresses: Ring<IpAddr, Happened>,
    /// By peer.
    pub(crate) sessions: Ring<Box<str>, SessionChange>,
}

impl Journal {
    /// From when on nothing of an address is missing, and how much before that is, of whatever address.
    pub(crate) fn complete_since(&self, address: &IpAddr) -> (Instant, u64) {
        let Dropped { count, until } = self.addresses.dropped(address);
        (until.map_or(self.started, |until| until.max(self.started)), count)
    }

    /// The same of all addresses together.
    pub(crate) fn all_since(&self) -> (Instant, u64) {
        let Dropped { count, until } = self.addresses.dropped_of_all();
        (until.map_or(self.started, |until| until.max(self.started)), count)
    }
}

/// The journal in the hands of those who write and read it. Held for as long as one change, or one answer, takes.
#[derive(Debug, Clone)]
pub(crate) struct History(Arc<Mutex<Journal>>);

impl History {
    /// Nothing has happened yet.
    pub(crate) fn new(started: Instant) -> Self {
        let (addresses, sessions) = (Ring::new(OF_ADDRESS, OF_ALL), Ring::new(OF_SESSION, OF_SESSIONS));
        Self(Arc::new(Mutex::new(Journal { started, addresses, sessions })))
    }

    /// To read it.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to an address of a Service.
    pub(crate) fn service(
        &self,
        now: Instant,
        service: &ObjectName,
        address: IpAddr,
        changes: Vec<(What, Why)>,
    ) {
        if changes.is_empty() {
            return;
        }
        let mut journal = self.journal();
        for (what, why) in changes {
            let happened = Happened { service: Some(service.clone()), on: None, what, why };
            journal.addresses.push(address, now, happened);
        }
    }

    /// Something happened to an address on an interface.
    pub(crate) fn segment(&self, now: Instant, on: &Arc<str>, address: IpAddr, (what, why): (What, Why)) {
        let happened = Happened { service: None, on: Some(Arc::clone(on)), what, why };
        self.journal().addresses.push(address, now, happened);
    }

    /// A session came up or ended.
    pub(crate) fn session(&self, now: Instant, peer: &str, up: bool, text: &str) {
        self.journal().sessions.push(peer.into(), now, SessionChange { up, text: text.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_all_words() {
        let (node, reason): (Arc<str>, _) = ("node-1".into(), Reason::NoEndpoints);
        let whats = [
            What::Programmed,
            What::NotProgrammed,
            What::Announced,
            What::Withdrawn,
            What::Offered,
            What::Retracted,
            What::NotAnnounced,
            What::Gone,
            What::Owned { claim: None },
            What::Released,
            What::Seen { owner: None, claim: None },
        ];
        let whys = [
            Why::Began,
            Why::Given,
            Why::Gone,
            Why::Over(reason),
            Why::Refused(reason),
            Why::Configured,
            Why::Unclaimed,
            Why::Left(Arc::clone(&node)),
            Why::Silent(Arc::clone(&node)),
            Why::Claimed(node),
            Why::GivenUp,
            Why::NoInterface,
            Why::Found,
            Why::Again,
        ];
        let words = whats.iter().map(What::word).chain(whys.iter().map(Why::word));
        for word in words {
            let row = format!("| `{word}` | ");
            assert!(
                include_str!("../../../docs/reasons.md").contains(&row),
                "docs/reasons.md should have {row}"
            );
        }
    }
}
