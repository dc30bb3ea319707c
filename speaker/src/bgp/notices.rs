//! Events on the Node when a session comes up, goes down, or does not come up: each change once, by the same reasons as the log.

use herald_bgp::DownReason;
use herald_runtime::ObjectName;
use herald_runtime::events::{EventRecorder, EventType, regarding};

use super::peer::PeerSettings;
use super::status::advice;

/// Tells of sessions; of nothing without a recorder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notices(Option<(EventRecorder, String)>);

impl Notices {
    /// On the Node of this name.
    pub(crate) fn new(events: EventRecorder, node: &str) -> Self {
        Self(Some((events, node.to_owned())))
    }

    /// A session is up.
    pub(super) fn up(&self, peer: &PeerSettings, negotiated: &str) {
        self.tell(EventType::Normal, "BGPSessionUp", format!("BGP session with {peer} is up: {negotiated}"));
    }

    /// It is down again.
    pub(super) fn down(&self, peer: &PeerSettings, reason: &DownReason) {
        let kind = match reason {
            DownReason::Stopped(_) | DownReason::Restarting => EventType::Normal,
            _ => EventType::Warning,
        };
        let text = said(&reason.to_string(), &advice(reason, &peer.peer).unwrap_or_default());
        self.tell(kind, "BGPSessionDown", format!("BGP session with {peer} is down: {text}"));
    }

    /// It does not come up.
    pub(super) fn failed(&self, peer: &PeerSettings, reason: &str, advice: &str) {
        let text = said(reason, advice);
        let note = format!("BGP session with {peer} does not come up: {text}");
        self.tell(EventType::Warning, "BGPSessionFailed", note);
    }

    fn tell(&self, kind: EventType, reason: &'static str, note: String) {
        if let Some((events, node)) = &self.0 {
            // As the kubelet does: a Node's name stands for its uid, so that `kubectl describe node` finds it.
            let object = regarding("Node", &ObjectName::new("", node.as_str()), node);
            events.publish(object, kind, reason, note);
        }
    }
}

fn said(reason: &str, advice: &str) -> String {
    if advice.is_empty() { reason.to_owned() } else { format!("{reason}; {advice}") }
}
