//! Events in every state: what is answered, where it leads (RFC 4271 §8.2.2, §6).

use super::testing::*;
use super::*;
use crate::Families;
use crate::wire::testing::decode_one;
use crate::wire::{Capability, DecodeError, Message, Open, ReceivedUpdate, RefreshSubtype, RouteRefresh};

fn refresh(afi: u16, subtype: RefreshSubtype) -> Message {
    Message::RouteRefresh(RouteRefresh { afi, safi: 1, subtype })
}

const ALL_STATES: [State; 6] =
    [State::Idle, State::Active, State::Connect, State::OpenSent, State::OpenConfirm, State::Established];

#[test]
fn a_session_comes_up_by_open_and_keepalive() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.session.state(), State::Idle);
    assert_eq!(bench.on(Event::Start), [Seen::Connect]);
    assert_eq!(bench.session.state(), State::Connect);
    assert_eq!(bench.on(Event::Start), [], "started already");
    assert_eq!(bench.dialled(1), [Seen::Open(1)]);
    assert_eq!(bench.session.state(), State::OpenSent);
    assert_eq!(bench.receive(1, Message::Open(peer_open())), [Seen::Keepalive(1)]);
    assert_eq!(bench.session.state(), State::OpenConfirm);
    assert_eq!(bench.session.negotiated(), None, "not before Established");
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    assert_eq!(bench.session.state(), State::Established);
    let words = bench.session.negotiated().map(ToString::to_string);
    let expected =
        "AS 64501 (external), router id 10.0.0.1, ipv4 ipv6, hold time 90 s, 4-octet AS, route refresh";
    assert_eq!(words.as_deref(), Some(expected));
    assert_eq!(bench.draw(), [Seen::Update(1), Seen::Update(1)], "End-of-RIB of both families");
    let counters = Counters {
        connect_attempts: 1,
        established: 1,
        opens_sent: 1,
        opens_received: 1,
        keepalives_sent: 1,
        keepalives_received: 1,
        updates_sent: 2,
        ..Counters::default()
    };
    assert_eq!(*bench.session.counters(), counters);
}

#[test]
fn messages_without_a_place_in_the_state_are_fsm_errors() {
    let open = || Message::Open(peer_open());
    let update = || Message::Update(ReceivedUpdate::default());
    let request = || refresh(1, RefreshSubtype::Request);
    for (state, message, code, kind) in [
        (State::OpenSent, Message::Keepalive, Code::FSM_OPEN_SENT, 4),
        (State::OpenSent, update(), Code::FSM_OPEN_SENT, 2),
        (State::OpenSent, request(), Code::FSM_OPEN_SENT, 5),
        (State::OpenConfirm, open(), Code::FSM_OPEN_CONFIRM, 1),
        (State::OpenConfirm, update(), Code::FSM_OPEN_CONFIRM, 2),
        (State::OpenConfirm, request(), Code::FSM_OPEN_CONFIRM, 5),
        (State::Established, open(), Code::FSM_ESTABLISHED, 1),
    ] {
        let mut bench = Bench::reach(config(), state);
        let words = format!("peer sent {} in state {state}", message.name());
        let last = if state == State::Established { Seen::Down(words) } else { Seen::Failed(words) };
        let expected = [Seen::Notification(1, code, vec![kind]), Seen::Close(1), last];
        assert_eq!(bench.receive(1, message), expected, "{state}");
        assert_eq!(bench.session.state(), State::Active);
    }
}

