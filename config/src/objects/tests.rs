//! The examples of `testdata/objects`, and what holds for whatever is sent.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::assemble::{Assembler, Secrets};
use crate::manifests;
use crate::schema::{Field, Type};
use crate::{HeraldOptions, Severity};

const ACCEPTED: &str = include_str!("../../testdata/objects/accepted.yaml");
const REFUSED: &str = include_str!("../../testdata/objects/refused.yaml");

/// `KIND/VERSION spec.a.b` for each field, lists without their indices.
fn fields() -> BTreeSet<String> {
    fn walk(prefix: &str, fields: &[Field], paths: &mut BTreeSet<String>) {
        for field in fields {
            let path = format!("{prefix}.{}", field.name);
            match field.of {
                Type::Object(fields) => walk(&path, fields, paths),
                Type::List { of: Type::Object(fields), .. } => walk(&path, fields, paths),
                _ => {}
            }
            paths.insert(path);
        }
    }
    let mut paths = BTreeSet::new();
    for kind in Kind::CONFIGURATION {
        for version in kind.versions() {
            walk(&format!("{}/{} spec", kind.name(), version.name), version.spec, &mut paths);
        }
    }
    paths
}

fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !inside && *c != ']'
        })
        .collect()
}

/// The paths that an object has something at.
fn written(value: &Value<'_>, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in value.peek_entries() {
        let path = format!("{prefix}.{key}");
        written(&value, &path, paths);
        paths.insert(path);
    }
    for item in value.peek_items() {
        written(&item, prefix, paths);
    }
}

#[test]
fn every_field_has_an_accepted_and_a_refused_example() {
    let (documents, ended) = Node::parse_all(ACCEPTED);
    assert_eq!(ended, Ok(()));
    let mut accepted = BTreeSet::new();
    for node in &documents {
        let report = Report::default();
        let root = Value::root(node, &report);
        let word = |key: &str| root.peek(key).and_then(|value| value.peek_text()).unwrap_or_default();
        let of = format!("{}/{} spec", word("kind"), word("apiVersion").trim_start_matches("metallb.io/"));
        written(&root.peek("spec").expect("a spec"), &of, &mut accepted);
    }
    let mut refused = BTreeSet::new();
    for (object, version, says) in refused_examples() {
        for says in says {
            let (path, _) = says.split_once(": ").expect("a path");
            refused.insert(format!("{}/{version} {}", object.key.kind.name(), without_indices(path)));
        }
    }
    let missing = |have: &BTreeSet<String>| -> Vec<String> {
        fields()
            .into_iter()
            .filter(|field| !have.iter().any(|path| path.starts_with(field.as_str())))
            .collect()
    };
    assert_eq!(missing(&accepted), Vec::<String>::new(), "fields without an accepted example");
    assert_eq!(missing(&refused), Vec::<String>::new(), "fields without a refused example");
}

#[test]
fn the_accepted_examples_are_taken_together() {
    let contents = manifests::read(ACCEPTED);
    assert_eq!((contents.errors, contents.others), (Vec::new(), 0));
    let assembly =
        Assembler::default().assemble(&contents.objects, Secrets::Unread, &HeraldOptions::default());
    let told = |severity| -> Vec<String> {
        let problems = assembly.problems.iter().filter(|problem| problem.severity == severity);
        problems.map(ToString::to_string).collect()
    };
    for severity in [Severity::Refused, Severity::Kept, Severity::Partly] {
        assert_eq!(told(severity), Vec::<String>::new());
    }
    let names = |of: Vec<&String>| of.into_iter().cloned().collect::<Vec<String>>();
    let config = assembly.config;
    assert_eq!(names(config.pools.iter().map(|pool| &pool.name).collect()), ["edge", "plain"]);
    assert_eq!(
        names(config.peers.iter().map(|peer| &peer.name).collect()),
        ["full", "in-vrf", "internal", "older", "unnumbered"]
    );
    let edge = &config.pools[0];
    assert_eq!(edge.ranges.len(), 5);
    assert!(!edge.auto_assign && edge.avoid_buggy_ips && edge.layer2.is_empty());
    let routes = &edge.advertisements[0];
    assert_eq!((routes.communities.len(), routes.large_communities.len()), (2, 2), "names are resolved");
    assert_eq!(routes.peers, BTreeSet::from(["full".to_owned(), "older".to_owned()]));
    assert_eq!(config.pools[1].layer2.len(), 1);
    let [full, in_vrf, internal, older, unnumbered] = config.peers.as_slice() else { panic!("five peers") };
    assert_eq!((in_vrf.device.as_deref(), in_vrf.found_on()), (Some("red"), None));
    assert_eq!((unnumbered.found_on(), full.found_on()), (Some("eth1"), None));
    assert_eq!((full.hold_time.as_secs(), full.keepalive_time.map(|time| time.as_secs())), (90, Some(30)));
    assert_eq!((internal.asn, internal.hold_time.as_secs(), internal.port), (Some(64600), 180, 179));
    assert_eq!(
        internal.password.as_ref().and_then(|password| password.expose()),
        None,
        "its Secret was not read"
    );
    assert_eq!((older.asn, older.local_asn, older.dual_stack), (Some(64601), None, false));
    let deprecated = told(Severity::Warning).into_iter().find(|text| text.contains("deprecated"));
    assert_eq!(
        deprecated.as_deref(),
        Some("line 93, BGPPeer older: metallb.io/v1beta1 is deprecated: write metallb.io/v1beta2")
    );
}

