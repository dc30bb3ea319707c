//! The exact octets of every combination that Herald sends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::testing::{PLAIN as EXTERNAL, nets};
use super::*;
use crate::{Attributes, Community, ExtendedCommunity, Families, Family, LargeCommunity};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets behind the marker.
fn tail(message: &[u8]) -> String {
    assert_eq!(message[..16], [0xff; 16]);
    hex(&message[16..])
}

const INTERNAL: PathContext = PathContext { internal: true, ..EXTERNAL };
const OLD_PEER: PathContext = PathContext { four_octet_as: false, ..EXTERNAL };
const OLD_PEER_BIG_AS: PathContext = PathContext { local_as: 4_200_000_001, ..OLD_PEER };
const OLD_INTERNAL_BIG_AS: PathContext = PathContext { internal: true, ..OLD_PEER_BIG_AS };

fn plain() -> Attributes {
    Attributes::default()
}

fn tagged() -> Attributes {
    Attributes {
        local_pref: Some(50),
        communities: [Community::new(64500, 2), Community::GRACEFUL_SHUTDOWN, Community::new(64500, 1)]
            .into(),
        large_communities: [LargeCommunity(64500, 1, 2)].into(),
        ..plain()
    }
}

fn family_of(prefixes: &BTreeSet<IpNet>) -> Family {
    prefixes.first().map(Family::of).unwrap()
}

