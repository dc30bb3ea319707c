//! The time of a log's line.

use std::time::SystemTime;

use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;

/// The time that a log's line begins with: of BIRD (`2026-01-01 12:00:00.123456`), of FRR (`2026/01/01 …`), of Herald
/// (`2026-01-01T12:00:00.123456Z`). All are UTC.
pub(crate) fn stamp(line: &str) -> Option<SystemTime> {
    let stamp = line.get(..26)?.replace('/', "-").replacen(' ', "T", 1);
    let time: DateTime = stamp.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_logs_of_all_makes_tell_the_same_time() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_000_000_123_456);
        for line in [
            "2001-09-09 01:46:40.123456 <TRACE> node1: BGP session established",
            "2001/09/09 01:46:40.123456 BGP: [M59KS-A3ZXZ] neighbor Down",
            "2001-09-09T01:46:40.123456Z  WARN session down",
        ] {
            assert_eq!(stamp(line), Some(at), "{line}");
        }
        assert_eq!(stamp("words"), None);
    }
}
