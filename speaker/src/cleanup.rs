//! Removes from the node what stopping leaves there: Herald's tables, its addresses on `lo`, settings that it raised, and
//! what it keeps on disk.
//!
//! Withdraws nothing: it is for a node whose speaker is gone. Addresses first, because one without rules would expose
//! the node. What others made is not touched; doing it twice is no error.

use std::path::Path;

use anyhow::Context;

use crate::addresses::LocalAddresses;
use crate::kernel::KernelThread;
use crate::snapshot;
use crate::sysctl::Sysctls;

/// What was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Both of Herald's tables were there.
    pub tables: bool,
    /// How many addresses of Herald's were on `lo`.
    pub addresses: usize,
    /// How many settings were put back to what they were.
    pub settings: usize,
    /// How many of Herald's files were on disk.
    pub files: usize,
}

/// Removes Herald's tables and local addresses from the network namespace of the calling thread, whose settings are in
/// `sysctls` ([`crate::SYSCTLS`]), and what a speaker left in its state directory.
pub async fn cleanup(sysctls: &Path, state: Option<&Path>) -> anyhow::Result<Cleaned> {
    let sysctls = Sysctls::new(sysctls, state);
    let (mut addresses, connection) = LocalAddresses::open(sysctls.clone())?;
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
    sysctls.restore(&[]);
    let files = state.map_or(Ok(0), snapshot::remove).context("cannot remove what is kept on disk")?;
    Ok(Cleaned { tables, addresses, settings: sysctls.restored(), files })
}
