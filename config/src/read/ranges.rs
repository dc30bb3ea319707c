//! Which addresses a pool may have.

use ipnet::IpNet;

use super::reader::Value;
use super::scalars::from_text;
use crate::address_range::AddressRange;

/// Addresses that no Service can have on any network.
const UNUSABLE: [(&str, &str); 8] = [
    ("0.0.0.0/8", "the unspecified network"),
    ("127.0.0.0/8", "the loopback network"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/127", "the unspecified and the loopback address"),
    ("::ffff:0:0/96", "IPv4 written as IPv6"),
    ("fe80::/10", "link-local addresses"),
    ("ff00::/8", "multicast"),
];

/// A range that Services can have addresses of.
pub(crate) fn range(value: &Value<'_>) -> Option<AddressRange> {
    let range = from_text(value)?;
    usable(value, &range).map(|()| range)
}

/// Refuses what no Service can live in, and warns of what is probably not meant.
pub(crate) fn usable(value: &Value<'_>, range: &AddressRange) -> Option<()> {
    for (network, name) in UNUSABLE {
        let unusable: Option<AddressRange> = network.parse().ok();
        if unusable.is_some_and(|unusable| unusable.overlaps(range)) {
            return value.fail(format!("{range} reaches into {network}, {name}: leave that out"));
        }
    }
    if value.text()?.trim().parse().is_ok_and(|cidr: IpNet| cidr.addr() != cidr.network()) {
        value.warn(format!("the address has host bits: read as {range}"));
    }
    Some(())
}
