//! The whole node on real parts: kernel, BIRD, addresses on `lo`; only the watches are played by the test.

mod foreign;
mod refused;

use std::path::Path;
use std::process::Command;

use herald_proxy::health::{HealthPorts, ProxyState};
use herald_proxy::localhost::LocalPorts;
use herald_proxy::ruleset::RulesetConfig;
use herald_proxy::{FamilyLabel, IpFamily, Names, ProxyMetrics, SliceView};
use herald_runtime::metrics::Metrics;
use herald_runtime::readiness::Readiness;
use herald_runtime::watch::{Reach, WatchEvent};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;

use super::*;
use crate::addresses::LocalAddresses;
use crate::bgp::{Met, Peers, Routers};
use crate::configured::ConfigObject;
use crate::conntrack::Housekeeper;
use crate::history::History;
use crate::index::{Observed, ServiceObject, SliceObject, fold_service};
use crate::kernel::KernelThread;
use crate::layer2::{Layer2, Layer2Metrics};
use crate::neighbours::TakeOver;
use crate::node::fold;
use crate::proxy_kernel::ProxyKernel;
use crate::snapshot::{Identity, SnapshotMetrics};
use crate::sysctl::{SYSCTLS, Sysctls};
use crate::testing::bird::{Bird, NODE, addresses};
use crate::testing::in_namespace;

const CONFIG: &str = "
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, source-address: 10.0.0.11}
address-pools:
- name: default
  cidr: [192.0.2.0/24]
  advertisements:
  - {aggregation-length: 32}
herald:
  local-addresses: load-balancer
";

struct Lab {
    observed: mpsc::Sender<Received>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    registry: Metrics,
    failures: Family<FamilyLabel, Counter>,
    bird: Bird,
    _inputs: (watch::Sender<Option<BTreeSet<IpAddr>>>, mpsc::Sender<BindFailure>, mpsc::Sender<Asked>),
    _outputs: (watch::Receiver<HealthPorts>, watch::Receiver<ProxyState>),
}

impl Lab {
    async fn start(bird: Bird) -> Self {
        Self::start_with(bird, true).await
    }

    /// `watched`: others' edits are noticed at once.
    async fn start_with(bird: Bird, watched: bool) -> Self {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let mut options = SpeakerOptions::new(kube::Client::try_from(config).unwrap(), "node-1");
        options.linger = Duration::from_millis(300);
        options.drain = Duration::from_secs(2);
        let kernel = KernelThread::start().await.unwrap();
        let monitoring = Monitoring(if watched { kernel.monitor().await } else { None });
        assert_eq!(monitoring.0.is_some(), watched);
        let (mut local, connection) = LocalAddresses::open(Sysctls::new(Path::new(SYSCTLS), None)).unwrap();
        tokio::task::spawn_local(connection);
        let adopted = local.adopt().await.unwrap().clone();
        let registry = Metrics::new();
        let metrics = SpeakerMetrics::new(&registry, "node-1", 1000);
        let proxy_metrics = ProxyMetrics::new(&Metrics::new());
        let conntrack = Housekeeper::start(proxy_metrics.clone(), None).unwrap();
        let failures = Family::default();
        let no_keys = watch::channel(None).1;
        let layer2 = Layer2::start("node-1", no_keys, Layer2Metrics::new(&registry, 1000)).unwrap();
        let owners = layer2.view();
        let effects = NodeEffects {
            proxy: Some(
                ProxyKernel::new(kernel, conntrack, RulesetConfig::default(), TakeOver::No)
                    .counting(failures.clone(), crate::traffic::Names::default()),
            ),
            addresses: local,
            peers: Peers::new(metrics.bgp.clone(), false),
            layer2,
        };
        let (health_ports, ports) = watch::channel(HealthPorts::default());
        let (proxy_state, state) = watch::channel(ProxyState::default());
        let events = EventRecorder::disconnected();
        let reconciler = Reconciler {
            availability: Availability::off(),
            index: Index::default(),
            applier: Applier::new(effects, options.linger, &adopted),
            reporter: Reporter::new("node-1", events.clone(), metrics.clone(), History::new(Instant::now())),
            metrics,
            sync: SyncReport::new(proxy_metrics, proxy_state),
            outputs: Outputs {
                programmed: Readiness::new().handle("rules"),
                events,
                unnumbered: watch::channel(BTreeSet::new()).0,
                client_metrics: ClientMetrics::new(&registry),
            },
            settings: None,
            probing: Probing::start().0,
            floor: Floor::default(),
            drain: Drain::default(),
            foreign: Foreign::new(&registry),
            pending: Pending::default(),
            ports: Ports::new(health_ports, watch::channel(LocalPorts::default()).0),
            snapshot: Keeper::start(
                None,
                Identity::of("node-1", "metallb-system"),
                watch::channel(None).1,
                Reach::default(),
                SnapshotMetrics::new(&registry),
            )
            .unwrap(),
            routers: Routers::new(),
            met: Met::new(),
            not_forwarding: BTreeSet::new(),
            options,
        };
        let (observed, from_watches) = mpsc::channel(16);
        let (found, addresses) = watch::channel(None);
        let (unbound, bind_failures) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let (asked, questions) = mpsc::channel(1);
        let inputs = Inputs {
            observed: from_watches,
            addresses,
            bind_failures,
            monitoring,
            routers: watch::channel(Routers::new()).1,
            met: watch::channel(Met::new()).1,
            not_forwarding: watch::channel(BTreeSet::new()).1,
            layer2: owners,
            questions,
        };
        let running = tokio::task::spawn_local(reconciler.run(inputs, shutdown.clone()));
        Self {
            observed,
            shutdown,
            running,
            registry,
            failures,
            bird,
            _inputs: (found, unbound, asked),
            _outputs: (ports, state),
        }
    }

