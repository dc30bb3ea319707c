//! A Service is created; when has it an address, when is the route in BIRD, when does the client get a byte?
//!
//! Services are made one after the other. Each waits for its predecessor's first byte and then for a pause of up to a second
//! that differs from Service to Service: kube-proxy acts at most once a second, and a fixed rhythm would always meet it at
//! the same moment of its second. The pauses are the same for every system.
//!
//! Status is seen by a watch, as any client would see it; route and first byte are looked for from then on, on threads of
//! their own, for before nobody knows the address. So a route can seem later than it was by the watch's half a millisecond.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::bird::Bird;
use super::first_byte::{FirstByte, await_first_byte};
use crate::lab::Lab;

/// All Services of a benchmark have this label.
const LABEL: &str = "bench=create";
/// The port of every Service.
const PORT: u16 = 80;
/// The port of the pods.
const TARGET_PORT: u16 = 8080;
/// The pauses are spread over this: the period within which kube-proxy acts once.
const PERIOD: Duration = Duration::from_secs(1);
/// The first Service of all may find sessions still coming up.
const WARM_UP: Duration = Duration::from_secs(40);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The Services' names begin with it.
    pub name: &'a str,
    /// The pods' label `app`.
    pub app: &'a str,
    /// How many Services.
    pub services: u32,
    /// For one Service. Who has no answer then counts as slower than any other.
    pub patience: Duration,
    /// For all Services.
    pub limit: Duration,
}

/// One Service's times since the moment before its creation was sent; `None` is "not within [`Options::patience`]".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The address in the Service's status, seen by a watch.
    pub status: Option<Duration>,
    /// The first path in BIRD's table.
    pub route: Option<Duration>,
    /// The first byte of a pod's answer at the client behind BIRD.
    pub first_byte: Option<Duration>,
    /// How many connections the client tried.
    pub attempts: u32,
}

/// An address was seen in the status of the Service of this name.
struct Assigned {
    name: String,
    address: IpAddr,
    at: Instant,
}

/// Where to look, and until when.
#[derive(Clone, Copy)]
struct Job {
    address: IpAddr,
    deadline: Instant,
}

/// Makes one Service to see that everything is up, and then measures so many.
pub fn measure(lab: &Lab, options: &Options<'_>) -> Result<Vec<Sample>> {
    std::thread::scope(|scope| {
        let (routes, route_jobs) = std_mpsc::sync_channel::<Job>(1);
        let (route_found, route_answers) = mpsc::channel(1);
        let (bytes, byte_jobs) = std_mpsc::sync_channel::<Job>(1);
        let (byte_found, byte_answers) = mpsc::channel(1);
        let mut bird = Bird::connect(&lab.router().socket())?;
        scope.spawn(move || {
            for job in route_jobs {
                if route_found.blocking_send(bird.await_route(job.address, job.deadline)).is_err() {
                    return;
                }
            }
        });
        scope.spawn(move || lab.client().run(move || look_for_bytes(&byte_jobs, &byte_found)));
        let observers = Observers { routes, route_answers, bytes, byte_answers };
        lab.block_on(async move |client| create_all(client, observers, options).await)
    })
}

/// Deletes all Services that were measured, at once, and waits until BIRD has no route left.
pub fn delete_all(lab: &Lab) -> Result<()> {
    lab.block_on(async |client| {
        let api: Api<Service> = Api::default_namespaced(client);
        api.delete_collection(&DeleteParams::default(), &ListParams::default().labels(LABEL)).await?;
        Ok(())
    })?;
    crate::await_ok(Duration::from_secs(30), "BIRD without routes", || match lab.router().routes()?.len() {
        0 => Ok(()),
        count => Err(anyhow!("{count} are left")),
    })
}

/// BIRD's and Kubernetes' versions.
pub fn versions(lab: &Lab) -> Result<(String, String)> {
    let bird = Bird::connect(&lab.router().socket())?.version().to_owned();
    Ok((bird, kubernetes(lab)?))
}

/// Kubernetes' version.
pub fn kubernetes(lab: &Lab) -> Result<String> {
    lab.block_on(async |client| Ok(client.apiserver_version().await?.git_version))
}

fn look_for_bytes(jobs: &std_mpsc::Receiver<Job>, found: &mpsc::Sender<FirstByte>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for job in jobs {
        let to = SocketAddr::new(job.address, PORT);
        if found.blocking_send(runtime.block_on(await_first_byte(to, job.deadline))).is_err() {
            break;
        }
    }
    Ok(())
}

