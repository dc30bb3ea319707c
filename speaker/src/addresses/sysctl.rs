//! The two ARP settings that addresses on `lo` need, raised while needed and put back afterwards.

use crate::sysctl::Sysctls;

/// Names and least values.
const SETTINGS: [(&str, u64); 2] =
    [("net/ipv4/conf/all/arp_ignore", 1), ("net/ipv4/conf/all/arp_announce", 2)];

/// Answers ARP only for addresses of the interface asked on, and asks only with such.
pub(super) fn raise(sysctls: &Sysctls) {
    for (name, least) in SETTINGS {
        if let Err(error) = sysctls.raise(name, least) {
            tracing::warn!(
                path = %sysctls.path(name).display(), %error,
                "this setting cannot be raised to {least}, and other interfaces of this node answer ARP for addresses on lo: set it on the host (sysctl)"
            );
        }
    }
}

/// Puts back what was found.
pub(super) fn restore(sysctls: &Sysctls) {
    sysctls.restore(&SETTINGS.map(|(name, _)| name));
}
