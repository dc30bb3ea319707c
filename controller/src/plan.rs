//! What is to be done about one Service: a pure function of its view and of what the allocator gives it.
//!
//! Law: after the actions are applied, the plan is empty.

use std::fmt;
use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::EventType;
use k8s_openapi::api::core::v1::ObjectReference;

use crate::allocator::Assignment;
use crate::reason::Reason;
use crate::service::{EXTERNAL_TRAFFIC, ServiceType, ServiceView};

/// A Kubernetes Event to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Tell {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    pub kind: EventType,
    /// One word.
    pub reason: &'static str,
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
    /// The whole `status.loadBalancer.ingress`, and the pool as annotation.
    Status {
        /// Empty: the list is cleared.
        addresses: Vec<IpAddr>,
        /// The pool that they are from.
        pool: Option<String>,
    },
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
            Self::Status { addresses, .. } if addresses.is_empty() => write!(f, "no address"),
            Self::Status { addresses, pool } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "address {}", addresses.join(" and "))?;
                pool.as_ref().map_or(Ok(()), |pool| write!(f, " from pool {pool}"))
            }
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
    pub then: Option<Tell>,
}

/// What the allocator says about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allotment {
    /// It holds these.
    Holds(Assignment),
    /// It is to have an address but there is none for it.
    Waits(Reason),
    /// It is ours but needs no address (any more): whatever its status shows goes.
    Nothing,
    /// Not ours, or nothing is known yet: its status is left alone.
    Untouched,
}

/// The next write for the Service, if any. The traffic policy goes first: it changes what the status depends on.
pub fn plan(view: &ServiceView, allotment: &Allotment) -> Option<Action> {
    let (change, then) = traffic(view).or_else(|| status(view, allotment))?;
    let target = Target { name: view.name.clone(), uid: view.uid.clone(), version: view.version.clone() };
    Some(Action { target, change, then })
}

fn status(view: &ServiceView, allotment: &Allotment) -> Option<(Change, Option<Tell>)> {
    let tell =
        |reason, note| Some(Tell { regarding: view.reference(), kind: EventType::Normal, reason, note });
    match allotment {
        Allotment::Untouched => None,
        Allotment::Holds(Assignment { addresses, pool }) => {
            let shown = view.status.iter().copied().eq(addresses.iter().copied().map(Some));
            if shown && view.pool_told.as_ref() == Some(pool) {
                return None;
            }
            let change = Change::Status { addresses: addresses.clone(), pool: Some(pool.clone()) };
            let listed: Vec<String> =
                addresses.iter().map(|address| format!("{:?}", address.to_string())).collect();
            let then = (!shown)
                .then(|| tell("IPAllocated", format!("Assigned IP [{}]", listed.join(" "))))
                .flatten();
            Some((change, then))
        }
        Allotment::Waits(_) | Allotment::Nothing if view.status.is_empty() => {
            // The API server clears the status of other types by itself, but not our annotation.
            let stale = view.pool_told.is_some() && view.pool_told_owned;
            stale.then_some((Change::Status { addresses: Vec::new(), pool: None }, None))
        }
        Allotment::Waits(reason) => {
            let note = format!("Its address is taken away: {reason}");
            Some((Change::Status { addresses: Vec::new(), pool: None }, tell("ClearAssignment", note)))
        }
        Allotment::Nothing => Some((Change::Status { addresses: Vec::new(), pool: None }, None)),
    }
}

/// The old annotation `external-traffic`: OnlyLocal is policy Local, which we set by a field manager of our own, so
/// that removing the annotation gives the field back to its default.
fn traffic(view: &ServiceView) -> Option<(Change, Option<Tell>)> {
    let tell = |reason, note: String| {
        Some(Tell { regarding: view.reference(), kind: EventType::Normal, reason, note })
    };
    let wants_local =
        view.kind != ServiceType::Other && view.external_traffic.as_deref() == Some("OnlyLocal");
    if !wants_local {
        return view.traffic_owned.then(|| {
            let note = format!("externalTrafficPolicy goes back to its default: {EXTERNAL_TRAFFIC} does not ask for OnlyLocal any more");
            (Change::ReleaseTraffic, tell("ExternalTrafficPolicyReleased", note))
        });
    }
    let health_port = view.health_port.filter(|_| view.kind == ServiceType::LoadBalancer && view.local);
    if !view.local {
        let note = format!(
            "externalTrafficPolicy was set to Local as {EXTERNAL_TRAFFIC} asks for; remove the annotation to undo it"
        );
        return Some((Change::LocalTraffic { health_port: None }, tell("ExternalTrafficPolicySet", note)));
    }
    let port = health_port?;
    let told = view.health_port_told.as_deref() == Some(port.to_string().as_str());
    (!told).then_some((Change::LocalTraffic { health_port: Some(port) }, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_in_words() {
        let status = |addresses: &[&str], pool: Option<&str>| Change::Status {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            pool: pool.map(str::to_owned),
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
