//! Durations as Go writes them: `90s`, `1m30s`, `1.5h`, `0`.
//!
//! The grammar of Go's `time.ParseDuration`, exact in integers and without its negative values, because no field
//! has a meaning for those. A number without a unit is refused with the likely remedy: it is the mistake that
//! MetalLB's own 0.2 example contains.

use std::time::Duration;

use crate::problem::shown;

/// Go counts a duration as signed 64-bit nanoseconds.
const MAX_NANOSECONDS: u128 = i64::MAX as u128;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No text at all.
    #[error("a duration is empty: write one such as 90s or 1m30s")]
    Empty,
    /// A number that no unit follows.
    #[error("{} has no unit: write {}s", shown(.0), shown(.0))]
    NoUnit(String),
    /// A unit that Go does not know.
    #[error("{} has the unknown unit {}: use h, m, s, ms, us or ns", shown(.text), shown(.unit))]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit in it.
        unit: String,
    },
    /// Below zero.
    #[error("{} is negative: write a duration of 0s or more", shown(.0))]
    Negative(String),
    /// Beyond Go's range of some 292 years.
    #[error("{} is too long: use at most 2562047h", shown(.0))]
    TooLong(String),
    /// Anything else.
    #[error("{} is not a duration: write one such as 90s or 1m30s", shown(.0))]
    Malformed(String),
}

/// Reads a duration in Go's notation.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if magnitude == "0" {
        return Ok(Duration::ZERO);
    }
    let nanoseconds = terms(text, magnitude)?;
    if negative && nanoseconds > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    Ok(Duration::new((nanoseconds / 1_000_000_000) as u64, (nanoseconds % 1_000_000_000) as u32))
}

/// The sum of `number unit` terms, of which there is at least one, in nanoseconds.
fn terms(text: &str, magnitude: &str) -> Result<u128, DurationError> {
    let too_long = || DurationError::TooLong(text.to_owned());
    let malformed = || DurationError::Malformed(text.to_owned());
    let mut rest = magnitude;
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let scale = nanoseconds_per(unit)
            .ok_or_else(|| DurationError::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() })?;
        let whole: u128 =
            if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| too_long())?.into() };
        total += whole * scale + fraction_of(fraction, scale);
        if total > MAX_NANOSECONDS {
            return Err(too_long());
        }
        rest = after;
    }
    Ok(total)
}

/// Splits the leading ASCII digits off.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds_per(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        // U+00B5 micro sign, U+03BC Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `0.fraction` of a unit; digits below a nanosecond are cut, as Go does.
fn fraction_of(fraction: &str, scale: u128) -> u128 {
    // 18 digits of an hour are far below a nanosecond.
    let significant = fraction.get(..18).unwrap_or(fraction);
    let value = significant.bytes().fold(0, |value, digit| value * 10 + u128::from(digit - b'0'));
    value * scale / 10_u128.pow(significant.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_exactly() {
        for (text, milliseconds) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("90s", 90_000),
            ("+90s", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("1h0.5m", 3_630_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("1500ms", 1_500),
            ("2000us", 2),
            ("2000\u{b5}s", 2),
            ("2000\u{3bc}s", 2),
            ("3000000ns", 3),
            ("0.0010000000000000000000000001s", 1),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse_duration("9223372036854775807ns"), Ok(Duration::from_nanos(i64::MAX as u64)));
        assert_eq!(parse_duration("0.3333333333333333333h"), Ok(Duration::from_nanos(1_199_999_999_999)));
    }

    #[test]
    fn what_is_not_a_duration_says_what_to_write() {
        for (text, message) in [
            ("", "a duration is empty: write one such as 90s or 1m30s"),
            ("120", "120 has no unit: write 120s"),
            ("1h30", "1h30 has no unit: write 1h30s"),
            ("5d", "5d has the unknown unit d: use h, m, s, ms, us or ns"),
            ("5 s", "\"5 s\" has the unknown unit \" s\": use h, m, s, ms, us or ns"),
            ("-5s", "-5s is negative: write a duration of 0s or more"),
            ("9223372036854775808ns", "9223372036854775808ns is too long: use at most 2562047h"),
            ("99999999999999999999h", "99999999999999999999h is too long: use at most 2562047h"),
            ("soon", "soon is not a duration: write one such as 90s or 1m30s"),
            (".s", ".s is not a duration: write one such as 90s or 1m30s"),
            ("-", "- is not a duration: write one such as 90s or 1m30s"),
        ] {
            let error = parse_duration(text).expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,24}[a-zµ]{0,3}.{0,8}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_seconds_survive_a_round_trip(seconds in 0_u64..9_000_000_000) {
            proptest::prop_assert_eq!(parse_duration(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
        }
    }
}
