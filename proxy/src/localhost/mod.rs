//! Node ports on localhost: TCP at 127.0.0.1 and ::1, relayed in user space (KEP-6032).
//!
//! For those who pull from a registry in the cluster through `localhost:30500`. nf_tables cannot translate a packet that
//! comes from loopback without `route_localnet`, which opens the node's own loopback services to its neighbours
//! (CVE-2020-8558), so nothing is translated here: a listener per node port takes connections and opens another one to
//! an endpoint. Opt-in, by a loopback prefix in `--nodeport-addresses`.
//!
//! Each connection draws one of the endpoints that the node's own traffic has; with `sessionAffinity: ClientIP` all of
//! localhost is one client and stays with one endpoint (`affinity.rs`). An endpoint has `DIAL` to answer. When one side
//! ends its half the other is told so. A node port that goes closes its connections; one that only has no endpoints
//! refuses new ones. UDP and SCTP are not served: the kernel answers port unreachable as for any port without a socket.
//!
//! Tasks: one per listener, one per connection, all in `JoinSet`s that end with [`serve_local_ports`]. Bound:
//! `CONNECTIONS` on the node; what comes beyond it is closed at once. A port that cannot be bound is counted, told once per kind
//! of failure, and tried again.

mod affinity;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_runtime::ObjectName;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::family::IpFamily;
use crate::health::BindFailure;
use crate::metrics::{FamilyLabel, ProxyMetrics};

/// How long an endpoint may take to accept.
const DIAL: Duration = Duration::from_secs(5);
/// Connections of all local ports together.
const CONNECTIONS: usize = 4096;

/// One node port at one loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPort {
    /// Whose it is.
    pub service: ObjectName,
    /// Where connections go; none: they are refused.
    pub endpoints: Box<[SocketAddr]>,
    /// `sessionAffinity: ClientIP`, and how long an idle client is remembered.
    pub affinity: Option<Duration>,
}

/// All of them, by the address where they listen.
pub type LocalPorts = BTreeMap<SocketAddr, LocalPort>;

/// What all listeners share.
#[derive(Clone)]
struct Shared {
    desired: watch::Receiver<LocalPorts>,
    connections: Arc<Semaphore>,
    metrics: ProxyMetrics,
    failures: mpsc::Sender<BindFailure>,
}

/// Serves the desired ports until told to stop, or until nobody can change them any more.
pub async fn serve_local_ports(
    mut desired: watch::Receiver<LocalPorts>,
    metrics: ProxyMetrics,
    failures: mpsc::Sender<BindFailure>,
    stop: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let shared = Shared { desired: desired.clone(), connections, metrics, failures };
    let mut tasks = JoinSet::new();
    let mut open: BTreeMap<SocketAddr, (Id, CancellationToken)> = BTreeMap::new();
    loop {
        let wanted: BTreeSet<SocketAddr> = desired.borrow_and_update().keys().copied().collect();
        for (_, (_, stop)) in open.iter().filter(|(address, _)| !wanted.contains(address)) {
            stop.cancel();
        }
        // A port that is wanted again while its old listener ends is opened after that, so it never meets itself.
        for &address in wanted.iter().filter(|&address| !open.contains_key(address)).collect::<Vec<_>>() {
            let stop = stop.child_token();
            let task = tasks.spawn(relay::serve(address, shared.clone(), stop.clone())).id();
            open.insert(address, (task, stop));
        }
        let listeners = |family| {
            let of_family = open.keys().filter(|address| IpFamily::of(address.ip()) == family);
            i64::try_from(of_family.count()).unwrap_or(i64::MAX)
        };
        for ip_family in IpFamily::ALL {
            shared
                .metrics
                .localhost_listeners
                .get_or_create(&FamilyLabel { ip_family })
                .set(listeners(ip_family));
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = desired.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next_with_id() => {
                let ended = match ended {
                    Ok((task, ())) => task,
                    Err(error) => {
                        tracing::error!(%error, "a localhost node port's task failed");
                        error.id()
                    }
                };
                open.retain(|_, (task, _)| *task != ended);
            }
        }
    }
    open.values().for_each(|(_, stop)| stop.cancel());
    let _ = timeout(Duration::from_secs(3), async { while tasks.join_next().await.is_some() {} }).await;
}

#[cfg(test)]
mod tests;
