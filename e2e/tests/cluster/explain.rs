//! `herald explain` (tutorial T3, line 1): what it says of Services and packets is what packets meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use herald_e2e::{CLIENT, HttpOptions, Lab, Namespace, Node, PodOptions, Port, await_ok, herald_program};
use serde_json::Value;

use crate::tutorial::{
    Cluster, Protocol, SOON, ask, await_answer, await_refusal, await_silence, client_of, each_answers,
};

const CONFIG: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}
";

/// Runs `herald explain`; what it prints is shown by `--nocapture`, to be read as its users read it.
fn herald_explain(ns: &Namespace, arguments: &[&str]) -> Result<String> {
    let program = herald_program()?;
    let program = program.to_str().context("a path in UTF-8")?;
    let answer = ns.exec(&[&[program, "explain"], arguments].concat());
    match &answer {
        Ok(answer) => println!("$ herald explain {}\n{answer}", arguments.join(" ")),
        Err(error) => println!("$ herald explain {}\n{error:#}", arguments.join(" ")),
    }
    answer
}

/// The same as JSON, asked by `--node` where a client of the API server would.
fn json(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<Value> {
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.to_str().context("a path in UTF-8")?;
    let more = ["--node", &node.name, "--kubeconfig", kubeconfig, "-o", "json"];
    let answer = herald_explain(cluster.control_plane_ns(), &[arguments, &more].concat())?;
    Ok(serde_json::from_str(&answer)?)
}

/// What is said of a packet, on the node that it meets; the same text is asked for there, without the API server.
fn fate(cluster: &Cluster, node: &Node, from: IpAddr, to: SocketAddr, protocol: &str) -> Result<Value> {
    let (from, to) = (from.to_string(), format!("{to}/{protocol}"));
    let arguments = ["packet", "--from", &from, "--to", &to];
    let answer = json(cluster, node, &arguments)?;
    let text = herald_explain(&node.ns, &arguments)?;
    assert_eq!(text.lines().next(), answer["summary"].as_str());
    Ok(answer)
}

/// The endpoints of the Service's TCP port in IPv4 and their parts of a set, as `slots/of`.
fn shares(answer: &Value, set: &str) -> BTreeMap<String, String> {
    let ports = answer["ports"].as_array().into_iter().flatten();
    let port = ports.filter(|port| port["name"] == "tcp" && port["family"] == "IPv4");
    port.flat_map(|port| port["endpoints"].as_array().into_iter().flatten())
        .map(|endpoint| {
            let standing = &endpoint[set];
            (
                endpoint["address"].as_str().unwrap_or_default().to_owned(),
                format!(
                    "{}/{} {}",
                    standing["slots"],
                    standing["of"],
                    standing["reason"].as_str().unwrap_or("-")
                ),
            )
        })
        .collect()
}

/// The state of a Service's frontends of one kind in IPv4.
fn state(answer: &Value, kind: &str) -> String {
    let frontends = answer["frontends"].as_array().into_iter().flatten();
    let mut of_kind = frontends.filter(|frontend| {
        frontend["kind"] == kind && !frontend["address"].as_str().unwrap_or_default().contains(':')
    });
    of_kind.next().and_then(|frontend| frontend["state"].as_str()).unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs a network namespace"]
fn what_is_explained_is_what_packets_meet() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2).bird())?;
    cluster.configure_herald(CONFIG)?;
    let (with, without) = (cluster.node(1), cluster.node(2));
    let pods = [
        cluster.pod(with, "web-1", &PodOptions::app("web"))?,
        cluster.pod(with, "web-2", &PodOptions::app("web"))?,
    ];
    let asker = cluster.pod(without, "asker", &PodOptions::app("asker"))?;
    let service = cluster.service("web", "", "type: LoadBalancer, externalTrafficPolicy: Local")?;
    let vip = cluster.await_address("web")?;
    let [cluster_ip, _] = service.cluster_addresses()?;
    let node_port = service.node_port(Protocol::Tcp)?;
    let health_port = service.port("/spec/healthCheckNodePort")?;
    let at_vip = SocketAddr::new(vip, 80);
    each_answers(cluster.client(), Protocol::Tcp, at_vip, &["web-1", "web-2"], |_| {})?;
    each_answers(&asker.ns, Protocol::Tcp, cluster_ip, &["web-1", "web-2"], |_| {})?;

    // The Service, at both nodes.
    let both = |text: &str| pods.iter().map(|pod| (pod.at(8080).to_string(), text.to_owned())).collect();
    let (here, there) =
        (json(&cluster, with, &["service", "web"])?, json(&cluster, without, &["service", "web"])?);
    for answer in [&here, &there] {
        assert_eq!(shares(answer, "cluster"), both("1/2 Ready"), "{answer:#}");
        assert_eq!(state(answer, "ClusterIP"), "Serves", "{answer:#}");
    }
    assert_eq!(shares(&here, "local"), both("1/2 Ready"), "{here:#}");
    assert_eq!(shares(&there, "local"), both("0/0 NotLocal"), "{there:#}");
    for kind in ["NodePort", "LoadBalancer"] {
        assert_eq!((state(&here, kind), state(&there, kind)), ("Serves".to_owned(), "Drops".to_owned()));
    }
    assert_eq!(here["announcements"][0]["announced"], true, "{here:#}");
    assert_eq!(there["announcements"][0]["reason"]["reason"], "noLocalEndpoints", "{there:#}");
    assert_eq!(here["advice"], Value::Array(Vec::new()), "{here:#}");
    for (node, answer, count, status) in [(with, &here, 2, 200), (without, &there, 0, 503)] {
        assert_eq!(answer["healthCheck"]["localEndpoints"], count, "{answer:#}");
        assert_eq!(answer["healthCheck"]["port"], health_port, "{answer:#}");
        let healthz = HttpOptions::default().path("/healthz");
        assert_eq!(cluster.client().http(node.at(health_port), &healthz)?.status, status);
    }

    // The shares: of 200 connections each has 100, seven standard deviations are 50.
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..200 {
        *counted.entry(ask(&asker.ns, Protocol::Tcp, cluster_ip)?.pod).or_default() += 1;
    }
    assert!(counted.len() == 2 && counted.values().all(|count| (50..=150).contains(count)), "{counted:?}");

    // Packets that are served, and whose address the pod sees.
    let client: IpAddr = CLIENT.into();
    let named: Vec<String> = pods.iter().map(|pod| pod.at(8080).to_string()).collect();
    for (ns, from, node, to) in [
        (&asker.ns, asker.ip, without, cluster_ip),
        (cluster.client(), client, with, with.at(node_port)),
        (cluster.client(), client, with, at_vip),
    ] {
        let said = fate(&cluster, node, from, to, "tcp")?;
        assert_eq!((&said["verdict"], &said["service"]), (&"Dnat".into(), &"default/web".into()), "{said:#}");
        let told = said["endpoints"].as_array().into_iter().flatten().map(|e| e["address"].clone());
        assert_eq!(
            told.collect::<Vec<_>>(),
            named.iter().map(|a| Value::from(a.as_str())).collect::<Vec<_>>()
        );
        assert!(said["summary"].as_str().is_some_and(|line| line.ends_with("source kept")), "{said:#}");
        assert_eq!(client_of(&ask(ns, Protocol::Tcp, to)?), from);
    }
    let own = fate(&cluster, without, without.ip.into(), at_vip, "tcp")?;
    assert_eq!(own["endpoints"][0]["masquerade"]["reason"], "OwnNode", "{own:#}");
    cluster.assert_masqueraded_by(without, &await_answer(&without.ns, Protocol::Tcp, at_vip)?);

    // Refused, and not Herald's.
    let closed = SocketAddr::new(vip, 81);
    let said = fate(&cluster, with, client, closed, "tcp")?;
    assert_eq!((&said["verdict"], &said["reason"]["reason"]), (&"Reject".into(), &"UnservedPort".into()));
    await_refusal(cluster.client(), Protocol::Tcp, closed)?;
    let _server = cluster.serve(&with.ns, "outside", &[Port::Tcp(8081)])?;
    let outside = with.at(8081);
    assert_eq!(fate(&cluster, without, asker.ip, outside, "tcp")?["verdict"], "Pass");
    assert_eq!(ask(&asker.ns, Protocol::Tcp, outside)?.pod, "outside");

    // Dropped: the router is made to send the address's packets to the node without an endpoint.
    for (to, said) in [
        (without.at(node_port), fate(&cluster, without, client, without.at(node_port), "tcp")?),
        (at_vip, fate(&cluster, without, client, at_vip, "tcp")?),
    ] {
        assert_eq!(
            (&said["verdict"], &said["reason"]["reason"]),
            (&"Drop".into(), &"NoLocalEndpoint".into())
        );
        if to == at_vip {
            cluster.router().ns.ip(&[format!("route add {vip}/32 via {} metric 1", without.ip)])?;
        }
        await_silence(cluster.client(), Protocol::Tcp, to)?;
    }

    // A pod that leaves, as the Service is then explained.
    pods[0].set_ready(false)?;
    let wanted: BTreeMap<String, String> = BTreeMap::from([
        (pods[0].at(8080).to_string(), "0/1 NotReady".to_owned()),
        (pods[1].at(8080).to_string(), "1/1 Ready".to_owned()),
    ]);
    await_ok(SOON, "the explanation follows", || {
        let answer = json(&cluster, with, &["service", "default/web"])?;
        anyhow::ensure!(shares(&answer, "local") == wanted, "{answer:#}");
        Ok(())
    })?;
    each_answers(&asker.ns, Protocol::Tcp, cluster_ip, &["web-2"], |_| {})?;
    pods[1].set_ready(false)?;
    await_refusal(&asker.ns, Protocol::Tcp, cluster_ip)?;
    let text = herald_explain(&with.ns, &["service", "web"])?;
    let advice = "kubectl get endpointslices -n default -l kubernetes.io/service-name=web";
    assert!(text.contains("no endpoint is ready") && text.contains(advice), "{text}");
    assert_eq!(fate(&cluster, without, asker.ip, cluster_ip, "tcp")?["reason"]["reason"], "NoEndpoint");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn who_asks_amiss_is_told_what_to_do() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(1))?;
    cluster.service("web", "", "")?;
    let node = cluster.node(1);
    await_ok(SOON, "the speaker knows the Service", || herald_explain(&node.ns, &["service", "web"]))?;
    let refused = |ns: &Namespace, arguments: &[&str]| match herald_explain(ns, arguments) {
        Ok(answer) => panic!("{arguments:?} was answered: {answer}"),
        Err(error) => format!("{error:#}"),
    };
    let error = refused(&node.ns, &["service", "default/wbe"]);
    assert!(error.contains("knows no Service default/wbe; near are: default/web"), "{error}");
    let error = refused(cluster.client(), &["service", "web"]);
    assert!(error.contains("cannot connect to 127.0.0.1:7472") && error.contains("--node"), "{error}");
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.to_str().context("a path in UTF-8")?;
    let error = refused(
        cluster.control_plane_ns(),
        &["service", "web", "--node", "other", "--kubeconfig", kubeconfig],
    );
    assert!(error.contains(&format!("there is no Node other; there are {}", node.name)), "{error}");
    // The controller listens on the same port and cannot explain.
    let error = refused(cluster.control_plane_ns(), &["service", "web"]);
    assert!(error.contains("is not a speaker that can explain"), "{error}");
    let error = refused(&node.ns, &["packet", "--from", "10.244.1.5", "--to", "10.96.0.10"]);
    assert!(error.contains("is no address and port like 10.96.0.10:80"), "{error}");
    Ok(())
}
