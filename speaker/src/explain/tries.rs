//! `herald try`: whether this node reaches the endpoints of a Service, by a connection to each that is closed at once.
//!
//! What the API calls ready is what somebody has said; this is what answers. The connections begin at the node, as those of its proxy do.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{EndpointAnswer, ServiceAnswer};

/// For one connection.
const WITHIN: Duration = Duration::from_secs(1);
/// Endpoints that are tried; all at a time, so that the answer takes no longer than one.
const TRIED: usize = 64;

/// What came of it on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TryAnswer {
    /// The node.
    pub node: String,
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The TCP endpoints.
    pub endpoints: Vec<TriedAnswer>,
    /// TCP endpoints that were not tried, for there are so many.
    pub left_out: usize,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriedAnswer {
    /// Address and port.
    pub address: SocketAddr,
    /// Where it runs, as its slice says.
    pub node: Option<String>,
    /// The EndpointSlices that have it.
    pub slices: Vec<String>,
    /// Whether it gets connections.
    pub used: bool,
    /// Why it did not answer; `null`: it did.
    pub failed: Option<String>,
}

/// Tries what a Service's answer lists.
pub(super) async fn tried(service: ServiceAnswer) -> TryAnswer {
    let mut endpoints = BTreeMap::new();
    let mut left_out = 0;
    for port in service.ports.into_iter().filter(|port| port.protocol.eq_ignore_ascii_case("tcp")) {
        left_out += port.endpoints_left_out;
        for endpoint in port.endpoints {
            let Ok(address) = endpoint.address.parse::<SocketAddr>() else { continue };
            match endpoints.len() < TRIED || endpoints.contains_key(&address) {
                true => _ = endpoints.insert(address, endpoint),
                false => left_out += 1,
            }
        }
    }
    let all = endpoints.into_iter().map(|(address, endpoint)| answer(address, endpoint));
    let mut endpoints: Vec<TriedAnswer> = futures::stream::iter(all).buffer_unordered(TRIED).collect().await;
    endpoints.sort_by_key(|tried| tried.address);
    TryAnswer { node: service.node, service: service.service, endpoints, left_out }
}

async fn answer(address: SocketAddr, endpoint: EndpointAnswer) -> TriedAnswer {
    let used = [&endpoint.cluster, &endpoint.local].into_iter().flatten().any(|standing| standing.used);
    TriedAnswer {
        address,
        node: endpoint.node,
        slices: endpoint.slices,
        used,
        failed: connect(address).await.err(),
    }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    let begin = Instant::now();
    match tokio::time::timeout(WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ConnectionRefused => "refused: nothing listens there".to_owned(),
            ErrorKind::HostUnreachable => "no host has that address".to_owned(),
            ErrorKind::NetworkUnreachable => "the node has no route there".to_owned(),
            _ => format!("{error} after {} ms", begin.elapsed().as_millis()),
        }),
        Err(_) => Err("no answer within a second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_answers_who_refuses_and_what_is_no_tcp_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (good, gone) = (listener.local_addr().unwrap(), {
            let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
            other.local_addr().unwrap()
        });
        let endpoint = |address: &SocketAddr, slice: &str| {
            json!({ "address": address.to_string(), "node": "node-1", "slices": [slice], "local": null,
                "cluster": { "used": true, "slots": 1, "of": 2, "reason": "Ready", "text": "" } })
        };
        let port = |protocol: &str, endpoints: serde_json::Value| {
            json!({ "name": "", "port": 80, "protocol": protocol, "family": "IPv4", "usesCluster": true, "usesLocal": false,
                "endpoints": endpoints, "endpointsLeftOut": 0 })
        };
        let service: ServiceAnswer = serde_json::from_value(json!({
            "service": "shop/web", "node": "node-1", "proxy": "full", "programmed": true, "notProxied": null, "refused": null,
            "frontends": [], "frontendsLeftOut": 0, "announcements": [], "healthCheck": null, "notes": [], "advice": [],
            "ports": [
                port("tcp", json!([endpoint(&good, "web-a"), endpoint(&gone, "web-b")])),
                port("udp", json!([endpoint(&gone, "web-b")])),
            ],
        }))
        .unwrap();
        let answer = tried(service).await;
        let told: Vec<_> = answer.endpoints.iter().map(|one| (one.address, one.failed.as_deref())).collect();
        let mut expected = [(good, None), (gone, Some("refused: nothing listens there"))];
        expected.sort();
        assert_eq!((told, answer.left_out), (expected.to_vec(), 0));
        assert!(answer.endpoints.iter().all(|one| one.used && one.slices.len() == 1));
    }
}
