//! Herald is taken from a node: what is left there is what was there before.

use anyhow::{Result, ensure};
use herald_e2e::{Lab, PodOptions, await_ok, herald_program};

use crate::footprint::Footprint;
use crate::order::{SOON, address, herald, service};

/// Everything that leaves something on a node: both ways to announce, a prefix, local addresses, layer 2's and conntrack's settings.
const CONFIG: &str = "peers:\n- {my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1}\n\
    address-pools:\n\
    - {name: routed, protocol: bgp, addresses: [192.0.2.0/28, '2001:db8:1::/124'], \
       bgp-advertisements: [{aggregation-length: 28, aggregation-length-v6: 124}]}\n\
    - {name: lan, protocol: layer2, addresses: [10.0.0.200-10.0.0.239, '2001:db8:10::200-2001:db8:10::23f']}\n\
    herald: {local-addresses: load-balancer}\n";

#[test]
#[ignore = "needs a network namespace"]
fn after_cleanup_a_node_is_as_it_was_down_to_each_setting() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    // What is others' stays.
    node.ns.exec(&[
        "nft",
        "add table ip others; add chain ip others in { type filter hook input priority 5; }; add rule ip others in accept",
    ])?;
    node.ns.ip(&["address add 192.0.2.200/32 dev lo", "rule add from 198.51.100.9 lookup 100"])?;
    node.ns.sysctl(&[("net/ipv4/conf/all/arp_announce", "1")])?;
    let before = Footprint::of(&lab, node)?;

    let flags = ["--nodeport-addresses=primary,127.0.0.0/8"];
    let (_controller, speakers) = herald(&lab, CONFIG, &flags)?;
    let of_pool = |name: &str, pool: &str, more: &str| {
        let annotated =
            format!("metadata: {{name: {name}, annotations: {{metallb.io/address-pool: {pool}}},");
        service(name, "web", &format!("ipFamilyPolicy: RequireDualStack\n  {more}"))
            .replace(&format!("metadata: {{name: {name},"), &annotated)
    };
    lab.apply(&of_pool("routed", "routed", "sessionAffinity: ClientIP"))?;
    lab.apply(&of_pool("lan", "lan", "externalTrafficPolicy: Local"))?;
    for name in ["routed", "lan"] {
        let vip = (address(&lab, name)?, 80).into();
        await_ok(SOON, "the Service", || lab.router().ns.get(vip).map(drop))?;
    }
    let lo = || node.ns.exec(&["ip", "-o", "address", "show", "dev", "lo"]);
    await_ok(SOON, "addresses of both Services on lo", || {
        let text = lo()?;
        ensure!(text.contains("192.0.2.0/32") && text.contains("2001:db8:10::200/128"), "{text}");
        Ok(())
    })?;
    for speaker in &speakers {
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
    }
    let left = Footprint::of(&lab, node)?.since(&before);
    for what in [
        "+ nft",
        "+ ip -o address",
        "+ ip -4 route",
        "+ ip -6 route",
        "+ file",
        "+ /proc/sys/net/ipv4/conf",
        "+ /proc/sys/net/netfilter",
    ] {
        ensure!(left.iter().any(|line| line.starts_with(what)), "{what}: nothing to clean: {left:#?}");
    }
    eprintln!("{} lines to clean", left.len());

    let state = format!("--state-directory={}", lab.state_directory(node).display());
    node.ns.exec(&[&herald_program()?.display().to_string(), "cleanup", &state])?;
    let left = Footprint::of(&lab, node)?.since(&before);
    ensure!(left.is_empty(), "left by Herald: {left:#?}");
    Ok(())
}
