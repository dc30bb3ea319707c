//! The one loop of the node: what the watches say, into what the node does.
//!
//! Waits for anything to happen, takes everything that has happened by then, plans the Services that it touches, and
//! applies them as one batch. There is no debounce timer: while a batch is applied the next one gathers.
//!
//! Nothing is applied before the index is ready. When the loop is told to stop it withdraws all routes but from peers with
//! graceful restart, ends the sessions, and leaves rules and local addresses in the kernel: what is on its way still arrives, connections of the node and of
//! pods go on, and the next run adopts both without a gap. `cleanup` is what removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_proxy::health::BindFailure;
use herald_proxy::{EndpointsView, IpFamily};
use herald_runtime::events::{EventReason, EventRecorder, EventType, regarding};
use herald_runtime::metrics::ClientMetrics;
use herald_runtime::readiness::Handle;
use herald_runtime::{ObjectName, sleep_until};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, Desired};
use crate::availability::{Availability, targets};
use crate::bgp::{Met, Routers};
use crate::configured::ConfigNews;
use crate::drain::Drain;
use crate::effects::NodeEffects;
use crate::explain::Asked;
use crate::floor::Floor;
use crate::foreign::{Foreign, Monitoring};
use crate::forwarding;
use crate::index::Index;
use crate::layer2::View;
use crate::metrics::SpeakerMetrics;
use crate::options::{ProxyMode, SpeakerOptions};
use crate::plan::{Remark, ServicePlan, Verdict, networks, plan};
use crate::ports::Ports;
use crate::probing::Probing;
use crate::reason::Reason;
use crate::received::{Pending, Received};
use crate::report::Reporter;
use crate::settings::Settings;
use crate::snapshot::Keeper;
use crate::sync::SyncReport;

/// Events taken from the watches at a time; the rest follows at once.
const TAKE: usize = 4096;
/// How long stopping may take in all.
const STOP: Duration = Duration::from_secs(3);
/// How soon the first programming is tried again.
const RETRY_FIRST_PROGRAMMING: Duration = Duration::from_secs(1);

/// Where the loop's input comes from.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// The watches. Bounded: a watch waits while the loop is busy.
    pub(crate) observed: mpsc::Receiver<Received>,
    /// The node's own addresses; `None` before the first dump, and always where they do not matter.
    pub(crate) addresses: watch::Receiver<Option<BTreeSet<IpAddr>>>,
    /// Ports that could not be bound.
    pub(crate) bind_failures: mpsc::Receiver<BindFailure>,
    /// Others' edits of the tables.
    pub(crate) monitoring: Monitoring,
    /// Neighbours that were found on their interfaces.
    pub(crate) routers: watch::Receiver<Routers>,
    pub(crate) met: watch::Receiver<Met>,
    /// The families in which the node passes no packets on.
    pub(crate) not_forwarding: watch::Receiver<BTreeSet<IpFamily>>,
    /// Who owns what by layer 2.
    pub(crate) layer2: watch::Receiver<View>,
    /// What `herald explain` asks. Depth one: the asker waits for each answer.
    pub(crate) questions: mpsc::Receiver<Asked>,
}

/// Where the loop's state is published besides the kernel and the peers.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// Ready once the first programming is done.
    pub(crate) programmed: Handle,
    /// Events on Services that are not of a plan.
    pub(crate) events: EventRecorder,
    /// The interfaces on which neighbours are looked for.
    pub(crate) unnumbered: watch::Sender<BTreeSet<String>>,
    /// Of the configuration.
    pub(crate) client_metrics: ClientMetrics,
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) options: SpeakerOptions,
    pub(crate) index: Index,
    pub(crate) applier: Applier<NodeEffects>,
    pub(crate) reporter: Reporter,
    pub(crate) metrics: SpeakerMetrics,
    pub(crate) sync: SyncReport,
    pub(crate) outputs: Outputs,
    pub(crate) settings: Option<Settings>,
    pub(crate) probing: Probing,
    pub(crate) availability: Availability,
    pub(crate) floor: Floor,
    pub(crate) drain: Drain,
    pub(crate) foreign: Foreign,
    pub(crate) pending: Pending,
    pub(crate) ports: Ports,
    pub(crate) snapshot: Keeper,
    pub(crate) routers: Routers,
    pub(crate) met: Met,
    pub(crate) not_forwarding: BTreeSet<IpFamily>,
}

