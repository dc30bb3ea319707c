//! `herald status`: its flags, and who answers: the whole cluster, or one speaker.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use herald_speaker::explain::{BGP_PATH, BgpAnswer, ROUTES_PATH, RoutesAnswer};
use serde::de::DeserializeOwned;

use crate::cluster::{self, Subject, Wanted};
use crate::explain::{SpeakerFlags, answer};
use crate::flags::{ClusterFlags, Output};
use crate::print;

/// Exit code where a live view has no terminal.
const NO_TERMINAL: u8 = 2;

/// `herald status`.
#[derive(Debug, Args)]
pub(crate) struct StatusFlags {
    #[command(subcommand)]
    of: Option<Of>,
    #[command(flatten)]
    look: LookFlags,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// The addresses of Services of type LoadBalancer: what is wrong, who announces each, and how many endpoints are ready; wide: by which
    /// peers, or at which MAC.
    Services {
        /// Only these: NAMESPACE/NAME, NAME in whatever namespace, or an address.
        #[arg(value_name = "NAMESPACE/NAME")]
        names: Vec<String>,
        /// Only Services of this namespace.
        #[arg(short = 'n', long, value_name = "NAME")]
        service_namespace: Option<String>,
        /// Services of all namespaces, as without it.
        #[arg(short = 'A', long, conflicts_with = "service_namespace")]
        all_namespaces: bool,
    },
    /// The nodes: what is wrong on each, its speaker, its proxy, how far its rules are behind, its sessions, and how many addresses it announces.
    Nodes {
        /// Only these Nodes.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// The IPAddressPools: how much of each is in use.
    Pools {
        /// Only these pools.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// BGP sessions. With a kubeconfig those of all nodes. Of one node (--node, --speaker, or without a kubeconfig the speaker on this machine)
    /// in full: state, what was agreed, routes out, how each ended last, and the likely cause.
    Bgp {
        #[command(flatten)]
        speaker: SpeakerFlags,
    },
    /// The addresses that are announced by ARP or NDP: who owns each on which interface, with which MAC and since when, and who would be next.
    Layer2 {
        /// Only these: an address, or a Service as NAMESPACE/NAME or NAME.
        #[arg(value_name = "ADDRESS|NAMESPACE/NAME")]
        names: Vec<String>,
    },
    /// The routes that are announced, and the Services that make each. With a kubeconfig those of all nodes; of one node (--node, --speaker, or
    /// without a kubeconfig the speaker on this machine) with addresses and pools.
    Routes {
        #[command(flatten)]
        speaker: SpeakerFlags,
    },
}

/// How it is looked at. The flags may stand before the subject as well as after it, as kubectl's do.
#[derive(Debug, Args)]
struct LookFlags {
    /// `text` is for people and `wide` has more columns; `json` is for scripts; `name` is a name a line, as other commands take it.
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// A live view on the whole terminal, that looks anew every 2 s; `q` ends it.
    #[arg(short, long, global = true)]
    watch: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// How a status is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Text,
    Wide,
    Json,
    Name,
}

impl StatusFlags {
    /// The screen is the view's: no log goes there.
    pub(crate) fn is_live(&self) -> bool {
        self.look.watch
    }
}

/// Asks for a status, and prints it.
pub(crate) async fn run(flags: StatusFlags) -> Result<ExitCode> {
    let StatusFlags { of, look } = flags;
    let (subject, wanted) = match of {
        None => (Subject::All, Wanted::default()),
        Some(Of::Services { names, service_namespace: namespace, all_namespaces: _ }) => {
            (Subject::Services, Wanted { names, namespace })
        }
        Some(Of::Nodes { names }) => (Subject::Nodes, Wanted { names, namespace: None }),
        Some(Of::Pools { names }) => (Subject::Pools, Wanted { names, namespace: None }),
        Some(Of::Layer2 { names }) => (Subject::Layer2, Wanted { names, namespace: None }),
        Some(Of::Bgp { speaker }) => match asks_one(&speaker, &look) {
            true => return one::<BgpAnswer>(&speaker, &look, BGP_PATH).await,
            false => (Subject::Bgp, Wanted::default()),
        },
        Some(Of::Routes { speaker }) => match asks_one(&speaker, &look) {
            true => return one::<RoutesAnswer>(&speaker, &look, ROUTES_PATH).await,
            false => (Subject::Routes, Wanted::default()),
        },
    };
    let LookFlags { output, watch, cluster } = look;
    if !watch {
        print(&cluster::status(&cluster, subject, &wanted, output).await?);
    } else if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        cluster::watch(&cluster, subject, wanted, output == Form::Wide).await?;
    } else {
        eprintln!(
            "herald status: --watch draws on a terminal, and there is none; without it the answer is printed once"
        );
        return Ok(ExitCode::from(NO_TERMINAL));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether one speaker is asked, and not all.
fn asks_one(speaker: &SpeakerFlags, look: &LookFlags) -> bool {
    speaker.is_given() || !look.cluster.client.is_named()
}

async fn one<A: DeserializeOwned + std::fmt::Display>(
    speaker: &SpeakerFlags,
    look: &LookFlags,
    path: &str,
) -> Result<ExitCode> {
    let output = match (look.watch, look.output) {
        (true, _) => bail!(
            "--watch looks at the whole cluster: it needs a kubeconfig, and neither --node nor --speaker"
        ),
        (_, Form::Text | Form::Wide) => Output::Text,
        (_, Form::Json) => Output::Json,
        (_, Form::Name) => {
            bail!("-o name is of the whole cluster: it needs a kubeconfig, and neither --node nor --speaker")
        }
    };
    print(&answer::<A>(speaker, output, &look.cluster, path).await?);
    Ok(ExitCode::SUCCESS)
}
