//! An address attracts packets only while its rules are in the kernel: seen on the wire and in the kernel's own notifications,
//! and when somebody else takes the rules away.

pub(crate) mod bgp;
pub(crate) mod recorder;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Node, PodOptions, Process, at, await_ok, await_until};

use self::recorder::{Record, Recorder, What};

/// For what takes milliseconds where all is well.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The default of `--linger`.
const LINGER: Duration = Duration::from_secs(1);

/// BIRD as AS 100, the nodes as AS 42, and one pool of host routes.
pub(crate) fn config(pool: &str) -> String {
    format!(
        "peers:\n- {{my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1}}\n\
         address-pools:\n- {{name: default, protocol: bgp, addresses: [{pool}]}}\n"
    )
}

/// A lab with everything but pods and Services: speakers on all nodes, and the controller.
pub(crate) fn herald(lab: &Lab, config: &str, flags: &[&str]) -> Result<(Process, Vec<Process>)> {
    lab.configure_herald(config)?;
    let controller = lab.controller("controller", &[])?;
    let speakers = lab.speakers(flags)?;
    for node in lab.nodes() {
        ready(node)?;
    }
    Ok((controller, speakers))
}

/// Waits until the speaker of a node calls itself ready.
pub(crate) fn ready(node: &Node) -> Result<()> {
    await_ok(SOON, &format!("the speaker on {}", node.name), || {
        let path = herald_e2e::HttpOptions::default().path("/readyz");
        let answer = node.ns.http(at("127.0.0.1", 7472), &path)?;
        ensure!(answer.status == 200, "it says {}", answer.body);
        Ok(())
    })
}

