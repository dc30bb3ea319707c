//! The start without the API server.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use herald_runtime::readiness::Handle;
use herald_runtime::watch::Reach;
use tokio::sync::{mpsc, watch};

use super::{Identity, Unusable, file, path};
use crate::index::Observed;
use crate::received::Received;

/// How long nothing must have been heard of the API server, with an attempt that failed.
pub(super) const AWAY: Duration = Duration::from_secs(3);

/// Where a snapshot may be, and whose.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory; `None`: nowhere.
    pub(crate) directory: Option<PathBuf>,
    /// Whose.
    pub(crate) identity: Identity,
}

/// Lets the snapshot stand in for lists that have not come, once the API server counts as away. Never ends.
///
/// `lists` are ready when their first list has come; `cluster` is told the UID of `kube-system`, if nobody has been before.
pub(crate) async fn resume(
    place: Place,
    reach: Reach,
    lists: Vec<Handle>,
    observed: mpsc::Sender<Received>,
    cluster: watch::Sender<Option<String>>,
) -> anyhow::Result<()> {
    let Place { directory: Some(directory), identity } = place else { return std::future::pending().await };
    let complete = async {
        for list in &lists {
            list.wait().await;
        }
    };
    tokio::select! {
        biased;
        () = complete => return std::future::pending().await,
        () = reach.away(AWAY) => {}
    }
    let path = path(&directory);
    let read = move || file::read(&directory, &identity, SystemTime::now());
    match tokio::task::spawn_blocking(read).await? {
        Ok((remembered, age)) => {
            tracing::warn!(
                path = %path.display(), minutes = age.as_secs() / 60, services = remembered.services.len(),
                "the API server cannot be reached: going on with the snapshot of what it said last, until it says more"
            );
            cluster.send_if_modified(|known| {
                let unknown = known.is_none();
                if unknown {
                    known.clone_from(&remembered.cluster);
                }
                unknown
            });
            // The loop ends with the role.
            let _ = observed.send(Received::now(Observed::Remembered(Box::new(remembered)))).await;
        }
        Err(Unusable::Missing) => tracing::warn!(
            path = %path.display(),
            "the API server cannot be reached, and there is no snapshot of what it said last: nothing is announced before it answers"
        ),
        Err(error) => tracing::error!(
            path = %path.display(), %error,
            "the API server cannot be reached, and the snapshot of what it said last cannot be used: nothing is announced before it answers"
        ),
    }
    drop(observed);
    std::future::pending().await
}
