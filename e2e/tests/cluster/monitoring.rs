//! manifests/components/monitoring before what it is written for: the rules for alerts before promtool, all queries of alerts and
//! dashboards before a real Prometheus that scrapes a lab under load, and how many series there are of ten thousand Services.

mod alerts;
mod prometheus;
mod queries;
mod series;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const COMPONENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/components/monitoring");
const METRICS: &str = include_str!("../../../docs/metrics.md");

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The rules for alerts as Prometheus reads them in a file: what the operator makes of the object.
fn rules() -> Result<Value> {
    let object: Value = serde_saphyr::from_str(&std::fs::read_to_string(format!("{COMPONENT}/rules.yaml"))?)?;
    ensure!(!list(&object["spec"]["groups"]).is_empty(), "no rules: {object}");
    Ok(object["spec"].clone())
}

fn alerts(rules: &Value) -> impl Iterator<Item = &Value> {
    list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"]))
}

/// The labels that docs/metrics.md tells of each metric.
fn documented() -> Result<BTreeMap<&'static str, BTreeSet<&'static str>>> {
    let mut documented = BTreeMap::new();
    for row in METRICS.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        let words = |cell: &'static str| cell.split('`').skip(1).step_by(2);
        for metric in words(cells[1]) {
            let former = documented.insert(metric, words(cells[2]).collect());
            ensure!(former.is_none(), "{metric} stands there twice");
        }
    }
    ensure!(documented.len() > 50, "{documented:?}");
    Ok(documented)
}

/// The metric of a series, and its labels' names, as they stand in what is scraped.
fn taken_apart(line: &str) -> Option<(&str, BTreeSet<&str>)> {
    let (series, _) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter_map(|pair| Some(pair.split_once('=')?.0));
    let labels = labels.filter(|label| *label != "le").collect();
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    Some((part.unwrap_or(name), labels))
}

/// Each series has the labels that people are told of, and no other.
fn ensure_documented(scraped: &str) -> Result<()> {
    let documented = documented()?;
    let served = scraped.lines().filter(|line| !line.starts_with('#')).filter_map(taken_apart);
    let wrong: BTreeSet<String> = served
        .filter(|(name, labels)| documented.get(name) != Some(labels))
        .map(|(name, labels)| format!("{name} has {labels:?}, documented are {:?}", documented.get(name)))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_series_is_taken_apart() -> Result<()> {
    let line = r#"herald_a_seconds_bucket{le="0.5",ip_family="IPv4",service="a/b"} 3"#;
    let found = taken_apart(line).context("a series")?;
    assert_eq!(found, ("herald_a_seconds", ["ip_family", "service"].into()));
    assert_eq!(taken_apart("up 1"), Some(("up", BTreeSet::new())));
    assert_eq!(json!(documented()?["metallb_bgp_session_up"]), json!(["peer"]));
    Ok(())
}
