//! Differential tests: two implementations by others read what we write, and we read what they write.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;
use rustbgpd_wire as oracle;

use super::testing::{attribute_codes, decode_one, view};
use super::*;
use crate::{Attributes, Community, ExtendedCommunity, Family, LargeCommunity};

/// Reads by netgauze, strictly, and writes what it understood.
fn through_netgauze(message: &[u8], four_octet_as: bool) -> Vec<u8> {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(four_octet_as);
    let mut reader = SliceReader::new(message);
    let read = BgpMessage::parse(&mut reader, &mut context).unwrap();
    let mut written = Vec::new();
    read.write(&mut written).unwrap();
    written
}

fn v4_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0_u8..=32).prop_map(|(bits, length)| {
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits & 0x7fff_ffff), length).unwrap().trunc())
    })
}

fn v6_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0_u8..=128).prop_map(|(bits, length)| {
        // 2000::/3, as unicast addresses are.
        let address = Ipv6Addr::from_bits(bits >> 3 | 1 << 125);
        IpNet::V6(Ipv6Net::new(address, length.max(3)).unwrap().trunc())
    })
}

prop_compose! {
    fn attributes()(
        local_pref in any::<Option<u32>>(),
        communities in proptest::collection::btree_set(any::<u32>().prop_map(Community), 0..90),
        large in proptest::collection::btree_set(any::<(u32, u32, u32)>(), 0..30),
        // Route targets of two-octet AS numbers, which all know.
        extended in proptest::collection::btree_set(any::<(u16, u32)>(), 0..20),
        med in any::<Option<u32>>(),
        prepend in 0_u8..5,
    ) -> Attributes {
        let target = |(asn, value): (u16, u32)| ExtendedCommunity::route_target(asn.into(), value);
        let extended_communities = extended.into_iter().filter_map(target).collect();
        let large_communities = large.into_iter().map(|(a, b, c)| LargeCommunity(a, b, c)).collect();
        Attributes {
            next_hop: None,
            local_pref,
            med,
            prepend,
            communities,
            extended_communities,
            large_communities,
        }
    }
}

prop_compose! {
    fn context()(
        local_as in prop_oneof![1_u32..23456, 65536_u32..u32::MAX],
        internal in any::<bool>(),
        four_octet_as in any::<bool>(),
        behind_as in proptest::option::of(1_u32..23456),
        extended in any::<bool>(),
    ) -> PathContext {
        let max_message = if extended { MAX_EXTENDED } else { MAX_MESSAGE };
        PathContext { local_as, behind_as, max_message, internal, four_octet_as }
    }
}

