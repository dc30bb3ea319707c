//! A wrapper that decodes an object, or at least says which object it is that cannot be decoded.
//!
//! A list is one JSON document: without this, one object that our types do not understand would make the whole list
//! fail, for ever. The object is cut out as raw text first (one scan, no tree), then decoded by itself.
//!
//! From that text `metadata.managedFields` are cut unless they are asked for (`MANAGED`): they are a good part of most
//! objects, and decoding them into trees costs more than all the rest.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::ObjectName;

/// Either the object, or its metadata and what is wrong with it.
#[derive(Debug, Clone)]
pub(super) enum Lenient<K, const MANAGED: bool> {
    Read(K),
    Unreadable(Box<ObjectMeta>, String),
}

impl<K: Resource, const MANAGED: bool> Lenient<K, MANAGED> {
    pub(super) fn into_result(self) -> Result<K, String> {
        match self {
            Self::Read(object) => Ok(object),
            Self::Unreadable(_, error) => Err(error),
        }
    }

    /// Its `resourceVersion`; empty if it has none.
    pub(super) fn version(&self) -> String {
        self.meta().resource_version.clone().unwrap_or_default()
    }

    pub(super) fn object_name(&self) -> ObjectName {
        let meta = self.meta();
        ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl<'de, K: DeserializeOwned, const MANAGED: bool> Deserialize<'de> for Lenient<K, MANAGED> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct OnlyMeta {
            metadata: ObjectMeta,
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = if MANAGED { Cow::Borrowed(raw.get()) } else { without_managed_fields(raw.get()) };
        let error = match serde_json::from_str(&text) {
            Ok(object) => return Ok(Self::Read(object)),
            Err(error) => error,
        };
        // Without metadata it is no object at all.
        let OnlyMeta { metadata } = serde_json::from_str(&text).map_err(D::Error::custom)?;
        Ok(Self::Unreadable(Box::new(metadata), error.to_string()))
    }
}

impl<K: Resource, const MANAGED: bool> Resource for Lenient<K, MANAGED> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Unreadable(meta, _) => meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Unreadable(meta, _) => meta,
        }
    }
}

impl<K: Resource, const MANAGED: bool> fmt::Display for Lenient<K, MANAGED> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object_name().fmt(f)
    }
}

/// An object's text without its `managedFields`.
///
/// Inside a string a quotation mark has a backslash before it, so a mark behind a comma or a brace begins a real key; and
/// no other field of that name is a list. Text that is laid out in another way than the API server's stays as it is.
fn without_managed_fields(text: &str) -> Cow<'_, str> {
    const KEY: &str = r#""managedFields":["#;
    let key = text.match_indices(KEY).map(|(at, _)| at).find(|at| text[..*at].ends_with([',', '{']));
    let Some(key) = key else { return Cow::Borrowed(text) };
    let list = key + KEY.len();
    let Some(length) = length_of_list(&text.as_bytes()[list..]) else { return Cow::Borrowed(text) };
    let (before, after) = (&text[..key], &text[list + length..]);
    // One of the commas around it goes as well.
    let after = if before.ends_with('{') { after.strip_prefix(',').unwrap_or(after) } else { after };
    let before = before.strip_suffix(',').unwrap_or(before);
    Cow::Owned([before, after].concat())
}

/// How many bytes there are up to the end of the list that has just begun.
fn length_of_list(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' => depth += 1,
            b']' if depth == 1 => return Some(at + 1),
            b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_cut_wherever_they_stand_and_nothing_else_is() {
        let managed = r#""managedFields":[{"manager":"a]\"[","fieldsV1":{"f:x":[["y"]]}},{}]"#;
        for (text, wanted) in [
            (r#"{"metadata":{"name":"a",MANAGED},"spec":{}}"#, r#"{"metadata":{"name":"a"},"spec":{}}"#),
            (r#"{"metadata":{MANAGED,"name":"a"}}"#, r#"{"metadata":{"name":"a"}}"#),
            (r#"{"metadata":{"name":"a",MANAGED,"uid":"b"}}"#, r#"{"metadata":{"name":"a","uid":"b"}}"#),
            (r#"{"metadata":{MANAGED}}"#, r#"{"metadata":{}}"#),
        ] {
            assert_eq!(without_managed_fields(&text.replace("MANAGED", managed)), wanted);
        }
        for untouched in [
            r#"{"metadata":{"annotations":{"a":"{\"managedFields\":[1]}","managedFields":"b"}}}"#,
            r#"{"metadata":{"name":",\"managedFields\":[]"}}"#,
            r#"{"metadata":{"managedFields":[{"#,
            "",
        ] {
            assert_eq!(without_managed_fields(untouched), untouched);
        }
    }
}
