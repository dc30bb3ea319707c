//! Adj-RIB-Out of one peer (RFC 4271 §3.2): what it shall have, what it was told, and the next message of the difference.
//!
//! Desired routes arrive whole and cheap to share ([`RouteSet`]); the difference to the previous set decides what is
//! pending, so a route that flaps back before its message was drawn is never sent. Messages are made one at a time
//! when the driver asks (`next_message`): memory stays bounded by the routes, and a KEEPALIVE never waits behind them.
//!
//! What the peer was told is what is desired, but for the prefixes that are pending: only of these it is kept. So a session costs
//! the room of its differences, not of the table.
//!
//! Order: withdrawals of all families first, then per family the announcements grouped by attributes, then its
//! End-of-RIB. A changed attribute is an UPDATE that replaces; it needs no withdrawal (RFC 4271 §3.1).
//!
//! Only negotiated families are sent, and no route without a usable next hop; such a route is counted and, if the peer had
//! it with other attributes, withdrawn.

mod pending;
mod queue;
mod route;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::session::LocalAddresses;
use crate::wire::{PathContext, Prefixes, RefreshSubtype, RouteRefresh};
use crate::wire::{encode_announcement, encode_end_of_rib, encode_withdrawal};
use crate::{Families, Family};
use pending::Pending;
use queue::{Queue, Refresh};
pub use route::{Attributes, Route, RouteSet};

/// What of an Established session decides what is sent on it and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) path: PathContext,
    pub(crate) families: Families,
    pub(crate) local: LocalAddresses,
    /// RFC 8950: IPv4 routes have the session's IPv6 address as next hop.
    pub(crate) extended_next_hop: bool,
    /// RFC 7313: whether a refresh is framed by BoRR and EoRR.
    pub(crate) enhanced_refresh: bool,
}

/// A drawn message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RibMessage {
    Update(Vec<u8>),
    Refresh(Vec<u8>),
}

/// The Adj-RIB-Out.
#[derive(Debug, Default)]
pub(crate) struct AdjRibOut {
    desired: Arc<RouteSet>,
    peer: Option<Peer>,
}

/// What is known and pending while a session is Established.
#[derive(Debug)]
struct Peer {
    terms: Terms,
    /// What it was told of prefixes that are pending; of those not in here, nothing.
    told: BTreeMap<IpNet, Arc<Attributes>>,
    /// How many prefixes of each family it was told and not untold.
    counts: [usize; 2],
    /// Desired, of a negotiated family, and not sendable.
    unusable: BTreeSet<IpNet>,
    queues: [Queue; 2],
}

impl AdjRibOut {
    /// The session came up: everything is pending, and an End-of-RIB per family.
    pub(crate) fn up(&mut self, terms: Terms) {
        let mut peer = Peer {
            terms,
            told: BTreeMap::new(),
            counts: [0; 2],
            unusable: BTreeSet::new(),
            // RFC 4724 §4: the marker follows the first full table, also an empty one.
            queues: Family::ALL.map(|family| Queue::new(family, terms.families.contains(family))),
        };
        for family in terms.families.iter() {
            peer.place_all(family, &self.desired);
        }
        self.peer = Some(peer);
    }

    /// The session went down: the peer has nothing of us any more.
    pub(crate) fn down(&mut self) {
        self.peer = None;
    }

    /// Replaces the desired routes.
    pub(crate) fn set_desired(&mut self, desired: Arc<RouteSet>) {
        if let Some(peer) = &mut self.peer {
            for (prefix, old, new) in self.desired.differences(&desired) {
                let told = peer.unplace(prefix, old);
                peer.place(prefix, told, new);
            }
        }
        self.desired = desired;
    }

    /// The peer asks for a family again (RFC 2918 §4). Ignored if the family was not negotiated.
    pub(crate) fn refresh(&mut self, family: Family) {
        if let Some(peer) = &mut self.peer
            && peer.terms.families.contains(family)
        {
            peer.queues[family.index()].refresh = Refresh::Requested;
        }
    }

