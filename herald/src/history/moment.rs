//! Times as people type them at night.

use herald_config::parse_duration;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

const DAY: i64 = 86_400;

/// Reads a time of day (the last time that it was, UTC), a whole time (UTC unless it says otherwise), or how long ago.
pub(super) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let ago = || {
        let ago = SignedDuration::try_from(parse_duration(text).ok()?).ok()?;
        now.checked_sub(ago).ok()
    };
    let whole = || text.parse().ok().or_else(|| format!("{text}Z").parse().ok());
    time_of_day(text, now).or_else(whole).or_else(ago).ok_or_else(|| {
        format!("\"{text}\" is no time: write 03:12 (UTC, the last time that it was), 2026-08-01T03:12:00Z, or 90m for so long ago")
    })
}

fn time_of_day(text: &str, now: Timestamp) -> Option<Timestamp> {
    let parts: Vec<&str> = text.split(':').collect();
    let (2 | 3) = parts.len() else { return None };
    let mut seconds = 0;
    for (part, (limit, unit)) in parts.iter().zip([(24, 3600), (60, 60), (60, 1)]) {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        let number: i64 = part.parse().ok().filter(|number| digits && *number < limit)?;
        seconds += number * unit;
    }
    let now = now.as_second();
    let today = now - now.rem_euclid(DAY) + seconds;
    Timestamp::from_second(if today > now { today - DAY } else { today }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_typed_at_night() {
        let now: Timestamp = "2026-08-01T04:30:00Z".parse().unwrap();
        for (text, expected) in [
            ("03:12", "2026-08-01T03:12:00Z"),
            ("03:12:59", "2026-08-01T03:12:59Z"),
            ("04:30", "2026-08-01T04:30:00Z"),
            ("23:59", "2026-07-31T23:59:00Z"),
            ("2026-07-30T03:12:00Z", "2026-07-30T03:12:00Z"),
            ("2026-07-30T03:12:00.250+02:00", "2026-07-30T01:12:00.25Z"),
            ("2026-07-30T03:12:00", "2026-07-30T03:12:00Z"),
            ("2026-07-30 03:12", "2026-07-30T03:12:00Z"),
            ("90m", "2026-08-01T03:00:00Z"),
        ] {
            assert_eq!(parse(text, now).map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for bad in [
            "",
            "3:12",
            "24:00",
            "03:60",
            "03:12:60",
            "03:12:00:00",
            "yesterday",
            "-5m",
            "999999999h",
            "ä3:12",
        ] {
            let error = parse(bad, now).unwrap_err();
            assert!(error.starts_with(&format!("\"{bad}\" is no time: write 03:12")), "{error}");
        }
    }
}
