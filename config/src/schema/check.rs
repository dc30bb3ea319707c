//! An object against its schema, without an API server.
//!
//! Refuses what the API server refuses; a key that it would drop is a warning. CEL rules are left to
//! [`crate::objects`], which checks the same by other means.

use super::{Field, Type};
use crate::problem::shown;
use crate::read::nearest::nearest;
use crate::read::reader::{Scalar, Value};
use crate::read::scalars::{boolean, whole_number};

impl Type {
    /// `None` exactly when something is reported that makes the value unusable.
    pub(crate) fn check(&self, value: &Value<'_>) -> Option<()> {
        match self {
            Self::Text | Self::Time => text(value).map(drop),
            Self::Word(words) => {
                let written = text(value)?;
                if words.contains(&written) {
                    return Some(());
                }
                value.fail(format!("{} is not known here: use {}", shown(written), words.join(" or ")))
            }
            Self::Integer { min, max } => {
                if value.scalar() == Scalar::Text && value.text()?.parse::<i64>().is_ok() {
                    return value.fail("a number stands in quotes: remove them");
                }
                whole_number(value, *min, *max).map(drop)
            }
            Self::Boolean => {
                if value.scalar() == Scalar::Text {
                    return value
                        .fail("text stands where true or false belongs: write one of them without quotes");
                }
                boolean(value).map(drop)
            }
            Self::Labels => {
                let mut complete = Some(());
                for (_, value) in value.entries()? {
                    complete = text(&value).and(complete);
                }
                complete
            }
            Self::List { of, min } => {
                let items = value.items()?;
                if items.len() < *min {
                    return value.fail("the list is empty: write at least one entry");
                }
                let mut complete = Some(());
                for item in items {
                    complete = of.check(&item).and(complete);
                }
                complete
            }
            Self::Object(fields) => object(fields, value),
        }
    }
}

/// Text that the API server takes as such: YAML reads `12` and `yes` as something else.
fn text<'a>(value: &Value<'a>) -> Option<&'a str> {
    let text = value.text()?;
    let what = match value.scalar() {
        Scalar::Number => "a number",
        Scalar::Boolean => "true or false",
        Scalar::Text | Scalar::Other => return Some(text),
    };
    value.fail(format!("{} is read as {what}: put it in quotes", shown(text)))
}

fn object(fields: &[Field], value: &Value<'_>) -> Option<()> {
    let entries = value.entries()?;
    let mut complete = Some(());
    let mut likely = Vec::new();
    for (key, value) in &entries {
        let Some(field) = fields.iter().find(|field| field.name == *key) else {
            let near = nearest(key, fields.iter().map(|field| field.name));
            likely.extend(near.filter(|near| near.likely).map(|near| (near.word, *key, value.place().0)));
            value.warn(match near {
                Some(near) if near.likely => format!("unknown field, ignored: did you mean {}?", near.word),
                Some(near) => format!("unknown field, ignored: the nearest known field is {}", near.word),
                None => "unknown field, ignored".to_owned(),
            });
            continue;
        };
        if !value.is_null() {
            complete = field.of.check(value).and(complete);
        }
    }
    for field in fields.iter().filter(|field| field.required) {
        if entries.iter().any(|(key, value)| *key == field.name && !value.is_null()) {
            continue;
        }
        let name = field.name;
        complete = match likely.iter().find(|(word, ..)| *word == name) {
            Some((_, key, 0)) => value.fail(format!("{name} is missing: rename {} to it", shown(key))),
            Some((_, key, line)) => {
                value.fail(format!("{name} is missing: rename {} on line {line} to it", shown(key)))
            }
            None => value.fail(format!("{name} is missing: add it")),
        };
    }
    complete
}
