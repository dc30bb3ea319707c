//! One TCP connection of a session: its phase and its timers (RFC 4271 §8.1.3).

use std::time::{Duration, Instant};

use super::jitter::Jitter;
use super::{ConnId, Direction, LARGE_HOLD, LocalAddresses, Negotiated, State};
use crate::wire::{Capability, Open};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    OpenSent,
    OpenConfirm,
    /// The peer's KEEPALIVE is here, but the collision rule prefers the other connection, which is not: until then.
    Yielding {
        until: Instant,
    },
    Established {
        since: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) direction: Direction,
    pub(super) local: LocalAddresses,
    pub(super) phase: Phase,
    /// The capabilities of our OPEN on it.
    pub(super) offered: Vec<Capability>,
    /// From OpenConfirm on.
    pub(super) negotiated: Option<Negotiated>,
    /// The peer has been silent for too long.
    pub(super) hold: Option<Instant>,
    /// We have been silent for too long.
    pub(super) keepalive: Option<Instant>,
}

impl Connection {
    pub(super) fn new(
        id: ConnId,
        direction: Direction,
        local: LocalAddresses,
        open: Open,
        now: Instant,
    ) -> Self {
        // RFC 4271 §8.2.2: the hold timer of OpenSent has a large value.
        let hold = Some(now + LARGE_HOLD);
        let phase = Phase::OpenSent;
        let offered = open.capabilities;
        Self { id, direction, local, phase, offered, negotiated: None, hold, keepalive: None }
    }

    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm | Phase::Yielding { .. } => State::OpenConfirm,
            Phase::Established { .. } => State::Established,
        }
    }

    pub(super) fn is_outgoing(&self) -> bool {
        self.direction == Direction::Outgoing
    }

    pub(super) const fn yields_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Yielding { until } => Some(until),
            Phase::OpenSent | Phase::OpenConfirm | Phase::Established { .. } => None,
        }
    }

    /// The hold time in force.
    pub(super) fn hold_time(&self) -> Duration {
        match &self.negotiated {
            None => LARGE_HOLD,
            // No timers were agreed on, but a peer that never confirms must not hang forever.
            Some(negotiated) if negotiated.hold_time.is_zero() && self.state() != State::Established => {
                LARGE_HOLD
            }
            Some(negotiated) => negotiated.hold_time,
        }
    }

    /// RFC 4271 §8.2.2: restarts the hold timer "if the negotiated HoldTime value is non-zero".
    pub(super) fn restart_hold(&mut self, now: Instant) {
        let time = self.hold_time();
        self.hold = (!time.is_zero()).then(|| now + time);
    }

    /// RFC 4271 §4.4, §10: a third of the hold time or the configured time, by a random factor of 0.75 to 1.
    pub(super) fn restart_keepalive(
        &mut self,
        now: Instant,
        configured: Option<Duration>,
        jitter: &mut Jitter,
    ) {
        let third = self.negotiated.as_ref().map(|n| n.hold_time / 3).unwrap_or_default();
        // One of zero would be one without end.
        let time = third.min(configured.filter(|time| !time.is_zero()).unwrap_or(third));
        self.keepalive = (!time.is_zero()).then(|| now + jitter.scale(time, 750, 1000));
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.hold.into_iter().chain(self.keepalive).chain(self.yields_until())
    }
}
