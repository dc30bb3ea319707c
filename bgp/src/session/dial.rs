//! The outgoing dial (RFC 4271 §8.1.3, ConnectRetryTimer): when, how long, and when not.
//!
//! A dial is kept up while no connection is past OpenSent: an incoming connection that says nothing must not keep us from
//! the peer. Delays count from the begin of the last dial, so that one that ran into its time-out is repeated at once.

use std::time::{Duration, Instant};

use super::backoff::Class;
use super::{DownReason, Output, Session, State};

#[derive(Debug)]
pub(super) enum Dial {
    /// Not wanted: stopped, passive, or there is a connection that will do.
    Off,
    /// The next one begins then.
    At(Instant),
    /// One is under way.
    InProgress { since: Instant, until: Instant },
}

impl Dial {
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::At(at) => Some(*at),
            Self::InProgress { until, .. } => Some(*until),
        }
    }
}

impl Session {
    pub(super) fn dial_now(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.counters.connect_attempts += 1;
        // A dial without time would spin.
        let timeout = self.config.connect_timeout.max(Duration::from_millis(100));
        self.dial = Dial::InProgress { since: now, until: now + timeout };
        out.push(Output::Connect);
    }

    pub(super) fn abandon_dial(&mut self, out: &mut Vec<Output>) {
        if matches!(self.dial, Dial::InProgress { .. }) {
            out.push(Output::AbandonConnect);
        }
        self.dial = Dial::Off;
    }

    pub(super) fn connect_failed(&mut self, now: Instant, reason: DownReason, out: &mut Vec<Output>) {
        let Dial::InProgress { since, .. } = self.dial else { return };
        self.dial = if self.connections.iter().any(|c| c.state() > State::OpenSent) {
            Dial::Off
        } else {
            let delay = self.backoff.next(Class::of(&reason), self.config.connect_retry, &mut self.jitter);
            Dial::At((since + delay).max(now))
        };
        self.last_failure = Some(reason.clone());
        out.push(Output::AttemptFailed(reason));
    }

    /// Plans the next dial after a connection ended, unless another one will do or a dial is planned or under way.
    pub(super) fn retry_after(&mut self, now: Instant, reason: &DownReason, progress: bool) {
        let class = if progress { Class::Transport } else { Class::of(reason) };
        let taken = self.connections.iter().any(|c| c.state() > State::OpenSent || c.is_outgoing());
        if !self.started || self.config.passive || taken || !matches!(self.dial, Dial::Off) {
            return;
        }
        self.dial = Dial::At(now + self.backoff.next(class, self.config.connect_retry, &mut self.jitter));
    }

    pub(super) fn expire_dial(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.dial {
            Dial::InProgress { since, until } if until <= now => {
                // RFC 4271 §8.2.2: ConnectRetryTimer_Expires in Connect drops the attempt and begins another.
                out.push(Output::AbandonConnect);
                self.connect_failed(now, DownReason::ConnectTimedOut(until - since), out);
            }
            Dial::Off | Dial::At(_) | Dial::InProgress { .. } => {}
        }
        // RFC 4271 §8.2.2: ConnectRetryTimer_Expires in Active.
        if let Dial::At(at) = self.dial
            && at <= now
        {
            self.dial_now(now, out);
        }
    }
}
