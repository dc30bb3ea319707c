//! kube-proxy in its modes nftables (the real one) and iptables (its chains, as iptables-nft writes them).
//!
//! What `herald doctor node` says of it is a pure test (`every_check_finds_its_trouble`): in a lab it sees all labs' processes. Mode
//! ipvs wants a module that not every kernel has: `speaker/src/neighbours.rs` has what is judged of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::bench::metallb::start_kube_proxy;
use herald_e2e::{Lab, Node, PodOptions, at, await_ok};

use super::through;
use crate::order::{SOON, address, config, ready, service};

/// kube-proxy writes at most once a second, and what is gone at its next change.
const KUBE_PROXY: Duration = Duration::from_secs(60);

fn field(lab: &Lab, jsonpath: &str) -> Result<String> {
    lab.kubectl(&["get", "service", "web", "-o", &format!("jsonpath={jsonpath}")])
}

fn has_rules(node: &Node, table: &str, map: &str, ip: IpAddr) -> bool {
    let element = format!("{{ {ip} . tcp . 80 }}");
    node.ns.exec(&["nft", "get", "element", "ip", table, map, &element]).is_ok()
}

#[test]
#[ignore = "needs a network namespace"]
fn beside_a_living_kube_proxy_herald_announces_or_serves_its_part_and_full_mode_says_what_is_wrong()
-> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (off, external) = (lab.node(1), lab.node(2));
    let pods = [
        lab.pod(off, "near-1", &PodOptions::app("near"))?,
        lab.pod(external, "web-1", &PodOptions::app("web"))?,
    ];
    lab.configure_herald(&config("192.0.2.0/24"))?;
    let _controller = lab.controller("controller", &[])?;
    let _kube_proxies =
        lab.nodes().iter().map(|node| start_kube_proxy(&lab, node)).collect::<Result<Vec<_>>>()?;
    lab.apply(&service("web", "web", ""))?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let cluster_ip = at(&field(&lab, "{.spec.clusterIP}")?, 80);
    let node_port: u16 = field(&lab, "{.spec.ports[0].nodePort}")?.parse()?;
    let _off = lab.speaker(off, &["--proxy=off"])?;
    let served = lab.speaker(external, &["--proxy=external"])?;
    lab.nodes().iter().try_for_each(ready)?;
    lab.router().await_route(&format!("{}/32", vip.ip()), &[off.ip.into(), external.ip.into()], SOON)?;
    let all_works = || -> Result<()> {
        for (node, pod) in lab.nodes().iter().zip(&pods) {
            through(&lab, node, vip)?;
            await_ok(KUBE_PROXY, "the ClusterIP", || pod.ns.get(cluster_ip))?;
            await_ok(KUBE_PROXY, "the ClusterIP from the node", || node.ns.get(cluster_ip))?;
            await_ok(KUBE_PROXY, "the node port", || lab.router().ns.get(node.at(node_port)))?;
        }
        Ok(())
    };
    all_works()?;
    ensure!(!off.ns.exec(&["nft", "list", "tables"])?.contains("herald"), "--proxy=off writes rules");
    let of_herald = |ip| has_rules(external, "herald", "services", ip);
    ensure!(of_herald(vip.ip()) && !of_herald(cluster_ip.ip()), "each has its part");

    // Full mode beside a kube-proxy that lives: refused with words; told to take over, it serves, and says who came back.
    served.terminate(SOON)?;
    let refused = lab.speaker(external, &[])?;
    ensure!(!refused.await_exit(SOON)?.success(), "it started beside kube-proxy");
    let log = refused.log();
    ensure!(log.contains("nftables tables `kube-proxy`") && log.contains("--take-over"), "{log}");
    let taken = lab.speaker(external, &["--take-over"])?;
    ready(external)?;
    all_works()?;
    // Something new for kube-proxy to write.
    lab.apply(&service("more", "web", ""))?;
    taken.await_log("kube-proxy has put its rules back: it still runs on this node; stop it", KUBE_PROXY)?;
    all_works()?;
    ensure!(of_herald(cluster_ip.ip()) && has_rules(external, "kube-proxy", "service-ips", cluster_ip.ip()));
    Ok(())
}

/// What kube-proxy has in mode iptables for one Service: as it marks, as it masquerades, and as it sends to one endpoint.
fn by_iptables(cluster_ip: IpAddr, endpoint: SocketAddr) -> String {
    format!(
        "table ip nat {{\n\
         chain KUBE-MARK-MASQ {{ meta mark set meta mark or 0x4000; }}\n\
         chain KUBE-SEP-A {{ ip saddr {ip} jump KUBE-MARK-MASQ; meta l4proto tcp dnat to {endpoint}; }}\n\
         chain KUBE-SVC-A {{ ip saddr != 10.244.0.0/16 ip daddr {cluster_ip} tcp dport 80 jump KUBE-MARK-MASQ; jump KUBE-SEP-A; }}\n\
         chain KUBE-SERVICES {{ ip daddr {cluster_ip} tcp dport 80 jump KUBE-SVC-A; }}\n\
         chain KUBE-POSTROUTING {{ meta mark & 0x4000 != 0x4000 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}\n\
         chain PREROUTING {{ type nat hook prerouting priority dstnat; policy accept; jump KUBE-SERVICES; }}\n\
         chain OUTPUT {{ type nat hook output priority -100; policy accept; jump KUBE-SERVICES; }}\n\
         chain POSTROUTING {{ type nat hook postrouting priority srcnat; policy accept; jump KUBE-POSTROUTING; }}\n\
         }}\n",
        ip = endpoint.ip()
    )
}

#[test]
#[ignore = "needs a network namespace"]
fn beside_chains_of_kube_proxys_iptables_mode_each_serves_its_part_and_full_mode_is_refused() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (node, far) = (lab.node(1), lab.node(2));
    let near = lab.pod(node, "near-1", &PodOptions::app("near"))?;
    let web = lab.pod(far, "web-1", &PodOptions::app("web"))?;
    lab.configure_herald(&config("192.0.2.0/24"))?;
    let _controller = lab.controller("controller", &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    let cluster_ip = at(&field(&lab, "{.spec.clusterIP}")?, 80);
    let rules = tempfile::NamedTempFile::new()?;
    std::fs::write(rules.path(), by_iptables(cluster_ip.ip(), web.at(8080)))?;
    node.ns.exec(&["nft", "-f", &rules.path().display().to_string()])?;

    let refused = lab.speaker(node, &[])?;
    ensure!(!refused.await_exit(SOON)?.success(), "it started beside kube-proxy");
    ensure!(refused.log().contains("iptables chains `KUBE-SERVICES`"), "{}", refused.log());

    let _external = lab.speaker(node, &["--proxy=external"])?;
    ready(node)?;
    through(&lab, node, vip)?;
    let seen = |answer: herald_e2e::Answer| answer.client.map(|client| client.ip());
    // Both mark with the same bit: who masquerades, and who does not, is as without the other.
    ensure!(seen(lab.client().get(vip)?) == Some(node.ip.into()), "a client from outside is masqueraded");
    ensure!(seen(near.ns.get(cluster_ip)?) == Some(near.ip), "a pod is not");
    let of_node = seen(node.ns.get(cluster_ip)?);
    ensure!(of_node == Some(node.ip.into()), "the node itself is: {of_node:?}");
    Ok(())
}
