//! The leader's loop, from the moment it leads until it does not.
//!
//! Everything it knows is read after it was elected: the watches start here, so that no status written by the last
//! leader is missed, and end with the leadership, so that nothing stale is acted upon. A follower needs no view: lists are
//! quick compared with a lease.

use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use herald_runtime::config_report::{self, Component};
use herald_runtime::events::{EventRecorder, EventType};
use herald_runtime::readiness::Readiness;
use herald_runtime::untyped::{self, UntypedEvent};
use herald_runtime::watch::{Watch, WatchEvent};
use herald_runtime::{ObjectName, sleep_until};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config_map::{ConfigView, watched};
use crate::metrics::ControllerMetrics;
use crate::namespaces::NamespaceView;
use crate::plan::{Action, Tell};
use crate::planner::{Event, Outcome, Planner};
use crate::pool_status;
use crate::service::ServiceView;
use crate::writer;

/// Writes on their way at a time.
const IN_FLIGHT: usize = 16;
/// Events between the watches and the loop: a slow loop slows the watches down, nothing is lost.
const EVENTS: usize = 1024;
/// With more Services to be decided than this, good news are not told by Events.
const BUSY: usize = 500;
/// Objects on their way to the loop; more of them slow their watches down.
const OBJECTS: usize = 64;
/// How often the gauges are brought up to date at most.
const METRICS: Duration = Duration::from_millis(500);

/// What the loop needs.
pub(crate) struct Leader {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) config_map: String,
    pub(crate) class: Option<String>,
    pub(crate) recorder: EventRecorder,
    pub(crate) metrics: ControllerMetrics,
    /// How long one write may take, so that it is over before somebody else leads.
    pub(crate) write_deadline: Duration,
}

impl Leader {
    /// Leads until `stop` is cancelled; then finishes the writes that are on their way. Dropping the future stops
    /// at once.
    pub(crate) async fn lead(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let readiness = Readiness::new();
        let services = Watch::<Service, true>::all(self.client.clone())
            .in_protobuf()
            .metrics(self.metrics.client.clone())
            .run(
                |service| Box::new(ServiceView::new(service)),
                timed(Event::Service),
                sender.clone(),
                readiness.handle("services"),
            );
        let config =
            Watch::untyped(self.client.clone(), Some(&self.namespace), &untyped::CONFIG_MAP.resource())
                .named(&self.config_map)
                .metrics(self.metrics.client.clone())
                .run(ConfigView::new, timed(Event::ConfigMap), sender.clone(), readiness.handle("config"));
        // Without the right to see them, no pool selects any by label.
        let namespaces = Watch::untyped(self.client.clone(), None, &untyped::NAMESPACE.resource())
            .optional()
            .metrics(self.metrics.client.clone())
            .run(NamespaceView::new, timed(Event::Namespace), sender.clone(), readiness.handle("namespaces"));
        let (untyped, objects) = mpsc::channel(OBJECTS);
        let watching = untyped::watch_group(
            self.client.clone(),
            self.namespace.clone(),
            "metallb.io",
            watched(),
            self.metrics.client.clone(),
            untyped,
            readiness.clone(),
        );
        let (refusals, told) = tokio::sync::watch::channel(None);
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        let telling = config_report::run(client, namespace, Component::Controller, told);
        let objects = pass_on(objects, sender);
        let mut watches =
            pin!(async { tokio::try_join!(services, config, namespaces, watching, objects, telling) });

        let mut planner = Planner::new(self.class.clone()).with_objects(&self.namespace);
        let mut writes = FuturesUnordered::new();
        // When a Service's event came that is not decided yet.
        let mut arrived = HashMap::new();
        let (begin, mut adopted) = (Instant::now(), false);
        let mut statuses = FuturesUnordered::new();
        let mut metrics_due = tokio::time::interval(METRICS);
        let mut pools = Vec::new();
        loop {
            let now = Instant::now();
            while !stop.is_cancelled() && writes.len() < IN_FLIGHT {
                let Some(action) = planner.next(now) else {
                    arrived.clear();
                    if planner.ready() && !adopted {
                        adopted = true;
                        let seconds = begin.elapsed().as_secs_f64();
                        tracing::info!(services = planner.services(), seconds, "all Services are decided");
                    }
                    break;
                };
                let since = arrived.remove(&action.target.name);
                writes.push(self.write(action, since));
            }
            for tell in planner.take_tells() {
                self.tell(tell);
            }
            if stop.is_cancelled() && writes.is_empty() {
                return Ok(());
            }
            let deadline = planner.next_deadline();
            tokio::select! {
                ended = &mut watches => { ended?; anyhow::bail!("the watches ended"); }
                Some(event) = events.recv() => {
                    take(&mut planner, event, &mut arrived);
                    // What is there already belongs to the same view.
                    while let Ok(event) = events.try_recv() {
                        take(&mut planner, event, &mut arrived);
                    }
                }
                Some((action, outcome)) = writes.next() => {
                    self.finished(&mut planner, action, outcome);
                }
                () = sleep_until(deadline) => {}
                _ = metrics_due.tick() => {
                    let named: Vec<String> =
                        planner.allocator().into_iter().flat_map(|a| a.usage()).map(|(name, ..)| name.to_owned()).collect();
                    if named != pools {
                        self.metrics.forget_pools();
                        pools = named;
                    }
                    self.metrics.update(&planner);
                    if planner.config().listed() {
                        config_report::tell(&refusals, planner.config().refusals());
                    }
                    // One round of writes at a time.
                    if statuses.is_empty() {
                        for (pool, status) in planner.pool_statuses(Instant::now()) {
                            let (client, namespace) = (self.client.clone(), self.namespace.clone());
                            statuses.push(async move {
                                pool_status::write(client, &namespace, &pool, status).await;
                            });
                        }
                    }
                }
                Some(()) = statuses.next() => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            }
        }
    }

