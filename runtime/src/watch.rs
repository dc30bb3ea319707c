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
//!
//! Lists come in pages, in protobuf where that pays. The watch goes on from the list's version, after an interruption from
//! the last event's; the API server lists anew what it no longer knows (410).

mod lenient;
mod outage;
mod reach;

use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::api::{ListParams, WatchParams};
use kube::core::{DynamicObject, ObjectList};
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

pub use self::reach::Reach;

use self::lenient::Lenient;
use self::outage::Outage;
use crate::metrics::ClientMetrics;
use crate::protobuf::{self, Answer, InProtobuf, Page};
use crate::readiness::Handle;
use crate::{ObjectName, chain};

/// The longest wait between two attempts to reach the API server.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// First wait before a kind is asked for again that the API server does not show; doubled with each further one.
const FIRST_ABSENT: Duration = Duration::from_secs(1);
/// The longest of these waits.
const ABSENT: Duration = Duration::from_secs(300);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// How long a page may take to come.
const PAGE_COMES: Duration = Duration::from_secs(30);
/// How long the API server keeps a watch, in seconds.
const WATCH_LASTS: u32 = 290;
/// A watch that has told nothing for so long is dead: it should have ended by now.
const WATCH_DEAD: Duration = Duration::from_secs(320);
/// A watch that the API server ends sooner is begun again only after this.
const SHORT: Duration = Duration::from_millis(200);

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
    /// Which objects.
    selection: ListParams,
    /// Pages are asked for in protobuf: what a list is called, and how an object is read.
    protobuf: Option<(&'static str, protobuf::Read<K>)>,
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

    /// Lists in protobuf.
    #[must_use]
    pub fn in_protobuf(mut self) -> Self
    where
        K: InProtobuf,
    {
        self.protobuf = Some((K::LIST, K::read));
        self
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
        self.selection = self.selection.fields(selector);
        self
    }

    /// Only objects that match the label selector.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.selection = self.selection.labels(selector);
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
        mut self,
        fold: impl Fn(K) -> T + Send + Sync,
        wrap: impl Fn(WatchEvent<T>) -> E + Send + Sync,
        events: mpsc::Sender<E>,
        listed: Handle,
    ) -> anyhow::Result<()>
    where
        T: Send,
        E: Send,
    {
        let told = Told { events, wrap, metrics: self.metrics.clone() };
        match self.list_and_follow(&fold, &told, &listed).await {
            Err(Closed) => Ok(()),
            Ok(never) => match never {},
        }
    }

    async fn list_and_follow<T, E>(
        &mut self,
        fold: &(impl Fn(K) -> T + Sync),
        told: &Told<E, impl Fn(WatchEvent<T>) -> E + Sync>,
        listed: &Handle,
    ) -> Result<Never, Closed>
    where
        T: Send,
        E: Send,
    {
        let mut outage = Outage::default();
        // While this is true, a refusal to list means that there is nothing to watch.
        let mut may_be_absent = self.optional;
        let mut absent = FIRST_ABSENT;
        loop {
            match self.list(fold, told).await {
                Ok((objects, version)) => {
                    outage.over(&self.kind, Instant::now());
                    may_be_absent = false;
                    told.event(WatchEvent::Reset(objects)).await?;
                    listed.ready();
                    self.follow(version, fold, told, &mut outage).await?;
                }
                Err(error) if may_be_absent && is_absent(&error) => {
                    if !listed.is_ready() {
                        let error = chain(&error);
                        tracing::info!(kind = %self.kind, error, "not shown by the API server: going on without");
                        told.event(WatchEvent::Reset(Vec::new())).await?;
                        listed.ready();
                    }
                    told.rest(absent).await?;
                    absent = absent.saturating_mul(2).min(ABSENT);
                }
                Err(error) => told.failure(&self.kind, &error, &mut outage).await?,
            }
        }
    }

    /// All objects, and the version of the whole.
    async fn list<T, E, W>(
        &mut self,
        fold: &(impl Fn(K) -> T + Sync),
        told: &Told<E, W>,
    ) -> kube::Result<(Vec<T>, String)> {
        let mut parameters = self.selection.clone().limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let page = timeout(PAGE_COMES, self.page(&parameters, fold)).await;
            let late =
                |_| failure(format!("a page of the list did not come within {} s", PAGE_COMES.as_secs()));
            let page = page.map_err(late)??;
            told.heard();
            objects.extend(page.objects);
            match (page.more, page.version) {
                (Some(token), _) => parameters = parameters.continue_token(&token),
                (None, Some(version)) => return Ok((objects, version)),
                (None, None) => return Err(failure("a list without a resourceVersion".to_owned())),
            }
        }
    }

    async fn page<T>(
        &mut self,
        parameters: &ListParams,
        fold: &(impl Fn(K) -> T + Sync),
    ) -> kube::Result<Page<T>> {
        if let Some((list, read)) = self.protobuf {
            let (client, url) = (self.api.clone().into_client(), self.api.resource_url());
            match protobuf::page(client, url, parameters, list).await? {
                Answer::Page(page) => match page.each(|object| read(object, MANAGED).map(fold)) {
                    Ok(page) => return Ok(page),
                    Err(error) => self.without_protobuf(&*error),
                },
                Answer::Json(document) => {
                    let list = serde_json::from_slice(&document).map_err(kube::Error::SerdeError)?;
                    return Ok(self.folded(list, fold));
                }
                Answer::Refused => {}
                Answer::Unreadable(error) => self.without_protobuf(&*error),
            }
        }
        self.api.list(parameters).await.map(|list| self.folded(list, fold))
    }

    fn folded<T>(&self, list: ObjectList<Lenient<K, MANAGED>>, fold: &impl Fn(K) -> T) -> Page<T> {
        let Page { objects, more, version } = Page::from(list);
        let objects = objects.into_iter().filter_map(|object| self.read(object).map(fold)).collect();
        Page { objects, more, version }
    }

    fn without_protobuf(&mut self, error: &(dyn std::error::Error + 'static)) {
        let error = chain(error);
        tracing::warn!(kind = %self.kind, error, "the API server's protobuf cannot be read, JSON is asked for from now on");
        self.protobuf = None;
    }

    /// Watches from a version on, until the API server wants it to be listed anew.
    async fn follow<T, E>(
        &self,
        mut version: String,
        fold: &(impl Fn(K) -> T + Sync),
        told: &Told<E, impl Fn(WatchEvent<T>) -> E + Sync>,
        outage: &mut Outage,
    ) -> Result<(), Closed>
    where
        T: Send,
        E: Send,
    {
        let parameters = WatchParams {
            label_selector: self.selection.label_selector.clone(),
            field_selector: self.selection.field_selector.clone(),
            timeout: Some(WATCH_LASTS),
            bookmarks: true,
            send_initial_events: false,
        };
        loop {
            let begin = Instant::now();
            let stream = match self.api.watch(&parameters, &version).await {
                Ok(stream) => {
                    told.heard();
                    stream
                }
                Err(error) => {
                    told.failure(&self.kind, &error, outage).await?;
                    if is_expired(&error) {
                        return Ok(());
                    }
                    continue;
                }
            };
            let mut stream = pin!(stream);
            while let Some(next) = self.next(&mut stream, outage).await {
                let (of, event) = match next {
                    Ok(kube::api::WatchEvent::Added(object) | kube::api::WatchEvent::Modified(object)) => {
                        let of = object.version();
                        (of, self.read(object).map(fold).map(WatchEvent::Applied))
                    }
                    Ok(kube::api::WatchEvent::Deleted(object)) => {
                        (object.version(), Some(WatchEvent::Deleted(object.object_name())))
                    }
                    Ok(kube::api::WatchEvent::Bookmark(mark)) => (mark.metadata.resource_version, None),
                    Ok(kube::api::WatchEvent::Error(status)) => {
                        let error = kube::Error::Api(status);
                        told.failure(&self.kind, &error, outage).await?;
                        if is_expired(&error) {
                            return Ok(());
                        }
                        continue;
                    }
                    Err(error) => {
                        told.failure(&self.kind, &error, outage).await?;
                        continue;
                    }
                };
                outage.over(&self.kind, Instant::now());
                told.heard();
                if !of.is_empty() {
                    version = of;
                }
                if let Some(event) = event {
                    told.event(event).await?;
                }
            }
            if begin.elapsed() < SHORT {
                told.rest(SHORT).await?;
            }
        }
    }

    /// What a watch tells next; nothing when it has ended, or is dead.
    async fn next<N>(&self, stream: &mut (impl Stream<Item = N> + Unpin), outage: &mut Outage) -> Option<N> {
        if let Some(at) = outage.quiet_until() {
            match timeout_at(at.into(), stream.next()).await {
                Ok(next) => return next,
                Err(_) => outage.over(&self.kind, Instant::now()),
            }
        }
        timeout(WATCH_DEAD, stream.next()).await.unwrap_or_default()
    }

    /// The object, if it can be decoded.
    fn read(&self, object: Lenient<K, MANAGED>) -> Option<K> {
        let name = object.object_name();
        match object.into_result() {
            Ok(mut object) => {
                if !MANAGED {
                    object.meta_mut().managed_fields = None;
                }
                Some(object)
            }
            Err(error) => {
                tracing::warn!(kind = %self.kind, object = %name, error, "object cannot be decoded and is left out: correct it");
                None
            }
        }
    }

    fn new(api: Api<Lenient<K, MANAGED>>, kind: String) -> Self {
        Self { api, kind, selection: ListParams::default(), protobuf: None, metrics: None, optional: false }
    }
}

