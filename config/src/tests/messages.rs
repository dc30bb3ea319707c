//! The exact text of each error: place, what is wrong, what to write.

use super::*;

/// The document is refused for exactly these reasons.
pub(super) fn refuses(document: &str, expected: &str) {
    assert_eq!(refused(document).to_string(), expected, "{document}");
}

#[test]
fn a_pool_that_has_no_addresses_because_of_a_slip_of_the_pen_is_refused() {
    for (key, meant) in [("cdir", "cidr"), ("cidrs", "cidr"), ("adresses", "addresses")] {
        refuses(
            &format!("address-pools:\n- name: a\n  {key}: [192.0.2.0/24]\n  advertisements: [{{}}]"),
            &format!("line 2, address-pools[0]: {meant} is missing: rename {key} on line 3 to it"),
        );
    }
}

#[test]
fn peers_are_refused_field_by_field() {
    for (more, expected) in [
        ("peer-port: 65536", "peers[0].peer-port: 65536 is out of range: use 0 to 65535"),
        ("peer-port: bgp", "peers[0].peer-port: bgp is not a whole number: use 0 to 65535"),
        ("peer-port: 0179", "peers[0].peer-port: 0179 has a leading zero: write the number without it"),
        ("peer-port: -1", "peers[0].peer-port: -1 is out of range: use 0 to 65535"),
        ("peer-port: 1.5", "peers[0].peer-port: 1.5 is not a whole number: use 0 to 65535"),
        (
            "peer-port: [179]",
            "peers[0].peer-port: a list stands where one value belongs: write the value without brackets or dash",
        ),
        (
            "peer-port: {a: 1}",
            "peers[0].peer-port: a map stands where one value belongs: write the value alone",
        ),
        ("hold-time: 120", "peers[0].hold-time: 120 has no unit: write 120s"),
        (
            "hold-time: 2.9s",
            "peers[0].hold-time: 2.9s is too short: use 3s or more, or 0s for no keepalives at all",
        ),
        ("hold-time: 65536s", "peers[0].hold-time: 65536s is too long: use at most 65535s"),
        ("hold-time: -3s", "peers[0].hold-time: -3s is negative: write a duration of 0s or more"),
        (
            "router-id: '::1'",
            "peers[0].router-id: ::1 is not a router id: write an IPv4 address other than 0.0.0.0",
        ),
        (
            "router-id: 0.0.0.0",
            "peers[0].router-id: 0.0.0.0 is not a router id: write an IPv4 address other than 0.0.0.0",
        ),
        (
            "source-address: '2001:db8::1'",
            "peers[0].source-address: 2001:db8::1 cannot reach 10.0.0.1: use an IPv4 address of the node",
        ),
        (
            "source-address: eth0",
            "peers[0].source-address: eth0 is not an IP address: write one such as 10.0.0.1",
        ),
        (
            "source-address: 10.0.0.2/24",
            "peers[0].source-address: 10.0.0.2/24 has a prefix length: write 10.0.0.2",
        ),
        (
            "source-address: 224.0.0.1",
            "peers[0].source-address: 224.0.0.1 is not the address of one host: write one such as 10.0.0.1",
        ),
        (
            "source-address: 'fe80::1'",
            "peers[0].source-address: fe80::1 is link-local and names no interface: use a global address",
        ),
        (
            "node-selectors: {a: b}",
            "peers[0].node-selectors: a map stands where a list belongs: put a dash before its first key",
        ),
        (
            "node-selectors: [all]",
            "peers[0].node-selectors[0]: one value stands where a map belongs: write key: value",
        ),
        (
            "node-selectors: [[]]",
            "peers[0].node-selectors[0]: a list stands where a map belongs: write key: value without a dash",
        ),
        (
            "node-selectors: [{match-labels: {a: [b]}}]",
            "peers[0].node-selectors[0].match-labels.a: a list stands where one value belongs: write the value without brackets or dash",
        ),
        (
            "node-selectors: [{match-expressions: [{key: a, operator: Inn, values: [b]}]}]",
            "peers[0].node-selectors[0].match-expressions[0].operator: Inn is not known here: write In",
        ),
        (
            "node-selectors: [{match-expressions: [{key: a, operator: Equal}]}]",
            "peers[0].node-selectors[0].match-expressions[0].operator: Equal is not known here: use In, NotIn, Exists, DoesNotExist",
        ),
        (
            "node-selectors: [{match-expressions: [{operator: Exists}]}]",
            "peers[0].node-selectors[0].match-expressions[0]: key is missing: add it, for example key: rack",
        ),
        (
            "node-selectors: [{match-expressions: [{key: '', operator: Exists}]}]",
            "peers[0].node-selectors[0].match-expressions[0].key: the key is empty: write one",
        ),
        (
            "node-selectors: [{match-expressions: [{key: a, operator: NotIn}]}]",
            "peers[0].node-selectors[0].match-expressions[0]: NotIn has no values: add values: [...] with at least one",
        ),
        (
            "node-selectors: [{match-expressions: [{key: a, operator: Exists, values: [b]}]}]",
            "peers[0].node-selectors[0].match-expressions[0]: Exists takes no values: remove them, or use In or NotIn",
        ),
    ] {
        refuses(&with_peer(more), &format!("line 2, {expected}"));
    }
    refuses(
        "peers: [{my-asn: 0, peer-asn: 4294967296, peer-address: 10.0.0.300}]",
        "line 1, peers[0].my-asn: 0 is out of range: use 1 to 4294967295\n\
         line 1, peers[0].peer-asn: 4294967296 is out of range: use 1 to 4294967295\n\
         line 1, peers[0].peer-address: 10.0.0.300 is not an IP address: write one such as 10.0.0.1",
    );
}

