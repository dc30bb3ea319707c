//! The two ARP settings that addresses on `lo` need, raised while needed and put back afterwards.

use std::path::Path;

use crate::sysctl::raise_to;

const ARP_IGNORE: &str = "/proc/sys/net/ipv4/conf/all/arp_ignore";
const ARP_ANNOUNCE: &str = "/proc/sys/net/ipv4/conf/all/arp_announce";

/// What was found before raising.
#[derive(Debug, Default)]
enum State {
    /// Nothing was changed.
    #[default]
    Untouched,
    /// Raised by us; `(path, former value)` of those that had to be.
    Raised(Vec<(&'static str, u64)>),
    /// Raised by an earlier run: its former values are not known.
    Adopted,
}

/// `arp_ignore` and `arp_announce` of all interfaces.
#[derive(Debug, Default)]
pub(super) struct ArpSysctls(State);

impl ArpSysctls {
    /// Answers ARP only for addresses of the interface asked on, and asks only with such.
    pub(super) fn raise(&mut self) {
        if matches!(self.0, State::Raised(_)) {
            return;
        }
        let former = [(ARP_IGNORE, 1), (ARP_ANNOUNCE, 2)].into_iter().filter_map(|(path, least)| {
            match raise_to(Path::new(path), least) {
                Ok(former) => former.map(|value| (path, value)),
                Err(error) => {
                    tracing::warn!(
                        path, %error,
                        "cannot be set to {least}: other interfaces of this node answer ARP for addresses on lo"
                    );
                    None
                }
            }
        });
        let former: Vec<_> = former.collect();
        // After an adoption the values found are the earlier run's: they say nothing about what was before.
        self.0 = if matches!(self.0, State::Adopted) { State::Adopted } else { State::Raised(former) };
    }

    /// Addresses of an earlier run are there: raise if something lowered them since, remember nothing.
    pub(super) fn adopted(&mut self) {
        self.0 = State::Adopted;
        self.raise();
    }

    /// Puts back what was found.
    pub(super) fn restore(&mut self) {
        let State::Raised(former) = std::mem::take(&mut self.0) else { return };
        for (path, value) in former {
            if let Err(error) = std::fs::write(path, value.to_string()) {
                tracing::warn!(path, %error, "cannot be set back to {value}");
            }
        }
    }
}
