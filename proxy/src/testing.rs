//! Builders for tests. Objects are written as the JSON that users and the API server write.
//!
//! Addresses by the project's plan: VIPs 192.0.2.0/24 and 2001:db8:1::/64, pods 10.244.0.0/16 and 2001:db8:2::/64, nodes
//! 10.0.0.0/24 and 2001:db8:10::/64, clients 203.0.113.0/24, ClusterIPs 10.96.0.0/12 and 2001:db8:3::/112.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::endpoints::EndpointsView;
use crate::node::{NodeView, ProxyMode};
use crate::note::Note;
use crate::service::ServiceView;
use crate::slice::{Names, SliceReading, SliceView};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn tcp(address: &str, port: u16) -> Frontend {
    Frontend { address: ip(address), protocol: Protocol::Tcp, port }
}

/// A Service of the given `spec`, with the load balancer addresses of `status`.
pub(crate) fn service(spec: Value, ingress: &[&str]) -> Service {
    let ingress: Vec<Value> = ingress.iter().map(|ip| json!({ "ip": ip })).collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
    .unwrap()
}

pub(crate) fn read(service: &Service) -> (ServiceView, Vec<Note>) {
    ServiceView::read(service).unwrap()
}

/// The view of a Service that must be free of nonsense.
pub(crate) fn view(spec: Value, ingress: &[&str]) -> ServiceView {
    let (view, notes) = read(&service(spec, ingress));
    assert_eq!(notes, []);
    view
}

/// A slice of Service `web` with port `http` 8080/TCP and the given endpoints.
pub(crate) fn slice(address_type: &str, endpoints: Value) -> EndpointSlice {
    slice_of(json!({
        "addressType": address_type,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
}

/// A slice of Service `web` with all but the metadata given.
pub(crate) fn slice_of(content: Value) -> EndpointSlice {
    let mut slice = json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    });
    for (key, value) in content.as_object().unwrap() {
        slice[key] = value.clone();
    }
    serde_json::from_value(slice).unwrap()
}

pub(crate) fn read_slice(slice: &EndpointSlice) -> SliceReading {
    SliceView::read(slice, &mut Names::default()).unwrap()
}

/// The endpoints of slices named `web-0`, `web-1`, ….
pub(crate) fn endpoints(slices: &[EndpointSlice]) -> EndpointsView {
    let mut view = EndpointsView::default();
    for (i, slice) in slices.iter().enumerate() {
        view.apply(&format!("web-{i}"), read_slice(slice).view);
    }
    view
}

/// Node `a` in zone `west`, which replaces kube-proxy; `b` is the other node.
pub(crate) fn node() -> NodeView {
    NodeView {
        own_addresses: vec![ip("10.0.0.2"), ip("2001:db8:10::2")],
        other_family_sources: crate::node::OtherFamilySources::Deny,
        name: "a".to_owned(),
        zone: Some("west".to_owned()),
        localhost: vec![ip("127.0.0.1"), ip("::1")],
        port_addresses: vec![ip("10.0.0.2"), ip("2001:db8:10::2")],
        node_addresses: ["10.0.0.2", "10.0.0.3", "2001:db8:10::2", "2001:db8:10::3"].map(ip).into(),
        mode: ProxyMode::Full,
    }
}

/// Elements of every kind and both families, as rules may have them; prefixes are disjoint.
pub(crate) fn any_element() -> impl Strategy<Value = Element> {
    let sockets = (any::<bool>(), any::<u32>(), any::<u128>(), any::<[u16; 2]>());
    let frontend = (sockets, 0..3usize).prop_map(|((v6, low, high, [port, other]), protocol)| {
        let address = |offset: u32| match v6 {
            true => IpAddr::from(Ipv6Addr::from(high.wrapping_add(u128::from(offset)))),
            false => IpAddr::from(Ipv4Addr::from(low.wrapping_add(offset))),
        };
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][protocol];
        (Frontend { address: address(0), protocol, port }, SocketAddr::new(address(9), other))
    });
    let policy = prop::sample::select(vec![
        Policy::Internal,
        Policy::InternalLocal,
        Policy::External,
        Policy::ExternalLocal,
    ]);
    let class = prop::sample::select(vec![1, 2, 3, 63, 64, 2048, 4096, 8192, 16384]);
    let choice = (0..15u8, any::<bool>(), any::<u16>(), any::<u8>());
    (frontend, policy, class, choice).prop_map(
        |((frontend, endpoint), policy, class, (kind, flag, slot, third))| {
            let scope = if flag { Scope::Local } else { Scope::Cluster };
            match kind {
                0 => Element::Service { frontend, policy },
                1 => Element::Pick { frontend, scope, class },
                2 => Element::Endpoint { frontend, scope, slot, endpoint },
                3 => {
                    Element::Refused { frontend, refusal: if flag { Refusal::Drop } else { Refusal::Reject } }
                }
                4 => Element::Vip { address: frontend.address },
                5 if flag => Element::Announced { prefix: net(&format!("2001:db8:{third:x}::/48")) },
                5 => Element::Announced { prefix: net(&format!("172.{third}.0.0/16")) },
                6 if flag => Element::Counted { frontend },
                6 => Element::Restricted { frontend },
                9 => Element::Affinity { frontend, scope, timeout: 1 + u32::from(slot) },
                10 => Element::AffinePick { frontend, scope, class },
                11 => Element::Slot { frontend, scope, slot, stable: 127 * u32::from(slot) },
                12 => Element::StableEndpoint { frontend, scope, stable: 127 * u32::from(slot), endpoint },
                7 => {
                    let address = IpNet::from(endpoint.ip());
                    let length = address.max_prefix_len() - third % (address.max_prefix_len() + 1);
                    let prefix = IpNet::new(endpoint.ip(), length).unwrap().trunc();
                    Element::Source { frontend, prefix }
                }
                13 => Element::Node { slot, address: endpoint.ip() },
                8 => Element::ServiceCidr { prefix: net(&format!("10.{third}.0.0/16")) },
                _ => Element::Hairpin { endpoint, protocol: frontend.protocol },
            }
        },
    )
}
