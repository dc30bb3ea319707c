//! What is known of a cluster: what the API server lists, and what each speaker says. Read once, judged by the modules of the subjects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_speaker::explain::{AnnouncedAnswer, BgpAnswer, EndpointsAnswer, NodeAnswer, RoutesAnswer};
use k8s_openapi::api::core::v1::Service;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::Value;

use crate::speakers::{NodeFact, Silence};

const CONDITION: &str = "herald.io/AddressAssigned";
const FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

/// What each node's speaker says, by the node's name; a node that was not asked is not in it.
pub(super) type Answers<A> = BTreeMap<String, Result<A, Silence>>;

/// All that is known; empty where the subject does not need it.
#[derive(Debug)]
pub(super) struct Facts {
    /// Herald's.
    pub(super) namespace: String,
    /// The controller that leads, or why that is not known.
    pub(super) leader: Result<Option<String>, String>,
    /// Those of type LoadBalancer.
    pub(super) services: Vec<ServiceFact>,
    pub(super) nodes: Vec<NodeFact>,
    pub(super) pools: Vec<PoolFact>,
    /// What is refused of the configuration.
    pub(super) refused: Vec<String>,
    /// What the API server does not give, which is missing above.
    pub(super) unread: Vec<Unread>,
    pub(super) answers: Answers<NodeAnswer>,
    pub(super) announced: Answers<AnnouncedAnswer>,
    pub(super) bgp: Answers<BgpAnswer>,
    pub(super) routes: Answers<RoutesAnswer>,
    /// Of the one speaker that was asked.
    pub(super) endpoints: Option<EndpointsAnswer>,
}

impl Facts {
    /// Nothing is known yet.
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            leader: Ok(None),
            services: Vec::new(),
            nodes: Vec::new(),
            pools: Vec::new(),
            refused: Vec::new(),
            unread: Vec::new(),
            answers: Answers::new(),
            announced: Answers::new(),
            bgp: Answers::new(),
            routes: Answers::new(),
            endpoints: None,
        }
    }
}

/// A list that the API server does not give.
#[derive(Debug)]
pub(super) struct Unread {
    /// As `kubectl` calls it.
    pub(super) what: &'static str,
    pub(super) why: String,
}

/// A Service of type LoadBalancer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServiceFact {
    /// `NAMESPACE/NAME`.
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Why it has none, in the controller's words.
    pub(super) waits: Option<String>,
    /// Somebody else's, by its class.
    pub(super) class: Option<String>,
    /// `externalTrafficPolicy: Local`.
    pub(super) local: bool,
    /// Where its addresses are from.
    pub(super) pool: Option<String>,
}

/// An IPAddressPool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolFact {
    pub(super) name: String,
    /// Of both families.
    pub(super) assigned: u64,
    pub(super) available: u64,
    /// `null`: the controller has not counted it, or it has no address of the family.
    pub(super) ipv4: Option<PoolUse>,
    pub(super) ipv6: Option<PoolUse>,
    /// Whether Services get addresses of it without asking for it.
    pub(super) auto_assign: bool,
    /// As written.
    pub(super) ranges: Vec<String>,
}

/// Addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolUse {
    pub(super) assigned: u64,
    pub(super) available: u64,
}

impl ServiceFact {
    /// `None`: it is of another type.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("LoadBalancer"))?;
        let (meta, status) = (&service.metadata, service.status.as_ref());
        let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let addresses = ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok());
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let mut waits =
            conditions.filter(|c| c.type_ == CONDITION && c.status == "False").map(|c| c.message.clone());
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        Some(Self {
            name: format!("{}/{}", name(&meta.namespace), name(&meta.name)),
            addresses: addresses.collect(),
            waits: waits.next(),
            class: spec.load_balancer_class.clone(),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            pool: meta.annotations.as_ref().and_then(|annotations| annotations.get(FROM_POOL).cloned()),
        })
    }

    /// Its namespace, and its name there.
    pub(super) fn parts(&self) -> (&str, &str) {
        self.name.split_once('/').unwrap_or(("default", &self.name))
    }

    /// Another controller's: nobody of Herald has said anything of it.
    pub(super) fn is_anothers(&self) -> bool {
        self.addresses.is_empty() && self.waits.is_none() && self.class.is_some()
    }
}