#[test]
fn announcements_have_these_octets() {
    let v4: IpAddr = "10.0.0.11".parse().unwrap();
    let v6: IpAddr = "2001:db8:10::11".parse().unwrap();
    let (one4, one6) = (&["192.0.2.1/32"][..], &["2001:db8:1::1/128"][..]);
    let origin = "40010100";
    let path4 = "4002060201 0000fbf4";
    let next_hop = "4003040a00000b";
    let mp =
        |length: &str, nlri: &str| format!("800e{length}00020110 20010db8001000000000000000000011 00 {nlri}");
    let vip6 = "80 20010db8000100000000000000000001";
    let communities = "c0080c fbf40001 fbf40002 ffff0000";
    let large = "c0200c 0000fbf4 00000001 00000002";
    let cases = [
        (
            "external, IPv4",
            (EXTERNAL, v4, plain(), one4),
            format!("0030 02 0000 0014 {origin}{path4}{next_hop} 20c0000201"),
        ),
        (
            "external, IPv4, several lengths: host bits beyond the length are not sent",
            (EXTERNAL, v4, plain(), &["0.0.0.0/0", "192.0.2.0/25", "198.51.100.0/22"][..]),
            format!("0035 02 0000 0014 {origin}{path4}{next_hop} 00 19c0000200 16c63364"),
        ),
        (
            "external, IPv4, communities sorted; local preference is not for external peers",
            (EXTERNAL, v4, tagged(), one4),
            format!("004e 02 0000 0032 {origin}{path4}{next_hop}{communities}{large} 20c0000201"),
        ),
        (
            "internal, IPv4: an empty path, local preference 100 unless given",
            (INTERNAL, v4, plain(), one4),
            format!("0031 02 0000 0015 {origin} 400200 {next_hop} 40050400000064 20c0000201"),
        ),
        (
            "internal, IPv4, all attributes",
            (INTERNAL, v4, tagged(), one4),
            format!(
                "004f 02 0000 0033 {origin} 400200 {next_hop} 40050400000032 {communities}{large} 20c0000201"
            ),
        ),
        (
            "external, IPv4, peer with two-octet AS numbers",
            (OLD_PEER, v4, plain(), one4),
            format!("002e 02 0000 0012 {origin} 4002040201fbf4 {next_hop} 20c0000201"),
        ),
        (
            "external, IPv4, four-octet AS to a peer with two: AS_TRANS and AS4_PATH",
            (OLD_PEER_BIG_AS, v4, tagged(), one4),
            format!(
                "0055 02 0000 0039 {origin} 40020402015ba0 {next_hop} {communities} c011060201fa56ea01 {large} 20c0000201"
            ),
        ),
        (
            "internal, IPv4, four-octet AS to a peer with two: no path, nothing to translate",
            (OLD_INTERNAL_BIG_AS, v4, plain(), one4),
            format!("0031 02 0000 0015 {origin} 400200 {next_hop} 40050400000064 20c0000201"),
        ),
        (
            "external, IPv6: MP_REACH_NLRI first, no NEXT_HOP",
            (EXTERNAL, v6, plain(), one6),
            format!("004d 02 0000 0036 {} {origin}{path4}", mp("26", vip6)),
        ),
        (
            "external, IPv6, all attributes",
            (EXTERNAL, v6, tagged(), one6),
            format!("006b 02 0000 0054 {} {origin}{path4}{communities}{large}", mp("26", vip6)),
        ),
        (
            "external, IPv4 with an IPv6 next hop: MP_REACH_NLRI of IPv4, no NEXT_HOP",
            (EXTERNAL, v6, plain(), one4),
            format!(
                "0041 02 0000 002a 800e1a 000101 10 20010db8001000000000000000000011 00 20c0000201 {origin}{path4}"
            ),
        ),
        (
            "external, the path is longer than it must be; metric; extended communities between the others",
            (
                EXTERNAL,
                v4,
                Attributes {
                    med: Some(7),
                    prepend: 2,
                    extended_communities: ExtendedCommunity::route_target(64500, 9).into_iter().collect(),
                    ..tagged()
                },
                one4,
            ),
            format!(
                "0068 02 0000 004c {origin} 40020e0203 0000fbf4 0000fbf4 0000fbf4 {next_hop} 80040400000007 \
                 {communities} c01008 0002fbf400000009 {large} 20c0000201"
            ),
        ),
        (
            "external, the peer sees another AS, ours is behind it",
            (PathContext { behind_as: Some(65000), ..EXTERNAL }, v4, plain(), one4),
            format!("0034 02 0000 0018 {origin} 40020a0202 0000fbf4 0000fde8 {next_hop} 20c0000201"),
        ),
        (
            "external, two-octet peer, a four-octet AS behind one of two: AS_TRANS in its place",
            (PathContext { behind_as: Some(4_200_000_001), ..OLD_PEER }, v4, plain(), one4),
            format!(
                "003d 02 0000 0021 {origin} 4002060202fbf45ba0 {next_hop} c0110a0202 0000fbf4 fa56ea01 20c0000201"
            ),
        ),
        (
            "internal: a path is never longer, a metric is told",
            (INTERNAL, v4, Attributes { med: Some(7), prepend: 2, ..plain() }, one4),
            format!("0038 02 0000 001c {origin} 400200 {next_hop} 80040400000007 40050400000064 20c0000201"),
        ),
        (
            "internal, IPv6, several lengths",
            (INTERNAL, v6, plain(), &["::/0", "2001:db8:1::/64", "2001:db8:2::/45"][..]),
            format!(
                "004e 02 0000 0037 {} {origin} 400200 40050400000064",
                mp("26", "00 4020010db800010000 2d20010db80000")
            ),
        ),
    ];
    for (name, (context, next_hop, attributes, prefixes), expected) in cases {
        let mut pending = nets(prefixes.iter().copied());
        let mut taken = Vec::new();
        let message = encode_announcement(
            &context,
            family_of(&pending),
            next_hop,
            &attributes,
            &mut pending,
            &mut taken,
        )
        .unwrap();
        assert_eq!(tail(&message), expected.replace(' ', ""), "{name}");
        assert!(pending.is_empty() && taken.len() == prefixes.len(), "{name}");
    }
}

#[test]
fn the_extended_length_is_used_exactly_above_255_octets() {
    for (count, head) in [(63, "c008fc"), (64, "d0080100")] {
        let attributes = Attributes { communities: (1..=count).map(Community).collect(), ..plain() };
        let message = encode_announcement(
            &EXTERNAL,
            Family::Ipv4Unicast,
            "10.0.0.11".parse().unwrap(),
            &attributes,
            &mut nets(["192.0.2.1/32"]),
            &mut vec![],
        );
        assert!(hex(&message.unwrap()).contains(&format!("{head}0000000100000002")), "{count} communities");
    }
    // 13 prefixes of 17 octets and 21 of head are 242, 14 are 259.
    for (count, head) in [(13, "800ef2"), (14, "900e0103")] {
        let mut prefixes: BTreeSet<IpNet> =
            (1..=count).map(|n| testing::net(&format!("2001:db8:1::{n:x}/128"))).collect();
        let next_hop = "2001:db8:10::11".parse().unwrap();
        let message = encode_announcement(
            &EXTERNAL,
            Family::Ipv6Unicast,
            next_hop,
            &plain(),
            &mut prefixes,
            &mut vec![],
        )
        .unwrap();
        assert!(tail(&message)[14..].starts_with(head), "{count} prefixes: {}", tail(&message));
    }
}

