//! Node by node under load: the commands of docs/from-metallb.md in their order, and the kubelets' part played.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::bench::metallb::{
    install_bgp, make_speaker_pod, start_controller, start_kube_proxy, start_speaker,
};
use herald_e2e::{
    Lab, MANIFESTS, NAMESPACE, Node, PodOptions, PollOptions, Poller, Process, at, await_ok, herald_program,
};

use super::{PATIENCE, POOL, assert_kept, held, services};
use crate::footprint::Footprint;
use crate::order::ready;
use crate::services::{History, SOON, all, await_address, create};
use crate::upgrade::route_changes::{RouteChanges, unexplained};

const DOCUMENT: &str = include_str!("../../../../docs/from-metallb.md");
/// 500 new connections a second from behind the router.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };
/// And 50 from a pod to a ClusterIP.
const INSIDE: PollOptions =
    PollOptions { interval: Duration::from_millis(20), timeout: Duration::from_secs(1) };
/// New connections that one change of the routes may find under way.
const UNDER_WAY: usize = 4;

/// What runs on a node.
#[derive(Default)]
struct OnNode {
    kube_proxy: Option<Process>,
    metallb: Option<Process>,
    herald: Option<Process>,
}

/// Ends a pod's program as a kubelet does.
fn end(process: &mut Option<Process>) -> Result<()> {
    let process = process.take().context("it runs")?;
    process.terminate(SOON).map(drop)
}

/// The document below a heading, up to the next one.
fn section(heading: &str) -> Result<&'static str> {
    let (_, section) = DOCUMENT.split_once(&format!("# {heading}\n")).with_context(|| heading.to_owned())?;
    Ok(section.split("\n#").next().unwrap_or_default())
}

/// Types all commands of a section, for one node where it says NODE.
fn typed(lab: &Lab, heading: &str, node: Option<&Node>) -> Result<()> {
    let lines = section(heading)?.lines().filter_map(|line| line.strip_prefix("    kubectl "));
    let mut count = 0;
    for line in lines {
        let line = line.replace("NODE", node.map_or("NODE", |node| &node.name));
        // No word of theirs has blanks in it.
        let mut words: Vec<&str> = line.split(' ').collect();
        // What is waited for runs as pods, which the test plays.
        if words.contains(&"rollout") || words.contains(&"wait") {
            continue;
        }
        let composed;
        if let Some(place) = words.iter().position(|word| *word == "-k") {
            composed = compose(lab, heading, words.get(place + 1).context("a directory")?)?;
            words[place + 1] = &composed;
            words.push("--dry-run=server");
        }
        if words.contains(&"pod") {
            words.extend(["--force", "--grace-period=0"]);
        }
        lab.kubectl(&words).with_context(|| line.clone())?;
        count += 1;
    }
    ensure!(count > 0, "no commands below {heading}");
    Ok(())
}

