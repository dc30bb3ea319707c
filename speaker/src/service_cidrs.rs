//! The networks of ClusterIPs, as ServiceCIDR objects tell them (KEP-1880).
//!
//! They say which externalIPs belong to Services, and what is dropped because no Service has it. Where the API has no
//! such objects, or does not show them, `--service-cidr` stands in.

use std::collections::BTreeMap;

use herald_runtime::watch::WatchEvent;
use ipnet::IpNet;
use kube::core::DynamicObject;
use serde_json::Value;

/// What is kept of a ServiceCIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceCidrObject {
    /// `metadata.name`.
    pub(crate) name: String,
    /// `spec.cidrs`.
    pub(crate) cidrs: Vec<IpNet>,
}

/// Cuts a ServiceCIDR down. One that is not ready any more counts until it is gone: it may still have Services.
pub(crate) fn fold_service_cidr(object: DynamicObject) -> ServiceCidrObject {
    let cidrs = object.data["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ServiceCidrObject {
        name: object.metadata.name.unwrap_or_default(),
        cidrs: cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|cidr| cidr.trunc()).collect(),
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct ServiceCidrs(BTreeMap<String, Vec<IpNet>>);

impl ServiceCidrs {
    /// Takes what the watch says; true when a network came or went.
    pub(crate) fn observe(&mut self, event: WatchEvent<ServiceCidrObject>) -> bool {
        let before = self.0.clone();
        match event {
            WatchEvent::Applied(object) => {
                self.0.insert(object.name, object.cidrs);
            }
            WatchEvent::Deleted(name) => {
                self.0.remove(&*name.name);
            }
            WatchEvent::Reset(objects) => {
                self.0 = objects.into_iter().map(|object| (object.name, object.cidrs)).collect();
            }
        }
        before != self.0
    }

    /// The objects that tell them.
    pub(crate) fn objects(&self) -> Vec<ServiceCidrObject> {
        let object = |(name, cidrs): (&String, &Vec<IpNet>)| ServiceCidrObject {
            name: name.clone(),
            cidrs: cidrs.clone(),
        };
        self.0.iter().map(object).collect()
    }

    /// The networks; empty where there are no such objects.
    pub(crate) fn all(&self) -> Vec<IpNet> {
        self.0.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use herald_runtime::ObjectName;
    use serde_json::json;

    use super::*;

    fn object(name: &str, cidrs: &[&str]) -> ServiceCidrObject {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        fold_service_cidr(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn networks_come_and_go_with_their_objects() {
        let mut cidrs = ServiceCidrs::default();
        let kubernetes = object("kubernetes", &["10.96.0.0/12", "2001:db8:3::/112", "nonsense"]);
        assert!(cidrs.observe(WatchEvent::Reset(vec![kubernetes.clone()])));
        assert!(!cidrs.observe(WatchEvent::Applied(kubernetes)));
        assert!(cidrs.observe(WatchEvent::Applied(object("more", &["10.112.0.0/16"]))));
        let all: Vec<String> = cidrs.all().iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.96.0.0/12", "2001:db8:3::/112", "10.112.0.0/16"]);
        assert!(cidrs.observe(WatchEvent::Deleted(ObjectName::new("", "more"))));
        assert_eq!(cidrs.all().len(), 2);
    }
}
