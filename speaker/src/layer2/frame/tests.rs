use proptest::prelude::*;

use super::*;

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 9];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0x12, 0x3456);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn arp_frames_are_octet_by_octet_what_neighbours_take() {
    let vip = "c0000207";
    let ours = "020000000001";
    let head = |to: &str, operation: &str| format!("{to}{ours}0806000108000604{operation}{ours}");
    for (frame, expected) in [
        (gratuitous_request(OURS, VIP), head("ffffffffffff", "0001") + &format!("{vip}000000000000{vip}")),
        (gratuitous_reply(OURS, VIP), head("ffffffffffff", "0002") + &format!("{vip}{ours}{vip}")),
        (arp_probe(OURS, VIP), head("ffffffffffff", "0001") + &format!("00000000000000000000{vip}")),
        (
            arp_reply(OURS, VIP, THEIRS, CLIENT),
            head("020000000009", "0002") + &format!("{vip}020000000009cb007105"),
        ),
    ] {
        assert_eq!(hex(&frame), expected);
    }
}

#[test]
fn an_unsolicited_advertisement_overrides_and_an_answer_is_solicited() {
    let told = unsolicited_advertisement(OURS, VIP6);
    let expected = "33330000000102000000000186dd6000000000203aff20010db80001000000000000001234\
                    56ff02000000000000000000000000000188";
    assert!(hex(&told).starts_with(&expected.replace(' ', "")), "{}", hex(&told));
    assert_eq!(told[58], 0x20, "override, not solicited, no router");
    assert_eq!(hex(&told[78..]), "0201020000000001", "target link-layer address");
    let answer = solicited_advertisement(OURS, VIP6, THEIRS, CLIENT6);
    assert_eq!((answer[58], &answer[..6]), (0x60, &THEIRS[..]));
    assert_eq!(
        solicited_advertisement(OURS, VIP6, THEIRS, Ipv6Addr::UNSPECIFIED),
        told,
        "to one without address"
    );
    for frame in [told, answer] {
        assert_eq!(read(&frame, THEIRS), Some(Heard { claim: Some((VIP6.into(), OURS)), question: None }));
    }
}

#[test]
fn the_solicited_node_group_has_the_last_24_bits() {
    assert_eq!(solicited_node(VIP6), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    let probe = solicitation_probe(OURS, VIP6);
    assert_eq!(hex(&probe[..6]), "3333ff123456");
    let question = Question { target: VIP6.into(), asker: Ipv6Addr::UNSPECIFIED.into(), mac: OURS };
    assert_eq!(read(&probe, THEIRS), Some(Heard { claim: None, question: Some(question) }));
}

/// What is heard of ARP frames, by what was sent.
#[test]
fn a_request_asks_a_gratuitous_one_claims_and_a_probe_claims_nothing() {
    let asks = |asker: Ipv4Addr| Some(Question { target: VIP.into(), asker: asker.into(), mac: THEIRS });
    let claims = |address: Ipv4Addr| Some((address.into(), THEIRS));
    let request = |to: Mac| arp(to, OP_REQUEST, (THEIRS, CLIENT), (NO_MAC, VIP));
    for (what, frame, claim, question) in [
        ("broadcast", request(BROADCAST), claims(CLIENT), asks(CLIENT)),
        ("to us", request(OURS), claims(CLIENT), asks(CLIENT)),
        ("to another", request([2, 0, 0, 0, 0, 3]), claims(CLIENT), None),
        ("probe", arp_probe(THEIRS, VIP), None, asks(Ipv4Addr::UNSPECIFIED)),
        ("gratuitous request", gratuitous_request(THEIRS, VIP), claims(VIP), None),
        ("gratuitous reply", gratuitous_reply(THEIRS, VIP), claims(VIP), None),
    ] {
        assert_eq!(read(&frame, OURS), Some(Heard { claim, question }), "{what}");
    }
}

#[test]
fn nonsense_and_own_frames_say_nothing() {
    let request = arp(BROADCAST, OP_REQUEST, (THEIRS, CLIENT), (NO_MAC, VIP));
    assert_eq!(read(&request, THEIRS), None, "our own");
    // Octet, value: Ethernet type, hardware type, protocol type, both lengths, operation, sender a group.
    for (octet, value) in [(12, 9), (15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (22, 3)] {
        let mut frame = request;
        frame[octet] = value;
        assert_eq!(read(&frame, OURS), None, "octet {octet}");
    }
    let solicitation = solicitation_probe(THEIRS, VIP6);
    // Version, next header, hop limit, length, type, code, checksum, target a group.
    for (octet, value) in [(14, 0x40), (20, 6), (21, 64), (19, 99), (54, 1), (55, 1), (57, 0), (62, 0xff)] {
        let mut frame = solicitation;
        frame[octet] = value;
        assert_eq!(read(&frame, OURS), None, "octet {octet}");
    }
}

#[test]
fn a_solicitation_is_answered_with_and_without_its_option() {
    let solicit = |options: &[u8]| {
        let mut message = vec![0; SOLICITATION];
        message[0] = NEIGHBOR_SOLICITATION;
        message[8..24].copy_from_slice(&VIP6.octets());
        message.extend(options);
        let group = solicited_node(VIP6);
        let sum = checksum(CLIENT6, group, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = Vec::new();
        frame.extend(multicast_mac(group));
        frame.extend(THEIRS);
        frame.extend(ETHERTYPE_IPV6);
        frame.extend([0x60, 0, 0, 0, 0, u8::try_from(message.len()).unwrap(), ICMPV6, 255]);
        frame.extend(CLIENT6.octets());
        frame.extend(group.octets());
        frame.extend(message);
        frame
    };
    let asks = |mac| {
        let question = Question { target: VIP6.into(), asker: CLIENT6.into(), mac };
        Some(Heard { claim: None, question: Some(question) })
    };
    let other: Mac = [2, 0, 0, 0, 0, 0xbb];
    let option = [&[1, 1][..], &other].concat();
    assert_eq!(read(&solicit(&[]), OURS), asks(THEIRS));
    assert_eq!(read(&solicit(&option), OURS), asks(other));
    assert_eq!(
        read(&solicit(&[&[14, 1, 0, 0, 0, 0, 0, 0][..], &option].concat()), OURS),
        asks(other),
        "a nonce"
    );
    assert_eq!(read(&solicit(&[1, 0, 0, 0, 0, 0, 0, 0]), OURS), None, "an option of length 0");
    assert_eq!(read(&solicit(&[1, 255, 0, 0, 0, 0, 0, 0]), OURS), None, "an option beyond the end");
}

proptest! {
    #[test]
    fn no_frame_makes_reading_fail(
        base in 0usize..4,
        edits in proptest::collection::vec((0usize..90, any::<u8>()), 0..6),
        length in 0usize..100,
        tail in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut frame = match base {
            0 => gratuitous_request(THEIRS, VIP).to_vec(),
            1 => unsolicited_advertisement(THEIRS, VIP6).to_vec(),
            2 => solicitation_probe(THEIRS, VIP6).to_vec(),
            _ => Vec::new(),
        };
        frame.extend(tail);
        for (octet, value) in edits {
            if let Some(place) = frame.get_mut(octet) { *place = value }
        }
        frame.truncate(length);
        let heard = read(&frame, OURS);
        prop_assert!(heard.and_then(|heard| heard.claim).is_none_or(|(_, mac)| is_unicast(mac)));
    }
}
