//! `herald doctor cluster`: is the cluster fit for Herald, is Herald whole, and does nothing else do its work?

mod addresses;
mod herald;
mod nodes;
mod others;
mod rights;
mod seen;

use std::time::Duration;

use anyhow::{Result, anyhow};
use kube::Client;

use self::seen::ClusterSeen;
use super::report::{Check, Report};

/// For all that the API server is asked.
const API: Duration = Duration::from_secs(30);

/// By subject, as the documentation has them.
const CHECKS: [&[Check<ClusterSeen>]; 4] = [nodes::CHECKS, herald::CHECKS, addresses::CHECKS, others::CHECKS];

/// Looks at the cluster with the rights of who asks. It changes nothing.
pub(super) async fn report(client: &Client, namespace: &str) -> Result<Report> {
    let seen = tokio::time::timeout(API, ClusterSeen::look(client, namespace)).await.map_err(|_| {
        anyhow!(
            "the API server does not answer within {} s: look at one node by herald doctor node",
            API.as_secs()
        )
    })??;
    Ok(Report::of("cluster".to_owned(), CHECKS.into_iter().flatten(), &seen))
}

/// Each check's id, and what holds where all is well.
#[cfg(test)]
pub(super) fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.into_iter().flatten().map(|check| (check.id, check.holds))
}

#[cfg(test)]
mod tests;
