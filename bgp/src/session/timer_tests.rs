//! Deadlines (RFC 4271 §8.1.3, §10) and the back-off between dials.

use std::collections::BTreeSet;

use super::testing::*;
use super::*;
use crate::wire::{Message, Open, ReceivedUpdate};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn established(ours: u16, theirs: u16) -> Bench {
    let hold_time = HoldTime::new(ours).unwrap();
    let mut bench = Bench::reach(SessionConfig { hold_time, ..config() }, State::OpenSent);
    bench.receive(1, Message::Open(Open { hold_time: theirs, ..peer_open() }));
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    bench.draw();
    bench
}

#[test]
fn a_configuration_that_the_rfcs_forbid_is_refused() {
    for (seconds, valid) in [(0, true), (1, false), (2, false), (3, true), (65535, true)] {
        assert_eq!(HoldTime::new(seconds).is_ok(), valid);
    }
    let router_id = LOCAL;
    assert_eq!(SessionConfig::new(0, 1, router_id), Err(ConfigError::ReservedAs(0)));
    assert_eq!(SessionConfig::new(1, 23456, router_id), Err(ConfigError::ReservedAs(23456)));
    assert_eq!(SessionConfig::new(1, 2, [0, 0, 0, 0].into()), Err(ConfigError::RouterId));
}

#[test]
fn the_smaller_hold_time_counts_and_expires_by_the_clock() {
    for (ours, theirs, hold) in [(90, 90, 90), (90, 30, 30), (3, 90, 3)] {
        let mut bench = established(ours, theirs);
        let seen = bench.pass(secs(hold + 1));
        let (at, _) = seen.iter().find(|(_, s)| matches!(s, Seen::Notification(..))).unwrap();
        assert_eq!(*at, secs(hold));
        let end: Vec<_> = seen.into_iter().map(|(_, s)| s).filter(|s| *s != Seen::Keepalive(1)).collect();
        assert_eq!(
            end[..3],
            [
                Seen::Notification(1, Code::HOLD_TIMER_EXPIRED, vec![]),
                Seen::Close(1),
                Seen::Down(format!("hold timer expired after {hold} s")),
            ]
        );
    }
}

#[test]
fn keepalives_and_updates_restart_the_hold_timer_and_nothing_else_does() {
    let refresh =
        crate::wire::RouteRefresh::new(crate::Family::Ipv4Unicast, crate::wire::RefreshSubtype::End);
    for (message, restarts) in [
        (Message::Keepalive, true),
        (Message::Update(ReceivedUpdate::default()), true),
        (Message::RouteRefresh(refresh), false),
    ] {
        let mut bench = established(9, 9);
        bench.pass(secs(5));
        bench.receive(1, message);
        let down = |seen: Vec<(Duration, Seen)>| seen.iter().any(|(_, s)| matches!(s, Seen::Down(_)));
        assert_eq!(down(bench.pass(secs(5))), !restarts);
        if restarts {
            assert!(down(bench.pass(secs(5))), "then nine seconds of silence");
        }
    }
}

#[test]
fn before_the_opens_the_hold_timer_is_large() {
    let mut bench = Bench::reach(config(), State::OpenSent);
    assert_eq!(bench.pass(secs(239)), []);
    let seen = bench.pass(secs(1));
    assert_eq!(seen[0].1, Seen::Notification(1, Code::HOLD_TIMER_EXPIRED, vec![]));
    assert_eq!(seen[2].1, Seen::Failed("hold timer expired after 240 s".into()));
}

#[test]
fn a_peer_that_never_confirms_is_given_up_after_the_hold_time() {
    for (theirs, after) in [(30, 30), (0, 240)] {
        let mut bench = Bench::reach(config(), State::OpenSent);
        bench.receive(1, Message::Open(Open { hold_time: theirs, ..peer_open() }));
        let seen = bench.pass(secs(after));
        let at = seen.iter().find(|(_, s)| matches!(s, Seen::Notification(..))).map(|(at, _)| *at);
        assert_eq!(at, Some(secs(after)), "hold time {theirs}");
    }
}

#[test]
fn hold_time_zero_means_no_timers() {
    let mut bench = established(90, 0);
    assert_eq!(bench.session.next_deadline(), None);
    assert_eq!(bench.pass(secs(100_000)), []);
    assert_eq!(bench.session.state(), State::Established);
}

#[test]
fn keepalives_go_out_within_three_quarters_to_all_of_a_third_of_the_hold_time() {
    let mut bench = established(90, 90);
    let mut last = Duration::ZERO;
    let mut gaps = BTreeSet::new();
    for round in 1..=40_u64 {
        let seen = bench.pass(secs(10));
        bench.receive(1, Message::Keepalive);
        for (at, output) in seen {
            assert_eq!(output, Seen::Keepalive(1));
            let at = secs((round - 1) * 10) + at;
            let gap = at - last;
            assert!(gap >= Duration::from_millis(22_500) && gap <= secs(30), "{gap:?}");
            gaps.insert(gap);
            last = at;
        }
    }
    assert!(gaps.len() > 5, "jittered: {gaps:?}");
}

#[test]
fn an_update_sent_puts_off_the_keepalive() {
    let mut bench = established(90, 90);
    bench.pass(secs(20));
    bench.routes(1, &["192.0.2.1/32"]);
    assert_eq!(bench.draw(), [Seen::Update(1), Seen::Synced(1)]);
    bench.receive(1, Message::Keepalive);
    assert_eq!(bench.pass(secs(20)), []);
}

