//! The TCP ports that Services have on the node itself: health check node ports, and node ports on localhost.
//!
//! Kept by Service as plans come, published whole to the tasks that listen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use herald_proxy::health::{HealthPort, HealthPorts};
use herald_proxy::localhost::{LocalPort, LocalPorts};
use herald_proxy::{Backends, ServiceRules};
use herald_runtime::ObjectName;
use tokio::sync::watch;

/// Ports by Service, and who is told.
#[derive(Debug)]
pub(crate) struct Ports {
    health: BTreeMap<ObjectName, (u16, usize)>,
    local: BTreeMap<ObjectName, Vec<(SocketAddr, LocalPort)>>,
    health_ports: watch::Sender<HealthPorts>,
    local_ports: watch::Sender<LocalPorts>,
}

impl Ports {
    /// None yet.
    pub(crate) fn new(
        health_ports: watch::Sender<HealthPorts>,
        local_ports: watch::Sender<LocalPorts>,
    ) -> Self {
        Self { health: BTreeMap::new(), local: BTreeMap::new(), health_ports, local_ports }
    }

    /// A Service has these rules now.
    pub(crate) fn service(&mut self, name: &ObjectName, rules: Option<&ServiceRules>) {
        match rules.and_then(|rules| rules.health) {
            Some(health) => self.health.insert(name.clone(), (health.port, health.local_endpoints)),
            None => self.health.remove(name),
        };
        let port = |(address, backends): &(SocketAddr, Arc<Backends>)| {
            let affinity = backends.affinity.map(|seconds| Duration::from_secs(seconds.into()));
            (*address, LocalPort { service: name.clone(), endpoints: backends.cluster.clone(), affinity })
        };
        let local: Vec<_> = rules.into_iter().flat_map(|rules| rules.local_ports.iter().map(port)).collect();
        if local.is_empty() {
            self.local.remove(name);
        } else {
            self.local.insert(name.clone(), local);
        }
    }

    /// Tells what has changed; health check node ports are at these addresses.
    pub(crate) fn publish(&self, health_addresses: &BTreeSet<IpAddr>) {
        let ports = self.health.iter().map(|(service, (port, local_endpoints))| {
            (*port, HealthPort { service: service.clone(), local_endpoints: *local_endpoints })
        });
        replace(
            &self.health_ports,
            HealthPorts { addresses: health_addresses.clone(), ports: ports.collect() },
        );
        replace(&self.local_ports, self.local.values().flatten().cloned().collect());
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let changed = *current != value;
        if changed {
            *current = value;
        }
        changed
    });
}
