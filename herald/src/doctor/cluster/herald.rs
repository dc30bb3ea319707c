//! Is Herald itself whole: its processes, its rights, its definitions and its configuration.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::nodes::{name, names, words};
use super::seen::ClusterSeen;
use crate::doctor::report::{Check, Trouble};
use crate::leader::Held;

pub(super) const CHECKS: &[Check<ClusterSeen>] = &[
    Check {
        id: "controllers",
        holds: "a controller runs, and another is ready to follow",
        judge: controllers,
    },
    Check { id: "leader", holds: "a controller leads", judge: leader },
    Check { id: "speakers", holds: "a speaker runs on every Node", judge: speakers },
    Check { id: "versions", holds: "controllers and speakers are of one version", judge: versions },
    Check { id: "rights", holds: "Herald's accounts have the rights of its manifests", judge: rights },
    Check {
        id: "pod-security",
        holds: "Herald's namespace lets the speakers into the nodes' network",
        judge: pod_security,
    },
    Check {
        id: "definitions",
        holds: "the definitions of metallb.io have all fields that Herald reads",
        judge: definitions,
    },
    Check { id: "webhook", holds: "whoever judges changes of the configuration is there", judge: webhook },
    Check { id: "configuration", holds: "the configuration is taken as it is", judge: configuration },
    Check { id: "hello-key", holds: "hellos of layer 2 are signed with a key", judge: hello_key },
    Check { id: "passwords", holds: "the Secrets of BGP passwords exist", judge: passwords },
    Check { id: "api-server", holds: "speakers reach the API server without a proxy", judge: api_server },
];

/// Objects of Herald's own of a kind, by the labels of its manifests.
fn ours<'a>(seen: &'a ClusterSeen, list: &'static str, component: &str) -> Result<Vec<&'a Value>, String> {
    let of = |object: &&Value| {
        let labels = &object["metadata"]["labels"];
        labels["app.kubernetes.io/name"] == "herald" && labels["app.kubernetes.io/component"] == component
    };
    Ok(seen.list(list)?.iter().filter(of).collect())
}

fn arguments(workload: &Value) -> impl Iterator<Item = &str> {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
    containers.into_iter().flatten().flat_map(|container| words(&container["args"]))
}

/// What the speakers are given by a flag; `None` as well where there are no speakers.
pub(super) fn speaker_flag<'a>(seen: &'a ClusterSeen, flag: &str) -> Option<&'a str> {
    let speakers = ours(seen, "daemonsets", "speaker").ok()?;
    let mut given = speakers.into_iter().flat_map(arguments);
    given.find_map(|word| word.strip_prefix(flag)?.strip_prefix('='))
}

/// The speakers' proxy does everything, so that kube-proxy must not.
pub(super) fn proxies(seen: &ClusterSeen) -> Result<bool, String> {
    let installed = !ours(seen, "daemonsets", "speaker")?.is_empty();
    Ok(installed && matches!(speaker_flag(seen, "--proxy"), None | Some("full")))
}

fn count(object: &Value, key: &str) -> u64 {
    object["status"][key].as_u64().unwrap_or(0)
}

/// Neither a Deployment nor a DaemonSet of Herald's is there, and yet a controller leads: no Pod tells who else runs.
fn runs_without_pods(seen: &ClusterSeen) -> Result<(), String> {
    let workloads = [ours(seen, "deployments", "controller")?, ours(seen, "daemonsets", "speaker")?];
    if workloads.iter().any(|found| !found.is_empty()) {
        return Ok(());
    }
    let told = |leader| {
        format!("{leader} leads, and Herald has no Pods here: ask herald status, which asks the speakers")
    };
    leader_of(seen)?.map_or(Ok(()), |leader| Err(told(leader)))
}

fn controllers(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let namespace = &seen.namespace;
    runs_without_pods(seen)?;
    let found = ours(seen, "deployments", "controller")?;
    if found.is_empty() {
        return Ok(vec![Trouble::error(
            "no Deployment of Herald's controller is there: no Service gets an address",
            "kubectl apply --server-side -k manifests/overlays/layer2 (docs/install.md)",
        )]);
    }
    let look = format!("kubectl -n {namespace} describe pods -l app.kubernetes.io/component=controller");
    Ok(match found.iter().map(|controller| count(controller, "readyReplicas")).sum() {
        0u64 => vec![Trouble::error("no controller is ready: Services that come now get no address", look)],
        1 => vec![Trouble::warning(
            "one controller is ready: when its node dies, nobody follows at once",
            look,
        )],
        _ => Vec::new(),
    })
}

