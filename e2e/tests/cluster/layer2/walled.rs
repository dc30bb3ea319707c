//! Nodes whose switch lets no multicast of hellos through: they find each other by copies for one alone.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Node};

use super::{Layer2, MOVED, await_next, outage};
use crate::order::SOON;

/// Drops the hellos that are for all, and counts them.
const WALL: &str = "add table inet wall; \
    add chain inet wall in { type filter hook input priority -300; }; \
    add rule inet wall in ip daddr 224.0.0.254 counter drop; \
    add rule inet wall in ip6 daddr ff12::4845:5241:4c44 counter drop";

#[test]
#[ignore = "needs a network namespace"]
fn where_multicast_is_blocked_there_is_one_owner_too_and_it_is_followed_as_soon() -> Result<()> {
    let mut layer2 = Layer2::start_after(|lab| lab.nodes().iter().try_for_each(wall))?;
    check(&mut layer2)?;
    for node in layer2.lab.nodes() {
        let dropped = node.ns.exec(&["nft", "list", "chain", "inet", "wall", "in"])?;
        let v4 = dropped.lines().find(|line| line.contains("224.0.0.254")).context("the rule")?;
        ensure!(!v4.contains("packets 0 "), "{}: {dropped}", node.name);
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn one_node_that_hears_no_multicast_is_told_by_copies() -> Result<()> {
    let mut layer2 = Layer2::start_after(|lab: &Lab| wall(lab.node(1)))?;
    check(&mut layer2)
}

fn wall(node: &Node) -> Result<()> {
    node.ns.exec(&["nft", WALL]).map(drop)
}

fn check(layer2: &mut Layer2) -> Result<()> {
    let [vip, _] = layer2.service("web")?;
    let owner = layer2.owner(vip.ip(), None)?.clone();
    let other = layer2.lab.node(3 - owner.index).clone();
    await_next(&other, vip.ip())?;
    let poller = layer2.poll(vip)?;
    let speaker = layer2.speakers.get_mut(usize::from(owner.index) - 1).context("its speaker")?;
    speaker.kill();
    let killed = Instant::now();
    layer2.forget(vip)?;
    let next = layer2.owner(vip.ip(), None)?.index;
    ensure!(next == other.index, "node{next}");
    poller.await_answers(100, SOON)?;
    let report = poller.stop()?;
    let outage = outage(&report, killed);
    eprintln!("{vip}: {outage:?} after the owner was killed");
    ensure!(outage < MOVED, "{}", report.explain());
    Ok(())
}
