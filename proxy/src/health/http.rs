//! A small HTTP/1 server for answers that need no body and no waiting: listen with back-off, accept, answer, stop.
//!
//! Bounds: 64 connections a listener (more wait in the backlog), 10 s for a request's header, 5 min for a connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 64;
const HEADER: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// An answer from a request's head.
pub(super) type Handler = Arc<dyn Fn(&Parts) -> Response<Full<Bytes>> + Send + Sync>;

/// An answer of a few bytes.
pub(super) fn answer(status: u16, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Opens a listening socket. The unspecified IPv6 address stands for both families, and for 0.0.0.0 alone on a machine
/// without IPv6.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match open(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_v6(&error) => {
            open(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        other => other,
    }
}

fn lacks_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of an earlier run in TIME_WAIT must not keep a restarted speaker from its ports.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Opens a listening socket, trying again until it works or is no longer wanted. `failed` hears of each new kind of
/// failure once.
pub(crate) async fn listen(
    address: SocketAddr,
    stop: &CancellationToken,
    mut failed: impl FnMut(io::Error),
) -> Option<TcpListener> {
    let mut told = None;
    let mut wait = RETRY_FIRST;
    loop {
        match bind(address) {
            Ok(listener) => return Some(listener),
            Err(error) => {
                let kind = error.kind();
                if told.replace(kind) != Some(kind) {
                    failed(error);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = sleep(wait) => wait = (wait * 2).min(RETRY_LAST),
        }
    }
}

/// Answers requests until told to stop.
pub(super) async fn serve(listener: TcpListener, handler: Handler, stop: &CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a health connection's task failed");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&handler), stop.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: give others time to close theirs.
                    tracing::debug!(%error, "accept failed");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    // What is left after the grace is aborted with the set.
    let _ = timeout(GRACE * 2, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, handler: Handler, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = handler(&request.into_parts().0);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::trace!(%error, "health connection");
            }
            return;
        }
        () = stop.cancelled() => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
