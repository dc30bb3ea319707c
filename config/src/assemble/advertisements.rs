//! Advertisements: which pools they are for, and whether they go together.

use std::collections::{BTreeMap, BTreeSet};

use super::pools::Pools;
use super::{Round, State};
use crate::aggregate::Bounds;
use crate::objects::{AnyCommunity, At, Bgp, Content, Selection};
use crate::pool::Advertisement;
use crate::problem::{ConfigError, shown};
use crate::read::nearest::nearest;
use crate::schema::kinds::Kind;
use crate::selector::LabelSelector;

/// Names of communities.
pub(super) type Aliases = BTreeMap<String, AnyCommunity>;

pub(super) fn admit_communities(round: &mut Round<'_>) -> Aliases {
    let mut aliases = Aliases::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    round.admit(
        Kind::Community,
        |object, content, _| {
            let Content::Communities(communities) = content else { return Err(Vec::new()) };
            let taken = |(at, _): &(At<String>, AnyCommunity)| {
                let owner = owners.get(&at.value)?;
                let message =
                    format!("{} is also a name of Community {}: rename one", shown(&at.value), shown(owner));
                Some(at.place.error(message))
            };
            let errors: Vec<ConfigError> = communities.iter().filter_map(taken).collect();
            if !errors.is_empty() {
                return Err(errors);
            }
            for (at, community) in communities {
                aliases.insert(at.value.clone(), *community);
                owners.insert(at.value.clone(), object.key.name.clone());
            }
            Ok(Vec::new())
        },
        |_, _| false,
    );
    aliases
}

pub(super) fn admit_bgp(round: &mut Round<'_>, pools: &mut Pools, aliases: &Aliases, peers: &[String]) {
    // What each advertisement of a pool is called, beside the pool's own list of them.
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let objects = round.objects;
    let known =
        |name: &str| objects.iter().any(|of| of.key.kind == Kind::IpAddressPool && of.key.name == name);
    round.admit(
        Kind::BgpAdvertisement,
        |object, content, state| {
            let Content::Bgp(bgp) = content else { return Err(Vec::new()) };
            let mut errors = Vec::new();
            let advertisement = resolve(bgp, aliases, &mut errors);
            for (name, admitted) in pools.iter().filter(|(name, of)| bgp.pools.selects(name, &of.labels)) {
                let bounds = Bounds::of(&admitted.pool.ranges);
                if state == State::New {
                    // A pool that was made smaller must not end the routes of the addresses that are left.
                    too_short(bgp, &bounds, name, &mut errors);
                }
                let others = names.get(name).into_iter().flatten();
                for (other, theirs) in others.zip(&admitted.pool.advertisements) {
                    errors.extend(contradicts(bgp, &advertisement, other, theirs, &bounds, name));
                }
            }
            if !errors.is_empty() {
                return Err(errors);
            }
            let mut partly = unknown_pools(&bgp.pools, pools, known);
            for at in bgp.peers.iter().filter(|at| !peers.contains(&at.value)) {
                let hint = hint(&at.value, peers.iter().map(String::as_str));
                partly.push(at.place.error(format!("no BGPPeer is called {}: {hint}", shown(&at.value))));
            }
            for (name, of) in pools.iter_mut().filter(|(name, of)| bgp.pools.selects(name, &of.labels)) {
                of.pool.advertisements.push(advertisement.clone());
                names.entry(name.clone()).or_default().push(object.key.name.clone());
            }
            Ok(partly)
        },
        |_, _| false,
    );
    // In the order of their names, whatever the order in which they were judged.
    for (pool, names) in names {
        if let Some(of) = pools.get_mut(&pool) {
            let mut pairs: Vec<_> =
                names.into_iter().zip(std::mem::take(&mut of.pool.advertisements)).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            of.pool.advertisements = pairs.into_iter().map(|(_, advertisement)| advertisement).collect();
        }
    }
}

pub(super) fn admit_l2(round: &mut Round<'_>, pools: &mut Pools) {
    let objects = round.objects;
    let known =
        |name: &str| objects.iter().any(|of| of.key.kind == Kind::IpAddressPool && of.key.name == name);
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    round.admit(
        Kind::L2Advertisement,
        |object, content, _| {
            let Content::L2(l2) = content else { return Err(Vec::new()) };
            let selected =
                |(name, of): &(&String, &super::pools::Admitted)| l2.pools.selects(name, &of.labels);
            for (name, of) in pools.iter().filter(selected) {
                let twin = of.pool.layer2.iter().position(|other| *other == l2.advertisement);
                if let Some(other) = twin.and_then(|index| names.get(name)?.get(index)) {
                    return Err(vec![l2.place.error(same(other, name))]);
                }
            }
            let partly = unknown_pools(&l2.pools, pools, known);
            for (name, of) in pools.iter_mut().filter(|(name, of)| l2.pools.selects(name, &of.labels)) {
                of.pool.layer2.push(l2.advertisement.clone());
                names.entry(name.clone()).or_default().push(object.key.name.clone());
            }
            Ok(partly)
        },
        |_, _| false,
    );
    for (pool, names) in names {
        if let Some(of) = pools.get_mut(&pool) {
            let mut pairs: Vec<_> = names.into_iter().zip(std::mem::take(&mut of.pool.layer2)).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            of.pool.layer2 = pairs.into_iter().map(|(_, advertisement)| advertisement).collect();
        }
    }
}

