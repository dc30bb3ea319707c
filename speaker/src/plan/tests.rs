use herald_config::{LabelSelector, Layer2Advertisement, PreferredNodes};
use herald_proxy::{Names, ProxyMode, SliceView};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::index::fold_service;

const CONFIG: &str = "
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
communities: {blue: '64600:7'}
address-pools:
- name: hosts
  cidr: [192.0.2.0/25]
  advertisements:
  - {aggregation-length: 32, localpref: 150, communities: [blue]}
- name: aggregate
  cidr: [192.0.2.128/25]
  advertisements:
  - {aggregation-length: 25, localpref: 7}
  - {aggregation-length: 25, localpref: 7, communities: ['1:2']}
- name: silent
  cidr: [198.51.100.0/24]
";

/// Everything a plan depends on, as a test wants it.
pub(crate) struct Case {
    class: Option<&'static str>,
    config: Config,
    node: NodeView,
    refusal: Option<Reason>,
    not_forwarding: BTreeSet<IpFamily>,
    peers: BTreeSet<String>,
    leaves: Option<Reason>,
    holders: Holders,
    service: Value,
    endpoints: Value,
    protocol: &'static str,
}

impl Case {
    pub(crate) fn new(vip: &str) -> Self {
        Self {
            class: None,
            config: herald_config::parse(CONFIG).unwrap().config,
            node: NodeView {
                name: "node-1".to_owned(),
                zone: None,
                localhost: Vec::new(),
                port_addresses: vec!["10.0.0.11".parse().unwrap()],
                node_addresses: ["10.0.0.11".parse().unwrap(), "10.0.0.12".parse().unwrap()].into(),
                own_addresses: vec!["10.0.0.11".parse().unwrap()],
                other_family_sources: herald_proxy::OtherFamilySources::Deny,
                mode: ProxyMode::Full,
            },
            refusal: None,
            not_forwarding: BTreeSet::new(),
            peers: ["10.0.0.1".to_owned()].into(),
            leaves: None,
            holders: Holders::default(),
            service: json!({
                "metadata": {"namespace": "shop", "name": "web", "uid": "1"},
                "spec": {
                    "type": "LoadBalancer",
                    "clusterIP": "10.96.0.10",
                    "clusterIPs": ["10.96.0.10"],
                    "ports": [{"port": 80, "protocol": "TCP"}],
                },
                "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
            }),
            endpoints: json!([{"addresses": ["10.244.1.5"], "nodeName": "node-1"}]),
            protocol: "TCP",
        }
    }

    /// What the endpoints' port speaks.
    pub(crate) fn port(mut self, protocol: &'static str) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.service["spec"][field] = value;
        self
    }

    pub(crate) fn endpoints(mut self, endpoints: Value) -> Self {
        self.endpoints = endpoints;
        self
    }

    pub(crate) fn local_addresses(mut self, which: LocalAddresses) -> Self {
        self.config.herald.local_addresses = which;
        self
    }

    fn plan(&self) -> ServicePlan {
        self.plan_with(true)
    }

    fn plan_with(&self, proxies: bool) -> ServicePlan {
        self.planned(proxies, |_, _, _, plan| plan)
    }

    /// The plan, and what it was made of.
    pub(crate) fn planned<T>(
        &self,
        proxies: bool,
        with: impl FnOnce(&View<'_>, &ServiceObject, &EndpointsView, ServicePlan) -> T,
    ) -> T {
        let service: Service = serde_json::from_value(self.service.clone()).unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop",
                "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": self.protocol}],
            "endpoints": self.endpoints,
        }))
        .unwrap();
        let mut endpoints = EndpointsView::default();
        endpoints.apply("web-1", SliceView::read(&slice, &mut Names::default()).unwrap().view);
        let service = fold_service(&service);
        self.view(proxies, |view| with(view, &service, &endpoints, plan(view, &service, &endpoints)))
    }

    fn view<T>(&self, proxies: bool, with: impl FnOnce(&View<'_>) -> T) -> T {
        with(&View {
            node: &self.node,
            node_refusal: self.refusal,
            not_forwarding: &self.not_forwarding,
            peers: &self.peers,
            leaves: self.leaves,
            config: &self.config,
            proxies,
            class: self.class,
            pod_cidrs: &["10.244.0.0/16".parse().unwrap()],
            service_cidrs: &["10.96.0.0/12".parse().unwrap()],
            reserved: &BTreeMap::new(),
            holders: &self.holders,
        })
    }

    fn verdict(&self) -> Verdict {
        *self.plan().verdicts.values().next().expect("one address")
    }
}

const VIP: &str = "192.0.2.1";

