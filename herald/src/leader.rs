//! Who leads, by the Lease. Its times are of the leader's clock, and whoever asks may have another one: where the two do not go together, the API
//! server's is asked for.

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
    renewed: Timestamp,
    /// Seconds.
    lasts: i64,
}

impl Held {
    /// Of a Lease's fields; `None`: nobody holds it.
    pub(crate) fn of(lease: &Value) -> Option<Self> {
        let spec = lease.get("spec")?;
        let holder = spec.get("holderIdentity")?.as_str().filter(|holder| !holder.is_empty())?;
        Some(Self {
            holder: holder.to_owned(),
            renewed: spec.get("renewTime")?.as_str()?.parse().ok()?,
            lasts: spec.get("leaseDurationSeconds")?.as_i64()?,
        })
    }

    /// Who leads, if it has not run out by this time.
    pub(crate) fn leader(&self, now: Timestamp) -> Option<&str> {
        (self.age(now) <= self.lasts).then_some(&*self.holder)
    }

    /// Whether this may be the time of the leader's clock, as far as can be told.
    fn goes_with(&self, now: Timestamp) -> bool {
        (-APART..=self.lasts).contains(&self.age(now))
    }

    fn age(&self, now: Timestamp) -> i64 {
        now.as_second().saturating_sub(self.renewed.as_second())
    }
}

/// Who leads now by a Lease's fields. Asks the API server for its time where this machine's says that the Lease has run out, or is of the future.
pub(crate) async fn leader(client: &Client, lease: &Value) -> Option<String> {
    let (held, now) = (Held::of(lease)?, Timestamp::now());
    let ahead = match held.goes_with(now) {
        true => 0,
        false => version(client).await.ok().and_then(|(_, ahead)| ahead).unwrap_or(0),
    };
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
}