/// The two other threads, as the API thread sees them.
struct Observers {
    routes: std_mpsc::SyncSender<Job>,
    route_answers: mpsc::Receiver<Result<Option<Instant>>>,
    bytes: std_mpsc::SyncSender<Job>,
    byte_answers: mpsc::Receiver<FirstByte>,
}

impl Observers {
    async fn look(&mut self, job: Job) -> Result<(Option<Instant>, FirstByte)> {
        // Both are idle and have room for one job.
        self.routes.send(job).context("the BIRD thread has ended")?;
        self.bytes.send(job).context("the client thread has ended")?;
        let route = self.route_answers.recv().await.context("the BIRD thread has ended")??;
        let byte = self.byte_answers.recv().await.context("the client thread has ended")?;
        Ok((route, byte))
    }
}

async fn create_all(client: Client, mut observers: Observers, options: &Options<'_>) -> Result<Vec<Sample>> {
    let api: Api<Service> = Api::default_namespaced(client);
    // A Service has a handful of events at most, and its first address alone is sent.
    let (seen, mut assigned) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tasks.spawn(watch(api.clone(), ready, seen));
    is_ready.await.context("the watch of Services has ended")?;

    let warm = create_one(&api, &mut assigned, &mut observers, options, 0, WARM_UP).await?;
    if warm.first_byte.is_none() {
        bail!("the Service that should show that everything is up has: {warm:?}");
    }
    let begin = Instant::now();
    let mut samples = Vec::new();
    for number in 1..=options.services {
        if begin.elapsed() > options.limit {
            bail!("only {} of {} Services in {:?}", samples.len(), options.services, options.limit);
        }
        tokio::time::sleep(pause_before(number)).await;
        samples
            .push(create_one(&api, &mut assigned, &mut observers, options, number, options.patience).await?);
        if number % 20 == 0 {
            eprintln!("{}: {number} of {} Services", options.name, options.services);
        }
    }
    Ok(samples)
}

async fn create_one(
    api: &Api<Service>,
    assigned: &mut mpsc::Receiver<Assigned>,
    observers: &mut Observers,
    options: &Options<'_>,
    number: u32,
    patience: Duration,
) -> Result<Sample> {
    let name = format!("{}-{number:03}", options.name);
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "bench": "create" } },
        "spec": {
            "type": "LoadBalancer",
            "selector": { "app": options.app },
            "ports": [{ "port": PORT, "targetPort": TARGET_PORT }],
        },
    }))?;
    let begin = Instant::now();
    let deadline = begin + patience;
    api.create(&PostParams::default(), &service).await.with_context(|| format!("create Service {name}"))?;
    let found = loop {
        match timeout_at(deadline.into(), assigned.recv()).await {
            Ok(Some(found)) if found.name == name => break found,
            // A latecomer of a Service that nobody waits for any more.
            Ok(Some(_)) => {}
            Ok(None) => bail!("the watch of Services has ended"),
            Err(_) => return Ok(Sample::default()),
        }
    };
    let (route, byte) = observers.look(Job { address: found.address, deadline }).await?;
    let since = |at: Instant| at.duration_since(begin);
    Ok(Sample {
        status: Some(since(found.at)),
        route: route.map(since),
        first_byte: byte.at.map(since),
        attempts: byte.attempts,
    })
}

/// Tells every Service's first address, once. A broken watch begins anew.
async fn watch(api: Api<Service>, ready: tokio::sync::oneshot::Sender<()>, seen: mpsc::Sender<Assigned>) {
    let mut ready = Some(ready);
    let mut told = std::collections::BTreeSet::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().labels(LABEL)).default_backoff());
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                eprintln!("the watch begins anew: {error}");
                continue;
            }
        };
        let at = Instant::now();
        match event {
            Event::Apply(service) | Event::InitApply(service) => {
                let name = service.name_any();
                if let Some(address) = address(&service)
                    && told.insert(name.clone())
                    && seen.send(Assigned { name, address, at }).await.is_err()
                {
                    return;
                }
            }
            Event::InitDone => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            Event::Init | Event::Delete(_) => {}
        }
    }
}

fn address(service: &Service) -> Option<IpAddr> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    ingress.ip.as_ref()?.parse().ok()
}

/// Multiples of the golden ratio, modulo one: any number of them fill the period evenly, without a rhythm.
fn pause_before(number: u32) -> Duration {
    PERIOD.mul_f64((f64::from(number) * 0.618_033_988_75).fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_fill_the_period_evenly() {
        let mut tenths = [0; 10];
        for number in 1..=100 {
            let pause = pause_before(number);
            assert!(pause < PERIOD);
            tenths[pause.as_millis() as usize / 100] += 1;
        }
        assert!(tenths.iter().all(|count| (8..=12).contains(count)), "{tenths:?}");
    }
}
