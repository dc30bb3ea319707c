//! Which of a Service's addresses are probed, and where.
//!
//! Load balancer addresses of pools, while some endpoint is ready: an address without one is not announced, and that is told
//! elsewhere. The first TCP port with a ready endpoint stands for the address.

use std::net::IpAddr;

use herald_proxy::{EndpointsView, IpFamily, Protocol, ServiceRules};

use crate::index::ServiceObject;
use crate::plan::{ServicePlan, View};

/// Addresses of a Service, each once.
pub(crate) type Targets = Box<[(IpAddr, Probed)]>;

/// Whether an address is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Probed {
    /// At this TCP port.
    At(u16),
    /// No.
    Not(Unprobed),
}

/// Why an address is not probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unprobed {
    /// Its ports are UDP or SCTP, where no answer says nothing.
    NoTcpPort,
    /// `loadBalancerSourceRanges` leave this node out.
    SourceRanges,
    /// `herald.local-addresses` puts it on every node: what is sent to it leaves none.
    OnEveryNode,
}

impl Unprobed {
    /// All, in order.
    pub(crate) const ALL: [Self; 3] = [Self::NoTcpPort, Self::SourceRanges, Self::OnEveryNode];

    /// Why, for people.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::NoTcpPort => "none of its ports is TCP",
            Self::SourceRanges => "loadBalancerSourceRanges leave this node out",
            Self::OnEveryNode => "it is on every node (herald.local-addresses), and no probe would leave one",
        }
    }

    /// The word of the metric.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NoTcpPort => "noTCPPort",
            Self::SourceRanges => "sourceRanges",
            Self::OnEveryNode => "onEveryNode",
        }
    }
}

/// The addresses of a Service that have something to probe.
pub(crate) fn targets(
    view: &View<'_>,
    service: &ServiceObject,
    endpoints: &EndpointsView,
    plan: &ServicePlan,
) -> Targets {
    let Ok((proxied, _)) = &service.view else { return Box::default() };
    if service.class.as_deref() != view.class {
        return Box::default();
    }
    let ready = |family, name: &str, protocol| {
        endpoints.of_port(family, name, protocol, &view.node.name).iter().any(|endpoint| endpoint.ready)
    };
    let probed = |address: IpAddr| {
        let family = IpFamily::of(address);
        let mut ports =
            proxied.ports.iter().filter(|port| ready(family, &port.name, port.protocol)).peekable();
        ports.peek()?;
        let Some(port) = ports.find(|port| port.protocol == Protocol::Tcp) else {
            return Some(Probed::Not(Unprobed::NoTcpPort));
        };
        if plan.claims.addresses.contains(&address) {
            return Some(Probed::Not(Unprobed::OnEveryNode));
        }
        let let_in = plan.rules.as_ref().is_none_or(|rules| is_let_in(view, rules, address, port.number));
        Some(if let_in { Probed::At(port.number) } else { Probed::Not(Unprobed::SourceRanges) })
    };
    let inside = |address: &&IpAddr| view.config.pool_containing(**address).is_some();
    let addresses = proxied.load_balancer_ips.iter().filter(inside);
    addresses.filter_map(|address| Some((*address, probed(*address)?))).collect()
}

/// Whether source ranges let this node in.
fn is_let_in(view: &View<'_>, rules: &ServiceRules, address: IpAddr, port: u16) -> bool {
    let at = |frontend: &herald_proxy::Frontend| {
        frontend.address == address && frontend.port == port && frontend.protocol == Protocol::Tcp
    };
    let Some(of) = rules.frontends.iter().find(|rules| at(&rules.frontend)) else { return true };
    let Some(sources) = &of.sources else { return true };
    let own = || view.node.own_addresses.iter();
    sources.iter().any(|range| own().any(|own| range.contains(own)))
}

#[cfg(test)]
mod tests {
    use herald_config::LocalAddresses;
    use serde_json::json;

    use super::*;
    use crate::plan::tests::Case;

    const VIP: &str = "192.0.2.1";

    fn found(case: &Case) -> Option<Probed> {
        let targets =
            case.planned(true, |view, service, endpoints, plan| targets(view, service, endpoints, &plan));
        assert!(targets.len() <= 1);
        targets.first().map(|(_, probed)| *probed)
    }

    #[test]
    fn an_address_is_probed_at_its_first_tcp_port_with_a_ready_endpoint_or_has_a_reason() {
        let port = |name: &str, number: u16, protocol: &str| json!({"name": name, "port": number, "protocol": protocol});
        let ports = |ports: serde_json::Value| Case::new(VIP).with("ports", ports);
        let ranges = |range: &str| Case::new(VIP).with("loadBalancerSourceRanges", json!([range]));
        let endpoint = |conditions: serde_json::Value| {
            Case::new(VIP).endpoints(
                json!([{"addresses": ["10.244.2.5"], "nodeName": "node-2", "conditions": conditions}]),
            )
        };
        let going = json!({"ready": false, "serving": true, "terminating": true});
        for (what, case, expected) in [
            ("its port", Case::new(VIP), Some(Probed::At(80))),
            // Only the port without a name has endpoints in this case.
            (
                "one with endpoints",
                ports(json!([port("a", 81, "TCP"), port("", 82, "TCP")])),
                Some(Probed::At(82)),
            ),
            ("the first", ports(json!([port("", 83, "TCP"), port("", 82, "TCP")])), Some(Probed::At(83))),
            ("no TCP", ports(json!([port("", 53, "UDP")])), None),
            ("another node's", endpoint(json!({"ready": true})), Some(Probed::At(80))),
            ("not ready", endpoint(json!({"ready": false})), None),
            ("going", endpoint(going), None),
            ("none", Case::new(VIP).endpoints(json!([])), None),
            ("no pool", Case::new("203.0.113.1"), None),
            ("let in", ranges("10.0.0.0/24"), Some(Probed::At(80))),
            ("left out", ranges("203.0.113.0/24"), Some(Probed::Not(Unprobed::SourceRanges))),
            ("of another class", Case::new(VIP).with("loadBalancerClass", json!("other")), None),
            (
                "on lo",
                Case::new(VIP).local_addresses(LocalAddresses::LoadBalancer),
                Some(Probed::Not(Unprobed::OnEveryNode)),
            ),
        ] {
            assert_eq!(found(&case), expected, "{what}");
        }
    }

    #[test]
    fn what_has_udp_endpoints_alone_is_told_as_not_probed() {
        let udp = Case::new(VIP).with("ports", json!([{"port": 53, "protocol": "UDP"}])).port("UDP");
        assert_eq!(found(&udp), Some(Probed::Not(Unprobed::NoTcpPort)));
    }
}
