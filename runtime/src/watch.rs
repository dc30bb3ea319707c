//! Watches: what the API server holds, as events for a role's own index.
//!
//! ```text
//!   API server ──list, watch──> Watch::run ──fold──> WatchEvent<T> ──wrap──> mpsc::Sender<E> (bounded: a slow
//!                                                                            index slows the watch down)
//! ```
//!
//! Each list arrives as one [`WatchEvent::Reset`] when it is complete, so that nothing deleted while the watch was
//! away is missed and nothing is seen half. An API server that cannot be reached yields *no* event: an outage
//! never looks like a deletion, the index just keeps what it has. The watch goes on where it stopped (or lists
//! again) at the latest [`LONGEST_WAIT`] after the server is back.
//!
//! `fold` turns an object into the role's own compact value at once; full objects of a large cluster never stand in
//! memory together. `managedFields` are not even decoded, unless asked for. An object that
//! cannot be decoded is logged and left out; it hurts no other.

mod lenient;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::metrics::ClientMetrics;
use crate::readiness::Handle;
use crate::watch::lenient::Lenient;
use crate::{ObjectName, chain};

/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two attempts to reach the API server.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A watch that stands this long without a failure counts as back.
const BACK_AFTER: Duration = Duration::from_secs(5);
/// While the API server is away, how often the log says so.
const REMIND: Duration = Duration::from_secs(60);
/// First wait before a kind is asked for again that the API server does not show; doubled with each further one.
const FIRST_ABSENT: Duration = Duration::from_secs(1);
/// The longest of these waits.
const ABSENT: Duration = Duration::from_secs(300);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// One change of the watched objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent<T> {
    /// The object was created or changed (or is told again unchanged).
    Applied(T),
    /// The object is gone. A cluster-scoped object has an empty namespace.
    Deleted(ObjectName),
    /// These are all objects that there are: what is not among them is gone.
    Reset(Vec<T>),
}

/// A watch that does not run yet. With `MANAGED` the objects have their `metadata.managedFields`, else they have none.
#[derive(Debug)]
pub struct Watch<K, const MANAGED: bool = false> {
    api: Api<Lenient<K, MANAGED>>,
    /// As the log names it.
    kind: String,
    config: watcher::Config,
    metrics: Option<ClientMetrics>,
    optional: bool,
}

impl<K, const MANAGED: bool> Watch<K, MANAGED>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// All objects of the kind, in all namespaces if it has any.
    pub fn all(client: Client) -> Self {
        Self::new(Api::all(client), K::kind(&()).into_owned())
    }
}

impl Watch<DynamicObject> {
    /// The objects of a kind that is read without its type: of one namespace, or all.
    pub fn untyped(client: Client, namespace: Option<&str>, of: &ApiResource) -> Self {
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, of),
            None => Api::all_with(client, of),
        };
        Self::new(api, of.kind.clone())
    }
}

impl<K, const MANAGED: bool> Watch<K, MANAGED>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Only the object of this name (within what is watched).
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        self.fields(&format!("metadata.name={name}"))
    }

    /// Only objects that match the field selector.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.config = self.config.fields(selector);
        self
    }

    /// Only objects that match the label selector.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.config = self.config.labels(selector);
        self
    }

    /// Does without a kind that the API server does not have or does not show (404, 403 to the first list): that counts
    /// as an empty list, told in the log once, and is asked again from time to time.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Counts objects and failures.
    #[must_use]
    pub fn metrics(mut self, metrics: ClientMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Watches until the receiver of `events` is dropped; `listed` gets ready with the first full list.
    ///
    /// Cancel-safe in the sense that dropping the future drops the watch.
    pub async fn run<T, E>(
        self,
        fold: impl Fn(K) -> T + Send,
        wrap: impl Fn(WatchEvent<T>) -> E + Send,
        events: mpsc::Sender<E>,
        listed: Handle,
    ) -> anyhow::Result<()>
    where
        T: Send,
        E: Send,
    {
        let kind = self.kind;
        let mut collector = Collector { fold, kind: kind.clone(), listing: Vec::new() };
        let mut outage = Outage::default();
        // While this is true, a refusal to list means that there is nothing to watch.
        let mut may_be_absent = self.optional;
        let mut absent = FIRST_ABSENT;
        let stream = watcher(self.api, self.config);
        pin_mut!(stream);
        loop {
            let next = match outage.quiet_until() {
                None => stream.next().await,
                Some(at) => match tokio::time::timeout_at(at.into(), stream.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        outage.over(&kind, Instant::now());
                        continue;
                    }
                },
            };
            match next {
                None => anyhow::bail!("the watch of {kind} ended"),
                Some(Ok(event)) => {
                    // `Init` is only the intention to list: the server has not answered yet.
                    if !matches!(event, watcher::Event::Init) {
                        outage.over(&kind, Instant::now());
                    }
                    let Some(event) = collector.collect(event) else { continue };
                    if let Some(metrics) = &self.metrics {
                        metrics.updates.inc();
                    }
                    let reset = matches!(event, WatchEvent::Reset(_));
                    if events.send(wrap(event)).await.is_err() {
                        return Ok(());
                    }
                    if reset {
                        may_be_absent = false;
                        listed.ready();
                    }
                }
                Some(Err(error)) if may_be_absent && is_absent(&error) => {
                    if !listed.is_ready() {
                        let error = chain(&error);
                        tracing::info!(kind = %kind, error, "not shown by the API server: going on without");
                        if events.send(wrap(WatchEvent::Reset(Vec::new()))).await.is_err() {
                            return Ok(());
                        }
                        listed.ready();
                    }
                    tokio::select! {
                        () = tokio::time::sleep(absent) => {}
                        () = events.closed() => return Ok(()),
                    }
                    absent = absent.saturating_mul(2).min(ABSENT);
                }
                Some(Err(error)) => {
                    if let Some(metrics) = &self.metrics {
                        metrics.update_errors.inc();
                    }
                    let wait = outage.failed(&kind, &error, Instant::now());
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = events.closed() => return Ok(()),
                    }
                }
            }
        }
    }

    fn new(api: Api<Lenient<K, MANAGED>>, kind: String) -> Self {
        let config = watcher::Config::default().page_size(PAGE);
        Self { api, kind, config, metrics: None, optional: false }
    }
}