    /// `since`: when the event came that caused it.
    async fn write(&self, action: Action, since: Option<Instant>) -> (Action, Outcome) {
        if let Some(since) = since {
            self.metrics.decision.observe(since.elapsed().as_secs_f64());
        }
        let outcome = writer::perform(self.client.clone(), &action, self.write_deadline).await;
        (action, outcome)
    }

    fn finished(&self, planner: &mut Planner, action: Action, outcome: Outcome) {
        match &outcome {
            Outcome::Written(_) => {
                self.metrics.writes.inc();
                tracing::info!(service = %action.target.name, "written: {}", action.change);
                // With thousands under way, Events would take from the writes that matter. Status and log say the same.
                let busy = planner.backlog() > BUSY;
                let tells = action.then.into_iter().filter(|tell| !busy || tell.kind == EventType::Warning);
                tells.for_each(|tell| self.tell(tell));
            }
            Outcome::Failed => {
                self.metrics.client.update_errors.inc();
            }
            Outcome::Conflict | Outcome::Gone => {
                tracing::debug!(service = %action.target.name, ?outcome, "seen anew before it is written");
            }
        }
        planner.finished(&action.target.name, outcome, Instant::now());
    }

    fn tell(&self, tell: Tell) {
        self.recorder.publish(tell.regarding, tell.kind, tell.reason, tell.note);
    }
}

/// An event with the moment when the watch had it.
fn timed<T>(wrap: fn(WatchEvent<T>) -> Event) -> impl Fn(WatchEvent<T>) -> (Instant, Event) + Send {
    move |event| (Instant::now(), wrap(event))
}

fn take(planner: &mut Planner, (at, event): (Instant, Event), arrived: &mut HashMap<ObjectName, Instant>) {
    if let Event::Service(WatchEvent::Applied(view)) = &event {
        arrived.entry(view.name.clone()).or_insert(at);
    }
    planner.handle(event, Instant::now());
}

/// Hands the objects on to the loop.
async fn pass_on(
    mut objects: mpsc::Receiver<UntypedEvent>,
    events: mpsc::Sender<(Instant, Event)>,
) -> anyhow::Result<()> {
    while let Some(event) = objects.recv().await {
        if events.send((Instant::now(), Event::Object(event))).await.is_err() {
            break;
        }
    }
    Ok(())
}
