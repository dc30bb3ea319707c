//! Files: which objects stand in them, and where.
//!
//! A file holds YAML documents. A document is an object of `metallb.io`, a list of objects, a ConfigMap with the document
//! under its key `config`, or that document itself. Everything else is counted; of that Services are kept for who asks for them.

use std::rc::Rc;

use crate::objects::Object;
use crate::problem::{ConfigError, shown};
use crate::read::reader::{Report, Value};
use crate::read::tree::{Kind as NodeKind, Node, Style};
use crate::schema::kinds::Kind;

/// A file with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As messages name it.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) objects: Vec<Object>,
    pub(crate) documents: Vec<Document>,
    /// Services, as the API server would be sent them.
    pub(crate) services: Vec<serde_json::Value>,
    /// Objects that are none of ours, Services among them.
    pub(crate) others: usize,
    pub(crate) errors: Vec<ConfigError>,
}

/// A document of the ConfigMap's format.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) text: String,
    /// The ConfigMap's namespace and name, where it stands in one.
    pub(crate) of: Option<(Option<String>, String)>,
    /// What to add to line and column within the document to have those in the file; none where lines cannot be
    /// counted.
    pub(crate) offset: Option<(usize, usize)>,
    /// Where the document begins.
    pub(crate) line: usize,
}

/// The group of the objects, with its slash.
const GROUP: &str = "metallb.io/";

pub(crate) fn read(text: &str) -> Contents {
    let mut contents = Contents::default();
    let (documents, ended) = Node::parse_all(text);
    if let Err(errors) = ended {
        contents.errors.extend(errors.errors().iter().cloned());
    }
    let report = Report::default();
    let alone = documents.len() == 1;
    for node in &documents {
        let root = Value::root(node, &report);
        if alone && !root.has("kind") && !root.has("apiVersion") {
            // The bare document; its reader says what is wrong with it.
            contents.documents.push(Document {
                text: text.to_owned(),
                of: None,
                offset: Some((0, 0)),
                line: 1,
            });
            continue;
        }
        take(node, &root, &mut contents);
    }
    let (errors, _, _) = report.finish();
    contents.errors.extend(errors);
    contents
}

fn take(node: &Rc<Node>, root: &Value<'_>, contents: &mut Contents) {
    let word = |key: &str| root.peek(key).and_then(|value| value.peek_text()).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    if let NodeKind::Map(entries) = &node.kind
        && kind.ends_with("List")
        && let Some(items) = entries.iter().find(|entry| &*entry.key == "items")
        && let NodeKind::List(items) = &items.value.kind
    {
        let report = Report::default();
        for item in items {
            take(item, &Value::root(item, &report), contents);
        }
        contents.errors.extend(report.finish().0);
        return;
    }
    if let Some(of_group) = version.strip_prefix(GROUP) {
        match Kind::named(kind) {
            Some(kind) => contents.objects.push(Object::read(kind, of_group, node)),
            None if kind == "AddressPool" => {
                let _: Option<()> = root.fail(
                    "AddressPool is gone since MetalLB 0.14: write an IPAddressPool, and a BGPAdvertisement or L2Advertisement for it",
                );
            }
            None => {
                let _: Option<()> =
                    root.fail(format!("there is no kind {} in metallb.io: correct it", shown(kind)));
            }
        }
        return;
    }
    let document = root.peek("data").filter(|_| version == "v1" && kind == "ConfigMap");
    match document.and_then(|data| data.peek("config")) {
        Some(config) => match config.peek_text() {
            Some(text) => {
                let meta = |key: &str| {
                    let value = root.peek("metadata").and_then(|meta| meta.peek(key));
                    value.and_then(|value| value.peek_text()).map(str::to_owned)
                };
                // A block's place is that of its first line.
                let (line, column) = config.place();
                let literal = config.style() == Style::Literal;
                contents.documents.push(Document {
                    text: text.to_owned(),
                    of: Some((meta("namespace"), meta("name").unwrap_or_default())),
                    offset: literal.then_some((line - 1, column - 1)),
                    line,
                });
            }
            None => {
                let _: Option<()> =
                    config.fail("the document is no text: put a | behind config: and indent it");
            }
        },
        None => {
            contents.others += 1;
            contents.services.extend((version == "v1" && kind == "Service").then(|| node.to_json()));
        }
    }
}
