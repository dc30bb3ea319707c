//! Events on the Node when a session comes up, goes down, or does not come up, and the node's history: each change once, by the same reasons as the
//! log.

use std::time::Instant;

use herald_bgp::DownReason;
use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventRecorder, EventType, regarding};

use super::peer::PeerSettings;
use super::status::advice;
use crate::history::History;

/// Tells of sessions; of nothing without a recorder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notices(Option<(EventRecorder, String, History)>);

impl Notices {
    /// On the Node of this name.
    pub(crate) fn new(events: EventRecorder, node: &str, history: History) -> Self {
        Self(Some((events, node.to_owned(), history)))
    }

    /// A session is up.
    pub(super) fn up(&self, peer: &PeerSettings, negotiated: &str) {
        self.remember(peer, true, negotiated);
        self.tell(
            EventType::Normal,
            EventReason::BgpSessionUp,
            format!("BGP session with {peer} is up: {negotiated}"),
        );
    }

    /// It is down again.
    pub(super) fn down(&self, peer: &PeerSettings, reason: &DownReason) {
        let kind = match reason {
            DownReason::Stopped(_) | DownReason::Restarting => EventType::Normal,
            _ => EventType::Warning,
        };
        let text = said(&reason.to_string(), &advice(reason, &peer.peer).unwrap_or_default());
        self.remember(peer, false, &text);
        self.tell(kind, EventReason::BgpSessionDown, format!("BGP session with {peer} is down: {text}"));
    }

    /// It does not come up.
    pub(super) fn failed(&self, peer: &PeerSettings, reason: &str, advice: &str) {
        let text = said(reason, advice);
        let note = format!("BGP session with {peer} does not come up: {text}");
        self.tell(EventType::Warning, EventReason::BgpSessionFailed, note);
    }

    fn remember(&self, peer: &PeerSettings, up: bool, text: &str) {
        if let Some((_, _, history)) = &self.0 {
            history.session(Instant::now(), &peer.to_string(), up, text);
        }
    }

    fn tell(&self, kind: EventType, reason: EventReason, note: String) {
        if let Some((events, node, _)) = &self.0 {
            // As the kubelet does: a Node's name stands for its uid, so that `kubectl describe node` finds it.
            let object = regarding("Node", &ObjectName::new("", node.as_str()), node);
            events.publish(object, kind, reason, note);
        }
    }
}

fn said(reason: &str, advice: &str) -> String {
    if advice.is_empty() { reason.to_owned() } else { format!("{reason}; {advice}") }
}