fn same(other: &str, pool: &str) -> String {
    format!("says the same for pool {} as {}: remove one of the two", shown(pool), shown(other))
}

fn hint<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    match nearest(name, known) {
        Some(near) if near.likely => format!("did you mean {}?", shown(near.word)),
        _ => "create it, or remove this".to_owned(),
    }
}

fn unknown_pools(of: &Selection, pools: &Pools, known: impl Fn(&str) -> bool) -> Vec<ConfigError> {
    let missing = of.names.iter().filter(|at| !pools.contains_key(&at.value));
    let error = |at: &At<String>| {
        let name = shown(&at.value);
        at.place.error(match known(&at.value) {
            true => format!("pool {name} is refused: correct it"),
            false => {
                let hint = hint(&at.value, pools.keys().map(String::as_str));
                format!("no IPAddressPool is called {name}: {hint}")
            }
        })
    };
    missing.map(error).collect()
}

fn resolve(bgp: &Bgp, aliases: &Aliases, errors: &mut Vec<ConfigError>) -> Advertisement {
    let mut advertisement = Advertisement {
        aggregation_length: bgp.aggregation_length.value,
        aggregation_length_v6: bgp.aggregation_length_v6.value,
        local_pref: bgp.local_pref,
        peers: bgp.peers.iter().map(|at| at.value.clone()).collect(),
        node_selectors: bgp.node_selectors.clone(),
        service_selectors: bgp.service_selectors.clone(),
        ..Advertisement::default()
    };
    for At { value, place } in &bgp.communities {
        let written = aliases.get(value).copied().map_or_else(|| value.parse(), Ok);
        match written {
            Ok(AnyCommunity::Plain(community)) => {
                advertisement.communities.insert(community);
            }
            Ok(AnyCommunity::Large(community)) => {
                advertisement.large_communities.insert(community);
            }
            Err(error) if value.contains(':') => errors.push(place.error(error.to_string())),
            Err(_) => {
                let hint = match nearest(value, aliases.keys().map(String::as_str)) {
                    Some(near) if near.likely => format!("did you mean {}?", shown(near.word)),
                    _ => "add it to a Community, or write two numbers such as 64600:7".to_owned(),
                };
                errors.push(place.error(format!("no community is called {}: {hint}", shown(value))));
            }
        }
    }
    advertisement
}

fn too_short(bgp: &Bgp, bounds: &Bounds, pool: &str, errors: &mut Vec<ConfigError>) {
    for (bound, length, width) in
        [(&bounds.v4, &bgp.aggregation_length, 32), (&bounds.v6, &bgp.aggregation_length_v6, 128)]
    {
        let refused = bound.as_ref().and_then(|bound| bound.refuses(length.value, width));
        errors.extend(refused.map(|message| length.place.error(format!("pool {}: {message}", shown(pool)))));
    }
}

/// Why two advertisements of one pool do not go together. Whether those that are for different nodes or Services
/// meet is known only where one of them is announced.
fn contradicts(
    bgp: &Bgp,
    mine: &Advertisement,
    other: &str,
    theirs: &Advertisement,
    bounds: &Bounds,
    pool: &str,
) -> Option<ConfigError> {
    if mine == theirs {
        return Some(bgp.place.error(same(other, pool)));
    }
    let length = match () {
        () if bounds.v4.is_some() && mine.aggregation_length == theirs.aggregation_length => {
            mine.aggregation_length
        }
        () if bounds.v6.is_some() && mine.aggregation_length_v6 == theirs.aggregation_length_v6 => {
            mine.aggregation_length_v6
        }
        () => return None,
    };
    let meet = mine.local_pref != theirs.local_pref
        && share(&mine.peers, &theirs.peers)
        && selectors_meet(&mine.node_selectors, &theirs.node_selectors)
        && selectors_meet(&mine.service_selectors, &theirs.service_selectors);
    meet.then(|| {
        let mut place = bgp.place.clone();
        place.path.push_str(".localPref");
        place.error(format!(
            "{} contradicts {} of {}, which announces pool {} by the same /{length}: use one localPref or another \
             aggregation length",
            mine.local_pref,
            theirs.local_pref,
            shown(other),
            shown(pool)
        ))
    })
}

fn share(mine: &BTreeSet<String>, theirs: &BTreeSet<String>) -> bool {
    mine.is_empty() || theirs.is_empty() || !mine.is_disjoint(theirs)
}

fn selectors_meet(mine: &[LabelSelector], theirs: &[LabelSelector]) -> bool {
    let all = |selectors: &[LabelSelector]| {
        selectors.is_empty() || selectors.iter().any(|selector| *selector == LabelSelector::default())
    };
    all(mine) || all(theirs) || mine.iter().any(|selector| theirs.contains(selector))
}
