//! Who leads, by the Lease. Its times are of the leader's clock, and whoever asks may have another one: where the two do not go together, the API
//! server is asked what time it is, and when the Lease was written is taken from what it notes of each object itself (`managedFields`).

use anyhow::{Context, Result};
use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use kube::Client;
use serde_json::Value;

/// A leader's renewal that is so far in the future, in seconds, is of another clock.
const APART: i64 = 2;

/// A Lease that somebody holds or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    holder: String,
    /// By the leader's clock.
    renewed: Timestamp,
    /// The same by the API server's, in whole seconds; `None`: it does not say.
    written: Option<Timestamp>,
    /// Seconds.
    lasts: i64,
}

impl Held {
    /// Of a whole Lease; `None`: nobody holds it.
    pub(crate) fn of(lease: &Value) -> Option<Self> {
        let spec = lease.get("spec")?;
        let holder = spec.get("holderIdentity")?.as_str().filter(|holder| !holder.is_empty())?;
        Some(Self {
            holder: holder.to_owned(),
            renewed: spec.get("renewTime")?.as_str()?.parse().ok()?,
            written: written(lease),
            lasts: spec.get("leaseDurationSeconds")?.as_i64()?,
        })
    }

    /// Who leads, if it has not run out by this time of the API server's.
    pub(crate) fn leader(&self, now: Timestamp) -> Option<&str> {
        (age(self.written.unwrap_or(self.renewed), now) <= self.lasts).then_some(&*self.holder)
    }

    /// It has not run out by this time, which may be that of the leader's clock as far as can be told.
    fn goes_with(&self, now: Timestamp) -> bool {
        (-APART..=self.lasts).contains(&age(self.renewed, now))
    }
}

/// In seconds.
fn age(then: Timestamp, now: Timestamp) -> i64 {
    now.as_second().saturating_sub(then.as_second())
}

/// When the API server last took another time of renewal.
fn written(lease: &Value) -> Option<Timestamp> {
    let entries = lease.get("metadata")?.get("managedFields")?.as_array()?.iter();
    let renewals = entries.filter(|entry| entry.pointer("/fieldsV1/f:spec/f:renewTime").is_some());
    renewals.filter_map(|entry| entry.get("time")?.as_str()?.parse().ok()).max()
}

/// Who leads now by a whole Lease. Asks the API server for its time where this machine's says that the Lease has run out, or is of the future.
pub(crate) async fn leader(client: &Client, lease: &Value) -> Option<String> {
    let (held, now) = (Held::of(lease)?, Timestamp::now());
    if held.goes_with(now) {
        return Some(held.holder);
    }
    let ahead = version(client).await.ok().and_then(|(_, ahead)| ahead).unwrap_or(0);
    held.leader(now + SignedDuration::from_secs(ahead)).map(str::to_owned)
}

/// The API server's version, and how many seconds its clock is before ours.
pub(crate) async fn version(client: &Client) -> Result<(String, Option<i64>)> {
    let request = http::Request::get("/version").body(kube::client::Body::empty())?;
    let asked = Timestamp::now();
    let answer = client.send(request).await?;
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let told = date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
    // Its date has whole seconds: the middle of that one, against the middle of the question.
    let waited = Timestamp::now().duration_since(asked);
    let ahead = told.map(|told| {
        let ours = asked.duration_since(Timestamp::UNIX_EPOCH) + waited / 2;
        (told.duration_since(Timestamp::UNIX_EPOCH) + SignedDuration::from_millis(500) - ours).as_secs()
    });
    let body = answer.into_body().collect_bytes().await?;
    let body: Value = serde_json::from_slice(&body).context("it is no JSON")?;
    Ok((body["gitVersion"].as_str().unwrap_or("unknown").to_owned(), ahead))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lease_tells_who_leads_until_it_has_run_out_and_whether_the_clocks_go_together() {
        let lease = |holder: &str| json!({ "spec": { "holderIdentity": holder, "renewTime": "2026-08-01T03:00:00.000000Z", "leaseDurationSeconds": 20 } });
        assert_eq!((Held::of(&lease("")), Held::of(&json!({ "spec": {} }))), (None, None));
        let held = Held::of(&lease("herald-0")).unwrap();
        for (now, leads, together) in [
            ("2026-08-01T03:00:20Z", true, true),
            ("2026-08-01T03:00:21Z", false, false),
            ("2026-08-01T02:59:58Z", true, true),
            ("2026-08-01T02:00:00Z", true, false),
            ("2026-08-01T04:00:00Z", false, false),
        ] {
            let now = now.parse().unwrap();
            assert_eq!((held.leader(now).is_some(), held.goes_with(now)), (leads, together), "{now}");
        }
    }

    #[test]
    fn a_leader_whose_clock_is_wrong_leads_as_long_as_the_api_server_sees_it_renew() {
        let entry =
            |field: &str, time: &str| json!({ "time": time, "fieldsV1": { "f:spec": { field: {} } } });
        // Its clock is an hour behind; somebody else has edited something later on.
        let lease = json!({
            "metadata": { "managedFields": [
                entry("f:renewTime", "2026-08-01T04:00:00Z"), entry("f:strategy", "2026-08-01T05:00:00Z"),
            ] },
            "spec": { "holderIdentity": "herald-0", "renewTime": "2026-08-01T03:00:00.000000Z", "leaseDurationSeconds": 20 },
        });
        let held = Held::of(&lease).unwrap();
        for (now, leads) in [("2026-08-01T04:00:20Z", true), ("2026-08-01T04:00:21Z", false)] {
            let now = now.parse().unwrap();
            assert_eq!((held.leader(now).is_some(), held.goes_with(now)), (leads, false), "{now}");
        }
    }
}
