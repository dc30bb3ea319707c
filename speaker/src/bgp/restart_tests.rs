//! Graceful restart (RFC 4724) with a real BIRD: what it keeps, until when, and what it drops.

use std::rc::Rc;

use herald_runtime::metrics::Metrics;
use tokio::task::spawn_local;

use super::tests::{route, settings};
use super::*;
use crate::metrics::SpeakerMetrics;
use crate::testing::bird::{Bird, addresses};
use crate::testing::in_namespace;

const KEPT: &str = "192.0.2.1/32";
const KEPT_V6: &str = "2001:db8:1::1/128";
const GONE: &str = "192.0.2.2/32";

fn graceful() -> PeerSettings {
    let mut settings = settings("");
    settings.peer.graceful_restart = true;
    settings
}

fn started(predecessor: bool) -> Peers {
    Peers::new(SpeakerMetrics::new(&Metrics::new(), "node-1", 1000).bgp, predecessor)
}

fn holds(answer: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().all(|prefix| answer.contains(prefix))
}

/// A speaker whose routes BIRD has.
async fn first_run(bird: &Bird) -> Peers {
    let mut peers = started(false);
    for prefix in [KEPT, KEPT_V6, GONE] {
        peers.announce(&route(prefix, &[]));
    }
    peers.set(&[graceful()]).await;
    bird.until("show route", |answer| holds(answer, &[KEPT, KEPT_V6, GONE])).await;
    peers
}

/// Asks BIRD again and again, until `done`, whether it has both routes; counts the answers, and those where one is missing.
async fn watch_routes(bird: Rc<Bird>, mut done: oneshot::Receiver<()>) -> (usize, usize) {
    let (mut asked, mut missing) = (0, 0);
    while matches!(done.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
        let answer = bird.ask("show route").await;
        asked += 1;
        missing += usize::from(!holds(&answer, &[KEPT, KEPT_V6]));
    }
    (asked, missing)
}

#[test]
#[ignore = "needs a network namespace"]
fn routes_stay_over_a_restart_without_a_gap_and_what_is_not_told_again_goes() {
    in_namespace(|| async {
        addresses().await;
        let bird = Rc::new(Bird::start(""));
        let mut peers = first_run(&bird).await;
        let (done, watched) = oneshot::channel();
        let watch = spawn_local(watch_routes(Rc::clone(&bird), watched));

        assert_eq!(peers.leave("restart").await, 1);
        peers.stop("restart").await;
        drop(peers);
        bird.until("show protocols all herald", |answer| answer.contains("graceful restart active")).await;
        assert!(holds(&bird.ask("show route").await, &[KEPT, KEPT_V6, GONE]), "{}", bird.log());

        let mut peers = started(true);
        peers.announce(&route(KEPT, &[]));
        peers.announce(&route(KEPT_V6, &[]));
        peers.set(&[graceful()]).await;
        bird.until("show route", |answer| !answer.contains(GONE)).await;
        bird.up().await;
        let shown = bird.ask("show protocols all herald").await;
        assert!(!shown.contains("graceful restart active"), "{shown}");
        assert!(shown.contains("AF preserved: ipv4 ipv6"), "{shown}");
        let _ = done.send(());
        let (asked, missing) = watch.await.unwrap();
        assert!(asked > 10 && missing == 0, "{missing} of {asked} answers lack a route\n{}", bird.log());
        assert_eq!(bird.established(), 2, "{}", bird.log());
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn an_empty_table_after_a_restart_ends_what_was_kept_too() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        first_run(&bird).await.leave("restart").await;
        let mut peers = started(true);
        peers.set(&[graceful()]).await;
        bird.until("show route", |answer| {
            ![KEPT, KEPT_V6, GONE].iter().any(|prefix| answer.contains(prefix))
        })
        .await;
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_node_that_lost_its_rules_has_its_old_routes_dropped_at_the_open() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        first_run(&bird).await.leave("reboot").await;
        let mut peers = started(false);
        peers.announce(&route(KEPT, &[]));
        peers.set(&[graceful()]).await;
        bird.until("show route", |answer| answer.contains(KEPT) && !answer.contains(GONE)).await;
        let shown = bird.until("show protocols all herald", |answer| answer.contains("Established")).await;
        assert!(!shown.contains("AF preserved: ipv4"), "{shown}");
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_peer_without_graceful_restart_is_left_alone_by_leave_and_told_at_the_stop() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("graceful restart off;");
        let mut peers = first_run(&bird).await;
        assert_eq!(peers.leave("restart").await, 0);
        bird.up().await;
        peers.stop("node-1 stops").await;
        bird.until("show protocols all herald", |answer| answer.contains("Administrative shutdown")).await;
        bird.until("show route", |answer| !answer.contains(KEPT)).await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn stop_has_the_routes_dropped_at_once_with_graceful_restart_too() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let mut peers = first_run(&bird).await;
        peers.stop("drain").await;
        bird.until("show route", |answer| !answer.contains(KEPT)).await;
        assert!(!bird.ask("show protocols all herald").await.contains("graceful restart active"));
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_change_of_settings_keeps_the_routes_too() {
    in_namespace(|| async {
        addresses().await;
        let bird = Rc::new(Bird::start(""));
        let mut peers = first_run(&bird).await;
        let (done, watched) = oneshot::channel();
        let watch = spawn_local(watch_routes(Rc::clone(&bird), watched));
        let mut changed = graceful();
        changed.peer.hold_time = Duration::from_secs(30);
        peers.set(&[changed]).await;
        bird.until("show protocols all herald", |answer| answer.contains("/30")).await;
        bird.until("show protocols all herald", |answer| answer.contains("Established")).await;
        let _ = done.send(());
        let (asked, missing) = watch.await.unwrap();
        assert!(asked > 0 && missing == 0, "{missing} of {asked} answers lack a route\n{}", bird.log());
        peers.stop("test").await;
    });
}
