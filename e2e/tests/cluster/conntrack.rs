//! Datagrams from one source port, without a pause: whatever becomes of the endpoints, the next that can be answered is.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use herald_e2e::{Lab, Namespace, Pod, PodOptions, at, await_until};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use crate::order::{SOON, address, config, herald};

/// From one datagram to the next.
const BEAT: Duration = Duration::from_millis(5);
/// What a change may cost, from the moment that others can see it at the API server.
const BAR: Duration = Duration::from_millis(100);
/// A machine that is busy for that long takes another chance. A stale entry would last while the client goes on.
const ROUNDS: usize = 10;

type Seen = Vec<(Instant, Result<String, String>)>;

/// A client that sends on from the same port, and what it has seen and when.
struct Client {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Client {
    fn start(ns: &Namespace, to: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| -> Result<UdpSocket> {
            let socket = UdpSocket::bind(("0.0.0.0", 40_000))?;
            socket.connect(to)?;
            Ok(socket)
        })??;
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (recorded, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let record = move |what| {
            recorded.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), what));
        };
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let next = Instant::now() + BEAT;
                // The refusal of an earlier datagram may be told here.
                if let Err(error) = socket.send(b"?") {
                    record(Err(error.kind().to_string()));
                }
                while let Some(left) = next.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                    socket.set_read_timeout(Some(left))?;
                    let mut buffer = [0; 2048];
                    let what = match socket.recv(&mut buffer) {
                        Ok(count) => {
                            let text = String::from_utf8_lossy(&buffer[..count]);
                            Ok(text.lines().next().unwrap_or_default().trim_start_matches("pod=").to_owned())
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(error) => Err(error.kind().to_string()),
                    };
                    record(what);
                }
            }
            Ok(())
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Waits for the first sight of this kind after `since`.
    fn await_sight(
        &self,
        since: Instant,
        what: &str,
        is: impl Fn(&Result<String, String>) -> bool,
    ) -> Result<Instant> {
        await_until(SOON, what, || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.iter().find(|(at, sight)| *at >= since && is(sight)).map(|(at, _)| *at)
        })
    }

    fn await_answer(&self, since: Instant, pod: &str) -> Result<Instant> {
        self.await_sight(since, &format!("an answer of {pod}"), |sight| sight.as_deref() == Ok(pod))
    }

    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().context("running")?.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Makes a change, and tells when the API server showed that exactly these pods are ready.
fn change(lab: &Lab, ready: &[&Pod<'_>], change: impl FnOnce() -> Result<()>) -> Result<Instant> {
    let mut wanted: Vec<String> = ready.iter().map(|pod| pod.ip.to_string()).collect();
    wanted.sort_unstable();
    let is_so = |slice: Option<&EndpointSlice>| {
        let ready = slice.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
            endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
        });
        let mut found: Vec<String> = ready.flat_map(|endpoint| endpoint.addresses.clone()).collect();
        found.sort_unstable();
        found == wanted
    };
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            lab.block_on(async |client| {
                let api: Api<EndpointSlice> = Api::namespaced(client, "default");
                let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
                let name = api.list(&of_web).await?.items.into_iter().find_map(|slice| slice.metadata.name);
                let name = name.context("a slice of web")?;
                let wait = kube::runtime::wait::await_condition(api, &name, is_so);
                tokio::time::timeout(SOON, wait).await??;
                Ok(Instant::now())
            })
        });
        change()?;
        seen.join().map_err(|_| anyhow!("the watch panicked"))?
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn datagrams_from_one_port_follow_their_service_without_a_black_hole() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let asking = lab.pod(lab.node(1), "asking", &PodOptions::app("asking"))?;
    let first = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let second = lab.pod(lab.node(2), "web-2", &PodOptions::app("web").not_ready())?;
    let (_controller, _speakers) = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  selector: {app: web}\n  \
         ports: [{port: 53, targetPort: 8080, protocol: UDP}]\n",
    )?;
    let vip = SocketAddr::from((address(&lab, "web")?, 53));
    let prefix = format!("{}/32", vip.ip());
    lab.router().await_kernel_route(&prefix, 2, SOON)?;
    let cluster_ip = at(&lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?, 53);
    let begin = Instant::now();
    let clients = [Client::start(lab.client(), vip)?, Client::start(&asking.ns, cluster_ip)?];
    for client in &clients {
        client.await_answer(begin, "web-1")?;
    }

    let [_, pod_client] = &clients;
    let mut worst = Vec::new();
    let (mut here, mut there) = (&first, &second);
    for _ in 0..ROUNDS {
        let mut gaps = Vec::new();
        let measure = |since: Instant, pod: &str, gaps: &mut Vec<Duration>| -> Result<()> {
            for client in &clients {
                gaps.push(client.await_answer(since, pod)? - since);
            }
            Ok(())
        };
        // The one endpoint is replaced by another; its server would answer still.
        there.set_ready(true)?;
        let replaced = change(&lab, &[there], || here.set_ready(false))?;
        measure(replaced, &there.name, &mut gaps)?;
        // To zero: the pod is refused at once, though the server would answer; the client's route goes.
        let zero = change(&lab, &[], || there.set_ready(false))?;
        gaps.push(pod_client.await_sight(zero, "a refusal", |sight| sight.is_err())? - zero);
        lab.router().await_kernel_route(&prefix, 0, SOON)?;
        // And back.
        let back = change(&lab, &[there], || there.set_ready(true))?;
        // The client's way by BGP is the router's affair.
        gaps.push(pod_client.await_answer(back, &there.name)? - back);
        lab.router().await_kernel_route(&prefix, 2, SOON)?;
        clients[0].await_answer(Instant::now(), &there.name)?;
        std::mem::swap(&mut here, &mut there);
        println!("replaced (client, pod), refused (pod), back (pod): {gaps:?}");
        worst.push(gaps.into_iter().max().unwrap_or_default());
        if worst.last().is_some_and(|worst| *worst <= BAR) {
            break;
        }
    }
    println!("from the slice's event to an answer, at worst, in each round: {worst:?}");
    ensure!(worst.iter().any(|worst| *worst <= BAR), "longer than {BAR:?} in every round: {worst:?}");

    // A Service that is gone holds nobody: after the linger nothing answers, though the server would.
    let deleted = Instant::now();
    lab.kubectl(&["delete", "service", "web"])?;
    for client in &clients {
        await_until(SOON, "silence or a refusal", || {
            let seen = client.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let answered = seen.iter().rev().find(|(_, sight)| sight.is_ok()).map(|(at, _)| *at);
            (deleted.elapsed() > 4 * BAR && answered.is_none_or(|at| at.elapsed() > 4 * BAR)).then_some(())
        })?;
    }
    clients.into_iter().try_for_each(Client::stop)
}
