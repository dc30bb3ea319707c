//! Connections that fail in planned work, and when an endpoint dies: a load of new connections, and what happens meanwhile.
//!
//! Each connection is a new one with a socket of its own and has less time than TCP takes to repeat a lost SYN, so that a
//! packet that is lost is a connection that fails. The suites use the same functions with fewer connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};

use super::scale;
use super::system::{Kind, System};
use super::table::Table;
use crate::await_until::{await_ok, pause};
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::pod::{Pod, PodOptions};
use crate::poller::{PollOptions, PollReport, Poller};
use crate::topology::Node;

/// For what takes milliseconds where all is well.
const SOON: Duration = Duration::from_secs(20);
/// 500 new connections a second.
pub const LOAD: Duration = Duration::from_millis(2);
/// How long a pod goes on serving after its deletion.
const GRACE: Duration = Duration::from_secs(5);
/// Pods of the Service that is updated, and how many are replaced at a time.
const PODS: usize = 10;
const SURGE: usize = 3;
/// How often an endpoint dies.
const DEATHS: usize = 5;

fn load(every: Duration) -> PollOptions {
    PollOptions { interval: every, timeout: Duration::from_millis(950) }
}

/// `externalTrafficPolicy`, by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any node serves by any endpoint.
    Cluster,
    /// Nodes with an endpoint serve by those of their own.
    Local,
}

impl Policy {
    /// As in the Service.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// Replaces all pods of a Service while the client behind the router connects to its address. The lab has an announcer
/// and a proxy on all nodes.
pub fn rolling_update(lab: &Lab, name: &str, policy: Policy, every: Duration) -> Result<PollReport> {
    let options = PodOptions::app(name);
    let make = |n: usize| {
        let node = &lab.nodes()[n % lab.nodes().len()];
        lab.pod(node, &format!("{name}-{n}"), &options)
    };
    let mut old: Vec<Pod<'_>> = (0..PODS).map(make).collect::<Result<_>>()?;
    lab.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         externalTrafficPolicy: {}\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n",
        policy.word()
    ))?;
    let to = SocketAddr::new(address(lab, name)?, 80);
    let nodes = lab.nodes().len();
    await_ok(SOON, "all nodes to attract and to serve", || {
        let routes = lab.router().routes()?;
        let found = routes.iter().filter(|(prefix, _)| prefix.contains(&to.ip().to_string()));
        let paths: usize = found.map(|(_, hops)| hops.len()).sum();
        ensure!(paths == nodes, "{paths} paths");
        let answer = lab.client().get(to);
        ensure!(answer.is_ok(), "{answer:?}");
        Ok(())
    })?;
    let poller = Poller::start(lab.client(), to, load(every))?;
    poller.await_answers(50, SOON)?;
    let mut ending: Vec<(Instant, Pod<'_>)> = Vec::new();
    let mut next = PODS;
    while !old.is_empty() || !ending.is_empty() {
        let round = SURGE.min(old.len());
        for _ in 0..round {
            make(next)?;
            next += 1;
        }
        for pod in old.drain(..round) {
            pod.start_terminating()?;
            ending.push((Instant::now() + GRACE, pod));
        }
        let due = |(at, _): &(Instant, Pod<'_>)| *at <= Instant::now();
        for (_, pod) in ending.extract_if(.., |item| due(item)) {
            pod.delete()?;
        }
        pause(Duration::from_millis(500));
    }
    poller.await_answers(50, SOON)?;
    let report = poller.stop()?;
    lab.delete("v1/Service", "default", name)?;
    for n in PODS..next {
        if let Some(pod) = lab.existing_pod("default", &format!("{name}-{n}")) {
            pod.delete()?;
        }
    }
    Ok(report)
}

/// Restarts Herald on a node while a pod there connects to a Service.
pub fn restart(
    lab: &Lab,
    system: System,
    node: &Node,
    pod: &Namespace,
    every: Duration,
) -> Result<(System, PollReport)> {
    let poller = Poller::start(pod, scale::at(0), load(every))?;
    poller.await_answers(200, SOON)?;
    system.stop()?;
    // Without a speaker for a while, too.
    poller.await_answers(200, SOON)?;
    let system = System::start(lab, Kind::Herald, node)?;
    system.await_programmed(Duration::from_secs(60))?;
    poller.await_answers(200, SOON)?;
    Ok((system, poller.stop()?))
}

/// Kills a pod at the moment when it is deleted, while another pod connects to its Service. Returns for each death by how
/// many milliseconds the last connection that failed began after a bare watch had seen the slice without it (negative:
/// before), and how many failed.
pub fn deaths(lab: &Lab, name: &str, every: Duration) -> Result<Vec<(f64, usize)>> {
    let client = lab.pod(lab.node(1), &format!("{name}-client"), &PodOptions::app("client"))?;
    let last = lab.nodes().len();
    let make = |n: usize| lab.pod(&lab.nodes()[n % last], &format!("{name}-{n}"), &PodOptions::app(name));
    let mut pods: Vec<Pod<'_>> = (0..3).map(make).collect::<Result<_>>()?;
    let ip = scale::spare_ip(4000);
    lab.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {ip}\n  \
         selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ))?;
    let to = SocketAddr::new(ip.into(), 80);
    let mut samples = Vec::new();
    for n in 0..DEATHS {
        await_ok(SOON, "three endpoints that answer", || {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..30 {
                seen.insert(client.ns.get(to)?.pod);
            }
            ensure!(seen.len() == pods.len(), "{seen:?}");
            Ok(())
        })?;
        let poller = Poller::start(&client.ns, to, load(every))?;
        poller.await_answers(100, SOON)?;
        let dying = pods.remove(0);
        let gone = std::thread::scope(|scope| {
            let (begun, has_begun) = sync_channel(1);
            let watch =
                scope.spawn(|| lab.block_on(async |api| await_gone(api, name, dying.ip, begun).await));
            has_begun.recv().context("the bare watch has ended")?;
            dying.crash();
            dying.delete()?;
            watch.join().map_err(|_| anyhow!("the bare watch panicked"))?
        })?;
        poller.await_answers(200, SOON)?;
        let report = poller.stop()?;
        let last = report.failures.iter().map(|failure| failure.at).max();
        let after = |at: Instant| match at.checked_duration_since(gone) {
            Some(after) => after.as_secs_f64() * 1000.0,
            None => -(gone - at).as_secs_f64() * 1000.0,
        };
        samples.push((last.map_or(f64::NEG_INFINITY, after), report.failures.len()));
        pods.push(make(10 + n)?);
    }
    lab.delete("v1/Service", "default", name)?;
    for pod in pods {
        pod.delete()?;
    }
    client.delete()?;
    Ok(samples)
}