#[test]
fn missing_keys_are_named_together_with_what_was_probably_meant() {
    refuses(
        "peers:\n- my-asn: 64600\n  peer-adress: 10.0.0.1\n  peer-asn:\n",
        "line 2, peers[0]: peer-address is missing: rename peer-adress on line 3 to it\n\
         line 4, peers[0].peer-asn: peer-asn has no value: write one such as peer-asn: 64601",
    );
    refuses(
        "peers:\n-\n",
        "line 2, peers[0]: my-asn is missing: add it, for example my-asn: 64600\n\
         line 2, peers[0]: peer-asn is missing: add it, for example peer-asn: 64601\n\
         line 2, peers[0]: peer-address is missing: add it, for example peer-address: 10.0.0.1",
    );
}

#[test]
fn a_password_is_never_repeated() {
    let long = "s3cr3t".repeat(20);
    let errors = refused(&with_peer(&format!("password: {long}")));
    assert_eq!(
        errors.to_string(),
        "line 2, peers[0].password: the password has 120 bytes: TCP-MD5 takes at most 80"
    );
    let parsed = parsed(&with_peer("password: s3cr3t"));
    assert!(!format!("{parsed:?}").contains("s3cr3t"));
}

#[test]
fn pools_are_refused_field_by_field() {
    for (more, expected) in [
        (
            "auto-assign: maybe",
            "address-pools[0].auto-assign: maybe is neither true nor false: write true or false",
        ),
        (
            "avoid-buggy-ips: 1",
            "address-pools[0].avoid-buggy-ips: 1 is neither true nor false: write true or false",
        ),
        (
            "cidr: 192.0.2.64/26",
            "address-pools[0].cidr: one value stands where a list belongs: write [192.0.2.64/26]",
        ),
        (
            "cidr: [192.0.2.64]",
            "address-pools[0].cidr[0]: 192.0.2.64 has no prefix length: write 192.0.2.64/32 for this one address",
        ),
        (
            "cidr: [192.0.2.90 - 192.0.2.80]",
            "address-pools[0].cidr[0]: 192.0.2.90-192.0.2.80 ends before it starts: write 192.0.2.80-192.0.2.90",
        ),
        ("cidr: [~]", "address-pools[0].cidr[0]: the value is empty: write one, or remove the line"),
        (
            "cidr: [127.0.0.1/32]",
            "address-pools[0].cidr[0]: 127.0.0.1/32 reaches into 127.0.0.0/8, the loopback network: leave that out",
        ),
        (
            "cidr: [223.0.0.0-230.0.0.0]",
            "address-pools[0].cidr[0]: 223.0.0.0-230.0.0.0 reaches into 224.0.0.0/4, multicast: leave that out",
        ),
        (
            "cidr: ['::ffff:c000:200/120']",
            "address-pools[0].cidr[0]: ::ffff:192.0.2.0/120 reaches into ::ffff:0:0/96, IPv4 written as IPv6: leave that out",
        ),
        (
            "cidr: [192.0.2.32/27]",
            "address-pools[0].cidr[0]: 192.0.2.32/27 of pool edge overlaps 192.0.2.0/26 of pool edge on line 1: remove or shorten one of them",
        ),
        (
            "bgp-advertisements: [{aggregation-length: 25}]",
            "address-pools[0].bgp-advertisements[0].aggregation-length: 25 is shorter than 192.0.2.0/26: use 26 to 32",
        ),
        (
            "bgp-advertisements: [{aggregation-length: 33}]",
            "address-pools[0].bgp-advertisements[0].aggregation-length: 33 is out of range: use 26 to 32",
        ),
        (
            "bgp-advertisements: [{aggregation-length: wide}]",
            "address-pools[0].bgp-advertisements[0].aggregation-length: wide is not a whole number: use 26 to 32",
        ),
        (
            "bgp-advertisements: [{aggregation-length-v6: 0}]",
            "address-pools[0].bgp-advertisements[0].aggregation-length-v6: 0 is out of range: use 1 to 128",
        ),
        (
            "bgp-advertisements: [{localpref: 4294967296}]",
            "address-pools[0].bgp-advertisements[0].localpref: 4294967296 is out of range: use 0 to 4294967295",
        ),
        (
            "bgp-advertisements: [{communities: [65536:1]}]",
            "address-pools[0].bgp-advertisements[0].communities[0]: 65536:1 has a half above 65535: write two numbers of 0 to 65535, such as 64600:7",
        ),
        (
            "bgp-advertisements: [{communities: ['large:1:2:3']}]",
            "address-pools[0].bgp-advertisements[0].communities[0]: large:1:2:3 is a large community, which this format does not have: write two numbers such as 64600:7",
        ),
        (
            "bgp-advertisements: [{communities: [blackhole]}]",
            "address-pools[0].bgp-advertisements[0].communities[0]: no community is called blackhole: define it under communities, or write two numbers such as 64600:7",
        ),
        (
            "bgp-advertisements: [{}], advertisements: [{}]",
            "address-pools[0].bgp-advertisements: the pool also has advertisements, the older name of this: keep one of the two",
        ),
        (
            "bgp-advertisements: [{localpref: 1}, {localpref: 2}]",
            "address-pools[0].bgp-advertisements[1]: localpref 2 contradicts 1 of address-pools[0].bgp-advertisements[0], which announces the same /32: use one localpref or another aggregation length",
        ),
    ] {
        refuses(&with_pool(more), &format!("line 2, {expected}"));
    }
}

