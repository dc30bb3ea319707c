//! Two sessions back to back: a simulated network with delays and a virtual clock, thousands of seconds per test.
//!
//! Both may dial, messages of a connection keep their order and nothing else does, connections can be cut silently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::testing::{LOCAL, PEER, see};
use super::*;
use crate::wire::testing::{PeerTable, decode_all, net, nets};
use crate::{Families, Route, RouteSet};

/// A thing that arrives at a side.
#[derive(Debug)]
enum Arrival {
    DialResult(u64, bool),
    Incoming(u64),
    Octets(u64, Vec<u8>),
    End(u64),
}

struct Side {
    session: Session,
    /// Ends that are open here, by connection.
    open: BTreeSet<u64>,
    dialling: Option<u64>,
    /// What came by each connection, whether we were Established already or not.
    tables: BTreeMap<u64, PeerTable>,
    /// Between `Up` and `Down`.
    up: bool,
    ups: u32,
    synced: u64,
    log: Vec<String>,
}

struct World {
    now: Instant,
    sides: [Side; 2],
    arrivals: BTreeMap<(Instant, u64), (usize, Arrival)>,
    sequence: u64,
    connections: u64,
    /// When the last octets of a connection arrive at a side: order is kept.
    last: BTreeMap<(u64, usize), Instant>,
    random: Jitter,
    longest_delay: Duration,
    /// Nothing gets through, and nobody is told.
    cut: bool,
    /// Connections that lost something.
    dead: BTreeSet<u64>,
    listening: [bool; 2],
}

impl World {
    fn new(configs: [SessionConfig; 2], seed: u64, longest_delay: Duration) -> Self {
        let now = Instant::now();
        let sides = configs.map(|config| Side {
            session: Session::new(config, now),
            open: BTreeSet::new(),
            dialling: None,
            tables: BTreeMap::new(),
            up: false,
            ups: 0,
            synced: 0,
            log: Vec::new(),
        });
        Self {
            now,
            sides,
            arrivals: BTreeMap::new(),
            sequence: 0,
            connections: 0,
            last: BTreeMap::new(),
            random: Jitter::new(seed),
            longest_delay,
            cut: false,
            dead: BTreeSet::new(),
            listening: [true, true],
        }
    }

    fn arrive(&mut self, side: usize, connection: u64, arrival: Arrival) {
        let delay = self.random.scale(self.longest_delay, 1, 1000);
        let last = self.last.entry((connection, side)).or_insert(self.now);
        let at = (self.now + delay).max(*last);
        *last = at;
        self.sequence += 1;
        self.arrivals.insert((at, self.sequence), (side, arrival));
    }

    fn handle(&mut self, side: usize, event: Event) {
        let now = self.now;
        let outputs = self.sides[side].session.handle(now, event);
        let deadline = self.sides[side].session.next_deadline();
        assert!(deadline.is_none_or(|at| at > now), "side {side}: a deadline that does not lie ahead");
        for output in outputs {
            self.perform(side, output);
        }
        while let Some(output) = self.sides[side].session.poll_update(now) {
            self.perform(side, output);
        }
        let established = self.sides[side].session.state() == State::Established;
        assert_eq!(established, self.sides[side].up, "Up and Down tell the state");
    }

