//! docs/runbook.md as people use it at night: each symptom is provoked, its command is typed, and what it prints has the words.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{CLIENT, Lab, PodOptions, RouterOptions, at, await_ok, herald_program, programs};
use serde_json::json;

use crate::faults::fill_connection_table;
use crate::objects::{install, pool};
use crate::services::{await_address, create, service};

const DOCUMENT: &str = include_str!("../../../docs/runbook.md");
/// A Lease that nobody renews lasts twenty seconds.
const SHOWN: Duration = Duration::from_secs(40);

const OF_THE_CONTROLLER: &[u32] = &[1, 2, 3, 4, 5, 6];
const OF_RIGHTS: &[u32] = &[7, 27];
const OF_SESSIONS: &[u32] = &[8, 9, 10, 11, 28];
const OF_PACKETS: &[u32] = &[12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26];
const OF_THE_SEGMENT: &[u32] = &[24];
const OF_WHAT_IS_NOT_BELIEVED: &[u32] = &[29, 30];
const OF_PROBES: &[u32] = &[31];
const OF_ENDPOINTS: &[u32] = &[32];
const OF_CONNECTIONS: &[u32] = &[33];

const BGP: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: edge, protocol: bgp, addresses: [192.0.2.0/28]}
- {name: wide, protocol: bgp, auto-assign: false, addresses: [198.51.100.0/28], bgp-advertisements: [{aggregation-length: 28}]}
";

/// A case of the document: what is typed, and what is seen.
struct Case {
    command: String,
    words: String,
}

fn cases() -> BTreeMap<u32, Case> {
    let mut cases = BTreeMap::new();
    for section in DOCUMENT.split("\n### ").skip(1) {
        let number = section.split('.').next().and_then(|number| number.parse().ok());
        let line =
            |prefix: &str| section.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
        if let (Some(number), Some(command), Some(words)) = (number, line("    "), line("> ")) {
            cases.insert(number, Case { command, words });
        }
    }
    cases
}

/// The document in somebody's hands, and the cases that were shown.
struct Runbook<'lab> {
    lab: &'lab Lab,
    cases: BTreeMap<u32, Case>,
    shown: RefCell<BTreeSet<u32>>,
}

impl<'lab> Runbook<'lab> {
    fn open(lab: &'lab Lab) -> Result<Self> {
        let cases = cases();
        let provoked = [
            OF_THE_CONTROLLER,
            OF_RIGHTS,
            OF_SESSIONS,
            OF_PACKETS,
            OF_THE_SEGMENT,
            OF_WHAT_IS_NOT_BELIEVED,
            OF_PROBES,
            OF_ENDPOINTS,
            OF_CONNECTIONS,
        ];
        let provoked: BTreeSet<u32> = provoked.concat().into_iter().collect();
        let written: BTreeSet<u32> = cases.keys().copied().collect();
        ensure!(written == provoked, "{written:?} are in the document, {provoked:?} are provoked");
        ensure!(DOCUMENT.matches("\n### ").count() == written.len(), "a case without command or words");
        Ok(Self { lab, cases, shown: RefCell::default() })
    }

    /// Types a case's command, with these words for the document's capitals, until what it prints has the words.
    fn shows(&self, number: u32, capitals: &[(&str, &str)]) -> Result<()> {
        self.shows_after(number, capitals, || Ok(()))
    }

    /// The same, and does something before each time.
    fn shows_after(
        &self,
        number: u32,
        capitals: &[(&str, &str)],
        before: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let case = self.cases.get(&number).with_context(|| format!("the document has no case {number}"))?;
        let mut command = case.command.clone();
        for (name, value) in capitals {
            command = command.replace(name, value);
        }
        let printed = await_ok(SHOWN, &format!("case {number}: {}", case.words), || {
            before()?;
            let printed = self.types(&command)?;
            ensure!(printed.contains(&case.words), "{printed}");
            Ok(printed)
        })?;
        println!("== {number}\n$ {command}\n{printed}");
        self.shown.borrow_mut().insert(number);
        Ok(())
    }

