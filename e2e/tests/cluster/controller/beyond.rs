//! What Herald does beyond MetalLB, on a real API server: the condition, quotas, the finalizer, statuses of others.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, await_until};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{POOLS, lab};
use crate::services::{SOON, addresses_of, all, await_address, await_event, create, ip, service};

/// Writes a status as another controller does.
fn write_status(lab: &Lab, name: &str, manager: &str, ingress: &Value) -> Result<()> {
    lab.block_on(async |client| {
        let patch = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let by = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        let api: Api<Service> = Api::namespaced(client, "default");
        api.patch_status(name, &by, &Patch::Merge(&patch)).await?;
        Ok(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn kubectl_waits_for_the_condition_and_shows_why_there_is_no_address() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald(&format!("{POOLS}herald: {{quotas: {{default: 1}}}}\n"))?;
    let _controller = lab.controller("controller", &[])?;
    create(&lab, [service("first", json!({}))])?;
    let wait = |name: &str, what: &str, timeout: &str| {
        lab.kubectl(&["wait", &format!("service/{name}"), &format!("--for={what}"), timeout])
    };
    wait("first", "condition=herald.io/AddressAssigned", "--timeout=20s")?;
    assert_eq!(addresses_of(&all(&lab)?["first"]), [ip("192.0.2.0")]);
    create(&lab, [service("second", json!({}))])?;
    wait("second", "condition=herald.io/AddressAssigned=False", "--timeout=20s")?;
    let conditions =
        all(&lab)?["second"].status.clone().and_then(|status| status.conditions).unwrap_or_default();
    assert_eq!(conditions[0].reason, "QuotaExceeded");
    assert!(conditions[0].message.contains("raise herald.quotas"), "{conditions:?}");
    // It is served as soon as the first one goes, and loses the condition with the type.
    lab.delete("v1/Service", "default", "first")?;
    wait("second", "condition=herald.io/AddressAssigned", "--timeout=20s")?;
    lab.apply(&service("second", json!({ "spec": { "type": "ClusterIP" } })).to_string())?;
    await_until(SOON, "the condition and the annotation to go", || {
        let service = all(&lab).ok()?.remove("second")?;
        let conditions = service.status?.conditions.unwrap_or_default();
        let annotations = service.metadata.annotations.unwrap_or_default();
        (conditions.is_empty() && !annotations.contains_key("metallb.io/ip-allocated-from-pool"))
            .then_some(())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn what_the_cloud_gave_is_left_alone_and_what_metallb_gave_is_taken_over() -> Result<()> {
    let lab = lab()?;
    create(&lab, ["cloud", "kept", "moved"].map(|name| service(name, json!({}))))?;
    write_status(&lab, "cloud", "cloud-controller-manager", &json!([{ "hostname": "lb.example" }]))?;
    write_status(&lab, "kept", "controller", &json!([{ "ip": "192.0.2.17" }]))?;
    write_status(&lab, "moved", "controller", &json!([{ "ip": "198.51.100.1" }]))?;
    let metallb = PatchParams { field_manager: Some("controller".to_owned()), ..PatchParams::default() };
    lab.block_on(async |client| {
        let told =
            json!({ "metadata": { "annotations": { "metallb.io/ip-allocated-from-pool": "reserve" } } });
        let api: Api<Service> = Api::namespaced(client, "default");
        api.patch_status("kept", &metallb, &Patch::Merge(&told)).await?;
        Ok(())
    })?;
    lab.configure_herald(POOLS)?;
    let _controller = lab.controller("controller", &[])?;
    await_event(&lab, "default", "cloud", "ForeignStatus", "\"cloud-controller-manager\"")?;
    await_until(SOON, "the address outside the pools to be replaced", || {
        (addresses_of(all(&lab).ok()?.get("moved")?) == [ip("192.0.2.0")]).then_some(())
    })?;
    let services = all(&lab)?;
    assert_eq!(addresses_of(&services["kept"]), [ip("192.0.2.17")]);
    assert_eq!(addresses_of(&services["cloud"]), [] as [IpAddr; 0], "a host name is no address");
    let status = serde_json::to_value(&services["cloud"].status)?;
    assert_eq!(status["loadBalancer"]["ingress"], json!([{ "hostname": "lb.example" }]));
    // MetalLB's part in status and annotation goes with the address.
    lab.apply(&service("kept", json!({ "spec": { "type": "ClusterIP" } })).to_string())?;
    await_until(SOON, "the annotation that MetalLB wrote to go", || {
        let annotations = all(&lab).ok()?.remove("kept")?.metadata.annotations.unwrap_or_default();
        (!annotations.contains_key("metallb.io/ip-allocated-from-pool")).then_some(())
    })?;
    // Cleared, the other one is served.
    write_status(&lab, "cloud", "cloud-controller-manager", &json!([]))?;
    await_address(&lab, "cloud").map(drop)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_deleted_service_waits_for_its_withdrawal_and_cleanup_frees_it_without_a_controller() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald(&format!("{POOLS}herald: {{finalizer: {{wait: 2s}}}}\n"))?;
    let controller = lab.controller("controller", &[])?;
    create(&lab, ["web", "left"].map(|name| service(name, json!({}))))?;
    for name in ["web", "left"] {
        await_address(&lab, name)?;
        let finalizers = all(&lab)?[name].metadata.finalizers.clone().unwrap_or_default();
        assert_eq!(finalizers, ["service.kubernetes.io/load-balancer-cleanup"]);
    }
    let begin = Instant::now();
    lab.kubectl(&["delete", "service", "web", "--wait=false"])?;
    await_until(SOON, "the status to be cleared", || {
        addresses_of(all(&lab).ok()?.get("web")?).is_empty().then_some(())
    })?;
    await_until(SOON, "the Service to go", || (!all(&lab).ok()?.contains_key("web")).then_some(()))?;
    let took = begin.elapsed();
    ensure!(took >= Duration::from_secs(2), "gone after {took:?}");

    // Without a controller it hangs, until it is cleaned up.
    controller.terminate(SOON)?;
    lab.kubectl(&["delete", "service", "left", "--wait=false"])?;
    assert!(all(&lab)?.contains_key("left"));
    let mut command = Command::new(herald_e2e::herald_program()?);
    command.args(["cleanup", "--cluster"]).arg(format!("--kubeconfig={}", lab.kubeconfig().display()));
    let cleanup = lab.start_process(lab.control_plane_ns(), "cleanup", command)?;
    cleanup.await_log("finalizers: 1 removed", SOON).context("herald cleanup --cluster")?;
    await_until(SOON, "the Service to go", || (!all(&lab).ok()?.contains_key("left")).then_some(()))
}
