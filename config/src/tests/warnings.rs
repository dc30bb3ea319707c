//! The exact text of each warning.

use super::*;

fn warns(document: &str, expected: &str) {
    assert_eq!(warnings(document), format!("{expected}\n"), "{document}");
}

#[test]
fn unknown_keys_are_ignored_with_the_nearest_known_key() {
    for (document, expected) in [
        ("peer: []", "line 1, peer: unknown key, ignored: did you mean peers?"),
        ("adress_pools: []", "line 1, adress_pools: unknown key, ignored: did you mean address-pools?"),
        ("version: 1", "line 1, version: unknown key, ignored: the nearest known key is peers"),
        (
            &with_peer("holdTime: 9s"),
            "line 2, peers[0].holdTime: unknown key, ignored: did you mean hold-time?",
        ),
        (
            &with_peer("'a b': 1"),
            "line 2, peers[0].\"a b\": unknown key, ignored: the nearest known key is my-asn",
        ),
        (
            &with_pool("auto-asign: no"),
            "line 2, address-pools[0].auto-asign: unknown key, ignored: did you mean auto-assign?",
        ),
        (
            &with_pool("bgp-advertisements: [{local-pref: 5}]"),
            "line 2, address-pools[0].bgp-advertisements[0].local-pref: unknown key, ignored: did you mean localpref?",
        ),
        (
            &with_peer("node-selectors: [{matchLabels: {a: b}}]"),
            "line 2, peers[0].node-selectors[0].matchLabels: unknown key, ignored: did you mean match-labels?",
        ),
        (
            &with_peer("node-selectors: [{match-expressions: [{key: a, operator: Exists, vlaues: []}]}]"),
            "line 2, peers[0].node-selectors[0].match-expressions[0].vlaues: unknown key, ignored: did you mean values?",
        ),
        ("herald: {cooldown: 9s}", "line 1, herald.cooldown: unknown key, ignored: did you mean cool-down?"),
        (
            "herald: {external-ips: {allowed: []}}",
            "line 1, herald.external-ips.allowed: unknown key, ignored: did you mean allow?",
        ),
    ] {
        warns(document, expected);
    }
}

#[test]
fn unknown_keys_of_0_2_are_warned_of_and_ignored_too() {
    warns(
        "address-pools:\n- name: a\n  cidr: [192.0.2.0/24]\n  advertisements: [{}]\n  cidrs: [198.51.100.0/24]",
        "line 5, address-pools[0].cidrs: unknown key, ignored: did you mean cidr?",
    );
}

#[test]
fn harmless_repetitions_are_dropped() {
    let peer = "{my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1}";
    let twice = format!("peers:\n- {peer}\n- {peer}");
    warns(&twice, "line 3, peers[1]: the same peer as peers[0], ignored: remove one of the two");
    assert_eq!(config(&twice).peers.len(), 1);

    let ads = with_pool("bgp-advertisements: [{localpref: 7}, {localpref: 7}]");
    warns(
        &ads,
        "line 2, address-pools[0].bgp-advertisements[1]: the same as an advertisement before it, ignored: \
         remove one of the two",
    );
    assert_eq!(config(&ads).pools[0].advertisements.len(), 1);

    warns(
        &with_pool("bgp-advertisements: [{communities: ['1:2', '1:2']}]"),
        "line 2, address-pools[0].bgp-advertisements[0].communities[1]: the community 1:2 stands in this list \
         already: remove one",
    );
}

#[test]
fn two_sessions_to_one_neighbour_are_warned_of_unless_other_nodes_speak() {
    let peers = |selector: &str| {
        format!(
            "peers:\n- {{my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1}}\n\
             - {{my-asn: 1, peer-asn: 2, peer-address: 10.0.0.1, hold-time: 9s{selector}}}"
        )
    };
    warns(
        &peers(""),
        "line 3, peers[1]: the same neighbour as peers[0] on the same nodes: routers keep only one of two such sessions",
    );
    assert_eq!(warnings(&peers(", node-selectors: [{match-labels: {rack: r1}}]")), "");
}

#[test]
fn a_pool_that_does_nothing_is_warned_of() {
    warns(
        "address-pools: [{name: a, cidr: [], advertisements: [{}]}]",
        "line 1, address-pools[0]: pool a has no cidr: there is nothing to give to Services",
    );
}

#[test]
fn an_empty_document_is_an_empty_configuration() {
    for document in ["", "\n# nothing\n", "---\n", "{}", "null"] {
        let Parsed { config, warnings, .. } = parsed(document);
        assert_eq!(config, Config::default(), "{document:?}");
        assert_eq!(
            warnings[0].message, "the document is empty: there are no pools and no peers",
            "{document:?}"
        );
    }
}

#[test]
fn echo_mode_is_warned_of_where_it_is_asked_for() {
    assert_eq!(warnings("bfd-profiles: [{name: a, echo-mode: no}]\naddress-pools: []\n"), "");
    assert_eq!(
        warnings("bfd-profiles: [{name: a, echo-mode: yes}]\naddress-pools: []\n"),
        "line 1, bfd-profiles[0].echo-mode: no echo packets are sent: control packets alone watch the path, as often as the profile says\n"
    );
}

#[test]
fn very_many_warnings_are_counted_and_not_listed() {
    let keys: Vec<String> = (0..150).map(|index| format!("x{index}: 1")).collect();
    let warnings = parsed(&keys.join("\n")).warnings;
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings[100].to_string(), "line 100: 50 more warnings are not listed");
}
