//! One object of `metallb.io` at a time: from what the API server sent, or from a file, to what it says.
//!
//! The schema comes first ([`crate::schema`]), then what the fields of one object mean together. What objects mean
//! together is [`crate::assemble`]'s business; for that, names of other objects keep the place where they stand.
//! An object is read whole or not at all; all that is wrong with it is found at once.

mod advertisements;
mod peers;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::bfd::BfdProfile;
use crate::community::{Community, CommunityError, LargeCommunity};
use crate::problem::{ConfigError, Warning, shown};
use crate::read::reader::{Report, Value};
use crate::read::tree::Node;
use crate::schema::kinds::Kind;

pub(crate) use advertisements::{Bgp, L2, Selection};
pub(crate) use peers::{Key, PeerContent};
pub(crate) use pools::PoolContent;

/// What names an object of the group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name; all of them are of one namespace.
    pub name: String,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), shown(&self.name))
    }
}

/// One object as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What names it.
    pub key: ObjectKey,
    /// `metadata.namespace`, where it says one.
    pub namespace: Option<String>,
    /// `metadata.uid`; empty in files.
    pub uid: String,
    /// `metadata.generation`: changes with the spec; 0 in files.
    pub generation: i64,
    pub(crate) created: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Where it begins; line 0 from the API server.
    pub(crate) line: usize,
    /// None when there are errors.
    pub(crate) content: Option<Content>,
    pub(crate) errors: Vec<ConfigError>,
    pub(crate) unlisted_errors: usize,
    pub(crate) warnings: Vec<Warning>,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Pool(PoolContent),
    Communities(Vec<(At<String>, AnyCommunity)>),
    Bfd(BfdProfile),
    Peer(Box<PeerContent>),
    Bgp(Bgp),
    L2(L2),
    /// A status, which configures nothing.
    Status,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) path: String,
}

impl Place {
    pub(crate) fn of(value: &Value<'_>) -> Self {
        let (line, column) = value.place();
        Self { line, column, path: value.path().to_owned() }
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> ConfigError {
        let Self { line, column, path } = self.clone();
        ConfigError { line, column, path, message: message.into() }
    }
}

impl<T> At<T> {
    pub(crate) fn new(value: T, at: &Value<'_>) -> Self {
        Self { value, place: Place::of(at) }
    }
}

/// A community of either size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AnyCommunity {
    Plain(Community),
    Large(LargeCommunity),
}

impl std::str::FromStr for AnyCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if text.starts_with("large:") { text.parse().map(Self::Large) } else { text.parse().map(Self::Plain) }
    }
}

impl Object {
    /// An object as the API server sent it.
    pub fn from_json(kind: Kind, value: &serde_json::Value) -> Self {
        match Node::from_json(value) {
            Ok(node) => Self::read(kind, kind.version(), &node),
            Err(errors) => {
                let name = value["metadata"]["name"].as_str().unwrap_or_default();
                Self {
                    errors: errors.errors().to_vec(),
                    ..Self::empty(ObjectKey { kind, name: name.to_owned() }, 0)
                }
            }
        }
    }

    fn empty(key: ObjectKey, line: usize) -> Self {
        Self {
            key,
            namespace: None,
            uid: String::new(),
            generation: 0,
            created: String::new(),
            labels: BTreeMap::new(),
            line,
            content: None,
            errors: Vec::new(),
            unlisted_errors: 0,
            warnings: Vec::new(),
        }
    }

    /// An object of this kind and version, wherever it is from.
    pub(crate) fn read(kind: Kind, version: &str, node: &Node) -> Self {
        let report = Report::default();
        let root = Value::root(node, &report);
        let meta = root.peek("metadata");
        let of_meta = |key: &str| {
            let value = meta.as_ref().and_then(|meta| meta.peek(key)).filter(|value| !value.is_null());
            value.and_then(|value| value.peek_text()).unwrap_or_default()
        };
        let name = of_meta("name").to_owned();
        if name.is_empty() {
            let _: Option<()> = root.fail("metadata.name is missing: add it");
        }
        let labels = meta.as_ref().and_then(|meta| meta.peek("labels")).map(|value| value.peek_texts());
        let content = content(kind, version, &root);
        let namespace = of_meta("namespace");
        let object = Self {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            uid: of_meta("uid").to_owned(),
            generation: of_meta("generation").parse().unwrap_or_default(),
            created: of_meta("creationTimestamp").to_owned(),
            labels: labels.unwrap_or_default(),
            ..Self::empty(ObjectKey { kind, name }, node.line)
        };
        let (errors, unlisted_errors, warnings) = report.finish();
        Self { content: content.filter(|_| errors.is_empty()), errors, unlisted_errors, warnings, ..object }
    }
}

