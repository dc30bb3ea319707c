//! Pools: no two of them may overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Round;
use crate::address_range::AddressRange;
use crate::objects::Content;
use crate::pool::Pool;
use crate::problem::shown;
use crate::schema::kinds::Kind;

/// A pool that is in force, with the labels that advertisements select it by.
pub(super) struct Admitted {
    pub(super) pool: Pool,
    pub(super) labels: BTreeMap<String, String>,
}

/// Pools by name.
pub(super) type Pools = BTreeMap<String, Admitted>;

pub(super) fn admit(round: &mut Round<'_>) -> Pools {
    let mut pools = Pools::new();
    // Disjoint, by their first address.
    let mut taken: BTreeMap<IpAddr, (AddressRange, String)> = BTreeMap::new();
    round.admit(
        Kind::IpAddressPool,
        |object, content, _| {
            let Content::Pool(content) = content else { return Err(Vec::new()) };
            let mut errors = Vec::new();
            for at in &content.ranges {
                let before = taken.range(..=at.value.last()).next_back();
                if let Some((_, (other, pool))) = before.filter(|(_, (other, _))| other.overlaps(&at.value)) {
                    errors.push(at.place.error(format!(
                        "{} overlaps {other} of pool {}: remove or shorten one of them",
                        at.value,
                        shown(pool)
                    )));
                }
            }
            if !errors.is_empty() {
                return Err(errors);
            }
            let name = object.key.name.clone();
            taken.extend(content.ranges.iter().map(|at| (at.value.first(), (at.value, name.clone()))));
            let pool = Pool {
                name: name.clone(),
                ranges: content.ranges.iter().map(|at| at.value).collect(),
                auto_assign: content.auto_assign,
                avoid_buggy_ips: content.avoid_buggy_ips,
                allocation: content.allocation.clone(),
                advertisements: Vec::new(),
                layer2: Vec::new(),
            };
            pools.insert(name, Admitted { pool, labels: object.labels.clone() });
            Ok(Vec::new())
        },
        |_, _| false,
    );
    pools
}
