//! The one set of tasks of a role.
//!
//! A task that ends before the shutdown, well or badly, ends the role: half a role that looks alive is worse than
//! a restart. At shutdown the tasks have a grace period, then they are aborted.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A role's tasks.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// An empty set; the end of any task cancels `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { set: JoinSet::new(), shutdown }
    }

    /// Starts a task that stops by itself when the token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Starts a task that is dropped where it stands when the token is cancelled. What it ends with after that is nobody's concern: those that
    /// it works for may have gone before it is run again.
    pub fn spawn_until_shutdown<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            let ended = shutdown.run_until_cancelled(task).await;
            ended.filter(|_| !shutdown.is_cancelled()).unwrap_or(Ok(()))
        });
    }

    /// Waits for the shutdown or for the first task that ends, then for all others, at most `grace` long.
    /// The first failure is the result.
    pub async fn join(mut self, grace: Duration) -> anyhow::Result<()> {
        let mut result = Ok(());
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            ended = self.set.join_next() => if let Some(ended) = ended {
                result = match ended {
                    Ok((name, Ok(()))) if self.shutdown.is_cancelled() => { tracing::debug!(task = name, "ended"); Ok(()) }
                    Ok((name, Ok(()))) => Err(anyhow!("task {name} ended by itself")),
                    Ok((name, Err(error))) => Err(error).context(name),
                    Err(error) => Err(error).context("a task panicked"),
                };
            }
        }
        self.shutdown.cancel();
        let rest = async {
            while let Some(ended) = self.set.join_next().await {
                let failure = match ended {
                    Ok((_, Ok(()))) => continue,
                    Ok((name, Err(error))) => error.context(name),
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => anyhow!(error).context("a task panicked"),
                };
                if result.is_ok() {
                    result = Err(failure);
                } else {
                    tracing::warn!(error = format!("{failure:#}"), "another task failed during the stop");
                }
            }
        };
        if tokio::time::timeout(grace, rest).await.is_err() {
            tracing::warn!(seconds = grace.as_secs(), "some tasks did not stop in time and are aborted");
            self.set.shutdown().await;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_ends_the_role_and_is_named() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        let seen = shutdown.clone();
        tasks.spawn("waits", async move {
            seen.cancelled().await;
            Ok(())
        });
        tasks.spawn("ends", async { Ok(()) });
        let error = tasks.join(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.to_string().contains("ends"), "{error}");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_aborted_after_the_grace() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("stubborn", std::future::pending());
        tasks.spawn_until_shutdown("plain", std::future::pending());
        shutdown.cancel();
        tasks.join(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_task_misses_after_the_shutdown_is_no_failure() {
        let shutdown = CancellationToken::new();
        let (others, mut theirs) = tokio::sync::watch::channel(());
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn_until_shutdown("listens", async move { Ok(theirs.changed().await?) });
        tokio::task::yield_now().await;
        // Both have happened when it is run again.
        shutdown.cancel();
        drop(others);
        tasks.join(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_role() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("panics", async { panic!("of the test") });
        assert!(tasks.join(Duration::from_secs(1)).await.is_err());
    }
}
