//! Services and their addresses: what `herald controller` gives, to whom, and what it tells about it.
//!
//! The election and what a killed controller leaves behind are in [`election`] and [`killed`]; what MetalLB does not have in
//! [`beyond`].

mod beyond;
mod election;
mod killed;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use herald_e2e::{Lab, await_ok};
use serde_json::json;

use crate::services::{
    SOON, addresses_of, all, await_address, await_event, await_no_address, await_service, create, events, ip,
    service,
};

/// Two addresses, then four, then what only those get who ask for it.
const POOLS: &str = "\
address-pools:
- {name: small, protocol: bgp, addresses: [192.0.2.0/31]}
- {name: reserve, protocol: bgp, addresses: [192.0.2.16-192.0.2.19]}
- {name: asked, protocol: bgp, addresses: [192.0.2.200/32], auto-assign: false}
";

fn lab() -> Result<Lab> {
    Lab::builder().nodes(1).control_plane().start()
}

#[test]
#[ignore = "needs a network namespace"]
fn services_get_the_lowest_free_addresses_of_the_pools_in_their_order_and_describe_says_so() -> Result<()> {
    let lab = lab()?;
    let _controller = lab.controller("controller", &[])?;
    // The Service is older than the configuration: it is told why it waits, and given its address when there is one.
    create(&lab, [service("first", json!({}))])?;
    lab.configure_herald("peers: []\n")?;
    await_event(&lab, "default", "first", "AllocationFailed", "there is no address pool: add one")?;
    lab.configure_herald(POOLS)?;
    assert_eq!(await_address(&lab, "first")?, ip("192.0.2.0"));
    for (name, address) in [("second", "192.0.2.1"), ("third", "192.0.2.16")] {
        create(&lab, [service(name, json!({}))])?;
        assert_eq!(await_address(&lab, name)?, ip(address));
    }
    let third = &all(&lab)?["third"];
    let annotations = third.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get("metallb.io/ip-allocated-from-pool").map(String::as_str), Some("reserve"));
    let managers = third.metadata.managed_fields.iter().flatten();
    let of_status: Vec<_> = managers.filter(|entry| entry.subresource.as_deref() == Some("status")).collect();
    assert!(
        of_status.iter().all(|entry| entry.manager.as_deref() == Some("herald-controller")
            && entry.operation.as_deref() == Some("Apply")),
        "{of_status:?}"
    );
    await_event(&lab, "default", "third", "IPAllocated", "192.0.2.16")?;
    let described = lab.kubectl(&["describe", "service", "third"])?;
    assert!(
        described.lines().any(|line| line.contains("IPAllocated")
            && line.contains("herald-controller")
            && line.contains("Assigned IP [\"192.0.2.16\"]")),
        "{described}"
    );
    let table = lab.kubectl(&["get", "services", "third"])?;
    assert!(table.contains("192.0.2.16"), "{table}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn services_get_what_they_ask_for_or_are_told_what_to_do() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald(POOLS)?;
    let _controller = lab.controller("controller", &[])?;
    let asks = |name: &str, address: &str| service(name, json!({ "spec": { "loadBalancerIP": address } }));
    let annotated = |name: &str, key: &str, value: &str| {
        service(name, json!({ "metadata": { "annotations": { key: value } } }))
    };
    create(
        &lab,
        [
            asks("by-field", "192.0.2.18"),
            annotated("by-annotation", "metallb.io/loadBalancerIPs", "192.0.2.1"),
            annotated("by-old-annotation", "metallb.universe.tf/address-pool", "asked"),
        ],
    )?;
    for (name, address) in
        [("by-field", "192.0.2.18"), ("by-annotation", "192.0.2.1"), ("by-old-annotation", "192.0.2.200")]
    {
        assert_eq!(await_address(&lab, name)?, ip(address), "{name}");
    }
    create(
        &lab,
        [
            asks("outside", "198.51.100.1"),
            asks("held", "192.0.2.18"),
            annotated("no-pool", "metallb.io/address-pool", "nowhere"),
            annotated("no-address", "metallb.io/loadBalancerIPs", "localhost"),
        ],
    )?;
    for (name, reason, remedy) in [
        ("outside", "AllocationFailed", "198.51.100.1 is in no pool: add it to one or request another"),
        ("held", "AllocationFailed", "192.0.2.18 was requested but default/by-field has it"),
        ("no-pool", "AllocationFailed", "there is no pool \"nowhere\": correct the annotation"),
        ("no-address", "LoadBalancerFailed", "\"localhost\" is no IP address: request one like 192.0.2.10"),
    ] {
        await_event(&lab, "default", name, reason, remedy)?;
    }
    let described = lab.kubectl(&["describe", "service", "held"])?;
    assert!(described.contains("AllocationFailed") && described.contains("Warning"), "{described}");

    // Who asks for nothing is not held up, and who asks for better is served.
    create(&lab, [service("modest", json!({}))])?;
    assert_eq!(await_address(&lab, "modest")?, ip("192.0.2.0"));
    lab.delete("v1/Service", "default", "by-field")?;
    assert_eq!(await_address(&lab, "held")?, ip("192.0.2.18"));
    lab.apply(&asks("modest", "192.0.2.17").to_string())?;
    await_service(&lab, "modest", SOON, "the address that it asks for now", |service| {
        addresses_of(service) == [ip("192.0.2.17")]
    })?;
    for name in ["outside", "no-pool", "no-address"] {
        assert_eq!(addresses_of(&all(&lab)?[name]), [] as [IpAddr; 0], "{name}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn services_of_another_load_balancer_class_are_somebody_elses() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald(POOLS)?;
    let controller = lab.controller("controller", &[])?;
    let class = "lb.example/other";
    create(
        &lab,
        [service("classy", json!({ "spec": { "loadBalancerClass": class } })), service("plain", json!({}))],
    )?;
    assert_eq!(await_address(&lab, "plain")?, ip("192.0.2.0"));
    create(&lab, [service("later", json!({}))])?;
    assert_eq!(await_address(&lab, "later")?, ip("192.0.2.1"));
    // Every one of them was planned after the Service with the class.
    assert_eq!(addresses_of(&all(&lab)?["classy"]), [] as [IpAddr; 0]);
    assert_eq!(events(&lab, "default", "classy")?, []);

    controller.terminate(SOON)?;
    let controller = lab.controller("of-the-class", &[&format!("--lb-class={class}")])?;
    // Others' addresses are seen and not given again, others' Services are left alone.
    let before = all(&lab)?;
    assert_eq!(await_address(&lab, "classy")?, ip("192.0.2.16"));
    for name in ["plain", "later"] {
        assert_eq!(all(&lab)?[name].metadata.resource_version, before[name].metadata.resource_version);
    }
    assert_eq!(controller.log().matches("written").count(), 1, "{}", controller.log_tail());
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_freed_address_rests_and_is_given_early_only_when_nothing_else_is_left() -> Result<()> {
    const COOL_DOWN: Duration = Duration::from_secs(5);
    let lab = lab()?;
    let config = |pool: &str| {
        format!(
            "address-pools:\n- {{name: p, protocol: bgp, addresses: [{pool}]}}\nherald: {{cool-down: 5s}}\n"
        )
    };
    lab.configure_herald(&config("192.0.2.0/30"))?;
    let controller = lab.controller("controller", &[])?;
    let given = |name: &str, address: &str| -> Result<()> {
        create(&lab, [service(name, json!({}))])?;
        assert_eq!(await_address(&lab, name)?, ip(address), "{name}: {}", controller.log_tail());
        Ok(())
    };
    given("a", "192.0.2.0")?;
    given("b", "192.0.2.1")?;
    // By another type, and by deletion.
    let begin = Instant::now();
    lab.apply(&service("a", json!({ "spec": { "type": "ClusterIP" } })).to_string())?;
    await_no_address(&lab, "a")?;
    let annotations = all(&lab)?["a"].metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get("metallb.io/ip-allocated-from-pool"), None);
    lab.delete("v1/Service", "default", "b")?;
    given("c", "192.0.2.2")?;
    given("d", "192.0.2.3")?;
    assert!(begin.elapsed() < COOL_DOWN, "the machine is too slow to see an address rest");
    // Nothing else is left: who has rested longest goes first.
    given("e", "192.0.2.0")?;
    given("f", "192.0.2.1")?;

    create(&lab, [service("g", json!({}))])?;
    let note = await_event(&lab, "default", "g", "AllocationFailed", "no IPv4 address is free in p")?;
    assert!(note.contains("add addresses or delete a Service"), "{note}");
    assert_eq!(addresses_of(&all(&lab)?["g"]), [] as [IpAddr; 0]);
    let begin = Instant::now();
    lab.delete("v1/Service", "default", "c")?;
    assert_eq!(await_address(&lab, "g")?, ip("192.0.2.2"));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "the Service that waited had its address after {took:?}");

    // With room enough the freed address comes back after the cool-down, and not before.
    lab.configure_herald(&config("192.0.2.0/24"))?;
    controller.await_log("configuration taken", SOON)?;
    let begin = Instant::now();
    lab.delete("v1/Service", "default", "e")?;
    let mut tries = 0;
    await_ok(SOON, "the lowest address to be given again", || {
        let name = format!("try-{tries}");
        tries += 1;
        create(&lab, [service(&name, json!({}))])?;
        let address = await_address(&lab, &name)?;
        lab.delete("v1/Service", "default", &name)?;
        if address != ip("192.0.2.0") {
            bail!("{name} has {address}");
        }
        Ok(())
    })?;
    assert!(begin.elapsed() >= COOL_DOWN, "given again after {:?}", begin.elapsed());
    assert!(tries > 1);
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_status_that_somebody_else_wrote_is_put_right_and_costs_nobody_an_address() -> Result<()> {
    let lab = lab()?;
    lab.configure_herald(POOLS)?;
    let controller = lab.controller("controller", &["--identity=herald-0"])?;
    let forge = |name: &str, entry: &str| {
        let patch = format!(r#"{{"status": {{"loadBalancer": {{"ingress": [{entry}]}}}}}}"#);
        lab.kubectl(&["patch", "service", name, "--subresource=status", "--type=merge", "-p", &patch])
    };
    let has = |name: &str, address: &str| {
        await_service(&lab, name, SOON, &format!("only {address}"), |service| {
            addresses_of(service) == [ip(address)]
        })
        .map(drop)
    };
    create(&lab, [service("first", json!({}))])?;
    has("first", "192.0.2.0")?;
    create(&lab, [service("second", json!({}))])?;
    has("second", "192.0.2.1")?;
    for entry in [
        r#"{"ip": "198.51.100.7"}"#,
        r#"{"ip": "192.0.2.0"}"#,
        r#"{"ip": "192.0.2.17"}"#,
        r#"{"hostname": "lb.example"}"#,
        r#"{"ip": "192.0.2.1"}, {"ip": "192.0.2.0"}"#,
        "",
    ] {
        forge("second", entry)?;
        has("second", "192.0.2.1")?;
    }
    has("first", "192.0.2.0")?;

    // While no controller runs: who came first keeps the address, the other gets one of its own.
    controller.kill();
    create(&lab, [service("third", json!({})), service("fourth", json!({}))])?;
    forge("second", r#"{"ip": "192.0.2.0"}"#)?;
    forge("third", r#"{"ip": "198.51.100.7"}"#)?;
    forge("fourth", r#"{"ip": "192.0.2.19"}"#)?;
    let _controller = lab.controller("controller-2", &["--identity=herald-0"])?;
    for name in ["second", "third", "fourth"] {
        await_service(&lab, name, SOON, "an address of a pool", |service| {
            let addresses = addresses_of(service);
            addresses.len() == 1 && addresses[0] != ip("192.0.2.0") && addresses[0] != ip("198.51.100.7")
        })?;
    }
    has("first", "192.0.2.0")?;
    has("fourth", "192.0.2.19")?;
    let mut given: Vec<IpAddr> = all(&lab)?.values().flat_map(addresses_of).collect();
    given.sort();
    assert_eq!(given, ["192.0.2.0", "192.0.2.1", "192.0.2.16", "192.0.2.19"].map(ip));
    Ok(())
}
