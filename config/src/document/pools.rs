//! The list `address-pools`: names, protocols and ranges.

use std::collections::{BTreeMap, HashMap};

use super::generation::Generation;
use super::routes;
use crate::address_range::{AddressRange, overlapping};
use crate::community::Community;
use crate::pool::{Layer2Advertisement, Pool};
use crate::problem::shown;
use crate::read::ranges::usable;
use crate::read::reader::{Fields, Value};
use crate::read::scalars::{boolean, from_text, nonempty, one_of};

const KEYS: &[&str] = &[
    "name",
    "protocol",
    "cidr",
    "addresses",
    "auto-assign",
    "avoid-buggy-ips",
    "advertisements",
    "bgp-advertisements",
    "arp-network",
];

/// How the addresses of a pool are announced: the key `protocol`, which decides about all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// As routes to the BGP peers.
    Bgp,
    /// By ARP and NDP on the nodes' own segments.
    Layer2,
}

/// A range, where it was written and in which pool.
struct Written<'a> {
    range: AddressRange,
    place: Value<'a>,
    pool: String,
}

/// All pools that could be read. Overlaps are looked for among all ranges, those of broken pools too.
pub(super) fn read(
    value: &Value<'_>,
    generation: Generation,
    communities: &BTreeMap<String, Community>,
) -> Vec<Pool> {
    let mut pools = Vec::new();
    let mut ranges = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    for item in value.items().unwrap_or_default() {
        let Some(fields) = item.fields(KEYS) else { continue };
        let name = fields.required("name", "default").and_then(|value| {
            let name = nonempty(&value, "the name")?;
            match names.insert(name.to_owned(), value.place().0) {
                Some(line) => {
                    value.fail(format!("{} is also the pool of line {line}: rename one", shown(name)))
                }
                None => Some(name),
            }
        });
        pools.extend(read_pool(&fields, name, generation, communities, &mut ranges));
    }
    refuse_overlaps(&ranges);
    pools
}

fn read_pool<'a>(
    fields: &Fields<'a>,
    name: Option<&str>,
    generation: Generation,
    communities: &BTreeMap<String, Community>,
    ranges: &mut Vec<Written<'a>>,
) -> Option<Pool> {
    let generation = generation.of_pool(fields.of());
    let protocol = match generation {
        Some(Generation::V0_2) => Some(Protocol::Bgp),
        _ => fields.required("protocol", "bgp (or layer2)").and_then(|value| read_protocol(&value)),
    };
    if let Some(value) = fields.get("arp-network") {
        value.warn("no longer needed, ignored: remove it");
    }
    let flag = |key, default| fields.get(key).map_or(Some(default), |value| boolean(&value));
    let auto_assign = flag("auto-assign", true);
    let avoid_buggy_ips = flag("avoid-buggy-ips", false);
    let label = name.map_or_else(|| fields.of().path().to_owned(), |name| format!("pool {}", shown(name)));
    let first = ranges.len();
    let complete = read_ranges(fields, generation, &label, ranges);
    let own: Vec<AddressRange> = ranges[first..].iter().map(|written| written.range).collect();
    let advertisements = routes::read(fields, generation, protocol, &label, &own, communities);
    complete?;
    let layer2 = match protocol? {
        Protocol::Bgp => Vec::new(),
        Protocol::Layer2 => vec![Layer2Advertisement::default()],
    };
    Some(Pool {
        name: name?.to_owned(),
        ranges: own,
        auto_assign: auto_assign?,
        avoid_buggy_ips: avoid_buggy_ips?,
        allocation: None,
        advertisements: advertisements?,
        layer2,
    })
}

fn read_protocol(value: &Value<'_>) -> Option<Protocol> {
    let words = [
        ("bgp", Protocol::Bgp),
        ("layer2", Protocol::Layer2),
        ("arp", Protocol::Layer2),
        ("ndp", Protocol::Layer2),
    ];
    one_of(value, &words)
}

/// Adds the ranges of both keys; `None` when one could not be read or there has to be one.
fn read_ranges<'a>(
    fields: &Fields<'a>,
    generation: Option<Generation>,
    label: &str,
    ranges: &mut Vec<Written<'a>>,
) -> Option<()> {
    let mut complete = Some(());
    let mut places = Vec::new();
    for key in ["cidr", "addresses"] {
        match fields.get(key).map(|value| value.items()) {
            Some(Some(items)) => places.extend(items),
            Some(None) => complete = None,
            None => {}
        }
    }
    if places.is_empty() && complete.is_some() {
        if generation != Some(Generation::V0_2) {
            return fields
                .of()
                .fail("the pool has no addresses: add some, for example addresses: [192.0.2.0/24]");
        }
        // That generation bears a pool without addresses; one that loses them by a slip of the pen is not meant.
        fields.not_mistyped("cidr")?;
        fields.not_mistyped("addresses")?;
        fields.of().warn(format!("{label} has no cidr: there is nothing to give to Services"));
    }
    for place in places {
        match read_range(&place, generation) {
            Some(range) => ranges.push(Written { range, place, pool: label.to_owned() }),
            None => complete = None,
        }
    }
    complete
}

fn read_range(value: &Value<'_>, generation: Option<Generation>) -> Option<AddressRange> {
    let range: AddressRange = from_text(value)?;
    if generation == Some(Generation::V0_2) && !range.is_ipv4() {
        return value.fail(format!(
            "{range} is IPv6, which a pool without protocol cannot have: write protocol: bgp beside it"
        ));
    }
    usable(value, &range)?;
    Some(range)
}

fn refuse_overlaps(written: &[Written<'_>]) {
    let ranges: Vec<AddressRange> = written.iter().map(|written| written.range).collect();
    for (a, b) in overlapping(&ranges) {
        let mut pair = [&written[a], &written[b]];
        pair.sort_by_key(|written| written.place.place());
        let [first, second] = pair;
        second.place.fail_because::<()>(|| {
            format!(
                "{} of {} overlaps {} of {} on line {}: remove or shorten one of them",
                second.range,
                second.pool,
                first.range,
                first.pool,
                first.place.place().0,
            )
        });
    }
}