    fn perform(&mut self, side: usize, output: Output) {
        let other = 1 - side;
        self.sides[side].log.push(format!("{:?}", see(&output)));
        match output {
            Output::Connect => {
                assert!(self.sides[side].dialling.is_none(), "one dial at a time");
                self.connections += 1;
                let connection = self.connections;
                self.sides[side].dialling = Some(connection);
                let accepted = !self.cut && self.listening[other];
                if accepted {
                    self.arrive(other, connection, Arrival::Incoming(connection));
                }
                if !self.cut {
                    self.arrive(side, connection, Arrival::DialResult(connection, accepted));
                }
            }
            Output::AbandonConnect => {
                let connection = self.sides[side].dialling.take().expect("a dial to abandon");
                if !self.lost(connection) {
                    self.arrive(other, connection, Arrival::End(connection));
                }
            }
            Output::Send(ConnId(connection), bytes) => {
                assert!(self.sides[side].open.contains(&connection), "sent on a closed connection");
                assert!(bytes.len() <= MAX_EXTENDED);
                if matches!(bytes[18], 2 | 5) {
                    assert!(self.sides[side].up, "an UPDATE before Established");
                }
                if !self.lost(connection) {
                    self.arrive(other, connection, Arrival::Octets(connection, bytes));
                }
            }
            Output::Close(ConnId(connection)) => {
                self.sides[side].open.remove(&connection);
                if !self.lost(connection) {
                    self.arrive(other, connection, Arrival::End(connection));
                }
            }
            Output::Up(_) => {
                assert!(!self.sides[side].up, "two Ups without a Down");
                self.sides[side].up = true;
                self.sides[side].ups += 1;
            }
            Output::Down(_) => {
                assert!(std::mem::take(&mut self.sides[side].up), "a Down without an Up");
            }
            Output::AttemptFailed(_) => assert!(self.sides[side].session.last_failure().is_some()),
            Output::Synced(generation) => self.sides[side].synced = generation.0,
        }
    }

    /// Everything up to this time from now.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 200_000, "spins: {:?}", self.sides.each_ref().map(|s| s.session.state()));
            let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
            let deadlines = [0, 1].map(|side| self.sides[side].session.next_deadline());
            let Some(next) = deadlines.into_iter().flatten().chain(arrival).min().filter(|at| *at <= end)
            else {
                self.now = end;
                return;
            };
            self.now = next;
            // What has arrived is read before deadlines are looked at.
            if arrival.is_some_and(|at| at <= next) {
                let Some((_, (side, arrival))) = self.arrivals.pop_first() else { return };
                self.deliver(side, arrival);
            } else {
                for side in 0..2 {
                    self.handle(side, Event::DeadlineReached);
                }
            }
        }
    }

    fn deliver(&mut self, side: usize, arrival: Arrival) {
        let local = LocalAddresses { v4: Some([10, 0, 0, 9].into()), v6: "2001:db8:10::9".parse().ok() };
        match arrival {
            Arrival::DialResult(connection, accepted) if self.sides[side].dialling == Some(connection) => {
                self.sides[side].dialling = None;
                if accepted {
                    self.sides[side].open.insert(connection);
                    self.handle(side, Event::Connected(ConnId(connection), Direction::Outgoing, local));
                } else {
                    self.handle(side, Event::ConnectFailed("refused".into()));
                }
            }
            Arrival::DialResult(..) => {}
            Arrival::Incoming(connection) => {
                self.sides[side].open.insert(connection);
                self.handle(side, Event::Connected(ConnId(connection), Direction::Incoming, local));
            }
            Arrival::Octets(connection, bytes) => {
                if !self.sides[side].open.contains(&connection) || self.lost(connection) {
                    return;
                }
                for message in decode_all(&bytes).unwrap() {
                    if matches!(message, crate::wire::Message::Update(_)) {
                        let table = self.sides[side].tables.entry(connection);
                        table.or_insert_with(|| PeerTable::new(true)).apply(&bytes);
                    }
                    self.handle(side, Event::Received(ConnId(connection), message));
                }
            }
            Arrival::End(connection) => {
                if self.sides[side].dialling == Some(connection) || !self.sides[side].open.remove(&connection)
                {
                    return;
                }
                self.handle(side, Event::Disconnected(ConnId(connection), None));
                // The driver keeps no half of a connection.
                self.sides[side].open.remove(&connection);
            }
        }
    }

    /// Whether octets or the end of a connection get lost now. TCP loses nothing in between: with one, all that follow.
    fn lost(&mut self, connection: u64) -> bool {
        if self.cut {
            self.dead.insert(connection);
        }
        self.dead.contains(&connection)
    }

    /// What a side has learned by the connection that it has.
    fn table(&self, side: usize) -> PeerTable {
        let connection = self.sides[side].open.first().expect("a connection");
        self.sides[side].tables.get(connection).cloned().unwrap_or_default()
    }

    fn routes(&mut self, side: usize, generation: u64, prefixes: &[&str]) {
        let routes: RouteSet = prefixes.iter().map(|prefix| Route::new(net(prefix))).collect();
        self.handle(side, Event::RoutesChanged(Generation(generation), Arc::new(routes)));
    }

    fn both_up(&self) -> bool {
        self.sides.iter().all(|side| side.session.state() == State::Established)
    }
}

