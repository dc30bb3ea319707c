//! Which node announces which prefix with which attributes, and what happens to sessions.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herald_e2e::{BirdPeer, Lab, PodOptions, Router, RouterOptions, at, await_ok, holds_for};

use crate::order::recorder::{Recorder, What};
use crate::order::{SOON, address, config, herald, service};
use crate::services::await_event;

/// From a change of a pod's readiness to its effect on routes; the EndpointSlice controller's part included.
const QUICKLY: Duration = Duration::from_secs(2);

fn within(limit: Duration, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    work()?;
    ensure!(begin.elapsed() < limit, "{what} took {:?}", begin.elapsed());
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn routes_follow_the_endpoints_as_the_traffic_policy_says() -> Result<()> {
    let lab = Lab::builder().control_plane().bird().start()?;
    let nodes: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    let first = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let second = lab.pod(lab.node(2), "web-2", &PodOptions::app("web").not_ready())?;
    let _herald = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("cluster", "web", "externalTrafficPolicy: Cluster"))?;
    let cluster = format!("{}/32", address(&lab, "cluster")?);
    lab.apply(&service("local", "web", "externalTrafficPolicy: Local"))?;
    let local = format!("{}/32", address(&lab, "local")?);
    let expect = |limit: Duration, all: &[IpAddr], some: &[IpAddr]| {
        within(limit, "moving the routes", || {
            lab.router().await_route(&cluster, all, SOON)?;
            lab.router().await_route(&local, some, SOON)
        })
    };

    expect(SOON, &nodes, &nodes[..1])?;
    second.set_ready(true)?;
    expect(QUICKLY, &nodes, &nodes[..2])?;
    first.set_ready(false)?;
    expect(QUICKLY, &nodes, &nodes[1..2])?;
    // One that terminates serves those who come, but attracts nobody.
    second.start_terminating()?;
    expect(QUICKLY, &nodes, &[])?;
    second.delete()?;
    expect(QUICKLY, &[], &[])?;
    first.set_ready(true)?;
    expect(QUICKLY, &nodes, &nodes[..1])?;
    lab.apply(&service("local", "web", "externalTrafficPolicy: Cluster"))?;
    expect(QUICKLY, &nodes, &nodes)?;
    lab.delete("v1/Service", "default", "cluster")?;
    expect(QUICKLY, &[], &nodes)
}

#[test]
#[ignore = "needs a network namespace"]
fn external_ips_inside_a_pool_are_routes_where_that_is_wanted_and_belong_to_one_service() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let nodes: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let plain = config("192.0.2.0/24");
    let announced = format!("{plain}herald: {{external-ips: {{announce: true}}}}\n");
    let _herald = herald(&lab, &announced, &[])?;
    lab.apply(&service("web", "web", "externalIPs: [192.0.2.77, 198.51.100.7]"))?;
    let own = format!("{}/32", address(&lab, "web")?);
    lab.router().await_route("192.0.2.77/32", &nodes, SOON)?;
    lab.router().await_route(&own, &nodes, SOON)?;
    let routes = lab.router().routes()?;
    ensure!(!routes.contains_key("198.51.100.7/32"), "it is in no pool: {routes:?}");
    await_ok(SOON, "an answer", || {
        let answer = lab.client().get(at("192.0.2.77", 80))?;
        ensure!(answer.pod == "web-1", "{answer:?}");
        anyhow::Ok(())
    })?;
    // Nobody else is given it.
    lab.apply(&service("other", "web", "loadBalancerIP: 192.0.2.77"))?;
    await_event(&lab, "default", "other", "AllocationFailed", "192.0.2.77")?;
    // Without the switch it is a route no more, and the Service's own address stays one.
    lab.configure_herald(&plain)?;
    lab.router().await_route("192.0.2.77/32", &[], SOON)?;
    lab.router().await_route(&own, &nodes, SOON)
}

#[test]
#[ignore = "needs a network namespace"]
fn cluster_ips_and_pod_networks_inside_a_pool_are_routes_where_that_is_wanted() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let nodes: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let pool = |name: &str, network: &str, length: u8| {
        format!(
            "- name: {name}\n  protocol: bgp\n  addresses: [{network}]\n  auto-assign: false\n  \
             bgp-advertisements: [{{aggregation-length: {length}, communities: ['64600:7']}}]\n"
        )
    };
    let plain =
        config("192.0.2.0/24") + &pool("services", "10.96.0.0/12", 12) + &pool("pods", "10.244.0.0/16", 32);
    let announced =
        format!("{plain}herald: {{cluster-ips: {{announce: true}}, pod-cidrs: {{announce: true}}}}\n");
    let _herald = herald(&lab, &announced, &[])?;
    lab.apply(&service("web", "web", ""))?;
    let own = format!("{}/32", address(&lab, "web")?);
    lab.router().await_route("10.96.0.0/12", &nodes, SOON)?;
    for node in lab.nodes() {
        lab.router().await_route(&node.pod_cidr(), &[node.ip.into()], SOON)?;
    }
    attributes(lab.router(), "10.244.1.0/24", &["(64600,7)"])?;
    let cluster_ip = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    await_ok(SOON, "an answer by the ClusterIP", || {
        let answer = lab.client().get(at(&cluster_ip, 80))?;
        ensure!(answer.pod == "web-1", "{answer:?}");
        anyhow::Ok(())
    })?;
    // A node that is drained still has its pods.
    let first = &lab.node(1).name;
    lab.kubectl(&["label", "node", first, "node.kubernetes.io/exclude-from-external-load-balancers="])?;
    lab.router().await_route(&own, &nodes[1..], SOON)?;
    lab.router().await_route("10.244.1.0/24", &nodes[..1], SOON)?;
    lab.configure_herald(&plain)?;
    lab.router().await_route("10.244.1.0/24", &[], SOON)?;
    lab.router().await_route("10.96.0.0/12", &[], SOON)?;
    lab.router().await_route(&own, &nodes[1..], SOON)
}

