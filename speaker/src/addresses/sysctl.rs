//! The two ARP settings that addresses on `lo` need, raised while needed and put back afterwards.

use std::path::{Path, PathBuf};

use crate::sysctl::raise_to;

/// Below the directory of all settings, and their least values.
const SETTINGS: [(&str, u64); 2] =
    [("net/ipv4/conf/all/arp_ignore", 1), ("net/ipv4/conf/all/arp_announce", 2)];

/// What was found before raising.
#[derive(Debug, Default)]
enum State {
    /// Nothing was changed.
    #[default]
    Untouched,
    /// Raised by us; `(path, former value)` of those that had to be.
    Raised(Vec<(PathBuf, u64)>),
    /// Raised by an earlier run: its former values are not known.
    Adopted,
}

/// `arp_ignore` and `arp_announce` of all interfaces.
#[derive(Debug)]
pub(super) struct ArpSysctls {
    directory: PathBuf,
    state: State,
}

impl ArpSysctls {
    /// Of a directory that has what `/proc/sys` has. Changes nothing yet.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: State::default() }
    }

    /// Answers ARP only for addresses of the interface asked on, and asks only with such.
    pub(super) fn raise(&mut self) {
        if matches!(self.state, State::Raised(_)) {
            return;
        }
        let former = SETTINGS.into_iter().filter_map(|(name, least)| {
            let path = self.directory.join(name);
            match raise_to(&path, least) {
                Ok(former) => former.map(|value| (path, value)),
                Err(error) => {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "cannot be set to {least}: other interfaces of this node answer ARP for addresses on lo"
                    );
                    None
                }
            }
        });
        let former: Vec<_> = former.collect();
        // After an adoption the values found are the earlier run's: they say nothing about what was before.
        self.state =
            if matches!(self.state, State::Adopted) { State::Adopted } else { State::Raised(former) };
    }

    /// Addresses of an earlier run are there: raise if something lowered them since, remember nothing.
    pub(super) fn adopted(&mut self) {
        self.state = State::Adopted;
        self.raise();
    }

    /// Puts back what was found.
    pub(super) fn restore(&mut self) {
        let State::Raised(former) = std::mem::take(&mut self.state) else { return };
        for (path, value) in former {
            if let Err(error) = std::fs::write(&path, value.to_string()) {
                tracing::warn!(path = %path.display(), %error, "cannot be set back to {value}");
            }
        }
    }
}
