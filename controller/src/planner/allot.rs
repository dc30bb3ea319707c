//! What one Service is to have: whose it is, what it asks for, and what the allocator says to that.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Planner;
use super::notes::Note;
use crate::allocator::{Allocator, Demand};
use crate::namespaces::Namespaces;
use crate::plan::Allotment;
use crate::reason::Reason;
use crate::service::{ServiceType, ServiceView};

/// The field manager of MetalLB's controller: what it wrote is taken over.
const METALLB: &str = "controller";
/// What a person wrote by hand is put right: no controller would write it again.
const BY_HAND: &str = "kubectl";

impl Planner {
    pub(super) fn allot(&mut self, view: &ServiceView, now: Instant) -> Allotment {
        let ours = is_ours(view, self.class.as_deref());
        if view.deleting && view.finalizer_owned {
            // The allocator holds on to what it has until the Service is gone: nobody else is given it meanwhile.
            let done = view.status.is_empty() && self.withdrawals.done(&view.name, self.finalizer_wait, now);
            return Allotment::Withdraws { done };
        }
        let finalizer = !self.finalizer_wait.is_zero();
        let Some(allocator) = &mut self.allocator else {
            return match (ours, view.status.is_empty()) {
                (true, true) => Allotment::Waits(Reason::NoPools),
                (true, false) => Allotment::Untouched,
                (false, _) => Allotment::Foreign,
            };
        };
        if !ours {
            allocator.leave(&view.name);
            allocator.settle(&view.name, view.status_addresses(), now);
            let inside = view.status_addresses().find_map(|address| {
                let pool = allocator.pool_of(address)?;
                Some(format!(
                    "{address} is in Herald's pool {pool:?}: it is left alone, and given to nobody else"
                ))
            });
            let theirs = inside.filter(|_| view.kind == ServiceType::LoadBalancer);
            self.notes.say(view, Note::ForeignAddress, theirs);
            // A type that has no address at all shows none, whoever wrote it; another class is somebody else's.
            let empty = view.kind != ServiceType::LoadBalancer && view.class.is_none();
            return if empty { Allotment::Nothing } else { Allotment::Foreign };
        }
        self.notes.say(view, Note::ForeignAddress, None);
        let refused = self.config.in_force().is_some_and(|config| !config.refused_pools.is_empty());
        if refused && view.status_addresses().any(|address| allocator.pool_of(address).is_none()) {
            // It may belong to a pool that is refused and not known.
            return Allotment::Untouched;
        }
        self.notes.say(view, Note::Complaint, view.complaint.clone());
        let reason = is_foreign(view, allocator)
            .or_else(|| view.request.as_ref().err().cloned())
            .or_else(|| view.want.as_ref().err().cloned());
        let demand = demand(view, &self.namespaces);
        let (None, Some(demand)) = (&reason, demand) else {
            allocator.leave(&view.name);
            allocator.settle(&view.name, view.status_addresses(), now);
            return reason.map_or(Allotment::Untouched, Allotment::Waits);
        };
        if view.deleting && !allocator.holds(&view.name) {
            return Allotment::Untouched;
        }
        let result = allocator.converge(demand, now);
        allocator.settle(&view.name, view.status_addresses(), now);
        match result {
            Ok(grant) => Allotment::Holds { grant, finalizer },
            Err(reason) => Allotment::Waits(reason),
        }
    }
}

pub(super) fn is_ours(view: &ServiceView, class: Option<&str>) -> bool {
    view.kind == ServiceType::LoadBalancer && view.class.as_deref() == class
}

/// Somebody else gave the Service its addresses: another controller, whose field manager the status names, and none of
/// them is from our pools. What Herald or MetalLB gave has its pool's name in the annotation, also after the pool is gone.
pub(super) fn is_foreign(view: &ServiceView, allocator: &Allocator) -> Option<Reason> {
    let writer =
        view.status_of.as_deref().filter(|writer| *writer != METALLB && !writer.starts_with(BY_HAND))?;
    let inside = view.status_addresses().any(|address| allocator.pool_of(address).is_some());
    let foreign = !view.status.is_empty() && view.pool_told.is_none() && !inside;
    foreign.then(|| Reason::ForeignStatus(writer.to_owned()))
}

/// What the Service asks for, if that can be understood.
pub(super) fn demand<'a>(view: &'a ServiceView, namespaces: &'a Namespaces) -> Option<Demand<'a>> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Some(Demand {
        service: &view.name,
        want: *view.want.as_ref().ok()?,
        request: view.request.as_ref().ok()?,
        terms: &view.terms,
        labels: &view.labels,
        namespace: namespaces.labels(&view.name.namespace).unwrap_or(&NONE),
    })
}
