//! How long to wait before the next dial.
//!
//! A peer that is away, refuses or restarts is tried often: a SYN is cheap, and a long wait only adds to the outage. An OPEN
//! that is refused will be refused again until someone changes a configuration, so that is tried ever less often. A peer
//! that counts our prefixes as too many waits for its operator.

use std::time::Duration;

use super::DownReason;
use super::jitter::Jitter;
use crate::wire::Code;

const FIRST: Duration = Duration::from_secs(1);
const TRANSPORT_CAP: Duration = Duration::from_secs(5);
const SLOW_CAP: Duration = Duration::from_secs(60);

/// What kind of end a connection had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// TCP, EOF, Cease, silence: 1 s, at most 5 s.
    Transport,
    /// An OPEN was not acceptable to one side: doubling to 60 s.
    Open,
    /// Too many prefixes: 60 s.
    PrefixLimit,
}

impl Class {
    pub(super) fn of(reason: &DownReason) -> Self {
        let code = match reason {
            DownReason::NotificationReceived(notification) => notification.code,
            DownReason::OpenRefused(refusal) => refusal.notification().code,
            DownReason::Malformed(error) => error.notification().code,
            DownReason::Stopped(_)
            | DownReason::Restarting
            | DownReason::ConnectFailed(_)
            | DownReason::ConnectTimedOut(_)
            | DownReason::Disconnected(_)
            | DownReason::PathFailed(_)
            | DownReason::HoldTimerExpired(_)
            | DownReason::UnexpectedMessage { .. }
            | DownReason::Replaced => return Self::Transport,
        };
        match code {
            Code(2, _) => Self::Open,
            Code::MAXIMUM_PREFIXES => Self::PrefixLimit,
            _ => Self::Transport,
        }
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure and tells how long to wait: 1 s ± 25 %, doubling up to the cap of its class; or the configured time,
    /// where the class has no longer one.
    pub(super) fn next(
        &mut self,
        class: Class,
        configured: Option<Duration>,
        jitter: &mut Jitter,
    ) -> Duration {
        let cap = match class {
            Class::Transport => TRANSPORT_CAP,
            Class::Open | Class::PrefixLimit => SLOW_CAP,
        };
        let base = match class {
            Class::PrefixLimit => SLOW_CAP,
            Class::Transport | Class::Open => (FIRST * (1 << self.failures.min(6))).min(cap),
        };
        self.failures = self.failures.saturating_add(1);
        match configured {
            Some(time) if class == Class::Transport => jitter.scale(time, 750, 1000),
            Some(time) => jitter.scale(base, 750, 1250).min(cap).max(time),
            None => jitter.scale(base, 750, 1250).min(cap),
        }
    }
}
