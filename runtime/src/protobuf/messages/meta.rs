//! What all kinds have.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use prost::Message;
use tower::BoxError;

use super::super::Page;
use super::{all, some};

/// `runtime.Unknown`: what every document is wrapped in.
#[derive(Clone, PartialEq, Message)]
pub(in crate::protobuf) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub(in crate::protobuf) type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(in crate::protobuf) raw: Bytes,
}

/// `runtime.TypeMeta`; its `apiVersion` goes with the path that was asked for.
#[derive(Clone, PartialEq, Message)]
pub(in crate::protobuf) struct TypeMeta {
    #[prost(string, tag = "2")]
    pub(in crate::protobuf) kind: String,
}

/// A list of any kind: all have these two fields.
#[derive(Clone, PartialEq, Message)]
pub(in crate::protobuf) struct List {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    /// Each a message of the kind.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

/// `meta.v1.ListMeta`, of which no more is needed.
#[derive(Clone, PartialEq, Message)]
struct ListMeta {
    #[prost(string, tag = "2")]
    resource_version: String,
    #[prost(string, tag = "3")]
    continue_: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "4")]
    self_link: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(int64, tag = "7")]
    generation: i64,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(int64, optional, tag = "10")]
    deletion_grace_period_seconds: Option<i64>,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "13")]
    owner_references: Vec<OwnerReference>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
    /// Each a [`ManagedFieldsEntry`], read only where it is asked for.
    #[prost(bytes = "bytes", repeated, tag = "17")]
    managed_fields: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct OwnerReference {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    uid: String,
    #[prost(string, tag = "5")]
    api_version: String,
    #[prost(bool, optional, tag = "6")]
    controller: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    block_owner_deletion: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Condition {
    #[prost(string, tag = "1")]
    type_: String,
    #[prost(string, tag = "2")]
    status: String,
    #[prost(int64, tag = "3")]
    observed_generation: i64,
    #[prost(message, optional, tag = "4")]
    last_transition_time: Option<Time>,
    #[prost(string, tag = "5")]
    reason: String,
    #[prost(string, tag = "6")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ManagedFieldsEntry {
    #[prost(string, tag = "1")]
    manager: String,
    #[prost(string, tag = "2")]
    operation: String,
    #[prost(string, tag = "3")]
    api_version: String,
    #[prost(message, optional, tag = "4")]
    time: Option<Time>,
    #[prost(string, tag = "6")]
    fields_type: String,
    #[prost(message, optional, tag = "7")]
    fields_v1: Option<FieldsV1>,
    #[prost(string, tag = "8")]
    subresource: String,
}

/// `meta.v1.FieldsV1`: JSON in both forms.
#[derive(Clone, PartialEq, Message)]
struct FieldsV1 {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// `meta.v1.Time`; JSON and protobuf have whole seconds alike.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// Seconds of Go's zero time, 1 January of the year 1: no time at all.
const NO_TIME: i64 = -62_135_596_800;

impl List {
    pub(in crate::protobuf) fn page(self) -> Page<Bytes> {
        let meta = self.metadata.unwrap_or_default();
        Page { objects: self.items, more: some(meta.continue_), version: some(meta.resource_version) }
    }
}

impl ObjectMeta {
    /// Fails where an entry of the `managedFields` cannot be read, if they are wanted.
    pub(super) fn read(self, managed_fields: bool) -> Result<meta::ObjectMeta, BoxError> {
        let managed_fields = if managed_fields { self.managed_fields } else { Vec::new() };
        let managed_fields: Vec<_> =
            managed_fields.into_iter().map(ManagedFieldsEntry::read).collect::<Result<_, _>>()?;
        Ok(meta::ObjectMeta {
            annotations: some(self.annotations),
            creation_timestamp: self.creation_timestamp.and_then(Time::read),
            deletion_grace_period_seconds: self.deletion_grace_period_seconds,
            deletion_timestamp: self.deletion_timestamp.and_then(Time::read),
            finalizers: some(self.finalizers),
            generate_name: some(self.generate_name),
            generation: some(self.generation),
            labels: some(self.labels),
            managed_fields: some(managed_fields),
            name: some(self.name),
            namespace: some(self.namespace),
            owner_references: some(all(self.owner_references, OwnerReference::read)),
            resource_version: some(self.resource_version),
            self_link: some(self.self_link),
            uid: some(self.uid),
        })
    }
}

impl OwnerReference {
    fn read(self) -> meta::OwnerReference {
        meta::OwnerReference {
            api_version: self.api_version,
            block_owner_deletion: self.block_owner_deletion,
            controller: self.controller,
            kind: self.kind,
            name: self.name,
            uid: self.uid,
        }
    }
}

impl Condition {
    pub(super) fn read(self) -> meta::Condition {
        // JSON has no condition without a time.
        let epoch = meta::Time(Timestamp::UNIX_EPOCH);
        meta::Condition {
            last_transition_time: self.last_transition_time.and_then(Time::read).unwrap_or(epoch),
            message: self.message,
            observed_generation: some(self.observed_generation),
            reason: self.reason,
            status: self.status,
            type_: self.type_,
        }
    }
}

impl ManagedFieldsEntry {
    fn read(entry: Bytes) -> Result<meta::ManagedFieldsEntry, BoxError> {
        let entry = Self::decode(entry)?;
        let fields = entry.fields_v1.map(|fields| serde_json::from_slice(&fields.raw)).transpose()?;
        Ok(meta::ManagedFieldsEntry {
            api_version: some(entry.api_version),
            fields_type: some(entry.fields_type),
            fields_v1: fields.map(meta::FieldsV1),
            manager: some(entry.manager),
            operation: some(entry.operation),
            subresource: some(entry.subresource),
            time: entry.time.and_then(Time::read),
        })
    }
}

impl Time {
    /// Nothing for no time, and for one beyond the calendar.
    fn read(self) -> Option<meta::Time> {
        let time = Timestamp::from_second(self.seconds).ok()?;
        (self.seconds != NO_TIME).then_some(meta::Time(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_seconds_and_what_is_none_or_beyond_the_calendar_is_left_out() {
        for (seconds, told) in [
            (1_795_293_564, Some("2026-11-21T20:39:24Z")),
            (0, Some("1970-01-01T00:00:00Z")),
            (NO_TIME, None),
            (i64::MAX, None),
        ] {
            assert_eq!(Time { seconds }.read().map(|time| time.0.to_string()).as_deref(), told);
        }
    }
}
