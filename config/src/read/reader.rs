//! Reading nodes with their path at hand.
//!
//! A [`Value`] is a node, the way to it and the report that takes what is wrong with it. A reader returns `None`
//! exactly when it has put an error into the report, so that the caller can go on and find the other errors.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;

use super::nearest::{Nearest, nearest};
use super::tree::{Entry, Kind, Node, Style};
use crate::problem::{ConfigError, Warning, shown};

/// So many errors, and so many warnings, are kept; a person reads fewer.
const MAX_LISTED: usize = 100;

/// Collects what is wrong and what is odd.
#[derive(Default)]
pub(crate) struct Report {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<Warning>>,
    unlisted_errors: Cell<usize>,
    unlisted_warnings: Cell<usize>,
}

impl Report {
    /// The message is made only if it is listed: a hostile document has a hundred thousand of them.
    fn error(&self, line: usize, column: usize, path: &str, message: impl FnOnce() -> String) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() >= MAX_LISTED {
            return self.unlisted_errors.set(self.unlisted_errors.get() + 1);
        }
        errors.push(ConfigError { line, column, path: path.to_owned(), message: message() });
    }

    fn warning(&self, line: usize, column: usize, path: &str, message: impl FnOnce() -> String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() >= MAX_LISTED {
            return self.unlisted_warnings.set(self.unlisted_warnings.get() + 1);
        }
        warnings.push(Warning { line, column, path: path.to_owned(), message: message() });
    }

    /// The errors, how many more there were, and the warnings.
    pub(crate) fn finish(self) -> (Vec<ConfigError>, usize, Vec<Warning>) {
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|warning| (warning.line, warning.column));
        let more = self.unlisted_warnings.get();
        if let (Some(last), 1..) = (warnings.last(), more) {
            let (line, column) = (last.line, last.column);
            let message = format!("{more} more warnings are not listed");
            warnings.push(Warning { line, column, path: String::new(), message });
        }
        (self.errors.into_inner(), self.unlisted_errors.get(), warnings)
    }
}

/// What YAML takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    Number,
    Boolean,
    /// No scalar at all.
    Other,
}

impl Scalar {
    /// What the API server takes a node for, going by how it is written.
    pub(crate) fn of(node: &Node) -> Self {
        let Kind::Scalar(text) = &node.kind else { return Self::Other };
        if node.style != Style::Plain {
            return Self::Text;
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let word = text.to_ascii_lowercase();
        match digits.as_bytes().first() {
            Some(b'0'..=b'9' | b'.') if text.parse::<f64>().is_ok() => Self::Number,
            _ if matches!(word.as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n") => {
                Self::Boolean
            }
            _ => Self::Text,
        }
    }
}

/// A node on its way.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    node: &'a Node,
    path: String,
    report: &'a Report,
}

