//! What a node can be short of: somebody who reads the log, room on its disk, its right name. Nothing of that stops a speaker.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Namespace, PodOptions, PollOptions, Poller, Process, ROUTER, at, await_until};
use serde_json::json;

use super::CONFIG;
use crate::services::{SOON, await_address, create, ip, service};
use crate::status::overview;

/// A node whose speaker is started by a line of sh(1), a Service, and a poll of it from behind the router.
struct Strained {
    speaker: Process,
    _controller: Process,
    lab: Lab,
}

impl Strained {
    fn start(shell: impl FnOnce(&Lab) -> String, flags: &[&str]) -> Result<Self> {
        let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
        let held = CONFIG.replace("peer-address: 10.0.0.1}", "peer-address: 10.0.0.1, hold-time: 3s}");
        let held = held.replace("192.0.2.0/28", "192.0.2.0/24");
        lab.configure_herald(&held)?;
        let controller = lab.controller("controller", &[])?;
        let speaker = lab.speaker_by(&shell(&lab), lab.node(1), flags)?;
        lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
        create(&lab, [service("web", json!({}))])?;
        ensure!(await_address(&lab, "web")? == ip("192.0.2.0"));
        lab.router().await_kernel_route("192.0.2.0/32", 1, SOON)?;
        Ok(Self { speaker, _controller: controller, lab })
    }

    fn poll(&self) -> Result<Poller> {
        let poller = Poller::start(self.lab.client(), at("192.0.2.0", 80), PollOptions::default())?;
        poller.await_answers(10, SOON)?;
        Ok(poller)
    }

    /// A Service that comes now is announced.
    fn works(&self) -> Result<()> {
        create(&self.lab, [service("more", json!({}))])?;
        let address = await_address(&self.lab, "more")?;
        self.lab.router().await_kernel_route(&format!("{address}/32"), 1, SOON)
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_log_that_nobody_reads_holds_no_session_up_and_says_later_what_is_lost() -> Result<()> {
    let fifo = |lab: &Lab| lab.directory().join("unread");
    let shell = |lab: &Lab| format!("mkfifo {0}; exec 3<>{0}; exec \"$@\" 2>&3", fifo(lab).display());
    let strained = Strained::start(shell, &["--log-level=trace"])?;
    let lab = &strained.lab;
    let poller = strained.poll()?;
    // Each of them is some lines: more than a pipe holds (64 KiB).
    create(lab, (0..100).map(|n| service(&format!("fills-{n}"), json!({}))))?;
    // Longer than the session's hold time.
    poller.await_answers(500, SOON)?;
    strained.works()?;
    ensure!(strained.speaker.is_running());
    // Somebody reads again; what was lost is told with the next line.
    let mut reader = BufReader::new(File::open(fifo(lab))?).lines();
    let read = std::thread::spawn(move || {
        reader.find_map(|line| line.ok().filter(|line| line.contains("are lost")))
    });
    create(lab, [service("another", json!({}))])?;
    await_until(SOON, "a word of what is lost", || read.is_finished().then_some(()))?;
    let told = read.join().ok().flatten().context("it ended without")?;
    ensure!(
        told.contains("lines of the log are lost: whoever reads standard error did not keep up"),
        "{told}"
    );
    poller.stop()?.assert_no_loss();
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn full_disks_under_the_log_and_the_snapshot_cost_neither_a_session_nor_a_service() -> Result<()> {
    let shell = |lab: &Lab| {
        let state = lab.state_directory(lab.node(1));
        format!(
            "mkdir -p {0}; exec unshare --mount sh -ec 'mount -t tmpfs -o size=8k tmpfs {0}; \
             dd if=/dev/zero of={0}/full bs=4k 2>/dev/null || true; exec \"$@\"' sh \"$@\"",
            state.display()
        )
    };
    let strained = Strained::start(shell, &[])?;
    strained.speaker.await_log("no snapshot can be kept", SOON)?;
    let poller = strained.poll()?;
    strained.works()?;
    poller.stop()?.assert_no_loss();
    ensure!(strained.speaker.log().matches("no snapshot can be kept").count() == 1);

    drop(strained);
    Strained::start(|_| "exec \"$@\" 2>/dev/full".to_owned(), &["--log-level=debug"])?.works()
}

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_that_has_the_wrong_name_says_so_and_announces_nothing() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    lab.configure_herald(CONFIG)?;
    let _controller = lab.controller("controller", &[])?;
    let node = lab.node(1);
    let speaker = lab.speaker(node, &["--node-name=node-1"])?;
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    await_address(&lab, "web")?;
    let text = "nothing is announced from this node: the Node object of this node has not been seen: compare --node-name";
    speaker.await_log(text, SOON)?;
    let overview = overview(&lab)?;
    ensure!(overview.contains("node1: nothing is announced from it"), "{overview}");
    ensure!(overview.contains("compare --node-name of the speaker with kubectl get nodes"), "{overview}");
    ensure!(overview.contains("is announced from no node: nodeUnknown"), "{overview}");
    ensure!(lab.router().next_hops("192.0.2.0/32")?.is_empty());
    Ok(())
}

/// With datagrams that nobody answers, an entry for half a minute each; how many the table may have.
pub(crate) fn fill_connection_table(node: &Namespace) -> Result<u64> {
    let limit: u64 = node.exec(&["cat", "/proc/sys/net/netfilter/nf_conntrack_max"])?.trim().parse()?;
    node.run(|| -> Result<()> {
        for _ in 0..limit.div_ceil(60_000) + 1 {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            for port in 1..=60_000 {
                // Where the table is full the datagram is refused, which is what is wanted.
                let _ = socket.send_to(&[0], (ROUTER, port));
            }
        }
        Ok(())
    })??;
    Ok(limit)
}

/// The kernel evicts entries that nobody answers for the sake of connections that begin.
#[test]
#[ignore = "needs a network namespace"]
fn a_connection_table_that_is_full_is_told_and_what_begins_takes_the_place_of_what_nobody_answers()
-> Result<()> {
    let strained = Strained::start(|_| "exec \"$@\"".to_owned(), &[])?;
    let lab = &strained.lab;
    let node = &lab.node(1).ns;
    let poller = strained.poll()?;
    let limit = fill_connection_table(node)?;
    let overview = overview(lab)?;
    ensure!(
        overview.contains(&format!("of {limit} entries: when it is full, new connections are dropped")),
        "{overview}"
    );
    let count: u64 = node.exec(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])?.trim().parse()?;
    ensure!(count >= limit / 10 * 9, "{count} of {limit}");
    let metrics = node.curl("http://127.0.0.1:7472/metrics")?;
    ensure!(metrics.contains(&format!("herald_conntrack_entries_limit {limit}")));
    strained.works()?;
    poller.await_answers(100, SOON)?;
    poller.stop()?.assert_no_loss();
    Ok(())
}
