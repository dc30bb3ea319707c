//! `herald doctor node`: is this machine fit for a speaker, and does nothing on it get into the speaker's way?

mod checks;
mod seen;

use std::path::Path;

use self::checks::CHECKS;
use self::seen::NodeSeen;
use super::report::Report;

/// Looks at this machine. It changes nothing.
pub(super) fn report(state: Option<&Path>) -> Report {
    let mut seen = NodeSeen::look(Path::new("/"), state);
    // Who may not look is told so by another check.
    seen.forward_drops = herald_speaker::forward_drops().unwrap_or_default();
    Report::of(format!("node {}", seen.name), CHECKS, &seen)
}

/// Each check's id, and what holds where all is well.
#[cfg(test)]
pub(super) fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().map(|check| (check.id, check.holds))
}
