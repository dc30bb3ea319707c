//! The thread that deletes stale conntrack entries after each change of rules.
//!
//! What is stale and what it costs to find is `herald_proxy::conntrack`'s; here is when. The loop hands over the frontends
//! in question after the kernel has acknowledged their rules, and never waits: a dump of a big table must not delay the next
//! commit. The queue is a [`View`]: a frontend stands in it once, with its latest endpoints, so it is bounded by the
//! number of frontends and nothing is dropped.
//!
//! To find entries the kernel walks its whole table, some 10 ms for 262,144 buckets even if they are empty. So the thread
//! rests between two clean-ups in proportion to what the last one took, and TCP, where only connections that nobody
//! answered are in question, is looked at once a second at most; its first change is looked at at once.
//!
//! A clean-up that fails is logged once, and what it was for is tried again: with the next change, or by itself after
//! a back-off that doubles with each failure.

mod limits;
mod room;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use herald_proxy::conntrack::{Cleaned, Conntrack, ConntrackError, View};
use herald_proxy::{FamilyLabel, ProxyMetrics};

pub use self::limits::ConntrackLimits;
pub(crate) use self::room::{Room, RoomMetrics};
use crate::sysctl::Sysctls;

/// Rest after a clean-up, in multiples of what it took: at most a third of a core is spent.
const REST: u32 = 2;
/// The longest rest: stale entries harm.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The longest wait before a clean-up that failed is tried again by itself.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How long the thread waits for what.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How often TCP is looked at, at most.
    tcp_every: Duration,
    /// Before a clean-up that failed is tried again by itself; doubled with each further failure.
    retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { tcp_every: Duration::from_secs(1), retry: Duration::from_secs(1) }
    }
}

/// Hands work to the thread, which ends with this value.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// UDP and SCTP.
    datagrams: Queue,
    tcp: Queue,
    /// When what failed is tried again, though nothing new came.
    retry_at: Option<Instant>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is in question and not yet looked at.
    view: View,
    /// Something was added since the thread looked last.
    added: bool,
}

impl Queue {
    fn add(&mut self, view: View) {
        self.added |= !view.is_empty();
        self.view.update(view);
    }

    /// Takes back what was not done: worth no look of its own.
    fn restore(&mut self, view: View) {
        self.view.restore(view);
    }

    fn take(&mut self) -> View {
        self.added = false;
        std::mem::take(&mut self.view)
    }
}

impl Housekeeper {
    /// Starts the thread in the network namespace of the caller. Limits are raised after the first clean-up,
    /// in the directory beside them.
    pub(crate) fn start(
        metrics: ProxyMetrics,
        limits: Option<(ConntrackLimits, Sysctls)>,
    ) -> io::Result<Self> {
        let mut conntrack = None;
        let mut limits = limits;
        Self::with(Pace::default(), move |view| {
            let cleaned = clean(&mut conntrack, view);
            if let Some((limits, sysctls)) = limits.take() {
                limits.raise(&sysctls);
            }
            match &cleaned {
                Ok(cleaned) => cleaned.iter().for_each(|cleaned| count(&metrics, cleaned)),
                // Half an answer may still be under way on these sockets.
                Err(_) => conntrack = None,
            }
            cleaned.map(|_| ())
        })
    }

    fn with<E: std::error::Error>(
        pace: Pace,
        clean: impl FnMut(&View) -> Result<(), E> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let work = Arc::clone(&shared);
        std::thread::Builder::new().name("conntrack".to_owned()).spawn(move || work.run(pace, clean))?;
        Ok(Self { shared })
    }

    /// Hands over frontends whose rules the kernel has acknowledged.
    pub(crate) fn submit(&self, view: View) {
        if view.is_empty() {
            return;
        }
        let (datagrams, tcp) = view.split_tcp();
        let mut state = self.shared.state();
        state.datagrams.add(datagrams);
        state.tcp.add(tcp);
        self.shared.changed.notify_all();
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<E: std::error::Error>(&self, pace: Pace, mut clean: impl FnMut(&View) -> Result<(), E>) {
        let mut failures = 0;
        let mut tcp_due = Instant::now();
        while let Some((view, tcp)) = self.next(tcp_due) {
            let started = Instant::now();
            if tcp {
                tcp_due = started + pace.tcp_every;
            }
            match clean(&view) {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures == 0 {
                        let cause = error.source().map(ToString::to_string).unwrap_or_default();
                        tracing::warn!(
                            %error, cause,
                            "stale conntrack entries stay, and clients that keep their port may be sent to endpoints that are gone; trying again"
                        );
                    }
                    let (datagrams, tcp) = view.split_tcp();
                    let mut state = self.state();
                    state.datagrams.restore(datagrams);
                    state.tcp.restore(tcp);
                    let wait = pace.retry.saturating_mul(1 << failures.min(16)).min(LONGEST_RETRY);
                    state.retry_at = Some(Instant::now() + wait);
                    failures += 1;
                }
            }
            self.rest((started.elapsed() * REST).min(LONGEST_REST));
        }
    }

