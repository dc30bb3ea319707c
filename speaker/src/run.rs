//! Starts the role: opens what it needs, wires its tasks together, and waits for their end.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use herald_proxy::health::{self, BindFailure, HealthPorts, ProxyState};
use herald_proxy::localhost::{LocalPorts, serve_local_ports};
use herald_proxy::netlink::Kernel;
use herald_proxy::probe::{self, ProbeMetrics};
use herald_proxy::ruleset::RulesetConfig;
use herald_proxy::{Names, ProxyMetrics, SliceView};
use herald_runtime::admin::AdminServer;
use herald_runtime::config_report::{self, Component};
use herald_runtime::events::EventRecorder;
use herald_runtime::memory;
use herald_runtime::metrics::{ClientMetrics, Metrics};
use herald_runtime::readiness::Readiness;
use herald_runtime::untyped;
use herald_runtime::watch::Watch;
use herald_runtime::{ObjectName, Tasks};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::addresses::{self, LocalAddresses};
use crate::apply::Applier;
use crate::availability::{self, Availability, Book, Echo};
use crate::bgp::{Met, Notices, Peers, Routers, look_for_routers};
use crate::configured::{Configured, fold_config, watched};
use crate::conntrack::{Housekeeper, RoomMetrics};
use crate::counters::Counters;
use crate::drain::Drain;
use crate::effects::NodeEffects;
use crate::explain::{self, Asker};
use crate::floor::Floor;
use crate::foreign::{Foreign, Monitoring};
use crate::forwarding;
use crate::history::History;
use crate::index::{Index, Observed, SliceObject, fold_service};
use crate::kernel::KernelThread;
use crate::kernel_version;
use crate::layer2::{self, KeySource, Layer2, Layer2Metrics};
use crate::metrics::SpeakerMetrics;
use crate::neighbours::{Found, TakeOver};
use crate::node;
use crate::options::{ProxyMode, SpeakerOptions};
use crate::ports::Ports;
use crate::probing::Probing;
use crate::proxy_kernel::ProxyKernel;
use crate::received::{Pending, Received};
use crate::reconcile::{Inputs, Outputs, Reconciler};
use crate::report::Reporter;
use crate::service_cidrs::fold_service_cidr;
use crate::service_status;
use crate::snapshot::{self, Identity, Keeper, Place, SnapshotMetrics};
use crate::sync::SyncReport;
use crate::sysctl::Sysctls;
use crate::traffic::Names as FrontendNames;

/// Events of the watches that wait for the loop. A list is one event.
const OBSERVED: usize = 256;
/// How long all tasks may take to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Objects on their way to the loop; more of them slow their watches down.
const OBJECTS: usize = 64;
/// The name and key of the configuration.
const CONFIG_MAP: &str = "config";
/// Services and slices of another proxy, or of nobody's, as kube-proxy leaves them out.
const PROXIED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// Lists besides the objects': what `/readyz` calls them.
const LISTS: [&str; 5] = ["services", "endpointslices", "nodes", "servicecidrs", "config"];

