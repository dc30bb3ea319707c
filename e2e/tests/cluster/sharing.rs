//! Several Services on one address (`metallb.io/allow-shared-ip`): who may, and that each can go without harm to the others.

use std::net::IpAddr;

use anyhow::Result;
use herald_e2e::{Lab, PodOptions, PollOptions, Poller, Process, at, await_ok};
use serde_json::{Value, json};

use crate::services::{
    SOON, addresses_of, all, await_address, await_event, await_service, create, events, ip, received,
    service, sessions_begun,
};

const VIP: &str = "192.0.2.1";
const PREFIX: &str = "192.0.2.1/32";
const CONFIG: &str = "\
peers:
- {my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1}
address-pools:
- {name: p, protocol: bgp, addresses: [192.0.2.0/24]}
herald: {local-addresses: load-balancer}
";

/// A Service on [`VIP`] that shares it with those of the same key.
fn sharer(name: &str, key: &str, port: u16) -> Value {
    service(
        name,
        json!({
            "metadata": { "annotations": { "metallb.io/allow-shared-ip": key } },
            "spec": { "loadBalancerIP": VIP, "ports": [{ "port": port, "targetPort": 8080 }] },
        }),
    )
}

fn has_vip(lab: &Lab, name: &str) -> Result<()> {
    assert_eq!(await_address(lab, name)?, ip(VIP), "{name}");
    Ok(())
}

