//! What manifests/components/monitoring tells people is true: alerts lead to places of the runbook and to commands that exist,
//! dashboards are what Grafana takes, and both ask for nothing but documented metrics.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::docs::{documents, root, unknown_to_herald};

const DASHBOARDS: [&str; 5] = ["bgp", "cluster", "layer2", "node", "proxy"];
/// Labels and series of Prometheus' own, and what Grafana puts in place of its variables.
const NOT_HERALDS: [&str; 2] = ["up", "ALERTS"];

fn component(file: &str) -> String {
    std::fs::read_to_string(root().join("manifests/components/monitoring").join(file)).unwrap()
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&component("rules.yaml")).unwrap();
    let groups = rules["spec"]["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn dashboards() -> BTreeMap<&'static str, Value> {
    let read = |name: &&'static str| {
        let text = component(&format!("dashboards/herald-{name}.json"));
        (*name, serde_json::from_str(&text).unwrap())
    };
    DASHBOARDS.iter().map(read).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The metrics that a query names, without the parts of a histogram.
fn metrics(query: &str) -> BTreeSet<String> {
    // Not what stands in quotes: labels are matched with names too.
    let bare: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let words = bare.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = ["herald_", "metallb_", "kubeproxy_", "process_"];
    let metrics =
        words.filter(|word| NOT_HERALDS.contains(word) || ours.iter().any(|prefix| word.starts_with(prefix)));
    metrics.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// Those of a query that nobody is told of; one that names none at all asks for nothing.
fn untold(query: &str) -> Vec<String> {
    let told: BTreeSet<String> = documents()["docs/metrics.md"].code.iter().cloned().collect();
    let metrics = metrics(query);
    if metrics.is_empty() {
        return vec![format!("nothing is asked for by {query}")];
    }
    metrics.into_iter().filter(|name| !told.contains(name) && !NOT_HERALDS.contains(&&**name)).collect()
}

#[test]
fn each_alert_says_what_is_wrong_what_to_type_and_where_to_read_on() {
    let documents = documents();
    let (runbook, operations) = (&documents["docs/runbook.md"], &documents["docs/operations.md"]);
    let (mut wrong, mut help, mut names) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for alert in alerts() {
        let name = text(&alert["alert"]);
        let mut expect = |holds: bool, what: String| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        expect(names.insert(name.to_owned()), "there are two".to_owned());
        let told = operations.code.iter().any(|code| code == name);
        expect(told, "docs/operations.md does not tell what it means".to_owned());
        expect(
            ["critical", "warning"].contains(&text(&alert["labels"]["severity"])),
            "no severity".to_owned(),
        );
        let annotations = &alert["annotations"];
        expect(text(&annotations["description"]).ends_with('.'), "no sentence".to_owned());
        let anchor = text(&annotations["runbook"]).strip_prefix("docs/runbook.md#").unwrap_or_default();
        expect(runbook.anchors.contains(anchor), format!("the runbook has no heading {anchor:?}"));
        let next = text(&annotations["summary"]).split_once("; next: ").map_or("", |(_, next)| next);
        // What Prometheus puts in is one word.
        let next = next.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, rest)| rest));
        let next = next.collect::<Vec<_>>().join("NAME");
        let problem = match next.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["herald", rest @ ..] => unknown_to_herald(rest, &mut help),
            ["kubectl", "get", ..] => None,
            _ => Some("is no command".to_owned()),
        };
        expect(problem.is_none(), format!("next: {next:?}: {}", problem.unwrap_or_default()));
        let untold = untold(text(&alert["expr"]));
        expect(untold.is_empty(), format!("not in docs/metrics.md: {untold:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(names.len() >= 12, "{names:?}");
}

#[test]
fn each_dashboard_is_one_that_grafana_takes() {
    for (name, dashboard) in dashboards() {
        assert_eq!(text(&dashboard["uid"]), format!("herald-{name}"));
        assert!(text(&dashboard["title"]).starts_with("Herald: "), "{name}");
        assert!(dashboard["schemaVersion"].as_u64() >= Some(36), "{name}");
        assert_eq!(dashboard["tags"], serde_json::json!(["herald"]), "{name}");
        assert!(dashboard.get("id").is_none(), "{name}: Grafana gives the id");

        let variables = list(&dashboard["templating"]["list"]);
        let known: BTreeSet<&str> = variables.iter().map(|variable| text(&variable["name"])).collect();
        assert_eq!(variables[0]["type"], "datasource", "{name}");
        assert_eq!(variables[0]["query"], "prometheus", "{name}");
        assert_eq!(variables[0]["name"], "datasource", "{name}");

        let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
        for panel in list(&dashboard["panels"]) {
            let title = format!("{name}: {}", text(&panel["title"]));
            assert!(!text(&panel["title"]).is_empty(), "{name}: a panel without a title");
            assert!(panel["id"].as_u64().is_some_and(|id| ids.insert(id)), "{title}: its id");
            assert!(["stat", "timeseries", "state-timeline"].contains(&text(&panel["type"])), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert_eq!(panel["datasource"]["type"], "prometheus", "{title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: a unit");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24 && w > 0 && h > 0, "{title}: beside the grid");
            let apart =
                |(a, b, v, i): &(u64, u64, u64, u64)| x + w <= *a || a + v <= x || y + h <= *b || b + i <= y;
            assert!(places.iter().all(apart), "{title}: over another panel");
            places.push((x, y, w, h));
            let targets = list(&panel["targets"]);
            let letters: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
            assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}: its queries");
            for target in targets {
                let query = text(&target["expr"]);
                assert!(!text(&target["legendFormat"]).is_empty(), "{title}: a query without a legend");
                let variables = query.split('$').skip(1);
                let unknown: Vec<&str> = variables
                    .map(|rest| {
                        rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
                    })
                    .filter(|variable| *variable != "__rate_interval" && !known.contains(variable))
                    .collect();
                assert!(unknown.is_empty(), "{title}: no such variable: {unknown:?}");
            }
        }
        assert!(ids.len() >= 8, "{name} has {} panels", ids.len());
    }
}

