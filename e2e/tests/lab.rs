//! The lab itself: it connects what it says, runs what it says, and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use herald_e2e::{
    CLIENT, ClientError, Lab, LabBuilder, PodOptions, PollOptions, Poller, Port, ROUTER, at, await_ok,
    await_until, namespaces,
};

const SOON: Duration = Duration::from_secs(20);

fn left_of(lab: &str) -> Vec<String> {
    let prefix = format!("{lab}-");
    namespaces().into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn nodes_router_and_client_reach_each_other_in_both_families() -> Result<()> {
    let begin = Instant::now();
    let lab = Lab::builder().start()?;
    eprintln!("an empty lab took {:?}", begin.elapsed());
    let server = lab.serve(&lab.node(3).ns, "node3", &[Port::Tcp(80), Port::Udp(53)])?;
    for (ns, ip) in [(&lab.node(1).ns, IpAddr::from(lab.node(1).ip)), (lab.client(), CLIENT.into())] {
        let answer = ns.get(lab.node(3).at(80))?;
        assert_eq!((answer.status, answer.pod.as_str()), (200, "node3"));
        assert_eq!(answer.client.map(|client| client.ip()), Some(ip));
        assert_eq!(ns.get(lab.node(3).at6(80))?.pod, "node3");
        assert_eq!(ns.udp(lab.node(3).at(53), SOON)?.client.map(|client| client.ip()), Some(ip));
        assert_eq!(ns.udp(lab.node(3).at6(53), SOON)?.pod, "node3");
    }
    assert_eq!(
        lab.router().ns.get(lab.node(3).at(80))?.client.map(|client| client.ip()),
        Some(ROUTER.into())
    );
    assert!(lab.client().curl("http://10.0.0.13/")?.contains("pod=node3"));
    server.kill();
    assert_eq!(lab.client().get(lab.node(3).at(80)), Err(ClientError::Refused));
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_client_tells_refused_from_silent_from_unreachable() -> Result<()> {
    let lab = Lab::builder().nodes(1).start()?;
    let node = &lab.node(1).ns;
    node.exec(&[
        "nft",
        "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                        add rule inet t in tcp dport 81 drop; add rule inet t in udp dport 81 drop; \
                        add rule inet t in tcp dport 82 reject",
    ])?;
    let short = Duration::from_millis(200);
    let client = lab.client();
    assert_eq!(client.get(lab.node(1).at(80)), Err(ClientError::Refused));
    assert_eq!(client.udp(lab.node(1).at(80), SOON), Err(ClientError::Refused));
    let options = herald_e2e::HttpOptions::default().timeout(short);
    assert_eq!(client.http(lab.node(1).at(81), &options), Err(ClientError::TimedOut));
    assert_eq!(client.udp(lab.node(1).at(81), short), Err(ClientError::TimedOut));
    // By ICMP, and before the second SYN.
    for refused in [lab.node(1).at(82), lab.node(1).at6(82)] {
        assert_eq!(client.http(refused, &options), Err(ClientError::Refused));
    }
    assert_eq!(client.get(at("192.0.2.1", 80)), Err(ClientError::Unreachable));
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn dropping_a_lab_removes_namespaces_processes_and_files_also_after_a_panic() -> Result<()> {
    let mut seen = (String::new(), std::path::PathBuf::new(), 0);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = Lab::builder().nodes(1).bird().start().expect("a lab");
        let server = lab.serve(&lab.node(1).ns, "x", &[Port::Tcp(80)]).expect("a server");
        assert_eq!(left_of(lab.name()).len(), 5);
        seen = (lab.name().to_owned(), lab.directory().to_owned(), server.pid());
        std::mem::forget(server);
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    let (name, directory, pid) = seen;
    assert_eq!(left_of(&name), Vec::<String>::new());
    assert!(!directory.exists());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "the server lives: {stat}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_lab_in_which_herald_repeats_itself_fails_its_test_with_the_line() -> Result<()> {
    let repeating = |builder: LabBuilder| -> Result<Lab> {
        let lab = builder.nodes(1).start()?;
        let mut command = Command::new("sh");
        let line = "2026-01-01T12:00:00.123456Z  WARN herald_speaker::x: cannot; trying again";
        command.args(["-c", "for i in $(seq 11); do echo \"$0\"; done; echo said", line]);
        let process = lab.start_process(&lab.node(1).ns, "speaker-node1", command)?;
        process.await_log("said", SOON)?;
        Ok(lab)
    };
    let lab = repeating(Lab::builder())?;
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lab)));
    let told = dropped.err().and_then(|panic| panic.downcast::<String>().ok()).unwrap_or_default();
    let line = "the log of speaker-node1: more than 10 times within a second: WARN herald_speaker::x: cannot; trying again";
    assert!(told.contains(line), "{told}");
    let told = repeating(Lab::builder())?.remove().err().map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(told, line);
    drop(repeating(Lab::builder().noisy())?);
    Ok(())
}

