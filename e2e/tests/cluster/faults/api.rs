//! An API server that is there and of little use: what serves goes on serving, it is told once, and what was asked meanwhile is done
//! as soon as it can be.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{Fault, Lab, NAMESPACE, await_ok, await_until};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use super::{CONFIG, Served, WEB};
use crate::services::{History, SOON, addresses_of, all, await_address, create, ip, log_after, service};

/// From the end of a fault until all is as it should be: watches ask again after two seconds, whoever leads holds a Lease.
const AFTER: Duration = Duration::from_secs(30);
/// What an outage may write, of one process.
const LINES: usize = 60;

#[test]
#[ignore = "needs a network namespace"]
fn an_api_server_that_is_slow_refuses_forgets_or_breaks_off_costs_no_route_and_is_told() -> Result<()> {
    let served = Served::behind_a_faulty_api()?;
    let (lab, api) = (&served.lab, served.api.as_ref().unwrap());
    let before = served.sessions()?;
    let poller = served.poll()?;
    // Whether a Service is served meanwhile, or after that; and what the logs of all say.
    let cases = [
        (Fault::Slow(Duration::from_secs(5)), true, None),
        (Fault::Expired, true, None),
        (Fault::Refuses(429), false, Some("429 (TooManyRequests)")),
        (Fault::Refuses(401), false, Some("401 (Unauthorized)")),
        (Fault::CutsLists, false, Some("watch failed; what is known stays in force")),
    ];
    for (n, (fault, serves, word)) in cases.into_iter().enumerate() {
        let seen: Vec<usize> = served.everybody().map(|process| process.log().len()).collect();
        let spoiled = api.spoiled();
        let begin = Instant::now();
        api.turn(fault.clone());
        let address = format!("192.0.2.{}", n + 1);
        let name = format!("during-{n}");
        if serves {
            let took = served.works(&name, &address, json!({}), Duration::from_secs(60))?;
            ensure!(api.spoiled() > spoiled);
            eprintln!("{fault:?}: a new Service works after {took:?}");
        } else {
            create(lab, [service(&name, json!({}))])?;
            let fifteen = || (api.spoiled() >= spoiled + 15).then_some(());
            await_until(SOON, "everybody to have met it", fifteen)?;
            for (process, seen) in served.everybody().zip(&seen) {
                let told = || log_after(process, *seen).contains(word.unwrap_or_default()).then_some(());
                await_until(SOON, "a word of it", told)?;
            }
            ensure!(addresses_of(&all(lab)?[&name]).is_empty(), "{fault:?}: it was given an address");
        }
        api.turn(Fault::None);
        let lasted = begin.elapsed();
        let given = await_address(lab, &name)
            .with_context(|| format!("after {fault:?}: {}", served.controller.log_tail()))?;
        ensure!(given == ip(&address));
        lab.router().await_route(&format!("{address}/32"), &served.hops(), AFTER)?;
        await_ok(AFTER, "an answer", || lab.client().get((ip(&address), 80).into()).map(drop))?;
        eprintln!("{fault:?} for {lasted:?}: all is well after {:?}", begin.elapsed() - lasted);
        await_renewal(lab)?;
    }
    for (node, ((updates, withdrawals), begun)) in served.sessions()?.into_iter().enumerate() {
        let ((first, _), sessions) = &before[node];
        ensure!(
            (updates, withdrawals, begun) == (first + 5, 0, *sessions),
            "{updates} {withdrawals} {begun}"
        );
    }
    ensure!(lab.router().next_hops(WEB)? == served.hops());
    poller.stop()?.assert_no_loss();
    for process in served.everybody() {
        let lines = process.log().lines().count();
        ensure!(lines < LINES, "{} is noisy, {lines} lines: {}", process.name(), process.log_tail());
    }
    ensure!(served.controller.log().matches(" leading ").count() == 1, "{}", served.controller.log_tail());
    Ok(())
}

/// So that the next fault meets a leader whose Lease is fresh: each is borne by itself, not all of them in a row.
fn await_renewal(lab: &Lab) -> Result<()> {
    let version = || {
        lab.block_on(async |client| {
            let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
            Ok(leases.get("herald-controller").await?.metadata.resource_version)
        })
    };
    let before = version()?;
    await_ok(SOON, "a renewal of the Lease", || {
        ensure!(version()? != before);
        Ok(())
    })
}

/// Its disk hangs: reads are answered from the API server's memory, writes by nobody.
#[test]
#[ignore = "needs a network namespace"]
fn an_etcd_that_hangs_costs_no_route_and_the_leader_that_cannot_renew_leads_again() -> Result<()> {
    let served = Served::start()?;
    let lab = &served.lab;
    let before = served.sessions()?;
    let poller = served.poll()?;
    let seen: Vec<usize> = served.everybody().map(|process| process.log().len()).collect();
    lab.freeze_etcd()?;
    let told = || log_after(&served.controller, seen[2]).contains("not leading any more").then_some(());
    await_until(Duration::from_secs(60), "the Lease to be lost", told)?;
    ensure!(served.sessions()? == before, "no update, no withdrawal, no new session");
    lab.thaw_etcd()?;
    served.works("after", "192.0.2.1", json!({}), Duration::from_secs(60))?;
    poller.stop()?.assert_no_loss();
    for (process, seen) in served.everybody().zip(seen) {
        let log = log_after(process, seen);
        ensure!(log.lines().count() < LINES, "{} is noisy: {log}", process.name());
    }
    Ok(())
}

/// Its view of the Services is old while that of the configuration is not: what it decides by it must not be written over what is.
#[test]
#[ignore = "needs a network namespace"]
fn a_controller_with_a_stale_cache_gives_nothing_twice_and_overwrites_nothing() -> Result<()> {
    let served = Served::behind_a_faulty_api()?;
    let (lab, api) = (&served.lab, served.api.as_ref().unwrap());
    let of_pool = |pool: &str| json!({ "metadata": { "annotations": { "metallb.io/address-pool": pool } } });
    create(lab, [service("waits", of_pool("later")), service("waits-too", of_pool("later"))])?;
    for name in ["waits", "waits-too"] {
        crate::services::await_event(lab, "default", name, "AllocationFailed", "later")?;
    }
    let (history, ()) = History::during(lab, || {
        api.drift(Fault::HoldsWatches("/services"));
        // What the controller does not hear of: one is gone, one asks for something else, one is new.
        lab.delete("v1/Service", "default", "waits-too")?;
        lab.apply(&service("waits", of_pool("p")).to_string())?;
        create(lab, [service("new", of_pool("later"))])?;
        let seen = served.controller.log().len();
        lab.configure_herald(&format!(
            "{CONFIG}- {{name: later, protocol: bgp, addresses: [192.0.2.200/32]}}\n"
        ))?;
        // It has given the only address to one of those it knows, and the other one, which is gone, got none.
        let decided = || log_after(&served.controller, seen).contains("is free in later").then_some(());
        await_until(SOON, "a decision by what is not so any more", decided)?;
        ensure!(addresses_of(&all(lab)?["waits"]).is_empty(), "written over what it asks for now");
        api.drift(Fault::None);
        ensure!(await_address(lab, "waits")? == ip("192.0.2.1"));
        ensure!(await_address(lab, "new")? == ip("192.0.2.200"));
        Ok(())
    })?;
    let given = |name: &str, address: &str| {
        history.changes.iter().any(|(n, has)| n == name && has.as_deref() == Some(&[ip(address)]))
    };
    ensure!(!given("waits", "192.0.2.200") && !given("waits-too", "192.0.2.200"), "{:?}", history.changes);
    Ok(())
}
