//! A BGP neighbour as configured.
//!
//! Two equal values mean the same session with the same parameters: a driver keeps a session up across a change of
//! the configuration exactly when its peer is still in the list.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::selector::{LabelSelector, any_or_all};

/// One neighbour, and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// What advertisements call it, not empty and unique; no part of the session. Peers of the ConfigMap have no name there:
    /// they are `peer1`, `peer2` and so on.
    pub name: String,
    /// Our AS number, not 0.
    pub my_asn: u32,
    /// The neighbour's AS number, not 0; none: any but the one that it sees of us.
    pub asn: Option<u32>,
    /// Where the neighbour listens; `::`: at the link-local address by which it advertises itself as a router on `device`
    /// (RFC 4861 §4.2).
    pub address: IpAddr,
    /// The interface, or the VRF, of the host that the session is bound to.
    pub device: Option<String>,
    /// The neighbour's TCP port, not 0.
    pub port: u16,
    /// Whole seconds: 0 (no keepalives) or 3 to 65535.
    pub hold_time: Duration,
    /// The time between keepalives, at most `hold_time`; none: a third of it.
    pub keepalive_time: Option<Duration>,
    /// The time between attempts to connect, 1 to 65535 s; none leaves it to the speaker.
    pub connect_time: Option<Duration>,
    /// The BGP identifier to use; none leaves the choice to the node.
    pub router_id: Option<Ipv4Addr>,
    /// The address to dial from, of the family of `address`.
    pub source_address: Option<IpAddr>,
    /// The nodes that speak to this neighbour; none means all.
    pub node_selectors: Vec<LabelSelector>,
    /// For TCP-MD5 (RFC 2385).
    pub password: Option<Password>,
    /// The AS number that this neighbour sees in place of `my_asn`.
    pub local_asn: Option<u32>,
    /// The name of a profile of [`crate::Config::bfd_profiles`].
    pub bfd_profile: Option<String>,
    /// Whether an external neighbour is more than one hop away.
    pub ebgp_multihop: bool,
    /// Whether routes are to stay while the speaker restarts.
    pub graceful_restart: bool,
    /// Whether routes of both families go over the one session.
    pub dual_stack: bool,
}

/// The port of BGP.
pub(crate) const BGP_PORT: u16 = 179;

impl Peer {
    /// The interface that the neighbour is found on, if it has no address of its own in the configuration.
    pub fn found_on(&self) -> Option<&str> {
        self.device.as_deref().filter(|_| self.address.is_unspecified())
    }

    /// Whether a node with these labels speaks to this neighbour: any of the selectors matches, or there is none.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        any_or_all(&self.node_selectors, labels)
    }
}

/// A key for TCP-MD5 that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(Source);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Source {
    /// 1 to 80 bytes, as TCP-MD5 takes it.
    Known(String),
    /// In a Secret that whoever reads this configuration does not read.
    Secret(String),
}

/// The kernel's bound on a TCP-MD5 key.
const MAX_PASSWORD_BYTES: usize = 80;

impl Password {
    /// `None` for the empty password, which MetalLB takes as no password; the error never shows it.
    pub(crate) fn new(secret: &str) -> Result<Option<Self>, String> {
        let length = secret.len();
        if length > MAX_PASSWORD_BYTES {
            return Err(format!(
                "the password has {length} bytes: TCP-MD5 takes at most {MAX_PASSWORD_BYTES}"
            ));
        }
        Ok((length > 0).then(|| Self(Source::Known(secret.to_owned()))))
    }

    pub(crate) fn in_secret(name: &str) -> Self {
        Self(Source::Secret(name.to_owned()))
    }

    /// The secret itself, for the socket option and nothing else; `None` while it is only known where it stands.
    pub fn expose(&self) -> Option<&str> {
        match &self.0 {
            Source::Known(secret) => Some(secret),
            Source::Secret(_) => None,
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Known(_) => f.write_str("Password(hidden)"),
            Source::Secret(name) => write!(f, "Password(in Secret {name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_errors_hide_the_password() {
        let password = Password::new("s3cr3t").expect("short").expect("not empty");
        assert_eq!(format!("{password:?}"), "Password(hidden)");
        assert_eq!(password.expose(), Some("s3cr3t"));
        let error = Password::new(&"s3cr3t".repeat(20)).expect_err("too long");
        assert!(!error.contains("s3cr3t"), "{error}");
        assert_eq!(Password::new(""), Ok(None));
        assert_eq!(Password::in_secret("tor").expose(), None);
    }
}