/// BIRD on two nodes speaks in Herald's place.
#[test]
#[ignore = "needs a network namespace"]
fn the_router_learns_routes_and_the_client_follows_them() -> Result<()> {
    let lab = Lab::builder().nodes(2).bird().start()?;
    let vip = at("192.0.2.1", 80);
    let mut speakers = Vec::new();
    let mut servers = Vec::new();
    for node in lab.nodes() {
        node.ns.ip(&["addr add 192.0.2.1/32 dev lo"])?;
        servers.push(lab.serve(&node.ns, &node.name, &[Port::Tcp(80)])?);
        let config = lab.directory().join(format!("{}.conf", node.name));
        std::fs::write(
            &config,
            format!(
                "router id {0};\nprotocol device {{}}\n\
                 protocol static {{ ipv4; route 192.0.2.1/32 blackhole; }}\n\
                 protocol bgp {{ local {0} as 42; neighbor 10.0.0.1 as 100; connect retry time 1; connect delay time 1;\n\
                 error wait time 1, 2;\n\
                 ipv4 {{ import none; export all; }}; }}\n",
                node.ip
            ),
        )?;
        let mut bird = Command::new("/usr/sbin/bird");
        bird.arg("-f")
            .arg("-c")
            .arg(config)
            .arg("-s")
            .arg(lab.directory().join(format!("{}.sock", node.name)));
        speakers.push(lab.start_process(&node.ns, &format!("bird-{}", node.name), bird)?);
    }
    let hops: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.router().await_session("node1", SOON)?;
    lab.router().await_route("192.0.2.1/32", &hops, SOON)?;
    lab.router().await_kernel_route("192.0.2.1/32", 2, SOON)?;
    let mut seen = std::collections::BTreeSet::new();
    await_until(SOON, "answers by both nodes", || {
        seen.extend(lab.client().get(vip).ok().map(|answer| answer.pod));
        (seen.len() == 2).then_some(())
    })?;
    speakers[0].terminate(SOON)?;
    lab.router().await_route("192.0.2.1/32", &hops[1..], SOON)?;
    lab.router().await_kernel_route("192.0.2.1/32", 1, SOON)?;
    assert_eq!(lab.client().get(vip)?.pod, "node2");
    lab.router().restart_bird()?;
    lab.router().await_kernel_route("192.0.2.1/32", 1, SOON)?;
    assert_eq!(lab.client().get(vip)?.pod, "node2");
    lab.cut_node(lab.node(2))?;
    let short = herald_e2e::HttpOptions::default().timeout(Duration::from_millis(200));
    assert!(lab.client().http(vip, &short).is_err());
    lab.heal_node(lab.node(2))?;
    await_until(SOON, "the healed node", || lab.client().http(vip, &short).ok()).map(drop)
}

/// The victim is this very test in a second process, which waits for its end with a lab in its hands.
#[test]
#[ignore = "needs a network namespace"]
fn the_lab_of_a_killed_owner_is_removed_by_the_next_lab_of_anyone() -> Result<()> {
    const VICTIM: &str = "HERALD_LAB_VICTIM";
    if std::env::var_os(VICTIM).is_some() {
        let lab = Lab::builder().nodes(1).start()?;
        let server = lab.serve(&lab.node(1).ns, "x", &[Port::Tcp(80)])?;
        println!("\nvictim {} {}", lab.name(), server.pid());
        std::io::stdin().read_line(&mut String::new())?;
        return Ok(());
    }
    let mut victim = Command::new(std::env::current_exe()?)
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "the_lab_of_a_killed_owner_is_removed_by_the_next_lab_of_anyone",
        ])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
    let line =
        lines.map_while(Result::ok).find(|line| line.starts_with("victim ")).expect("the victim's lab");
    let (lab, pid) = line["victim ".len()..].split_once(' ').expect("lab and pid");
    victim.kill()?;
    victim.wait()?;
    await_until(SOON, "the server to die with its owner", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })?;
    let _next = Lab::builder().nodes(1).start()?;
    // Another test's lab may be removing it at this moment.
    await_until(SOON, "the victim's lab to be removed", || left_of(lab).is_empty().then_some(()))
}

