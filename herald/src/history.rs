//! `herald history`: what happened to an address, on all nodes, in one order: who had it when, and why.
//!
//! Each speaker remembers the last transitions of each address (`herald_speaker::explain::HistoryAnswer`). All are asked at once, as for `herald
//! status`; what they say is put into one order by how their clocks stand to each other now (`clocks.rs`, `timeline.rs`, both pure). With
//! `--speaker` no API server is needed.

mod clocks;
mod moment;
mod screen;
mod stand;
mod timeline;

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use herald_speaker::explain::{HISTORY_PATH, HistoryAnswer, Subject};
use k8s_openapi::jiff::Timestamp;

use self::timeline::{Facts, timeline};
use crate::explain::fetched;
use crate::flags::ReportFlags;
use crate::speakers::{Silence, ask_all, ask_nodes, nodes};

/// For the lists.
const API: Duration = Duration::from_secs(10);

/// `herald history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryFlags {
    /// An address, or a Service for all that it has or had: NAMESPACE/NAME, or NAME in namespace `default`. Without it: the last 200 transitions of all
    /// addresses and sessions.
    #[arg(value_name = "ADDRESS|NAMESPACE/NAME", value_parser = Subject::parse)]
    subject: Option<Subject>,
    /// Also says who had it at that time: 03:12 (the last time that it was, UTC), 2026-08-01T03:12:00Z, or 90m (so long ago).
    #[arg(long, requires = "subject", value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,
    /// Only what happened from that time on, written as for --at.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// The admin address of a speaker that is asked instead of all that the API server knows of; can be repeated.
    #[arg(long = "speaker", value_name = "HOST:PORT")]
    speakers: Vec<String>,
    #[command(flatten)]
    report: ReportFlags,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    moment::parse(text, Timestamp::now())
}

/// Asks all, and returns what to print.
pub(crate) async fn run(flags: HistoryFlags) -> Result<String> {
    let HistoryFlags { subject, at, since, speakers, report: ReportFlags { output, cluster } } = flags;
    let subject = subject.unwrap_or(Subject::Any);
    let path = format!("{HISTORY_PATH}{subject}");
    let mut unread = None;
    let answers = if speakers.is_empty() {
        let why = "herald history asks the API server which nodes there are (without it: --speaker HOST:7472 for each)";
        let client = cluster.connect(why).await?;
        let nodes = tokio::time::timeout(API, nodes(&client, &cluster.namespace)).await.map_err(|_| {
            anyhow!(
                "the API server does not answer: ask the nodes themselves, by --speaker HOST:7472 for each"
            )
        })?;
        let (nodes, pods) = nodes?;
        unread = pods;
        ask_nodes::<HistoryAnswer>(&client, &cluster.namespace, &nodes, &path).await
    } else {
        let question = |server: &String| {
            let (name, server, path) = (server.clone(), server.clone(), path.clone());
            let question = async move {
                let body = fetched(&server, &path).await.map_err(|error| format!("{error:#}"))?;
                Ok::<_, Silence>(String::from_utf8_lossy(&body).into_owned())
            };
            (name, question)
        };
        ask_all::<HistoryAnswer>(speakers.iter().map(question)).await
    };
    let history = timeline(Facts {
        subject: Some(subject).filter(|of| *of != Subject::Any).map(|of| of.to_string()),
        at,
        since,
        unread,
        answers,
    });
    output.of(&history, &history)
}