fn check_announcement(
    context: PathContext,
    family: Family,
    next_hop: IpAddr,
    attributes: &Attributes,
    prefixes: &BTreeSet<IpNet>,
) -> Result<(), TestCaseError> {
    let (mut pending, mut told) = (prefixes.clone(), BTreeSet::new());
    let mut sizes = Vec::new();
    while !pending.is_empty() {
        let mut taken = Vec::new();
        let message =
            encode_announcement(&context, family, next_hop, attributes, &mut pending, &mut taken).unwrap();
        prop_assert!(message.len() <= context.max_message);
        sizes.push(message.len());
        let view = view(&message, context.four_octet_as);
        prop_assert_eq!(view.count, taken.len());
        prop_assert_eq!(&view.announced, &taken.iter().copied().collect::<BTreeSet<_>>());
        prop_assert!(view.withdrawn.is_empty());
        prop_assert_eq!(view.next_hop, Some(next_hop));
        let mut path = vec![context.local_as; 1 + usize::from(attributes.prepend)];
        path.extend(context.behind_as);
        prop_assert_eq!(view.as_path, if context.internal { vec![] } else { path });
        prop_assert_eq!(view.med, attributes.med);
        prop_assert_eq!(
            view.extended_communities,
            attributes.extended_communities.iter().copied().collect::<Vec<_>>()
        );
        prop_assert_eq!(view.local_pref, context.internal.then_some(attributes.local_pref.unwrap_or(100)));
        prop_assert_eq!(view.communities, attributes.communities.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(
            view.large_communities,
            attributes.large_communities.iter().copied().collect::<Vec<_>>()
        );
        // MP_REACH_NLRI first, the rest in order of type.
        let codes: Vec<u8> = attribute_codes(&message).into_iter().map(|(_, code)| code).collect();
        let rest = codes.strip_prefix(&[14]).unwrap_or(&codes);
        prop_assert!(rest.is_sorted() && !rest.contains(&14) && rest.contains(&3) == next_hop.is_ipv4());
        // Ours is the one way to write it.
        prop_assert_eq!(through_netgauze(&message, context.four_octet_as), message);
        told.extend(taken);
    }
    prop_assert_eq!(&told, prefixes);
    // Every message but the last is full: not one more prefix would have fitted.
    let longest = if family == Family::Ipv4Unicast { 5 } else { 17 };
    // The second octet of an extended length may be missing from a message that ended at the limit.
    prop_assert!(
        sizes.iter().rev().skip(1).all(|size| size + longest + 1 > context.max_message),
        "{:?}",
        sizes
    );
    Ok(())
}

fn check_withdrawal(
    context: PathContext,
    family: Family,
    prefixes: &BTreeSet<IpNet>,
) -> Result<(), TestCaseError> {
    let (mut pending, mut told, mut sizes) = (prefixes.clone(), BTreeSet::new(), Vec::new());
    while !pending.is_empty() {
        let mut taken = Vec::new();
        let message = encode_withdrawal(&context, family, &mut pending, &mut taken);
        prop_assert!(message.len() <= context.max_message && !taken.is_empty());
        sizes.push(message.len());
        let view = view(&message, true);
        prop_assert_eq!((view.count, view.announced.len()), (taken.len(), 0));
        prop_assert_eq!(through_netgauze(&message, true), message);
        told.extend(view.withdrawn);
    }
    prop_assert_eq!(&told, prefixes);
    prop_assert!(sizes.iter().rev().skip(1).all(|size| size + 18 > context.max_message), "{:?}", sizes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn others_read_the_announcements_that_we_write(
        context in context(),
        attributes in attributes(),
        v4 in proptest::collection::btree_set(v4_prefix(), 1..1800),
        v6 in proptest::collection::btree_set(v6_prefix(), 1..700),
    ) {
        let (four, six) = (Family::Ipv4Unicast, Family::Ipv6Unicast);
        check_announcement(context, four, "10.0.0.11".parse().unwrap(), &attributes, &v4)?;
        check_announcement(context, four, "2001:db8:10::11".parse().unwrap(), &attributes, &v4)?;
        check_announcement(context, six, "2001:db8:10::11".parse().unwrap(), &attributes, &v6)?;
    }

    #[test]
    fn others_read_the_withdrawals_that_we_write(
        context in context(),
        v4 in proptest::collection::btree_set(v4_prefix(), 1..2500),
        v6 in proptest::collection::btree_set(v6_prefix(), 1..900),
    ) {
        check_withdrawal(context, Family::Ipv4Unicast, &v4)?;
        check_withdrawal(context, Family::Ipv6Unicast, &v6)?;
    }

    #[test]
    fn opens_survive_the_way_through_both_others(
        my_as in any::<u16>(),
        asn in any::<u32>(),
        hold_time in prop_oneof![Just(0_u16), 3_u16..],
        router_id in 0x0100_0000_u32..0x7f00_0000,
    ) {
        let capabilities = vec![
            Capability::family(Family::Ipv4Unicast),
            Capability::family(Family::Ipv6Unicast),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::FourOctetAs(asn),
            Capability::ExtendedMessage,
            Capability::ExtendedNextHop(vec![(1, 1, 2)]),
            Capability::Role(Role::Customer),
        ];
        let open = Open { my_as, hold_time, router_id: Ipv4Addr::from_bits(router_id), capabilities };
        let bytes = open.encode();
        prop_assert_eq!(through_netgauze(&bytes, false), &bytes[..]);
        let mut body = &bytes[HEADER..];
        let theirs = oracle::OpenMessage::decode(&mut body, bytes.len() - HEADER).unwrap();
        prop_assert_eq!((theirs.my_as, theirs.hold_time, theirs.bgp_identifier), (my_as, hold_time, open.router_id));
        prop_assert_eq!(theirs.four_byte_as(), asn);
        prop_assert_eq!(theirs.capabilities.len(), 8);
        let again = oracle::encode_message(&oracle::Message::Open(theirs)).unwrap();
        prop_assert_eq!(decode_one(&again), Message::Open(open));
    }

    // Up to 124 octets: the other still follows RFC 8203, which ends at 128.
    #[test]
    fn shutdown_texts_are_the_same_for_all(text in "\\PC{1,31}") {
        let notification = Cease::AdministrativeShutdown(text.as_str().into()).notification();
        let theirs = oracle::notification::encode_shutdown_communication(&text);
        prop_assert_eq!(&notification.data[..], &theirs[..]);
        let read = oracle::notification::decode_shutdown_communication(&notification.data);
        prop_assert_eq!(read.as_deref(), notification.text());
        let bytes = notification.encode();
        prop_assert_eq!(through_netgauze(&bytes, true), bytes);
    }
}

#[test]
fn we_read_the_capabilities_that_others_write() {
    use oracle::{Afi, Capability as Theirs, GracefulRestartFamily, Safi};
    let open = oracle::OpenMessage {
        version: 4,
        my_as: 23456,
        hold_time: 30,
        bgp_identifier: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Theirs::MultiProtocol { afi: Afi::Ipv4, safi: Safi::Unicast },
            Theirs::MultiProtocol { afi: Afi::Ipv6, safi: Safi::Unicast },
            Theirs::RouteRefresh,
            Theirs::EnhancedRouteRefresh,
            Theirs::FourOctetAs { asn: 4_200_000_000 },
            Theirs::GracefulRestart {
                restart_state: true,
                notification: false,
                restart_time: 120,
                families: vec![GracefulRestartFamily {
                    afi: Afi::Ipv4,
                    safi: Safi::Unicast,
                    forwarding_preserved: true,
                }],
            },
            Theirs::ExtendedMessage,
        ],
    };
    let bytes = oracle::encode_message(&oracle::Message::Open(open)).unwrap();
    let Message::Open(ours) = decode_one(&bytes) else { panic!() };
    assert_eq!((ours.asn(), ours.hold_time), (4_200_000_000, 30));
    let restart = GracefulRestart {
        restarting: true,
        notification: false,
        restart_time: 120,
        families: vec![(1, 1, true)],
    };
    assert_eq!(
        ours.capabilities,
        [
            Capability::family(Family::Ipv4Unicast),
            Capability::family(Family::Ipv6Unicast),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::FourOctetAs(4_200_000_000),
            Capability::GracefulRestart(restart),
            Capability::ExtendedMessage,
        ]
    );
}

#[test]
fn we_count_the_updates_that_others_write() {
    use oracle::{Ipv4NlriEntry, Ipv4Prefix, Ipv4UnicastMode, PathAttribute};
    let entry =
        |n: u8| Ipv4NlriEntry { path_id: 0, prefix: Ipv4Prefix::new(Ipv4Addr::new(203, 0, 113, n), 32) };
    let update = oracle::UpdateMessage::try_build(
        &[entry(1), entry(2), entry(3)],
        &[entry(4)],
        &[PathAttribute::Origin(oracle::Origin::Igp), PathAttribute::NextHop(Ipv4Addr::new(10, 0, 0, 1))],
        true,
        false,
        Ipv4UnicastMode::Body,
    );
    let bytes = oracle::encode_message(&oracle::Message::Update(update.unwrap())).unwrap();
    let expected = ReceivedUpdate { withdrawn: 1, attribute_octets: 11, announced: 3, end_of_rib: None };
    assert_eq!(decode_one(&bytes), Message::Update(expected));
}

#[test]
fn the_names_of_all_codes_agree_with_the_registry_of_others() {
    for code in Code::ALL {
        let theirs = oracle::notification::description(oracle::NotificationCode::from_u8(code.0), code.1);
        let (group, name) = code.names().unwrap();
        let ours = if name.is_empty() { group } else { name };
        let normal = |text: &str| text.to_lowercase().replace(['-', ' '], "");
        // Where the other has no name of its own it says so.
        if normal(theirs) != "unknown" {
            let (a, b) = (normal(ours), normal(theirs));
            assert!(b.contains(&a) || b == normal(group), "{code}: {theirs}");
        }
        let bytes = Notification::new(*code).encode();
        if *code != Code::SEND_HOLD_TIMER_EXPIRED {
            assert_eq!(through_netgauze(&bytes, true), bytes, "{code}");
        }
    }
}
