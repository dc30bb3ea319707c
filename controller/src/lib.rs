//! The cluster role: gives addresses to Services.
//!
//! ```text
//!  lease::run ──leading?──> supervise ──while leading──> Leader::lead                                   1x each
//!                                                        │ Watch of Services, ConfigMap, Namespaces    1x each
//!                                                        │   └─mpsc 1024 (back-pressure)─> Planner     index, allocator, plan
//!                                                        │ writer::perform                             <= 16 at a time
//!                                                        │ pool_status::write                          one round a second
//!                                                        └─EventRecorder ─mpsc 4096 (drops)─> EventWriter 1x
//!  AdminServer: /livez /readyz /metrics                                                                1x
//!  webhook::Server: AdmissionReviews, only with --webhook; leader or not                               <= 32 at a time
//! ```
//!
//! The only state is the status of the Services. A leader adopts all of them before it gives a new address, so that
//! it may die at any moment: whatever was written stands, whatever was not is decided anew. Decisions are in
//! [`planner`], [`plan`] and [`allocator`], which know neither the API nor the clock; effects are in [`writer`].
//!
//! Order at the end: the loop stops and its writes are answered, then the lease is released, so that two never
//! write at a time. A leader that loses its lease drops its loop where it stands.

pub mod allocator;
pub mod cleanup;
pub mod config_map;
pub mod index;
mod leader;
pub mod metrics;
pub mod namespaces;
pub mod plan;
pub mod planner;
pub mod pool_status;
pub mod reason;
pub mod service;
mod webhook;
pub mod writer;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use herald_runtime::Tasks;
use herald_runtime::admin::AdminServer;
use herald_runtime::client::{self, ClientOptions};
use herald_runtime::events::EventRecorder;
use herald_runtime::lease::{self, LeaseOptions, Timings};
use herald_runtime::memory;
use herald_runtime::metrics::Metrics;
use herald_runtime::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use leader::Leader;
use metrics::ControllerMetrics;
pub use webhook::WebhookOptions;

/// Name of the Lease, and of the controller in Events.
pub const NAME: &str = "herald-controller";
/// No write takes longer, even with a long lease.
const LONGEST_WRITE: Duration = Duration::from_secs(7);
/// How long the tasks have to stop.
const GRACE: Duration = Duration::from_secs(10);

/// All that `herald controller` can be told.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// Where the API server is.
    pub client: ClientOptions,
    /// Namespace of the ConfigMap and of the Lease.
    pub namespace: String,
    /// Name of the ConfigMap.
    pub config_map: String,
    /// Our name in the election: unique, new with each process.
    pub identity: String,
    /// Only Services of this `loadBalancerClass`; `None`: only those without one.
    pub load_balancer_class: Option<String>,
    /// The election's durations.
    pub lease: Timings,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
    /// The admission webhook, if it is wanted.
    pub webhook: Option<WebhookOptions>,
}

/// Runs the controller until `shutdown` is cancelled or something vital ends.
pub async fn run(options: ControllerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ControllerOptions {
        client,
        namespace,
        config_map,
        identity,
        load_balancer_class,
        lease,
        admin_address,
        webhook,
    } = options;
    lease.validate()?;
    let client = client::connect(&client).await?;
    let registry = Metrics::new();
    let readiness = Readiness::new();
    let metrics = ControllerMetrics::new(&registry);
    let admin = AdminServer::bind(admin_address, registry.clone(), readiness.clone())
        .await
        .with_context(|| format!("the admin server cannot listen on {admin_address}"))?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(address = %admin.address()?, %identity, version, "controller starts");
    let webhook = match webhook {
        Some(options) => {
            let (namespace, config_map) = (namespace.clone(), config_map.clone());
            let reviewer = webhook::Reviewer { client: client.clone(), namespace, config_map };
            Some(webhook::Server::bind(options, reviewer).await?)
        }
        None => None,
    };
    let (recorder, events) = EventRecorder::new(client.clone(), NAME, None, &registry);
    let leading = tokio::sync::watch::Sender::new(false);
    // Cancelled when the work has stopped: only then the lease is released.
    let stopped = CancellationToken::new();

    let leader = Leader {
        client: client.clone(),
        namespace: namespace.clone(),
        config_map,
        class: load_balancer_class,
        recorder,
        metrics,
        write_deadline: (lease.duration - lease.renew_deadline).min(LONGEST_WRITE),
    };
    let election = lease::run(
        client,
        LeaseOptions { namespace, name: NAME.to_owned(), identity, timings: lease },
        leading.clone(),
        readiness.handle("lease"),
        stopped.clone(),
    );
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("admin", admin.run(shutdown.clone()));
    if let Some(webhook) = webhook {
        tasks.spawn("webhook", webhook.run(shutdown.clone()));
    }
    tasks.spawn_until_shutdown("events", events.run());
    tasks.spawn_until_shutdown("memory", memory::watch());
    tasks.spawn("lease", election);
    tasks.spawn("leader", supervise(leader, leading.subscribe(), shutdown, stopped));
    tasks.join(GRACE).await
}

/// Runs the leader's loop while the lease is held.
async fn supervise(
    leader: Leader,
    mut leading: tokio::sync::watch::Receiver<bool>,
    shutdown: CancellationToken,
    stopped: CancellationToken,
) -> anyhow::Result<()> {
    // Also when this task fails the lease must end, or nobody leads.
    let _stopped = stopped.drop_guard();
    leader.metrics.follow();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            led = leading.wait_for(|leading| *leading) => { led?; }
        }
        tokio::select! {
            biased;
            lost = leading.wait_for(|leading| !*leading) => { lost?; }
            ended = leader.lead(shutdown.clone()) => return ended,
        }
        leader.metrics.follow();
    }
}
