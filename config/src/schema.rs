//! The schema of the objects of `metallb.io`: one table from which everything else follows.
//!
//! [`kinds`] says which fields there are, with type, bounds, default and meaning. From it come the
//! CustomResourceDefinitions that `herald crds` prints ([`definitions()`]), the check of an object without an API server
//! ([`Type::check`]), and the tables of `docs/configuration.md`. So what is documented, what the API server refuses
//! and what `herald check` refuses cannot differ.
//!
//! A schema knows one field at a time. What fields mean together, and what objects mean together, is not here but in
//! [`crate::objects`].

mod check;
mod definitions;
pub(crate) mod kinds;
#[cfg(test)]
mod tests;

pub use definitions::definitions;
pub use kinds::Kind;

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    /// Any text.
    Text,
    /// One of these words, as they are written.
    Word(&'static [&'static str]),
    /// A whole number.
    Integer {
        /// The lowest, where there is one.
        min: Option<i64>,
        /// The highest, where there is one.
        max: Option<i64>,
    },
    /// `true` or `false`.
    Boolean,
    /// A point in time (RFC 3339); only ever written by Herald.
    Time,
    /// So many of one type, at least `min`.
    List {
        /// What is in the list.
        of: &'static Self,
        /// How many at least.
        min: usize,
    },
    /// Labels: text by name.
    Labels,
    /// An object with known fields.
    Object(&'static [Field]),
}

/// One field of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) of: Type,
    /// What it means, as documentation and `kubectl explain` say it.
    pub(crate) about: &'static str,
    pub(crate) required: bool,
    /// What the API server puts where nothing is written, as JSON.
    pub(crate) default: Option<&'static str>,
    /// What stands for a missing field without being written there; only documentation shows it.
    pub(crate) otherwise: Option<&'static str>,
    /// CEL rules and their messages.
    pub(crate) rules: &'static [(&'static str, &'static str)],
}

impl Field {
    pub(crate) const fn new(name: &'static str, of: Type, about: &'static str) -> Self {
        Self { name, of, about, required: false, default: None, otherwise: None, rules: &[] }
    }

    pub(crate) const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(crate) const fn default(self, json: &'static str) -> Self {
        Self { default: Some(json), ..self }
    }

    pub(crate) const fn otherwise(self, words: &'static str) -> Self {
        Self { otherwise: Some(words), ..self }
    }

    pub(crate) const fn rules(self, rules: &'static [(&'static str, &'static str)]) -> Self {
        Self { rules, ..self }
    }
}

/// One version of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version {
    pub(crate) name: &'static str,
    /// Objects are stored in it; older ones are read and told as deprecated.
    pub(crate) storage: bool,
    pub(crate) spec: &'static [Field],
    pub(crate) status: &'static [Field],
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) of: &'static str,
    /// 0: always; more: only with `-o wide`.
    pub(crate) priority: u8,
}

impl Column {
    pub(crate) const fn new(name: &'static str, path: &'static str, of: &'static str) -> Self {
        Self { name, path, of, priority: 0 }
    }

    pub(crate) const fn wide(self) -> Self {
        Self { priority: 10, ..self }
    }
}
