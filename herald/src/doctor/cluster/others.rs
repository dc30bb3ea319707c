//! Does anything else in the cluster do Herald's work, or get into its way.

use serde_json::Value;

use super::herald::proxies;
use super::nodes::name;
use super::seen::ClusterSeen;
use crate::doctor::report::{Check, Trouble};

pub(super) const CHECKS: &[Check<ClusterSeen>] = &[
    Check {
        id: "kube-proxy-beside",
        holds: "kube-proxy and Herald's proxy do not run side by side",
        judge: kube_proxy,
    },
    Check {
        id: "strict-arp",
        holds: "kube-proxy does not answer ARP for Services' addresses",
        judge: strict_arp,
    },
    Check { id: "metallb", holds: "MetalLB does not announce beside Herald", judge: metallb },
    Check { id: "other-balancers", holds: "nobody else gives addresses to Services", judge: balancers },
    Check { id: "plugin-proxy", holds: "the network plugin leaves Services to Herald", judge: plugin_proxy },
    Check { id: "plugin-bgp", holds: "the network plugin has no BGP sessions of its own", judge: plugin_bgp },
];

/// Workloads that have pods, of both kinds.
fn running(seen: &ClusterSeen) -> Result<Vec<&Value>, String> {
    let pods = |workload: &&Value| {
        let of = |key: &str| workload["status"][key].as_u64().unwrap_or(0);
        of("desiredNumberScheduled") + of("replicas") > 0
    };
    Ok(seen.list("daemonsets")?.iter().chain(seen.list("deployments")?).filter(pods).collect())
}

fn images(workload: &Value) -> impl Iterator<Item = &str> {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
    containers.into_iter().flatten().filter_map(|container| container["image"].as_str())
}

/// Runs an image of this repository: the path's last part, or a part of it with `/`.
fn runs(workload: &Value, repository: &str) -> bool {
    images(workload).any(|image| {
        let path = image.split('@').next().unwrap_or(image);
        // A colon before a slash is a registry's port.
        let path = match path.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => path,
            _ => path,
        };
        path == repository || path.ends_with(&format!("/{repository}"))
    })
}

fn called(workload: &Value) -> String {
    let kind = if workload["status"]["desiredNumberScheduled"].is_u64() { "daemonset" } else { "deployment" };
    format!("-n {} {kind}/{}", workload["metadata"]["namespace"].as_str().unwrap_or_default(), name(workload))
}

fn kube_proxy_set(seen: &ClusterSeen) -> Result<Option<&Value>, String> {
    Ok(running(seen)?
        .into_iter()
        .find(|workload| name(workload) == "kube-proxy" || runs(workload, "kube-proxy")))
}

fn kube_proxy(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let Some(set) = kube_proxy_set(seen)? else { return Ok(Vec::new()) };
    if !proxies(seen)? {
        return Ok(Vec::new());
    }
    Ok(vec![Trouble::error(
        format!(
            "kube-proxy runs ({}) and so does Herald's proxy: both translate the same connections",
            called(set)
        ),
        "remove kube-proxy (docs/kube-proxy.md), or use manifests/overlays/no-proxy",
    )])
}

fn strict_arp(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    // Where it must not run at all, its ARP is the smaller trouble.
    if kube_proxy_set(seen)?.is_none() || !seen.layer2() || proxies(seen)? {
        return Ok(Vec::new());
    }
    let Some(map) = seen.object("plugins", "kube-proxy")? else {
        return Err("kube-proxy runs, and there is no ConfigMap kube-system/kube-proxy that tells its mode"
            .to_owned());
    };
    let text = map["data"]["config.conf"].as_str().unwrap_or_default();
    let says = |key: &str, value: &str| {
        text.lines().any(|line| {
            let said = line.trim().strip_prefix(key).and_then(|rest| rest.trim().strip_prefix(':'));
            said.is_some_and(|said| said.trim().trim_matches('"') == value)
        })
    };
    Ok(match says("mode", "ipvs") && !says("strictARP", "true") {
        true => vec![Trouble::error(
            "kube-proxy uses IPVS without strictARP: every node answers ARP for Services' addresses, beside the one that should",
            "kubectl -n kube-system edit configmap kube-proxy: ipvs.strictARP: true; then restart kube-proxy",
        )],
        false => Vec::new(),
    })
}

