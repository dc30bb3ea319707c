//! `herald plan`: what it says is what then happens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, PodOptions, await_ok, herald_program};
use serde_json::{Value, json};

use crate::objects::{install, pool};
use crate::services::{SOON, addresses_of, all, await_address, create, service};

/// What it prints of files, to the administrator.
fn plan(lab: &Lab, text: &str, output: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let (program, kubeconfig) = (herald_program()?.display().to_string(), lab.kubeconfig());
    let (kubeconfig, file) = (kubeconfig.display().to_string(), file.path().display().to_string());
    lab.control_plane_ns().exec(&[&program, "plan", "--kubeconfig", &kubeconfig, "-o", output, "-f", &file])
}

/// What Services have.
fn held(lab: &Lab) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    Ok(all(lab)?
        .into_iter()
        .map(|(name, service)| (format!("default/{name}"), addresses_of(&service)))
        .collect())
}

#[test]
#[ignore = "needs a network namespace"]
fn what_is_planned_is_what_happens_when_it_is_applied() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    install(&lab)?;
    lab.apply(&pool("edge", &["192.0.2.0/30"]))?;
    let controller = lab.controller("controller", &[])?;
    for name in ["a", "b", "c", "d", "waits"] {
        create(&lab, [service(name, json!({}))])?;
        if name != "waits" {
            await_address(&lab, name)?;
        }
    }
    let before = held(&lab)?;

    // Two addresses go, and one comes for those that lose theirs and the one that waits. In one object: between two the
    // controller may act.
    let new = pool("edge", &["192.0.2.0/31", "198.51.100.7/32"]);
    let text = plan(&lab, &new, "text")?;
    println!("$ herald plan -f new.yaml\n{text}");
    let planned: Value = serde_json::from_str(&plan(&lab, &new, "json")?)?;
    ensure!(held(&lab)? == before, "a plan changes nothing");
    let mut expected = before.clone();
    for moved in planned["moved"].as_array().context("what moves")? {
        let then: Vec<IpAddr> = serde_json::from_value(moved["then"]["addresses"].clone())?;
        expected.insert(moved["service"].as_str().context("a name")?.to_owned(), then);
    }
    ensure!(expected != before && text.contains("edge") && text.contains("198.51.100.7 (edge)"), "{text}");

    lab.apply(&new)?;
    await_ok(SOON, "what was planned", || {
        let now = held(&lab)?;
        ensure!(now == expected, "planned {expected:?}, is {now:?}");
        Ok(())
    })
    .with_context(|| controller.log_tail())?;
    let again: Value = serde_json::from_str(&plan(&lab, &new, "json")?)?;
    ensure!(again["moved"] == json!([]), "{again:#}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn what_a_drain_is_said_to_take_away_is_what_it_takes_away() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (_controller, _speakers) = crate::order::herald(&lab, &crate::order::config("192.0.2.0/28"), &[])?;
    let _here = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let _there = lab.pod(lab.node(2), "web-2", &PodOptions::app("web"))?;
    let _alone = lab.pod(lab.node(1), "alone-1", &PodOptions::app("alone"))?;
    let local = json!({ "spec": { "externalTrafficPolicy": "Local", "selector": { "app": "alone" } } });
    create(&lab, [service("web", json!({})), service("alone", local)])?;
    let [web, alone] =
        [await_address(&lab, "web")?, await_address(&lab, "alone")?].map(|ip| format!("{ip}/32"));
    let (first, second) = (IpAddr::from(lab.node(1).ip), IpAddr::from(lab.node(2).ip));
    lab.router().await_route(&web, &[first, second], SOON)?;
    lab.router().await_route(&alone, &[first], SOON)?;

    let (program, kubeconfig) = (herald_program()?, lab.kubeconfig());
    let drain = |output: &str| {
        lab.control_plane_ns().run(|| {
            Command::new(&program)
                .args(["plan", "drain", "node1", "-o", output, "--kubeconfig"])
                .arg(&kubeconfig)
                .output()
        })
    };
    let text = drain("text")??;
    println!("$ herald plan drain node1\n{}", String::from_utf8_lossy(&text.stdout));
    ensure!(text.status.code() == Some(1), "something would not be reached: {text:?}");
    let planned: Value = serde_json::from_slice(&drain("json")??.stdout)?;
    let then = |service: &str| -> Vec<String> {
        let rows = planned["addresses"].as_array().into_iter().flatten();
        let row = rows.filter(|row| row["service"] == service);
        row.flat_map(|row| serde_json::from_value::<Vec<String>>(row["then"].clone()).unwrap_or_default())
            .collect()
    };
    ensure!(then("default/web") == ["node2"] && then("default/alone").is_empty(), "{planned:#}");

    lab.kubectl(&["label", "node", "node1", "node.kubernetes.io/exclude-from-external-load-balancers="])?;
    lab.router().await_route(&web, &[second], SOON)?;
    lab.router().await_route(&alone, &[], SOON)
}