fn configs(hold: u16) -> [SessionConfig; 2] {
    let hold_time = HoldTime::new(hold).unwrap();
    [(64500, 64501, LOCAL), (64501, 64500, PEER)].map(|(local, peer, id)| SessionConfig {
        families: Families::BOTH,
        hold_time,
        ..SessionConfig::new(local, peer, id).unwrap()
    })
}

#[test]
fn a_table_arrives_and_changes_follow() {
    let mut world = World::new(configs(90), 1, Duration::from_millis(5));
    world.listening[0] = false;
    world.sides[1].session.config.passive = true;
    world.routes(0, 1, &["192.0.2.1/32", "2001:db8:1::1/128"]);
    assert_eq!(world.sides[0].synced, 1, "nobody to tell");
    world.handle(1, Event::Start);
    world.handle(0, Event::Start);
    world.run(Duration::from_secs(1));
    assert!(world.both_up(), "{:?}", world.sides[0].log);
    assert_eq!(world.table(1).prefixes(), nets(["192.0.2.1/32", "2001:db8:1::1/128"]));
    assert_eq!(world.table(1).end_of_rib.len(), 2);
    world.routes(0, 2, &["192.0.2.2/32"]);
    assert_eq!(world.sides[0].synced, 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.table(1).prefixes(), nets(["192.0.2.2/32"]));
    // A day of keepalives.
    world.run(Duration::from_secs(86_400));
    assert_eq!(world.sides.each_ref().map(|side| side.ups), [1, 1]);
}

#[test]
fn a_planned_stop_withdraws_first_and_tells_why() {
    let mut world = World::new(configs(90), 2, Duration::from_millis(5));
    world.routes(0, 1, &["192.0.2.1/32"]);
    for side in 0..2 {
        world.handle(side, Event::Start);
    }
    world.run(Duration::from_secs(10));
    assert!(world.both_up());
    world.routes(0, 2, &[]);
    assert_eq!(world.sides[0].synced, 2);
    world.handle(0, Event::Stop(Cease::AdministrativeShutdown("node drain".into())));
    world.run(Duration::from_millis(100));
    let table = world.sides[1].tables.values().last().unwrap();
    assert_eq!(
        (table.prefixes(), table.end_of_rib.len()),
        (nets([]), 2),
        "withdrawn by UPDATE, not by the end"
    );
    let reason = world.sides[1].session.last_failure().map(ToString::to_string);
    let expected = r#"peer sent NOTIFICATION 6/2 Cease/Administrative Shutdown: "node drain""#;
    assert_eq!(reason.as_deref(), Some(expected));
}

