//! The client of the Kubernetes API.
//!
//! Where the credentials come from: the kubeconfig file if one is named, otherwise the Pod's service account.
//! `api_servers` replaces the *address* only, so that Herald, which may be the one that serves the ClusterIP
//! of `kubernetes`, does not need that ClusterIP to start.
//!
//! Several addresses are a fail-over list, not a load balancer: one is used until a connection to it cannot be
//! made (refused, unreachable, no answer within three seconds, TLS refused), then the same request goes to the
//! next one, which stays in use. A request that was sent already is never sent twice: its caller gets the error
//! and tries again as it would with one server.
//!
//! A token is read again from its file within a minute, by the time of day, and as soon as the server refuses the one that is known (401): a clock
//! that was set back would keep an old one for as long.
//!
//! kube's own stack is not used because it sets no keep-alive: a watch whose server lost power would hang until
//! its five minutes are over. Here the kernel ends such a connection after some 20 seconds.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt};

/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a server may take to begin its answer; a watch answers its headers at once.
const ANSWER: Duration = Duration::from_secs(30);
/// No more often are credentials read anew.
const LOG_IN: Duration = Duration::from_secs(2);
/// Keep-alive: probes after this much silence, then this often; dead after three unanswered.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Sent data that is not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Where the API server is and how to log in.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// A kubeconfig file; without one the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses that replace the one of the kubeconfig or of the Pod's environment, first choice first.
    pub api_servers: Vec<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The named file cannot be read or understood.
    #[error("kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig was named and this is no Pod.
    #[error("not running in a Pod: name a kubeconfig file by --kubeconfig")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// An address is no URL.
    #[error("--api-server {0:?} is no URL like https://10.0.0.1:6443")]
    Address(String),
    /// TLS or credentials cannot be set up.
    #[error("the API client cannot be set up")]
    Setup(#[source] kube::Error),
}

type Stack = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// Builds the client; needs a running tokio runtime, connects to nothing yet.
pub async fn connect(options: &ClientOptions) -> Result<Client, ClientError> {
    let config = base_config(options).await?;
    let mut servers = Vec::new();
    for address in &options.api_servers {
        servers.push(parse_address(address)?);
    }
    if servers.is_empty() {
        servers.push(config.cluster_url.clone());
    }
    let default_namespace = config.default_namespace.clone();
    let failover = Arc::new(Failover::new(config, servers).map_err(ClientError::Setup)?);
    let service = tower::service_fn(move |request| {
        let failover = Arc::clone(&failover);
        async move { failover.send(request).await }
    });
    Ok(Client::new(service, default_namespace))
}

/// The addresses of the API servers that are written as addresses, and not as names.
pub async fn server_addresses(options: &ClientOptions) -> Result<Vec<IpAddr>, ClientError> {
    let mut servers = vec![base_config(options).await?.cluster_url];
    for address in &options.api_servers {
        servers.push(parse_address(address)?);
    }
    let host = |uri: &Uri| uri.host()?.trim_matches(['[', ']']).parse().ok();
    Ok(servers.iter().filter_map(host).collect())
}

async fn base_config(options: &ClientOptions) -> Result<Config, ClientError> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let wrap = |source| ClientError::Kubeconfig { path: path.clone(), source };
            let file = Kubeconfig::read_from(path).map_err(wrap)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrap)?
        }
        None => Config::incluster().map_err(ClientError::NotInCluster)?,
    };
    config.headers.push((
        http::header::USER_AGENT,
        http::HeaderValue::from_static(concat!("herald/", env!("CARGO_PKG_VERSION"))),
    ));
    Ok(config)
}

fn parse_address(address: &str) -> Result<Uri, ClientError> {
    let uri: Uri = address.trim().parse().map_err(|_| ClientError::Address(address.to_owned()))?;
    let scheme = matches!(uri.scheme_str(), Some("https" | "http"));
    if scheme && uri.host().is_some() { Ok(uri) } else { Err(ClientError::Address(address.to_owned())) }
}

fn stacks(config: &Config, servers: &[Uri]) -> Result<Vec<Stack>, kube::Error> {
    servers.iter().map(|server| stack(config, server.clone())).collect()
}

fn stack(config: &Config, server: Uri) -> Result<Stack, kube::Error> {
    let mut config = config.clone();
    config.cluster_url = server;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(3));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(BoxCloneSyncService::new(service.map_err(Into::into)))
}

struct Failover {
    config: Config,
    servers: Vec<Uri>,
    stacks: Mutex<Stacks>,
    /// The index of the server in use.
    current: AtomicUsize,
}

