//! Beside others on a node: each test makes what docs/install.md calls by name ("Beside others"), and does what is said there.

mod firewalls;
mod kube_proxy;
mod node_local_dns;
mod port_179;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, Lab, Node, await_ok, herald_program};
use serde_json::Value;

use crate::order::SOON;

/// What `herald doctor node` finds by a check, in words.
fn doctor(node: &Node, id: &str) -> Result<Vec<String>> {
    let script = format!("{} doctor node -o json || true", herald_program()?.display());
    let text = node.ns.exec(&["sh", "-c", &script])?;
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let checks = report["checks"].as_array().context("checks")?;
    let check = checks.iter().find(|check| check["id"] == id).with_context(|| format!("no check {id}"))?;
    let troubles = check["troubles"].as_array().into_iter().flatten();
    Ok(troubles.map(|trouble| format!("{} {}", trouble["seen"], trouble["remedy"])).collect())
}

/// What `herald` says of a node's speaker.
fn herald(node: &Node, arguments: &str) -> Result<String> {
    let script = format!("{} {arguments} 2>&1 || true", herald_program()?.display());
    node.ns.exec(&["sh", "-c", &script])
}

/// Waits until a client behind the router reaches an address through a node.
fn through(lab: &Lab, node: &Node, vip: SocketAddr) -> Result<()> {
    lab.router().ns.ip(&[format!("route replace {}/32 via {}", vip.ip(), node.ip)])?;
    await_ok(SOON, &format!("{vip} through {}", node.name), || lab.client().get(vip).map(drop))
}

/// Short, where nothing is to come.
fn silence() -> HttpOptions {
    HttpOptions::default().timeout(std::time::Duration::from_millis(400))
}

/// Fails when a client gets an answer.
fn nobody_answers(lab: &Lab, vip: SocketAddr) -> Result<()> {
    let answer = lab.client().http(vip, &silence());
    ensure!(answer == Err(herald_e2e::ClientError::TimedOut), "{answer:?}");
    Ok(())
}
