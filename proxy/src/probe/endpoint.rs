//! One probed endpoint: what its outcomes mean, and when the next probe is due. Pure.
//!
//! Trusted at first, since readiness from the API is what it would have without probing. `fail` failures in a row make
//! it failing, `pass` passes in a row good again.
//!
//! An endpoint that stops answering is failing at most `interval × fail` later (as long as the timeout is at most half
//! the interval): the regular beat may have just gone by, and the last of the failures has to wait for its timeout. So
//! after the first failure of a row the next probe begins early by the timeout, and each that is not answered is over on
//! the beat.

use std::time::Instant;

use super::attempt::{Failure, Outcome};
use super::spec::ProbeSpec;

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// It has failed often enough.
    Failed,
    /// It has passed often enough.
    Recovered,
}

/// The state of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// It has passed at least once.
    pub(super) proven: bool,
    /// Why it is failing; `None` while it is trusted.
    pub(super) failing: Option<Failure>,
    /// Outcomes in a row that speak against the present state.
    against: u16,
    /// The next probe; `None` while one is on its way.
    next: Option<Instant>,
    begun: Instant,
}

impl Endpoint {
    /// Trusted, with a first probe at this time.
    pub(super) fn new(first: Instant) -> Self {
        Self { proven: false, failing: None, against: 0, next: Some(first), begun: first }
    }

    /// When the next probe is due; `None` while one is on its way.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// A probe begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun = now;
        self.next = None;
    }

    /// The probe that was on its way is over.
    pub(super) fn handle(&mut self, now: Instant, spec: &ProbeSpec, outcome: Outcome) -> Option<Transition> {
        let beat = self.begun + spec.interval;
        let (next, transition) = match (outcome, self.failing) {
            (Outcome::Passed, None) => {
                self.against = 0;
                (beat, None)
            }
            (Outcome::Passed, Some(_)) => {
                (beat, self.against_reaches(spec.pass).then_some(Transition::Recovered))
            }
            (Outcome::Failed(_), None) => {
                let next = if self.against == 0 { beat - spec.timeout } else { beat };
                (next, self.against_reaches(spec.fail).then_some(Transition::Failed))
            }
            (Outcome::Failed(_), Some(_)) => {
                self.against = 0;
                (beat, None)
            }
        };
        self.next = Some(next.max(now));
        self.proven |= outcome == Outcome::Passed;
        if let Some(transition) = transition {
            self.against = 0;
            self.failing = match (transition, outcome) {
                (Transition::Failed, Outcome::Failed(failure)) => Some(failure),
                _ => None,
            };
        }
        transition
    }

    fn against_reaches(&mut self, threshold: u16) -> bool {
        self.against = self.against.saturating_add(1);
        self.against >= threshold
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn spec(text: &str) -> ProbeSpec {
        ProbeSpec::parse(text).unwrap()
    }

    /// Outcomes, `p` and `f`, and the states after each: `+` trusted, `-` failing.
    fn states(spec: &ProbeSpec, outcomes: &str) -> String {
        let mut now = Instant::now();
        let mut endpoint = Endpoint::new(now);
        let step = |outcome| {
            now = endpoint.next_deadline().unwrap();
            endpoint.begin(now);
            let outcome = if outcome == 'p' { Outcome::Passed } else { Outcome::Failed(Failure::Refused) };
            let before = endpoint.failing.is_some();
            let transition = endpoint.handle(now, spec, outcome);
            let after = endpoint.failing.is_some();
            assert_eq!(transition.is_some(), before != after, "a transition is told, and nothing else");
            if after { '-' } else { '+' }
        };
        outcomes.chars().map(step).collect()
    }

    #[test]
    fn only_a_row_of_outcomes_changes_the_state() {
        for (text, outcomes, expected) in [
            ("tcp fail=3 pass=2", "fff", "++-"),
            ("tcp fail=3 pass=2", "pffpff", "++++++"),
            ("tcp fail=3 pass=2", "pfffpfpp", "+++----+"),
            ("tcp fail=3 pass=2", "fffppff", "++--+++"),
            ("tcp fail=1 pass=1", "fpfp", "-+-+"),
        ] {
            assert_eq!(states(&spec(text), outcomes), expected, "{text}: {outcomes}");
        }
    }

    #[test]
    fn an_endpoint_is_proven_by_its_first_pass_and_stays_so() {
        let spec = spec("tcp fail=1");
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now);
        endpoint.handle(now, &spec, Outcome::Failed(Failure::TimedOut));
        assert_eq!((endpoint.proven, endpoint.failing), (false, Some(Failure::TimedOut)));
        endpoint.handle(now, &spec, Outcome::Passed);
        assert!(endpoint.proven && endpoint.failing.is_some(), "one pass of two");
        endpoint.handle(now, &spec, Outcome::Failed(Failure::Refused));
        assert!(endpoint.proven);
    }

    proptest! {
        /// An endpoint that hangs, or refuses, from any moment on is failing in time; one that answers again is back in time.
        #[test]
        fn a_change_is_seen_within_interval_times_threshold(
            fail in 2..6u16, pass in 1..6u16, interval in 100..2000u32, hangs: bool, phase in 0..1000u32, takes in 0..5u32,
        ) {
            let interval = MS * interval;
            let spec = ProbeSpec { interval, timeout: interval / 2, fail, pass, ..spec("tcp") };
            let start = Instant::now();
            let mut endpoint = Endpoint::new(start);
            let dead_from = start + interval * 3 + interval * phase / 1000;
            let alive_from = dead_from + interval * u32::from(fail) * 2 + interval * phase / 1000;
            let (mut failed, mut recovered) = (None, None);
            while recovered.is_none() {
                let begin = endpoint.next_deadline().unwrap();
                prop_assert!(begin < alive_from + interval * 20);
                endpoint.begin(begin);
                let dead = (dead_from..alive_from).contains(&begin);
                let (end, outcome) = match (dead, hangs) {
                    (true, true) => (begin + spec.timeout, Outcome::Failed(Failure::TimedOut)),
                    (true, false) => (begin + MS * takes, Outcome::Failed(Failure::Refused)),
                    (false, _) => (begin + MS * takes, Outcome::Passed),
                };
                match endpoint.handle(end, &spec, outcome) {
                    Some(Transition::Failed) => failed = Some(end),
                    Some(Transition::Recovered) => recovered = Some(end),
                    None => {}
                }
                let next = endpoint.next_deadline().unwrap();
                prop_assert!(next >= end && next <= begin + interval, "one at a time, none forgotten");
            }
            let slack = MS * takes;
            prop_assert!(failed.unwrap() - dead_from <= interval * u32::from(fail) + slack);
            prop_assert!(recovered.unwrap() - alive_from <= interval * u32::from(pass) + slack);
        }
    }
}
