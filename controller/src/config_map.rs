//! The ConfigMap: from its text to a configuration in force, or to words about why not.
//!
//! A document is taken whole or refused whole; while one is refused, or after the ConfigMap was deleted, the last
//! good one stays in force. The controller's leader is the one that tells it by Events; speakers only log.

use herald_config::Config;
use herald_runtime::ObjectName;
use herald_runtime::events::{EventType, regarding};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};

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
    pub fn new(object: ConfigMap) -> Self {
        let meta = object.metadata;
        Self {
            name: ObjectName::new(meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            text: object.data.and_then(|mut data| data.remove(KEY)),
        }
    }

    fn reference(&self) -> ObjectReference {
        regarding("ConfigMap", &self.name, &self.uid)
    }
}

/// The configuration in force, and what is to be said about the newest one.
#[derive(Debug, Default)]
pub struct ConfigState {
    in_force: Option<Config>,
    seen: Option<ConfigView>,
    stale: bool,
}

impl ConfigState {
    /// The last good configuration.
    pub fn in_force(&self) -> Option<&Config> {
        self.in_force.as_ref()
    }

    /// The newest one is not the one in force.
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// The ConfigMap as it is now (`None`: there is none). True if another configuration is in force now.
    pub fn update(&mut self, view: Option<ConfigView>, tells: &mut Vec<Tell>) -> bool {
        if view == self.seen {
            return false;
        }
        let Some(view) = view else { return self.deleted(tells) };
        let text = self.seen.as_ref().and_then(|seen| seen.text.as_deref());
        let known = self.seen.is_some() && text == view.text.as_deref();
        let document = view.text.clone();
        let reference = view.reference();
        self.seen = Some(view);
        if known {
            return false;
        }
        let Some(document) = document else {
            self.refuse(
                reference,
                &format!("the key {KEY:?} is missing: put the document under data.{KEY}"),
                tells,
            );
            return false;
        };
        match herald_config::parse(&document) {
            Ok(parsed) => {
                for warning in parsed.warnings {
                    tracing::warn!(%warning, "configuration");
                    tells.push(tell(&reference, EventType::Warning, "ConfigWarning", warning.to_string()));
                }
                self.stale = false;
                tracing::info!(
                    pools = parsed.config.pools.len(),
                    peers = parsed.config.peers.len(),
                    "configuration taken"
                );
                let changed = self.in_force.as_ref() != Some(&parsed.config);
                self.in_force = Some(parsed.config);
                changed
            }
            Err(errors) => {
                self.refuse(reference, &errors.to_string(), tells);
                false
            }
        }
    }

    fn deleted(&mut self, tells: &mut Vec<Tell>) -> bool {
        if let Some(seen) = self.seen.take() {
            self.stale = self.in_force.is_some();
            let note =
                "the ConfigMap is gone; the last configuration stays in force until there is a new one";
            tracing::warn!(config_map = %seen.name, note);
            tells.push(tell(&seen.reference(), EventType::Warning, "ConfigDeleted", note.to_owned()));
        }
        false
    }

    fn refuse(&mut self, reference: ObjectReference, errors: &str, tells: &mut Vec<Tell>) {
        self.stale = true;
        let then =
            if self.in_force.is_some() { "the last good one stays in force" } else { "nothing is done yet" };
        tracing::error!(errors, then, "configuration refused");
        tells.push(tell(&reference, EventType::Warning, "ConfigRejected", format!("{errors}\n({then})")));
    }
}

fn tell(reference: &ObjectReference, kind: EventType, reason: &'static str, note: String) -> Tell {
    Tell { regarding: reference.clone(), kind, reason, note }
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
        assert_eq!(tells[0].reason, "ConfigRejected");
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
        assert_eq!(tells[0].reason, "ConfigDeleted");
    }

    #[test]
    fn a_configmap_without_the_key_is_refused() {
        let mut state = ConfigState::default();
        let mut tells = Vec::new();
        let mut empty = view("").unwrap();
        empty.text = None;
        state.update(Some(empty), &mut tells);
        assert_eq!(tells[0].reason, "ConfigRejected");
    }
}
