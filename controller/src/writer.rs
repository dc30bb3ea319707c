//! Performs one [`Action`] at the API server.
//!
//! Server-side apply, forced, with uid and resourceVersion of what was read: whoever changed the Service meanwhile
//! (also a newer leader) makes the write fail as a conflict instead of being overwritten. The ingress list is written whole,
//! an explicit `[]` when empty. The pool's annotation goes with the same request, as MetalLB does it: the status
//! subresource of a Service takes metadata too.

use std::time::Duration;

use herald_runtime::chain;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::plan::{Action, Change, Target};
use crate::planner::Outcome;
use crate::service::{
    CLEANUP_FINALIZER, CONDITION, Condition, FINALIZER_MANAGER, HEALTH_PORT_TOLD, POOL_TOLD, STATUS_MANAGER,
    ServiceView, TRAFFIC_MANAGER,
};

/// Writes, and says how it ended. Takes at most `deadline`.
pub async fn perform(client: Client, action: &Action, deadline: Duration) -> Outcome {
    let Target { name, .. } = &action.target;
    let api: Api<Service> = Api::namespaced(client, &name.namespace);
    let body = body(action, Timestamp::now());
    let manager = match action.change {
        Change::Status { .. } | Change::ForgetPool => STATUS_MANAGER,
        Change::AddFinalizer | Change::ReleaseFinalizer => FINALIZER_MANAGER,
        Change::LocalTraffic { .. } | Change::ReleaseTraffic => TRAFFIC_MANAGER,
    };
    let apply = PatchParams::apply(manager).force();
    let call = async {
        match action.change {
            Change::Status { .. } => api.patch_status(&name.name, &apply, &Patch::Apply(body)).await,
            Change::ForgetPool => {
                let merge = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
                api.patch(&name.name, &merge, &Patch::Merge(body)).await
            }
            _ => api.patch(&name.name, &apply, &Patch::Apply(body)).await,
        }
    };
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(service)) => Outcome::Written(Box::new(ServiceView::new(service))),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Outcome::Conflict,
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Outcome::Gone,
        Ok(Err(error)) => {
            let error = chain(&error);
            tracing::warn!(service = %name, error, "a write failed, trying again: {}", action.change);
            Outcome::Failed
        }
        Err(_) => {
            tracing::warn!(service = %name, "a write was not answered in time, trying again: {}", action.change);
            Outcome::Failed
        }
    }
}

fn body(action: &Action, now: Timestamp) -> Value {
    let Target { name, uid, version } = &action.target;
    let mut metadata =
        json!({ "name": &*name.name, "namespace": &*name.namespace, "uid": uid, "resourceVersion": version });
    let mut object = json!({ "apiVersion": "v1", "kind": "Service" });
    match &action.change {
        Change::Status { addresses, form, pool, condition } => {
            if let Some(pool) = pool {
                metadata["annotations"] = json!({ POOL_TOLD: pool });
            }
            let ingress: Vec<Value> = addresses.iter().map(|address| form.entry(*address)).collect();
            object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
            if let Some(Condition { met, reason, message, since }) = condition {
                let since = since.and_then(|since| Timestamp::from_second(since).ok()).unwrap_or(now);
                object["status"]["conditions"] = json!([{
                    "type": CONDITION, "status": if *met { "True" } else { "False" },
                    "reason": reason, "message": message, "lastTransitionTime": Time(since),
                }]);
            }
        }
        Change::ForgetPool => metadata["annotations"] = json!({ POOL_TOLD: null }),
        Change::AddFinalizer => metadata["finalizers"] = json!([CLEANUP_FINALIZER]),
        Change::LocalTraffic { health_port } => {
            if let Some(port) = health_port {
                metadata["annotations"] = json!({ HEALTH_PORT_TOLD: port.to_string() });
            }
            object["spec"] = json!({ "externalTrafficPolicy": "Local" });
        }
        // Applying nothing gives up everything.
        Change::ReleaseTraffic | Change::ReleaseFinalizer => {}
    }
    object["metadata"] = metadata;
    object
}

#[cfg(test)]
mod tests {
    use herald_runtime::ObjectName;

    use super::*;
    use crate::service::Form;

    fn action(change: Change) -> Action {
        let target = Target {
            name: ObjectName::new("default", "web"),
            uid: "u-1".to_owned(),
            version: "7".to_owned(),
        };
        Action { target, change, then: Vec::new() }
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_status_is_written_whole_and_fenced() {
        let change = Change::Status {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            form: Form::default(),
            pool: Some("edge".to_owned()),
            condition: Some(Condition::new(true, "Assigned", "192.0.2.1 from pool edge".to_owned())),
        };
        assert_eq!(
            body(&action(change), NOW),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "namespace": "default", "name": "web", "uid": "u-1", "resourceVersion": "7",
                    "annotations": { "metallb.io/ip-allocated-from-pool": "edge" },
                },
                "status": {
                    "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] },
                    "conditions": [{
                        "type": "herald.io/AddressAssigned", "status": "True", "reason": "Assigned",
                        "message": "192.0.2.1 from pool edge", "lastTransitionTime": "1970-01-01T00:00:00Z",
                    }],
                },
            })
        );
    }

    #[test]
    fn a_cleared_status_is_an_explicit_empty_list_and_takes_the_condition_away() {
        let change =
            Change::Status { addresses: Vec::new(), form: Form::default(), pool: None, condition: None };
        let body = body(&action(change), NOW);
        assert_eq!(body["status"], json!({ "loadBalancer": { "ingress": [] } }));
        assert_eq!(body["metadata"].get("annotations"), None);
    }

    #[test]
    fn a_condition_keeps_the_time_since_when_it_holds() {
        let condition =
            Condition { since: Some(60), ..Condition::new(false, "Exhausted", "no address".to_owned()) };
        let change = Change::Status {
            addresses: Vec::new(),
            form: Form::default(),
            pool: None,
            condition: Some(condition),
        };
        let body = body(&action(change), Timestamp::now());
        assert_eq!(body["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:00Z");
        assert_eq!(body["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn what_others_own_too_is_removed_by_its_name_and_what_only_we_own_by_applying_nothing() {
        let forget = body(&action(Change::ForgetPool), NOW);
        assert_eq!(forget["metadata"]["annotations"], json!({ "metallb.io/ip-allocated-from-pool": null }));
        assert_eq!(forget["metadata"]["resourceVersion"], "7");
        for change in [Change::ReleaseTraffic, Change::ReleaseFinalizer] {
            let body = body(&action(change), NOW);
            assert_eq!((body.get("spec"), body["metadata"].get("annotations")), (None, None));
            assert_eq!(body["metadata"].get("finalizers"), None);
        }
        let add = body(&action(Change::AddFinalizer), NOW);
        assert_eq!(add["metadata"]["finalizers"], json!(["service.kubernetes.io/load-balancer-cleanup"]));
    }
}
