//! `herald doctor`: what stands in Herald's way, before it is installed and after, each with its remedy.
//!
//! A check is a pure function of what was seen, in a table with its id; looking changes nothing. The cluster is looked at from
//! outside with a kubeconfig, a node on that node.

mod cluster;
mod node;
mod report;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use self::report::Report;
use crate::flags::{Output, ReportFlags, StateFlags};

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
        #[command(flatten)]
        report: ReportFlags,
    },
    /// This machine, as root: kernel, settings, ports, and other programs that announce addresses or translate connections.
    Node {
        /// The Node that this machine is, as in `kubectl get nodes`. Without it: as the speaker here was told, or else the host name.
        #[arg(long, env = "HERALD_NODE_NAME", value_name = "NAME")]
        node_name: Option<String>,
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
        Of::Cluster { report: ReportFlags { output, cluster } } => {
            let why =
                "herald doctor cluster asks the API server (one node alone, without it: herald doctor node)";
            let client = cluster.connect(why).await?;
            Ok((cluster::report(&client, &cluster.namespace).await?, output))
        }
        Of::Node { node_name, state, output } => {
            Ok((node::report(node_name, state.directory().as_deref()), output))
        }
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
