//! All queries of all dashboards and alerts, asked of a Prometheus that scrapes a cluster with something to do: none is refused,
//! and each panel shows something.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, PodOptions, RouterOptions, at, await_ok};
use serde_json::{Value, json};

use super::prometheus::Prometheus;
use super::{COMPONENT, alerts, ensure_documented, list, rules, text};
use crate::order::herald;
use crate::services::{SOON, await_address, create, service};

/// Scrapes, and the window that rates are taken over, on a loaded machine.
const SHOWN: Duration = Duration::from_secs(90);
/// What Grafana puts in place of its variables.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "15s"), ("$node", ".*"), ("$peer", ".*")];

const CONFIG: &str = "\
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, bfd-profile: usual}
bfd-profiles:
- {name: usual, receive-interval: 300, transmit-interval: 300}
address-pools:
- {name: edge, protocol: bgp, addresses: [192.0.2.0/24]}
- {name: lan, protocol: layer2, auto-assign: false, addresses: [10.0.0.200-10.0.0.239]}
";

fn dashboards() -> Result<BTreeMap<String, Value>> {
    let mut dashboards = BTreeMap::new();
    for entry in std::fs::read_dir(format!("{COMPONENT}/dashboards"))? {
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(entry?.path())?)?;
        dashboards.insert(text(&dashboard["title"]).to_owned(), dashboard);
    }
    ensure!(dashboards.len() == 5, "{:?}", dashboards.keys());
    Ok(dashboards)
}

fn filled_in(query: &str) -> String {
    VARIABLES.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

/// By where it stands.
fn queries(dashboards: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let mut queries = BTreeMap::new();
    for (title, dashboard) in dashboards {
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let place = format!("{title}: {} {} {}", panel["id"], panel["title"], target["refId"]);
                queries.insert(place, filled_in(text(&target["expr"])));
            }
        }
    }
    queries
}

/// There is a value that can be drawn.
fn has_data(found: &[Value]) -> bool {
    found.iter().any(|series| text(&series["value"][1]).parse::<f64>().is_ok_and(f64::is_finite))
}

#[test]
#[ignore = "needs a network namespace"]
fn all_panels_and_alerts_are_answered_by_a_prometheus_that_scrapes_a_cluster() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    lab.router().configure(&RouterOptions::t4(lab.nodes()).with_bfd(300))?;
    let (controller, speakers) = herald(&lab, CONFIG, &["--probe-addresses=1s"])?;
    let prometheus = Prometheus::start(&lab, &rules()?)?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let spec = |name: &str, spec: Value| service(name, json!({ "spec": spec }));
    let with = |name: &str, key: &str, value: &str| {
        service(name, json!({ "metadata": { "annotations": { key: value } } }))
    };
    create(
        &lab,
        [
            spec("web", json!({})),
            spec("local", json!({ "externalTrafficPolicy": "Local" })),
            spec("dark", json!({ "selector": { "app": "nobody" } })),
            with("lan", "metallb.io/address-pool", "lan"),
            with("probed", "herald.io/probe", "tcp interval=200ms"),
        ],
    )?;
    let (web, lan) = (await_address(&lab, "web")?.to_string(), await_address(&lab, "lan")?.to_string());
    let made = Cell::new(0);
    // What there is to do: a Service more, a client from far away, a neighbour that asks anew who has the address.
    let load = || -> Result<()> {
        create(&lab, [spec(&format!("more-{:03}", made.replace(made.get() + 1)), json!({}))])?;
        await_ok(SOON, "the Service by BGP", || lab.client().get(at(&web, 80)).map(drop))?;
        lab.router().ns.ip(&[format!("neigh flush to {lan}")])?;
        await_ok(SOON, "the Service by layer 2", || lab.router().ns.get(at(&lan, 80)).map(drop))
    };

    let dashboards = dashboards()?;
    let mut waiting = queries(&dashboards);
    let all = waiting.len();
    ensure!(all > 60, "{all} queries");
    await_ok(SHOWN, "all queries to have data", || {
        load()?;
        let mut failed = None;
        waiting.retain(|place, query| match prometheus.query(query) {
            Ok(found) => !has_data(&found),
            Err(error) => {
                failed.get_or_insert_with(|| error.context(place.clone()));
                true
            }
        });
        ensure!(failed.is_none(), "{:#}", failed.context("a failure")?);
        ensure!(waiting.is_empty(), "{} of {all} have none: {waiting:#?}", waiting.len());
        Ok(())
    })?;
    println!("{all} queries of dashboards have data, with {} Services more", made.get());

    // The variables have something to choose from.
    for (title, dashboard) in &dashboards {
        for variable in list(&dashboard["templating"]["list"]).iter().filter(|it| it["type"] == "query") {
            let query = filled_in(text(&variable["query"]["query"]));
            let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = arguments.and_then(|it| it.rsplit_once(", ")).context("label_values")?;
            let values = prometheus.values(label, series)?;
            ensure!(!values.is_empty(), "{title}: nothing to choose from for {}", variable["name"]);
        }
    }

    // Alerts can be evaluated, and none fires where all is well.
    let rules = rules()?;
    for alert in alerts(&rules) {
        prometheus.query(text(&alert["expr"])).with_context(|| text(&alert["alert"]).to_owned())?;
    }
    let (broken, firing) = prometheus.alarm()?;
    ensure!(broken.is_empty() && firing.is_empty(), "broken: {broken:?}, firing: {firing:?}");
    for ns in lab.nodes().iter().map(|node| &node.ns).chain([lab.control_plane_ns()]) {
        ensure_documented(&ns.curl("http://127.0.0.1:7472/metrics")?)?;
    }

    // What is wrong is seen as soon as it is scraped; how long it has to last is promtool's to test.
    let seen = |alert: &str, node: Option<&str>| {
        let rule = alerts(&rules).find(|rule| rule["alert"] == alert).context("the alert")?;
        await_ok(SOON, alert, || {
            let found = prometheus.query(text(&rule["expr"]))?;
            let there = found.iter().any(|it| node.is_none_or(|node| it["metric"]["node"] == node));
            ensure!(there, "{found:?}");
            Ok(())
        })
    };
    lab.router().stop_bird()?;
    seen("HeraldBgpSessionDown", Some("node1"))?;
    create(&lab, [with("lost", "metallb.io/address-pool", "gone")])?;
    seen("HeraldServicesWait", None)?;
    drop(speakers);
    seen("HeraldSpeakerDown", Some("node2"))?;
    drop(controller);
    seen("HeraldNoLeader", None)
}
