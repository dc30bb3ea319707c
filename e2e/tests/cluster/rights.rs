//! Herald under the manifests' own ServiceAccounts: what it may ask of the API server is what it asks, no less and no more.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{ControlPlaneOptions, Lab, NAMESPACE, PodOptions, RouterOptions, at, await_ok};
use serde_json::{Value, json};

use crate::objects::{bird_password, install, object, peer_with_password, pool};
use crate::services::{SOON, await_address, await_event, create, service};

/// What the API server writes down: every request of these accounts.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/testdata/audit.yaml");
/// The slowest look at a ConfigurationState comes after a minute.
const ALL_USED: Duration = Duration::from_secs(90);

/// An account, and what it may ask: group, resource with its subresource, verb.
type Right = (String, String, String, String);

/// What the roles of the manifests grant.
fn granted(lab: &Lab) -> Result<BTreeSet<Right>> {
    let roles: Value =
        serde_json::from_str(&lab.kubectl(&["get", "clusterroles,roles", "-A", "-o", "json"])?)?;
    let mut granted = BTreeSet::new();
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    for role in roles["items"].as_array().context("roles")? {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        if !name.starts_with("herald-") {
            continue;
        }
        for rule in role["rules"].as_array().context("rules")? {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        granted.insert((name.to_owned(), group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    ensure!(!granted.is_empty(), "no role of Herald's");
    Ok(granted)
}

/// What was asked until now, and what of it was refused.
fn asked(lab: &Lab) -> Result<(BTreeSet<Right>, BTreeSet<Right>)> {
    let log = std::fs::read_to_string(lab.directory().join("log/kube-apiserver.log"))?;
    let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in
        log.lines().filter(|line| line.starts_with("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/"))
    {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let user = word(&event["user"]["username"]);
        let (Some(account), Some(resource)) = (user.rsplit(':').next(), object["resource"].as_str()) else {
            continue;
        };
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{resource}/{subresource}"),
            None => resource.to_owned(),
        };
        let right = (account.to_owned(), word(&object["apiGroup"]), resource, word(&event["verb"]));
        if event["annotations"]["authorization.k8s.io/decision"] == "allow" {
            asked.insert(right);
        } else {
            refused.insert(right);
        }
    }
    Ok((asked, refused))
}

/// To apply what is not there needs `create`, and is a `patch` in the log.
fn is_used(asked: &BTreeSet<Right>, right: &Right) -> bool {
    let (account, group, resource, verb) = right.clone();
    asked.contains(right)
        || (verb == "create" && asked.contains(&(account, group, resource, "patch".to_owned())))
}

#[test]
#[ignore = "needs a network namespace"]
fn each_right_that_the_manifests_grant_is_used_and_none_is_missing() -> Result<()> {
    let api_flags = vec![format!("--audit-policy-file={POLICY}"), "--audit-log-path=-".to_owned()];
    let options = ControlPlaneOptions { api_flags, ..ControlPlaneOptions::default() };
    let lab = Lab::builder().nodes(2).control_plane_with(options).bird().start()?;
    install(&lab)?;
    let [secret, peer] = peer_with_password();
    lab.apply(&secret)?;
    lab.apply(&peer)?;
    let with_password = RouterOptions::t4(lab.nodes()).every_peer(&bird_password());
    lab.router().configure(&with_password)?;
    lab.apply(&pool("routed", &["192.168.10.0/24"]))?;
    let segment = json!({ "addresses": ["10.0.0.200/32"], "autoAssign": false });
    lab.apply(&object("IPAddressPool", "v1beta1", "segment", &segment))?;
    for (kind, pool) in [("BGPAdvertisement", "routed"), ("L2Advertisement", "segment")] {
        lab.apply(&object(kind, "v1beta1", pool, &json!({ "ipAddressPools": [pool] })))?;
    }

    // As in every lab, both log in as the manifests' ServiceAccounts.
    let controller = lab.controller("controller", &[])?;
    let speakers = lab.speakers(&[])?;
    let _pod = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let annotated = |key: &str, value: &str| json!({ "metadata": { "annotations": { key: value } } });
    create(
        &lab,
        [
            service("routed", json!({})),
            service("here", annotated("metallb.io/address-pool", "segment")),
            service("local", annotated("service.beta.kubernetes.io/external-traffic", "OnlyLocal")),
            service("nowhere", annotated("metallb.io/loadBalancerIPs", "203.0.113.1")),
        ],
    )?;
    let address = await_address(&lab, "routed").with_context(|| controller.log_tail())?;
    await_ok(SOON, "the address to answer", || lab.client().get(at(&address.to_string(), 80)))
        .with_context(|| speakers[0].log_tail())?;
    await_address(&lab, "here")?;
    await_address(&lab, "local")?;
    let announced = ["default/routed", "default/local"];
    await_ok(SOON, "ServiceBGPStatus of both Services", || {
        let jsonpath = "jsonpath={range .items[*]}{.status.serviceNamespace}/{.status.serviceName} {.status.peers} {end}";
        let found = lab.kubectl(&["-n", NAMESPACE, "get", "servicebgpstatuses", "-o", jsonpath])?;
        let told = |name: &&str| found.contains(&format!("{name} [\"tor\"]"));
        ensure!(announced.iter().all(told), "{found}");
        Ok(())
    })?;
    lab.kubectl(&["delete", "service", "local"])?;
    await_ok(SOON, "its ServiceBGPStatus to go", || {
        let found = lab.kubectl(&["-n", NAMESPACE, "get", "servicebgpstatuses", "-o", "yaml"])?;
        ensure!(!found.contains("serviceName: local"), "{found}");
        Ok(())
    })?;

    // The same Event again is a patch: a refusal, and a session that comes up.
    await_event(&lab, "default", "nowhere", "AllocationFailed", "203.0.113.1")?;
    for wanted in ["203.0.113.2", "203.0.113.1"] {
        lab.kubectl(&[
            "annotate",
            "service",
            "nowhere",
            "--overwrite",
            &format!("metallb.io/loadBalancerIPs={wanted}"),
        ])?;
        await_event(&lab, "default", "nowhere", "AllocationFailed", wanted)?;
    }
    lab.router().configure(&RouterOptions::t4(lab.nodes()))?;
    await_ok(SOON, "the sessions to end", || {
        ensure!(lab.router().routes()?.is_empty(), "there are routes");
        Ok(())
    })?;
    lab.router().configure(&with_password)?;

    let granted = granted(&lab)?;
    await_ok(ALL_USED, "every right that is granted to be used", || {
        let (asked, _) = asked(&lab)?;
        let unused: Vec<&Right> = granted.iter().filter(|right| !is_used(&asked, right)).collect();
        ensure!(unused.is_empty(), "not used: {unused:#?}");
        Ok(())
    })?;
    let (_, refused) = asked(&lab)?;
    ensure!(refused.is_empty(), "not granted: {refused:#?}");
    Ok(())
}
