//! What a Service needs and asks for, and what it is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_runtime::ObjectName;

use super::Terms;
use crate::reason::Reason;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4 address",
            Self::V6 => "IPv6 address",
        }
    }
}

/// Which families a Service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// One address of this family.
    One(Family),
    /// One of each, from the same pool, or nothing.
    Both {
        /// The family that comes first in the status.
        primary: Family,
    },
    /// One of each from the same pool, otherwise the primary one, otherwise the other.
    BothOrOne {
        /// The family that comes first.
        primary: Family,
    },
}

/// What the user of a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Exactly these addresses; empty: any.
    pub addresses: Vec<IpAddr>,
    /// Only from this pool.
    pub pool: Option<String>,
}

/// Labels, kept as small as they are: a cluster has tens of thousands of them, and few configurations ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// As selectors want them.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// One Service's demand.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The Service.
    pub service: &'a ObjectName,
    /// Its families.
    pub want: Want,
    /// Its wishes.
    pub request: &'a Request,
    /// What decides about sharing.
    pub terms: &'a Terms,
    /// Its labels.
    pub labels: &'a Labels,
    /// Those of its namespace.
    pub namespace: &'a BTreeMap<String, String>,
}

impl Demand<'_> {
    pub(super) fn asks_for_nothing(&self) -> bool {
        self.request.addresses.is_empty()
    }

    /// The requested addresses, primary family first.
    pub(super) fn in_order(&self) -> Vec<IpAddr> {
        let mut addresses = self.request.addresses.clone();
        if let Want::Both { primary } | Want::BothOrOne { primary } = self.want {
            addresses.sort_by_key(|&address| Family::of(address) != primary);
        }
        addresses
    }
}

/// What a Service holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// One address, or two of different families.
    pub addresses: Vec<IpAddr>,
    /// The pool that all of them are from.
    pub pool: String,
}

/// What a Service is given, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it holds.
    pub assignment: Assignment,
    /// Why it could not keep what it had, if it had anything else.
    pub lost: Option<Reason>,
    /// Why there is no address of the second family that it would like to have.
    pub lacks: Option<Reason>,
}
