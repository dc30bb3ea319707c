//! A process of the lab: inside a namespace, its output in a log file, its end awaited.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::await_until::await_until;
use crate::namespace::Namespace;
use crate::registry::{Registry, start_time};
use crate::spawn::{Lifetime, spawn};

/// How many lines of a log a failure shows.
const TAIL: usize = 40;

/// A started process. Dropping it kills it, unless it is detached.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: i32,
    log: PathBuf,
    lifetime: Lifetime,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Running(Child),
    Ended(ExitStatus),
}

impl Process {
    /// Starts `command` in `namespace` (`None`: outside the lab's); its output is appended to `<lab>/log/<name>.log`.
    pub(crate) fn start(
        registry: &Registry,
        namespace: Option<&Namespace>,
        name: &str,
        mut command: Command,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let log = registry.directory().join("log").join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command, namespace.map(Namespace::path), lifetime)
            .with_context(|| format!("start {name} ({program})"))?;
        let pid = child.id().cast_signed();
        // No start time: it has ended already, and nothing is left to record.
        if let Some(start) = start_time(pid) {
            registry.process(pid, start, name)?;
        }
        Ok(Self { name: name.to_owned(), pid, log, lifetime, state: Mutex::new(State::Running(child)) })
    }

    /// The name it was started by, which is also its log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that it has written so far (of a restarted process: with its predecessors').
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log, for failure messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Waits until the log contains `text`; fails at once when the process ends without it.
    pub fn await_log(&self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("“{text}” in the log of {}", self.name);
        let found = await_until(deadline, &what, || {
            // The order matters: what it wrote before its end must be seen.
            let ended = !self.is_running();
            if self.log().contains(text) { Some(true) } else { ended.then_some(false) }
        });
        match found {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{} ended before it wrote “{text}”:\n{}", self.name, self.log_tail()),
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut state = self.state();
        if let State::Running(child) = &mut *state
            && let Ok(Some(status)) = child.try_wait()
        {
            *state = State::Ended(status);
        }
        match &*state {
            State::Running(_) => None,
            State::Ended(status) => Some(*status),
        }
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        // Holding the state keeps the pid from being reaped, and so from being reused, meanwhile.
        if let State::Running(_) = &*self.state() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        let mut state = self.state();
        if let State::Running(child) = &mut *state {
            let _ = child.kill();
            if let Ok(status) = child.wait() {
                *state = State::Ended(status);
            }
        }
    }

    /// SIGTERM, and waits for the end; fails when it outlives the deadline.
    pub fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.await_exit(deadline)
    }

    /// Waits for the end.
    pub fn await_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        await_until(deadline, &format!("{} to end", self.name), || self.exit_status())
            .with_context(|| self.log_tail())
    }

    /// Stops the process from running (SIGSTOP), as a node under memory pressure would.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Owner {
            self.kill();
        }
    }
}
