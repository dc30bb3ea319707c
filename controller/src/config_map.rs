//! The ConfigMap and the objects of `metallb.io`: from what they say to a configuration in force, or to words about why
//! not.
//!
//! Which of the two counts, and what stays in force while something is refused or gone, is decided in
//! [`herald_config::Sources`]. The controller's leader is the one that tells it by Events; speakers only log.

use herald_config::{Config, Document, File, Finding, NoticeReason, Sources, Subject, Watched};
use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventType, regarding};
use herald_runtime::untyped::{UntypedEvent, UntypedKind};
use herald_runtime::watch::WatchEvent;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DynamicObject;

use crate::plan::Tell;

/// The key of the document.
pub const KEY: &str = "config";

/// What matters of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigView {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: String,
    /// The document.
    pub text: Option<String>,
}

impl ConfigView {
    /// Takes it out of the object.
    pub fn new(object: DynamicObject) -> Self {
        let text = object.data["data"][KEY].as_str().map(str::to_owned);
        let meta = object.metadata;
        Self {
            name: ObjectName::new(meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            text,
        }
    }

    fn reference(&self) -> ObjectReference {
        regarding("ConfigMap", &self.name, &self.uid)
    }
}

/// The configuration in force, and what is to be said about the newest one.
#[derive(Debug)]
pub struct ConfigState {
    sources: Sources,
    /// The ConfigMap that was seen last, also after it is gone.
    seen: Option<ConfigView>,
    /// Where objects are.
    namespace: String,
}

impl Default for ConfigState {
    /// The ConfigMap alone.
    fn default() -> Self {
        let mut sources = Sources::new(false);
        sources.without_objects();
        Self { sources, seen: None, namespace: String::new() }
    }
}

impl ConfigState {
    /// The ConfigMap and the objects of `metallb.io` of a namespace.
    pub fn with_objects(namespace: &str) -> Self {
        Self { sources: Sources::new(false), seen: None, namespace: namespace.to_owned() }
    }

    /// The last good configuration.
    pub fn in_force(&self) -> Option<&Config> {
        self.sources.in_force()
    }

    /// The newest one is not the one in force.
    pub fn stale(&self) -> bool {
        !self.sources.refusals().is_empty()
    }

    /// What of the newest one is not in force.
    pub fn refusals(&self) -> &[String] {
        self.sources.refusals()
    }

    /// Everything that counts was told once.
    pub fn listed(&self) -> bool {
        self.sources.ready()
    }

    /// The ConfigMap as it is now (`None`: there is none). True if another configuration is in force now.
    pub fn update(&mut self, view: Option<ConfigView>, tells: &mut Vec<Tell>) -> bool {
        let document = match &view {
            None => Document::Gone,
            Some(ConfigView { text: None, .. }) => Document::NoKey,
            Some(ConfigView { text: Some(text), .. }) => Document::Text(text.clone()),
        };
        if view.is_some() {
            self.seen = view;
        }
        self.sources.set_document(document);
        self.settle(tells)
    }

    /// An object of `metallb.io` as it is now. True if another configuration is in force now.
    pub fn object(&mut self, event: &UntypedEvent, tells: &mut Vec<Tell>) -> bool {
        match &event.event {
            WatchEvent::Reset(live) => self.sources.reset_json(event.kind, live),
            WatchEvent::Applied(object) => self.sources.apply_json(event.kind, object),
            WatchEvent::Deleted(name) => self.sources.delete_named(event.kind, &name.name),
        }
        self.settle(tells)
    }

    /// What `kubectl apply -f` would make of files. True if another configuration is in force now.
    ///
    /// # Errors
    /// What cannot be read; nothing is taken then.
    pub fn apply_files(&mut self, files: &[File], tells: &mut Vec<Tell>) -> Result<bool, Vec<Finding>> {
        self.sources.apply_files(files)?;
        Ok(self.settle(tells))
    }

    fn settle(&mut self, tells: &mut Vec<Tell>) -> bool {
        let outcome = self.sources.settle();
        for notice in outcome.notices {
            // One line each in the log.
            let error = notice.text.replace('\n', "; ");
            let about = self.named(&notice.about);
            match notice.refused {
                true => {
                    tracing::error!(about, error, "configuration refused; the last good one stays in force");
                }
                false => tracing::warn!(about, "configuration: {error}"),
            }
            tells.push(Tell {
                regarding: self.reference(&notice.about),
                kind: EventType::Warning,
                reason: event(notice.reason),
                note: notice.text,
            });
        }
        if let Some(config) = self.sources.in_force().filter(|_| outcome.changed) {
            let objects = self.sources.from_objects();
            tracing::info!(
                objects,
                pools = config.pools.len(),
                peers = config.peers.len(),
                "configuration taken"
            );
        }
        outcome.changed
    }

    /// As people name it.
    fn named(&self, about: &Subject) -> String {
        match (about, &self.seen) {
            (Subject::ConfigMap, Some(seen)) => format!("ConfigMap {}", seen.name),
            (Subject::ConfigMap, None) => "ConfigMap".to_owned(),
            (Subject::Object(key, _), _) => key.to_string(),
        }
    }

