//! Leader election by a `coordination.k8s.io/v1` Lease, with the semantics of client-go.
//!
//! [`Election`] is the pure state machine; [`run`] the driver around it. Clocks of different machines are never
//! compared: a candidate notes on its own *monotonic* clock when it saw the record change, and takes over only when
//! the record stood unchanged for its whole duration. Each write is a `replace` with the `resourceVersion` that was
//! read, so of two candidates one wins. A leader that could not renew for `renew_deadline`, counted from *before* the last
//! successful write was sent, stops leading; as that is shorter than `duration`, two never lead at a time.
//!
//! Whoever acts on leadership must stop within `duration - renew_deadline` and fence its writes by
//! `resourceVersion` besides. The lease is released (holder emptied) once leadership was given up in good order, and
//! the next candidate takes it at its next look.

mod driver;

use std::time::{Duration, Instant};

pub use driver::{LeaseOptions, run};

/// The three durations of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// How long an unchanged record keeps others from taking over; whole seconds.
    pub duration: Duration,
    /// How long a leader leads on without a successful renewal.
    pub renew_deadline: Duration,
    /// Between two renewals; a candidate looks twice as often.
    pub retry_period: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(20),
            // Of an API server that takes five seconds for every answer: a renewal that is lost two seconds after the last one, a look,
            // another renewal.
            renew_deadline: Duration::from_secs(13),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Why three durations make no election.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingsError {
    /// The API stores whole seconds.
    #[error("the lease duration must be at least one second, in whole seconds")]
    Duration,
    /// Two could lead at a time.
    #[error("the renew deadline must be shorter than the lease duration")]
    Deadline,
    /// One lost packet would end the leadership.
    #[error("the retry period must be above zero and shorter than the renew deadline")]
    Retry,
}

impl Timings {
    /// Checks that they keep two from leading at a time.
    pub fn validate(&self) -> Result<(), TimingsError> {
        if self.duration.as_secs() == 0 || self.duration.subsec_nanos() != 0 {
            return Err(TimingsError::Duration);
        }
        if self.renew_deadline >= self.duration {
            return Err(TimingsError::Deadline);
        }
        if self.retry_period.is_zero() || self.retry_period >= self.renew_deadline {
            return Err(TimingsError::Retry);
        }
        Ok(())
    }
}

/// What decides in a Lease object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; empty if released.
    pub holder: String,
    /// `spec.leaseDurationSeconds` of the holder.
    pub duration: Duration,
    /// `metadata.resourceVersion`: changes with each renewal.
    pub version: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// [`Election::next_deadline`] has come.
    Deadline,
    /// The Lease was read; `None`: there is none.
    Read(Option<Record>),
    /// Our write, sent at this time, was accepted.
    Written(Instant, Record),
    /// A read or a write failed, or met a newer version.
    Failed,
    /// Give up: the work behind the leadership has stopped.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read the Lease and hand in [`Input::Read`] or [`Input::Failed`].
    Read,
    /// Write ourselves as the holder over what was read last (create it if there was none);
    /// `takeover`: with a new acquire time and one transition more.
    Write {
        /// True unless it is a renewal.
        takeover: bool,
    },
    /// Write an empty holder over what was written last; no answer is needed.
    Release,
    /// We lead from now on.
    Lead,
    /// We lead no longer.
    Follow,
}

/// One candidate's view of the election.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timings: Timings,
    /// The newest record and when, by our own clock, it was first seen so.
    observed: Option<(Record, Instant)>,
    /// While leading: when the last accepted write was sent.
    renewed: Option<Instant>,
    /// Nothing failed since the last accepted write, so that its version is the one to replace.
    fresh: bool,
    next: Instant,
}

impl Election {
    /// A candidate that looks at the Lease at once.
    pub fn new(identity: impl Into<String>, timings: Timings, now: Instant) -> Self {
        Self { identity: identity.into(), timings, observed: None, renewed: None, fresh: false, next: now }
    }

    /// Handles one input; performs nothing itself.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Deadline => self.deadline(now),
            Input::Read(record) => self.read(now, record),
            Input::Written(sent, record) => self.written(now, sent, record),
            Input::Failed => self.failed(now),
            Input::Stop => self.stop(),
        }
    }

    /// When to hand in [`Input::Deadline`]. While leading it is never later than the end of the leadership.
    pub fn next_deadline(&self) -> Instant {
        self.lost_at().map_or(self.next, |lost| lost.min(self.next))
    }

    /// When the leadership ends unless it is renewed.
    pub fn lost_at(&self) -> Option<Instant> {
        self.renewed.map(|at| at + self.timings.renew_deadline)
    }

    /// True between [`Output::Lead`] and [`Output::Follow`].
    pub fn leads(&self) -> bool {
        self.renewed.is_some()
    }

    /// Who holds the Lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.observed.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    fn deadline(&mut self, now: Instant) -> Vec<Output> {
        if self.lost_at().is_some_and(|lost| now >= lost) {
            self.renewed = None;
            self.next = now + self.look_period();
            return vec![Output::Follow, Output::Read];
        }
        if now < self.next {
            return Vec::new();
        }
        if self.leads() {
            self.next = now + self.timings.retry_period;
            return vec![if self.fresh { Output::Write { takeover: false } } else { Output::Read }];
        }
        self.next = now + self.look_period();
        vec![Output::Read]
    }

    fn read(&mut self, now: Instant, record: Option<Record>) -> Vec<Output> {
        let Some(record) = record else {
            self.observed = None;
            return vec![Output::Write { takeover: true }];
        };
        match &self.observed {
            Some((known, _)) if *known == record => {}
            _ => self.observed = Some((record.clone(), now)),
        }
        let mine = record.holder == self.identity;
        if self.leads() && !mine {
            // Somebody took it although we renewed: an operator, or our clock stood still.
            self.renewed = None;
            self.next = now + self.look_period();
            return vec![Output::Follow];
        }
        if mine || record.holder.is_empty() || now >= self.expires(now) {
            return vec![Output::Write { takeover: !mine }];
        }
        self.next = self.next.min(self.expires(now)).max(now);
        Vec::new()
    }

    fn written(&mut self, now: Instant, sent: Instant, record: Record) -> Vec<Output> {
        self.observed = Some((record, now));
        if now >= sent + self.timings.renew_deadline {
            // So slow an answer proves nothing about now; whoever watches us may be about to take over.
            return self.failed(now);
        }
        self.fresh = true;
        self.next = sent + self.timings.retry_period;
        if self.renewed.replace(sent).is_some() { Vec::new() } else { vec![Output::Lead] }
    }

    fn failed(&mut self, now: Instant) -> Vec<Output> {
        if self.leads() {
            if self.lost_at().is_some_and(|lost| now >= lost) {
                return self.deadline(now);
            }
            self.next = now + self.timings.retry_period / 4;
            // After a conflict or a lost answer, look what stands there: at once, but only once; then each quarter
            // of the period, which is several times before the deadline.
            return if std::mem::take(&mut self.fresh) { vec![Output::Read] } else { Vec::new() };
        }
        self.next = now + self.look_period();
        Vec::new()
    }

    fn stop(&mut self) -> Vec<Output> {
        if self.renewed.take().is_some() { vec![Output::Release, Output::Follow] } else { Vec::new() }
    }

    /// When the observed record may be taken over.
    fn expires(&self, now: Instant) -> Instant {
        self.observed.as_ref().map_or(now, |(record, seen)| *seen + record.duration)
    }

    fn look_period(&self) -> Duration {
        self.timings.retry_period / 2
    }
}

#[cfg(test)]
mod tests;
