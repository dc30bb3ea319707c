//! What the controller needs to know of a Service: some 400 bytes instead of the whole object.
//!
//! Nothing in here fails: what a user wrote wrongly becomes a [`Reason`] of that one Service.

mod managed;
mod status;

use std::net::IpAddr;

use herald_runtime::ObjectName;
use herald_runtime::events::regarding;
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};

use crate::allocator::{Family, Labels, Request, Terms, Want};
use crate::reason::Reason;
use managed::Managed;
pub use status::{Condition, Form, IpMode, ShownCondition};

/// Field manager of the status and of [`POOL_TOLD`].
pub const STATUS_MANAGER: &str = "herald-controller";
/// Field manager of the writes that obey the old external-traffic annotation.
pub const TRAFFIC_MANAGER: &str = "herald-controller-external-traffic";
/// Field manager of the finalizer.
pub const FINALIZER_MANAGER: &str = "herald-controller-finalizer";
/// Kubernetes' finalizer for load balancers.
pub const CLEANUP_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Type of the condition that tells whether a Service has its address.
pub const CONDITION: &str = "herald.io/AddressAssigned";
/// Output: the pool that the addresses come from.
pub const POOL_TOLD: &str = "metallb.io/ip-allocated-from-pool";
/// Input: `VIP` (the default) or `Proxy`, for `status.loadBalancer.ingress[].ipMode`.
pub const IP_MODE: &str = "herald.io/ip-mode";
/// Input: `true` lists the ports in `status.loadBalancer.ingress[].ports`.
pub const STATUS_PORTS: &str = "herald.io/status-ports";
/// Input of Kubernetes 1.4 to 1.6: `OnlyLocal` or `Global`.
pub const EXTERNAL_TRAFFIC: &str = "service.beta.kubernetes.io/external-traffic";
/// Output for Services with [`EXTERNAL_TRAFFIC`]: the health-check node port.
pub const HEALTH_PORT_TOLD: &str = "service.beta.kubernetes.io/healthcheck-nodeport";

/// `spec.type`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// `LoadBalancer`.
    LoadBalancer,
    /// `NodePort`.
    NodePort,
    /// `ClusterIP`, `ExternalName`.
    Other,
}

/// One Service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.uid`: a Service that was deleted and created again is another one.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Creation, in seconds since 1970: older Services come first.
    pub created: i64,
    /// It waits for finalizers only.
    pub deleting: bool,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Which families of addresses it needs.
    pub want: Result<Want, Reason>,
    /// What its user asks for.
    pub request: Result<Request, Reason>,
    /// An input annotation has MetalLB's old prefix.
    pub deprecated: bool,
    /// What decides about sharing an address.
    pub terms: Terms,
    /// `spec.externalIPs`, of any type of Service.
    pub external_ips: Vec<IpAddr>,
    /// What is asked to stand in the status beside an address.
    pub form: Form,
    /// An annotation of Herald's own that cannot be understood, and what to write.
    pub complaint: Option<String>,
    /// `status.loadBalancer.ingress`: an entry that is no plain address is `None`.
    pub status: Vec<Option<IpAddr>>,
    /// Every entry is of [`Self::form`].
    pub in_form: bool,
    /// Somebody else wrote it: the name of the field manager.
    pub status_of: Option<Box<str>>,
    /// [`CONDITION`].
    pub condition: Option<ShownCondition>,
    /// [`STATUS_MANAGER`] owns the condition, so that it can take it away.
    pub condition_owned: bool,
    /// [`POOL_TOLD`].
    pub pool_told: Option<String>,
    /// Only [`STATUS_MANAGER`] owns that annotation, so that it can take it away by not applying it.
    pub pool_told_solely: bool,
    /// [`CLEANUP_FINALIZER`] is there.
    pub finalizer: bool,
    /// [`FINALIZER_MANAGER`] put it there.
    pub finalizer_owned: bool,
    /// Value of [`EXTERNAL_TRAFFIC`].
    pub external_traffic: Option<String>,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub local: bool,
    /// `spec.healthCheckNodePort`.
    pub health_port: Option<u16>,
    /// [`HEALTH_PORT_TOLD`].
    pub health_port_told: Option<String>,
    /// [`TRAFFIC_MANAGER`] owns something of it.
    pub traffic_owned: bool,
}

