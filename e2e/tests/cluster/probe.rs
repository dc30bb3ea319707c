//! Endpoints that stop answering while the API calls them ready, and endpoints that the API calls not ready all at once.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herald_e2e::{HttpOptions, Lab, Node, PodOptions, PollOptions, Poller, at, await_ok, holds_for};

use crate::order::{SOON, address, config, herald, service};
use crate::services::{await_event, events};

/// As the annotation of the tests has it.
const INTERVAL: Duration = Duration::from_millis(100);
const PROBE: &str = "http path=/healthz interval=100ms timeout=50ms fail=3 pass=2";
/// What the promise leaves for deciding and telling.
const SLACK: Duration = Duration::from_millis(50);
/// Changes that are timed; the median counts, since the machine does other things too.
const ROUNDS: usize = 5;

fn health(node: &Node, port: u16) -> Result<u16> {
    Ok(node.ns.http(node.at(port), &HttpOptions::default().path("/healthz"))?.status)
}

fn metric(node: &Node, line: &str) -> Result<bool> {
    let path = HttpOptions::default().path("/metrics");
    Ok(node.ns.http(at("127.0.0.1", 7472), &path)?.body.lines().any(|found| found == line))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "needs a network namespace"]
fn an_endpoint_that_hangs_leaves_its_node_in_time_and_returns_likewise() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let pod = lab.pod(one, "web-1", &PodOptions::app("web"))?;
    lab.pod(two, "web-2", &PodOptions::app("web"))?;
    let _herald = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("web", "web", "externalTrafficPolicy: Local"))?;
    lab.kubectl(&["annotate", "service", "web", &format!("herald.io/probe={PROBE}")])?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let prefix = format!("{}/32", vip.ip());
    let port =
        lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.healthCheckNodePort}"])?.parse()?;
    let (both, other): ([IpAddr; 2], [IpAddr; 1]) = ([one.ip.into(), two.ip.into()], [two.ip.into()]);
    lab.router().await_route(&prefix, &both, SOON)?;
    await_ok(SOON, "probes that pass", || {
        ensure!(metric(one, "herald_probe_endpoints 1")? && metric(one, "herald_probe_failing_endpoints 0")?);
        Ok(())
    })?;
    // Long enough that it has passed: one that never has attracts clients on.
    holds_for(INTERVAL * 3, "all is well", || match health(one, port) {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;

    let seen = |hops: &[IpAddr], status: u16| -> Result<Duration> {
        let begin = Instant::now();
        await_ok(SOON, &format!("health {status} and routes by {hops:?}"), || {
            let found = (lab.router().next_hops(&prefix)?, health(one, port)?);
            ensure!(found == (hops.to_vec(), status), "{found:?}");
            Ok(begin.elapsed())
        })
    };
    let (mut left, mut returned) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        pod.freeze();
        left.push(seen(&other, 503)?);
        lab.router().await_kernel_route(&prefix, 1, SOON)?;
        if round == 0 {
            // Nobody is sent to it any more, from outside, from its own node, or from a pod on it.
            let often = PollOptions { interval: Duration::from_millis(20), ..PollOptions::default() };
            let pollers = [lab.client(), &one.ns].map(|ns| Poller::start(ns, vip, often.clone()));
            for poller in pollers {
                let poller = poller?;
                poller.await_answers(50, SOON)?;
                let report = poller.stop()?;
                report.assert_no_loss();
                ensure!(report.pods.keys().eq(["web-2"]), "{:?}", report.pods);
            }
            // What still arrives at the node is tried: the last good set of its own endpoints stays in its rules.
            let rules = one.ns.exec(&["nft", "list", "ruleset"])?;
            ensure!(rules.contains(&pod.ip.to_string()), "{rules}");
            await_event(&lab, "default", "web", "EndpointProbeFailed", "no answer in time")?;
            ensure!(metric(one, "herald_speaker_not_announced{reason=\"localProbesFail\"} 1")?);
        }
        pod.thaw();
        returned.push(seen(&both, 200)?);
        lab.router().await_kernel_route(&prefix, 2, SOON)?;
    }
    await_event(&lab, "default", "web", "EndpointProbeRecovered", "good again")?;
    eprintln!("out after {left:?}, back after {returned:?}");
    let (left, returned) = (median(left), median(returned));
    ensure!(left <= INTERVAL * 3 + SLACK, "out after {left:?}");
    ensure!(returned <= INTERVAL * 2 + SLACK, "back after {returned:?}");

    // Nonsense is told, and the Service served without probes: one that hangs is not noticed.
    lab.kubectl(&["annotate", "--overwrite", "service", "web", "herald.io/probe=http path=healthz"])?;
    await_event(
        &lab,
        "default",
        "web",
        "InvalidProbe",
        "write for example \"http path=/healthz interval=1s\"",
    )?;
    pod.freeze();
    holds_for(INTERVAL * 10, "no probes", || match lab.router().next_hops(&prefix) {
        Ok(hops) if hops == both => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_probe_that_nothing_ever_passed_takes_no_service_off_the_air() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let _herald = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("web", "web", "externalTrafficPolicy: Local"))?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let prefix = format!("{}/32", vip.ip());
    lab.router().await_route(&prefix, &[node.ip.into()], SOON)?;
    lab.router().await_kernel_route(&prefix, 1, SOON)?;
    let poller = Poller::start(lab.client(), vip, PollOptions::default())?;
    lab.kubectl(&["annotate", "service", "web", "herald.io/probe=tcp port=9 interval=100ms"])?;
    await_event(&lab, "default", "web", "EndpointProbeFailed", "it has never passed")?;
    poller.await_answers(50, SOON)?;
    poller.stop()?.assert_no_loss();
    ensure!(lab.router().next_hops(&prefix)? == [IpAddr::from(node.ip)], "it is announced on");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn when_many_services_lose_their_endpoints_at_once_they_are_served_on_for_the_grace() -> Result<()> {
    const SERVICES: usize = 20;
    const GRACE: Duration = Duration::from_secs(8);
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let single = lab.pod(node, "single-1", &PodOptions::app("single"))?;
    let (_controller, speakers) =
        herald(&lab, &(config("192.0.2.0/24") + "herald: {floor: {grace: 8s}}\n"), &[])?;
    let name = |n: usize| format!("web-{n}");
    let yaml: Vec<String> = (0..SERVICES).map(|n| service(&name(n), "web", "")).collect();
    lab.apply(&yaml.join("---\n"))?;
    lab.apply(&service("single", "single", ""))?;
    let routes = |count: usize, deadline: Duration| {
        await_ok(deadline, &format!("{count} routes"), || {
            let found = lab.router().routes()?.len();
            ensure!(found == count, "there are {found}");
            Ok(())
        })
    };
    routes(SERVICES + 1, SOON)?;
    let vips: Vec<SocketAddr> =
        (0..SERVICES).map(|n| Ok((address(&lab, &name(n))?, 80).into())).collect::<Result<_>>()?;

    // One alone is believed at once.
    single.set_ready(false)?;
    routes(SERVICES, GRACE / 2)?;
    single.set_ready(true)?;
    routes(SERVICES + 1, SOON)?;

    let begin = Instant::now();
    pod.set_ready(false)?;
    await_ok(SOON, "all of them held", || {
        ensure!(
            metric(node, &format!("herald_floor_held_services {SERVICES}"))?,
            "{}",
            speakers[0].log_tail()
        );
        Ok(())
    })?;
    let held = begin.elapsed();
    routes(SERVICES + 1, GRACE).with_context(|| speakers[0].log_tail())?;
    let answered = vips.iter().filter(|vip| lab.client().get(**vip).is_ok()).count();
    let still = begin.elapsed() < GRACE;
    ensure!(answered == SERVICES || !still, "{answered} of {SERVICES} answer while they are held");
    if !still {
        bail!("the machine was too busy to ask within the grace: held after {held:?}");
    }
    await_event(&lab, "default", "web-7", "EndpointsHeld", "used on for 8s")?;
    routes(1, GRACE + SOON)?;
    let ended = begin.elapsed();
    eprintln!("held after {held:?}, until {ended:?}");
    ensure!(ended >= GRACE, "withdrawn after {ended:?}");
    ensure!(metric(node, "herald_floor_held_services 0")?);
    ensure!(lab.client().get(vips[0]).is_err(), "rejected after the grace");
    let told = events(&lab, "default", "single")?;
    ensure!(told.iter().all(|(reason, _)| reason != "EndpointsHeld"), "{told:?}");
    pod.set_ready(true)?;
    routes(SERVICES + 1, SOON).context("ready again")
}
