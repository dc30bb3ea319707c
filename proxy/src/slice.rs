//! One `EndpointSlice`, cut down to what the proxy uses of it.
//!
//! Decides: which Service the slice belongs to, which of its ports and addresses count. Merging slices is
//! `endpoints.rs`, choosing among endpoints is `choice.rs`.
//! Only `addresses[0]` of an endpoint counts; a port without name or number does not; conditions default to
//! `ready: true`, `serving: true`, `terminating: false`. FQDN slices are ignored.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointHints, EndpointSlice};

use crate::element::Protocol;
use crate::family::IpFamily;
use crate::note::{self, AddressField, Note};
use crate::service::{LABEL_HEADLESS, LABEL_PROXY_NAME};

/// Label: the Service that a slice belongs to.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation: when what the slice tells began to be true.
const ANNOTATION_TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Why a slice is ignored as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SliceIgnored {
    /// No label `kubernetes.io/service-name`, or an empty one.
    #[error("label {LABEL_SERVICE_NAME} names no Service")]
    NoService,
    /// Label `service.kubernetes.io/headless`.
    #[error("label {LABEL_HEADLESS} is present")]
    HeadlessLabel,
    /// Label `service.kubernetes.io/service-proxy-name`.
    #[error("label {LABEL_PROXY_NAME} is present")]
    OtherProxy,
    /// Address type FQDN or unknown.
    #[error("address type is neither IPv4 nor IPv6")]
    AddressType,
}

/// Names of nodes and zones, each kept once for all endpoints that mention it.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    prune_at: usize,
}

impl Names {
    /// The shared copy of a name.
    pub fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        // Names come from users' objects: those that no endpoint uses any more must not pile up.
        if self.known.len() >= self.prune_at.max(1024) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.prune_at = self.known.len() * 2;
        }
        let name: Arc<str> = Arc::from(name);
        self.known.insert(Arc::clone(&name));
        name
    }
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`; the empty name is one.
    pub name: Box<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub number: u16,
}

/// `hints` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes[].name`.
    pub nodes: Box<[Arc<str>]>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints`, when there are any.
    pub hints: Option<Box<Hints>>,
}

/// What is used of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceView {
    /// `addressType`.
    pub family: IpFamily,
    /// Ports that have a name and a number.
    pub ports: Box<[SlicePort]>,
    /// Endpoints with an address.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A slice as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceReading {
    /// Name of the Service; the namespace is the slice's own.
    pub service: String,
    /// Its content.
    pub view: SliceView,
    /// `endpoints.kubernetes.io/last-change-trigger-time`, where present and readable.
    pub triggered: Option<Timestamp>,
    /// What was left out.
    pub notes: Vec<Note>,
}

/// The Service that a slice belongs to, also for one that is deleted or ignored.
pub fn service_name(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(LABEL_SERVICE_NAME).map(String::as_str).filter(|name| !name.is_empty())
}

impl SliceView {
    /// Reads a slice.
    pub fn read(slice: &EndpointSlice, names: &mut Names) -> Result<SliceReading, SliceIgnored> {
        let service = service_name(slice).ok_or(SliceIgnored::NoService)?;
        let labelled =
            |label: &str| slice.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
        if labelled(LABEL_PROXY_NAME) {
            return Err(SliceIgnored::OtherProxy);
        }
        if labelled(LABEL_HEADLESS) {
            return Err(SliceIgnored::HeadlessLabel);
        }
        let family = match slice.address_type.as_str() {
            "IPv4" => IpFamily::V4,
            "IPv6" => IpFamily::V6,
            _ => return Err(SliceIgnored::AddressType),
        };
        let mut notes = Vec::new();
        let ports = ports(slice, &mut notes);
        let mut endpoints = Vec::new();
        for api in slice.endpoints.iter().flatten() {
            match endpoint(api, family, names) {
                Some(Ok(endpoint)) => endpoints.push(endpoint),
                Some(Err(note)) => notes.push(note),
                None => {}
            }
        }
        let triggered = slice
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(ANNOTATION_TRIGGER_TIME))
            .and_then(|time| time.parse().ok());
        let view = Self { family, ports, endpoints: endpoints.into_boxed_slice() };
        Ok(SliceReading { service: service.to_owned(), view, triggered, notes })
    }
}

fn ports(slice: &EndpointSlice, notes: &mut Vec<Note>) -> Box<[SlicePort]> {
    let mut read = Vec::new();
    for api in slice.ports.iter().flatten() {
        // Without a name, or with a number of none or 0, a port means "not known": kube-proxy ignores it as well.
        let (Some(name), Some(value)) = (&api.name, api.port.filter(|&value| value != 0)) else { continue };
        let Some(number) = note::port_number(value) else {
            notes.push(Note::PortNumber { port: name.clone(), value });
            continue;
        };
        match note::protocol(api.protocol.as_deref()) {
            Ok(protocol) => read.push(SlicePort { name: name.as_str().into(), protocol, number }),
            Err(value) => notes.push(Note::UnknownProtocol { port: name.clone(), value }),
        }
    }
    read.into_boxed_slice()
}

fn endpoint(api: &ApiEndpoint, family: IpFamily, names: &mut Names) -> Option<Result<SliceEndpoint, Note>> {
    let address = match note::address(AddressField::Endpoint, api.addresses.first()?) {
        Ok(address) if IpFamily::of(address) == family => address,
        Ok(address) => return Some(Err(Note::WrongFamily { address })),
        Err(note) => return Some(Err(note)),
    };
    let conditions = api.conditions.as_ref();
    Some(Ok(SliceEndpoint {
        address,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: api.node_name.as_deref().filter(|name| !name.is_empty()).map(|name| names.share(name)),
        hints: api.hints.as_ref().and_then(|api| hints(api, names)),
    }))
}

fn hints(api: &EndpointHints, names: &mut Names) -> Option<Box<Hints>> {
    let zones = api.for_zones.iter().flatten().map(|zone| names.share(&zone.name)).collect::<Box<[_]>>();
    let nodes = api.for_nodes.iter().flatten().map(|node| names.share(&node.name)).collect::<Box<[_]>>();
    (!zones.is_empty() || !nodes.is_empty()).then(|| Box::new(Hints { zones, nodes }))
}

#[cfg(test)]
mod tests;
