//! What users write, turned into validated types.
//!
//! [`parse`] reads the one YAML document that stands in the ConfigMap `config` under the key `config`, in any
//! generation of MetalLB's format from 0.2 to 0.12 and with Herald's own keys under `herald:`. It answers with a
//! [`Config`] that every other part uses without checking again, or with all that is wrong at once: each
//! [`ConfigError`] names line, column, path and the remedy. The document is taken whole or refused whole.
//!
//! What is harmless is a [`Warning`], never a refusal: an unknown key, a pool that is never announced, a field
//! that Herald does not support yet. `docs/configuration.md` lists every key.
//!
//! Nothing here knows Kubernetes, sockets or the clock, and nothing that a user writes can panic, recurse without
//! bound or grow the memory beyond a small multiple of [`MAX_DOCUMENT_BYTES`].
//!
//! ```text
//! text -> read::tree (located nodes) -> read::reader (path, problems) -> document -> Config
//! ```

mod address_range;
mod aggregate;
mod assemble;
mod bfd;
mod check;
mod community;
mod document;
mod duration;
mod emit;
mod manifests;
mod migrate;
mod objects;
mod options;
mod peer;
mod pool;
mod problem;
mod read;
mod review;
mod schema;
mod selector;
mod sessions;
mod sources;
#[cfg(test)]
mod tests;

pub use address_range::{AddressIter, AddressRange, RangeError, overlapping};
pub use assemble::{Assembler, Assembly, Problem, Secret, Secrets, Severity};
pub use bfd::BfdProfile;
pub use check::{Checked, Finding, Manifests, check};
pub use community::{Community, CommunityError, LargeCommunity};
pub use document::{MAX_DOCUMENT_BYTES, parse};
pub use duration::{DurationError, parse_duration};
pub use emit::to_yaml;
pub use manifests::File;
pub use migrate::{Migrated, migrate_files};
pub use objects::{Object, ObjectKey};
pub use options::{
    BgpPeers, CordonedNodes, ExternalIps, HeraldOptions, Layer2Spread, LocalAddresses, Masquerade, Quotas,
    Reservation, Sharing, SourceRangesOtherFamily,
};
pub use peer::{Password, Peer};
pub use pool::{Advertisement, Layer2Advertisement, Pool, PreferredNodes, ServiceAllocation};
pub use problem::{ConfigError, ConfigErrors, Warning};
pub use review::{Review, review_document, review_object};
pub use schema::{Kind, definitions};
pub use selector::{LabelSelector, Operator, Requirement, any_or_all};
pub use sessions::{
    BgpRole, Connect, ExtendedCommunity, ExtendedKind, NotExtended, SessionOptions, TcpAo, TcpAoAlgorithm,
};
pub use sources::{Document, Notice, NoticeReason, Outcome, Sources, Subject, Watched};

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A document that was accepted, and what its author should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The validated content.
    pub config: Config,
    /// The names that the document gives to communities; the configuration has them resolved.
    pub communities: BTreeMap<String, Community>,
    /// In the order of the document's lines.
    pub warnings: Vec<Warning>,
}

/// Everything that a user can configure, validated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The BGP neighbours, without exact duplicates.
    pub peers: Vec<Peer>,
    /// The pools in the order of the document; no two ranges of all of them overlap, names are unique.
    pub pools: Vec<Pool>,
    /// What peers name; names are unique.
    pub bfd_profiles: Vec<BfdProfile>,
    /// Pools that are configured but refused, with no earlier state in force: an address that lies in no pool may
    /// belong to one of them.
    pub refused_pools: Vec<String>,
    /// Herald's own keys.
    pub herald: HeraldOptions,
}

impl Config {
    /// The pool with this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pool that an address belongs to; there is at most one.
    pub fn pool_containing(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.contains(address))
    }
}
