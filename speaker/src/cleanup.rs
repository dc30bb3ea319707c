//! Removes from the node what stopping leaves there: Herald's tables and its addresses on `lo`.
//!
//! Withdraws nothing: it is for a node whose speaker is gone. Addresses first, because one without rules would expose
//! the node. What others made is not touched; doing it twice is no error.

use std::path::Path;

use anyhow::Context;

use crate::addresses::LocalAddresses;
use crate::kernel::KernelThread;

/// What was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Both of Herald's tables were there.
    pub tables: bool,
    /// How many addresses of Herald's were on `lo`.
    pub addresses: usize,
}

/// Removes Herald's tables and local addresses from the network namespace of the calling thread, whose settings are in
/// `sysctls` ([`crate::SYSCTLS`]).
pub async fn cleanup(sysctls: &Path) -> anyhow::Result<Cleaned> {
    let (mut addresses, connection) = LocalAddresses::open(sysctls)?;
    let remove = async {
        let ours = addresses.adopt().await?.clone();
        for address in &ours {
            addresses.remove(*address).await?;
        }
        anyhow::Ok(ours.len())
    };
    let addresses = tokio::select! {
        () = connection => anyhow::bail!("rtnetlink closed"),
        removed = remove => removed.context("cannot remove Herald's addresses from lo")?,
    };
    let kernel = KernelThread::start().await?;
    let tables = kernel.call(herald_proxy::netlink::Kernel::exists).await?;
    kernel.call(herald_proxy::netlink::Kernel::remove).await.context("cannot remove Herald's tables")?;
    Ok(Cleaned { tables, addresses })
}
