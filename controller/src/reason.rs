//! Why a Service has no address: a closed list, the same word in log, Event and `herald explain`, each with a remedy.

use std::fmt;
use std::net::IpAddr;

/// Why a Service is left without an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No configuration, or one without pools.
    NoPools,
    /// The pool that the Service asks for does not exist.
    UnknownPool(String),
    /// Every pool that may serve it is full.
    Exhausted {
        /// What was looked for.
        wanted: &'static str,
        /// The pools that were looked at.
        pools: Vec<String>,
    },
    /// The requested address belongs to no pool.
    OutsidePools(IpAddr),
    /// The requested address belongs to another pool than the requested one.
    OtherPool(IpAddr, String),
    /// The requested address ends in .0 or .255 and its pool leaves those out.
    Buggy(IpAddr),
    /// The requested address is held, and must not be shared with this Service.
    InUse(IpAddr, String),
    /// The requested addresses are not of the Service's families.
    FamilyMismatch,
    /// An annotation or field cannot be understood.
    Malformed(String),
    /// A headless Service, or one whose cluster address is still missing.
    NoClusterIp,
}

impl Reason {
    /// The word for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoPools => "NoPools",
            Self::UnknownPool(_) => "UnknownPool",
            Self::Exhausted { .. } => "Exhausted",
            Self::OutsidePools(_) => "OutsidePools",
            Self::OtherPool(..) => "OtherPool",
            Self::Buggy(_) => "Buggy",
            Self::InUse(..) => "InUse",
            Self::FamilyMismatch => "FamilyMismatch",
            Self::Malformed(_) => "Malformed",
            Self::NoClusterIp => "NoClusterIp",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPools => f.write_str("there is no address pool: add one to the configuration"),
            Self::UnknownPool(pool) => {
                write!(f, "there is no pool {pool:?}: correct the annotation metallb.io/address-pool or add the pool")
            }
            Self::Exhausted { wanted, pools } if pools.is_empty() => {
                write!(f, "no pool gives {wanted} by itself: set auto-assign on one or name a pool by the annotation metallb.io/address-pool")
            }
            Self::Exhausted { wanted, pools } => write!(
                f,
                "no {wanted} is free in {}: add addresses or delete a Service; it is tried again as soon as one frees",
                pools.join(", ")
            ),
            Self::OutsidePools(address) => {
                write!(f, "{address} was requested but is in no pool: add it to one or request another")
            }
            Self::OtherPool(address, pool) => {
                write!(f, "{address} was requested but is not in the requested pool {pool:?}: drop one of the two requests")
            }
            Self::Buggy(address) => write!(
                f,
                "{address} was requested but its pool has avoid-buggy-ips set: request another or unset it"
            ),
            Self::InUse(address, holder) => write!(
                f,
                "{address} was requested but {holder} has it: sharing needs the same metallb.io/allow-shared-ip on both, different ports, and externalTrafficPolicy Cluster or the same selector"
            ),
            Self::FamilyMismatch => f.write_str(
                "the requested addresses are not one for each IP family of the Service: request exactly these by metallb.io/loadBalancerIPs",
            ),
            Self::Malformed(what) => f.write_str(what),
            Self::NoClusterIp => f.write_str(
                "the Service has not the cluster addresses that its ipFamilyPolicy needs: it must not be headless, and dual stack needs two",
            ),
        }
    }
}