/// Its only port becomes this one.
fn change_port(lab: &Lab, name: &str, port: u16) -> Result<()> {
    let patch = format!(r#"[{{"op": "replace", "path": "/spec/ports", "value": [{{"port": {port}}}]}}]"#);
    lab.kubectl(&["patch", "service", name, "--type=json", "-p", &patch]).map(drop)
}

/// A node answers on its own, through the address on its `lo`.
fn await_on_node(lab: &Lab, port: u16) -> Result<()> {
    let ns = &lab.node(1).ns;
    await_ok(SOON, &format!("port {port} on the node"), || ns.get(at(VIP, port)).map(drop))
}

#[test]
#[ignore = "needs a network namespace"]
fn of_two_services_on_one_address_either_may_go_and_the_other_stays_announced_and_served() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let mut herald: Vec<Process> = lab.speakers(&[])?;
    herald.push(lab.controller("controller", &[])?);
    for node in lab.nodes() {
        lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
    }
    let hops: Vec<IpAddr> = lab.nodes().iter().map(|node| node.ip.into()).collect();
    let router = lab.router();
    let (first, second) = (sharer("first", "a", 80), sharer("second", "a", 81));
    create(&lab, [first.clone()])?;
    has_vip(&lab, "first")?;
    create(&lab, [second.clone()])?;
    has_vip(&lab, "second")?;
    router.await_route(PREFIX, &hops, SOON)?;
    router.await_kernel_route(PREFIX, 2, SOON)?;
    for port in [80, 81] {
        await_ok(SOON, &format!("port {port} to be served"), || lab.client().get(at(VIP, port)).map(drop))?;
        await_on_node(&lab, port)?;
    }
    let counters = || -> Result<Vec<_>> {
        lab.nodes()
            .iter()
            .map(|node| Ok((received(router, &node.name)?, sessions_begun(router, &node.name)?)))
            .collect()
    };
    let before = counters()?;
    assert_eq!(before[0].0, (1, 0), "one announcement for both: {before:?}");

    // Each goes once, in each of the ways in which a Service goes.
    let nobody = |object: &Value| {
        let mut object = object.clone();
        object["spec"]["selector"] = json!({ "app": "nobody" });
        object.to_string()
    };
    let inward = |object: &Value| {
        let mut object = object.clone();
        object["spec"]["type"] = json!("ClusterIP");
        object["spec"]["loadBalancerIP"] = Value::Null;
        object.to_string()
    };
    for (goes, goes_at, stays_at) in [(&first, 80, 81), (&second, 81, 80)] {
        let name = goes["metadata"]["name"].as_str().unwrap_or_default();
        let poller = Poller::start(lab.client(), at(VIP, stays_at), PollOptions::default())?;
        poller.await_answers(10, SOON)?;
        for way in ["deleted", "without endpoints", "of another type"] {
            match way {
                "deleted" => lab.delete("v1/Service", "default", name)?,
                "without endpoints" => lab.apply(&nobody(goes)).map(drop)?,
                _ => lab.apply(&inward(goes)).map(drop)?,
            }
            // The port is closed on every node, for those who come through the router as for the node itself.
            for ns in lab.nodes().iter().map(|node| &node.ns).chain([lab.client()]) {
                await_ok(SOON, &format!("port {goes_at} of {name} to be closed, {way}"), || {
                    match ns.get(at(VIP, goes_at)) {
                        Ok(answer) => Err(format!("{answer:?}")),
                        Err(_) => Ok(()),
                    }
                })?;
            }
            poller.await_answers(50, SOON)?;
            assert_eq!(router.next_hops(PREFIX)?, hops, "{name} {way}");
            await_on_node(&lab, stays_at)?;
            lab.delete("v1/Service", "default", name)?;
            create(&lab, [goes.clone()])?;
            has_vip(&lab, name)?;
            await_ok(SOON, &format!("port {goes_at} to be served again"), || {
                lab.client().get(at(VIP, goes_at)).map(drop)
            })?;
        }
        poller.stop()?.assert_no_loss();
    }
    assert_eq!(counters()?, before, "nothing was withdrawn or announced again");

    // The last one takes the route and the address with it.
    lab.delete("v1/Service", "default", "first")?;
    assert_eq!(router.next_hops(PREFIX)?, hops);
    lab.delete("v1/Service", "default", "second")?;
    router.await_route(PREFIX, &[], SOON)?;
    await_ok(SOON, "the address to leave lo", || {
        let shown = lab.node(1).ns.exec(&["ip", "-o", "address", "show", "dev", "lo"])?;
        if shown.contains(VIP) { Err(anyhow::anyhow!(shown)) } else { Ok(()) }
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_service_that_must_not_share_an_address_waits_and_is_told_why_until_it_may() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    create(&lab, [sharer("first", "a", 80)])?;
    has_vip(&lab, "first")?;
    let local = |name: &str| {
        let mut object = sharer(name, "a", 82);
        object["spec"]["externalTrafficPolicy"] = json!("Local");
        object
    };
    create(&lab, [sharer("same-port", "a", 80), sharer("other-key", "b", 81), local("other-policy")])?;
    for (name, why) in [
        ("same-port", "both have the port TCP/80, which cannot be shared"),
        ("other-key", "sharing needs the same metallb.io/allow-shared-ip on both"),
        ("other-policy", "sharing needs externalTrafficPolicy Cluster on both"),
    ] {
        let note = await_event(&lab, "default", name, "AllocationFailed", "default/first has it")?;
        assert!(note.contains(why), "{note}");
        assert_eq!(addresses_of(&all(&lab)?[name]), [] as [IpAddr; 0], "{name}");
    }

    // The reason is gone by its own change, or by that of the other one.
    change_port(&lab, "same-port", 443)?;
    has_vip(&lab, "same-port")?;
    lab.delete("v1/Service", "default", "first")?;
    await_event(&lab, "default", "other-key", "AllocationFailed", "default/same-port has it")?;
    lab.delete("v1/Service", "default", "same-port")?;
    // One of the two has it now, and keeps the other off.
    await_ok(SOON, "one of the two that wait to be served", || {
        let served: Vec<String> = all(&lab)?
            .into_iter()
            .filter(|(_, service)| addresses_of(service) == [ip(VIP)])
            .map(|(name, _)| name)
            .collect();
        if served.len() == 1 { Ok(()) } else { Err(anyhow::anyhow!("{served:?}")) }
    })?;
    assert!(events(&lab, "default", "first")?.iter().all(|(reason, _)| reason == "IPAllocated"));
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_sharer_that_takes_a_port_of_another_loses_the_address_and_the_other_keeps_it() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    create(&lab, [sharer("first", "a", 80)])?;
    has_vip(&lab, "first")?;
    create(&lab, [sharer("second", "a", 81)])?;
    has_vip(&lab, "second")?;
    change_port(&lab, "second", 80)?;
    await_service(&lab, "second", SOON, "no address", |service| addresses_of(service).is_empty())?;
    await_event(&lab, "default", "second", "AllocationFailed", "default/first has it")?;
    assert_eq!(addresses_of(&all(&lab)?["first"]), [ip(VIP)]);
    change_port(&lab, "second", 82)?;
    has_vip(&lab, "second")?;
    assert_eq!(addresses_of(&all(&lab)?["first"]), [ip(VIP)]);
    Ok(())
}