#[test]
fn every_state_ends_by_what_ends_it() {
    let cease = || notification(Code::ADMINISTRATIVE_SHUTDOWN, b"\x05drain");
    let cause = r#"peer sent NOTIFICATION 6/2 Cease/Administrative Shutdown: "drain""#;
    for state in [State::OpenSent, State::OpenConfirm, State::Established] {
        let last = |words: &str| {
            if state == State::Established { Seen::Down(words.into()) } else { Seen::Failed(words.into()) }
        };
        let mut bench = Bench::reach(config(), state);
        assert_eq!(bench.receive(1, cease()), [Seen::Close(1), last(cause)]);
        assert_eq!(bench.session.last_failure().map(ToString::to_string).as_deref(), Some(cause));

        let mut bench = Bench::reach(config(), state);
        let eof = bench.on(Event::Disconnected(ConnId(1), None));
        assert_eq!(eof, [Seen::Close(1), last("peer closed the connection")]);

        let mut bench = Bench::reach(config(), state);
        let reset = bench.on(Event::Disconnected(ConnId(1), Some("reset".into())));
        assert_eq!(reset, [Seen::Close(1), last("connection lost: reset")]);

        let mut bench = Bench::reach(config(), state);
        let words = "message type 9 is unknown; \
                     sent NOTIFICATION 1/3 Message Header Error/Bad Message Type (type 9)";
        assert_eq!(
            bench.on(Event::Malformed(ConnId(1), DecodeError::Type(9))),
            [Seen::Notification(1, Code::BAD_MESSAGE_TYPE, vec![9]), Seen::Close(1), last(words)]
        );
        assert_eq!(bench.session.state(), State::Active, "and dials again later");
        assert!(bench.session.next_deadline().is_some());
    }
}

#[test]
fn events_of_unknown_or_closed_connections_do_nothing() {
    for state in ALL_STATES {
        let mut bench = Bench::reach(config(), state);
        let message = Message::Open(peer_open());
        assert_eq!(bench.receive(77, message), []);
        assert_eq!(bench.on(Event::Malformed(ConnId(77), DecodeError::Marker)), []);
        assert_eq!(bench.on(Event::Disconnected(ConnId(77), None)), []);
        assert_eq!(bench.on(Event::DeadlineReached), [], "nothing is due");
        assert_eq!(bench.session.state(), state);
    }
}

#[test]
fn stop_ends_every_state_with_the_cease_and_start_begins_anew() {
    let cease = || Event::Stop(Cease::AdministrativeShutdown("node drain".into()));
    let data = b"\x0anode drain".to_vec();
    let words = r#"stopped, sent NOTIFICATION 6/2 Cease/Administrative Shutdown: "node drain""#;
    for state in ALL_STATES {
        let mut bench = Bench::reach(config(), state);
        let told = [Seen::Notification(1, Code::ADMINISTRATIVE_SHUTDOWN, data.clone()), Seen::Close(1)];
        let expected = match state {
            State::Idle | State::Active => vec![],
            State::Connect => vec![Seen::Abandon],
            State::OpenSent | State::OpenConfirm => told.to_vec(),
            State::Established => [&told[..], &[Seen::Down(words.into())]].concat(),
        };
        assert_eq!(bench.on(cease()), expected, "{state}");
        assert_eq!(bench.session.state(), State::Idle);
        assert_eq!(bench.session.next_deadline(), None);
        assert_eq!(bench.accepted(5), [Seen::Close(5)], "Idle refuses connections");
        assert_eq!(bench.on(Event::Start), [Seen::Connect]);
    }
}

#[test]
fn a_dead_path_ends_an_established_session_and_nothing_else() {
    let failed = || Event::PathFailed("BFD: nothing was heard for 300 ms".into());
    for state in ALL_STATES {
        let mut bench = Bench::reach(config(), state);
        let seen = bench.on(failed());
        if state == State::Established {
            let told = Seen::Notification(1, Code::BFD_DOWN, vec![]);
            let down = Seen::Down("BFD: nothing was heard for 300 ms".into());
            assert_eq!(seen, [told, Seen::Close(1), down]);
            assert!(bench.pass(Duration::from_secs(2)).iter().any(|(_, seen)| *seen == Seen::Connect));
        } else {
            assert_eq!((seen, bench.session.state()), (vec![], state));
        }
    }
}

