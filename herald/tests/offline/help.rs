//! docs/commands.md: what each command says of itself by `--help`.

use std::fmt::Write;

use super::herald;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");

/// The help of a command, and of those below it.
fn write(out: &mut String, command: &[&str]) {
    let (code, help, _) = herald(&[command, &["--help"]].concat(), "");
    assert_eq!(code, 0, "{command:?}");
    let title = [&["herald"], command].concat().join(" ");
    write!(out, "\n## {title}\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for below in commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        write(out, &[command, &[below]].concat());
    }
}

#[test]
fn the_document_has_the_help_of_every_command() {
    let mut text = "# Commands\n\nWhat `--help` says; `-h` says it in short. `herald` with a kubeconfig works from anywhere; `kubectl herald` is the same \
                    where the binary is called `kubectl-herald` in the path.\n"
        .to_owned();
    write(&mut text, &[]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(PATH, &text).unwrap();
    }
    let golden = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(golden == text, "docs/commands.md differs; UPDATE_GOLDEN=1 rewrites it");
}
