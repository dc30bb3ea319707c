//! A YAML document as nodes that know their line and column.
//!
//! Built from `granit-parser`'s events (the parser under `serde-saphyr`), because a deserializer gives neither the
//! place of an unknown key nor several errors at once. Scalars stay text: what `no` or `0100` means is up to the
//! field that reads it.
//!
//! The same nodes are made of what the API server sends as JSON; they have no place, which line 0 says.
//!
//! Bounded against hostile documents: size, depth (of the expanded tree too), and what aliases may add. Aliases
//! share nodes, so memory stays a small multiple of the text; the bound on their expansion bounds the readers' work.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, options};

use crate::problem::{ConfigError, ConfigErrors};

/// The longest document that is read; a ConfigMap cannot hold more.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// How deep collections may nest; the format itself needs nine levels.
const MAX_DEPTH: usize = 32;

/// A scalar, list or map, and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) kind: Kind,
    /// How a scalar was written.
    pub(crate) style: Style,
    /// Collections on the longest way down, itself included.
    depth: usize,
    /// What a walk over the expanded node costs: the bytes of its text and one for each node.
    weight: usize,
}

/// How a scalar was written: decides whether `12` can be a number, and whether lines in it can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes; collections too.
    Plain,
    /// In quotes, folded (`>`), or marked as text.
    Text,
    /// A block that keeps its lines (`|`).
    Literal,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Scalar(String),
    List(Vec<Rc<Node>>),
    /// In the order of the document, repeated keys included; merged entries (`<<`) last.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Rc<str>,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Rc<Node>,
}

impl Node {
    /// Reads a text that holds at most one document; an empty text is a null.
    pub(crate) fn parse(text: &str) -> Result<Rc<Self>, ConfigErrors> {
        if text.len() > MAX_DOCUMENT_BYTES {
            let message = format!("the document has {} bytes: use at most {MAX_DOCUMENT_BYTES}", text.len());
            return Err(ConfigError { line: 1, column: 1, path: String::new(), message }.into());
        }
        let mut builder = Builder::default();
        for event in events(text) {
            let (event, start) = event?;
            builder.handle(event, &start)?;
        }
        Ok(builder.root.unwrap_or_else(|| Self::empty(1)))
    }

    /// Reads every document of a text, empty ones left out. What is wrong ends the reading; the documents before it
    /// are there.
    pub(crate) fn parse_all(text: &str) -> (Vec<Rc<Self>>, Result<(), ConfigErrors>) {
        let mut documents = Vec::new();
        let mut read = || {
            let mut builder = Builder::default();
            for event in events(text) {
                let (event, start) = event?;
                let ends = matches!(event, Event::DocumentEnd);
                builder.handle(event, &start)?;
                if ends {
                    // Anchors hold within one document.
                    documents.extend(std::mem::take(&mut builder).root);
                }
            }
            Ok(())
        };
        let ended = read();
        documents.retain(|root: &Rc<Self>| !matches!(root.kind, Kind::Null));
        (documents, ended)
    }

    /// What the API server sent.
    pub(crate) fn from_json(value: &serde_json::Value) -> Result<Rc<Self>, ConfigErrors> {
        Self::of_json(value, 0)
    }

