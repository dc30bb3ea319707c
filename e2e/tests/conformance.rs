//! Kubernetes' own e2e suite against a cluster of real kubelets that has Herald, by its manifests, and neither kube-proxy nor
//! another giver of addresses: the groups of `[sig-network]` that are about Services (docs/conformance.md).
//!
//! `make test-conformance` builds what it needs and runs it. The suite runs where the lab's client is, behind the router. Its
//! reports are left in `conformance/` of the target folder, or below `HERALD_CONFORMANCE`. `HERALD_CONFORMANCE_FOCUS` (a regular
//! expression) runs less, `HERALD_CONFORMANCE_SLOW=1` the tests of a quarter of an hour too, `HERALD_CONFORMANCE_NODES=6` all
//! that ask for two nodes in each of three zones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{
    CLUSTER_DNS, ControlPlaneOptions, Lab, Machine, Overlay, e2e_suite, herald_image, node_programs, phase,
    programs,
};
use serde_json::Value;

/// Words that a test's name begins with, after `[sig-network]`.
const GROUPS: &str = "Services|EndpointSlice|Networking|Proxy|Traffic Distribution|Conntrack|LoadBalancers";
/// Not run, and why.
const LEFT_OUT: [(&str, &str); 4] = [
    (r"\[Disruptive\]", "restarts kube-proxy or the API server, as pods or by SSH"),
    (r"\[Feature:Networking-(IPv4|IPv6|DNS)\]", "wants the Internet"),
    (r"\[Feature:SCTPConnectivity\]", "wants a kernel with SCTP"),
    (r"\[Feature:Networking-Performance\]", "measures with iperf"),
];
const SLOW: (&str, &str) = ("disruption during rolling update", "a quarter of an hour each: SLOW=1");
/// By layer 2 one node answers for an address, so one client meets one node's pods only, where the policy is Local.
const NEEDS_BGP: [&str; 2] = [SWITCHES_AFFINITY, "should target all nodes with endpoints"];
const AFFINITY: &str = "session affinity";
const SWITCHES_AFFINITY: &str = "switch session affinity for LoadBalancer service with Local traffic policy";
/// Tests that may fail. Nothing is on the list without a reason.
const MAY_FAIL: &[(&str, &str)] = &[];
/// How many tests at once.
const AT_ONCE: &str = "4";
/// With a margin for a machine that is busy.
const RUN: Duration = Duration::from_secs(2 * 3600);

