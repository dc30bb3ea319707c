//! `herald doctor`: what stands in Herald's way, before it is installed and after, each with its remedy.
//!
//! A check is a pure function of what was seen, in a table with its id; looking changes nothing. The cluster is looked at from
//! outside with a kubeconfig, a node on that node.

mod cluster;
mod node;
mod report;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use herald_runtime::client;

pub(crate) use self::report::Report;
use crate::explain::Output;
use crate::flags::{ClientFlags, StateFlags};

/// Exit code where nothing could be looked at.
pub(crate) const BLIND: u8 = 2;

/// `herald doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// The cluster, from outside, with a kubeconfig: Nodes, Herald's own parts and rights, pools, and whoever else does its work.
    Cluster {
        /// Where Herald's pods and configuration are, or will be.
        #[arg(long, env = "HERALD_NAMESPACE", default_value = "metallb-system", value_name = "NAME")]
        namespace: String,
        /// Text for people or JSON for scripts.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// This machine, as root: kernel, settings, ports, and other programs that announce addresses or translate connections.
    Node {
        #[command(flatten)]
        state: StateFlags,
        /// Text for people or JSON for scripts.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

/// Looks, and returns what was found and how it is to be printed.
pub(crate) async fn run(flags: DoctorFlags) -> Result<(Report, Output)> {
    match flags.of {
        Of::Cluster { namespace, output, client } => {
            let client = client::connect(&client.options()).await.context(
                "herald doctor cluster asks the API server (one node alone, without it: herald doctor node)",
            )?;
            Ok((cluster::report(&client, &namespace).await?, output))
        }
        Of::Node { state, output } => Ok((node::report(state.directory().as_deref()), output)),
    }
}

#[cfg(test)]
mod tests {
    use super::{cluster, node};

    /// The document's table of a part, as it must be.
    fn table(checks: impl Iterator<Item = (&'static str, &'static str)>) -> String {
        checks.map(|(id, holds)| format!("| `{id}` | {holds} |\n")).collect()
    }

    #[test]
    fn the_document_has_all_checks_in_their_order() {
        let document = include_str!("../../docs/doctor.md");
        for table in [table(cluster::listed()), table(node::listed())] {
            assert!(document.contains(&table), "docs/doctor.md should have:\n{table}");
        }
    }
}
