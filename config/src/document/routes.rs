//! A pool's `advertisements` or `bgp-advertisements`: which routes stand for its addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::generation::Generation;
use super::pools::Protocol;
use crate::address_range::AddressRange;
use crate::aggregate::{Bound, Bounds};
use crate::community::Community;
use crate::pool::Advertisement;
use crate::problem::shown;
use crate::read::nearest::nearest;
use crate::read::reader::{Fields, Value};
use crate::read::scalars::{from_text, number};

const KEYS: &[&str] = &["aggregation-length", "aggregation-length-v6", "localpref", "communities"];

/// The advertisements of a pool; `generation` and `protocol` are none where they could not be told.
pub(super) fn read(
    fields: &Fields<'_>,
    generation: Option<Generation>,
    protocol: Option<Protocol>,
    label: &str,
    ranges: &[AddressRange],
    communities: &BTreeMap<String, Community>,
) -> Option<Vec<Advertisement>> {
    let value = match (fields.get("advertisements"), fields.get("bgp-advertisements")) {
        (Some(_), Some(value)) => {
            return value
                .fail("the pool also has advertisements, the older name of this: keep one of the two");
        }
        (value, None) | (None, value) => value,
    };
    let items = value.as_ref().map_or_else(|| Some(Vec::new()), Value::items)?;
    if protocol == Some(Protocol::Layer2) {
        return match value {
            Some(value) if !items.is_empty() => {
                value.fail("a layer2 pool has no BGP routes: remove this, or write protocol: bgp")
            }
            _ => Some(Vec::new()),
        };
    }
    if items.is_empty() {
        if generation != Some(Generation::V0_2) {
            return Some(vec![Advertisement::default()]);
        }
        fields.of().warn(format!(
            "{label} has no advertisements: its addresses are given to Services but never announced; \
             to announce them add advertisements: [{{aggregation-length: 32}}]"
        ));
        return Some(Vec::new());
    }
    let widest = Bounds::of(ranges);
    let mut read = Vec::with_capacity(items.len());
    let mut complete = true;
    for item in &items {
        match read_advertisement(item, &widest, communities) {
            Some(advertisement) => read.push((item, advertisement)),
            None => complete = false,
        }
    }
    let advertisements = distinct(read, &widest);
    advertisements.filter(|_| complete)
}

/// Drops exact repetitions and refuses one prefix with two preferences, of which a router can see only one.
fn distinct(read: Vec<(&Value<'_>, Advertisement)>, widest: &Bounds) -> Option<Vec<Advertisement>> {
    let mut seen = HashSet::new();
    let mut prefs: HashMap<(bool, u8), (u32, &str)> = HashMap::new();
    let mut advertisements = Vec::new();
    let mut complete = Some(());
    for (item, advertisement) in read {
        if !seen.insert(advertisement.clone()) {
            item.warn("the same as an advertisement before it, ignored: remove one of the two");
            continue;
        }
        let lengths = [
            (widest.v4.is_some(), true, advertisement.aggregation_length),
            (widest.v6.is_some(), false, advertisement.aggregation_length_v6),
        ];
        for (_, v4, length) in lengths.into_iter().filter(|(used, ..)| *used) {
            let (pref, here) = (advertisement.local_pref, item.path());
            let (first, path) = *prefs.entry((v4, length)).or_insert((pref, here));
            if first != pref {
                complete = item.fail(format!(
                    "localpref {pref} contradicts {first} of {path}, which announces the same /{length}: \
                     use one localpref or another aggregation length"
                ));
            }
        }
        advertisements.push(advertisement);
    }
    complete.map(|()| advertisements)
}

fn read_advertisement(
    value: &Value<'_>,
    widest: &Bounds,
    aliases: &BTreeMap<String, Community>,
) -> Option<Advertisement> {
    let fields = value.fields(KEYS)?;
    let default = Advertisement::default();
    let length = |key, default, width, bound: &Option<Bound>| {
        fields.get(key).map_or(Some(default), |value| aggregation_length(&value, width, bound.as_ref()))
    };
    let aggregation_length = length("aggregation-length", default.aggregation_length, 32, &widest.v4);
    let aggregation_length_v6 =
        length("aggregation-length-v6", default.aggregation_length_v6, 128, &widest.v6);
    let local_pref =
        fields.get("localpref").map_or(Some(default.local_pref), |value| number(&value, 0..=u32::MAX.into()));
    let communities = fields
        .get("communities")
        .map_or_else(|| Some(BTreeSet::new()), |value| read_communities(&value, aliases));
    Some(Advertisement {
        aggregation_length: aggregation_length?,
        aggregation_length_v6: aggregation_length_v6?,
        local_pref: local_pref?,
        communities: communities?,
        ..default
    })
}

fn aggregation_length(value: &Value<'_>, width: u8, bound: Option<&Bound>) -> Option<u8> {
    let shortest = bound.map_or(1, |bound| bound.length.max(1));
    let written: Option<u8> = value.text()?.parse().ok();
    match written.and_then(|written| bound?.refuses(written, width)) {
        Some(message) => value.fail(message),
        None => number(value, shortest.into()..=width.into()),
    }
}

fn read_communities(value: &Value<'_>, aliases: &BTreeMap<String, Community>) -> Option<BTreeSet<Community>> {
    let mut communities = BTreeSet::new();
    let mut complete = true;
    for item in value.items()? {
        match read_community(&item, aliases) {
            Some(community) if !communities.insert(community) => {
                item.warn(format!("the community {community} stands in this list already: remove one"));
            }
            Some(_) => {}
            None => complete = false,
        }
    }
    complete.then_some(communities)
}

/// An alias, or a community written out.
fn read_community(value: &Value<'_>, aliases: &BTreeMap<String, Community>) -> Option<Community> {
    let text = value.text()?;
    if let Some(community) = aliases.get(text) {
        return Some(*community);
    }
    if text.contains(':') {
        return from_text(value);
    }
    value.fail_because(|| {
        let hint = match nearest(text, aliases.keys().map(String::as_str)) {
            Some(near) if near.likely => format!("did you mean {}?", shown(near.word)),
            _ => "define it under communities, or write two numbers such as 64600:7".to_owned(),
        };
        format!("no community is called {}: {hint}", shown(text))
    })
}
