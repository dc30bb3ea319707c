//! What a client does: one connection, one answer, and the kind of failure when there is none.
//!
//! In process, on a thread inside the client's namespace: about a millisecond, so suites may ask often. The failures are
//! told apart because Services differ by them: a port without endpoints refuses, policy Local drops.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::namespace::Namespace;

/// How to ask.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// For the connection, and again for the answer.
    pub timeout: Duration,
    /// The local address (and port, or 0) to connect from.
    pub source: Option<SocketAddr>,
    /// The path to GET.
    pub path: String,
    /// Further header lines.
    pub headers: Vec<(String, String)>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), source: None, path: "/".to_owned(), headers: Vec::new() }
    }
}

impl HttpOptions {
    /// These options with another timeout.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// These options with another path.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// These options, connecting from this address.
    #[must_use]
    pub fn source(self, source: SocketAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// These options with one header line more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a server answered. `pod`, `client` and `server` are what a pod's server says of itself; empty or `None` when
/// something else answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of an HTTP answer; 0 for UDP.
    pub status: u16,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The text.
    pub body: String,
    /// The pod that answered.
    pub pod: String,
    /// The client's address as the pod saw it.
    pub client: Option<SocketAddr>,
    /// The pod's own address as it saw it.
    pub server: Option<SocketAddr>,
}

impl Answer {
    fn from_text(status: u16, headers: Vec<(String, String)>, body: String) -> Self {
        let field = |name: &str| {
            body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::trim))
        };
        let pod = field("pod").unwrap_or_default().to_owned();
        let client = field("client").and_then(|text| text.parse().ok());
        let server = field("server").and_then(|text| text.parse().ok());
        Self { status, headers, body, pod, client, server }
    }

    /// The value of a header line.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// A reset to the first packet, or an ICMP port unreachable.
    #[error("refused")]
    Refused,
    /// Nothing came.
    #[error("timed out")]
    TimedOut,
    /// The connection was there and ended by a reset or before the answer was complete.
    #[error("reset")]
    Reset,
    /// No route, or an ICMP unreachable other than the port's. Routers limit how many they send, to one a second after
    /// the first few: then the client times out.
    #[error("unreachable")]
    Unreachable,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut | Kind::WouldBlock => Self::TimedOut,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                Self::Reset
            }
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Self::Unreachable,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Namespace {
    /// A GET over a new connection from this namespace.
    pub fn http(&self, to: SocketAddr, options: &HttpOptions) -> Result<Answer, ClientError> {
        self.run(|| http(to, options)).map_err(|error| ClientError::Other(format!("{error:#}")))?
    }

    /// [`Self::http`] of `/` with a timeout of one second.
    pub fn get(&self, to: SocketAddr) -> Result<Answer, ClientError> {
        self.http(to, &HttpOptions::default())
    }

    /// One datagram and its answer.
    pub fn udp(&self, to: SocketAddr, timeout: Duration) -> Result<Answer, ClientError> {
        self.run(|| udp(to, None, timeout)).map_err(|error| ClientError::Other(format!("{error:#}")))?
    }

    /// [`Self::udp`] from a local address or port.
    pub fn udp_from(
        &self,
        source: SocketAddr,
        to: SocketAddr,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.run(|| udp(to, Some(source), timeout))
            .map_err(|error| ClientError::Other(format!("{error:#}")))?
    }

    /// The real curl, as a user would call it; what it prints.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.exec(&["curl", "--silent", "--show-error", "--max-time", "3", url])
    }

    /// A connection that stays open, to see whether it survives what the test does.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<Connection, ClientError> {
        let options = HttpOptions::default().timeout(timeout);
        let stream =
            self.run(|| dial(to, &options)).map_err(|error| ClientError::Other(format!("{error:#}")))??;
        Ok(Connection { stream: stream.into(), to })
    }
}

/// A connection to a pod's server that is kept open.
#[derive(Debug)]
pub struct Connection {
    stream: std::net::TcpStream,
    to: SocketAddr,
}

impl Connection {
    /// Asks once more over the same connection.
    pub fn ask(&mut self) -> Result<Answer, ClientError> {
        exchange(&mut self.stream, self.to, &HttpOptions::default(), "keep-alive")
    }
}

fn dial(to: SocketAddr, options: &HttpOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = options.source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    if let Err(error) = socket.connect_timeout(&to.into(), options.timeout) {
        // An ICMP refusal that comes while connect(2) still holds the socket (all is one machine here) does not end the
        // attempt before the next SYN, a second later; the kernel remembers it for who asks.
        let remembered = if error.kind() == io::ErrorKind::TimedOut { socket.take_error()? } else { None };
        return Err(remembered.unwrap_or(error));
    }
    socket.set_read_timeout(Some(options.timeout))?;
    socket.set_write_timeout(Some(options.timeout))?;
    Ok(socket)
}

fn http(to: SocketAddr, options: &HttpOptions) -> Result<Answer, ClientError> {
    let mut stream: std::net::TcpStream = dial(to, options)?.into();
    exchange(&mut stream, to, options, "close")
}

fn exchange(
    stream: &mut std::net::TcpStream,
    to: SocketAddr,
    options: &HttpOptions,
    connection: &str,
) -> Result<Answer, ClientError> {
    stream.write_all(request(to, options, connection).as_bytes())?;
    let begin = Instant::now();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(answer) = parse_response(&received, false) {
            return Ok(answer);
        }
        if begin.elapsed() > options.timeout {
            return Err(ClientError::TimedOut);
        }
        match stream.read(&mut buffer)? {
            0 => return parse_response(&received, true).ok_or(ClientError::Reset),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
}

pub(crate) fn request(to: SocketAddr, options: &HttpOptions, connection: &str) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\n", options.path);
    for (name, value) in &options.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// The answer in these bytes, when they are a whole one. Without a Content-Length the end of the stream ends it;
/// a chunked body is given as it is, which is enough to look for words in it.
pub(crate) fn parse_response(bytes: &[u8], ended: bool) -> Option<Answer> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]);
    let body = &bytes[split + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, v)| v.parse::<usize>().ok());
    let complete = match length {
        Some(length) => body.len() >= length,
        None => ended,
    };
    complete.then(|| Answer::from_text(status, headers, String::from_utf8_lossy(body).into_owned()))
}

fn udp(to: SocketAddr, source: Option<SocketAddr>, timeout: Duration) -> Result<Answer, ClientError> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(source.unwrap_or(any))?;
    // Connected, so that an ICMP error is told to us.
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"?")?;
    let mut buffer = [0; 2048];
    let count = socket.recv(&mut buffer)?;
    Ok(Answer::from_text(0, Vec::new(), String::from_utf8_lossy(&buffer[..count]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_answer_tells_pod_client_and_server() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 57\r\n\r\npod=web-1\nclient=10.244.1.10:4711\nserver=10.244.1.11:8080\n";
        let answer = parse_response(text, false).expect("complete");
        assert_eq!((answer.status, answer.pod.as_str()), (200, "web-1"));
        assert_eq!(answer.client, Some(([10, 244, 1, 10], 4711).into()));
        assert_eq!(answer.server, Some(([10, 244, 1, 11], 8080).into()));
    }

    #[test]
    fn half_an_answer_is_none() {
        assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", true), None);
        assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\nContent-Le", true), None);
        let endless = b"HTTP/1.1 503 x\r\n\r\nhello";
        assert_eq!(parse_response(endless, false), None);
        assert_eq!(parse_response(endless, true).map(|answer| answer.status), Some(503));
    }
}