#[test]
fn the_dashboards_ask_for_documented_metrics_only() {
    let mut wrong = Vec::new();
    for (name, dashboard) in dashboards() {
        let panels = list(&dashboard["panels"]).iter();
        let asked = panels.flat_map(|panel| list(&panel["targets"])).map(|target| text(&target["expr"]));
        let variables =
            list(&dashboard["templating"]["list"]).iter().filter(|variable| variable["type"] == "query");
        let asked = asked.chain(variables.map(|variable| text(&variable["query"]["query"])));
        wrong.extend(asked.flat_map(untold).map(|metric| format!("{name}: {metric}")));
    }
    assert!(wrong.is_empty(), "not in docs/metrics.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_files_are_those_that_are_delivered() {
    let there = std::fs::read_dir(root().join("manifests/components/monitoring/dashboards")).unwrap();
    let there: BTreeSet<String> =
        there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = DASHBOARDS.map(|name| format!("herald-{name}.json"));
    assert_eq!(there, expected.clone().into());
    let delivered: Value = serde_saphyr::from_str(&component("kustomization.yaml")).unwrap();
    let generator = &delivered["configMapGenerator"][0];
    let files =
        list(&generator["files"]).iter().map(|file| text(file).trim_start_matches("dashboards/").to_owned());
    assert_eq!(files.collect::<BTreeSet<_>>(), expected.into());
    assert_eq!(generator["options"]["labels"]["grafana_dashboard"], "1");
}

#[test]
fn the_metrics_of_a_query_are_found() {
    let query =
        r#"histogram_quantile(0.5, sum by (le) (rate(herald_a_seconds_bucket{job="herald_b"}[5m]))) / up"#;
    assert_eq!(metrics(query), ["herald_a_seconds", "up"].map(str::to_owned).into());
}
