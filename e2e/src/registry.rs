//! What a lab has made, written down before it is made, so that anyone can take it away.
//!
//! Every lab has a directory `/run/herald-lab/<lab>/` with a file `record`: one line per namespace, process,
//! directory and control group, appended before (all but processes) or right after (processes) the thing exists. The owner's pid
//! and start time stand in it too. A lab whose owner is dead, killed by SIGKILL for example, is removed by the next
//! run through [`sweep`]; a detached lab (the demo) has no owner and stays until [`remove`] is called.
//!
//! A pid alone proves nothing: a process counts as the recorded one only if its start time is the same, so a reused
//! pid is never signalled.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::await_until::{await_ok, await_until};
use crate::namespace;

const ROOT: &str = "/run/herald-lab";

/// The record of one lab.
#[derive(Clone, Debug)]
pub struct Registry {
    name: String,
    directory: PathBuf,
}

/// One line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Owner { pid: i32, start: u64 },
    Detached,
    Namespace(String),
    Process { pid: i32, start: u64 },
    Directory(PathBuf),
    ControlGroup(String),
}

impl Registry {
    /// Claims a name. Fails when a lab of this name exists.
    pub(crate) fn claim(name: &str, detached: bool) -> Result<Self> {
        fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT} (are you root?)"))?;
        let directory = Path::new(ROOT).join(name);
        let owner = if detached {
            "detached\n".to_owned()
        } else {
            let pid = std::process::id().cast_signed();
            format!("owner {pid} {}\n", start_time(pid).context("own start time")?)
        };
        // Complete or absent: a directory without a record would be nobody's.
        let draft = tempfile::Builder::new().prefix(".claim-").tempdir_in(ROOT)?;
        fs::write(draft.path().join("record"), owner)?;
        if directory.exists() {
            bail!("a lab named {name} exists already ({})", directory.display());
        }
        let draft = draft.keep();
        if let Err(error) = fs::rename(&draft, &directory) {
            let _ = fs::remove_dir_all(&draft);
            return Err(error).with_context(|| format!("claim the lab name {name}"));
        }
        Ok(Self { name: name.to_owned(), directory })
    }

    /// The record of a lab that another process has made.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let directory = Path::new(ROOT).join(name);
        if !directory.join("record").exists() {
            bail!("there is no lab named {name}");
        }
        Ok(Self { name: name.to_owned(), directory })
    }

    /// The lab's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory: logs, configuration, sockets.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn namespace(&self, name: &str) -> Result<()> {
        self.append(&format!("namespace {name}\n"))
    }

    pub(crate) fn process(&self, pid: i32, start: u64, name: &str) -> Result<()> {
        self.append(&format!("process {pid} {start} {name}\n"))
    }

    pub(crate) fn directory_outside(&self, path: &Path) -> Result<()> {
        self.append(&format!("directory {}\n", path.display()))
    }

    /// A control group of this name, in any hierarchy. What is recorded is gone with the lab, the groups inside too.
    pub(crate) fn control_group(&self, name: &str) -> Result<()> {
        self.append(&format!("group {name}\n"))
    }

    fn append(&self, line: &str) -> Result<()> {
        let path = self.directory.join("record");
        let mut file =
            fs::OpenOptions::new().append(true).open(&path).with_context(|| path.display().to_string())?;
        file.write_all(line.as_bytes())?;
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        fs::read_to_string(self.directory.join("record"))
            .unwrap_or_default()
            .lines()
            .filter_map(parse)
            .collect()
    }

    /// Ends the processes, deletes the namespaces and the directories. What is gone already is no error; what
    /// cannot be removed is told after everything else has been tried, and the record then stays.
    pub(crate) fn remove(&self) -> Result<()> {
        let entries = self.entries();
        let mut pids: Vec<(i32, u64)> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Process { pid, start } => Some((*pid, *start)),
                _ => None,
            })
            .collect();
        let namespaces: Vec<String> = namespace::list()
            .into_iter()
            .filter(|name| entries.contains(&Entry::Namespace(name.clone())))
            .collect();
        // A shell or a restarted daemon inside is ours too.
        pids.extend(namespace::processes_inside(&namespaces));
        let own = std::process::id().cast_signed();
        pids.retain(|(pid, start)| *pid != own && start_time(*pid) == Some(*start));
        for (pid, _) in &pids {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let mut failures = Vec::new();
        let gone = await_until(Duration::from_secs(10), "the lab's processes to end", || {
            pids.iter().all(|(pid, start)| start_time(*pid) != Some(*start)).then_some(())
        });
        failures.extend(gone.err().map(|error| error.to_string()));
        failures.extend(namespace::delete(&namespaces).err().map(|error| error.to_string()));
        for entry in &entries {
            let removed = match entry {
                Entry::Directory(path) if path.exists() => {
                    fs::remove_dir_all(path).with_context(|| path.display().to_string())
                }
                Entry::ControlGroup(name) => remove_control_group(name),
                _ => Ok(()),
            };
            failures.extend(removed.err().map(|error| format!("{error:#}")));
        }
        if !failures.is_empty() {
            bail!("lab {} is not removed entirely: {}", self.name, failures.join("; "));
        }
        fs::remove_dir_all(&self.directory).with_context(|| self.directory.display().to_string())?;
        // Fails while other labs are there, which is fine.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }
}

