//! The configuration as this node knows it: the ConfigMap or the objects of `metallb.io`, and what is in force of them.
//!
//! Which of the two counts, and what stays in force while something is refused or gone, is decided in
//! [`herald_config::Sources`], for the controller too. This only translates: watch events in, news for the log out.

use herald_config::{Config, Document, Sources, Watched};
use herald_runtime::config_report::{self, Refusals};
use herald_runtime::untyped::{UntypedEvent, UntypedKind};
use herald_runtime::watch::WatchEvent;
use kube::core::DynamicObject;
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

/// What is in force.
#[derive(Debug)]
pub(crate) struct Configured {
    sources: Sources,
    told: watch::Sender<Refusals>,
}

impl Default for Configured {
    /// The ConfigMap alone.
    fn default() -> Self {
        let mut sources = Sources::new(true);
        sources.without_objects();
        Self { sources, told: watch::Sender::new(None) }
    }
}

impl Configured {
    /// The ConfigMap and the objects; `told` takes what is refused.
    pub(crate) fn with_objects(told: watch::Sender<Refusals>) -> Self {
        Self { sources: Sources::new(true), told }
    }

    /// The last good configuration.
    pub(crate) fn in_force(&self) -> Option<&Config> {
        self.sources.in_force()
    }

    /// Everything that counts was told once.
    pub(crate) fn listed(&self) -> bool {
        self.sources.ready()
    }

    /// The ConfigMap; true if another configuration is in force now.
    pub(crate) fn document(&mut self, event: WatchEvent<ConfigObject>) -> (bool, Option<ConfigNews>) {
        let object = match event {
            WatchEvent::Applied(config) => Some(config),
            WatchEvent::Deleted(_) => None,
            WatchEvent::Reset(configs) => configs.into_iter().next(),
        };
        self.sources.set_document(match object {
            None => Document::Gone,
            Some(ConfigObject(None)) => Document::NoKey,
            Some(ConfigObject(Some(text))) => Document::Text(text),
        });
        self.settle()
    }

    /// Objects and Secrets; true if another configuration is in force now.
    pub(crate) fn object(&mut self, event: UntypedEvent) -> (bool, Option<ConfigNews>) {
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
        let refused: Vec<&str> =
            outcome.notices.iter().filter(|notice| notice.refused).map(|notice| &*notice.text).collect();
        let gone = outcome.notices.iter().any(|notice| notice.reason == "ConfigDeleted");
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
