//! Whose hellos cannot be read because they are of another version: kept until they can, and told in words.
//!
//! Hellos of a version that is not known are signed by an accepted key, so who sends them is a speaker of this cluster. It is named
//! by the Node that has its address: all that a later version keeps is the first 28 octets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::hello::VERSION;

/// What is known of them on one interface. No more than there are Nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OtherVersions {
    by_node: BTreeMap<Box<str>, u8>,
    /// Of a version, from an address that no Node has; the last one.
    nobodys: Option<u8>,
}

impl OtherVersions {
    /// A hello of another version came from there; the words if that is new.
    pub(super) fn refused(
        &mut self,
        from: Option<IpAddr>,
        version: u8,
        nodes: &BTreeMap<Box<str>, BTreeSet<IpAddr>>,
    ) -> Option<String> {
        let has = |addresses: &BTreeSet<IpAddr>| from.is_some_and(|from| addresses.contains(&from));
        let node = nodes.iter().find(|(_, addresses)| has(addresses)).map(|(node, _)| node);
        let before = match node {
            Some(node) => self.by_node.insert(node.clone(), version),
            None => self.nobodys.replace(version),
        };
        let name = match (node, from) {
            (Some(node), _) => format!("node {node}"),
            (None, Some(from)) => format!("{from}, which no Node has"),
            (None, None) => "an unknown address".to_owned(),
        };
        (before != Some(version)).then(|| words(&name, version))
    }

    /// A node's hellos can be read.
    pub(super) fn understood(&mut self, node: &str) {
        if !self.by_node.is_empty() {
            self.by_node.remove(node);
        }
    }

    /// The nodes whose hellos cannot be read, and what is to be told of them.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&str, String)> {
        self.by_node.iter().map(|(node, version)| (&**node, words(&format!("node {node}"), *version)))
    }
}

/// What it means and what is to be done.
fn words(who: &str, version: u8) -> String {
    let older = if version < VERSION { "the sender's is the older one" } else { "this one is the older one" };
    format!(
        "hellos from {who} are of version {version}, and this speaker knows version {VERSION} alone: they do not hear each other, and \
         both may own an address; {older}: bring all speakers to one release (kubectl -n metallb-system rollout status \
         daemonset/herald-speaker)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_its_address_and_told_once_for_each_version_until_it_is_understood() {
        let nodes = BTreeMap::from([("node-2".into(), BTreeSet::from(["10.0.0.12".parse().unwrap()]))]);
        let from = |ip: &str| Some(ip.parse().unwrap());
        let mut versions = OtherVersions::default();
        let told = versions.refused(from("10.0.0.12"), VERSION + 1, &nodes).unwrap();
        assert!(told.contains("from node node-2 are of version 2") && told.contains("this one is the older"));
        assert_eq!(versions.refused(from("10.0.0.12"), VERSION + 1, &nodes), None);
        let told = versions.refused(from("10.0.0.12"), VERSION - 1, &nodes).unwrap();
        assert!(told.contains("the sender's is the older"), "{told}");
        let events: Vec<_> = versions.told().collect();
        assert_eq!(events.iter().map(|(node, text)| (*node, text)).collect::<Vec<_>>(), [("node-2", &told)]);
        versions.understood("node-3");
        assert_eq!(versions.told().count(), 1);
        versions.understood("node-2");
        assert_eq!(versions, OtherVersions::default());
    }

    #[test]
    fn who_is_no_node_is_told_once_and_is_nobodys_event() {
        let (nodes, mut versions) = (BTreeMap::new(), OtherVersions::default());
        let from = Some("10.0.0.99".parse().unwrap());
        assert!(versions.refused(from, 2, &nodes).unwrap().contains("10.0.0.99, which no Node has"));
        assert_eq!(versions.refused(None, 2, &nodes), None);
        assert!(versions.refused(None, 3, &nodes).unwrap().contains("an unknown address"));
        assert_eq!(versions.told().count(), 0);
    }
}
