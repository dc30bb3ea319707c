//! One Service more: from the moment when a bare watch has seen both the Service and its slice until it works from a pod.
//!
//! The bare watch runs in this process beside the client that creates. It stands for what no proxy can be faster than: an
//! event of the API server on its way. The pod connects once a millisecond from before the creation on, so a value may be
//! too large by that and by one HTTP request.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::scale;
use super::system::Kind;
use super::table::{Table, percentile};
use crate::bench::first_byte::{FirstByte, await_first_byte};
use crate::lab::Lab;
use crate::namespace::Namespace;

/// For one Service; kube-proxy acts once a second and then takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The label of these Services: a watch of them has no long list to begin with.
const LABEL: &str = "more";
/// Names of the two things that are watched.
const KINDS: [&str; 2] = ["Service", "EndpointSlice"];

/// Kind, name and moment; an empty name says that the watch has begun.
type Seen = (&'static str, String, Instant);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whose rules.
    pub kind: Kind,
    /// The pod's namespace.
    pub pod: &'a Namespace,
    /// How many Services, one after the other.
    pub count: u32,
    /// The number of the first, different in each call.
    pub first: u32,
    /// How many Services there are already.
    pub services: u32,
}

/// Makes Services one after the other, with the lab's pods behind them.
pub fn measure(lab: &Lab, pods: &[(String, IpAddr)], options: &Options<'_>, table: &mut Table) -> Result<()> {
    let (jobs, queue) = std::sync::mpsc::sync_channel::<SocketAddr>(1);
    let (begins, began) = mpsc::channel::<()>(1);
    let (found, answers) = mpsc::channel::<FirstByte>(1);
    let mut pod = Pod { jobs, began, answers };
    let samples = std::thread::scope(|scope| {
        scope.spawn(move || options.pod.run(move || look(&queue, &begins, &found)));
        lab.block_on(async move |client| {
            let (seen, mut events) = mpsc::channel(64);
            let mut tasks = JoinSet::new();
            tasks.spawn(watch::<k8s_openapi::api::core::v1::Service>(client.clone(), KINDS[0], seen.clone()));
            tasks.spawn(watch::<k8s_openapi::api::discovery::v1::EndpointSlice>(
                client.clone(),
                KINDS[1],
                seen,
            ));
            for _ in KINDS {
                next(&mut events).await?;
            }
            let mut samples = Vec::new();
            for n in options.first..options.first + options.count {
                samples.push(one(&client, pods, n, &mut pod, &mut events).await?);
                tokio::time::sleep(Duration::from_millis(50 + u64::from(n % 7) * 30)).await;
            }
            Ok(samples)
        })
    })?;
    let (since_seen, since_write): (Vec<f64>, Vec<f64>) = samples.into_iter().unzip();
    let mut row = table.row("more", Some(options.services));
    let seen = "one more: seen by a bare watch → works from a pod";
    let written = "one more: API write → works from a pod";
    match options.kind {
        Kind::Herald => {
            row.bar(&format!("{seen}, p50"), percentile(&since_seen, 50.0), "ms", 5.0);
            row.bar(&format!("{seen}, p99"), percentile(&since_seen, 99.0), "ms", 20.0);
        }
        Kind::KubeProxy => {
            row.put("kube-proxy", &format!("{seen}, p50"), percentile(&since_seen, 50.0), "ms");
            row.put("kube-proxy", &format!("{seen}, p99"), percentile(&since_seen, 99.0), "ms");
        }
    }
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        row.put(options.kind.name(), &format!("{written}, {name}"), percentile(&since_write, percent), "ms");
    }
    Ok(())
}

/// The thread that connects from the pod.
struct Pod {
    /// Addresses to try.
    jobs: std::sync::mpsc::SyncSender<SocketAddr>,
    /// It has begun to try one.
    began: mpsc::Receiver<()>,
    /// What came of it.
    answers: mpsc::Receiver<FirstByte>,
}

/// One Service: milliseconds since the watch has seen both, and since the write.
async fn one(
    client: &Client,
    pods: &[(String, IpAddr)],
    number: u32,
    pod: &mut Pod,
    events: &mut mpsc::Receiver<Seen>,
) -> Result<(f64, f64)> {
    let (name, ip) = (format!("more-{number:04}"), scale::spare_ip(number));
    pod.jobs.send((ip, scale::PORT).into()).context("the pod's thread has ended")?;
    // It tries already when the Service comes.
    pod.began.recv().await.context("the pod's thread has ended")?;
    let begin = Instant::now();
    scale::create(client, LABEL, &name, ip, &scale::real_endpoints(pods)).await?;
    let mut seen: BTreeMap<&str, Instant> = BTreeMap::new();
    while seen.len() < KINDS.len() {
        let (kind, of, at) = next(events).await?;
        if of == name {
            seen.entry(kind).or_insert(at);
        }
    }
    let seen = seen.into_values().max().context("both were seen")?;
    let answer = pod.answers.recv().await.context("the pod's thread has ended")?;
    let Some(works) = answer.at else { bail!("{name} at {ip} did not work within {PATIENCE:?}") };
    let milliseconds = |since: Instant| works.saturating_duration_since(since).as_secs_f64() * 1000.0;
    Ok((milliseconds(seen), milliseconds(begin)))
}

async fn next(events: &mut mpsc::Receiver<Seen>) -> Result<Seen> {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.context("the bare watch is silent")?;
    event.context("the bare watch has ended")
}

/// Connects from the pod until an answer comes, for one address after the other.
fn look(
    jobs: &std::sync::mpsc::Receiver<SocketAddr>,
    begins: &mpsc::Sender<()>,
    found: &mpsc::Sender<FirstByte>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for to in jobs {
        if begins.blocking_send(()).is_err() {
            break;
        }
        let answer = runtime.block_on(await_first_byte(to, Instant::now() + PATIENCE));
        if found.blocking_send(answer).is_err() {
            break;
        }
    }
    Ok(())
}

/// Tells when an object was seen, and when it has begun to watch. A broken watch begins anew.
async fn watch<K>(client: Client, kind: &'static str, seen: mpsc::Sender<Seen>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<K> = Api::default_namespaced(client);
    let config = watcher::Config::default().labels(&format!("bench={LABEL}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(object))) => {
                if seen.send((kind, object.name_any(), Instant::now())).await.is_err() {
                    return;
                }
            }
            Ok(Some(Event::InitDone)) => {
                if seen.send((kind, String::new(), Instant::now())).await.is_err() {
                    return;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => eprintln!("the bare watch of {kind} begins anew: {error}"),
        }
    }
}
