//! What users of kube-proxy rely on beyond the tutorials, as Kubernetes' own suites ask for it: which Services are
//! served, which endpoints are chosen, and that a change of mind is followed.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use herald_e2e::{Lab, PodOptions};

use crate::tutorial::{
    Cluster, PROTOCOLS, Protocol, await_answer, await_no_answer, await_only, await_refusal, await_silence,
    both, client_of, each_answers,
};

/// Addresses from 192.0.2.0/24, to which the client's router knows the way through the first node.
const POOL: &str = "address-pools:\n- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}\n";

fn route_vips(cluster: &Cluster) -> Result<()> {
    cluster.configure_herald(POOL)?;
    cluster.router().ns.ip(&[format!("route add 192.0.2.0/24 via {}", cluster.node(1).ip)])
}

fn patch(cluster: &Cluster, name: &str, patch: &str) -> Result<()> {
    cluster.kubectl(&["patch", "service", name, "--type=merge", "-p", patch]).map(drop)
}

/// §1.1 of the rules: both labels count by their presence, and may come and go.
#[test]
#[ignore = "needs a network namespace"]
fn labels_take_a_service_away_and_give_it_back() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    cluster.pod(cluster.node(2), "web-1", &PodOptions::app("web"))?;
    let service = cluster.service("web", "", "")?;
    let ns = &cluster.node(1).ns;
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        for to in service.cluster_addresses()? {
            await_answer(ns, Protocol::Tcp, to)?;
        }
        cluster.kubectl(&["label", "service", "web", &format!("{label}=other")])?;
        for to in service.cluster_addresses()? {
            await_no_answer(ns, Protocol::Tcp, to)?;
        }
        cluster.kubectl(&["label", "service", "web", &format!("{label}-")])?;
    }
    for to in service.cluster_addresses()? {
        await_answer(ns, Protocol::Udp, to)?;
    }
    Ok(())
}

/// A Service goes from one type to another and back; what the type does not have is not served any more.
#[test]
#[ignore = "needs a network namespace"]
fn a_service_may_change_its_type_and_back() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(1))?;
    route_vips(&cluster)?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    let node = cluster.node(1);
    cluster.service("web", "", "type: LoadBalancer")?;
    let vip: SocketAddr = (cluster.await_address("web")?, 80).into();
    let first = cluster.read_service("web")?;
    let node_port = node.at(first.node_port(Protocol::Tcp)?);
    await_answer(cluster.client(), Protocol::Tcp, vip)?;
    await_answer(cluster.client(), Protocol::Tcp, node_port)?;

    patch(
        &cluster,
        "web",
        r#"{"spec": {"type": "ClusterIP", "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": null},
            {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080, "nodePort": null}]}}"#,
    )?;
    await_no_answer(cluster.client(), Protocol::Tcp, vip)?;
    await_refusal(cluster.client(), Protocol::Tcp, node_port)?;
    let [cluster_ip, _] = cluster.read_service("web")?.cluster_addresses()?;
    await_answer(&node.ns, Protocol::Tcp, cluster_ip)?;

    patch(
        &cluster,
        "web",
        r#"{"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null,
            "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}}"#,
    )?;
    await_no_answer(&node.ns, Protocol::Tcp, cluster_ip)?;

    patch(&cluster, "web", r#"{"spec": {"type": "NodePort", "externalName": null}}"#)?;
    let back = cluster.read_service("web")?;
    await_answer(cluster.client(), Protocol::Tcp, node.at(back.node_port(Protocol::Tcp)?))?;
    Ok(())
}

/// `trafficDistribution` becomes hints of the slices, and hints become a choice: the own zone or node while it has
/// endpoints, else everything.
#[test]
#[ignore = "needs a network namespace"]
fn preferred_zones_and_nodes_are_used_while_they_have_endpoints() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(3))?;
    for (node, zone) in [("node1", "a"), ("node2", "a"), ("node3", "b")] {
        cluster.kubectl(&["label", "node", node, &format!("topology.kubernetes.io/zone={zone}")])?;
    }
    let pods = [1, 2, 3].map(|n| cluster.pod(cluster.node(n), &format!("web-{n}"), &PodOptions::app("web")));
    let [here, near, _far] = pods;
    let (here, near) = (here?, near?);
    for (distribution, preferred) in [
        ("PreferSameZone", vec!["web-1", "web-2"]),
        ("PreferClose", vec!["web-1", "web-2"]),
        ("PreferSameNode", vec!["web-1"]),
    ] {
        let service =
            cluster.service("web", "", &format!("type: NodePort, trafficDistribution: {distribution}"))?;
        let [cluster_ip, cluster_ip6] = service.cluster_addresses()?;
        let node_port = cluster.node(1).at(service.node_port(Protocol::Tcp)?);
        let ways = [
            (&cluster.node(1).ns, Protocol::Tcp, cluster_ip),
            (&cluster.node(1).ns, Protocol::Udp, cluster_ip6),
            // Policy Cluster: clients from outside are sent the same way.
            (cluster.client(), Protocol::Tcp, node_port),
        ];
        for (ns, protocol, to) in ways {
            await_only(ns, protocol, to, &preferred)?;
        }
        cluster.delete("v1/Service", "default", "web")?;
    }
    // Nobody is left in the zone: everybody else serves.
    let service = cluster.service("web", "", "trafficDistribution: PreferSameZone")?;
    let [cluster_ip, _] = service.cluster_addresses()?;
    await_only(&cluster.node(1).ns, Protocol::Tcp, cluster_ip, &["web-1", "web-2"])?;
    here.set_ready(false)?;
    near.set_ready(false)?;
    await_only(&cluster.node(1).ns, Protocol::Tcp, cluster_ip, &["web-3"])
}

