//! The kernel's conntrack settings that a node with many connections needs, as kube-proxy sets them: raised where they are
//! lower, never lowered, and left as they are when the speaker stops (`herald cleanup` puts them back). A container may not be allowed to: then it is said once,
//! and everything else goes on.
//!
//! Beyond kube-proxy, whose default leaves it off: `nf_conntrack_tcp_be_liberal`. Without it a delayed segment outside
//! the window is "invalid", passes untranslated, and the other end resets the connection.

use std::io;

use crate::sysctl::Sysctls;

const DIRECTORY: &str = "net/netfilter";
/// kube-proxy's least number of entries, however few cores there are.
const LEAST_ENTRIES: u64 = 131_072;

/// How the kernel's connection tracking is to be set; in full mode only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackLimits {
    /// Entries per core; 0 leaves `nf_conntrack_max` as it is.
    pub max_per_core: u32,
    /// Segments outside the window are translated like all others.
    pub tcp_be_liberal: bool,
}

impl Default for ConntrackLimits {
    fn default() -> Self {
        Self { max_per_core: 32_768, tcp_be_liberal: true }
    }
}

impl ConntrackLimits {
    /// The settings and their least values.
    fn settings(&self, cores: usize) -> Vec<(&'static str, u64)> {
        let mut settings = vec![
            ("nf_conntrack_tcp_timeout_established", 86_400),
            ("nf_conntrack_tcp_timeout_close_wait", 3_600),
        ];
        if self.max_per_core > 0 {
            let entries = u64::from(self.max_per_core) * cores as u64;
            settings.push(("nf_conntrack_max", entries.max(LEAST_ENTRIES)));
        }
        if self.tcp_be_liberal {
            settings.push(("nf_conntrack_tcp_be_liberal", 1));
        }
        settings
    }

    /// Raises what is lower. Conntrack must have been used before: its module brings the settings.
    pub(super) fn raise(&self, sysctls: &Sysctls) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let refused = raise_all(sysctls, &self.settings(cores));
        if refused.is_empty() {
            return;
        }
        let refused: Vec<String> =
            refused.iter().map(|(name, least, error)| format!("{name}={least}: {error}")).collect();
        tracing::warn!(
            settings = refused.join("; "),
            "conntrack settings under {} cannot be raised: in a container mount the node's /proc/sys/net and name the \
             directory above it by --sysctl-directory, or set them on the host (sysctl) if they matter",
            sysctls.path(DIRECTORY).display()
        );
    }
}

/// Returns what could not be raised.
fn raise_all(sysctls: &Sysctls, settings: &[(&'static str, u64)]) -> Vec<(&'static str, u64, io::Error)> {
    let mut refused = Vec::new();
    for &(name, least) in settings {
        match sysctls.raise(&format!("{DIRECTORY}/{name}"), least) {
            Ok(Some(former)) => {
                tracing::info!(setting = name, former, value = least, "conntrack setting raised")
            }
            Ok(None) => {}
            Err(error) => refused.push((name, least, error)),
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_room_by_cores_and_never_less_than_kube_proxys_least() {
        let max = |limits: &ConntrackLimits, cores| {
            limits
                .settings(cores)
                .into_iter()
                .find(|(name, _)| *name == "nf_conntrack_max")
                .map(|(_, max)| max)
        };
        let limits = ConntrackLimits::default();
        assert_eq!(max(&limits, 2), Some(131_072));
        assert_eq!(max(&limits, 16), Some(524_288));
        assert_eq!(max(&ConntrackLimits { max_per_core: 0, ..limits }, 16), None);
    }

    #[test]
    fn what_cannot_be_raised_is_told_and_the_rest_is_raised() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join(DIRECTORY)).unwrap();
        let settings = ConntrackLimits::default().settings(2);
        for (name, value) in [
            ("nf_conntrack_tcp_timeout_established", "432000"),
            ("nf_conntrack_tcp_timeout_close_wait", "60"),
            ("nf_conntrack_tcp_be_liberal", "0"),
        ] {
            std::fs::write(directory.path().join(DIRECTORY).join(name), value).unwrap();
        }
        let refused = raise_all(&Sysctls::new(directory.path(), None), &settings);
        let names: Vec<_> = refused.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["nf_conntrack_max"]);
        let read = |name| std::fs::read_to_string(directory.path().join(DIRECTORY).join(name)).unwrap();
        assert_eq!(read("nf_conntrack_tcp_timeout_established"), "432000");
        assert_eq!(read("nf_conntrack_tcp_timeout_close_wait"), "3600");
        assert_eq!(read("nf_conntrack_tcp_be_liberal"), "1");
    }
}
