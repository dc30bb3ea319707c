//! A wrapper that decodes an object, or at least says which object it is that cannot be decoded.
//!
//! A list is one JSON document: without this, one object that our types do not understand would make the whole list
//! fail, for ever. The object is cut out as raw text first (one scan, no tree), then decoded by itself.

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
pub(super) enum Lenient<K> {
    Read(K),
    Unreadable(Box<ObjectMeta>, String),
}

impl<K: Resource> Lenient<K> {
    pub(super) fn into_result(self) -> Result<K, String> {
        match self {
            Self::Read(object) => Ok(object),
            Self::Unreadable(_, error) => Err(error),
        }
    }

    pub(super) fn object_name(&self) -> ObjectName {
        let meta = self.meta();
        ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct OnlyMeta {
            metadata: ObjectMeta,
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let error = match serde_json::from_str(raw.get()) {
            Ok(object) => return Ok(Self::Read(object)),
            Err(error) => error,
        };
        // Without metadata it is no object at all.
        let OnlyMeta { metadata } = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(Self::Unreadable(Box::new(metadata), error.to_string()))
    }
}

impl<K: Resource> Resource for Lenient<K> {
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

impl<K: Resource> fmt::Display for Lenient<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object_name().fmt(f)
    }
}