const COREDNS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects:
- {kind: ServiceAccount, name: coredns, namespace: kube-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        health
        ready
        kubernetes cluster.local in-addr.arpa ip6.arpa {
            pods insecure
            ttl 5
        }
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
      - name: coredns
        image: coredns:lab
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: CLUSTER_DNS
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
"#;

/// A cluster with Herald and CoreDNS, and nothing else in it.
struct Cluster {
    lab: Lab,
    machines: Vec<Machine>,
}

/// How a test ended, by its group.
#[derive(Debug, PartialEq)]
struct Outcome {
    group: String,
    name: String,
    state: State,
    seconds: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Cluster {
    fn start(overlay: Overlay) -> Result<Self> {
        let nodes: u8 =
            setting("NODES").map_or(Ok(3), |nodes| nodes.parse().context("HERALD_CONFORMANCE_NODES"))?;
        let images = images()?;
        let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        let options = ControlPlaneOptions { kubelets: true, ..ControlPlaneOptions::default() };
        let builder = Lab::builder().nodes(nodes).control_plane_with(options);
        let builder = if overlay == Overlay::Bgp { builder.bird_of_sample() } else { builder };
        let lab = phase("the control plane", || builder.start())?;
        let machines = phase("the nodes are Ready", || {
            lab.nodes().iter().map(|node| lab.boot(node, &images)).collect::<Result<Vec<_>>>()
        })?;
        for node in lab.nodes() {
            let zone = format!("topology.kubernetes.io/zone=zone{}", node.index % 3);
            lab.kubectl(&["label", "node", &node.name, &zone])?;
        }
        phase("Herald is applied and rolled out", || {
            lab.install(overlay)?;
            // Without it Services have no finalizer, which is MetalLB's way and the default.
            lab.configure_herald("herald: {finalizer: {wait: 1s}}")
        })?;
        phase("names are resolved", || {
            lab.apply(&COREDNS.replace("CLUSTER_DNS", CLUSTER_DNS))?;
            lab.rolled_out("kube-system", "deployment/coredns")
        })?;
        Ok(Self { lab, machines })
    }

    fn still_runs(&self) -> Result<()> {
        let runs = self.machines.iter().all(Machine::is_running) && self.lab.control_plane_runs();
        ensure!(runs, "something has ended");
        self.lab.herald_rolled_out()
    }

    /// Runs the tests that `focus` names and `skip` does not, on so many nodes that take pods, and says how each ended.
    fn run(&self, name: &str, focus: &str, skip: &[&str], schedulable: usize) -> Result<Vec<Outcome>> {
        let suite = e2e_suite()?;
        let reports = reports().join(name);
        // What is from an earlier run must not pass for this one's.
        if reports.exists() {
            std::fs::remove_dir_all(&reports)?;
        }
        std::fs::create_dir_all(&reports)?;
        let mut command = Command::new(suite.join("ginkgo"));
        command.args([
            "--no-color",
            "--silence-skips",
            "--timeout=2h",
            "--json-report=report.json",
            "--junit-report=junit.xml",
        ]);
        command.arg(format!("--procs={AT_ONCE}")).arg(format!("--output-dir={}", reports.display()));
        command.arg(format!("--focus={focus}")).args(skip.iter().map(|skip| format!("--skip={skip}")));
        command.arg(suite.join("e2e.test")).args(["--", "--provider=skeleton"]);
        command.arg(format!("--num-nodes={schedulable}"));
        command.arg(format!("--allowed-not-ready-nodes={}", self.machines.len() - schedulable));
        command.arg(format!("--kubeconfig={}", self.lab.kubeconfig().display()));
        command.arg(format!("--kubectl-path={}", programs()?.join("kubectl").display()));
        // What it and kubectl keep goes with the lab.
        command.env("HOME", self.lab.directory()).env("TMPDIR", self.lab.directory());
        let ginkgo = self.lab.start_process(self.lab.client(), name, command)?;
        eprintln!("          its output: {}", ginkgo.log_path().display());
        let ended = ginkgo.await_exit(RUN);
        std::fs::copy(ginkgo.log_path(), reports.join("output.log"))?;
        ended?;
        let text = std::fs::read(reports.join("report.json")).with_context(|| ginkgo.log_tail())?;
        Ok(outcomes(&serde_json::from_slice(&text)?))
    }
}

/// A setting of whoever runs the test.
fn setting(name: &str) -> Option<String> {
    std::env::var(format!("HERALD_CONFORMANCE_{name}")).ok().filter(|value| !value.is_empty())
}

/// Where reports are left.
fn reports() -> PathBuf {
    let told = std::env::var_os("HERALD_CONFORMANCE");
    told.map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance"), PathBuf::from)
}

/// What the nodes' container runtimes are given: nothing is pulled.
fn images() -> Result<Vec<PathBuf>> {
    let mut images = vec![herald_image()?, node_programs()?.join("agnhost.tar")];
    for entry in std::fs::read_dir(e2e_suite()?.join("images"))? {
        images.push(entry?.path());
    }
    Ok(images)
}

/// The regular expression of the tests to run, of these groups unless something else is asked for.
fn focus(groups: &str) -> String {
    match setting("FOCUS") {
        Some(focus) => format!(r"\[sig-network\] .*(?:{focus})"),
        None => format!(r"\[sig-network\] (?:{groups})\b"),
    }
}

/// The regular expressions of the tests that are not run.
fn left_out() -> Vec<&'static str> {
    let slow = (setting("SLOW").is_none()).then_some(&SLOW);
    LEFT_OUT.iter().chain(slow).map(|(pattern, _)| *pattern).collect()
}

/// What ginkgo's report says of the tests that were selected, and of a suite that could not begin.
fn outcomes(report: &Value) -> Vec<Outcome> {
    let suites = report.as_array().into_iter().flatten();
    suites
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten())
        .filter_map(outcome)
        .collect()
}

fn outcome(spec: &Value) -> Option<Outcome> {
    let texts = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let texts: Vec<&str> = texts.chain(spec["LeafNodeText"].as_str()).collect();
    let name = texts.join(" ");
    let name = name.strip_prefix("[sig-network] ").unwrap_or(&name);
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
    let state = match (spec["LeafNodeType"].as_str()?, spec["State"].as_str()?) {
        // Not selected.
        (_, "skipped") if message.is_empty() => return None,
        (_, "pending") => return None,
        ("It", "skipped") => State::Skipped(message.to_owned()),
        ("It", "passed") => State::Passed,
        (_, "skipped" | "passed") => return None,
        // Some have pages.
        (_, other) => State::Failed(format!("{other}: {}", message.lines().next().unwrap_or_default())),
    };
    let group = GROUPS.split('|').find(|group| name.starts_with(group)).unwrap_or("others");
    let seconds = spec["RunTime"].as_f64().unwrap_or_default() / 1e9;
    Some(Outcome { group: group.to_owned(), name: name.to_owned(), state, seconds })
}

