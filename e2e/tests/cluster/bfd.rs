//! BFD between a node and the router, one hop apart: who hangs is missed in both directions within the detection time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use herald_e2e::bench::bgp::detect::Neighbours;
use herald_e2e::{Lab, PodOptions, RouterOptions, await_ok, await_until};
use serde_json::json;

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_address, create, service};

const INTERVAL: u32 = 100;
/// Three packets may be missing. The rest is for a machine that runs other labs meanwhile; `make bench-bgp` measures it.
const DETECTED: Duration = Duration::from_millis(400);

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_and_a_router_that_hang_are_missed_by_each_other_and_found_again() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    install(&lab)?;
    let router = lab.router();
    router.configure(&RouterOptions::t4(lab.nodes()).with_bfd(INTERVAL))?;
    lab.apply(&pool("default", &["192.0.2.0/28"]))?;
    let timers = json!({ "transmitInterval": INTERVAL, "receiveInterval": INTERVAL, "detectMultiplier": 3 });
    lab.apply(&object("BFDProfile", "v1beta1", "router", &timers))?;
    let peer = json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1", "bfdProfile": "router" });
    lab.apply(&object("BGPPeer", "v1beta2", "router", &peer))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", "router", &json!({ "ipAddressPools": ["default"] })))?;
    let _controller = lab.controller("controller", &[])?;
    let node = lab.node(1);
    let speaker = lab.speaker(node, &[])?;
    let _pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let route = format!("{}/32", await_address(&lab, "web")?);
    let watched = || {
        await_ok(SOON, "BFD of both ends at its interval", || {
            router.next_hops(&route).and_then(|hops| {
                ensure!(hops == [node.ip], "{hops:?}");
                let shown = router.birdc("show bfd sessions")?;
                let up = shown
                    .lines()
                    .any(|l| l.contains(&node.ip.to_string()) && l.contains("Up") && l.contains("0.100"));
                ensure!(up, "{shown}\n{}", speaker.log_tail());
                Ok(())
            })
        })
    };
    watched()?;

    speaker.freeze();
    let begun = Instant::now();
    await_until(SOON, "the router to drop the route", || {
        router.next_hops(&route).is_ok_and(|hops| hops.is_empty()).then_some(())
    })?;
    let took = begun.elapsed();
    println!("speaker hangs: BIRD has dropped its route after {} ms", took.as_millis());
    ensure!(took < DETECTED, "{took:?}");
    speaker.thaw();
    watched()?;

    let downs = || speaker.log().matches("BFD: nothing was heard for").count();
    let before = downs();
    router.freeze_bird(true);
    let begun = Instant::now();
    await_until(SOON, "the speaker to end its session", || (downs() > before).then_some(()))?;
    let took = begun.elapsed();
    println!("BIRD hangs: the speaker's session is down after {} ms", took.as_millis());
    router.freeze_bird(false);
    ensure!(took < DETECTED, "{took:?}");
    watched()
}

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_and_an_frr_that_hang_are_missed_by_each_other_and_found_again() -> Result<()> {
    let lab = Lab::builder().nodes(3).control_plane().start()?;
    let mut neighbours = Neighbours::start(&lab, INTERVAL)?;
    let missed = |who: &str, begun: Instant| {
        let took = begun.elapsed();
        println!("{who} hangs: missed after {} ms", took.as_millis());
        ensure!(took < DETECTED, "{who}: {took:?}");
        Ok(())
    };
    let before = neighbours.frr.log().len();
    neighbours.herald.freeze();
    let begun = Instant::now();
    await_until(SOON, "FRR to miss the speaker", || {
        let log = neighbours.frr.log();
        let down = |line: &str| line.contains("ADJCHANGE") && line.contains("Down");
        log[before..].lines().any(down).then_some(())
    })?;
    let seen = missed("the speaker", begun);
    neighbours.herald.thaw();
    seen?;
    neighbours.await_up()?;

    let downs = || neighbours.herald.log().matches("BFD: nothing was heard for").count();
    let before = downs();
    neighbours.frr.hang(true);
    let begun = Instant::now();
    await_until(SOON, "the speaker to miss FRR", || (downs() > before).then_some(()))?;
    let seen = missed("FRR", begun);
    neighbours.frr.hang(false);
    seen?;
    neighbours.await_up()
}
