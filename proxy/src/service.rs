//! A Kubernetes `Service`, cut down to what the proxy serves of it.
//!
//! Decides: is the Service proxied at all; its ports, addresses and policies. Does not decide which endpoints serve
//! (`choice.rs`), which externalIPs are admitted (`external_ips.rs`) or what a node programs (`rules.rs`).
//! Values that make no sense are dropped one by one with a [`Note`]; reading never fails as a whole because of one.
//!
//! A Service that is not proxied ([`NotProxied`]) gets nothing at all, not even for its load balancer addresses.
//! The view is small (some 100 bytes and its addresses), because a node holds one for each of 50,000 Services.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};

use crate::element::Protocol;
use crate::family::IpFamily;
use crate::note::{self, AddressField, Note};
use crate::probe::{self, ProbeSpec};

/// Label: another proxy serves the Service, whatever the value says.
pub(crate) const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label: nobody's proxy serves the Service, whatever the value says.
pub(crate) const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// Seconds of session affinity where the Service does not say.
const AFFINITY_DEFAULT: u32 = 10_800;
/// A day: the longest that Kubernetes allows.
const AFFINITY_MAX: u32 = 86_400;

/// Why a Service is none of the proxy's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProxied {
    /// `type: ExternalName`.
    #[error("type ExternalName is DNS only")]
    ExternalName,
    /// `clusterIP` empty or `None`.
    #[error("no clusterIP")]
    Headless,
    /// Label `service.kubernetes.io/headless`.
    #[error("label {LABEL_HEADLESS} is present")]
    HeadlessLabel,
    /// Label `service.kubernetes.io/service-proxy-name`.
    #[error("label {LABEL_PROXY_NAME} is present")]
    OtherProxy,
    /// No `spec`.
    #[error("no spec")]
    NoSpec,
}

impl NotProxied {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ExternalName => "ExternalName",
            Self::Headless => "Headless",
            Self::HeadlessLabel => "HeadlessLabel",
            Self::OtherProxy => "OtherProxy",
            Self::NoSpec => "NoSpec",
        }
    }
}

/// `spec.type`, of the types that are proxied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// Also any unknown type.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
}

/// One port of a Service. Identity is name and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty when there is none. The endpoints' port of this name and protocol is the real port.
    pub name: Box<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub number: u16,
    /// `nodePort`, for the types that have node ports.
    pub node_port: Option<u16>,
}

/// What is proxied of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// `metadata.creationTimestamp` in seconds, `i64::MAX` when absent: who came first keeps a contested frontend.
    pub created: i64,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// Valid ports in the order of the object.
    pub ports: Box<[ServicePort]>,
    /// `spec.clusterIPs`. A family without one is not served at all.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs` as written; [`crate::external_ips::admit`] leaves the admitted ones.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` absent or `VIP`.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`: who reaches the load balancer addresses; disjoint, sorted. `None`: everyone.
    /// Never `None` because the ranges are nonsense.
    pub source_ranges: Option<Box<[IpNet]>>,
    /// With `sessionAffinity: ClientIP` the seconds, 1 to 86400, for which a client without new connections keeps its
    /// endpoint.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`, and the Service is of a kind where that counts.
    pub external_local: bool,
    /// `healthCheckNodePort`, for `LoadBalancer` with `externalTrafficPolicy: Local`.
    pub health_check_node_port: Option<u16>,
    /// Annotation `herald.io/probe`: how nodes are to probe their own endpoints.
    pub probe: Option<Arc<ProbeSpec>>,
}

