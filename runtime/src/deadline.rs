//! Waiting for a deadline that there may be.

use std::time::Instant;

/// Waits until then; without a deadline, for ever. Cancel-safe.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
