//! Waiting for a condition, with a deadline and a message that says what was waited for.
//!
//! The suites never sleep for a guessed time: they wait here until something is so. This is the only place of the
//! crate that blocks a thread, and it does so in a test's or a tool's own thread, never in a runtime's.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Short beside everything that is measured with it.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks again and again until there is an answer, or fails with `what` when the deadline has passed.
/// The last look happens after the deadline, so a slow machine does not turn a late success into a failure.
pub fn await_until<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let last = begin.elapsed() >= deadline;
        if let Some(found) = look() {
            return Ok(found);
        }
        if last {
            bail!("waited {:.1} s in vain for: {what}", begin.elapsed().as_secs_f64());
        }
        pause(PAUSE);
    }
}

/// Like [`await_until`] for a look that says why it is not satisfied; the last reason is part of the failure.
pub fn await_ok<T, E: std::fmt::Display>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let last = begin.elapsed() >= deadline;
        match look() {
            Ok(found) => return Ok(found),
            Err(reason) if last => {
                bail!("waited {:.1} s in vain for: {what}: {reason:#}", begin.elapsed().as_secs_f64());
            }
            Err(_) => pause(PAUSE),
        }
    }
}

/// Holds a property for a while: fails as soon as `look` gives a reason. For "nothing happens" assertions.
pub fn holds_for(duration: Duration, what: &str, mut look: impl FnMut() -> Result<(), String>) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < duration {
        if let Err(reason) = look() {
            bail!("{what}: broken after {:.3} s: {reason}", begin.elapsed().as_secs_f64());
        }
        pause(PAUSE);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "polls a condition in a thread that runs no runtime")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_wait() {
        let mut looks = 0;
        let found = await_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.expect("found"), 3);
    }

    #[test]
    fn a_failure_names_what_was_waited_for_and_the_last_reason() {
        let failed =
            await_ok(Duration::ZERO, "the moon", || Err::<(), _>("clouds")).expect_err("nothing came");
        let text = failed.to_string();
        assert!(text.contains("the moon") && text.contains("clouds"), "{text}");
    }

    #[test]
    fn a_broken_property_is_told_at_once() {
        let begin = Instant::now();
        let failed = holds_for(Duration::from_secs(60), "quiet", || Err("a noise".to_owned()));
        assert!(failed.expect_err("broken").to_string().contains("a noise"));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
