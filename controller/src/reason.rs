//! Why a Service has no address, or not the one it had: a closed list, the same word in log, metric and condition, each with a
//! remedy. Events keep MetalLB's words, since dashboards and alerts know them.

use std::fmt;
use std::net::IpAddr;

use herald_runtime::events::EventReason;

/// Why an address must not be shared with who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clash {
    /// Not both ask for sharing by the same key.
    Key,
    /// Both have this port.
    Port(String),
    /// `externalTrafficPolicy` is not Cluster for both, nor Local with the same selector.
    TrafficPolicy,
    /// They are in different namespaces.
    Namespace,
    /// The holder has it as an externalIP.
    External,
}

/// Why a Service is left without an address, or loses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No configuration, or one without pools.
    NoPools,
    /// The pool that the Service asks for does not exist.
    UnknownPool(String),
    /// The pool is for other Services.
    PoolForOthers(String),
    /// Every pool that may serve it is full.
    Exhausted {
        /// What was looked for.
        wanted: &'static str,
        /// The pools that were looked at.
        pools: Vec<String>,
    },
    /// The pool of the address that the Service has knows no address of the other family.
    OneFamily(String),
    /// The address belongs to no pool.
    OutsidePools(IpAddr),
    /// The address belongs to another pool than the requested one.
    OtherPool(IpAddr, String),
    /// The two addresses belong to different pools.
    TwoPools(IpAddr, String),
    /// The address ends in .0 or .255 and its pool leaves those out.
    Buggy(IpAddr),
    /// The requested address is held, and must not be shared with this Service.
    InUse(IpAddr, String, Clash),
    /// The requested address is reserved for somebody else.
    Reserved(IpAddr, String),
    /// The namespace holds as many addresses as it may.
    Quota {
        /// The namespace.
        namespace: String,
        /// Its limit.
        limit: u32,
    },
    /// Other addresses are requested than those that the Service has.
    OtherRequested,
    /// The requested addresses are not of the Service's families.
    FamilyMismatch,
    /// The families of the Service are not those of its addresses any more.
    FamiliesChanged,
    /// An annotation or field cannot be understood.
    Malformed(String),
    /// A headless Service, or one whose cluster address is still missing.
    NoClusterIp,
    /// Dual stack is required and there are not two cluster addresses.
    NotEnoughClusterIps,
    /// Somebody else wrote the status: the word is its field manager's name.
    ForeignStatus(String),
    /// The Service is deleted.
    Deleted,
}

impl Reason {
    /// The word for logs, metrics and conditions.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoPools => "NoPools",
            Self::UnknownPool(_) => "UnknownPool",
            Self::PoolForOthers(_) => "PoolForOthers",
            Self::Exhausted { .. } => "Exhausted",
            Self::OneFamily(_) => "OneFamily",
            Self::OutsidePools(_) => "OutsidePools",
            Self::OtherPool(..) => "OtherPool",
            Self::TwoPools(..) => "TwoPools",
            Self::Buggy(_) => "Buggy",
            Self::InUse(..) => "InUse",
            Self::Reserved(..) => "Reserved",
            Self::Quota { .. } => "QuotaExceeded",
            Self::OtherRequested => "OtherRequested",
            Self::FamilyMismatch => "FamilyMismatch",
            Self::FamiliesChanged => "FamiliesChanged",
            Self::Malformed(_) => "Malformed",
            Self::NoClusterIp => "NoClusterIp",
            Self::NotEnoughClusterIps => "NotEnoughClusterIps",
            Self::ForeignStatus(_) => "ForeignStatus",
            Self::Deleted => "Deleted",
        }
    }

    /// The Event that tells a Service that it waits: MetalLB's words.
    pub fn event(&self) -> EventReason {
        match self {
            Self::Malformed(_) | Self::FamilyMismatch => EventReason::LoadBalancerFailed,
            Self::NoClusterIp => EventReason::NoClusterIps,
            Self::NotEnoughClusterIps => EventReason::NotEnoughClusterIps,
            Self::ForeignStatus(_) => EventReason::ForeignStatus,
            _ => EventReason::AllocationFailed,
        }
    }

    /// The status is not ours to write: it is left as it stands, also without a condition.
    pub fn leaves_status(&self) -> bool {
        matches!(self, Self::NoPools | Self::ForeignStatus(_))
    }

    /// Whether an address that frees somewhere may end it; all else takes a change of the Service or the configuration.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Exhausted { .. } | Self::InUse(..) | Self::Quota { .. })
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("sharing needs the same metallb.io/allow-shared-ip on both"),
            Self::Port(port) => write!(f, "both have the port {port}, which cannot be shared"),
            Self::TrafficPolicy => f.write_str(
                "sharing needs externalTrafficPolicy Cluster on both, or Local with the same selector",
            ),
            Self::Namespace => f.write_str(
                "Services of two namespaces share addresses only with herald.sharing: cluster in the configuration",
            ),
            Self::External => f.write_str("it is an externalIP there"),
        }
    }
}

