//! What kube-proxy's health and metrics tell about programming: what is queued, what is written, how long it took.
//!
//! Tells by IP family, and only of a family that had changes. Decides nothing; the times are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use herald_proxy::health::ProxyState;
use herald_proxy::{
    FamilyLabel, FrontendKind, IpFamily, PolicyLabel, ProxyMetrics, Refusal, ServiceRules, TrafficPolicy,
};
use herald_runtime::ObjectName;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use crate::changes::Changes;

/// A Service port that has endpoints, but none that its traffic policy lets this node use.
type NoLocal = (PolicyLabel, Box<str>);

/// Tells what became of changes.
#[derive(Debug)]
pub(crate) struct SyncReport {
    metrics: ProxyMetrics,
    state: watch::Sender<ProxyState>,
    no_local: BTreeMap<ObjectName, BTreeSet<NoLocal>>,
}

impl SyncReport {
    /// Nothing is queued.
    pub(crate) fn new(metrics: ProxyMetrics, state: watch::Sender<ProxyState>) -> Self {
        for ip_family in IpFamily::ALL {
            for traffic_policy in [TrafficPolicy::Internal, TrafficPolicy::External] {
                metrics.no_local_endpoints.get_or_create(&PolicyLabel { ip_family, traffic_policy }).set(0);
            }
        }
        Self { metrics, state, no_local: BTreeMap::new() }
    }

    /// How long the oldest change has waited for the kernel; zero: none waits.
    pub(crate) fn behind(&self, now: Instant) -> Duration {
        self.state.borrow().behind(now)
    }

    /// Whether the node may be sent traffic.
    pub(crate) fn eligible(&self, eligible: bool) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.node_eligible, eligible) != eligible);
    }

    /// Changes have come and wait for the kernel from now on.
    pub(crate) fn queued(&self, changes: &mut Changes, now: Instant, time: Timestamp) {
        let (services, endpoints) = changes.take_counts();
        self.metrics.service_changes.inc_by(services);
        self.metrics.endpoint_changes.inc_by(endpoints);
        self.pending(changes);
        if changes.families().is_empty() {
            return;
        }
        self.state.send_if_modified(|state| {
            changes.families().iter().for_each(|family| state.queued(*family, now));
            false
        });
        for ip_family in changes.families().iter().copied() {
            self.metrics.last_queued.get_or_create(&FamilyLabel { ip_family }).set(seconds(time));
        }
    }

    /// Everything that waited is in the kernel, but for Services that `failed`. It took from `started` to `now`.
    pub(crate) fn written(
        &self,
        changes: &mut Changes,
        full: bool,
        (started, now, time): (Instant, Instant, Timestamp),
        failed: impl Fn(&ObjectName) -> bool,
    ) {
        // A load of everything is of both; so is what nobody has said the family of (a retry).
        if full || changes.families().is_empty() {
            changes.everything();
        }
        let families = changes.families().clone();
        let took = now.saturating_duration_since(started).as_secs_f64();
        for ip_family in families.iter().copied() {
            let (label, metrics) = (FamilyLabel { ip_family }, &self.metrics);
            let partial_or_full =
                if full { &metrics.sync_full_duration } else { &metrics.sync_partial_duration };
            for duration in [&metrics.sync_duration, partial_or_full] {
                duration.get_or_create(&label).observe(took);
            }
            metrics.last_sync.get_or_create(&label).set(seconds(time));
        }
        for (ip_family, triggered) in changes.settle(failed) {
            // A clock that is ahead elsewhere must not make a negative delay.
            let delay = (seconds(time) - seconds(triggered)).max(0.0);
            let programming = &self.metrics.network_programming_duration;
            programming.get_or_create(&FamilyLabel { ip_family }).observe(delay);
        }
        self.pending(changes);
        self.state.send_modify(|state| families.iter().for_each(|family| state.updated(*family, time)));
    }

    /// A Service has these rules now.
    pub(crate) fn service(&mut self, name: &ObjectName, rules: Option<&ServiceRules>) {
        let now = rules.map(no_local).unwrap_or_default();
        let before = self.no_local.remove(name).unwrap_or_default();
        let gauge = |(label, _): &NoLocal| self.metrics.no_local_endpoints.get_or_create(label).clone();
        now.difference(&before).for_each(|new| {
            gauge(new).inc();
        });
        before.difference(&now).for_each(|gone| {
            gauge(gone).dec();
        });
        if !now.is_empty() {
            self.no_local.insert(name.clone(), now);
        }
    }

    fn pending(&self, changes: &Changes) {
        let (services, endpoints) = changes.waiting();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.service_changes_pending.set(number(services));
        self.metrics.endpoint_changes_pending.set(number(endpoints));
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn no_local(rules: &ServiceRules) -> BTreeSet<NoLocal> {
    let dropped = rules.frontends.iter().filter(|rules| rules.refusal() == Some(Refusal::Drop));
    let port = dropped.map(|rules| {
        let ip_family = IpFamily::of(rules.frontend.address);
        let traffic_policy = match rules.kind {
            FrontendKind::ClusterIp => TrafficPolicy::Internal,
            _ => TrafficPolicy::External,
        };
        let port = format!("{}/{:?}", rules.backends.port, rules.frontend.protocol);
        (PolicyLabel { ip_family, traffic_policy }, port.into_boxed_str())
    });
    port.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_runtime::metrics::Metrics;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn has(registry: &Metrics, line: &str) {
        let text = registry.encode().unwrap();
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }

    fn report() -> (SyncReport, Metrics, watch::Receiver<ProxyState>) {
        let registry = Metrics::new();
        let (state, seen) = watch::channel(ProxyState::default());
        (SyncReport::new(ProxyMetrics::new(&registry), state), registry, seen)
    }

    #[test]
    fn only_the_family_that_changed_is_told() {
        let (report, registry, state) = report();
        let web = ObjectName::new("shop", "web");
        let mut changes = Changes::default();
        changes.started = Some(at(100));
        let start = Instant::now();
        changes.slice(&web, IpFamily::V6, Some(at(101)));
        report.queued(&mut changes, start, at(103));
        has(&registry, "kubeproxy_sync_proxy_rules_endpoint_changes_total 1");
        has(&registry, "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1");
        has(&registry, r#"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 103.0"#);
        let late = start + Duration::from_secs(61);
        assert!(!state.borrow().healthy(late), "a change that is never written");
        report.written(&mut changes, false, (start, start + Duration::from_millis(3), at(104)), |_| false);
        assert!(state.borrow().healthy(late));
        has(&registry, "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0");
        for name in ["sync_proxy_rules", "sync_partial_proxy_rules"] {
            let line = format!(r#"kubeproxy_{name}_duration_seconds_count{{ip_family="IPv6"}} 1"#);
            has(&registry, &line);
        }
        has(&registry, r#"kubeproxy_network_programming_duration_seconds_sum{ip_family="IPv6"} 3.0"#);
        has(&registry, r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"} 1"#);
        let text = registry.encode().unwrap();
        assert!(!text.contains(r#"duration_seconds_count{ip_family="IPv4"}"#), "{text}");
        // A batch that nobody caused by an event measures no change.
        report.written(&mut changes, true, (start, start, at(105)), |_| false);
        has(&registry, r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"} 1"#);
        has(&registry, r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1"#);
    }
}