/// Runs the speaker until `shutdown` is cancelled or a part of it fails.
///
/// Stopping withdraws all routes, but from peers with graceful restart, and ends the sessions; rules and local addresses stay ([`crate::cleanup()`]).
pub async fn run(options: SpeakerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(doubt) = kernel_version::doubt() {
        tracing::warn!("{doubt}");
    }
    let metrics = Metrics::new();
    let readiness = Readiness::new();
    let admin = AdminServer::bind(options.admin_address, metrics.clone(), readiness.clone())
        .await
        .with_context(|| format!("cannot listen on the admin address {}", options.admin_address))?;
    tracing::info!(
        node = options.node_name, proxy = %options.proxy, address = %options.admin_address,
        version = env!("CARGO_PKG_VERSION"), "speaker starts"
    );
    // Beside a kube-proxy its metrics are its own.
    let full = options.proxy == ProxyMode::Full;
    let proxy_metrics = ProxyMetrics::new(&if full { metrics.clone() } else { Metrics::new() });
    metrics.collect(RoomMetrics(options.sysctl_directory.clone()));
    let sysctls = Sysctls::new(&options.sysctl_directory, options.state_directory.as_deref());
    let (proxy, monitoring, tables) = start_proxy(&options, &proxy_metrics, &sysctls).await?;
    let (mut local, rtnetlink) = LocalAddresses::open(sysctls)?;

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
    tasks.spawn_until_shutdown("memory", memory::watch());
    let client_metrics = ClientMetrics::new(&metrics);
    let (observed, inputs) = mpsc::channel(OBSERVED);
    spawn_watches(&mut tasks, &options, &readiness, &client_metrics, &observed);
    let (cluster, snapshot) =
        spawn_resuming(&mut tasks, &options, &readiness, &metrics, &client_metrics, observed)?;

    let (found, addresses) = watch::channel(None);
    if options.nodeport_addresses.follows_interfaces() {
        tasks.spawn_until_shutdown("addresses", addresses::watch::follow(found));
    } else {
        let shutdown = shutdown.clone();
        tasks.spawn("addresses", async move {
            shutdown.cancelled().await;
            drop(found);
            Ok(())
        });
    }
    let (health_ports, ports) = watch::channel(HealthPorts::default());
    let (local_ports, wanted_local_ports) = watch::channel(LocalPorts::default());
    let (proxy_state, state) = watch::channel(ProxyState::default());
    let (failures, bind_failures) = mpsc::channel(64);
    if full {
        let metrics = (metrics.clone(), proxy_metrics.clone());
        if !options.nodeport_addresses.localhost().is_empty() {
            let failures = failures.clone();
            let serving =
                serve_local_ports(wanted_local_ports, proxy_metrics.clone(), failures, shutdown.clone());
            tasks.spawn("localhost", async move {
                serving.await;
                Ok(())
            });
        }
        spawn_health(&mut tasks, &options, &shutdown, metrics, (ports, state, failures));
    }

    let (probing, (targets, verdicts)) = Probing::start();
    let probe_metrics = ProbeMetrics::new(&metrics);
    tasks.spawn_until_shutdown("probes", async move {
        probe::run(targets, verdicts, probe_metrics).await;
        Ok(())
    });

    let availability = spawn_availability(&mut tasks, &options, &metrics)?;
    let speaker_metrics = SpeakerMetrics::new(&metrics, &options.node_name, options.address_metrics_limit);
    let names = FrontendNames::default();
    let proxy = proxy.map(|proxy| proxy.counting(proxy_metrics.sync_failures.clone(), names.clone()));
    // Without a proxy of Herald's it is another's rules that forward, and they know nothing of this restart.
    let predecessor = tables || options.proxy == ProxyMode::Off;
    let history = History::new(Instant::now());
    let peers = Peers::new(speaker_metrics.bgp.clone(), predecessor).telling(Notices::new(
        events.clone(),
        &options.node_name,
        history.clone(),
    ));
    let met = peers.met();
    let (found_keys, keys) = watch::channel(None);
    let source = KeySource { directory: options.layer2_key_directory.clone() };
    let following = layer2::follow_keys(options.client.clone(), source, cluster, found_keys);
    tasks.spawn_until_shutdown("layer2-keys", following);
    let layer2_metrics = Layer2Metrics::new(&metrics, options.address_metrics_limit);
    let layer2 = Layer2::start(&options.node_name, keys, layer2_metrics)
        .context("cannot start the thread of layer 2")?;
    let owners = layer2.view();
    let effects = NodeEffects { proxy, addresses: local, peers, layer2 };
    let foreign = Foreign::new(&metrics);
    if options.proxy != ProxyMode::Off {
        metrics.collect(
            Counters::start(names, options.service_metrics_limit)
                .context("cannot start the thread that reads counters")?,
        );
    }
    let (unnumbered, wanted) = watch::channel(BTreeSet::new());
    let (found, routers) = watch::channel(Routers::new());
    tasks.spawn_until_shutdown("unnumbered", look_for_routers(wanted, found));
    let (refusals, told) = watch::channel(None);
    let component = Component::Speaker(options.node_name.clone());
    let telling = config_report::run(options.client.clone(), options.namespace.clone(), component, told);
    tasks.spawn_until_shutdown("config-report", telling);
    let (found, not_forwarding) = watch::channel(forwarding::off_in(&options.sysctl_directory));
    tasks.spawn_until_shutdown("forwarding", forwarding::follow(options.sysctl_directory.clone(), found));
    let reporter = Reporter::new(&options.node_name, events.clone(), speaker_metrics.clone(), history);
    let [bgp, layer2] = reporter.statuses();
    for (name, kind, announced) in
        [("bgp-status", service_status::BGP, bgp), ("l2-status", service_status::LAYER2, layer2)]
    {
        let (client, node) = (options.client.clone(), &options.node_name);
        let writer = service_status::Writer::new(kind, client, &options.namespace, node);
        tasks.spawn_until_shutdown(name, writer.run(announced));
    }
    let mut index = Index::default();
    index.configured = Configured::with_objects(refusals);
    index.changes.started = Some(Timestamp::now());
    let reconciler = Reconciler {
        foreign,
        index,
        applier: Applier::new(effects, options.linger, &adopted),
        reporter,
        metrics: speaker_metrics,
        sync: SyncReport::new(proxy_metrics, proxy_state),
        outputs: Outputs { programmed: readiness.handle("rules"), events, unnumbered, client_metrics },
        settings: None,
        probing,
        availability,
        floor: Floor::default(),
        drain: Drain::default(),
        pending: Pending::default(),
        ports: Ports::new(health_ports, local_ports),
        snapshot,
        routers: Routers::new(),
        met: Met::new(),
        not_forwarding: not_forwarding.borrow().clone(),
        options,
    };
    let inputs = Inputs {
        observed: inputs,
        addresses,
        bind_failures,
        monitoring,
        routers,
        met,
        not_forwarding,
        layer2: owners,
        questions,
    };
    tasks.spawn("reconcile", reconciler.run(inputs, shutdown));
    tasks.join(GRACE).await
}

