use proptest::prelude::*;

use super::*;

fn keys(secret: &[u8]) -> Keys {
    Keys::new("cluster-1", secret, &[])
}

fn hello() -> Hello {
    let offer = |score, claim, leaving| Some(Offer { score, claim, leaving });
    Hello {
        sender: Sender::new("node-1".into(), 3, [2, 0, 0, 0, 0, 1]),
        boot: 0x0102_0304_0506_0708,
        sequence: 9,
        stopping: true,
        alone: true,
        interval: 100,
        version: 7,
        floor: 2,
        heard: vec![
            HeardPeer { participant: Participant(5), boot: 6, sequence: 7, version: 8, alone: false },
            HeardPeer { participant: Participant(9), boot: 6, sequence: 7, version: 8, alone: true },
        ],
        update: Some(Update {
            base: 4,
            to: 7,
            offers: vec![
                ("192.0.2.1".parse().unwrap(), offer(0, Some(3), false)),
                ("192.0.2.2".parse().unwrap(), None),
                ("2001:db8:1::1".parse().unwrap(), offer(500, None, true)),
            ],
        }),
    }
}

#[test]
fn the_layout_on_the_wire_is_this() {
    let datagram = keys(b"secret").encode(&hello());
    let hex: String = datagram.iter().map(|octet| format!("{octet:02x}")).collect();
    let expected = [
        "48524c44",
        "01000000",
        "CLUSTER",
        "0102030405060708",
        "00000009",
        "010010",
        "00000003",
        "020000000001",
        "6e6f64652d31",
        "02000b",
        "03",
        "0064",
        "00000007",
        "00000002",
        "030030",
        "0000000000000005",
        "0000000000000006",
        "00000007",
        "00000008",
        "0000000000000009",
        "0000000000000006",
        "00000007",
        "00000008",
        "060004",
        "00000002",
        "040035",
        "00000004",
        "00000007",
        "04",
        "0000",
        "00000003",
        "c0000201",
        "02",
        "0000",
        "00000000",
        "c0000202",
        "09",
        "01f4",
        "00000000",
        "20010db8000100000000000000000001",
    ];
    let expected = expected.concat().replace("CLUSTER", &hex[16..32]);
    assert_eq!(&hex[..hex.len() - 64], expected);
    assert_eq!(keys(b"secret").decode(&datagram), Ok(hello()));
}

#[test]
fn only_hellos_of_the_cluster_with_an_accepted_key_are_read() {
    let datagram = keys(b"new").encode(&hello());
    let rotating = Keys::new("cluster-1", b"old", &[b"new".to_vec()]);
    let mut flipped = datagram.clone();
    flipped[40] ^= 1;
    let mut version = datagram.clone();
    version[4] = 2;
    let forged = version.clone();
    resign(&keys(b"new"), &mut version);
    let mut long = datagram.clone();
    long.resize(MAX_LEN + 1, 0);
    for (what, reader, datagram, expected) in [
        ("accepted beside the one that signs", &rotating, &datagram, Ok(hello())),
        ("another key", &keys(b"old"), &datagram, Err(Refused::Unauthenticated)),
        ("another cluster", &Keys::new("cluster-2", b"new", &[]), &datagram, Err(Refused::OtherCluster)),
        ("an octet changed", &rotating, &flipped, Err(Refused::Unauthenticated)),
        ("another version", &rotating, &version, Err(Refused::OtherVersion(2))),
        ("another version, by whoever", &rotating, &forged, Err(Refused::Unauthenticated)),
        ("too long", &rotating, &long, Err(Refused::Unauthenticated)),
        ("short", &rotating, &datagram[..20].to_vec(), Err(Refused::Foreign)),
        ("empty", &rotating, &Vec::new(), Err(Refused::Foreign)),
    ] {
        assert_eq!(reader.decode(datagram), expected, "{what}");
    }
}

/// A datagram with these octets after the fixed header, signed.
fn signed(keys: &Keys, elements: &[u8]) -> Vec<u8> {
    let mut datagram = keys.encode(&hello())[..28].to_vec();
    datagram.extend(elements);
    datagram.extend([0; HMAC_LEN]);
    resign(keys, &mut datagram);
    datagram
}

fn resign(keys: &Keys, datagram: &mut [u8]) {
    let (signed, code) = datagram.split_at_mut(datagram.len() - HMAC_LEN);
    code.copy_from_slice(hmac::sign(&keys.sign, signed).as_ref());
}

#[test]
fn unknown_elements_are_skipped_and_broken_ones_refuse_the_datagram() {
    let keys = keys(b"secret");
    let sender = [&[1, 0, 16, 0, 0, 0, 3, 2, 0, 0, 0, 0, 1][..], b"node-1"].concat();
    let state = [2, 0, 11, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0];
    let good = [&sender[..], &[200, 0, 2, 9, 9], &state].concat();
    let read = keys.decode(&signed(&keys, &good)).unwrap();
    assert_eq!((&*read.sender.node, read.interval, read.update), ("node-1", 100, None));
    for (what, elements) in [
        ("no sender", state.to_vec()),
        ("no state", sender.clone()),
        ("length beyond the end", [&good[..], &[3, 1, 0]].concat()),
        ("half an entry", [&good[..], &[3, 0, 2, 0, 0]].concat()),
        ("an update that goes nowhere", [&good[..], &[4, 0, 8, 0, 0, 0, 7, 0, 0, 0, 7]].concat()),
        ("no name", [&[1, 0, 10, 0, 0, 0, 3, 2, 0, 0, 0, 0, 1][..], &state].concat()),
    ] {
        assert_eq!(keys.decode(&signed(&keys, &elements)), Err(Refused::Malformed), "{what}");
    }
}

#[test]
fn the_longest_hello_and_the_longest_page_fit() {
    let mut longest = hello();
    longest.sender.node = "n".repeat(MAX_NAME).into();
    longest.update = None;
    longest.heard = vec![longest.heard[1]; MAX_HEARD];
    assert!(keys(b"s").encode(&longest).len() <= MAX_LEN, "{}", keys(b"s").encode(&longest).len());
    longest.heard.clear();
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let offers = vec![(v6, None); OFFERS_BUDGET / offer_len(v6)];
    longest.update = Some(Update { base: 0, to: 1, offers });
    assert!(keys(b"s").encode(&longest).len() <= MAX_LEN);
}

proptest! {
    #[test]
    fn nothing_that_is_signed_makes_reading_fail(elements in proptest::collection::vec(any::<u8>(), 0..200)) {
        let keys = keys(b"secret");
        let datagram = signed(&keys, &elements);
        if let Ok(hello) = keys.decode(&datagram) {
            prop_assert!(!hello.sender.node.is_empty());
        }
    }
}
