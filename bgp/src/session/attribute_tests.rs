//! RFC 7606 §7, attribute by attribute: what is malformed there ends no session. Where the RFC wants the routes withdrawn or the
//! attribute discarded nothing is to be done here: received routes are dropped unread, whatever they say. Nor is the session reset
//! where a next hop or a prefix cannot be read (§5.3, §7.11): that would protect a table that is not kept.

use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::wire::Message;
use crate::wire::testing::decode_one;

/// An UPDATE with these attributes and one prefix.
fn update(attributes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).expect("short");
    let mut message = vec![0xff; 16];
    let whole = 19 + 4 + length + 5;
    message.extend_from_slice(&whole.to_be_bytes());
    message.extend_from_slice(&[2, 0, 0]);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(attributes);
    message.extend_from_slice(&[32, 192, 0, 2, 1]);
    message
}

/// What a session that is up does with it.
fn received(attributes: &[u8]) -> (Vec<Seen>, State) {
    let mut bench = Bench::reach(config(), State::Established);
    let message = decode_one(&update(attributes));
    assert!(matches!(&message, Message::Update(update) if update.announced == 1), "{message:?}");
    let seen = bench.receive(1, message);
    (seen, bench.session.state())
}

#[test]
fn no_malformed_attribute_ends_the_session() {
    let cases: &[(&str, &str, &[u8])] = &[
        ("§3 c", "ORIGIN with the flags of an optional attribute", &[0xc0, 1, 1, 0]),
        ("§3 d", "no ORIGIN, no AS_PATH, no NEXT_HOP", &[]),
        ("§3 g", "ORIGIN twice", &[0x40, 1, 1, 0, 0x40, 1, 1, 0]),
        ("§4", "an attribute that is longer than all of them", &[0x40, 1, 200, 0]),
        ("§4", "a type without a length", &[0x40, 1]),
        ("§4", "flags alone", &[0x40]),
        ("§5.3", "MP_REACH_NLRI without its address family", &[0x80, 14, 1, 0]),
        ("§5.3", "MP_UNREACH_NLRI with a prefix of 255 bits", &[0x80, 15, 4, 0, 2, 1, 255]),
        ("§7.1", "ORIGIN of 2 octets", &[0x40, 1, 2, 0, 0]),
        ("§7.1", "ORIGIN of an undefined value", &[0x40, 1, 1, 9]),
        ("§7.2", "AS_PATH whose segment overruns", &[0x40, 2, 3, 2, 9, 0]),
        ("§7.2", "AS_PATH with a segment of an undefined type", &[0x40, 2, 6, 9, 1, 0, 0, 0, 1]),
        ("§7.2", "AS_PATH with an empty segment", &[0x40, 2, 2, 2, 0]),
        ("§7.3", "NEXT_HOP of 5 octets", &[0x40, 3, 5, 10, 0, 0, 1, 0]),
        ("§7.4", "MULTI_EXIT_DISC of 3 octets", &[0x80, 4, 3, 0, 0, 0]),
        ("§7.5", "LOCAL_PREF of 5 octets", &[0x40, 5, 5, 0, 0, 0, 0, 0]),
        ("§7.6", "ATOMIC_AGGREGATE of 1 octet", &[0x40, 6, 1, 0]),
        ("§7.7", "AGGREGATOR of 5 octets", &[0xc0, 7, 5, 0, 0, 0, 0, 0]),
        ("§7.8", "COMMUNITIES of 3 octets", &[0xc0, 8, 3, 0, 0, 0]),
        ("§7.8", "COMMUNITIES of none", &[0xc0, 8, 0]),
        ("§7.9", "ORIGINATOR_ID of 5 octets", &[0x80, 9, 5, 0, 0, 0, 0, 0]),
        ("§7.10", "CLUSTER_LIST of 3 octets", &[0x80, 10, 3, 0, 0, 0]),
        ("§7.11", "MP_REACH_NLRI with a next hop of 3 octets", &[0x80, 14, 9, 0, 1, 1, 3, 1, 2, 3, 0, 0]),
        ("§7.12", "MP_UNREACH_NLRI of 2 octets", &[0x80, 15, 2, 0, 1]),
        ("§7.13", "traffic engineering of 1 octet", &[0xc0, 24, 1, 0]),
        ("§7.14", "extended communities of 7 octets", &[0xc0, 16, 7, 0, 0, 0, 0, 0, 0, 0]),
        ("§7.15", "IPv6 extended communities of 2 octets", &[0xc0, 25, 2, 0, 0]),
        ("§7.16", "ATTR_SET of 3 octets", &[0xc0, 128, 3, 0, 0, 0]),
        ("8092 §5", "LARGE_COMMUNITY of 2 octets", &[0xc0, 32, 2, 0, 0]),
        ("9234 §5", "ONLY_TO_CUSTOMER of 3 octets", &[0xc0, 35, 3, 0, 0, 0]),
        ("4271 §6.3", "a well-known attribute that nobody knows", &[0x40, 99, 1, 0]),
    ];
    for (section, what, attributes) in cases {
        assert_eq!(received(attributes), (vec![], State::Established), "RFC 7606 {section}: {what}");
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_the_attributes_the_session_stays(
        attributes in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        prop_assert_eq!(received(&attributes), (vec![], State::Established));
    }
}
