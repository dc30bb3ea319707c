//! How a speaker is started.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use herald_proxy::health::ProxyPorts;
use herald_runtime::admin;
use ipnet::IpNet;

use crate::conntrack::ConntrackLimits;
use crate::node_ports::NodePortAddresses;
use crate::sysctl::SYSCTLS;

/// How much of kube-proxy's work the speaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Replaces kube-proxy.
    Full,
    /// Serves externalIPs and load balancer addresses beside a kube-proxy or CNI.
    External,
    /// Announces only; another proxy serves the addresses. No address is put on `lo` then.
    Off,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::External => "external",
            Self::Off => "off",
        })
    }
}

impl ProxyMode {
    /// As the proxy says it; without a proxy, what announcing depends on is what `External` serves.
    pub(crate) fn rules(self) -> herald_proxy::ProxyMode {
        match self {
            Self::Full => herald_proxy::ProxyMode::Full,
            Self::External | Self::Off => herald_proxy::ProxyMode::External,
        }
    }
}

/// Everything that a speaker is told from outside.
#[derive(Clone)]
pub struct SpeakerOptions {
    /// The API.
    pub client: kube::Client,
    /// The Node that this is.
    pub node_name: String,
    /// The namespace of the configuration.
    pub namespace: String,
    /// Where pods have their addresses; empty: the Node's `podCIDRs`.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where ClusterIPs are, unless ServiceCIDR objects tell: externalIPs inside are refused.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of the API servers as far as known at start: externalIPs that are one are refused.
    pub api_servers: Vec<IpAddr>,
    /// How much is served.
    pub proxy: ProxyMode,
    /// Where node ports answer.
    pub nodeport_addresses: NodePortAddresses,
    /// Only Services of this `loadBalancerClass` are announced; `None`: only those without one.
    pub load_balancer_class: Option<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
    /// kube-proxy's own ports, served in full mode only.
    pub proxy_ports: ProxyPorts,
    /// How long rules and local addresses stay after a withdrawal, for packets that are on their way.
    pub linger: Duration,
    /// How long a node that is excluded by label asks to be avoided (RFC 8326) before it withdraws its routes.
    pub drain: Duration,
    /// How many frontends at most have metrics of their packets and bytes; 0: packets are not counted by frontend.
    pub service_metrics_limit: usize,
    /// How many announced addresses at most have series of their own, and how many that the node owns by layer 2.
    pub address_metrics_limit: usize,
    /// How often each load balancer address is probed from other nodes; `None`: never. In full mode only.
    pub probe_addresses: Option<Duration>,
    /// The kernel's conntrack settings; in full mode only.
    pub conntrack: ConntrackLimits,
    /// The files of a Secret with the keys of layer 2's hellos; `None`: they are signed with the cluster's name.
    pub layer2_key_directory: Option<PathBuf>,
    /// Where the settings of `/proc/sys` are written: [`SYSCTLS`], or where the node's are mounted in a container.
    pub sysctl_directory: PathBuf,
    /// Where a snapshot of what the API server says is kept, for starts without it; `None`: nowhere.
    pub state_directory: Option<PathBuf>,
    /// Remove kube-proxy's rules as soon as Herald's are in force; without it, full mode refuses to start beside them.
    pub take_over: bool,
}

impl fmt::Debug for SpeakerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpeakerOptions")
            .field("node_name", &self.node_name)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl SpeakerOptions {
    /// With defaults: namespace `metallb-system`, full proxy, primary node port addresses, linger one second.
    pub fn new(client: kube::Client, node_name: impl Into<String>) -> Self {
        Self {
            client,
            node_name: node_name.into(),
            namespace: "metallb-system".to_owned(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            api_servers: Vec::new(),
            proxy: ProxyMode::Full,
            nodeport_addresses: NodePortAddresses::default(),
            load_balancer_class: None,
            admin_address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, admin::DEFAULT_PORT)),
            proxy_ports: ProxyPorts::default(),
            linger: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            service_metrics_limit: 1000,
            address_metrics_limit: 1000,
            probe_addresses: None,
            conntrack: ConntrackLimits::default(),
            layer2_key_directory: None,
            sysctl_directory: SYSCTLS.into(),
            state_directory: None,
            take_over: false,
        }
    }
}