/// Tells the outcomes as a table, and fails where a test has failed that may not.
fn judge(outcomes: &[Outcome]) -> Result<()> {
    let mut groups: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut failed = Vec::new();
    for outcome in outcomes {
        let counts = groups.entry(&outcome.group).or_default();
        match &outcome.state {
            State::Passed => counts[0] += 1,
            State::Skipped(why) => {
                counts[1] += 1;
                eprintln!("skipped   {}: {why}", outcome.name);
            }
            State::Failed(why) => {
                counts[2] += 1;
                let excused = MAY_FAIL.iter().find(|(name, _)| outcome.name.contains(name));
                eprintln!("failed    {} ({:.0} s): {why}", outcome.name, outcome.seconds);
                match excused {
                    Some((_, reason)) => eprintln!("          may fail: {reason}"),
                    None => failed.push(outcome.name.as_str()),
                }
            }
        }
    }
    for (pattern, why) in LEFT_OUT {
        eprintln!("left out  {pattern}: {why}");
    }
    eprintln!("{:<24} passed skipped failed", "[sig-network]");
    for (group, [passed, skipped, failed]) in &groups {
        eprintln!("{group:<24} {passed:>6} {skipped:>7} {failed:>6}");
    }
    ensure!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// Whether this part is wanted.
fn wanted(overlay: &str) -> Result<bool> {
    let Some(wanted) = setting("OVERLAY") else { return Ok(true) };
    ensure!(["layer2", "bgp"].contains(&wanted.as_str()), "OVERLAY={wanted}: layer2 or bgp");
    Ok(wanted == overlay)
}

#[test]
#[ignore = "needs network namespaces and real kubelets: make test-conformance"]
fn what_passes_with_kube_proxy_passes_with_herald() -> Result<()> {
    if !wanted("layer2")? {
        return Ok(());
    }
    let cluster = Cluster::start(Overlay::Layer2)?;
    let skip = [&left_out()[..], &NEEDS_BGP].concat();
    let nodes = cluster.machines.len();
    let outcomes = phase("the suite", || cluster.run("layer2", &focus(GROUPS), &skip, nodes))?;
    ensure!(!outcomes.is_empty(), "no test has such a name");
    judge(&outcomes)?;
    cluster.still_runs()
}

#[test]
#[ignore = "needs network namespaces and real kubelets: make test-conformance"]
fn load_balancers_pass_with_bgp() -> Result<()> {
    if !wanted("bgp")? {
        return Ok(());
    }
    let cluster = Cluster::start(Overlay::Bgp)?;
    let nodes = cluster.machines.len();
    let skip = [&left_out()[..], &[AFFINITY]].concat();
    // The router chooses a node for each connection.
    let mut outcomes = phase("the suite", || cluster.run("bgp", &focus("LoadBalancers"), &skip, nodes))?;
    if setting("FOCUS").is_none_or(|focus| focus.contains("affinity")) {
        outcomes.extend(affinity(&cluster)?);
    }
    ensure!(setting("FOCUS").is_some() || !outcomes.is_empty(), "no test has such a name");
    judge(&outcomes)?;
    cluster.still_runs()
}

/// What these tests want of the router cannot be had of one router.
fn affinity(cluster: &Cluster) -> Result<Vec<Outcome>> {
    let (lab, nodes) = (&cluster.lab, cluster.machines.len());
    // Nodes do not tell each other whom they serve, so affinity over several nodes wants a router that chooses by client.
    lab.router().ns.sysctl(&[("net/ipv4/fib_multipath_hash_policy", "0")])?;
    let skip = [&left_out()[..], &[SWITCHES_AFFINITY]].concat();
    let mut outcomes = phase("affinity, with a router that chooses by client", || {
        cluster.run("bgp-affinity", &focus(&format!("LoadBalancers .*{AFFINITY}")), &skip, nodes)
    })?;
    // This one wants to see several pods without affinity, and one with it. With policy Local and a pod on each node, a router
    // that does the one cannot do the other; so all pods are on one node.
    for node in &lab.nodes()[1..] {
        lab.kubectl(&["cordon", &node.name])?;
    }
    outcomes.extend(phase("affinity that is switched, with all pods on one node", || {
        cluster.run("bgp-one-node", SWITCHES_AFFINITY, &left_out(), 1)
    })?);
    Ok(outcomes)
}

#[test]
fn a_report_tells_what_was_run_and_how_it_ended() {
    let spec = |kind: &str, text: &str, state: &str, message: &str| {
        serde_json::json!({
            "ContainerHierarchyTexts": ["[sig-network] LoadBalancers ExternalTrafficPolicy: Local", "when"],
            "LeafNodeType": kind, "LeafNodeText": text, "State": state, "RunTime": 1_500_000_000_u64,
            "Failure": { "Message": message },
        })
    };
    let report = serde_json::json!([{ "SpecReports": [
        spec("SynchronizedBeforeSuite", "", "passed", ""),
        spec("It", "is not selected", "skipped", ""),
        spec("It", "works", "passed", ""),
        spec("It", "wants more", "skipped", "two nodes"),
        spec("It", "breaks", "panicked", "nil"),
        spec("AfterSuite", "", "failed", "no"),
    ] }]);
    let found = outcomes(&report);
    let states: Vec<&State> = found.iter().map(|outcome| &outcome.state).collect();
    let failed = |why: &str| State::Failed(why.to_owned());
    assert_eq!(
        states,
        [
            &State::Passed,
            &State::Skipped("two nodes".to_owned()),
            &failed("panicked: nil"),
            &failed("failed: no")
        ]
    );
    assert_eq!(found[0].name, "LoadBalancers ExternalTrafficPolicy: Local when works");
    assert_eq!((found[0].group.as_str(), found[0].seconds), ("LoadBalancers", 1.5));
    assert!(judge(&found[..2]).is_ok() && judge(&found).is_err());
}
