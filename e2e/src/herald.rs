//! Herald's own processes: controllers beside the API server, speakers on nodes, both with the rights that the manifests give
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::account::{CONTROLLER, SPEAKER};
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::{CLUSTER_CIDR, CONTROL_PLANE, Node, SERVICE_CIDR};

/// Where Herald's configuration lives, as MetalLB's users know it.
pub const NAMESPACE: &str = "metallb-system";

impl Lab {
    /// Starts `herald controller` in the control plane's namespace. `name` is its log's. A flag in `arguments` (as
    /// `--flag=value` or in two words) replaces the usual one; a second controller wants another `--identity`.
    pub fn controller(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let usual = [
            ("--kubeconfig", self.account_kubeconfig(CONTROLLER).display().to_string()),
            ("--namespace", NAMESPACE.to_owned()),
        ];
        self.start_process(self.control_plane_ns(), name, command("controller", &usual, arguments)?)
    }

    /// Starts `herald speaker` on a node, with `--proxy=full` unless told otherwise; its log is `speaker-<node>`.
    pub fn speaker(&self, node: &Node, arguments: &[&str]) -> Result<Process> {
        let command = self.speaker_command(node, arguments)?;
        self.start_process(&node.ns, &format!("speaker-{}", node.name), command)
    }

    fn speaker_command(&self, node: &Node, arguments: &[&str]) -> Result<Command> {
        let usual = [
            ("--node-name", node.name.clone()),
            ("--kubeconfig", self.account_kubeconfig(SPEAKER).display().to_string()),
            ("--api-server", format!("https://{CONTROL_PLANE}:6443")),
            ("--namespace", NAMESPACE.to_owned()),
            ("--cluster-cidr", CLUSTER_CIDR.to_owned()),
            ("--service-cidr", SERVICE_CIDR.to_owned()),
            ("--proxy", "full".to_owned()),
            ("--state-directory", self.state_directory(node).display().to_string()),
        ];
        command("speaker", &usual, arguments)
    }

    /// [`Self::speaker`] by a line of sh(1), to which the command is `"$@"`.
    pub fn speaker_by(&self, shell: &str, node: &Node, arguments: &[&str]) -> Result<Process> {
        let speaker = self.speaker_command(node, arguments)?;
        let mut command = Command::new("sh");
        command.args(["-ec", shell, "sh"]).arg(speaker.get_program()).args(speaker.get_args());
        self.start_process(&node.ns, &format!("speaker-{}", node.name), command)
    }

    /// Where a node's speakers keep their snapshot: a node of the lab has no disk of its own.
    pub fn state_directory(&self, node: &Node) -> PathBuf {
        self.directory().join("state").join(&node.name)
    }

    /// [`Self::speaker`] on every node, in the nodes' order.
    pub fn speakers(&self, arguments: &[&str]) -> Result<Vec<Process>> {
        self.nodes().iter().map(|node| self.speaker(node, arguments)).collect()
    }

    /// Writes `config` into the ConfigMap that Herald reads (also to change it).
    pub fn configure_herald(&self, config: &str) -> Result<()> {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": NAMESPACE, "name": "config" },
            "data": { "config": config },
        });
        // JSON is YAML, and needs no care for indentation.
        self.apply(&object.to_string()).map(drop)
    }
}

fn command(role: &str, usual: &[(&str, String)], arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.arg(role).args(merge(usual, arguments));
    Ok(command)
}

fn merge(usual: &[(&str, String)], arguments: &[&str]) -> Vec<String> {
    let replaced = |flag: &str| {
        arguments.iter().any(|argument| argument.split('=').next().is_some_and(|name| name == flag))
    };
    let mut merged: Vec<String> = usual
        .iter()
        .filter(|(flag, _)| !replaced(flag))
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect();
    merged.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    merged
}

/// The binary under test: `HERALD_BIN`, or the newest that cargo has built in this workspace.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HERALD_BIN") {
        return Ok(path.into());
    }
    let mut targets = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")];
    targets.extend(std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    let builds = ["debug", "release", "x86_64-unknown-linux-musl/release"];
    let mut found: Vec<PathBuf> =
        targets.iter().flat_map(|t| builds.map(|build| t.join(build).join("herald"))).collect();
    // The one beside this test is of the same build.
    let own = std::env::current_exe()?;
    found.extend(own.ancestors().skip(1).take(2).map(|directory| directory.join("herald")));
    found
        .into_iter()
        .filter_map(|path| Some((std::fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("herald is not built: cargo build -p herald, or set HERALD_BIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_flag_replaces_the_usual_one_in_either_form() {
        let usual = [("--proxy", "full".to_owned()), ("--namespace", "metallb-system".to_owned())];
        assert_eq!(merge(&usual, &["--proxy=off"]), ["--namespace=metallb-system", "--proxy=off"]);
        assert_eq!(merge(&usual, &["--namespace", "x"]), ["--proxy=full", "--namespace", "x"]);
        assert_eq!(merge(&usual, &["--proxy-mode=x"]).len(), 3);
    }
}