#[test]
fn withdrawals_and_markers_have_these_octets() {
    let withdraw = |family, prefixes: &[&str]| {
        tail(&encode_withdrawal(&EXTERNAL, family, &mut nets(prefixes.iter().copied()), &mut vec![]))
    };
    for (name, bytes, expected) in [
        ("IPv4", withdraw(Family::Ipv4Unicast, &["192.0.2.0/24", "192.0.2.1/32"]), {
            "0020 02 0009 18c00002 20c0000201 0000"
        }),
        ("IPv6", withdraw(Family::Ipv6Unicast, &["2001:db8:1::/64"]), {
            "0026 02 0000 000f 800f0c 000201 4020010db800010000"
        }),
        ("End-of-RIB IPv4", tail(&encode_end_of_rib(Family::Ipv4Unicast)), "0017 02 0000 0000"),
        ("End-of-RIB IPv6", tail(&encode_end_of_rib(Family::Ipv6Unicast)), "001d 02 0000 0006 800f03 000201"),
        ("KEEPALIVE", tail(&encode_keepalive()), "0013 04"),
        (
            "BoRR",
            tail(&RouteRefresh::new(Family::Ipv4Unicast, RefreshSubtype::Begin).encode()),
            "0017 05 0001 01 01",
        ),
        (
            "shutdown",
            tail(&Cease::AdministrativeShutdown("drain".into()).notification().encode()),
            "001b 03 06 02 05647261696e",
        ),
    ] {
        assert_eq!(bytes, expected.replace(' ', ""), "{name}");
    }
}

#[test]
fn an_open_has_these_octets() {
    let mut capabilities: Vec<_> = Families::BOTH.iter().map(Capability::family).collect();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::FourOctetAs(4_200_000_001),
        Capability::ExtendedMessage,
        Capability::ExtendedNextHop(vec![(1, 1, 2)]),
        Capability::Role(Role::Customer),
    ]);
    let open = Open { my_as: AS_TRANS, hold_time: 90, router_id: [10, 0, 0, 11].into(), capabilities };
    let expected = "0042 01 04 5ba0 005a 0a00000b 25 0223 010400010001 010400020001 0200 4600 4104fa56ea01 \
                    0600 0506000100010002 090103";
    assert_eq!(tail(&open.encode()), expected.replace(' ', ""));
}

#[test]
fn attributes_that_fill_a_message_are_refused_without_taking_a_prefix() {
    for (count, fits) in [(1009, true), (1012, false), (1100, false)] {
        let attributes = Attributes { communities: (0..count).map(Community).collect(), ..plain() };
        let (mut prefixes, mut taken) = (nets(["192.0.2.1/32"]), vec![]);
        let next_hop = "10.0.0.11".parse().unwrap();
        let message = encode_announcement(
            &EXTERNAL,
            Family::Ipv4Unicast,
            next_hop,
            &attributes,
            &mut prefixes,
            &mut taken,
        );
        assert_eq!(
            (message.is_some(), taken.len(), prefixes.len()),
            if fits { (true, 1, 0) } else { (false, 0, 1) }
        );
        assert!(message.is_none_or(|message| message.len() <= MAX_MESSAGE));
    }
}

#[test]
fn an_extended_message_holds_as_much_as_its_length_can_say() {
    let extended = PathContext { max_message: MAX_EXTENDED, ..EXTERNAL };
    let mut prefixes: BTreeSet<IpNet> =
        (0..20_000_u32).map(|n| IpAddr::from((0x0a80_0000 + n).to_be_bytes()).into()).collect();
    let mut taken = Vec::new();
    let next_hop = "10.0.0.11".parse().unwrap();
    let message =
        encode_announcement(&extended, Family::Ipv4Unicast, next_hop, &plain(), &mut prefixes, &mut taken)
            .unwrap();
    // 43 octets of headers and attributes, five for each prefix.
    assert_eq!((taken.len(), message.len()), (13_098, 43 + 13_098 * 5));
    let mut withdrawn: BTreeSet<_> = taken.into_iter().collect();
    let message = encode_withdrawal(&extended, Family::Ipv4Unicast, &mut withdrawn, &mut Vec::new());
    assert!(withdrawn.is_empty() && message.len() == 23 + 13_098 * 5);
}
