//! Layer 2: who answers for an address on the nodes' own segment, and how fast another node does when that one is gone.
//!
//! The client is the router: a host on the segment. Nodes 1 and 2 may own addresses; the pods are on node 3, which the
//! label keeps out, so that what is measured is the owner and not its pods.

mod dead_node;
mod history;
mod recorder;
mod strangers;
mod translator;
mod versions;
mod walled;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{
    Connection, HttpOptions, Lab, NAMESPACE, Node, PodOptions, PollOptions, PollReport, Poller, Process, at,
    await_ok, await_until,
};

use crate::order::{SOON, herald, service};

const POOL: &str = "address-pools:\n\
    - {name: lan, protocol: layer2, addresses: [10.0.0.200-10.0.0.239, '2001:db8:10::200-2001:db8:10::23f']}\n\
    herald: {cordoned-nodes: leave}\n";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers=";
/// The kind may come after the speakers, which look for it each minute at the latest.
const STATUS: Duration = Duration::from_secs(70);
/// From the death of an owner's speaker to the last connection that failed.
const MOVED: Duration = Duration::from_millis(500);

/// A lab with three nodes, the last of which has the pods and owns nothing.
struct Layer2 {
    speakers: Vec<Process>,
    _controller: Process,
    lab: Lab,
}

impl Layer2 {
    fn start() -> Result<Self> {
        Self::start_after(|_| Ok(()))
    }

    /// What is done before any speaker starts.
    fn start_after(prepare: impl FnOnce(&Lab) -> Result<()>) -> Result<Self> {
        let lab = Lab::builder().nodes(3).control_plane().start()?;
        prepare(&lab)?;
        lab.pod(lab.node(3), "web-1", &PodOptions::app("web"))?;
        lab.kubectl(&["label", "node", "node3", EXCLUDED])?;
        let (controller, speakers) = herald(&lab, POOL, &[])?;
        Ok(Self { speakers, _controller: controller, lab })
    }

    /// A Service of both families, and its addresses.
    fn service(&self, name: &str) -> Result<[SocketAddr; 2]> {
        self.lab.apply(&service(name, "web", "ipFamilyPolicy: RequireDualStack"))?;
        await_ok(SOON, &format!("two addresses for {name}"), || {
            let jsonpath = "jsonpath={.status.loadBalancer.ingress[*].ip}";
            let text = self.lab.kubectl(&["get", "service", name, "-o", jsonpath])?;
            let mut addresses = text.split(' ').map(|ip| at(ip, 80)).collect::<Vec<_>>();
            addresses.sort();
            <[SocketAddr; 2]>::try_from(addresses).map_err(|_| anyhow::anyhow!("it has “{text}”"))
        })
    }

    /// The nodes that say that they announce an address.
    fn owners(&self, vip: IpAddr) -> Vec<&Node> {
        let says = |node: &&Node| {
            let metrics = HttpOptions::default().path("/metrics");
            let answer = node.ns.http(at("127.0.0.1", 7472), &metrics);
            let series = format!("protocol=\"layer2\",node=\"{}\",ip=\"{vip}\"", node.name);
            answer.is_ok_and(|answer| answer.body.contains(&series))
        };
        self.lab.nodes().iter().filter(says).collect()
    }

