//! What runs behind a Pod object: a namespace on its node's bridge and a server in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::namespace::{self, Namespace};
use crate::process::Process;
use crate::topology::{Node, await_ipv6, veth};

/// Below this the addresses of a node's pod network belong to the bridge and to whoever needs some.
pub(crate) const FIRST: u8 = 10;
const LAST: u8 = 250;

/// A port that a server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// HTTP.
    Tcp(u16),
    /// Datagrams.
    Udp(u16),
}

/// A pod's namespace and process. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) ns: Namespace,
    pub(crate) node: Node,
    pub(crate) octet: u8,
    pub(crate) uid: String,
    pub(crate) server: Process,
}

/// A pod's addresses, by its number on its node.
pub(crate) fn addresses(node: &Node, octet: u8) -> (Ipv4Addr, Ipv6Addr) {
    let digits = u16::from_str_radix(&octet.to_string(), 16).unwrap_or_default();
    (
        Ipv4Addr::new(10, 244, node.index, octet),
        Ipv6Addr::new(0x2001, 0xdb8, 2, u16::from(node.index), 0, 0, 0, digits),
    )
}

pub(crate) fn serve_arguments(ports: &[Port]) -> Vec<String> {
    ports
        .iter()
        .flat_map(|port| match port {
            Port::Tcp(number) => ["--tcp".to_owned(), number.to_string()],
            Port::Udp(number) => ["--udp".to_owned(), number.to_string()],
        })
        .collect()
}

impl Sandbox {
    pub(crate) fn ips(&self) -> [IpAddr; 2] {
        let (ip, ip6) = addresses(&self.node, self.octet);
        [ip.into(), ip6.into()]
    }

    /// Makes namespace and server. `octet` is the pod's number on its node.
    fn start(
        lab: &Lab,
        node: &Node,
        octet: u8,
        pod: (&str, &str),
        uid: &str,
        ports: &[Port],
    ) -> Result<Self> {
        let (namespace, name) = pod;
        let ns = Namespace::named(format!("{}-pod-{namespace}-{name}", lab.name()));
        lab.registry.namespace(ns.name())?;
        if namespace::list().iter().any(|other| other == ns.name()) {
            // Of a loop that was killed.
            namespace::delete(&[ns.name().to_owned()])?;
        }
        let port = format!("pod{octet}");
        namespace::ip_batch(None, &[format!("netns add {}", ns.name()), veth("eth0", &ns, &port, &node.ns)])?;
        let (ip, ip6) = addresses(node, octet);
        let gateways = [format!("10.244.{}.1", node.index), format!("2001:db8:2:{}::1", node.index)];
        // Host addresses: pods of one node meet at its IP layer, where answers of a Service are translated back, also on
        // machines without br_netfilter.
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("addr add {ip}/32 dev eth0"),
            format!("addr add {ip6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
        ];
        lines.extend(gateways.iter().map(|gateway| format!("route add {gateway} dev eth0")));
        lines.extend(gateways.iter().map(|gateway| format!("route add default via {gateway}")));
        ns.sysctl(&[
            ("net/ipv6/conf/all/accept_redirects", "0"),
            ("net/ipv6/conf/eth0/accept_redirects", "0"),
        ])?;
        ns.ip(&lines)?;
        // Hairpin, as network plugins have it: with br_netfilter a pod that reaches itself through a Service is bridged.
        node.ns.ip(&[
            format!("link set {port} master cni0 up"),
            format!("link set {port} type bridge_slave hairpin on"),
        ])?;
        await_ipv6(&ns)?;
        let command = lab.serve_command(name, ports)?;
        let server = Process::start(
            &lab.registry,
            Some(&ns),
            &format!("pod-{namespace}-{name}"),
            command,
            lab.lifetime,
        )?;
        server.await_log("listening", std::time::Duration::from_secs(10))?;
        Ok(Self { ns, node: node.clone(), octet, uid: uid.to_owned(), server })
    }

    fn stop(&self) -> Result<()> {
        self.server.kill();
        // The kernel takes its time with the namespace, and the bridge's end of the link goes only with it.
        self.node.ns.ip(&[format!("link del pod{}", self.octet)])?;
        namespace::delete(&[self.ns.name().to_owned()])
    }
}

impl Lab {
    /// The addresses of the pod's sandbox, which is made when there is none. `taken` are addresses of other pods.
    pub(crate) fn ensure_sandbox(
        &self,
        node: &Node,
        pod: (&str, &str),
        uid: &str,
        ports: &[Port],
        taken: &[IpAddr],
    ) -> Result<[IpAddr; 2]> {
        let key = (pod.0.to_owned(), pod.1.to_owned());
        let mut sandboxes = self.sandboxes();
        match sandboxes.get(&key) {
            Some(sandbox) if sandbox.uid == uid => return Ok(sandbox.ips()),
            Some(old) => {
                old.stop()?;
                sandboxes.remove(&key);
            }
            None => {}
        }
        // Round and round, as address managers do: a new pod does not inherit the connections of the last one.
        let last = self.last_octet(node);
        let free = (last + 1..=LAST).chain(FIRST..=last).find(|octet| {
            let ip = IpAddr::V4(addresses(node, *octet).0);
            !taken.contains(&ip) && !sandboxes.values().any(|sandbox| sandbox.ips().contains(&ip))
        });
        let octet = free.with_context(|| format!("no pod address is left on {}", node.name))?;
        self.set_last_octet(node, octet);
        let sandbox = Sandbox::start(self, node, octet, pod, uid, ports)?;
        let ips = sandbox.ips();
        sandboxes.insert(key, sandbox);
        Ok(ips)
    }

    /// Ends a pod's server and removes its namespace, at once. The Pod object is left.
    pub(crate) fn remove_sandbox(&self, namespace: &str, name: &str) -> Result<bool> {
        let Some(sandbox) = self.sandboxes().remove(&(namespace.to_owned(), name.to_owned())) else {
            return Ok(false);
        };
        sandbox.stop()?;
        Ok(true)
    }
}
