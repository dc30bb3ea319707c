//! The map `herald`: Herald's own keys.

use std::time::Duration;

use ipnet::IpNet;

use super::reader::Value;
use super::scalars::{boolean, duration, from_text, nonempty, number, one_of};
use super::sessions::bgp_peers;
use crate::address_range::{AddressRange, overlapping};
use crate::options::{
    CordonedNodes, ExternalIps, HeraldOptions, Layer2Spread, LocalAddresses, Masquerade, Quotas, Reservation,
    Sharing, SourceRangesOtherFamily,
};
use crate::problem::shown;

/// The options that stand in the map, defaults for those that do not.
pub(super) fn read(value: &Value<'_>) -> Option<HeraldOptions> {
    let fields = value.fields(&[
        "local-addresses",
        "external-ips",
        "cluster-ips",
        "pod-cidrs",
        "source-ranges-other-family",
        "masquerade",
        "cool-down",
        "sharing",
        "quotas",
        "reservations",
        "finalizer",
        "floor",
        "suspect-endpoints",
        "cordoned-nodes",
        "bgp-peers",
        "layer2-spread",
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
    let externals = fields
        .get("external-ips")
        .map_or(Some((default.external_ips, default.announce_external_ips)), |value| external_ips(&value));
    let announce_cluster_ips = fields.get("cluster-ips").map_or(Some(false), |value| announce(&value));
    let announce_pod_cidrs = fields.get("pod-cidrs").map_or(Some(false), |value| announce(&value));
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
    let sharing = fields.get("sharing").map_or(Some(default.sharing), |value| {
        one_of(&value, &[("namespace", Sharing::Namespace), ("cluster", Sharing::Cluster)])
    });
    let quotas = fields.get("quotas").map_or(Some(default.quotas), |value| quotas(&value));
    let reservations =
        fields.get("reservations").map_or(Some(default.reservations), |value| reservations(&value));
    let finalizer_wait = fields.get("finalizer").map_or(Some(default.finalizer_wait), |value| {
        let fields = value.fields(&["wait"])?;
        fields.get("wait").map_or(Some(default.finalizer_wait), |value| finalizer_wait(&value))
    });
    let floor_grace = fields.get("floor").map_or(Some(default.floor_grace), |value| {
        let fields = value.fields(&["grace"])?;
        fields.get("grace").map_or(Some(default.floor_grace), |value| duration(&value))
    });
    let suspect_endpoints =
        fields.get("suspect-endpoints").map_or(Some(default.suspect_endpoints), |value| boolean(&value));
    let cordoned_nodes = fields.get("cordoned-nodes").map_or(Some(default.cordoned_nodes), |value| {
        one_of(&value, &[("announce", CordonedNodes::Announce), ("leave", CordonedNodes::Leave)])
    });
    let layer2_spread =
        fields.get("layer2-spread").map_or(Some(default.layer2_spread), |value| spread(&value));
    let bgp_peers = fields.get("bgp-peers").map_or(Some(default.bgp_peers), |value| bgp_peers(&value));
    Some(HeraldOptions {
        local_addresses: local_addresses?,
        external_ips: externals.clone()?.0,
        announce_external_ips: externals?.1,
        announce_cluster_ips: announce_cluster_ips?,
        announce_pod_cidrs: announce_pod_cidrs?,
        source_ranges_other_family: source_ranges_other_family?,
        masquerade: masquerade?,
        cool_down: cool_down?,
        sharing: sharing?,
        quotas: quotas?,
        reservations: reservations?,
        finalizer_wait: finalizer_wait?,
        floor_grace: floor_grace?,
        suspect_endpoints: suspect_endpoints?,
        cordoned_nodes: cordoned_nodes?,
        bgp_peers: bgp_peers?,
        layer2_spread: layer2_spread?,
    })
}

/// `never`, `always`, or from when until when each day.
fn spread(value: &Value<'_>) -> Option<Layer2Spread> {
    let text = value.text()?;
    let read = match text {
        "never" => Some(Layer2Spread::Never),
        "always" => Some(Layer2Spread::Always),
        times => times.split_once('-').and_then(|(from, until)| {
            let (from, until) = (minute(from)?, minute(until)?);
            (from != until).then_some(Layer2Spread::Daily { from, until })
        }),
    };
    if read.is_none() {
        let times = "two different times of the day (UTC) such as 02:00-04:00";
        return value.fail(format!("{} is not known: write never, always or {times}", shown(text)));
    }
    read
}

/// `HH:MM` as minutes since midnight.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str, below: u16| {
        let digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| digits && *number < below)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

/// A map whose only key is `announce`.
fn announce(value: &Value<'_>) -> Option<bool> {
    value.fields(&["announce"])?.get("announce").map_or(Some(false), |value| boolean(&value))
}

/// Which are served, and whether they are announced.
fn external_ips(value: &Value<'_>) -> Option<(ExternalIps, bool)> {
    let fields = value.fields(&["allow", "announce"])?;
    let announce = fields.get("announce").map_or(Some(false), |value| boolean(&value));
    let served = fields.written("allow").map_or(Some(ExternalIps::Default), |allow| served(&allow));
    Some((served?, announce?))
}

fn served(allow: &Value<'_>) -> Option<ExternalIps> {
    if allow.is_null() {
        // A list whose entries are all commented out must not open what it closed.
        return allow.fail("the list is empty: write [] to serve no externalIPs, or remove external-ips");
    }
    if !allow.is_map() {
        return prefixes(allow).map(ExternalIps::Allow);
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

pub(super) fn prefixes(list: &Value<'_>) -> Option<Vec<IpNet>> {
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

/// A map from namespace to number; `*` is every other namespace.
fn quotas(value: &Value<'_>) -> Option<Quotas> {
    let entries = value.entries()?.into_iter().map(|(namespace, value)| {
        let limit = number::<u32>(&value, 0..=u64::from(u32::MAX))?;
        Some((namespace.to_owned(), limit))
    });
    let entries: Vec<Option<_>> = entries.collect();
    let mut quotas = Quotas::default();
    for (namespace, limit) in entries.into_iter().collect::<Option<Vec<_>>>()? {
        if namespace == "*" {
            quotas.others = Some(limit);
        } else {
            quotas.namespaces.insert(namespace, limit);
        }
    }
    Some(quotas)
}

fn reservations(value: &Value<'_>) -> Option<Vec<Reservation>> {
    let items: Vec<Option<(Reservation, Vec<Value<'_>>)>> =
        value.items()?.into_iter().map(|item| reservation(&item)).collect();
    let items: Vec<(Reservation, Vec<Value<'_>>)> = items.into_iter().collect::<Option<_>>()?;
    let ranges: Vec<AddressRange> = items.iter().flat_map(|(of, _)| of.ranges.iter().copied()).collect();
    let places: Vec<&Value<'_>> = items.iter().flat_map(|(_, places)| places).collect();
    let overlaps = overlapping(&ranges);
    for &(a, b) in &overlaps {
        let (first, second) = if places[a].place() < places[b].place() { (a, b) } else { (b, a) };
        places[second].fail::<()>(format!(
            "{} overlaps {} on line {}: an address can be reserved once",
            ranges[second],
            ranges[first],
            places[first].place().0,
        ));
    }
    overlaps.is_empty().then(|| items.into_iter().map(|(reservation, _)| reservation).collect())
}

fn reservation<'a>(value: &Value<'a>) -> Option<(Reservation, Vec<Value<'a>>)> {
    let fields = value.fields(&["addresses", "namespace", "service"])?;
    let text = |key: &str, what: &str| {
        fields.get(key).map_or(Some(None), |value| nonempty(&value, what).map(|text| Some(text.to_owned())))
    };
    let namespace = text("namespace", "the namespace");
    let service = text("service", "the name");
    let places = fields.required("addresses", "[192.0.2.10/32]")?.items()?;
    if places.is_empty() {
        return fields
            .of()
            .fail("no address is reserved: write addresses: [192.0.2.10/32], or remove the entry");
    }
    let ranges: Vec<Option<AddressRange>> = places.iter().map(from_text).collect();
    let reservation = Reservation {
        ranges: ranges.into_iter().collect::<Option<_>>()?,
        namespace: namespace?,
        service: service?,
    };
    if reservation.service.is_some() && reservation.namespace.is_none() {
        return fields.of().fail("a service is named without its namespace: add namespace");
    }
    Some((reservation, places))
}

/// Longer than any withdrawal takes, shorter than anybody waits for `kubectl delete`.
const LONGEST_FINALIZER_WAIT: Duration = Duration::from_secs(300);

fn finalizer_wait(value: &Value<'_>) -> Option<Duration> {
    let wait = duration(value)?;
    if wait > LONGEST_FINALIZER_WAIT {
        return value.fail("longer than 5m: deleted Services would seem to hang; 5s is enough");
    }
    Some(wait)
}