    async fn say(&self, observed: Observed) {
        self.observed.send(Received::now(observed)).await.unwrap();
    }

    /// The first lists, with these Services.
    async fn lists(&self, services: Vec<ServiceObject>) {
        self.say(Observed::Services(WatchEvent::Reset(services))).await;
        self.say(Observed::Slices(WatchEvent::Reset(vec![slice()]))).await;
        self.say(Observed::Nodes(WatchEvent::Reset(vec![fold(&node(), "node-1")]))).await;
        self.say(Observed::ServiceCidrs(WatchEvent::Reset(vec![]))).await;
        let config = ConfigObject(Some(CONFIG.to_owned()));
        self.say(Observed::Config(WatchEvent::Reset(vec![config]))).await;
    }

    async fn routed(&self, vip: &str) {
        self.bird.until("show route", |answer| answer.contains(&format!("{vip}/32"))).await;
    }

    async fn unrouted(&self, vip: &str) {
        self.bird.until("show route", |answer| !answer.contains(&format!("{vip}/32"))).await;
    }

    async fn stop(self) -> Bird {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.bird
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rules() -> String {
    output("nft", &["list", "ruleset"])
}

fn on_lo(vip: &str) -> bool {
    output("ip", &["-br", "address", "show", "dev", "lo"]).contains(&format!("{vip}/32"))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}\n{}", rules());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn service(vip: &str) -> ServiceObject {
    let object: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "1"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
    }))
    .unwrap();
    fold_service(&object)
}

fn slice() -> SliceObject {
    let object: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.1.5"], "nodeName": "node-1"}],
    }))
    .unwrap();
    SliceObject {
        name: ObjectName::new("shop", "web-1"),
        reading: SliceView::read(&object, &mut Names::default()),
    }
}

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "node-1"},
        "spec": {"podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
    }))
    .unwrap()
}

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

