//! The status of pools that are objects: how many addresses are given and left, as MetalLB tells it.
//!
//! Written only where it differs from what the object shows, so that a manual edit is put right, and at most once in
//! [`INTERVAL`] for all pools together, so that ten thousand Services that come at once cost ten writes and not ten
//! thousand. A pool of the ConfigMap is no object and has no status.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use herald_runtime::chain;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};

use crate::allocator::Usage;
use crate::service::STATUS_MANAGER;

/// Between two rounds of writes.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The same while the objects do not show what was written.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(7);

/// `status` of an IPAddressPool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStatus {
    /// IPv4 and IPv6: how many addresses are given.
    pub assigned: [i64; 2],
    /// How many are left.
    pub available: [i64; 2],
}

const KEYS: [(&str, &str); 2] = [("assignedIPv4", "availableIPv4"), ("assignedIPv6", "availableIPv6")];

impl PoolStatus {
    /// Reads `status`; `None` if any of its fields is missing.
    pub fn read(status: &Value) -> Option<Self> {
        let mut this = Self::default();
        for (index, (assigned, available)) in KEYS.into_iter().enumerate() {
            this.assigned[index] = status.get(assigned)?.as_i64()?;
            this.available[index] = status.get(available)?.as_i64()?;
        }
        Some(this)
    }

    fn to_value(self) -> Value {
        let mut status = json!({});
        for (index, (assigned, available)) in KEYS.into_iter().enumerate() {
            status[assigned] = json!(self.assigned[index]);
            status[available] = json!(self.available[index]);
        }
        status
    }
}

impl From<[Usage; 2]> for PoolStatus {
    fn from(usage: [Usage; 2]) -> Self {
        Self {
            assigned: usage.map(|usage| i64::try_from(usage.in_use).unwrap_or(i64::MAX)),
            available: usage.map(|usage| usage.available()),
        }
    }
}

/// What the objects show, and when they may be written again.
#[derive(Debug, Default)]
pub struct PoolStatuses {
    /// `None`: there is no status, or half of one.
    shown: BTreeMap<String, Option<PoolStatus>>,
    written: Option<Instant>,
    /// Rounds since the objects were last told: where a right is missing none comes back.
    unanswered: u32,
}

impl PoolStatuses {
    /// These pools are objects, and show this.
    pub fn shown(&mut self, shown: BTreeMap<String, Option<PoolStatus>>) {
        self.shown = shown;
        self.unanswered = 0;
    }

    /// What is to be written now. The watch tells whether it was: until then it is given out again, after pauses that
    /// double.
    pub fn due<'a>(
        &mut self,
        usage: impl Iterator<Item = (&'a str, [Usage; 2])>,
        now: Instant,
    ) -> Vec<(String, PoolStatus)> {
        let pause =
            INTERVAL.saturating_mul(1 << self.unanswered.saturating_sub(1).min(16)).min(LONGEST_INTERVAL);
        if self.shown.is_empty() || self.written.is_some_and(|at| now < at + pause) {
            return Vec::new();
        }
        let wanted = usage.map(|(name, usage)| (name, PoolStatus::from(usage)));
        let differs = |(name, status): &(&str, PoolStatus)| {
            self.shown.get(*name).is_some_and(|shown| *shown != Some(*status))
        };
        let due: Vec<(String, PoolStatus)> =
            wanted.filter(differs).map(|(name, status)| (name.to_owned(), status)).collect();
        if !due.is_empty() {
            self.written = Some(now);
            self.unanswered += 1;
        }
        due
    }
}

/// Writes the status of one pool in Herald's namespace.
pub async fn write(client: Client, namespace: &str, pool: &str, status: PoolStatus) {
    let url = format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/ipaddresspools");
    let by = PatchParams { field_manager: Some(STATUS_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "status": status.to_value() }));
    let request = match Request::new(url).patch_subresource("status", pool, &by, &patch) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(pool, %error, "the status of this IPAddressPool cannot be written");
            return;
        }
    };
    match tokio::time::timeout(DEADLINE, client.request::<Value>(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                pool,
                error = chain(&error),
                "the status of this IPAddressPool was not written; trying again"
            );
        }
        Err(_) => {
            tracing::warn!(pool, "the status of this IPAddressPool was not written in time; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(total: u128, in_use: u64) -> [Usage; 2] {
        [Usage { total, in_use }, Usage { total: u128::MAX, in_use: 1 }]
    }

    #[test]
    fn a_status_is_written_when_it_differs_and_at_most_once_a_second() {
        let (mut statuses, mut now) = (PoolStatuses::default(), Instant::now());
        let due = |statuses: &mut PoolStatuses, in_use, now| {
            let pools = [("objects", usage(256, in_use)), ("of-the-config-map", usage(4, 1))];
            let due = statuses.due(pools.into_iter(), now);
            due.into_iter().map(|(name, status)| (name, status.assigned[0])).collect::<Vec<_>>()
        };
        assert_eq!(due(&mut statuses, 1, now), [], "no pool is an object");
        statuses.shown([("objects".to_owned(), None)].into());
        assert_eq!(due(&mut statuses, 1, now), [("objects".to_owned(), 1)]);
        // Ten thousand Services come within the second.
        for in_use in 2..100 {
            assert_eq!(due(&mut statuses, in_use, now + Duration::from_millis(999)), []);
        }
        now += INTERVAL;
        assert_eq!(due(&mut statuses, 100, now), [("objects".to_owned(), 100)]);
        statuses.shown([("objects".to_owned(), Some(usage(256, 100).into()))].into());
        now += INTERVAL;
        assert_eq!(due(&mut statuses, 100, now), [], "nothing changed");
        // Somebody edits it.
        statuses.shown([("objects".to_owned(), Some(PoolStatus::default()))].into());
        assert_eq!(due(&mut statuses, 100, now), [("objects".to_owned(), 100)]);
    }

    #[test]
    fn what_is_written_in_vain_is_tried_ever_less_often_until_an_object_comes() {
        let (mut statuses, begin) = (PoolStatuses::default(), Instant::now());
        let tried = |statuses: &mut PoolStatuses, seconds: std::ops::Range<u64>| -> Vec<u64> {
            let due = |second: &u64| {
                let pools = [("objects", usage(256, *second))];
                !statuses.due(pools.into_iter(), begin + Duration::from_secs(*second)).is_empty()
            };
            seconds.filter(due).collect()
        };
        statuses.shown([("objects".to_owned(), None)].into());
        assert_eq!(tried(&mut statuses, 0..200), [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        statuses.shown([("objects".to_owned(), None)].into());
        assert_eq!(tried(&mut statuses, 200..204), [200, 201, 203]);
    }

    #[test]
    fn a_status_is_read_as_it_is_written_and_what_is_beyond_an_int64_is_the_largest() {
        let status = PoolStatus::from(usage(256, 3));
        assert_eq!(
            status.to_value(),
            json!({"assignedIPv4": 3, "availableIPv4": 253, "assignedIPv6": 1, "availableIPv6": i64::MAX})
        );
        assert_eq!(PoolStatus::read(&status.to_value()), Some(status));
        assert_eq!(PoolStatus::read(&json!({"assignedIPv4": 3})), None);
    }
}
