//! What a node's kernel and disk hold, as text, to be compared: what somebody has left there, down to a setting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use herald_e2e::{Lab, Node};

/// Settings that the kernel changes itself, or that are the machine's and no namespace's.
const NOT_THE_NODES: [&str; 4] =
    ["nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_buckets", "nf_conntrack_expect_max"];
const SETTINGS: [&str; 3] = ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6", "/proc/sys/net/netfilter"];
const COMMANDS: [&str; 7] = [
    "nft -s list ruleset",
    "ip -o address",
    "ip -o link",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip -6 rule",
];

/// Lines, each with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footprint(BTreeSet<String>);

impl Footprint {
    /// As it is now.
    pub(crate) fn of(lab: &Lab, node: &Node) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for command in COMMANDS {
            let words: Vec<&str> = command.split(' ').collect();
            let text = node.ns.exec(&words)?;
            // In their order, and each as often as it is there.
            let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
            for line in text.lines() {
                // A link's carrier is whoever's at its other end.
                let line = line.split_once(" state ").map_or(line, |(link, _)| link);
                let times = seen.entry(line).or_default();
                *times += 1;
                lines.insert(format!("{command}: {line} ({times})"));
            }
        }
        for root in SETTINGS {
            node.ns.run(|| settings(Path::new(root), &mut lines))??;
        }
        files(&lab.state_directory(node), &mut lines)?;
        for directory in ["/run/herald", "/var/lib/herald"] {
            files(Path::new(directory), &mut lines)?;
        }
        Ok(Self(lines))
    }

    /// What is there now and was not, and the other way round, a line each.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let came = self.0.difference(&before.0).map(|line| format!("+ {line}"));
        let went = before.0.difference(&self.0).map(|line| format!("- {line}"));
        came.chain(went).collect()
    }
}

fn settings(directory: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            settings(&path, lines)?;
        } else if !NOT_THE_NODES.iter().any(|other| name == *other)
            // Some can be written only.
            && let Ok(value) = std::fs::read_to_string(&path)
        {
            lines.insert(format!("{} = {}", path.display(), value.trim()));
        }
    }
    Ok(())
}

fn files(directory: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    lines.insert(format!("directory {}", directory.display()));
    for entry in std::fs::read_dir(directory)? {
        lines.insert(format!("file {}", entry?.path().display()));
    }
    Ok(())
}
