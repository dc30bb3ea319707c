//! The controller's metrics, under MetalLB's names.

use herald_runtime::metrics::{ClientMetrics, Metrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::allocator::Usage;
use crate::planner::Planner;

type PerPool = Family<[(&'static str, String); 1], Gauge>;

/// What the leader tells; a follower tells nothing of pools.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    /// Of the API client and the configuration.
    pub client: ClientMetrics,
    /// All addresses, IPv4, IPv6.
    total: [PerPool; 3],
    in_use: [PerPool; 3],
    waiting: Gauge,
    leader: Gauge,
    /// Writes that the API server took.
    pub writes: Counter,
    /// From a Service's event to the write that it causes.
    pub decision: Histogram,
}

/// Upper bounds of durations in seconds, fine where the bar is.
const BOUNDS: [f64; 12] =
    [0.000_1, 0.000_2, 0.000_5, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.01, 0.05, 0.25, 1.0];

impl ControllerMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            client: ClientMetrics::new(metrics),
            total: ["", "ipv4_", "ipv6_"].map(|family| {
                metrics.register(
                    &format!("metallb_allocator_{family}addresses_total"),
                    "Usable addresses of the pool",
                    PerPool::default(),
                )
            }),
            in_use: ["", "ipv4_", "ipv6_"].map(|family| {
                metrics.register(
                    &format!("metallb_allocator_{family}addresses_in_use_total"),
                    "Addresses of the pool that Services have",
                    PerPool::default(),
                )
            }),
            waiting: metrics.register(
                "herald_controller_services_waiting",
                "Services that wait for an address",
                Gauge::default(),
            ),
            leader: metrics.register("herald_controller_leader", "1 if this one leads", Gauge::default()),
            writes: metrics.register(
                "herald_controller_writes",
                "Writes of Services that the API server took",
                Counter::default(),
            ),
            decision: metrics.register(
                "herald_controller_decision_duration_seconds",
                "From a Service's event, decoded, to the write that it causes, handed to the API client",
                Histogram::new(BOUNDS),
            ),
        }
    }

    /// Tells the planner's state.
    pub fn update(&self, planner: &Planner) {
        self.leader.set(1);
        self.waiting.set(i64::try_from(planner.waiting()).unwrap_or(i64::MAX));
        if planner.config().stale() {
            self.client.config_refused();
        } else if planner.config().in_force().is_some() {
            self.client.config_taken();
        }
        let usage: Vec<_> = planner.allocator().into_iter().flat_map(|allocator| allocator.usage()).collect();
        for (pool, [v4, v6]) in &usage {
            let label = [("pool", (*pool).to_owned())];
            let both = Usage { total: v4.total.saturating_add(v6.total), in_use: v4.in_use + v6.in_use };
            for (index, usage) in [both, *v4, *v6].into_iter().enumerate() {
                self.total[index].get_or_create(&label).set(usage.size());
                self.in_use[index].get_or_create(&label).set(i64::try_from(usage.in_use).unwrap_or(i64::MAX));
            }
        }
    }

    /// The pools were changed: those that are gone must not be told on.
    pub fn forget_pools(&self) {
        for gauge in self.total.iter().chain(&self.in_use) {
            gauge.clear();
        }
    }

    /// This one does not lead (any more).
    pub fn follow(&self) {
        self.forget_pools();
        self.leader.set(0);
        self.waiting.set(0);
    }
}