impl ServiceView {
    /// Reads what matters; `managedFields` must still be there.
    pub fn new(service: Service) -> Self {
        let meta = service.metadata;
        let spec = service.spec.unwrap_or_default();
        let annotations = meta.annotations.unwrap_or_default();
        let annotation = |key: &str| annotations.get(key).cloned();
        let mut deprecated = false;
        // The prefix of MetalLB before 0.13.8; the new one wins.
        let mut input = |suffix: &str| {
            let old = annotation(&format!("metallb.universe.tf/{suffix}"));
            deprecated |= old.is_some();
            annotation(&format!("metallb.io/{suffix}")).or(old)
        };
        let (ips, pool, key) = (input("loadBalancerIPs"), input("address-pool"), input("allow-shared-ip"));
        let status = service.status.unwrap_or_default();
        let ingress = status.load_balancer.and_then(|lb| lb.ingress).unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let managed = Managed::new(&meta.managed_fields.unwrap_or_default());
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        let (form, complaint) = match form(&spec, annotations.get(IP_MODE), annotations.get(STATUS_PORTS)) {
            Ok(form) => (form, None),
            Err(complaint) => (Form::default(), Some(complaint)),
        };
        let external_ips = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
        Self {
            name: ObjectName::new(meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            version: meta.resource_version.unwrap_or_default(),
            created: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
            deleting: meta.deletion_timestamp.is_some(),
            kind: match spec.type_.as_deref() {
                Some("LoadBalancer") => ServiceType::LoadBalancer,
                Some("NodePort") => ServiceType::NodePort,
                _ => ServiceType::Other,
            },
            labels: meta.labels.unwrap_or_default().into(),
            want: want(&spec),
            request: request(&spec, ips, pool),
            deprecated,
            terms: terms(&spec, local, key),
            external_ips,
            status: status::addresses(&ingress),
            in_form: status::is_of_form(&ingress, &form),
            form,
            complaint,
            status_of: managed.ingress_of.filter(|_| !managed.ingress),
            condition: conditions.iter().find(|c| c.type_ == CONDITION).map(ShownCondition::new),
            condition_owned: managed.condition,
            pool_told: annotation(POOL_TOLD),
            pool_told_solely: managed.pool_told_solely,
            finalizer: meta.finalizers.iter().flatten().any(|finalizer| finalizer == CLEANUP_FINALIZER),
            finalizer_owned: managed.finalizer,
            external_traffic: annotation(EXTERNAL_TRAFFIC),
            local,
            health_port: spec
                .health_check_node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0),
            health_port_told: annotation(HEALTH_PORT_TOLD),
            traffic_owned: managed.traffic,
            class: spec.load_balancer_class.filter(|class| !class.is_empty()),
        }
    }

    /// The addresses of the status, without what is none.
    pub fn status_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.status.iter().filter_map(|entry| *entry)
    }

    /// For Events.
    pub fn reference(&self) -> ObjectReference {
        let resource_version = Some(self.version.clone());
        ObjectReference { resource_version, ..regarding("Service", &self.name, &self.uid) }
    }
}

/// Which families, by MetalLB's rule: what counts is which cluster addresses there are.
fn want(spec: &ServiceSpec) -> Result<Want, Reason> {
    let listed = spec.cluster_ips.clone().unwrap_or_default();
    let ips: Vec<String> = if listed.is_empty() { spec.cluster_ip.iter().cloned().collect() } else { listed };
    let families: Vec<Family> =
        ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(Family::of).collect();
    let dual = families.contains(&Family::V4) && families.contains(&Family::V6);
    let first = *families.first().ok_or(Reason::NoClusterIp)?;
    let primary = match spec.ip_families.as_ref().and_then(|families| families.first()).map(String::as_str) {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        _ => first,
    };
    match (spec.ip_family_policy.as_deref(), dual) {
        (Some("RequireDualStack"), true) => Ok(Want::Both { primary }),
        (Some("RequireDualStack"), false) => Err(Reason::NotEnoughClusterIps),
        (Some("PreferDualStack"), true) => Ok(Want::BothOrOne { primary }),
        _ => Ok(Want::One(first)),
    }
}

fn request(spec: &ServiceSpec, ips: Option<String>, pool: Option<String>) -> Result<Request, Reason> {
    let field = spec.load_balancer_ip.as_deref().map(str::trim).filter(|ip| !ip.is_empty());
    let ips = ips.filter(|ips| !ips.trim().is_empty());
    let text = match (field, &ips) {
        (Some(_), Some(_)) => {
            return Err(Reason::Malformed(
                "both spec.loadBalancerIP and the annotation metallb.io/loadBalancerIPs are set: keep one"
                    .to_owned(),
            ));
        }
        (Some(field), None) => field,
        (None, Some(ips)) => ips.as_str(),
        (None, None) => "",
    };
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let address: IpAddr = part.parse().map_err(|_| {
            let part: String = part.chars().take(64).collect();
            Reason::Malformed(format!("{part:?} is no IP address: request one like 192.0.2.10"))
        })?;
        addresses.push(address);
    }
    let same_family = addresses.len() == 2 && Family::of(addresses[0]) == Family::of(addresses[1]);
    if addresses.len() > 2 || same_family {
        return Err(Reason::Malformed("at most one address of each IP family can be requested".to_owned()));
    }
    Ok(Request { addresses, pool: pool.map(|pool| pool.trim().to_owned()).filter(|pool| !pool.is_empty()) })
}

