//! A BIRD of the benchmark's own: it takes routes and does nothing with them, and its log has microseconds.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::first;
use crate::await_until::{await_ok, pause};
use crate::bench::bird::Bird as Control;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::Process;

/// Between two questions while routes arrive: little beside what is measured, and little load.
const PAUSE: Duration = Duration::from_micros(500);
/// For a session to come up, with every sender's own pauses.
const PATIENCE: Duration = Duration::from_secs(90);

/// A BIRD; dropping it kills it.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    control: Control,
    log: PathBuf,
    socket: PathBuf,
}

impl Bird {
    /// Starts one in a namespace. `config` is all but the lines that every one has.
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str, config: &str) -> Result<Self> {
        let path = |what: &str| lab.directory().join(format!("{name}.{what}"));
        let (socket, log) = (path("ctl"), path("log"));
        let text = format!(
            "log \"{}\" all;\ntimeformat log iso long us;\ndebug protocols {{ states, events }};\n\
             protocol device {{ scan time 60; }}\n{config}",
            log.display()
        );
        std::fs::write(path("conf"), text)?;
        std::fs::write(&log, "")?;
        let mut command = Command::new("/usr/sbin/bird");
        command.arg("-f").arg("-c").arg(path("conf")).arg("-s").arg(&socket).env("TZ", "UTC");
        let process = lab.start_process(namespace, name, command)?;
        let control = await_ok(Duration::from_secs(20), &format!("BIRD {name} to answer"), || {
            Control::connect(&socket)
        })
        .with_context(|| process.log_tail())?;
        Ok(Self { process, control, log, socket })
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its control socket.
    pub fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// A command of birdc.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.control.ask(&format!("{command}\n"))
    }

    /// Its version.
    pub fn version(&self) -> &str {
        self.control.version()
    }

    /// How many routes it has of a protocol.
    fn imported(&mut self, protocol: &str) -> Result<u32> {
        let text = self.ask(&format!("show protocols all {protocol}"))?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("Routes:"));
        Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0))
    }

    /// Drops the session with a neighbour and all its routes, lets it come again, and waits for so many routes. From the
    /// moment when the session was up.
    pub fn transfer(&mut self, protocol: &str, routes: u32) -> Result<Duration> {
        self.ask(&format!("disable {protocol}"))?;
        await_ok(PATIENCE, "the router to drop the routes", || match self.imported(protocol) {
            Ok(0) => Ok(()),
            Ok(left) => Err(format!("{left} are left")),
            Err(error) => Err(format!("{error:#}")),
        })?;
        let logged = self.log().len();
        self.ask(&format!("enable {protocol}"))?;
        let all = self.await_routes(protocol, routes)?;
        let up = first(&self.log(), logged, &[protocol, "BGP session established"]);
        let up = up.context("the log does not tell when the session came up")?;
        Ok(all.duration_since(up).unwrap_or_default())
    }

    /// When there were so many routes of a protocol.
    pub fn await_routes(&mut self, protocol: &str, routes: u32) -> Result<SystemTime> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let imported = self.imported(protocol)?;
            if imported >= routes {
                return Ok(SystemTime::now());
            }
            if Instant::now() > deadline {
                bail!("{imported} of {routes} routes have arrived:\n{}", tail(&self.log()));
            }
            pause(PAUSE);
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
