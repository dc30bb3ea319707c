//! The controller's metrics, under MetalLB's names.

use herald_runtime::metrics::{ClientMetrics, Metrics};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::planner::Planner;

type PerPool = Family<[(&'static str, String); 1], Gauge>;

/// What the leader tells; a follower tells nothing of pools.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    /// Of the API client and the configuration.
    pub client: ClientMetrics,
    total: PerPool,
    in_use: PerPool,
    waiting: Gauge,
    leader: Gauge,
}

impl ControllerMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            client: ClientMetrics::new(metrics),
            total: metrics.register(
                "metallb_allocator_addresses_total",
                "Usable addresses of the pool",
                PerPool::default(),
            ),
            in_use: metrics.register(
                "metallb_allocator_addresses_in_use_total",
                "Addresses of the pool that Services hold",
                PerPool::default(),
            ),
            waiting: metrics.register(
                "herald_controller_services_waiting",
                "Services that wait for an address",
                Gauge::default(),
            ),
            leader: metrics.register("herald_controller_leader", "1 if this one leads", Gauge::default()),
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
        for (pool, total, in_use) in &usage {
            let label = [("pool", (*pool).to_owned())];
            self.total.get_or_create(&label).set(*total);
            self.in_use.get_or_create(&label).set(i64::try_from(*in_use).unwrap_or(i64::MAX));
        }
    }

    /// The pools were changed: those that are gone must not be told on.
    pub fn forget_pools(&self) {
        self.total.clear();
        self.in_use.clear();
    }

    /// This one does not lead (any more).
    pub fn follow(&self) {
        self.forget_pools();
        self.leader.set(0);
        self.waiting.set(0);
    }
}