    /// Waits until one node alone announces an address, and not `former`.
    fn owner(&self, vip: IpAddr, former: Option<&Node>) -> Result<&Node> {
        let owner = await_until(SOON, &format!("one owner of {vip}"), || {
            let owners = self.owners(vip);
            let new = |node: &&&Node| former.is_none_or(|former| former.index != node.index);
            if owners.len() == 1 { owners.first().filter(new).copied() } else { None }
        });
        owner.with_context(|| self.speakers.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n"))
    }

    fn poll(&self, vip: SocketAddr) -> Result<Poller> {
        let options = PollOptions { interval: Duration::from_millis(5), timeout: Duration::from_millis(500) };
        let poller = Poller::start(&self.lab.router().ns, vip, options)?;
        poller.await_answers(20, SOON)?;
        Ok(poller)
    }

    /// A connection that has been answered once.
    fn hold(&self, vip: SocketAddr) -> Result<Connection> {
        let mut connection = self.lab.router().ns.connect(vip, SOON)?;
        connection.ask()?;
        Ok(connection)
    }

    /// A node that was labelled takes part again.
    fn include(&self, node: &Node) -> Result<()> {
        let label = format!("{}-", EXCLUDED.trim_end_matches('='));
        self.lab.kubectl(&["label", "node", &node.name, &label]).map(drop)
    }

    /// The router forgets where an address is, as one does that was switched on just now. Each entry once: `ip neigh flush` looks again at what it
    /// has left, and a connection that has asked meanwhile is told that there is no route.
    fn forget(&self, vip: SocketAddr) -> Result<()> {
        let (ns, address) = (&self.lab.router().ns, vip.ip().to_string());
        if ns.exec(&["ip", "neigh", "show", "to", &address, "dev", "lan"])?.is_empty() {
            return Ok(());
        }
        ns.ip(&[format!("neigh del {address} dev lan")])
    }
}

/// The last connection that failed began this long after `since`.
fn outage(report: &PollReport, since: Instant) -> Duration {
    report.failures.last().map_or(Duration::ZERO, |last| last.at.saturating_duration_since(since))
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_is_answered_for_by_one_node_and_by_another_within_half_a_second_when_its_speaker_is_killed()
-> Result<()> {
    let mut layer2 = Layer2::start()?;
    for vip in layer2.service("web")? {
        let owner = layer2.owner(vip.ip(), None)?;
        let (index, name) = (owner.index, owner.name.clone());
        await_ok(SOON, "the Event", || {
            let events = layer2.lab.kubectl(&[
                "get",
                "events",
                "-o",
                "jsonpath={.items[*].note}{.items[*].message}",
            ])?;
            let wanted = format!("announcing from node \"{name}\" with protocol \"layer2\"");
            ensure!(events.contains(&wanted), "{events}");
            Ok(())
        })?;
        let poller = layer2.poll(vip)?;
        let speaker = layer2.speakers.get_mut(usize::from(index) - 1).context("its speaker")?;
        speaker.kill();
        let killed = Instant::now();
        layer2.forget(vip)?;
        let next = layer2.owner(vip.ip(), None)?.index;
        ensure!(next != index && next != 3, "node{next}");
        poller.await_answers(100, SOON)?;
        let report = poller.stop()?;
        let outage = outage(&report, killed);
        eprintln!("{vip}: {outage:?} after the owner was killed");
        ensure!(outage < MOVED, "{}", report.explain());
        // Back again it takes nothing from the other one.
        let restarted = layer2.lab.speaker(layer2.lab.node(index), &[])?;
        layer2.speakers[usize::from(index) - 1] = restarted;
        crate::order::ready(layer2.lab.node(index))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn no_connection_fails_when_the_owner_is_drained_or_stops_and_held_ones_go_on_with_it() -> Result<()> {
    let mut layer2 = Layer2::start()?;
    for vip in layer2.service("web")? {
        let owner = layer2.owner(vip.ip(), None)?.clone();
        let poller = layer2.poll(vip)?;
        let mut held = layer2.hold(vip)?;
        // The label takes the node out of the election; the other one is ready.
        layer2.lab.kubectl(&["label", "node", &owner.name, EXCLUDED])?;
        let next = layer2.owner(vip.ip(), Some(&owner))?.clone();
        layer2.forget(vip)?;
        poller.await_answers(50, SOON)?;
        held.ask().context("held over the label")?;
        layer2.include(&owner)?;
        await_next(&owner, vip.ip())?;
        // Its connections are in its kernel, which works on without it.
        let mut held = layer2.hold(vip)?;
        let speaker = layer2.speakers.get_mut(usize::from(next.index) - 1).context("its speaker")?;
        ensure!(speaker.terminate(Duration::from_secs(5))?.success(), "{}", speaker.log_tail());
        layer2.owner(vip.ip(), Some(&next))?;
        layer2.forget(vip)?;
        poller.await_answers(50, SOON)?;
        held.ask().context("held over the stop")?;
        let report = poller.stop()?;
        eprintln!("{vip}: two planned moves, {}", report.explain());
        report.assert_no_loss();
        let restarted = layer2.lab.speaker(&next, &[])?;
        layer2.speakers[usize::from(next.index) - 1] = restarted;
        crate::order::ready(&next)?;
    }
    Ok(())
}

/// Waits until a node says that it would own the address if the owner went.
fn await_next(node: &Node, vip: IpAddr) -> Result<()> {
    await_ok(SOON, &format!("{} to offer {vip}", node.name), || {
        let answer = node
            .ns
            .http(at("127.0.0.1", 7472), &HttpOptions::default().path("/explain/service/default/web"))?;
        let json: serde_json::Value = serde_json::from_str(&answer.body)?;
        let announcements = json["announcements"].as_array().context("announcements")?;
        let next = announcements
            .iter()
            .filter(|of| of["address"] == vip.to_string())
            .any(|of| of["layer2"][0]["next"] == node.name.as_str());
        ensure!(next, "{}", json["announcements"]);
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn who_announces_a_service_stands_in_one_object_that_follows_the_owner() -> Result<()> {
    let layer2 = Layer2::start()?;
    crate::objects::install(&layer2.lab)?;
    let [vip, _] = layer2.service("web")?;
    let written = |node: &str| {
        await_ok(STATUS, &format!("one ServiceL2Status of {node}"), || {
            let jsonpath = "jsonpath={range .items[*]}{.status.node}/{.status.serviceNamespace}/{.status.serviceName} {end}";
            let found = layer2.lab.kubectl(&["-n", NAMESPACE, "get", "servicel2statuses", "-o", jsonpath])?;
            let nodes: Vec<&str> = found.split_whitespace().collect();
            ensure!(nodes == [format!("{node}/default/web")], "{nodes:?}");
            Ok(())
        })
    };
    let owner = layer2.owner(vip.ip(), None)?.clone();
    // The label moves both families to one node.
    layer2.lab.kubectl(&["label", "node", &owner.name, EXCLUDED])?;
    let next = layer2.owner(vip.ip(), Some(&owner))?.clone();
    written(&next.name)?;
    layer2.include(&owner)?;
    await_next(&owner, vip.ip())?;
    layer2.speakers.get(usize::from(next.index) - 1).context("its speaker")?.kill();
    layer2.owner(vip.ip(), Some(&next))?;
    written(&owner.name)?;
    layer2.lab.kubectl(&["delete", "service", "web"])?;
    await_ok(STATUS, "no ServiceL2Status", || {
        let found = layer2.lab.kubectl(&["-n", NAMESPACE, "get", "servicel2statuses", "-o", "name"])?;
        ensure!(found.is_empty(), "{found}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_cordoned_node_hands_over_where_the_configuration_says_so() -> Result<()> {
    let layer2 = Layer2::start()?;
    let [vip, _] = layer2.service("web")?;
    let owner = layer2.owner(vip.ip(), None)?.clone();
    layer2.lab.kubectl(&["cordon", &owner.name])?;
    layer2.owner(vip.ip(), Some(&owner))?;
    let explain = HttpOptions::default().path("/explain/service/default/web");
    let explained = owner.ns.http(at("127.0.0.1", 7472), &explain)?.body;
    ensure!(explained.contains("nodeCordoned"), "{explained}");
    layer2.lab.kubectl(&["uncordon", &owner.name])?;
    await_next(&owner, vip.ip())
}