fn refused_examples() -> Vec<(Object, String, Vec<String>)> {
    let examples = REFUSED.split("---\n").skip(1).map(|text| {
        let says: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("# says: ")).map(str::to_owned).collect();
        let version =
            text.lines().find_map(|line| line.strip_prefix("apiVersion: metallb.io/")).expect("a version");
        // Each by itself, so that lines count from its own beginning.
        let text: String =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let mut contents = manifests::read(&format!("\n{text}"));
        assert_eq!((contents.errors.len(), contents.objects.len()), (0, 1), "{text}");
        (contents.objects.remove(0), version.to_owned(), says)
    });
    examples.collect()
}

#[test]
fn the_refused_examples_are_refused_with_these_words() {
    for (object, _, says) in refused_examples() {
        assert!(!says.is_empty());
        let objects = [object];
        let assembly = Assembler::default().assemble(&objects, Secrets::Unread, &HeraldOptions::default());
        let errors: Vec<String> = assembly
            .problems
            .iter()
            .filter(|problem| problem.is_error())
            .map(|problem| format!("{}: {}", problem.error.path, problem.error.message))
            .collect();
        assert_eq!(errors.len(), says.len(), "{errors:#?}\n{says:#?}");
        for says in says {
            assert!(errors.iter().any(|error| error.starts_with(&says)), "{errors:#?}\n{says}");
        }
    }
}

#[test]
fn what_the_api_server_sends_has_no_line() {
    let value = serde_json::json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": "a", "namespace": "metallb-system", "uid": "u", "generation": 7, "labels": { "zone": "b" } },
        "spec": { "addresses": ["192.0.2.1"] },
    });
    let object = Object::from_json(Kind::IpAddressPool, &value);
    assert_eq!((object.uid.as_str(), object.generation, object.labels["zone"].as_str()), ("u", 7, "b"));
    assert_eq!(
        object.errors[0].to_string(),
        "spec.addresses[0]: 192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address"
    );
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let names: Vec<&'static str> = Kind::CONFIGURATION
        .iter()
        .flat_map(|kind| kind.versions())
        .flat_map(|version| version.spec)
        .map(|field| field.name)
        .chain([
            "matchLabels",
            "matchExpressions",
            "key",
            "operator",
            "values",
            "name",
            "value",
            "weight",
            "preference",
        ])
        .collect();
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,20}".prop_map(Into::into),
        proptest::sample::select(vec![
            "192.0.2.0/24",
            "::/0",
            "10.0.0.1",
            "1:2",
            "large:1:2:3",
            "9s",
            "In",
            "internal",
            "eth0"
        ])
        .prop_map(Into::into),
    ];
    let tree = leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(proptest::sample::select(names.clone()), inner, 0..6).prop_map(
                |map| {
                    map.into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                }
            ),
        ]
    });
    tree.boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_the_api_server_sends_is_taken_or_refused(spec in json(), meta in json()) {
        let kinds = Kind::CONFIGURATION;
        let objects: Vec<Object> = kinds
            .iter()
            .map(|&kind| Object::from_json(kind, &serde_json::json!({ "metadata": meta, "spec": spec })))
            .collect();
        for object in &objects {
            prop_assert_eq!(object.content.is_none(), !object.errors.is_empty(), "{:?}", object);
        }
        let _ = Assembler::default().assemble(&objects, Secrets::Unread, &HeraldOptions::default());
    }

    #[test]
    fn good_files_with_one_damage_never_panic(at in 0_usize..5000, length in 0_usize..8, piece in "\\PC{0,6}") {
        let (mut start, mut end) = (at % ACCEPTED.len(), (at % ACCEPTED.len() + length).min(ACCEPTED.len()));
        while !ACCEPTED.is_char_boundary(start) { start -= 1; }
        while !ACCEPTED.is_char_boundary(end) { end += 1; }
        let damaged = format!("{}{piece}{}", &ACCEPTED[..start], &ACCEPTED[end..]);
        let contents = manifests::read(&damaged);
        let _ = Assembler::default().assemble(&contents.objects, Secrets::Unread, &HeraldOptions::default());
    }

    #[test]
    fn no_bytes_in_a_file_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = manifests::read(&String::from_utf8_lossy(&bytes));
    }
}