    /// What a command prints, whatever its exit code says: at home, or by `ssh` on a node.
    fn types(&self, command: &str) -> Result<String> {
        let herald = herald_program()?;
        let path = format!(
            "PATH={}:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            herald.parent().context("a directory")?.display(),
            programs()?.display()
        );
        let kubeconfig = format!("KUBECONFIG={}", self.lab.kubeconfig().display());
        let nodes = self.lab.nodes().iter();
        let mut on =
            nodes.filter_map(|node| Some((node, command.strip_prefix(&format!("ssh {} sudo ", node.name))?)));
        let (ns, command) = match on.next() {
            Some((node, command)) => (&node.ns, command),
            None => (self.lab.control_plane_ns(), command),
        };
        ns.exec(&["env", &path, &kubeconfig, "sh", "-c", &format!("{command} 2>&1; true")])
    }

    /// All of these were.
    fn close(self, all: &[u32]) -> Result<()> {
        let shown = self.shown.into_inner();
        ensure!(shown == all.iter().copied().collect(), "shown are {shown:?} of {all:?}");
        Ok(())
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_service_without_an_address_says_why() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(
        "address-pools: [{name: edge, protocol: layer2, addresses: [192.0.2.1-192.0.2.2]}]\n",
    )?;
    runbook.shows(6, &[])?;

    let _controller = lab.controller("controller", &[])?;
    let with = |name: &str, annotations: serde_json::Value| {
        service(name, json!({ "metadata": { "annotations": annotations } }))
    };
    create(&lab, [with("web", json!({ "metallb.io/allow-shared-ip": "key" }))])?;
    let address = await_address(&lab, "web")?.to_string();
    create(&lab, [with("second", json!({}))])?;
    await_address(&lab, "second")?;
    create(
        &lab,
        [
            with("third", json!({})),
            with("lost", json!({ "metallb.io/address-pool": "gone" })),
            with("far", json!({ "metallb.io/loadBalancerIPs": "198.51.100.7" })),
            with("late", json!({ "metallb.io/loadBalancerIPs": address })),
            with(
                "same",
                json!({ "metallb.io/loadBalancerIPs": address, "metallb.io/allow-shared-ip": "key" }),
            ),
        ],
    )?;
    for (number, name) in [(1, "third"), (2, "lost"), (3, "far"), (4, "late"), (5, "same")] {
        runbook.shows(number, &[("SERVICE", name)])?;
    }
    runbook.close(OF_THE_CONTROLLER)
}

#[test]
#[ignore = "needs a network namespace"]
fn what_the_doctor_knows_of_rights_and_pools_is_said() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let runbook = Runbook::open(&lab)?;
    install(&lab)?;
    let address = format!("{}/32", lab.node(1).ip);
    lab.apply(&pool("edge", &["192.0.2.0/28", &address]))?;
    runbook.shows(27, &[])?;
    lab.kubectl(&["delete", "clusterrole", "herald-controller"])?;
    runbook.shows(7, &[])?;
    runbook.close(OF_RIGHTS)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_session_that_is_not_up_says_why() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let (one, two) = (lab.node(1), lab.node(2));
    let _first = lab.speaker(one, &[])?;
    let second = lab.speaker(two, &[])?;
    for node in [one, two] {
        lab.router().await_session(&node.name, SHOWN)?;
    }
    drop(second);
    runbook.shows(11, &[])?;
    lab.router().stop_bird()?;
    runbook.shows(10, &[])?;

    let mut wrong = RouterOptions::t4(lab.nodes());
    wrong.peers.iter_mut().for_each(|peer| peer.asn = 43);
    lab.router().configure(&wrong)?;
    lab.router().start_bird()?;
    runbook.shows(8, &[])?;
    lab.router().configure(&RouterOptions::t4(lab.nodes()).every_peer("password \"other\";"))?;
    lab.configure_herald(&BGP.replace("my-asn: 42", "my-asn: 42, password: mine"))?;
    runbook.shows(9, &[("NODE", &one.name)])?;

