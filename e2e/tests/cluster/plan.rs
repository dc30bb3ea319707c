//! `herald plan`: what it says is what the controller then does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, await_ok, herald_program};
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

    // Two addresses go, and another pool has one for those that lose theirs and the one that waits.
    let new = format!("{}\n---\n{}", pool("edge", &["192.0.2.0/31"]), pool("more", &["198.51.100.7/32"]));
    let text = plan(&lab, &new, "text")?;
    println!("$ herald plan -f new.yaml\n{text}");
    let planned: Value = serde_json::from_str(&plan(&lab, &new, "json")?)?;
    ensure!(held(&lab)? == before, "a plan changes nothing");
    let mut expected = before.clone();
    for moved in planned["moved"].as_array().context("what moves")? {
        let then: Vec<IpAddr> = serde_json::from_value(moved["then"]["addresses"].clone())?;
        expected.insert(moved["service"].as_str().context("a name")?.to_owned(), then);
    }
    ensure!(expected != before && text.contains("edge") && text.contains("198.51.100.7 (more)"), "{text}");

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