/// Opens nf_tables, and makes sure that nobody else serves what Herald is to serve. True: an earlier run's tables are there.
async fn start_proxy(
    options: &SpeakerOptions,
    metrics: &ProxyMetrics,
    sysctls: &Sysctls,
) -> anyhow::Result<(Option<ProxyKernel>, Monitoring, bool)> {
    if options.proxy == ProxyMode::Off {
        return Ok((None, Monitoring(None), false));
    }
    let kernel = KernelThread::start().await?;
    let mut take_over = TakeOver::No;
    if options.proxy == ProxyMode::Full {
        let found = Found::look(&kernel).await?;
        found.judge(options.take_over).map_err(anyhow::Error::msg)?;
        if let Some(doubt) = found.doubt() {
            tracing::warn!("{doubt}");
        }
        if options.take_over {
            take_over = TakeOver::Wanted;
        }
    }
    let tables = kernel.call(Kernel::exists).await?;
    if tables {
        tracing::info!("tables of an earlier run serve until they are replaced");
    }
    for chain in kernel.call(Kernel::forward_drops).await.unwrap_or_default() {
        tracing::warn!(
            chain,
            "this chain of nftables drops what is forwarded unless a rule of its own accepts it: let the pods' network pass there, both ways"
        );
    }
    let limits = (options.proxy == ProxyMode::Full).then(|| (options.conntrack.clone(), sysctls.clone()));
    let conntrack = Housekeeper::start(metrics.clone(), limits)
        .context("cannot start the thread that deletes stale conntrack entries")?;
    let monitoring = Monitoring(kernel.monitor().await);
    let proxy = ProxyKernel::new(kernel, conntrack, RulesetConfig::default(), take_over);
    Ok((Some(proxy), monitoring, tables))
}

