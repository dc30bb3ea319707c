//! What `objects.rs` writes is read back as it was; anything else is an error and never a panic.

use proptest::prelude::*;

use super::super::attributes::HEADER;
use super::super::batch::Batch;
use super::super::reply::replies;
use super::*;
use crate::element::Element;
use crate::testing::any_element;

/// The elements in a batch's messages: of each, its family, set and attributes.
fn messages(batch: &[u8]) -> Vec<(IpFamily, Option<SetName>, Vec<u8>)> {
    let mut rest = batch;
    let mut found = Vec::new();
    while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
        let family = if rest[HEADER] == 10 { IpFamily::V6 } else { IpFamily::V4 };
        let message = rest[HEADER + 4..len].to_vec();
        let name = find(&message, NFTA_SET_ELEM_LIST_SET).and_then(text);
        let set = SetName::ALL.into_iter().find(|set| Some(set.as_str()) == name);
        found.push((family, set, message));
        rest = &rest[len.next_multiple_of(4)..];
    }
    found
}

fn encode(elements: &[Element]) -> Vec<u8> {
    let mut batch = Batch::new(1, elements.len(), None);
    batch.elements(elements, false);
    batch.finish();
    batch.as_slice().to_vec()
}

fn read(family: IpFamily, set: SetName, message: &[u8]) -> Result<Vec<Element>, Foreign> {
    let mut elements = Vec::new();
    let mut take = |entry: Entry| {
        elements.push(entry.element().ok_or_else(|| Foreign("no element".to_owned()))?);
        Ok(())
    };
    let mut reader = SetReader::new(family, set);
    reader.message(message, &mut take)?;
    reader.finish(&mut take)?;
    Ok(elements)
}

fn sorted(mut elements: Vec<Element>) -> Vec<Element> {
    elements.sort_unstable();
    elements
}

#[test]
fn prefixes_are_read_at_both_ends_of_the_address_space_and_side_by_side() {
    for prefixes in [
        &["192.0.2.0/25", "192.0.2.128/25", "255.255.255.0/24", "0.0.0.0/8", "10.1.2.3/32"][..],
        &["0.0.0.0/0"],
        &["::/0"],
        &["2001:db8:1::/96", "2001:db8:3::1/128", "ff00::/8", "::/16"],
    ] {
        let elements: Vec<Element> =
            prefixes.iter().map(|prefix| Element::Announced { prefix: prefix.parse().unwrap() }).collect();
        let batch = messages(&encode(&elements));
        let (family, set, message) = &batch[1];
        assert_eq!(sorted(read(*family, set.unwrap(), message).unwrap()), sorted(elements));
    }
}

#[test]
fn an_interval_that_is_no_prefix_and_ends_without_starts_are_foreign() {
    let boundary = |w: &mut super::super::attributes::Writer, address: [u8; 4], end: bool| {
        w.nest(NFTA_LIST_ELEM, |w| {
            if end {
                w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            }
            w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, &address));
        });
    };
    let list = |boundaries: &[([u8; 4], bool)]| {
        let mut w = super::super::attributes::Writer::default();
        w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
            boundaries.iter().for_each(|(address, end)| boundary(w, *address, *end));
        });
        read(IpFamily::V4, SetName::Announced, w.as_slice())
    };
    let (a, b, c, d) = ([192, 0, 2, 0], [192, 0, 2, 3], [192, 0, 2, 4], [192, 0, 2, 8]);
    assert!(list(&[(a, false), (c, true)]).is_ok());
    assert!(list(&[(c, true), (a, false)]).is_ok());
    assert!(list(&[(a, false), (b, true)]).is_err(), "three addresses");
    assert!(
        list(&[(c, false), ([192, 0, 2, 12], true)]).is_err(),
        "eight addresses that start at the fourth"
    );
    assert!(list(&[(b, false), (c, true)]).is_ok());
    assert!(list(&[(a, false), (d, true)]).is_ok());
    assert!(list(&[(c, true)]).is_err(), "an end alone");
    assert!(list(&[(a, false), (c, false), (d, true)]).is_err(), "a start inside another");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        elements in proptest::collection::btree_set(any_element(), 1..60),
    ) {
        let elements: Vec<Element> = elements.into_iter().collect();
        let mut back = Vec::new();
        for (family, set, message) in messages(&encode(&elements)) {
            if let Some(set) = set {
                back.extend(read(family, set, &message).unwrap());
            }
        }
        prop_assert_eq!(sorted(back), elements);
    }

    #[test]
    fn an_entry_is_the_element_that_it_was_made_of(element in any_element()) {
        prop_assert_eq!(Entry::from(&element).element(), Some(element));
    }

    #[test]
    fn changed_bytes_are_read_as_what_they_say_or_refused(
        elements in proptest::collection::vec(any_element(), 1..8),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for (family, set, mut message) in messages(&encode(&elements)) {
            for (place, byte) in &edits {
                if !message.is_empty() {
                    let place = place.index(message.len());
                    message[place] = *byte;
                }
            }
            message.truncate(cut.index(message.len() + 1).max(message.len() / 2));
            for set in set.into_iter().chain(SetName::ALL) {
                // Whatever is taken for an element is written as the same bytes again.
                for element in read(family, set, &message).unwrap_or_default() {
                    prop_assert_eq!(Entry::from(&element).element(), Some(element));
                    prop_assert_eq!(Entry::from(&element).set, set);
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for family in IpFamily::ALL {
            for set in SetName::ALL {
                let _ = read(family, set, &bytes);
            }
        }
        for reply in replies(&bytes) {
            let _ = reply.error.map(std::io::Error::from_raw_os_error);
            prop_assert!(attributes(reply.attributes).count() <= bytes.len() / 4);
        }
    }
}
