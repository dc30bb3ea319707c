//! By layer 2, node by node under load. The two kinds of speakers do not hear each other: what keeps an address at one node is that
//! Herald's take none for which somebody answers. So it is told how long nobody answers, and when.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::bench::metallb::{install_layer2, start_controller, start_kube_proxy, start_speaker};
use herald_e2e::{ClientError, Lab, Namespace, PodOptions, PollOptions, Poller, await_ok};
use serde_json::json;

use super::PATIENCE;
use crate::order::ready;
use crate::services::{History, SOON, await_address, create, service};

/// 500 new connections a second from a host of the segment that remembers where the address is, as hosts do.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };
/// And some from one that asks again and again.
const ASKING: PollOptions =
    PollOptions { interval: Duration::from_millis(50), timeout: Duration::from_millis(200) };
/// New connections that may be under way when the address moves.
const UNDER_WAY: usize = 4;
/// Herald looks again two seconds after somebody has answered for an address; the rest is for a busy machine.
const LAST: Duration = Duration::from_secs(5);

/// Lets a host forget where an address is, several times a second.
struct Forgetting {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forgetting {
    fn start(host: &Namespace, address: IpAddr) -> Self {
        let (stop, host) = (Arc::new(AtomicBool::new(false)), host.clone());
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // Nothing to forget is an error of ip(8).
                    let _ = host.exec(&["ip", "neigh", "flush", "to", &address.to_string(), "dev", "eth0"]);
                    std::thread::park_timeout(Duration::from_millis(200));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn by_layer_2_an_address_is_kept_and_nobody_answers_for_it_only_after_metallbs_last_owner_stops() -> Result<()>
{
    let lab = Lab::builder().nodes(2).control_plane().start()?;
    let pods = lab.nodes().iter().zip(["web-1", "web-2"]);
    let _pods =
        pods.map(|(node, name)| lab.pod(node, name, &PodOptions::app("web"))).collect::<Result<Vec<_>>>()?;
    install_layer2(&lab, "10.0.0.200-10.0.0.239")?;
    let metallb = start_controller(&lab)?;
    let mut before = Vec::new();
    for node in lab.nodes() {
        before.push((start_kube_proxy(&lab, node)?, start_speaker(&lab, node)?));
    }
    create(&lab, [service("web", json!({}))])?;
    let vip = await_address(&lab, "web")?;
    let router = &lab.router().ns;
    await_ok(PATIENCE, "the Service", || router.get((vip, 80).into()))?;

    let poller = Poller::start(router, (vip, 80).into(), LOAD)?;
    let asking = Poller::start(lab.control_plane_ns(), (vip, 80).into(), ASKING)?;
    let forgetting = Forgetting::start(lab.control_plane_ns(), vip);
    poller.await_answers(300, SOON)?;
    asking.await_answers(20, SOON)?;
    let (history, (stops, _processes)) = History::during(&lab, || {
        metallb.terminate(SOON)?;
        let controller = lab.controller("controller", &[])?;
        controller.await_log("all Services are decided", SOON)?;
        let (mut stops, mut processes) = (Vec::new(), vec![controller]);
        for (node, (kube_proxy, speaker)) in lab.nodes().iter().zip(before) {
            poller.await_answers(300, LAST + SOON)?;
            asking.await_answers(20, LAST + SOON)?;
            kube_proxy.terminate(SOON)?;
            stops.push(Instant::now());
            speaker.terminate(SOON)?;
            processes.push(lab.speaker(node, &["--take-over"])?);
            ready(node)?;
        }
        asking.await_answers(50, LAST + SOON).context("Herald answers")?;
        Ok((stops, processes))
    })?;
    drop(forgetting);
    // Who remembers is served by the node that it knows: its rules stay, whoever answers for the address. When another node says
    // that it has the address, what is under way comes to a node that does not know it, and is reset.
    let report = poller.stop()?;
    eprintln!("a host that remembers: {}", report.explain());
    let cut = report.failures.iter().filter(|failure| failure.error == ClientError::Reset).count();
    ensure!(cut == report.failures.len() && cut <= UNDER_WAY * stops.len(), "{}", report.explain());
    let report = asking.stop()?;
    let [first, last] = stops.try_into().ok().context("two stops")?;
    let outage = |from: Instant, to: Option<Instant>| {
        let of = report.failures.iter().filter(|failure| failure.at >= from);
        let of = of.filter(|failure| to.is_none_or(|to| failure.at < to));
        of.map(|failure| failure.at - from).max().unwrap_or_default()
    };
    let (first, last) = (outage(first, Some(last)), outage(last, None));
    eprintln!(
        "one that asks again and again: {} of {} connections failed; nobody answered until {first:.1?} after MetalLB's first speaker \
         stopped, and until {last:.1?} after its last",
        report.failures.len(),
        report.attempts
    );
    ensure!(first < LAST && last < LAST, "{}", report.explain());
    super::assert_kept(&history, &[("web".to_owned(), vec![vip])].into());
    Ok(())
}
