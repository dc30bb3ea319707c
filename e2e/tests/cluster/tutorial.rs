//! What the tutorials' suites share: a lab with Herald on it, Services in one line, and the question by which address a
//! masqueraded client may be seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use herald_e2e::{
    Answer, ClientError, HttpOptions, Lab, LabBuilder, Namespace, Node, Pod, Process, await_ok,
};
use k8s_openapi::api::core::v1::Service;
use kube::Api;

/// For whatever takes milliseconds where all is well.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// For an answer that is there already: long enough for a busy machine.
const ANSWER: Duration = Duration::from_secs(5);
/// For a silence to be called one.
const SILENCE: Duration = Duration::from_millis(300);

/// The two ways to ask a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// Both of them.
pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A lab with a controller and a speaker on each node. The processes go before the lab.
pub(crate) struct Cluster {
    _processes: Vec<Process>,
    lab: Lab,
}

impl Deref for Cluster {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Cluster {
    /// Starts the lab and Herald on it, without a configuration.
    pub(crate) fn start(builder: LabBuilder) -> Result<Self> {
        let lab = builder.control_plane().start()?;
        let mut processes = vec![lab.controller("controller", &[])?];
        processes.extend(lab.speakers(&[])?);
        Ok(Self { _processes: processes, lab })
    }

    /// A Service for the pods `app=<name>` in both families, TCP and UDP, port 80 to their 8080; `more` is further YAML
    /// of the spec in flow style. Its annotations are as given.
    pub(crate) fn service(&self, name: &str, annotations: &str, more: &str) -> Result<ServiceObject> {
        let comma = if more.is_empty() { "" } else { ", " };
        let applied = self.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
             spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: {name}}}, ports: [\
             {{name: tcp, protocol: TCP, port: 80, targetPort: 8080}}, \
             {{name: udp, protocol: UDP, port: 80, targetPort: 8080}}]{comma}{more}}}}}"
        ))?;
        Ok(ServiceObject(serde_json::to_value(applied.first().context("a Service")?)?))
    }

    /// A Service as it is now.
    pub(crate) fn read_service(&self, name: &str) -> Result<ServiceObject> {
        self.block_on(async |client| {
            let service = Api::<Service>::namespaced(client, "default").get(name).await?;
            Ok(ServiceObject(serde_json::to_value(service)?))
        })
    }

    /// The line that `kubectl get svc` prints of a Service, in words.
    pub(crate) fn service_line(&self, name: &str) -> Result<Vec<String>> {
        let table = self.kubectl(&["get", "svc", name])?;
        let mut lines = table.lines();
        let head = lines.next().unwrap_or_default();
        assert!(head.starts_with("NAME "), "{table}");
        let line = lines.next().context("a line of the Service")?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until `kubectl get svc` prints this in the column EXTERNAL-IP.
    pub(crate) fn await_external_ip(&self, name: &str, wanted: &str) -> Result<()> {
        await_ok(SOON, &format!("EXTERNAL-IP {wanted} of {name}"), || {
            let line = self.service_line(name)?;
            if line.get(3).map(String::as_str) != Some(wanted) {
                bail!("{line:?}");
            }
            Ok(())
        })
    }

    /// Waits until a Service has one load balancer address, and which.
    pub(crate) fn await_address(&self, name: &str) -> Result<IpAddr> {
        await_ok(SOON, &format!("an address of {name}"), || {
            let service = self.read_service(name)?;
            let address = service.text("/status/loadBalancer/ingress/0/ip").context("none yet")?;
            Ok::<IpAddr, anyhow::Error>(address.parse()?)
        })
    }

    /// The pod that answered.
    pub(crate) fn answered_by(&self, answer: &Answer) -> Pod<'_> {
        let pod = self.existing_pod("default", &answer.pod);
        pod.unwrap_or_else(|| panic!("no pod of the lab answered: {answer:?}"))
    }

    /// The answer's client is an address of the node that the packet entered at: what masquerading makes of it. Its
    /// InternalIP on the way to another node, the address of its pods' bridge on the way to a pod of its own.
    pub(crate) fn assert_masqueraded_by(&self, node: &Node, answer: &Answer) {
        let pod = self.answered_by(answer);
        let client = client_of(answer);
        let wanted: IpAddr = match (pod.node.index == node.index, client.is_ipv4()) {
            (false, true) => node.ip.into(),
            (false, false) => node.ip6.into(),
            (true, true) => [10, 244, 0, 1].map(|part| if part == 0 { node.index } else { part }).into(),
            (true, false) => [0x2001, 0xdb8, 2, u16::from(node.index), 0, 0, 0, 1].into(),
        };
        assert_eq!(client, wanted, "asked at {}, answered by {} on {}", node.name, pod.name, pod.node.name);
    }
}

/// A Service as the API server has it.
#[derive(Debug)]
pub(crate) struct ServiceObject(serde_json::Value);

