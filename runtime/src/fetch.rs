//! One GET by plain HTTP, bounded in time and size: how `herald explain` asks a speaker's admin server.

use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
pub use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// From the request to the last byte.
const ANSWER: Duration = Duration::from_secs(10);
/// Largest body.
const LARGEST: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens there, or no packet comes back.
    #[error("cannot connect to {server}")]
    Connect {
        /// Who was asked.
        server: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// It listens, and does not answer in time.
    #[error("{0} does not answer in time")]
    Slow(String),
    /// It answers, but not by HTTP or with too much.
    #[error("{server} does not answer as a speaker does")]
    Answer {
        /// Who was asked.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Asks `server` (`HOST:PORT`) for a path with its query.
pub async fn get(server: &str, path: &str) -> Result<(StatusCode, Bytes), FetchError> {
    let connect = |source| FetchError::Connect { server: server.to_owned(), source };
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(server)).await {
        Ok(connected) => connected.map_err(connect)?,
        Err(_) => return Err(connect(std::io::ErrorKind::TimedOut.into())),
    };
    match tokio::time::timeout(ANSWER, exchange(stream, server, path)).await {
        Ok(answer) => answer.map_err(|source| FetchError::Answer { server: server.to_owned(), source }),
        Err(_) => Err(FetchError::Slow(server.to_owned())),
    }
}

async fn exchange(
    stream: TcpStream,
    server: &str,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::get(path).header(HOST, server).header(CONNECTION, "close").body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
        Ok((status, body))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended: what came of it is with the answer.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served(answer: Vec<u8>) -> Result<(StatusCode, Bytes), FetchError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = [0; 1024];
            let n = stream.read(&mut seen).await.unwrap();
            assert!(seen[..n].starts_with(b"GET /a?b=c HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&seen));
            // The client may have had enough by now.
            let _ = stream.write_all(&answer).await;
        };
        tokio::join!(get_owned(address.to_string()), serve).0
    }

    async fn get_owned(server: String) -> Result<(StatusCode, Bytes), FetchError> {
        get(&server, "/a?b=c").await
    }

    #[tokio::test]
    async fn status_and_body_come_back() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}".to_vec();
        let (status, body) = served(answer).await.unwrap();
        assert_eq!((status.as_u16(), &body[..]), (404, &b"{}"[..]));
    }

    #[tokio::test]
    async fn what_is_no_http_or_too_much_is_no_answer() {
        assert!(matches!(served(b"SSH-2.0-x\r\n\r\n".to_vec()).await, Err(FetchError::Answer { .. })));
        let mut much = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LARGEST + 1).into_bytes();
        much.resize(much.len() + LARGEST + 1, b' ');
        assert!(matches!(served(much).await, Err(FetchError::Answer { .. })));
    }

    #[tokio::test]
    async fn nobody_there_is_told_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(get(&address.to_string(), "/").await, Err(FetchError::Connect { .. })));
    }
}
