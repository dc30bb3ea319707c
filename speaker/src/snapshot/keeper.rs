//! When a snapshot is written: the loop's side.
//!
//! Encodes a part of the index whenever the thread has room for one, so that the loop is never kept from its work for longer
//! than a part takes. The next snapshot begins a second after the last one began at the earliest, and large ones so
//! much later that a cluster in which something changes all the time writes no more than [`RATE`].

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;
use herald_runtime::watch::Reach;
use tokio::sync::{oneshot, watch};

use super::file::{self, Piece, Pieces};
use super::{Identity, SnapshotMetrics, image};
use crate::index::Index;

/// From the begin of one snapshot to the begin of the next, at least.
const PACE: Duration = Duration::from_secs(1);
/// What is written per second at most, in octets, on average.
pub(super) const RATE: u64 = 1 << 20;
/// Octets that are encoded at a time, or a little more.
const PART: usize = 128 << 10;
/// How often the file's time is renewed while the API server is heard and says nothing new.
const RENEW: Duration = Duration::from_secs(60);
/// For the last snapshot, when the speaker stops.
const LAST: Duration = Duration::from_secs(1);

/// What a snapshot is of: another one, another snapshot.
type View = (u64, Option<String>);

/// Keeps the snapshot.
#[derive(Debug)]
pub(crate) struct Keeper {
    identity: Identity,
    /// The UID of `kube-system`, once it is known.
    cluster: watch::Receiver<Option<String>>,
    reach: Reach,
    metrics: SnapshotMetrics,
    /// None: no snapshot is kept.
    pieces: Option<Pieces>,
    pass: Option<Pass>,
    /// What the last complete one is of.
    kept: Option<View>,
    /// When the next one may begin. None: nothing has been complete yet.
    next: Option<Instant>,
    renewed: Instant,
    /// When [`Self::turn`] has something to do, as of its last call.
    due: Option<Instant>,
    /// A snapshot stands in for lists.
    stands_in: bool,
}

/// A snapshot that is being written.
#[derive(Debug)]
struct Pass {
    of: View,
    /// The Service that was encoded last.
    last: Option<ObjectName>,
    size: u64,
    begun: Instant,
}

impl Keeper {
    /// Keeps one in this directory; `None`: none.
    pub(crate) fn start(
        directory: Option<PathBuf>,
        identity: Identity,
        cluster: watch::Receiver<Option<String>>,
        reach: Reach,
        metrics: SnapshotMetrics,
    ) -> std::io::Result<Self> {
        let pieces = directory.map(|directory| file::start(directory, metrics.clone())).transpose()?;
        Ok(Self {
            identity,
            cluster,
            reach,
            metrics,
            pieces,
            pass: None,
            kept: None,
            next: None,
            renewed: Instant::now(),
            due: None,
            stands_in: false,
        })
    }

    /// Waits until [`Self::turn`] has something to do. Cancel-safe.
    pub(crate) async fn wake(&self) {
        match (&self.pieces, &self.pass, self.due) {
            (Some(pieces), Some(_), _) => {
                // The room is taken by the turn.
                if pieces.to.reserve().await.is_err() {
                    std::future::pending().await
                }
            }
            (Some(_), None, Some(due)) => tokio::time::sleep_until(due.into()).await,
            _ => std::future::pending().await,
        }
    }

    /// Writes what is due of the index as it is now.
    pub(crate) fn turn(&mut self, index: &Index, now: Instant) {
        self.tell(index);
        let Some(pieces) = &self.pieces else { return };
        let view = index.generation().map(|generation| (generation, self.cluster.borrow().clone()));
        let Some(view) = view else { return };
        let next = *self.next.get_or_insert(now + PACE);
        let new = self.kept.as_ref() != Some(&view);
        if self.pass.is_none() && new && next <= now {
            self.pass = Some(Pass { of: view, last: None, size: 0, begun: now });
        }
        if self.pass.is_some() {
            self.part(index);
        } else if !new && self.renewed + RENEW <= now {
            self.renewed = now;
            if pieces.failed.load(Ordering::Relaxed) {
                // Once more: the disk may have room again.
                self.kept = None;
            } else if self.reach.heard_at().is_some_and(|heard| now.saturating_duration_since(heard) < RENEW)
            {
                // Without room it waits for the next time.
                let _ = pieces.to.try_send(Piece::StillRight);
            }
        }
        let due = if self.kept.is_none() || new { next } else { self.renewed + RENEW };
        self.due = Some(due);
    }

    /// Writes what has changed since the last one, if it can be done soon: the speaker stops.
    pub(crate) async fn finish(&mut self, index: &Index) {
        let Some(pieces) = self.pieces.clone() else { return };
        let writing = async {
            // Whatever it was begun with is older.
            self.pass = None;
            self.next = Some(Instant::now());
            self.turn(index, Instant::now());
            while self.pass.is_some() && pieces.to.reserve().await.is_ok() {
                self.part(index);
            }
            let (flushed, done) = oneshot::channel();
            if pieces.to.send(Piece::Flush(flushed)).await.is_ok() {
                let _ = done.await;
            }
        };
        if tokio::time::timeout(LAST, writing).await.is_err() {
            tracing::warn!("the last snapshot took too long: the one before it stays");
        }
    }

    /// A snapshot is begun and not complete.
    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.pass.is_some()
    }

    /// The next part, if there is room for it.
    fn part(&mut self, index: &Index) {
        let (Some(pieces), Some(pass)) = (&self.pieces, &mut self.pass) else { return };
        let Ok(room) = pieces.to.try_reserve() else { return };
        let first = pass.size == 0;
        let mut octets = Vec::with_capacity(PART + (PART >> 3));
        if first {
            image::begin(&self.identity, pass.of.1.as_deref(), index, &mut octets);
        }
        let last = image::services(index, &mut pass.last, &mut octets, PART);
        pass.size += octets.len() as u64;
        room.send(Piece::Part { octets, first, last });
        if last {
            let rest = Duration::from_millis(pass.size.saturating_mul(1000) / RATE);
            self.next = Some(pass.begun + PACE.max(rest));
            self.kept = self.pass.take().map(|pass| pass.of);
            self.renewed = Instant::now();
        }
    }

    /// Tells when the API's own lists have taken the place of a snapshot.
    fn tell(&mut self, index: &Index) {
        let stands_in = !index.remembered().is_empty();
        if std::mem::replace(&mut self.stands_in, stands_in) != stands_in {
            self.metrics.in_force.set(stands_in.into());
            if !stands_in {
                tracing::info!("the API server's own lists have taken the place of the snapshot");
            }
        }
    }
}