fn metallb(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    const REPOSITORIES: [&str; 2] = ["metallb/speaker", "metallb/controller"];
    let found = running(seen)?;
    let theirs =
        found.iter().filter(|workload| REPOSITORIES.iter().any(|repository| runs(workload, repository)));
    let trouble = |workload: &&Value| {
        Trouble::error(
            format!("MetalLB runs ({}): it gives and announces the same addresses", called(workload)),
            format!("kubectl delete {}, once Herald is there (docs/from-metallb.md)", called(workload)),
        )
    };
    Ok(theirs.map(trouble).collect())
}

fn balancers(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    const REPOSITORIES: [(&str, &str); 5] = [
        ("kube-vip/kube-vip", "kube-vip"),
        ("kube-vip/kube-vip-cloud-provider", "kube-vip's cloud provider"),
        ("purelb/allocator", "PureLB"),
        ("openelb/openelb-controller", "OpenELB"),
        ("rancher/klipper-lb", "k3s' ServiceLB"),
    ];
    let mut troubles = Vec::new();
    for workload in running(seen)? {
        if let Some((_, who)) = REPOSITORIES.iter().find(|(repository, _)| runs(workload, repository)) {
            let remedy = match *who {
                "k3s' ServiceLB" => "start k3s with --disable=servicelb".to_owned(),
                _ => "let each have a loadBalancerClass of its own (--lb-class), or remove it".to_owned(),
            };
            troubles.push(Trouble::warning(
                format!("{who} runs ({}): it may give addresses to the same Services", called(workload)),
                remedy,
            ));
        }
    }
    Ok(troubles)
}

/// A key of Cilium's configuration.
fn cilium<'a>(seen: &'a ClusterSeen, key: &str) -> Result<Option<&'a str>, String> {
    Ok(seen.object("plugins", "cilium-config")?.and_then(|map| map["data"][key].as_str()))
}

fn plugin_proxy(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let replaces = matches!(cilium(seen, "kube-proxy-replacement")?, Some("true" | "strict" | "partial"));
    Ok(match replaces && proxies(seen)? {
        true => vec![Trouble::error(
            "Cilium replaces kube-proxy and so does Herald: Cilium's programs take the packets before the rules see them",
            "use manifests/overlays/no-proxy, or set kubeProxyReplacement: false in Cilium",
        )],
        false => Vec::new(),
    })
}

fn plugin_bgp(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let mut who = Vec::new();
    for workload in running(seen)? {
        let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
        let bird = containers
            .into_iter()
            .flatten()
            .flat_map(|container| container["env"].as_array().into_iter().flatten())
            .any(|variable| {
                variable["name"] == "CALICO_NETWORKING_BACKEND"
                    && variable["value"] != "vxlan"
                    && variable["value"] != "none"
            });
        if runs(workload, "calico/node") && bird {
            who.push("Calico");
        }
        if runs(workload, "kube-router") {
            who.push("kube-router");
        }
    }
    if cilium(seen, "enable-bgp-control-plane")? == Some("true") {
        who.push("Cilium");
    }
    let peers = !seen.list("bgppeers")?.is_empty();
    let trouble = |who: &str| {
        Trouble::warning(
            format!(
                "{who} has BGP sessions of its own: a router takes one session from each node's address, so one of the two stays down"
            ),
            "peer with another router, from another source address, or let the plugin announce the pools and use the controller alone",
        )
    };
    Ok(if peers { who.into_iter().map(trouble).collect() } else { Vec::new() })
}
