//! What is to be done about one Service: a pure function of its view and of what the allocator gives it.
//!
//! Law: after the actions are applied, the plan is empty.

use std::fmt;
use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventType};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::allocator::{Assignment, Grant};
use crate::reason::Reason;
use crate::service::{Condition, EXTERNAL_TRAFFIC, Form, ServiceType, ServiceView};

/// A Kubernetes Event to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Tell {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    pub kind: EventType,
    /// One word.
    pub reason: EventReason,
    /// One sentence.
    pub note: String,
}

/// Which object, exactly as it was seen: a write meets it so or is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Service.
    pub name: ObjectName,
    /// Its uid.
    pub uid: String,
    /// The fence against a stale leader.
    pub version: String,
}

/// One write to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The whole `status.loadBalancer.ingress`, the condition, and the pool as annotation.
    Status {
        /// Empty: the list is cleared.
        addresses: Vec<IpAddr>,
        /// What stands beside each.
        form: Form,
        /// The pool that they are from.
        pool: Option<String>,
        /// `None`: it is taken away.
        condition: Option<Condition>,
    },
    /// Removes the pool's annotation, which somebody else (MetalLB, before Herald) owns too.
    ForgetPool,
    /// Adds the finalizer.
    AddFinalizer,
    /// Gives the finalizer up.
    ReleaseFinalizer,
    /// `spec.externalTrafficPolicy: Local`, and the health port in the old annotation once there is one.
    LocalTraffic {
        /// `spec.healthCheckNodePort`.
        health_port: Option<u16>,
    },
    /// Gives up all that `LocalTraffic` set.
    ReleaseTraffic,
}

impl fmt::Display for Change {
    /// As the log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { addresses, condition, .. } if addresses.is_empty() => {
                write!(f, "no address")?;
                condition.as_ref().map_or(Ok(()), |condition| write!(f, " ({})", condition.reason))
            }
            Self::Status { addresses, pool, .. } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "address {}", addresses.join(" and "))?;
                pool.as_ref().map_or(Ok(()), |pool| write!(f, " from pool {pool}"))
            }
            Self::ForgetPool => write!(f, "no pool"),
            Self::AddFinalizer => write!(f, "finalizer"),
            Self::ReleaseFinalizer => write!(f, "no finalizer"),
            Self::LocalTraffic { health_port: None } => write!(f, "externalTrafficPolicy Local"),
            Self::LocalTraffic { health_port: Some(port) } => {
                write!(f, "externalTrafficPolicy Local, health-check node port {port}")
            }
            Self::ReleaseTraffic => write!(f, "externalTrafficPolicy is no longer Herald's"),
        }
    }
}

/// A write and what to tell once it is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The Service.
    pub target: Target,
    /// What to write.
    pub change: Change,
    /// Told after the API server accepted it.
    pub then: Vec<Tell>,
}

/// What is decided about a Service's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allotment {
    /// It holds these; `finalizer`: it is not to go before they are withdrawn.
    Holds {
        /// What it has.
        grant: Grant,
        /// Whether the configuration wants the finalizer.
        finalizer: bool,
    },
    /// It is to have an address but there is none for it.
    Waits(Reason),
    /// It is deleted and our finalizer keeps it; `done`: for long enough.
    Withdraws {
        /// The finalizer can go.
        done: bool,
    },
    /// It is ours but needs no address (any more): whatever its status shows goes.
    Nothing,
    /// Somebody else's: its status is left alone, and nothing of ours stays on it.
    Foreign,
    /// Nothing is known yet: it is left as it is.
    Untouched,
}

/// The next write for the Service, if any. The traffic policy goes first, it changes what the status depends on; then the
/// finalizer, so that no address is announced without it.
pub fn plan(view: &ServiceView, allotment: &Allotment) -> Option<Action> {
    let silent = |change| (change, Vec::new());
    let (change, then) = traffic(view)
        .or_else(|| finalizer(view, allotment).map(silent))
        .or_else(|| forgotten_pool(view, allotment).map(silent))
        .or_else(|| status(view, allotment))?;
    let target = Target { name: view.name.clone(), uid: view.uid.clone(), version: view.version.clone() };
    Some(Action { target, change, then })
}

fn finalizer(view: &ServiceView, allotment: &Allotment) -> Option<Change> {
    match allotment {
        Allotment::Holds { finalizer: true, .. } => {
            (!view.finalizer && !view.deleting).then_some(Change::AddFinalizer)
        }
        // One that waits keeps it: who takes it away would have to add it again.
        Allotment::Waits(_) | Allotment::Untouched => None,
        Allotment::Withdraws { done } => {
            (view.status.is_empty() && *done && view.finalizer_owned).then_some(Change::ReleaseFinalizer)
        }
        Allotment::Holds { finalizer: false, .. } | Allotment::Nothing | Allotment::Foreign => {
            view.finalizer_owned.then_some(Change::ReleaseFinalizer)
        }
    }
}

/// Without an address the annotation of its pool is wrong. If others own it too, it does not go by not applying it.
fn forgotten_pool(view: &ServiceView, allotment: &Allotment) -> Option<Change> {
    let none = match allotment {
        Allotment::Waits(reason) => !reason.leaves_status(),
        Allotment::Nothing | Allotment::Withdraws { .. } => true,
        Allotment::Holds { .. } | Allotment::Foreign | Allotment::Untouched => false,
    };
    (none && view.pool_told.is_some() && !view.pool_told_solely).then_some(Change::ForgetPool)
}

