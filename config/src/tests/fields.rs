//! The examples of `testdata/documents`: every key of every generation, taken and refused.

use std::collections::BTreeSet;

use super::*;

const ACCEPTED: &str = include_str!("../../testdata/documents/accepted.yaml");
const REFUSED: &str = include_str!("../../testdata/documents/refused.yaml");

/// Every key of the facts about the format, lists without indices.
const KEYS: &[&str] = &[
    "peers",
    "peers.my-asn",
    "peers.peer-asn",
    "peers.peer-address",
    "peers.peer-port",
    "peers.hold-time",
    "peers.keepalive-time",
    "peers.router-id",
    "peers.source-address",
    "peers.password",
    "peers.bfd-profile",
    "peers.ebgp-multihop",
    "peers.node-selectors",
    "peers.node-selectors.match-labels",
    "peers.node-selectors.match-expressions",
    "peers.node-selectors.match-expressions.key",
    "peers.node-selectors.match-expressions.operator",
    "peers.node-selectors.match-expressions.values",
    "communities",
    "bgp-communities",
    "bfd-profiles",
    "bfd-profiles.name",
    "bfd-profiles.receive-interval",
    "bfd-profiles.transmit-interval",
    "bfd-profiles.echo-interval",
    "bfd-profiles.detect-multiplier",
    "bfd-profiles.minimum-ttl",
    "bfd-profiles.echo-mode",
    "bfd-profiles.passive-mode",
    "address-pools",
    "address-pools.name",
    "address-pools.protocol",
    "address-pools.cidr",
    "address-pools.addresses",
    "address-pools.auto-assign",
    "address-pools.avoid-buggy-ips",
    "address-pools.advertisements",
    "address-pools.advertisements.aggregation-length",
    "address-pools.advertisements.localpref",
    "address-pools.advertisements.communities",
    "address-pools.bgp-advertisements",
    "address-pools.bgp-advertisements.aggregation-length",
    "address-pools.bgp-advertisements.aggregation-length-v6",
    "address-pools.bgp-advertisements.localpref",
    "address-pools.bgp-advertisements.communities",
];

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("---\n").skip(1)
}

/// Each `# says:` of a document.
fn says(document: &str) -> Vec<&str> {
    document.lines().filter_map(|line| line.strip_prefix("# says: ")).collect()
}

fn without_indices(path: &str) -> String {
    path.split(']').map(|part| part.split('[').next().unwrap_or_default()).collect()
}

#[test]
fn the_accepted_documents_are_taken() {
    for document in documents(ACCEPTED) {
        parsed(document);
    }
}

#[test]
fn the_refused_documents_are_refused_with_these_words() {
    for document in documents(REFUSED) {
        let body: String =
            document.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let errors = refused(&body);
        let told: Vec<String> =
            errors.errors().iter().map(|error| format!("{}: {}", error.path, error.message)).collect();
        assert_eq!(told.len(), says(document).len(), "{told:#?}\n{document}");
        for says in says(document) {
            assert!(told.iter().any(|told| told.starts_with(says)), "{told:#?}\n{document}");
        }
    }
}

#[test]
fn every_key_has_an_accepted_and_a_refused_example() {
    let mut accepted = BTreeSet::new();
    for document in documents(ACCEPTED) {
        let tree = crate::read::tree::Node::parse(document).expect("good YAML");
        let report = crate::read::reader::Report::default();
        written(&crate::read::reader::Value::root(&tree, &report), "", &mut accepted);
    }
    let refused: BTreeSet<String> = documents(REFUSED)
        .flat_map(says)
        .filter_map(|says| says.split_once(": "))
        .map(|(path, _)| without_indices(path))
        .collect();
    for key in KEYS {
        assert!(accepted.contains(*key), "{key} has no accepted example");
        let is_it =
            |path: &String| path == key || path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        assert!(refused.iter().any(is_it), "{key} has no refused example");
    }
}

fn written(value: &crate::read::reader::Value<'_>, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in value.peek_entries() {
        let dot = if prefix.is_empty() { "" } else { "." };
        let path = format!("{prefix}{dot}{key}");
        written(&value, &path, paths);
        paths.insert(path);
    }
    for item in value.peek_items() {
        written(&item, prefix, paths);
    }
}
