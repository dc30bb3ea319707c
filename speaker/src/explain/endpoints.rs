//! How many endpoints each Service of type LoadBalancer has, as one node sees them: what all nodes know alike, asked of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_proxy::{EndpointsView, IpFamily, ServiceType};
use serde::{Deserialize, Serialize};

use crate::index::ServiceObject;

/// Services that are told of. Keeps an answer below 1 MiB.
const SERVICES: usize = 10_000;

/// The endpoints of all Services of type LoadBalancer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsAnswer {
    /// Who answers.
    pub node: String,
    /// By `NAMESPACE/NAME`.
    pub services: BTreeMap<String, EndpointsCount>,
    /// Services beyond those listed.
    pub services_left_out: usize,
}

/// Endpoints of one Service, in the family that has fewer of them ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsCount {
    /// They may get new connections.
    pub ready: usize,
    /// All but those that are going away.
    pub total: usize,
}

/// Counts. `silent`: nodes that count as dead.
pub(crate) fn endpoints<'a>(
    node: &str,
    services: impl Iterator<Item = &'a ServiceObject>,
    of: impl Fn(&ServiceObject) -> Option<&'a EndpointsView>,
    silent: &BTreeSet<Box<str>>,
) -> EndpointsAnswer {
    let balanced = |service: &&ServiceObject| {
        let view = service.view.as_ref().ok().map(|(view, _)| view);
        view.is_some_and(|view| view.service_type == ServiceType::LoadBalancer)
    };
    let mut balanced = services.filter(balanced);
    let counted = balanced.by_ref().take(SERVICES).map(|service| {
        let count = of(service).map(|endpoints| count(endpoints, silent)).unwrap_or_default();
        (service.name.to_string(), count)
    });
    let services = counted.collect();
    EndpointsAnswer { node: node.to_owned(), services, services_left_out: balanced.count() }
}

fn count(endpoints: &EndpointsView, silent: &BTreeSet<Box<str>>) -> EndpointsCount {
    let held = |address: &IpAddr| endpoints.held().is_some_and(|held| held.contains(address));
    let of_family = |family: IpFamily| {
        let (mut ready, mut total) = (BTreeSet::new(), BTreeSet::new());
        for (_, slice) in endpoints.slices().filter(|(_, slice)| slice.family == family) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready || !endpoint.terminating)
            {
                total.insert(endpoint.address);
                let silent = endpoint.node.as_deref().is_some_and(|node| silent.contains(node));
                if !silent && (endpoint.ready || held(&endpoint.address)) {
                    ready.insert(endpoint.address);
                }
            }
        }
        EndpointsCount { ready: ready.len(), total: total.len() }
    };
    let families = IpFamily::ALL.into_iter().map(of_family).filter(|count| count.total > 0);
    families.min_by_key(|count| (count.ready, count.total)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use herald_proxy::{Names, SliceView};
    use herald_runtime::ObjectName;
    use serde_json::json;

    use super::*;
    use crate::index::fold_service;

    fn service(name: &str, of_type: &str) -> ServiceObject {
        let object = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": name},
            "spec": {"type": of_type, "clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]},
        });
        fold_service(&serde_json::from_value(object).unwrap())
    }

    fn slice(family: &str, endpoints: &[(&str, bool, bool, &str)]) -> SliceView {
        let endpoint = |(address, ready, terminating, node): &(&str, bool, bool, &str)| {
            json!({
                "addresses": [address],
                "nodeName": node,
                "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
            })
        };
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": family,
            "ports": [{"port": 8080}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        });
        SliceView::read(&serde_json::from_value(object).unwrap(), &mut Names::default()).unwrap().view
    }

    #[test]
    fn endpoints_are_counted_once_and_in_the_family_that_has_fewer_ready() {
        let mut view = EndpointsView::default();
        let four = [
            ("10.244.1.5", true, false, "node-1"),
            ("10.244.2.5", true, false, "node-2"),
            ("10.244.1.6", false, false, "node-1"),
            ("10.244.1.7", false, true, "node-1"),
        ];
        view.apply("web-1", slice("IPv4", &four));
        view.apply("web-2", slice("IPv4", &four[..1]));
        let (web, plain) = (service("web", "LoadBalancer"), service("plain", "ClusterIP"));
        let alone = service("alone", "LoadBalancer");
        let web_name = ObjectName::new("shop", "web");
        let told = |view: &EndpointsView, silent: &[&str]| {
            let silent = silent.iter().map(|node| (*node).into()).collect();
            let of = |service: &ServiceObject| (service.name == web_name).then_some(view);
            let answer = endpoints("node-1", [&alone, &plain, &web].into_iter(), of, &silent);
            let counts = answer.services.into_iter();
            let counts = counts.map(|(name, count)| format!("{name} {}/{}", count.ready, count.total));
            counts.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(&view, &[]), "shop/alone 0/0, shop/web 2/3");
        assert_eq!(told(&view, &["node-2"]), "shop/alone 0/0, shop/web 1/3");
        let six = [("2001:db8:2::5", true, false, "node-1"), ("2001:db8:2::6", false, false, "node-1")];
        view.apply("web-3", slice("IPv6", &six));
        assert_eq!(told(&view, &[]), "shop/alone 0/0, shop/web 1/2");
    }
}
