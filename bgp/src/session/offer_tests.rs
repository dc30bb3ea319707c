//! What is offered and what follows from both offers: extended messages (RFC 8654), IPv6 next hops for IPv4 (RFC 8950), roles
//! (RFC 9234), timers of the configuration.

use super::testing::*;
use super::*;
use crate::Families;
use crate::wire::testing::decode_one;
use crate::wire::testing::{nets, view};
use crate::wire::{Capability, Message, Open};
use crate::{Route, RouteSet};
use std::net::IpAddr;
use std::sync::Arc;

fn open_with(capabilities: &[Capability]) -> Open {
    let mut open = peer_open();
    open.capabilities.extend_from_slice(capabilities);
    open
}

fn offered(config: SessionConfig) -> Vec<Capability> {
    let mut bench = Bench::reach(config, State::Connect);
    let outputs = bench.raw(Event::Connected(ConnId(1), Direction::Outgoing, local()));
    let [Output::Send(_, bytes)] = &outputs[..] else { panic!("{outputs:?}") };
    let Message::Open(open) = decode_one(bytes) else { panic!() };
    open.capabilities
}

fn up(config: SessionConfig, open: Open) -> Bench {
    let mut bench = Bench::reach(config, State::OpenSent);
    bench.receive(1, Message::Open(open));
    assert_eq!(bench.receive(1, Message::Keepalive), [Seen::Up]);
    bench
}

#[test]
fn long_messages_go_only_to_a_peer_that_takes_them() {
    let routes: RouteSet =
        (0..5000_u32).map(|n| Route::new(IpAddr::from((0x0a80_0000 + n).to_be_bytes()).into())).collect();
    for (theirs, messages, longest) in [(&[][..], 7, 4096), (&[Capability::ExtendedMessage][..], 1, 65535)] {
        let mut bench = up(SessionConfig { families: Families::IPV4, ..config() }, open_with(theirs));
        bench.draw();
        bench.raw(Event::RoutesChanged(Generation(1), Arc::new(routes.clone())));
        let mut lengths = Vec::new();
        while let Some(output) = bench.session.poll_update(bench.now) {
            if let Output::Send(_, bytes) = output {
                lengths.push(bytes.len());
            }
        }
        assert_eq!(lengths.len(), messages, "{lengths:?}");
        assert!(lengths.iter().all(|length| *length <= longest), "{lengths:?}");
    }
}

#[test]
fn ipv4_routes_have_an_ipv6_next_hop_exactly_where_both_offer_it() {
    let theirs = Capability::ExtendedNextHop(vec![(1, 1, 2)]);
    let labelled = Capability::ExtendedNextHop(vec![(1, 4, 2)]);
    for (ours, theirs, expected) in [
        (true, Some(theirs.clone()), "2001:db8:10::11"),
        (true, Some(labelled), "10.0.0.11"),
        (true, None, "10.0.0.11"),
        (false, Some(theirs), "10.0.0.11"),
    ] {
        let config = SessionConfig { extended_next_hop: ours, ..config() };
        let mut bench = up(config, open_with(&theirs.into_iter().collect::<Vec<_>>()));
        bench.routes(1, &["192.0.2.1/32"]);
        let Some(Output::Send(_, bytes)) = bench.session.poll_update(bench.now) else { panic!() };
        let view = view(&bytes, true);
        assert_eq!(view.next_hop.map(|ip| ip.to_string()).as_deref(), Some(expected));
        assert_eq!(view.announced, nets(["192.0.2.1/32"]));
        // It goes as it came.
        bench.draw();
        bench.routes(2, &[]);
        let Some(Output::Send(_, bytes)) = bench.session.poll_update(bench.now) else { panic!() };
        let withdrawn = crate::wire::testing::view(&bytes, true).withdrawn;
        assert_eq!(withdrawn, nets(["192.0.2.1/32"]));
    }
    let v6_only = SessionConfig { extended_next_hop: true, families: Families::IPV6, ..config() };
    assert!(
        !offered(v6_only).iter().any(|c| matches!(c, Capability::ExtendedNextHop(_))),
        "no IPv4, nothing to say"
    );
}

