//! A Prometheus in the control plane's namespace, that scrapes as the PodMonitors say, but each second.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Process, await_ok, tools};
use serde_json::{Value, json};

use super::{alerts, list, text};
use crate::services::SOON;

const ADDRESS: &str = "127.0.0.1:9090";

/// It ends with this value.
pub(super) struct Prometheus<'lab> {
    lab: &'lab Lab,
    process: Process,
}

impl<'lab> Prometheus<'lab> {
    /// Scrapes the speakers of all nodes and the controller, and evaluates these rules.
    pub(super) fn start(lab: &'lab Lab, rules: &Value) -> Result<Self> {
        let speakers = lab.nodes().iter().map(|node| {
            let labels = json!({ "node": node.name, "pod": format!("herald-speaker-{}", node.name) });
            json!({ "targets": [format!("{}:7472", node.ip)], "labels": labels })
        });
        let controllers =
            [json!({ "targets": ["127.0.0.1:7472"], "labels": { "pod": "herald-controller-a" } })];
        let job = |role: &str, targets: Vec<Value>| json!({ "job_name": format!("metallb-system/herald-{role}"), "static_configs": targets });
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.json"],
            "scrape_configs": [job("speaker", speakers.collect()), job("controller", controllers.into())],
        });
        let directory = lab.directory().join("prometheus");
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join("rules.json"), rules.to_string())?;
        // JSON is YAML.
        std::fs::write(directory.join("prometheus.yml"), config.to_string())?;
        let mut command = Command::new(tools()?.join("prometheus"));
        command.arg(format!("--config.file={}", directory.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let process = lab.start_process(lab.control_plane_ns(), "prometheus", command)?;
        let prometheus = Self { lab, process };
        await_ok(SOON, "Prometheus", || {
            ensure!(prometheus.process.is_running(), "it has ended");
            prometheus.query("1").map(drop)
        })
        .with_context(|| prometheus.process.log_tail())?;
        Ok(prometheus)
    }

    /// What a query has now; it may be nothing.
    pub(super) fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = self.ask("query", &format!("query={query}"))?;
        Ok(match text(&answer["resultType"]) {
            "vector" => list(&answer["result"]).to_vec(),
            _ => vec![answer["result"].clone()],
        })
    }

    /// The values of a label of these series.
    pub(super) fn values(&self, label: &str, series: &str) -> Result<Vec<Value>> {
        Ok(list(&self.ask(&format!("label/{label}/values"), &format!("match[]={series}"))?).to_vec())
    }

    /// The rules that cannot be evaluated, and the alerts that fire.
    pub(super) fn alarm(&self) -> Result<(Vec<String>, Vec<String>)> {
        let rules = self.ask("rules", "type=alert")?;
        let names = |wrong: &dyn Fn(&Value) -> bool| -> Vec<String> {
            alerts(&rules).filter(|rule| wrong(rule)).map(Value::to_string).collect()
        };
        Ok((names(&|rule| rule["health"] != "ok"), names(&|rule| rule["state"] == "firing")))
    }

    fn ask(&self, what: &str, argument: &str) -> Result<Value> {
        let url = format!("http://{ADDRESS}/api/v1/{what}");
        let command = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--get",
            "--data-urlencode",
            argument,
            &url,
        ];
        let text = self.lab.control_plane_ns().exec(&command)?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(answer["status"] == "success", "{argument}: {text}");
        Ok(answer["data"].clone())
    }
}
