//! Starts the role: opens what it needs, wires its tasks together, and waits for their end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use herald_proxy::health::{self, BindFailure, HealthPorts, ProxyState};
use herald_proxy::netlink::{Kernel, KubeProxy};
use herald_proxy::probe::{self, ProbeMetrics};
use herald_proxy::ruleset::RulesetConfig;
use herald_proxy::{Names, ProxyMetrics, SliceView};
use herald_runtime::admin::AdminServer;
use herald_runtime::events::EventRecorder;
use herald_runtime::metrics::{ClientMetrics, Metrics};
use herald_runtime::readiness::Readiness;
use herald_runtime::watch::Watch;
use herald_runtime::{ObjectName, Tasks};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::addresses::{self, LocalAddresses};
use crate::apply::Applier;
use crate::bgp::Peers;
use crate::conntrack::Housekeeper;
use crate::effects::{NodeEffects, ProxyKernel};
use crate::explain::{self, Asker};
use crate::floor::Floor;
use crate::foreign::{Foreign, Monitoring};
use crate::index::{Index, Observed, SliceObject, fold_config, fold_service};
use crate::kernel::KernelThread;
use crate::metrics::SpeakerMetrics;
use crate::node;
use crate::options::{NodePortAddresses, ProxyMode, SpeakerOptions};
use crate::probing::Probing;
use crate::received::{Pending, Received};
use crate::reconcile::{Inputs, Outputs, Reconciler};
use crate::report::Reporter;

/// Events of the watches that wait for the loop. A list is one event.
const OBSERVED: usize = 256;
/// How long all tasks may take to stop.
const GRACE: Duration = Duration::from_secs(5);
/// The name and key of the configuration.
const CONFIG_MAP: &str = "config";
/// Services and slices of another proxy, or of nobody's, as kube-proxy leaves them out.
const PROXIED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// Runs the speaker until `shutdown` is cancelled or a part of it fails.
///
/// Stopping withdraws all routes and ends the sessions; rules and local addresses stay ([`crate::cleanup()`]).
pub async fn run(options: SpeakerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let readiness = Readiness::new();
    let admin = AdminServer::bind(options.admin_address, metrics.clone(), readiness.clone())
        .await
        .with_context(|| format!("cannot listen on the admin address {}", options.admin_address))?;
    let mut registry = Registry::default();
    let proxy_metrics = ProxyMetrics::new(&mut registry);
    let (proxy, monitoring) = start_proxy(&options, &proxy_metrics).await?;
    let (mut local, rtnetlink) = LocalAddresses::open()?;

    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("rtnetlink", async move {
        rtnetlink.await;
        Ok(())
    });
    let (asked, questions) = mpsc::channel(explain::QUEUE);
    let asker = Asker::new(asked, local.list());
    let admin = admin.with_answers("/explain/", move |path, query| explain::page(asker.clone(), path, query));
    tasks.spawn_until_shutdown("admin", admin.run(shutdown.clone()));
    let adopted = local.adopt().await?.clone();
    if !adopted.is_empty() {
        tracing::info!(addresses = adopted.len(), "adopted addresses on lo of an earlier run");
    }

    let host = Some(options.node_name.clone());
    let (events, writer) = EventRecorder::new(options.client.clone(), "herald-speaker", host, &metrics);
    tasks.spawn_until_shutdown("events", writer.run());
    let client_metrics = ClientMetrics::new(&metrics);
    let (observed, inputs) = mpsc::channel(OBSERVED);
    spawn_watches(&mut tasks, &options, &readiness, &client_metrics, &observed);
    drop(observed);

    let (found, addresses) = watch::channel(None);
    match options.nodeport_addresses {
        NodePortAddresses::Within(_) => {
            tasks.spawn_until_shutdown("addresses", addresses::watch::follow(found))
        }
        NodePortAddresses::Primary => tasks.spawn("addresses", {
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                drop(found);
                Ok(())
            }
        }),
    }
    let (health_ports, ports) = watch::channel(HealthPorts::default());
    let (proxy_state, state) = watch::channel(ProxyState::default());
    let (failures, bind_failures) = mpsc::channel(64);
    if options.proxy == ProxyMode::Full {
        let metrics = (registry, proxy_metrics.clone());
        spawn_health(&mut tasks, &options, &shutdown, metrics, (ports, state, failures));
    }

    let (probing, (targets, verdicts)) = Probing::start();
    let probe_metrics = ProbeMetrics::new(&metrics);
    tasks.spawn_until_shutdown("probes", async move {
        probe::run(targets, verdicts, probe_metrics).await;
        Ok(())
    });

    let speaker_metrics = SpeakerMetrics::new(&metrics, &options.node_name);
    let effects = NodeEffects { proxy, addresses: local, peers: Peers::new(speaker_metrics.bgp.clone()) };
    let foreign = Foreign::new(&metrics);
    let reconciler = Reconciler {
        foreign,
        index: Index::default(),
        applier: Applier::new(effects, options.linger, &adopted),
        reporter: Reporter::new(&options.node_name, events.clone(), speaker_metrics.clone()),
        metrics: speaker_metrics,
        proxy_metrics,
        outputs: Outputs {
            health_ports,
            proxy_state,
            programmed: readiness.handle("rules"),
            events,
            client_metrics,
        },
        settings: None,
        health: BTreeMap::new(),
        probing,
        floor: Floor::default(),
        pending: Pending::default(),
        options,
    };
    let inputs = Inputs { observed: inputs, addresses, bind_failures, monitoring, questions };
    tasks.spawn("reconcile", reconciler.run(inputs, shutdown));
    tasks.join(GRACE).await
}

