//! kube-proxy's two own ports.
//!
//! 10256, all addresses: `/healthz` (proxy healthy and node eligible; what load balancers of policy Cluster ask) and
//! `/livez` (proxy healthy; for a liveness probe). 127.0.0.1:10249: `/metrics`, `/proxyMode`, `/healthz`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use herald_runtime::events::EventReason;
use herald_runtime::metrics::Metrics;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::ACCEPT;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::state::ProxyState;
use super::{BindFailure, http};
use crate::metrics::ProxyMetrics;

/// What `/proxyMode` says, as kube-proxy does in this mode.
const PROXY_MODE: &str = "nftables";

/// Where the two ports are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPorts {
    /// `/healthz` and `/livez`.
    pub health: SocketAddr,
    /// `/metrics` and `/proxyMode`.
    pub metrics: SocketAddr,
}

impl Default for ProxyPorts {
    fn default() -> Self {
        Self {
            health: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 10256)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 10249)),
        }
    }
}

/// Serves both ports until told to stop.
pub async fn serve_proxy_ports(
    ports: ProxyPorts,
    state: watch::Receiver<ProxyState>,
    (registry, metrics): (Metrics, ProxyMetrics),
    failures: mpsc::Sender<BindFailure>,
    stop: CancellationToken,
) {
    let health: http::Handler = Arc::new(move |request| {
        health(request.uri.path(), &state.borrow(), &metrics, Instant::now(), Timestamp::now())
    });
    let diagnostics: http::Handler = Arc::new(move |request| {
        let accept = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        diagnostics(request.uri.path(), accept, &registry)
    });
    tokio::join!(
        serve(ports.health, health, &failures, &stop),
        serve(ports.metrics, diagnostics, &failures, &stop)
    );
}

async fn serve(
    address: SocketAddr,
    handler: http::Handler,
    failures: &mpsc::Sender<BindFailure>,
    stop: &CancellationToken,
) {
    let listener = http::listen(address, stop, |error| {
        tracing::warn!(
            %error, %address,
            "cannot listen where kube-proxy's health and metrics are asked for; trying again"
        );
        let _ = failures.try_send(BindFailure {
            address,
            service: None,
            reason: EventReason::HealthCheckPortFailed,
            error,
        });
    });
    if let Some(listener) = listener.await {
        http::serve(listener, handler, stop).await;
    }
}

fn health(
    path: &str,
    state: &ProxyState,
    metrics: &ProxyMetrics,
    now: Instant,
    time: Timestamp,
) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/healthz" => {
            let answer = state.answer(true, now, time);
            metrics.healthz(answer.0);
            answer
        }
        "/livez" => {
            let answer = state.answer(false, now, time);
            metrics.livez(answer.0);
            answer
        }
        _ => return not_found(),
    };
    http::answer(status, "application/json", body.to_string())
}

fn diagnostics(path: &str, accept: Option<&str>, registry: &Metrics) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    match path {
        "/metrics" => match registry.answer(accept) {
            Ok((content_type, text)) => http::answer(200, content_type, text),
            Err(error) => http::answer(500, TEXT, error.to_string()),
        },
        "/proxyMode" => http::answer(200, TEXT, PROXY_MODE.to_owned()),
        "/healthz" => http::answer(200, TEXT, "ok".to_owned()),
        _ => not_found(),
    }
}

fn not_found() -> Response<Full<Bytes>> {
    http::answer(404, "text/plain; charset=utf-8", "404 page not found\n".to_owned())
}

#[cfg(test)]
mod tests;