/// Nobody listens any more.
struct Closed;

enum Never {}

/// Who is told.
struct Told<E, W> {
    events: mpsc::Sender<E>,
    wrap: W,
    metrics: Option<ClientMetrics>,
}

impl<E, W> Told<E, W> {
    /// The API server was heard.
    fn heard(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.reach.heard();
        }
    }
}

impl<E: Send, W> Told<E, W> {
    async fn event<T: Send>(&self, event: WatchEvent<T>) -> Result<(), Closed>
    where
        W: Fn(WatchEvent<T>) -> E,
    {
        if let Some(metrics) = &self.metrics {
            metrics.updates.inc();
        }
        self.events.send((self.wrap)(event)).await.map_err(|_| Closed)
    }

    /// Tells of a failure, and waits as long as it asks for.
    async fn failure(&self, kind: &str, error: &kube::Error, outage: &mut Outage) -> Result<(), Closed> {
        if let Some(metrics) = &self.metrics {
            metrics.update_errors.inc();
            metrics.reach.failed(error);
        }
        self.rest(outage.failed(kind, error, Instant::now())).await
    }

    async fn rest(&self, wait: Duration) -> Result<(), Closed> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.events.closed() => Err(Closed),
        }
    }
}

fn failure(words: String) -> kube::Error {
    kube::Error::Service(words.into())
}

/// The API server has no such kind, or does not show it.
fn is_absent(error: &kube::Error) -> bool {
    // By the code: a path that does not exist is answered in plain text, without a reason.
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

/// The API server no longer knows the version.
fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

#[cfg(test)]
mod tests;