/// So many pools are named; a person reads fewer.
const NAMED: usize = 10;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPools => f.write_str("there is no address pool: add one to the configuration"),
            Self::UnknownPool(pool) => {
                write!(f, "there is no pool {pool:?}: correct the annotation metallb.io/address-pool or add the pool")
            }
            Self::PoolForOthers(pool) => write!(
                f,
                "the pool {pool:?} is not for this Service: its serviceAllocation selects other namespaces or Services; change that, or request another pool"
            ),
            Self::Exhausted { wanted, pools } if pools.is_empty() => {
                write!(f, "no pool gives {wanted} by itself: set auto-assign on one or name a pool by the annotation metallb.io/address-pool")
            }
            Self::Exhausted { wanted, pools } => {
                let named = pools[..pools.len().min(NAMED)].join(", ");
                let more = match pools.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more pools"),
                };
                write!(f, "no {wanted} is free in {named}{more}: add addresses or delete a Service; it is tried again as soon as one frees")
            }
            Self::OneFamily(pool) => write!(
                f,
                "the pool {pool:?} has no address of the other family, and both come from one pool: add a range to it"
            ),
            Self::OutsidePools(address) => {
                write!(f, "{address} is in no pool: add it to one or request another")
            }
            Self::OtherPool(address, pool) => {
                write!(f, "{address} was requested but is not in the requested pool {pool:?}: drop one of the two requests")
            }
            Self::TwoPools(address, pool) => {
                write!(f, "{address} is in the pool {pool:?} and the other address is not: request both from one pool")
            }
            Self::Buggy(address) => write!(
                f,
                "{address} was requested but its pool has avoid-buggy-ips set: request another or unset it"
            ),
            Self::InUse(address, holder, clash) => {
                write!(f, "{address} was requested but {holder} has it: {clash}")
            }
            Self::Reserved(address, whom) => write!(
                f,
                "{address} was requested but is reserved for {whom} by herald.reservations in the configuration: request another"
            ),
            Self::Quota { namespace, limit } => write!(
                f,
                "the quota of namespace {namespace} is {limit} addresses, and they are in use: delete a Service there or raise herald.quotas in the configuration"
            ),
            Self::OtherRequested => f.write_str("other addresses are requested"),
            Self::FamilyMismatch => f.write_str(
                "the requested addresses are not one for each IP family of the Service: request exactly these by metallb.io/loadBalancerIPs",
            ),
            Self::FamiliesChanged => f.write_str("they are not of the IP families of the Service"),
            Self::Malformed(what) => f.write_str(what),
            Self::NoClusterIp => f.write_str(
                "the Service has no cluster address, which tells the IP family: it must not be headless",
            ),
            Self::NotEnoughClusterIps => f.write_str(
                "ipFamilyPolicy RequireDualStack needs two cluster addresses: the cluster must have two families",
            ),
            Self::ForeignStatus(writer) => write!(
                f,
                "its status shows addresses that are not from Herald's pools, written by {writer:?}: they are left alone; set a loadBalancerClass if another controller serves it, or clear status.loadBalancer to have an address from Herald"
            ),
            Self::Deleted => f.write_str("the Service is deleted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_all_of_them_in_this_order() {
        let (ip, text) = (IpAddr::from([192, 0, 2, 1]), || "x".to_owned());
        let all = [
            Reason::NoPools,
            Reason::UnknownPool(text()),
            Reason::PoolForOthers(text()),
            Reason::Exhausted { wanted: "address", pools: Vec::new() },
            Reason::OneFamily(text()),
            Reason::OutsidePools(ip),
            Reason::OtherPool(ip, text()),
            Reason::TwoPools(ip, text()),
            Reason::Buggy(ip),
            Reason::InUse(ip, text(), Clash::Key),
            Reason::Reserved(ip, text()),
            Reason::Quota { namespace: text(), limit: 1 },
            Reason::OtherRequested,
            Reason::FamilyMismatch,
            Reason::FamiliesChanged,
            Reason::Malformed(text()),
            Reason::NoClusterIp,
            Reason::NotEnoughClusterIps,
            Reason::ForeignStatus(text()),
            Reason::Deleted,
        ];
        let document = include_str!("../../docs/reasons.md");
        let section = document.split("\n## ").find(|section| section.starts_with("A Service has no address"));
        let words: Vec<&str> = section
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(words, all.each_ref().map(Reason::word));
    }
}
