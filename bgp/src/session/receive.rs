//! What a session does with new connections and received messages (RFC 4271 §8.2.2, per state).

use std::time::Instant;

use super::collision::survivor;
use super::connection::{Connection, Phase};
use super::dial::Dial;
use super::negotiation::negotiate;
use super::{COLLISION_WAIT, ConnId, Direction, DownReason, LocalAddresses, Output, Session, State};
use crate::Family;
use crate::wire::{
    AS_TRANS, Code, Message, Notification, Open, ReceivedUpdate, RefreshSubtype, RouteRefresh,
};

impl Session {
    pub(super) fn connected(
        &mut self,
        now: Instant,
        id: ConnId,
        direction: Direction,
        local: LocalAddresses,
        out: &mut Vec<Output>,
    ) {
        match direction {
            Direction::Outgoing if matches!(self.dial, Dial::InProgress { .. }) => self.dial = Dial::Off,
            // A dial that was abandoned meanwhile.
            Direction::Outgoing => {
                out.push(Output::Close(id));
                return;
            }
            // RFC 4271 §8.2.2: Idle refuses all incoming connections.
            Direction::Incoming if !self.started => {
                out.push(Output::Close(id));
                return;
            }
            Direction::Incoming => {
                if !self.admit_incoming(now, id, out) {
                    return;
                }
            }
        }
        let open = self.our_open();
        self.counters.opens_sent += 1;
        out.push(Output::Send(id, open.encode()));
        self.connections.push(Connection::new(id, direction, local, open, now));
    }

    /// Whether an incoming connection may be; if not it is answered and closed here.
    fn admit_incoming(&mut self, now: Instant, id: ConnId, out: &mut Vec<Output>) -> bool {
        let restarted = self.connections.iter().find(|c| {
            c.state() == State::Established && c.negotiated.as_ref().is_some_and(|n| n.graceful_restart)
        });
        // RFC 4724 §4.2: the peer was restarted and the old connection never ended; it ends in silence.
        if let Some(old) = restarted.map(|connection| connection.id) {
            self.fail(now, old, None, DownReason::Replaced, out);
        }
        let refusal = if self.state() == State::Established {
            // RFC 4271 §6.8: a connection that collides with an Established one is closed.
            Some(Code::COLLISION_RESOLUTION)
        } else {
            let earlier = self.connections.iter().find(|c| !c.is_outgoing()).map(|c| (c.id, c.state()));
            match earlier {
                // The peer has turned away from a connection on which it never spoke.
                Some((earlier, State::OpenSent)) => {
                    let cease = Notification::new(Code::COLLISION_RESOLUTION);
                    self.fail(now, earlier, Some(&cease), DownReason::Replaced, out);
                    None
                }
                Some(_) => Some(Code::CONNECTION_REJECTED),
                None => None,
            }
        };
        let Some(code) = refusal else { return true };
        self.counters.collisions += 1;
        self.send_notification(id, &Notification::new(code), out);
        out.push(Output::Close(id));
        false
    }

    fn our_open(&self) -> Open {
        Open {
            // RFC 6793 §4.2.1: AS_TRANS only if two octets do not suffice.
            my_as: u16::try_from(self.config.local_as).unwrap_or(AS_TRANS),
            hold_time: self.config.hold_time.seconds(),
            router_id: self.config.router_id,
            capabilities: self.offer.capabilities(&self.config),
        }
    }

    pub(super) fn received(&mut self, now: Instant, id: ConnId, message: Message, out: &mut Vec<Output>) {
        let Some(index) = self.index_of(id) else { return };
        let phase = self.connections[index].phase;
        match (phase, message) {
            (_, Message::Notification(notification)) => {
                self.counters.notifications_received += 1;
                self.fail(now, id, None, DownReason::NotificationReceived(notification), out);
            }
            (Phase::OpenSent, Message::Open(open)) => self.received_open(now, id, &open, out),
            (Phase::OpenConfirm, Message::Keepalive) => {
                self.counters.keepalives_received += 1;
                self.confirmed(now, id, out);
            }
            (Phase::Yielding { .. } | Phase::Established { .. }, Message::Keepalive) => {
                self.counters.keepalives_received += 1;
                self.connections[index].restart_hold(now);
            }
            (Phase::Yielding { .. } | Phase::Established { .. }, Message::Update(update)) => {
                // RFC 4271 §8.2.2: an UPDATE restarts the hold timer too.
                self.connections[index].restart_hold(now);
                self.discard(&update);
            }
            (Phase::Yielding { .. } | Phase::Established { .. }, Message::RouteRefresh(refresh)) => {
                self.refresh(refresh);
            }
            // RFC 6608 §3: everything else is an FSM error of the state, the data is the message's type.
            (Phase::OpenSent, message) => self.unexpected(now, id, Code::FSM_OPEN_SENT, &message, out),
            (Phase::OpenConfirm | Phase::Yielding { .. }, message) => {
                self.unexpected(now, id, Code::FSM_OPEN_CONFIRM, &message, out);
            }
            (Phase::Established { .. }, message) => {
                self.unexpected(now, id, Code::FSM_ESTABLISHED, &message, out)
            }
        }
    }

