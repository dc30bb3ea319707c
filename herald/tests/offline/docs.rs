//! What README and docs say can be typed as it stands: links lead somewhere, YAML is taken, commands and flags exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

use super::herald;

/// A document, taken apart.
#[derive(Default)]
pub(super) struct Document {
    links: Vec<String>,
    /// Of its headings.
    pub(super) anchors: BTreeSet<String>,
    yaml: Vec<String>,
    /// Lines of other blocks, and code within sentences.
    pub(super) code: Vec<String>,
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What people read, by its path from the root.
pub(super) fn documents() -> BTreeMap<String, Document> {
    let in_docs = std::fs::read_dir(root().join("docs")).unwrap();
    let in_docs = in_docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    let names = in_docs.filter(|name| name.ends_with(".md"));
    let names = names.chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()]);
    names.map(|name| (name.clone(), read(&std::fs::read_to_string(root().join(&name)).unwrap()))).collect()
}

fn read(text: &str) -> Document {
    let mut document = Document::default();
    let (mut heading, mut block) = (None, None);
    for event in Parser::new_ext(text, pulldown_cmark::Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                document.anchors.extend(heading.take().map(|text| anchor(&text)))
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let yaml = matches!(&kind, CodeBlockKind::Fenced(language) if **language == *"yaml");
                block = Some((yaml, String::new()));
            }
            Event::End(TagEnd::CodeBlock) => match block.take() {
                Some((true, text)) => document.yaml.push(text),
                Some((false, text)) => document.code.extend(text.lines().map(str::to_owned)),
                None => {}
            },
            Event::Start(Tag::Link { dest_url, .. }) => document.links.push(dest_url.into_string()),
            Event::Code(text) => {
                heading.iter_mut().for_each(|heading| heading.push_str(&text));
                document.code.push(text.into_string());
            }
            Event::Text(text) => {
                heading.iter_mut().for_each(|heading| heading.push_str(&text));
                block.iter_mut().for_each(|(_, block)| block.push_str(&text));
            }
            _ => {}
        }
    }
    document
}

/// As sites that show Markdown make it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let mut broken = Vec::new();
    for (name, document) in &documents {
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => PathBuf::from(name),
                path => normal(&Path::new(name).parent().unwrap().join(path)),
            };
            let anchors = documents.get(target.to_str().unwrap()).map(|document| &document.anchors);
            let found = fragment.is_empty() || anchors.is_some_and(|anchors| anchors.contains(fragment));
            if !root().join(&target).exists() || !found {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The README counts what others list.
#[test]
fn the_readme_counts_rightly() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let readme = read("README.md");
    for (file, row, what) in [("docs/runbook.md", "### ", "symptoms"), ("docs/doctor.md", "| `", "checks")] {
        let count = read(file).lines().filter(|line| line.starts_with(row)).count();
        assert!(readme.contains(&format!("({file}): {count} {what}")), "{file} has {count} {what}");
    }
}

/// Each row of docs/faults.md names its tests: a module of the cluster suite, or a file.
#[test]
fn what_is_said_of_faults_is_tried() {
    let text = std::fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| fault"));
    let mut tests = 0;
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in last.split(", ").filter(|test| *test != "below") {
            let name = test.trim_matches('`');
            let path = match name.contains('/') {
                true => name.to_owned(),
                false => format!("e2e/tests/cluster/{}.rs", name.replace("::", "/")),
            };
            assert!(root().join(&path).exists(), "{path} is not there: {row}");
            tests += 1;
        }
    }
    assert!(tests >= 20, "{tests}");
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = normal.pop(),
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn the_book_has_every_document_once() {
    let summary = read(&std::fs::read_to_string(root().join("docs/book/SUMMARY.md")).unwrap());
    let names: Vec<String> = documents().into_keys().collect();
    let mut chapters = summary.links;
    chapters.sort();
    assert_eq!(chapters, names);
}

