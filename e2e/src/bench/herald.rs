//! Herald as it is measured: one controller, a speaker with the full proxy on every node, the ConfigMap of 0.2.1's shape.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::herald::program;
use crate::lab::Lab;
use crate::process::Process;

/// The processes; dropping them kills them.
#[derive(Debug)]
pub struct Herald {
    processes: Vec<Process>,
}

impl Herald {
    /// Starts Herald with one pool of this prefix, announced to the lab's BIRD, and waits for the sessions.
    pub fn start(lab: &Lab, pool: &str) -> Result<Self> {
        lab.configure_herald(&format!(
            "peers:\n\
             - {{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}}\n\
             address-pools:\n\
             - name: bench\n\
             \x20 cidr: [{pool}]\n\
             \x20 advertisements:\n\
             \x20 - {{aggregation-length: 32}}\n"
        ))?;
        let mut processes = vec![lab.controller("controller", &[])?];
        processes.extend(lab.speakers(&[])?);
        let this = Self { processes };
        for node in lab.nodes() {
            let session = lab.router().await_session(&node.name, Duration::from_secs(30));
            session.with_context(|| super::metallb::logs(&this.processes))?;
        }
        Ok(this)
    }

    /// Ends Herald and takes out of the nodes' kernels what it leaves there on purpose, so that the next system finds them bare.
    pub fn stop(self, lab: &Lab) -> Result<()> {
        for process in &self.processes {
            process.terminate(Duration::from_secs(15))?;
        }
        for node in lab.nodes() {
            node.ns.exec(&["nft", "flush", "ruleset"])?;
        }
        Ok(())
    }

    /// The ends of the processes' logs.
    pub fn logs(&self) -> String {
        super::metallb::logs(&self.processes)
    }
}

/// What `herald --version` says.
pub fn version() -> Result<String> {
    let program = program()?;
    let output = std::process::Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
