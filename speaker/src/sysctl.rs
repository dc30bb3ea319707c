//! Settings under `/proc/sys` that are raised and never lowered.
//!
//! In a container `/proc/sys` is read-only. Its settings below `net` belong to the network namespace of who opens them, so a
//! speaker in the node's network may write them wherever the node's `/proc/sys/net` is mounted (`--sysctl-directory`); that
//! needs `CAP_NET_ADMIN` and nothing else.

use std::io;
use std::path::Path;

/// Where a process that is in no container finds them.
pub const SYSCTLS: &str = "/proc/sys";

/// Raises a setting; `Some(former)` if it was lower.
pub(crate) fn raise_to(path: &Path, least: u64) -> io::Result<Option<u64>> {
    let text = std::fs::read_to_string(path)?;
    let value: u64 =
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if value >= least {
        return Ok(None);
    }
    std::fs::write(path, least.to_string())?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_raised_and_never_lowered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (found, wanted, former, left) in [
            ("60\n", 3600, Some(60), "3600"),
            ("3600\n", 3600, None, "3600\n"),
            ("9999\n", 3600, None, "9999\n"),
        ] {
            std::fs::write(file.path(), found).unwrap();
            assert_eq!(raise_to(file.path(), wanted).unwrap(), former);
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), left);
        }
        std::fs::write(file.path(), "much").unwrap();
        assert_eq!(raise_to(file.path(), 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
