use proptest::prelude::*;

use super::testing::{decode_all, decode_one};
use super::*;
use crate::Family;

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = begin(kind, body.len());
    message.extend_from_slice(body);
    finish(message)
}

fn open_body(parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, u8::try_from(parameters.len()).unwrap()];
    body.extend_from_slice(parameters);
    body
}

fn decode_open(parameters: &[u8]) -> Result<Open, DecodeError> {
    match decode_all(&frame(kind::OPEN, &open_body(parameters)))?.remove(0) {
        Message::Open(open) => Ok(open),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_error_of_form_has_the_code_and_data_of_the_rfc() {
    let with_length = |kind: u8, length: u16| {
        let mut message = begin(kind, 0);
        message[16..18].copy_from_slice(&length.to_be_bytes());
        message
    };
    let mut bad_marker = encode_keepalive();
    bad_marker[7] = 0xfe;
    let cases: Vec<(&str, Vec<u8>, Code, Vec<u8>)> = vec![
        ("marker", bad_marker, Code::NOT_SYNCHRONISED, vec![]),
        ("shorter than a header", with_length(kind::KEEPALIVE, 18), Code::BAD_MESSAGE_LENGTH, vec![0, 18]),
        ("longer than any message", with_length(kind::UPDATE, 4097), Code::BAD_MESSAGE_LENGTH, vec![0x10, 1]),
        ("long KEEPALIVE", with_length(kind::KEEPALIVE, 20), Code::BAD_MESSAGE_LENGTH, vec![0, 20]),
        ("short OPEN", with_length(kind::OPEN, 28), Code::BAD_MESSAGE_LENGTH, vec![0, 28]),
        ("short UPDATE", with_length(kind::UPDATE, 22), Code::BAD_MESSAGE_LENGTH, vec![0, 22]),
        ("short NOTIFICATION", with_length(kind::NOTIFICATION, 20), Code::BAD_MESSAGE_LENGTH, vec![0, 20]),
        ("short ROUTE-REFRESH", with_length(kind::ROUTE_REFRESH, 22), Code::BAD_MESSAGE_LENGTH, vec![0, 22]),
        (
            "long ROUTE-REFRESH",
            frame(kind::ROUTE_REFRESH, &[0, 1, 0, 1, 9]),
            Code::BAD_MESSAGE_LENGTH,
            vec![0, 24],
        ),
        ("type 0", with_length(0, 19), Code::BAD_MESSAGE_TYPE, vec![0]),
        ("type 6", with_length(6, 19), Code::BAD_MESSAGE_TYPE, vec![6]),
        (
            "version 3",
            frame(kind::OPEN, &[3, 0, 1, 0, 90, 1, 1, 1, 1, 0]),
            Code::UNSUPPORTED_VERSION,
            vec![0, 4],
        ),
        (
            "parameters too short",
            frame(kind::OPEN, &[4, 0, 1, 0, 90, 1, 1, 1, 1, 2]),
            Code::OPEN_UNSPECIFIC,
            vec![],
        ),
        (
            "octets behind",
            frame(kind::OPEN, &[4, 0, 1, 0, 90, 1, 1, 1, 1, 0, 7]),
            Code::OPEN_UNSPECIFIC,
            vec![],
        ),
        ("parameter overruns", frame(kind::OPEN, &open_body(&[2, 9, 65])), Code::OPEN_UNSPECIFIC, vec![]),
        ("parameter without length", frame(kind::OPEN, &open_body(&[2])), Code::OPEN_UNSPECIFIC, vec![]),
        (
            "capability overruns",
            frame(kind::OPEN, &open_body(&[2, 3, 65, 4, 0])),
            Code::OPEN_UNSPECIFIC,
            vec![],
        ),
        (
            "AS capability of 2",
            frame(kind::OPEN, &open_body(&[2, 4, 65, 2, 0, 1])),
            Code::OPEN_UNSPECIFIC,
            vec![],
        ),
        (
            "authentication parameter",
            frame(kind::OPEN, &open_body(&[1, 1, 0])),
            Code::UNSUPPORTED_OPTIONAL_PARAMETER,
            vec![],
        ),
        ("withdrawn overrun", frame(kind::UPDATE, &[0, 9, 0, 0]), Code::MALFORMED_ATTRIBUTE_LIST, vec![]),
        ("attributes overrun", frame(kind::UPDATE, &[0, 0, 0, 1]), Code::MALFORMED_ATTRIBUTE_LIST, vec![]),
        (
            "BoRR of 5",
            frame(kind::ROUTE_REFRESH, &[0, 1, 1, 1, 9]),
            Code::REFRESH_INVALID_LENGTH,
            frame(kind::ROUTE_REFRESH, &[0, 1, 1, 1, 9]),
        ),
    ];
    for (name, bytes, code, data) in cases {
        let error = decode_all(&bytes).expect_err(name);
        assert_eq!(error.notification(), Notification { code, data }, "{name}: {error}");
    }
}

#[test]
fn a_wrong_marker_is_seen_before_the_header_is_complete() {
    assert_eq!(decode_all(&[0xff, 0xff, 0]), Err(DecodeError::Marker));
    assert_eq!(decode_all(b"HTTP/1.1"), Err(DecodeError::Marker));
}

#[test]
fn an_error_stays() {
    let mut decoder = Decoder::new();
    decoder.space()[0] = 7;
    decoder.filled(1);
    assert_eq!(decoder.next_message(), Err(DecodeError::Marker));
    assert_eq!(decoder.next_message(), Err(DecodeError::Marker));
}

#[test]
fn the_longest_message_fits_the_buffer_and_leaves_space_again() {
    let long = Notification::with_data(Code(6, 99), &[7; 5000]).encode();
    assert_eq!(long.len(), MAX_MESSAGE);
    let mut decoder = Decoder::new();
    decoder.space()[..].copy_from_slice(&long);
    decoder.filled(MAX_MESSAGE);
    assert!(
        matches!(decoder.next_message(), Ok(Some(Message::Notification(n))) if n.data.len() == MAX_MESSAGE - 21)
    );
    assert_eq!(decoder.next_message(), Ok(None));
    assert_eq!(decoder.space().len(), MAX_MESSAGE);
}

#[test]
fn capabilities_are_read_however_they_are_spread() {
    let expected = vec![
        Capability::family(Family::Ipv4Unicast),
        Capability::FourOctetAs(65536),
        Capability::Unknown { code: 200, value: vec![1, 2] },
    ];
    let one = [2, 16, 1, 4, 0, 1, 0, 1, 65, 4, 0, 1, 0, 0, 200, 2, 1, 2];
    let many = [2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 65, 4, 0, 1, 0, 0, 2, 0, 2, 4, 200, 2, 1, 2];
    // RFC 9072 §2: 255, 255, length of two octets, then parameters with lengths of two octets.
    let mut extended = vec![255, 0, 19, 2, 0, 16];
    extended.extend_from_slice(&one[2..]);
    for parameters in [&one[..], &many[..], &extended[..]] {
        assert_eq!(decode_open(parameters).unwrap().capabilities, expected, "{parameters:?}");
    }
}

#[test]
fn capabilities_of_unexpected_length_are_kept_raw_and_ignored() {
    let open = decode_open(&[2, 10, 1, 1, 0, 2, 1, 0, 64, 1, 0, 70, 0]).unwrap_err();
    assert_eq!(open, DecodeError::Open("a capability exceeds its parameter"));
    let open = decode_open(&[2, 11, 1, 1, 0, 2, 1, 0, 64, 1, 0, 70, 0]).unwrap();
    let raw = |code| Capability::Unknown { code, value: vec![0] };
    assert_eq!(open.capabilities, [raw(1), raw(2), raw(64), Capability::EnhancedRouteRefresh]);
}

#[test]
fn graceful_restart_is_read() {
    let restart = GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: vec![(1, 1, true), (2, 1, false)],
    };
    let open = decode_open(&[2, 12, 64, 10, 0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0]).unwrap();
    assert_eq!(open.capabilities, [Capability::GracefulRestart(restart)]);
}

#[test]
fn an_open_without_capabilities_has_no_parameters() {
    let open = Open { my_as: 65000, hold_time: 90, router_id: [10, 0, 0, 1].into(), capabilities: vec![] };
    let bytes = open.encode();
    assert_eq!(bytes.len(), 29);
    assert_eq!(decode_one(&bytes), Message::Open(open));
}

#[test]
fn capabilities_that_one_parameter_cannot_hold_are_left_out() {
    let big = |code| Capability::Unknown { code, value: vec![0; 120] };
    let open = Open {
        my_as: 1,
        hold_time: 0,
        router_id: [1, 1, 1, 1].into(),
        capabilities: vec![big(201), big(202), big(203), Capability::RouteRefresh],
    };
    let Message::Open(read) = decode_one(&open.encode()) else { panic!() };
    assert_eq!(read.capabilities, [big(201), big(202), Capability::RouteRefresh]);
}

#[test]
fn a_shutdown_text_is_read_only_if_its_bounds_are_exact() {
    let with = |code, data: &[u8]| Notification::with_data(code, data);
    for (notification, text) in [
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b"\x05drain"), Some("drain")),
        (with(Code::ADMINISTRATIVE_RESET, b"\x05drain"), Some("drain")),
        (with(Code::PEER_DECONFIGURED, b"\x05drain"), None),
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b""), None),
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b"\x00"), None),
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b"\x06drain"), None),
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b"\x04drain"), None),
        (with(Code::ADMINISTRATIVE_SHUTDOWN, b"\x02\xff\xfe"), None),
    ] {
        assert_eq!(notification.text(), text, "{notification:?}");
        let Message::Notification(read) = decode_one(&notification.encode()) else { panic!() };
        assert_eq!(read, notification);
    }
}