#[test]
fn a_due_keepalive_does_not_wait_behind_a_full_table() {
    let mut bench = established(90, 90);
    let routes =
        (0..100_000_u32).map(|n| crate::Route::new(ipnet::IpNet::from(std::net::IpAddr::V4(n.into()))));
    bench.raw(Event::RoutesChanged(Generation(1), std::sync::Arc::new(routes.collect())));
    for _ in 0..20 {
        assert!(bench.session.poll_update(bench.now).is_some());
    }
    // The socket takes no more; the deadline comes.
    let seen = bench.pass(secs(31));
    assert_eq!(seen[0].1, Seen::Keepalive(1));
    assert_eq!(bench.draw().len(), 124 - 20 + 1, "the rest, and Synced");
}

/// The times between dials while every one of them ends like this.
fn delays(mut end: impl FnMut(&mut Bench), seed: u64, count: usize) -> Vec<Duration> {
    let mut bench = Bench::new(SessionConfig { jitter_seed: seed, ..config() });
    assert_eq!(bench.on(Event::Start), [Seen::Connect]);
    (0..count)
        .map(|_| {
            end(&mut bench);
            let begin = bench.now;
            while bench.on(Event::DeadlineReached) != [Seen::Connect] {
                bench.now = bench.session.next_deadline().unwrap();
            }
            bench.now - begin
        })
        .collect()
}

fn refused_by(code: Code) -> impl FnMut(&mut Bench) {
    let mut id = 0;
    move |bench| {
        id += 1;
        bench.dialled(id);
        bench.receive(id, notification(code, &[]));
    }
}

#[test]
fn the_back_off_depends_on_what_went_wrong() {
    let quarter = |expected: &[f64], delays: &[Duration]| {
        for (expected, delay) in expected.iter().zip(delays) {
            let delay = delay.as_secs_f64();
            assert!(
                delay >= expected * 0.749 && delay <= expected * 1.251,
                "{delay} is not about {expected}"
            );
        }
    };
    for seed in 0..20 {
        let tcp = delays(|bench| drop(bench.on(Event::ConnectFailed("refused".into()))), seed, 8);
        quarter(&[1.0, 2.0, 4.0, 5.0, 5.0], &tcp);
        assert!(tcp.iter().all(|delay| *delay <= secs(5)), "{tcp:?}");
        let cease = delays(refused_by(Code::CONNECTION_REJECTED), seed, 8);
        assert!(cease.iter().all(|delay| *delay <= secs(5)), "{cease:?}");
        let open = delays(refused_by(Code::BAD_PEER_AS), seed, 9);
        quarter(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0], &open);
        assert!(open.iter().all(|delay| *delay <= secs(60)), "{open:?}");
        quarter(&[60.0, 60.0], &delays(refused_by(Code::MAXIMUM_PREFIXES), seed, 2));
        // An OPEN that we refuse counts like one that the peer refuses.
        let mut id = 0;
        let ours = delays(
            |bench| {
                id += 1;
                bench.dialled(id);
                bench.receive(id, Message::Open(Open { hold_time: 1, ..peer_open() }));
            },
            seed,
            7,
        );
        quarter(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0], &ours);
    }
}

#[test]
fn jitter_is_the_same_for_one_seed_and_differs_between_seeds() {
    let run = |seed| delays(|bench| drop(bench.on(Event::ConnectFailed(String::new()))), seed, 4);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_back_off_starts_again_only_after_a_session_that_lasted() {
    for (lasted, first) in [(1, false), (91, true)] {
        let mut bench = Bench::reach(config(), State::Connect);
        for _ in 0..5 {
            bench.on(Event::ConnectFailed("refused".into()));
            bench.pass(bench.session.next_deadline().unwrap() - bench.now);
        }
        bench.dialled(1);
        bench.receive(1, Message::Open(peer_open()));
        bench.receive(1, Message::Keepalive);
        for _ in 0..lasted {
            bench.pass(secs(1));
            bench.receive(1, Message::Keepalive);
        }
        bench.on(Event::Disconnected(ConnId(1), None));
        let delay = bench.session.next_deadline().unwrap() - bench.now;
        assert_eq!(delay < secs(2), first, "after {lasted} s: {delay:?}");
    }
}

#[test]
fn a_dial_that_hangs_is_abandoned_and_begun_again() {
    let mut bench = Bench::new(config());
    bench.on(Event::Start);
    let seen = bench.pass(secs(5));
    assert_eq!(
        seen,
        [
            (secs(5), Seen::Abandon),
            (secs(5), Seen::Failed("connect timed out after 5 s".into())),
            (secs(5), Seen::Connect),
        ]
    );
    assert_eq!(bench.session.counters().connect_attempts, 2);
}

#[test]
fn late_and_early_calls_do_no_harm() {
    let mut bench = established(90, 90);
    let early = bench.now;
    bench.now += secs(50);
    assert_eq!(bench.on(Event::DeadlineReached), [Seen::Keepalive(1)], "one, however late");
    assert_eq!(
        bench.session.handle(early, Event::DeadlineReached),
        [],
        "a clock that goes back is not believed"
    );
    bench.now += secs(500);
    let seen = bench.on(Event::DeadlineReached);
    assert!(matches!(&seen[..], [Seen::Notification(..), Seen::Close(1), Seen::Down(_)]), "{seen:?}");
    assert_eq!(bench.session.advertised(crate::Family::Ipv4Unicast), 0);
}