/// Slices that no controller made: two of them, with one endpoint in both, one outside the pod network and one that is
/// not ready; and the Service has no selector.
#[test]
#[ignore = "needs a network namespace"]
fn slices_by_hand_are_merged_and_followed() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    let one = cluster.pod(cluster.node(1), "one", &PodOptions::app("other"))?;
    let two = cluster.pod(cluster.node(2), "two", &PodOptions::app("other"))?;
    let applied = cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: hand}, spec: {ports: [{name: http, port: 80}]}}",
    )?;
    let object = serde_json::to_value(applied.first().context("a Service")?)?;
    let cluster_ip: IpAddr =
        object.pointer("/spec/clusterIP").and_then(|v| v.as_str()).context("an address")?.parse()?;
    let to: SocketAddr = (cluster_ip, 80).into();
    let slice = |name: &str, port: u16, endpoints: &str| {
        cluster.apply(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: hand}}}}, \
             ports: [{{name: http, protocol: TCP, port: {port}}}], endpoints: [{endpoints}]}}"
        ))
    };
    let asker = &cluster.node(1).ns;
    await_refusal(asker, Protocol::Tcp, to)?;
    slice("hand-1", 8080, &format!("{{addresses: [{}], nodeName: node1}}", one.ip))?;
    each_answers(asker, Protocol::Tcp, to, &["one"], |_| {})?;
    slice(
        "hand-2",
        8080,
        &format!(
            "{{addresses: [{}]}}, {{addresses: [{}], conditions: {{ready: true}}}}, \
             {{addresses: [10.0.0.99], conditions: {{ready: false}}}}",
            one.ip, two.ip
        ),
    )?;
    await_only(asker, Protocol::Tcp, to, &["one", "two"])?;
    // The duplicate keeps it alive when its first slice goes.
    cluster.delete("discovery.k8s.io/v1/EndpointSlice", "default", "hand-1")?;
    await_only(asker, Protocol::Tcp, to, &["one", "two"])?;
    // Outside the pod network: a server on the node itself, on another port.
    let _server = cluster.serve(&cluster.node(2).ns, "on-the-node", &[herald_e2e::Port::Tcp(9090)])?;
    slice("hand-2", 9090, &format!("{{addresses: [{}]}}", cluster.node(2).ip))?;
    await_only(asker, Protocol::Tcp, to, &["on-the-node"])?;
    cluster.delete("discovery.k8s.io/v1/EndpointSlice", "default", "hand-2")?;
    await_refusal(asker, Protocol::Tcp, to)
}

/// `internalTrafficPolicy: Local`: pods of the node and the node itself are served by its own endpoints or not at all.
#[test]
#[ignore = "needs a network namespace"]
fn an_internal_policy_local_serves_by_the_own_node_or_not_at_all() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    let web = cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    let askers =
        [1, 2].map(|n| cluster.pod(cluster.node(n), &format!("asker-{n}"), &PodOptions::app("asker")));
    let [near, far] = askers;
    let (near, far) = (near?, far?);
    let service = cluster.service("web", "", "internalTrafficPolicy: Local")?;
    for (to, protocol) in service.cluster_addresses()?.into_iter().flat_map(|to| PROTOCOLS.map(|p| (to, p))) {
        let seen = await_answer(&near.ns, protocol, to)?;
        assert_eq!(client_of(&seen), if to.is_ipv4() { near.ip } else { near.ip6 });
        await_answer(&cluster.node(1).ns, protocol, to)?;
        await_silence(&far.ns, protocol, to)?;
        // A socket of the node is told that its packet was not sent (EPERM), if it is a datagram.
        await_no_answer(&cluster.node(2).ns, protocol, to)?;
    }
    // Nobody is left anywhere: refused on both.
    web.delete()?;
    for to in service.cluster_addresses()? {
        await_refusal(&near.ns, Protocol::Tcp, to)?;
        await_refusal(&far.ns, Protocol::Tcp, to)?;
    }
    Ok(())
}

