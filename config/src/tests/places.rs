//! Errors of the document as such, and where errors are said to be.

use super::messages::refuses;
use super::*;

#[test]
fn repeated_keys_are_refused_wherever_they_are_read() {
    refuses(
        "peers: []\npeers: []",
        "line 2, peers: the key stands here again after line 1: keep one of the two",
    );
    refuses(
        &with_peer("my-asn: 5"),
        "line 2, peers[0].my-asn: the key stands here again after line 1: keep one of the two",
    );
    refuses(
        "communities: {a: '1:2',\na: '1:2'}",
        "line 2, communities.a: the key stands here again after line 1: keep one of the two",
    );
    refuses("x: 1\nx: 1", "line 2, x: the key stands here again after line 1: keep one of the two");
}

#[test]
fn what_is_no_map_of_keys_is_refused_as_a_whole() {
    refuses("hello", "line 1: one value stands where a map belongs: write key: value");
    refuses("- a", "line 1: a list stands where a map belongs: write key: value without a dash");
    refuses("peers: []\n---\npeers: []", "line 3: a second document starts here: keep one");
    refuses("? [a]\n: b", "line 1: a list or map is used as a key: write a plain word as key");
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let errors = refused("peers:\n- my-asn: 64600\n   peer-asn: 64601\n");
    let [error] = errors.errors() else { panic!("one error: {errors}") };
    assert_eq!((error.line, error.path.as_str()), (3, ""));
    assert!(error.message.starts_with(&format!("column {}: ", error.column)), "{error}");
    assert!(error.message.ends_with(": correct the YAML here"), "{error}");
    assert_eq!(refused("a: [1, 2").errors().len(), 1);
    assert_eq!(refused("a: *b").errors().len(), 1);
}

#[test]
fn line_and_column_point_at_the_value() {
    let errors = refused("peers:\n- my-asn: 64600\n  peer-asn: 64601\n  peer-address:   bird\n");
    assert_eq!((errors.errors()[0].line, errors.errors()[0].column), (4, 19));
    let errors = refused("peers:\r\n- my-asn: 64600\r\n  peer-asn: 64601\r\n  peer-address:   bird\r\n");
    assert_eq!((errors.errors()[0].line, errors.errors()[0].column), (4, 19));
}

#[test]
fn errors_come_all_at_once_and_bring_the_warnings_along() {
    let errors = refused(
        "herald: {cool-down: 5}\npeers:\n- my-asn: 0\n  pear-port: 1\naddress-pools:\n- name: a\n  cidr: [10.0.0.0]\n",
    );
    assert_eq!(errors.errors().len(), 5, "{errors}");
    assert_eq!(errors.warnings().len(), 2, "{:?}", errors.warnings());
    assert!(errors.errors().is_sorted_by_key(|error| error.line));
}

#[test]
fn very_many_errors_are_counted_and_not_listed() {
    let peers = "- {my-asn: 0, peer-asn: 1, peer-address: 10.0.0.1}\n".repeat(150);
    let errors = refused(&format!("peers:\n{peers}"));
    assert_eq!((errors.errors().len(), errors.unlisted()), (100, 50));
    assert!(errors.to_string().ends_with("\nand 50 more"));
}
