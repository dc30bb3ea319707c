//! Timers of BFD sessions (RFC 5880), as a profile that peers name.

use std::time::Duration;

/// One profile; the default is that of a profile that sets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BfdProfile {
    /// Unique, not empty.
    pub name: String,
    /// The time between packets that we are able to receive.
    pub receive_interval: Duration,
    /// The time between packets that we want to send.
    pub transmit_interval: Duration,
    /// So many packets may be missing, 2 to 255.
    pub detect_multiplier: u8,
    /// The time between echo packets.
    pub echo_interval: Duration,
    /// Whether echo packets are used.
    pub echo_mode: bool,
    /// Whether the neighbour is to begin.
    pub passive_mode: bool,
    /// The lowest TTL of packets over several hops, 1 to 254.
    pub minimum_ttl: u8,
}

impl BfdProfile {
    /// Intervals in milliseconds, as users write them.
    pub(crate) const INTERVAL: std::ops::RangeInclusive<u64> = 10..=60_000;
    pub(crate) const MULTIPLIER: std::ops::RangeInclusive<u64> = 2..=255;
    pub(crate) const TTL: std::ops::RangeInclusive<u64> = 1..=254;

    /// What whoever asks for echo packets is told.
    pub(crate) const NO_ECHO: &str =
        "no echo packets are sent: control packets alone watch the path, as often as the profile says";

    /// A profile that sets nothing.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            receive_interval: Duration::from_millis(300),
            transmit_interval: Duration::from_millis(300),
            detect_multiplier: 3,
            echo_interval: Duration::from_millis(50),
            echo_mode: false,
            passive_mode: false,
            minimum_ttl: 254,
        }
    }
}
