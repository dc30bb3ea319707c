//! Two connections at once (RFC 4271 §6.8). The local identifier is 10.0.0.11; connection 1 is ours, 2 the peer's.

use std::net::Ipv4Addr;

use super::testing::*;
use super::*;
use crate::wire::{Message, Open};

const LOWER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

fn ceded(id: u64) -> [Seen; 2] {
    [Seen::Notification(id, Code::COLLISION_RESOLUTION, vec![]), Seen::Close(id)]
}

fn open(router_id: Ipv4Addr) -> Message {
    Message::Open(Open { router_id, ..peer_open() })
}

/// Both connections in OpenSent.
fn both() -> Bench {
    let mut bench = Bench::reach(config(), State::OpenSent);
    assert_eq!(bench.accepted(2), [Seen::Open(2)]);
    bench
}

#[test]
fn the_connection_of_the_higher_identifier_survives_whichever_open_comes_first() {
    for (router_id, survivor, loser) in [(LOWER, 1, 2), (HIGHER, 2, 1)] {
        // The survivor's OPEN first: it lives, so the other one can go.
        let mut bench = both();
        let expected = [&ceded(loser)[..], &[Seen::Keepalive(survivor)]].concat();
        assert_eq!(bench.receive(survivor, open(router_id)), expected, "{router_id}");
        assert_eq!(bench.receive(survivor, Message::Keepalive), [Seen::Up]);

        // The loser's OPEN first: it goes on until the survivor has spoken.
        let mut bench = both();
        assert_eq!(bench.receive(loser, open(router_id)), [Seen::Keepalive(loser)], "{router_id}");
        let expected = [&ceded(loser)[..], &[Seen::Keepalive(survivor)]].concat();
        assert_eq!(bench.receive(survivor, open(router_id)), expected);
        assert_eq!(bench.receive(survivor, Message::Keepalive), [Seen::Up]);
        assert_eq!(bench.session.counters().collisions, 1);
    }
}

#[test]
fn an_open_on_the_loser_is_answered_by_a_cease_once_the_survivor_confirms() {
    let mut bench = Bench::reach(config(), State::OpenConfirm);
    // 10.0.0.1 is lower: ours survives.
    assert_eq!(bench.accepted(2), [Seen::Open(2)]);
    assert_eq!(bench.receive(2, open(LOWER)), ceded(2));
    assert_eq!(bench.session.state(), State::OpenConfirm);
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
}

#[test]
fn a_ready_connection_waits_for_the_survivor_but_not_for_long() {
    // The survivor never speaks.
    let mut bench = both();
    bench.receive(1, open(HIGHER));
    assert_eq!(bench.receive(1, Message::Keepalive), []);
    assert_eq!(bench.session.state(), State::OpenConfirm);
    assert_eq!(bench.receive(1, Message::Update(Default::default())), [], "the peer may be further than we");
    let seen: Vec<_> = bench.pass(COLLISION_WAIT).into_iter().map(|(_, seen)| seen).collect();
    assert_eq!(seen, [&ceded(2)[..], &[Seen::Up]].concat());

    // The survivor dies: no reason to wait.
    for death in [
        Event::Disconnected(ConnId(2), None),
        Event::Received(ConnId(2), notification(Code::COLLISION_RESOLUTION, &[])),
    ] {
        let mut bench = both();
        bench.receive(1, open(HIGHER));
        bench.receive(1, Message::Keepalive);
        let seen = bench.on(death);
        assert_eq!((seen.first(), seen.last()), (Some(&Seen::Close(2)), Some(&Seen::Up)));
    }

    // The survivor speaks in time.
    let mut bench = both();
    bench.receive(1, open(HIGHER));
    bench.receive(1, Message::Keepalive);
    assert_eq!(bench.receive(2, open(HIGHER)), [&ceded(1)[..], &[Seen::Keepalive(2)]].concat());
    assert_eq!(bench.receive(2, Message::Keepalive), [Seen::Up]);
}

#[test]
fn an_established_session_beats_every_new_connection() {
    let mut bench = Bench::reach(config(), State::Established);
    assert_eq!(bench.accepted(2), ceded(2));
    assert_eq!(bench.session.state(), State::Established);
    assert_eq!(bench.receive(2, open(HIGHER)), [], "it is gone");
}

#[test]
fn an_established_incoming_connection_ends_the_dial() {
    let mut bench = Bench::reach(config(), State::Connect);
    assert_eq!(bench.accepted(2), [Seen::Open(2)]);
    // 10.0.0.1 is lower: our dial would win, so it goes on.
    assert_eq!(bench.receive(2, open(LOWER)), [Seen::Keepalive(2)]);
    assert_eq!(bench.receive(2, Message::Keepalive), [Seen::Abandon, Seen::Up]);
    assert_eq!(bench.dialled(1), [Seen::Close(1)], "it crossed the abandonment");

    let mut bench = Bench::reach(config(), State::Connect);
    bench.accepted(2);
    assert_eq!(bench.receive(2, open(HIGHER)), [Seen::Abandon, Seen::Keepalive(2)], "it could only lose");
}

#[test]
fn a_silent_incoming_connection_does_not_keep_us_from_dialling() {
    let mut bench = Bench::reach(config(), State::Active);
    assert_eq!(bench.accepted(2), [Seen::Open(2)]);
    let seen = bench.pass(Duration::from_secs(2));
    assert_eq!(seen.last().map(|(_, seen)| seen), Some(&Seen::Connect));
    assert_eq!(bench.dialled(3), [Seen::Open(3)]);
    assert_eq!(bench.receive(3, open(LOWER)), [&ceded(2)[..], &[Seen::Keepalive(3)]].concat());
}

#[test]
fn a_second_incoming_connection_replaces_a_silent_one_and_yields_to_a_speaking_one() {
    let mut bench = Bench::reach(config(), State::Active);
    bench.accepted(2);
    let seen = bench.accepted(3);
    let words = Seen::Failed("peer opened another connection instead".into());
    assert_eq!(seen, [&ceded(2)[..], &[words, Seen::Open(3)]].concat());
    bench.receive(3, open(HIGHER));
    let rejected = [Seen::Notification(4, Code::CONNECTION_REJECTED, vec![]), Seen::Close(4)];
    assert_eq!(bench.accepted(4), rejected);
    assert_eq!(bench.receive(3, Message::Keepalive), [Seen::Up]);
}

#[test]
fn losing_one_connection_of_two_to_an_error_leaves_the_other() {
    let mut bench = both();
    let seen = bench.on(Event::Disconnected(ConnId(1), None));
    assert_eq!(seen, [Seen::Close(1), Seen::Failed("peer closed the connection".into())]);
    assert_eq!(bench.receive(2, open(LOWER)), [Seen::Keepalive(2)]);
    assert_eq!(bench.receive(2, Message::Keepalive), [Seen::Up]);
    assert_eq!(bench.pass(Duration::from_secs(20)).iter().filter(|(_, s)| *s == Seen::Connect).count(), 0);
}
