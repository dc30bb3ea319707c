//! The thread that deletes stale conntrack entries after each change of rules.
//!
//! What is stale and what it costs to find is `herald_proxy::conntrack`'s; here is when. The loop hands over the frontends
//! in question after the kernel has acknowledged their rules, and never waits: a dump of a big table must not delay the next
//! commit. The queue is one [`View`]: a frontend stands in it once, with its latest endpoints, so it is bounded by the
//! number of frontends and nothing is dropped. Between two clean-ups the thread rests in proportion to what the last one took.
//!
//! A clean-up that fails is logged once, and what it was for is tried again with the next change.

mod limits;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use herald_proxy::conntrack::{Cleaned, Conntrack, ConntrackError, View};
use herald_proxy::{FamilyLabel, ProxyMetrics};

pub use self::limits::ConntrackLimits;

/// Rest after a clean-up, in multiples of what it took: at most a twentieth of a core is spent.
const REST: u32 = 20;
/// The longest rest: stale entries harm.
const LONGEST_REST: Duration = Duration::from_secs(1);

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
    /// What is in question and not yet looked at.
    pending: View,
    /// Something was added since the thread looked last.
    added: bool,
    ended: bool,
}

impl Housekeeper {
    /// Starts the thread in the network namespace of the caller. Limits are raised after the first clean-up.
    pub(crate) fn start(metrics: ProxyMetrics, limits: Option<ConntrackLimits>) -> io::Result<Self> {
        let mut conntrack = None;
        let mut limits = limits;
        Self::with(move |view| {
            let cleaned = clean(&mut conntrack, view);
            if let Some(limits) = limits.take() {
                limits.raise();
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
        clean: impl FnMut(&View) -> Result<(), E> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let work = Arc::clone(&shared);
        std::thread::Builder::new().name("conntrack".to_owned()).spawn(move || work.run(clean))?;
        Ok(Self { shared })
    }

    /// Hands over frontends whose rules the kernel has acknowledged.
    pub(crate) fn submit(&self, view: View) {
        if view.is_empty() {
            return;
        }
        let mut state = self.shared.state();
        state.pending.update(view);
        state.added = true;
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

    fn run<E: std::error::Error>(&self, mut clean: impl FnMut(&View) -> Result<(), E>) {
        let mut failing = false;
        while let Some(view) = self.next() {
            let started = Instant::now();
            match clean(&view) {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let cause = error.source().map(ToString::to_string).unwrap_or_default();
                        tracing::warn!(
                            %error, cause,
                            "stale conntrack entries stay: clients that keep their port may be sent to endpoints that are gone"
                        );
                    }
                    self.state().pending.restore(view);
                }
            }
            self.rest((started.elapsed() * REST).min(LONGEST_REST));
        }
    }

    /// Waits for something to do; `None`: it is over.
    fn next(&self) -> Option<View> {
        let idle = |state: &mut State| !state.added && !state.ended;
        let mut state = self.changed.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        state.added = false;
        (!state.ended).then(|| std::mem::take(&mut state.pending))
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

    const PATIENCE: Duration = Duration::from_secs(5);

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
        let housekeeper = Housekeeper::with(move |view| {
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
    fn what_failed_is_tried_again_with_the_next_change() {
        let (housekeeper, asks, verdict) = housekeeper();
        housekeeper.submit(gone(1));
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), [frontend(1)]);
        verdict.send(false).unwrap();
        housekeeper.submit(gone(2));
        let mut asked = asks.recv_timeout(PATIENCE).unwrap();
        verdict.send(true).unwrap();
        if asked == [frontend(2)] {
            // It was taken before the failure was put back.
            housekeeper.submit(gone(3));
            asked = asks.recv_timeout(PATIENCE).unwrap();
            verdict.send(true).unwrap();
        }
        assert!(asked.contains(&frontend(1)), "{asked:?}");
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let (housekeeper, asks, _verdict) = housekeeper();
        drop(housekeeper);
        assert_eq!(asks.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
