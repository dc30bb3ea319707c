//! manifests/components/monitoring before what it is written for: the rules for alerts before promtool.

mod alerts;

use anyhow::{Result, ensure};
use serde_json::Value;

const COMPONENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/components/monitoring");

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