    /// Waits for something to do, and tells whether TCP is part of it; `None`: it is over.
    fn next(&self, tcp_due: Instant) -> Option<(View, bool)> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            let now = Instant::now();
            let State { datagrams, tcp, retry_at, .. } = &mut *state;
            if retry_at.is_some_and(|at| at <= now) {
                datagrams.added = !datagrams.view.is_empty();
                tcp.added = !tcp.view.is_empty();
                *retry_at = None;
            }
            let tcp = state.tcp.added && tcp_due <= now;
            if state.datagrams.added || tcp {
                let mut view = state.datagrams.take();
                if tcp {
                    view.update(state.tcp.take());
                }
                return Some((view, tcp));
            }
            let next = state.tcp.added.then_some(tcp_due).into_iter().chain(state.retry_at).min();
            state = match next {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn rest(&self, time: Duration) {
        let resting = |state: &mut State| !state.ended;
        let _ = self.changed.wait_timeout_while(self.state(), time, resting);
    }
}

fn clean(conntrack: &mut Option<Conntrack>, view: &View) -> Result<Vec<Cleaned>, ConntrackError> {
    let conntrack = match conntrack {
        Some(conntrack) => conntrack,
        None => conntrack.insert(Conntrack::open()?),
    };
    conntrack.clean(view)
}

fn count(metrics: &ProxyMetrics, cleaned: &Cleaned) {
    let Cleaned { family, listed, deleted, requests, duration } = *cleaned;
    let label = FamilyLabel { ip_family: family };
    metrics.conntrack_sync_duration.get_or_create(&label).observe(duration.as_secs_f64());
    metrics.conntrack_deleted_entries.get_or_create(&label).inc_by(deleted);
    tracing::debug!(%family, listed, deleted, requests, ?duration, "conntrack is clean");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use herald_proxy::{Frontend, Protocol};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    /// TCP's pace is longer than a busy machine stalls a thread.
    const PACE: Pace = Pace { tcp_every: Duration::from_secs(2), retry: Duration::from_millis(10) };

    fn frontend(last: u8) -> Frontend {
        Frontend { address: [192, 0, 2, last].into(), protocol: Protocol::Udp, port: 53 }
    }

    fn gone(last: u8) -> View {
        let mut view = View::default();
        view.set(frontend(last), None);
        view
    }

    /// A housekeeper that tells what it is asked, and waits for the verdict on each clean-up.
    fn housekeeper() -> (Housekeeper, mpsc::Receiver<Vec<Frontend>>, mpsc::Sender<bool>) {
        let (asked, asks) = mpsc::channel();
        let (verdict, verdicts) = mpsc::channel();
        let housekeeper = Housekeeper::with(PACE, move |view| {
            let mut frontends: Vec<Frontend> = view.frontends().copied().collect();
            frontends.sort_unstable();
            let _ = asked.send(frontends);
            let good = verdicts.recv_timeout(PATIENCE).unwrap_or(true);
            if good { Ok(()) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
        });
        (housekeeper.unwrap(), asks, verdict)
    }

    #[test]
    fn what_comes_during_a_clean_up_is_joined_into_the_next() {
        let (housekeeper, asks, verdict) = housekeeper();
        housekeeper.submit(gone(1));
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(1)]);
        housekeeper.submit(gone(2));
        housekeeper.submit(gone(3));
        housekeeper.submit(gone(2));
        verdict.send(true).unwrap();
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(2), frontend(3)]);
        verdict.send(true).unwrap();
    }

    #[test]
    fn tcp_waits_for_its_second_and_datagrams_do_not_wait_for_tcp() {
        let (housekeeper, asks, verdict) = housekeeper();
        let tcp = |last| Frontend { protocol: Protocol::Tcp, ..frontend(last) };
        let submit = |frontends: &[Frontend]| {
            let mut view = View::default();
            frontends.iter().for_each(|frontend| view.set(*frontend, None));
            housekeeper.submit(view);
        };
        submit(&[tcp(1)]);
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [tcp(1)]);
        let began = Instant::now();
        submit(&[tcp(2), frontend(3)]);
        verdict.send(true).unwrap();
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(3)]);
        submit(&[tcp(4)]);
        verdict.send(true).unwrap();
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [tcp(2), tcp(4)]);
        // Counted from the moment before the test saw the first.
        assert!(began.elapsed() > PACE.tcp_every / 2, "{:?}", began.elapsed());
        verdict.send(true).unwrap();
    }

    #[test]
    fn what_failed_is_tried_again_by_itself_until_it_succeeds() {
        let (housekeeper, asks, verdict) = housekeeper();
        housekeeper.submit(gone(1));
        for good in [false, false, true] {
            assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(1)]);
            verdict.send(good).unwrap();
        }
        housekeeper.submit(gone(2));
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(2)], "the first is done");
        verdict.send(true).unwrap();
    }

    #[test]
    fn what_failed_is_joined_with_what_comes_before_the_next_try() {
        let (housekeeper, asks, verdict) = housekeeper();
        housekeeper.submit(gone(1));
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(1)]);
        housekeeper.submit(gone(2));
        verdict.send(false).unwrap();
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(1), frontend(2)]);
        verdict.send(true).unwrap();
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let (housekeeper, asks, _verdict) = housekeeper();
        drop(housekeeper);
        assert_eq!(asks.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