#[test]
fn opens_are_judged_as_the_rfc_says() {
    let usual = peer_open;
    let internal = SessionConfig { peer_as: Some(LOCAL_AS), ..config() };
    let internal_open = || {
        let mut open = usual();
        open.my_as = 64500;
        open.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_)));
        open
    };
    let v6_only = SessionConfig { families: Families::IPV6, ..config() };
    let big = SessionConfig { peer_as: Some(4_200_000_000), ..config() };
    let big_open = |my_as, asn| {
        let capabilities = vec![Capability::family(crate::Family::Ipv4Unicast), Capability::FourOctetAs(asn)];
        Open { my_as, capabilities, ..usual() }
    };
    type Case = (&'static str, SessionConfig, Open, Option<(Code, Vec<u8>)>);
    let cases: Vec<Case> = vec![
        ("usual", config(), usual(), None),
        (
            "another AS",
            config(),
            Open { my_as: 64502, capabilities: vec![], ..usual() },
            Some((Code::BAD_PEER_AS, vec![])),
        ),
        ("the capability's AS counts", config(), big_open(64501, 64502), Some((Code::BAD_PEER_AS, vec![]))),
        ("four octets", big.clone(), big_open(23456, 4_200_000_000), None),
        ("AS_TRANS alone", big, big_open(23456, 23456), Some((Code::BAD_PEER_AS, vec![]))),
        ("AS 0", config(), big_open(0, 0), Some((Code::BAD_PEER_AS, vec![]))),
        (
            "identifier 0",
            config(),
            Open { router_id: [0, 0, 0, 0].into(), ..usual() },
            Some((Code::BAD_IDENTIFIER, vec![])),
        ),
        ("our identifier in another AS", config(), Open { router_id: LOCAL, ..usual() }, None),
        (
            "our identifier in our AS",
            internal.clone(),
            Open { router_id: LOCAL, ..internal_open() },
            Some((Code::BAD_IDENTIFIER, vec![])),
        ),
        ("internal", internal, internal_open(), None),
        ("multicast identifier", config(), Open { router_id: [230, 0, 0, 1].into(), ..usual() }, None),
        ("hold time 0", config(), Open { hold_time: 0, ..usual() }, None),
        (
            "hold time 1",
            config(),
            Open { hold_time: 1, ..usual() },
            Some((Code::UNACCEPTABLE_HOLD_TIME, vec![])),
        ),
        (
            "hold time 2",
            config(),
            Open { hold_time: 2, ..usual() },
            Some((Code::UNACCEPTABLE_HOLD_TIME, vec![])),
        ),
        ("hold time 3", config(), Open { hold_time: 3, ..usual() }, None),
        ("no capabilities is IPv4", config(), Open { capabilities: vec![], ..usual() }, None),
        (
            "no capabilities where IPv6 is needed",
            v6_only,
            Open { capabilities: vec![], ..usual() },
            Some((Code::UNSUPPORTED_CAPABILITY, vec![1, 4, 0, 2, 0, 1])),
        ),
        (
            "other families only",
            config(),
            Open { capabilities: vec![Capability::MultiProtocol { afi: 25, safi: 70 }], ..usual() },
            Some((Code::UNSUPPORTED_CAPABILITY, vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1])),
        ),
    ];
    for (name, config, open, refusal) in cases {
        let mut bench = Bench::reach(config, State::OpenSent);
        let seen = bench.receive(1, Message::Open(open));
        match refusal {
            None => assert_eq!(seen, [Seen::Keepalive(1)], "{name}"),
            Some((code, data)) => {
                assert_eq!(seen[..2], [Seen::Notification(1, code, data), Seen::Close(1)], "{name}");
                assert!(
                    matches!(&seen[2..], [Seen::Failed(words)] if words.contains("sent NOTIFICATION 2/"))
                );
            }
        }
    }
}

#[test]
fn only_what_both_offered_is_negotiated() {
    let with = |capabilities: Vec<Capability>| Open { capabilities, ..peer_open() };
    let v4 = Capability::family(crate::Family::Ipv4Unicast);
    let as4 = Capability::FourOctetAs(PEER_AS);
    for (open, families, four, refresh, enhanced) in [
        (with(vec![]), Families::IPV4, false, false, false),
        (with(vec![as4.clone()]), Families::IPV4, true, false, false),
        (with(vec![v4.clone(), as4, Capability::RouteRefresh]), Families::IPV4, true, true, false),
        (with(vec![v4, Capability::EnhancedRouteRefresh]), Families::IPV4, false, false, true),
        (peer_open(), Families::BOTH, true, true, false),
    ] {
        let mut bench = Bench::reach(config(), State::OpenSent);
        bench.receive(1, Message::Open(open));
        bench.receive(1, Message::Keepalive);
        let n = bench.session.negotiated().unwrap();
        assert_eq!((n.families, n.four_octet_as), (families, four));
        assert_eq!((n.route_refresh, n.enhanced_route_refresh), (refresh, enhanced));
    }
}

