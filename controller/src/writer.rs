//! Performs one [`Action`] at the API server.
//!
//! Server-side apply, forced, with uid and resourceVersion of what was read: whoever changed the Service meanwhile
//! (also a newer leader) makes the write fail as a conflict instead of being overwritten. The ingress list is written whole,
//! an explicit `[]` when empty. The pool's annotation goes with the same request, as MetalLB does it: the status
//! subresource of a Service takes metadata too.

use std::time::Duration;

use herald_runtime::chain;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::plan::{Action, Change, Target};
use crate::planner::Outcome;
use crate::service::{HEALTH_PORT_TOLD, POOL_TOLD, STATUS_MANAGER, ServiceView, TRAFFIC_MANAGER};

/// Writes, and says how it ended. Takes at most `deadline`.
pub async fn perform(client: Client, action: &Action, deadline: Duration) -> Outcome {
    let Target { name, .. } = &action.target;
    let api: Api<Service> = Api::namespaced(client, &name.namespace);
    let patch = Patch::Apply(body(action));
    let call = async {
        match action.change {
            Change::Status { .. } => {
                api.patch_status(&name.name, &PatchParams::apply(STATUS_MANAGER).force(), &patch).await
            }
            Change::LocalTraffic { .. } | Change::ReleaseTraffic => {
                api.patch(&name.name, &PatchParams::apply(TRAFFIC_MANAGER).force(), &patch).await
            }
        }
    };
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(service)) => Outcome::Written(Box::new(ServiceView::new(service))),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Outcome::Conflict,
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Outcome::Gone,
        Ok(Err(error)) => {
            tracing::warn!(service = %name, error = chain(&error), "write failed, will be tried again");
            Outcome::Failed
        }
        Err(_) => {
            tracing::warn!(service = %name, "write was not answered in time, will be tried again");
            Outcome::Failed
        }
    }
}

fn body(action: &Action) -> Value {
    let Target { name, uid, version } = &action.target;
    let mut metadata =
        json!({ "name": name.name, "namespace": name.namespace, "uid": uid, "resourceVersion": version });
    let mut object = json!({ "apiVersion": "v1", "kind": "Service" });
    match &action.change {
        Change::Status { addresses, pool } => {
            if let Some(pool) = pool {
                metadata["annotations"] = json!({ POOL_TOLD: pool });
            }
            let ingress: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
            object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        Change::LocalTraffic { health_port } => {
            if let Some(port) = health_port {
                metadata["annotations"] = json!({ HEALTH_PORT_TOLD: port.to_string() });
            }
            object["spec"] = json!({ "externalTrafficPolicy": "Local" });
        }
        // Applying nothing gives up everything.
        Change::ReleaseTraffic => {}
    }
    object["metadata"] = metadata;
    object
}

#[cfg(test)]
mod tests {
    use herald_runtime::ObjectName;

    use super::*;

    fn action(change: Change) -> Action {
        let target = Target {
            name: ObjectName::new("default", "web"),
            uid: "u-1".to_owned(),
            version: "7".to_owned(),
        };
        Action { target, change, then: None }
    }

    #[test]
    fn a_status_is_written_whole_and_fenced() {
        let change =
            Change::Status { addresses: vec!["192.0.2.1".parse().unwrap()], pool: Some("edge".to_owned()) };
        assert_eq!(
            body(&action(change)),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "namespace": "default", "name": "web", "uid": "u-1", "resourceVersion": "7",
                    "annotations": { "metallb.io/ip-allocated-from-pool": "edge" },
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } },
            })
        );
    }

    #[test]
    fn a_cleared_status_is_an_explicit_empty_list() {
        let body = body(&action(Change::Status { addresses: Vec::new(), pool: None }));
        assert_eq!(body["status"], json!({ "loadBalancer": { "ingress": [] } }));
        assert_eq!(body["metadata"].get("annotations"), None);
    }

    #[test]
    fn releasing_the_traffic_policy_applies_nothing() {
        let body = body(&action(Change::ReleaseTraffic));
        assert_eq!(body.get("spec"), None);
        assert_eq!(body["metadata"].get("annotations"), None);
    }
}
