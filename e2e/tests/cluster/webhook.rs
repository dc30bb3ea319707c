//! The admission webhook before a real API server: what is refused at once, what is not, and that all goes on without it.

use std::path::Path;

use anyhow::{Context, Result};
use herald_e2e::{Lab, NAMESPACE, await_ok};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_event};

const ADDRESS: &str = "127.0.0.1:9443";

/// A certificate of its own authority, and its key.
fn certificate(directory: &Path) -> Result<(String, [String; 3])> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let (certificate, key) = (directory.join("webhook.crt"), directory.join("webhook.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let flags = [
        format!("--webhook={ADDRESS}"),
        format!("--webhook-certificate={}", certificate.display()),
        format!("--webhook-key={}", key.display()),
    ];
    Ok((made.cert.pem(), flags))
}

/// As in docs/configuration.md, but for where the webhook is.
fn registration(authority: &str) -> Result<String> {
    let authority = serde_json::to_value(ByteString(authority.as_bytes().to_vec()))?;
    let kinds =
        ["ipaddresspools", "communities", "bfdprofiles", "bgppeers", "bgpadvertisements", "l2advertisements"];
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "herald" },
        "webhooks": [{
            "name": "configuration.herald.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "timeoutSeconds": 10,
            "clientConfig": { "url": format!("https://{ADDRESS}/"), "caBundle": authority },
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": NAMESPACE } },
            "rules": [
                { "apiGroups": ["metallb.io"], "apiVersions": ["v1beta1", "v1beta2"],
                  "operations": ["CREATE", "UPDATE", "DELETE"], "resources": kinds },
                { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                  "resources": ["configmaps"] },
            ],
        }],
    });
    Ok(object.to_string())
}

fn peer(version: &str, spec: Value) -> String {
    object("BGPPeer", version, "tor", &spec)
}

/// Why an object is refused.
fn refusal(lab: &Lab, object: &str) -> Result<String> {
    let error = lab.apply(object).err().with_context(|| format!("not refused: {object}"))?;
    Ok(format!("{error:#}"))
}

#[test]
#[ignore = "needs a network namespace"]
fn a_change_that_would_be_refused_is_refused_before_it_is_stored_and_without_the_webhook_after() -> Result<()>
{
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    install(&lab)?;
    // Bad before anybody looks.
    lab.apply(&pool("bad", &["nonsense"]))?;
    lab.apply(&pool("edge", &["192.0.2.0/25"]))?;
    let (authority, flags) = certificate(lab.directory())?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let controller = lab.controller("controller", &flags)?;
    lab.apply(&registration(&authority)?)?;

    // The API server learns of a registration when its own watch does.
    let overlapping = pool("more", &["192.0.2.0/26"]);
    let wanted = "IPAddressPool more, spec.addresses[0]: 192.0.2.0/26 overlaps 192.0.2.0/25 of pool edge: remove or shorten one of them";
    await_ok(SOON, "a refusal", || {
        let text = refusal(&lab, &overlapping);
        // Not yet registered: it was stored, and goes again.
        if text.is_err() {
            lab.delete("metallb.io/v1beta1/IPAddressPool", NAMESPACE, "more")?;
        }
        let text = text?;
        anyhow::ensure!(text.contains("configuration.herald.io") && text.contains(wanted), "{text}");
        Ok(())
    })
    .with_context(|| controller.log_tail())?;
    let told = lab.kubectl_with_input(&["apply", "-f", "-"], &overlapping);
    let told = told.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("denied the request") && told.contains(wanted), "{told}");

    lab.apply(&pool("more", &["192.0.2.128/25"]))?;
    // What was bad before can be labelled, and mended; nothing holds up its deletion.
    lab.kubectl(&["-n", NAMESPACE, "label", "ipaddresspool", "bad", "a=b"])?;
    let worse = refusal(&lab, &pool("bad", &["192.0.2.0/32"]))?;
    assert!(worse.contains("overlaps 192.0.2.0/25 of pool edge"), "{worse}");
    lab.apply(&pool("bad", &["198.51.100.0/24"]))?;
    lab.delete("metallb.io/v1beta1/IPAddressPool", NAMESPACE, "bad")?;
    // Both versions of a peer.
    let multihop = json!({ "myASN": 42, "peerASN": 42, "peerAddress": "10.0.0.1", "ebgpMultiHop": true });
    for version in ["v1beta1", "v1beta2"] {
        let text = refusal(&lab, &peer(version, multihop.clone()))?;
        assert!(text.contains("BGPPeer tor, spec.ebgpMultiHop: both sides are AS 42"), "{text}");
    }
    // The ConfigMap, and only that one.
    let text =
        format!("{:#}", lab.configure_herald("address-pools: nonsense\n").err().context("not refused")?);
    assert!(text.contains("line 1, address-pools: "), "{text}");
    lab.configure_herald("herald: {cool-down: 1s}\n")?;
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "config": "address-pools: nonsense" },
        "metadata": { "name": "other", "namespace": NAMESPACE } });
    lab.apply(&other.to_string())?;

    // Herald is right without it: what it cannot refuse it tells.
    controller.terminate(SOON)?;
    lab.apply(&overlapping.replace("more", "late"))?;
    let _controller = lab.controller("controller-again", &[])?;
    await_event(&lab, NAMESPACE, "late", "ConfigRejected", "overlaps 192.0.2.0/25 of pool edge").map(drop)
}