impl ServiceView {
    /// Reads a Service; the notes tell what was left out of it.
    pub fn read(service: &Service) -> Result<(Self, Vec<Note>), NotProxied> {
        let labels = service.metadata.labels.as_ref();
        let labelled = |label: &str| labels.is_some_and(|labels| labels.contains_key(label));
        if labelled(LABEL_PROXY_NAME) {
            return Err(NotProxied::OtherProxy);
        }
        if labelled(LABEL_HEADLESS) {
            return Err(NotProxied::HeadlessLabel);
        }
        let spec = service.spec.as_ref().ok_or(NotProxied::NoSpec)?;
        let service_type = match spec.type_.as_deref() {
            Some("ExternalName") => return Err(NotProxied::ExternalName),
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            _ => ServiceType::ClusterIp,
        };
        let cluster_ips = cluster_ips(spec)?;

        let mut notes = Vec::new();
        let cluster_ips = addresses(AddressField::ClusterIp, &cluster_ips, &mut notes);
        let external = spec.external_ips.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        let external_ips = addresses(AddressField::ExternalIp, &external, &mut notes);
        let load_balancer_ips = match service_type {
            ServiceType::LoadBalancer => {
                addresses(AddressField::LoadBalancer, &vip_ingresses(service), &mut notes)
            }
            ServiceType::ClusterIp | ServiceType::NodePort => Box::default(),
        };
        let ports = ports(spec, service_type, &mut notes);

        let internal_local =
            is_local("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut notes);
        let wants_local =
            is_local("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &mut notes);
        // The field may be left over from an earlier type; without a way in from outside it means nothing.
        let external_local =
            wants_local && (service_type != ServiceType::ClusterIp || !external_ips.is_empty());
        let health_check_node_port = match spec.health_check_node_port {
            Some(value) if value != 0 && external_local && service_type == ServiceType::LoadBalancer => {
                let number = note::port_number(value);
                if number.is_none() {
                    notes.push(Note::HealthCheckNodePort { value });
                }
                number
            }
            _ => None,
        };
        let source_ranges = match service_type {
            ServiceType::LoadBalancer => source_ranges(spec, &load_balancer_ips, &mut notes),
            ServiceType::ClusterIp | ServiceType::NodePort => None,
        };
        let affinity = affinity(spec, &mut notes);

        let created =
            service.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
        let view = Self {
            created,
            service_type,
            ports,
            cluster_ips,
            external_ips,
            load_balancer_ips,
            source_ranges,
            affinity,
            internal_local,
            external_local,
            health_check_node_port,
            probe: probe(service, &mut notes),
        };
        Ok((view, notes))
    }

    /// True when the Service has a clusterIP of the family; otherwise nothing of that family is programmed.
    pub fn serves(&self, family: IpFamily) -> bool {
        self.cluster_ips.iter().any(|&ip| IpFamily::of(ip) == family)
    }

    /// True when something outside the cluster can reach the port over this family.
    pub fn externally_reachable(&self, port: &ServicePort, family: IpFamily) -> bool {
        port.node_port.is_some()
            || self.load_balancer_ips.iter().chain(&self.external_ips).any(|&ip| IpFamily::of(ip) == family)
    }
}

/// `spec.clusterIPs`, or the older `spec.clusterIP`.
fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<&str>, NotProxied> {
    let mut values: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
    if values.is_empty() {
        values.extend(spec.cluster_ip.as_deref());
    }
    match values.first() {
        None | Some(&("" | "None")) => Err(NotProxied::Headless),
        Some(_) => Ok(values),
    }
}

/// Ingress addresses that packets arrive with as destination. `ipMode: Proxy` addresses are the load balancer's own
/// (KEP-1860), ingresses with only a host name are DNS's.
fn vip_ingresses(service: &Service) -> Vec<&str> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status
        .and_then(|load_balancer| load_balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|ingress| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")))
        .filter_map(|ingress| ingress.ip.as_deref().filter(|ip| !ip.is_empty()))
        .collect()
}

fn affinity(spec: &ServiceSpec, notes: &mut Vec<Note>) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {}
        None | Some("" | "None") => return None,
        Some(other) => {
            notes.push(Note::UnknownAffinity { value: note::shortened(other) });
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(value) = config.and_then(|client| client.timeout_seconds) else { return Some(AFFINITY_DEFAULT) };
    match u32::try_from(value) {
        Ok(seconds @ 1..=AFFINITY_MAX) => Some(seconds),
        outside => {
            let used = if outside.is_ok_and(|seconds| seconds > 0) { AFFINITY_MAX } else { AFFINITY_DEFAULT };
            notes.push(Note::AffinityTimeout { value, used });
            Some(used)
        }
    }
}

/// The ranges that are some. A list without a single good one lets nobody in.
fn source_ranges(spec: &ServiceSpec, vips: &[IpAddr], notes: &mut Vec<Note>) -> Option<Box<[IpNet]>> {
    let values = spec.load_balancer_source_ranges.as_ref().filter(|values| !values.is_empty())?;
    let mut ranges: Vec<IpNet> = Vec::with_capacity(values.len());
    for value in values {
        match value.trim().parse::<IpNet>() {
            Ok(range) => ranges.push(range.trunc()),
            Err(_) => notes.push(Note::SourceRange { value: note::shortened(value) }),
        }
    }
    if ranges.is_empty() {
        notes.push(Note::NoSourceRange);
    } else {
        let is_other = |vip: &&IpAddr| ranges.iter().all(|range| range.addr().is_ipv4() != vip.is_ipv4());
        let others = vips.iter().filter(is_other);
        notes.extend(others.map(|&address| Note::OtherFamilySourceRanges { address }));
    }
    let mut ranges = IpNet::aggregate(&ranges);
    ranges.sort_unstable();
    Some(ranges.into_boxed_slice())
}

/// The addresses that are some, each once.
fn addresses(field: AddressField, values: &[&str], notes: &mut Vec<Note>) -> Box<[IpAddr]> {
    let mut read = Vec::with_capacity(values.len());
    for value in values {
        match note::address(field, value) {
            Ok(address) if read.contains(&address) => {}
            Ok(address) => read.push(address),
            Err(note) => notes.push(note),
        }
    }
    read.into_boxed_slice()
}

fn ports(spec: &ServiceSpec, service_type: ServiceType, notes: &mut Vec<Note>) -> Box<[ServicePort]> {
    let mut read: Vec<ServicePort> = Vec::new();
    for api in spec.ports.iter().flatten() {
        match port(api, service_type, notes) {
            Ok(port) if read.iter().any(|p| p.number == port.number && p.protocol == port.protocol) => {
                notes.push(Note::DuplicatePort {
                    port: port.name.into_string(),
                    protocol: port.protocol,
                    number: port.number,
                });
            }
            Ok(port) => read.push(port),
            Err(note) => notes.push(note),
        }
    }
    read.into_boxed_slice()
}

fn port(api: &ApiPort, service_type: ServiceType, notes: &mut Vec<Note>) -> Result<ServicePort, Note> {
    let name = api.name.clone().unwrap_or_default();
    let protocol = match note::protocol(api.protocol.as_deref()) {
        Ok(protocol) => protocol,
        Err(value) => return Err(Note::UnknownProtocol { port: name, value }),
    };
    let Some(number) = note::port_number(api.port) else {
        return Err(Note::PortNumber { port: name, value: api.port });
    };
    // 0 is how the API spells "no node port" (`allocateLoadBalancerNodePorts: false`).
    let node_port = match api.node_port {
        Some(value) if value != 0 && service_type != ServiceType::ClusterIp => {
            let number = note::port_number(value);
            if number.is_none() {
                notes.push(Note::NodePortNumber { port: name.clone(), value });
            }
            number
        }
        _ => None,
    };
    Ok(ServicePort { name: name.into_boxed_str(), protocol, number, node_port })
}

/// The annotation that asks for probes; nonsense asks for none.
fn probe(service: &Service, notes: &mut Vec<Note>) -> Option<Arc<ProbeSpec>> {
    let text = service.metadata.annotations.as_ref()?.get(probe::ANNOTATION)?;
    let is_tcp = |port: &ApiPort| matches!(port.protocol.as_deref(), None | Some("TCP"));
    match ProbeSpec::parse(text) {
        Ok(spec) if spec.port.is_none() => {
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
            if ports.iter().any(is_tcp) {
                return Some(Arc::new(spec));
            }
            notes.push(Note::ProbeWithoutPort);
        }
        Ok(spec) => return Some(Arc::new(spec)),
        Err(problem) => notes.push(Note::Probe { problem }),
    }
    None
}

fn is_local(field: &'static str, value: Option<&str>, notes: &mut Vec<Note>) -> bool {
    match value {
        Some("Local") => true,
        None | Some("" | "Cluster") => false,
        Some(other) => {
            notes.push(Note::UnknownPolicy { field, value: other.chars().take(64).collect() });
            false
        }
    }
}

#[cfg(test)]
mod tests;