    fn of_json(value: &serde_json::Value, depth: usize) -> Result<Rc<Self>, ConfigErrors> {
        use serde_json::Value as Json;
        let nowhere = Marker::new(0, 0, 0);
        if depth > MAX_DEPTH {
            return Err(too_deep(&nowhere));
        }
        let kind = match value {
            Json::Null => Kind::Null,
            Json::Bool(flag) => Kind::Scalar(flag.to_string()),
            Json::Number(number) => Kind::Scalar(number.to_string()),
            Json::String(text) => Kind::Scalar(text.clone()),
            Json::Array(items) => {
                Kind::List(items.iter().map(|item| Self::of_json(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            Json::Object(map) => {
                let entry = |(key, value): (&String, &Json)| {
                    let value = Self::of_json(value, depth + 1)?;
                    Ok(Entry { key: key.as_str().into(), line: 0, column: 0, value })
                };
                Kind::Map(map.iter().map(entry).collect::<Result<_, ConfigErrors>>()?)
            }
        };
        let style = if value.is_string() { Style::Text } else { Style::Plain };
        Ok(Self::new(&nowhere, kind, style))
    }

    fn empty(line: usize) -> Rc<Self> {
        Self::new(&Marker::new(0, line, 0), Kind::Null, Style::Plain)
    }

    fn new(start: &Marker, kind: Kind, style: Style) -> Rc<Self> {
        let (depth, weight) = match &kind {
            Kind::Null => (0, 1),
            Kind::Scalar(text) => (0, 1 + text.len()),
            Kind::List(items) => {
                let depth = items.iter().map(|item| item.depth).max().unwrap_or(0);
                (1 + depth, items.iter().map(|item| item.weight).fold(1, usize::saturating_add))
            }
            Kind::Map(entries) => {
                let depth = entries.iter().map(|entry| entry.value.depth).max().unwrap_or(0);
                let weights = entries.iter().map(|entry| entry.key.len().saturating_add(entry.value.weight));
                (1 + depth, weights.fold(1, usize::saturating_add))
            }
        };
        Rc::new(Self { line: start.line(), column: start.col() + 1, kind, style, depth, weight })
    }
}

/// The parser's events with their places, a syntax error as one of ours.
fn events(text: &str) -> impl Iterator<Item = Result<(Event<'_>, Marker), ConfigErrors>> {
    let options = options! { emit_comments: false };
    Parser::new_from_str_with_options(text, options).map(|event| {
        let (event, span) = event.map_err(|error| {
            let column = error.marker().col() + 1;
            refusal(error.marker(), format!("column {column}: {}: correct the YAML here", error.info()))
        })?;
        Ok((event, span.start))
    })
}

fn refusal(at: &Marker, message: impl Into<String>) -> ConfigErrors {
    ConfigError { line: at.line(), column: at.col() + 1, path: String::new(), message: message.into() }.into()
}

/// A collection whose end has not come yet.
struct Frame {
    start: Marker,
    anchor: usize,
    open: Open,
}

enum Open {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, key: Option<(Rc<str>, Marker)>, merged: Vec<Rc<Node>> },
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    /// What aliases have added so far.
    aliased: usize,
    root: Option<Rc<Node>>,
}

impl Builder {
    fn handle(&mut self, event: Event<'_>, start: &Marker) -> Result<(), ConfigErrors> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let kind =
                    if is_null(&text, style, tagged) { Kind::Null } else { Kind::Scalar(text.into_owned()) };
                let style = match style {
                    ScalarStyle::Plain if !tagged => Style::Plain,
                    ScalarStyle::Literal => Style::Literal,
                    _ => Style::Text,
                };
                self.complete(Node::new(start, kind, style), anchor, start)
            }
            Event::SequenceStart(_, anchor, _) => self.open(start, anchor, Open::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.open(start, anchor, Open::Map { entries: Vec::new(), key: None, merged: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, start),
            _ => Ok(()),
        }
    }

    fn open(&mut self, start: &Marker, anchor: usize, open: Open) -> Result<(), ConfigErrors> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(start));
        }
        self.stack.push(Frame { start: *start, anchor, open });
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConfigErrors> {
        let Some(Frame { start, anchor, open }) = self.stack.pop() else { return Ok(()) };
        let kind = match open {
            Open::List(items) => Kind::List(items),
            Open::Map { mut entries, merged, .. } => {
                merge(&mut entries, &merged);
                Kind::Map(entries)
            }
        };
        let node = Node::new(&start, kind, Style::Plain);
        if node.depth > MAX_DEPTH {
            return Err(too_deep(&start));
        }
        self.complete(node, anchor, &start)
    }

    fn alias(&mut self, anchor: usize, at: &Marker) -> Result<(), ConfigErrors> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(refusal(at, "an alias stands inside the value that it names: write the value out"));
        };
        self.aliased = self.aliased.saturating_add(node.weight);
        if self.aliased > MAX_DOCUMENT_BYTES {
            let message =
                format!("aliases expand to more than {MAX_DOCUMENT_BYTES} bytes: write the values out");
            return Err(refusal(at, message));
        }
        self.complete(node, 0, at)
    }

    /// Puts a finished node where it belongs.
    fn complete(&mut self, node: Rc<Node>, anchor: usize, at: &Marker) -> Result<(), ConfigErrors> {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None if self.root.is_none() => self.root = Some(node),
            None if matches!(node.kind, Kind::Null) => {}
            None => return Err(refusal(at, "a second document starts here: keep one")),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key, merged }) => match key.take() {
                None => match &node.kind {
                    Kind::Scalar(text) => *key = Some((text.as_str().into(), *at)),
                    Kind::Null => *key = Some(("".into(), *at)),
                    _ => {
                        return Err(refusal(at, "a list or map is used as a key: write a plain word as key"));
                    }
                },
                Some((key, _)) if &*key == "<<" => add_merged(&node, merged, at)?,
                Some((key, place)) => {
                    entries.push(Entry { key, line: place.line(), column: place.col() + 1, value: node });
                }
            },
        }
        Ok(())
    }
}

fn too_deep(at: &Marker) -> ConfigErrors {
    refusal(at, format!("lists and maps nest more than {MAX_DEPTH} deep: this format needs nine levels"))
}

fn is_null(text: &str, style: ScalarStyle, tagged: bool) -> bool {
    style == ScalarStyle::Plain && !tagged && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The value of a `<<` key: a map, or a list of maps.
fn add_merged(node: &Rc<Node>, merged: &mut Vec<Rc<Node>>, at: &Marker) -> Result<(), ConfigErrors> {
    match &node.kind {
        Kind::Map(_) => merged.push(Rc::clone(node)),
        Kind::List(items) if items.iter().all(|item| matches!(item.kind, Kind::Map(_))) => {
            merged.extend(items.iter().map(Rc::clone));
        }
        _ => return Err(refusal(at, "<< merges something else than a map: give it a map or a list of maps")),
    }
    Ok(())
}

/// Adds what merged maps have and the map itself does not; the first map wins.
fn merge(entries: &mut Vec<Entry>, merged: &[Rc<Node>]) {
    if merged.is_empty() {
        return;
    }
    let mut keys: HashSet<Rc<str>> = entries.iter().map(|entry| Rc::clone(&entry.key)).collect();
    for node in merged {
        let Kind::Map(more) = &node.kind else { continue };
        for entry in more {
            if keys.insert(Rc::clone(&entry.key)) {
                entries.push(entry.clone());
            }
        }
    }
}
