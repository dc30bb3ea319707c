//! Whether the API server can be reached, as all watches of a role see it together.
//!
//! What counts is evidence: a page, a watch that begins, an event or a bookmark on one side; a connection that is refused,
//! cut or answered by nobody, and an answer of 5xx, on the other. A server that is slow is not away, and neither is one that refuses
//! (4xx): it is there, and what it says counts.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Whether the API server can be reached; clones share what they see.
#[derive(Debug, Clone)]
pub struct Reach(watch::Sender<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it was heard last, or the watching began.
    heard: Instant,
    /// It was heard at all.
    ever: bool,
    /// An attempt has failed since.
    failed: bool,
}

impl Seen {
    /// From when on it counts as away, if nothing else is seen.
    fn away_at(self, silence: Duration) -> Option<Instant> {
        self.failed.then_some(self.heard + silence)
    }
}

impl Default for Reach {
    /// Nothing has been seen yet.
    fn default() -> Self {
        Self(watch::Sender::new(Seen { heard: Instant::now(), ever: false, failed: false }))
    }
}

impl Reach {
    /// Returns as soon as the server was not heard for so long, and an attempt to reach it has failed meanwhile.
    pub async fn away(&self, silence: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            let at = seen.borrow_and_update().away_at(silence);
            let passed = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                // The sender is held by `self`.
                _ = seen.changed() => {}
            }
        }
    }

    /// When the server was heard last; `None`: never.
    pub fn heard_at(&self) -> Option<std::time::Instant> {
        let seen = *self.0.borrow();
        seen.ever.then(|| seen.heard.into_std())
    }

    pub(super) fn heard(&self) {
        self.0.send_replace(Seen { heard: Instant::now(), ever: true, failed: false });
    }

    pub(super) fn failed(&self, error: &kube::Error) {
        if !matches!(error, kube::Error::Api(status) if status.code < 500) {
            self.0.send_if_modified(|seen| !std::mem::replace(&mut seen.failed, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use kube::core::Status;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(3);

    fn refused() -> kube::Error {
        kube::Error::Service("connection refused".into())
    }

    fn answered(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("no", "No").with_code(code).boxed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_and_fails_is_away_and_who_is_slow_or_refuses_is_not() {
        for (what, failures, away) in [
            ("slow", vec![], false),
            ("forbidden", vec![answered(403)], false),
            ("expired", vec![answered(410)], false),
            ("busy", vec![answered(429)], false),
            ("without its store", vec![answered(503)], true),
            ("gone", vec![refused()], true),
        ] {
            let reach = Reach::default();
            failures.iter().for_each(|error| reach.failed(error));
            assert!(reach.away(SILENCE).now_or_never().is_none(), "{what}: not at once");
            let waited = tokio::time::timeout(SILENCE * 10, reach.away(SILENCE)).await;
            assert_eq!(waited.is_ok(), away, "{what}");
            assert_eq!(reach.heard_at(), None, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_heard_is_not_away_until_the_next_failure() {
        let reach = Reach::default();
        reach.failed(&refused());
        reach.heard();
        assert!(reach.heard_at().is_some());
        assert!(tokio::time::timeout(SILENCE * 10, reach.away(SILENCE)).await.is_err());
        reach.failed(&refused());
        assert!(tokio::time::timeout(SILENCE * 10, reach.away(SILENCE)).await.is_ok());
    }
}
