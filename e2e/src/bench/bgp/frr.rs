//! An FRR: `bgpd`, and for BFD `zebra` and `bfdd` beside it, with files and sockets of its own. Its log has microseconds.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::await_until::await_ok;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::Process;

/// An FRR; dropping it kills it.
#[derive(Debug)]
pub struct Frr {
    directory: PathBuf,
    namespace: Namespace,
    /// In the order in which they were started.
    processes: Vec<Process>,
}

impl Frr {
    /// Starts one; `bgp` is the configuration of `bgpd`. `bfd`: with BFD.
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str, bgp: &str, bfd: bool) -> Result<Self> {
        let directory = lab.directory().join(name);
        std::fs::create_dir_all(&directory)?;
        let mut this = Self { directory, namespace: namespace.clone(), processes: Vec::new() };
        if bfd {
            this.daemon(lab, name, "zebra", "", &[])?;
            let control = format!("--bfdctl={}", this.directory.join("bfdd.sock").display());
            this.daemon(lab, name, "bfdd", "", &[&control])?;
        }
        this.daemon(lab, name, "bgpd", bgp, if bfd { &[] } else { &["-Z"] })?;
        Ok(this)
    }

    fn daemon(&mut self, lab: &Lab, name: &str, daemon: &str, config: &str, more: &[&str]) -> Result<()> {
        let path = |what: &str| self.directory.join(format!("{daemon}.{what}"));
        let log = path("log");
        let head = format!("log file {} debugging\nlog timestamp precision 6\n", log.display());
        std::fs::write(path("conf"), head + config)?;
        // Its processes are not root's.
        self.namespace.exec(&["chown", "-R", "frr:frr", &self.directory.display().to_string()])?;
        let mut command = Command::new(format!("/usr/lib/frr/{daemon}"));
        // No port for telnet.
        command.args(["-P", "0", "-f"]).arg(path("conf")).arg("-i").arg(path("pid"));
        command.arg("--vty_socket").arg(&self.directory).arg("-z").arg(self.directory.join("zserv.api"));
        command.args(more).env("TZ", "UTC");
        let process = lab.start_process(&self.namespace, &format!("{name}-{daemon}"), command)?;
        self.processes.push(process);
        let socket = self.directory.join(format!("{daemon}.vty"));
        await_ok(Duration::from_secs(60), &format!("{daemon} to listen"), || {
            ensure!(socket.exists(), "there is no {}", socket.display());
            Ok(())
        })
        .with_context(|| self.processes.last().map(Process::log_tail).unwrap_or_default())
    }

    /// What `bgpd` has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("bgpd.log")).unwrap_or_default()
    }

    /// A command of vtysh.
    pub fn ask(&self, command: &str) -> Result<String> {
        let directory = self.directory.display().to_string();
        self.namespace.exec(&["/usr/bin/vtysh", "--vty_socket", &directory, "-c", command])
    }

    /// Lets all its processes hang, or go on.
    pub fn hang(&self, frozen: bool) {
        for process in &self.processes {
            if frozen { process.freeze() } else { process.thaw() }
        }
    }

    /// Its processes.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }
}