#[test]
fn a_silent_cut_is_noticed_by_the_hold_timer_and_healed_soon_after_it_ends() {
    let mut world = World::new(configs(9), 3, Duration::from_millis(20));
    world.routes(0, 1, &["192.0.2.1/32"]);
    for side in 0..2 {
        world.handle(side, Event::Start);
    }
    world.run(Duration::from_secs(20));
    assert!(world.both_up());
    world.cut = true;
    world.run(Duration::from_secs(6));
    assert!(world.both_up(), "not before the hold time");
    world.run(Duration::from_secs(4));
    for side in &world.sides {
        assert_ne!(side.session.state(), State::Established);
    }
    // While cut, a dial every five seconds or so.
    let before = world.sides[0].session.counters().connect_attempts;
    world.run(Duration::from_secs(100));
    let dials = world.sides[0].session.counters().connect_attempts - before;
    assert!((18..=30).contains(&dials), "{dials} dials in 100 s");
    world.cut = false;
    world.run(Duration::from_secs(12));
    assert!(world.both_up(), "{:?}", world.sides[0].log);
    assert_eq!(world.table(1).prefixes(), nets(["192.0.2.1/32"]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_dialling_they_agree_on_one_connection_under_any_delay(
        seed in any::<u64>(),
        delay in 1_u64..900,
        apart in 0_u64..1200,
        seeds in any::<[u64; 2]>(),
    ) {
        let mut configs = configs(90);
        configs[0].jitter_seed = seeds[0];
        configs[1].jitter_seed = seeds[1];
        let mut world = World::new(configs, seed, Duration::from_millis(delay));
        world.routes(0, 1, &["192.0.2.1/32", "192.0.2.2/32"]);
        world.routes(1, 1, &["2001:db8:1::1/128"]);
        world.handle(0, Event::Start);
        world.run(Duration::from_millis(apart));
        world.handle(1, Event::Start);
        world.run(Duration::from_secs(60));
        prop_assert!(world.both_up(), "{:#?}", world.sides.each_ref().map(|side| side.log.clone()));
        // Agreed at once: no session that came up was killed by a collision.
        prop_assert_eq!(
            world.sides.each_ref().map(|side| side.ups), [1, 1],
            "{:#?}", world.sides.each_ref().map(|side| side.log.clone())
        );
        prop_assert_eq!(&world.sides[0].open, &world.sides[1].open, "on the same connection");
        prop_assert_eq!(world.sides[0].open.len(), 1);
        prop_assert_eq!(world.table(1).prefixes(), nets(["192.0.2.1/32", "192.0.2.2/32"]));
        prop_assert_eq!(world.table(0).prefixes(), nets(["2001:db8:1::1/128"]));
        // And it stays.
        world.run(Duration::from_secs(3600));
        prop_assert_eq!(world.sides.each_ref().map(|side| side.ups), [1, 1]);
    }

    #[test]
    fn whatever_is_cut_stopped_and_changed_they_find_together_again(
        seed in any::<u64>(),
        delay in 1_u64..300,
        steps in proptest::collection::vec((0_u8..7, 0_usize..2, 1_u64..40_000), 1..25),
    ) {
        let mut world = World::new(configs(9), seed, Duration::from_millis(delay));
        let mut generation = 0;
        for side in 0..2 {
            world.handle(side, Event::Start);
        }
        for (kind, side, wait) in steps {
            match kind {
                0 => world.cut = true,
                1 => world.cut = false,
                2 => world.handle(side, Event::Stop(Cease::AdministrativeReset("".into()))),
                3 => world.handle(side, Event::Start),
                4 => world.listening[side] = !world.listening[side],
                5 => {
                    generation += 1;
                    world.routes(side, generation, &["192.0.2.1/32", "192.0.2.3/32"]);
                    prop_assert_eq!(world.sides[side].synced, generation);
                }
                _ => {
                    generation += 1;
                    world.routes(side, generation, &["192.0.2.1/32", "2001:db8:1::9/128"]);
                }
            }
            world.run(Duration::from_millis(wait));
        }
        world.cut = false;
        world.listening = [true, true];
        generation += 1;
        for side in 0..2 {
            world.handle(side, Event::Start);
            world.routes(side, generation, &["192.0.2.7/32"]);
        }
        // Connections that were cut in OpenSent take the large hold time to be noticed; dials go on meanwhile.
        world.run(Duration::from_secs(300));
        prop_assert!(world.both_up(), "{:#?}", world.sides.each_ref().map(|side| side.log.clone()));
        for side in 0..2 {
            prop_assert_eq!(world.table(side).prefixes(), nets(["192.0.2.7/32"]));
        }
    }
}