/// A Service of type LoadBalancer for the pods of `app`, port 80 to their 8080, with further lines of its spec.
pub(crate) fn service(name: &str, app: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
         spec:\n  type: LoadBalancer\n  selector: {{app: {app}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n  {spec}\n"
    )
}

/// Waits for a Service's address.
pub(crate) fn address(lab: &Lab, name: &str) -> Result<Ipv4Addr> {
    await_ok(SOON, &format!("an address for {name}"), || {
        let jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let text = lab.kubectl(&["get", "service", name, "-o", jsonpath])?;
        text.parse().with_context(|| format!("it has “{text}”"))
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn on_the_wire_an_address_is_announced_after_its_rules_are_committed_and_withdrawn_before_they_go()
-> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    // As many addresses as Services: the second round gets those that the first one has just left.
    // Twenty Services that lose their pod at once would be held.
    let config = config("192.0.2.0-192.0.2.19") + "herald: {floor: {grace: 0s}}\n";
    let _herald = herald(&lab, &config, &[])?;
    lab.router().await_session("node1", SOON)?;
    let recorder = Recorder::start(&node.ns, node.ip)?;
    let twenty = |round: &str, spec: &str| -> Vec<String> {
        let name = |n: i32| format!("{round}-{n}");
        (0..20)
            .map(|n| {
                service(&name(n), "web", spec)
                    .replace("labels: {app: web}", &format!("labels: {{round: {round}}}"))
            })
            .collect()
    };
    let delete = |round: &str| {
        lab.kubectl(&["delete", "service", "-l", &format!("round={round}"), "--wait=false"]).map(drop)
    };

    for yaml in twenty("first", "") {
        lab.apply(&yaml)?;
    }
    await_routes(&lab, 20)?;
    // These are ready but for an address. They get those that are left, within the linger of their first holders, and what the
    // frontends lead to is replaced.
    lab.apply(&twenty("second", "externalTrafficPolicy: Local").join("---\n"))?;
    let twenty_of = |kind: &str, field: &str| {
        await_ok(SOON, &format!("20 times {field}"), || {
            let jsonpath = format!("jsonpath={{.items[*].{field}}}");
            let found = lab.kubectl(&["get", kind, "-l", "round=second", "-o", &jsonpath])?;
            ensure!(found.split_whitespace().count() == 20, "{found}");
            Ok(())
        })
    };
    twenty_of("endpointslices", "endpoints[0].conditions.ready")?;
    delete("first")?;
    twenty_of("services", "status.loadBalancer.ingress[0].ip")?;
    await_routes(&lab, 20)?;
    let not_ready = recorder::now()?;
    pod.set_ready(false)?;
    await_routes(&lab, 0)?;
    let ready = recorder::now()?;
    pod.set_ready(true)?;
    await_routes(&lab, 20)?;
    delete("second")?;
    await_until(SOON, "the kernel to serve none of them", || {
        let records = recorder.records();
        vips().all(|vip| !in_kernel(&records, (vip, 80).into())).then_some(())
    })?;
    let records = recorder.stop()?;
    // Without an endpoint there is nothing that packets on their way could reach: they are refused at once.
    let linger = |withdrawn: Duration| {
        if withdrawn > not_ready && withdrawn < ready { Duration::ZERO } else { LINGER * 9 / 10 }
    };
    vips().try_for_each(|vip| judge(&records, vip, linger))
}

fn vips() -> impl Iterator<Item = Ipv4Addr> {
    (0..20).map(|n| Ipv4Addr::new(192, 0, 2, n))
}

fn await_routes(lab: &Lab, count: usize) -> Result<()> {
    await_ok(SOON, &format!("{count} routes"), || {
        let found = lab.router().routes()?.len();
        ensure!(found == count, "there are {found}");
        Ok(())
    })
}

fn in_kernel(records: &[Record], frontend: SocketAddr) -> bool {
    let state = records.iter().rev().find_map(|record| match &record.what {
        What::Committed(to) if *to == frontend => Some(true),
        What::Removed(to) if *to == frontend => Some(false),
        _ => None,
    });
    state.unwrap_or_default()
}

/// The law, for one address: its frontend is in the kernel from before each announcement until the linger after the
/// withdrawal.
fn judge(records: &[Record], vip: Ipv4Addr, linger: impl Fn(Duration) -> Duration) -> Result<()> {
    let (frontend, prefix) = (SocketAddr::from((vip, 80)), format!("{vip}/32"));
    let kernel: Vec<&Record> = records
        .iter()
        .filter(|record| record.what == What::Committed(frontend) || record.what == What::Removed(frontend))
        .collect();
    let routes: Vec<&Record> = records
        .iter()
        .filter(|record| match &record.what {
            What::Announced(what, _) | What::Withdrawn(what) => *what == prefix,
            _ => false,
        })
        .collect();
    let story = || format!("the kernel's {kernel:#?}, the routes' {routes:#?}");
    let (lives, rest) = routes.as_chunks::<2>();
    ensure!(lives.len() >= 2 && rest.is_empty(), "{prefix} had other lives: {}", story());
    for (life, [up, down]) in lives.iter().enumerate() {
        ensure!(
            matches!(up.what, What::Announced(..)) && matches!(down.what, What::Withdrawn(_)),
            "{prefix} was withdrawn first, or announced twice: {}",
            story()
        );
        // All that had happened for certain, and then perhaps what may have.
        let certain = kernel.iter().filter(|record| record.at <= up.at).count();
        let possible = kernel.iter().filter(|record| record.after < up.at).count();
        let present = (certain..=possible)
            .any(|count| kernel[..count].last().is_some_and(|last| matches!(last.what, What::Committed(_))));
        ensure!(present, "{prefix} was announced at {:?} without rules: {}", up.at, story());
        // After the next announcement it is the next life's.
        let next = lives.get(life + 1).map_or(Duration::MAX, |[up, _]| up.at);
        let wanted_until = next.min(down.at + linger(down.at));
        let gone = kernel.iter().find(|record| {
            matches!(record.what, What::Removed(_)) && record.after > up.at && record.at < wanted_until
        });
        ensure!(
            gone.is_none(),
            "rules of {prefix} were wanted until {wanted_until:?}, {gone:?}: {}",
            story()
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn rules_that_vanish_are_put_back_and_while_they_cannot_be_nothing_is_announced() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let (_controller, speakers) = herald(&lab, &config("192.0.2.0/24"), &[])?;
    lab.apply(&[service("one", "web", ""), service("two", "web", "")].join("---\n"))?;
    let vips = [at("192.0.2.0", 80), at("192.0.2.1", 80)];
    let works = |what: &str| {
        for vip in vips {
            lab.router().await_route(&format!("{}/32", vip.ip()), &[node.ip.into()], SOON)?;
            await_ok(SOON, what, || lab.client().get(vip))?;
        }
        anyhow::Ok(())
    };
    works("the Services")?;

    // As the host's firewall does when it is restarted. Nothing else changes that could draw Herald's eyes to it.
    node.ns.exec(&["nft", "flush ruleset"])?;
    works("the Services after a flush of all rules")?;
    node.ns.exec(&["nft", "delete table ip herald"])?;
    works("the Services after the loss of one table")?;
    ensure!(speakers[0].is_running(), "the speaker survives it");

    // A table that belongs to another process cannot be replaced: every batch is refused while that process lives.
    let mut owner = node.ns.run(|| {
        Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    })??;
    let mut input = owner.stdin.take().context("nft's input")?;
    input.write_all(b"delete table ip herald; add table ip herald { flags owner; }\n")?;
    for vip in vips {
        lab.router().await_route(&format!("{}/32", vip.ip()), &[], SOON)?;
    }
    lab.apply(&service("three", "web", ""))?;
    address(&lab, "three")?;
    await_ok(SOON, "an Event that says why", || {
        let events = lab.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        ensure!(events.contains("RulesRefused"), "{events}");
        Ok(())
    })?;
    ensure!(lab.router().routes()?.is_empty(), "a route without rules: {:?}", lab.router().routes()?);
    drop(input);
    owner.wait()?;
    works("the Services after the table is free again")?;
    lab.router().await_route("192.0.2.2/32", &[node.ip.into()], SOON)
}