impl PoolFact {
    pub(super) fn of(pool: &DynamicObject) -> Option<Self> {
        let (spec, status) = (pool.data.get("spec"), pool.data.get("status"));
        let of_family = |assigned: &str, available: &str| {
            let count = |key: &str| status?.get(key)?.as_u64();
            let (assigned, available) = (count(assigned), count(available));
            let used = PoolUse { assigned: assigned.unwrap_or(0), available: available.unwrap_or(0) };
            (used.assigned > 0 || used.available > 0).then_some(used)
        };
        let ipv4 = of_family("assignedIPv4", "availableIPv4");
        let ipv6 = of_family("assignedIPv6", "availableIPv6");
        let sum =
            |count: fn(&PoolUse) -> u64| ipv4.iter().chain(&ipv6).map(count).fold(0, u64::saturating_add);
        let ranges = spec.and_then(|spec| spec.get("addresses")?.as_array());
        Some(Self {
            name: pool.metadata.name.clone()?,
            assigned: sum(|used| used.assigned),
            available: sum(|used| used.available),
            ipv4,
            ipv6,
            auto_assign: spec.and_then(|spec| spec.get("autoAssign")?.as_bool()).unwrap_or(true),
            ranges: ranges.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// The controller has counted it.
    pub(super) fn is_counted(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// None of it is free.
    pub(super) fn is_full(&self) -> bool {
        self.is_counted() && self.available == 0
    }
}

/// What a ConfigurationState says is not in force.
pub(super) fn refused(state: &DynamicObject) -> Option<String> {
    let status = state.data.get("status")?;
    let summary = status.get("errorSummary")?.as_str()?;
    (!summary.is_empty()).then(|| summary.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::cluster) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(in crate::cluster) fn answer(node: &str, addresses: &[(&str, &str)]) -> NodeAnswer {
        NodeAnswer {
            node: node.to_owned(),
            version: "0.1.0".to_owned(),
            proxy: "full".to_owned(),
            programmed: Some(true),
            behind_seconds: Some(0),
            up_seconds: Some(93_600),
            sessions_up: 1,
            sessions: 1,
            addresses: addresses.iter().map(|(address, said)| (ip(address), (*said).to_owned())).collect(),
            ..NodeAnswer::default()
        }
    }

    pub(in crate::cluster) fn service(name: &str, addresses: &[&str], waits: Option<&str>) -> ServiceFact {
        let addresses = addresses.iter().map(|address| ip(address)).collect();
        ServiceFact {
            name: name.to_owned(),
            addresses,
            waits: waits.map(str::to_owned),
            ..ServiceFact::default()
        }
    }

    pub(in crate::cluster) fn pool(name: &str, assigned: u64, available: u64) -> PoolFact {
        PoolFact {
            name: name.to_owned(),
            assigned,
            available,
            ipv4: Some(PoolUse { assigned, available }),
            ipv6: None,
            auto_assign: true,
            ranges: vec!["192.0.2.0/28".to_owned()],
        }
    }

    pub(in crate::cluster) fn node(n: u8) -> NodeFact {
        NodeFact {
            name: format!("node-{n}"),
            ready: true,
            ip: Some(IpAddr::from([10, 0, 0, 10 + n])),
            pod: Some(format!("herald-speaker-{n}")),
        }
    }

    /// Two nodes that say this of addresses.
    pub(in crate::cluster) fn facts(first: &[(&str, &str)], second: &[(&str, &str)]) -> Facts {
        Facts {
            leader: Ok(Some("herald-controller-1".to_owned())),
            nodes: vec![node(1), node(2)],
            answers: [("node-1", first), ("node-2", second)]
                .map(|(name, said)| (name.to_owned(), Ok(answer(name, said))))
                .into(),
            ..Facts::new("metallb-system")
        }
    }

    #[test]
    fn a_pool_is_read_as_it_is_written_and_counted() {
        let object = |spec: Value, status: Value| -> DynamicObject {
            let object = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": "edge"}, "spec": spec, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let spec = json!({"addresses": ["192.0.2.0/28", "2001:db8:1::/124"], "autoAssign": false});
        let status = json!({"assignedIPv4": 16, "availableIPv4": 0, "assignedIPv6": 1, "availableIPv6": 15});
        let pool = PoolFact::of(&object(spec.clone(), status)).unwrap();
        assert_eq!((pool.assigned, pool.available, pool.auto_assign, pool.is_full()), (17, 15, false, false));
        assert_eq!(pool.ipv4, Some(PoolUse { assigned: 16, available: 0 }));
        assert_eq!(pool.ranges, ["192.0.2.0/28", "2001:db8:1::/124"]);
        let fresh = PoolFact::of(&object(spec, Value::Null)).unwrap();
        assert!(!fresh.is_counted() && !fresh.is_full());
    }
}
