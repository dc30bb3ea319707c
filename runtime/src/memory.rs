//! How near this process is to the memory limit of its container, at which the kernel kills it.
//!
//! What counts is the working set, as Kubernetes counts it: all that the control group uses but for files that the kernel can drop any time. Both
//! versions of control groups are read, as they look from within a container and on the host. A limit of a group around it is not known here.

use std::fmt;
use std::fs::read_to_string;
use std::path::Path;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// In percent: so near is worth a word.
const NEARLY: u64 = 90;
/// Below this it is worth another word when it comes near again.
const AWAY: u64 = 80;
/// How often the log is told, if it is to be told.
const LOOK: Duration = Duration::from_secs(10);
/// A limit of this or more is none: version 1 has no other word for it.
const NONE: u64 = 1 << 60;

/// What the control group of this process holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The working set.
    used: u64,
    /// `None`: there is none.
    limit: Option<u64>,
}

/// How one version of control groups calls it.
struct Version {
    /// The controller, by which the mount and the line of `/proc/self/cgroup` are found; version 2 has one for all.
    controller: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Of `memory.stat`: files that nobody has used lately.
    droppable: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version { controller: "", limit: "memory.max", used: "memory.current", droppable: "inactive_file " },
    Version {
        controller: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        droppable: "total_inactive_file ",
    },
];

impl Memory {
    /// Of this process; `None`: the kernel does not count it.
    pub fn own() -> Option<Self> {
        Self::of(&read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// By the text of `/proc/self/cgroup` and what is mounted at `root`.
    fn of(groups: &str, root: &Path) -> Option<Self> {
        VERSIONS.iter().find_map(|version| {
            let path = groups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|name| name == version.controller).then_some(path)
            })?;
            let mount = root.join(version.controller);
            // In a container its own group may be all that is mounted, whatever its path on the host.
            version.read(&mount.join(path.trim_start_matches('/'))).or_else(|| version.read(&mount))
        })
    }

    /// What is wrong with it.
    pub fn trouble(self) -> Option<String> {
        let limit = self.limit.filter(|_| self.has(NEARLY))?;
        let mib = |bytes: u64| bytes.saturating_add(1 << 19) >> 20;
        Some(format!(
            "it uses {} MiB of the {} MiB of its memory limit: at the limit the kernel kills it",
            mib(self.used),
            mib(limit)
        ))
    }

    /// So many percent of the limit, or more.
    fn has(self, percent: u64) -> bool {
        self.limit.is_some_and(|limit| self.used.saturating_mul(100) >= limit.saturating_mul(percent))
    }
}

impl Version {
    fn read(&self, group: &Path) -> Option<Memory> {
        let file = |name: &str| read_to_string(group.join(name)).ok();
        let used: u64 = file(self.used)?.trim().parse().ok()?;
        let stat = file("memory.stat").unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(self.droppable)?.parse().ok());
        // A word in place of the number says that there is none.
        let limit = file(self.limit).and_then(|text| text.trim().parse().ok());
        let used = used.saturating_sub(droppable.unwrap_or(0));
        Some(Memory { used, limit: limit.filter(|limit| *limit < NONE) })
    }
}

/// Whether the log has been told.
#[derive(Debug, Default)]
struct Told(bool);

impl Told {
    /// What is to be told now: once each time that it comes near.
    fn tell(&mut self, memory: Memory) -> Option<String> {
        self.0 &= memory.has(AWAY);
        let text = memory.trouble().filter(|_| !self.0)?;
        self.0 = true;
        Some(text)
    }
}

/// Tells the log when it comes near. Never ends.
pub async fn watch() -> anyhow::Result<()> {
    let mut told = Told::default();
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(text) = Memory::own().and_then(|memory| told.tell(memory)) {
            tracing::warn!("memory is short: {text}; raise the limit, or take it away");
        }
    }
}

/// Both numbers, read when asked for.
#[derive(Debug)]
pub(crate) struct MemoryMetrics;

impl Collector for MemoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Memory { used, limit }) = Memory::own() else { return Ok(()) };
        for (name, help, value) in [
            (
                "herald_memory_working_set_bytes",
                "Memory of the container that the kernel cannot take back",
                used,
            ),
            (
                "herald_memory_limit_bytes",
                "At so much the kernel kills it; 0: there is no limit",
                limit.unwrap_or(0),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Files below a directory, as `/sys/fs/cgroup` has them.
    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_group_is_found_in_both_versions_within_a_container_and_on_the_host() {
        let second = |at: &str, limit: &str| {
            let file = |name: &str| format!("{at}{name}");
            let stat = "anon 7\nactive_file 5\ninactive_file 100\n";
            let files = [
                (file("memory.current"), "1100\n"),
                (file("memory.max"), limit),
                (file("memory.stat"), stat),
            ];
            mounted(&files.each_ref().map(|(path, text)| (&**path, *text)))
        };
        let first = |at: &str, limit: &str| {
            let file = |name: &str| format!("memory/{at}{name}");
            let stat = "inactive_file 1\ntotal_inactive_file 100\n";
            let files = [
                (file("memory.usage_in_bytes"), "1100\n"),
                (file("memory.limit_in_bytes"), limit),
                (file("memory.stat"), stat),
            ];
            mounted(&files.each_ref().map(|(path, text)| (&**path, *text)))
        };
        let all = "9:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n";
        let (limited, free) =
            (Some(Memory { used: 1000, limit: Some(2000) }), Memory { used: 1000, limit: None });
        for (what, groups, root, expected) in [
            ("version 2, own namespace", "0::/\n", second("", "2000\n"), limited),
            ("version 2, on the host", "0::/a/b\n", second("a/b/", "2000\n"), limited),
            (
                "version 2, the host's namespace within a container",
                "0::/a/b\n",
                second("", "2000\n"),
                limited,
            ),
            ("version 2, no limit", "0::/\n", second("", "max\n"), Some(free)),
            ("version 1, on the host", all, first("a/b/", "2000\n"), limited),
            ("version 1, within a container", all, first("", "2000\n"), limited),
            ("version 1, no limit", all, first("", "9223372036854771712\n"), Some(free)),
            ("nothing is mounted", all, mounted(&[]), None),
            ("nothing that is known", "garbage\n1:2\n", second("", "2000\n"), None),
        ] {
            assert_eq!(Memory::of(groups, root.path()), expected, "{what}");
        }
    }

    #[test]
    fn a_limit_that_is_near_is_told_and_none_is_not() {
        let trouble = |used, limit: Option<u64>| Memory { used, limit }.trouble();
        assert_eq!(trouble(89 * MIB, Some(100 * MIB)), None);
        assert_eq!(trouble(u64::MAX, None), None);
        let text = "it uses 90 MiB of the 100 MiB of its memory limit: at the limit the kernel kills it";
        assert_eq!(trouble(90 * MIB, Some(100 * MIB)).as_deref(), Some(text));
    }

    #[test]
    fn the_log_is_told_once_each_time_that_it_comes_near() {
        let mut told = Told::default();
        let uses = [89, 90, 95, 89, 91, 79, 90];
        let lines = uses.map(|used| told.tell(Memory { used, limit: Some(100) }).is_some());
        assert_eq!(lines, [false, true, false, false, false, false, true]);
    }
}
