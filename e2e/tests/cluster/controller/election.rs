//! Two controllers: one leads and writes, the other waits for its Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use herald_e2e::{Lab, Process, await_until, holds_for};
use serde_json::json;

use crate::services::{
    History, SOON, addresses_of, all, await_address, await_address_within, create, log_after, service,
};

const LEASE: Duration = Duration::from_secs(4);
/// After the Lease has run out.
const SLACK: Duration = Duration::from_secs(2);
const MANY: usize = 500;
const POOLS: &str = "\
address-pools:
- {name: one, protocol: bgp, addresses: [192.0.2.0/24]}
- {name: two, protocol: bgp, addresses: [198.51.100.0/24]}
- {name: three, protocol: bgp, addresses: [203.0.113.0/24]}
";

fn candidate(lab: &Lab, name: &str, port: u16) -> Result<Process> {
    lab.controller(
        name,
        &[
            &format!("--identity={name}"),
            &format!("--admin-address=127.0.0.1:{port}"),
            "--lease-duration=4s",
            "--lease-renew-deadline=3s",
            "--lease-retry-period=500ms",
        ],
    )
}

fn services(prefix: &str, count: usize) -> Vec<serde_json::Value> {
    (0..count).map(|number| service(&format!("{prefix}-{number}"), json!({}))).collect()
}

/// Waits until every Service has an address.
fn await_all(lab: &Lab, deadline: Duration) -> Result<()> {
    let mut left = 0;
    await_until(deadline, "addresses for all Services", || {
        left = all(lab).ok()?.values().filter(|service| addresses_of(service).is_empty()).count();
        (left == 0).then_some(())
    })
}

fn holder(lab: &Lab) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    lab.kubectl(&["-n", "metallb-system", "get", "lease", "herald-controller", "-o", path])
}

fn versions(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let version = |service: k8s_openapi::api::core::v1::Service| service.metadata.resource_version;
    Ok(all(lab)?.into_iter().map(|(name, service)| (name, version(service).unwrap_or_default())).collect())
}

#[test]
#[ignore = "needs a network namespace"]
fn five_hundred_services_get_their_addresses_within_seconds_from_the_leader_alone() -> Result<()> {
    let lab = super::lab()?;
    lab.configure_herald(POOLS)?;
    let leader = candidate(&lab, "leader", 7472)?;
    leader.await_log("leading", SOON)?;
    let follower = candidate(&lab, "follower", 7473)?;
    follower.await_log("controller starts", SOON)?;
    create(&lab, services("s", MANY))?;
    let begin = Instant::now();
    await_all(&lab, SOON)?;
    let took = begin.elapsed();
    eprintln!("{MANY} Services had their addresses {took:?} after the last creation");
    assert!(
        took < Duration::from_secs(5),
        "the last Service had its address {took:?} after the last creation"
    );
    let given: BTreeSet<IpAddr> = all(&lab)?.values().flat_map(addresses_of).collect();
    let lowest: BTreeSet<IpAddr> = (0..=255)
        .map(|octet| IpAddr::from([192, 0, 2, octet]))
        .chain((0..=243).map(|octet| IpAddr::from([198, 51, 100, octet])))
        .collect();
    assert_eq!(given, lowest);
    assert_eq!(leader.log().matches("written").count(), MANY);
    assert!(!follower.log().contains("written") && !follower.log().contains("leading"), "{}", follower.log());
    assert_eq!(holder(&lab)?, "leader");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_second_controller_takes_over_from_a_frozen_a_stopped_and_a_killed_one() -> Result<()> {
    let lab = super::lab()?;
    lab.configure_herald(POOLS)?;
    let first = candidate(&lab, "first", 7472)?;
    first.await_log("leading", SOON)?;
    let second = candidate(&lab, "second", 7473)?;
    second.await_log("controller starts", SOON)?;
    let (history, ()) = History::during(&lab, || {
        // Frozen in the midst of its work, with writes on their way and decisions that will be stale.
        create(&lab, services("before", 40))?;
        await_until(SOON, "some addresses", || (first.log().matches("written").count() >= 5).then_some(()))?;
        first.freeze();
        let frozen = Instant::now();
        create(&lab, services("frozen", 10))?;
        await_all(&lab, LEASE + SLACK)?;
        let took = frozen.elapsed();
        eprintln!("taken over from a frozen leader after {took:?}");
        assert!(took <= LEASE + SLACK, "all had their addresses {took:?} after the leader froze");
        assert_eq!(holder(&lab)?, "second");

        // It wakes up believing that it leads.
        let before = versions(&lab)?;
        first.thaw();
        first.await_log("not leading any more", SOON)?;
        holds_for(Duration::from_secs(1), "no Service is touched by the one that thawed", || {
            let now = versions(&lab).map_err(|error| format!("{error:#}"))?;
            if now == before { Ok(()) } else { Err(format!("{now:?} was {before:?}")) }
        })?;
        assert!(first.is_running(), "{}", first.log_tail());

        // Stopped in order: the Lease is released, nobody has to wait for its end.
        let seen = first.log().len();
        second.terminate(SOON)?;
        let stopped = Instant::now();
        create(&lab, services("stopped", 1))?;
        await_address(&lab, "stopped-0")?;
        let took = stopped.elapsed();
        eprintln!("taken over from a stopped leader after {took:?}");
        assert!(took < Duration::from_millis(1500), "the next one gave an address {took:?} after the end");
        assert_eq!(holder(&lab)?, "first");
        assert!(log_after(&first, seen).contains("leading"));

        // Killed: the Lease has to run out.
        let third = candidate(&lab, "third", 7473)?;
        third.await_log("controller starts", SOON)?;
        first.kill();
        let killed = Instant::now();
        create(&lab, services("killed", 1))?;
        await_address_within(&lab, "killed-0", LEASE + SLACK)?;
        let took = killed.elapsed();
        eprintln!("taken over from a killed leader after {took:?}");
        assert!(took <= LEASE + SLACK, "the next one gave an address {took:?} after the kill");
        assert_eq!(holder(&lab)?, "third");
        Ok(())
    })?;
    history.assert_steady();
    Ok(())
}
