//! `herald explain`, and one node's part of `herald status`: ask a node's speaker and print the answer.
//!
//! The speaker decides and answers in JSON (`herald_speaker::explain`); text and `-o json` are made of the same bytes.
//! Every wait has a deadline, and every failure is one sentence that says what to do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use herald_runtime::ObjectName;
use herald_runtime::admin::{DEFAULT_PORT, StatusCode};
use herald_runtime::fetch::{self, Bytes, FetchError};
use herald_speaker::explain::{
    Failure, PACKET_PATH, PacketAnswer, PacketQuestion, SERVICE_PATH, ServiceAnswer,
};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

use crate::flags::{ClusterFlags, Output, ReportFlags};
use crate::speakers::{self, NodeFact, PODS, pods_of};

/// How long the API server may take.
const API: Duration = Duration::from_secs(10);
/// Nodes that are named where one is unknown.
const NAMED: usize = 10;

/// `herald explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainFlags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A node's view of one Service: its frontends, the share of each endpoint and why, what is masqueraded, whether
    /// it is announced from there and why not.
    Service {
        /// The Service: NAMESPACE/NAME, or NAME in namespace `default`.
        #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_name)]
        name: ObjectName,
        #[command(flatten)]
        ask: AskFlags,
    },
    /// What becomes of a packet that opens a connection: in one line, then step by step.
    Packet {
        /// Its source: a pod, a client, or an address of the node itself.
        #[arg(long, value_name = "ADDRESS")]
        from: String,
        /// Its destination; tcp unless said otherwise.
        #[arg(long, value_name = "ADDRESS:PORT[/PROTOCOL]")]
        to: String,
        #[command(flatten)]
        ask: AskFlags,
    },
}

/// Which speaker is asked.
#[derive(Debug, Args)]
pub(crate) struct SpeakerFlags {
    /// The node whose speaker is asked: by the API server's pod proxy where it is a pod, else at port 7472 of its InternalIP. Without it, the speaker on
    /// this machine.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The admin address of the speaker that is asked.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "node")]
    speaker: Option<String>,
}

impl SpeakerFlags {
    /// Whether one is named.
    pub(crate) fn is_given(&self) -> bool {
        self.node.is_some() || self.speaker.is_some()
    }
}

/// Who is asked, and how it is printed.
#[derive(Debug, Args)]
struct AskFlags {
    #[command(flatten)]
    speaker: SpeakerFlags,
    #[command(flatten)]
    report: ReportFlags,
}

/// Asks, and returns what to print.
pub(crate) async fn run(flags: ExplainFlags) -> Result<String> {
    match flags.what {
        What::Service { name, ask } => {
            let path = format!("{SERVICE_PATH}{name}");
            ask.answer::<ServiceAnswer>(&path).await
        }
        What::Packet { from, to, ask } => {
            // Read here as well: a mistake is told without asking anybody.
            let PacketQuestion { from, to } =
                PacketQuestion::parse(&from, &to).map_err(|text| anyhow!(text))?;
            let to = to.to_string().replace('[', "%5B").replace(']', "%5D");
            ask.answer::<PacketAnswer>(&format!("{PACKET_PATH}?from={from}&to={to}")).await
        }
    }
}

impl AskFlags {
    async fn answer<A: DeserializeOwned + std::fmt::Display>(&self, path: &str) -> Result<String> {
        let Self { speaker, report: ReportFlags { output, cluster } } = self;
        answer::<A>(speaker, *output, cluster, path).await
    }
}

/// Asks one speaker, and returns what to print.
pub(crate) async fn answer<A: DeserializeOwned + std::fmt::Display>(
    SpeakerFlags { node, speaker }: &SpeakerFlags,
    output: Output,
    cluster: &ClusterFlags,
    path: &str,
) -> Result<String> {
    let body = match (node, speaker) {
        (Some(node), _) => by_node(node, cluster, path).await?,
        (None, Some(speaker)) => fetched(speaker, path).await?,
        (None, None) => ask_speaker(Ipv4Addr::LOCALHOST.into(), path).await?,
    };
    let other = "the speaker answers in a form that this herald does not know: use the speaker's version";
    match output {
        Output::Json => {
            let value: serde_json::Value = serde_json::from_slice(&body).context(other)?;
            Ok(format!("{value:#}\n"))
        }
        Output::Text => Ok(serde_json::from_slice::<A>(&body).context(other)?.to_string()),
    }
}