/// Turns the watcher's events into ours; a list is kept back until it is complete.
struct Collector<F, T> {
    fold: F,
    kind: String,
    listing: Vec<T>,
}

impl<F, T> Collector<F, T> {
    fn collect<K, const MANAGED: bool>(
        &mut self,
        event: watcher::Event<Lenient<K, MANAGED>>,
    ) -> Option<WatchEvent<T>>
    where
        K: Resource,
        F: Fn(K) -> T,
    {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                None
            }
            watcher::Event::InitApply(object) => {
                let object = self.read(object)?;
                self.listing.push(object);
                None
            }
            watcher::Event::InitDone => Some(WatchEvent::Reset(std::mem::take(&mut self.listing))),
            watcher::Event::Apply(object) => self.read(object).map(WatchEvent::Applied),
            watcher::Event::Delete(object) => Some(WatchEvent::Deleted(object.object_name())),
        }
    }

    fn read<K, const MANAGED: bool>(&self, object: Lenient<K, MANAGED>) -> Option<T>
    where
        K: Resource,
        F: Fn(K) -> T,
    {
        let name = object.object_name();
        match object.into_result() {
            Ok(mut object) => {
                if !MANAGED {
                    object.meta_mut().managed_fields = None;
                }
                Some((self.fold)(object))
            }
            Err(error) => {
                tracing::warn!(kind = %self.kind, object = %name, error, "object cannot be decoded and is left out");
                None
            }
        }
    }
}

/// How long the API server has been away, when to try again and when to say so.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    last_failure: Option<Instant>,
    told: Option<Instant>,
    failures: u32,
}

impl Outage {
    /// Notes a failure; returns the wait before the next attempt.
    fn failed(&mut self, kind: &str, error: &watcher::Error, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.last_failure = Some(now);
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
        self.failures += 1;
        if is_expired(error) {
            // A resource version that is too old is how the server asks for a new list.
            tracing::debug!(kind, %error, "watch lists again");
        } else if self.told.is_none_or(|told| now - told >= REMIND) {
            self.told = Some(now);
            let seconds = (now - since).as_secs();
            let error = chain(error);
            tracing::warn!(kind, seconds, error, "watch failed; what is known stays in force");
        } else {
            tracing::debug!(kind, %error, "watch failed again");
        }
        wait
    }

    /// Until when silence after a failure proves nothing yet; `None` without an outage.
    fn quiet_until(&self) -> Option<Instant> {
        self.last_failure.map(|at| at + LONGEST_WAIT + BACK_AFTER)
    }

    fn over(&mut self, kind: &str, now: Instant) {
        if let (Some(since), Some(_)) = (self.since, self.told) {
            tracing::info!(kind, seconds = (now - since).as_secs(), "watch is back");
        }
        *self = Self::default();
    }
}

/// The API server has no such kind, or does not show it.
fn is_absent(error: &watcher::Error) -> bool {
    // By the code: a path that does not exist is answered in plain text, without a reason.
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404))
}

fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

#[cfg(test)]
mod tests;
