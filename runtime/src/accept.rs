//! Connections to a server of ours: bounded in number, each a task of its own, all ended with their server.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait in the listen queue.
pub const CONNECTIONS: usize = 32;
/// Before the next connection after one that could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// Hands each connection to `serve`, which has a deadline of its own, until the token is cancelled.
pub async fn run<F>(listener: TcpListener, shutdown: CancellationToken, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            } => accepted,
        };
        let (stream, slot) = match accepted {
            (Ok((stream, _)), Ok(slot)) => (stream, slot),
            (error, _) => {
                // Out of file descriptors, or a client that is gone already: neither may end the role, and no event
                // tells when descriptors are free again.
                tracing::debug!(error = ?error.err(), "a connection is not accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let served = serve(stream);
        connections.spawn(async move {
            let _slot = slot;
            served.await;
        });
    }
}