/// What a node's speaker answers at its admin port.
pub(crate) async fn ask_speaker(ip: IpAddr, path: &str) -> Result<Bytes> {
    fetched(&SocketAddr::new(ip, DEFAULT_PORT).to_string(), path).await
}

pub(crate) async fn fetched(server: &str, path: &str) -> Result<Bytes> {
    let (status, body) = fetch::get(server, path).await.map_err(remedy)?;
    if status != StatusCode::OK {
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => bail!(failure.error),
            Err(_) => bail!(
                "{server} is not a speaker that can explain (HTTP {status}): is it a controller, or an older Herald?"
            ),
        }
    }
    Ok(body)
}

/// Says what to do where nobody answers.
fn remedy(error: FetchError) -> anyhow::Error {
    let hint = match &error {
        FetchError::Connect { .. } => {
            "is a speaker running there (kubectl get pods -A -o wide), and does its --admin-address listen there? \
             Ask another node by --node NAME, another port by --speaker HOST:PORT"
        }
        FetchError::Slow(_) => "look at the speaker's log",
        FetchError::Answer { .. } => "is it the admin address of a speaker?",
    };
    anyhow!("{}; {hint}", herald_runtime::chain(&error))
}

/// What the speaker of a node answers: by the API server's pod proxy where it is a pod and that is allowed, which needs no way to the node.
async fn by_node(name: &str, cluster: &ClusterFlags, path: &str) -> Result<Bytes> {
    let client = cluster.connect("--node needs the API server").await?;
    let (nodes, pods) = (Api::<Node>::all(client.clone()), pods_of(&client, &cluster.namespace));
    let (this, here) = (format!("metadata.name={name}"), format!("spec.nodeName={name}"));
    let (this, here) =
        (ListParams::default().fields(&this), ListParams::default().labels(PODS).fields(&here));
    let asked = async {
        match nodes.list(&this).await?.items.pop() {
            Some(node) => Ok((Some(node), pods.list(&here).await, Vec::new())),
            None => {
                let others = nodes.list_metadata(&ListParams::default().limit(500)).await?;
                Ok((None, pods.list(&here).await, others.items))
            }
        }
    };
    let (node, pods, others) = tokio::time::timeout(API, asked)
        .await
        .map_err(|_| {
            anyhow!("the API server does not answer: ask on the node itself, or by --speaker HOST:PORT")
        })?
        .map_err(|error: kube::Error| {
            anyhow!("the API server refuses to tell of Node {name}: {}", herald_runtime::chain(&error))
        })?;
    let Some(node) = node else {
        let names: Vec<String> = others.into_iter().filter_map(|node| node.metadata.name).collect();
        bail!(unknown_node(name, &names));
    };
    let fact = NodeFact::of(&node, &pods.map(|pods| pods.items).unwrap_or_default());
    let mut by_proxy = None;
    if let Some(pod) = &fact.pod {
        let answer =
            tokio::time::timeout(API, speakers::by_proxy(&client, &cluster.namespace, pod, path)).await;
        match answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned().into())) {
            Ok(body) => return Ok(body.into()),
            Err(silence) if silence.own => bail!(silence.why),
            Err(silence) => by_proxy = Some(silence.why),
        }
    }
    // What the proxy said counts where the node itself cannot be reached either.
    let proxied = by_proxy.map(|why| format!("; by the API server's pod proxy: {why}")).unwrap_or_default();
    let ip = fact.ip.with_context(|| {
        format!("Node {name} has no InternalIP: ask its speaker by --speaker HOST:PORT{proxied}")
    })?;
    ask_speaker(ip, path).await.map_err(|error| anyhow!("{error:#}{proxied}"))
}

