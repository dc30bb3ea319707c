//! By BGP without graceful restart: a node's routes go and come again, and the router sends its connections elsewhere meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::{Connection, Lab, Node, PodOptions, PollOptions, Poller};

use super::route_changes::{RouteChanges, unexplained};
use crate::order::{address, config, herald, ready, service};
use crate::services::SOON;

/// 500 new connections a second.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };
/// Connections that are held, and as many that are used meanwhile.
const HELD: usize = 60;
/// New connections that one change of the routes may find under way. At 500 a second one takes 2 ms on a quiet machine.
const UNDER_WAY: usize = 4;

/// Connections that have been answered once, and which node serves each is the router's choice.
fn hold(lab: &Lab, vip: std::net::SocketAddr) -> Result<Vec<Connection>> {
    let open = |_| -> Result<Connection> {
        let mut connection = lab.client().connect(vip, SOON)?;
        connection.ask()?;
        Ok(connection)
    };
    (0..HELD).map(open).collect()
}

/// How many are cut when they are used now.
fn cut(connections: &mut [Connection]) -> usize {
    connections.iter_mut().filter_map(|connection| connection.ask().err()).count()
}

#[test]
#[ignore = "needs a network namespace"]
fn replacing_every_speaker_without_graceful_restart_fails_only_what_is_under_way_when_the_router_turns()
-> Result<()> {
    let lab = Lab::builder().nodes(3).control_plane().bird().start()?;
    let pods = lab.nodes().iter().zip(["web-1", "web-2", "web-3"]);
    let _pods =
        pods.map(|(node, name)| lab.pod(node, name, &PodOptions::app("web"))).collect::<Result<Vec<_>>>()?;
    let (_controller, mut speakers) = herald(&lab, &config("192.0.2.0/28"), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = (address(&lab, "web")?, 80).into();
    let prefix = format!("{}/32", address(&lab, "web")?);
    lab.router().await_kernel_route(&prefix, 3, SOON)?;

    let changes = RouteChanges::record(&lab.router().ns)?;
    let poller = Poller::start(lab.client(), vip, LOAD)?;
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let hops = |without: Option<&Node>| {
        let others = lab.nodes().iter().filter(|node| without.is_none_or(|other| other.index != node.index));
        others.map(|node| node.ip.into()).collect::<Vec<_>>()
    };
    for (node, speaker) in lab.nodes().iter().zip(&mut speakers) {
        let (mut held, mut used) = (hold(&lab, vip)?, hold(&lab, vip)?);
        poller.await_answers(500, SOON)?;
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
        lab.router().await_route(&prefix, &hops(Some(node)), SOON)?;
        lab.router().await_kernel_route(&prefix, 2, SOON)?;
        busy.push(cut(&mut used));
        poller.await_answers(500, SOON)?;
        *speaker = lab.speaker(node, &[])?;
        ready(node)?;
        lab.router().await_route(&prefix, &hops(None), SOON)?;
        lab.router().await_kernel_route(&prefix, 3, SOON)?;
        quiet.push(cut(&mut held));
    }
    poller.await_answers(500, SOON)?;
    let report = poller.stop()?;
    let changes = changes.stop()?;
    let rate = report.attempts as f64 / report.begin.elapsed().as_secs_f64();
    eprintln!(
        "{rate:.0} connections/s over {} changes of routes: {}; of {HELD} held each, cut when used while a speaker was away: \
         {busy:?}, when used again afterwards only: {quiet:?}",
        changes.len(),
        report.explain()
    );
    let unexplained = unexplained(&report, &changes);
    ensure!(unexplained.is_empty(), "{unexplained:#?}");
    // A node's routes go once and come once.
    ensure!(changes.len() == 2 * lab.nodes().len(), "{} changes of routes", changes.len());
    ensure!(report.failures.len() <= UNDER_WAY * changes.len(), "{}", report.explain());
    // The node has kept what it knew of them, and the router finds it again.
    ensure!(quiet.iter().all(|cut| *cut == 0), "{quiet:?}");
    // A third was with the node, and the router moves at most half of the others.
    let some = |cut: &usize| (1..=HELD * 2 / 3).contains(cut);
    ensure!(busy.iter().all(some), "those that the router moves are cut, and no others: {busy:?}");
    Ok(())
}
