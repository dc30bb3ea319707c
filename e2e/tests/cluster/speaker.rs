//! The speaker's own life: killed, stopped, started beside others, cleaned up after.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use herald_e2e::{
    ClientError, HttpOptions, Lab, NAMESPACE, Namespace, PodOptions, PollOptions, Poller, Signal, at,
    await_ok, herald_program,
};

use crate::order::recorder::{Recorder, What};
use crate::order::{SOON, address, config, herald, ready, service};

/// Enough of a poll each 10 ms to say that a path works.
const SOME: usize = 30;

fn poll(ns: &Namespace, to: SocketAddr) -> Result<Poller> {
    poll_each(Duration::from_millis(10), ns, to)
}

fn poll_each(interval: Duration, ns: &Namespace, to: SocketAddr) -> Result<Poller> {
    let poller = Poller::start(ns, to, PollOptions { interval, ..PollOptions::default() })?;
    poller.await_answers(1, SOON)?;
    Ok(poller)
}

fn field(lab: &Lab, service: &str, jsonpath: &str) -> Result<String> {
    lab.kubectl(&["get", "service", service, "-o", &format!("jsonpath={jsonpath}")])
}

/// Waits until pollers have seen for a while the state that is there now.
fn observe(pollers: &[Poller]) -> Result<()> {
    pollers.iter().try_for_each(|poller| poller.await_answers(SOME, SOON))
}

#[test]
#[ignore = "needs a network namespace"]
fn a_killed_speaker_and_its_successor_lose_no_connection_of_the_proxy() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let pod = lab.pod(one, "web-1", &PodOptions::app("web"))?;
    let other = lab.pod(two, "web-2", &PodOptions::app("web"))?;
    let (_controller, mut speakers) = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let prefix = format!("{}/32", vip.ip());
    let both = [one.ip.into(), two.ip.into()];
    lab.router().await_route(&prefix, &both, SOON)?;
    lab.router().await_kernel_route(&prefix, 2, SOON)?;
    let cluster_ip = at(&field(&lab, "web", "{.spec.clusterIP}")?, 80);
    let node_port: u16 = field(&lab, "web", "{.spec.ports[0].nodePort}")?.parse()?;

    let mut speaker = speakers.remove(0);
    let mut open = pod.ns.connect(cluster_ip, SOON)?;
    for _ in 0..3 {
        let often = Duration::from_millis(40);
        // Not through a Service: what these lose is the machine's doing, and says nothing about Herald.
        let direct = [poll_each(often, &two.ns, pod.at(8080))?, poll_each(often, &one.ns, other.at(8080))?];
        let through_node1 = [
            poll(&pod.ns, cluster_ip)?,
            poll(&two.ns, one.at(node_port))?,
            poll_each(often, &one.ns, vip)?,
            poll_each(often, &lab.router().ns, one.at(node_port))?,
        ];
        let client = poll_each(often, lab.client(), vip)?;
        speaker.kill();
        // The kernel resets the session of a process that is gone, and the router goes by the other node.
        lab.router().await_route(&prefix, &both[1..], SOON)?;
        observe(&through_node1[..2])?;
        client.await_answers(5, SOON)?;
        speaker = lab.speaker(one, &[])?;
        ready(one)?;
        lab.router().await_route(&prefix, &both, SOON)?;
        observe(&through_node1[..2])?;
        client.await_answers(5, SOON)?;
        // A planned restart.
        ensure!(speaker.terminate(Duration::from_secs(5))?.success(), "{}", speaker.log_tail());
        observe(&through_node1[..2])?;
        speaker = lab.speaker(one, &[])?;
        ready(one)?;
        lab.router().await_route(&prefix, &both, SOON)?;
        observe(&through_node1[..2])?;

        let reports = through_node1.into_iter().map(Poller::stop).collect::<Result<Vec<_>>>()?;
        let client = client.stop()?;
        let direct = direct.into_iter().map(Poller::stop).collect::<Result<Vec<_>>>()?;
        if let Some(report) = direct.iter().find(|report| !report.failures.is_empty()) {
            eprintln!("the machine was too busy, so again: {}", report.explain());
            continue;
        }
        for report in &reports {
            report.assert_no_loss();
            ensure!(report.pods.len() == 2, "both pods serve: {:?}", report.pods);
        }
        ensure!(open.ask().is_ok(), "a connection from before is as it was");
        // Each of the four changes of the route can cut the one connection that is under way: the router sends the rest of
        // it to the other node, which does not know it.
        ensure!(client.failures.len() <= 4, "{}", client.explain());
        return Ok(());
    }
    bail!("three times the machine was too busy to tell")
}