#[test]
fn notifications_tell_their_cause_in_words_and_escape_the_peers_text() {
    let with = |code, data: &[u8]| Notification::with_data(code, data);
    for (notification, words) in [
        (
            Notification::with_data(Code::ADMINISTRATIVE_SHUTDOWN, b"\x09go\n\"away\""),
            r#"6/2 Cease/Administrative Shutdown: "go\n\"away\"""#,
        ),
        (Notification::new(Code::HOLD_TIMER_EXPIRED), "4/0 Hold Timer Expired"),
        (Notification::with_data(Code::BAD_MESSAGE_LENGTH, &[0x11, 0xbf]), {
            "1/2 Message Header Error/Bad Message Length (length 4543)"
        }),
        (Notification::new(Code(77, 1)), "77/1"),
        (with(Code::BAD_PEER_AS, &[0, 0, 0, 43]), "2/2 OPEN Message Error/Bad Peer AS (AS 43)"),
        (with(Code::BAD_PEER_AS, &[0, 43]), "2/2 OPEN Message Error/Bad Peer AS (AS 43)"),
        (with(Code::BAD_PEER_AS, &[43]), "2/2 OPEN Message Error/Bad Peer AS (data 2b)"),
        (
            with(Code::BAD_IDENTIFIER, &[10, 0, 0, 1]),
            "2/3 OPEN Message Error/Bad BGP Identifier (router id 10.0.0.1)",
        ),
        (
            with(Code::UNACCEPTABLE_HOLD_TIME, &[0, 3]),
            "2/6 OPEN Message Error/Unacceptable Hold Time (hold time 3 s)",
        ),
        (
            with(Code::UNSUPPORTED_CAPABILITY, &[1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0, 1, 200, 0]),
            "2/7 OPEN Message Error/Unsupported Capability (ipv6, 4-octet AS, capability 200)",
        ),
        (
            with(Code::UNSUPPORTED_CAPABILITY, &[1, 4, 0]),
            "2/7 OPEN Message Error/Unsupported Capability (data 010400)",
        ),
        (
            with(Code::MAXIMUM_PREFIXES, &[0, 1, 1, 0, 0, 0, 9]),
            "6/1 Cease/Maximum Number of Prefixes Reached (ipv4: at most 9)",
        ),
        (
            with(Code::FSM_ESTABLISHED, &[1]),
            "5/3 Finite State Machine Error/Receive Unexpected Message in Established State (message of type 1)",
        ),
        (
            with(Code::HARD_RESET, b"\x06\x02\x02go"),
            "6/9 Cease/Hard Reset (6/2 Cease/Administrative Shutdown: \"go\")",
        ),
        (with(Code::HARD_RESET, &[6, 9, 6, 9]), "6/9 Cease/Hard Reset (data 06090609)"),
    ] {
        assert_eq!(notification.to_string(), words);
    }
    let long = Notification::with_data(Code(6, 8), &[0xaa; 100]).to_string();
    assert!(long.ends_with("aa...)") && long.len() < 120, "{long}");
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let cease = Cease::AdministrativeShutdown(ShutdownText::new(&"ä".repeat(200)));
    let notification = cease.notification();
    assert_eq!(notification.data.len(), 1 + 254);
    assert_eq!(notification.text(), Some("ä".repeat(127).as_str()));
    assert_eq!(Cease::AdministrativeShutdown("".into()).notification().data, []);
}