impl ServiceObject {
    /// A text of it, by JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer)?.as_str().map(str::to_owned)
    }

    /// A port of it, by JSON pointer.
    pub(crate) fn port(&self, pointer: &str) -> Result<u16> {
        let number = self.0.pointer(pointer).and_then(serde_json::Value::as_u64);
        Ok(u16::try_from(number.with_context(|| format!("{pointer} of {}", self.0))?)?)
    }

    /// An annotation of it.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.0.pointer("/metadata/annotations")?.get(name)?.as_str()
    }

    /// Port 80 of its cluster addresses, IPv4 first.
    pub(crate) fn cluster_addresses(&self) -> Result<[SocketAddr; 2]> {
        let address = |index: usize| -> Result<IpAddr> {
            let text = self.text(&format!("/spec/clusterIPs/{index}")).context("two cluster addresses")?;
            Ok(text.parse()?)
        };
        let mut both = [address(0)?, address(1)?];
        both.sort();
        Ok(both.map(|ip| (ip, 80).into()))
    }

    /// The node port of both protocols: they are different numbers.
    pub(crate) fn node_port(&self, protocol: Protocol) -> Result<u16> {
        self.port(match protocol {
            Protocol::Tcp => "/spec/ports/0/nodePort",
            Protocol::Udp => "/spec/ports/1/nodePort",
        })
    }
}

/// The same port of a node in both families.
pub(crate) fn both(node: &Node, port: u16) -> [SocketAddr; 2] {
    [node.at(port), node.at6(port)]
}

/// The client's address as the pod saw it.
pub(crate) fn client_of(answer: &Answer) -> IpAddr {
    let client = answer.client.map(|client| client.ip());
    client.unwrap_or_else(|| panic!("no pod answered: {answer:?}"))
}

/// One question, by a connection or a datagram of its own.
pub(crate) fn ask(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<Answer, ClientError> {
    match protocol {
        Protocol::Tcp => ns.http(to, &HttpOptions::default().timeout(ANSWER)),
        Protocol::Udp => ns.udp(to, ANSWER),
    }
}

fn ask_briefly(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<Answer, ClientError> {
    match protocol {
        Protocol::Tcp => ns.http(to, &HttpOptions::default().timeout(SILENCE)),
        Protocol::Udp => ns.udp(to, SILENCE),
    }
}

/// Waits for the first answer.
pub(crate) fn await_answer(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
    await_ok(SOON, &format!("an answer of {to} by {protocol:?} in {}", ns.name()), || {
        ask_briefly(ns, protocol, to)
    })
}

/// Asks until each of these pods has answered, and nobody else. Every answer from the first one on is checked, and none
/// may be missing.
pub(crate) fn each_answers(
    ns: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    pods: &[&str],
    mut check: impl FnMut(&Answer),
) -> Result<()> {
    let wanted: BTreeSet<&str> = pods.iter().copied().collect();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    check(&await_answer(ns, protocol, to)?);
    await_ok(SOON, &format!("answers of {wanted:?} at {to} by {protocol:?}"), || {
        let answer = ask(ns, protocol, to);
        let answer = answer.unwrap_or_else(|error| panic!("{to} by {protocol:?} answered before: {error}"));
        check(&answer);
        assert!(wanted.contains(answer.pod.as_str()), "{} answered for {wanted:?}", answer.pod);
        seen.insert(answer.pod);
        if seen.len() == wanted.len() { Ok(()) } else { Err(format!("{seen:?} so far")) }
    })
}

/// Waits until packets are dropped without a word, and sees that they go on being so.
pub(crate) fn await_silence(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<()> {
    let look = || match ask_briefly(ns, protocol, to) {
        Err(ClientError::TimedOut) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    await_ok(SOON, &format!("silence of {to} by {protocol:?}"), look)?;
    if let Err(other) = look() {
        bail!("{to} by {protocol:?} was silent and is no more: {other}");
    }
    Ok(())
}

/// Waits until packets are refused. Nodes limit how often they say so, hence not the first one has to be.
pub(crate) fn await_refusal(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<()> {
    await_ok(SOON, &format!("a refusal of {to} by {protocol:?}"), || match ask_briefly(ns, protocol, to) {
        Err(ClientError::Refused) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// Waits until nobody answers any more, by whatever error.
pub(crate) fn await_no_answer(ns: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<()> {
    await_ok(SOON, &format!("no answer of {to} by {protocol:?}"), || match ask_briefly(ns, protocol, to) {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{} answers", answer.pod)),
    })
}

/// Waits until these pods answer and nobody else does: as many answers in a row come from them as make it unlikely (1 in
/// 10,000 with one more endpoint) that another is still in use, and each of them is among them.
pub(crate) fn await_only(ns: &Namespace, protocol: Protocol, to: SocketAddr, pods: &[&str]) -> Result<()> {
    let wanted: BTreeSet<&str> = pods.iter().copied().collect();
    // (n / (n + 1)) ^ asked <= 1 / 10,000
    let asked = pods.len() * 10 + 10;
    await_ok(SOON, &format!("answers of {wanted:?} alone at {to} by {protocol:?}"), || {
        let mut seen = BTreeSet::new();
        for _ in 0..asked {
            seen.insert(ask_briefly(ns, protocol, to).map_err(|error| error.to_string())?.pod);
        }
        let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
}