fn terms(spec: &ServiceSpec, local: bool, key: Option<String>) -> Terms {
    let key = key.filter(|key| !key.is_empty());
    if key.is_none() {
        return Terms::default();
    }
    let ports = spec.ports.iter().flatten();
    let ports =
        ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port)).collect();
    let backend = if local {
        let selector = spec.selector.iter().flatten();
        selector.fold("Local".to_owned(), |text, (key, value)| format!("{text},{key}={value}"))
    } else {
        String::new()
    };
    Terms { key, ports, backend }
}

/// What is asked to stand beside the address, or what is wrong with the annotation that asks.
fn form(spec: &ServiceSpec, ip_mode: Option<&String>, ports: Option<&String>) -> Result<Form, String> {
    let wrong = |key: &str, value: &str, words: &str| {
        let value: String = value.chars().take(64).collect();
        Err(format!("{key}: {value:?} is not understood: write {words}"))
    };
    let ip_mode = match ip_mode.map(|mode| mode.trim()) {
        None | Some("VIP") => IpMode::Vip,
        Some("Proxy") => IpMode::Proxy,
        Some(other) => return wrong(IP_MODE, other, "VIP or Proxy"),
    };
    let listed = match ports.map(|ports| ports.trim()) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return wrong(STATUS_PORTS, other, "true or false"),
    };
    let ports = spec.ports.iter().flatten().filter(|_| listed);
    let ports = ports.map(|port| (port.protocol.as_deref().unwrap_or("TCP").into(), port.port)).collect();
    Ok(Form { ip_mode, ports })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn view(change: impl FnOnce(&mut Value)) -> ServiceView {
        let mut object = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u", "resourceVersion": "7", "annotations": {}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]},
        });
        change(&mut object);
        ServiceView::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn families_follow_the_cluster_addresses() {
        let dual = json!(["10.96.0.1", "2001:db8:3::1"]);
        let six = json!(["2001:db8:3::1"]);
        let table = [
            (json!("SingleStack"), json!(["10.96.0.1"]), Ok(Want::One(Family::V4))),
            (Value::Null, six.clone(), Ok(Want::One(Family::V6))),
            (json!("RequireDualStack"), dual.clone(), Ok(Want::Both { primary: Family::V4 })),
            (json!("RequireDualStack"), six.clone(), Err(Reason::NotEnoughClusterIps)),
            (json!("PreferDualStack"), dual, Ok(Want::BothOrOne { primary: Family::V4 })),
            (json!("PreferDualStack"), six, Ok(Want::One(Family::V6))),
            (Value::Null, json!(["None"]), Err(Reason::NoClusterIp)),
        ];
        for (policy, ips, want) in table {
            let view = view(|o| {
                o["spec"]["ipFamilyPolicy"] = policy.clone();
                o["spec"]["clusterIP"] = ips[0].clone();
                o["spec"]["clusterIPs"] = ips.clone();
            });
            assert_eq!(view.want, want, "{policy} {ips}");
        }
    }

    #[test]
    fn requests_come_from_the_field_or_from_either_annotation_but_not_from_both() {
        let asked = |change: &dyn Fn(&mut Value)| view(change).request;
        let address = |text: &str| Ok(Request { addresses: vec![text.parse().unwrap()], pool: None });
        assert_eq!(asked(&|o| o["spec"]["loadBalancerIP"] = json!("192.0.2.1")), address("192.0.2.1"));
        let old = "metallb.universe.tf/loadBalancerIPs";
        let new = "metallb.io/loadBalancerIPs";
        assert_eq!(asked(&|o| o["metadata"]["annotations"][old] = json!("192.0.2.2")), address("192.0.2.2"));
        let both = asked(&|o| o["metadata"]["annotations"] = json!({old: "192.0.2.2", new: "192.0.2.3"}));
        assert_eq!(both, address("192.0.2.3"));
        for bad in ["x", "192.0.2.1,192.0.2.2", "192.0.2.1,2001:db8::1,192.0.2.3"] {
            let request = asked(&|o| o["metadata"]["annotations"][new] = json!(bad));
            assert!(matches!(request, Err(Reason::Malformed(_))), "{bad}: {request:?}");
        }
        let twice = asked(&|o| {
            o["spec"]["loadBalancerIP"] = json!("192.0.2.1");
            o["metadata"]["annotations"][new] = json!("192.0.2.1");
        });
        assert!(matches!(twice, Err(Reason::Malformed(_))));
    }

    #[test]
    fn a_host_name_in_the_status_is_no_address() {
        let view = view(|o| {
            o["status"]["loadBalancer"]["ingress"] =
                json!([{"hostname": "lb.example.com"}, {"ip": "192.0.2.1"}]);
        });
        assert_eq!(view.status, [None, Some("192.0.2.1".parse().unwrap())]);
    }

    #[test]
    fn what_our_field_managers_own_is_read_from_the_managed_fields() {
        let pool = json!({"f:metadata": {"f:annotations": {"f:metallb.io/ip-allocated-from-pool": {}}}});
        for (managers, solely, traffic) in [
            (vec!["herald-controller"], true, false),
            (vec![TRAFFIC_MANAGER], false, true),
            (vec!["kubectl"], false, false),
            (vec!["herald-controller", "controller"], false, false),
        ] {
            let view = view(|o| {
                let entry = |manager: &&str| json!({"manager": manager, "fieldsV1": pool});
                o["metadata"]["managedFields"] = managers.iter().map(entry).collect();
            });
            assert_eq!((view.pool_told_solely, view.traffic_owned), (solely, traffic), "{managers:?}");
        }
        let condition = "k:{\"type\":\"herald.io/AddressAssigned\"}";
        let status =
            json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}, "f:conditions": {condition: {}}}});
        for (manager, other) in [("herald-controller", None), ("cloud", Some("cloud"))] {
            let view = view(|o| {
                o["metadata"]["managedFields"] = json!([{"manager": manager, "fieldsV1": status}]);
            });
            assert_eq!(
                (view.status_of.as_deref(), view.condition_owned),
                (other, other.is_none()),
                "{manager}"
            );
        }
        let finalizer = json!({"f:metadata": {"f:finalizers": {"v:\"service.kubernetes.io/load-balancer-cleanup\"": {}}}});
        for (manager, owned) in [(FINALIZER_MANAGER, true), ("cloud", false)] {
            let view = view(|o| {
                o["metadata"]["finalizers"] = json!([CLEANUP_FINALIZER]);
                o["metadata"]["managedFields"] = json!([{"manager": manager, "fieldsV1": finalizer}]);
            });
            assert!(view.finalizer);
            assert_eq!(view.finalizer_owned, owned, "{manager}");
        }
    }

    #[test]
    fn ip_mode_and_ports_stand_in_the_status_where_asked_for() {
        let plain =
            view(|o| o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
        assert!(plain.in_form, "VIP is what the API server writes by itself");
        let asks = |o: &mut Value| {
            o["metadata"]["annotations"] = json!({IP_MODE: "Proxy", STATUS_PORTS: "true"});
            o["spec"]["ports"] = json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
            o["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.1"}]);
        };
        let asked = view(asks);
        assert!(!asked.in_form);
        let entry = asked.form.entry("192.0.2.1".parse().unwrap());
        assert_eq!(
            entry,
            json!({"ip": "192.0.2.1", "ipMode": "Proxy",
                   "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]})
        );
        let written = view(|o| {
            asks(o);
            o["status"]["loadBalancer"]["ingress"] = json!([entry.clone()]);
        });
        assert!(written.in_form);
        let wrong = view(|o| o["metadata"]["annotations"][IP_MODE] = json!("vip"));
        assert_eq!(wrong.form, Form::default());
        assert!(wrong.complaint.unwrap().contains("write VIP or Proxy"));
    }

    /// What people write, and what breaks parsers.
    fn scrap() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\PC{0,40}",
            Just(",".repeat(10_000)),
            Just("192.0.2.1,".repeat(5_000)),
            "[0-9a-f:.,/ -]{0,60}",
            Just("2001:db8::1, 192.0.2.1".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn no_annotation_and_no_field_makes_a_view_fail_or_grow(
            texts in prop::collection::vec(scrap(), 8),
        ) {
            let keys = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs",
                        "metallb.io/address-pool", "metallb.io/allow-shared-ip", IP_MODE, STATUS_PORTS];
            let view = view(|o| {
                for (key, text) in keys.iter().zip(&texts) {
                    o["metadata"]["annotations"][*key] = json!(text);
                }
                o["spec"]["loadBalancerIP"] = json!(texts[6]);
                o["spec"]["externalIPs"] = json!([texts[7]]);
                o["status"]["loadBalancer"]["ingress"] = json!([{"ip": texts[7]}]);
            });
            match &view.request {
                Ok(request) => prop_assert!(request.addresses.len() <= 2),
                Err(reason) => prop_assert!(reason.to_string().len() < 1_000),
            }
            prop_assert!(view.complaint.is_none_or(|complaint| complaint.len() < 1_000));
        }
    }
}
