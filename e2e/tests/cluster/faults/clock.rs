//! Clocks that are set: an hour ahead and an hour back, one node's and everybody's. Who leads, owns and announces stays who it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herald_e2e::{
    Clock, Lab, PodOptions, PollOptions, Poller, Process, RouterOptions, at, await_ok, await_until,
};
use serde_json::{Value, json};

use super::WEB;
use crate::history::history_json;
use crate::services::{SOON, await_address, create, ip, log_after, received, service, sessions_begun};
use crate::status::overview;

const CONFIG: &str = "\
peers:
- {my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1, bfd-profile: router}
bfd-profiles:
- {name: router, transmit-interval: 300, receive-interval: 300}
address-pools:
- {name: p, protocol: bgp, addresses: [192.0.2.0/28]}
- {name: lan, protocol: layer2, addresses: [10.0.0.200-10.0.0.215]}
";
const HOUR: i64 = 3600;
/// From the making of a Service to its answer; a Lease that had to be taken again would be 20 seconds.
const SERVED: Duration = Duration::from_secs(5);

/// Three nodes with `web` at 192.0.2.0 by BGP and `lan` at 10.0.0.200 by layer 2. The controller `herald-0` leads and `herald-1` waits, whose
/// clock and that of the API server, of the router and of whoever asks is the machine's.
struct Clocked {
    /// In the nodes' order.
    speakers: Vec<Process>,
    /// Of the speakers, then of the controller.
    clocks: Vec<Clock>,
    controller: Process,
    standby: Process,
    lab: Lab,
}

impl Clocked {
    fn start() -> Result<Self> {
        let lab = Lab::builder().nodes(3).control_plane().bird().start()?;
        lab.router().configure(&RouterOptions::t4(lab.nodes()).with_bfd(300))?;
        lab.configure_herald(CONFIG)?;
        let controller = lab.controller("controller", &["--identity=herald-0"])?;
        controller.await_log(" leading ", SOON)?;
        let standby =
            lab.controller("standby", &["--identity=herald-1", "--admin-address=127.0.0.1:7473"])?;
        let speakers = lab.speakers(&[])?;
        for node in lab.nodes() {
            lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
            lab.router().await_session(&node.name, SOON)?;
        }
        let clocks = speakers.iter().chain([&controller]).map(Clock::of).collect::<Result<_>>()?;
        let clocked = Self { speakers, clocks, controller, standby, lab };
        clocked.works("web", "p", "192.0.2.0")?;
        clocked.works("lan", "lan", "10.0.0.200")?;
        clocked.lab.router().await_kernel_route(WEB, 3, SOON)?;
        Ok(clocked)
    }

    /// A new Service of this pool has this address, and answers at it.
    fn works(&self, name: &str, pool: &str, address: &str) -> Result<()> {
        create(
            &self.lab,
            [service(name, json!({ "metadata": { "annotations": { "metallb.io/address-pool": pool } } }))],
        )?;
        ensure!(await_address(&self.lab, name)? == ip(address), "{}", self.controller.log_tail());
        let from = if pool == "p" { self.lab.client() } else { &self.lab.router().ns };
        await_ok(SOON, &format!("an answer of {name}"), || from.get(at(address, 80)).map(drop))
    }

    /// What all remember of both addresses and of the sessions, without the times.
    fn remembered(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for address in ["192.0.2.0", "10.0.0.200"] {
            let timeline = history_json(&self.lab, &[address])?;
            for line in timeline["lines"].as_array().into_iter().flatten() {
                for node in line["nodes"].as_array().into_iter().flatten() {
                    all.insert(format!("{node} {} {} {}", line["address"], line["what"], line["reason"]));
                }
            }
        }
        Ok(all)
    }

    /// Who owns the address of layer 2: all that offer it have to agree.
    fn owner(&self) -> Result<usize> {
        await_ok(SOON, "one owner", || {
            let timeline = history_json(&self.lab, &["10.0.0.200"])?;
            let owners = timeline["addresses"][0]["owners"].as_array().cloned().unwrap_or_default();
            let is = |owner: &Value| self.lab.nodes().iter().position(|node| owner["node"] == *node.name);
            let [owner] = &owners[..] else { anyhow::bail!("{timeline:#}") };
            is(owner).context("a node")
        })
    }

    /// Of each node how many sessions BIRD has had with it, and what was withdrawn in the last.
    fn sessions(&self) -> Result<Vec<(usize, u64)>> {
        let router = self.lab.router();
        let of = |name: &str| Ok((sessions_begun(router, name)?, received(router, name)?.1));
        self.lab.nodes().iter().map(|node| of(&node.name)).collect()
    }

    /// Sets all clocks, in seconds ahead of the machine's: of the speakers, then of the controller.
    fn set(&self, ahead: &[i64]) -> Result<()> {
        self.clocks.iter().zip(ahead).try_for_each(|(clock, ahead)| clock.set(*ahead))
    }