#[test]
#[ignore = "needs a network namespace"]
fn two_labs_side_by_side_do_not_meet() -> Result<()> {
    let (one, two) = (Lab::builder().nodes(1).start()?, Lab::builder().nodes(1).start()?);
    let _first = one.serve(&one.node(1).ns, "first", &[Port::Tcp(80)])?;
    let _second = two.serve(&two.node(1).ns, "second", &[Port::Tcp(80)])?;
    assert_eq!(one.client().get(one.node(1).at(80))?.pod, "first");
    assert_eq!(two.client().get(two.node(1).at(80))?.pod, "second");
    let name = one.name().to_owned();
    one.remove()?;
    assert_eq!(left_of(&name), Vec::<String>::new());
    assert_eq!(two.client().get(two.node(1).at(80))?.pod, "second");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_poll_tells_what_failed_and_when() -> Result<()> {
    let lab = Lab::builder().nodes(1).start()?;
    let server = lab.serve(&lab.node(1).ns, "x", &[Port::Tcp(80)])?;
    let poller = Poller::start(lab.client(), lab.node(1).at(80), PollOptions::default())?;
    poller.await_answers(3, SOON)?;
    server.kill();
    await_until(SOON, "three refusals", || (poller.failures() >= 3).then_some(()))?;
    let report = poller.stop()?;
    assert!(report.pods.contains_key("x") && !report.failures.is_empty(), "{}", report.explain());
    assert!(
        report.failures.iter().all(|failure| failure.error != ClientError::TimedOut),
        "{}",
        report.explain()
    );
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn pods_are_reached_across_nodes_and_become_endpoints() -> Result<()> {
    let begin = Instant::now();
    let lab = Lab::builder().control_plane().bird().start()?;
    eprintln!("a lab with a control plane took {:?}", begin.elapsed());
    let first = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let second = lab.pod(lab.node(2), "web-2", &PodOptions::app("web"))?;
    let answer = second.ns.get(first.at(8080))?;
    assert_eq!((answer.pod.as_str(), answer.client.map(|client| client.ip())), ("web-1", Some(second.ip)));
    assert_eq!(lab.node(3).ns.get(first.at6(8080))?.pod, "web-1");
    assert_eq!(first.ns.udp(second.at(8080), SOON)?.pod, "web-2");

    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
         spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n",
    )?;
    let ready = |count: usize| {
        await_ok(SOON, &format!("{count} ready endpoints"), || {
            let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
            let text =
                lab.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])?;
            let found = text.split_whitespace().count();
            if found == count { Ok(()) } else { Err(anyhow::anyhow!("{found}: {text}")) }
        })
    };
    ready(2)?;
    first.set_ready(false)?;
    ready(1)?;
    first.set_ready(true)?;
    ready(2)?;
    second.start_terminating()?;
    ready(1)?;
    assert_eq!(lab.node(1).ns.get(second.at(8080))?.pod, "web-2");
    second.delete()?;
    assert!(lab.node(1).ns.get(second.at(8080)).is_err());

    lab.kubectl(&["create", "deployment", "nginx", "--image=nginx", "--replicas=3"])?;
    let names = lab.await_pods("default", "app=nginx", 3, SOON)?;
    for name in &names {
        let pod = lab.existing_pod("default", name).expect("a settled pod");
        let short = herald_e2e::HttpOptions::default().timeout(Duration::from_millis(100));
        assert!(lab.client().http(pod.at(80), &short).is_err(), "the router knows no pod");
        assert_eq!(&lab.node(1).ns.get(pod.at(80))?.pod, name);
    }
    lab.kubectl(&["delete", "pod", &names[0], "--wait=false"])?;
    let after = lab.await_pods("default", "app=nginx", 3, SOON)?;
    assert!(!after.contains(&names[0]), "{after:?}");
    lab.kubectl(&["scale", "deployment", "nginx", "--replicas=1"])?;
    lab.await_pods("default", "app=nginx", 1, SOON)?;
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn the_api_server_can_be_stopped_started_and_cut_off() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let api = at("10.0.0.10", 6443);
    let connect = || lab.node(1).ns.connect(api, Duration::from_millis(300)).map(drop);
    connect()?;
    lab.stop_api()?;
    assert_eq!(connect(), Err(ClientError::Refused));
    assert!(lab.kubectl(&["get", "nodes", "--request-timeout=1s"]).is_err());
    lab.start_api()?;
    assert!(lab.kubectl(&["get", "nodes"])?.contains("node1   Ready"));
    lab.cut_api()?;
    assert_eq!(connect(), Err(ClientError::TimedOut));
    assert!(lab.kubectl(&["get", "nodes"])?.contains("node1   Ready"));
    lab.heal_api()?;
    await_ok(SOON, "the API server on the LAN", connect)
}
