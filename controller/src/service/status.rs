//! What the status shows and what it is to show, small enough to be kept for each Service and compared.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::LoadBalancerIngress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use serde_json::{Value, json};

/// `status.loadBalancer.ingress[].ipMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IpMode {
    /// Packets arrive with the address as destination; what the API server writes when nothing is said.
    #[default]
    Vip,
    /// Packets arrive with a node's or pod's address as destination: nodes do not answer for the address itself.
    Proxy,
}

impl IpMode {
    /// As the API writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Vip => "VIP",
            Self::Proxy => "Proxy",
        }
    }
}

/// What an entry of the ingress list says beside its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Form {
    /// `ipMode`.
    pub ip_mode: IpMode,
    /// `ports`, protocol and number; empty: they are not listed.
    pub ports: Box<[(Box<str>, i32)]>,
}

impl Form {
    /// One entry of the list.
    pub fn entry(&self, address: IpAddr) -> Value {
        let mut entry = json!({ "ip": address });
        if self.ip_mode != IpMode::Vip {
            entry["ipMode"] = json!(self.ip_mode.word());
        }
        if !self.ports.is_empty() {
            let ports =
                self.ports.iter().map(|(protocol, port)| json!({ "port": port, "protocol": protocol }));
            entry["ports"] = ports.collect();
        }
        entry
    }
}

/// The addresses of a status; an entry that is no plain address is `None`.
pub(super) fn addresses(ingress: &[LoadBalancerIngress]) -> Vec<Option<IpAddr>> {
    let plain = |ingress: &LoadBalancerIngress| match ingress.hostname.as_deref() {
        None | Some("") => ingress.ip.as_ref()?.parse().ok(),
        Some(_) => None,
    };
    ingress.iter().map(plain).collect()
}

/// Whether every entry is of that form.
pub(super) fn is_of_form(ingress: &[LoadBalancerIngress], form: &Form) -> bool {
    ingress.iter().all(|ingress| {
        let mode = if ingress.ip_mode.as_deref() == Some("Proxy") { IpMode::Proxy } else { IpMode::Vip };
        let ports = ingress.ports.iter().flatten().map(|port| (port.protocol.as_str(), port.port));
        let wanted = form.ports.iter().map(|(protocol, port)| (&**protocol, *port));
        mode == form.ip_mode && ports.eq(wanted)
    })
}

/// A condition of the Service: whether it has its address, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `status: True`.
    pub met: bool,
    /// `reason`.
    pub reason: &'static str,
    /// `message`.
    pub message: String,
    /// `lastTransitionTime` in seconds since 1970; `None`: now.
    pub since: Option<i64>,
}

/// What is kept of the condition that stands in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownCondition {
    met: bool,
    since: i64,
    digest: u64,
}

impl ShownCondition {
    pub(super) fn new(condition: &v1::Condition) -> Self {
        let met = condition.status == "True";
        Self {
            met,
            since: condition.last_transition_time.0.as_second(),
            digest: digest(met, &condition.reason, &condition.message),
        }
    }
}

impl Condition {
    /// A condition that was not told yet.
    pub fn new(met: bool, reason: &'static str, message: String) -> Self {
        Self { met, reason, message, since: None }
    }

    /// Whether it is what the status shows.
    pub fn is_shown(&self, shown: Option<ShownCondition>) -> bool {
        shown.is_some_and(|shown| shown.digest == digest(self.met, self.reason, &self.message))
    }

    /// It holds as long as the one of the same truth that the status shows.
    #[must_use]
    pub fn after(mut self, shown: Option<ShownCondition>) -> Self {
        self.since = shown.filter(|shown| shown.met == self.met).map(|shown| shown.since);
        self
    }
}

/// The same within one process, which is all that it is compared in.
fn digest(met: bool, reason: &str, message: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (met, reason, message).hash(&mut hasher);
    hasher.finish()
}
