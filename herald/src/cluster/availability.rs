//! What the nodes' probes say of each address in the last hour, together. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use herald_speaker::explain::NodeAnswer;
use serde::Serialize;

/// Probes of the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Availability {
    /// That were answered.
    answered: u64,
    /// That were not.
    failed: u64,
    /// The same by address.
    addresses: BTreeMap<IpAddr, Probes>,
}

/// Probes of one address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probes {
    /// The nodes that probe it, or would.
    nodes: Vec<String>,
    answered: u64,
    failed: u64,
}

impl Availability {
    /// `None`: no node probes anything.
    pub(super) fn of<'a>(answers: impl Iterator<Item = &'a NodeAnswer>) -> Option<Self> {
        let mut all = Self { answered: 0, failed: 0, addresses: BTreeMap::new() };
        let mut probing = false;
        for (node, availability) in answers.filter_map(|of| Some((&of.node, of.availability.as_ref()?))) {
            probing = true;
            for (address, probed) in &availability.addresses {
                let (answered, failed) = (u64::from(probed.answered), u64::from(probed.failed));
                all.answered += answered;
                all.failed += failed;
                let of = all.addresses.entry(*address).or_default();
                of.nodes.push(node.clone());
                of.answered += answered;
                of.failed += failed;
            }
        }
        probing.then_some(all)
    }

    /// Those of one address.
    pub(super) fn of_address(&self, address: &IpAddr) -> Option<Probes> {
        self.addresses.get(address).cloned()
    }
}

impl Probes {
    /// The share that was answered; `None`: none has ended yet.
    pub(super) fn share(&self) -> Option<String> {
        share(self.answered, self.answered + self.failed)
    }
}

/// `100 %` or `99.99 %`: what is not all is never rounded to all.
fn share(answered: u64, all: u64) -> Option<String> {
    Some(match (answered * 10_000).checked_div(all)? {
        10_000 => "100 %".to_owned(),
        share => format!("{}.{:02} %", share / 100, share % 100),
    })
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.answered + self.failed;
        match share(self.answered, all) {
            None => write!(f, "no probe has ended yet"),
            Some(_) if self.failed == 0 => write!(f, "all {all} probes of the last hour answered"),
            Some(share) => write!(f, "{share} of {all} probes of the last hour answered"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use herald_speaker::explain::{AvailabilityAnswer, ProbedAnswer};

    use super::super::facts::tests::answer;
    use super::*;

    pub(in crate::cluster) fn probing(node: &str, probed: &[(&str, u32, u32)]) -> NodeAnswer {
        let probed = probed.iter().map(|(address, answered, failed)| {
            let probed = ProbedAnswer {
                service: "shop/web".to_owned(),
                port: Some(80),
                answered: *answered,
                failed: *failed,
                failing_seconds: None,
                unknown: None,
            };
            (address.parse().unwrap(), probed)
        });
        let availability = AvailabilityAnswer { interval_milliseconds: 10_000, addresses: probed.collect() };
        NodeAnswer { availability: Some(availability), ..answer(node, &[]) }
    }

    #[test]
    fn probes_of_all_nodes_are_added_and_only_all_is_called_all() {
        let told = |nodes: &[NodeAnswer]| Availability::of(nodes.iter()).map(|all| all.to_string());
        assert_eq!(told(&[answer("node-1", &[])]), None);
        assert_eq!(told(&[probing("node-1", &[])]).unwrap(), "no probe has ended yet");
        let both = |failed| {
            [probing("node-1", &[("192.0.2.1", 360, 0)]), probing("node-2", &[("192.0.2.1", 360, failed)])]
        };
        assert_eq!(told(&both(0)).unwrap(), "all 720 probes of the last hour answered");
        assert_eq!(told(&both(3)).unwrap(), "99.58 % of 723 probes of the last hour answered");
        let many = [probing("node-1", &[("192.0.2.1", 1_000_000, 1)])];
        assert_eq!(told(&many).unwrap(), "99.99 % of 1000001 probes of the last hour answered");
        let json = serde_json::to_value(Availability::of(both(3).iter())).unwrap();
        let address = serde_json::json!({"nodes": ["node-1", "node-2"], "answered": 720, "failed": 3});
        assert_eq!(
            json,
            serde_json::json!({"answered": 720, "failed": 3, "addresses": {"192.0.2.1": address}})
        );
    }
}