    fn reference(&self, about: &Subject) -> ObjectReference {
        match about {
            Subject::ConfigMap => match &self.seen {
                Some(seen) => seen.reference(),
                None => regarding("ConfigMap", &ObjectName::new(&*self.namespace, KEY), ""),
            },
            Subject::Object(key, uid) => {
                let name = ObjectName::new(&*self.namespace, &*key.name);
                let api_version = Some(format!("metallb.io/{}", key.kind.version()));
                ObjectReference { api_version, ..regarding(key.kind.name(), &name, uid) }
            }
        }
    }
}

fn event(reason: NoticeReason) -> EventReason {
    match reason {
        NoticeReason::Rejected => EventReason::ConfigRejected,
        NoticeReason::Ignored => EventReason::ConfigIgnored,
        NoticeReason::Warning => EventReason::ConfigWarning,
        NoticeReason::Deleted => EventReason::ConfigDeleted,
    }
}

/// The kinds that the controller watches.
pub fn watched() -> Vec<UntypedKind> {
    let kind = |Watched { group, version, kind, plural, fields }| UntypedKind {
        group,
        version,
        kind,
        plural,
        fields,
    };
    Sources::new(false).watched().into_iter().map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> Option<ConfigView> {
        let name = ObjectName::new("metallb-system", "config");
        Some(ConfigView { name, uid: "u".to_owned(), text: Some(text.to_owned()) })
    }

    const GOOD: &str = "address-pools:\n- name: default\n  cidr: [192.0.2.0/24]\n  advertisements: [{aggregation-length: 32}]\n";

    #[test]
    fn a_bad_document_after_a_good_one_is_told_with_its_line_and_changes_nothing() {
        let mut state = ConfigState::default();
        let mut tells = Vec::new();
        assert!(state.update(view(GOOD), &mut tells));
        let good = state.in_force().cloned();
        tells.clear();
        assert!(!state.update(view("address-pools:\n- name: default\n  cidr: [nonsense]\n"), &mut tells));
        assert_eq!(state.in_force().cloned(), good);
        assert!(state.stale());
        assert_eq!(tells[0].reason, EventReason::ConfigRejected);
        assert!(tells[0].note.contains("line 3"), "{}", tells[0].note);
        assert!(state.in_force().is_some() && !state.update(view(GOOD), &mut tells));
        assert!(!state.stale());
    }

    #[test]
    fn the_same_document_is_told_about_once() {
        let mut state = ConfigState::default();
        let mut tells = Vec::new();
        let bad = "address-pools: 7\n";
        state.update(view(bad), &mut tells);
        let told = tells.len();
        assert!(told > 0);
        state.update(view(bad), &mut tells);
        assert_eq!(tells.len(), told);
    }

    #[test]
    fn a_deleted_configmap_leaves_the_last_good_configuration_in_force() {
        let mut state = ConfigState::default();
        let mut tells = Vec::new();
        state.update(view(GOOD), &mut tells);
        tells.clear();
        assert!(!state.update(None, &mut tells));
        assert!(state.in_force().is_some() && state.stale());
        assert_eq!(tells[0].reason, EventReason::ConfigDeleted);
    }

    #[test]
    fn a_configmap_without_the_key_is_refused() {
        let mut state = ConfigState::default();
        let mut tells = Vec::new();
        let mut empty = view("").unwrap();
        empty.text = None;
        state.update(Some(empty), &mut tells);
        assert_eq!(tells[0].reason, EventReason::ConfigRejected);
    }

    #[test]
    fn a_refused_object_is_told_on_the_object_and_a_configmap_beside_objects_on_itself() {
        let mut state = ConfigState::with_objects("metallb-system");
        let mut tells = Vec::new();
        assert!(!state.update(view(GOOD), &mut tells) && !state.listed(), "objects may come");
        for kind in watched() {
            state.object(&UntypedEvent { kind: kind.kind, event: WatchEvent::Reset(Vec::new()) }, &mut tells);
        }
        assert!(state.listed() && tells.is_empty());
        assert_eq!(state.in_force().map(|config| config.pools[0].name.clone()).as_deref(), Some("default"));
        let pool = |name: &str, range: &str| UntypedEvent {
            kind: "IPAddressPool",
            event: WatchEvent::Applied(serde_json::json!({
                "metadata": { "name": name, "uid": format!("uid-{name}") }, "spec": { "addresses": [range] }
            })),
        };
        assert!(state.object(&pool("good", "198.51.100.0/24"), &mut tells));
        assert_eq!(
            (tells[0].reason, tells[0].regarding.kind.as_deref()),
            (EventReason::ConfigIgnored, Some("ConfigMap"))
        );
        tells.clear();
        state.object(&pool("bad", "nonsense"), &mut tells);
        assert_eq!(tells[0].reason, EventReason::ConfigRejected);
        assert_eq!(tells[0].regarding.api_version.as_deref(), Some("metallb.io/v1beta1"));
        assert_eq!(tells[0].regarding.uid.as_deref(), Some("uid-bad"));
        assert!(state.stale() && state.refusals()[0].starts_with("IPAddressPool bad, spec.addresses[0]: "));
        assert_eq!(state.in_force().map(|config| config.refused_pools.clone()), Some(vec!["bad".to_owned()]));
    }
}
