//! Named network namespaces, as `ip netns` shows them.
//!
//! A namespace is entered by a thread of its own, so that no other thread of a test ever changes its namespace, and
//! left by that thread's end. What runs in [`Namespace::run`] may open sockets and read `/proc/sys/net` of the
//! namespace; `/sys` stays the machine's.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::registry::start_time;

const NAMED: &str = "/run/netns";

/// A network namespace of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name; whether it exists shows at its first use.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(NAMED).join(&self.name)
    }

    /// Moves the calling thread into the namespace for good.
    pub(crate) fn enter(&self) -> Result<()> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter namespace {}", self.name))
    }

    /// Runs `work` on a thread inside the namespace and waits for it. A panic inside goes on outside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command inside and returns what it wrote to standard output; fails with its standard error when its exit
    /// status is not zero.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let output = self
            .run(|| Command::new(program).args(arguments).stdin(Stdio::null()).output())?
            .with_context(|| format!("run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{} in {}: {}: {}{text}", command.join(" "), self.name, output.status, error);
        }
        Ok(text)
    }

    /// Runs lines of ip(8) inside, all in one process: `["route add default via 10.0.0.1"]`.
    pub fn ip<L: AsRef<str>>(&self, lines: &[L]) -> Result<()> {
        ip_batch(Some(&self.name), lines)
    }

    /// Sets sysctls of the namespace: `("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("sysctl {key}={value}"))?;
            }
            Ok(())
        })?
    }
}

/// Runs lines of ip(8) in one process, in the machine's namespace (`None`) or another.
pub(crate) fn ip_batch<L: AsRef<str>>(namespace: Option<&str>, lines: &[L]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip (package iproute2)")?;
    let mut text = lines.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n");
    text.push('\n');
    // The lines fit in a pipe many times over; ip ends at the first bad one, so a broken pipe is told by its status.
    let _ = child.stdin.take().context("ip has no standard input")?.write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip in {}: {}\n{text}",
            namespace.unwrap_or("the machine"),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Makes namespaces.
pub(crate) fn create(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("netns add {name}")).collect();
    ip_batch(None, &lines)
}

/// Deletes namespaces; every one is tried.
pub(crate) fn delete(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = names.iter().map(|name| format!("netns del {name}")).collect();
    // One that another process deletes meanwhile must not stop the rest.
    let _ = ip_batch(None, &lines);
    let left: Vec<String> = list().into_iter().filter(|name| names.contains(name)).collect();
    for name in &left {
        ip_batch(None, &[format!("netns del {name}")])?;
    }
    Ok(())
}

/// The names of all namespaces of the machine.
pub fn list() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(NAMED)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Pids and start times of the processes that live in one of these namespaces.
pub(crate) fn processes_inside(names: &[String]) -> Vec<(i32, u64)> {
    use std::os::unix::fs::MetadataExt;
    let inodes: Vec<u64> = names
        .iter()
        .filter_map(|name| fs::metadata(format!("{NAMED}/{name}")).ok())
        .map(|m| m.ino())
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino())))
        .filter_map(|pid| Some((pid, start_time(pid)?)))
        .collect()
}
