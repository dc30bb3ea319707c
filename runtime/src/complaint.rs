//! When a failure that goes on is told: at first, each minute, and when its cause becomes another one.

use std::time::{Duration, Instant};

/// While it goes on, how often the log says so.
const REMIND: Duration = Duration::from_secs(60);
/// A cause that changes is told no sooner than this after the last word.
const CHANGE: Duration = Duration::from_secs(5);

/// What was told last of one failure.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<(Instant, Cause)>);

/// What tells two failures apart, whatever their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The API server answered with this code.
    Answered(u16),
    /// It did not.
    Unanswered,
}

impl Complaint {
    /// Whether this failure is to be told now; if so, it counts as told.
    pub(crate) fn is_due(&mut self, error: &kube::Error, now: Instant) -> bool {
        let cause = match error {
            kube::Error::Api(status) => Cause::Answered(status.code),
            _ => Cause::Unanswered,
        };
        let due = self.0.is_none_or(|(at, told)| {
            let pause = if told == cause { REMIND } else { CHANGE };
            now.saturating_duration_since(at) >= pause
        });
        if due {
            self.0 = Some((now, cause));
        }
        due
    }

    /// Something was told.
    pub(crate) fn is_told(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn it_is_told_at_first_each_minute_and_when_the_cause_changes() {
        let away = || kube::Error::Service("away".into());
        let answered = |code| kube::Error::Api(Status::failure("no", "No").with_code(code).boxed());
        let mut complaint = Complaint::default();
        let start = Instant::now();
        assert!(!complaint.is_told());
        for (second, error, due) in [
            (0, away(), true),
            (1, answered(429), false),
            (4, away(), false),
            (5, answered(429), true),
            (9, answered(401), false),
            (10, answered(401), true),
            (69, answered(401), false),
            (70, answered(401), true),
        ] {
            let told = complaint.is_due(&error, start + Duration::from_secs(second));
            assert_eq!(told, due, "after {second} s: {error}");
        }
        assert!(complaint.is_told());
    }
}
