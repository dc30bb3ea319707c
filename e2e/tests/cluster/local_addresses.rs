//! Service addresses on the nodes' `lo`: what they open, what they do not, and that they come and go alone.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::{HttpOptions, Lab, Namespace, Node, PodOptions, Port, await_ok, await_until, holds_for};
use socket2::{Domain, Protocol, Socket, Type};

use crate::order::{SOON, address, config, herald, ready, service};

const FOREIGN: &str = "198.51.100.1";

fn with_local_addresses() -> String {
    config("192.0.2.0/24") + "herald: {local-addresses: load-balancer}\n"
}

/// The addresses of `lo`, in the form of ip(8), one per line.
fn addresses(node: &Node) -> Result<String> {
    node.ns.exec(&["ip", "-4", "-oneline", "address", "show", "dev", "lo"])
}

fn await_address(node: &Node, vip: Ipv4Addr, there: bool) -> Result<()> {
    await_ok(SOON, &format!("{vip} on lo of {}: {there}", node.name), || {
        let found = addresses(node)?;
        ensure!(found.contains(&format!(" {vip}/32 ")) == there, "{found}");
        Ok(())
    })
}

/// ICMP echo: whether it is answered.
fn ping(from: &Namespace, to: Ipv4Addr) -> Result<bool> {
    from.run(|| -> Result<bool> {
        let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        // Type 8; the sum of the words is 0x0800 + 0x4845, and the checksum what is left to 0xffff.
        socket.send_to(&[8, 0, 0xaf, 0xba, 0x48, 0x45, 0, 0], &SocketAddr::from((to, 0)).into())?;
        let mut packet = [0; 1500];
        loop {
            match socket.read(&mut packet) {
                // Type 0, from the address that was asked.
                Ok(28..)
                    if packet[20] == 0 && packet[12..16] == to.octets() && packet[24..26] == [0x48, 0x45] =>
                {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    })?
}

/// Whether somebody on the LAN says that an address is at its place, to a host that takes it for a neighbour.
fn answers_arp(host: &Namespace, address: &str) -> Result<bool> {
    host.ip(&[format!("route replace {address}/32 dev eth0")])?;
    let _ = host.udp((address.parse::<IpAddr>()?, 9).into(), Duration::from_millis(1));
    let found = await_until(SOON, &format!("ARP for {address} to end"), || {
        let neighbours = host.exec(&["ip", "neighbour", "show", "to", address]).ok()?;
        if neighbours.contains("lladdr") {
            Some(true)
        } else {
            neighbours.contains("FAILED").then_some(false)
        }
    });
    host.ip(&[format!("route del {address}/32 dev eth0")])?;
    found
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_on_lo_answers_ping_and_exposes_nothing_of_the_node() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let neighbour = lab.control_plane_ns();
    // Shorter than the default of 3 times 1 s: only so long must one wait to know that nobody answers.
    neighbour.sysctl(&[("net/ipv4/neigh/eth0/retrans_time_ms", "100")])?;
    let far = lab.pod(two, "web-1", &PodOptions::app("web"))?;
    let near = lab.pod(one, "other-1", &PodOptions::app("other"))?;
    let host = [Port::Tcp(22), Port::Tcp(8080), Port::Tcp(80), Port::Udp(53)];
    let _sshd = lab.serve(&one.ns, "the-host", &host)?;
    one.ns.ip(&[format!("address add {FOREIGN}/32 dev lo")])?;
    ensure!(answers_arp(neighbour, FOREIGN)?, "Linux answers ARP for addresses on lo, unless told otherwise");

    let _herald = herald(&lab, &with_local_addresses(), &[])?;
    lab.apply(&service("web", "web", ""))?;
    let vip = address(&lab, "web")?;
    lab.apply(&service("held", "nobody", ""))?;
    let held = address(&lab, "held")?;
    let node_port: u16 =
        lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"])?.parse()?;
    lab.router().await_kernel_route(&format!("{vip}/32"), 2, SOON)?;
    await_address(one, vip, true)?;
    await_address(one, held, true)?;
    // Everything of these goes to node 1.
    let via = |address: Ipv4Addr| format!("route replace {address}/32 via {}", one.ip);
    neighbour.ip(&[via(vip), via(held)])?;
    lab.router().ns.ip(&[format!("{} metric 1", via(vip)), format!("{} metric 1", via(held))])?;

    let short = HttpOptions::default().timeout(Duration::from_millis(200));
    let places = [
        ("client", lab.client()),
        ("neighbour", neighbour),
        ("pod", &far.ns),
        ("pod here", &near.ns),
        ("node", &one.ns),
    ];
    for (place, ns) in places {
        let served = ns.get((vip, 80).into()).map(|answer| answer.pod);
        ensure!(served == Ok("web-1".to_owned()), "{place}: the Service itself: {served:?}");
        ensure!(ping(ns, vip)?, "{place}: ping of {vip}");
        for address in [vip, held] {
            for port in [22, 8080, node_port, 6443, 7472] {
                let found = ns.http((address, port).into(), &short);
                ensure!(found.is_err(), "{place}: {address}:{port} is open: {found:?}");
            }
            let found = ns.udp((address, 53).into(), Duration::from_millis(200));
            ensure!(found.is_err(), "{place}: {address}:53 is open: {found:?}");
        }
        let found = ns.http((held, 80).into(), &short);
        ensure!(found.is_err(), "{place}: a Service without endpoints is open: {found:?}");
    }
    // The host's own services are where they were.
    for (place, ns) in places {
        ensure!(ns.get(one.at(22))?.pod == "the-host", "{place}: the host's port 22 at its own address");
    }

    // No trace on the LAN: nobody answers ARP for it, and no node asks in its name.
    ensure!(!answers_arp(neighbour, &vip.to_string())?, "ARP for {vip} is answered");
    one.ns.ip(&["neighbour flush dev eth0"])?;
    neighbour.ip(&[via(vip)])?;
    ensure!(ping(neighbour, vip)?, "ping after the node has forgotten its neighbours");
    let learned = neighbour.exec(&["ip", "neighbour"])?;
    ensure!(!learned.contains(&format!("{vip} dev eth0 lladdr")), "{learned}");
    // What the node itself sends, and what it masquerades, has the node's address.
    let seen = lab.client().get((vip, 80).into())?.client.map(|client| client.ip());
    ensure!(seen == Some(one.ip.into()), "masqueraded by {seen:?}");
    let shown = addresses(one)?;
    let line = shown.lines().find(|line| line.contains(&vip.to_string())).unwrap_or_default();
    ensure!(line.contains("scope host"), "a source that the kernel may choose: {line}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn addresses_on_lo_come_and_go_with_their_services_and_others_stay() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let arp =
        |key: &str| node.ns.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/all/{key}")));
    let sysctls =
        || anyhow::Ok([arp("arp_ignore")??, arp("arp_announce")??].map(|text| text.trim().to_owned()));
    ensure!(sysctls()? == ["0", "0"], "{:?}", sysctls()?);
    // Others' addresses, one of them from the pool, and the very one that the second Service gets.
    let others = [FOREIGN, "192.0.2.77", "192.0.2.1"];
    node.ns.ip(&others.map(|other| format!("address add {other}/32 dev lo")))?;
    let others_stay = || {
        let found = addresses(node)?;
        ensure!(others.iter().all(|other| found.contains(&format!(" {other}/32 "))), "{found}");
        anyhow::Ok(())
    };

    let (_controller, mut speakers) = herald(&lab, &with_local_addresses(), &[])?;
    lab.apply(&service("one", "web", ""))?;
    lab.apply(&service("two", "web", ""))?;
    let (first, second) = (address(&lab, "one")?, address(&lab, "two")?);
    ensure!(second == Ipv4Addr::new(192, 0, 2, 1), "the pool is used in order: {second}");
    for vip in [first, second] {
        lab.router().await_route(&format!("{vip}/32"), &[node.ip.into()], SOON)?;
        ensure!(lab.client().get((vip, 80).into())?.pod == "web-1", "{vip}");
    }
    await_address(node, first, true)?;
    let tagged = node.ns.exec(&["ip", "-4", "address", "show", "dev", "lo", "proto", "0x48"]);
    // ip(8) of Debian 12 knows the filter; the kernel since 5.18.
    if let Ok(tagged) = tagged {
        ensure!(
            tagged.contains(&first.to_string()) && !others.iter().any(|other| tagged.contains(other)),
            "{tagged}"
        );
    }
    ensure!(sysctls()? == ["1", "2"], "{:?}", sysctls()?);

    // Killed and started: the address stays all the time.
    speakers.remove(0).kill();
    let speaker = lab.speaker(node, &[])?;
    let held = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            holds_for(Duration::from_millis(1500), "the address over a restart", || match addresses(node) {
                Ok(found) if found.contains(&format!(" {first}/32 ")) => Ok(()),
                Ok(found) => Err(found),
                Err(error) => Err(format!("{error:#}")),
            })
        });
        ready(node)?;
        watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    held?;
    ensure!(speaker.log().contains("adopted"), "{}", speaker.log_tail());

    // Deleted while nobody looks: the next speaker removes what it adopted.
    speaker.kill();
    lab.delete("v1/Service", "default", "one")?;
    ensure!(addresses(node)?.contains(&format!(" {first}/32 ")), "nobody was there to remove it");
    let _speaker = lab.speaker(node, &[])?;
    await_address(node, first, false)?;
    others_stay()?;
    lab.delete("v1/Service", "default", "two")?;
    lab.router().await_route(&format!("{second}/32"), &[], SOON)?;
    others_stay()?;

    // From nothing to one and back: after the linger it is as it was before.
    drop(_speaker);
    node.ns.sysctl(&[("net/ipv4/conf/all/arp_ignore", "0"), ("net/ipv4/conf/all/arp_announce", "1")])?;
    let _speaker = lab.speaker(node, &[])?;
    lab.apply(&service("three", "web", ""))?;
    let third = address(&lab, "three")?;
    await_address(node, third, true)?;
    ensure!(sysctls()? == ["1", "2"], "{:?}", sysctls()?);
    // Not wanted any more, by the configuration.
    lab.configure_herald(&config("192.0.2.0/24"))?;
    await_address(node, third, false)?;
    await_ok(SOON, "the settings of before", || {
        ensure!(sysctls()? == ["0", "1"], "{:?}", sysctls()?);
        Ok(())
    })?;
    lab.router().await_route(&format!("{third}/32"), &[node.ip.into()], SOON)?;
    ensure!(lab.client().get((third, 80).into())?.pod == "web-1", "served without the address too");
    others_stay()
}
