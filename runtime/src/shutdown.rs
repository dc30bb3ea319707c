//! Signals to one token: the first SIGTERM or SIGINT asks everybody to stop, a second one ends the process at once.
//!
//! The token is the only message: every loop selects on it and every orderly stop (withdrawing, releasing the
//! lease) happens behind it.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Waits for the first signal, cancels `shutdown`, then waits for the second and returns [`ShutdownError::Aborted`].
///
/// Returns `Ok` if `shutdown` was cancelled by somebody else. Race it against the role in `main`: when it returns
/// `Err`, return from `main` with that error.
pub async fn signals(shutdown: CancellationToken) -> Result<(), ShutdownError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ShutdownError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ShutdownError::Signals)?;
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    shutdown.cancel();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err(ShutdownError::Aborted)
}

/// Runs `role` with a token that the first signal cancels; a second signal drops the role where it stands.
pub async fn run<F>(role: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let shutdown = CancellationToken::new();
    let role = role(shutdown.clone());
    tokio::select! {
        biased;
        result = role => result,
        result = signals(shutdown) => result.map_err(Into::into),
    }
}

/// Why the process ends without an orderly stop.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// The signals cannot be received.
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    /// A second signal came.
    #[error("stopped by a second signal before the stop was complete")]
    Aborted,
}
