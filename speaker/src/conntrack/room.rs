//! How full the node's connection table is: the kernel drops what would begin when nothing can be evicted from a full one.

use std::fmt;
use std::path::{Path, PathBuf};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// In percent: so full is worth a word.
const NEARLY: u64 = 90;

/// The entries of a connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    used: u64,
    limit: u64,
}

impl Room {
    /// What the settings below a directory that has what `/proc/sys` has say; `None`: nothing has been tracked yet.
    pub(crate) fn of(sysctls: &Path) -> Option<Self> {
        let read = |name: &str| -> Option<u64> {
            let text = std::fs::read_to_string(sysctls.join("net/netfilter").join(name)).ok()?;
            text.trim().parse().ok()
        };
        Some(Self { used: read("nf_conntrack_count")?, limit: read("nf_conntrack_max")? })
    }

    /// What is wrong with it.
    pub(crate) fn trouble(self) -> Option<String> {
        let Self { used, limit } = self;
        // 0 is no limit.
        let nearly = limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(NEARLY);
        nearly.then(|| {
            format!("its connection table has {used} of {limit} entries: when it is full, new connections are dropped")
        })
    }
}

/// Both numbers, read when asked for.
#[derive(Debug)]
pub(crate) struct RoomMetrics(pub(crate) PathBuf);

impl Collector for RoomMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Room { used, limit }) = Room::of(&self.0) else { return Ok(()) };
        for (name, help, value) in [
            ("herald_conntrack_entries", "Entries of the node's connection table", used),
            ("herald_conntrack_entries_limit", "How many it holds at most; 0: any number", limit),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_nearly_full_is_told_and_one_without_a_limit_is_not() {
        let told = |used, limit| Room { used, limit }.trouble();
        assert_eq!(told(89_999, 100_000), None);
        assert_eq!(told(500_000, 0), None);
        let text =
            "its connection table has 90000 of 100000 entries: when it is full, new connections are dropped";
        assert_eq!(told(90_000, 100_000).as_deref(), Some(text));
    }

    #[test]
    fn what_nothing_has_used_yet_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let net = directory.path().join("net/netfilter");
        std::fs::create_dir_all(&net).unwrap();
        assert_eq!(Room::of(directory.path()), None);
        std::fs::write(net.join("nf_conntrack_count"), "7\n").unwrap();
        std::fs::write(net.join("nf_conntrack_max"), "262144\n").unwrap();
        assert_eq!(Room::of(directory.path()), Some(Room { used: 7, limit: 262_144 }));
    }
}
