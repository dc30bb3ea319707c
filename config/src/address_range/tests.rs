//! Ranges by example and by law.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn range(text: &str) -> AddressRange {
    text.parse().expect(text)
}

#[test]
fn cidrs_and_ranges_are_read_with_host_bits_masked() {
    for (text, first, last, len) in [
        ("192.0.2.0/24", "192.0.2.0", "192.0.2.255", 256),
        ("192.0.2.77/24", "192.0.2.0", "192.0.2.255", 256),
        (" 192.0.2.7/32 ", "192.0.2.7", "192.0.2.7", 1),
        ("192.0.2.10-192.0.2.20", "192.0.2.10", "192.0.2.20", 11),
        ("192.0.2.10 - 192.0.2.20", "192.0.2.10", "192.0.2.20", 11),
        ("192.0.2.10-192.0.2.10", "192.0.2.10", "192.0.2.10", 1),
        ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", 1 << 32),
        ("2001:db8:1::/120", "2001:db8:1::", "2001:db8:1::ff", 256),
        ("2001:db8:1::1-2001:db8:1::3", "2001:db8:1::1", "2001:db8:1::3", 3),
        ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u128::MAX),
    ] {
        let range = range(text);
        assert_eq!(range.first().to_string(), first, "{text}");
        assert_eq!(range.last().to_string(), last, "{text}");
        assert_eq!(range.len(), len, "{text}");
    }
}

#[test]
fn what_is_no_range_says_what_to_write() {
    const SUCH_AS: &str = "write a CIDR such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20";
    for (text, message) in [
        ("192.0.2.1", "192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address".to_owned()),
        (
            "2001:db8::1",
            "2001:db8::1 has no prefix length: write 2001:db8::1/128 for this one address".to_owned(),
        ),
        (
            "192.0.2.9-192.0.2.1",
            "192.0.2.9-192.0.2.1 ends before it starts: write 192.0.2.1-192.0.2.9".to_owned(),
        ),
        (
            "192.0.2.9-2001:db8::1",
            "192.0.2.9-2001:db8::1 mixes IPv4 and IPv6: write one range for each family".to_owned(),
        ),
        ("192.0.2.0/33", "192.0.2.0/33 has a prefix length beyond /32: use /0 to /32".to_owned()),
        ("2001:db8::/129", "2001:db8::/129 has a prefix length beyond /128: use /0 to /128".to_owned()),
        ("192.0.2.0/999", "192.0.2.0/999 has a prefix length beyond /32: use /0 to /32".to_owned()),
        ("192.0.2.0/+8", format!("192.0.2.0/+8 is no range of addresses: {SUCH_AS}")),
        ("192.0.2.0/", format!("192.0.2.0/ is no range of addresses: {SUCH_AS}")),
        ("192.0.2.256/24", format!("192.0.2.256/24 is no range of addresses: {SUCH_AS}")),
        ("192.0.2.1-", format!("192.0.2.1- is no range of addresses: {SUCH_AS}")),
        (
            "192.0.2.0/24-192.0.3.0/24",
            format!("192.0.2.0/24-192.0.3.0/24 is no range of addresses: {SUCH_AS}"),
        ),
        ("", format!("\"\" is no range of addresses: {SUCH_AS}")),
    ] {
        assert_eq!(text.parse::<AddressRange>().expect_err(text).to_string(), message);
    }
}

#[test]
fn a_range_prints_as_a_cidr_where_it_is_one() {
    assert_eq!(range("192.0.2.64-192.0.2.127").to_string(), "192.0.2.64/26");
    assert_eq!(range("192.0.2.64 - 192.0.2.128").to_string(), "192.0.2.64-192.0.2.128");
}

#[test]
fn iteration_ends_at_the_end_of_the_family() {
    let top: Vec<_> = range("255.255.255.254-255.255.255.255").iter().collect();
    assert_eq!(top, [IpAddr::from([255, 255, 255, 254]), IpAddr::from([255, 255, 255, 255])]);
    let all_v6 = range("::/0");
    assert_eq!(all_v6.iter().next_back(), Some(all_v6.last()));
    let mut one = range("192.0.2.7/32").iter();
    assert_eq!(one.size_hint(), (1, Some(1)));
    assert_eq!((one.next(), one.next(), one.next_back()), (Some(IpAddr::from([192, 0, 2, 7])), None, None));
}

