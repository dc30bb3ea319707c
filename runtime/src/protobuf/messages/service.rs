//! Services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr;
use prost::Message;
use tower::BoxError;

use super::meta::{Condition, ObjectMeta};
use super::{all, some};

/// `core.v1.Service`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::protobuf) struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<ServiceStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    ports: Vec<ServicePort>,
    #[prost(btree_map = "string, string", tag = "2")]
    selector: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    cluster_ip: String,
    #[prost(string, tag = "4")]
    type_: String,
    #[prost(string, repeated, tag = "5")]
    external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    session_affinity: String,
    #[prost(string, tag = "8")]
    load_balancer_ip: String,
    #[prost(string, repeated, tag = "9")]
    load_balancer_source_ranges: Vec<String>,
    #[prost(string, tag = "10")]
    external_name: String,
    #[prost(string, tag = "11")]
    external_traffic_policy: String,
    #[prost(int32, tag = "12")]
    health_check_node_port: i32,
    #[prost(bool, tag = "13")]
    publish_not_ready_addresses: bool,
    #[prost(message, optional, tag = "14")]
    session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(string, optional, tag = "17")]
    ip_family_policy: Option<String>,
    #[prost(string, repeated, tag = "18")]
    cluster_ips: Vec<String>,
    #[prost(string, repeated, tag = "19")]
    ip_families: Vec<String>,
    #[prost(bool, optional, tag = "20")]
    allocate_load_balancer_node_ports: Option<bool>,
    #[prost(string, optional, tag = "21")]
    load_balancer_class: Option<String>,
    #[prost(string, optional, tag = "22")]
    internal_traffic_policy: Option<String>,
    #[prost(string, optional, tag = "23")]
    traffic_distribution: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    load_balancer: Option<LoadBalancerStatus>,
    #[prost(message, repeated, tag = "2")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct ServicePort {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(int32, tag = "3")]
    port: i32,
    #[prost(message, optional, tag = "4")]
    target_port: Option<IntOrString>,
    #[prost(int32, tag = "5")]
    node_port: i32,
    #[prost(string, optional, tag = "6")]
    app_protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, PartialEq, Message)]
struct LoadBalancerIngress {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, optional, tag = "3")]
    ip_mode: Option<String>,
    #[prost(message, repeated, tag = "4")]
    ports: Vec<PortStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PortStatus {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(string, optional, tag = "3")]
    error: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    client_ip: Option<ClientIPConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ClientIPConfig {
    #[prost(int32, optional, tag = "1")]
    timeout_seconds: Option<i32>,
}

/// `intstr.IntOrString`.
#[derive(Clone, PartialEq, Message)]
struct IntOrString {
    /// 0 for a number, 1 for a name.
    #[prost(int64, tag = "1")]
    type_: i64,
    #[prost(int32, tag = "2")]
    int_val: i32,
    #[prost(string, tag = "3")]
    str_val: String,
}

impl Service {
    /// The object, with or without its `managedFields`.
    pub(in crate::protobuf) fn read(self, managed_fields: bool) -> Result<core::Service, BoxError> {
        Ok(core::Service {
            metadata: self.metadata.unwrap_or_default().read(managed_fields)?,
            spec: self.spec.map(ServiceSpec::read),
            status: self.status.map(ServiceStatus::read),
        })
    }
}

impl ServiceSpec {
    fn read(self) -> core::ServiceSpec {
        core::ServiceSpec {
            allocate_load_balancer_node_ports: self.allocate_load_balancer_node_ports,
            cluster_ip: some(self.cluster_ip),
            cluster_ips: some(self.cluster_ips),
            external_ips: some(self.external_ips),
            external_name: some(self.external_name),
            external_traffic_policy: some(self.external_traffic_policy),
            health_check_node_port: some(self.health_check_node_port),
            internal_traffic_policy: self.internal_traffic_policy,
            ip_families: some(self.ip_families),
            ip_family_policy: self.ip_family_policy,
            load_balancer_class: self.load_balancer_class,
            load_balancer_ip: some(self.load_balancer_ip),
            load_balancer_source_ranges: some(self.load_balancer_source_ranges),
            ports: some(all(self.ports, ServicePort::read)),
            publish_not_ready_addresses: some(self.publish_not_ready_addresses),
            selector: some(self.selector),
            session_affinity: some(self.session_affinity),
            session_affinity_config: self.session_affinity_config.map(SessionAffinityConfig::read),
            traffic_distribution: self.traffic_distribution,
            type_: some(self.type_),
        }
    }
}

impl ServiceStatus {
    fn read(self) -> core::ServiceStatus {
        let ingress = |status: LoadBalancerStatus| some(all(status.ingress, LoadBalancerIngress::read));
        core::ServiceStatus {
            conditions: some(all(self.conditions, Condition::read)),
            load_balancer: self
                .load_balancer
                .map(|status| core::LoadBalancerStatus { ingress: ingress(status) }),
        }
    }
}

impl ServicePort {
    fn read(self) -> core::ServicePort {
        core::ServicePort {
            app_protocol: self.app_protocol,
            name: some(self.name),
            node_port: some(self.node_port),
            port: self.port,
            protocol: some(self.protocol),
            target_port: self.target_port.map(IntOrString::read),
        }
    }
}

impl LoadBalancerIngress {
    fn read(self) -> core::LoadBalancerIngress {
        let port = |port: PortStatus| core::PortStatus {
            error: port.error,
            port: port.port,
            protocol: port.protocol,
        };
        core::LoadBalancerIngress {
            hostname: some(self.hostname),
            ip: some(self.ip),
            ip_mode: self.ip_mode,
            ports: some(all(self.ports, port)),
        }
    }
}

impl SessionAffinityConfig {
    fn read(self) -> core::SessionAffinityConfig {
        let client_ip =
            |config: ClientIPConfig| core::ClientIPConfig { timeout_seconds: config.timeout_seconds };
        core::SessionAffinityConfig { client_ip: self.client_ip.map(client_ip) }
    }
}

impl IntOrString {
    fn read(self) -> intstr::IntOrString {
        match self.type_ {
            0 => intstr::IntOrString::Int(self.int_val),
            _ => intstr::IntOrString::String(self.str_val),
        }
    }
}
