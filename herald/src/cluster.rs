//! `herald status` of a whole cluster, from outside: all of it or one subject, what is wrong first.
//!
//! One list each of what the subject needs (Services of type LoadBalancer, Nodes, pods of Herald, pools, ConfigurationStates, the Lease), and one or
//! two questions to each speaker: by the API server's pod proxy where the speaker is a pod, at the node's admin port where it is not. What all
//! speakers know alike is asked of one. Without Services and Nodes there is nothing to tell; what else cannot be had is a finding, never the end: a
//! cluster that is broken is when this is typed.
//!
//! ```text
//!   look (here) ──Facts──> services.rs, nodes.rs, … (pure) ──Told──> sheet.rs ──lines──> standard output, or watch.rs
//! ```

mod availability;
mod bgp;
mod facts;
mod judge;
mod layer2;
mod nodes;
mod pools;
mod routes;
mod screen;
mod services;
mod sheet;
mod told;
mod watch;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use herald_runtime::said;
use herald_speaker::explain::{
    ANNOUNCED_PATH, BGP_PATH, ENDPOINTS_PATH, EndpointsAnswer, NODE_PATH, ROUTES_PATH,
};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{DynamicObject, ListParams, ObjectList};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use self::facts::{Answers, Facts, PoolFact, ServiceFact, Unread};
use self::told::Told;
pub(crate) use self::told::{Subject, Wanted};
pub(crate) use self::watch::watch;
use crate::flags::{ClusterFlags, json};
use crate::leader::leader;
use crate::speakers::{NodeFact, PODS, ask_nodes, pods_of, untyped};
use crate::status::Form;

/// For all lists.
const API: Duration = Duration::from_secs(10);
/// Speakers that are tried for what all know alike.
const TRIED: usize = 3;
const LEASE: &str = "herald-controller";

