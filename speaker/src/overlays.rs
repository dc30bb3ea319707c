//! What is laid over the endpoints that the slices tell, before anything is planned: probes and the floor; and what is
//! told of both.
//!
//! Decides nothing: `probing.rs` and `floor.rs` do. A node tells of held endpoints only those Services that have one
//! on this node, or on none that is known: otherwise every node of the cluster would write an Event for every Service, just when the API
//! server comes back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;
use herald_runtime::events::{EventReason, EventType, regarding};

use crate::floor::{Change, Release};
use crate::layer2::View;
use crate::reconcile::Reconciler;

impl Reconciler {
    /// Takes what the probes and the floor say by now into the index.
    pub(crate) fn overlays(&mut self, now: Instant) {
        for heard in self.probing.take() {
            self.index.set_probes(&heard.service, heard.probes);
            if let Some(text) = heard.failed {
                tracing::warn!(service = %heard.service, "{text}");
                self.tell_users(&heard.service, EventType::Warning, EventReason::EndpointProbeFailed, &text);
            }
            if let Some(text) = heard.recovered {
                tracing::info!(service = %heard.service, "{text}");
                self.tell_users(
                    &heard.service,
                    EventType::Normal,
                    EventReason::EndpointProbeRecovered,
                    &text,
                );
            }
        }
        self.floor(now);
    }

    /// Takes which nodes count as dead, as those who speak layer 2 see it.
    pub(crate) fn suspects(&mut self, owners: &View) {
        let wanted = self.settings.as_ref().is_some_and(|settings| settings.config.herald.suspect_endpoints);
        let nodes = if wanted { owners.suspects() } else { BTreeSet::new() };
        let before = self.index.suspects().clone();
        if !self.index.set_suspects(nodes) {
            return;
        }
        self.probing_nodes();
        let now = self.index.suspects();
        self.metrics.suspect_nodes.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
        let fallen = now.difference(&before).map(|node| {
            (
                node,
                EventType::Warning,
                EventReason::NodeSilent,
                "its speaker has fallen silent and its address does not answer: its \
             endpoints get no new connections as long as a Service has others",
            )
        });
        let back = before.difference(now);
        let back = back
            .map(|node| (node, EventType::Normal, EventReason::NodeHeard, "its endpoints are used again"));
        for (node, kind, reason, text) in fallen.chain(back) {
            match kind {
                EventType::Warning => tracing::warn!(%node, %reason, "{text}"),
                EventType::Normal => tracing::info!(%node, %reason, "{text}"),
            }
            // Once for all that see it.
            if owners.is_first(&self.options.node_name) {
                let regarding = regarding("Node", &ObjectName::new("", &**node), node);
                self.outputs.events.publish(regarding, kind, reason, text);
            }
        }
    }

    /// Tells who probes addresses: all nodes but those that count as dead.
    pub(crate) fn probing_nodes(&self) {
        let Some(settings) = &self.settings else { return };
        let (own, dead) = (&*self.options.node_name, self.index.suspects());
        let others = settings.others.keys().filter(|node| !dead.contains(*node));
        self.availability.nodes(others.map(|node| &**node).chain([own]));
    }

    fn floor(&mut self, now: Instant) {
        let grace =
            self.settings.as_ref().map_or(Duration::ZERO, |settings| settings.config.herald.floor_grace);
        let losses = self.index.take_losses();
        let before = self.floor.count();
        let changes = self.floor.step(now, grace, losses, self.index.dirty(), &self.index);
        if changes.is_empty() {
            return;
        }
        let (mut held, mut over) = (0, 0);
        for (service, change) in changes {
            match change {
                Change::Held(addresses) => {
                    held += 1;
                    tracing::debug!(%service, ?addresses, "endpoints are held");
                    let text = format!(
                        "endpoints of many Services turned not ready at once; {} of this one are used on for {grace:?}, \
                         or until one is ready",
                        addresses.len()
                    );
                    if self.is_told_here(&service, &addresses) {
                        self.tell_users(&service, EventType::Warning, EventReason::EndpointsHeld, &text);
                    }
                    self.index.set_held(&service, Some(addresses));
                }
                Change::Narrowed(addresses) => self.index.set_held(&service, Some(addresses)),
                Change::Released(why) => {
                    over += usize::from(why == Release::GraceOver);
                    tracing::debug!(%service, ?why, "endpoints are not held any more");
                    self.index.set_held(&service, None);
                }
            }
        }
        // They fall and are released one after another: the log has the begin and the end, the metric how many they are.
        if held > 0 && before == 0 {
            tracing::warn!(
                ?grace,
                "endpoints of many Services turned not ready at once; what was good last is used on"
            );
        }
        self.floor.over += over;
        if self.floor.count() == 0 {
            match std::mem::take(&mut self.floor.over) {
                0 => tracing::info!("no Service uses its last good endpoints any more"),
                services => tracing::warn!(
                    services,
                    "the grace is over for which the last good endpoints were used on: these Services have none that is ready"
                ),
            }
        }
        self.metrics.holds.inc_by(held);
        self.metrics.held_services.set(i64::try_from(self.floor.count()).unwrap_or(i64::MAX));
    }

    fn is_told_here(&self, service: &ObjectName, addresses: &BTreeSet<IpAddr>) -> bool {
        let Some(endpoints) = self.index.endpoints(service) else { return false };
        let here = |node: Option<&str>| node.is_none_or(|node| node == self.options.node_name);
        endpoints.waiting().into_iter().any(|(address, node)| addresses.contains(&address) && here(node))
    }

    fn tell_users(&self, service: &ObjectName, kind: EventType, reason: EventReason, text: &str) {
        let Some(object) = self.index.service(service) else { return };
        let text = format!("node {}: {text}", self.options.node_name);
        self.outputs.events.publish(regarding("Service", service, &object.uid), kind, reason, text);
    }
}