/// Removes every lab whose owner is dead. Returns their names. Never touches a detached lab or one of a living owner.
pub fn sweep() -> Vec<String> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(ROOT).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Ok(registry) = Registry::open(&name) else { continue };
        let dead = registry.entries().iter().any(|entry| match entry {
            Entry::Owner { pid, start } => start_time(*pid) != Some(*start),
            _ => false,
        });
        if dead && !name.starts_with('.') && registry.remove().is_ok() {
            removed.push(name);
        }
    }
    removed
}

/// Removes the lab of this name, whoever owns it. `false` when there was none.
pub fn remove(name: &str) -> Result<bool> {
    let Ok(registry) = Registry::open(name) else { return Ok(false) };
    registry.remove()?;
    Ok(true)
}

/// The names of all labs on this machine.
pub fn labs() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().map(str::to_owned))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.splitn(4, ' ');
    match (words.next()?, words.next(), words.next()) {
        ("detached", None, None) => Some(Entry::Detached),
        ("owner", Some(pid), Some(start)) => {
            Some(Entry::Owner { pid: pid.parse().ok()?, start: start.parse().ok()? })
        }
        ("process", Some(pid), Some(start)) => {
            Some(Entry::Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
        }
        ("namespace", Some(name), None) => Some(Entry::Namespace(name.to_owned())),
        ("group", Some(name), None) => Some(Entry::ControlGroup(name.to_owned())),
        ("directory", Some(_), _) => Some(Entry::Directory(PathBuf::from(line.strip_prefix("directory ")?))),
        _ => None,
    }
}

/// Removes a control group from every hierarchy (of version 1, or the one of version 2), with the groups inside. Processes
/// that end are in theirs for some moments more.
pub(crate) fn remove_control_group(name: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let inside = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in inside.chain([root.to_path_buf()]) {
        let group = hierarchy.join(name);
        await_ok(Duration::from_secs(10), &format!("{} to be removed", group.display()), || {
            remove_groups(&group)
        })?;
    }
    Ok(())
}

/// Removes a group after those inside; its files go with it.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_groups(&entry.path())?;
    }
    fs::remove_dir(group)
}

/// When a process began, in clock ticks since the boot; `None` when there is none or it is a zombie.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses and may hold anything, so count from its end.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_record_are_read_as_written() {
        assert_eq!(parse("owner 7 99"), Some(Entry::Owner { pid: 7, start: 99 }));
        assert_eq!(parse("process 7 99 kube-apiserver"), Some(Entry::Process { pid: 7, start: 99 }));
        assert_eq!(parse("namespace t1-node1"), Some(Entry::Namespace("t1-node1".to_owned())));
        assert_eq!(parse("directory /tmp/with space x"), Some(Entry::Directory("/tmp/with space x".into())));
        assert_eq!(parse("group t1-node1"), Some(Entry::ControlGroup("t1-node1".to_owned())));
        assert_eq!(parse("detached"), Some(Entry::Detached));
        assert_eq!(parse("proc"), None);
    }

    #[test]
    fn a_start_time_tells_a_living_process_from_none() {
        let own = std::process::id().cast_signed();
        assert_eq!(start_time(own), start_time(own));
        assert!(start_time(own).is_some());
        assert_eq!(start_time(i32::MAX), None);
    }
}