/// Endpoints that terminate serve while nothing else does, in each policy by itself; the health port is 503 by then.
#[test]
#[ignore = "needs a network namespace"]
fn terminating_endpoints_serve_when_nothing_else_is_left() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    route_vips(&cluster)?;
    let old = cluster.pod(cluster.node(1), "old", &PodOptions::app("web"))?;
    cluster.service("web", "", "type: LoadBalancer, externalTrafficPolicy: Local")?;
    let vip: SocketAddr = (cluster.await_address("web")?, 80).into();
    each_answers(cluster.client(), Protocol::Tcp, vip, &["old"], |_| {})?;
    let new = cluster.pod(cluster.node(2), "new", &PodOptions::app("web"))?;
    let [cluster_ip, _] = cluster.read_service("web")?.cluster_addresses()?;
    await_only(&cluster.node(1).ns, Protocol::Tcp, cluster_ip, &["new", "old"])?;
    old.start_terminating()?;
    // Cluster-wide the ready one is enough; under policy Local this node has only the terminating one.
    await_only(&cluster.node(1).ns, Protocol::Tcp, cluster_ip, &["new"])?;
    each_answers(cluster.client(), Protocol::Tcp, vip, &["old"], |_| {})?;
    let health = cluster.read_service("web")?.port("/spec/healthCheckNodePort")?;
    let answer = cluster.client().get(cluster.node(1).at(health))?;
    assert_eq!(answer.status, 503, "{answer:?}");
    new.delete()?;
    await_only(&cluster.node(2).ns, Protocol::Tcp, cluster_ip, &["old"])?;
    old.delete()?;
    await_refusal(&cluster.node(1).ns, Protocol::Tcp, cluster_ip)
}

/// An ingress of `ipMode: Proxy` is the load balancer's own address: nodes do not answer for it (KEP-1860).
#[test]
#[ignore = "needs a network namespace"]
fn an_address_that_a_load_balancer_proxies_is_left_to_it() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(1))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.router().ns.ip(&[format!("route add 198.51.100.7/32 via {}", cluster.node(1).ip)])?;
    let to: SocketAddr = ([198, 51, 100, 7], 80).into();
    cluster.service("web", "", "type: LoadBalancer, loadBalancerClass: example.com/other")?;
    for (mode, answers) in [("VIP", true), ("Proxy", false), ("VIP", true)] {
        cluster.kubectl(&[
            "patch", "service", "web", "--subresource=status", "--type=merge", "-p",
            &format!(r#"{{"status": {{"loadBalancer": {{"ingress": [{{"ip": "198.51.100.7", "ipMode": "{mode}"}}]}}}}}}"#),
        ])?;
        if answers {
            await_answer(cluster.client(), Protocol::Tcp, to)?;
            await_answer(&cluster.node(1).ns, Protocol::Udp, to)?;
        } else {
            await_no_answer(cluster.client(), Protocol::Tcp, to)?;
        }
    }
    Ok(())
}

/// A port that takes another number, a Service that takes another selector, a family that comes: each is followed, and
/// what is not offered any more is refused.
#[test]
#[ignore = "needs a network namespace"]
fn a_changed_port_selector_and_family_are_followed() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(1))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(1), "api-1", &PodOptions::app("api"))?;
    let ns = &cluster.node(1).ns;
    let made = cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: web}, \
         ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], ports: [{name: a, port: 80, targetPort: 8080}]}}",
    )?;
    let object = serde_json::to_value(made.first().context("a Service")?)?;
    let cluster_ip: IpAddr =
        object.pointer("/spec/clusterIP").and_then(|v| v.as_str()).context("an address")?.parse()?;
    let (old, new): (SocketAddr, SocketAddr) = ((cluster_ip, 80).into(), (cluster_ip, 81).into());
    each_answers(ns, Protocol::Tcp, old, &["web-1"], |_| {})?;
    let node_port = cluster.read_service("web")?.port("/spec/ports/0/nodePort")?;
    let [at, at6] = both(cluster.node(1), node_port);
    await_answer(cluster.client(), Protocol::Tcp, at)?;
    await_refusal(cluster.client(), Protocol::Tcp, at6)?;
    patch(&cluster, "web", r#"{"spec": {"ipFamilyPolicy": "RequireDualStack"}}"#)?;
    await_answer(cluster.client(), Protocol::Tcp, at6)?;
    patch(
        &cluster,
        "web",
        &format!(
            r#"{{"spec": {{"selector": {{"app": "api"}}, "ports": [{{"name": "b", "port": 81, "targetPort": 8080, "nodePort": {node_port}}}]}}}}"#
        ),
    )?;
    await_only(ns, Protocol::Tcp, new, &["api-1"])?;
    await_refusal(ns, Protocol::Tcp, old)?;
    await_only(cluster.client(), Protocol::Tcp, at, &["api-1"])?;
    patch(
        &cluster,
        "web",
        r#"{"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": null}}"#,
    )?;
    await_refusal(cluster.client(), Protocol::Tcp, at6)?;
    await_answer(cluster.client(), Protocol::Tcp, at).map(drop)
}
