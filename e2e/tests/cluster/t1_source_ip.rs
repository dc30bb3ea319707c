//! Tutorial T1, "Using Source IP": who answers, and whose address the server sees.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use herald_e2e::{CLIENT, CLIENT6, HttpOptions, Lab, Node, PodOptions, at, await_ok};

use crate::tutorial::{
    Cluster, PROTOCOLS, Protocol, SOON, ask, await_answer, await_refusal, await_silence, both, client_of,
    each_answers,
};

const EXTERNAL_TRAFFIC: &str = "service.beta.kubernetes.io/external-traffic";
const HEALTH_PORT: &str = "service.beta.kubernetes.io/healthcheck-nodeport";
const BGP: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}
";

/// The client's own address in the family of what it asks.
fn outside(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { CLIENT.into() } else { CLIENT6.into() }
}

/// Lines 1 and 2.
#[test]
#[ignore = "needs a network namespace"]
fn every_node_tells_its_proxy_mode_and_a_cluster_ip_never_hides_the_pod_that_asks() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(2), "web-2", &PodOptions::app("web"))?;
    let asker = cluster.pod(cluster.node(1), "asker", &PodOptions::app("asker"))?;
    let service = cluster.service("web", "", "")?;

    for node in cluster.nodes() {
        let curl = await_ok(SOON, "the proxy mode", || node.ns.curl("localhost:10249/proxyMode"))?;
        assert_eq!(curl, "nftables");
        let mode = node.ns.http(at("127.0.0.1", 10249), &HttpOptions::default().path("/proxyMode"))?;
        assert_eq!((mode.status, mode.body.as_str()), (200, "nftables"));
        let kind = mode.header("content-type").unwrap_or_default().to_owned();
        assert!(kind.starts_with("text/plain"), "{kind}");
    }
    for to in service.cluster_addresses()? {
        let own = if to.is_ipv4() { asker.ip } else { asker.ip6 };
        for protocol in PROTOCOLS {
            // One of the two is on the asker's node.
            each_answers(&asker.ns, protocol, to, &["web-1", "web-2"], |answer| {
                assert_eq!(client_of(answer), own, "{protocol:?} to {to}: {answer:?}");
            })?;
        }
    }
    Ok(())
}

/// Lines 4 and 5.
#[test]
#[ignore = "needs a network namespace"]
fn a_node_port_shows_the_nodes_address_and_under_policy_local_the_clients_or_drops() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(3))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(2), "web-2", &PodOptions::app("web"))?;
    let service = cluster.service("web", "", "type: NodePort")?;
    let ports = [service.node_port(Protocol::Tcp)?, service.node_port(Protocol::Udp)?];
    let client = cluster.client();
    for node in cluster.nodes() {
        for (protocol, port) in PROTOCOLS.into_iter().zip(ports) {
            for to in both(node, port) {
                each_answers(client, protocol, to, &["web-1", "web-2"], |answer| {
                    cluster.assert_masqueraded_by(node, answer);
                })?;
            }
        }
    }

    let check_local = |what: &str| -> Result<()> {
        for (protocol, port) in PROTOCOLS.into_iter().zip(ports) {
            for (node, pod) in [(1, "web-1"), (2, "web-2")] {
                for to in both(cluster.node(node), port) {
                    await_ok(SOON, &format!("policy Local at {to} {what}"), || {
                        let answer = ask(client, protocol, to)?;
                        if client_of(&answer) != outside(to) {
                            bail!("{answer:?}");
                        }
                        Ok(())
                    })?;
                    each_answers(client, protocol, to, &[pod], |answer| {
                        assert_eq!(client_of(answer), outside(to), "{protocol:?} to {to} {what}");
                    })?;
                }
            }
            // Not refused: dropped, so that a load balancer's other nodes get the retry.
            for to in both(cluster.node(3), port) {
                await_silence(client, protocol, to)?;
            }
        }
        Ok(())
    };
    let policy = |local: bool| {
        let policy = if local { "Local" } else { "Cluster" };
        cluster.service("web", "", &format!("type: NodePort, externalTrafficPolicy: {policy}"))
    };
    policy(true)?;
    check_local("by its field")?;
    policy(false)?;
    let elsewhere = cluster.node(3).at(ports[0]);
    each_answers(client, Protocol::Tcp, elsewhere, &["web-1", "web-2"], |answer| {
        cluster.assert_masqueraded_by(cluster.node(3), answer);
    })?;

    // Nobody at all: that is refused, by policy Local too.
    let idle = cluster.service("idle", "", "type: NodePort, externalTrafficPolicy: Local")?;
    for protocol in PROTOCOLS {
        for to in both(cluster.node(3), idle.node_port(protocol)?) {
            await_refusal(client, protocol, to)?;
        }
    }
    Ok(())
}