    fn unexpected(&mut self, now: Instant, id: ConnId, code: Code, message: &Message, out: &mut Vec<Output>) {
        let state = self.index_of(id).map_or(State::Idle, |index| self.connections[index].state());
        let notification = Notification::with_data(code, &[message.kind()]);
        let reason = DownReason::UnexpectedMessage { message: message.name(), state };
        self.fail(now, id, Some(&notification), reason, out);
    }

    fn discard(&mut self, update: &ReceivedUpdate) {
        self.counters.updates_received_discarded += 1;
        self.counters.prefixes_received_discarded += u64::from(update.announced);
    }

    fn refresh(&mut self, refresh: RouteRefresh) {
        self.counters.route_refreshes_received += 1;
        match refresh.subtype {
            // RFC 2918 §4: ignored for a family that was not negotiated.
            RefreshSubtype::Request => {
                if let Some(family) = Family::from_codes(refresh.afi, refresh.safi) {
                    self.rib.refresh(family);
                }
            }
            // We keep nothing of the peer's that could be stale. RFC 7313 §5: unknown subtypes are ignored.
            RefreshSubtype::Begin | RefreshSubtype::End | RefreshSubtype::Unknown(_) => {}
        }
    }

    /// RFC 4271 §8.2.2: OPEN in OpenSent.
    fn received_open(&mut self, now: Instant, id: ConnId, open: &Open, out: &mut Vec<Output>) {
        self.counters.opens_received += 1;
        let Some(index) = self.index_of(id) else { return };
        let negotiated = match negotiate(&self.config, &self.connections[index].offered, open) {
            Ok(negotiated) => negotiated,
            Err(refusal) => {
                let notification = refusal.notification();
                self.fail(now, id, Some(&notification), DownReason::OpenRefused(refusal), out);
                return;
            }
        };
        let winner = survivor(
            (self.config.router_id, self.config.local_as),
            (negotiated.router_id, negotiated.peer_as),
        );
        let direction = self.connections[index].direction;
        let other = self.connections.iter().find(|c| c.id != id).map(|c| (c.id, c.state()));
        // RFC 4271 §6.8: on receipt of an OPEN, look at the other connection.
        match other {
            // This one has just proved to live and is the survivor.
            Some((other, _)) if direction == winner => self.cede(other, out),
            // The other one lives as well and is the survivor.
            Some((_, State::OpenConfirm)) => {
                self.cede(id, out);
                return;
            }
            // The other one is the survivor, but may be dead: this one goes on, and will wait for it at the end.
            Some(_) | None => {}
        }
        if direction == winner {
            self.abandon_dial(out);
        }
        let Some(index) = self.index_of(id) else { return };
        let connection = &mut self.connections[index];
        connection.negotiated = Some(negotiated);
        connection.phase = Phase::OpenConfirm;
        connection.restart_hold(now);
        self.send_keepalive(index, now, out);
        // With a connection in OpenConfirm no new dial begins; one that is under way may still win.
        if matches!(self.dial, Dial::At(_)) {
            self.dial = Dial::Off;
        }
    }

    /// RFC 4271 §8.2.2: KEEPALIVE in OpenConfirm.
    fn confirmed(&mut self, now: Instant, id: ConnId, out: &mut Vec<Output>) {
        // If another connection is still there, it is in OpenSent and the survivor by the rule: see `collision`.
        let waits = self.connections.len() > 1;
        let Some(index) = self.index_of(id) else { return };
        let connection = &mut self.connections[index];
        if waits {
            connection.restart_hold(now);
            connection.phase = Phase::Yielding { until: now + COLLISION_WAIT };
        } else {
            self.establish(now, id, out);
        }
    }
}
