//! A speaker whose container has a memory limit: it is told before it is met, and what the kernel's killing costs.

use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, PodOptions, PollOptions, Poller, Signal, at, await_ok, await_until};
use serde_json::json;

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_address, create, ip, service};
use crate::status::overview;

/// In percent: what is told from 90 on, with some room below the limit for being asked.
const USED: u64 = 93;
/// Services, so many at a time and at most: each takes some kilobytes.
const SERVICES: (usize, usize) = (100, 5_000);

/// A control group that counts memory, of whichever version this machine has. Dropping it removes it; nobody may be left in it.
struct Group {
    directory: PathBuf,
    /// Its limit, and where the kernel notes whom it has killed.
    files: [&'static str; 2],
}

impl Group {
    fn make(name: &str) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let second = read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let (root, files) = if second.split_whitespace().any(|controller| controller == "memory") {
            write(root.join("cgroup.subtree_control"), "+memory")?;
            (root.to_owned(), ["memory.max", "memory.events"])
        } else {
            (root.join("memory"), ["memory.limit_in_bytes", "memory.oom_control"])
        };
        let directory = root.join(name);
        create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let group = Self { directory, files };
        // Of one version each; where nothing can be swapped out there may be neither.
        for file in ["memory.swap.max", "memory.swappiness"].map(|name| group.directory.join(name)) {
            if file.exists() {
                write(file, "0")?;
            }
        }
        Ok(group)
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        write(self.directory.join(self.files[0]), bytes.to_string()).context("set the limit")
    }

    /// How many the kernel has killed in it for want of memory.
    fn killed(&self) -> Result<u64> {
        let text = read_to_string(self.directory.join(self.files[1]))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.with_context(|| text.clone())?.parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = await_ok(SOON, "the control group to be empty", || remove_dir(&self.directory));
        if let Err(error) = gone {
            eprintln!("{}: {error:#}", self.directory.display());
        }
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_memory_limit_that_is_near_is_told_and_the_killing_at_it_costs_no_connection() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    install(&lab)?;
    lab.apply(&pool("default", &["192.0.2.0/28"]))?;
    let peer =
        json!({ "myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1", "enableGracefulRestart": true });
    lab.apply(&object("BGPPeer", "v1beta2", "router", &peer))?;
    lab.apply(&object("BGPAdvertisement", "v1beta1", "router", &json!({ "ipAddressPools": ["default"] })))?;
    let _controller = lab.controller("controller", &[])?;
    let node = lab.node(1);
    let group = Group::make(&format!("herald-{}", lab.name()))?;
    let shell = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", group.directory.display());
    let speaker = lab.speaker_by(&shell, node, &[])?;
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    ensure!(await_address(&lab, "web")? == ip("192.0.2.0"), "{}", speaker.log_tail());
    let vip = at("192.0.2.0", 80);
    lab.router().await_kernel_route("192.0.2.0/32", 1, SOON)?;
    let poller = Poller::start(lab.client(), vip, PollOptions::default())?;
    poller.await_answers(10, SOON)?;
    let mut held = lab.client().connect(vip, SOON)?;
    held.ask()?;

    // Without a limit there is nothing to be told.
    let metric = |name: &str| -> Result<Option<u64>> {
        let text = node.ns.curl("http://127.0.0.1:7472/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().context(name.to_owned())).transpose()
    };
    ensure!(metric("herald_memory_limit_bytes")? == Some(0));
    ensure!(!overview(&lab)?.contains("memory limit"));
    // It gives back what it has freed, so what it uses becomes less for a while. Its own look comes every ten seconds.
    let near = await_ok(SOON, "a limit that is near", || {
        let used = metric("herald_memory_working_set_bytes")?.context("no working set")?;
        let limit = (used * 100 / USED).next_multiple_of(4096);
        group.limit(limit)?;
        let text = overview(&lab)?;
        ensure!(text.contains("of its memory limit: at the limit the kernel kills it"), "{text}");
        ensure!(metric("herald_memory_limit_bytes")? == Some(limit), "not {limit}");
        ensure!(speaker.log().contains("memory is short: it uses "), "its log says nothing");
        Ok(text)
    })
    .with_context(|| speaker.log_tail())?;
    println!("{}", near.lines().filter(|line| line.contains("memory")).collect::<Vec<_>>().join("\n"));
    ensure!(near.contains("raise resources.limits.memory"), "{near}");

    // More and more to remember, until there is no room.
    let (step, most) = SERVICES;
    let mut made = 0;
    while speaker.is_running() {
        ensure!(
            made < most,
            "{made} Services did not fill it: {:?}",
            metric("herald_memory_working_set_bytes")?
        );
        let names = (made..made + step).map(|n| format!("fills-{n}"));
        create(&lab, names.map(|name| service(&name, json!({ "spec": { "type": "ClusterIP" } }))))?;
        made += step;
    }
    let status = speaker.exit_status().context("its end")?;
    ensure!(status.signal() == Some(Signal::SIGKILL as i32), "{status}: {}", speaker.log_tail());
    ensure!(group.killed()? > 0, "somebody else killed it");
    println!("killed by the kernel with {made} Services more");
    poller.await_answers(100, SOON)?;

    // As the kubelet starts it again, with a limit that is higher.
    group.limit(1 << 30)?;
    let again = lab.speaker_by(&shell, node, &[])?;
    await_until(SOON, "the next session", || {
        (lab.router().log().matches("State changed to up").count() > 1).then_some(())
    })
    .with_context(|| again.log_tail())?;
    create(&lab, [service("after", json!({}))])?;
    let after = await_address(&lab, "after")?;
    await_ok(SOON, "an answer", || lab.client().get((after, 80).into()).map(drop))?;
    ensure!(!overview(&lab)?.contains("memory limit"));
    held.ask()?;
    poller.await_answers(100, SOON)?;
    poller.stop()?.assert_no_loss();
    Ok(())
}
