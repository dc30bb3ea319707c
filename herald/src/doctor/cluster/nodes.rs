//! Is the cluster one that Herald can work in: its version, its clock, its Nodes.

use serde_json::Value;

use super::seen::ClusterSeen;
use crate::doctor::report::{Check, Trouble};

pub(super) const CHECKS: &[Check<ClusterSeen>] = &[
    Check { id: "kubernetes", holds: "Kubernetes is 1.25 or newer", judge: version },
    Check { id: "clock", holds: "this machine's clock and the API server's agree", judge: clock },
    Check { id: "node-ready", holds: "all Nodes are Ready", judge: ready },
    Check { id: "node-address", holds: "every Node has an InternalIP", judge: address },
    Check { id: "node-network", holds: "no Node says that its network is not there", judge: network },
    Check { id: "node-excluded", holds: "some Node may announce addresses", judge: excluded },
    Check { id: "pod-cidrs", holds: "it is known which addresses are pods'", judge: pod_cidrs },
];

/// Nodes that are named in a sentence.
const NAMED: usize = 5;
/// Seconds of difference that no clock that is kept has.
const APART: i64 = 5;
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The first few of them.
pub(super) fn names(all: &[&str]) -> String {
    let shown = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Text items of a list.
pub(super) fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn version(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let mut numbers = seen.version.trim_start_matches('v').split('.').map(|number| number.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(format!("the API server's version is {:?}", seen.version));
    };
    Ok(match (major, minor) < (1, 25) {
        true => vec![Trouble::error(
            format!(
                "the API server is {}: EndpointSlices and Events are not as Herald knows them",
                seen.version
            ),
            "update Kubernetes to 1.25 or newer first",
        )],
        false => Vec::new(),
    })
}

fn clock(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let ahead = seen.ahead.ok_or("the API server's answer has no date")?;
    Ok(match ahead.abs() > APART {
        true => vec![Trouble::warning(
            format!(
                "the API server's clock is {} s {} this machine's: times of logs and Events do not fit together, and tokens may \
                 be refused",
                ahead.abs(),
                if ahead > 0 { "ahead of" } else { "behind" }
            ),
            "timedatectl on both; Herald itself measures time by clocks that nobody sets",
        )],
        false => Vec::new(),
    })
}

/// Nodes that something is true of, told by one trouble.
fn told(
    seen: &ClusterSeen,
    is: impl Fn(&Value) -> bool,
    trouble: impl Fn(String) -> Trouble,
) -> Result<Vec<Trouble>, String> {
    let found: Vec<&str> = seen.list("nodes")?.iter().filter(|node| is(node)).map(name).collect();
    Ok(if found.is_empty() { Vec::new() } else { vec![trouble(names(&found))] })
}

fn condition(node: &Value, kind: &str, status: &str) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == kind && condition["status"] == status)
}

fn ready(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    told(
        seen,
        |node| !condition(node, "Ready", "True"),
        |nodes| {
            Trouble::warning(
                format!(
                    "{nodes}: not Ready; its endpoints are not used, and no address is announced from there under policy Local"
                ),
                "kubectl describe node, and its kubelet's log",
            )
        },
    )
}

fn address(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let has = |node: &Value| {
        node["status"]["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|address| address["type"] == "InternalIP")
    };
    told(
        seen,
        |node| !has(node),
        |nodes| {
            Trouble::error(
                format!("{nodes}: no InternalIP; the speaker there does not know the node's own address"),
                "start the kubelet with --node-ip",
            )
        },
    )
}

fn network(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    told(
        seen,
        |node| condition(node, "NetworkUnavailable", "True"),
        |nodes| {
            Trouble::warning(
                format!(
                    "{nodes}: NetworkUnavailable; nothing is announced from there until the network plugin takes it back"
                ),
                "look at the network plugin's pod there: kubectl -n kube-system get pods -o wide",
            )
        },
    )
}

fn excluded(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let nodes = seen.list("nodes")?;
    let out = nodes.iter().filter(|node| node["metadata"]["labels"].get(EXCLUDED).is_some()).count();
    Ok(match out > 0 && out == nodes.len() {
        true => vec![Trouble::error(
            format!("all {out} Nodes have the label {EXCLUDED}: no address is announced from anywhere"),
            format!("kubectl label node NAME {EXCLUDED}- (kubeadm sets it on control plane nodes)"),
        )],
        false => Vec::new(),
    })
}

fn pod_cidrs(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    if super::herald::speaker_flag(seen, "--cluster-cidr").is_some() {
        return Ok(Vec::new());
    }
    told(
        seen,
        |node| words(&node["spec"]["podCIDRs"]).next().is_none(),
        |nodes| {
            Trouble::warning(
                format!(
                    "{nodes}: no podCIDRs, and the speakers have no --cluster-cidr: pods there are taken for clients outside, so that their \
                 address is hidden from endpoints and policy Local is in their way"
                ),
                "give the speakers --cluster-cidr with the pods' network (network plugins with their own IPAM leave podCIDRs empty)",
            )
        },
    )
}