/// One for each server.
struct Stacks {
    of: Vec<Stack>,
    /// When they were made anew last.
    logged_in: Option<Instant>,
}

impl Failover {
    fn new(config: Config, servers: Vec<Uri>) -> Result<Self, kube::Error> {
        let stacks = Stacks { of: stacks(&config, &servers)?, logged_in: None };
        Ok(Self { config, servers, stacks: Mutex::new(stacks), current: AtomicUsize::new(0) })
    }

    fn stack(&self, at: usize) -> Option<Stack> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner).of.get(at).cloned()
    }

    /// Reads the credentials anew, as they are in their files by now.
    fn log_in(&self) {
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        if stacks.logged_in.is_some_and(|at| at.elapsed() < LOG_IN) {
            return;
        }
        stacks.logged_in = Some(Instant::now());
        match self::stacks(&self.config, &self.servers) {
            Ok(of) => stacks.of = of,
            Err(error) => tracing::debug!(%error, "credentials cannot be read anew"),
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = match body.try_clone() {
            Some(_) => body,
            None => Body::from(body.collect_bytes().await?),
        };
        let first = self.current.load(Ordering::Relaxed);
        let mut at = first;
        loop {
            let request = Request::from_parts(parts.clone(), body.try_clone().unwrap_or_else(Body::empty));
            let Some(stack) = self.stack(at) else { return Err("no API server is configured".into()) };
            let error = match tokio::time::timeout(ANSWER, stack.oneshot(request)).await {
                Ok(Ok(response)) => {
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.log_in();
                    }
                    self.answered(first, at);
                    return Ok(response);
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(format!("no answer within {} s", ANSWER.as_secs()).into()),
            };
            let next = (at + 1) % self.servers.len();
            if next == first || !is_connect(&*error) {
                return Err(error);
            }
            tracing::debug!(server = %self.servers[at], %error, "API server cannot be reached");
            at = next;
        }
    }

    /// Who answered stays in use; told only when it is another one than before.
    fn answered(&self, before: usize, now: usize) {
        let moved = before != now
            && self.current.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if moved {
            tracing::warn!(from = %self.servers[before], to = %self.servers[now], "API server cannot be reached, another one is in use");
        }
    }
}

/// True if the connection was never made, so that nothing of the request can have been sent.
fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        at = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_scheme_and_a_host() {
        assert!(parse_address("https://10.0.0.1:6443").is_ok());
        assert!(parse_address(" http://[2001:db8:10::1]:8080 ").is_ok());
        for bad in ["10.0.0.1:6443", "ftp://10.0.0.1", "", "/readyz"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_next_server_is_used_when_the_first_refuses() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let refusing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let refused = refusing.local_addr().unwrap();
            drop(refusing);
            let serving = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let served = serving.local_addr().unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                loop {
                    let (mut stream, _) = serving.accept().await.unwrap();
                    let mut seen = [0; 2048];
                    let n = stream.read(&mut seen).await.unwrap();
                    assert!(String::from_utf8_lossy(&seen[..n]).contains("user-agent: herald/"));
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
            });
            let mut config = Config::new(format!("http://{refused}").parse().unwrap());
            config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("herald/test")));
            let servers: Vec<Uri> =
                [refused, served].iter().map(|a| format!("http://{a}").parse().unwrap()).collect();
            let failover = Failover::new(config, servers).unwrap();
            for _ in 0..2 {
                let response =
                    failover.send(Request::get("/readyz").body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), 200);
            }
            assert_eq!(failover.current.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn a_token_that_is_refused_is_read_anew() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let serving = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = format!("http://{}", serving.local_addr().unwrap());
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                loop {
                    let (mut stream, _) = serving.accept().await.unwrap();
                    let mut seen = [0; 2048];
                    let n = stream.read(&mut seen).await.unwrap();
                    let good = String::from_utf8_lossy(&seen[..n]).contains("Bearer new");
                    let status = if good { "200 OK" } else { "401 Unauthorized" };
                    let answer =
                        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
            let directory = tempfile::tempdir().unwrap();
            let token = directory.path().join("token");
            std::fs::write(&token, "old").unwrap();
            let server: Uri = server.parse().unwrap();
            let mut config = Config::new(server.clone());
            config.auth_info.token_file = Some(token.display().to_string());
            let failover = Failover::new(config, vec![server]).unwrap();
            std::fs::write(&token, "new").unwrap();
            for expected in [401, 200] {
                let request = Request::get("/readyz").body(Body::empty()).unwrap();
                assert_eq!(failover.send(request).await.unwrap().status(), expected);
            }
        });
    }
}
