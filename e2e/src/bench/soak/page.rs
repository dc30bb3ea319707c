//! The report: one page of HTML that needs nothing else, with a plot for each quantity.

use std::fmt::Write as _;
use std::time::Instant;

use super::trend::{Kind, Sample, Series};
use crate::poller::PollReport;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
const COLOURS: [&str; 3] = ["#1f77b4", "#d62728", "#2ca02c"];

/// The page.
pub(super) fn page(
    samples: &[Sample],
    done: &[(f64, &'static str)],
    reports: &[(&'static str, PollReport)],
    begin: Instant,
) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>Herald: soak</title>\n\
         <style>body{font:14px sans-serif;max-width:60em;margin:2em auto}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}</style>\n\
         <h1>Herald: soak</h1>\n",
    );
    let end = samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "<p>{:.0} s, {} things done.</p><table><tr><th>way<th>connections<th>failed",
        end,
        done.len()
    );
    for (way, report) in reports {
        let _ = writeln!(page, "<tr><td>{way}<td>{}<td>{}", report.attempts, report.failures.len());
    }
    page.push_str("</table>\n");
    let all = Series::all(samples);
    for kind in [Kind::Resident, Kind::Descriptors, Kind::Threads] {
        let _ = writeln!(page, "<h2>{} {}</h2>", kind.word(), kind.unit());
        let of_kind: Vec<&Series> = all.iter().filter(|series| series.kind == kind).collect();
        plot(&mut page, &of_kind, end);
    }
    page.push_str("<h2>failures</h2><ul>\n");
    for (way, report) in reports {
        for failure in &report.failures {
            let at = failure.at.saturating_duration_since(begin).as_secs_f64();
            let during =
                done.iter().take_while(|(since, _)| *since <= at).last().map_or("-", |(_, step)| step);
            let _ = writeln!(
                page,
                "<li>{at:.3} s by {way}, during {during}: {} after {:?}",
                failure.error, failure.took
            );
        }
    }
    page.push_str("</ul>\n");
    page
}

fn plot(page: &mut String, all: &[&Series], end: f64) {
    let values = || all.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    if low > high {
        return;
    }
    let (low, high) = (low * 0.95, high * 1.05 + 0.1);
    let _ = writeln!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\">");
    for (text, y) in [(high, 12.0), (low, HEIGHT - 4.0)] {
        let _ = writeln!(page, "<text x=0 y={y} font-size=12>{text:.1}</text>");
    }
    for (series, colour) in all.iter().zip(COLOURS.iter().cycle()) {
        let place = |(at, value): &(f64, f64)| {
            format!(
                "{:.1},{:.1}",
                50.0 + at / end * (WIDTH - 50.0),
                HEIGHT - (value - low) / (high - low) * HEIGHT
            )
        };
        let points: Vec<String> = series.points.iter().map(place).collect();
        let _ = writeln!(page, "<polyline fill=none stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
    }
    page.push_str("</svg><p>");
    for (series, colour) in all.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(page, "<span style=\"color:{colour}\">■ {}</span> ", series.of);
    }
    page.push_str("</p>\n");
}
