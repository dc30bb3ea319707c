//! Who has which prefix or address, where several Services may have one and nearly all have one owner.
//!
//! A list of owners is shared by all prefixes that have the same one Service, so that each of them costs eight octets.

use std::sync::Arc;

use herald_runtime::ObjectName;
use ipnet::IpNet;

use crate::by_prefix::ByPrefix;

/// The owners of prefixes.
#[derive(Debug, Default)]
pub struct Owners(ByPrefix<Arc<Vec<ObjectName>>>);

impl Owners {
    /// A Service has these prefixes now, and no more those that it had; each of both comes once.
    pub fn replace(
        &mut self,
        service: &ObjectName,
        before: impl IntoIterator<Item = IpNet>,
        now: impl IntoIterator<Item = IpNet>,
    ) {
        before.into_iter().for_each(|prefix| self.remove(&prefix, service));
        let mut alone = None;
        for prefix in now {
            match self.0.get_mut(&prefix) {
                Some(owners) => {
                    if let Err(at) = owners.binary_search(service) {
                        Arc::make_mut(owners).insert(at, service.clone());
                    }
                }
                None => {
                    let alone = alone.get_or_insert_with(|| Arc::new(vec![service.clone()]));
                    self.0.insert(prefix, Arc::clone(alone));
                }
            }
        }
    }

    /// The Services that have a prefix, in order.
    pub fn of(&self, prefix: &IpNet) -> &[ObjectName] {
        self.0.get(prefix).map_or(&[], |owners| owners)
    }

    fn remove(&mut self, prefix: &IpNet, service: &ObjectName) {
        let Some(owners) = self.0.get_mut(prefix) else { return };
        let Ok(at) = owners.binary_search(service) else { return };
        match owners.len() {
            1 => _ = self.0.remove(prefix),
            _ => _ = Arc::make_mut(owners).remove(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::net;

    fn all() -> impl Iterator<Item = IpNet> {
        (0u8..4).map(|n| net(&format!("192.0.2.{n}/32")))
    }

    proptest! {
        #[test]
        fn owners_are_those_that_have_it_whatever_the_order_of_changes(
            changes in proptest::collection::vec((0u8..4, proptest::collection::btree_set(0usize..4, 0..4)), 0..20),
        ) {
            let mut owners = Owners::default();
            let mut model = BTreeMap::<u8, BTreeSet<IpNet>>::new();
            let name = |n: u8| ObjectName::new("shop", format!("svc-{n}"));
            for (n, has) in changes {
                let has: BTreeSet<IpNet> = has.into_iter().filter_map(|at| all().nth(at)).collect();
                let before = model.insert(n, has.clone()).unwrap_or_default();
                owners.replace(&name(n), before, has);
                for prefix in all() {
                    let expected = model.iter().filter(|(_, has)| has.contains(&prefix));
                    let expected: Vec<_> = expected.map(|(n, _)| name(*n)).collect();
                    prop_assert_eq!(owners.of(&prefix), &expected[..]);
                }
            }
            for (n, has) in model {
                owners.replace(&name(n), has, []);
            }
            prop_assert!(owners.0.is_empty());
        }
    }
}