/// The OPEN that the session sends on its next dial, which must come within this time.
fn next_open(bench: &mut Bench, within: Duration) -> Open {
    let seen = bench.pass(within);
    assert!(seen.iter().any(|(_, output)| *output == Seen::Connect), "{seen:?}");
    let outputs = bench.raw(Event::Connected(ConnId(2), Direction::Outgoing, local()));
    let [Output::Send(_, bytes)] = &outputs[..] else { panic!("{outputs:?}") };
    let Message::Open(open) = decode_one(bytes) else { panic!() };
    open
}

#[test]
fn the_offer_shrinks_for_peers_that_cannot_bear_it() {
    let both = vec![crate::Family::Ipv4Unicast, crate::Family::Ipv6Unicast];
    let v6_only = SessionConfig { families: Families::IPV6, ..config() };
    type Case = (&'static str, SessionConfig, Code, Vec<u8>, usize, usize);
    let cases: Vec<Case> = vec![
        ("no parameters at all", config(), Code::UNSUPPORTED_OPTIONAL_PARAMETER, vec![], 0, 0),
        ("refused without a list", config(), Code::UNSUPPORTED_CAPABILITY, vec![], 0, 0),
        ("those listed", config(), Code::UNSUPPORTED_CAPABILITY, vec![70, 0, 2, 0], 4, 2),
        ("a family", config(), Code::UNSUPPORTED_CAPABILITY, vec![1, 4, 0, 2, 0, 1], 5, 1),
        ("one that we never offered", config(), Code::UNSUPPORTED_CAPABILITY, vec![9, 1, 0], 6, 2),
        ("an unreadable list", config(), Code::UNSUPPORTED_CAPABILITY, vec![9], 6, 2),
        ("IPv6 needs its capability", v6_only, Code::UNSUPPORTED_OPTIONAL_PARAMETER, vec![], 5, 1),
        ("another error", config(), Code::BAD_PEER_AS, vec![], 6, 2),
    ];
    for (name, config, code, data, capabilities, families_left) in cases {
        let mut bench = Bench::reach(config, State::OpenSent);
        bench.receive(1, notification(code, &data));
        let open = next_open(&mut bench, Duration::from_secs(2));
        assert_eq!((open.capabilities.len(), families(&open).len()), (capabilities, families_left), "{name}");
    }
    // After a session with the small offer, the full one is tried again.
    let mut bench = Bench::reach(config(), State::OpenSent);
    bench.receive(1, notification(Code::UNSUPPORTED_OPTIONAL_PARAMETER, &[]));
    assert_eq!(next_open(&mut bench, Duration::from_secs(2)).capabilities, []);
    bench.receive(2, Message::Open(Open { capabilities: vec![], ..peer_open() }));
    assert_eq!(bench.receive(2, Message::Keepalive), [Seen::Up]);
    let n = bench.session.negotiated().unwrap();
    assert_eq!((n.families, n.four_octet_as, n.route_refresh), (Families::IPV4, false, false));
    bench.on(Event::Disconnected(ConnId(2), None));
    assert_eq!(families(&next_open(&mut bench, Duration::from_secs(3))), both);
}

#[test]
fn our_as_is_written_as_two_octets_if_it_fits_and_as_trans_if_not() {
    for (local_as, my_as) in [(64500, 64500), (65535, 65535), (65536, 23456), (4_200_000_001, 23456)] {
        let mut bench = Bench::new(SessionConfig { local_as, ..config() });
        bench.on(Event::Start);
        let outputs = bench.raw(Event::Connected(ConnId(1), Direction::Outgoing, local()));
        let [Output::Send(_, bytes)] = &outputs[..] else { panic!() };
        let Message::Open(open) = decode_one(bytes) else { panic!() };
        assert_eq!((open.my_as, open.four_octet_as()), (my_as, Some(local_as)));
    }
}

#[test]
fn received_routes_are_counted_and_discarded() {
    let mut bench = Bench::reach(config(), State::Established);
    let update = ReceivedUpdate { announced: 3, ..ReceivedUpdate::default() };
    assert_eq!(bench.receive(1, Message::Update(update)), []);
    assert_eq!(bench.receive(1, Message::Update(update)), []);
    let counters = bench.session.counters();
    assert_eq!((counters.updates_received_discarded, counters.prefixes_received_discarded), (2, 6));
}

#[test]
fn a_route_refresh_resends_the_family_and_all_else_of_it_is_ignored() {
    let mut bench = Bench::reach(config(), State::Established);
    bench.routes(1, &["192.0.2.1/32", "2001:db8:1::1/128"]);
    bench.draw();
    for (message, sent) in [
        (refresh(1, RefreshSubtype::Request), 1),
        (refresh(2, RefreshSubtype::Request), 1),
        (refresh(25, RefreshSubtype::Request), 0),
        (refresh(1, RefreshSubtype::Begin), 0),
        (refresh(1, RefreshSubtype::End), 0),
        (refresh(1, RefreshSubtype::Unknown(9)), 0),
    ] {
        assert_eq!(bench.receive(1, message.clone()), []);
        assert_eq!(bench.draw(), vec![Seen::Update(1); sent], "{message:?}");
    }
    assert_eq!(bench.session.counters().route_refreshes_received, 6);

    let mut enhanced = Bench::reach(config(), State::OpenSent);
    let mut open = peer_open();
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    enhanced.receive(1, Message::Open(open));
    enhanced.receive(1, Message::Keepalive);
    enhanced.draw();
    enhanced.receive(1, refresh(1, RefreshSubtype::Request));
    assert_eq!(enhanced.draw(), [Seen::Refresh(1), Seen::Refresh(1)]);
    assert_eq!(enhanced.session.counters().route_refreshes_sent, 2);
}

#[test]
fn a_generation_is_synced_behind_its_last_message() {
    let mut bench = Bench::reach(config(), State::Established);
    bench.draw();
    assert_eq!(bench.routes(1, &["192.0.2.1/32"]), [], "not before it is handed out");
    assert!(bench.session.has_updates());
    assert_eq!(bench.draw(), [Seen::Update(1), Seen::Synced(1)]);
    assert_eq!(bench.session.advertised(crate::Family::Ipv4Unicast), 1);
    assert_eq!(bench.routes(2, &["192.0.2.1/32"]), [Seen::Synced(2)], "nothing changed");
    assert_eq!(bench.routes(3, &[]), []);
    assert_eq!(bench.routes(4, &["192.0.2.2/32"]), []);
    assert_eq!(bench.draw(), [Seen::Update(1), Seen::Update(1), Seen::Synced(4)], "a later one covers it");
    assert_eq!(bench.routes(5, &[]), []);
    assert_eq!(bench.routes(6, &["192.0.2.2/32"]), [Seen::Synced(6)], "flapped back before it was drawn");
}

#[test]
fn without_a_session_every_generation_is_synced_at_once() {
    for state in ALL_STATES {
        let mut bench = Bench::reach(config(), state);
        if state < State::Established {
            assert_eq!(bench.routes(7, &["192.0.2.1/32"]), [Seen::Synced(7)], "{state}");
            assert_eq!(bench.draw(), []);
        } else {
            bench.draw();
            assert_eq!(bench.routes(7, &["192.0.2.1/32"]), []);
            let seen = bench.on(Event::Disconnected(ConnId(1), None));
            assert_eq!(seen[2..], [Seen::Synced(7)], "the end of the session ends the wait");
            assert_eq!(bench.draw(), []);
        }
    }
}

#[test]
fn routes_that_came_before_the_session_are_sent_when_it_is_up() {
    let mut bench = Bench::reach(config(), State::OpenConfirm);
    assert_eq!(bench.routes(1, &["192.0.2.1/32"]), [Seen::Synced(1)]);
    assert_eq!(bench.draw(), []);
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    assert_eq!(bench.draw(), [Seen::Update(1), Seen::Update(1), Seen::Update(1)]);
}

#[test]
fn a_passive_session_never_dials() {
    let mut bench = Bench::new(SessionConfig { passive: true, ..config() });
    assert_eq!(bench.on(Event::Start), []);
    assert_eq!((bench.session.state(), bench.session.next_deadline()), (State::Active, None));
    assert_eq!(bench.accepted(1), [Seen::Open(1)]);
    bench.receive(1, Message::Open(peer_open()));
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    bench.on(Event::Disconnected(ConnId(1), None));
    assert_eq!((bench.session.state(), bench.session.next_deadline()), (State::Active, None));
    assert_eq!(bench.pass(Duration::from_secs(600)), []);
}
