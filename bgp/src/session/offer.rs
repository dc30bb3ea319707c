//! The capabilities we offer, and how the offer shrinks for peers that cannot bear it (RFC 5492 §3).
//!
//! A NOTIFICATION 2/7 that lists capabilities we offered drops those; one that lists nothing, and 2/4, drop all that is optional. The
//! full offer returns after a session or a start, for the peer may have been upgraded.

use super::SessionConfig;
use crate::wire::{Capability, Code, Notification};
use crate::{Families, Family};

#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    dropped: Vec<Capability>,
    /// No optional parameter at all.
    bare: bool,
}

impl Offer {
    /// What our OPEN says now.
    pub(super) fn capabilities(&self, config: &SessionConfig) -> Vec<Capability> {
        if self.bare {
            return Vec::new();
        }
        let mut all: Vec<_> = config.offered().iter().map(Capability::family).collect();
        all.extend([
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
            // RFC 6793 §4.1: also if two octets would do.
            Capability::FourOctetAs(config.local_as),
        ]);
        if config.extended_next_hop && config.offered().contains(Family::Ipv4Unicast) {
            let (v4, v6) = (Family::Ipv4Unicast.afi(), Family::Ipv6Unicast.afi());
            all.push(Capability::ExtendedNextHop(vec![(v4, Family::SAFI.into(), v6)]));
        }
        // RFC 9234 §4.2: on external sessions only.
        all.extend(config.role.filter(|_| !config.is_internal()).map(|role| Capability::Role(role.role)));
        all.extend(config.graceful_restart.map(|restart| restart.capability(config.offered())));
        all.retain(|capability| !self.dropped.iter().any(|dropped| same(dropped, capability)));
        all
    }

    /// Shrinks the offer after a refusal; whether it is another one now, so that a new try makes sense at once.
    pub(super) fn reduce(&mut self, notification: &Notification, config: &SessionConfig) -> bool {
        let offered = self.capabilities(config);
        if offered.is_empty() {
            return false;
        }
        match notification.code {
            Code::UNSUPPORTED_OPTIONAL_PARAMETER => self.make_bare(config),
            Code::UNSUPPORTED_CAPABILITY if notification.data.is_empty() => self.make_bare(config),
            Code::UNSUPPORTED_CAPABILITY => {
                // What is listed and was not offered, the peer misses: no smaller offer helps.
                let listed = Capability::decode_list(&notification.data).unwrap_or_default();
                let is_listed = |c: &&Capability| listed.iter().any(|listed| same(listed, c));
                let refused: Vec<_> = offered.iter().filter(is_listed).cloned().collect();
                let needed = |c: &Capability| matches!(c, Capability::MultiProtocol { .. });
                let families_left = offered.iter().any(|c| needed(c) && !refused.contains(c));
                if refused.is_empty() {
                    false
                } else if families_left {
                    self.dropped.extend(refused);
                    true
                } else {
                    self.make_bare(config)
                }
            }
            _ => false,
        }
    }

    /// RFC 4760 §8: nothing at all means IPv4 unicast, so there must be something to say in it.
    fn make_bare(&mut self, config: &SessionConfig) -> bool {
        let possible = config.offered().intersection(Families::IPV4).contains(Family::Ipv4Unicast);
        self.bare |= possible;
        possible
    }
}

/// Whether two capabilities are one, whatever their values; of the multiprotocol capability there is one per family.
fn same(one: &Capability, other: &Capability) -> bool {
    one == other || (one.code() == other.code() && !matches!(one, Capability::MultiProtocol { .. }))
}
