//! HTTPS for the webhook: POST of an AdmissionReview, whatever the path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use herald_runtime::accept;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::Reviewer;

/// For TLS to be agreed on.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the next request: the API server keeps its connection.
const IDLE: Duration = Duration::from_secs(120);
/// A connection is ended after this, between two requests.
const LIFE: Duration = Duration::from_secs(600);
/// For a request's body to arrive.
const BODY: Duration = Duration::from_secs(10);
/// Two objects of etcd's largest size, and what is around them.
const LARGEST: usize = 8 << 20;

/// Where the webhook is, and by which key.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// Where it listens.
    pub address: SocketAddr,
    /// PEM: the certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// A bound webhook that does not serve yet.
pub(crate) struct Server {
    listener: TcpListener,
    identity: Arc<Identity>,
    reviewer: Reviewer,
}

impl Server {
    /// Reads certificate and key, and binds the address.
    pub(crate) async fn bind(options: WebhookOptions, reviewer: Reviewer) -> anyhow::Result<Self> {
        let address = options.address;
        let identity = Arc::new(Identity::new(options)?);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the webhook cannot listen on {address}"))?;
        Ok(Self { listener, identity, reviewer })
    }

    /// Serves until the token is cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { listener, identity, reviewer } = self;
        accept::run(listener, shutdown, |stream| serve(stream, Arc::clone(&identity), reviewer.clone()))
            .await;
        Ok(())
    }
}

async fn serve(stream: TcpStream, identity: Arc<Identity>, reviewer: Reviewer) {
    let acceptor = TlsAcceptor::from(identity.current());
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        tracing::debug!("a client of the webhook agreed on no TLS");
        return;
    };
    let service = service_fn(move |request| {
        let reviewer = reviewer.clone();
        async move { Ok::<_, Infallible>(respond(&reviewer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client's broken connection is the client's matter.
    if tokio::time::timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(IDLE, connection).await;
    }
}

async fn respond(reviewer: &Reviewer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let refuse = |status: StatusCode, why: &str| {
        let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST of an AdmissionReview");
    }
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let Ok(Ok(body)) = tokio::time::timeout(BODY, body).await else {
        return refuse(StatusCode::BAD_REQUEST, "the body is too large or too slow");
    };
    let Ok(review) = serde_json::from_slice(&body.to_bytes()) else {
        return refuse(StatusCode::BAD_REQUEST, "the body is no JSON");
    };
    match reviewer.answer(&review).await {
        Ok(answer) => {
            let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
    }
}

/// Certificate and key, read anew for each connection: whoever renews them only replaces the files. While they cannot
/// be used the last good ones stay.
struct Identity {
    options: WebhookOptions,
    last: Mutex<Last>,
}

struct Last {
    config: Arc<ServerConfig>,
    /// Why they cannot be used, as it was told: each connection finds that anew.
    told: Option<String>,
}

impl Identity {
    fn new(options: WebhookOptions) -> anyhow::Result<Self> {
        let last = Last { config: Arc::new(read(&options)?), told: None };
        Ok(Self { options, last: Mutex::new(last) })
    }

    fn current(&self) -> Arc<ServerConfig> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match read(&self.options) {
            Ok(read) => *last = Last { config: Arc::new(read), told: None },
            Err(error) => {
                let error = Some(format!("{error:#}"));
                if last.told != error {
                    tracing::warn!(
                        error,
                        "the webhook's certificate cannot be read anew; the last one stays in use"
                    );
                    last.told = error;
                }
            }
        }
        Arc::clone(&last.config)
    }
}

fn read(options: &WebhookOptions) -> anyhow::Result<ServerConfig> {
    let WebhookOptions { certificate, key, .. } = options;
    let file = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&file(certificate)?)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .with_context(|| format!("{} holds no certificate in PEM", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_slice(&file(key)?)
        .ok()
        .with_context(|| format!("{} holds no private key in PEM", key.display()))?;
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not go together", certificate.display(), key.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &tempfile::TempDir, name: &str) -> WebhookOptions {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        WebhookOptions { address: SocketAddr::from(([127, 0, 0, 1], 0)), certificate, key }
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_told_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let options = write(&directory, "webhook");
        read(&options).unwrap();
        let error = |options: &WebhookOptions| format!("{:#}", read(options).unwrap_err());
        std::fs::write(&options.certificate, "nonsense").unwrap();
        assert!(error(&options).ends_with("tls.crt holds no certificate in PEM"), "{}", error(&options));
        let key = std::fs::read(&options.key).unwrap();
        let options = write(&directory, "webhook");
        std::fs::write(&options.key, key).unwrap();
        assert!(error(&options).contains("do not go together"), "{}", error(&options));
        std::fs::remove_file(&options.key).unwrap();
        assert!(error(&options).contains("tls.key"), "{}", error(&options));
    }

    #[test]
    fn renewed_files_are_used_at_once_and_broken_ones_never() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::new(write(&directory, "webhook")).unwrap();
        let first = identity.current();
        write(&directory, "webhook");
        let second = identity.current();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(&identity.options.key, "nonsense").unwrap();
        assert!(Arc::ptr_eq(&second, &identity.current()));
        let told = || identity.last.lock().unwrap().told.clone();
        assert!(told().unwrap().contains("no private key"), "{:?}", told());
        write(&directory, "webhook");
        assert!(!Arc::ptr_eq(&second, &identity.current()) && told().is_none());
    }
}
