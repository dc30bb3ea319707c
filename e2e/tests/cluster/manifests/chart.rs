//! The chart says what the manifests say: `helm template` beside `kubectl kustomize`, object by object.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{NAMESPACE, tools};
use serde_json::Value;

use super::{MANIFESTS, kustomize, the};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/herald");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn helm(arguments: &[&str]) -> Result<String> {
    let output = Command::new(tools()?.join("helm")).args(arguments).output()?;
    let (told, refused) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "helm {}: {told}{refused}", arguments.join(" "));
    Ok(told)
}

/// What the chart makes of values (`key=value`).
fn template(namespace: &str, values: &[&str]) -> Result<Vec<Value>> {
    let mut arguments = vec!["template", "herald", CHART, "--include-crds", "--namespace", namespace];
    for value in values {
        arguments.extend(["--set", value]);
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(&helm(&arguments)?)?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        [word(&object["kind"]), word(&meta["namespace"]), word(&meta["name"])].join(" ")
    };
    objects.into_iter().map(|object| (name(&object), object)).collect()
}

#[test]
#[ignore = "needs helm and kubectl"]
fn the_chart_and_the_manifests_say_the_same() -> Result<()> {
    for (directory, values) in [
        ("base", &[][..]),
        ("overlays/layer2", &["layer2.required=true"]),
        ("overlays/bgp", &["layer2.enabled=false"]),
        ("overlays/no-proxy", &["proxy=external"]),
        ("overlays/take-over", &["takeOver=true"]),
        ("overlays/monitoring", &["monitoring.enabled=true"]),
        ("overlays/probe-addresses", &["probeAddresses=10s"]),
    ] {
        let mut wanted = by_name(kustomize(directory)?);
        // Helm makes the namespace, if it is told to, without labels.
        wanted.remove(&format!("Namespace  {NAMESPACE}")).context("a Namespace")?;
        let found = by_name(template(NAMESPACE, values)?);
        let (names, wanted_names): (Vec<_>, Vec<_>) = (found.keys().collect(), wanted.keys().collect());
        assert_eq!(names, wanted_names, "{directory}");
        for (name, object) in &wanted {
            assert_eq!(&found[name], object, "{directory}: {name}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm and kubectl"]
fn the_chart_works_in_any_namespace_and_with_every_value() -> Result<()> {
    let values = [
        "image.repository=registry.example/herald",
        "image.tag=next",
        "imagePullSecrets[0].name=registry",
        "apiServers={https://10.0.0.10:6443,https://10.0.0.11:6443}",
        "proxy=off",
        "clusterCidrs={10.244.0.0/16}",
        "serviceCidrs={10.96.0.0/12}",
        "loadBalancerClass=example.com/herald",
        "layer2.secret=keys",
        "log.level=debug",
        "log.format=json",
        "controller.replicas=3",
        "controller.nodeSelector.role=infra",
        "controller.extraArgs={--lease-duration=20s}",
        "speaker.maxUnavailable=10%",
        "speaker.resources.limits.memory=1Gi",
        "speaker.extraArgs={--linger=2s}",
        "webhook.enabled=true",
        "webhook.secret=certificate",
    ];
    let objects = template("herald", &values)?;
    let text = serde_json::to_string(&objects)?;
    let definitions = objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition");
    // The definitions may name whose they are; nothing else names another namespace.
    ensure!(!text.contains(NAMESPACE) && definitions.count() > 5, "{text}");
    let speaker = &the(&objects, "DaemonSet", "herald-speaker")?["spec"];
    let pod = &speaker["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments: Vec<&str> =
        container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(
        arguments,
        [
            "speaker",
            "--proxy=off",
            "--sysctl-directory=/host/proc/sys",
            "--layer2-key-directory=/etc/herald/layer2",
            "--cluster-cidr=10.244.0.0/16",
            "--service-cidr=10.96.0.0/12",
            "--lb-class=example.com/herald",
            "--log-level=debug",
            "--log-format=json",
            "--linger=2s",
        ]
    );
    assert_eq!(container["image"], "registry.example/herald:next");
    assert_eq!(container["env"][2]["value"], "https://10.0.0.10:6443,https://10.0.0.11:6443");
    assert_eq!(pod["volumes"][2]["secret"]["secretName"], "keys");
    assert_eq!(speaker["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%");
    let controller = &the(&objects, "Deployment", "herald-controller")?["spec"];
    assert_eq!(controller["replicas"], 3);
    let pod = &controller["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["role"], "infra");
    assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "certificate");
    let webhook = the(&objects, "ValidatingWebhookConfiguration", "herald")?;
    assert_eq!(webhook["webhooks"][0]["clientConfig"]["service"]["namespace"], "herald");
    Ok(())
}

#[test]
#[ignore = "needs helm and kubectl"]
fn probes_of_addresses_keep_the_right_that_they_need_and_are_refused_beside_another_proxy() -> Result<()> {
    let objects = template(NAMESPACE, &["layer2.enabled=false", "probeAddresses=10s"])?;
    let pod = &the(&objects, "DaemonSet", "herald-speaker")?["spec"]["template"]["spec"];
    let capabilities = &pod["containers"][0]["securityContext"]["capabilities"]["add"];
    assert_eq!(*capabilities, serde_json::json!(["NET_ADMIN", "NET_RAW", "SYS_NICE"]));
    let error =
        template(NAMESPACE, &["proxy=external", "probeAddresses=10s"]).err().context("it is taken")?;
    ensure!(format!("{error:#}").contains("probeAddresses needs proxy=full"), "{error:#}");
    Ok(())
}

#[test]
#[ignore = "needs helm and kubectl"]
fn values_that_cannot_be_right_are_refused_by_name() -> Result<()> {
    for (value, word) in [
        ("proxy=maybe", "proxy"),
        ("speaker.maxUnavailable=0", "maxUnavailable"),
        ("apiServers={10.0.0.10}", "apiServers"),
        ("contoller.replicas=3", "contoller"),
        ("image.digest=sha256:1", "digest"),
        ("probeAddresses=often", "probeAddresses"),
    ] {
        let error = template(NAMESPACE, &[value]).err().with_context(|| format!("{value} is taken"))?;
        let error = format!("{error:#}");
        ensure!(error.contains("schema") && error.contains(word), "{value}: {error}");
    }
    helm(&["lint", "--strict", CHART]).map(drop)
}

#[test]
#[ignore = "needs helm and kubectl"]
fn the_version_is_the_same_everywhere() -> Result<()> {
    let chart = std::fs::read_to_string(format!("{CHART}/Chart.yaml"))?;
    for field in ["version", "appVersion"] {
        ensure!(chart.lines().any(|line| line == format!("{field}: {VERSION}")), "{field}: {chart}");
    }
    let kustomization = std::fs::read_to_string(format!("{MANIFESTS}/base/kustomization.yaml"))?;
    ensure!(kustomization.contains(&format!("newTag: {VERSION}\n")), "{kustomization}");
    Ok(())
}
