//! A client on the segment: a connection each five milliseconds, each of which has 500 ms to be made.
//!
//! The beat does not wait for slow connections, so each failure stands at the time of its own begin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::neighbours::{Neighbours, known};
use crate::await_until::await_until;
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

/// A running client; dropping it ends it.
#[derive(Debug)]
pub(super) struct Beat {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Report>>>,
    made: Arc<AtomicUsize>,
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

enum Outcome {
    Whole,
    Failed(Instant),
    Cut,
}

impl Beat {
    /// Starts it in a namespace.
    pub(super) fn start(namespace: &Namespace, to: SocketAddr, client: Client) -> Result<Self> {
        let namespace = namespace.clone();
        let (stop, stopped) = oneshot::channel();
        let made = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&made);
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let neighbours = Neighbours::open(LAN)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(beat(to, client, &neighbours, stopped, &counting))
        });
        Ok(Self { stop: Some(stop), thread: Some(thread), made })
    }

    /// Waits for this many further connections.
    pub(super) fn await_made(&self, more: usize, deadline: Duration) -> Result<()> {
        let wanted = self.made.load(Ordering::Relaxed) + more;
        let what = format!("{more} connections more");
        await_until(deadline, &what, || (self.made.load(Ordering::Relaxed) >= wanted).then_some(()))
    }

    /// Ends it after its open connections.
    pub(super) fn stop(mut self) -> Result<Report> {
        drop(self.stop.take());
        let thread = self.thread.take().context("the client runs")?;
        thread.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Report {
    /// From an event to the begin of the last connection that was not made, in milliseconds.
    pub(super) fn outage(&self, since: Instant) -> f64 {
        let last = self.failed.iter().max();
        last.map_or(0.0, |last| last.saturating_duration_since(since).as_secs_f64() * 1000.0)
    }
}

async fn beat(
    to: SocketAddr,
    client: Client,
    neighbours: &Neighbours,
    mut stopped: oneshot::Receiver<()>,
    made: &AtomicUsize,
) -> Result<Report> {
    let mut report = Report::default();
    let mut open = JoinSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut forgotten = Instant::now();
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let add = |report: &mut Report, outcome| match outcome {
        Outcome::Whole => {
            made.fetch_add(1, Ordering::Relaxed);
        }
        Outcome::Failed(at) => report.failed.push(at),
        Outcome::Cut => report.cut += 1,
    };
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {
                report.tried += 1;
                if client == Client::Forgetful
                    && let IpAddr::V4(address) = to.ip()
                    && (known()?.contains_key(&address) || forgotten.elapsed() >= QUESTION)
                {
                    neighbours.forget(address)?;
                    forgotten = Instant::now();
                }
                open.spawn(attempt(to, client));
            }
            Some(Ok(outcome)) = open.join_next() => add(&mut report, outcome),
        }
    }
    while let Some(joined) = open.join_next().await {
        if let Ok(outcome) = joined {
            add(&mut report, outcome);
        }
    }
    Ok(report)
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
