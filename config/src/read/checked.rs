//! Values whose schema was checked: what is there has its type, so nothing is reported any more.

use std::collections::BTreeMap;

use super::reader::Value;
use super::scalars::boolean;

impl<'a> Value<'a> {
    /// A field that has a value.
    pub(crate) fn given(&self, key: &str) -> Option<Self> {
        self.peek(key).filter(|value| !value.is_null())
    }

    /// The items of a field; none where it is missing.
    pub(crate) fn list(&self, key: &str) -> Vec<Self> {
        self.given(key).map(|value| value.peek_items()).unwrap_or_default()
    }

    /// A text that is not empty.
    pub(crate) fn word(&self, key: &str) -> Option<Self> {
        self.given(key).filter(|value| value.peek_text().is_some_and(|text| !text.is_empty()))
    }

    /// A number that is not negative.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.given(key)?.peek_text()?.parse().ok()
    }

    /// A boolean.
    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        self.given(key).and_then(|value| boolean(&value)).unwrap_or(default)
    }

    /// Text by key; anything else is left out.
    pub(crate) fn peek_texts(&self) -> BTreeMap<String, String> {
        let entries = self.peek_entries();
        let text = |(key, value): (&'a str, Self)| Some((key.to_owned(), value.peek_text()?.to_owned()));
        entries.into_iter().filter_map(text).collect()
    }
}
