//! What a switch and its hosts see: one hardware address for each address, whatever happens, and hosts that follow it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Node, await_ok};

use super::recorder::{Mac, Recorder, owners};
use super::{Layer2, await_next, recorder};
use crate::order::{SOON, ready};

/// From the first frame of a new owner to the last one of the old one: a planned move's owner answers until it has heard
/// that another one has claimed.
const WINDOW: Duration = Duration::from_millis(200);
/// A gratuitous frame reaches all hosts at once, or else 1.1 s later.
const FOLLOWS: Duration = Duration::from_secs(2);
/// An address that no host has.
const NOBODY: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 99), 9);
/// Where hellos are received.
const HELLO: u16 = 7947;

#[test]
#[ignore = "needs a network namespace"]
fn a_switch_that_snoops_sees_one_hardware_address_for_each_address_over_planned_and_unplanned_moves()
-> Result<()> {
    let mut layer2 = Layer2::start()?;
    // A querier of its own that everybody has answered after a second.
    layer2.lab.lan().ip(&[
        "link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 100",
    ])?;
    let vips = layer2.service("web")?;
    for vip in vips {
        let recorder = Recorder::start(layer2.lab.lan())?;
        let owner = layer2.owner(vip.ip(), None)?.clone();
        await_group(&layer2, vip.ip(), &owner)?;
        asked(&layer2, vip)?;
        let mut macs = vec![mac(&owner)?];
        // Planned.
        layer2.lab.kubectl(&["label", "node", &owner.name, super::EXCLUDED])?;
        let next = layer2.owner(vip.ip(), Some(&owner))?.clone();
        asked(&layer2, vip)?;
        layer2.include(&owner)?;
        await_next(&owner, vip.ip())?;
        macs.push(mac(&next)?);
        // Unplanned.
        layer2.speakers.get(usize::from(next.index) - 1).context("its speaker")?.kill();
        layer2.owner(vip.ip(), Some(&next))?;
        asked(&layer2, vip)?;
        macs.push(mac(&owner)?);
        let restarted = layer2.lab.speaker(&next, &[])?;
        layer2.speakers[usize::from(next.index) - 1] = restarted;
        ready(&next)?;
        await_next(&next, vip.ip())?;
        let seen = recorder.stop()?;
        let claims = seen.get(&vip.ip()).context("nothing was seen of it")?;
        let found = owners(claims, WINDOW);
        ensure!(found == macs, "{vip}: {found:02x?}, not {macs:02x?}");
        ensure!(claims.len() > 20, "{} frames", claims.len());
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn hosts_follow_a_new_owner_whatever_they_thought_of_the_old_one() -> Result<()> {
    let mut layer2 = Layer2::start()?;
    for vip in layer2.service("web")? {
        for state in ["reachable", "stale", "delay"] {
            let owner = layer2.owner(vip.ip(), None)?.clone();
            let router = &layer2.lab.router().ns;
            let known =
                format!("neigh replace {} lladdr {} dev lan nud {state}", vip.ip(), text(mac(&owner)?));
            router.ip(&[known])?;
            layer2.speakers.get(usize::from(owner.index) - 1).context("its speaker")?.kill();
            let next = layer2.owner(vip.ip(), Some(&owner))?.clone();
            let wanted = text(mac(&next)?);
            await_ok(FOLLOWS, &format!("a host with a {state} entry to follow to {wanted}"), || {
                let entry = router.exec(&["ip", "neigh", "show", &vip.ip().to_string(), "dev", "lan"])?;
                ensure!(entry.contains(&wanted), "{entry}");
                Ok(())
            })?;
            router.get(vip).context("a connection to the new owner")?;
            let restarted = layer2.lab.speaker(&owner, &[])?;
            layer2.speakers[usize::from(owner.index) - 1] = restarted;
            ready(&owner)?;
            await_next(&owner, vip.ip())?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn hostile_datagrams_and_frames_move_nothing_and_are_counted() -> Result<()> {
    let layer2 = Layer2::start()?;
    let [vip, _] = layer2.service("web")?;
    let owner = layer2.owner(vip.ip(), None)?.clone();
    let router = &layer2.lab.router().ns;
    let recorder = Recorder::start(layer2.lab.lan())?;
    // Datagrams that are none, that are of another key, and recorded ones, sent to a node itself.
    let recorded = recorder::hello(&owner, HELLO, SOON)?;
    let mut forged = recorded.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let hostile = [vec![0; 1], vec![0xff; 1472], b"HRLD".to_vec(), forged, recorded];
    let to = SocketAddr::from((owner.ip, HELLO));
    router.run(|| -> Result<()> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        for _ in 0..200 {
            for datagram in &hostile {
                socket.send_to(datagram, to)?;
            }
        }
        Ok(())
    })??;
    let refused = |reason: &str| format!("herald_layer2_hellos_refused_total{{reason=\"{reason}\"}}");
    await_ok(SOON, "what is hostile to be counted", || {
        let metrics = metrics(&owner)?;
        for reason in ["foreign", "unauthenticated"] {
            ensure!(value(&metrics, &refused(reason)).unwrap_or_default() >= 100.0, "{reason}");
        }
        Ok(())
    })?;
    // A host that has the address as well, and asks for another one from it: told by an Event, and the address is told anew.
    router.ip(&[format!("addr add {}/32 dev lan", vip.ip())])?;
    router.run(|| UdpSocket::bind((vip.ip(), 0))?.send_to(&[0], NOBODY))??;
    await_ok(SOON, "the Event of a conflict", || {
        let events = layer2.lab.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        ensure!(events.contains("AddressConflict"), "{events}");
        Ok(())
    })?;
    router.ip(&[format!("addr del {}/32 dev lan", vip.ip())])?;
    ensure!(layer2.owner(vip.ip(), None)?.index == owner.index, "it moved");
    layer2.forget(vip)?;
    router.get(vip)?;
    let seen = recorder.stop()?;
    let nodes: BTreeSet<Mac> = layer2.lab.nodes().iter().map(mac).collect::<Result<_>>()?;
    let claims = seen.get(&vip.ip()).context("nothing was seen")?;
    let of_nodes: BTreeSet<Mac> =
        claims.iter().map(|claim| claim.mac).filter(|mac| nodes.contains(mac)).collect();
    ensure!(of_nodes == BTreeSet::from([mac(&owner)?]), "{of_nodes:02x?}");
    Ok(())
}

/// Has hosts ask where an address is, again and again, and connect.
fn asked(layer2: &Layer2, vip: SocketAddr) -> Result<()> {
    for _ in 0..10 {
        layer2.forget(vip)?;
        layer2.lab.router().ns.get(vip)?;
    }
    Ok(())
}

/// Waits until the switch knows that a node wants the solicitations of an address.
fn await_group(layer2: &Layer2, vip: IpAddr, owner: &Node) -> Result<()> {
    let IpAddr::V6(v6) = vip else { return Ok(()) };
    let [.., a, b, c] = v6.octets();
    let group = format!("grp ff02::1:ff{a:02x}:{:x} ", u16::from_be_bytes([b, c]));
    await_ok(SOON, &format!("the switch to know {group}of {}", owner.name), || {
        let groups = layer2.lab.lan().exec(&["bridge", "mdb", "show", "dev", "br0"])?;
        let port = format!("port {} ", owner.name);
        ensure!(groups.lines().any(|line| line.contains(&port) && line.contains(&group)), "{groups}");
        Ok(())
    })
}

pub(super) fn metrics(node: &Node) -> Result<String> {
    let path = herald_e2e::HttpOptions::default().path("/metrics");
    Ok(node.ns.http(herald_e2e::at("127.0.0.1", 7472), &path)?.body)
}

pub(super) fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// The hardware address of a node on the segment.
pub(super) fn mac(node: &Node) -> Result<Mac> {
    let links = node.ns.exec(&["ip", "-o", "link", "show", "dev", "eth0"])?;
    let mut words = links.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let octets =
        words.next().context("no hardware address")?.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<u8> = octets.collect::<Result<_, _>>()?;
    octets.try_into().map_err(|octets| anyhow::anyhow!("{octets:02x?}"))
}

pub(super) fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