fn attributes(router: &Router, prefix: &str, wanted: &[&str]) -> Result<()> {
    await_ok(SOON, &format!("{wanted:?} of {prefix}"), || {
        let text = router.birdc(&format!("show route all {prefix}"))?;
        let missing: Vec<_> = wanted.iter().filter(|line| !text.contains(**line)).collect();
        ensure!(missing.is_empty(), "{missing:?} are not in {text}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn aggregates_communities_and_preferences_reach_an_internal_peer_and_change_without_a_new_session()
-> Result<()> {
    let bird = |name: &str, address: IpAddr| BirdPeer {
        name: name.to_owned(),
        address,
        asn: 64_512,
        passive: true,
        extra: vec!["direct;".to_owned()],
    };
    let plan = Lab::builder().nodes(2).control_plane();
    let options = RouterOptions {
        asn: 64_512,
        peers: vec![bird("node1", [10, 0, 0, 11].into()), bird("node2", [10, 0, 0, 12].into())],
        bfd: None,
    };
    let lab = plan.bird_with(options).start()?;
    let router = lab.router();
    let hops: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let peer = "{my-asn: 64512, peer-asn: 64512, peer-address: 10.0.0.1}";
    let text = |peers: &[&str], community: &str| {
        let peers: String = peers.iter().map(|peer| format!("- {peer}\n")).collect();
        format!(
            "peers:\n{peers}\
             bgp-communities: {{edge: \"{community}\"}}\n\
             address-pools:\n\
             - name: default\n  protocol: bgp\n  addresses: [192.0.2.0/24]\n  bgp-advertisements:\n\
             \x20 - {{aggregation-length: 32, localpref: 150, communities: [edge, \"64512:7\"]}}\n\
             \x20 - {{aggregation-length: 28, localpref: 50}}\n"
        )
    };
    let _herald = herald(&lab, &text(&[peer], "64512:100"), &[])?;
    for name in ["one", "two", "three"] {
        lab.apply(&service(name, "web", ""))?;
        address(&lab, name)?;
    }
    let expect = |prefixes: &[&str]| {
        await_ok(SOON, &format!("the routes {prefixes:?}"), || {
            let found = router.routes()?;
            ensure!(found.keys().map(String::as_str).eq(prefixes.iter().copied()), "BIRD has {found:?}");
            ensure!(found.values().all(|via| *via == hops), "BIRD has {found:?}");
            Ok(())
        })
    };
    expect(&["192.0.2.0/28", "192.0.2.0/32", "192.0.2.1/32", "192.0.2.2/32"])?;
    let host = ["BGP.local_pref: 150", "(64512,7) (64512,100)", "BGP.as_path: \n"];
    attributes(router, "192.0.2.1/32", &host)?;
    attributes(router, "192.0.2.0/28", &["BGP.local_pref: 50"])?;

    // Another community: an UPDATE and nothing else.
    let recorder = Recorder::start(&lab.node(1).ns, lab.node(1).ip)?;
    lab.configure_herald(&text(&[peer], "64512:200"))?;
    attributes(router, "192.0.2.1/32", &["(64512,7) (64512,200)"])?;
    let host_route = |what: &What| matches!(what, What::Announced(prefix, _) if prefix.ends_with("/32"));
    recorder.await_count("host routes announced anew", 3, SOON, host_route)?;
    // A second router, in another place: the first one hears nothing of it.
    let second = second_bird(&lab)?;
    let also = "{my-asn: 64512, peer-asn: 64513, peer-address: 10.0.0.10}";
    lab.configure_herald(&text(&[peer, also], "64512:200"))?;
    await_ok(SOON, "the routes at the second router", || {
        let found = second.birdc("show route")?;
        ensure!(found.matches("/32 ").count() == 3 && found.matches("via 10.0.0.11").count() >= 4, "{found}");
        ensure!(!found.contains("via 10.0.0.1 "), "{found}");
        Ok(())
    })?;
    let told = second.birdc("show route all 192.0.2.1/32")?;
    ensure!(told.contains("BGP.as_path: 64512") && told.contains("(64512,200)"), "{told}");
    lab.configure_herald(&text(&[peer], "64512:200"))?;
    await_ok(SOON, "the second router to be left", || {
        let found = second.birdc("show route")?;
        ensure!(!found.contains("/32"), "{found}");
        Ok(())
    })?;
    let updates: Vec<What> = recorder
        .stop()?
        .into_iter()
        .filter(|record| record.peer == Some(herald_e2e::ROUTER))
        .map(|record| record.what)
        .collect();
    ensure!(updates.len() == 3 && updates.iter().all(host_route), "to the first router: {updates:?}");

    // The aggregate goes with its last Service.
    lab.delete("v1/Service", "default", "one")?;
    expect(&["192.0.2.0/28", "192.0.2.1/32", "192.0.2.2/32"])?;
    lab.delete("v1/Service", "default", "three")?;
    expect(&["192.0.2.0/28", "192.0.2.1/32"])?;
    lab.delete("v1/Service", "default", "two")?;
    expect(&[])
}

/// A BIRD in the control plane's namespace, AS 64513, waiting for anybody of AS 64512.
struct SecondBird {
    socket: std::path::PathBuf,
    ns: herald_e2e::Namespace,
    _process: herald_e2e::Process,
}

fn second_bird(lab: &Lab) -> Result<SecondBird> {
    let (file, socket) = (lab.directory().join("second.conf"), lab.directory().join("second.sock"));
    let neighbours: String = lab
        .nodes()
        .iter()
        .map(|node| {
            format!(
                "protocol bgp {} {{ local 10.0.0.10 as 64513; neighbor {} as 64512; passive on;\n\
                 ipv4 {{ import all; export none; }}; }}\n",
                node.name, node.ip
            )
        })
        .collect();
    std::fs::write(&file, format!("router id 10.0.0.10;\nprotocol device {{}}\n{neighbours}"))?;
    let mut bird = Command::new("/usr/sbin/bird");
    bird.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket);
    let process = lab.start_process(lab.control_plane_ns(), "second-bird", bird)?;
    let second = SecondBird { socket, ns: lab.control_plane_ns().clone(), _process: process };
    await_ok(SOON, "the second BIRD", || second.birdc("show status"))?;
    Ok(second)
}

impl SecondBird {
    fn birdc(&self, command: &str) -> Result<String> {
        let socket = self.socket.display().to_string();
        let mut words = vec!["/usr/sbin/birdc", "-s", socket.as_str()];
        words.extend(command.split(' '));
        self.ns.exec(&words)
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_lost_session_is_dialled_again_and_a_silent_peer_is_given_up_after_the_hold_time() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let hop = [IpAddr::from(lab.node(1).ip)];
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let text = config("192.0.2.0/24").replace("10.0.0.1}", "10.0.0.1, hold-time: 3s}");
    ensure!(text.contains("hold-time"), "{text}");
    let (_controller, speakers) = herald(&lab, &text, &[])?;
    lab.apply(&service("web", "web", ""))?;
    let prefix = "192.0.2.0/32";
    lab.router().await_route(prefix, &hop, SOON)?;
    let vip = at("192.0.2.0", 80);

    lab.router().restart_bird()?;
    within(Duration::from_secs(4), "coming back after a restart", || {
        lab.router().await_route(prefix, &hop, SOON)
    })?;
    // By a reset instead of a NOTIFICATION, and away for longer than one attempt.
    lab.router().kill_bird();
    speakers[0].await_log("session does not come up", SOON)?;
    lab.router().start_bird()?;
    // The pause between two attempts is at most 5 s, and a connection is there in no time.
    within(Duration::from_secs(7), "coming back after a crash", || {
        lab.router().await_route(prefix, &hop, SOON)
    })?;
    ensure!(
        speakers[0].log().matches("session does not come up").count() <= 2,
        "one line per kind of failure"
    );

    let begin = Instant::now();
    lab.router().freeze_bird(true);
    speakers[0].await_log("hold timer", SOON)?;
    let took = begin.elapsed();
    ensure!(took > Duration::from_secs(1) && took < Duration::from_secs(5), "given up after {took:?}");
    lab.router().freeze_bird(false);
    lab.router().await_session("node1", SOON)?;
    lab.router().await_route(prefix, &hop, SOON)?;
    lab.router().await_kernel_route(prefix, 1, SOON)?;
    lab.client().get(vip)?;
    // Keepalives keep the session, beyond the hold time.
    let ups = || speakers[0].log().matches("session up").count();
    let before = ups();
    holds_for(Duration::from_secs(4), "the session", || {
        match lab.router().await_session("node1", Duration::ZERO) {
            Ok(()) if ups() == before => Ok(()),
            Ok(()) => Err("it is another one".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })
}