    /// By how many seconds `herald history` says that each speaker's clock differs from most, and this machine's from theirs.
    fn told(&self) -> Result<(Vec<i64>, i64)> {
        let timeline = history_json(&self.lab, &["10.0.0.200"])?;
        let seconds = |of: &Value| (of["aheadMilliseconds"].as_f64().unwrap_or(0.0) / 1000.0).round() as i64;
        let speakers = timeline["speakers"].as_array().context("speakers")?;
        Ok((speakers.iter().map(seconds).collect(), seconds(&timeline)))
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn clocks_that_jump_an_hour_move_no_address_end_no_session_and_no_leadership_and_are_told() -> Result<()> {
    let mut clocked = Clocked::start()?;
    let owner = clocked.owner()?;
    let (before, sessions) = (clocked.remembered()?, clocked.sessions()?);
    let poll = |from, to| Poller::start(from, at(to, 80), PollOptions::default());
    let pollers = [poll(clocked.lab.client(), "192.0.2.0")?, poll(&clocked.lab.router().ns, "10.0.0.200")?];
    let one = |ahead: i64| {
        let mut all = vec![0; 4];
        all[owner] = ahead;
        all[3] = ahead;
        all
    };
    // Whose clock is ahead of most, and this machine's of theirs.
    let stages = [
        (one(HOUR), one(HOUR)[..3].to_vec(), 0),
        (vec![HOUR; 4], vec![0; 3], -HOUR),
        (vec![-HOUR; 4], vec![0; 3], HOUR),
        (one(-HOUR), one(-HOUR)[..3].to_vec(), 0),
        (vec![0; 4], vec![0; 3], 0),
    ];
    for (n, (ahead, told, machine)) in stages.into_iter().enumerate() {
        let what = format!("{ahead:?}");
        clocked.set(&ahead)?;
        ensure!(clocked.told()? == (told, machine), "{what}: {:?}", clocked.told()?);
        let begin = Instant::now();
        clocked.works(&format!("web-{n}"), "p", &format!("192.0.2.{}", n + 1))?;
        clocked.works(&format!("lan-{n}"), "lan", &format!("10.0.0.20{}", n + 1))?;
        let took = begin.elapsed();
        println!("clocks {what} ahead: two new Services answer after {} ms", took.as_millis());
        ensure!(took < SERVED, "{what}: two new Services answer after {took:?}");
        // Beyond the Lease's renewals, and its end if they were counted by the time of day.
        for poller in &pollers {
            poller.await_answers(300, SOON)?;
            ensure!(poller.failures() == 0, "{what}: {} failed", poller.failures());
        }
        let text = overview(&clocked.lab)?;
        ensure!(text.contains("The controller that leads: herald-0"), "{what}: {text}");
        let now = clocked.remembered()?;
        ensure!(now == before, "{what}: {:#?}", now.symmetric_difference(&before).collect::<Vec<_>>());
        ensure!(clocked.sessions()? == sessions, "{what}: {:?}", clocked.sessions()?);
        ensure!(clocked.owner()? == owner, "{what}");
    }
    for poller in pollers {
        poller.stop()?.assert_no_loss();
    }
    ensure!(clocked.controller.log().matches(" leading ").count() == 1, "{}", clocked.controller.log_tail());
    ensure!(!clocked.controller.log().contains("not leading"), "{}", clocked.controller.log_tail());
    ensure!(!clocked.standby.log().contains(" leading "), "{}", clocked.standby.log_tail());

    // A snapshot is as old as the clock makes it, up to a day; one of the future is new.
    let lab = &clocked.lab;
    lab.stop_api()?;
    for (ahead, minutes) in [(HOUR, "minutes=60"), (-HOUR, "minutes=0")] {
        let node = lab.node(1);
        clocked.speakers[0].kill();
        lab.router().await_kernel_route(WEB, 2, SOON)?;
        let seen = clocked.speakers[0].log().len();
        clocked.speakers[0] = lab.speaker(node, &[])?;
        // It is read three seconds after the start.
        Clock::of(&clocked.speakers[0])?.set(ahead)?;
        let resumed = || {
            let log = log_after(&clocked.speakers[0], seen);
            log.lines().find(|line| line.contains("going on with the snapshot")).map(str::to_owned)
        };
        let line = await_until(SOON, "the snapshot to be used", resumed)
            .with_context(|| log_after(&clocked.speakers[0], seen))?;
        ensure!(line.contains(minutes), "{line}");
        lab.router().await_kernel_route(WEB, 3, SOON)?;
        await_ok(SOON, "an answer", || lab.client().get(at("192.0.2.0", 80)).map(drop))?;
    }
    Ok(())
}
