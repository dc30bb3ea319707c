//! Tutorial T4, MetalLB 0.2.1: its ConfigMap, BGP and BIRD.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use herald_e2e::{Answer, CLIENT, Lab, at, await_ok};

use crate::tutorial::{Cluster, Protocol, SOON, ask, await_answer, client_of};

/// The ConfigMap of the tutorial, to the letter.
const CONFIG: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {namespace: metallb-system, name: config}
data:
  config: |
    peers:
    - {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
    address-pools:
    - name: default
      cidr: [192.168.10.0/24]
      advertisements:
      - {aggregation-length: 32}
";
const FIRST: &str = "192.168.10.0/32";
const SECOND: &str = "192.168.10.1/32";

/// The nodes' addresses, by number.
fn hops(lab: &Lab, nodes: &[u8]) -> Vec<IpAddr> {
    nodes.iter().map(|index| lab.node(*index).ip.into()).collect()
}

/// The answer came through one of these nodes, and shows an address of it.
fn assert_masqueraded_by_one_of(cluster: &Cluster, nodes: &[u8], answer: &Answer) {
    let pod = cluster.answered_by(answer);
    let entry = nodes.iter().find(|index| {
        let bridge: IpAddr = [10, 244, **index, 1].into();
        let node: IpAddr = cluster.node(**index).ip.into();
        client_of(answer) == if pod.node.index == **index { bridge } else { node }
    });
    assert!(entry.is_some(), "no node of {nodes:?} has masqueraded {answer:?}");
}

/// Lines 1 to 4.
#[test]
#[ignore = "needs a network namespace"]
fn the_config_map_of_0_2_1_gives_an_exposed_deployment_an_address_that_bird_learns_and_clients_reach()
-> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(3).bird())?;
    let router = cluster.router();
    cluster.kubectl_with_input(&["apply", "-f", "-"], CONFIG)?;
    cluster.kubectl(&["create", "deployment", "nginx", "--image=nginx", "--port=80", "--replicas=2"])?;
    let pods = cluster.await_pods("default", "app=nginx", 2, SOON)?;
    cluster.kubectl(&["expose", "deployment", "nginx", "--type", "LoadBalancer"])?;
    cluster.await_external_ip("nginx", "192.168.10.0")?;

    // With the default policy every node serves.
    router.await_route(FIRST, &hops(&cluster, &[1, 2, 3]), SOON)?;
    router.await_kernel_route(FIRST, 3, SOON)?;
    assert_eq!(router.routes()?.len(), 1, "{:?}", router.routes()?);
    let vip = at("192.168.10.0", 80);
    assert!(cluster.client().curl("http://192.168.10.0")?.contains("pod=nginx-"));
    let mut seen = BTreeSet::new();
    await_ok(SOON, "answers by both pods through BIRD", || {
        let answer = ask(cluster.client(), Protocol::Tcp, vip).expect("an announced address answers");
        assert_masqueraded_by_one_of(&cluster, &[1, 2, 3], &answer);
        seen.insert(answer.pod);
        if seen.iter().eq(pods.iter().collect::<BTreeSet<_>>()) { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;

    // On each node it works although no interface has it.
    for node in cluster.nodes() {
        let addresses = node.ns.exec(&["ip", "-o", "address"])?;
        assert!(!addresses.contains("192.168.10."), "{addresses}");
        assert!(node.ns.curl("http://192.168.10.0")?.contains("pod=nginx-"));
        let answer = ask(&node.ns, Protocol::Tcp, vip)?;
        cluster.assert_masqueraded_by(node, &answer);
    }

    // Only nodes that serve it bring it to BIRD.
    cluster.kubectl(&["patch", "svc", "nginx", "-p", r#"{"spec":{"externalTrafficPolicy":"Local"}}"#])?;
    let serving: BTreeSet<u8> =
        pods.iter().map(|pod| cluster.existing_pod("default", pod).map_or(0, |pod| pod.node.index)).collect();
    let serving: Vec<u8> = serving.into_iter().collect();
    assert_eq!(serving.len(), 2, "the lab spreads pods over its nodes");
    router.await_route(FIRST, &hops(&cluster, &serving), SOON)?;
    router.await_kernel_route(FIRST, 2, SOON)?;
    // A node that stays may have its rules a moment after another one has withdrawn.
    await_ok(SOON, "the client's own address", || {
        let client =
            client_of(&ask(cluster.client(), Protocol::Tcp, vip).map_err(|error| error.to_string())?);
        if client == IpAddr::from(CLIENT) { Ok(()) } else { Err(client.to_string()) }
    })?;

    // The Service goes, its route goes, and its address rests.
    cluster.kubectl(&["delete", "service", "nginx"])?;
    router.await_route(FIRST, &[], SOON)?;
    router.await_kernel_route(FIRST, 0, SOON)?;
    assert!(ask(cluster.client(), Protocol::Tcp, vip).is_err());
    cluster.kubectl(&["expose", "deployment", "nginx", "--type", "LoadBalancer"])?;
    cluster.await_external_ip("nginx", "192.168.10.1")?;
    router.await_route(SECOND, &hops(&cluster, &[1, 2, 3]), SOON)?;
    router.await_kernel_route(SECOND, 3, SOON)?;
    let answer = await_answer(cluster.client(), Protocol::Tcp, at("192.168.10.1", 80))?;
    assert_masqueraded_by_one_of(&cluster, &[1, 2, 3], &answer);
    assert_eq!(router.next_hops(FIRST)?, Vec::<IpAddr>::new());
    Ok(())
}

/// Line 4, with a shorter cool-down. One Service after the other asks for an address: each gets the lowest that does not
/// rest, so none comes twice until the first comes again.
#[test]
#[ignore = "needs a network namespace"]
fn an_address_is_given_to_the_next_service_only_after_its_cool_down() -> Result<()> {
    const COOL_DOWN: Duration = Duration::from_secs(3);
    let cluster = Cluster::start(Lab::builder().nodes(1))?;
    // Larger than what can be asked for in three seconds: with nothing else left an address need not rest.
    cluster.configure_herald(
        "address-pools:\n- {name: default, cidr: [192.168.10.0/23]}\nherald: {cool-down: 3s}\n",
    )?;
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ipFamilyPolicy: SingleStack, \
                selector: {app: none}, ports: [{port: 80}]";
    let mut given: Vec<IpAddr> = Vec::new();
    let mut freed = None;
    let again = await_ok(SOON, "the first address again", || {
        let name = format!("next-{}", given.len());
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
        ))?;
        let address = cluster.await_address(&name)?;
        let came = Instant::now();
        let first_freed = *freed.get_or_insert_with(Instant::now);
        cluster.delete("v1/Service", "default", &name)?;
        if given.first() == Some(&address) {
            return Ok(came - first_freed);
        }
        assert!(!given.contains(&address), "{address} was given twice, but not {:?}", given.first());
        given.push(address);
        anyhow::bail!("{address}")
    })?;
    assert_eq!(given.first().map(ToString::to_string).as_deref(), Some("192.168.10.0"));
    assert_eq!(given.get(1).map(ToString::to_string).as_deref(), Some("192.168.10.1"));
    assert!(again >= COOL_DOWN, "after {again:?} only, and {} others", given.len());
    Ok(())
}