/// Line 5 and 7 for those who still write the annotation of Kubernetes 1.5.
#[test]
#[ignore = "needs a network namespace"]
fn the_old_annotation_only_local_is_policy_local_and_publishes_the_health_port() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    cluster
        .configure_herald("address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}\n")?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    let only_local = format!("{EXTERNAL_TRAFFIC}: OnlyLocal");
    let service = cluster.service("web", &only_local, "type: NodePort")?;
    let (client, here, elsewhere) = (cluster.client(), cluster.node(1), cluster.node(2));
    for protocol in PROTOCOLS {
        let port = service.node_port(protocol)?;
        for (to, silent) in both(here, port).into_iter().zip(both(elsewhere, port)) {
            await_silence(client, protocol, silent)?;
            let answer = await_answer(client, protocol, to)?;
            assert_eq!((answer.pod.as_str(), client_of(&answer)), ("web-1", outside(to)));
        }
    }
    let changed = cluster.read_service("web")?;
    assert_eq!(changed.text("/spec/externalTrafficPolicy").as_deref(), Some("Local"));
    assert_eq!(changed.annotation(HEALTH_PORT), None, "node ports have no health port");
    await_event(&cluster, "web", "ExternalTrafficPolicySet")?;

    // It becomes a load balancer: the API server allocates the health port, Herald publishes it where it once was.
    cluster.service("web", &only_local, "type: LoadBalancer")?;
    let port = await_ok(SOON, "the health port in the annotation", || {
        let service = cluster.read_service("web")?;
        let told = service.annotation(HEALTH_PORT).context("no annotation")?.to_owned();
        let allocated = service.port("/spec/healthCheckNodePort")?;
        if told != allocated.to_string() {
            bail!("{told} is told, {allocated} is so");
        }
        Ok(allocated)
    })?;
    let text = HttpOptions::default().path("/healthz").header("Accept", "text/plain");
    for to in both(here, port) {
        await_health(client, to, &text, (200, "1 Service Endpoints found"))?;
    }
    for to in both(elsewhere, port) {
        await_health(client, to, &text, (503, "No Service Endpoints Found"))?;
    }

    // Without the annotation all is as it was.
    let port = service.node_port(Protocol::Tcp)?;
    cluster.service("web", "", "type: NodePort")?;
    let answer = await_answer(client, Protocol::Tcp, elsewhere.at(port))?;
    cluster.assert_masqueraded_by(elsewhere, &answer);
    let released = cluster.read_service("web")?;
    assert_eq!(released.text("/spec/externalTrafficPolicy").as_deref(), Some("Cluster"));
    await_event(&cluster, "web", "ExternalTrafficPolicyReleased")
}

/// Lines 3 and 6.
#[test]
#[ignore = "needs a network namespace"]
fn a_load_balancer_hides_clients_until_policy_local_keeps_them_and_the_routes_to_serving_nodes() -> Result<()>
{
    let cluster = Cluster::start(Lab::builder().nodes(3).bird())?;
    let web_1 = cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(2), "web-2", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(1), "inner-1", &PodOptions::app("inner"))?;
    cluster.service("inner", "", "")?;
    cluster.service("web", "", "type: LoadBalancer")?;
    assert_eq!(cluster.service_line("inner")?[3], "<none>");
    assert_eq!(cluster.service_line("web")?[3], "<pending>");
    cluster.configure_herald(BGP)?;
    cluster.await_external_ip("web", "192.0.2.0")?;
    assert_eq!(cluster.service_line("inner")?[3], "<none>");

    let (vip, prefix, client) = (at("192.0.2.0", 80), "192.0.2.0/32", cluster.client());
    let serving = |nodes: &[u8]| {
        let hops: Vec<IpAddr> = nodes.iter().map(|index| cluster.node(*index).ip.into()).collect();
        cluster.router().await_route(prefix, &hops, SOON)?;
        cluster.router().await_kernel_route(prefix, hops.len(), SOON)
    };
    serving(&[1, 2, 3])?;
    for protocol in PROTOCOLS {
        each_answers(client, protocol, vip, &["web-1", "web-2"], |answer| {
            let (seen, pod) = (client_of(answer), cluster.answered_by(answer));
            let of = |node: &Node| seen == IpAddr::from(node.ip) && node.index != pod.node.index;
            let bridge: IpAddr = [10, 244, pod.node.index, 1].into();
            assert!(cluster.nodes().iter().any(of) || seen == bridge, "{answer:?}");
        })?;
    }

    cluster.service("web", "", "type: LoadBalancer, externalTrafficPolicy: Local")?;
    serving(&[1, 2])?;
    for protocol in PROTOCOLS {
        await_ok(SOON, "the client's address", || {
            let answer = ask(client, protocol, vip)?;
            if client_of(&answer) == outside(vip) { Ok(()) } else { bail!("{answer:?}") }
        })?;
        each_answers(client, protocol, vip, &["web-1", "web-2"], |answer| {
            assert_eq!(client_of(answer), outside(vip), "{protocol:?}: {answer:?}");
        })?;
    }
    // A node loses its only endpoint, and with it the route.
    web_1.set_ready(false)?;
    serving(&[2])?;
    for protocol in PROTOCOLS {
        each_answers(client, protocol, vip, &["web-2"], |answer| {
            assert_eq!(client_of(answer), outside(vip), "{protocol:?}: {answer:?}");
        })?;
    }
    Ok(())
}

