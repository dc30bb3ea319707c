//! Health check node ports: does this node have ready endpoints of a Service? (Services of type `LoadBalancer` with
//! `externalTrafficPolicy: Local` only.)
//!
//! Any path answers. 200 when the node has a ready endpoint and the proxy is healthy, else 503; JSON as kube-proxy's,
//! or with `Accept: text/plain` the sentences of Kubernetes 1.5. Node deletion and taints do not change the answer.
//! Listens at the addresses that node ports have: one socket for all of them where that is every address, else one
//! per address and port. A request that races with the Service's removal gets 503, not an empty 200.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;
use herald_runtime::events::EventReason;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::http::request::Parts;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::state::ProxyState;
use super::{BindFailure, http};

/// What one health check node port tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPort {
    /// The Service that the port belongs to.
    pub service: ObjectName,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// All health check node ports, and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPorts {
    /// Addresses to listen at; unspecified ones stand for all of their family, and `::` for both families.
    pub addresses: BTreeSet<IpAddr>,
    /// By number.
    pub ports: BTreeMap<u16, HealthPort>,
}

impl HealthPorts {
    fn sockets(&self) -> BTreeSet<SocketAddr> {
        let sockets = |port: &u16| {
            let port = *port;
            self.addresses.iter().map(move |address| SocketAddr::new(*address, port))
        };
        self.ports.keys().flat_map(sockets).collect()
    }
}

/// A port's listener, until its task has ended.
struct Listener {
    task: Id,
    stop: CancellationToken,
}

/// Serves the desired ports until told to stop, or until nobody can change them any more.
pub async fn serve_health_ports(
    mut desired: watch::Receiver<HealthPorts>,
    state: watch::Receiver<ProxyState>,
    failures: mpsc::Sender<BindFailure>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut open: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    loop {
        let wanted = desired.borrow_and_update().sockets();
        for (_, listener) in open.iter().filter(|(address, _)| !wanted.contains(address)) {
            listener.stop.cancel();
        }
        // A port that is wanted again while its old listener ends is opened after that, so it never meets itself.
        for &address in wanted.iter().filter(|&address| !open.contains_key(address)).collect::<Vec<_>>() {
            let stop = stop.child_token();
            let serving = serve_port(address, desired.clone(), state.clone(), failures.clone(), stop.clone());
            let task = tasks.spawn(serving).id();
            open.insert(address, Listener { task, stop });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = desired.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next_with_id() => {
                let task = match ended {
                    Ok((task, ())) => task,
                    Err(error) => {
                        tracing::error!(%error, "a health check port's task failed");
                        error.id()
                    }
                };
                open.retain(|_, listener| listener.task != task);
            }
        }
    }
    open.values().for_each(|listener| listener.stop.cancel());
    let _ = timeout(Duration::from_secs(3), async { while tasks.join_next().await.is_some() {} }).await;
}

async fn serve_port(
    address: SocketAddr,
    desired: watch::Receiver<HealthPorts>,
    state: watch::Receiver<ProxyState>,
    failures: mpsc::Sender<BindFailure>,
    stop: CancellationToken,
) {
    let port = address.port();
    let listener = http::listen(address, &stop, |error| {
        let service = desired.borrow().ports.get(&port).map(|health| health.service.clone());
        let named = service.as_ref().map(tracing::field::display);
        tracing::warn!(
            %error, %address, service = named,
            "cannot listen at the health check node port, so load balancers pass this node by; trying again"
        );
        let _ = failures.try_send(BindFailure {
            address,
            service,
            reason: EventReason::HealthCheckPortFailed,
            error,
        });
    });
    let Some(listener) = listener.await else { return };
    let handler: http::Handler = Arc::new(move |request| {
        let healthy = state.borrow().healthy(Instant::now());
        respond(desired.borrow().ports.get(&port), healthy, wants_text(request))
    });
    http::serve(listener, handler, &stop).await;
}

/// True when the client asks for plain text and not for anything.
fn wants_text(request: &Parts) -> bool {
    let accepted = request.headers.get_all(ACCEPT);
    accepted.iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/plain"))
}

fn respond(health: Option<&HealthPort>, proxy_healthy: bool, text: bool) -> Response<Full<Bytes>> {
    let count = health.map_or(0, |health| health.local_endpoints);
    let status = if count > 0 && proxy_healthy { 200 } else { 503 };
    let (content_type, body) = if text {
        let body = match count {
            0 => "No Service Endpoints Found".to_owned(),
            count => format!("{count} Service Endpoints found"),
        };
        ("text/plain; charset=utf-8", body)
    } else {
        let service = health
            .map(|health| json!({"namespace": &*health.service.namespace, "name": &*health.service.name}));
        let body = json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": proxy_healthy});
        ("application/json", body.to_string())
    };
    let mut response = http::answer(status, content_type, body);
    response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    response
}

#[cfg(test)]
mod tests;
