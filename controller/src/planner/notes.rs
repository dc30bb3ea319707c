//! What Services were told, so that each thing is told once; and who waits for what.

use std::collections::{BTreeMap, HashMap};

use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventType};

use crate::plan::{Allotment, Tell};
use crate::reason::Reason;
use crate::service::ServiceView;

/// What may have to be said about a Service that is no reason to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// An input annotation has MetalLB's old prefix.
    Deprecated,
    /// An annotation of Herald's own cannot be understood.
    Complaint,
    /// A Service of somebody else shows an address of a pool.
    ForeignAddress,
    /// An externalIP is the address of another Service.
    ExternalIp,
}

impl Note {
    fn reason(self) -> EventReason {
        match self {
            Self::Deprecated => EventReason::DeprecatedAnnotation,
            Self::Complaint => EventReason::InvalidAnnotation,
            Self::ForeignAddress => EventReason::ForeignAddress,
            Self::ExternalIp => EventReason::ExternalIpInUse,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Who waits for an address, and what it was told.
    waiting: BTreeMap<ObjectName, Reason>,
    /// Who has one address and would like a second one.
    lacking: BTreeMap<ObjectName, Reason>,
    told: HashMap<ObjectName, BTreeMap<Note, String>>,
    tells: Vec<Tell>,
}

impl Notes {
    /// Takes the Events to publish.
    pub(super) fn take(&mut self) -> Vec<Tell> {
        std::mem::take(&mut self.tells)
    }

    /// For Events about something else than a Service.
    pub(super) fn tells(&mut self) -> &mut Vec<Tell> {
        &mut self.tells
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn waits(&self, service: &ObjectName) -> bool {
        self.waiting.contains_key(service)
    }

    /// Whom an address that was freed may help.
    pub(super) fn hopeful(&self) -> impl Iterator<Item = &ObjectName> {
        let all = self.waiting.iter().chain(&self.lacking);
        all.filter(|(_, reason)| reason.may_pass()).map(|(name, _)| name)
    }

    pub(super) fn forget(&mut self, service: &ObjectName) {
        self.waiting.remove(service);
        self.lacking.remove(service);
        self.told.remove(service);
    }

    /// Tells a Service once why it waits, or why it has one address and not two, and remembers that it does.
    pub(super) fn decided(&mut self, view: &ServiceView, allotment: &Allotment) {
        let (waits, lacks) = match allotment {
            Allotment::Waits(reason) => (Some(reason), None),
            Allotment::Holds { grant, .. } => (None, grant.lacks.as_ref()),
            _ => (None, None),
        };
        if let Some(reason) = changed(&mut self.waiting, &view.name, waits) {
            tracing::warn!(service = %view.name, reason = reason.word(), "no address: {reason}");
            let note = match reason {
                Reason::ForeignStatus(_) => reason.to_string(),
                _ => format!("Failed to allocate IP for \"{}\": {reason}", view.name),
            };
            self.publish(view, EventType::Warning, reason.event(), note);
        }
        if let Some(reason) = changed(&mut self.lacking, &view.name, lacks) {
            tracing::info!(service = %view.name, reason = reason.word(), "no second address: {reason}");
            let note = format!("Failed to allocate a second IP for \"{}\": {reason}", view.name);
            self.publish(view, EventType::Normal, EventReason::AdditionalAssignFailed, note);
        }
    }

    /// Tells a Service once; `None`: it is over, and would be told again.
    pub(super) fn say(&mut self, view: &ServiceView, note: Note, text: Option<String>) {
        let Some(text) = text else {
            if let Some(told) = self.told.get_mut(&view.name) {
                told.remove(&note);
                if told.is_empty() {
                    self.told.remove(&view.name);
                }
            }
            return;
        };
        let told = self.told.entry(view.name.clone()).or_default();
        if told.get(&note) != Some(&text) {
            told.insert(note, text.clone());
            tracing::warn!(service = %view.name, reason = %note.reason(), "{text}");
            self.publish(view, EventType::Warning, note.reason(), text);
        }
    }

    fn publish(&mut self, view: &ServiceView, kind: EventType, reason: EventReason, note: String) {
        self.tells.push(Tell { regarding: view.reference(), kind, reason, note });
    }
}

/// Remembers a reason; returns it if it is new.
fn changed<'a>(
    known: &mut BTreeMap<ObjectName, Reason>,
    service: &ObjectName,
    reason: Option<&'a Reason>,
) -> Option<&'a Reason> {
    let Some(reason) = reason else {
        known.remove(service);
        return None;
    };
    if known.get(service) == Some(reason) {
        return None;
    }
    known.insert(service.clone(), reason.clone());
    Some(reason)
}
