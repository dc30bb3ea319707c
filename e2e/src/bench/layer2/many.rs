//! Five hundred addresses move at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::neighbours::{self, Neighbours};
use super::system::{Kind, PATIENCE, SERVICE, companions, configure, launch, mac};
use crate::await_until::{await_ok, pause};
use crate::bench::proxy::table::Table;
use crate::client::HttpOptions;
use crate::lab::{Lab, at};
use crate::pod::PodOptions;
use crate::topology::Node;

/// Addresses.
const COUNT: usize = 500;
/// Where they are: a network of their own, which the router has on the segment as well.
const POOL: &str = "10.0.4.0-10.0.5.255";
const NETWORK: &str = "10.0.4.0/23";
const BAR: f64 = 700.0;
/// From one question to the next for an address that nobody answers for.
const AGAIN: Duration = Duration::from_millis(10);

/// Moves them once.
pub fn measure(kind: Kind, table: &mut Table) -> Result<()> {
    eprintln!("{}: a lab of two nodes, {COUNT} addresses", kind.name());
    let lab = Lab::builder().nodes(2).control_plane().noisy().start()?;
    lab.router().ns.ip(&[format!("route add {NETWORK} dev lan")])?;
    lab.pod(lab.node(2), "web-1", &PodOptions::app(SERVICE))?;
    configure(&lab, kind, POOL)?;
    let _companions = companions(&lab, kind)?;
    let objects: Vec<String> = (0..COUNT).map(service).collect();
    for page in objects.chunks(100) {
        lab.apply(&page.join("---\n"))?;
    }
    let vips = await_ok(PATIENCE, "all addresses", || {
        let jsonpath = "jsonpath={.items[*].status.loadBalancer.ingress[0].ip}";
        let text = lab.kubectl(&["get", "services", "-l", "bench=many", "-o", jsonpath])?;
        let vips: BTreeSet<Ipv4Addr> = text.split_whitespace().filter_map(|ip| ip.parse().ok()).collect();
        ensure!(vips.len() == COUNT, "{} of them", vips.len());
        Ok(vips)
    })?;
    // The first node alone, so that it has all of them.
    let first = launch(&lab, kind, 1, &[])?;
    owned(&lab, lab.node(1), &vips)?;
    let second = launch(&lab, kind, 2, &[])?;
    match kind {
        Kind::Herald => await_next(lab.node(1), &lab.node(2).name)?,
        // It takes its half; the first one's is what moves.
        Kind::MetalLb => {
            await_ok(PATIENCE, "a part of the second node", || {
                let answered = answered(&lab, &vips, &mac(lab.node(2))?, Duration::from_secs(5))?;
                ensure!(answered.1 > COUNT / 3, "{} addresses", answered.1);
                Ok(())
            })?;
        }
        Kind::Keepalived => bail!("keepalived is not asked for this many"),
    }
    let other = mac(lab.node(2))?;
    let gone = Instant::now();
    first.kill();
    let (last, count) = answered(&lab, &vips, &other, PATIENCE)?;
    ensure!(count == COUNT, "{count} are answered: {}", second.log_tail());
    let value = last.saturating_duration_since(gone).as_secs_f64() * 1000.0;
    let mut row = table.row("many", None);
    let what = format!("{COUNT} addresses move at once: last one answered");
    match kind {
        Kind::Herald => row.bar(&what, value, "ms", BAR),
        Kind::MetalLb | Kind::Keepalived => row.put(kind.name(), &what, value, "ms"),
    }
    Ok(())
}

fn service(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: many-{n}, labels: {{bench: many}}}}\nspec:\n  type: LoadBalancer\n  \
         allocateLoadBalancerNodePorts: false\n  selector: {{app: {SERVICE}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    )
}

/// Waits until a node answers for all.
fn owned(lab: &Lab, node: &Node, vips: &BTreeSet<Ipv4Addr>) -> Result<()> {
    let mac = mac(node)?;
    let (_, count) = answered(lab, vips, &mac, PATIENCE)?;
    ensure!(count == vips.len(), "{} answers for {count}", node.name);
    Ok(())
}

/// Asks for all addresses until this hardware address has answered for each, at most so long: when the last one was, and
/// how many were.
fn answered(lab: &Lab, vips: &BTreeSet<Ipv4Addr>, mac: &str, patience: Duration) -> Result<(Instant, usize)> {
    lab.router().ns.run(|| {
        let neighbours = Neighbours::open("lan")?;
        let begin = Instant::now();
        let (mut left, mut last) = (vips.clone(), begin);
        while !left.is_empty() && begin.elapsed() < patience {
            for vip in &left {
                neighbours.forget(*vip)?;
                neighbours.ask(*vip);
            }
            pause(AGAIN);
            let known = neighbours::known()?;
            let before = left.len();
            left.retain(|vip| known.get(vip).is_none_or(|of| of != mac));
            if left.len() < before {
                last = Instant::now();
            }
        }
        Ok((last, vips.len() - left.len()))
    })?
}

/// Waits until the owner names a node as the next one for all addresses.
fn await_next(owner: &Node, next: &str) -> Result<()> {
    for n in 0..COUNT {
        let options = HttpOptions::default().path(&format!("/explain/service/default/many-{n}"));
        await_ok(PATIENCE, &format!("many-{n} to have a next owner"), || {
            let answer = owner.ns.http(at("127.0.0.1", 7472), &options)?;
            let json: serde_json::Value = serde_json::from_str(&answer.body)?;
            let found = &json["announcements"][0]["layer2"][0]["next"];
            ensure!(found == next, "it is {found}");
            Ok(())
        })?;
    }
    Ok(())
}