#[test]
fn every_cease_has_its_subcode() {
    for (cease, code) in [
        (Cease::AdministrativeShutdown("x".into()), Code(6, 2)),
        (Cease::PeerDeconfigured, Code(6, 3)),
        (Cease::AdministrativeReset("x".into()), Code(6, 4)),
        (Cease::OtherConfigurationChange, Code(6, 6)),
        (Cease::OutOfResources, Code(6, 8)),
        (Cease::BfdDown, Code(6, 10)),
    ] {
        assert_eq!(cease.notification().code, code);
    }
}

#[test]
fn an_update_is_counted_and_nothing_of_it_kept() {
    let body = [0, 5, 24, 10, 0, 0, 0, 0, 4, 0x40, 1, 1, 0, 32, 192, 0, 2, 1, 24, 203, 0, 113, 0];
    let Message::Update(update) = decode_one(&frame(kind::UPDATE, &body)) else { panic!() };
    assert_eq!(
        update,
        ReceivedUpdate { withdrawn: 2, attribute_octets: 4, announced: 3, end_of_rib: None },
        "0.0.0.0/0 counts as well"
    );
}

#[test]
fn attributes_are_never_read_so_they_cannot_reset_the_session() {
    for attributes in [&[0xff; 40][..], &[0x40, 1, 200, 0], &[0x40]] {
        let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
        body.extend_from_slice(attributes);
        body.extend_from_slice(&[33, 1, 2, 3, 4, 5]);
        assert!(matches!(decode_one(&frame(kind::UPDATE, &body)), Message::Update(_)));
    }
}