pub(crate) fn internal_ip(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    internal.find_map(|address| address.address.parse().ok())
}

fn unknown_node(name: &str, names: &[String]) -> String {
    let mut shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        shown.push_str(", …");
    }
    format!("there is no Node {name}; there are {}", if shown.is_empty() { "none" } else { &shown })
}

/// Reads a Service's name.
pub(crate) fn parse_name(text: &str) -> Result<ObjectName, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let fits = |part: &str| {
        !part.is_empty()
            && part.len() <= 253
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    if fits(namespace) && fits(name) {
        Ok(ObjectName::new(namespace, name))
    } else {
        Err("write NAMESPACE/NAME, as in shop/web".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        flags: ExplainFlags,
    }

    fn error(arguments: &[&str]) -> String {
        let cli = Cli::try_parse_from(std::iter::once(&"explain").chain(arguments)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        format!("{:#}", runtime.block_on(run(cli.flags)).unwrap_err())
    }

    #[test]
    fn a_name_without_a_namespace_is_in_default() {
        assert_eq!(parse_name("web"), Ok(ObjectName::new("default", "web")));
        assert_eq!(parse_name("shop/web"), Ok(ObjectName::new("shop", "web")));
        for bad in ["", "/", "shop/", "/web", "a/b/c", "Web", "web?x", "service/shop web"] {
            assert_eq!(parse_name(bad), Err("write NAMESPACE/NAME, as in shop/web".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_mistake_in_a_packet_is_told_before_anybody_is_asked() {
        for (from, to, wanted) in [
            ("x", "10.96.0.10:80", "--from \"x\" is no IP address like 10.244.1.5 or 2001:db8:2::5"),
            ("10.244.1.5", "10.96.0.10", "--to \"10.96.0.10\" is no address and port like"),
            ("10.244.1.5", "2001:db8::1:80", "--to \"2001:db8::1:80\" is no address and port like"),
            (
                "10.244.1.5",
                "10.96.0.10:80/icmp",
                "--to \"10.96.0.10:80/icmp\": \"icmp\" is none of tcp, udp, sctp",
            ),
            ("10.244.1.5", "10.96.0.10:0", "--to \"10.96.0.10:0\": no connection goes to port 0"),
            (
                "10.244.1.5",
                "[2001:db8::1]:80",
                "--from 10.244.1.5 and --to 2001:db8::1 are of different IP families",
            ),
        ] {
            let error = error(&["packet", "--from", from, "--to", to, "--speaker", "127.0.0.1:1"]);
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[test]
    fn where_nobody_listens_the_remedy_is_told() {
        let error = error(&["service", "shop/web", "--speaker", "127.0.0.1:1"]);
        assert!(
            error.starts_with("cannot connect to 127.0.0.1:1: ") && error.contains("--node NAME"),
            "{error}"
        );
        let kubeconfig = ["--kubeconfig", "/nonexistent"];
        let error = self::error(&[&["service", "web", "--node", "node-1"][..], &kubeconfig].concat());
        assert!(error.starts_with("--node needs the API server: kubeconfig /nonexistent"), "{error}");
    }

    #[test]
    fn an_unknown_node_is_told_with_those_that_there_are() {
        let names: Vec<String> = (1..=12).map(|n| format!("node-{n}")).collect();
        assert_eq!(unknown_node("x", &names[..2]), "there is no Node x; there are node-1, node-2");
        assert!(unknown_node("x", &names).ends_with("node-10, …"));
        assert_eq!(unknown_node("x", &[]), "there is no Node x; there are none");
    }

    #[test]
    fn a_speaker_is_asked_at_the_first_internal_ip() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "node-1"},
            "status": {"addresses": [
                {"type": "Hostname", "address": "node-1"},
                {"type": "ExternalIP", "address": "203.0.113.11"},
                {"type": "InternalIP", "address": "2001:db8:10::11"},
                {"type": "InternalIP", "address": "10.0.0.11"},
            ]},
        }))
        .unwrap();
        assert_eq!(internal_ip(&node), Some("2001:db8:10::11".parse().unwrap()));
    }
}
