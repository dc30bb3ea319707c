//! What a scraper is answered: OpenMetrics if it asks for that, else Prometheus' classic text format 0.0.4.
//!
//! Prometheus asks for OpenMetrics; curl, older agents and scripts ask for anything and expect the classic format. The
//! two differ in what is written about a counter (its name there is the samples' own, with `_total`; one whose name has no
//! `_total` is a counter there alone), in units and in the end mark; samples are the same.

use std::fmt::Write as _;

/// The classic format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// OpenMetrics 1.0.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type and body for a client with this `Accept` header.
pub(super) fn answer(accept: Option<&str>, open_metrics: String) -> (&'static str, String) {
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        return (OPEN_METRICS, open_metrics);
    }
    (CLASSIC, classic(&open_metrics))
}

fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // The help stands before the type, and its name depends on the type.
    let mut help = None;
    for line in open_metrics.lines() {
        // Writing to a String cannot fail.
        let _ = if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
            Ok(())
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "unknown" => ("", "counter"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(out, "# HELP {name}{suffix} {help}");
            }
            writeln!(out, "# TYPE {name}{suffix} {kind}")
        } else if line.starts_with('#') {
            Ok(())
        } else {
            writeln!(out, "{line}")
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use crate::metrics::{Metrics, PlainCounter};

    use super::*;

    fn metrics() -> Metrics {
        let metrics = Metrics::new();
        metrics.register("requests", "All of them", Counter::<u64>::default()).inc();
        metrics.register("open", "Just now", Gauge::<i64>::default()).set(3);
        metrics.register("opens_sent", "As MetalLB names it", PlainCounter::default()).inc_by(2);
        metrics
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let (kind, text) = metrics().answer(Some(prometheus)).unwrap();
        assert_eq!(kind, OPEN_METRICS);
        assert!(text.contains("# TYPE requests counter\nrequests_total 1\n"), "{text}");
        assert!(text.contains("# TYPE opens_sent unknown\nopens_sent 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn everyone_else_gets_the_classic_format() {
        for accept in [None, Some("*/*"), Some("text/plain")] {
            let (kind, text) = metrics().answer(accept).unwrap();
            assert_eq!(kind, CLASSIC);
            let counter =
                "# HELP requests_total All of them.\n# TYPE requests_total counter\nrequests_total 1\n";
            assert!(text.contains(counter), "{text}");
            assert!(text.contains("# HELP open Just now.\n# TYPE open gauge\nopen 3\n"), "{text}");
            assert!(text.contains("# TYPE opens_sent counter\nopens_sent 2\n"), "{text}");
            assert!(!text.contains("EOF"), "{text}");
        }
    }
}
