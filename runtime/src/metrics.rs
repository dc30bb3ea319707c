//! The registry of metrics and those that every role has, under the names that MetalLB's dashboards and alerts use.
//!
//! Labels come from enums and from names of configured things only; what disappears (a pool, a peer) must be removed
//! from its family by its owner.

mod exposition;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

pub use self::exposition::{CLASSIC, OPEN_METRICS};

use crate::memory::MemoryMetrics;
use crate::watch::Reach;

/// A registry that can be shared and added to at any time.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// A registry with the metrics of the process.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(MemoryMetrics));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// Adds a metric under its full name; a counter's name is given without `_total`. Returns it for use.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(name, help, metric.clone());
        metric
    }

    /// Adds what is read when somebody asks.
    pub fn collect(&self, collector: impl Collector) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(collector));
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }

    /// All metrics for a client with this `Accept` header: content type and text.
    pub fn answer(&self, accept: Option<&str>) -> Result<(&'static str, String), fmt::Error> {
        Ok(exposition::answer(accept, self.encode()?))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A counter under a name without `_total`: some of MetalLB's have such names. OpenMetrics knows no such counter, its type is
/// `unknown` there; in the classic format it is a counter.
#[derive(Debug, Clone, Default)]
pub struct PlainCounter(Counter);

impl PlainCounter {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// So many more.
    pub fn inc_by(&self, more: u64) {
        self.0.inc_by(more);
    }
}

impl TypedMetric for PlainCounter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for PlainCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&i64::try_from(self.0.get()).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// `metallb_k8s_client_*`: what each role tells about its work with the API server.
#[derive(Debug, Clone)]
pub struct ClientMetrics {
    /// 1 once a configuration was taken.
    pub config_loaded: Gauge,
    /// 1 while the newest configuration is refused and an older one is in force.
    pub config_stale: Gauge,
    /// Objects that the watches delivered.
    pub updates: Counter,
    /// Watches that failed and writes that were refused.
    pub update_errors: Counter,
    /// Whether the API server can be reached, as the watches see it.
    pub reach: Reach,
}

impl ClientMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            config_loaded: metrics.register(
                "metallb_k8s_client_config_loaded_bool",
                "1 if a configuration was loaded at least once",
                Gauge::default(),
            ),
            config_stale: metrics.register(
                "metallb_k8s_client_config_stale_bool",
                "1 if the newest configuration was refused and an older one is in force",
                Gauge::default(),
            ),
            updates: metrics.register(
                "metallb_k8s_client_updates",
                "Objects that the watches of the API server delivered",
                Counter::default(),
            ),
            update_errors: metrics.register(
                "metallb_k8s_client_update_errors",
                "Watches that failed and writes that were refused",
                Counter::default(),
            ),
            reach: Reach::default(),
        }
    }

    /// The newest configuration is in force.
    pub fn config_taken(&self) {
        self.config_loaded.set(1);
        self.config_stale.set(0);
    }

    /// The newest configuration was refused.
    pub fn config_refused(&self) {
        self.config_stale.set(1);
    }
}

/// `process_*` of this process, read when asked for.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Linux: the second field of statm is the resident set in pages; a page is 4 KiB where Herald runs.
        let resident = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<i64>().ok())
            .map(|pages| pages.saturating_mul(4096));
        if let Some(bytes) = resident {
            let gauge = ConstGauge::new(bytes);
            let metric = encoder.encode_descriptor(
                "process_resident_memory_bytes",
                "Resident memory",
                None,
                gauge.metric_type(),
            )?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_metrics_have_the_names_that_alerts_use() {
        let metrics = Metrics::new();
        let client = ClientMetrics::new(&metrics);
        client.config_taken();
        client.config_refused();
        client.updates.inc();
        let text = metrics.encode().unwrap();
        for line in [
            "metallb_k8s_client_config_loaded_bool 1",
            "metallb_k8s_client_config_stale_bool 1",
            "metallb_k8s_client_updates_total 1",
            "metallb_k8s_client_update_errors_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