    lab.stop_api()?;
    runbook.shows(28, &[("NODE-ADDRESS", &one.ip.to_string())])?;
    runbook.close(OF_SESSIONS)
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_that_does_not_answer_says_why() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let (one, two) = (lab.node(1), lab.node(2));
    let _controller = lab.controller("controller", &[])?;
    let _speakers = (lab.speaker(one, &[])?, lab.speaker(two, &[])?);
    let pod = lab.pod(one, "web-1", &PodOptions::app("web"))?;
    let spec = |name: &str, spec: serde_json::Value| service(name, json!({ "spec": spec }));
    create(
        &lab,
        [
            spec("web", json!({})),
            spec("dark", json!({ "selector": { "app": "nobody" } })),
            spec("local", json!({ "externalTrafficPolicy": "Local" })),
            spec("few", json!({ "loadBalancerSourceRanges": ["192.168.7.0/24"] })),
            service("wide", json!({ "metadata": { "annotations": { "metallb.io/address-pool": "wide" } } })),
        ],
    )?;
    let addresses: BTreeMap<&str, String> = ["web", "dark", "local", "few", "wide"]
        .into_iter()
        .map(|name| Ok((name, await_address(&lab, name)?.to_string())))
        .collect::<Result<_>>()?;
    await_ok(SHOWN, "the Service", || lab.client().get(at(&addresses["web"], 80)))?;

    // Packets, at the node without a pod.
    let client = CLIENT.to_string();
    let packet = |number: u32, address: &str| {
        runbook.shows(number, &[("NODE", &two.name), ("ADDRESS", address), ("CLIENT", &client)])
    };
    packet(17, &addresses["few"])?;
    packet(18, &addresses["local"])?;
    packet(19, "198.51.100.14")?;
    packet(21, &addresses["dark"])?;
    packet(22, &addresses["web"])?;
    packet(23, &addresses["web"])?;

    // Services, at a node.
    let at_node =
        |number: u32, name: &str, node: &str| runbook.shows(number, &[("SERVICE", name), ("NODE", node)]);
    at_node(12, "dark", &one.name)?;
    at_node(13, "local", &two.name)?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    lab.kubectl(&["label", "node", &two.name, &format!("{label}=true")])?;
    at_node(14, "web", &two.name)?;
    lab.kubectl(&["label", "node", &two.name, &format!("{label}-")])?;
    let condition = r#"{"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}}"#;
    lab.kubectl(&["patch", "node", &two.name, "--subresource=status", "-p", condition])?;
    at_node(15, "web", &two.name)?;
    lab.kubectl(&[
        "patch",
        "node",
        &two.name,
        "--subresource=status",
        "-p",
        &condition.replace("True", "False"),
    ])?;
    lab.kubectl(&["annotate", "service", "local", "herald.io/probe=tcp interval=100ms"])?;
    await_ok(SHOWN, "a probe that passes", || {
        let metrics = one.ns.curl("http://127.0.0.1:7472/metrics")?;
        ensure!(
            metrics.contains("\nherald_probe_endpoints 1\n")
                && metrics.contains("\nherald_probe_failing_endpoints 0\n")
        );
        Ok(())
    })?;
    await_ok(SHOWN, "the Service", || lab.client().get(at(&addresses["local"], 80)))?;
    pod.freeze();
    at_node(16, "local", &one.name)?;
    pod.thaw();

    // The node, the rules, the configuration.
    two.ns.sysctl(&[("net/ipv4/ip_forward", "0")])?;
    runbook.shows(20, &[("NODE", &two.name)])?;
    let status = runbook.types("herald status")?;
    ensure!(status.contains("node2: net.ipv4.ip_forward is 0, so it passes nothing on"), "{status}");
    two.ns.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    runbook.shows_after(26, &[], || one.ns.exec(&["nft", "add rule ip herald guard counter"]).map(drop))?;
    lab.configure_herald(
        "peers:\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}\nadress-pools: []\n",
    )?;
    runbook.shows(25, &[])?;
    runbook.close(OF_PACKETS)
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_that_two_hosts_have_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(
        "address-pools: [{name: lan, protocol: layer2, addresses: [10.0.0.200-10.0.0.239]}]\n",
    )?;
    let _controller = lab.controller("controller", &[])?;
    let _speaker = lab.speaker(lab.node(1), &[])?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let address = await_address(&lab, "web")?;
    let router = &lab.router().ns;
    await_ok(SHOWN, "the Service", || router.get(at(&address.to_string(), 80)))?;
    router.ip(&[format!("addr add {address}/32 dev lan")])?;
    // Asks for somebody else from that address.
    let asks = || {
        router
            .run(|| UdpSocket::bind((address, 0))?.send_to(&[0], ("10.0.0.99", 9)))?
            .map(drop)
            .context("sent")
    };
    runbook.shows_after(24, &[("SERVICE", "web")], asks)?;
    runbook.close(OF_THE_SEGMENT)
}

