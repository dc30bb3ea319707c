//! A new connection each few milliseconds from a namespace, and a report of those that failed.
//!
//! The beat does not wait for slow connections: each runs as a task of its own, so a gap of a second shows as a hundred
//! failures at their own times. Open attempts are bounded by interval and timeout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::await_until::await_until;
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
pub struct Poller {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<PollReport>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    answers: AtomicUsize,
    failures: AtomicUsize,
}

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
}

/// A connection without an answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub at: Instant,
    /// How long it took to fail.
    pub took: Duration,
    /// Why.
    pub error: ClientError,
}

impl Poller {
    /// Starts polling; returns when the first connection begins.
    pub fn start(namespace: &Namespace, to: SocketAddr, options: PollOptions) -> Result<Self> {
        let namespace = namespace.clone();
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = sync_channel(1);
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _ = ready.send(());
            Ok(runtime.block_on(poll(to, options, stopped, &counting)))
        });
        let poller = Self { stop: Some(stop), thread: Some(thread), counts };
        if started.recv().is_err() {
            return Err(poller.stop().err().unwrap_or_else(|| anyhow!("the poller did not start")));
        }
        Ok(poller)
    }

    /// Connections that were answered so far.
    pub fn answers(&self) -> usize {
        self.counts.answers.load(Ordering::Relaxed)
    }

    /// Connections that failed so far.
    pub fn failures(&self) -> usize {
        self.counts.failures.load(Ordering::Relaxed)
    }

    /// Waits for this many further answers: the path works now, and the poll has seen it.
    pub fn await_answers(&self, more: usize, deadline: Duration) -> Result<()> {
        let wanted = self.answers() + more;
        await_until(deadline, &format!("{more} answers more to the poll"), || {
            (self.answers() >= wanted).then_some(())
        })
    }

    /// Ends polling after the open connections have ended, and tells what was seen.
    pub fn stop(mut self) -> Result<PollReport> {
        drop(self.stop.take());
        let thread = self.thread.take().context("the poller runs")?;
        thread.join().map_err(|_| anyhow!("the poller panicked"))?
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
            text.push_str(&format!(
                "\n  at {at:.3} s: {} after {:.3} s",
                failure.error,
                failure.took.as_secs_f64()
            ));
        }
        text
    }

    /// Fails when a connection failed, or when none was made at all.
    pub fn assert_no_loss(&self) {
        assert!(self.attempts > 0 && self.failures.is_empty(), "{}", self.explain());
    }
}

async fn poll(
    to: SocketAddr,
    options: PollOptions,
    mut stopped: oneshot::Receiver<()>,
    counts: &Counts,
) -> PollReport {
    let mut report = PollReport {
        begin: Instant::now(),
        attempts: 0,
        failures: Vec::new(),
        pods: BTreeMap::new(),
        clients: BTreeMap::new(),
    };
    let mut open = JoinSet::new();
    let mut beat = tokio::time::interval(options.interval);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = beat.tick() => {
                report.attempts += 1;
                open.spawn(attempt(to, options.timeout));
            }
            Some(Ok(outcome)) = open.join_next() => report.add(outcome, counts),
        }
    }
    while let Some(joined) = open.join_next().await {
        if let Ok(outcome) = joined {
            report.add(outcome, counts);
        }
    }
    report.failures.sort_by_key(|failure| failure.at);
    report
}

impl PollReport {
    fn add(&mut self, outcome: Result<Answer, Failure>, counts: &Counts) {
        let count = if outcome.is_ok() { &counts.answers } else { &counts.failures };
        count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(answer) => {
                *self.pods.entry(answer.pod).or_default() += 1;
                if let Some(client) = answer.client {
                    *self.clients.entry(client.ip().to_string()).or_default() += 1;
                }
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

async fn attempt(to: SocketAddr, timeout: Duration) -> Result<Answer, Failure> {
    let at = Instant::now();
    let outcome = match tokio::time::timeout(timeout, ask(to)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::TimedOut),
    };
    outcome.map_err(|error| Failure { at, took: at.elapsed(), error })
}

async fn ask(to: SocketAddr) -> Result<Answer, ClientError> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request(to, &HttpOptions::default(), "close").as_bytes()).await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    parse_response(&received, true).ok_or(ClientError::Reset)
}
