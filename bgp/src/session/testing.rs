//! One session under a virtual clock, its outputs in a form that tables can compare.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::wire::testing::{decode_one, net};
use crate::wire::{Capability, Message, Open};
use crate::{Families, Family, Route, RouteSet};

pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const LOCAL_AS: u32 = 64500;
pub(super) const PEER_AS: u32 = 64501;

pub(super) fn config() -> SessionConfig {
    SessionConfig { families: Families::BOTH, ..SessionConfig::new(LOCAL_AS, PEER_AS, LOCAL).unwrap() }
}

/// What a usual peer says.
pub(super) fn peer_open() -> Open {
    let mut capabilities: Vec<_> = Families::BOTH.iter().map(Capability::family).collect();
    capabilities.extend([Capability::RouteRefresh, Capability::FourOctetAs(PEER_AS)]);
    Open { my_as: 64501, hold_time: 90, router_id: PEER, capabilities }
}

pub(super) fn notification(code: Code, data: &[u8]) -> Message {
    Message::Notification(Notification::with_data(code, data))
}

/// An output, with what was sent made readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Connect,
    Abandon,
    Open(u64),
    Keepalive(u64),
    Update(u64),
    Refresh(u64),
    Notification(u64, Code, Vec<u8>),
    Close(u64),
    Up,
    Down(String),
    Failed(String),
    Synced(u64),
}

pub(super) fn see(output: &Output) -> Seen {
    match output {
        Output::Connect => Seen::Connect,
        Output::AbandonConnect => Seen::Abandon,
        Output::Send(id, bytes) => match decode_one(bytes) {
            Message::Open(_) => Seen::Open(id.0),
            Message::Keepalive => Seen::Keepalive(id.0),
            Message::Update(_) => Seen::Update(id.0),
            Message::RouteRefresh(_) => Seen::Refresh(id.0),
            Message::Notification(n) => Seen::Notification(id.0, n.code, n.data),
        },
        Output::Close(id) => Seen::Close(id.0),
        Output::Up(_) => Seen::Up,
        Output::Down(reason) => Seen::Down(reason.to_string()),
        Output::AttemptFailed(reason) => Seen::Failed(reason.to_string()),
        Output::Synced(generation) => Seen::Synced(generation.0),
    }
}

/// A session and its clock.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        Self { session: Session::new(config, now), now }
    }

    pub(super) fn raw(&mut self, event: Event) -> Vec<Output> {
        let outputs = self.session.handle(self.now, event);
        assert!(
            self.session.next_deadline().is_none_or(|at| at > self.now),
            "a deadline that does not lie ahead"
        );
        outputs
    }

    pub(super) fn on(&mut self, event: Event) -> Vec<Seen> {
        self.raw(event).iter().map(see).collect()
    }

    pub(super) fn dialled(&mut self, id: u64) -> Vec<Seen> {
        self.on(Event::Connected(ConnId(id), Direction::Outgoing, local()))
    }

    pub(super) fn accepted(&mut self, id: u64) -> Vec<Seen> {
        self.on(Event::Connected(ConnId(id), Direction::Incoming, local()))
    }

    pub(super) fn receive(&mut self, id: u64, message: Message) -> Vec<Seen> {
        self.on(Event::Received(ConnId(id), message))
    }

    pub(super) fn routes(&mut self, generation: u64, prefixes: &[&str]) -> Vec<Seen> {
        let routes: RouteSet = prefixes.iter().map(|prefix| Route::new(net(prefix))).collect();
        self.on(Event::RoutesChanged(Generation(generation), Arc::new(routes)))
    }

    pub(super) fn draw(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(output) = self.session.poll_update(self.now) {
            seen.push(see(&output));
        }
        assert!(!self.session.has_updates());
        seen
    }

    /// Lets time pass, answering deadlines as a driver does.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<(Duration, Seen)> {
        let (begin, end) = (self.now, self.now + time);
        let mut seen = Vec::new();
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            self.now = at;
            seen.extend(self.on(Event::DeadlineReached).into_iter().map(|output| (at - begin, output)));
        }
        self.now = end;
        seen
    }

    /// Brings the session to a state by connection 1, which we dialled.
    pub(super) fn reach(config: SessionConfig, state: State) -> Self {
        let mut bench = Self::new(config);
        if state > State::Idle {
            bench.on(Event::Start);
        }
        if state >= State::OpenSent {
            bench.dialled(1);
        }
        if state >= State::OpenConfirm {
            bench.receive(1, Message::Open(peer_open()));
        }
        if state >= State::Established {
            bench.receive(1, Message::Keepalive);
        }
        if state == State::Active {
            bench.on(Event::ConnectFailed("refused".into()));
        }
        assert_eq!(bench.session.state(), state);
        bench
    }
}

pub(super) fn local() -> LocalAddresses {
    LocalAddresses { v4: Some(LOCAL), v6: "2001:db8:10::11".parse().ok() }
}

pub(super) fn families(open: &Open) -> Vec<Family> {
    Family::ALL
        .into_iter()
        .filter(|family| open.capabilities.contains(&Capability::family(*family)))
        .collect()
}