impl Reconciler {
    /// Runs until told to stop, or until a part of the node fails for good.
    pub(crate) async fn run(mut self, mut inputs: Inputs, shutdown: CancellationToken) -> anyhow::Result<()> {
        let result = loop {
            let deadline = self.next_deadline();
            let mut batch = Vec::new();
            tokio::select! {
                // First: once stopping has begun the other inputs end as well, and that is no failure.
                biased;
                () = shutdown.cancelled() => break Ok(()),
                error = failed(self.applier.effects()) => break Err(error),
                count = inputs.observed.recv_many(&mut batch, TAKE) => if count == 0 {
                    break Err(anyhow::anyhow!("all watches have ended"));
                },
                changed = inputs.addresses.changed() => if changed.is_err() {
                    break Err(anyhow::anyhow!("the node's addresses are not followed any more"));
                } else {
                    self.index.mark_all();
                },
                Some(failure) = inputs.bind_failures.recv() => self.bind_failed(&failure),
                () = self.probing.changed() => {}
                Ok(()) = inputs.routers.changed() => {
                    self.routers = inputs.routers.borrow_and_update().clone();
                    self.index.mark_settings();
                }
                Ok(()) = inputs.met.changed() => {
                    self.met = inputs.met.borrow_and_update().clone();
                    self.index.mark_settings();
                }
                Ok(()) = inputs.not_forwarding.changed() => {
                    self.not_forwarding = inputs.not_forwarding.borrow_and_update().clone();
                    self.index.mark_settings();
                }
                Ok(()) = inputs.layer2.changed() => {
                    let view = inputs.layer2.borrow_and_update().clone();
                    let programmed = self.applier.programmed();
                    if let Some(proxy) = &mut self.applier.effects().proxy {
                        proxy.hand_over(&view.beside, programmed).await;
                    }
                    self.availability.owned(&view);
                    self.reporter.layer2(Instant::now(), view);
                }
                () = inputs.monitoring.changed() => {
                    self.foreign.edited();
                    self.applier.suspect();
                }
                // Answered from what is applied, then whatever has happened meanwhile is taken as ever.
                Some(asked) = inputs.questions.recv() => self.answer(asked),
                () = sleep_until(deadline) => {}
                () = self.snapshot.wake() => {}
            }
            while let Ok(received) = inputs.observed.try_recv() {
                batch.push(received);
            }
            for received in batch {
                self.pending.add(&received);
                if let Some(news) = self.index.observe(received.observed) {
                    self.config_news(&news);
                }
            }
            self.suspects(&inputs.layer2.borrow());
            self.sync.queued(&mut self.index.changes, Instant::now(), Timestamp::now());
            let addresses = inputs.addresses.borrow_and_update().clone();
            self.reconcile(addresses).await;
            self.pending.clear();
            self.snapshot.turn(&self.index, Instant::now());
        };
        if tokio::time::timeout(STOP, self.stop()).await.is_err() {
            tracing::warn!("stopping took too long; sessions are dropped where they stand");
        }
        self.snapshot.finish(&self.index).await;
        result
    }

    fn next_deadline(&self) -> Option<Instant> {
        let retry = (self.settings.is_some() && !self.applier.programmed())
            .then(|| Instant::now() + RETRY_FIRST_PROGRAMMING);
        self.applier
            .next_deadline()
            .into_iter()
            .chain(self.applier.next_verification())
            .chain(retry)
            .chain(self.floor.next_deadline())
            .chain(self.drain.next_deadline())
            .min()
    }

    /// Applies all that is due by now.
    async fn reconcile(&mut self, addresses: Option<BTreeSet<IpAddr>>) {
        let follows = self.options.nodeport_addresses.follows_interfaces();
        if !self.index.is_ready() || (follows && addresses.is_none()) {
            return;
        }
        let started = Instant::now();
        let left = self.drain.next_deadline().is_some_and(|at| at <= started);
        if self.index.take_settings_changed() || self.settings.is_none() || follows || left {
            self.settings_changed(started, &addresses.unwrap_or_default()).await;
        }
        self.applier.expire(started).await;
        let look = self.applier.verify(started).await;
        let contested = self.applier.contested(started);
        self.foreign.looked(look, contested, &self.outputs.events, &self.options.node_name);
        for service in self.applier.take_due(started) {
            self.index.mark(service);
        }
        if !self.applier.programmed() {
            self.index.mark_all();
        }
        self.overlays(started);
        let dirty = self.index.take_dirty();
        if !dirty.is_empty() || !self.applier.programmed() {
            self.batch(started, dirty).await;
        }
        // Not before the first table is whole: what it lacks, a peer that kept routes over a restart would drop.
        if let Some(settings) = self.settings.as_ref().filter(|_| self.applier.programmed()) {
            let networks = networks(&settings.view(&self.index, &self.options), &settings.own_pod_cidrs);
            let peers = &mut self.applier.effects().peers;
            peers.export(&settings.exports);
            peers.networks(networks).await;
            peers.set(&settings.peers).await;
            peers.accept_from(&settings.ranges);
        }
    }

