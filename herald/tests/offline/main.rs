//! `herald check`, `migrate` and `crds` as a user or a pipeline runs them: what is on which stream, and the exit code; and the
//! documents, which are tried as their readers would.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

mod docs;
mod help;
mod monitoring;
mod scale;

use std::io::Write;
use std::process::{Command, Stdio};

const CONFIG_MAP: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {namespace: metallb-system, name: config}
data:
  config: |
    peers:
    - {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
    address-pools:
    - name: default
      protocol: bgp
      addresses: [192.0.2.0/24]
"#;

/// Exit code, standard output and standard error of `herald ARGUMENTS` with this on its standard input.
fn herald(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_herald"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever asks for the definitions does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_good_exits_0_and_what_is_refused_exits_1_with_its_place() {
    let (code, out, err) = herald(&["check", "-"], CONFIG_MAP);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("errors: 0, warnings: 0"), "{out}");
    let (code, out, err) = herald(&["check", "-"], &CONFIG_MAP.replace("/24", "/33"));
    assert_eq!(code, 1);
    assert!(err.starts_with("-:11:19: error: address-pools[0].addresses[0]: 192.0.2.0/33"), "{err}");
    assert!(out.contains("errors: 1, warnings: 0"), "{out}");
}

#[test]
fn what_cannot_be_read_or_is_nothing_exits_2() {
    let (code, _, err) = herald(&["check", "/nowhere/config.yaml"], "");
    assert_eq!(code, 2);
    assert!(err.starts_with("/nowhere/config.yaml: "), "{err}");
    let (code, _, err) = herald(&["check", "-"], "");
    assert_eq!(code, 2);
    assert!(err.contains("nothing to check"), "{err}");
}

#[test]
fn what_cannot_be_planned_is_told_without_a_cluster() {
    let (code, _, err) = herald(&["plan", "-f", "-"], "a: [");
    assert!(code == 2 && err.starts_with("-:"), "{code} {err}");
    let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n";
    let (code, _, err) = herald(&["plan", "-f", "-"], other);
    assert!(code == 2 && err.contains("there is nothing to plan: name files with Services"), "{code} {err}");
}

#[test]
fn what_is_migrated_passes_the_check_and_what_is_refused_is_not_migrated() {
    let (code, objects, err) = herald(&["migrate", "-"], CONFIG_MAP);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(objects.contains("kind: BGPPeer") && objects.contains("kind: IPAddressPool"), "{objects}");
    let (code, out, _) = herald(&["check", "-"], &objects);
    assert_eq!(code, 0);
    assert!(out.contains("objects of metallb.io: 3"), "{out}");
    let (code, objects, err) = herald(&["migrate", "-"], &CONFIG_MAP.replace("/24", "/33"));
    assert_eq!((code, objects.as_str()), (1, ""));
    assert!(err.contains("192.0.2.0/33"), "{err}");
}

#[test]
fn the_definitions_are_printed_as_documents() {
    let (code, out, _) = herald(&["crds"], "");
    assert_eq!(code, 0);
    assert_eq!(out.matches("kind: CustomResourceDefinition\n").count(), 9);
}

#[test]
fn the_manifests_have_the_definitions_that_are_printed() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/crds.yaml");
    let (code, printed, _) = herald(&["crds"], "");
    assert_eq!(code, 0);
    assert!(
        std::fs::read_to_string(file).unwrap() == printed,
        "write it anew: herald crds > manifests/base/crds.yaml"
    );
}
