//! Percentiles, the table and the bars. Pure: samples in, text and a verdict out.

use std::fmt::Write as _;
use std::time::Duration;

use super::create::Sample;

/// Herald's first byte, p50.
pub const FIRST_BYTE_P50: Duration = Duration::from_millis(50);
/// Herald's first byte, p99.
pub const FIRST_BYTE_P99: Duration = Duration::from_millis(200);
/// Herald's first byte, p50, is at most this part of the others'.
pub const RATIO: u32 = 10;

/// One system's samples.
#[derive(Clone, Debug)]
pub struct Series {
    /// With its version.
    pub system: String,
    /// One per Service.
    pub samples: Vec<Sample>,
}

/// What was promised, and whether it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The promise.
    pub what: String,
    /// What was measured.
    pub measured: String,
    /// Whether it was kept.
    pub met: bool,
}

/// The value below or at which so many per cent of all values are (nearest rank). `None` among the values is larger than any
/// other; `None` as the result says so, or that there is no value.
pub fn percentile(values: impl IntoIterator<Item = Option<Duration>>, percent: usize) -> Option<Duration> {
    let mut sorted: Vec<Duration> = values.into_iter().map(|value| value.unwrap_or(Duration::MAX)).collect();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().filter(|value| *value < Duration::MAX)
}

impl Series {
    /// A percentile of the first byte.
    pub fn first_byte(&self, percent: usize) -> Option<Duration> {
        percentile(self.samples.iter().map(|sample| sample.first_byte), percent)
    }

    fn rows(&self) -> [(&'static str, Vec<Option<Duration>>); 3] {
        let column = |field: fn(&Sample) -> Option<Duration>| self.samples.iter().map(field).collect();
        [
            ("address in status", column(|sample| sample.status)),
            ("route in BIRD", column(|sample| sample.route)),
            ("first byte at the client", column(|sample| sample.first_byte)),
        ]
    }
}

/// The table of all series.
pub fn table(series: &[Series]) -> String {
    let mut text =
        format!("{:<58}{:>9}{:>9}{:>9}{:>9}\n", "ms after the creation", "p50", "p90", "p99", "max");
    for one in series {
        let _ = writeln!(text, "{}, {} Services", one.system, one.samples.len());
        for (what, values) in one.rows() {
            let _ = write!(text, "  {what:<56}");
            for percent in [50, 90, 99, 100] {
                let _ = write!(text, "{:>9}", milliseconds(percentile(values.iter().copied(), percent)));
            }
            let answered = values.iter().flatten().count();
            let missing = values.len() - answered;
            if missing > 0 {
                let _ = write!(text, "   {missing} never");
            }
            text.push('\n');
        }
    }
    text
}

/// The bars, as far as the series that they speak of were measured.
pub fn bars(herald: Option<&Series>, others: Option<&Series>) -> Vec<Bar> {
    let Some(herald) = herald else { return Vec::new() };
    let p50 = herald.first_byte(50);
    let within = |what: &str, measured: Option<Duration>, limit: Duration| Bar {
        what: format!("Herald's first byte, {what} <= {} ms", limit.as_millis()),
        measured: format!("{} ms", milliseconds(measured)),
        met: measured.is_some_and(|measured| measured <= limit),
    };
    let mut bars = vec![within("p50", p50, FIRST_BYTE_P50)];
    if let Some(others) = others {
        let theirs = others.first_byte(50);
        bars.push(Bar {
            what: format!("Herald's first byte, p50 <= 1/{RATIO} of the others'"),
            measured: match (p50, theirs) {
                (Some(p50), Some(theirs)) => format!("1/{:.1}", theirs.as_secs_f64() / p50.as_secs_f64()),
                _ => "no ratio".to_owned(),
            },
            // Others that never answer are no yardstick: something else is wrong then.
            met: p50.zip(theirs).is_some_and(|(p50, theirs)| p50 * RATIO <= theirs),
        });
    }
    bars.push(within("p99", herald.first_byte(99), FIRST_BYTE_P99));
    bars
}

/// The bars as text, one per line.
pub fn verdict(bars: &[Bar]) -> String {
    let line = |bar: &Bar| {
        format!("{:<58}{:>12}   {}\n", bar.what, bar.measured, if bar.met { "met" } else { "MISSED" })
    };
    bars.iter().map(line).collect()
}

fn milliseconds(value: Option<Duration>) -> String {
    value.map_or_else(|| "never".to_owned(), |value| format!("{:.1}", value.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(system: &str, first_bytes: impl IntoIterator<Item = Option<u64>>) -> Series {
        let sample =
            |ms: Option<u64>| Sample { first_byte: ms.map(Duration::from_millis), ..Sample::default() };
        Series { system: system.to_owned(), samples: first_bytes.into_iter().map(sample).collect() }
    }

    fn met(herald: &Series, others: &Series) -> Vec<bool> {
        bars(Some(herald), Some(others)).iter().map(|bar| bar.met).collect()
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values = || (1..=100).rev().map(|ms| Some(Duration::from_millis(ms)));
        for percent in [1, 50, 90, 99, 100] {
            assert_eq!(percentile(values(), percent), Some(Duration::from_millis(percent as u64)));
        }
        assert_eq!(percentile([], 50), None);
    }

    #[test]
    fn a_service_without_an_answer_is_slower_than_all_others() {
        let one = series("herald", (1..=99).map(Some).chain([None]));
        assert_eq!(one.first_byte(99), Some(Duration::from_millis(99)));
        assert_eq!(one.first_byte(100), None);
        let two = series("herald", (1..=98).map(|_| Some(10)).chain([None, None]));
        assert_eq!(two.first_byte(99), None);
        assert_eq!(
            met(&two, &series("y", [Some(5000)])),
            [true, true, false].map(|met| met && two.first_byte(50) <= Some(FIRST_BYTE_P50))
        );
    }

    #[test]
    fn each_bar_is_judged_by_itself_and_its_limit_is_met() {
        let others = series("others", [Some(500)]);
        assert_eq!(met(&series("herald", [Some(50)]), &others), [true, true, true]);
        assert_eq!(met(&series("herald", [Some(51)]), &others), [false, false, true]);
        assert_eq!(met(&series("herald", [Some(50)]), &series("others", [Some(499)])), [true, false, true]);
        let slow_end = series("herald", (0..98).map(|_| Some(10)).chain([Some(201), Some(201)]));
        assert_eq!(met(&slow_end, &others), [true, true, false]);
    }

    #[test]
    fn others_that_never_answer_are_no_yardstick() {
        assert_eq!(met(&series("herald", [Some(1)]), &series("others", [None])), [true, false, true]);
    }

    #[test]
    fn the_text_names_values_and_verdicts() {
        let herald = series("herald", [Some(20), None]);
        let text = table(std::slice::from_ref(&herald));
        assert!(
            text.contains("herald, 2 Services") && text.contains("20.0") && text.contains("1 never"),
            "{text}"
        );
        let text = verdict(&bars(Some(&herald), None));
        assert!(text.contains("20.0 ms   met") && text.contains("never ms   MISSED"), "{text}");
    }
}