/// None only together with an error in the report.
fn content(kind: Kind, version: &str, root: &Value<'_>) -> Option<Content> {
    let versions = kind.versions();
    let Some(known) = versions.iter().find(|known| known.name == version) else {
        let names: Vec<&str> = versions.iter().map(|version| version.name).collect();
        let message =
            format!("{} has no version {}: use {}", kind.name(), shown(version), names.join(" or "));
        return root.fail(message);
    };
    if !known.storage {
        root.warn(format!("metallb.io/{version} is deprecated: write metallb.io/{}", kind.version()));
    }
    if known.spec.is_empty() {
        return Some(Content::Status);
    }
    let Some(spec) = root.peek("spec").filter(|spec| !spec.is_null()) else {
        return root.fail("spec is missing: add it");
    };
    crate::schema::Type::Object(known.spec).check(&spec)?;
    match kind {
        Kind::IpAddressPool => pools::read(&spec).map(Content::Pool),
        Kind::Community => communities(&spec).map(Content::Communities),
        Kind::BfdProfile => {
            let name = root.peek("metadata").and_then(|meta| meta.peek("name")).and_then(|name| name.text());
            Some(Content::Bfd(profile(&spec, name.unwrap_or_default())))
        }
        Kind::BgpPeer => peers::read(&spec).map(|peer| Content::Peer(Box::new(peer))),
        Kind::BgpAdvertisement => advertisements::read_bgp(&spec).map(Content::Bgp),
        Kind::L2Advertisement => advertisements::read_l2(&spec).map(Content::L2),
        Kind::ServiceL2Status | Kind::ServiceBgpStatus | Kind::ConfigurationState => Some(Content::Status),
    }
}

fn communities(spec: &Value<'_>) -> Option<Vec<(At<String>, AnyCommunity)>> {
    let mut complete = true;
    let mut read: Vec<(At<String>, AnyCommunity)> = Vec::new();
    for item in spec.list("communities") {
        let Some(name) = item.given("name").filter(|name| !name.peek_text().unwrap_or_default().is_empty())
        else {
            let _: Option<()> = item.fail("the community has no name: add one");
            complete = false;
            continue;
        };
        let value = match item.given("value") {
            Some(value) => crate::read::scalars::from_text(&value),
            None => item.fail("the community has no value: add one such as 64600:7"),
        };
        let text = name.peek_text().unwrap_or_default();
        if read.iter().any(|(known, _)| known.value == text) {
            let _: Option<()> =
                name.fail(format!("{} stands in this object already: rename one", shown(text)));
            complete = false;
        }
        match value {
            Some(value) => read.push((At::new(text.to_owned(), &name), value)),
            None => complete = false,
        }
    }
    complete.then_some(read)
}

/// Bounds are the schema's.
fn profile(spec: &Value<'_>, name: &str) -> BfdProfile {
    let default = BfdProfile::named(name);
    let echo_mode = spec.flag("echoMode", false);
    if let Some(value) = spec.given("echoMode").filter(|_| echo_mode) {
        value.warn(BfdProfile::NO_ECHO);
    }
    let time = |key, default| spec.number(key).map_or(default, std::time::Duration::from_millis);
    let byte =
        |key, default| spec.number(key).and_then(|number| u8::try_from(number).ok()).unwrap_or(default);
    BfdProfile {
        receive_interval: time("receiveInterval", default.receive_interval),
        transmit_interval: time("transmitInterval", default.transmit_interval),
        detect_multiplier: byte("detectMultiplier", default.detect_multiplier),
        echo_interval: time("echoInterval", default.echo_interval),
        echo_mode,
        passive_mode: spec.flag("passiveMode", false),
        minimum_ttl: byte("minimumTtl", default.minimum_ttl),
        ..default
    }
}
