//! Two clusters on one segment, with one pool between them: what a colleague's copied configuration makes of it.

use anyhow::{Result, ensure};
use herald_e2e::await_ok;

use super::Layer2;
use super::wire::{mac, metrics, text, value};
use crate::order::SOON;
use crate::services::events;

/// Whose hellos are signed otherwise is of another cluster, whatever it says.
#[test]
#[ignore = "needs a network namespace"]
fn another_cluster_with_the_same_pool_is_not_heeded_and_takes_no_address_that_is_in_use() -> Result<()> {
    let mut layer2 = Layer2::start()?;
    let [vip, _] = layer2.service("web")?;
    let owner = layer2.owner(vip.ip(), None)?.clone();
    let stranger = layer2.lab.nodes().iter().take(2).find(|node| node.index != owner.index).cloned();
    let stranger = stranger.ok_or_else(|| anyhow::anyhow!("a second node"))?;
    let keys = layer2.lab.directory().join("another-key");
    std::fs::create_dir_all(&keys)?;
    std::fs::write(keys.join("secretkey"), "another cluster's secret, of some length")?;
    let place = usize::from(stranger.index) - 1;
    ensure!(layer2.speakers[place].terminate(SOON)?.success());
    let flag = format!("--layer2-key-directory={}", keys.display());
    layer2.speakers[place] = layer2.lab.speaker(&stranger, &[&flag])?;

    // It hears nobody of its own, so it asks on the wire; what the owner answers keeps it from taking the address.
    let mac = text(mac(&owner)?);
    let conflict = format!("{mac} on eth0 has {}, which is of a pool: take it off that host", vip.ip());
    await_ok(SOON, "the Event of a conflict", || {
        let told = events(&layer2.lab, "default", "web")?;
        ensure!(
            told.iter().any(|(reason, note)| reason == "AddressConflict" && note.contains(&conflict)),
            "{told:?}"
        );
        Ok(())
    })?;
    for node in [&owner, &stranger] {
        await_ok(SOON, "hellos to be refused", || {
            let refused =
                value(&metrics(node)?, "herald_layer2_hellos_refused_total{reason=\"unauthenticated\"}");
            ensure!(refused.is_some_and(|refused| refused > 0.0), "{}: {refused:?}", node.name);
            Ok(())
        })?;
    }
    layer2.forget(vip)?;
    layer2.lab.router().ns.get(vip)?;
    ensure!(layer2.owner(vip.ip(), None)?.index == owner.index, "it moved");
    Ok(())
}
