//! Settings under `/proc/sys` that are raised and never lowered, and what they were before.
//!
//! In a container `/proc/sys` is read-only. Its settings below `net` belong to the network namespace of who opens them, so a
//! speaker in the node's network may write them wherever the node's `/proc/sys/net` is mounted (`--sysctl-directory`); that
//! needs `CAP_NET_ADMIN` and nothing else.
//!
//! What a setting was is written down in the state directory before it is raised, so that a later run, or `herald cleanup`, can
//! put it back. A setting that somebody has changed since is his.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a process that is in no container finds them.
pub const SYSCTLS: &str = "/proc/sys";
/// In the state directory: name, former value and ours of each, a line each.
const FILE: &str = "sysctls";

/// The settings below a directory.
#[derive(Debug, Clone)]
pub(crate) struct Sysctls {
    directory: PathBuf,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    /// `None`: it ends with the process.
    file: Option<PathBuf>,
    raised: BTreeMap<String, Raised>,
    /// How many were put back in this process.
    restored: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raised {
    former: u64,
    ours: u64,
}

impl Sysctls {
    /// Those below a directory that has what `/proc/sys` has, with what an earlier run wrote down in its state directory.
    pub(crate) fn new(directory: &Path, state: Option<&Path>) -> Self {
        let file = state.map(|state| state.join(FILE));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let raised = text.lines().filter_map(read).collect();
        Self {
            directory: directory.to_owned(),
            memory: Arc::new(Mutex::new(Memory { file, raised, restored: 0 })),
        }
    }

    /// Where a setting is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Raises a setting; `Some(former)` if it was lower.
    pub(crate) fn raise(&self, name: &str, least: u64) -> io::Result<Option<u64>> {
        let found = self.value(name)?;
        if found >= least {
            return Ok(None);
        }
        let mut memory = self.memory();
        let known = memory.raised.get(name).filter(|raised| raised.ours == found);
        let former = known.map_or(found, |raised| raised.former);
        memory.raised.insert(name.to_owned(), Raised { former, ours: least });
        if let Err(error) = memory.keep() {
            tracing::warn!(
                setting = name, former, %error,
                "the setting's former value cannot be kept on disk, so herald cleanup will not put it back"
            );
        }
        std::fs::write(self.path(name), least.to_string())?;
        Ok(Some(found))
    }

    /// Puts back what was raised of these, unless it has been changed since; all of them, if none is named.
    pub(crate) fn restore(&self, names: &[&str]) {
        let mut memory = self.memory();
        let meant = |name: &str| names.is_empty() || names.contains(&name);
        let (raised, left) =
            std::mem::take(&mut memory.raised).into_iter().partition(|(name, _)| meant(name));
        memory.raised = left;
        let restored = BTreeMap::into_iter(raised).filter(|(name, raised)| {
            let put = || match self.value(name)? == raised.ours {
                true => std::fs::write(self.path(name), raised.former.to_string()).map(|()| true),
                false => Ok(false),
            };
            put().unwrap_or_else(|error: io::Error| {
                tracing::warn!(setting = name, %error, "the setting cannot be put back to {}", raised.former);
                false
            })
        });
        memory.restored += restored.count();
        if let Err(error) = memory.keep() {
            tracing::warn!(%error, "what is kept on disk of raised settings is older than what is in force");
        }
    }

    /// How many were put back.
    pub(crate) fn restored(&self) -> usize {
        self.memory().restored
    }

    fn value(&self, name: &str) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.path(name))?;
        text.trim().parse().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Writes it down; nothing to remember, no file.
    fn keep(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if self.raised.is_empty() {
            return match std::fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let line = |(name, raised): (&String, &Raised)| format!("{name} {} {}\n", raised.former, raised.ours);
        // The state directory may not be there yet.
        file.parent().map_or(Ok(()), crate::snapshot::make_directory)?;
        std::fs::write(file, self.raised.iter().map(line).collect::<String>())
    }
}

fn read(line: &str) -> Option<(String, Raised)> {
    let mut words = line.split(' ');
    let (name, former, ours) = (words.next()?, words.next()?, words.next()?);
    // Whatever stands there, nothing outside the directory is written.
    let inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let raised = Raised { former: former.parse().ok()?, ours: ours.parse().ok()? };
    inside.then(|| (name.to_owned(), raised))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with one setting.
    fn with(value: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("max"), value).unwrap();
        directory
    }

    fn now(directory: &tempfile::TempDir) -> String {
        std::fs::read_to_string(directory.path().join("max")).unwrap()
    }

    #[test]
    fn a_setting_is_raised_and_never_lowered() {
        for (found, wanted, former, left) in [
            ("60\n", 3600, Some(60), "3600"),
            ("3600\n", 3600, None, "3600\n"),
            ("9999\n", 3600, None, "9999\n"),
        ] {
            let directory = with(found);
            let sysctls = Sysctls::new(directory.path(), None);
            assert_eq!(sysctls.raise("max", wanted).unwrap(), former);
            assert_eq!(now(&directory), left);
        }
        let sysctls = Sysctls::new(with("much").path(), None);
        assert_eq!(sysctls.raise("max", 1).unwrap_err().kind(), ErrorKind::NotFound);
        let directory = with("much");
        let error = Sysctls::new(directory.path(), None).raise("max", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn another_run_puts_back_what_was_found_by_the_first() {
        let (directory, state) = (with("60"), tempfile::tempdir().unwrap());
        let state = state.path().join("herald");
        let run = || Sysctls::new(directory.path(), Some(&state));
        run().raise("max", 100).unwrap();
        // A newer one wants more of the same.
        run().raise("max", 200).unwrap();
        assert_eq!(now(&directory), "200");
        let restored = |names: &[&str]| {
            let run = run();
            run.restore(names);
            run.restored()
        };
        assert_eq!(restored(&["another"]), 0);
        assert_eq!(restored(&[]), 1);
        assert_eq!(now(&directory), "60");
        assert!(!state.join(FILE).exists());
        assert_eq!(restored(&[]), 0);
    }

    #[test]
    fn a_setting_that_others_have_changed_is_theirs() {
        let (directory, state) = (with("60"), tempfile::tempdir().unwrap());
        let run = || Sysctls::new(directory.path(), Some(state.path()));
        run().raise("max", 100).unwrap();
        std::fs::write(directory.path().join("max"), "150").unwrap();
        run().restore(&[]);
        assert_eq!(now(&directory), "150");
        // The node was started anew, with another value of its own.
        run().raise("max", 200).unwrap();
        std::fs::write(directory.path().join("max"), "70").unwrap();
        run().raise("max", 200).unwrap();
        run().restore(&[]);
        assert_eq!(now(&directory), "70");
    }

    #[test]
    fn what_was_written_down_leads_nowhere_else() {
        for (line, taken) in [
            ("net/max 1 2", true),
            ("/etc/passwd 1 2", false),
            ("../max 1 2", false),
            ("net/max 1", false),
            ("net/max -1 2", false),
            ("", false),
        ] {
            assert_eq!(read(line).is_some(), taken, "{line}");
        }
    }
}