/// Whom to ask.
#[derive(Clone)]
struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn connect(flags: &ClusterFlags) -> Result<Self> {
        let why =
            "herald status asks the API server (one node alone: herald status bgp, herald status routes)";
        Ok(Self { client: flags.connect(why).await?, namespace: flags.namespace.clone() })
    }

    /// Looks at what a subject needs; `wide`: also at what only its wide form shows.
    async fn look(&self, subject: Subject, wide: bool) -> Result<Facts> {
        let mut facts = tokio::time::timeout(API, self.lists(subject)).await.map_err(|_| {
            anyhow!(
                "the API server does not answer: ask a node itself, by herald status bgp --speaker HOST:7472"
            )
        })??;
        let nodes = facts.nodes.clone();
        match subject {
            Subject::All | Subject::Nodes => facts.answers = self.ask(&nodes, NODE_PATH).await,
            Subject::Services if wide => {
                (facts.answers, facts.announced) =
                    tokio::join!(self.ask(&nodes, NODE_PATH), self.ask(&nodes, ANNOUNCED_PATH));
            }
            Subject::Services => facts.answers = self.ask(&nodes, NODE_PATH).await,
            Subject::Layer2 => facts.announced = self.ask(&nodes, ANNOUNCED_PATH).await,
            Subject::Bgp => facts.bgp = self.ask(&nodes, BGP_PATH).await,
            Subject::Routes => facts.routes = self.ask(&nodes, ROUTES_PATH).await,
            Subject::Pools => {}
        }
        if subject == Subject::Services {
            facts.endpoints = self.endpoints(&facts).await;
        }
        Ok(facts)
    }

    async fn ask<A: DeserializeOwned>(&self, nodes: &[NodeFact], path: &str) -> Answers<A> {
        let answers = ask_nodes(&self.client, &self.namespace, nodes, path).await.into_iter();
        answers.map(|(node, heard)| (node, heard.map(|heard| heard.answer))).collect()
    }

    /// Of the first speaker that tells; an older one cannot.
    async fn endpoints(&self, facts: &Facts) -> Option<EndpointsAnswer> {
        let answers = |node: &&NodeFact| matches!(facts.answers.get(&node.name), Some(Ok(_)));
        for node in facts.nodes.iter().filter(answers).take(TRIED) {
            let mut answer = self.ask(std::slice::from_ref(node), ENDPOINTS_PATH).await;
            if let Some(Ok(answer)) = answer.remove(&node.name) {
                return Some(answer);
            }
        }
        None
    }

    /// What the API server lists for a subject.
    async fn lists(&self, subject: Subject) -> Result<Facts> {
        let Self { client, namespace } = self;
        let mut facts = Facts::new(namespace);
        let (with_services, with_pools, with_leader) = (
            matches!(subject, Subject::All | Subject::Services | Subject::Layer2),
            matches!(subject, Subject::All | Subject::Pools),
            subject == Subject::All,
        );
        let with_speakers = subject != Subject::Pools;
        let all = ListParams::default();
        let balanced = ListParams::default().fields("spec.type=LoadBalancer");
        let herald = ListParams::default().labels(PODS);
        let (services, nodes) = (Api::<Service>::all(client.clone()), Api::<Node>::all(client.clone()));
        let pods = pods_of(client, namespace);
        let leases = untyped(client, namespace, ("coordination.k8s.io", "v1", "Lease", "leases"));
        let ours = |kind, plural| untyped(client, namespace, ("metallb.io", "v1beta1", kind, plural));
        let pools = ours("IPAddressPool", "ipaddresspools");
        let states = ours("ConfigurationState", "configurationstates");
        let (services, nodes, pods, lease, pools, states) = tokio::join!(
            when(with_services, services.list(&balanced)),
            when(with_speakers, nodes.list(&all)),
            when(with_speakers, pods.list(&herald)),
            when(with_leader, leases.get_opt(LEASE)),
            when(with_pools, pools.list(&all)),
            when(with_pools, states.list(&all)),
        );
        let services = services.transpose().map_err(|error| refused("Services", &error))?;
        let nodes = nodes.transpose().map_err(|error| refused("Nodes", &error))?;
        let mut or_told = |what, answer: Option<kube::Result<ObjectList<DynamicObject>>>| match answer {
            Some(Ok(list)) => list.items,
            None => Vec::new(),
            // The kind is not installed, so there are none.
            Some(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
            Some(Err(error)) => {
                facts.unread.push(Unread { what, why: said(error) });
                Vec::new()
            }
        };
        let pods = or_told("pods", pods);
        let pools = or_told("ipaddresspools.metallb.io", pools);
        let states = or_told("configurationstates.metallb.io", states);
        if let Some(lease) = lease {
            facts.leader = match lease {
                Ok(Some(lease)) => Ok(leader(client, &serde_json::to_value(&lease)?).await),
                Ok(None) => Ok(None),
                Err(error) => Err(said(error)),
            };
        }
        facts.services = services.iter().flat_map(|list| &list.items).filter_map(ServiceFact::of).collect();
        facts.nodes =
            nodes.iter().flat_map(|list| &list.items).map(|node| NodeFact::of(node, &pods)).collect();
        facts.pools = pools.iter().filter_map(PoolFact::of).collect();
        facts.refused = states.iter().filter_map(facts::refused).collect();
        Ok(facts)
    }
}

async fn when<T>(wanted: bool, question: impl Future<Output = T>) -> Option<T> {
    if wanted { Some(question.await) } else { None }
}

/// Looks once, and returns what to print.
pub(crate) async fn status(
    flags: &ClusterFlags,
    subject: Subject,
    wanted: &Wanted,
    form: Form,
) -> Result<String> {
    if form == Form::Name && subject == Subject::All {
        bail!(
            "-o name needs a subject: herald status services -o name, or nodes, pools, bgp, layer2, routes"
        );
    }
    let cluster = Cluster::connect(flags).await?;
    let told =
        Told::of(&cluster.look(subject, matches!(form, Form::Wide | Form::Json)).await?, subject, wanted);
    if let Some(names) = wanted.names().filter(|_| told.is_empty()) {
        bail!("there is no {names}: herald status {} tells of all", subject.word());
    }
    match form {
        Form::Json => json(&told),
        Form::Name => Ok(told.names().into_iter().map(|name| name + "\n").collect()),
        Form::Text | Form::Wide => {
            // https://no-color.org
            let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())
                || std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
            let coloured = std::io::stdout().is_terminal() && !plain;
            Ok(told.sheet().text(form == Form::Wide, coloured))
        }
    }
}

fn refused(what: &str, error: &kube::Error) -> anyhow::Error {
    if let kube::Error::Api(status) = error {
        return anyhow!("the API server does not list {what}: {}", status.message);
    }
    // The last cause says it: those before it name layers of the client.
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    anyhow!("the API server cannot be asked for {what}: {cause}")
}