/// Who leads by the Lease.
fn leader_of(seen: &ClusterSeen) -> Result<Option<String>, String> {
    let held = seen.object("leases", "herald-controller")?.and_then(Held::of);
    let now = Timestamp::now() + SignedDuration::from_secs(seen.ahead.unwrap_or(0));
    Ok(held.and_then(|held| held.leader(now).map(str::to_owned)))
}

fn leader(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    Ok(match leader_of(seen)? {
        None => vec![Trouble::error(
            "the Lease herald-controller has no holder who renews it: no controller leads",
            format!("kubectl -n {} logs -l app.kubernetes.io/component=controller --tail 50", seen.namespace),
        )],
        Some(_) => Vec::new(),
    })
}

fn speakers(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let found = ours(seen, "daemonsets", "speaker")?;
    runs_without_pods(seen)?;
    let nodes = seen.list("nodes")?.len() as u64;
    if found.is_empty() {
        return Ok(vec![Trouble::error(
            "no DaemonSet of Herald's speaker is there: no address is announced or served",
            "kubectl apply --server-side -k manifests/overlays/layer2 (docs/install.md)",
        )]);
    }
    let of = |key: &str| found.iter().map(|speaker| count(speaker, key)).sum::<u64>();
    let (wanted, ready) = (of("desiredNumberScheduled"), of("numberReady"));
    let mut troubles = Vec::new();
    if ready < wanted {
        troubles.push(Trouble::error(
            format!("{ready} of {wanted} speakers are ready: the other nodes serve no Service"),
            format!("kubectl -n {} get pods -o wide -l app.kubernetes.io/component=speaker", seen.namespace),
        ));
    }
    if wanted < nodes {
        troubles.push(Trouble::warning(
            format!("speakers are wanted on {wanted} of {nodes} Nodes: without one a node's pods reach no Service, unless kube-proxy is there"),
            "compare the DaemonSet's nodeSelector and tolerations with the Nodes' labels and taints",
        ));
    }
    Ok(troubles)
}

fn versions(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let mut images = BTreeSet::new();
    for (list, component) in [("deployments", "controller"), ("daemonsets", "speaker")] {
        for workload in ours(seen, list, component)? {
            let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
            images
                .extend(containers.into_iter().flatten().filter_map(|container| container["image"].as_str()));
        }
    }
    Ok(match images.len() {
        0 | 1 => Vec::new(),
        _ => vec![Trouble::warning(
            format!(
                "controllers and speakers have different images: {}",
                images.into_iter().collect::<Vec<_>>().join(", ")
            ),
            "fine during an upgrade; otherwise apply one version's manifests",
        )],
    })
}

fn rights(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let denied = seen.denied.as_ref().map_err(|why| format!("who may do what is not told: {why}"))?;
    Ok(match denied.as_slice() {
        [] => Vec::new(),
        denied => {
            let denied: Vec<&str> = denied.iter().map(String::as_str).collect();
            vec![Trouble::error(
                format!("rights are missing: {}", names(&denied)),
                "apply manifests/base/rights.yaml of this version",
            )]
        }
    })
}

fn pod_security(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let namespace = &seen.namespace;
    let Some(object) = seen.object("namespaces", namespace)? else {
        return Ok(vec![Trouble::error(
            format!("there is no namespace {namespace}"),
            "apply manifests/base/namespace.yaml, or name Herald's namespace by --namespace",
        )]);
    };
    let level = object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str();
    Ok(match level {
        Some(level @ ("baseline" | "restricted")) => vec![Trouble::error(
            format!(
                "namespace {namespace} enforces pod security {level:?}: pods of the speaker are refused, which work in the nodes' network"
            ),
            format!(
                "kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged"
            ),
        )],
        _ => Vec::new(),
    })
}

/// Names of all fields below a definition's `spec`, in its newest version.
fn fields(definition: &Value) -> BTreeSet<(String, String)> {
    let versions = definition["spec"]["versions"].as_array();
    let of = |version: &Value| {
        let name = version["name"].as_str().unwrap_or_default().to_owned();
        let spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object();
        let fields: Vec<_> = spec.into_iter().flat_map(|spec| spec.keys().cloned()).collect();
        fields.into_iter().map(move |field| (name.clone(), field))
    };
    versions.into_iter().flatten().flat_map(of).collect()
}

fn definitions(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let apply = "herald crds | kubectl apply --server-side --force-conflicts -f -";
    let installed = seen
        .definitions
        .as_ref()
        .map_err(|why| format!("customresourcedefinitions cannot be read: {why}"))?;
    let mut troubles = Vec::new();
    for ours in herald_config::definitions() {
        let name = name(&ours);
        let Some(theirs) = installed.get(name) else { continue };
        let known = fields(theirs);
        let missing: Vec<String> =
            fields(&ours).difference(&known).map(|(version, field)| format!("{field} ({version})")).collect();
        if !missing.is_empty() {
            troubles.push(Trouble::warning(
                format!(
                    "{name} is an older definition without {}: what is written there is lost",
                    missing.join(", ")
                ),
                apply,
            ));
        }
    }
    // With a ConfigMap nobody needs any.
    let document = seen.object("configmaps", "config")?.is_some();
    if installed.is_empty() && !document {
        troubles.push(Trouble::error(
            "there is neither a definition of metallb.io nor a ConfigMap: Herald has no pools",
            apply,
        ));
    }
    Ok(troubles)
}