#[test]
fn the_range_that_forbids_an_aggregate_is_named() {
    let document = |addresses: &str, key: &str| {
        format!(
            "address-pools: [{{name: a, protocol: bgp, addresses: [{addresses}], bgp-advertisements: [{{{key}}}]}}]"
        )
    };
    let refuses = |addresses: &str, key: &str, expected: &str| {
        refuses(
            &document(addresses, key),
            &format!("line 1, address-pools[0].bgp-advertisements[0].{expected}"),
        );
    };
    refuses(
        "203.0.113.0/26, 203.0.113.128/28",
        "aggregation-length: 25",
        "aggregation-length: 25 is shorter than 203.0.113.128/28: use 28 to 32",
    );
    refuses(
        "192.168.10.0-192.168.10.99",
        "aggregation-length: 25",
        "aggregation-length: 25 is shorter than 192.168.10.0/26, the largest block of \
         192.168.10.0-192.168.10.99: use 26 to 32",
    );
    refuses(
        "'2001:db8:1::/64'",
        "aggregation-length-v6: 48",
        "aggregation-length-v6: 48 is shorter than 2001:db8:1::/64: use 64 to 128",
    );
}

#[test]
fn what_a_pool_needs_depends_on_its_generation() {
    refuses(
        "address-pools:\n- name: a\n  addresses: [192.0.2.0/24]",
        "line 2, address-pools[0]: protocol is missing: add it, for example protocol: bgp (or layer2)",
    );
    refuses(
        "address-pools:\n- {name: a, protocol: bgp, addresses: [192.0.2.0/25]}\n- {name: b, cidr: [192.0.2.128/25]}",
        "line 3, address-pools[1]: protocol is missing: add it, for example protocol: bgp (or layer2)",
    );
    refuses(
        "communities: {}\naddress-pools:\n- {name: a, addresses: [192.0.2.0/25]}",
        "line 3, address-pools[0]: protocol is missing: add it, for example protocol: bgp (or layer2)",
    );
    refuses(
        "address-pools:\n- {name: a, protocol: ospf}",
        "line 2, address-pools[0]: the pool has no addresses: add some, for example addresses: [192.0.2.0/24]\n\
         line 2, address-pools[0].protocol: ospf is not known here: use bgp, layer2, arp, ndp",
    );
    refuses(
        "address-pools:\n- {name: a, cidr: ['2001:db8:1::/64'], advertisements: [{}]}",
        "line 2, address-pools[0].cidr[0]: 2001:db8:1::/64 is IPv6, which a pool without protocol cannot have: \
         write protocol: bgp beside it",
    );
    refuses(
        "address-pools:\n- {name: a, protocol: layer2, addresses: [192.0.2.0/25], bgp-advertisements: [{}]}",
        "line 2, address-pools[0].bgp-advertisements: a layer2 pool has no BGP routes: remove this, or write protocol: bgp",
    );
}