#[test]
#[ignore = "needs a network namespace"]
fn a_stopped_speaker_withdraws_then_ceases_and_leaves_what_cleanup_removes() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let text = config("192.0.2.0/24") + "herald: {local-addresses: load-balancer}\n";
    let settings = || {
        let files = [
            "ipv4/conf/all/arp_ignore",
            "ipv4/conf/all/arp_announce",
            "netfilter/nf_conntrack_tcp_be_liberal",
        ];
        node.ns.exec(
            &[
                &["cat"],
                &files.map(|file| format!("/proc/sys/net/{file}")).each_ref().map(String::as_str)[..],
            ]
            .concat(),
        )
    };
    let before = settings()?;
    let (_controller, speakers) = herald(&lab, &text, &[])?;
    lab.apply(&(0..5).map(|n| service(&format!("web-{n}"), "web", "")).collect::<Vec<_>>().join("---\n"))?;
    for n in 0..5 {
        lab.router().await_route(&format!("192.0.2.{n}/32"), &[node.ip.into()], SOON)?;
    }
    let cluster_ip = at(&field(&lab, "web-0", "{.spec.clusterIP}")?, 80);
    let poller = poll(&pod.ns, cluster_ip)?;
    let recorder = Recorder::start(&node.ns, node.ip)?;
    let begin = Instant::now();
    speakers[0].signal(Signal::SIGTERM);
    let status = speakers[0].await_exit(SOON)?;
    let took = begin.elapsed();
    ensure!(
        status.success() && took < Duration::from_secs(5),
        "{status} after {took:?}: {}",
        speakers[0].log_tail()
    );

    recorder.await_count("the end of the connection", 1, SOON, |what| *what == What::Fin)?;
    let said: Vec<What> = recorder.stop()?.into_iter().map(|record| record.what).collect();
    let (withdrawals, end) = said.split_at(said.len().saturating_sub(2));
    ensure!(
        withdrawals.len() == 5 && withdrawals.iter().all(|what| matches!(what, What::Withdrawn(_))),
        "{said:?}"
    );
    // RFC 4486: Cease, administrative shutdown.
    ensure!(end == [What::Notification(6, 2), What::Fin], "{said:?}");
    ensure!(
        lab.router().log().contains("herald speaker on node1 stops"),
        "the router's operator reads who stopped"
    );
    poller.await_answers(SOME, SOON)?;
    poller.stop()?.assert_no_loss();
    ensure!(node.ns.get(at("192.0.2.0", 80))?.pod == "web-1", "rules and addresses stay");
    ensure!(
        node.ns.exec(&["ip", "address", "show", "lo"])?.contains("192.0.2.4/32"),
        "rules and addresses stay"
    );

    let program = herald_program()?.display().to_string();
    node.ns.ip(&["address add 192.0.2.200/32 dev lo"])?;
    node.ns.exec(&["nft", "add table ip others"])?;
    let state = lab.state_directory(node);
    ensure!(settings()? != before && state.join("speaker.snapshot").exists(), "nothing to clean");
    let directory = format!("--state-directory={}", state.display());
    let told = node.ns.exec(&[&program, "cleanup", &directory])?;
    let words = ["tables: removed", "addresses: 5 removed", "files: 1 removed"];
    ensure!(words.iter().all(|words| told.contains(words)) && !told.contains("settings: 0"), "{told}");
    ensure!(settings()? == before && !state.exists(), "{} became {}", before, settings()?);
    ensure!(
        node.ns.exec(&["nft", "list tables"])? == "table ip others\n",
        "{}",
        node.ns.exec(&["nft", "list tables"])?
    );
    let addresses = node.ns.exec(&["ip", "-4", "address", "show", "lo"])?;
    ensure!(addresses.matches("inet ").count() == 2 && addresses.contains("192.0.2.200/32"), "{addresses}");
    let told = node.ns.exec(&[&program, "cleanup", &directory])?;
    ensure!(told.contains("none were there") && told.contains("addresses: 0 removed"), "{told}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn the_proxy_mode_says_what_a_node_serves_and_full_does_not_start_beside_kube_proxy() -> Result<()> {
    let lab = Lab::builder().control_plane().bird().start()?;
    let pod = lab.pod(lab.node(3), "web-1", &PodOptions::app("web"))?;
    lab.configure_herald(&config("192.0.2.0/24"))?;
    let _controller = lab.controller("controller", &[])?;
    let health = "externalTrafficPolicy: Local";
    lab.apply(
        &[service("web", "web", "externalIPs: [198.51.100.7]"), service("local", "web", health)]
            .join("---\n"),
    )?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let prefix = format!("{}/32", vip.ip());
    let cluster_ip = at(&field(&lab, "web", "{.spec.clusterIP}")?, 80);
    let node_port: u16 = field(&lab, "web", "{.spec.ports[0].nodePort}")?.parse()?;
    let health_port: u16 = field(&lab, "local", "{.spec.healthCheckNodePort}")?.parse()?;
    let (one, two, three) = (lab.node(1), lab.node(2), lab.node(3));

    // Kubernetes' own proxy is there, in its nftables mode.
    one.ns.exec(&["nft", "add table ip kube-proxy; add table ip6 kube-proxy"])?;
    let refused = lab.speaker(one, &[])?;
    ensure!(!refused.await_exit(SOON)?.success(), "it started beside kube-proxy");
    let log = refused.log();
    let says = ["kube-proxy", "--proxy=full", "--proxy=external", "--take-over"];
    ensure!(says.iter().all(|words| log.contains(words)), "{log}");
    ensure!(!one.ns.exec(&["nft", "list tables"])?.contains("herald"), "it touched the rules");

    let _external = lab.speaker(one, &["--proxy=external"])?;
    let _off = lab.speaker(two, &["--proxy=off"])?;
    let _full = lab.speaker(three, &["--proxy=full"])?;
    lab.nodes().iter().try_for_each(ready)?;
    let all = [one.ip.into(), two.ip.into(), three.ip.into()];
    lab.router().await_route(&prefix, &all, SOON)?;

    let short = HttpOptions::default().timeout(Duration::from_millis(300));
    let frontends = |node: &herald_e2e::Node| -> Result<[bool; 6]> {
        let served = |to: SocketAddr| node.ns.http(to, &short).is_ok_and(|answer| answer.pod == "web-1");
        let answers = |port: u16| node.ns.http(node.at(port), &short.clone().path("/healthz")).is_ok();
        Ok([
            served(vip),
            served(at("198.51.100.7", 80)),
            served(cluster_ip),
            served(node.at(node_port)),
            answers(health_port),
            answers(10_256),
        ])
    };
    for (node, served) in
        [(three, [true; 6]), (one, [true, true, false, false, false, false]), (two, [false; 6])]
    {
        await_ok(SOON, &format!("what {} serves", node.name), || {
            let found = frontends(node)?;
            ensure!(found == served, "{found:?}, not {served:?}");
            Ok(())
        })?;
    }
    ensure!(
        one.ns.exec(&["nft", "list tables"])?.contains("table ip kube-proxy"),
        "kube-proxy's tables are its own"
    );
    ensure!(!two.ns.exec(&["nft", "list tables"])?.contains("herald"), "--proxy=off writes no rules");
    // A client reaches the pod through either node that serves.
    for node in [one, three] {
        lab.router().ns.ip(&[format!("route replace 198.51.100.7/32 via {}", node.ip)])?;
        ensure!(lab.client().get(at("198.51.100.7", 80))?.pod == "web-1", "through {}", node.name);
    }
    ensure!(pod.ns.get(cluster_ip)?.pod == "web-1", "a pod on the node in full mode");
    ensure!(lab.client().get(three.at(1)) == Err(ClientError::Refused), "what nobody serves is refused");

    // Told to, full takes over from kube-proxy.
    drop(_external);
    let taken = lab.speaker(one, &["--proxy=full", "--take-over"])?;
    ready(one).with_context(|| taken.log_tail())?;
    await_ok(SOON, "what node1 serves", || {
        let found = frontends(one)?;
        ensure!(found == [true; 6], "{found:?}");
        Ok(())
    })?;
    ensure!(!one.ns.exec(&["nft", "list tables"])?.contains("kube-proxy"), "kube-proxy's tables are removed");
    let leases = lab.kubectl(&["get", "leases", "-n", NAMESPACE, "-o", "name"])?;
    ensure!(leases.lines().count() == 1, "speakers need no Lease: {leases}");
    Ok(())
}
