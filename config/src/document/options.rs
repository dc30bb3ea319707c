//! The map `herald`: Herald's own keys.

use ipnet::IpNet;

use super::reader::Value;
use super::scalars::{duration, one_of};
use crate::address_range::AddressRange;
use crate::options::{ExternalIps, HeraldOptions, LocalAddresses, Masquerade, SourceRangesOtherFamily};
use crate::problem::shown;

/// The options that stand in the map, defaults for those that do not.
pub(super) fn read(value: &Value<'_>) -> Option<HeraldOptions> {
    let fields = value.fields(&[
        "local-addresses",
        "external-ips",
        "source-ranges-other-family",
        "masquerade",
        "cool-down",
        "floor",
    ])?;
    let default = HeraldOptions::default();
    let local_addresses = fields.get("local-addresses").map_or(Some(default.local_addresses), |value| {
        let words = [
            ("none", LocalAddresses::None),
            ("load-balancer", LocalAddresses::LoadBalancer),
            ("all", LocalAddresses::All),
        ];
        one_of(&value, &words)
    });
    let external_ips =
        fields.get("external-ips").map_or(Some(default.external_ips), |value| external_ips(&value));
    let source_ranges_other_family =
        fields.get("source-ranges-other-family").map_or(Some(default.source_ranges_other_family), |value| {
            one_of(
                &value,
                &[("deny", SourceRangesOtherFamily::Deny), ("allow", SourceRangesOtherFamily::Allow)],
            )
        });
    let masquerade = fields.get("masquerade").map_or(Some(default.masquerade), |value| {
        one_of(&value, &[("always", Masquerade::Always), ("remote", Masquerade::Remote)])
    });
    let cool_down = fields.get("cool-down").map_or(Some(default.cool_down), |value| duration(&value));
    let floor_grace = fields.get("floor").map_or(Some(default.floor_grace), |value| {
        let fields = value.fields(&["grace"])?;
        fields.get("grace").map_or(Some(default.floor_grace), |value| duration(&value))
    });
    Some(HeraldOptions {
        local_addresses: local_addresses?,
        external_ips: external_ips?,
        source_ranges_other_family: source_ranges_other_family?,
        masquerade: masquerade?,
        cool_down: cool_down?,
        floor_grace: floor_grace?,
    })
}

fn external_ips(value: &Value<'_>) -> Option<ExternalIps> {
    let fields = value.fields(&["allow"])?;
    let Some(allow) = fields.written("allow") else { return Some(ExternalIps::Default) };
    if fields.get("allow").is_none() {
        // A list whose entries are all commented out must not open what it closed.
        return allow.fail("the list is empty: write [] to serve no externalIPs, or remove external-ips");
    }
    if !allow.is_map() {
        return prefixes(&allow).map(ExternalIps::Allow);
    }
    let lists = allow.entries()?.into_iter().map(|(namespace, list)| {
        if list.is_null() {
            return list.fail("the list is empty: write [] to serve no externalIPs of this namespace");
        }
        Some((namespace.to_owned(), prefixes(&list)?))
    });
    // Read to the end, so that all errors are found.
    let lists: Vec<Option<_>> = lists.collect();
    lists.into_iter().collect::<Option<_>>().map(ExternalIps::AllowByNamespace)
}

fn prefixes(list: &Value<'_>) -> Option<Vec<IpNet>> {
    let prefixes: Vec<Option<IpNet>> = list.items()?.iter().map(prefix).collect();
    prefixes.into_iter().collect()
}

/// A CIDR, host bits masked; errors as those of a pool's range.
fn prefix(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    match text.parse::<AddressRange>().map(|range| range.to_cidrs()) {
        Ok(cidrs) => match cidrs.as_slice() {
            [cidr] => Some(*cidr),
            _ => value.fail(format!("{} is not one CIDR: write one such as 192.0.2.0/24", shown(text))),
        },
        Err(error) => value.fail(error),
    }
}
