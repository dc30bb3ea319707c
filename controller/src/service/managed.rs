//! Who wrote what: the few things that `managedFields` tell and the plan depends on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

use super::{CLEANUP_FINALIZER, CONDITION, FINALIZER_MANAGER, STATUS_MANAGER, TRAFFIC_MANAGER};

/// What stands in `managedFields`.
#[derive(Debug, Default)]
pub(super) struct Managed {
    /// Only we own the pool's annotation: to apply without it removes it.
    pub(super) pool_told_solely: bool,
    /// We own the condition.
    pub(super) condition: bool,
    /// We own `status.loadBalancer.ingress`.
    pub(super) ingress: bool,
    /// Somebody else who owns it.
    pub(super) ingress_of: Option<Box<str>>,
    /// Our traffic manager owns something.
    pub(super) traffic: bool,
    /// Our finalizer's manager owns the finalizer.
    pub(super) finalizer: bool,
}

impl Managed {
    pub(super) fn new(entries: &[ManagedFieldsEntry]) -> Self {
        let mut this = Self::default();
        let (mut pool_ours, mut pool_others) = (false, false);
        let condition = format!("k:{{\"type\":\"{CONDITION}\"}}");
        let finalizer = format!("v:\"{CLEANUP_FINALIZER}\"");
        for entry in entries {
            let manager = entry.manager.as_deref().unwrap_or_default();
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            let owns = |path: &[&str]| {
                fields
                    .and_then(|fields| path.iter().try_fold(fields, |at: &Value, key| at.get(key)))
                    .is_some()
            };
            let ours = manager == STATUS_MANAGER;
            if owns(&["f:metadata", "f:annotations", "f:metallb.io/ip-allocated-from-pool"]) {
                pool_ours |= ours;
                pool_others |= !ours;
            }
            if owns(&["f:status", "f:loadBalancer", "f:ingress"]) {
                if ours {
                    this.ingress = true;
                } else {
                    this.ingress_of = Some(manager.into());
                }
            }
            this.condition |= ours && owns(&["f:status", "f:conditions", &condition]);
            this.traffic |= manager == TRAFFIC_MANAGER;
            this.finalizer |=
                manager == FINALIZER_MANAGER && owns(&["f:metadata", "f:finalizers", &finalizer]);
        }
        this.pool_told_solely = pool_ours && !pool_others;
        this
    }
}
