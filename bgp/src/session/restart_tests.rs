//! Graceful restart (RFC 4724): what the OPEN says of it, and how a session ends so that the peer keeps the routes.

use super::testing::*;
use super::*;
use crate::Families;
use crate::wire::testing::decode_one;
use crate::wire::{Capability, GracefulRestart, Message, Open};

const AFTER_RESTART: GracefulRestartConfig =
    GracefulRestartConfig { restart_time: 120, restarted: true, forwarding: true };

fn config_with(restart: Option<GracefulRestartConfig>) -> SessionConfig {
    SessionConfig { graceful_restart: restart, ..config() }
}

/// The peer knows graceful restart, without keeping anything over restarts of its own.
fn helper() -> Open {
    let mut open = peer_open();
    open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
        restarting: false,
        notification: true,
        restart_time: 0,
        families: vec![],
    }));
    open
}

fn up(config: SessionConfig, open: Open) -> Bench {
    let mut bench = Bench::reach(config, State::OpenSent);
    bench.receive(1, Message::Open(open));
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    bench
}

/// What the OPEN on a new connection says.
fn offered(bench: &mut Bench, id: u64) -> Option<GracefulRestart> {
    let outputs = bench.raw(Event::Connected(ConnId(id), Direction::Outgoing, local()));
    let open = outputs.iter().find_map(|output| match output {
        Output::Send(_, bytes) => match decode_one(bytes) {
            Message::Open(open) => Some(open),
            _ => None,
        },
        _ => None,
    });
    open.expect("an OPEN").capabilities.into_iter().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    })
}

#[test]
fn the_open_says_restart_and_forwarding_state_as_they_are() {
    let both = |forwarding| vec![(1, 1, forwarding), (2, 1, forwarding)];
    let given = |restarted, forwarding| GracefulRestartConfig { restart_time: 120, restarted, forwarding };
    for (restarted, forwarding) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut bench = Bench::reach(config_with(Some(given(restarted, forwarding))), State::Connect);
        let expected = GracefulRestart {
            restarting: restarted,
            notification: false,
            restart_time: 120,
            families: both(forwarding),
        };
        assert_eq!(offered(&mut bench, 1), Some(expected), "restarted {restarted}, forwarding {forwarding}");
    }
    let v4 = SessionConfig { families: Families::IPV4, ..config_with(Some(AFTER_RESTART)) };
    let restart = offered(&mut Bench::reach(v4, State::Connect), 1).expect("offered");
    assert_eq!(restart.families, [(1, 1, true)], "no family that is not announced");
    assert_eq!(offered(&mut Bench::reach(config_with(None), State::Connect), 1), None);
}

#[test]
fn a_restart_is_told_until_a_session_was_up_and_never_after() {
    let fresh = GracefulRestartConfig { restart_time: 120, restarted: true, forwarding: false };
    let mut bench = Bench::reach(config_with(Some(fresh)), State::Connect);
    assert!(offered(&mut bench, 1).is_some_and(|restart| restart.restarting));
    bench.on(Event::Disconnected(ConnId(1), None));
    bench.pass(Duration::from_secs(2));
    assert!(offered(&mut bench, 2).is_some_and(|restart| restart.restarting), "not up yet");
    bench.receive(2, Message::Open(helper()));
    bench.receive(2, Message::Keepalive);
    bench.on(Event::Disconnected(ConnId(2), None));
    // The second pause is of two seconds and a quarter more at most.
    bench.pass(Duration::from_secs(3));
    let again = offered(&mut bench, 3).expect("offered");
    assert!(!again.restarting, "nothing was restarted since");
    assert!(again.families.iter().all(|(_, _, forwarding)| *forwarding), "a lost connection stops no packet");
}

#[test]
fn a_restart_time_that_the_capability_cannot_hold_is_bounded() {
    for (given, told) in [(0, 1), (1, 1), (4095, 4095), (4096, 4095), (u16::MAX, 4095)] {
        let restart = GracefulRestartConfig { restart_time: given, ..AFTER_RESTART };
        let mut bench = Bench::reach(config_with(Some(restart)), State::Connect);
        assert_eq!(offered(&mut bench, 1).map(|restart| restart.restart_time), Some(told), "{given}");
    }
}