fn said(community: u32, local_pref: u32) -> Arc<Attributes> {
    let said = herald_bgp::Attributes {
        communities: [Community(community)].into(),
        local_pref: Some(local_pref),
        ..herald_bgp::Attributes::default()
    };
    Arc::new(Attributes { said: Arc::new(said), peers: None })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_of_a_bgp_pool_is_announced_with_its_advertisements_attributes() {
    let plan = Case::new(VIP).plan();
    let attributes = said(64600 << 16 | 7, 150);
    assert_eq!(plan.claims.routes, [("192.0.2.1/32".parse().unwrap(), attributes)].into_iter().collect());
    assert_eq!(plan.verdicts, [(ip(VIP), Verdict::Announce)].into());
    assert!(plan.rules.is_some() && plan.claims.addresses.is_empty() && plan.remarks.is_empty());
}

#[test]
fn two_advertisements_of_one_prefix_make_one_route_of_both() {
    let plan = Case::new("192.0.2.200").plan();
    let attributes = said(1 << 16 | 2, 7);
    assert_eq!(plan.claims.routes, [("192.0.2.128/25".parse().unwrap(), attributes)].into_iter().collect());
}

#[test]
fn addresses_outside_of_announced_pools_have_their_reason() {
    assert_eq!(Case::new("203.0.113.1").verdict(), Verdict::Skip(Reason::NotInPool));
    assert_eq!(Case::new("198.51.100.1").verdict(), Verdict::Skip(Reason::NoAdvertisement));
    let mut layer2 = Case::new(VIP);
    let pool = &mut layer2.config.pools[0];
    (pool.advertisements, pool.layer2) = (Vec::new(), vec![Layer2Advertisement::default()]);
    pool_for_others(&mut layer2);
    assert_eq!(layer2.verdict(), Verdict::Skip(Reason::NoAdvertisement));
}

/// Its advertisements are for Services with another label.
fn pool_for_others(case: &mut Case) {
    let others =
        LabelSelector { match_labels: [("tier".into(), "other".into())].into(), ..LabelSelector::default() };
    case.config.pools[0].layer2[0].service_selectors = vec![others];
}

#[test]
fn an_address_of_a_layer_2_pool_is_offered_on_the_interfaces_and_with_the_preference_of_its_advertisements() {
    let mut case = Case::new(VIP);
    case.peers.clear();
    let preferred = |weight| PreferredNodes { weight, preference: LabelSelector::default() };
    let on = |interface: &str, preferred_nodes: Vec<PreferredNodes>| Layer2Advertisement {
        interfaces: [interface.to_owned()].into(),
        preferred_nodes,
        ..Layer2Advertisement::default()
    };
    assert_eq!(case.verdict(), Verdict::Skip(Reason::NoPeer));
    case.config.pools[0].layer2 =
        vec![on("eth0", vec![preferred(7), preferred(3)]), on("eth1", vec![preferred(90)])];
    let plan = case.plan();
    assert_eq!(plan.verdicts[&ip(VIP)], Verdict::Offer { bgp: false });
    assert!(plan.claims.routes.is_empty());
    let interfaces = Some(["eth0".to_owned(), "eth1".to_owned()].into());
    assert_eq!(plan.claims.offers, [(ip(VIP), Offered { score: 100, interfaces })].into());
    case.peers = Case::new(VIP).peers;
    assert_eq!(case.plan().verdicts[&ip(VIP)], Verdict::Offer { bgp: true });
    case.config.pools[0].layer2.push(Layer2Advertisement::default());
    assert_eq!(case.plan().claims.offers[&ip(VIP)].interfaces, None, "one of them is for all");
    case.leaves = Some(Reason::NodeExcluded);
    let leaving = case.plan();
    assert!(
        leaving.claims.offers.is_empty() && !leaving.claims.routes.is_empty(),
        "its routes stay a little longer"
    );
    case.peers.clear();
    assert_eq!(case.verdict(), Verdict::Skip(Reason::NodeExcluded));
}

#[test]
fn a_refusal_of_the_node_keeps_rules_and_stops_routes() {
    let mut case = Case::new(VIP);
    case.refusal = Some(Reason::NodeNetworkUnavailable);
    let plan = case.plan();
    assert_eq!(plan.verdicts[&ip(VIP)], Verdict::Skip(Reason::NodeNetworkUnavailable));
    assert!(plan.claims.routes.is_empty() && plan.rules.is_some());
}

#[test]
fn a_node_that_passes_nothing_on_announces_only_what_ends_in_its_own_processes() {
    let skip = Verdict::Skip(Reason::NotForwarding);
    let own = || json!([{"addresses": ["10.0.0.11"], "nodeName": "node-1"}]);
    let both = json!([{"addresses": ["10.0.0.11"], "nodeName": "node-1"}, {"addresses": ["10.0.0.12"], "nodeName": "node-2"}]);
    let pod = || json!([{"addresses": ["10.244.1.5"], "nodeName": "node-1"}]);
    for (off, policy, endpoints, verdict) in [
        (IpFamily::V6, "Cluster", pod(), Verdict::Announce),
        (IpFamily::V4, "Cluster", pod(), skip),
        (IpFamily::V4, "Local", pod(), skip),
        (IpFamily::V4, "Cluster", own(), Verdict::Announce),
        (IpFamily::V4, "Cluster", both.clone(), skip),
        (IpFamily::V4, "Local", both, Verdict::Announce),
        (IpFamily::V4, "Cluster", json!([]), Verdict::Skip(Reason::NoEndpoints)),
    ] {
        let mut case =
            Case::new(VIP).with("externalTrafficPolicy", json!(policy)).endpoints(endpoints.clone());
        case.not_forwarding = [off].into();
        assert_eq!(case.verdict(), verdict, "{off} {policy} {endpoints}");
        assert!(case.plan().rules.is_some(), "rules stay");
    }
}

#[test]
fn policy_and_endpoints_decide_who_attracts_clients() {
    let here = |conditions: Value| json!([{"addresses": ["10.244.1.5"], "nodeName": "node-1", "conditions": conditions}]);
    let there = |conditions: Value| json!([{"addresses": ["10.244.2.5"], "nodeName": "node-2", "conditions": conditions}]);
    let ready = json!({"ready": true});
    let unready = json!({"ready": false, "serving": false, "terminating": false});
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let yes = Verdict::Announce;
    let none = Verdict::Skip(Reason::NoEndpoints);
    let none_here = Verdict::Skip(Reason::NoLocalEndpoints);
    for (endpoints, cluster, local) in [
        (here(ready.clone()), yes, yes),
        (there(ready.clone()), yes, none_here),
        (here(unready), none, none),
        (json!([]), none, none),
        (here(terminating.clone()), yes, none_here),
        (there(terminating), yes, none_here),
    ] {
        let case = |policy: &str| {
            Case::new(VIP).with("externalTrafficPolicy", json!(policy)).endpoints(endpoints.clone()).verdict()
        };
        assert_eq!((case("Cluster"), case("Local")), (cluster, local), "{endpoints}");
    }
}

#[test]
fn a_service_of_another_class_has_rules_and_no_routes() {
    let other = Case::new(VIP).with("loadBalancerClass", json!("example.com/other"));
    let plan = other.local_addresses(LocalAddresses::All).plan();
    assert!(plan.rules.is_some() && plan.claims.is_empty() && plan.verdicts.is_empty());
    let mut ours = Case::new(VIP).with("loadBalancerClass", json!("herald.io/bgp"));
    ours.class = Some("herald.io/bgp");
    assert_eq!(ours.verdict(), Verdict::Announce);
}

#[test]
fn with_a_class_of_our_own_services_without_one_are_somebody_elses() {
    let mut case =
        Case::new(VIP).with("externalIPs", json!(["169.10.10.1"])).local_addresses(LocalAddresses::All);
    case.class = Some("herald.io/bgp");
    let plan = case.plan();
    assert!(plan.rules.is_some() && plan.claims.routes.is_empty() && plan.verdicts.is_empty());
    assert_eq!(plan.claims.addresses, [ip("169.10.10.1")].into(), "externalIPs have no class");
}

#[test]
fn local_addresses_are_those_that_the_configuration_names() {
    let case = || Case::new(VIP).with("externalIPs", json!(["169.10.10.1"]));
    let addresses = |which| case().local_addresses(which).plan().claims.addresses;
    assert!(addresses(LocalAddresses::None).is_empty());
    assert_eq!(addresses(LocalAddresses::LoadBalancer), [ip(VIP)].into());
    assert_eq!(addresses(LocalAddresses::All), [ip("169.10.10.1"), ip(VIP)].into());
}

#[test]
fn without_rules_no_address_is_put_on_lo() {
    let plan = Case::new(VIP).local_addresses(LocalAddresses::All).plan_with(false);
    assert!(plan.claims.addresses.is_empty() && plan.rules.is_none());
    assert_eq!(plan.verdicts[&ip(VIP)], Verdict::Announce);
}

#[test]
fn the_address_of_a_node_is_never_put_on_lo() {
    let plan = Case::new("10.0.0.12").local_addresses(LocalAddresses::All).plan();
    assert!(plan.claims.addresses.is_empty());
}

#[test]
fn a_refused_external_ip_is_remarked_and_the_rest_is_served() {
    let plan = Case::new(VIP).with("externalIPs", json!(["10.0.0.12", "169.10.10.1"])).plan();
    let reasons: Vec<_> = plan.remarks.iter().map(|remark| remark.reason.word()).collect();
    assert_eq!(reasons, ["ExternalIPIsNodeAddress"]);
    let rules = plan.rules.unwrap();
    assert!(rules.frontends.iter().any(|rules| rules.frontend.address == ip("169.10.10.1")));
    assert!(!rules.frontends.iter().any(|rules| rules.frontend.address == ip("10.0.0.12")));
}

#[test]
fn external_ips_inside_a_pool_are_announced_where_configured_whatever_the_class() {
    let mut case = Case::new(VIP).with("externalIPs", json!(["192.0.2.77", "169.10.10.1", VIP]));
    assert_eq!(case.plan().verdicts.keys().collect::<Vec<_>>(), [&ip(VIP)]);
    case.config.herald.announce_external_ips = true;
    let plan = case.plan();
    assert_eq!(plan.verdicts, [(ip(VIP), Verdict::Announce), (ip("192.0.2.77"), Verdict::Announce)].into());
    assert_eq!(plan.claims.routes.len(), 2);
    let mut other =
        case.with("loadBalancerClass", json!("example.com/other")).with("type", json!("ClusterIP"));
    other.service["status"] = json!({});
    assert_eq!(
        other.plan().verdicts,
        [(ip(VIP), Verdict::Announce), (ip("192.0.2.77"), Verdict::Announce)].into()
    );
    let idle = other.endpoints(json!([]));
    assert_eq!(idle.plan().verdicts[&ip("192.0.2.77")], Verdict::Skip(Reason::NoEndpoints));
}

#[test]
fn cluster_ips_inside_a_pool_are_announced_where_configured_as_their_own_policy_says() {
    let cluster_ip = "192.0.2.77";
    let mut case =
        Case::new(VIP).with("clusterIP", json!(cluster_ip)).with("clusterIPs", json!([cluster_ip]));
    assert_eq!(case.plan().verdicts.keys().collect::<Vec<_>>(), [&ip(VIP)]);
    case.config.herald.announce_cluster_ips = true;
    assert_eq!(
        case.plan().verdicts,
        [(ip(VIP), Verdict::Announce), (ip(cluster_ip), Verdict::Announce)].into()
    );
    let elsewhere = case
        .with("internalTrafficPolicy", json!("Local"))
        .endpoints(json!([{"addresses": ["10.244.2.5"], "nodeName": "node-2"}]));
    let verdicts = elsewhere.plan().verdicts;
    assert_eq!(verdicts[&ip(cluster_ip)], Verdict::Skip(Reason::NoLocalEndpoints));
    assert_eq!(verdicts[&ip(VIP)], Verdict::Announce);
}

#[test]
fn pod_networks_that_are_wholly_inside_a_pool_are_routes_as_they_are() {
    let case = Case::new(VIP);
    let routes = |text: &[&str]| {
        let cidrs: Vec<IpNet> = text.iter().map(|text| text.parse().unwrap()).collect();
        case.view(true, |view| networks(view, &cidrs))
            .iter()
            .map(|(prefix, of)| (prefix, Arc::clone(of)))
            .collect::<Vec<_>>()
    };
    let inside: IpNet = "192.0.2.64/28".parse().unwrap();
    assert_eq!(
        routes(&["192.0.2.64/28", "192.0.2.0/24", "10.244.1.0/24"]),
        [(inside, said(64600 << 16 | 7, 150))]
    );
    let aggregate: IpNet = "192.0.2.192/28".parse().unwrap();
    // What both advertisements say, and not their aggregate: other nodes have the rest of it.
    assert_eq!(routes(&["192.0.2.192/28"]), [(aggregate, said(1 << 16 | 2, 7))]);
    assert_eq!(routes(&["198.51.100.0/28"]), []);
}

#[test]
fn a_service_that_is_not_proxied_is_nothing_here() {
    let plan = Case::new(VIP).with("clusterIP", json!("None")).with("clusterIPs", json!(["None"])).plan();
    assert_eq!(plan, ServicePlan::default());
}

#[test]
fn rules_narrow_when_a_frontend_is_gone_and_not_when_endpoints_change() {
    let full = Case::new(VIP).plan().rules.unwrap();
    let mut without = Case::new(VIP);
    without.service["status"] = json!({});
    let without = without.plan().rules.unwrap();
    let moved = Case::new(VIP).endpoints(json!([{"addresses": ["10.244.2.5"]}])).plan().rules.unwrap();
    assert!(without.narrows(&full) && !full.narrows(&without));
    assert!(!moved.narrows(&full) && moved != full);
}