#[test]
fn the_worked_message_of_a_0_2_document_names_line_path_and_remedy() {
    refuses(
        "address-pools:\n- name: default\n  cidr:\n  - 192.168.10.0/26\n  advertisements:\n  \
         - localpref: 5\n    aggregation-length: 25\n",
        "line 7, address-pools[0].advertisements[0].aggregation-length: 25 is shorter than 192.168.10.0/26: use 26 to 32",
    );
}

#[test]
fn names_and_overlaps_are_checked_over_all_pools() {
    refuses(
        "address-pools:\n- name: a\n  cidr: [192.0.2.0/24]\n- name: a\n  cidr: [198.51.100.0/24]\n- name: ''\n  cidr: []",
        "line 4, address-pools[1].name: a is also the pool of line 2: rename one\n\
         line 6, address-pools[2].name: the name is empty: write one",
    );
    refuses(
        "address-pools:\n- name: a\n  cidr: [192.0.2.0/24]\n- name: my b\n  cidr:\n  - 198.51.100.0/24\n  - 192.0.2.128/25\n",
        "line 7, address-pools[1].cidr[1]: 192.0.2.128/25 of pool \"my b\" overlaps 192.0.2.0/24 of pool a on line 3: \
         remove or shorten one of them",
    );
}

#[test]
fn communities_are_refused_where_they_are_defined_and_where_they_are_used() {
    refuses(
        "communities: {a: 5}",
        "line 1, communities.a: 5 is not a community: write two numbers of 0 to 65535, such as 64600:7",
    );
    refuses(
        "communities: {a: '1:2'}\nbgp-communities: {a: '1:3'}",
        "line 2, bgp-communities.a: 1:3 here is 1:2 in the other map of communities: keep one of the two",
    );
    refuses(
        "communities: {blackhole-me: '1:2'}\naddress-pools: [{name: a, cidr: [192.0.2.0/24],\n\
         advertisements: [{communities: [blackhole-mee]}]}]",
        "line 3, address-pools[0].advertisements[0].communities[0]: no community is called blackhole-mee: \
         did you mean blackhole-me?",
    );
}

