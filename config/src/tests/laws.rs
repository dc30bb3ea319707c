//! What holds for every text: no panic, no blow-up, and an accepted document keeps what its types promise.

use std::fmt::Write;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{MAX_DOCUMENT_BYTES, overlapping};

/// Generous on a loaded machine, and far below what an unbounded walk would take.
const SOON: Duration = Duration::from_secs(20);

fn soon(document: &str) -> Result<Parsed, ConfigErrors> {
    let start = Instant::now();
    let result = parse(document);
    let took = start.elapsed();
    assert!(took < SOON, "{took:?} for {} bytes", document.len());
    result
}

#[test]
fn a_document_beyond_the_limit_is_refused_by_its_size() {
    let errors = refused(&"#".repeat(MAX_DOCUMENT_BYTES + 1));
    assert_eq!(errors.to_string(), "line 1: the document has 1048577 bytes: use at most 1048576");
    assert_eq!(soon(&"#".repeat(MAX_DOCUMENT_BYTES)).map(|parsed| parsed.config), Ok(Config::default()));
}

#[test]
fn deep_nesting_is_refused() {
    for document in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), "? ".repeat(100_000)]
    {
        assert_eq!(soon(&document).map(drop).map_err(|errors| errors.errors().len()), Err(1));
    }
    let message = refused(&format!("{}{}", "[".repeat(33), "]".repeat(33))).to_string();
    assert_eq!(message, "line 1: lists and maps nest more than 32 deep: this format needs nine levels");
}

#[test]
fn nesting_by_aliases_is_refused() {
    let mut document = "x0: &x0 [a]\n".to_owned();
    for level in 1..1000 {
        writeln!(document, "x{level}: &x{level} [*x{}]", level - 1).expect("writing to memory");
    }
    let errors = soon(&document).expect_err("too deep");
    assert_eq!(
        errors.to_string(),
        "line 33: lists and maps nest more than 32 deep: this format needs nine levels"
    );
}

#[test]
fn an_alias_inside_its_own_value_is_refused() {
    let message = refused("peers: &all [*all]").to_string();
    assert_eq!(message, "line 1: an alias stands inside the value that it names: write the value out");
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut document = "x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        let alias = format!("*x{}", level - 1);
        writeln!(document, "x{level}: &x{level} [{}]", [alias.as_str(); 8].join(", "))
            .expect("writing to memory");
    }
    document.push_str("peers: *x19\n");
    let message = soon(&document).expect_err("a bomb").to_string();
    assert!(
        message.ends_with("aliases expand to more than 1048576 bytes: write the values out"),
        "{message}"
    );
}

#[test]
fn a_bomb_of_one_long_word_is_refused() {
    let mut document = format!("x: &x {}\npeers:\n", "a".repeat(100_000));
    document.push_str(&"- *x\n".repeat(1000));
    let message = soon(&document).expect_err("a bomb").to_string();
    assert!(message.starts_with("line 13: aliases expand"), "{message}");
}

#[test]
fn large_documents_are_read_soon() {
    let mut pools = "address-pools:\n".to_owned();
    let mut aliases = "communities:\n".to_owned();
    for index in 0..3_000_u32 {
        let (high, low) = (index / 256, index % 256);
        writeln!(pools, "- {{name: p{index}, protocol: bgp, addresses: [10.{high}.{low}.0/24]}}")
            .expect("memory");
        writeln!(aliases, "  a{index}: '{index}:1'").expect("memory");
    }
    assert_eq!(soon(&pools).map(|parsed| parsed.config.pools.len()), Ok(3_000));
    // Every community unknown among many aliases, every key unknown, everything overlapping, all keys alike.
    let unknown = vec!["zzzzzzzz"; 50_000].join(",");
    let document = format!(
        "{aliases}address-pools: [{{name: a, cidr: [192.0.2.0/24], advertisements: [{{communities: [{unknown}]}}]}}]"
    );
    assert_eq!(soon(&document).map_err(|errors| errors.unlisted()), Err(49_900));
    assert!(soon(&(0..60_000).map(|index| format!("key-{index}: 1\n")).collect::<String>()).is_ok());
    let overlaps = vec!["192.0.2.0/24"; 60_000].join(",");
    let document = format!("address-pools: [{{name: a, cidr: [{overlaps}], advertisements: [{{}}]}}]");
    assert_eq!(soon(&document).map_err(|errors| errors.unlisted()), Err(59_899));
    assert_eq!(soon(&"a: 1\n".repeat(100_000)).map_err(|errors| errors.unlisted()), Err(99_899));
}

