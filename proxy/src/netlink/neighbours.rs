//! What of kube-proxy's is in force beside our tables, and its removal.
//!
//! Seen are the tables of its nftables mode and the chains that its iptables mode writes through iptables-nft. Removed
//! are exactly these, in one transaction: the tables; the rules in iptables' built-in chains that jump to its chains; the
//! chains. Never kubelet's chains (`KUBE-KUBELET-CANARY`, `KUBE-FIREWALL`, `KUBE-MARK-DROP`), and no chain that a rule in
//! somebody's own chain still uses. iptables-legacy and IPVS have no netlink of nf_tables; the speaker looks for them.

use std::collections::BTreeSet;

use super::attributes::attributes;
use super::batch::Batch;
use super::decode::find;
use super::dump::Listing;
use super::wire::*;
use super::{ATTEMPTS, Kernel, KernelError, Subject, refused};
use crate::family::IpFamily;

/// The tables of kube-proxy's nftables mode.
const TABLE: &str = "kube-proxy";
/// Tables of iptables that kube-proxy writes.
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const CHAINS: [&str; 8] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-PROXY-CANARY",
];
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SVL-", "KUBE-XLB-"];

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// What of kube-proxy's is in force on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KubeProxy {
    /// Tables of its nftables mode.
    pub tables: bool,
    /// Chains of its iptables mode, written by iptables-nft.
    pub chains: bool,
}

impl KubeProxy {
    /// True when there is anything.
    pub fn is_there(self) -> bool {
        self.tables || self.chains
    }
}

/// A chain of one of iptables' tables.
type Place = (String, String);

/// A rule that goes to another chain of its table.
#[derive(Debug)]
struct JumpRule {
    from: Place,
    handle: u64,
    target: String,
}

impl Kernel {
    /// What of kube-proxy's is in force.
    pub fn kube_proxy(&mut self) -> Result<KubeProxy, KernelError> {
        let mut found = KubeProxy::default();
        for family in IpFamily::ALL {
            found.chains |= self.has_chain(family, "nat", "KUBE-SERVICES")?;
            found.tables |= self.has_table(family, TABLE)?;
        }
        Ok(found)
    }

    /// Removes what of kube-proxy's is in force, if anything is. kube-proxy does the same with what its other modes left
    /// (`--cleanup`, and at each start).
    pub fn remove_kube_proxy(&mut self) -> Result<(), KernelError> {
        let mut rules = Vec::new();
        let mut chains = Vec::new();
        for family in IpFamily::ALL {
            let (jumps, own) = self.iptables(family)?;
            rules.extend(jumps.into_iter().map(|jump| (family, jump)));
            chains.extend(own.into_iter().map(|place| (family, place)));
        }
        self.transact(None, &[], &[], 0, |batch: &mut Batch| {
            for family in IpFamily::ALL {
                batch.delete_table(family, TABLE);
            }
            for (family, JumpRule { from: (table, chain), handle, .. }) in &rules {
                batch.delete_rules(*family, table, chain, Some(*handle));
            }
            // Chains go to each other: all are emptied before the first is removed.
            for (family, (table, chain)) in &chains {
                batch.delete_rules(*family, table, chain, None);
            }
            for (family, (table, chain)) in &chains {
                batch.delete_chain(*family, table, chain);
            }
        })
    }

    /// The rules in built-in chains that go to kube-proxy's, and kube-proxy's chains that nobody else uses.
    fn iptables(&mut self, family: IpFamily) -> Result<(Vec<JumpRule>, Vec<Place>), KernelError> {
        let mut own: BTreeSet<Place> = BTreeSet::new();
        self.listing(NFT_MSG_GETCHAIN, family, |chain| {
            let text = |kind| text(chain, kind);
            if let (Some(table), Some(name)) = (text(NFTA_CHAIN_TABLE), text(NFTA_CHAIN_NAME))
                && IPTABLES.contains(&&*table)
                && is_kube_proxys(&name)
            {
                own.insert((table, name));
            }
        })?;
        let mut jumps = Vec::new();
        self.listing(NFT_MSG_GETRULE, family, |rule| jumps.extend(jump(rule)))?;
        // What somebody's own chain uses stays, and so does what that uses.
        loop {
            let target = |jump: &JumpRule| (jump.from.0.clone(), jump.target.clone());
            let foreign = |jump: &&JumpRule| !own.contains(&jump.from) && !BUILT_IN.contains(&&*jump.from.1);
            let used: Vec<Place> = jumps.iter().filter(foreign).map(target).collect();
            let before = own.len();
            own.retain(|place| !used.contains(place));
            if own.len() == before {
                break;
            }
        }
        jumps.retain(|jump| {
            BUILT_IN.contains(&&*jump.from.1) && own.contains(&(jump.from.0.clone(), jump.target.clone()))
        });
        Ok((jumps, own.into_iter().collect()))
    }

    /// All objects of a kind in a family.
    fn listing(
        &mut self,
        kind: u16,
        family: IpFamily,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        for _ in 0..ATTEMPTS {
            // What is told twice, since somebody committed meanwhile, is told to `each` only when it is whole.
            let mut seen = Vec::new();
            let listing = self.list(kind, family, |_| {}, |object| seen.push(object.to_vec()))?;
            if listing == Listing::Whole {
                seen.iter().for_each(|object| each(object));
                return Ok(());
            }
        }
        Err(refused(Subject::Batch, libc::EBUSY, Some("the ruleset changes all the time".to_owned())))
    }
}

/// A name among attributes.
fn text(object: &[u8], kind: u16) -> Option<String> {
    Some(String::from_utf8_lossy(find(object, kind)?).trim_end_matches('\0').to_owned())
}

/// A rule of iptables' tables that goes to a chain.
fn jump(rule: &[u8]) -> Option<JumpRule> {
    let from = (text(rule, NFTA_RULE_TABLE)?, text(rule, NFTA_RULE_CHAIN)?);
    if !IPTABLES.contains(&&*from.0) {
        return None;
    }
    let handle = u64::from_be_bytes(find(rule, NFTA_RULE_HANDLE)?.first_chunk().copied()?);
    let target = attributes(find(rule, NFTA_RULE_EXPRESSIONS)?).find_map(|(_, expression)| {
        (text(expression, NFTA_EXPR_NAME)? == "immediate").then_some(())?;
        let data = find(find(expression, NFTA_EXPR_DATA)?, NFTA_IMMEDIATE_DATA)?;
        text(find(data, NFTA_DATA_VERDICT)?, NFTA_VERDICT_CHAIN)
    })?;
    Some(JumpRule { from, handle, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_kube_proxy_are_told_from_kubelets_and_others() {
        for own in ["KUBE-SERVICES", "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-SEP-X", "KUBE-PROXY-CANARY"] {
            assert!(is_kube_proxys(own), "{own}");
        }
        for other in
            ["KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-MARK-DROP", "CNI-HOSTPORT-DNAT", "PREROUTING"]
        {
            assert!(!is_kube_proxys(other), "{other}");
        }
    }
}
