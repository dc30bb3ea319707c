//! Neighbours that are found on an interface: sessions between link-local addresses, IPv4 routes with IPv6 next hops, and packets.

use anyhow::{Result, ensure};
use herald_e2e::bench::bgp::frr::Frr;
use herald_e2e::bench::bgp::router::Bird;
use herald_e2e::{Lab, PodOptions, Process, at, await_ok};
use serde_json::json;

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_address, create, service};
use crate::status::status;

/// A lab whose nodes find their routers, with one Service; the speaker of `node1`, and the Service's address.
fn herald(lab: &Lab) -> Result<(Vec<Process>, String)> {
    install(lab)?;
    lab.apply(&pool("default", &["192.0.2.0/28"]))?;
    let timers = json!({ "transmitInterval": 100, "receiveInterval": 100, "detectMultiplier": 3 });
    lab.apply(&object("BFDProfile", "v1beta1", "fast", &timers))?;
    let peer = json!({ "myASN": 42, "dynamicASN": "external", "interface": "eth0", "bfdProfile": "fast" });
    lab.apply(&object("BGPPeer", "v1beta2", "router", &peer))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", "router", &json!({ "peers": ["router"] })))?;
    let node = lab.node(1);
    let processes = vec![lab.controller("controller", &[])?, lab.speaker(node, &[])?];
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(lab, [service("web", json!({}))])?;
    let address = await_address(lab, "web")?;
    await_ok(SOON, "the speaker to say whom it misses", || {
        let told = status(lab, "bgp", false)?;
        ensure!(told.contains("no router has advertised itself on eth0"), "{told}");
        anyhow::Ok(())
    })?;
    Ok((processes, address.to_string()))
}

#[test]
#[ignore = "needs a network namespace"]
fn an_frr_is_found_on_its_interface_watched_and_forwards() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let (herald, address) = herald(&lab)?;
    let config = "router bgp 100\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n \
                  neighbor lan interface remote-as external\n neighbor lan bfd\n \
                  neighbor lan timers connect 1\n \
                  address-family ipv6 unicast\n  neighbor lan activate\n exit-address-family\n";
    let frr = Frr::start(&lab, &lab.router().ns, "frr", config, true)?;
    await_ok(SOON, "FRR to have the route", || {
        let told = frr.ask(&format!("show bgp ipv4 unicast {address}/32"))?;
        ensure!(told.contains("fe80::") && told.contains("valid"), "{told}\n{}", herald[1].log_tail());
        anyhow::Ok(())
    })?;
    await_ok(SOON, "an answer by FRR's route", || {
        let answer = lab.client().get(at(&address, 80))?;
        ensure!(answer.pod == "web-1", "{answer:?}");
        anyhow::Ok(())
    })?;
    await_ok(SOON, "BFD between link-local addresses", || {
        let (told, own) = (frr.ask("show bfd peers")?, status(&lab, "bgp", false)?);
        ensure!(told.contains("Status: up"), "{told}\n{own}\n{}", herald[1].log_tail());
        ensure!(own.contains("%eth0]:179") && own.contains("1 of 1 sessions up"), "{own}");
        anyhow::Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_bird_that_advertises_itself_is_found_on_its_interface() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let (herald, address) = herald(&lab)?;
    let config = "router id 10.0.0.1;\nprotocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; }\n\
                  protocol radv { interface \"lan\" { max ra interval 4; min ra interval 3; default lifetime 0; }; }\n\
                  protocol bgp nodes { local as 100; neighbor range fe80::/10 external; interface \"lan\";\n\
                  dynamic name \"node\"; bfd on; ipv4 { import all; export none; extended next hop; };\n\
                  ipv6 { import all; export none; }; }\n";
    let mut bird = Bird::start(&lab, &lab.router().ns, "unnumbered", config)?;
    await_ok(SOON, "BIRD to have the route", || {
        let told = bird.ask(&format!("show route all {address}/32"))?;
        ensure!(told.contains("fe80::"), "{told}\n{}", herald[1].log_tail());
        anyhow::Ok(())
    })?;
    await_ok(SOON, "BFD between link-local addresses", || {
        let told = bird.ask("show bfd sessions")?;
        let up = |line: &str| line.contains("fe80::") && line.contains("Up");
        ensure!(told.lines().any(up), "{told}\n{}", herald[1].log_tail());
        anyhow::Ok(())
    })
}
