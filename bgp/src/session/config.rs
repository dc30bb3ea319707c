//! What a session is told about itself and its peer.

use std::net::Ipv4Addr;
use std::time::Duration;

use thiserror::Error;

use crate::wire::{AS_TRANS, Capability, GracefulRestart, Role};
use crate::{Families, Family};

/// A hold time: zero (no timers), or three seconds and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldTime(u16);

impl HoldTime {
    /// The RFC's suggestion, 90 seconds.
    pub const DEFAULT: Self = Self(90);

    /// RFC 4271 §4.2: zero or at least three seconds.
    pub const fn new(seconds: u16) -> Result<Self, ConfigError> {
        match seconds {
            1 | 2 => Err(ConfigError::HoldTime(seconds)),
            _ => Ok(Self(seconds)),
        }
    }

    /// In seconds.
    pub const fn seconds(self) -> u16 {
        self.0
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// RFC 4271 §4.2.
    #[error("hold time {0} s: must be 0 or at least 3")]
    HoldTime(u16),
    /// RFC 7607, RFC 6793 §9.
    #[error("AS {0} is reserved")]
    ReservedAs(u32),
    /// RFC 6286 §2.1.
    #[error("the router id must not be 0.0.0.0")]
    RouterId,
}

/// Graceful restart as the restarting side (RFC 4724 §4.1): the peer keeps our routes while we start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestartConfig {
    /// How long we need at most to be back, in seconds, 1 to 4095; the peer keeps the routes no longer.
    pub restart_time: u16,
    /// R: this speaker was started anew, and its predecessor may have left routes with the peer.
    pub restarted: bool,
    /// F: what forwards the packets outlived that restart. Without it the peer drops what it kept at our OPEN.
    pub forwarding: bool,
}

impl GracefulRestartConfig {
    /// RFC 4724 §3: the restart time has twelve bits; 0 would keep nothing.
    pub const RESTART_TIME: std::ops::RangeInclusive<u16> = 1..=4095;

    /// Once a session was up nothing has restarted, and a lost connection stops no packet.
    pub(super) fn established(&mut self) {
        self.restarted = false;
        self.forwarding = true;
    }

    /// What our OPEN says of it.
    pub(super) fn capability(&self, families: Families) -> Capability {
        Capability::GracefulRestart(GracefulRestart {
            restarting: self.restarted,
            // RFC 8538: with N set a Cease would keep our routes too, and a drain has to get rid of them.
            notification: false,
            restart_time: self.restart_time.clamp(*Self::RESTART_TIME.start(), *Self::RESTART_TIME.end()),
            families: families.iter().map(|family| (family.afi(), Family::SAFI, self.forwarding)).collect(),
        })
    }
}

/// What we are to an external peer (RFC 9234).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleConfig {
    /// Our role.
    pub role: Role,
    /// Whether a peer that tells none is refused (RFC 9234 §4.2, strict mode).
    pub strict: bool,
}

/// One session's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS, as the peer sees it.
    pub local_as: u32,
    /// Our true AS, where the peer sees another one: it follows in the path (external peers only).
    pub behind_as: Option<u32>,
    /// The peer's AS; the same as ours makes the session internal (iBGP). `None`: any but ours.
    pub peer_as: Option<u32>,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// What we propose; the smaller of both proposals counts.
    pub hold_time: HoldTime,
    /// The time between KEEPALIVEs; never more than a third of the hold time in force, which `None` means.
    pub keepalive: Option<Duration>,
    /// The time between dials while the peer is away; `None`: from 1 s, doubling to 5 s.
    pub connect_retry: Option<Duration>,
    /// The families to offer; none means IPv4.
    pub families: Families,
    /// RFC 8950: offer IPv4 routes with the session's IPv6 address as next hop; for sessions over IPv6.
    pub extended_next_hop: bool,
    /// RFC 9234; of no meaning for an internal peer.
    pub role: Option<RoleConfig>,
    /// Never dial, wait for the peer.
    pub passive: bool,
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// Seeds the jitter of timers: different per session and start, fixed in tests.
    pub jitter_seed: u64,
    /// Whether the peer is asked to keep our routes over a restart.
    pub graceful_restart: Option<GracefulRestartConfig>,
}

impl SessionConfig {
    /// With defaults: hold time 90 s, IPv4, active, dial of at most 5 s, seed from the identities.
    pub fn new(
        local_as: u32,
        peer_as: impl Into<Option<u32>>,
        router_id: Ipv4Addr,
    ) -> Result<Self, ConfigError> {
        let peer_as = peer_as.into();
        for asn in peer_as.into_iter().chain([local_as]) {
            // RFC 7607 §2 and RFC 6793 §9: 0 and AS_TRANS are nobody's number.
            if asn == 0 || asn == u32::from(AS_TRANS) {
                return Err(ConfigError::ReservedAs(asn));
            }
        }
        // RFC 6286 §2.1: any four octets but zero.
        if router_id.is_unspecified() {
            return Err(ConfigError::RouterId);
        }
        Ok(Self {
            local_as,
            behind_as: None,
            peer_as,
            router_id,
            hold_time: HoldTime::DEFAULT,
            keepalive: None,
            connect_retry: None,
            families: Families::IPV4,
            extended_next_hop: false,
            role: None,
            passive: false,
            connect_timeout: Duration::from_secs(5),
            jitter_seed: u64::from(router_id.to_bits()) << 32 | u64::from(peer_as.unwrap_or_default()),
            graceful_restart: None,
        })
    }

    /// Whether both are in one AS.
    pub const fn is_internal(&self) -> bool {
        match self.peer_as {
            Some(peer_as) => self.local_as == peer_as,
            None => false,
        }
    }

    /// The families offered.
    pub(super) const fn offered(&self) -> Families {
        if self.families.is_empty() { Families::IPV4 } else { self.families }
    }
}
