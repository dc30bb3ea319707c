//! Kubernetes Events: what Herald tells the users of an object, seen by `kubectl describe`.
//!
//! [`EventRecorder::publish`] never blocks and never fails: the queue holds [`QUEUE`] Events, more are counted and
//! dropped. One task writes them, one at a time and at most [`RATE`] a second after a burst, so that Events
//! take nothing from the writes that matter. The same Event told again within [`REPEAT_WITHIN`] raises the `count` of the first
//! one; what an object may say in all is limited too ([`PER_OBJECT`]). Warnings have a queue of their own and go first: a
//! refused configuration must not wait behind a thousand new addresses.
//!
//! They are core/v1 Events: every kubectl shows them, with their count.

mod ledger;
mod reason;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::mpsc;

use crate::ObjectName;
use crate::metrics::Metrics;
use ledger::{Entry, Ledger, Verdict};

pub use reason::EventReason;

/// Events that wait to be written; further ones are dropped and counted.
pub const QUEUE: usize = 4096;
/// Events written per second once the burst is used up.
pub const RATE: u32 = 50;
/// Events that may be written at once.
pub const BURST: u32 = 200;
/// Within this time the same Event is counted, not written anew.
pub const REPEAT_WITHIN: Duration = Duration::from_secs(600);
/// Events one object may be given within [`REPEAT_WITHIN`].
pub const PER_OBJECT: u32 = 30;
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);
/// The API refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What an Event on a core object regards: kind, name and uid; the caller adds what else it knows.
pub fn regarding(kind: &str, name: &ObjectName, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(name.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

impl EventType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Takes Events from anywhere in a role; cheap to clone.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    normal: mpsc::Sender<Message>,
    warnings: mpsc::Sender<Message>,
    dropped: Counter,
}

/// The task behind an [`EventRecorder`].
pub struct EventWriter {
    normal: mpsc::Receiver<Message>,
    warnings: mpsc::Receiver<Message>,
    client: Client,
    component: String,
    host: Option<String>,
    dropped: Counter,
}

/// One Event as it was published.
#[derive(Debug, Clone, PartialEq)]
struct Message {
    regarding: ObjectReference,
    kind: EventType,
    reason: EventReason,
    note: String,
    at: Timestamp,
}

impl EventRecorder {
    /// A recorder and the writer whose [`EventWriter::run`] belongs into the role's tasks. `component` is shown as the
    /// source (`herald-controller`), `host` is the node it runs on, if that matters.
    pub fn new(
        client: Client,
        component: &str,
        host: Option<String>,
        metrics: &Metrics,
    ) -> (Self, EventWriter) {
        let (normal, from_normal) = mpsc::channel(QUEUE);
        let (warnings, from_warnings) = mpsc::channel(QUEUE);
        let dropped = metrics.register(
            "herald_events_dropped",
            "Kubernetes Events that were not written",
            Counter::default(),
        );
        let writer = EventWriter {
            normal: from_normal,
            warnings: from_warnings,
            client,
            component: component.to_owned(),
            host,
            dropped: dropped.clone(),
        };
        (Self { normal, warnings, dropped }, writer)
    }

    /// A recorder whose Events go nowhere, and the count of those published: for tests of what publishes.
    pub fn disconnected() -> Self {
        let (normal, _) = mpsc::channel(1);
        let (warnings, _) = mpsc::channel(1);
        Self { normal, warnings, dropped: Counter::default() }
    }

    /// Publishes an Event. `note` is a sentence for people.
    pub fn publish(
        &self,
        regarding: ObjectReference,
        kind: EventType,
        reason: EventReason,
        note: impl Into<String>,
    ) {
        let message = Message { regarding, kind, reason, note: shorten(note.into()), at: Timestamp::now() };
        let queue = match kind {
            EventType::Normal => &self.normal,
            EventType::Warning => &self.warnings,
        };
        if queue.try_send(message).is_err() {
            self.dropped.inc();
        }
    }
}

impl std::fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventWriter").field("component", &self.component).finish_non_exhaustive()
    }
}

