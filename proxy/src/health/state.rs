//! Is the proxy healthy, and may the node take traffic? Pure; the shells pass the time in.
//!
//! A family is healthy unless a change has been queued for longer than the timeout without reaching the kernel; a proxy
//! that has just started, or has nothing to do, is healthy. Losing the API server queues nothing and so changes nothing.
//! A node is eligible unless it is being deleted or the autoscaler says that it will be; cordoning does not count, for
//! cordoning all nodes must not end all traffic (KEP-3836).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::family::IpFamily;

/// How long a change may wait for the kernel before the proxy counts as unhealthy: twice kube-proxy's sync period.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Taint of a node that the cluster autoscaler is about to remove.
const TAINT_TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether a node may be sent traffic at all; an unknown one may not.
pub fn node_eligible(node: Option<&Node>) -> bool {
    let Some(node) = node else { return false };
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.any(|taint| taint.key == TAINT_TO_BE_DELETED)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FamilyState {
    /// Since when the oldest change waits.
    waiting: Option<Instant>,
    /// When rules last reached the kernel.
    updated: Option<Timestamp>,
}

impl FamilyState {
    fn healthy(self, now: Instant) -> bool {
        self.waiting.is_none_or(|since| now.saturating_duration_since(since) <= TIMEOUT)
    }
}

/// The proxy's health, kept by the speaker and published in a `watch` channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    v4: FamilyState,
    v6: FamilyState,
    /// The node may be sent traffic, by [`node_eligible`].
    pub node_eligible: bool,
}

impl ProxyState {
    /// A change waits for the kernel from now on (if none waits already).
    pub fn queued(&mut self, family: IpFamily, now: Instant) {
        self.family(family).waiting.get_or_insert(now);
    }

    /// Everything that waited is in the kernel.
    pub fn updated(&mut self, family: IpFamily, time: Timestamp) {
        *self.family(family) = FamilyState { waiting: None, updated: Some(time) };
    }

    /// True when no change has waited too long.
    pub fn healthy(&self, now: Instant) -> bool {
        self.v4.healthy(now) && self.v6.healthy(now)
    }

    /// How long the oldest change has waited for the kernel; zero: none waits.
    pub fn behind(&self, now: Instant) -> Duration {
        let waiting = self.v4.waiting.into_iter().chain(self.v6.waiting).min();
        waiting.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Status and body of `/livez`, and with `eligibility` of `/healthz`.
    pub(super) fn answer(&self, eligibility: bool, now: Instant, time: Timestamp) -> (u16, Value) {
        let healthy = self.healthy(now) && (!eligibility || self.node_eligible);
        // Where all is well nothing is outdated; else it is as old as the family that is behind.
        let last_updated = if healthy { Some(time) } else { self.v4.updated.min(self.v6.updated) };
        let family =
            |state: FamilyState| json!({"lastUpdated": text(state.updated), "healthy": state.healthy(now)});
        let mut body = json!({
            "lastUpdated": text(last_updated),
            "currentTime": text(Some(time)),
            "healthy": healthy,
            "status": {"IPv4": family(self.v4), "IPv6": family(self.v6)},
        });
        if eligibility {
            body["nodeEligible"] = Value::Bool(self.node_eligible);
        }
        (if healthy { 200 } else { 503 }, body)
    }

    fn family(&mut self, family: IpFamily) -> &mut FamilyState {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

fn text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_change_that_waits_longer_than_the_timeout_is_unhealthy_until_it_is_written() {
        let start = Instant::now();
        let mut state = ProxyState { node_eligible: true, ..ProxyState::default() };
        assert!(state.healthy(start), "starting up counts as healthy");
        assert_eq!(state.behind(start + TIMEOUT), Duration::ZERO, "nothing waits");
        state.queued(IpFamily::V6, start);
        state.queued(IpFamily::V6, start + TIMEOUT);
        assert!(state.healthy(start + TIMEOUT));
        assert!(!state.healthy(start + TIMEOUT + Duration::from_millis(1)), "the oldest change counts");
        state.updated(IpFamily::V4, at(50));
        assert!(!state.healthy(start + TIMEOUT * 2), "the other family is no help");
        assert_eq!(state.behind(start + TIMEOUT * 2), TIMEOUT * 2);
        state.updated(IpFamily::V6, at(60));
        assert!(state.healthy(start + TIMEOUT * 20), "with nothing queued time does not matter");
        assert_eq!(state.behind(start + TIMEOUT * 20), Duration::ZERO);
    }

    #[test]
    fn healthz_tells_eligibility_and_livez_does_not() {
        let now = Instant::now();
        let mut state = ProxyState::default();
        state.updated(IpFamily::V4, at(7));
        state.updated(IpFamily::V6, at(5));
        let (status, body) = state.answer(true, now, at(100));
        assert_eq!(status, 503);
        assert_eq!(body["nodeEligible"], json!(false));
        assert_eq!(body["lastUpdated"], json!("1970-01-01T00:00:05Z"), "the family that is behind");
        let (status, body) = state.answer(false, now, at(100));
        assert_eq!(status, 200);
        assert_eq!(body.get("nodeEligible"), None);
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body["status"]["IPv4"], json!({"lastUpdated": "1970-01-01T00:00:07Z", "healthy": true}));
    }

    #[test]
    fn a_node_is_eligible_unless_deleted_or_about_to_be() {
        assert!(!node_eligible(None));
        let cordoned = NodeSpec { unschedulable: Some(true), ..NodeSpec::default() };
        let mut node = Node { spec: Some(cordoned), ..Node::default() };
        assert!(node_eligible(Some(&node)), "cordoned is eligible");
        let taint = Taint { key: TAINT_TO_BE_DELETED.to_owned(), ..Taint::default() };
        node.spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
        assert!(!node_eligible(Some(&node)));
        node.spec = None;
        node.metadata.deletion_timestamp = Some(Time(at(1)));
        assert!(!node_eligible(Some(&node)));
    }
}
