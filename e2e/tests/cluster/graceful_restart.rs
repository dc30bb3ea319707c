//! BGP graceful restart (RFC 4724): a speaker that is stopped, or dies, and comes again is not missed by the router's clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::{Lab, PodOptions, PollOptions, Poller, await_ok};
use serde_json::json;

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_address, create, service};

#[test]
#[ignore = "needs a network namespace"]
fn a_stop_and_a_death_of_the_only_announcing_speaker_fail_no_connection_through_the_router() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    install(&lab)?;
    lab.apply(&pool("default", &["192.0.2.0/28"]))?;
    let peer =
        json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1", "enableGracefulRestart": true });
    lab.apply(&object("BGPPeer", "v1beta2", "router", &peer))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", "router", &json!({ "ipAddressPools": ["default"] })))?;
    let _controller = lab.controller("controller", &[])?;
    let node = lab.node(1);
    let speaker = lab.speaker(node, &[])?;
    let _pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let local = json!({ "spec": { "externalTrafficPolicy": "Local" } });
    create(&lab, [service("web", local)])?;
    let address = await_address(&lab, "web")?;
    let route = format!("{address}/32");
    lab.router().await_kernel_route(&route, 1, SOON)?;

    let options = PollOptions { interval: Duration::from_millis(10), ..PollOptions::default() };
    let poller = Poller::start(lab.client(), (address, 80).into(), options)?;
    poller.await_answers(100, SOON)?;
    let mut ended = speaker;
    for (times, kill) in [(1, false), (2, true)] {
        if kill {
            ended.kill();
        } else {
            ended.terminate(SOON)?;
        }
        await_ok(SOON, "BIRD to keep the routes", || {
            let shown = lab.router().birdc(&format!("show protocols all {}", node.name))?;
            ensure!(shown.contains("graceful restart active"), "{shown}");
            Ok(())
        })?;
        // Without any speaker for a while, too.
        poller.await_answers(100, SOON)?;
        ended = lab.speaker(node, &[])?;
        await_ok(SOON, "the next session", || {
            let shown = lab.router().birdc(&format!("show protocols all {}", node.name))?;
            let up = lab.router().log().matches("State changed to up").count();
            ensure!(shown.contains("Established") && up > times, "{shown}");
            Ok(())
        })?;
        poller.await_answers(100, SOON)?;
        ensure!(lab.router().next_hops(&route)? == [node.ip], "{:?}", lab.router().routes()?);
    }
    poller.stop()?.assert_no_loss();
    Ok(())
}