#[test]
fn families_never_contain_nor_overlap_each_other() {
    assert!(!range("0.0.0.0/0").contains("::1".parse().expect("an address")));
    assert!(!range("::/0").contains("192.0.2.1".parse().expect("an address")));
    assert_eq!(overlapping(&[range("0.0.0.0/0"), range("::/0")]), []);
}

#[test]
fn an_overlap_behind_a_short_range_is_found() {
    let ranges =
        [range("192.0.2.0/24"), range("192.0.2.1/32"), range("192.0.2.128/25"), range("198.51.100.0/24")];
    assert_eq!(overlapping(&ranges), [(0, 1), (0, 2)]);
}

/// Ranges within a few dozen addresses of one family, so that they meet often.
fn small_range() -> impl Strategy<Value = AddressRange> {
    (any::<bool>(), 0_u128..60, 0_u128..20).prop_map(|(v4, first, more)| {
        let base: IpAddr =
            if v4 { Ipv4Addr::new(192, 0, 2, 0).into() } else { "2001:db8:1::".parse().expect("valid") };
        let at = |offset| from_bits(to_bits(base) + offset, base);
        AddressRange::new(at(first), at(first + more)).expect("in order")
    })
}

fn any_range() -> impl Strategy<Value = AddressRange> {
    let ordered = |a: IpAddr, b: IpAddr| AddressRange::new(a.min(b), a.max(b)).expect("in order");
    prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(move |(a, b)| ordered(a.into(), b.into())),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(move |(a, b)| ordered(a.into(), b.into())),
        small_range(),
    ]
}

proptest! {
    #[test]
    fn the_cidrs_of_a_range_are_exactly_the_range(range in any_range()) {
        let cidrs: Vec<AddressRange> = range.to_cidrs().into_iter().map(AddressRange::from).collect();
        prop_assert_eq!(cidrs[0].first(), range.first());
        prop_assert_eq!(cidrs[cidrs.len() - 1].last(), range.last());
        for pair in cidrs.windows(2) {
            prop_assert_eq!(to_bits(pair[0].last()) + 1, to_bits(pair[1].first()));
        }
        // Minimal: RFC-style summarising of a w-bit range never needs more than 2w - 2 blocks.
        prop_assert!(cidrs.len() <= 2 * usize::from(width(range.first())) - 2);
    }

    #[test]
    fn printing_and_reading_give_the_same_range(range in any_range()) {
        prop_assert_eq!(range.to_string().parse::<AddressRange>(), Ok(range));
    }

    #[test]
    fn iteration_contains_and_length_agree(range in small_range()) {
        let forth: Vec<IpAddr> = range.iter().collect();
        let mut back: Vec<IpAddr> = range.iter().rev().collect();
        back.reverse();
        prop_assert_eq!(&forth, &back);
        prop_assert_eq!(forth.len() as u128, range.len());
        prop_assert!(forth.iter().all(|&address| range.contains(address)));
    }

    #[test]
    fn overlaps_are_found_exactly_when_there_are_some(ranges in proptest::collection::vec(small_range(), 0..8)) {
        let pairs = overlapping(&ranges);
        for &(a, b) in &pairs {
            prop_assert!(a < b && ranges[a].overlaps(&ranges[b]));
        }
        let addresses: BTreeSet<IpAddr> = ranges.iter().flat_map(AddressRange::iter).collect();
        let written: usize = ranges.iter().map(|range| range.iter().count()).sum();
        prop_assert_eq!(pairs.is_empty(), addresses.len() == written);
    }

    #[test]
    fn no_text_panics(text in "[0-9a-f.:]{0,12}[-/ ]{0,3}[0-9a-f.:]{0,12}") {
        let _ = text.parse::<AddressRange>();
    }
}
