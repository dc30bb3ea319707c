//! The configuration as this node knows it: the ConfigMap or the objects of `metallb.io`, and what is in force of them.
//!
//! Which of the two counts, and what stays in force while something is refused or gone, is decided in
//! [`herald_config::Sources`], for the controller too. This only translates: watch events in, news for the log out.

use std::collections::BTreeMap;

use herald_config::{Config, Document, File, Finding, Notice, NoticeReason, Sources, Subject, Watched};
use herald_runtime::config_report::{self, Refusals};
use herald_runtime::untyped::{UntypedEvent, UntypedKind};
use herald_runtime::watch::WatchEvent;
use kube::core::DynamicObject;
use serde_json::Value;
use tokio::sync::watch;

/// The ConfigMap's document; `None` when the key is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigObject(pub(crate) Option<String>);

/// Cuts the ConfigMap down to its document.
pub(crate) fn fold_config(config: DynamicObject) -> ConfigObject {
    ConfigObject(config.data["data"]["config"].as_str().map(str::to_owned))
}

/// What became of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigNews {
    /// It is in force.
    Taken,
    /// It is not, or not all of it, in words that name line or object; the last good one stays.
    Refused(String),
    /// There is none any more; the last good one stays.
    Gone,
}

/// What the API server has, as it says it: what a snapshot is made of.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The ConfigMap; `Some(None)`: there is none.
    document: Option<Option<ConfigObject>>,
    /// Objects and Secrets by kind and name, of the kinds that were listed, cut down to what is read of them.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// Counts changes.
    generation: u64,
}

impl Written {
    /// The ConfigMap; `Some(None)`: there is none. `None`: nobody has said yet.
    pub(crate) fn document(&self) -> Option<&Option<ConfigObject>> {
        self.document.as_ref()
    }

    /// Objects and Secrets by kind and name, of the kinds that were listed, cut down to what is read of them.
    pub(crate) fn objects(&self) -> &BTreeMap<&'static str, BTreeMap<String, Value>> {
        &self.objects
    }

    /// Another number: something has changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    fn set_document(&mut self, document: Option<ConfigObject>) {
        if self.document.as_ref() != Some(&document) {
            self.document = Some(document);
            self.generation += 1;
        }
    }

    fn set_objects(&mut self, UntypedEvent { kind, event }: &UntypedEvent) {
        let entry = |object: &Value| (name_of(object).to_owned(), cut_down(object));
        let known = self.objects.get(kind);
        let mut objects = known.cloned().unwrap_or_default();
        match event {
            WatchEvent::Reset(live) => objects = live.iter().map(entry).collect(),
            WatchEvent::Applied(object) => objects.extend([entry(object)]),
            WatchEvent::Deleted(name) => drop(objects.remove(&*name.name)),
        }
        if known != Some(&objects) {
            self.objects.insert(kind, objects);
            self.generation += 1;
        }
    }
}