/// Line 7.
#[test]
#[ignore = "needs a network namespace"]
fn the_health_port_tells_load_balancers_which_nodes_have_ready_endpoints() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    let first = cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(1), "web-2", &PodOptions::app("web"))?;
    let service = cluster.service("web", "", "type: LoadBalancer, externalTrafficPolicy: Local")?;
    let port = service.port("/spec/healthCheckNodePort")?;
    let client = cluster.client();
    let healthz = HttpOptions::default().path("/healthz");
    let text = healthz.clone().header("Accept", "text/plain");
    for to in both(cluster.node(1), port) {
        await_health(client, to, &text, (200, "2 Service Endpoints found"))?;
        assert_json(client, to, 200, 2)?;
    }
    for to in both(cluster.node(2), port) {
        await_health(client, to, &text, (503, "No Service Endpoints Found"))?;
        assert_json(client, to, 503, 0)?;
    }
    let url = format!("http://10.0.0.11:{port}/healthz");
    assert!(client.curl(&url)?.contains("\"localEndpoints\":2"), "as a user calls it");

    first.set_ready(false)?;
    await_health(client, cluster.node(1).at(port), &text, (200, "1 Service Endpoints found"))?;
    cluster.kubectl(&["delete", "pod", "web-2", "--wait=false"])?;
    await_health(client, cluster.node(1).at(port), &text, (503, "No Service Endpoints Found"))?;
    assert_json(client, cluster.node(1).at(port), 503, 0)?;
    first.set_ready(true)?;
    await_health(client, cluster.node(1).at(port), &text, (200, "1 Service Endpoints found"))?;

    cluster.service("web", "", "type: LoadBalancer")?;
    await_refusal(client, Protocol::Tcp, cluster.node(1).at(port))
}

fn await_health(
    ns: &herald_e2e::Namespace,
    to: SocketAddr,
    options: &HttpOptions,
    wanted: (u16, &str),
) -> Result<()> {
    await_ok(SOON, &format!("{wanted:?} of {to}"), || {
        let answer = ns.http(to, options)?;
        if (answer.status, answer.body.trim_end()) != wanted {
            bail!("{} {}", answer.status, answer.body);
        }
        Ok(())
    })
}

/// What kube-proxy answers those that ask for nothing special.
fn assert_json(ns: &herald_e2e::Namespace, to: SocketAddr, status: u16, endpoints: u64) -> Result<()> {
    let answer = ns.http(to, &HttpOptions::default().path("/healthz"))?;
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some(endpoints.to_string().as_str()));
    let body: serde_json::Value = serde_json::from_str(&answer.body)?;
    let wanted = serde_json::json!({
        "service": { "namespace": "default", "name": "web" },
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    assert_eq!(body, wanted);
    Ok(())
}

fn await_event(cluster: &Cluster, service: &str, reason: &str) -> Result<()> {
    let field = format!("involvedObject.name={service},reason={reason}");
    await_ok(SOON, &format!("the Event {reason} of {service}"), || {
        let found = cluster.kubectl(&["get", "events", "--field-selector", &field, "-o", "name"])?;
        if found.trim().is_empty() { bail!("none") } else { Ok(()) }
    })
}