/// Writes the kustomization that a section shows, beside what it names.
fn compose(lab: &Lab, heading: &str, name: &str) -> Result<String> {
    let yaml = section(heading)?.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```"));
    let (yaml, _) = yaml.with_context(|| format!("no kustomization below {heading}"))?;
    let directory = lab.directory().join(name);
    std::fs::create_dir_all(&directory)?;
    // The way up from any directory ends at the root.
    let text = yaml.replace("../herald/manifests", &format!("{}{MANIFESTS}", "../".repeat(16)));
    std::fs::write(directory.join("kustomization.yaml"), text)?;
    std::fs::write(directory.join("metallb-native.yaml"), daemon_set("metallb-system", "speaker"))?;
    Ok(directory.display().to_string())
}

/// A DaemonSet that has no node, so that nobody makes pods of it.
fn daemon_set(namespace: &str, name: &str) -> String {
    workload("DaemonSet", namespace, name)
}

fn workload(kind: &str, namespace: &str, name: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{\
         selector: {{matchLabels: {{is: {name}}}}}, template: {{metadata: {{labels: {{is: {name}}}}}, spec: {{\
         nodeSelector: {{has: none}}, containers: [{{name: x, image: lab.example/x}}]}}}}}}}}"
    )
}

/// What a cluster with MetalLB and kube-proxy has.
pub(super) fn workloads(lab: &Lab) -> Result<()> {
    lab.apply(&daemon_set("kube-system", "kube-proxy"))?;
    lab.apply(&daemon_set(NAMESPACE, "speaker"))?;
    lab.apply(&workload("Deployment", NAMESPACE, "controller")).map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn node_by_node_to_herald_and_back_fails_only_what_is_under_way_when_the_router_turns() -> Result<()> {
    let lab = Lab::builder().nodes(3).control_plane().bird().start()?;
    let pods = lab.nodes().iter().zip(["web-1", "web-2", "web-3"]);
    let pods =
        pods.map(|(node, name)| lab.pod(node, name, &PodOptions::app("web"))).collect::<Result<Vec<_>>>()?;
    install_bgp(&lab, POOL)?;
    workloads(&lab)?;
    let mut metallb = Some(start_controller(&lab)?);
    let mut nodes: BTreeMap<&str, OnNode> = BTreeMap::new();
    for node in lab.nodes() {
        let on_node = nodes.entry(&node.name).or_default();
        on_node.kube_proxy = Some(start_kube_proxy(&lab, node)?);
        on_node.metallb = Some(start_speaker(&lab, node)?);
    }
    for service in services() {
        // One after the other, so that who shares finds its partner.
        let name = service["metadata"]["name"].as_str().context("a name")?.to_owned();
        create(&lab, [service])?;
        await_address(&lab, &name)?;
    }
    let before = held(&lab)?;
    let vip = before["plain"][0];
    let prefix = format!("{vip}/32");
    lab.router().await_kernel_route(&prefix, 3, PATIENCE)?;
    await_ok(PATIENCE, "the Service", || lab.client().get((vip, 80).into()))?;
    let spec = all(&lab)?.remove("plain").and_then(|service| service.spec);
    let cluster_ip = at(&spec.and_then(|spec| spec.cluster_ip).context("a ClusterIP")?, 80);
    let kernel = |node| -> Result<(Footprint, String)> {
        Ok((Footprint::of(&lab, node)?, node.ns.exec(&["nft", "list", "tables"])?))
    };
    let kernels = || lab.nodes().iter().map(kernel).collect::<Result<Vec<_>>>();
    let bare = kernels()?;

    let changes = RouteChanges::record(&lab.router().ns)?;
    let outside = Poller::start(lab.client(), (vip, 80).into(), LOAD)?;
    let inside =
        pods.iter().map(|pod| Poller::start(&pod.ns, cluster_ip, INSIDE)).collect::<Result<Vec<_>>>()?;
    let served = || {
        outside.await_answers(300, SOON)?;
        inside.iter().try_for_each(|poller| poller.await_answers(10, SOON))
    };
    let left = |_: &Node| lab.router().await_kernel_route(&prefix, 2, SOON);
    let back = |node: &Node| {
        lab.router().await_session(&node.name, SOON)?;
        lab.router().await_kernel_route(&prefix, 3, SOON)
    };
    served()?;
    let (history, ()) = History::during(&lab, || {
        // There.
        typed(&lab, "Node by node", None)?;
        end(&mut metallb)?;
        let mut controller = Some(lab.controller("controller", &[])?);
        controller.as_ref().context("it runs")?.await_log("all Services are decided", SOON)?;
        for node in lab.nodes() {
            served()?;
            typed(&lab, "For each node", Some(node))?;
            let on_node = nodes.get_mut(node.name.as_str()).context("the node")?;
            end(&mut on_node.kube_proxy)?;
            end(&mut on_node.metallb)?;
            left(node)?;
            on_node.herald = Some(lab.speaker(node, &["--take-over"])?);
            ready(node)?;
            back(node)?;
            let tables = node.ns.exec(&["nft", "list", "tables"])?;
            ensure!(tables.contains("ip herald") && !tables.contains("kube-proxy"), "{tables}");
        }
        served()?;
        ensure!(held(&lab)? == before, "{:?}", held(&lab)?);

        // And back.
        for node in lab.nodes() {
            let on_node = nodes.get_mut(node.name.as_str()).context("the node")?;
            on_node.kube_proxy = Some(start_kube_proxy(&lab, node)?);
            await_ok(PATIENCE, "kube-proxy's rules", || {
                let element = format!("{{ {} . tcp . {} }}", cluster_ip.ip(), cluster_ip.port());
                node.ns.exec(&["nft", "get", "element", "ip", "kube-proxy", "service-ips", &element])
            })?;
        }
        // Nothing was applied in earnest.
        lab.apply(&workload("Deployment", NAMESPACE, "herald-controller"))?;
        typed(&lab, "Back, node by node", None)?;
        end(&mut controller)?;
        metallb = Some(start_controller(&lab)?);
        for node in lab.nodes() {
            served()?;
            typed(&lab, "Back, for each node", Some(node))?;
            let on_node = nodes.get_mut(node.name.as_str()).context("the node")?;
            end(&mut on_node.herald)?;
            left(node)?;
            let state = format!("--state-directory={}", lab.state_directory(node).display());
            node.ns.exec(&[&herald_program()?.display().to_string(), "cleanup", &state])?;
            make_speaker_pod(&lab, node)?;
            on_node.metallb = Some(start_speaker(&lab, node)?);
            back(node)?;
        }
        served()?;
        Ok(())
    })?;
    let report = outside.stop()?;
    let changes = changes.stop()?;
    let rate = report.attempts as f64 / report.begin.elapsed().as_secs_f64();
    eprintln!("{rate:.0} connections/s over {} changes of routes: {}", changes.len(), report.explain());
    assert_kept(&history, &before);
    ensure!(held(&lab)? == before, "{:?}", held(&lab)?);
    for poller in inside {
        let report = poller.stop()?;
        ensure!(report.failures.is_empty(), "to the ClusterIP: {}", report.explain());
    }
    let unexplained = unexplained(&report, &changes);
    ensure!(unexplained.is_empty(), "{unexplained:#?}");
    // Of each node there and back: once they go, and once they come.
    let turns = 4 * lab.nodes().len();
    ensure!(report.failures.len() <= UNDER_WAY * turns, "{}", report.explain());
    for ((now, tables), (before, former)) in kernels()?.iter().zip(&bare) {
        // kube-proxy's own rules are in another order.
        let of_others = |line: &String| !line.contains("nft -s list ruleset");
        let left: Vec<String> = now.since(before).into_iter().filter(of_others).collect();
        ensure!(left.is_empty() && tables == former, "left by Herald: {tables} {left:#?}");
    }
    Ok(())
}
