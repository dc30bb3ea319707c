//! Others' edits of Herald's tables: when they are looked at, and how they are told.
//!
//! A monitor says that somebody touched the tables; the look compares them with the program and mends what differs. Who
//! edits them over and over (another speaker, a script that restores a saved ruleset) gets an answer each time, but
//! after [`BURST`] looks in a row only every [`PAUSE`], so that two that disagree do not spin. [`Repairs`] is the
//! decision, without a clock of its own; [`Monitoring`] the input and [`Foreign`] what is told: one line of log per
//! repair, metrics, and an Event on the Node when the looks begin to be held back.

use std::time::{Duration, Instant};

use herald_proxy::netlink::Monitor;
use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventRecorder, EventType, regarding};
use herald_runtime::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// So many looks are taken at once, without a pause between them.
const BURST: u32 = 10;
/// The pause between looks after that.
const PAUSE: Duration = Duration::from_secs(10);
/// Without a look for so long, a burst is granted again.
const QUIET: Duration = Duration::from_secs(60);

/// When a suspicion is looked into.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    suspected: bool,
    /// Looks without a quiet time between them.
    looks: u32,
    last: Option<Instant>,
}

impl Repairs {
    /// Somebody may have edited the tables.
    pub(crate) fn suspect(&mut self) {
        self.suspected = true;
    }

    /// When the suspicion is to be looked into; `None` without one.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let pause = if self.looks < BURST { Duration::ZERO } else { PAUSE };
        self.suspected.then(|| self.last.map_or(now, |last| last + pause))
    }

    /// Takes the suspicion if it is due.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.next(now).is_none_or(|at| at > now) {
            return false;
        }
        if self.last.is_none_or(|last| last + QUIET <= now) {
            self.looks = 0;
        }
        (self.suspected, self.looks, self.last) = (false, self.looks + 1, Some(now));
        true
    }

    /// True while looks are held back.
    pub(crate) fn contested(&self, now: Instant) -> bool {
        self.looks >= BURST && self.last.is_some_and(|last| now < last + QUIET)
    }
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// None was due.
    None,
    /// All was as it should be.
    Intact,
    /// It is again.
    Mended,
    /// It could not be mended: nothing is known to be in force.
    Lost,
}

/// The monitor as an input of the loop.
#[derive(Debug)]
pub(crate) struct Monitoring(pub(crate) Option<Monitor>);

impl Monitoring {
    /// Returns when others touched Herald's tables; never without a monitor.
    pub(crate) async fn changed(&mut self) {
        let Some(monitor) = &mut self.0 else { return std::future::pending().await };
        if let Err(error) = monitor.changed().await {
            tracing::warn!(%error, "nftables' notifications have ended: edits by others are noticed within seconds only");
            self.0 = None;
        }
    }
}

/// What is told about others' edits.
#[derive(Debug)]
pub(crate) struct Foreign {
    edits: Counter,
    repairs: Counter,
    contested: Gauge,
    was_contested: bool,
}

impl Foreign {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            edits: metrics.register(
                "herald_proxy_foreign_edits",
                "Times that others were seen to touch Herald's nftables tables",
                Counter::default(),
            ),
            repairs: metrics.register(
                "herald_proxy_repairs",
                "Times that others' edits of Herald's nftables tables were undone",
                Counter::default(),
            ),
            contested: metrics.register(
                "herald_proxy_tables_contested",
                "1 while others edit Herald's nftables tables so often that repairs are held back",
                Gauge::default(),
            ),
            was_contested: false,
        }
    }

    /// The monitor has seen something.
    pub(crate) fn edited(&self) {
        self.edits.inc();
    }

    /// A look was taken, or none was due.
    pub(crate) fn looked(&mut self, look: Look, contested: bool, events: &EventRecorder, node: &str) {
        if matches!(look, Look::Mended | Look::Lost) {
            self.repairs.inc();
        }
        if contested == self.was_contested {
            return;
        }
        self.was_contested = contested;
        self.contested.set(contested.into());
        if !contested {
            tracing::info!("nobody else has edited Herald's nftables tables for a while");
            return;
        }
        let text = format!(
            "others edit Herald's nftables tables (ip herald, ip6 herald) again and again; they are mended every {} s \
             only until that ends; `nft monitor` shows who",
            PAUSE.as_secs()
        );
        tracing::error!("{text}");
        // Nodes are referred to by their name in place of a uid, as the kubelet does.
        let regarding = regarding("Node", &ObjectName::new("", node), node);
        events.publish(regarding, EventType::Warning, EventReason::ProxyTablesContested, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_looked_at_without_a_suspicion_and_each_once() {
        let (mut repairs, now) = (Repairs::default(), Instant::now());
        assert_eq!(repairs.next(now), None);
        assert!(!repairs.take(now));
        repairs.suspect();
        repairs.suspect();
        assert_eq!(repairs.next(now), Some(now));
        assert!(repairs.take(now));
        assert!(!repairs.take(now));
        assert_eq!(repairs.next(now), None);
    }

    #[test]
    fn who_edits_without_end_is_answered_at_once_for_a_while_and_then_with_pauses() {
        let (mut repairs, start) = (Repairs::default(), Instant::now());
        let mut looks = Vec::new();
        for tenth in 0..1000 {
            let now = start + Duration::from_millis(100) * tenth;
            repairs.suspect();
            if repairs.take(now) {
                looks.push(tenth);
            }
            assert_eq!(repairs.contested(now), looks.len() >= 10, "at {tenth}");
        }
        assert_eq!(looks[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 109, 209]);
        assert_eq!(looks.len(), 10 + 9);
        // After a quiet minute everything is forgotten.
        let later = start + Duration::from_secs(100) + QUIET;
        assert!(!repairs.contested(later));
        repairs.suspect();
        assert!(repairs.take(later));
        repairs.suspect();
        assert_eq!(repairs.next(later), Some(later));
    }

    #[test]
    fn the_begin_and_the_end_of_a_contest_are_told_once() {
        let registry = Metrics::new();
        let mut foreign = Foreign::new(&registry);
        let (events, shown) = (EventRecorder::disconnected(), || registry.encode().unwrap());
        foreign.edited();
        foreign.looked(Look::Intact, false, &events, "node-1");
        assert!(shown().contains("herald_proxy_repairs_total 0"));
        foreign.looked(Look::Mended, true, &events, "node-1");
        foreign.looked(Look::Lost, true, &events, "node-1");
        for line in [
            "herald_proxy_foreign_edits_total 1",
            "herald_proxy_repairs_total 2",
            "herald_proxy_tables_contested 1",
        ] {
            assert!(shown().lines().any(|l| l == line), "{line} in {}", shown());
        }
        foreign.looked(Look::None, false, &events, "node-1");
        assert!(shown().contains("herald_proxy_tables_contested 0"));
    }
}