    /// Whether every change of the desired routes has been drawn.
    pub(crate) fn is_settled(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.queues.iter().all(Queue::is_settled))
    }

    /// Whether [`AdjRibOut::next_message`] has something.
    pub(crate) fn has_message(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.queues.iter().any(Queue::has_message))
    }

    /// How many routes of a family the peer was told.
    pub(crate) fn advertised(&self, family: Family) -> usize {
        self.peer.as_ref().map_or(0, |peer| peer.counts[family.index()])
    }

    /// How many prefixes wait to be told or untold.
    pub(crate) fn pending(&self) -> usize {
        self.peer.as_ref().map_or(0, |peer| peer.queues.iter().map(Queue::pending).sum())
    }

    /// How many desired routes cannot be sent: no usable next hop, or attributes that fill a message.
    pub(crate) fn unusable(&self) -> usize {
        self.peer.as_ref().map_or(0, |peer| peer.unusable.len())
    }

    /// Draws the next message.
    pub(crate) fn next_message(&mut self) -> Option<RibMessage> {
        let peer = self.peer.as_mut()?;
        for family in Family::ALL {
            if let Some(message) = peer.next_withdrawal(family) {
                return Some(message);
            }
        }
        Family::ALL.into_iter().find_map(|family| peer.next_of_family(family, &self.desired))
    }
}

impl Peer {
    /// Makes pending what brings the peer from what it was told to what it shall have.
    fn place(&mut self, prefix: IpNet, told: Option<Arc<Attributes>>, desired: Option<&Arc<Attributes>>) {
        let family = Family::of(&prefix);
        if !self.terms.families.contains(family) {
            return;
        }
        let usable = desired.filter(|attributes| self.next_hop(family, attributes).is_some());
        if desired.is_some() && usable.is_none() {
            self.unusable.insert(prefix);
        }
        let queue = &mut self.queues[family.index()];
        match (usable, &told) {
            // RFC 7313 §4: during a refresh every route must come again, or the peer drops it at the EoRR.
            (Some(new), Some(old)) if new == old && queue.refresh != Refresh::Running => return,
            (Some(new), _) => queue.announce(new, prefix),
            (None, Some(_)) => _ = queue.withdraw.insert(prefix),
            (None, None) => return,
        }
        if let Some(told) = told {
            self.told.insert(prefix, told);
        }
    }

    /// Takes back what was pending for a prefix that was desired with these attributes; returns what the peer was told of it.
    fn unplace(&mut self, prefix: IpNet, desired: Option<&Arc<Attributes>>) -> Option<Arc<Attributes>> {
        let family = Family::of(&prefix);
        let unusable = self.unusable.remove(&prefix);
        if self.queues[family.index()].forget(desired, &prefix) {
            return self.told.remove(&prefix);
        }
        desired.filter(|_| self.terms.families.contains(family) && !unusable).cloned()
    }