#[test]
#[ignore = "needs a network namespace"]
fn endpoints_that_are_held_and_rules_that_are_refused_are_told() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let node = lab.node(1);
    let _controller = lab.controller("controller", &[])?;
    let _speaker = lab.speaker(node, &[])?;
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    // So many are a whole cluster's.
    let names = ["one", "two", "three", "four", "five"];
    create(&lab, names.map(|name| service(name, json!({}))))?;
    for name in names {
        let address = await_address(&lab, name)?.to_string();
        await_ok(SHOWN, name, || lab.client().get(at(&address, 80)))?;
    }
    pod.set_ready(false)?;
    runbook.shows(29, &[])?;
    pod.set_ready(true)?;

    // The table belongs to another program while that runs.
    let mut owner = node.ns.run(|| {
        Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    })??;
    let mut input = owner.stdin.take().context("nft's input")?;
    input.write_all(b"delete table ip herald; add table ip herald { flags owner; }\n")?;
    create(&lab, [service("six", json!({}))])?;
    let shown = runbook.shows(30, &[]);
    drop(input);
    owner.wait()?;
    shown?;
    runbook.close(OF_WHAT_IS_NOT_BELIEVED)
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_that_does_not_answer_its_probes_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let _controller = lab.controller("controller", &[])?;
    let _speakers = lab.speakers(&["--probe-addresses=200ms"])?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let address = await_address(&lab, "web")?.to_string();
    await_ok(SHOWN, "the Service", || lab.client().get(at(&address, 80)))?;
    // The router forwards to nobody.
    lab.router().ns.exec(&[
        "nft",
        "add table inet dark; add chain inet dark forward { type filter hook forward priority 0; policy drop; }",
    ])?;
    runbook.shows(31, &[])?;
    runbook.close(OF_PROBES)
}

#[test]
#[ignore = "needs a network namespace"]
fn an_endpoint_that_does_not_answer_is_told_with_whom_it_does_not() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let _controller = lab.controller("controller", &[])?;
    let _speakers = lab.speakers(&[])?;
    let pods = [(1, "web-1"), (2, "web-2")];
    let pods = pods.map(|(node, name)| lab.pod(lab.node(node), name, &PodOptions::app("web")));
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    create(&lab, [service("web", json!({}))])?;
    let address = await_address(&lab, "web")?.to_string();
    await_ok(SHOWN, "the Service", || lab.client().get(at(&address, 80)))?;
    let tries = |words: &[&str]| {
        await_ok(SHOWN, &format!("{words:?}"), || {
            let printed = runbook.types("herald try web")?;
            ensure!(words.iter().all(|word| printed.contains(word)), "{printed}");
            Ok(printed)
        })
    };
    tries(&["the endpoints of default/web that get connections answer every node that was asked: 2 of 2"])?;

    // A slice that somebody wrote by hand.
    let ghost = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-canary", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "port": 8080 }],
        "endpoints": [{ "addresses": ["10.244.1.77"], "nodeName": "node1" }],
    });
    lab.apply(&ghost.to_string())?;
    runbook.shows(32, &[("SERVICE", "default/web")])?;
    println!("{}", tries(&["1 of the 3 endpoints", "EndpointSlice web-canary says so"])?);
    lab.delete("discovery.k8s.io/v1/EndpointSlice", "default", "web-canary")?;

    // A chain of somebody's on node 2.
    lab.node(2).ns.exec(&[
        "nft",
        "add table inet hardening; add chain inet hardening forward { type filter hook forward priority 0; }; \
         add rule inet hardening forward iifname eth0 tcp dport 8080 drop",
    ])?;
    let lost = format!("{} answers node2, where it runs, and no other node", pods[1].at(8080));
    println!("{}", tries(&["1 of the 2 endpoints", &lost])?);
    runbook.close(OF_ENDPOINTS)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_connection_table_that_is_nearly_full_is_told() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let runbook = Runbook::open(&lab)?;
    lab.configure_herald(BGP)?;
    let node = lab.node(1);
    let _controller = lab.controller("controller", &[])?;
    let _speaker = lab.speaker(node, &[])?;
    lab.router().await_session(&node.name, SHOWN)?;
    let calm = runbook.types("herald status")?;
    ensure!(!calm.contains("its connection table has"), "{calm}");
    let fill = || fill_connection_table(&node.ns).map(drop);
    runbook.shows_after(33, &[], fill)?;
    runbook.close(OF_CONNECTIONS)
}
