//! The logs of a lab: what is shown, kept and judged of them before they go with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Lab;
use crate::noise::noise;

impl Lab {
    /// The name and the text of each log, in the names' order.
    fn logs(&self) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(self.directory().join("log"));
        let mut paths: Vec<PathBuf> =
            entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let read = |path: PathBuf| {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read(&path).unwrap_or_default();
            (name, String::from_utf8_lossy(&text).into_owned())
        };
        paths.into_iter().map(read).collect()
    }

    /// What Herald has said too often in this lab.
    pub(super) fn noise(&self) -> Vec<String> {
        if self.noisy {
            return Vec::new();
        }
        let of = |(name, log): &(String, String)| {
            noise(log).into_iter().map(|what| format!("the log of {name}: {what}")).collect::<Vec<_>>()
        };
        self.logs().iter().flat_map(of).collect()
    }

    /// The logs of a failed test would go with the lab, so their ends are printed.
    pub(super) fn print_logs(&self) {
        for (name, text) in self.logs() {
            let quiet = ["kube-", "etcd", "pod-"].iter().any(|prefix| name.starts_with(prefix));
            if quiet || text.is_empty() {
                continue;
            }
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "── {name} of {}, the last {} lines ──\n{}",
                self.name(),
                shown.len(),
                shown.join("\n")
            );
        }
    }

    /// With `HERALD_LAB_LOGS=<directory>` every lab leaves a copy of its files there. A test that fails by returning an
    /// error drops its lab as one that succeeds does, so this cannot be told apart here.
    pub(super) fn keep_logs(&self) {
        let Some(directory) = std::env::var_os("HERALD_LAB_LOGS") else { return };
        let target = Path::new(&directory).join(self.name());
        let copied = std::fs::create_dir_all(&directory)
            .and_then(|()| Command::new("cp").arg("-rT").arg(self.directory()).arg(&target).status());
        if copied.is_ok_and(|status| status.success()) {
            eprintln!("the files of {} are kept in {}", self.name(), target.display());
        }
    }
}
