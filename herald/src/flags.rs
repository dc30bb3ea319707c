//! Flags of the two roles and what they become. Every field of a group is taken apart by name, so that a flag
//! that nobody reads does not compile.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Args, ValueEnum};
use herald_config::parse_duration;
use herald_controller::{ControllerOptions, WebhookOptions};
use herald_runtime::client::{self, ClientOptions};
use herald_runtime::lease::Timings;
use herald_speaker::{ConntrackLimits, NodePortAddresses, ProxyMode, SpeakerOptions};
use ipnet::IpNet;
use kube::Client;
use serde::Serialize;

/// Where the API server is.
#[derive(Debug, Args)]
pub(crate) struct ClientFlags {
    /// The kubeconfig file; without it the Pod's service account is used.
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API server's own addresses, instead of the kubeconfig's or the `kubernetes` Service's. Needed where no
    /// kube-proxy serves that Service before Herald does.
    #[arg(
        long = "api-server",
        global = true,
        env = "HERALD_API_SERVER",
        value_delimiter = ',',
        value_name = "URL"
    )]
    api_servers: Vec<String>,
}

impl ClientFlags {
    /// Whether a cluster is named: it is asked from outside, and not in a pod of its own.
    pub(crate) fn is_named(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// The same for the client.
    pub(crate) fn options(&self) -> ClientOptions {
        let Self { kubeconfig, api_servers } = self;
        ClientOptions { kubeconfig: kubeconfig.clone(), api_servers: api_servers.clone() }
    }
}

/// The cluster that is asked about.
#[derive(Debug, Args)]
pub(crate) struct ClusterFlags {
    /// Where Herald's pods and configuration are, or will be.
    #[arg(
        long,
        global = true,
        env = "HERALD_NAMESPACE",
        default_value = "metallb-system",
        value_name = "NAME"
    )]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) client: ClientFlags,
}

impl ClusterFlags {
    /// A client of its API server; `why` says what for, and what does without.
    pub(crate) async fn connect(&self, why: &'static str) -> anyhow::Result<Client> {
        client::connect(&self.client.options()).await.context(why)
    }
}

/// What is asked of a cluster, and how it is printed.
#[derive(Debug, Args)]
pub(crate) struct ReportFlags {
    /// Text for people or JSON for scripts.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

impl Output {
    /// What is printed of an answer with this text.
    pub(crate) fn of(self, answer: &impl Serialize, text: impl ToString) -> anyhow::Result<String> {
        match self {
            Self::Text => Ok(text.to_string()),
            Self::Json => json(answer),
        }
    }
}

/// An answer for scripts.
pub(crate) fn json(answer: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{:#}\n", serde_json::to_value(answer)?))
}

/// What both roles share.
#[derive(Debug, Args)]
struct RoleFlags {
    /// The namespace of the ConfigMap `config` and of Herald's Lease.
    #[arg(long, env = "HERALD_NAMESPACE", default_value = "metallb-system", value_name = "NAME")]
    namespace: String,
    /// Only Services of this `loadBalancerClass`; without it, only Services without a class.
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "[::]:7472", value_name = "ADDRESS:PORT")]
    admin_address: SocketAddr,
}

/// What needs the kernel's settings.
#[derive(Debug, Args)]
pub(crate) struct SysctlFlags {
    /// Where the kernel's settings are written. In a container /proc/sys is read-only: mount the node's /proc/sys/net
    /// into a directory and name that one.
    #[arg(long, default_value = herald_speaker::SYSCTLS, value_name = "DIRECTORY")]
    pub(crate) sysctl_directory: PathBuf,
}

/// What is kept on the node's disk.
#[derive(Debug, Args)]
pub(crate) struct StateFlags {
    /// Where a snapshot of what the API server said last is kept, for starts without it, and what raised settings were: a
    /// directory of the node's own, not of the container. Peers' passwords are in it, for root alone. Empty: none is kept.
    #[arg(long, default_value = "/var/lib/herald", value_name = "DIRECTORY")]
    state_directory: String,
}

impl StateFlags {
    /// `None`: nothing is kept.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        Some(&self.state_directory).filter(|path| !path.is_empty()).map(Into::into)
    }
}

