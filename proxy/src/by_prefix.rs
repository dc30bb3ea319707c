//! A map by prefix or address, for the hundred thousands that a node may announce.
//!
//! Most of them are IPv4, and an IPv4 prefix of five octets takes a third of the room of an [`IpNet`], which has that of IPv6:
//! so each family has a map of its own. An address is the prefix of its whole length. The order is that of [`IpNet`].

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::packed::Packed;

/// The map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByPrefix<V> {
    v4: Packed<Ipv4Net, V>,
    v6: Packed<Ipv6Net, V>,
}

impl<V> Default for ByPrefix<V> {
    fn default() -> Self {
        Self { v4: Packed::default(), v6: Packed::default() }
    }
}

impl<V> ByPrefix<V> {
    /// How many prefixes it has.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a prefix has.
    pub fn get(&self, prefix: &IpNet) -> Option<&V> {
        match prefix {
            IpNet::V4(prefix) => self.v4.get(prefix),
            IpNet::V6(prefix) => self.v6.get(prefix),
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, prefix: &IpNet) -> Option<&mut V> {
        match prefix {
            IpNet::V4(prefix) => self.v4.get_mut(prefix),
            IpNet::V6(prefix) => self.v6.get_mut(prefix),
        }
    }

    /// Whether a prefix has something.
    pub fn contains_key(&self, prefix: &IpNet) -> bool {
        self.get(prefix).is_some()
    }

    /// Gives a prefix this instead of what it had.
    pub fn insert(&mut self, prefix: IpNet, value: V) -> Option<V> {
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, value),
            IpNet::V6(prefix) => self.v6.insert(prefix, value),
        }
    }

    /// Takes out what a prefix has.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<V> {
        match prefix {
            IpNet::V4(prefix) => self.v4.remove(prefix),
            IpNet::V6(prefix) => self.v6.remove(prefix),
        }
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> {
        let v4 = self.v4.iter().map(|(prefix, value)| (IpNet::V4(*prefix), value));
        v4.chain(self.v6.iter().map(|(prefix, value)| (IpNet::V6(*prefix), value)))
    }

    /// All prefixes, in order.
    pub fn keys(&self) -> impl Iterator<Item = IpNet> {
        self.iter().map(|(prefix, _)| prefix)
    }

    /// What all prefixes have, in order, to change it.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.v4.values_mut().chain(self.v6.values_mut())
    }

    /// Takes all of `other`; what both have is as `other` has it.
    pub fn append(&mut self, other: Self) {
        self.v4.append(other.v4);
        self.v6.append(other.v6);
    }
}

impl<V> FromIterator<(IpNet, V)> for ByPrefix<V> {
    fn from_iter<I: IntoIterator<Item = (IpNet, V)>>(all: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in all {
            match prefix {
                IpNet::V4(prefix) => v4.push((prefix, value)),
                IpNet::V6(prefix) => v6.push((prefix, value)),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::net;

    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..3, 30u8..=32).prop_map(|(n, length)| format!("192.0.2.{n}/{length}"));
        let v6 = (0u8..3, 126u8..=128).prop_map(|(n, length)| format!("2001:db8::{n}/{length}"));
        prop_oneof![v4, v6].prop_map(|text| net(&text))
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_prefixes(
            steps in proptest::collection::vec((prefix(), proptest::option::of(0u8..4)), 0..20),
            more in proptest::collection::btree_map(prefix(), 0u8..4, 0..8),
        ) {
            let (mut map, mut model) = (ByPrefix::default(), BTreeMap::new());
            for (prefix, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(map.insert(prefix, value), model.insert(prefix, value)),
                    None => prop_assert_eq!(map.remove(&prefix), model.remove(&prefix)),
                }
                prop_assert_eq!(map.get(&prefix), model.get(&prefix));
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
            map.append(more.iter().map(|(prefix, value)| (*prefix, *value)).collect());
            model.extend(more);
            let all: Vec<_> = map.iter().map(|(prefix, value)| (prefix, *value)).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
