//! Tables that another release has left in the kernel: replaced in one transaction, under load, there and back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Namespace, Node, PodOptions, PollOptions, Poller, at};

use crate::order::{address, config, herald, ready, service};
use crate::services::SOON;

/// For each of two clients.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(4), timeout: Duration::from_secs(1) };
const TABLES: [&str; 2] = ["table ip herald", "table ip6 herald"];

/// What both tables say of their layout, and the priorities of their hooks.
fn layouts(node: &Node) -> Result<Vec<String>> {
    let mut layouts = Vec::new();
    for table in TABLES {
        let text = node.ns.exec(&["nft", "-t", "list", table])?;
        let told = |line: &&str| line.contains("herald layout") || line.contains("type nat hook prerouting");
        layouts.extend(text.lines().filter(told).map(|line| line.trim().to_owned()));
    }
    Ok(layouts)
}

/// Writes both tables as another release would have: of another layout, at other priorities, with a set of its own. They do
/// the same work.
fn by_another_release(node: &Node) -> Result<()> {
    let mut all = String::new();
    for table in TABLES {
        let text = node.ns.exec(&["nft", "list", table])?;
        let begin = text.find("herald layout ").context("a layout")? + "herald layout ".len();
        let layout = text[begin..].split('"').next().context("the layout's hash")?.to_owned();
        let older = text
            .replace(&layout, "0123456789abcdef")
            .replace("priority dstnat - 5", "priority dstnat - 6")
            .replacen('{', "{\n\tset of-another-release {\n\t\ttype inet_service\n\t}\n", 1);
        ensure!(older.matches("priority dstnat - 6").count() == 1, "no hook at dstnat - 5: {text}");
        all.push_str(&format!("delete {table}\n{older}\n"));
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), all)?;
    node.ns.exec(&["nft", "-f", &file.path().display().to_string()]).map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn tables_of_another_release_are_replaced_at_once_and_no_connection_fails() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    lab.pod(node, "web-2", &PodOptions::app("web"))?;
    let (_controller, mut speakers) = herald(&lab, &config("192.0.2.0/28"), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = address(&lab, "web")?.to_string();
    lab.router().ns.ip(&[format!("route replace {vip}/32 via {}", node.ip)])?;
    let cluster_ip = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    lab.router().await_route(&format!("{vip}/32"), &[node.ip.into()], SOON)?;
    let ours = layouts(node)?;

    // The route is the router's own, so that nothing but the tables changes.
    let ways: [(&str, &Namespace, _); 2] =
        [("address", lab.client(), at(&vip, 80)), ("ClusterIP", &pod.ns, at(&cluster_ip, 80))];
    let start = |(way, from, to)| Ok((way, Poller::start(from, to, LOAD)?));
    let pollers = ways.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut held = lab.client().connect(at(&vip, 80), SOON)?;
    held.ask()?;
    let mut speaker = speakers.remove(0);
    for _ in 0..3 {
        let served = || pollers.iter().try_for_each(|(_, poller)| poller.await_answers(100, SOON));
        served()?;
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
        by_another_release(node)?;
        ensure!(layouts(node)? != ours, "{ours:?}");
        served().context("by the tables of another release")?;
        let before = speaker.log().len();
        speaker = lab.speaker(node, &[])?;
        ready(node)?;
        served()?;
        ensure!(layouts(node)? == ours, "{:?}", layouts(node)?);
        let log = speaker.log().split_off(before);
        let told = |line: &str| line.contains("written anew") && line.contains("no table of this layout");
        ensure!(log.lines().any(told), "{log}");
    }
    held.ask().context("held all the time")?;
    for (way, poller) in pollers {
        let report = poller.stop()?;
        eprintln!("by {way}: {}", report.explain());
        report.assert_no_loss();
    }
    Ok(())
}
