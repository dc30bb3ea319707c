//! One local port: listens while there are endpoints, and carries each connection to one of them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use herald_runtime::events::EventReason;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::affinity::Affinity;
use super::{DIAL, Shared};
use crate::family::IpFamily;
use crate::health::{BindFailure, listen};
use crate::metrics::FamilyLabel;

/// Serves one local port; ends, with all its connections, when told to stop.
pub(super) async fn serve(address: SocketAddr, shared: Shared, stop: CancellationToken) {
    let mut desired = shared.desired.clone();
    let mut connections = JoinSet::new();
    let mut affinity = Affinity::default();
    let (mut listener, mut failing) = (None, false);
    while !stop.is_cancelled() {
        let port = desired.borrow_and_update().get(&address).cloned();
        let endpoints = port.as_ref().map_or(&[][..], |port| &port.endpoints);
        if endpoints.is_empty() {
            // Without a listener clients are refused at once; connections that stand go on.
            listener = None;
        } else if listener.is_none() {
            listener = bound(address, &shared, &stop).await;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = desired.changed() => if changed.is_err() { break },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a localhost connection's task failed");
                }
            }
            accepted = accept(listener.as_ref()) => {
                let failed_before = std::mem::replace(&mut failing, accepted.is_err());
                let timeout = port.as_ref().and_then(|port| port.affinity);
                let chosen = affinity.choose(endpoints, timeout, Instant::now(), draw);
                match (accepted, chosen) {
                    (Ok(client), Some(endpoint)) => {
                        let Ok(slot) = Arc::clone(&shared.connections).try_acquire_owned() else {
                            tracing::debug!(%address, "too many connections to localhost: one more is closed");
                            continue;
                        };
                        connections.spawn(async move {
                            relay(client, endpoint).await;
                            drop(slot);
                        });
                    }
                    (Err(error), _) => {
                        // Out of descriptors, most likely: once, and not with each try.
                        if !failed_before {
                            tracing::warn!(%error, %address, "connections to a node port on localhost cannot be accepted; trying again");
                        }
                        sleep(std::time::Duration::from_millis(50)).await;
                    }
                    (Ok(_), None) => {}
                }
            }
        }
    }
    connections.shutdown().await;
}

/// Opens the listener, however long that takes.
async fn bound(address: SocketAddr, shared: &Shared, stop: &CancellationToken) -> Option<TcpListener> {
    let failed = |error: io::Error| {
        let service = shared.desired.borrow().get(&address).map(|port| port.service.clone());
        let named = service.as_ref().map(tracing::field::display);
        tracing::warn!(
            %error, %address, service = named,
            "cannot listen at the node port on localhost, which is refused there; trying again"
        );
        let label = FamilyLabel { ip_family: IpFamily::of(address.ip()) };
        shared.metrics.localhost_failures.get_or_create(&label).inc();
        let _ = shared.failures.try_send(BindFailure {
            address,
            service,
            reason: EventReason::LocalhostPortFailed,
            error,
        });
    };
    listen(address, stop, failed).await
}

/// The next client, of a port that has a listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    let Some(listener) = listener else { return std::future::pending().await };
    Ok(listener.accept().await?.0)
}

/// Carries both directions until both have ended. The end of one half is passed on as such.
async fn relay(mut client: TcpStream, endpoint: SocketAddr) {
    let mut server = match timeout(DIAL, TcpStream::connect(endpoint)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            return tracing::debug!(%endpoint, %error, "endpoint refused a localhost connection");
        }
        Err(_) => return tracing::debug!(%endpoint, "endpoint did not answer a localhost connection"),
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
        tracing::trace!(%endpoint, %error, "localhost connection");
    }
}

/// A number below `count`. Each `RandomState` has other keys, so each hash of nothing is another number.
fn draw(count: usize) -> usize {
    let random = RandomState::new().build_hasher().finish();
    usize::try_from(random % u64::try_from(count.max(1)).unwrap_or(1)).unwrap_or_default()
}
