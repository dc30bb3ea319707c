//! NodeLocal DNS: a cache on the node that holds the address of `kube-dns` and a link-local one on an interface of its own, and takes
//! packets to and from them out of tracking.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{CLUSTER_DNS, Lab, Namespace, PodOptions, Port, at, await_ok};

use crate::order::{SOON, config, herald, ready};

const LINK_LOCAL: &str = "169.254.20.10";
const ANSWER: Duration = Duration::from_secs(1);

/// Answers datagrams at one address, from that address.
struct Cache {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cache {
    fn start(ns: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| UdpSocket::bind(address))?.with_context(|| address.to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut buffer = [0; 512];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((_, client)) = socket.recv_from(&mut buffer) else { continue };
                    let _ = socket.send_to(format!("pod=cache\nclient={client}\n").as_bytes(), client);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// As the cache's own setup has it, in the tables of iptables' raw and filter: both addresses, both directions, both protocols.
fn notrack() -> String {
    let both = format!("{{ {CLUSTER_DNS}, {LINK_LOCAL} }}");
    let rules = |field: &str, port: &str| {
        ["udp", "tcp"].map(|of| format!("ip {field} {both} {of} {port} 53 notrack; ")).concat()
    };
    format!(
        "add table ip raw; add chain ip raw PREROUTING {{ type filter hook prerouting priority raw; }}; \
         add chain ip raw OUTPUT {{ type filter hook output priority raw; }}; {} {} {}",
        rules("daddr", "dport").replace("ip daddr", "add rule ip raw PREROUTING ip daddr"),
        rules("saddr", "sport").replace("ip saddr", "add rule ip raw OUTPUT ip saddr"),
        rules("daddr", "dport").replace("ip daddr", "add rule ip raw OUTPUT ip daddr"),
    )
}

#[test]
#[ignore = "needs a network namespace"]
fn node_local_dns_answers_at_the_address_of_kube_dns_on_its_node_and_kube_dns_elsewhere() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (node, other) = (lab.node(1), lab.node(2));
    let (near, far) = (
        lab.pod(node, "near-1", &PodOptions::app("near"))?,
        lab.pod(other, "far-1", &PodOptions::app("far"))?,
    );
    let dns = PodOptions::app("dns").ports(&[Port::Udp(53), Port::Tcp(53)]);
    let _dns = lab.pod(other, "dns-1", &dns)?;
    lab.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: kube-dns}}, spec: {{clusterIP: {CLUSTER_DNS}, selector: {{app: dns}}, \
         ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]}}}}"
    ))?;
    let _herald = herald(&lab, &config("192.0.2.0/24"), &[])?;
    let dns = at(CLUSTER_DNS, 53);
    let answers = |ns: &Namespace, at: SocketAddr, who: &str| {
        await_ok(SOON, &format!("{who} at {at}"), || {
            let (udp, tcp) = (ns.udp(at, ANSWER)?, ns.get(at)?);
            ensure!(udp.pod == who && tcp.pod == who, "{udp:?} {tcp:?}");
            Ok(())
        })
    };
    for ns in [&near.ns, &node.ns, &far.ns] {
        answers(ns, dns, "dns-1")?;
    }

    // A kernel without links of type dummy has bridges.
    node.ns.ip(&[
        "link add name nodelocaldns type bridge".to_owned(),
        "link set nodelocaldns up".to_owned(),
        format!("addr add {CLUSTER_DNS}/32 dev nodelocaldns"),
        format!("addr add {LINK_LOCAL}/32 dev nodelocaldns"),
    ])?;
    node.ns.exec(&["nft", &notrack()])?;
    let _tcp = lab.serve(&node.ns, "cache", &[Port::Tcp(53)])?;
    let _udp = [Cache::start(&node.ns, dns)?, Cache::start(&node.ns, at(LINK_LOCAL, 53))?];
    for ns in [&near.ns, &node.ns] {
        answers(ns, dns, "cache")?;
        answers(ns, at(LINK_LOCAL, 53), "cache")?;
    }
    answers(&far.ns, dns, "dns-1")?;
    // A speaker that starts anew finds the address there, and leaves it.
    let speaker = &_herald.1[0];
    ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
    let _speaker = lab.speaker(node, &[])?;
    ready(node)?;
    answers(&near.ns, dns, "cache")
}
