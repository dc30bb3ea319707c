//! `herald status pools`: what there is of each IPAddressPool, and what is left of it. Pure.

use herald_speaker::explain::Finding;
use serde::Serialize;

use super::facts::{Facts, PoolFact, PoolUse};
use super::judge::{of_pools, unread};
use super::sheet::{Grid, Row, Sheet, counted, dash};

/// More are not counted out: a /64 has more addresses than anybody reads.
const MANY: u64 = 1_000_000;

/// All pools.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pools {
    findings: Vec<Finding>,
    /// Those of which least is left come first.
    pools: Vec<PoolFact>,
    #[serde(skip)]
    namespace: String,
}

impl Pools {
    /// Of the pools that are wanted.
    pub(super) fn of(facts: &Facts, wanted: impl Fn(&str) -> bool) -> Self {
        let mut pools: Vec<PoolFact> =
            facts.pools.iter().filter(|pool| wanted(&pool.name)).cloned().collect();
        pools.sort_by(|a, b| (!a.is_full(), &a.name).cmp(&(!b.is_full(), &b.name)));
        let mut findings = unread(facts);
        findings.extend(of_pools(facts, &wanted));
        Self { findings, pools, namespace: facts.namespace.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// As kubectl takes them.
    pub(super) fn names(&self) -> Vec<String> {
        self.pools.iter().map(|pool| format!("ipaddresspool.metallb.io/{}", pool.name)).collect()
    }

    pub(super) fn sheet(&self) -> Sheet {
        let (all, full) = (self.pools.len(), self.pools.iter().filter(|pool| pool.is_full()).count());
        let headline = match full {
            _ if all == 0 => format!(
                "there is no IPAddressPool; pools of the ConfigMap are not counted: kubectl -n {} get configmap config -o yaml",
                self.namespace
            ),
            0 => format!("{}, and none is full", counted(all, "pool", "pools")),
            _ => {
                let verb = if full == 1 { "is" } else { "are" };
                format!("{full} of {} {verb} full", counted(all, "pool", "pools"))
            }
        };
        let row = |pool: &PoolFact| {
            let state = match (pool.is_counted(), pool.is_full()) {
                (false, _) => "not counted yet",
                (_, true) => "full",
                _ => "ok",
            };
            Row {
                wrong: pool.is_full(),
                cells: vec![
                    pool.name.clone(),
                    state.to_owned(),
                    dash(pool.ipv4.map(used)),
                    dash(pool.ipv6.map(used)),
                    if pool.auto_assign { "yes" } else { "no" }.to_owned(),
                    pool.ranges.join(", "),
                ],
            }
        };
        let grid = Grid {
            heading: &["Pools", "state", "IPv4 in use", "IPv6 in use", "auto-assign", "addresses"],
            wide: 0,
            rows: self.pools.iter().map(row).collect(),
            shown: None,
        };
        Sheet { headline, findings: self.findings.clone(), grids: vec![grid], foot: Vec::new() }
    }
}

fn used(used: PoolUse) -> String {
    match used.assigned.saturating_add(used.available) {
        MANY.. => format!("{} of many", used.assigned),
        all => format!("{} of {all}", used.assigned),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::tests::{facts, pool};
    use super::*;
    use crate::testing::golden;

    /// One is full, one has both families, and one is new.
    pub(in crate::cluster) fn three() -> Facts {
        let mut facts = facts(&[], &[]);
        let dual = PoolFact {
            ipv6: Some(PoolUse { assigned: 2, available: u64::MAX }),
            ranges: vec!["198.51.100.0/24".to_owned(), "2001:db8:1::/64".to_owned()],
            auto_assign: false,
            ..pool("dual", 3, 253)
        };
        let fresh = PoolFact { ipv4: None, ..pool("fresh", 0, 0) };
        facts.pools = vec![dual, pool("edge", 16, 0), fresh];
        facts
    }

    #[test]
    fn the_screens_are_as_in_their_golden_file() {
        let pools = Pools::of(&three(), |_| true);
        assert_eq!(pools.names()[0], "ipaddresspool.metallb.io/edge");
        let none = Pools::of(&facts(&[], &[]), |_| true).sheet().text(false, false);
        golden(
            "status-pools.txt",
            &format!(
                "$ herald status pools\n{}\n$ herald status pools\n{none}",
                pools.sheet().text(false, false)
            ),
        );
    }
}