#[test]
fn a_restart_closes_in_silence_exactly_where_the_peer_keeps_the_routes() {
    let restart = || Event::Restart(Cease::AdministrativeShutdown("restart".into()));
    let cease = || Seen::Notification(1, Code::ADMINISTRATIVE_SHUTDOWN, b"\x07restart".to_vec());
    let stopped = r#"stopped, sent NOTIFICATION 6/2 Cease/Administrative Shutdown: "restart""#;
    let kept = "restarting, the peer keeps the routes";
    for (what, ours, peers, silent) in [
        ("both", Some(AFTER_RESTART), helper(), true),
        ("ours alone", Some(AFTER_RESTART), peer_open(), false),
        ("the peer's alone", None, helper(), false),
        ("neither", None, peer_open(), false),
    ] {
        let mut bench = up(config_with(ours), peers);
        let negotiated = bench.session.negotiated().expect("up");
        assert_eq!(negotiated.graceful_restart, silent, "{what}");
        assert_eq!(negotiated.to_string().contains("graceful restart"), silent, "{what}");
        let expected = match silent {
            true => vec![Seen::Close(1), Seen::Down(kept.into())],
            false => vec![cease(), Seen::Close(1), Seen::Down(stopped.into())],
        };
        assert_eq!(bench.on(restart()), expected, "{what}");
        assert_eq!(bench.session.state(), State::Idle, "{what}");
        assert_eq!(bench.session.next_deadline(), None, "{what}");
    }
    for state in [State::OpenSent, State::OpenConfirm] {
        let mut bench = Bench::reach(config_with(Some(AFTER_RESTART)), state);
        assert_eq!(bench.on(restart()), [cease(), Seen::Close(1)], "{state}: there are no routes to keep");
    }
}

#[test]
fn stop_drops_the_routes_with_graceful_restart_too() {
    let mut bench = up(config_with(Some(AFTER_RESTART)), helper());
    let seen = bench.on(Event::Stop(Cease::AdministrativeShutdown("drain".into())));
    let told = Seen::Notification(1, Code::ADMINISTRATIVE_SHUTDOWN, b"\x05drain".to_vec());
    assert_eq!(seen[..2], [told, Seen::Close(1)]);
}

#[test]
fn a_table_handed_in_before_the_start_comes_before_the_end_of_rib() {
    let mut bench = Bench::new(config_with(Some(AFTER_RESTART)));
    assert_eq!(bench.routes(1, &["192.0.2.1/32"]), [Seen::Synced(1)], "nobody to tell yet");
    bench.on(Event::Start);
    bench.dialled(1);
    bench.receive(1, Message::Open(helper()));
    bench.receive(1, Message::Keepalive);
    assert_eq!(bench.draw(), vec![Seen::Update(1); 3], "the route, then End-of-RIB of both families");
    assert_eq!(bench.session.advertised(crate::Family::Ipv4Unicast), 1);
}

#[test]
fn a_peer_that_restarted_may_connect_while_its_old_connection_still_stands() {
    for (ours, replaced) in [(Some(AFTER_RESTART), true), (None, false)] {
        let mut bench = up(config_with(ours), helper());
        let seen = bench.accepted(2);
        let expected = match replaced {
            true => vec![
                Seen::Close(1),
                Seen::Down("peer opened another connection instead".into()),
                Seen::Open(2),
            ],
            false => vec![Seen::Notification(2, Code::COLLISION_RESOLUTION, vec![]), Seen::Close(2)],
        };
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_peer_that_refuses_the_capability_gets_an_offer_without_it() {
    let mut bench = Bench::reach(config_with(Some(AFTER_RESTART)), State::OpenSent);
    // It lists the capability with a value of its own.
    bench.receive(1, notification(Code::UNSUPPORTED_CAPABILITY, &[64, 2, 0, 0]));
    bench.pass(Duration::from_secs(2));
    assert_eq!(offered(&mut bench, 2), None);
    assert!(bench.session.negotiated().is_none());
}
