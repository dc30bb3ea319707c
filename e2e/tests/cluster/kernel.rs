//! Herald's tables in the kernel over time: a restart writes nothing, others' edits do not last, and what clients send is
//! counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Node, PodOptions, at, await_ok};

use crate::order::{SOON, address, config, herald, ready, service};

/// A metric of the speaker, by its name and labels.
fn metric(node: &Node, series: &str) -> Result<u64> {
    let text = node.ns.curl("http://127.0.0.1:7472/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.with_context(|| format!("no {series} in\n{text}"))?.parse().context("no number")
}

/// All chains with the handles of their rules: a rule that is written again has another one.
fn rules(node: &Node) -> Result<String> {
    node.ns.exec(&["nft", "-a", "-t", "list", "ruleset"])
}

#[test]
#[ignore = "needs a network namespace"]
fn a_restart_writes_nothing_edits_do_not_last_and_packets_are_counted() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let (_controller, mut speakers) = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = address(&lab, "web")?.to_string();
    let route = format!("{vip}/32");
    lab.router().await_route(&route, &[node.ip.into()], SOON)?;
    let works = || await_ok(SOON, "the Service", || lab.client().get(at(&vip, 80)));
    works()?;

    let series = |metric: &str| {
        format!(r#"{metric}{{namespace="default",service="web",address="{vip}",port="80",protocol="TCP"}}"#)
    };
    let (packets, bytes) = (series("herald_service_packets_total"), series("herald_service_bytes_total"));
    // SYN, ACK, request, FIN at least.
    await_ok(SOON, "the client's packets", || {
        let seen = (metric(node, &packets)?, metric(node, &bytes)?);
        if seen.0 >= 4 && seen.1 >= 160 { Ok(()) } else { Err(anyhow::anyhow!("{seen:?}")) }
    })?;

    let before = rules(node)?;
    ensure!(speakers.remove(0).terminate(Duration::from_secs(5))?.success(), "stops");
    let _speaker = lab.speaker(node, &[])?;
    ready(node)?;
    lab.router().await_route(&route, &[node.ip.into()], SOON)?;
    ensure!(rules(node)? == before, "a restart has written rules:\n{before}\n{}", rules(node)?);
    ensure!(metric(node, "herald_proxy_foreign_edits_total")? == 0, "own changes are taken for others'");

    let vips = format!("{{ {vip} }}");
    for (repairs, edit) in (1..).zip([
        format!("delete element ip herald vips {vips}"),
        // Nothing that would drop the scrape.
        "add rule ip herald guard counter".to_owned(),
        "delete table ip herald".to_owned(),
        "flush ruleset".to_owned(),
    ]) {
        node.ns.exec(&["nft", &edit])?;
        let edited = Instant::now();
        await_ok(SOON, &format!("a repair after {edit}"), || {
            let seen = metric(node, "herald_proxy_repairs_total")?;
            if seen == repairs { Ok(()) } else { Err(anyhow::anyhow!("{seen} repairs")) }
        })?;
        let took = edited.elapsed();
        println!("{edit}: repaired in {took:.0?}, the scrape included");
        ensure!(took < Duration::from_secs(1), "{edit}: repaired after {took:?}");
        node.ns.exec(&["nft", "get", "element", "ip", "herald", "vips", &vips])?;
        ensure!(
            !node
                .ns
                .exec(&["nft", "list", "chain", "ip", "herald", "guard"])?
                .contains("\t\tcounter packets"),
            "{edit}"
        );
    }
    works()?;
    ensure!(!lab.router().routes()?.is_empty(), "the route stays");
    Ok(())
}