#[test]
fn roles_go_together_as_the_rfc_says_or_the_open_is_refused() {
    use Role::{Customer, Other, Peer, Provider, RouteServer, RouteServerClient};
    let all = [Provider, RouteServer, RouteServerClient, Customer, Peer, Other(9)];
    let pairs = [
        (Provider, Customer),
        (Customer, Provider),
        (RouteServer, RouteServerClient),
        (RouteServerClient, RouteServer),
        (Peer, Peer),
    ];
    for ours in all {
        for theirs in all {
            let config = SessionConfig { role: Some(RoleConfig { role: ours, strict: false }), ..config() };
            let mut bench = Bench::reach(config, State::OpenSent);
            let seen = bench.receive(1, Message::Open(open_with(&[Capability::Role(theirs)])));
            if pairs.contains(&(ours, theirs)) {
                assert_eq!(seen, [Seen::Keepalive(1)], "{ours} {theirs}");
            } else {
                let refusal = Seen::Notification(1, Code::ROLE_MISMATCH, vec![]);
                assert_eq!(seen[..2], [refusal, Seen::Close(1)], "{ours} {theirs}");
            }
        }
    }
}

#[test]
fn a_peer_without_a_role_is_refused_only_if_it_must_have_one_and_two_roles_are_none() {
    let customer = |strict| Some(RoleConfig { role: Role::Customer, strict });
    let role = |role| Capability::Role(role);
    let internal = SessionConfig { peer_as: Some(LOCAL_AS), ..config() };
    let mut open = peer_open();
    open.my_as = 64500;
    open.capabilities.retain(|capability| !matches!(capability, Capability::FourOctetAs(_)));
    for (what, config, open, refused) in [
        ("none told", SessionConfig { role: customer(false), ..config() }, peer_open(), false),
        ("none told to a strict one", SessionConfig { role: customer(true), ..config() }, peer_open(), true),
        ("we tell none", config(), open_with(&[role(Role::Customer)]), false),
        (
            "one told twice",
            SessionConfig { role: customer(true), ..config() },
            open_with(&[role(Role::Provider), role(Role::Provider)]),
            false,
        ),
        (
            "two told",
            SessionConfig { role: customer(false), ..config() },
            open_with(&[role(Role::Provider), role(Role::Peer)]),
            true,
        ),
        ("within one AS", SessionConfig { role: customer(true), ..internal }, open, false),
    ] {
        let mut bench = Bench::reach(config, State::OpenSent);
        let seen = bench.receive(1, Message::Open(open));
        if refused {
            assert_eq!(seen[0], Seen::Notification(1, Code::ROLE_MISMATCH, vec![]), "{what}");
            let words = bench.session.last_failure().map(ToString::to_string).unwrap_or_default();
            assert!(words.contains("role"), "{words}");
        } else {
            assert_eq!(seen, [Seen::Keepalive(1)], "{what}");
        }
    }
}

#[test]
fn what_was_negotiated_is_told_in_words() {
    let config = SessionConfig {
        extended_next_hop: true,
        role: Some(RoleConfig { role: Role::Customer, strict: true }),
        ..config()
    };
    let theirs = [
        Capability::ExtendedMessage,
        Capability::ExtendedNextHop(vec![(1, 1, 2)]),
        Capability::Role(Role::Provider),
    ];
    let bench = up(config, open_with(&theirs));
    let words = bench.session.negotiated().expect("up").to_string();
    let expected =
        "4-octet AS, route refresh, extended messages, IPv6 next hops for IPv4, peer is our provider";
    assert!(words.ends_with(expected), "{words}");
}

#[test]
fn keepalives_keep_the_configured_time_but_never_more_than_a_third_of_the_hold_time() {
    for (configured, hold, expected) in
        [(None, 90, 30), (Some(10), 90, 10), (Some(60), 90, 30), (Some(0), 90, 30)]
    {
        let config = SessionConfig { keepalive: configured.map(Duration::from_secs), ..config() };
        let mut bench = up(config, Open { hold_time: hold, ..peer_open() });
        bench.draw();
        let now = bench.now;
        let next = bench.session.next_deadline().expect("a keepalive") - now;
        let expected = Duration::from_secs(expected);
        assert!(next >= expected * 3 / 4 && next <= expected, "{configured:?}: {next:?}");
    }
}

#[test]
fn a_configured_connect_time_is_kept_between_dials_while_the_peer_is_away() {
    let config = SessionConfig { connect_retry: Some(Duration::from_secs(20)), ..config() };
    let mut bench = Bench::reach(config, State::Connect);
    for _ in 0..5 {
        bench.on(Event::ConnectFailed("refused".into()));
        let next = bench.session.next_deadline().expect("a dial") - bench.now;
        assert!(next >= Duration::from_secs(15) && next <= Duration::from_secs(20), "{next:?}");
        assert_eq!(bench.pass(next), [(next, Seen::Connect)]);
    }
}
