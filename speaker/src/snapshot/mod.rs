//! The last view of the API on the node's disk: what a speaker that starts while the API server is away goes on with.
//!
//! ```text
//!   Reconciler ── Keeper: parts of the index, at most one waiting ──> the thread "snapshot" ──> DIRECTORY/speaker.snapshot
//!   DIRECTORY/speaker.snapshot ── resume(), once the API server counts as away ──> the loop, as if a watch had said it
//! ```
//!
//! Written on change, at most once a second and at no more than [`keeper::RATE`], beside the old one and then renamed over it, for root alone (0600:
//! passwords of peers are in it). Encoded straight from the index in parts, so that neither a copy of it nor a long pause of the
//! loop is needed. While the API server is heard, the file's time says so each minute: that is the time up to which its content was right.
//!
//! Read only when a list is missing, nothing has been heard for [`resume::AWAY`] and an attempt has failed: a start with an API server never
//! looks at it. Each list that comes takes the place of what the snapshot had for it (`index/resume.rs`). One that is damaged,
//! of another release, node or namespace, or was right for the last time more than [`file::MAX_AGE`] ago is told in the log and not used.
//!
//! After the node itself was started anew its own pods count as gone: nobody knows their new addresses.

mod codec;
mod file;
mod image;
mod keeper;
mod records;
mod resume;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use herald_runtime::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::Value;

pub(crate) use self::file::{make_directory, remove};
pub(crate) use self::keeper::Keeper;
pub(crate) use self::resume::{Place, resume};

use crate::configured::ConfigObject;
use crate::index::{ServiceObject, SliceObject};
use crate::node::NodeObject;
use crate::service_cidrs::ServiceCidrObject;

/// What a snapshot tells.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// The UID of the namespace `kube-system`.
    pub(crate) cluster: Option<String>,
    /// All nodes.
    pub(crate) nodes: Vec<NodeObject>,
    /// Networks of ClusterIPs.
    pub(crate) service_cidrs: Vec<ServiceCidrObject>,
    /// The ConfigMap.
    pub(crate) document: Option<ConfigObject>,
    /// Objects of `metallb.io`, and Secrets with passwords.
    pub(crate) objects: Vec<(&'static str, Vec<Value>)>,
    /// Services that are proxied.
    pub(crate) services: Vec<ServiceObject>,
    /// Their slices.
    pub(crate) slices: Vec<SliceObject>,
}

impl Remembered {
    /// The node was started anew: its pods have ended, and whether they are there again, and where, nobody has said yet.
    fn forget_pods_of(&mut self, node: &str) {
        let views = self.slices.iter_mut().filter_map(|slice| slice.reading.as_mut().ok());
        for endpoint in views.flat_map(|reading| &mut reading.view.endpoints) {
            if endpoint.node.as_deref() == Some(node) {
                (endpoint.ready, endpoint.serving) = (false, false);
            }
        }
    }
}

/// Whose snapshot it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The Node's name.
    pub(crate) node: String,
    /// Where the configuration is.
    pub(crate) namespace: String,
    /// A random name for the time since the node was started.
    pub(crate) boot: String,
}

impl Identity {
    /// On this kernel.
    pub(crate) fn of(node: &str, namespace: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { node: node.to_owned(), namespace: namespace.to_owned(), boot: boot.trim().to_owned() }
    }
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It could have been written by others.
    #[error("others than its owner can write it, or it is not this user's: remove it")]
    NotOurs,
    /// It is larger than any that is written.
    #[error("it is larger than {} MiB", file::MAX_SIZE >> 20)]
    TooLarge,
    /// It is something else.
    #[error("it is no snapshot of Herald's: remove it")]
    Foreign,
    /// Another release wrote it.
    #[error("it has version {0}, and this release reads version {ours}", ours = image::VERSION)]
    Version(u32),
    /// The checksum is wrong, or the content is none.
    #[error("it is damaged")]
    Damaged,
    /// It is another node's.
    #[error("it is of node {0}")]
    OtherNode(String),
    /// It is of another configuration.
    #[error("it is of a speaker with --namespace={0}")]
    OtherNamespace(String),
    /// Too much may have changed since.
    #[error("it was right {0} hours ago, and none is used after {limit}", limit = file::MAX_AGE.as_secs() / 3600)]
    TooOld(u64),
}

/// What is told about snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotMetrics {
    in_force: Gauge,
    size: Gauge,
    written: Gauge,
    failures: Counter,
}

impl SnapshotMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            in_force: metrics.register(
                "herald_snapshot_in_force",
                "1 while a snapshot stands in for lists of the API server that have not come",
                Gauge::default(),
            ),
            size: metrics.register(
                "herald_snapshot_size_bytes",
                "Size of the last snapshot that was written",
                Gauge::default(),
            ),
            written: metrics.register(
                "herald_snapshot_written_timestamp_seconds",
                "When the last snapshot was written",
                Gauge::default(),
            ),
            failures: metrics.register(
                "herald_snapshot_failures",
                "Snapshots that could not be written",
                Counter::default(),
            ),
        }
    }
}

/// The file, in this directory.
fn path(directory: &std::path::Path) -> PathBuf {
    directory.join("speaker.snapshot")
}
