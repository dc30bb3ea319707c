//! Who is still missing before this process is ready.
//!
//! Each part takes a named [`Handle`] at start and says `ready` once it is; `/readyz` is 200 when all have said
//! so and otherwise lists the missing names. A part may become unready again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The parts of this process and whether each is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<String, watch::Sender<bool>>>>,
}

/// One part's own switch; clones switch the same part.
#[derive(Debug, Clone)]
pub struct Handle {
    part: watch::Sender<bool>,
}

impl Readiness {
    /// No parts yet: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The switch of a part that is not ready until it says so. The same name gives the same part.
    pub fn handle(&self, name: impl Into<String>) -> Handle {
        let part = self.lock().entry(name.into()).or_insert_with(|| watch::Sender::new(false)).clone();
        Handle { part }
    }

    /// Names of the parts that are not ready, in order.
    pub fn missing(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, part)| !*part.borrow()).map(|(name, _)| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<bool>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// This part is ready.
    pub fn ready(&self) {
        self.part.send_replace(true);
    }

    /// This part is not ready (any more).
    pub fn unready(&self) {
        self.part.send_replace(false);
    }

    /// What was said last.
    pub fn is_ready(&self) -> bool {
        *self.part.borrow()
    }

    /// Returns once this part is ready.
    pub async fn wait(&self) {
        let mut part = self.part.subscribe();
        // The sender is held by `self`, so that waiting can only end by the value.
        let _ = part.wait_for(|ready| *ready).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_named_until_they_are_ready() {
        let readiness = Readiness::new();
        let services = readiness.handle("services");
        let lease = readiness.handle("lease");
        assert_eq!(readiness.missing(), ["lease", "services"]);
        services.ready();
        assert_eq!(readiness.missing(), ["lease"]);
        lease.ready();
        assert!(readiness.missing().is_empty());
        lease.unready();
        assert_eq!(readiness.missing(), ["lease"]);
    }
}
