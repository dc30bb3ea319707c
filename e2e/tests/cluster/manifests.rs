//! The manifests as users apply them: every object passes a real API server, the pods that come of them are what they shall be,
//! and a speaker that is confined as its manifest says does all its work, and needs each right that it has.

mod chart;
mod confined;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use herald_e2e::{HttpOptions, Lab, NAMESPACE, at, await_ok, commands_after, programs};
use serde_json::{Value, json};

use crate::objects::install;
use crate::services::SOON;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");

/// What `kubectl kustomize` makes of one of the manifests' directories.
fn kustomize(directory: &str) -> Result<Vec<Value>> {
    let program = programs()?.join("kubectl");
    let output = std::process::Command::new(program)
        .args(["kustomize", &format!("{MANIFESTS}/{directory}")])
        .output()?;
    ensure!(output.status.success(), "{directory}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_saphyr::from_multiple(&String::from_utf8_lossy(&output.stdout))?)
}

/// All directories that can be applied.
fn applicable() -> Result<Vec<String>> {
    let mut found = vec!["base".to_owned()];
    for entry in std::fs::read_dir(format!("{MANIFESTS}/overlays"))? {
        found.push(format!("overlays/{}", entry?.file_name().to_string_lossy()));
    }
    found.sort();
    Ok(found)
}

const DOCUMENT: &str = include_str!("../../../docs/install.md");
const METRICS: &str = include_str!("../../../docs/metrics.md");

/// The kustomization that the document shows.
fn document_composition() -> Result<String> {
    let mut blocks = DOCUMENT.split("```yaml\n").filter_map(|rest| Some(rest.split_once("```")?.0));
    let found = blocks.find(|block| block.contains("kind: Kustomization"));
    Ok(found.context("no kustomization in the document")?.to_owned())
}

fn webhook_composition() -> String {
    let resources = ["../herald/manifests/base"];
    json!({ "resources": resources, "components": ["../herald/manifests/components/webhook"] }).to_string()
}

fn the<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .with_context(|| format!("no {kind} {name}"))
}

/// The definitions of what the Prometheus operator reads: from its own module.
fn install_monitoring(lab: &Lab) -> Result<()> {
    let directory = herald_e2e::tools()?.join("prometheus-operator");
    for kind in ["podmonitors", "prometheusrules"] {
        let file = directory.join(format!("monitoring.coreos.com_{kind}.yaml"));
        lab.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()])?;
    }
    lab.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]).map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn every_manifest_passes_the_api_server_and_its_pods_are_made() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().start()?;
    install(&lab)?;
    install_monitoring(&lab)?;
    for directory in applicable()? {
        let path = format!("{MANIFESTS}/{directory}");
        let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", &path];
        let told = lab.kubectl(&dry)?;
        ensure!(told.lines().count() == kustomize(&directory)?.len(), "{directory}: {told}");
        // What kubectl does unless it is told otherwise.
        lab.kubectl(&["apply", "--dry-run=server", "-k", &path])?;
    }
    // The components together, as the document shows it, and with the webhook, for which there is no overlay.
    for (name, text) in [("document", document_composition()?), ("webhook", webhook_composition())] {
        let composed = lab.directory().join(name);
        std::fs::create_dir(&composed)?;
        // The way up from any directory ends at the root.
        let up = "../".repeat(16);
        let text = text.replace("../herald/manifests", &format!("{up}{MANIFESTS}"));
        std::fs::write(composed.join("kustomization.yaml"), text)?;
        let composed = composed.display().to_string();
        lab.kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", &composed])?;
    }
    for sample in ["layer2", "bgp"] {
        let file = format!("{MANIFESTS}/samples/{sample}.yaml");
        lab.kubectl(&["apply", "--server-side", "--dry-run=server", "-f", &file])?;
    }

    // In earnest, by the document's own commands: admission looks at pods only where they are made.
    lab.type_lines(&commands_after(DOCUMENT, "## The commands\n")?)?;
    await_ok(SOON, "the pods of both roles", || {
        let of = |component: &str| -> Result<Vec<Value>> {
            let selector = format!("app.kubernetes.io/component={component}");
            let pods = lab.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", "json"])?;
            let pods: Value = serde_json::from_str(&pods)?;
            Ok(pods["items"].as_array().cloned().unwrap_or_default())
        };
        let (speakers, controllers) = (of("speaker")?, of("controller")?);
        ensure!(
            (speakers.len(), controllers.len()) == (2, 2),
            "{} and {}",
            speakers.len(),
            controllers.len()
        );
        // The classes exist, and came from the names.
        let most = speakers.iter().all(|pod| pod["spec"]["priority"] == 2_000_001_000);
        ensure!(most && controllers.iter().all(|pod| pod["spec"]["priority"] == 2_000_000_000));
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn the_rules_for_alerts_name_metrics_that_herald_serves_and_all_of_those_are_documented() -> Result<()> {
    let monitoring = kustomize("overlays/monitoring")?;
    let rules = the(&monitoring, "PrometheusRule", "herald")?;
    let mut wanted = BTreeSet::new();
    for rule in rules["spec"]["groups"][0]["rules"].as_array().context("rules")? {
        let text = rule["expr"].as_str().context("an expression")?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        wanted.extend(words.filter(|word| word.starts_with("herald_") || word.starts_with("metallb_")));
    }
    ensure!(wanted.len() > 5, "{wanted:?}");
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    lab.configure_herald(
        "peers: [{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}]\n\
         address-pools: [{name: edge, protocol: bgp, addresses: [192.168.10.0/24]}]\n",
    )?;
    let _controller = lab.controller("controller", &[])?;
    let _speaker = lab.speaker(lab.node(1), &["--probe-addresses=1s"])?;
    await_ok(SOON, "all of them to be served", || {
        let options = HttpOptions::default().path("/metrics");
        let mut text = String::new();
        for ns in [&lab.node(1).ns, lab.control_plane_ns()] {
            text += &ns.http(at("127.0.0.1", 7472), &options)?.body;
        }
        let served = |name: &&&str| {
            text.lines()
                .any(|line| line.strip_prefix(**name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        };
        let missing: Vec<_> = wanted.iter().filter(|name| !served(name)).collect();
        ensure!(missing.is_empty(), "not served: {missing:?}");
        // And whatever is served is told to people.
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let names = series.map(|line| line.split([' ', '{']).next().unwrap_or_default());
        let untold: BTreeSet<&str> =
            names.map(metric).filter(|name| !METRICS.contains(&format!("`{name}`"))).collect();
        ensure!(untold.is_empty(), "not in docs/metrics.md: {untold:?}");
        Ok(())
    })
}

/// The name of the metric that a series is of.
fn metric(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|part| series.strip_suffix(part)).unwrap_or(series)
}
