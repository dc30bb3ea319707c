//! What is wrong or odd in a document, and where.
//!
//! Lines and columns are 1-based and count within the document, which is the value of the ConfigMap's key, not
//! within the manifest around it. Every message ends with what to write instead. Text of the user is shown short
//! and escaped, and a password is never part of a message.

use std::fmt;

/// One thing that makes a document unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(*line, path))]
pub struct ConfigError {
    /// 1-based line in the document; 0: nowhere, as in what the API server sent.
    pub line: usize,
    /// 1-based column in the line.
    pub column: usize,
    /// Where in the structure, such as `address-pools[0].cidr[1]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, then a colon, then what to write instead.
    pub message: String,
}

/// One thing that is accepted but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// 1-based line in the document.
    pub line: usize,
    /// 1-based column in the line.
    pub column: usize,
    /// Where in the structure; empty for the document as a whole.
    pub path: String,
    /// What is odd, and what it does to the configuration.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", place(self.line, &self.path), self.message)
    }
}

fn place(line: usize, path: &str) -> String {
    match (line, path) {
        (0, "") => String::new(),
        (0, path) => format!("{path}: "),
        (line, "") => format!("line {line}: "),
        (line, path) => format!("line {line}, {path}: "),
    }
}

/// Why a document was refused: at least one error, in the order of lines. Prints one error per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    unlisted: usize,
    warnings: Vec<Warning>,
}

impl ConfigErrors {
    pub(crate) fn new(mut errors: Vec<ConfigError>, unlisted: usize, warnings: Vec<Warning>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self { errors, unlisted, warnings }
    }

    /// The errors in the order of lines; of very many only the first found.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many errors there are beyond those of [`Self::errors`].
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }

    /// What else was odd: a mistyped key often explains the one that is missing.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self { errors: vec![error], unlisted: 0, warnings: Vec::new() }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.unlisted > 0 {
            write!(f, "\nand {} more", self.unlisted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The longest piece of the user's text that a message repeats.
const SHOWN_CHARS: usize = 64;

/// A piece of the user's text as a message shows it: as it stands when it is short and plain, else quoted,
/// escaped and cut.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._:/%+-µμ".contains(c);
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    let whole = cut.len() == text.len();
    if whole && !text.is_empty() && text.chars().all(plain) {
        cut
    } else if whole {
        format!("{cut:?}")
    } else {
        format!("{cut:?}…")
    }
}