/// What is read of an object: no status, which changes often, and no annotations, which may repeat all of it.
fn cut_down(object: &Value) -> Value {
    let only = |of: &Value, keys: &[&str]| -> Value {
        keys.iter().filter_map(|key| Some(((*key).to_owned(), of.get(key)?.clone()))).collect()
    };
    let mut cut = only(object, &["apiVersion", "kind", "spec", "type"]);
    let meta = ["name", "namespace", "uid", "generation", "creationTimestamp", "labels"];
    cut["metadata"] = only(&object["metadata"], &meta);
    // A Secret's.
    if let Some(data) = object.get("data") {
        cut["data"] = only(data, &["password"]);
    }
    cut
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct Configured {
    sources: Sources,
    written: Written,
    told: watch::Sender<Refusals>,
}

impl Default for Configured {
    /// The ConfigMap alone.
    fn default() -> Self {
        let mut sources = Sources::new(true);
        sources.without_objects();
        Self { sources, written: Written::default(), told: watch::Sender::new(None) }
    }
}

impl Configured {
    /// The ConfigMap and the objects; `told` takes what is refused.
    pub(crate) fn with_objects(told: watch::Sender<Refusals>) -> Self {
        Self { sources: Sources::new(true), written: Written::default(), told }
    }

    /// The ConfigMap and the objects, without Secrets: keys are known by their place alone.
    pub(crate) fn without_secrets() -> Self {
        Self { sources: Sources::new(false), written: Written::default(), told: watch::Sender::new(None) }
    }

    /// What `kubectl apply -f` would make of files.
    ///
    /// # Errors
    /// What cannot be read; nothing is taken then.
    pub(crate) fn apply_files(&mut self, files: &[File]) -> Result<(), Vec<Finding>> {
        self.sources.apply_files(files)?;
        self.settle();
        Ok(())
    }

    /// The last good configuration.
    pub(crate) fn in_force(&self) -> Option<&Config> {
        self.sources.in_force()
    }

    /// Everything that counts was told once.
    pub(crate) fn listed(&self) -> bool {
        self.sources.ready()
    }

    /// What all of it is made from.
    pub(crate) fn written(&self) -> &Written {
        &self.written
    }

    /// The ConfigMap; true if another configuration is in force now.
    pub(crate) fn document(&mut self, event: WatchEvent<ConfigObject>) -> (bool, Option<ConfigNews>) {
        let object = match event {
            WatchEvent::Applied(config) => Some(config),
            WatchEvent::Deleted(_) => None,
            WatchEvent::Reset(configs) => configs.into_iter().next(),
        };
        self.written.set_document(object.clone());
        self.sources.set_document(match object {
            None => Document::Gone,
            Some(ConfigObject(None)) => Document::NoKey,
            Some(ConfigObject(Some(text))) => Document::Text(text),
        });
        self.settle()
    }

    /// Objects and Secrets; true if another configuration is in force now.
    pub(crate) fn object(&mut self, event: UntypedEvent) -> (bool, Option<ConfigNews>) {
        self.written.set_objects(&event);
        match event.event {
            WatchEvent::Reset(live) => self.sources.reset_json(event.kind, &live),
            WatchEvent::Applied(object) => self.sources.apply_json(event.kind, &object),
            WatchEvent::Deleted(name) => self.sources.delete_named(event.kind, &name.name),
        }
        self.settle()
    }

    fn settle(&mut self) -> (bool, Option<ConfigNews>) {
        let was_refused = !self.sources.refusals().is_empty();
        let outcome = self.sources.settle();
        if self.listed() {
            config_report::tell(&self.told, self.sources.refusals());
        }
        let named = |notice: &Notice| match &notice.about {
            Subject::ConfigMap => notice.text.clone(),
            Subject::Object(key, _) => format!("{key}: {}", notice.text),
        };
        let refused: Vec<String> =
            outcome.notices.iter().filter(|notice| notice.refused).map(named).collect();
        let gone = outcome.notices.iter().any(|notice| notice.reason == NoticeReason::Deleted);
        let news = match refused.is_empty() {
            _ if gone => Some(ConfigNews::Gone),
            false => Some(ConfigNews::Refused(refused.join("\n"))),
            true if outcome.changed || (was_refused && self.sources.refusals().is_empty()) => {
                Some(ConfigNews::Taken)
            }
            true => None,
        };
        (outcome.changed, news)
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The kinds that a speaker watches.
pub(crate) fn watched() -> Vec<UntypedKind> {
    let kind = |Watched { group, version, kind, plural, fields }| UntypedKind {
        group,
        version,
        kind,
        plural,
        fields,
    };
    Sources::new(true).watched().into_iter().map(kind).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_object_is_named() {
        let mut configured = Configured::with_objects(watch::Sender::new(None));
        configured.document(WatchEvent::Reset(Vec::new()));
        for kind in watched() {
            configured.object(UntypedEvent { kind: kind.kind, event: WatchEvent::Reset(Vec::new()) });
        }
        let pool = json!({ "metadata": { "name": "edge" }, "spec": { "addresses": ["nonsense"] } });
        let event = WatchEvent::Applied(pool);
        let (_, news) = configured.object(UntypedEvent { kind: "IPAddressPool", event });
        let Some(ConfigNews::Refused(error)) = news else { panic!("{news:?}") };
        assert!(error.starts_with("IPAddressPool edge: spec.addresses[0]: "), "{error}");
    }
}