#[test]
fn end_of_rib_is_recognised_for_each_family() {
    for family in Family::ALL {
        let Message::Update(update) = decode_one(&encode_end_of_rib(family)) else { panic!() };
        assert_eq!(update.end_of_rib, Some(family));
    }
    let extended = frame(kind::UPDATE, &[0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1]);
    let Message::Update(update) = decode_one(&extended) else { panic!() };
    assert_eq!(update.end_of_rib, Some(Family::Ipv6Unicast));
}

#[test]
fn route_refresh_survives_the_wire() {
    for (subtype, code) in [
        (RefreshSubtype::Request, 0),
        (RefreshSubtype::Begin, 1),
        (RefreshSubtype::End, 2),
        (RefreshSubtype::Unknown(9), 9),
    ] {
        let refresh = RouteRefresh::new(Family::Ipv6Unicast, subtype);
        let bytes = refresh.encode();
        assert_eq!(bytes[19..], [0, 2, code, 1]);
        assert_eq!(decode_one(&bytes), Message::RouteRefresh(refresh));
    }
}

/// One of each message that we send.
fn samples() -> Vec<Vec<u8>> {
    let capabilities = vec![
        Capability::family(Family::Ipv4Unicast),
        Capability::family(Family::Ipv6Unicast),
        Capability::RouteRefresh,
        Capability::FourOctetAs(4_200_000_000),
    ];
    let open = Open { my_as: AS_TRANS, hold_time: 90, router_id: [10, 0, 0, 1].into(), capabilities };
    vec![
        open.encode(),
        encode_keepalive(),
        Cease::AdministrativeShutdown("drain".into()).notification().encode(),
        RouteRefresh::new(Family::Ipv4Unicast, RefreshSubtype::Request).encode(),
        encode_end_of_rib(Family::Ipv6Unicast),
        encode_withdrawal(
            &testing::PLAIN,
            Family::Ipv4Unicast,
            &mut testing::nets(["192.0.2.0/24", "192.0.2.7/32"]),
            &mut vec![],
        ),
    ]
}

proptest! {
    #[test]
    fn random_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_all(&bytes);
    }

    #[test]
    fn random_bodies_never_panic(kind in 0_u8..8, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = decode_all(&frame(kind, &body)) {
            prop_assert!(error.notification().encode().len() <= MAX_MESSAGE);
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn mutated_messages_never_panic(
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(messages) = decode_all(&bytes) {
            for message in messages {
                if let Message::Notification(notification) = message {
                    let _ = notification.to_string();
                }
            }
        }
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut(
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 1..12),
        cuts in proptest::collection::vec(1_usize..90, 1..60),
    ) {
        let samples = samples();
        let stream: Vec<u8> = order.iter().flat_map(|at| samples[at.index(samples.len())].clone()).collect();
        let whole = decode_all(&stream).unwrap();
        prop_assert_eq!(whole.len(), order.len());
        let (mut decoder, mut pieces, mut rest) = (Decoder::new(), Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            let (piece, tail) = rest.split_at(rest.len().min(*cut));
            decoder.space()[..piece.len()].copy_from_slice(piece);
            decoder.filled(piece.len());
            while let Some(message) = decoder.next_message().unwrap() {
                pieces.push(message);
            }
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(pieces, whole);
    }
}