/// When a bare watch saw the first slice of the Service without this endpoint, or with it not ready.
async fn await_gone(client: Client, service: &str, ip: IpAddr, begun: SyncSender<()>) -> Result<Instant> {
    let api: Api<EndpointSlice> = Api::default_namespaced(client);
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut events = std::pin::pin!(watcher(api, config));
    let ip = ip.to_string();
    let watched = async {
        while let Some(event) = events.try_next().await? {
            match event {
                Event::InitDone => {
                    // Room for one; a list that is made again has nobody to tell.
                    let _ = begun.try_send(());
                }
                Event::Apply(slice) => {
                    let ready = slice.endpoints.iter().flatten().any(|endpoint| {
                        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                        ready && endpoint.addresses.contains(&ip)
                    });
                    if slice.address_type == "IPv4" && !ready {
                        return Ok(Instant::now());
                    }
                }
                _ => {}
            }
        }
        bail!("the bare watch has ended")
    };
    tokio::time::timeout(SOON, watched).await.context("no slice without the endpoint")?
}

fn address(lab: &Lab, name: &str) -> Result<IpAddr> {
    await_ok(SOON, &format!("an address for {name}"), || {
        let jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let text = lab.kubectl(&["get", "service", name, "-o", jsonpath])?;
        text.parse().with_context(|| format!("it has “{text}”"))
    })
}

/// The rows of planned work, of whichever system the lab runs.
pub fn measure(lab: &Lab, kind: Kind, rows: &dyn Fn(&str) -> bool, table: &mut Table) -> Result<()> {
    if rows("rolling") {
        for policy in [Policy::Cluster, Policy::Local] {
            let name = format!("roll-{}-{}", policy.word().to_lowercase(), kind.name());
            let report = rolling_update(lab, &name, policy, LOAD)?;
            let what = format!("10 pods replaced, 500/s, policy {}: failed", policy.word());
            failed(table, "rolling", None, kind, &what, &report);
        }
    }
    if rows("death") {
        let samples = deaths(lab, &format!("death-{}", kind.name()), LOAD)?;
        let worst = samples.iter().map(|(after, _)| *after).fold(f64::NEG_INFINITY, f64::max);
        let count: usize = samples.iter().map(|(_, count)| count).sum();
        let mut row = table.row("death", None);
        let what = "endpoint dies: last failed after the slice event, worst of 5";
        match kind {
            Kind::Herald => row.bar(what, worst, "ms", 20.0),
            Kind::KubeProxy => row.put(kind.name(), what, worst, "ms"),
        }
        row.put(kind.name(), "endpoint dies: failed connections, each", count as f64 / DEATHS as f64, "");
    }
    Ok(())
}

/// A row of connections that failed: none may, of Herald's.
pub fn failed(
    table: &mut Table,
    row: &'static str,
    services: Option<u32>,
    kind: Kind,
    what: &str,
    report: &PollReport,
) {
    let count = report.failures.len() as f64;
    if count > 0.0 {
        eprintln!("{what}: {}", report.explain());
    }
    let mut row = table.row(row, services);
    match kind {
        Kind::Herald => row.bar(what, count, "", 0.0),
        Kind::KubeProxy => row.put(kind.name(), what, count, ""),
    }
}
