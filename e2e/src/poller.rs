//! A new connection each few milliseconds from a namespace, and a report of those that failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::beat::{Beat, Report};
use crate::client::{Answer, ClientError, HttpOptions, parse_response, request};
use crate::namespace::Namespace;

/// How to poll.
#[derive(Clone, Debug)]
pub struct PollOptions {
    /// From one connection's begin to the next one's.
    pub interval: Duration,
    /// For a connection and its answer together.
    pub timeout: Duration,
}

impl Default for PollOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(10), timeout: Duration::from_secs(1) }
    }
}

/// A running poll. Dropping it ends it without a report.
#[derive(Debug)]
pub struct Poller(Beat<PollReport>);

/// What a poll saw.
#[derive(Clone, Debug)]
pub struct PollReport {
    /// When the first connection began.
    pub begin: Instant,
    /// All connections that were tried.
    pub attempts: usize,
    /// Those without an answer, by the time of their begin.
    pub failures: Vec<Failure>,
    /// How often each pod answered.
    pub pods: BTreeMap<String, usize>,
    /// Which client addresses (without ports) the pods saw, and how often.
    pub clients: BTreeMap<String, usize>,
    /// Those answered after more than 200 ms: when they began, and how long they took. Of a lost packet, or of a machine that stood still.
    pub late: Vec<(Instant, Duration)>,
}

/// Beyond what a path without losses takes, and the least that a repeated packet does.
const LATE: Duration = Duration::from_millis(200);

/// A connection without an answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub at: Instant,
    /// How long it took to fail.
    pub took: Duration,
    /// Why.
    pub error: ClientError,
    /// The client's own end, if it was connected: what is missing then is the answer.
    pub connected: Option<SocketAddr>,
}

impl Poller {
    /// Starts polling; returns when the first connection begins.
    pub fn start(namespace: &Namespace, to: SocketAddr, options: PollOptions) -> Result<Self> {
        let report = PollReport {
            begin: Instant::now(),
            attempts: 0,
            failures: Vec::new(),
            pods: BTreeMap::new(),
            clients: BTreeMap::new(),
            late: Vec::new(),
        };
        let timeout = options.timeout;
        let open = move || Ok(move || Ok(attempt(to, timeout)));
        Beat::start(namespace, options.interval, report, open).map(Self)
    }

    /// Connections that were answered so far.
    pub fn answers(&self) -> usize {
        self.0.good()
    }

    /// Connections that failed so far.
    pub fn failures(&self) -> usize {
        self.0.bad()
    }

    /// Waits for this many further answers: the path works now, and the poll has seen it.
    pub fn await_answers(&self, more: usize, deadline: Duration) -> Result<()> {
        self.0.await_good(more, deadline)
    }

    /// Ends polling after the open connections have ended, and tells what was seen.
    pub fn stop(self) -> Result<PollReport> {
        let mut report = self.0.stop()?;
        report.failures.sort_by_key(|failure| failure.at);
        Ok(report)
    }
}

impl PollReport {
    /// The time from the first failure's begin to the last one's; zero without failures.
    pub fn gap(&self) -> Duration {
        match (self.failures.first(), self.failures.last()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => Duration::ZERO,
        }
    }

    /// The failures, a line each, for assertion messages.
    pub fn explain(&self) -> String {
        let mut text = format!("{} of {} connections failed", self.failures.len(), self.attempts);
        for failure in self.failures.iter().take(20) {
            let at = (failure.at - self.begin).as_secs_f64();
            let connected = failure
                .connected
                .map_or_else(|| "not connected".to_owned(), |own| format!("connected from {own}"));
            text.push_str(&format!(
                "\n  at {at:.3} s: {} after {:.3} s, {connected}",
                failure.error,
                failure.took.as_secs_f64()
            ));
        }
        for (at, took) in self.late.iter().take(20) {
            let at = (*at - self.begin).as_secs_f64();
            text.push_str(&format!("\n  at {at:.3} s: answered late, after {:.3} s", took.as_secs_f64()));
        }
        text
    }

    /// Fails when a connection failed, or when none was made at all.
    pub fn assert_no_loss(&self) {
        assert!(self.attempts > 0 && self.failures.is_empty(), "{}", self.explain());
    }
}

impl Report for PollReport {
    type Outcome = Result<(Answer, Instant, Duration), Failure>;

    fn begin(&mut self) {
        self.attempts += 1;
    }

    fn add(&mut self, outcome: Self::Outcome) -> bool {
        let good = outcome.is_ok();
        match outcome {
            Ok((answer, at, took)) => {
                self.late.extend((took > LATE).then_some((at, took)));
                *self.pods.entry(answer.pod).or_default() += 1;
                if let Some(client) = answer.client {
                    *self.clients.entry(client.ip().to_string()).or_default() += 1;
                }
            }
            Err(failure) => self.failures.push(failure),
        }
        good
    }
}

async fn attempt(to: SocketAddr, timeout: Duration) -> Result<(Answer, Instant, Duration), Failure> {
    let (at, mut connected) = (Instant::now(), None);
    let outcome = match tokio::time::timeout(timeout, ask(to, &mut connected)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::TimedOut),
    };
    let took = at.elapsed();
    match outcome {
        Ok(answer) => Ok((answer, at, took)),
        Err(error) => Err(Failure { at, took, error, connected }),
    }
}

async fn ask(to: SocketAddr, connected: &mut Option<SocketAddr>) -> Result<Answer, ClientError> {
    let mut stream = TcpStream::connect(to).await?;
    *connected = stream.local_addr().ok();
    stream.write_all(request(to, &HttpOptions::default(), "close").as_bytes()).await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    parse_response(&received, true).ok_or(ClientError::Reset)
}
