//! Which sockets of this node are probed for a Service.
//!
//! Ready endpoints of this node, and no others: what the API calls not ready is not used anyway, and one that is
//! terminating closes its port as it should. Each TCP port is probed by itself and stands for itself; a port that the
//! annotation names is probed once for each address and stands for all ports of it, UDP and SCTP too.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::spec::ProbeSpec;
use crate::element::Protocol;
use crate::endpoints::EndpointsView;
use crate::family::IpFamily;
use crate::service::ServiceView;

/// What is probed for one Service, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// How.
    pub spec: Arc<ProbeSpec>,
    /// What: never empty.
    pub sockets: BTreeSet<SocketAddr>,
}

impl Targets {
    /// The targets of a Service on a node; `None` when it asks for no probes or has no ready endpoint there.
    pub fn of(service: &ServiceView, endpoints: &EndpointsView, node: &str) -> Option<Self> {
        let spec = service.probe.as_ref()?;
        let mut sockets = BTreeSet::new();
        for family in IpFamily::ALL.into_iter().filter(|&family| service.serves(family)) {
            let probed = |protocol| spec.port.is_some() || protocol == Protocol::Tcp;
            for port in service.ports.iter().filter(|port| probed(port.protocol)) {
                let of_port = endpoints.of_port(family, &port.name, port.protocol, node);
                let ready = of_port.iter().filter(|endpoint| endpoint.local && endpoint.ready);
                sockets.extend(ready.map(|endpoint| match spec.port {
                    Some(port) => SocketAddr::new(endpoint.address.ip(), port),
                    None => endpoint.address,
                }));
            }
        }
        (!sockets.is_empty()).then(|| Self { spec: Arc::clone(spec), sockets })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{endpoints, read, service, slice_of, socket};

    /// What is probed on node `a` for a Service with ports http and https (TCP) and dns (UDP).
    fn targets(probe: &str) -> Vec<SocketAddr> {
        let port =
            |name: &str, protocol: &str, number| json!({"name": name, "protocol": protocol, "port": number});
        let ports = json!([port("http", "TCP", 80), port("https", "TCP", 443), port("dns", "UDP", 53)]);
        let mut object = service(json!({"clusterIP": "10.96.0.1", "ports": ports}), &[]);
        object.metadata.annotations = Some([("herald.io/probe".to_owned(), probe.to_owned())].into());
        let (view, notes) = read(&object);
        assert_eq!(notes, []);
        let slice = slice_of(json!({
            "addressType": "IPv4",
            "ports": [port("http", "TCP", 8080), port("https", "TCP", 8443), port("dns", "UDP", 5353)],
            "endpoints": [
                {"addresses": ["10.244.1.1"], "nodeName": "a"},
                {"addresses": ["10.244.1.2"], "nodeName": "a", "conditions": {"ready": false}},
                {"addresses": ["10.244.1.3"], "nodeName": "a", "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.244.2.1"], "nodeName": "b"},
            ],
        }));
        let targets = Targets::of(&view, &endpoints(&[slice]), "a");
        targets.into_iter().flat_map(|targets| targets.sockets).collect()
    }

    #[test]
    fn ready_local_endpoints_are_probed_at_their_tcp_ports_or_at_the_one_that_is_named() {
        assert_eq!(targets("tcp"), [socket("10.244.1.1:8080"), socket("10.244.1.1:8443")]);
        assert_eq!(targets("http port=9000"), [socket("10.244.1.1:9000")]);
    }
}
