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
    /// Our AS number, not 0.
    pub my_asn: u32,
    /// The neighbour's AS number, not 0.
    pub asn: u32,
    /// Where the neighbour listens.
    pub address: IpAddr,
    /// The neighbour's TCP port, not 0.
    pub port: u16,
    /// Whole seconds: 0 (no keepalives) or 3 to 65535.
    pub hold_time: Duration,
    /// The BGP identifier to use; none leaves the choice to the node.
    pub router_id: Option<Ipv4Addr>,
    /// The address to dial from, of the family of `address`.
    pub source_address: Option<IpAddr>,
    /// The nodes that speak to this neighbour; none means all.
    pub node_selectors: Vec<LabelSelector>,
    /// For TCP-MD5 (RFC 2385).
    pub password: Option<Password>,
}

impl Peer {
    /// Whether a node with these labels speaks to this neighbour: any of the selectors matches, or there is none.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        any_or_all(&self.node_selectors, labels)
    }
}

/// A secret that `Debug` does not print; 1 to 80 bytes, as TCP-MD5 takes it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(String);

impl Password {
    pub(crate) fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret itself, for the socket option and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_password() {
        assert_eq!(format!("{:?}", Password::new("s3cr3t")), "Password(hidden)");
    }
}
