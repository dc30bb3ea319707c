//! The admin server: `/livez`, `/readyz`, `/metrics`, and pages and answers that a role adds.
//!
//! It answers GET and HEAD only, holds at most [`CONNECTIONS`](accept::CONNECTIONS) connections and gives each request ten seconds, so
//! that a scraper gone wild costs little. `/livez` says that the process' loop turns, nothing more; a role that
//! cannot work ends, and is restarted for that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
pub use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accept;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// How long a connection may take, from its first byte to its last.
const CONNECTION: Duration = Duration::from_secs(60);
const HEADERS: Duration = Duration::from_secs(10);
/// The port that MetalLB's manifests scrape.
pub const DEFAULT_PORT: u16 = 7472;

type Page = Arc<dyn Fn() -> String + Send + Sync>;
type Answers = Arc<dyn Fn(String, Option<String>) -> BoxFuture<'static, JsonAnswer> + Send + Sync>;

/// An answer to a request for a path below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonAnswer {
    /// How it went.
    pub status: StatusCode,
    /// The body.
    pub json: Vec<u8>,
}

/// A bound admin server that does not serve yet.
pub struct AdminServer {
    listener: TcpListener,
    pages: Pages,
}

#[derive(Clone)]
struct Pages {
    metrics: Metrics,
    readiness: Readiness,
    own: BTreeMap<&'static str, Page>,
    answers: BTreeMap<&'static str, Answers>,
}

impl AdminServer {
    /// Binds `address`; port 0 takes any free port.
    pub async fn bind(address: SocketAddr, metrics: Metrics, readiness: Readiness) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            pages: Pages { metrics, readiness, own: BTreeMap::new(), answers: BTreeMap::new() },
        })
    }

    /// Adds a plain-text page, made anew for each request; `page` must not block.
    #[must_use]
    pub fn with_page(
        mut self,
        path: &'static str,
        page: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.pages.own.insert(path, Arc::new(page));
        self
    }

    /// Answers all paths that begin with `prefix`, given the path and the query. `answer` has a deadline of its own.
    #[must_use]
    pub fn with_answers<F>(
        mut self,
        prefix: &'static str,
        answer: impl Fn(String, Option<String>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = JsonAnswer> + Send + 'static,
    {
        self.pages.answers.insert(prefix, Arc::new(move |path, query| Box::pin(answer(path, query))));
        self
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token is cancelled.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let pages = self.pages;
        accept::run(self.listener, shutdown, |stream| {
            let pages = pages.clone();
            async move {
                let service = service_fn(move |request| {
                    let pages = pages.clone();
                    async move { Ok::<_, Infallible>(pages.answer(&request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS)
                    .serve_connection(TokioIo::new(stream), service);
                // A client's broken connection is the client's matter.
                let _ = tokio::time::timeout(CONNECTION, connection).await;
            }
        })
        .await;
        Ok(())
    }
}

impl Pages {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(request.headers().get(ACCEPT)),
            path => {
                if let Some(page) = self.own.get(path) {
                    return text(StatusCode::OK, page());
                }
                let Some((_, answers)) = self.answers.iter().find(|(prefix, _)| path.starts_with(**prefix))
                else {
                    return text(StatusCode::NOT_FOUND, self.index());
                };
                json(answers(path.to_owned(), request.uri().query().map(str::to_owned)).await)
            }
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            return text(StatusCode::OK, "ok\n".to_owned());
        }
        text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
    }

    fn metrics(&self, accept: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        match self.metrics.answer(accept.and_then(|accept| accept.to_str().ok())) {
            Ok((content_type, body)) => {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn index(&self) -> String {
        let mut out = String::from("there are: /livez /readyz /metrics");
        for path in self.own.keys().chain(self.answers.keys()) {
            out.push(' ');
            out.push_str(path);
        }
        out.push('\n');
        out
    }
}

impl fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminServer").field("listener", &self.listener).finish_non_exhaustive()
    }
}

fn json(answer: JsonAnswer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.json)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing_and_the_others_answer() {
        let readiness = Readiness::new();
        let services = readiness.handle("services");
        let server = AdminServer::bind("127.0.0.1:0".parse().unwrap(), Metrics::new(), readiness)
            .await
            .unwrap()
            .with_page("/debug/plan", || "the plan\n".to_owned())
            .with_answers("/ask/", |path, query| async move {
                let json = format!("{{\"path\":{path:?},\"query\":{query:?}}}").into_bytes();
                JsonAnswer { status: StatusCode::BAD_REQUEST, json }
            });
        let address = server.address().unwrap();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(shutdown.clone()));

        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: services\n"), "{answer}");
        services.ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("process_resident_memory_bytes"));
        assert!(get(address, "/debug/plan").await.ends_with("the plan\n"));
        let answer = get(address, "/ask/a/b?c=d").await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("/ask/a/b"), "{answer}");
        assert!(answer.contains("application/json") && answer.contains("c=d"), "{answer}");
        let answer = get(address, "/nothing").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/debug/plan"), "{answer}");

        shutdown.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}