    /// The node or the configuration is not what it was.
    async fn settings_changed(&mut self, now: Instant, addresses: &BTreeSet<IpAddr>) {
        let mut settings = Settings::of(
            &self.index,
            &self.options,
            addresses,
            &self.routers,
            &self.met,
            &self.not_forwarding,
        );
        let out = settings.refusal.filter(|reason| reason.is_leaving());
        self.drain = self.drain.next(now, out.is_some(), self.options.drain);
        if self.drain.leaves() {
            settings.refusal = None;
            settings.leaves = out;
        }
        self.applier.effects().peers.avoid(self.drain.leaves());
        if self.settings.as_ref() == Some(&settings) {
            return;
        }
        let unnumbered = &settings.unnumbered;
        self.outputs.unnumbered.send_if_modified(|wanted| {
            let changed = wanted != unnumbered;
            wanted.clone_from(unnumbered);
            changed
        });
        self.index.mark_all();
        self.sync.eligible(settings.eligible);
        let programmed = self.applier.programmed();
        if let Some(proxy) = &mut self.applier.effects().proxy {
            proxy.set_ruleset(settings.ruleset.clone(), programmed).await;
            if self.options.proxy == ProxyMode::Full {
                proxy.set_service_cidrs(&settings.service_cidrs, programmed).await;
            }
        }
        self.applier.effects().layer2.want(|wanted| {
            wanted.active = settings.layer2;
            wanted.nodes.clone_from(&settings.others);
            wanted.spread = settings.config.herald.layer2_spread;
        });
        tell_forwarding(
            self.settings.as_ref().map(|settings| &settings.not_forwarding),
            &settings.not_forwarding,
        );
        let refusal = self.settings.as_ref().and_then(|settings| settings.refusal);
        if refusal != settings.refusal {
            tell_refusal(&self.options.node_name, settings.refusal);
        }
        self.settings = Some(settings);
        self.probing_nodes();
    }

    /// Plans and applies some Services.
    async fn batch(&mut self, started: Instant, dirty: BTreeSet<ObjectName>) {
        let Some(settings) = &self.settings else { return };
        let view = settings.view(&self.index, &self.options);
        let none = EndpointsView::default();
        let planned = dirty.into_iter().map(|name| {
            let endpoints = || self.index.endpoints(&name).unwrap_or(&none);
            let plan = self.index.service(&name).map(|service| plan(&view, service, endpoints()));
            (name, plan.unwrap_or_default())
        });
        let mut plans: BTreeMap<ObjectName, ServicePlan> = planned.collect();
        self.metrics.plan_duration.observe(started.elapsed().as_secs_f64());

        self.availability.want(|| {
            let targets = plans.iter().map(|(name, plan)| {
                let endpoints = || self.index.endpoints(name).unwrap_or(&none);
                let service = self.index.service(name);
                (name, service.map(|service| targets(&view, service, endpoints(), plan)).unwrap_or_default())
            });
            targets.collect()
        });
        let count = plans.len();
        let desired = plans.iter_mut().map(|(name, plan)| {
            let desired = Desired { rules: plan.rules.clone(), claims: std::mem::take(&mut plan.claims) };
            (name.clone(), desired)
        });
        let full = !self.applier.programmed();
        self.applier.apply(started, desired.collect()).await;
        if self.applier.programmed() {
            self.pending.in_force(Instant::now(), &self.metrics.change_duration);
        }
        self.written(full, started);
        self.metrics.sync_duration.observe(started.elapsed().as_secs_f64());
        tracing::debug!(services = count, milliseconds = started.elapsed().as_secs_f64() * 1000.0, "applied");
        self.probing.want(plans.iter_mut().map(|(name, plan)| (name, plan.probes.take())));
        let done = Instant::now();
        for (name, plan) in plans {
            self.tell(done, &name, plan);
        }
        self.reporter.begun();
        self.metrics.failed_services.set(i64::try_from(self.applier.failed()).unwrap_or(i64::MAX));
        if let Some(settings) = &self.settings {
            self.ports.publish(&settings.health_addresses);
        }
    }

    /// Tells readiness, health and metrics that a batch is through.
    fn written(&mut self, full: bool, started: Instant) {
        if !self.applier.programmed() {
            let error = self.applier.refusal();
            tracing::error!(
                error,
                "the kernel refuses all rules, so nothing is announced; trying again: see `herald doctor node`"
            );
            return;
        }
        if !self.outputs.programmed.is_ready() {
            self.outputs.programmed.ready();
            tracing::info!("all rules are in the kernel");
        }
        let times = (started, Instant::now(), Timestamp::now());
        let applier = &self.applier;
        self.sync.written(&mut self.index.changes, full, times, |name| applier.failure(name).is_some());
    }

