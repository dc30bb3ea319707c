//! What a session is told about itself and its peer.

use std::net::Ipv4Addr;
use std::time::Duration;

use thiserror::Error;

use crate::Families;
use crate::wire::AS_TRANS;

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

/// The place of graceful restart (RFC 4724), which is not negotiated yet: there is no value of this type.
///
/// What it will hold: the restart time, whether forwarding state was preserved (F, per family), whether this is a
/// restart (R). What it will change: the capability in `Offer`, and a way to stop by FIN without Cease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GracefulRestartConfig {}

/// One session's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS.
    pub local_as: u32,
    /// The peer's AS; the same as ours makes the session internal (iBGP).
    pub peer_as: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// What we propose; the smaller of both proposals counts.
    pub hold_time: HoldTime,
    /// The families to offer; none means IPv4.
    pub families: Families,
    /// Never dial, wait for the peer.
    pub passive: bool,
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// Seeds the jitter of timers: different per session and start, fixed in tests.
    pub jitter_seed: u64,
    /// Not yet negotiated.
    pub graceful_restart: Option<GracefulRestartConfig>,
}

impl SessionConfig {
    /// With defaults: hold time 90 s, IPv4, active, dial of at most 5 s, seed from the identities.
    pub fn new(local_as: u32, peer_as: u32, router_id: Ipv4Addr) -> Result<Self, ConfigError> {
        for asn in [local_as, peer_as] {
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
            peer_as,
            router_id,
            hold_time: HoldTime::DEFAULT,
            families: Families::IPV4,
            passive: false,
            connect_timeout: Duration::from_secs(5),
            jitter_seed: u64::from(router_id.to_bits()) << 32 | u64::from(peer_as),
            graceful_restart: None,
        })
    }

    /// Whether both are in one AS.
    pub const fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }

    /// The families offered.
    pub(super) const fn offered(&self) -> Families {
        if self.families.is_empty() { Families::IPV4 } else { self.families }
    }
}
