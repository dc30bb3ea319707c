//! What the node's probes of addresses say, in `herald status`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::overview::Finding;
use super::status::span;
use crate::availability::{Probed, Seen};

/// So many addresses that do not answer are findings of their own.
const NAMED: usize = 10;

/// The probes of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AvailabilityAnswer {
    /// Each address is probed once in so many milliseconds.
    pub interval_milliseconds: u64,
    /// Those that are this node's to probe.
    pub addresses: BTreeMap<IpAddr, ProbedAnswer>,
}

/// An address, as probed by a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbedAnswer {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The TCP port that is probed; `null`: none.
    pub port: Option<u16>,
    /// Probes of the last hour that were answered.
    pub answered: u32,
    /// Those that were not.
    pub failed: u32,
    /// For so many seconds no probe has been answered, if the last ones were not.
    pub failing_seconds: Option<u64>,
    /// Why it is not probed, or why the last probe said nothing.
    pub unknown: Option<String>,
}

/// Tells of the probes, and of addresses that do not answer.
pub(crate) fn availability(
    interval: Duration,
    seen: &BTreeMap<IpAddr, Seen>,
) -> (AvailabilityAnswer, Vec<Finding>) {
    let probed = |seen: &Seen| {
        let (port, why) = match seen.probed {
            Probed::At(port) => (Some(port), seen.skipped),
            Probed::Not(why) => (None, Some(why.sentence())),
        };
        ProbedAnswer {
            service: seen.service.to_string(),
            port,
            answered: seen.answered,
            failed: seen.failed,
            failing_seconds: seen.failing.map(|(since, _)| since.as_secs()),
            unknown: why.map(str::to_owned),
        }
    };
    let answer = AvailabilityAnswer {
        interval_milliseconds: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        addresses: seen.iter().map(|(address, seen)| (*address, probed(seen))).collect(),
    };
    let failing = || seen.iter().filter_map(|(address, seen)| Some((address, seen, seen.failing?)));
    let finding = |(address, seen, (since, why)): (&IpAddr, &Seen, (Duration, &str))| {
        let port = match seen.probed {
            Probed::At(port) => format!(", port {port}"),
            Probed::Not(_) => String::new(),
        };
        Finding {
            text: format!(
                "all probes of {address} ({}{port}) have failed for {}: {why}",
                seen.service,
                span(since.as_secs())
            ),
            next: Some(format!("herald history {address}")),
        }
    };
    let mut findings: Vec<Finding> = failing().take(NAMED).map(finding).collect();
    let more = failing().count().saturating_sub(NAMED);
    if more > 0 {
        let text = format!("{more} more addresses fail their probes (-o json has all)");
        findings.push(Finding { text, next: None });
    }
    (answer, findings)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use herald_runtime::ObjectName;

    use super::*;

    fn seen(count: u8, failing: Option<(Duration, &'static str)>) -> BTreeMap<IpAddr, Seen> {
        let seen = Seen {
            service: Arc::new(ObjectName::new("shop", "web")),
            probed: Probed::At(80),
            answered: 355,
            failed: 5,
            failing,
            skipped: None,
        };
        (1..=count).map(|n| ([192, 0, 2, n].into(), seen.clone())).collect()
    }

    #[test]
    fn an_address_that_does_not_answer_is_told_with_how_since_when_and_what_to_type() {
        let failing = Some((Duration::from_secs(41), "no answer within a second"));
        let (answer, findings) = availability(Duration::from_secs(10), &seen(1, failing));
        let expected = Finding {
            text:
                "all probes of 192.0.2.1 (shop/web, port 80) have failed for 41 s: no answer within a second"
                    .to_owned(),
            next: Some("herald history 192.0.2.1".to_owned()),
        };
        assert_eq!(findings, [expected]);
        let json = serde_json::to_value(&answer).unwrap();
        let address = serde_json::json!({
            "service": "shop/web", "port": 80, "answered": 355, "failed": 5, "failingSeconds": 41, "unknown": null,
        });
        assert_eq!(
            json,
            serde_json::json!({"intervalMilliseconds": 10_000, "addresses": {"192.0.2.1": address}})
        );
        assert_eq!(availability(Duration::from_secs(10), &seen(1, None)).1, []);
    }

    #[test]
    fn of_many_that_do_not_answer_some_are_named() {
        let failing = Some((Duration::from_secs(41), "no answer within a second"));
        let (answer, findings) = availability(Duration::from_secs(10), &seen(25, failing));
        assert_eq!((answer.addresses.len(), findings.len()), (25, NAMED + 1));
        assert_eq!(findings[NAMED].text, "15 more addresses fail their probes (-o json has all)");
    }
}