    /// Tells what became of a Service.
    fn tell(&mut self, now: Instant, name: &ObjectName, mut plan: ServicePlan) {
        let failure = self.applier.failure(name);
        let refused = failure.is_some_and(|failure| failure.reason == Reason::RulesRefused);
        let programmed = plan.rules.is_some() && self.applier.programmed() && !refused;
        if let Some(failure) = failure {
            for verdict in plan.verdicts.values_mut() {
                if !matches!(verdict, Verdict::Skip(_)) {
                    *verdict = Verdict::Skip(failure.reason);
                }
            }
            let reason = match failure.reason {
                Reason::LocalAddressRefused => EventReason::LocalAddressRefused,
                _ => EventReason::RulesRefused,
            };
            plan.remarks.insert(Remark { reason, text: failure.error.clone() });
        }
        if let Some(proxy) = &self.applier.effects().proxy {
            plan.remarks.extend(proxy.conflicts(name).into_iter().map(|conflict| Remark {
                reason: EventReason::FrontendHeldByService,
                text: conflict.to_string(),
            }));
        }
        self.sync.service(name, plan.rules.as_deref());
        self.ports.service(name, plan.rules.as_deref());
        let uid = self.index.service(name).map(|service| &*service.uid);
        self.reporter.service(now, name, uid, plan, programmed);
    }

    fn config_news(&self, news: &ConfigNews) {
        match news {
            ConfigNews::Taken => {
                self.outputs.client_metrics.config_taken();
                let config = self.index.config();
                let (pools, peers) =
                    (config.map(|config| config.pools.len()), config.map(|config| config.peers.len()));
                tracing::info!(pools, peers, "configuration taken");
            }
            ConfigNews::Refused(error) => {
                self.outputs.client_metrics.config_refused();
                let error = error.replace('\n', "; ");
                tracing::error!(error, "configuration refused; the last good one stays in force");
            }
            ConfigNews::Gone => {
                tracing::warn!("there is no configuration; the last good one, if any, stays in force")
            }
        }
    }

    fn bind_failed(&self, failure: &BindFailure) {
        let Some(service) = &failure.service else { return };
        let uid = self.index.service(service).map_or("", |service| &service.uid);
        let text = format!("node {} {failure}: {}", self.options.node_name, failure.error);
        let regarding = regarding("Service", service, uid);
        self.outputs.events.publish(regarding, EventType::Warning, failure.reason, text);
    }

    /// Leaves the peers that keep the routes until the next run; withdraws everything from the others, then ends their sessions.
    async fn stop(&mut self) {
        let now = Instant::now();
        let text = format!("herald speaker on {} stops", self.options.node_name);
        let kept = self.applier.effects().peers.leave(&text).await;
        self.applier.withdraw_all(now).await;
        self.reporter.stopped();
        let effects = self.applier.effects();
        tokio::join!(effects.peers.stop(&text), effects.layer2.stop());
        tracing::info!(
            kept_by = kept,
            "routes are withdrawn but from peers that keep them for a restart, addresses of layer 2 are handed over; \
             rules and local addresses stay"
        );
    }
}

/// Waits for the end of something that announces.
async fn failed(effects: &mut NodeEffects) -> anyhow::Error {
    tokio::select! {
        error = effects.peers.failed() => error,
        error = effects.layer2.failed() => error,
    }
}

/// Tells the families in which the node passes no packets on any more, and those in which it does again.
fn tell_forwarding(before: Option<&BTreeSet<IpFamily>>, now: &BTreeSet<IpFamily>) {
    let none = BTreeSet::new();
    let before = before.unwrap_or(&none);
    for family in now.difference(before) {
        let (reason, setting) = (Reason::NotForwarding, forwarding::setting(*family));
        let remedy = reason.remedy().unwrap_or_default();
        tracing::warn!(setting, %reason, "this node passes no packets on, so addresses that lead to pods are not announced from it: {remedy}");
    }
    for family in before.difference(now) {
        let setting = forwarding::setting(*family);
        tracing::info!(setting, "this node passes packets on again");
    }
}

/// Tells why nothing is announced from this node, or that this is over.
fn tell_refusal(node: &str, refusal: Option<Reason>) {
    match refusal {
        Some(reason) => {
            let remedy = reason.remedy().unwrap_or_default();
            tracing::warn!(node, %reason, "nothing is announced from this node: {}: {remedy}", reason.sentence());
        }
        None => tracing::info!(node, "this node may announce again"),
    }
}

#[cfg(test)]
mod tests;
