//! `herald history`: an address that is announced by BGP, with its session, and withdrawn and announced again, as one timeline. What happens on a
//! segment is in `layer2/history.rs`.

use anyhow::{Result, ensure};
use herald_e2e::{Lab, PodOptions, RouterOptions, await_ok, herald_program};
use serde_json::{Value, json};

use crate::services::{SOON, await_address, create, service};

const CONFIG: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/28]}
";

/// What it prints to the administrator, outside the nodes.
pub(crate) fn history(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let (program, kubeconfig) = (herald_program()?.display().to_string(), lab.kubeconfig());
    let kubeconfig = kubeconfig.display().to_string();
    let command = [&[&*program, "history", "--kubeconfig", &kubeconfig], arguments].concat();
    lab.control_plane_ns().exec(&command)
}

/// The same for scripts.
pub(crate) fn history_json(lab: &Lab, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&history(lab, &[arguments, &["-o", "json"]].concat())?)?)
}

/// Of each line the node, what happened and the word of the reason; those that are not of `address` or of sessions are left out.
pub(crate) fn told(timeline: &Value, address: &str) -> Vec<String> {
    let lines = timeline["lines"].as_array().into_iter().flatten();
    let of = lines.filter(|line| line["address"].is_null() || line["address"] == address);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of.map(|line| format!("{} {}: {}", text(&line["nodes"][0]), text(&line["what"]), text(&line["reason"])))
        .collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn what_became_of_an_address_and_of_the_session_that_tells_it_is_one_timeline() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let speaker = lab.speaker(lab.node(1), &[])?;
    lab.router().await_session("node1", SOON)?;
    let pod = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let vip = await_address(&lab, "web")?.to_string();
    // An address whose endpoint has not been seen yet was without one for a moment.
    let all = || -> Result<Vec<String>> {
        let mut told = told(&history_json(&lab, &[&vip])?, &vip);
        told.retain(|line| !line.contains("not announced"));
        Ok(told.iter().map(|line| line.replace("BGP: addressGiven", "BGP: over")).collect())
    };
    let await_told = |last: &str| {
        await_ok(SOON, last, || {
            let told = all()?;
            ensure!(told.last().is_some_and(|line| line == last), "{told:#?}\n{}", speaker.log_tail());
            Ok(told)
        })
    };
    await_told("node1 announced by BGP: over")?;
    pod.set_ready(false)?;
    await_told("node1 withdrawn from BGP: noEndpoints")?;
    pod.set_ready(true)?;
    await_told("node1 announced by BGP: over")?;
    lab.router().stop_bird()?;
    await_told("node1 BGP session with 10.0.0.1:179 down: ended")?;
    let text = history(&lab, &[&vip])?;
    println!("$ herald history {vip}\n{text}");
    ensure!(
        text.starts_with(&format!("{vip} of default/web is announced by BGP from node1 since ")),
        "{text}"
    );
    ensure!(text.contains("(no session up: node1)"), "{text}");
    lab.router().configure(&RouterOptions::t4(lab.nodes()))?;
    lab.router().start_bird()?;
    let all = await_told("node1 BGP session with 10.0.0.1:179 up: agreed")?;
    let expected = [
        "node1 BGP session with 10.0.0.1:179 up: agreed",
        "node1 programmed: addressGiven",
        "node1 announced by BGP: over",
        "node1 withdrawn from BGP: noEndpoints",
        "node1 announced by BGP: over",
        "node1 BGP session with 10.0.0.1:179 down: ended",
        "node1 BGP session with 10.0.0.1:179 up: agreed",
    ];
    ensure!(all == expected, "{all:#?}");
    // Of any address the same, for there is no other.
    let any = history_json(&lab, &[])?;
    let last = told(&any, &vip);
    ensure!(
        last.last() == all.last() && any["subject"].is_null() && any["addresses"] == json!([]),
        "{any:#}"
    );
    ensure!(history(&lab, &[])?.starts_with("what happened last to any address, the newest below: "));

    // A Service that is gone is remembered by its name and by its address.
    lab.kubectl(&["delete", "service", "web"])?;
    await_ok(SOON, "the end", || {
        for subject in [&*vip, "default/web"] {
            let text = history(&lab, &[subject])?;
            ensure!(
                text.contains(&format!("{vip}: nobody has it"))
                    && text.contains("the Service has the address no more"),
                "{text}"
            );
        }
        Ok(())
    })?;
    for (arguments, error) in [
        (["10.0.0.500", "--at=90m"], "neither an address like"),
        (["10.0.0.5", "--at=soon"], "is no time: write 03:12"),
    ] {
        let said = history(&lab, &arguments).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains(error), "{said}");
    }
    let said = history(&lab, &["192.0.2.77"])?;
    ensure!(said.contains("192.0.2.77: no speaker that answers remembers anything of it"), "{said}");
    Ok(())
}
