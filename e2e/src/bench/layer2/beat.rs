//! A client on the segment: a connection each five milliseconds, each of which has 500 ms to be made.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::neighbours::{Neighbours, known};
use crate::beat;
use crate::namespace::Namespace;

/// From one begin to the next.
const INTERVAL: Duration = Duration::from_millis(5);
/// For a connection, and again for the answer on it.
const TIMEOUT: Duration = Duration::from_millis(500);
/// A question that is under way is not forgotten sooner: what waits for its answer would be lost by the client itself, and
/// TCP does not repeat it within [`TIMEOUT`].
const QUESTION: Duration = Duration::from_millis(20);
/// The router's interface on the segment.
const LAN: &str = "lan";

/// What the client does at each beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Forgets where the address is (but for a question under way), connects, and hangs up.
    Forgetful,
    /// Connects, asks, and reads the answer.
    Asking,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// All that were tried.
    pub(super) tried: usize,
    /// When those began that were not made.
    pub(super) failed: Vec<Instant>,
    /// Those that were made and ended before their answer.
    pub(super) cut: usize,
}

/// What came of a connection.
pub(super) enum Outcome {
    Whole,
    Failed(Instant),
    Cut,
}

impl beat::Report for Report {
    type Outcome = Outcome;

    fn begin(&mut self) {
        self.tried += 1;
    }

    fn add(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Whole => return true,
            Outcome::Failed(at) => self.failed.push(at),
            Outcome::Cut => self.cut += 1,
        }
        false
    }
}

impl Client {
    /// Starts in a namespace.
    pub(super) fn start(self, namespace: &Namespace, to: SocketAddr) -> Result<beat::Beat<Report>> {
        let open = move || {
            let neighbours = Neighbours::open(LAN)?;
            let mut forgotten = Instant::now();
            Ok(move || {
                if self == Self::Forgetful
                    && let IpAddr::V4(address) = to.ip()
                    && (known()?.contains_key(&address) || forgotten.elapsed() >= QUESTION)
                {
                    neighbours.forget(address)?;
                    forgotten = Instant::now();
                }
                Ok(attempt(to, self))
            })
        };
        beat::Beat::start(namespace, INTERVAL, Report::default(), open)
    }
}

impl Report {
    /// From an event to the begin of the last connection that was not made, in milliseconds.
    pub(super) fn outage(&self, since: Instant) -> f64 {
        let last = self.failed.iter().max();
        last.map_or(0.0, |last| last.saturating_duration_since(since).as_secs_f64() * 1000.0)
    }

    /// Says how it went after an event; of an outage that is too long, in milliseconds, when each connection began.
    pub(super) fn say(&self, since: Instant, outage: f64, most: f64) {
        eprintln!("    {outage:.0} ms, {} of {} not made", self.failed.len(), self.tried);
        if outage > most {
            let after = self.failed.iter().map(|at| at.saturating_duration_since(since).as_millis());
            eprintln!("    began after, in ms: {:?}", after.collect::<Vec<_>>());
        }
    }
}

async fn attempt(to: SocketAddr, client: Client) -> Outcome {
    let begin = Instant::now();
    let Ok(Ok(mut stream)) = tokio::time::timeout(TIMEOUT, TcpStream::connect(to)).await else {
        return Outcome::Failed(begin);
    };
    if client == Client::Forgetful {
        // By a reset: nothing of it waits for anything that is forgotten.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Outcome::Whole;
    }
    let ask = async {
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    match tokio::time::timeout(TIMEOUT, ask).await {
        Ok(Ok(true)) => Outcome::Whole,
        _ => Outcome::Cut,
    }
}