fn spawn_watches(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    readiness: &Readiness,
    metrics: &ClientMetrics,
    observed: &mpsc::Sender<Received>,
) {
    let client = || options.client.clone();
    let services =
        Watch::<Service>::all(client()).in_protobuf().labels(PROXIED).metrics(metrics.clone()).run(
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
    let slices =
        Watch::<EndpointSlice>::all(client()).in_protobuf().labels(PROXIED).metrics(metrics.clone()).run(
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

    let service_cidrs = Watch::untyped(client(), None, &untyped::SERVICE_CIDR.resource())
        .optional()
        .metrics(metrics.clone())
        .run(
            fold_service_cidr,
            |event| Received::now(Observed::ServiceCidrs(event)),
            observed.clone(),
            readiness.handle("servicecidrs"),
        );
    tasks.spawn_until_shutdown("servicecidrs", service_cidrs);

    let config = Watch::untyped(client(), Some(&options.namespace), &untyped::CONFIG_MAP.resource())
        .named(CONFIG_MAP)
        .metrics(metrics.clone())
        .run(
            fold_config,
            |event| Received::now(Observed::Config(event)),
            observed.clone(),
            readiness.handle("config"),
        );
    tasks.spawn_until_shutdown("config", config);

    // Objects of MetalLB's group, once the cluster has it.
    let (untyped, mut objects) = mpsc::channel(OBJECTS);
    let watching = untyped::watch_group(
        client(),
        options.namespace.clone(),
        "metallb.io",
        watched(),
        metrics.clone(),
        untyped,
        readiness.clone(),
    );
    tasks.spawn_until_shutdown("objects", watching);
    let observed = observed.clone();
    tasks.spawn_until_shutdown("pass-on", async move {
        while let Some(event) = objects.recv().await {
            if observed.send(Received::now(Observed::Object(event))).await.is_err() {
                break;
            }
        }
        Ok(())
    });
}

/// What keeps a snapshot, and what goes on with the last one where the API server is away. Returns the cluster's name, too.
fn spawn_resuming(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    readiness: &Readiness,
    metrics: &Metrics,
    client_metrics: &ClientMetrics,
    observed: mpsc::Sender<Received>,
) -> anyhow::Result<(watch::Sender<Option<String>>, Keeper)> {
    let identity = Identity::of(&options.node_name, &options.namespace);
    let (cluster, known) = watch::channel(None);
    let objects = watched().into_iter().map(|kind| kind.plural);
    let lists = LISTS.into_iter().chain(objects).map(|list| readiness.handle(list)).collect();
    let directory = options.state_directory.clone();
    let place = Place { directory: directory.clone(), identity: identity.clone() };
    let resuming = snapshot::resume(place, client_metrics.reach.clone(), lists, observed, cluster.clone());
    tasks.spawn_until_shutdown("resume", resuming);
    let (reach, metrics) = (client_metrics.reach.clone(), SnapshotMetrics::new(metrics));
    let keeper = Keeper::start(directory, identity, known, reach, metrics)
        .context("cannot start the thread that writes snapshots")?;
    Ok((cluster, keeper))
}

/// What probes addresses from other nodes, where that is asked for.
fn spawn_availability(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    metrics: &Metrics,
) -> anyhow::Result<Availability> {
    let Some(interval) = options.probe_addresses else { return Ok(Availability::off()) };
    anyhow::ensure!(
        options.proxy == ProxyMode::Full,
        "--probe-addresses needs --proxy=full, and this is --proxy={}: the other proxy of this node would translate a probe, and \
         it would never leave",
        options.proxy
    );
    let echo =
        Echo::open().context("cannot open packet sockets for --probe-addresses (CAP_NET_RAW is needed)")?;
    let book = Book::new(options.address_metrics_limit);
    book.register(metrics);
    let (availability, wanted) = Availability::on(book.clone());
    let probing = availability::run(options.node_name.clone(), interval, wanted, echo, book);
    tasks.spawn_until_shutdown("availability", probing);
    Ok(availability)
}

/// Health check node ports and kube-proxy's own two ports.
fn spawn_health(
    tasks: &mut Tasks,
    options: &SpeakerOptions,
    shutdown: &CancellationToken,
    metrics: (Metrics, ProxyMetrics),
    (ports, state, failures): (
        watch::Receiver<HealthPorts>,
        watch::Receiver<ProxyState>,
        mpsc::Sender<BindFailure>,
    ),
) {
    let serving = health::serve_health_ports(ports, state.clone(), failures.clone(), shutdown.clone());
    tasks.spawn("health-ports", async move {
        serving.await;
        Ok(())
    });
    let serving = health::serve_proxy_ports(options.proxy_ports, state, metrics, failures, shutdown.clone());
    tasks.spawn("proxy-ports", async move {
        serving.await;
        Ok(())
    });
}
