//! Each alert fires in its case, with the summary that people read, and is silent where all is well.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::tools;
use serde_json::Value;

use super::{alerts, list, rules, text};

const CASES: &str = include_str!("../testdata/alerts.yaml");

fn promtool(directory: &std::path::Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(tools()?.join("promtool")).current_dir(directory).args(arguments).output()?;
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    println!("promtool {}\n{told}", arguments.join(" "));
    ensure!(output.status.success(), "promtool {}: {told}", arguments.join(" "));
    Ok(())
}

#[test]
#[ignore = "needs promtool"]
fn each_alert_fires_in_its_case_and_is_silent_where_all_is_well() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut rules = rules()?;
    std::fs::write(directory.path().join("rules.json"), rules.to_string())?;
    promtool(directory.path(), &["check", "rules", "rules.json"])?;

    // Of each alert there is a case, and its silence.
    let cases: Value = serde_saphyr::from_str(CASES)?;
    let (well, wrong) = list(&cases["tests"]).split_first().context("no cases")?;
    let named = |case: &Value, fires: bool| -> BTreeSet<String> {
        let tests = list(&case["alert_rule_test"]).iter();
        let tests = tests.filter(|test| list(&test["exp_alerts"]).is_empty() != fires);
        tests.map(|test| text(&test["alertname"]).to_owned()).collect()
    };
    let all: BTreeSet<String> = alerts(&rules).map(|alert| text(&alert["alert"]).to_owned()).collect();
    ensure!(named(well, true).is_empty() && named(well, false) == all, "where all is well: {well}");
    let fires: BTreeSet<String> = wrong.iter().flat_map(|case| named(case, true)).collect();
    ensure!(fires == all, "{fires:?} have a case, {all:?} are there");

    // promtool wants all annotations to be told; those that are the same each time would only be copies.
    for group in rules["groups"].as_array_mut().into_iter().flatten() {
        for rule in group["rules"].as_array_mut().into_iter().flatten() {
            if let Some(annotations) = rule["annotations"].as_object_mut() {
                annotations.retain(|name, _| name == "summary");
            }
        }
    }
    std::fs::write(directory.path().join("rules.json"), rules.to_string())?;
    std::fs::write(directory.path().join("alerts.yaml"), CASES)?;
    promtool(directory.path(), &["test", "rules", "alerts.yaml"])
}
