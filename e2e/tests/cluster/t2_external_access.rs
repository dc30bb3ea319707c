//! Tutorial T2, access from outside by externalIPs and node ports.

use anyhow::{Result, bail};
use herald_e2e::{HttpOptions, Lab, PodOptions, at, await_ok};

use crate::tutorial::{
    Cluster, PROTOCOLS, Protocol, SOON, ask, await_answer, await_refusal, both, client_of, each_answers,
};

/// Line 1.
#[test]
#[ignore = "needs a network namespace"]
fn an_external_ip_answers_through_a_node_that_has_no_pod_of_the_service() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(3))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.pod(cluster.node(2), "web-2", &PodOptions::app("web"))?;
    let (entry, client) = (cluster.node(3), cluster.client());
    cluster.router().ns.ip(&[
        format!("route add 169.10.10.0/24 via {}", entry.ip),
        format!("route add 2001:db8:a9::/64 via {}", entry.ip6),
    ])?;
    cluster.service("web", "", r#"externalIPs: [169.10.10.1, "2001:db8:a9::1"]"#)?;
    for to in [at("169.10.10.1", 80), at("2001:db8:a9::1", 80)] {
        for protocol in PROTOCOLS {
            each_answers(client, protocol, to, &["web-1", "web-2"], |answer| {
                cluster.assert_masqueraded_by(entry, answer);
            })?;
        }
    }
    assert_eq!(cluster.service_line("web")?[3], "169.10.10.1,2001:db8:a9::1");

    // The Service gives it up, and nobody answers there any more.
    cluster.service("web", "", "")?;
    await_ok(SOON, "the external address to be gone", || {
        match client.http(at("169.10.10.1", 80), &HttpOptions::default()) {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        }
    })
}

/// Line 2.
#[test]
#[ignore = "needs a network namespace"]
fn a_service_keeps_its_cluster_ip_when_it_becomes_a_node_port_of_a_chosen_number() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    let asker = cluster.pod(cluster.node(2), "asker", &PodOptions::app("asker"))?;
    let before = cluster.service("web", "", "")?;
    let [cluster_ip, cluster_ip6] = before.cluster_addresses()?;
    await_answer(&asker.ns, Protocol::Tcp, cluster_ip)?;

    let patch = r#"{"spec":{"type":"NodePort","ports":[{"port":80,"protocol":"TCP","nodePort":30000}]}}"#;
    cluster.kubectl(&["patch", "service", "web", "-p", patch])?;
    for node in cluster.nodes() {
        for to in both(node, 30000) {
            await_answer(cluster.client(), Protocol::Tcp, to)?;
            each_answers(cluster.client(), Protocol::Tcp, to, &["web-1"], |answer| {
                cluster.assert_masqueraded_by(node, answer);
            })?;
        }
    }
    let after = cluster.read_service("web")?;
    assert_eq!(after.cluster_addresses()?, [cluster_ip, cluster_ip6]);
    for (to, own) in [(cluster_ip, asker.ip), (cluster_ip6, asker.ip6)] {
        for protocol in PROTOCOLS {
            let answer = ask(&asker.ns, protocol, to)?;
            assert_eq!((answer.pod.as_str(), client_of(&answer)), ("web-1", own));
        }
    }
    let line = cluster.service_line("web")?;
    assert_eq!(
        (line[1].as_str(), line[2].clone(), line[3].as_str()),
        ("NodePort", cluster_ip.ip().to_string(), "<none>")
    );
    assert!(line[4].contains("80:30000/TCP"), "{line:?}");
    // The node port is the nodes', not the cluster address's.
    await_refusal(&asker.ns, Protocol::Tcp, (cluster_ip.ip(), 30000).into())
}

/// Line 3.
#[test]
#[ignore = "needs a network namespace"]
fn an_external_ip_works_on_nodes_whether_they_have_it_route_it_or_herald_adds_it() -> Result<()> {
    let cluster = Cluster::start(Lab::builder().nodes(2))?;
    cluster.pod(cluster.node(1), "web-1", &PodOptions::app("web"))?;
    cluster.service("web", "", "externalIPs: [10.22.0.0]")?;
    let to = at("10.22.0.0", 80);
    let on_lo = |index: u8| cluster.node(index).ns.exec(&["ip", "-o", "-4", "address", "show", "dev", "lo"]);
    let works = |index: u8| -> Result<()> {
        let node = cluster.node(index);
        await_answer(&node.ns, Protocol::Tcp, to)?;
        assert!(node.ns.curl("http://10.22.0.0")?.contains("pod=web-1"));
        for protocol in PROTOCOLS {
            each_answers(&node.ns, protocol, to, &["web-1"], |answer| {
                cluster.assert_masqueraded_by(node, answer);
            })?;
        }
        Ok(())
    };
    // Routed to the node: by its default route, here.
    works(1)?;
    works(2)?;
    // A local address, by whoever administers the node.
    let own = cluster.node(2);
    own.ns.ip(&["addr add 10.22.0.0/32 dev lo"])?;
    works(2)?;

    // Herald adds it where it is missing, and takes away what it has added.
    cluster.configure_herald("herald: {local-addresses: all}\n")?;
    await_ok(SOON, "the address on lo of node1", || {
        let found = on_lo(1)?;
        if found.contains(" 10.22.0.0/32 ") { Ok(()) } else { bail!("{found}") }
    })?;
    works(1)?;
    works(2)?;
    cluster.delete("v1/Service", "default", "web")?;
    await_ok(SOON, "lo of node1 to be as it was", || {
        let found = on_lo(1)?;
        if found.contains("10.22.0.0") { bail!("{found}") } else { Ok(()) }
    })?;
    assert!(on_lo(2)?.contains(" 10.22.0.0/32 "), "the administrator's own stays: {}", on_lo(2)?);
    Ok(())
}