#[test]
#[ignore = "needs a network namespace"]
fn a_service_is_served_then_announced_then_withdrawn_then_forgotten() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        assert!(rules().contains("192.0.2.1") && rules().contains("10.244.1.5"), "{}", rules());
        assert!(on_lo("192.0.2.1"));
        let announced =
            r#"metallb_speaker_announced{service="shop/web",protocol="bgp",node="node-1",ip="192.0.2.1"} 1"#;
        let text = lab.registry.encode().unwrap();
        assert!(text.contains(announced), "{text}");

        lab.say(Observed::Services(WatchEvent::Deleted(web()))).await;
        lab.unrouted("192.0.2.1").await;
        eventually("rules go after the linger", || !rules().contains("192.0.2.1")).await;
        assert!(!on_lo("192.0.2.1"), "the address goes before its rules");
        lab.stop().await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn stopping_withdraws_and_the_next_run_adopts_what_stays() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        let bird = lab.stop().await;
        bird.until("show protocols all herald", |answer| answer.contains("Administrative shutdown")).await;
        assert!(bird.log().contains("herald speaker on node-1 stops"), "{}", bird.log());
        assert!(rules().contains("192.0.2.1") && on_lo("192.0.2.1"), "{}", rules());

        // The Service got another address while no speaker ran.
        let lab = Lab::start(bird).await;
        lab.lists(vec![service("192.0.2.2")]).await;
        lab.routed("192.0.2.2").await;
        eventually("the address of the earlier run goes", || !on_lo("192.0.2.1")).await;
        assert!(on_lo("192.0.2.2") && !rules().contains("192.0.2.1"), "{}", rules());
        lab.stop().await;

        let cleaned = crate::cleanup(Path::new(SYSCTLS), None).await.unwrap();
        assert_eq!(cleaned, crate::Cleaned { tables: true, addresses: 1, settings: 0, files: 0 });
        assert!(!on_lo("192.0.2.2") && !rules().contains("herald"), "{}", rules());
        assert_eq!(
            crate::cleanup(Path::new(SYSCTLS), None).await.unwrap(),
            crate::Cleaned { tables: false, addresses: 0, settings: 0, files: 0 }
        );
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_node_that_is_excluded_asks_to_be_avoided_before_it_withdraws_and_comes_back() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        let label = "node.kubernetes.io/exclude-from-external-load-balancers".to_owned();
        let mut excluded = node();
        excluded.metadata.labels = Some([(label, String::new())].into());
        let started = Instant::now();
        lab.say(Observed::Nodes(WatchEvent::Applied(fold(&excluded, "node-1")))).await;
        let asked = |answer: &str| answer.contains("(65535,0)");
        lab.bird.until("show route all 192.0.2.1/32", asked).await;
        lab.unrouted("192.0.2.1").await;
        assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
        lab.say(Observed::Nodes(WatchEvent::Applied(fold(&node(), "node-1")))).await;
        let back = |answer: &str| answer.contains("BGP.next_hop") && !asked(answer);
        lab.bird.until("show route all 192.0.2.1/32", back).await;
        assert_eq!(lab.bird.established(), 1, "{}", lab.bird.log());
        lab.stop().await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn nothing_is_programmed_before_the_last_watch_has_delivered() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.say(Observed::Services(WatchEvent::Reset(vec![service("192.0.2.1")]))).await;
        lab.say(Observed::Slices(WatchEvent::Reset(vec![slice()]))).await;
        lab.say(Observed::Nodes(WatchEvent::Reset(vec![fold(&node(), "node-1")]))).await;
        lab.say(Observed::ServiceCidrs(WatchEvent::Reset(vec![]))).await;
        // The loop has taken all of them once the channel is empty and it waits again.
        eventually("the events are taken", || lab.observed.capacity() == lab.observed.max_capacity()).await;
        tokio::task::yield_now().await;
        assert!(!rules().contains("herald"), "{}", rules());
        let config = ConfigObject(Some(CONFIG.to_owned()));
        lab.say(Observed::Config(WatchEvent::Reset(vec![config]))).await;
        lab.routed("192.0.2.1").await;
        lab.stop().await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_flushed_ruleset_is_replaced_with_the_next_change() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        output("nft", &["flush", "ruleset"]);
        lab.say(Observed::Services(WatchEvent::Applied(service("192.0.2.2")))).await;
        lab.routed("192.0.2.2").await;
        assert!(rules().contains("192.0.2.2"), "{}", rules());
        assert_eq!(lab.bird.established(), 1, "{}", lab.bird.log());
        lab.stop().await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn an_aggregate_is_guarded_while_it_is_announced() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        let aggregate = CONFIG.replace("aggregation-length: 32", "aggregation-length: 24");
        lab.say(Observed::Config(WatchEvent::Applied(ConfigObject(Some(aggregate))))).await;
        lab.bird.until("show route", |answer| answer.contains("192.0.2.0/24")).await;
        assert!(rules().contains("192.0.2.0/24"), "{}", rules());
        lab.unrouted("192.0.2.1").await;
        lab.say(Observed::Services(WatchEvent::Deleted(web()))).await;
        lab.bird.until("show route", |answer| !answer.contains("192.0.2.0/24")).await;
        eventually("the guard goes after the linger", || !rules().contains("192.0.2.0/24")).await;
        assert_eq!(lab.bird.established(), 1, "{}", lab.bird.log());
        lab.stop().await;
    });
}
