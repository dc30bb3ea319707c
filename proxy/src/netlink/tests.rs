//! Reading what the kernel may say, and writing what it can read.

use proptest::prelude::*;

use super::attributes::{HEADER, attributes};
use super::batch::Batch;
use super::reply::replies;
use super::*;
use crate::element::{Frontend, Policy, Protocol};
use crate::ruleset::RulesetConfig;

fn service(index: u32) -> Element {
    let address = std::net::Ipv4Addr::from(0x0a60_0000 + index).into();
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
    Element::Service { frontend, policy: Policy::Internal }
}

/// Sequence number, type and bytes of each message.
fn messages(mut bytes: &[u8]) -> Vec<(u32, u16, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        let kind = u16::from_ne_bytes(bytes[4..6].try_into().unwrap());
        found.push((u32::from_ne_bytes(bytes[8..12].try_into().unwrap()), kind, &bytes[..len]));
        bytes = &bytes[len..];
    }
    found
}

#[test]
fn a_batch_numbers_its_messages_and_only_its_last_asks_for_an_answer() {
    let mut batch = Batch::new(u32::MAX - 3, 0, None);
    for table in &Ruleset::new(&RulesetConfig::default()).tables {
        batch.delete_table(table.family, Ruleset::TABLE);
        batch.add_table(table);
        batch.add_constants(table);
        batch.add_rules(table);
    }
    batch.finish();
    let messages = messages(batch.as_slice());
    let (begin, end) = (messages.first().unwrap(), messages.last().unwrap());
    assert_eq!((begin.1, end.1), (16, 17));
    for (index, message) in (0u32..).zip(&messages) {
        assert_eq!(message.0, (u32::MAX - 3).wrapping_add(index));
        assert!(batch.contains(message.0));
        let asks = message.2[6] & 4 != 0;
        assert_eq!(asks, message.0 == batch.last(), "message {index}");
    }
    assert!(!batch.contains(batch.end()));
}

#[test]
fn elements_are_spread_over_messages_that_an_attribute_can_hold_and_each_can_be_named() {
    let elements: Vec<Element> = (0..5000).map(service).collect();
    let mut batch = Batch::new(7, elements.len(), None);
    batch.elements(&elements, false);
    batch.finish();
    let messages = messages(batch.as_slice());
    let mut named = Vec::new();
    for (sequence, _, bytes) in &messages[1..messages.len() - 1] {
        assert!(bytes.len() < 60_000);
        let (_, list) = attributes(&bytes[HEADER + 4..]).find(|(kind, _)| *kind == 3).unwrap();
        let mut offset = bytes.len() - list.len();
        for (_, element) in attributes(list) {
            named.push(batch.subject(*sequence, Some(offset as u32), &[], &elements));
            offset += element.len() + 4;
        }
    }
    let expected: Vec<Subject> = elements.iter().copied().map(Subject::Addition).collect();
    assert_eq!(named, expected);
    assert_eq!(batch.subject(8, None, &[], &elements), Subject::Object("elements of services".into()));
    assert_eq!(batch.subject(7, None, &[], &elements), Subject::Batch);
}

#[test]
fn a_refusal_is_read_with_its_words_and_place() {
    let mut bytes = vec![0u8; 36];
    bytes[4..6].copy_from_slice(&2u16.to_ne_bytes());
    bytes[8..12].copy_from_slice(&9u32.to_ne_bytes());
    bytes[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
    bytes.extend([8, 0, 2, 0]);
    bytes.extend(400u32.to_ne_bytes());
    bytes.extend([7, 0, 1, 0, b'n', b'o', 0, 0]);
    let len = bytes.len() as u32;
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    let expected = Reply {
        sequence: 9,
        kind: 2,
        family: 239,
        interrupted: false,
        error: Some(17),
        attributes: &[],
        reason: Some("no".into()),
        offset: Some(400),
    };
    assert_eq!(replies(&bytes).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_class_without_a_chain_is_refused_before_the_kernel_sees_it() {
    let frontend = Frontend { address: [192, 0, 2, 1].into(), protocol: Protocol::Udp, port: 53 };
    let pick = |class| Element::Pick { frontend, scope: crate::element::Scope::Local, class };
    assert!(check_classes(&[pick(64), pick(2048)]).is_ok());
    assert!(
        matches!(check_classes(&[pick(64), pick(65)]), Err(KernelError::UnknownClass(e)) if e == pick(65))
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(replies(&bytes).count() <= bytes.len() / HEADER);
        prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
    }
}
