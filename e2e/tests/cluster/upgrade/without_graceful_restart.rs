//! By BGP without graceful restart: a node's routes go and come again, and the router sends its connections elsewhere meanwhile, also
//! some of those that were with other nodes. They go on with the node that knows them.

use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::{Connection, Lab, Node, PodOptions, PollOptions, Poller};

use super::route_changes::RouteChanges;
use crate::order::{address, config, herald, ready, service};
use crate::services::SOON;

/// 500 new connections a second.
const LOAD: PollOptions = PollOptions { interval: Duration::from_millis(2), timeout: Duration::from_secs(1) };
/// Connections that are held, and as many that are used meanwhile.
const HELD: usize = 60;

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
fn replacing_every_speaker_without_graceful_restart_fails_no_connection_and_cuts_none() -> Result<()> {
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
        quiet.push(cut(&mut held) + cut(&mut used));
    }
    poller.await_answers(500, SOON)?;
    let report = poller.stop()?;
    let changes = changes.stop()?;
    let rate = report.attempts as f64 / report.begin.elapsed().as_secs_f64();
    eprintln!(
        "{rate:.0} connections/s over {} changes of routes: {}; of {HELD} held each, cut when used while a speaker was away: \
         {busy:?}, when used afterwards: {quiet:?}",
        changes.len(),
        report.explain()
    );
    // A node's routes go once and come once.
    ensure!(changes.len() == 2 * lab.nodes().len(), "{} changes of routes", changes.len());
    ensure!(report.failures.is_empty(), "{}", report.explain());
    ensure!(busy.iter().chain(&quiet).all(|cut| *cut == 0), "{busy:?} {quiet:?}");
    Ok(())
}