impl EventWriter {
    /// Writes Events until every recorder is dropped.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut ledger = Ledger::new(Instant::now());
        while let Some(message) = self.next(&mut ledger).await {
            let written = match ledger.judge(&message, Instant::now()) {
                Verdict::Drop => {
                    self.dropped.inc();
                    continue;
                }
                Verdict::Repeat(entry) => self.repeat(&message, &entry).await,
                Verdict::Create => self.create(&message).await,
            };
            match written {
                Ok(entry) => ledger.written(&message, entry, Instant::now()),
                Err(error) => {
                    self.dropped.inc();
                    tracing::debug!(reason = %message.reason, %error, "Event was not written");
                }
            }
        }
        Ok(())
    }

    /// The next message that the rate allows, warnings first; `None` when every recorder is dropped.
    async fn next(&mut self, ledger: &mut Ledger) -> Option<Message> {
        loop {
            let now = Instant::now();
            let (warning_at, normal_at) =
                (ledger.open(EventType::Warning, now), ledger.open(EventType::Normal, now));
            tokio::select! {
                biased;
                message = self.warnings.recv(), if warning_at <= now => match message {
                    Some(message) => return Some(message),
                    // All recorders are gone; what they left in the other queue is still written.
                    None if normal_at <= now => return self.normal.recv().await,
                    None => tokio::time::sleep_until(normal_at.into()).await,
                },
                message = self.normal.recv(), if normal_at <= now => match message {
                    Some(message) => return Some(message),
                    None => return self.warnings.recv().await,
                },
                () = tokio::time::sleep_until(warning_at.into()), if warning_at > now => {}
                () = tokio::time::sleep_until(normal_at.into()), if normal_at > now => {}
            }
        }
    }

    async fn create(&self, message: &Message) -> Result<Entry, kube::Error> {
        let namespace = namespace(&message.regarding);
        let object = message.regarding.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", shorten_name(&object))),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: message.regarding.clone(),
            type_: Some(message.kind.as_str().to_owned()),
            reason: Some(message.reason.word().to_owned()),
            message: Some(message.note.clone()),
            count: Some(1),
            first_timestamp: Some(Time(message.at)),
            last_timestamp: Some(Time(message.at)),
            event_time: None::<MicroTime>,
            source: Some(EventSource { component: Some(self.component.clone()), host: self.host.clone() }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: self.host.clone(),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let created = in_time(api.create(&PostParams::default(), &event)).await?;
        Ok(Entry { name: created.metadata.name.unwrap_or_default(), count: 1 })
    }

    async fn repeat(&self, message: &Message, entry: &Entry) -> Result<Entry, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace(&message.regarding));
        let count = entry.count.saturating_add(1);
        let patch = json!({ "count": count, "lastTimestamp": Time(message.at) });
        let result = in_time(api.patch(&entry.name, &PatchParams::default(), &Patch::Merge(&patch))).await;
        match result {
            Ok(_) => Ok(Entry { name: entry.name.clone(), count }),
            // Its time to live is over: a new one then.
            Err(kube::Error::Api(status)) if status.is_not_found() => self.create(message).await,
            Err(error) => Err(error),
        }
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(WRITE, call).await {
        Ok(result) => result,
        Err(_) => Err(kube::Error::Service("no answer in time".into())),
    }
}

/// Events of cluster-scoped objects live in `default`.
fn namespace(regarding: &ObjectReference) -> String {
    regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned())
}

fn shorten(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let mut end = LONGEST_NOTE - '…'.len_utf8();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

/// A generated name is cut by the API at 63 characters; the object's part must leave room for the random one.
fn shorten_name(name: &str) -> &str {
    let mut end = name.len().min(50);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let note = shorten("ä".repeat(1000));
        assert!(note.len() <= LONGEST_NOTE && note.ends_with('…'), "{}", note.len());
        assert_eq!(shorten("short".to_owned()), "short");
    }

    #[test]
    fn an_event_of_a_cluster_scoped_object_lives_in_default() {
        let node = ObjectReference { name: Some("node-1".to_owned()), ..ObjectReference::default() };
        assert_eq!(namespace(&node), "default");
    }

    #[test]
    fn publishing_never_blocks_when_nobody_writes() {
        let recorder = EventRecorder::disconnected();
        for _ in 0..10_000 {
            recorder.publish(ObjectReference::default(), EventType::Normal, EventReason::NodeHeard, "note");
        }
        assert_eq!(recorder.dropped.get(), 10_000);
    }
}