fn webhook(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let deployments = seen.list("deployments")?;
    let mut troubles = Vec::new();
    for configuration in seen.list("webhooks")? {
        let hooks = configuration["webhooks"].as_array();
        let judges = |hook: &&Value| {
            let rules = hook["rules"].as_array();
            hook["failurePolicy"] != "Ignore"
                && rules
                    .into_iter()
                    .flatten()
                    .any(|rule| words(&rule["apiGroups"]).any(|group| group == "metallb.io"))
        };
        let Some(hook) = hooks.into_iter().flatten().find(judges) else { continue };
        let namespace = hook["clientConfig"]["service"]["namespace"].as_str().unwrap_or_default();
        let behind = |deployment: &&Value| {
            deployment["metadata"]["namespace"] == namespace && count(deployment, "readyReplicas") > 0
        };
        if !deployments.iter().any(|deployment| behind(&deployment)) {
            let name = name(configuration);
            troubles.push(Trouble::error(
                format!("{name} judges changes of the configuration, and nothing is ready in namespace {namespace:?}: every change is refused"),
                format!("kubectl delete validatingwebhookconfiguration {name}, if it is a former MetalLB's"),
            ));
        }
    }
    Ok(troubles)
}

fn configuration(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let checked = herald_config::check(&seen.configuration()?);
    let remedy =
        format!("kubectl -n {} get configurationstates -o yaml tells what is in force", seen.namespace);
    let trouble = |finding: &herald_config::Finding| {
        // Lines of what the API server printed are nobody's lines.
        let text = format!("{}: {}", finding.name, finding.text);
        if finding.error { Trouble::error(text, &remedy) } else { Trouble::warning(text, &remedy) }
    };
    let mut troubles: Vec<Trouble> = checked.findings.iter().map(trouble).collect();
    if checked.objects + checked.documents == 0 {
        troubles.push(Trouble::error(
            "there is no configuration: no Service gets an address",
            "kubectl apply -f manifests/samples/layer2.yaml, with your addresses",
        ));
    }
    Ok(troubles)
}

fn secrets(seen: &ClusterSeen) -> Result<&[String], String> {
    seen.secrets.as_deref().map_err(|why| format!("secrets cannot be listed: {why}"))
}

fn hello_key(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let missing = seen.layer2() && !secrets(seen)?.iter().any(|name| name == "memberlist");
    let namespace = &seen.namespace;
    Ok(match missing {
        true => vec![Trouble::warning(
            "layer 2 is used and there is no Secret memberlist: whoever is on the segment can forge hellos and take addresses",
            format!(
                r#"kubectl -n {namespace} create secret generic memberlist --from-literal=secretkey="$(openssl rand -base64 128)""#
            ),
        )],
        false => Vec::new(),
    })
}

fn passwords(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let named: Vec<(&str, &str)> = seen
        .list("bgppeers")?
        .iter()
        .filter_map(|peer| Some((name(peer), peer["spec"]["passwordSecret"]["name"].as_str()?)))
        .filter(|(_, secret)| !secret.is_empty())
        .collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let there = secrets(seen)?;
    let missing = named.iter().filter(|(_, secret)| !there.iter().any(|name| name == secret));
    let trouble = |(peer, secret): &(&str, &str)| {
        Trouble::error(
            format!(
                "bgppeers/{peer} names the Secret {secret}, which is not in namespace {}: its session stays down",
                seen.namespace
            ),
            format!(
                "kubectl -n {} create secret generic {secret} --type=kubernetes.io/basic-auth --from-literal=password=...",
                seen.namespace
            ),
        )
    };
    Ok(missing.map(trouble).collect())
}

fn api_server(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let told = seen.object("configmaps", "herald")?.is_some_and(|map| map["data"]["api-server"].is_string())
        || speaker_flag(seen, "--api-server").is_some();
    Ok(match proxies(seen)? && !told {
        true => vec![Trouble::warning(
            "the speakers replace kube-proxy and do not know the API server's own address: after a node's reboot nobody there serves \
             the Service kubernetes, by which they would reach it",
            format!(
                "kubectl -n {} create configmap herald --from-literal=api-server=https://ADDRESS:6443, then restart the speakers",
                seen.namespace
            ),
        )],
        false => Vec::new(),
    })
}