#[test]
fn what_is_shown_as_yaml_is_taken() {
    let mut refused = Vec::new();
    for (name, document) in documents() {
        for text in document.yaml {
            let read: Result<Vec<serde_json::Value>, _> = serde_saphyr::from_multiple(&text);
            let objects = match read {
                Ok(objects) => objects,
                Err(error) => {
                    refused.push(format!("{name}: {error}\n{text}"));
                    continue;
                }
            };
            let document = ["herald", "peers", "address-pools", "bfd-profiles"];
            let ours = |object: &serde_json::Value| {
                let metallb =
                    object["apiVersion"].as_str().is_some_and(|version| version.starts_with("metallb.io"));
                metallb || (object["kind"] == "ConfigMap" && object["data"]["config"].is_string())
            };
            let checked = if objects.iter().any(|object| document.iter().any(|key| object.get(key).is_some()))
            {
                let config: String = text.lines().map(|line| format!("    {line}\n")).collect();
                herald(
                    &["check", "-"],
                    &format!(
                        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: metallb-system, name: config}}\ndata:\n  config: |\n{config}"
                    ),
                )
            } else if objects.iter().any(ours) {
                herald(&["check", "-"], &text)
            } else {
                continue;
            };
            if checked.0 != 0 {
                refused.push(format!("{name}: {}\n{text}", checked.2));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn what_is_shown_as_a_command_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let (mut help, mut wrong, mut tried) = (BTreeMap::new(), Vec::new(), 0);
    for (name, document) in documents() {
        for line in commands(&document.code) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let problem = match words.as_slice() {
                ["make", target, ..] => (!targets.contains(target)).then(|| "no such target".to_owned()),
                ["herald", rest @ ..] => unknown_to_herald(rest, &mut help),
                ["kubectl", rest @ ..] => missing_file(rest),
                _ => None,
            };
            tried += usize::from(matches!(words.first(), Some(&("make" | "herald" | "kubectl"))));
            wrong.extend(problem.map(|problem| format!("{name}: {line}: {problem}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried >= LEAST_COMMANDS, "only {tried} commands were found");
}

/// Fewer mean that they are not found any more.
const LEAST_COMMANDS: usize = 100;

/// One command a line, whole, without what a shell does with its output.
fn commands(code: &[String]) -> Vec<String> {
    let mut commands = Vec::new();
    let mut begun = String::new();
    for line in code {
        let line = line.trim().trim_start_matches("$ ");
        match line.strip_suffix('\\') {
            Some(part) => begun += part,
            None => commands.push(std::mem::take(&mut begun) + line),
        }
    }
    let parts = commands.iter().flat_map(|line| line.split([';', '|', '&']));
    let commands = parts.map(|part| part.split(" #").next().unwrap_or_default().trim().to_owned());
    commands.filter(|command| !command.contains('…')).collect()
}

/// What of these arguments `herald` does not know. Words in capitals are placeholders.
pub(super) fn unknown_to_herald(words: &[&str], known: &mut BTreeMap<String, String>) -> Option<String> {
    let is_name =
        |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let mut path: Vec<&str> = words.iter().take_while(is_name).copied().collect();
    if path.is_empty() || path == ["help"] {
        return None;
    }
    loop {
        let help = known.entry(path.join(" ")).or_insert_with(|| {
            let (code, out, _) = herald(&[path.as_slice(), &["--help"]].concat(), "");
            if code == 0 { out } else { String::new() }
        });
        match (help.is_empty(), path.len()) {
            (true, 1) => return Some(format!("there is no {}", path[0])),
            // An argument, not a command of a command.
            (true, _) => _ = path.pop(),
            (false, _) => {
                let flags = words.iter().filter_map(|word| word.strip_prefix("--"));
                let names = flags.map(|flag| flag.split(['=', ']', ',']).next().unwrap_or_default());
                let unknown = names.filter(|flag| !help.contains(&format!("--{flag}"))).collect::<Vec<_>>();
                return (!unknown.is_empty()).then(|| format!("has no --{}", unknown.join(", --")));
            }
        }
    }
}

/// A file of this repository that `kubectl` is told to read and that is not there.
fn missing_file(words: &[&str]) -> Option<String> {
    let named = words.windows(2).filter(|pair| matches!(pair[0], "-f" | "-k")).map(|pair| pair[1]);
    let ours = named.filter(|file| file.starts_with("manifests/") || file.starts_with("charts/"));
    let missing: Vec<_> = ours.filter(|file| !root().join(file).exists()).collect();
    (!missing.is_empty()).then(|| format!("there is no {}", missing.join(", ")))
}
