//! Which addresses this node probes: a pure function of the nodes and the address.
//!
//! Two nodes probe each address, those that rank last for it. By layer 2 the one that ranks first owns an address where
//! nothing else decides, so with three nodes or more an owner is seldom among them; one that is leaves it to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_runtime::ObjectName;

use super::Wanted;
use super::targets::Probed;
use crate::layer2::rank;

/// Nodes that probe an address.
const PROBERS: usize = 2;

/// An address that this node probes, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mine {
    /// Whose it is; the first by name of those that share it.
    pub(crate) service: Arc<ObjectName>,
    /// Where, or why not.
    pub(crate) probed: Probed,
}

/// What this node probes.
#[derive(Debug, Default)]
pub(crate) struct Assignment {
    nodes: BTreeSet<Box<str>>,
    /// Whether this node is one of those that probe an address: found once.
    ranked: BTreeMap<IpAddr, bool>,
    mine: BTreeMap<IpAddr, Mine>,
}

/// Whether a node is one of those that probe an address. One that is alone probes nothing.
pub(crate) fn probes<'a>(node: &str, nodes: impl Iterator<Item = &'a str>, address: IpAddr) -> bool {
    let own = rank(node, address);
    let others = nodes.filter(|other| *other != node);
    let (all, before) = others.fold((0, 0), |(all, before), other| {
        (all + 1, before + usize::from((rank(other, address), other) > (own, node)))
    });
    all > 0 && before < PROBERS
}

impl Assignment {
    /// The addresses of which is to be found out who probes them: with thousands of addresses and hundreds of nodes a while.
    pub(crate) fn unknown(&mut self, wanted: &Wanted) -> Vec<IpAddr> {
        if self.nodes != wanted.nodes {
            self.nodes.clone_from(&wanted.nodes);
            self.ranked.clear();
        }
        let all =
            wanted.services.values().flat_map(|addresses| addresses.iter().map(|(address, _)| *address));
        all.filter(|address| !self.ranked.contains_key(address))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Finds it out.
    pub(crate) fn rank(&mut self, node: &str, addresses: &[IpAddr]) {
        for address in addresses {
            let mine = probes(node, self.nodes.iter().map(|node| &**node), *address);
            self.ranked.insert(*address, mine);
        }
    }

    /// Takes what is wanted.
    pub(crate) fn settle(&mut self, node: &str, wanted: &Wanted) {
        // What has come since it was asked for.
        let unknown = self.unknown(wanted);
        self.rank(node, &unknown);
        let mut all: BTreeMap<IpAddr, (&ObjectName, Probed)> = BTreeMap::new();
        for (service, addresses) in &wanted.services {
            for (address, probed) in addresses {
                let of = all.entry(*address).or_insert((service, *probed));
                // Of those that share it, one that can be probed stands for all.
                if matches!((of.1, probed), (Probed::Not(_), Probed::At(_))) {
                    *of = (service, *probed);
                }
            }
        }
        self.ranked.retain(|address, _| all.contains_key(address));
        let is_mine =
            |address: &IpAddr| self.ranked.get(address) == Some(&true) && !wanted.owned.contains(address);
        let mine = all.into_iter().filter(|(address, _)| is_mine(address));
        self.mine = mine
            .map(|(address, (service, probed))| {
                let known = self.mine.get(&address).map(|mine| &mine.service).filter(|of| ***of == *service);
                let service = known.map_or_else(|| Arc::new(service.clone()), Arc::clone);
                (address, Mine { service, probed })
            })
            .collect();
    }

    /// All that are this node's to probe.
    pub(crate) fn mine(&self) -> &BTreeMap<IpAddr, Mine> {
        &self.mine
    }

    /// Where it probes.
    pub(crate) fn sockets(&self) -> BTreeMap<IpAddr, u16> {
        let port = |mine: &Mine| match mine.probed {
            Probed::At(port) => Some(port),
            Probed::Not(_) => None,
        };
        self.mine.iter().filter_map(|(address, mine)| Some((*address, port(mine)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::targets::Unprobed;

    const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn vip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn probers(nodes: &[&str], address: IpAddr) -> Vec<String> {
        let probes = |node: &&&str| probes(node, nodes.iter().copied(), address);
        nodes.iter().filter(probes).map(ToString::to_string).collect()
    }

    #[test]
    fn two_nodes_probe_each_address_and_one_that_is_alone_probes_none() {
        for (count, expected) in [(1, 0), (2, 2), (3, 2), (5, 2)] {
            for n in 0..=255 {
                assert_eq!(probers(&NODES[..count], vip(n)).len(), expected, "{n} of {count}");
            }
        }
    }

    #[test]
    fn with_three_nodes_the_one_that_ranks_first_for_layer_2_is_not_among_them() {
        for n in 0..=255 {
            let nodes = &NODES[..3];
            let first = nodes.iter().min_by_key(|node| rank(node, vip(n))).unwrap();
            assert!(!probers(nodes, vip(n)).contains(&first.to_string()));
        }
    }

    #[test]
    fn a_node_that_goes_leaves_what_others_probe_with_them() {
        for n in 0..=255 {
            let (before, after) = (probers(&NODES, vip(n)), probers(&NODES[1..], vip(n)));
            for node in before.iter().filter(|node| *node != "a") {
                assert!(after.contains(node), "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn addresses_are_spread_evenly() {
        for node in NODES {
            let count = (0..=255).filter(|n| probes(node, NODES.into_iter(), vip(*n))).count();
            assert!((70..=140).contains(&count), "{node} probes {count} of 256");
        }
    }

    fn wanted(services: &[(&str, u8, Probed)]) -> Wanted {
        let mut wanted = Wanted { nodes: ["a".into(), "b".into()].into(), ..Wanted::default() };
        for (name, address, probed) in services {
            wanted.services.insert(ObjectName::new("shop", *name), [(vip(*address), *probed)].into());
        }
        wanted
    }

    #[test]
    fn what_is_shared_is_probed_once_and_what_the_node_owns_is_left_to_others() {
        let udp = Probed::Not(Unprobed::NoTcpPort);
        let services =
            [("dns", 1, udp), ("web", 1, Probed::At(80)), ("www", 1, Probed::At(81)), ("log", 2, udp)];
        let mut assignment = Assignment::default();
        let mut wanted = wanted(&services);
        assignment.settle("a", &wanted);
        assert_eq!(assignment.sockets(), [(vip(1), 80)].into());
        assert_eq!(&*assignment.mine()[&vip(1)].service.name, "web");
        assert_eq!(assignment.mine()[&vip(2)].probed, udp);
        wanted.owned = [vip(1)].into();
        assignment.settle("a", &wanted);
        assert_eq!(assignment.sockets(), BTreeMap::new());
        // The other one is gone.
        wanted.owned.clear();
        wanted.nodes = ["a".into()].into();
        assignment.settle("a", &wanted);
        assert!(assignment.mine().is_empty());
    }

    #[test]
    fn what_is_known_of_an_address_is_found_out_once_and_anew_with_other_nodes() {
        let mut wanted = wanted(&[("web", 1, Probed::At(80)), ("www", 2, Probed::At(80))]);
        let mut assignment = Assignment::default();
        assert_eq!(assignment.unknown(&wanted), [vip(1), vip(2)]);
        assignment.rank("a", &[vip(1)]);
        assert_eq!(assignment.unknown(&wanted), [vip(2)]);
        assignment.settle("a", &wanted);
        assert!(assignment.unknown(&wanted).is_empty());
        wanted.nodes.insert("c".into());
        assert_eq!(assignment.unknown(&wanted), [vip(1), vip(2)]);
    }
}