/// Pieces that documents are made of, so that random ones come far into the readers.
fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "peers:",
        "address-pools:",
        "communities:",
        "bgp-communities:",
        "herald:",
        "bfd-profiles:",
        "\n",
        "\n- ",
        "\n  ",
        "\n    - ",
        " ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "name: a",
        "protocol: bgp",
        "protocol: layer2",
        "cidr:",
        "addresses:",
        "advertisements:",
        "bgp-advertisements:",
        "192.0.2.0/24",
        "192.0.2.10 - 192.0.2.20",
        "2001:db8:1::/64",
        "::/0",
        "aggregation-length: 24",
        "localpref: 5",
        "my-asn: 1",
        "peer-asn: 2",
        "peer-address: 10.0.0.1",
        "hold-time: 9s",
        "node-selectors:",
        "match-labels:",
        "match-expressions:",
        "key: a",
        "operator: In",
        "values:",
        "password: x",
        "&a ",
        "*a",
        "<<: ",
        "? ",
        ": ",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "---\n",
        "...",
        "!!str ",
        "!",
        "%",
        "@",
        "\t",
        "~",
        "é",
        "cool-down: 5s",
        "external-ips:",
        "allow:",
        "local-addresses: all",
        "\u{feff}",
        "\0",
        "\r\n",
    ])
}

fn keeps_its_promises(config: &Config) {
    let ranges: Vec<_> = config.pools.iter().flat_map(|pool| pool.ranges.clone()).collect();
    assert_eq!(overlapping(&ranges), []);
    for pool in &config.pools {
        assert!(!pool.name.is_empty());
        assert!(pool.layer2.is_empty() || pool.advertisements.is_empty());
        for advertisement in &pool.advertisements {
            assert!((1..=32).contains(&advertisement.aggregation_length));
            assert!((1..=128).contains(&advertisement.aggregation_length_v6));
        }
    }
    for peer in &config.peers {
        assert!(peer.my_asn != 0 && peer.asn != Some(0) && peer.port != 0);
        let hold = peer.hold_time.as_secs();
        assert!((hold == 0 || (3..=65535).contains(&hold)) && peer.hold_time.subsec_nanos() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_panics(document in "\\PC{0,200}") {
        let _ = parse(&document);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_mixture_of_known_pieces_panics(pieces in proptest::collection::vec(piece(), 0..60)) {
        match parse(&pieces.concat()) {
            Ok(parsed) => keeps_its_promises(&parsed.config),
            Err(errors) => prop_assert!(!errors.errors().is_empty()),
        }
    }

    #[test]
    fn a_good_document_with_one_damage_is_refused_or_keeps_its_promises(
        at in 0_usize..2000,
        length in 0_usize..8,
        piece in piece(),
    ) {
        for document in [
            include_str!("../../testdata/full-0.2.yaml"),
            include_str!("../../testdata/full-0.12.yaml"),
            include_str!("../../testdata/anchors.yaml"),
            include_str!("../../testdata/herald.yaml"),
        ] {
            let at = at % document.len();
            let end = (at + length).min(document.len());
            let damaged = format!("{}{piece}{}", &document[..at], &document[end..]);
            match parse(&damaged) {
                Ok(parsed) => keeps_its_promises(&parsed.config),
                Err(errors) => prop_assert!(!errors.errors().is_empty()),
            }
        }
    }
}
