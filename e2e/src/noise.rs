//! What of a log is noise: the same line again and again. Whoever is on call reads the log of the night before; a line that fills it hides
//! the one that matters, and costs the disk of whoever keeps it.
//!
//! Pure. Two lines are the same if all behind their time stamps is: a line about another Service, or with another number, is
//! another line. Only lines of Herald's count. Every lab asks this of its logs when it is removed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::stamp::stamp;

/// So often at most the same line may stand within a second. What a test does by hand within one was told three times at
/// most; a loop without a pause says the same twenty times, one with a pause of its own meets the other limit.
const WITHIN_A_SECOND: usize = 10;
/// So often at most the same warning or error may be told by one process. Three times was the most: what goes on is to be told
/// once a minute at most.
const WARNINGS: usize = 10;

/// What the roles say first.
const STARTS: [&str; 2] = [": controller starts ", ": speaker starts "];

/// What is said too often, in words; empty: nothing.
pub(crate) fn noise(log: &str) -> Vec<String> {
    // A process that is started again goes on in the log of the one before, and may say the same.
    let mut seen: BTreeMap<(usize, &str), Vec<SystemTime>> = BTreeMap::new();
    let mut starts = 0;
    for (at, text) in log.lines().filter_map(herald_line) {
        starts += usize::from(STARTS.iter().any(|start| text.contains(start)));
        seen.entry((starts, text)).or_default().push(at);
    }
    let told = seen.iter();
    told.filter_map(|((_, text), times)| Some(format!("{}: {text}", too_often(text, times)?))).collect()
}

/// Why these times are too many for a line.
fn too_often(text: &str, times: &[SystemTime]) -> Option<String> {
    let within = |window: &[SystemTime]| match window {
        [first, .., last] => last.duration_since(*first).is_ok_and(|after| after < Duration::from_secs(1)),
        _ => false,
    };
    if times.windows(WITHIN_A_SECOND + 1).any(within) {
        return Some(format!("more than {WITHIN_A_SECOND} times within a second"));
    }
    let warns = ["WARN ", "ERROR "].iter().any(|level| text.starts_with(level));
    (warns && times.len() > WARNINGS).then(|| format!("{} times in all", times.len()))
}

/// The time of a line of Herald's text format, and all behind it.
fn herald_line(line: &str) -> Option<(SystemTime, &str)> {
    let (_, text) = line.split_once("Z ")?;
    let text = text.trim_start();
    let (_, rest) = text.split_once(' ')?;
    if rest.starts_with("herald") { Some((stamp(line)?, text)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: &str = "WARN herald_speaker::x: cannot; trying again error=\"no\"";

    fn log(lines: impl IntoIterator<Item = (u32, &'static str)>) -> String {
        let stamped = |(tenth, text): (u32, &str)| {
            format!("2026-01-01T12:{:02}:{:02}.{}00000Z  {text}\n", tenth / 600, tenth / 10 % 60, tenth % 10)
        };
        lines.into_iter().map(stamped).collect()
    }

    #[test]
    fn the_same_line_within_a_second_is_noise_and_the_same_about_others_is_none() {
        let told = "INFO herald_controller::leader: written service=shop/web";
        // Eleven in nine tenths of a second, and in one second.
        let burst = |last: u32| log([0; 10].into_iter().chain([last]).map(|tenth| (tenth, told)));
        assert_eq!(noise(&burst(9)), [format!("more than 10 times within a second: {told}")]);
        assert_eq!(noise(&burst(10)), [""; 0]);
        let other = |number: u32| log([(0, told)]).replace("web", &format!("web-{number}"));
        assert_eq!(noise(&(0..20).map(other).collect::<String>()), [""; 0]);
    }

    #[test]
    fn a_warning_that_comes_back_for_ever_is_noise_and_news_that_do_are_none() {
        let every_minute = |text| log((0..11).map(|minute| (minute * 600, text)));
        assert_eq!(noise(&every_minute(RETRY)), [format!("11 times in all: {RETRY}")]);
        assert_eq!(noise(&every_minute("INFO herald_speaker::x: session up")), [""; 0]);
        let ten = log((0..10).map(|minute| (minute * 600, RETRY)));
        let start = log([(0, "INFO herald_speaker::run: speaker starts node=\"a\"")]);
        assert_eq!(noise(&[&*ten, &*start, &*ten].concat()), [""; 0]);
        assert_eq!(noise(&start.repeat(20)), [""; 0]);
    }

    #[test]
    fn lines_of_other_programs_do_not_count() {
        let theirs = log([(0, "INFO hyper::proto: x"), (0, "words Z and more"), (0, "WARN")]);
        assert_eq!(noise(&theirs.repeat(20)), [""; 0]);
        assert_eq!(noise("2026-01-01 12:00:00.000000 <INFO> herald Z herald\n".repeat(20).as_str()), [""; 0]);
    }
}
