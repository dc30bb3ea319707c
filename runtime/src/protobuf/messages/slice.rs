//! EndpointSlices.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use prost::Message;
use tower::BoxError;

use super::meta::ObjectMeta;
use super::{all, some};

#[derive(Clone, PartialEq, Message)]
struct ObjectReference {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    uid: String,
    #[prost(string, tag = "5")]
    api_version: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(string, tag = "7")]
    field_path: String,
}

/// `discovery.v1.EndpointSlice`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::protobuf) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    ports: Vec<EndpointPort>,
    #[prost(string, tag = "4")]
    address_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    conditions: Option<EndpointConditions>,
    #[prost(string, optional, tag = "3")]
    hostname: Option<String>,
    #[prost(message, optional, tag = "4")]
    target_ref: Option<ObjectReference>,
    #[prost(btree_map = "string, string", tag = "5")]
    deprecated_topology: BTreeMap<String, String>,
    #[prost(string, optional, tag = "6")]
    node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    zone: Option<String>,
    #[prost(message, optional, tag = "8")]
    hints: Option<EndpointHints>,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointHints {
    #[prost(message, repeated, tag = "1")]
    for_zones: Vec<For>,
    #[prost(message, repeated, tag = "2")]
    for_nodes: Vec<For>,
}

/// `ForZone` and `ForNode`.
#[derive(Clone, PartialEq, Message)]
struct For {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointPort {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    port: Option<i32>,
    #[prost(string, optional, tag = "4")]
    app_protocol: Option<String>,
}

impl EndpointSlice {
    /// The object, with or without its `managedFields`.
    pub(in crate::protobuf) fn read(
        self,
        managed_fields: bool,
    ) -> Result<discovery::EndpointSlice, BoxError> {
        Ok(discovery::EndpointSlice {
            address_type: self.address_type,
            endpoints: some(all(self.endpoints, Endpoint::read)),
            metadata: self.metadata.unwrap_or_default().read(managed_fields)?,
            ports: some(all(self.ports, EndpointPort::read)),
        })
    }
}

impl Endpoint {
    fn read(self) -> discovery::Endpoint {
        discovery::Endpoint {
            addresses: self.addresses,
            conditions: self.conditions.map(EndpointConditions::read),
            deprecated_topology: some(self.deprecated_topology),
            hints: self.hints.map(EndpointHints::read),
            hostname: self.hostname,
            node_name: self.node_name,
            target_ref: self.target_ref.map(ObjectReference::read),
            zone: self.zone,
        }
    }
}

impl EndpointConditions {
    fn read(self) -> discovery::EndpointConditions {
        let Self { ready, serving, terminating } = self;
        discovery::EndpointConditions { ready, serving, terminating }
    }
}

impl EndpointHints {
    fn read(self) -> discovery::EndpointHints {
        discovery::EndpointHints {
            for_nodes: some(all(self.for_nodes, |of| discovery::ForNode { name: of.name })),
            for_zones: some(all(self.for_zones, |of| discovery::ForZone { name: of.name })),
        }
    }
}

impl EndpointPort {
    fn read(self) -> discovery::EndpointPort {
        let Self { name, protocol, port, app_protocol } = self;
        discovery::EndpointPort { app_protocol, name, port, protocol }
    }
}

impl ObjectReference {
    fn read(self) -> core::ObjectReference {
        core::ObjectReference {
            api_version: some(self.api_version),
            field_path: some(self.field_path),
            kind: some(self.kind),
            name: some(self.name),
            namespace: some(self.namespace),
            resource_version: some(self.resource_version),
            uid: some(self.uid),
        }
    }
}