/// `herald cleanup`.
#[derive(Debug, Args)]
pub(crate) struct CleanupFlags {
    /// Instead: takes Herald's finalizer off all Services of the cluster. Stop the controllers first.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// Stays when it is done, until it is ended: as a DaemonSet its pods are ready when their nodes are clean.
    #[arg(long, conflicts_with = "cluster")]
    pub(crate) stay: bool,
    #[command(flatten)]
    pub(crate) sysctl: SysctlFlags,
    #[command(flatten)]
    pub(crate) state: StateFlags,
    #[command(flatten)]
    pub(crate) client: ClientFlags,
}

/// `herald controller`.
#[derive(Debug, Args)]
pub(crate) struct ControllerFlags {
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    role: RoleFlags,
    /// This process in the election of the leader; unique. Default: host name and process id.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// How long an unchanged Lease keeps others from taking over.
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    lease_duration: Duration,
    /// How long a leader that cannot renew its Lease goes on.
    #[arg(long, default_value = "13s", value_parser = parse_duration, value_name = "DURATION")]
    lease_renew_deadline: Duration,
    /// How often a Lease is renewed.
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    lease_retry_period: Duration,
    /// Where an admission webhook judges changes of the configuration, by HTTPS, for example `[::]:9443`. Without it
    /// there is none.
    #[arg(long, value_name = "ADDRESS:PORT")]
    webhook: Option<SocketAddr>,
    /// The webhook's certificate, and those between it and the authority (PEM).
    #[arg(long, default_value = "/etc/herald/webhook/tls.crt", value_name = "FILE")]
    webhook_certificate: PathBuf,
    /// The private key of the webhook's certificate (PEM).
    #[arg(long, default_value = "/etc/herald/webhook/tls.key", value_name = "FILE")]
    webhook_key: PathBuf,
}

impl ControllerFlags {
    /// The same for the role.
    pub(crate) fn into_options(self) -> ControllerOptions {
        let Self {
            client,
            role,
            identity,
            lease_duration,
            lease_renew_deadline,
            lease_retry_period,
            webhook,
            webhook_certificate,
            webhook_key,
        } = self;
        let RoleFlags { namespace, lb_class, admin_address } = role;
        ControllerOptions {
            client: client.options(),
            namespace,
            config_map: "config".to_owned(),
            identity: identity.unwrap_or_else(default_identity),
            load_balancer_class: lb_class,
            lease: Timings {
                duration: lease_duration,
                renew_deadline: lease_renew_deadline,
                retry_period: lease_retry_period,
            },
            admin_address,
            webhook: webhook.map(|address| WebhookOptions {
                address,
                certificate: webhook_certificate,
                key: webhook_key,
            }),
        }
    }
}

fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// `herald speaker`.
#[derive(Debug, Args)]
pub(crate) struct SpeakerFlags {
    #[command(flatten)]
    pub(crate) client: ClientFlags,
    #[command(flatten)]
    role: RoleFlags,
    /// The Node that this process runs on (`spec.nodeName` of its Pod).
    #[arg(long, env = "HERALD_NODE_NAME", value_name = "NAME")]
    node_name: String,
    /// Where pods have their addresses; without it, the Node's podCIDRs.
    #[arg(long = "cluster-cidr", value_delimiter = ',', value_name = "CIDR")]
    cluster_cidrs: Vec<IpNet>,
    /// Where ClusterIPs have theirs: externalIPs inside are refused.
    #[arg(long = "service-cidr", value_delimiter = ',', value_name = "CIDR")]
    service_cidrs: Vec<IpNet>,
    /// How much of the service proxy's work is done: `full` replaces kube-proxy, `external` serves load balancer and
    /// external addresses beside it, `off` only announces.
    #[arg(long, default_value = "full", value_parser = parse_proxy_mode, value_name = "full|external|off")]
    proxy: ProxyMode,
    /// Where node ports answer, as kube-proxy's flag has it: `primary` (the Node's InternalIPs), the node's addresses
    /// inside prefixes, or both. A prefix inside loopback (127.0.0.0/8) also serves TCP node ports on localhost.
    #[arg(long, default_value = "primary", value_name = "primary|CIDR,...")]
    nodeport_addresses: NodePortAddresses,
    /// How long rules and local addresses stay after a withdrawal, for packets that are on their way.
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    linger: Duration,
    /// How long a node that is labelled out of load balancing asks its BGP peers to prefer other ways (GRACEFUL_SHUTDOWN)
    /// before it withdraws its routes.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    drain: Duration,
    /// How many frontends of Services at most have metrics of their packets and bytes (the busiest; all others are
    /// one series). 0: packets are not counted by frontend.
    #[arg(long, default_value_t = 1000, value_name = "FRONTENDS")]
    service_metrics_limit: usize,
    /// How many addresses at most have series of their own in metallb_speaker_announced and, of those that this node owns
    /// by layer 2, in metallb_layer2_*. All others are one series each.
    #[arg(long, default_value_t = 1000, value_name = "ADDRESSES")]
    address_metrics_limit: usize,
    /// How often each load balancer address is probed from two nodes that do not have it, by a TCP connection the way that a
    /// client's packets go, for example `10s` (100ms to 10m). Without it none is. Only with --proxy=full.
    #[arg(long, value_parser = parse_probe_interval, value_name = "DURATION")]
    probe_addresses: Option<Duration>,
    /// Conntrack entries per core that the kernel shall have room for at least, as kube-proxy has it; 0 leaves
    /// nf_conntrack_max alone. Only with --proxy=full.
    #[arg(long, default_value_t = ConntrackLimits::default().max_per_core, value_name = "ENTRIES")]
    conntrack_max_per_core: u32,
    /// TCP segments outside the window are translated and not taken for invalid: without it some connections are
    /// reset. `false` leaves nf_conntrack_tcp_be_liberal alone. Only with --proxy=full.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "true|false")]
    conntrack_tcp_be_liberal: bool,
    /// The directory of a mounted Secret with the keys of layer 2's hellos: the file `secretkey` signs, all others are
    /// accepted as well. Without it hellos are signed with the cluster's name only.
    #[arg(long, env = "METALLB_ML_SECRET_KEY_PATH", value_name = "DIRECTORY")]
    layer2_key_directory: Option<PathBuf>,
    #[command(flatten)]
    state: StateFlags,
    #[command(flatten)]
    sysctl: SysctlFlags,
    /// Remove what a kube-proxy left on this node (nftables tables, iptables-nft chains, the IPVS interface), once
    /// Herald's rules are in force. Stop kube-proxy first.
    #[arg(long)]
    take_over: bool,
}

impl SpeakerFlags {
    /// The same for the role.
    pub(crate) fn into_options(self, client: Client) -> SpeakerOptions {
        let Self {
            client: _,
            role,
            node_name,
            cluster_cidrs,
            service_cidrs,
            proxy,
            nodeport_addresses,
            linger,
            drain,
            service_metrics_limit,
            address_metrics_limit,
            probe_addresses,
            conntrack_max_per_core,
            conntrack_tcp_be_liberal,
            layer2_key_directory,
            state,
            sysctl,
            take_over,
        } = self;
        let RoleFlags { namespace, lb_class, admin_address } = role;
        SpeakerOptions {
            namespace,
            cluster_cidrs,
            service_cidrs,
            proxy,
            nodeport_addresses,
            load_balancer_class: lb_class,
            admin_address,
            linger,
            drain,
            service_metrics_limit,
            address_metrics_limit,
            probe_addresses,
            conntrack: ConntrackLimits {
                max_per_core: conntrack_max_per_core,
                tcp_be_liberal: conntrack_tcp_be_liberal,
            },
            layer2_key_directory,
            state_directory: state.directory(),
            sysctl_directory: sysctl.sysctl_directory,
            take_over,
            ..SpeakerOptions::new(client, node_name)
        }
    }
}

fn parse_probe_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&interval) {
        true => Ok(interval),
        false => Err("choose 100ms to 10m; without the flag nothing is probed".to_owned()),
    }
}

fn parse_proxy_mode(text: &str) -> Result<ProxyMode, String> {
    match text {
        "full" => Ok(ProxyMode::Full),
        "external" => Ok(ProxyMode::External),
        "off" => Ok(ProxyMode::Off),
        _ => Err("choose full, external or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_probed_neither_all_the_time_nor_never() {
        assert_eq!(parse_probe_interval("10s"), Ok(Duration::from_secs(10)));
        for text in ["0s", "99ms", "11m", "often"] {
            assert!(parse_probe_interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_proxy_mode_names_the_known_ones() {
        assert_eq!(parse_proxy_mode("on"), Err("choose full, external or off".to_owned()));
    }
}