#[test]
fn heralds_own_keys_are_refused_field_by_field() {
    for (more, expected) in [
        (
            "local-addresses: some",
            "herald.local-addresses: some is not known here: use none, load-balancer, all",
        ),
        (
            "local-addresses: loadbalancers",
            "herald.local-addresses: loadbalancers is not known here: write load-balancer",
        ),
        ("cool-down: 30", "herald.cool-down: 30 has no unit: write 30s"),
        ("floor: {grace: 60}", "herald.floor.grace: 60 has no unit: write 60s"),
        (
            "external-ips: {allow: }",
            "herald.external-ips.allow: the list is empty: write [] to serve no externalIPs, or remove external-ips",
        ),
        (
            "external-ips: {allow: {shop: }}",
            "herald.external-ips.allow.shop: the list is empty: write [] to serve no externalIPs of this namespace",
        ),
        (
            "external-ips: {allow: {shop: [10.0.0.1]}}",
            "herald.external-ips.allow.shop[0]: 10.0.0.1 has no prefix length: write 10.0.0.1/32 for this one address",
        ),
        (
            "external-ips: {allow: [10.0.0.1]}",
            "herald.external-ips.allow[0]: 10.0.0.1 has no prefix length: write 10.0.0.1/32 for this one address",
        ),
        (
            "external-ips: {allow: [10.0.0.1-10.0.0.2]}",
            "herald.external-ips.allow[0]: 10.0.0.1-10.0.0.2 is not one CIDR: write one such as 192.0.2.0/24",
        ),
        (
            "external-ips: {announce: maybe}",
            "herald.external-ips.announce: maybe is neither true nor false: write true or false",
        ),
        (
            "bgp-peers: {tor: {ttl-security: 255}}",
            "herald.bgp-peers.tor.ttl-security: 255 is out of range: use 1 to 254",
        ),
        (
            "bgp-peers: {tor: {connect: passive}}",
            "herald.bgp-peers.tor.connect: passive is not known here: use dial, accept, both",
        ),
        (
            "bgp-peers: {tor: {accept-from: [10.0.0.1]}}",
            "herald.bgp-peers.tor.accept-from[0]: 10.0.0.1 has no prefix length: write 10.0.0.1/32 for this one address",
        ),
        (
            "bgp-peers: {'*': {accept-from: [10.0.0.0/24]}}",
            "herald.bgp-peers.\"*\".accept-from: does not say which peer they are like: write it in the entry of a peer",
        ),
        (
            "bgp-peers: {tor: {tcp-ao: {algorithm: sha256, send-id: 1}}}",
            "herald.bgp-peers.tor.tcp-ao.algorithm: sha256 is not known here: use hmac-sha1, aes-128-cmac",
        ),
        (
            "bgp-peers: {tor: {tcp-ao: {receive-id: 1}}}",
            "herald.bgp-peers.tor.tcp-ao: has no send-id: write the number that the neighbour has as the key's receive id, 0 to 255",
        ),
        (
            "bgp-peers: {tor: {role: client}}",
            "herald.bgp-peers.tor.role: client is not known here: use provider, customer, peer, route-server, route-server-client",
        ),
        (
            "bgp-peers: {tor: {strict-role: true}}",
            "herald.bgp-peers.tor.strict-role: a role is asked of the neighbour without one of ours: add role",
        ),
        (
            "bgp-peers: {tor: {extended-communities: ['64500:7']}}",
            "herald.bgp-peers.tor.extended-communities[0]: 64500:7 is not an extended community: write rt:AS:NUMBER or soo:AS:NUMBER, one of both below 65536, such as rt:64500:7",
        ),
        ("bgp-peers: {tor: {prepend: 17}}", "herald.bgp-peers.tor.prepend: 17 is out of range: use 0 to 16"),
        ("sharing: namespaces", "herald.sharing: namespaces is not known here: write namespace"),
        ("quotas: {shop: many}", "herald.quotas.shop: many is not a whole number: use 0 to 4294967295"),
        ("quotas: 5", "herald.quotas: one value stands where a map belongs: write key: value"),
        (
            "reservations: [{addresses: [192.0.2.1]}]",
            "herald.reservations[0].addresses[0]: 192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address",
        ),
        (
            "reservations: [{namespace: shop}]",
            "herald.reservations[0]: addresses is missing: add it, for example addresses: [192.0.2.10/32]",
        ),
        (
            "reservations: [{addresses: []}]",
            "herald.reservations[0]: no address is reserved: write addresses: [192.0.2.10/32], or remove the entry",
        ),
        (
            "reservations: [{addresses: [192.0.2.1/32], service: web}]",
            "herald.reservations[0]: a service is named without its namespace: add namespace",
        ),
        (
            "reservations: [{addresses: [192.0.2.1/32]}, {addresses: [192.0.2.0/30]}]",
            "herald.reservations[1].addresses[0]: 192.0.2.0/30 overlaps 192.0.2.1/32 on line 2: an address can be reserved once",
        ),
        (
            "finalizer: {wait: 1h}",
            "herald.finalizer.wait: longer than 5m: deleted Services would seem to hang; 5s is enough",
        ),
    ] {
        refuses(&format!("herald: {{\n{more}}}"), &format!("line 2, {expected}"));
    }
}
