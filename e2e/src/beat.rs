//! Something done at each beat from a namespace, without waiting for what is slow.
//!
//! Each attempt runs as a task of its own, so a gap of a second shows as a hundred failures at their own times. The
//! attempts bound their time themselves, and so how many of them are open.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::await_until::await_until;
use crate::namespace::Namespace;

/// A running beat that makes a report. Dropping it ends it without one.
#[derive(Debug)]
pub(crate) struct Beat<R> {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<R>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    good: AtomicUsize,
    bad: AtomicUsize,
}

/// What is made of the outcomes of attempts.
pub(crate) trait Report: Send + 'static {
    /// What comes of an attempt.
    type Outcome: Send + 'static;

    /// An attempt begins.
    fn begin(&mut self);

    /// One has ended; whether it was good.
    fn add(&mut self, outcome: Self::Outcome) -> bool;
}

impl<R: Report> Beat<R> {
    /// Starts it; returns when the first attempt begins. `open` runs inside the namespace and makes what makes attempts.
    pub(crate) fn start<O, A, F>(
        namespace: &Namespace,
        interval: Duration,
        report: R,
        open: O,
    ) -> Result<Self>
    where
        O: FnOnce() -> Result<A> + Send + 'static,
        A: FnMut() -> Result<F>,
        F: Future<Output = R::Outcome> + Send + 'static,
    {
        let namespace = namespace.clone();
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = sync_channel(1);
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let attempt = open()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _ = ready.send(());
            runtime.block_on(run(interval, report, attempt, stopped, &counting))
        });
        let beat = Self { stop: Some(stop), thread: Some(thread), counts };
        if started.recv().is_err() {
            return Err(beat.stop().err().unwrap_or_else(|| anyhow!("the beat did not start")));
        }
        Ok(beat)
    }

    /// Good attempts so far.
    pub(crate) fn good(&self) -> usize {
        self.counts.good.load(Ordering::Relaxed)
    }

    /// Others so far.
    pub(crate) fn bad(&self) -> usize {
        self.counts.bad.load(Ordering::Relaxed)
    }

    /// Waits for this many further good attempts.
    pub(crate) fn await_good(&self, more: usize, deadline: Duration) -> Result<()> {
        let wanted = self.good() + more;
        await_until(deadline, &format!("{more} connections more that are answered"), || {
            (self.good() >= wanted).then_some(())
        })
    }

    /// Ends it after the open attempts.
    pub(crate) fn stop(mut self) -> Result<R> {
        drop(self.stop.take());
        let thread = self.thread.take().context("the beat runs")?;
        thread.join().map_err(|_| anyhow!("the beat panicked"))?
    }
}

impl<R> Drop for Beat<R> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run<R: Report, F>(
    interval: Duration,
    mut report: R,
    mut attempt: impl FnMut() -> Result<F>,
    mut stopped: oneshot::Receiver<()>,
    counts: &Counts,
) -> Result<R>
where
    F: Future<Output = R::Outcome> + Send + 'static,
{
    let mut open = JoinSet::new();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let add = |report: &mut R, outcome| {
        let count = if report.add(outcome) { &counts.good } else { &counts.bad };
        count.fetch_add(1, Ordering::Relaxed);
    };
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {
                report.begin();
                open.spawn(attempt()?);
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
