//! The one task that probes: begins what is due, hears what came of it, publishes what it means.
//!
//! What is wanted and what was found travel in `watch` channels: the latest counts, nothing queues. Every probe is a task of
//! this task's own set, at most 512 at a time, and ends by its timeout; all of them end with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use herald_runtime::{ObjectName, sleep_until};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::attempt;
use super::metrics::ProbeMetrics;
use super::prober::Prober;
use super::state::ServiceProbes;
use super::targets::Targets;

/// What is to be probed, by Service.
pub type Probes = BTreeMap<ObjectName, Arc<Targets>>;
/// What was found, by Service.
pub type Verdicts = BTreeMap<ObjectName, Arc<ServiceProbes>>;

/// Probes until nobody wants anything any more.
pub async fn run(
    mut desired: watch::Receiver<Probes>,
    verdicts: watch::Sender<Verdicts>,
    metrics: ProbeMetrics,
) {
    let mut prober = Prober::default();
    let mut running = JoinSet::new();
    loop {
        for attempt in prober.due(Instant::now()) {
            running.spawn(async move { (attempt.id, attempt::probe(&attempt.spec, attempt.to).await) });
        }
        let mut changed = Vec::new();
        tokio::select! {
            news = desired.changed() => {
                if news.is_err() {
                    return;
                }
                let wanted = desired.borrow_and_update().clone();
                changed = prober.set(Instant::now(), &wanted);
            }
            Some(ended) = running.join_next() => match ended {
                Ok((id, outcome)) => {
                    metrics.attempted(outcome);
                    changed.extend(prober.handle(Instant::now(), id, outcome));
                }
                // Its socket is not probed again until it is wanted anew; nothing in a probe can panic.
                Err(error) => tracing::error!(%error, "a probe's task failed"),
            },
            () = sleep_until(prober.next_deadline()) => {}
        }
        if changed.is_empty() {
            continue;
        }
        metrics.stand(prober.counts(), prober.transitions());
        verdicts.send_modify(|verdicts| {
            for name in changed {
                match prober.verdict(&name) {
                    Some(verdict) => verdicts.insert(name, Arc::clone(verdict)),
                    None => verdicts.remove(&name),
                };
            }
        });
    }
}