    /// The next hop to send: the route's own or the session's address of the family, never one that peers refuse.
    fn next_hop(&self, family: Family, attributes: &Attributes) -> Option<IpAddr> {
        let local = match family {
            Family::Ipv4Unicast if self.terms.extended_next_hop => self.terms.local.v6.map(IpAddr::V6),
            Family::Ipv4Unicast => self.terms.local.v4.map(IpAddr::V4),
            Family::Ipv6Unicast => self.terms.local.v6.map(IpAddr::V6),
        };
        let next_hop = attributes.next_hop.or(local)?;
        let valid = match (family, next_hop) {
            // RFC 4271 §6.3: a valid IP host address.
            (Family::Ipv4Unicast, IpAddr::V4(v4)) => {
                !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast())
            }
            // RFC 2545 §3: an IPv6 address; one that wraps an IPv4 address is none.
            (Family::Ipv6Unicast, IpAddr::V6(v6)) | (Family::Ipv4Unicast, IpAddr::V6(v6)) => {
                let wrapped = v6.to_ipv4_mapped().is_some();
                let negotiated = family == Family::Ipv6Unicast || self.terms.extended_next_hop;
                negotiated && !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || wrapped)
            }
            (Family::Ipv6Unicast, IpAddr::V4(_)) => false,
        };
        valid.then_some(next_hop)
    }

    fn next_withdrawal(&mut self, family: Family) -> Option<RibMessage> {
        let withdraw = &mut self.queues[family.index()].withdraw;
        if withdraw.is_empty() {
            return None;
        }
        let mut taken = Vec::new();
        let message = encode_withdrawal(&self.terms.path, family, withdraw, &mut taken);
        for prefix in taken {
            if self.told.remove(&prefix).is_some() {
                self.counts[family.index()] -= 1;
            }
        }
        Some(RibMessage::Update(message))
    }

    fn next_of_family(&mut self, family: Family, desired: &RouteSet) -> Option<RibMessage> {
        let enhanced = self.terms.enhanced_refresh;
        let queue = &mut self.queues[family.index()];
        // RFC 7313 §4: no BoRR before the End-of-RIB of the initial table.
        if queue.refresh == Refresh::Requested && !queue.end_of_rib {
            queue.refresh = Refresh::Running;
            self.keep_told(family, desired);
            self.place_all(family, desired);
            if enhanced {
                return Some(RibMessage::Refresh(RouteRefresh::new(family, RefreshSubtype::Begin).encode()));
            }
        }
        if let Some(message) = self.next_announcement(family) {
            return Some(RibMessage::Update(message));
        }
        // A route whose attributes turned out to fill a message is withdrawn before the table is called complete.
        if let Some(message) = self.next_withdrawal(family) {
            return Some(message);
        }
        let queue = &mut self.queues[family.index()];
        if std::mem::take(&mut queue.end_of_rib) {
            return Some(RibMessage::Update(encode_end_of_rib(family)));
        }
        if queue.refresh == Refresh::Running {
            queue.refresh = Refresh::None;
            if enhanced {
                return Some(RibMessage::Refresh(RouteRefresh::new(family, RefreshSubtype::End).encode()));
            }
        }
        None
    }

    fn next_announcement(&mut self, family: Family) -> Option<Vec<u8>> {
        while let Some((attributes, mut prefixes)) = self.queues[family.index()].take_group() {
            let next_hop = self.next_hop(family, &attributes);
            let mut taken = Vec::new();
            let message = next_hop.and_then(|next_hop| {
                encode_announcement(
                    &self.terms.path,
                    family,
                    next_hop,
                    &attributes,
                    &mut prefixes,
                    &mut taken,
                )
            });
            let Some(message) = message else {
                self.give_up(family, prefixes);
                continue;
            };
            self.queues[family.index()].put_group(&attributes, prefixes);
            for prefix in taken {
                if self.told.remove(&prefix).is_none() {
                    self.counts[family.index()] += 1;
                }
            }
            return Some(message);
        }
        None
    }

    /// These prefixes cannot be sent: the peer must not keep older attributes of them either.
    fn give_up(&mut self, family: Family, mut prefixes: Pending) {
        while let Some(prefix) = prefixes.pop_first() {
            if self.told.contains_key(&prefix) {
                self.queues[family.index()].withdraw.insert(prefix);
            }
            self.unusable.insert(prefix);
        }
    }

    /// Keeps what the peer was told of a family that is about to be pending as a whole.
    fn keep_told(&mut self, family: Family, desired: &RouteSet) {
        let queue = &self.queues[family.index()];
        let told = desired.iter().filter(|(prefix, attributes)| {
            Family::of(prefix) == family
                && !self.unusable.contains(prefix)
                && !queue.is_announcing(attributes, prefix)
        });
        let mut told: BTreeMap<_, _> =
            told.map(|(prefix, attributes)| (prefix, Arc::clone(attributes))).collect();
        self.told.append(&mut told);
    }

    /// Makes the whole family pending, where it stands: the first UPDATE of a full table must not wait for a search or a copy per
    /// route.
    fn place_all(&mut self, family: Family, desired: &RouteSet) {
        self.queues[family.index()].begin_table();
        for part in desired.parts() {
            for run in part.chunk_by(|(_, one), (_, next)| Arc::ptr_eq(one, next)) {
                let prefixes =
                    || run.iter().map(|(prefix, _)| *prefix).filter(|prefix| Family::of(prefix) == family);
                let (Some((_, attributes)), count) = (run.first(), prefixes().count()) else { continue };
                if count == 0 {
                    continue;
                }
                if self.next_hop(family, attributes).is_none() {
                    self.unusable.extend(prefixes());
                    continue;
                }
                let queue = &mut self.queues[family.index()];
                queue.announce_part(attributes, part, count);
                if self.unusable.is_empty() {
                    continue;
                }
                // What turned out too large to send before is so still.
                for prefix in prefixes().filter(|prefix| self.unusable.contains(prefix)) {
                    queue.forget(Some(attributes), &prefix);
                }
            }
        }
    }
}
