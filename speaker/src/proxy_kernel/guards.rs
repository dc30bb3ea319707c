//! Which announced prefixes are guarded.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// The widest of the prefixes that are shorter than an address: disjoint, and covering all of them.
pub(super) fn aggregates(prefixes: impl Iterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let shorter = prefixes.filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len());
    let shorter: BTreeSet<IpNet> = shorter.map(|prefix| prefix.trunc()).collect();
    let covered = |prefix: &IpNet| shorter.iter().any(|other| other != prefix && other.contains(prefix));
    shorter.iter().filter(|prefix| !covered(prefix)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_prefixes_are_the_widest_and_never_single_addresses() {
        let prefixes: Vec<IpNet> =
            ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.1/32", "2001:db8:1::/64", "198.51.100.0/25"]
                .map(|prefix| prefix.parse().unwrap())
                .into();
        let kept: Vec<String> = aggregates(prefixes.into_iter()).iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["192.0.2.0/24", "198.51.100.0/25", "2001:db8:1::/64"]);
    }
}
