//! kube-proxy's metrics under kube-proxy's names, so that dashboards and alerts stay.
//!
//! Only those that mean something here: nothing of iptables, nothing of listing. They stand in the one registry that the
//! admin server and 127.0.0.1:10249 both show. The struct
//! is cheap to clone; whoever does the counted thing holds one.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

use herald_runtime::metrics::Metrics;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::family::IpFamily;

impl EncodeLabelValue for IpFamily {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        write!(encoder, "{self}")
    }
}

/// Label `ip_family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FamilyLabel {
    /// `IPv4` or `IPv6`.
    pub ip_family: IpFamily,
}

/// Label `traffic_policy` beside `ip_family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct PolicyLabel {
    /// `IPv4` or `IPv6`.
    pub ip_family: IpFamily,
    /// `internal` or `external`.
    pub traffic_policy: TrafficPolicy,
}

/// Which of a Service's traffic policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

impl EncodeLabelValue for TrafficPolicy {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Internal => "internal",
            Self::External => "external",
        })
    }
}

/// Label `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

type Histograms = Family<FamilyLabel, Histogram, fn() -> Histogram>;
type Timestamps = Family<FamilyLabel, Gauge<f64, AtomicU64>>;

/// The metrics of the proxy.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    /// Any write to the kernel, decision included.
    pub sync_duration: Histograms,
    /// Loads of everything.
    pub sync_full_duration: Histograms,
    /// Writes of a change.
    pub sync_partial_duration: Histograms,
    /// From the change of a pod or Service to the kernel.
    pub network_programming_duration: Histograms,
    /// When rules last reached the kernel, Unix seconds.
    pub last_sync: Timestamps,
    /// When a change was last queued, Unix seconds.
    pub last_queued: Timestamps,
    /// Changes of endpoints that wait.
    pub endpoint_changes_pending: Gauge,
    /// Changes of endpoints so far.
    pub endpoint_changes: Counter,
    /// Changes of Services that wait.
    pub service_changes_pending: Gauge,
    /// Changes of Services so far.
    pub service_changes: Counter,
    /// Services with policy Local and no endpoint on this node.
    pub no_local_endpoints: Family<PolicyLabel, Gauge>,
    /// Batches that the kernel refused.
    pub sync_failures: Family<FamilyLabel, Counter>,
    /// Looking for stale conntrack entries and deleting them.
    pub conntrack_sync_duration: Histograms,
    /// Stale conntrack entries deleted.
    pub conntrack_deleted_entries: Family<FamilyLabel, Counter>,
    /// Node ports that are served on localhost.
    pub localhost_listeners: Family<FamilyLabel, Gauge>,
    /// Of those, attempts to listen that failed.
    pub localhost_failures: Family<FamilyLabel, Counter>,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
}

impl ProxyMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &Metrics) -> Self {
        let metrics = Self {
            sync_duration: histograms(sync_buckets),
            sync_full_duration: histograms(sync_buckets),
            sync_partial_duration: histograms(sync_buckets),
            network_programming_duration: histograms(programming_buckets),
            last_sync: Family::default(),
            last_queued: Family::default(),
            endpoint_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            no_local_endpoints: Family::default(),
            sync_failures: Family::default(),
            conntrack_sync_duration: histograms(sync_buckets),
            conntrack_deleted_entries: Family::default(),
            localhost_listeners: Family::default(),
            localhost_failures: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        // The first failure shall be seen to be more than none.
        for ip_family in IpFamily::ALL {
            drop(metrics.sync_failures.get_or_create(&FamilyLabel { ip_family }));
        }
        metrics.register(registry);
        metrics
    }

    /// Counts an answer of `/healthz`.
    pub(crate) fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts an answer of `/livez`.
    pub(crate) fn livez(&self, code: u16) {
        self.livez.get_or_create(&CodeLabel { code }).inc();
    }

    fn register(&self, registry: &Metrics) {
        // Every field is named here, so that a metric that is not registered does not compile.
        let Self {
            sync_duration,
            sync_full_duration,
            sync_partial_duration,
            network_programming_duration,
            last_sync,
            last_queued,
            endpoint_changes_pending,
            endpoint_changes,
            service_changes_pending,
            service_changes,
            no_local_endpoints,
            sync_failures,
            conntrack_sync_duration,
            conntrack_deleted_entries,
            localhost_listeners,
            localhost_failures,
            healthz,
            livez,
        } = self.clone();
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Writing rules, in seconds",
            sync_duration,
        );
        registry.register(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "Writing all rules, in seconds",
            sync_full_duration,
        );
        registry.register(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "Writing changed rules, in seconds",
            sync_partial_duration,
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "From a change of endpoints to the kernel, in seconds",
            network_programming_duration,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When rules last reached the kernel",
            last_sync,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last queued",
            last_queued,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "Changes of endpoints that wait",
            endpoint_changes_pending,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes",
            "Changes of endpoints",
            endpoint_changes,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "Changes of Services that wait",
            service_changes_pending,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes",
            "Changes of Services",
            service_changes,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Services with a Local traffic policy and no endpoint on this node",
            no_local_endpoints,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures",
            "Batches that the kernel refused",
            sync_failures,
        );
        registry.register(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Looking for stale conntrack entries and deleting them, in seconds",
            conntrack_sync_duration,
        );
        registry.register(
            "kubeproxy_conntrack_reconciler_deleted_entries",
            "Stale conntrack entries deleted",
            conntrack_deleted_entries,
        );
        registry.register(
            "kubeproxy_localhost_nodeport_listeners",
            "Node ports that are served on localhost",
            localhost_listeners,
        );
        registry.register(
            "kubeproxy_localhost_nodeport_listener_failures",
            "Failures to listen for a node port on localhost",
            localhost_failures,
        );
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz", healthz);
        registry.register("kubeproxy_proxy_livez", "Answers of /livez", livez);
    }
}

fn histograms(buckets: fn() -> Histogram) -> Histograms {
    Family::new_with_constructor(buckets)
}

/// 1 ms to 16 s, doubling.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_buckets() -> Histogram {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    Histogram::new([0.0, 0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_labels_are_those_of_kube_proxy() {
        let registry = Metrics::new();
        let metrics = ProxyMetrics::new(&registry);
        let family = FamilyLabel { ip_family: IpFamily::V4 };
        metrics.sync_duration.get_or_create(&family).observe(0.003);
        metrics.network_programming_duration.get_or_create(&family).observe(0.1);
        metrics.sync_failures.get_or_create(&FamilyLabel { ip_family: IpFamily::V6 }).inc();
        let policy = PolicyLabel { ip_family: IpFamily::V6, traffic_policy: TrafficPolicy::External };
        metrics.no_local_endpoints.get_or_create(&policy).set(2);
        metrics.conntrack_sync_duration.get_or_create(&family).observe(0.003);
        metrics.conntrack_deleted_entries.get_or_create(&family).inc_by(3);
        metrics.service_changes.inc();
        metrics.healthz(503);
        let text = registry.encode().unwrap();
        for line in [
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.004",ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002",ip_family="IPv4"} 0"#,
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="16.384",ip_family="IPv4"} 1"#,
            r#"kubeproxy_network_programming_duration_seconds_bucket{le="0.25",ip_family="IPv4"} 1"#,
            r#"kubeproxy_network_programming_duration_seconds_bucket{le="300.0",ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv6"} 1"#,
            r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"} 2"#,
            r#"kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv4"} 1"#,
            r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 3"#,
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            r#"kubeproxy_proxy_healthz_total{code="503"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