/// Opens nf_tables, and makes sure that nobody else serves what Herald is to serve.
async fn start_proxy(
    options: &SpeakerOptions,
    metrics: &ProxyMetrics,
) -> anyhow::Result<(Option<ProxyKernel>, Monitoring)> {
    if options.proxy == ProxyMode::Off {
        return Ok((None, Monitoring(None)));
    }
    let kernel = KernelThread::start().await?;
    let mut clean_up = false;
    if options.proxy == ProxyMode::Full {
        match kernel.call(Kernel::kube_proxy).await? {
            KubeProxy::Absent => {}
            KubeProxy::Tables if options.clean_up_kube_proxy => clean_up = true,
            KubeProxy::Tables => anyhow::bail!(
                "rules of kube-proxy are in force on this node, and --proxy=full would serve the same Services beside them; \
                 stop kube-proxy and start with --clean-up-kube-proxy, or start with --proxy=external"
            ),
            KubeProxy::Chains => anyhow::bail!(
                "iptables chains of kube-proxy are in force on this node, and --proxy=full would serve the same Services \
                 beside them; stop kube-proxy and run `kube-proxy --cleanup` here, or start with --proxy=external"
            ),
        }
    }
    if kernel.call(Kernel::exists).await? {
        tracing::info!("tables of an earlier run serve until they are replaced");
    }
    let limits = (options.proxy == ProxyMode::Full).then(|| options.conntrack.clone());
    let conntrack = Housekeeper::start(metrics.clone(), limits)
        .context("cannot start the thread that deletes stale conntrack entries")?;
    let monitoring = Monitoring(kernel.monitor().await);
    Ok((Some(ProxyKernel::new(kernel, conntrack, RulesetConfig::default(), clean_up)), monitoring))
}

fn spawn_watches(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    readiness: &Readiness,
    metrics: &ClientMetrics,
    observed: &mpsc::Sender<Received>,
) {
    let client = || options.client.clone();
    let services = Watch::<Service>::all(client()).labels(PROXIED).metrics(metrics.clone()).run(
        |service| fold_service(&service),
        |event| Received::now(Observed::Services(event)),
        observed.clone(),
        readiness.handle("services"),
    );
    tasks.spawn_until_shutdown("services", services);

    let names = Mutex::new(Names::default());
    let fold_slice = move |slice: EndpointSlice| SliceObject {
        reading: SliceView::read(&slice, &mut names.lock().unwrap_or_else(PoisonError::into_inner)),
        name: ObjectName::new(
            slice.metadata.namespace.unwrap_or_default(),
            slice.metadata.name.unwrap_or_default(),
        ),
    };
    let slices = Watch::<EndpointSlice>::all(client()).labels(PROXIED).metrics(metrics.clone()).run(
        fold_slice,
        |event| Received::now(Observed::Slices(event)),
        observed.clone(),
        readiness.handle("endpointslices"),
    );
    tasks.spawn_until_shutdown("endpointslices", slices);

    let own = options.node_name.clone();
    let nodes = Watch::<Node>::all(client()).metrics(metrics.clone()).run(
        move |object| node::fold(&object, &own),
        |event| Received::now(Observed::Nodes(event)),
        observed.clone(),
        readiness.handle("nodes"),
    );
    tasks.spawn_until_shutdown("nodes", nodes);

    let config = Watch::<ConfigMap>::namespaced(client(), &options.namespace)
        .named(CONFIG_MAP)
        .metrics(metrics.clone())
        .run(
            fold_config,
            |event| Received::now(Observed::Config(event)),
            observed.clone(),
            readiness.handle("config"),
        );
    tasks.spawn_until_shutdown("config", config);
}

/// Health check node ports and kube-proxy's own two ports.
fn spawn_health(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    shutdown: &CancellationToken,
    (registry, metrics): (Registry, ProxyMetrics),
    (ports, state, failures): (
        watch::Receiver<HealthPorts>,
        watch::Receiver<ProxyState>,
        mpsc::Sender<BindFailure>,
    ),
) {
    let registry = Arc::new(registry);
    let encode: health::Encode = Arc::new(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    });
    let serving = health::serve_health_ports(ports, state.clone(), failures.clone(), shutdown.clone());
    tasks.spawn("health-ports", async move {
        serving.await;
        Ok(())
    });
    let serving =
        health::serve_proxy_ports(options.proxy_ports, state, encode, metrics, failures, shutdown.clone());
    tasks.spawn("proxy-ports", async move {
        serving.await;
        Ok(())
    });
}