impl<'a> Value<'a> {
    pub(crate) fn root(node: &'a Node, report: &'a Report) -> Self {
        Self { node, path: String::new(), report }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Line and column.
    pub(crate) fn place(&self) -> (usize, usize) {
        (self.node.line, self.node.column)
    }

    /// Reports that this value cannot be used. Always `None`, for the caller to return.
    pub(crate) fn fail<T>(&self, message: impl Display) -> Option<T> {
        self.fail_because(|| message.to_string())
    }

    /// [`Self::fail`] with a message that costs something to find.
    pub(crate) fn fail_because<T>(&self, message: impl FnOnce() -> String) -> Option<T> {
        self.report.error(self.node.line, self.node.column, &self.path, message);
        None
    }

    /// Reports that this value is used, but probably not as meant.
    pub(crate) fn warn(&self, message: impl Display) {
        self.report.warning(self.node.line, self.node.column, &self.path, || message.to_string());
    }

    /// What the API server takes it for.
    pub(crate) fn scalar(&self) -> Scalar {
        Scalar::of(self.node)
    }

    /// How a scalar was written.
    pub(crate) fn style(&self) -> Style {
        self.node.style
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.kind, Kind::Map(_))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    fn path_to(&self, key: &str) -> String {
        let dot = if self.path.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.path, shown(key))
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar(text) => Some(text),
            Kind::Null => self.fail("the value is empty: write one, or remove the line"),
            Kind::List(_) => {
                self.fail("a list stands where one value belongs: write the value without brackets or dash")
            }
            Kind::Map(_) => self.fail("a map stands where one value belongs: write the value alone"),
        }
    }

    /// The items of a list; nothing at all is an empty list.
    pub(crate) fn items(&self) -> Option<Vec<Self>> {
        match &self.node.kind {
            Kind::Null => Some(Vec::new()),
            Kind::List(_) => Some(self.peek_items()),
            Kind::Scalar(text) => {
                self.fail(format!("one value stands where a list belongs: write [{}]", shown(text)))
            }
            Kind::Map(_) => self.fail("a map stands where a list belongs: put a dash before its first key"),
        }
    }

    /// The items, or none when this is no list, without a word about it.
    pub(crate) fn peek_items(&self) -> Vec<Self> {
        let Kind::List(items) = &self.node.kind else { return Vec::new() };
        let item =
            |(index, node)| Self { node, path: format!("{}[{index}]", self.path), report: self.report };
        items.iter().map(|item| &**item).enumerate().map(item).collect()
    }

    /// The entry of a map, without a word when this is no map or has no such key.
    pub(crate) fn peek(&self, key: &str) -> Option<Self> {
        let Kind::Map(entries) = &self.node.kind else { return None };
        entries.iter().find(|entry| &*entry.key == key).map(|entry| self.child(entry))
    }

    /// The text of a scalar, without a word when it is none.
    pub(crate) fn peek_text(&self) -> Option<&'a str> {
        let Kind::Scalar(text) = &self.node.kind else { return None };
        Some(text)
    }

    /// The entries of a map, without a word when it is none or repeats a key.
    pub(crate) fn peek_entries(&self) -> Vec<(&'a str, Self)> {
        let Kind::Map(entries) = &self.node.kind else { return Vec::new() };
        entries.iter().map(|entry| (&*entry.key, self.child(entry))).collect()
    }

    /// Whether this is a map with such a key, even an empty one.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    fn child(&self, entry: &'a Entry) -> Self {
        Self { node: &entry.value, path: self.path_to(&entry.key), report: self.report }
    }

    /// The entries of a map, each key once; a repeated key is an error and the first one counts.
    fn distinct_entries(&self) -> Option<Vec<&'a Entry>> {
        let entries = match &self.node.kind {
            Kind::Null => return Some(Vec::new()),
            Kind::Map(entries) => entries,
            Kind::Scalar(_) => return self.fail("one value stands where a map belongs: write key: value"),
            Kind::List(_) => {
                return self.fail("a list stands where a map belongs: write key: value without a dash");
            }
        };
        let mut first_lines = HashMap::new();
        let mut distinct = Vec::with_capacity(entries.len());
        for entry in entries {
            match first_lines.insert(&entry.key, entry.line) {
                None => distinct.push(entry),
                Some(line) => {
                    self.report.error(entry.line, entry.column, &self.path_to(&entry.key), || {
                        format!("the key stands here again after line {line}: keep one of the two")
                    });
                }
            }
        }
        Some(distinct)
    }

    /// The entries of a map whose keys the user chooses.
    pub(crate) fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        Some(self.distinct_entries()?.into_iter().map(|entry| (&*entry.key, self.child(entry))).collect())
    }

    /// The fields of a map with known keys; each unknown one gets its warning here.
    pub(crate) fn fields(&self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        let (mut fields, mut unknown) = (Vec::new(), Vec::new());
        for entry in self.distinct_entries()? {
            if known.contains(&&*entry.key) {
                fields.push(entry);
                continue;
            }
            self.report.warning(entry.line, entry.column, &self.path_to(&entry.key), || {
                match nearest(&entry.key, known.iter().copied()) {
                    Some(Nearest { word, likely: true }) => {
                        format!("unknown key, ignored: did you mean {word}?")
                    }
                    Some(Nearest { word, .. }) => {
                        format!("unknown key, ignored: the nearest known key is {word}")
                    }
                    None => "unknown key, ignored".to_owned(),
                }
            });
            unknown.push(entry);
        }
        Some(Fields { of: self.clone(), fields, unknown, known })
    }
}

/// Reads a value that may be missing: `None` for one that is there and wrong, `Some(None)` for none.
pub(crate) fn optional<'a, T>(
    value: Option<Value<'a>>,
    read: impl FnOnce(&Value<'a>) -> Option<T>,
) -> Option<Option<T>> {
    value.map_or(Some(None), |value| read(&value).map(Some))
}

/// The map behind a [`Value`], by known key.
pub(crate) struct Fields<'a> {
    of: Value<'a>,
    fields: Vec<&'a Entry>,
    unknown: Vec<&'a Entry>,
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// The map as a whole.
    pub(crate) fn of(&self) -> &Value<'a> {
        &self.of
    }

    /// Whether the map has no key at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.unknown.is_empty()
    }

    /// The value of a key; one without a value counts as absent, as it does for MetalLB.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.written(key).filter(|value| !value.is_null())
    }

    /// The value of a key, even an empty one.
    pub(crate) fn written(&self, key: &str) -> Option<Value<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is read but not a known key");
        self.fields.iter().find(|entry| &*entry.key == key).map(|entry| self.of.child(entry))
    }

    /// The value of a key that must be there; the remedy says what to write, as in `peer-asn: 64601`.
    pub(crate) fn required(&self, key: &str, example: &str) -> Option<Value<'a>> {
        if let Some(value) = self.get(key) {
            return Some(value);
        }
        if let Some(empty) = self.written(key) {
            return empty.fail(format!("{key} has no value: write one such as {key}: {example}"));
        }
        self.not_mistyped(key)?;
        self.of.fail(format!("{key} is missing: add it, for example {key}: {example}"))
    }

    /// Fails where a key that may be missing was probably meant by an unknown one.
    pub(crate) fn not_mistyped(&self, key: &str) -> Option<()> {
        let mistyped = self.unknown.iter().find(|entry| {
            nearest(&entry.key, self.known.iter().copied())
                .is_some_and(|near| near.likely && near.word == key)
        });
        match mistyped {
            Some(entry) => {
                let (written, line) = (shown(&entry.key), entry.line);
                self.of.fail(format!("{key} is missing: rename {written} on line {line} to it"))
            }
            None => Some(()),
        }
    }
}
