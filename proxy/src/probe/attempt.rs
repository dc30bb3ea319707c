//! One probe: a connection from the node to the pod, and for HTTP the head of one answer.
//!
//! Every socket is closed by a reset: at ten probes a second an ordinary close would leave 600 sockets in TIME_WAIT for
//! each endpoint, and conntrack entries for two minutes instead of ten seconds.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::spec::{ProbeKind, ProbeSpec};

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered as it should be.
    Passed,
    /// It was not.
    Failed(Failure),
}

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// An HTTP answer other than 2xx and 3xx.
    #[error("HTTP status {0}")]
    Status(u16),
    /// An answer that is not HTTP, or an end without one.
    #[error("no HTTP answer")]
    NotHttp,
    /// No way there, or no socket left.
    #[error("cannot connect")]
    Unreachable,
}

impl Failure {
    /// The word of the metric.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Status(_) => "status",
            Self::NotHttp => "notHTTP",
            Self::Unreachable => "unreachable",
        }
    }

    /// All words.
    pub(super) const WORDS: [&'static str; 5] = ["refused", "timeout", "status", "notHTTP", "unreachable"];
}

/// Probes once; never takes longer than the timeout.
pub(super) async fn probe(spec: &ProbeSpec, to: SocketAddr) -> Outcome {
    let answer = async {
        let mut stream = connect(to).await?;
        match &spec.kind {
            ProbeKind::Tcp => Ok(()),
            ProbeKind::Http { path } => get(&mut stream, to, path).await,
        }
    };
    match within(spec.timeout, answer).await {
        Ok(()) => Outcome::Passed,
        Err(failure) => Outcome::Failed(failure),
    }
}

async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(timeout, answer).await.unwrap_or(Err(Failure::TimedOut))
}

async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Unreachable,
    };
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(refused)?;
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).map_err(refused)?;
    let _ = socket.set_nodelay(true);
    socket.connect(to).await.map_err(refused)
}

async fn get(stream: &mut TcpStream, to: SocketAddr, path: &str) -> Result<(), Failure> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: herald-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|_| Failure::NotHttp)?;
    // "HTTP/1.1 200" is all that matters of the answer.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.map_err(|_| Failure::NotHttp)?;
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(Failure::Status(status)),
        None => Err(Failure::NotHttp),
    }
}

fn status(head: &[u8; 12]) -> Option<u16> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', digits @ ..] = head else {
        return None;
    };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let [hundreds, tens, ones] = digits;
    Some(digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_status_is_read_of_http_1_and_of_nothing_else() {
        for (head, expected) in [
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.0 503", Some(503)),
            (b"HTTP/2.0 200", None),
            (b"HTTP/1.1 2x0", None),
            (b"SSH-2.0-Open", None),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    /// The outcome of a probe by a server that says this, and what it was asked.
    async fn served(says: &'static str) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spec = ProbeSpec::parse("http path=/healthz").unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(says.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        };
        let (outcome, request) = tokio::join!(probe(&spec, address), server);
        assert!(request.starts_with(&format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n")), "{request}");
        outcome
    }

    #[tokio::test]
    async fn an_answer_passes_by_its_status_and_nothing_else_does() {
        assert_eq!(served("HTTP/1.1 204 No Content\r\n\r\n").await, Outcome::Passed);
        assert_eq!(served("HTTP/1.0 302 Found\r\n\r\n").await, Outcome::Passed);
        assert_eq!(served("HTTP/1.1 500 Oops\r\n\r\n").await, Outcome::Failed(Failure::Status(500)));
        assert_eq!(served("+OK POP3 ready\r\n").await, Outcome::Failed(Failure::NotHttp));
        assert_eq!(served("HTTP/1").await, Outcome::Failed(Failure::NotHttp));
    }

    #[tokio::test]
    async fn a_server_that_hangs_passes_tcp_and_times_out_http() {
        // Its kernel accepts; nobody else does.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outcome = |spec: &str| ProbeSpec::parse(spec).unwrap();
        assert_eq!(probe(&outcome("http timeout=50ms"), address).await, Outcome::Failed(Failure::TimedOut));
        assert_eq!(probe(&outcome("tcp"), address).await, Outcome::Passed);
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_refused_and_no_socket_lingers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spec = ProbeSpec::parse("tcp").unwrap();
        assert_eq!(probe(&spec, address).await, Outcome::Passed);
        // The peer sees a reset, so neither side has anything to remember.
        let (mut stream, _) = listener.accept().await.unwrap();
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        drop((stream, listener));
        assert_eq!(probe(&spec, address).await, Outcome::Failed(Failure::Refused));
    }
}