fn status(view: &ServiceView, allotment: &Allotment) -> Option<(Change, Vec<Tell>)> {
    let tell = |reason, note| Tell { regarding: view.reference(), kind: EventType::Normal, reason, note };
    let cleared =
        |condition| Change::Status { addresses: Vec::new(), form: Form::default(), pool: None, condition };
    match allotment {
        Allotment::Foreign | Allotment::Untouched => None,
        Allotment::Holds { grant, .. } => held(view, grant),
        Allotment::Waits(reason) if reason.leaves_status() => None,
        Allotment::Waits(reason) => {
            let condition = Condition::new(false, reason.word(), reason.to_string());
            if view.status.is_empty() && view.pool_told.is_none() && condition.is_shown(view.condition) {
                return None;
            }
            let note = format!("Its address is taken away: {reason}");
            let tells = match view.status.is_empty() {
                true => Vec::new(),
                false => vec![tell(EventReason::ClearAssignment, note)],
            };
            Some((cleared(Some(condition.after(view.condition))), tells))
        }
        Allotment::Withdraws { .. } | Allotment::Nothing => {
            // The API server clears the status of other types by itself, but neither our annotation nor our condition.
            let stale = !view.status.is_empty() || view.pool_told.is_some() || view.condition_owned;
            stale.then(|| (cleared(None), Vec::new()))
        }
    }
}

fn held(view: &ServiceView, grant: &Grant) -> Option<(Change, Vec<Tell>)> {
    let tell = |reason, note| Tell { regarding: view.reference(), kind: EventType::Normal, reason, note };
    let Grant { assignment: Assignment { addresses, pool }, lost, lacks } = grant;
    let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let lacking = lacks.as_ref().map(|reason| format!("; no second address: {reason}")).unwrap_or_default();
    let message = format!("{} from pool {pool}{lacking}", listed.join(" and "));
    let condition = Condition::new(true, "Assigned", message);
    let shown = view.status.iter().copied().eq(addresses.iter().copied().map(Some));
    let told = view.pool_told.as_ref() == Some(pool) && condition.is_shown(view.condition);
    if shown && view.in_form && told {
        return None;
    }
    let mut tells = Vec::new();
    if !shown {
        let gone: Vec<String> = view
            .status_addresses()
            .filter(|address| !addresses.contains(address))
            .map(|address| address.to_string())
            .collect();
        if let (Some(reason), false) = (lost, gone.is_empty()) {
            tells.push(tell(
                EventReason::ClearAssignment,
                format!("{} is taken away: {reason}", gone.join(" and ")),
            ));
        }
        let quoted: Vec<String> = listed.iter().map(|address| format!("{address:?}")).collect();
        tells.push(tell(EventReason::IpAllocated, format!("Assigned IP [{}]", quoted.join(" "))));
    }
    let change = Change::Status {
        addresses: addresses.clone(),
        form: view.form.clone(),
        pool: Some(pool.clone()),
        condition: Some(condition.after(view.condition)),
    };
    Some((change, tells))
}

/// The old annotation `external-traffic`: OnlyLocal is policy Local, which we set by a field manager of our own, so
/// that removing the annotation gives the field back to its default.
fn traffic(view: &ServiceView) -> Option<(Change, Vec<Tell>)> {
    let tell = |reason, note: String| {
        vec![Tell { regarding: view.reference(), kind: EventType::Normal, reason, note }]
    };
    let wants_local =
        view.kind != ServiceType::Other && view.external_traffic.as_deref() == Some("OnlyLocal");
    if !wants_local {
        return view.traffic_owned.then(|| {
            let note = format!("externalTrafficPolicy goes back to its default: {EXTERNAL_TRAFFIC} does not ask for OnlyLocal any more");
            (Change::ReleaseTraffic, tell(EventReason::ExternalTrafficPolicyReleased, note))
        });
    }
    let health_port = view.health_port.filter(|_| view.kind == ServiceType::LoadBalancer && view.local);
    if !view.local {
        let note = format!(
            "externalTrafficPolicy was set to Local as {EXTERNAL_TRAFFIC} asks for; remove the annotation to undo it"
        );
        return Some((
            Change::LocalTraffic { health_port: None },
            tell(EventReason::ExternalTrafficPolicySet, note),
        ));
    }
    let port = health_port?;
    let told = view.health_port_told.as_deref() == Some(port.to_string().as_str());
    (!told).then(|| (Change::LocalTraffic { health_port: Some(port) }, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_in_words() {
        let status = |addresses: &[&str], pool: Option<&str>| Change::Status {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            form: Form::default(),
            pool: pool.map(str::to_owned),
            condition: None,
        };
        assert_eq!(
            status(&["192.0.2.1"], Some("default")).to_string(),
            "address 192.0.2.1 from pool default"
        );
        assert_eq!(
            status(&["192.0.2.1", "2001:db8:1::1"], None).to_string(),
            "address 192.0.2.1 and 2001:db8:1::1"
        );
        assert_eq!(status(&[], None).to_string(), "no address");
    }
}
