//! One route more, beside ten thousand: from Herald's decision to the peer's socket, as Herald's own histogram has it. The value
//! told is the upper bound of the bucket, so it is never better than the truth.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::router::Bird;
use super::routes;
use super::senders::{Kind, Sender};
use crate::await_until::{await_ok, pause};
use crate::bench::proxy::system::Metrics;
use crate::bench::proxy::table::Table;
use crate::lab::Lab;

const DURATION: &str = "herald_bgp_change_duration_seconds";
/// The second slowest is the 99th percentile.
const CHANGES: u32 = 200;
/// Slow enough that each is a batch of its own.
const REST: Duration = Duration::from_millis(25);
/// A Service of its own, whose addresses are behind all others.
const NAME: &str = "one-more";
const FIRST: u32 = 120_000;

/// Adds addresses one by one.
pub fn measure(lab: &Lab, router: &mut Bird, count: u32, table: &mut Table) -> Result<()> {
    let speaker = Sender::start(lab, Kind::Herald, count)?;
    router.await_routes(Kind::Herald.protocol(), count)?;
    lab.block_on(async |client| routes::service(&client, NAME, 1000).await)?;
    let node = lab.node(1);
    let before = Metrics::of(&node.ns)?;
    for n in 1..=CHANGES {
        lab.block_on(async |client| {
            routes::assign(&client, NAME, (FIRST..FIRST + n).map(routes::address)).await
        })?;
        pause(REST);
    }
    router.await_routes(Kind::Herald.protocol(), count + CHANGES)?;
    let values = await_ok(Duration::from_secs(10), "all changes to be counted", || {
        let (counted, values) = Metrics::of(&node.ns)?.since(&before, DURATION, &[50.0, 99.0]);
        // A busy machine may see two changes as one.
        ensure!(counted >= f64::from(CHANGES) * 0.9, "{counted} of {CHANGES}");
        Ok(values)
    })?;
    let mut row = table.row("single", Some(count));
    row.bar("one route: decided → in the socket, p50", values[0], "ms", 0.5);
    row.bar("one route: decided → in the socket, p99", values[1], "ms", 5.0);
    drop(speaker);
    lab.delete("v1/Service", "default", NAME)
}
