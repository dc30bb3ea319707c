//! BGPAdvertisement and L2Advertisement.

use std::collections::BTreeMap;

use super::pools::{distinct_selectors, distinct_words};
use super::{At, Place};
use crate::pool::{Layer2Advertisement, PreferredNodes};
use crate::problem::shown;
use crate::read::reader::Value;
use crate::read::selectors::{CAMEL, selector};
use crate::selector::LabelSelector;

/// Which pools an advertisement is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Selection {
    pub(crate) names: Vec<At<String>>,
    pub(crate) selectors: Vec<LabelSelector>,
}

impl Selection {
    fn read(spec: &Value<'_>) -> Option<Self> {
        let names = distinct_words(spec, "ipAddressPools");
        let selectors = distinct_selectors(spec, "ipAddressPoolSelectors");
        Some(Self { names: names?, selectors: selectors? })
    }

    /// Whether a pool is meant: by name or by label; without either all are.
    pub(crate) fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let all = self.names.is_empty() && self.selectors.is_empty();
        all || self.names.iter().any(|at| at.value == name)
            || self.selectors.iter().any(|selector| selector.matches(labels))
    }
}

/// What a BGPAdvertisement says; communities are still names or numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bgp {
    pub(crate) place: Place,
    pub(crate) aggregation_length: At<u8>,
    pub(crate) aggregation_length_v6: At<u8>,
    pub(crate) local_pref: u32,
    pub(crate) communities: Vec<At<String>>,
    pub(crate) pools: Selection,
    pub(crate) peers: Vec<At<String>>,
    pub(crate) node_selectors: Vec<LabelSelector>,
    pub(crate) service_selectors: Vec<LabelSelector>,
}

/// RFC 4271 leaves room for many more; MetalLB takes so many.
const MAX_COMMUNITIES: usize = 63;

pub(super) fn read_bgp(spec: &Value<'_>) -> Option<Bgp> {
    let length = |key, default: u8| {
        let at = spec.given(key);
        let value = at.as_ref().and_then(|at| at.peek_text()?.parse().ok()).unwrap_or(default);
        At::new(value, at.as_ref().unwrap_or(spec))
    };
    let communities =
        distinct_words(spec, "communities").and_then(|communities| match communities.get(MAX_COMMUNITIES) {
            Some(_) => spec
                .fail(format!("there are {} communities: use at most {MAX_COMMUNITIES}", communities.len())),
            None => Some(communities),
        });
    let peers = distinct_words(spec, "peers");
    let node_selectors = distinct_selectors(spec, "nodeSelectors");
    let service_selectors = distinct_selectors(spec, "serviceSelectors");
    let pools = Selection::read(spec);
    let aggregation_length = length("aggregationLength", 32);
    let aggregation_length_v6 = length("aggregationLengthV6", 128);
    let service_selectors = service_selectors?;
    if !service_selectors.is_empty() {
        for (length, host) in [(&aggregation_length, 32), (&aggregation_length_v6, 128)] {
            if length.value != host {
                let at = spec.given("serviceSelectors").unwrap_or_else(|| spec.clone());
                let written = length.value;
                return at.fail(format!(
                    "an aggregate of /{written} stands for other Services too: remove the selectors or use /{host}"
                ));
            }
        }
    }
    Some(Bgp {
        place: Place::of(spec),
        aggregation_length,
        aggregation_length_v6,
        local_pref: spec.number("localPref").and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
        communities: communities?,
        pools: pools?,
        peers: peers?,
        node_selectors: node_selectors?,
        service_selectors,
    })
}

/// What an L2Advertisement says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct L2 {
    pub(crate) place: Place,
    pub(crate) pools: Selection,
    pub(crate) advertisement: Layer2Advertisement,
}

pub(super) fn read_l2(spec: &Value<'_>) -> Option<L2> {
    let interfaces = distinct_words(spec, "interfaces").and_then(|names| {
        match names.iter().find(|at| !is_interface(&at.value)) {
            Some(at) => spec
                .list("interfaces")
                .iter()
                .find(|item| item.path() == at.place.path)?
                .fail(format!("{} is no name of an interface: write one such as eth0", shown(&at.value))),
            None => Some(names),
        }
    });
    let node_selectors = distinct_selectors(spec, "nodeSelectors");
    let service_selectors = distinct_selectors(spec, "serviceSelectors");
    let preferred_nodes: Vec<Option<PreferredNodes>> =
        spec.list("preferredNodeSelectors").iter().map(preferred).collect();
    let pools = Selection::read(spec);
    Some(L2 {
        place: Place::of(spec),
        pools: pools?,
        advertisement: Layer2Advertisement {
            node_selectors: node_selectors?,
            interfaces: interfaces?.into_iter().map(|at| at.value).collect(),
            service_selectors: service_selectors?,
            preferred_nodes: preferred_nodes.into_iter().collect::<Option<_>>()?,
        },
    })
}

fn preferred(item: &Value<'_>) -> Option<PreferredNodes> {
    let preference = selector(&item.given("preference")?, &CAMEL)?;
    let weight = item.number("weight").and_then(|number| u8::try_from(number).ok())?;
    Some(PreferredNodes { weight, preference })
}

/// What the kernel takes as a name (IFNAMSIZ).
pub(super) fn is_interface(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}
