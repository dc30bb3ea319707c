//! `herald try SERVICE`: every node tries every endpoint, and what does not answer is told with whom it does not answer.

mod judge;

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use herald_runtime::ObjectName;
use herald_speaker::explain::{TRY_PATH, TryAnswer};

use self::judge::judge;
use crate::explain::parse_name;
use crate::flags::ReportFlags;
use crate::speakers::{ask_nodes, nodes};

/// For the lists.
const API: Duration = Duration::from_secs(10);

/// `herald try`.
#[derive(Debug, Args)]
pub(crate) struct TryFlags {
    /// The Service: NAMESPACE/NAME, or NAME in namespace `default`.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_name)]
    name: ObjectName,
    #[command(flatten)]
    report: ReportFlags,
}

/// Has all nodes try; returns what to print, and whether all is well.
pub(crate) async fn run(flags: TryFlags) -> Result<(String, bool)> {
    let TryFlags { name, report: ReportFlags { output, cluster } } = flags;
    let client = cluster.connect("herald try asks the API server which nodes there are").await?;
    let (nodes, unread) = tokio::time::timeout(API, nodes(&client, &cluster.namespace))
        .await
        .map_err(|_| anyhow!("the API server does not answer"))??;
    let answers =
        ask_nodes::<TryAnswer>(&client, &cluster.namespace, &nodes, &format!("{TRY_PATH}{name}")).await;
    let answers = answers.into_iter().map(|(node, heard)| {
        let why = |why: String| match &unread {
            Some(unread) => format!("{why} (which pods there are is not known: {unread})"),
            None => why,
        };
        (node, heard.map(|heard| heard.answer).map_err(|silence| why(silence.why)))
    });
    let verdict = judge(name.to_string(), answers.collect());
    Ok((output.of(&verdict, &verdict)?, verdict.is_well()))
}
