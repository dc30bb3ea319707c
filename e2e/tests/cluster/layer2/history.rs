//! Who owned an address at some time, and why, as it is asked the morning after.

use anyhow::{Context, Result, ensure};
use herald_e2e::{Process, Signal, await_ok};
use serde_json::Value;

use super::{Layer2, await_next};
use crate::history::{history, history_json, told};
use crate::order::{SOON, ready};

/// The lines of ownership, and what led to them.
fn moves(timeline: &Value, vip: &str) -> Vec<String> {
    let mut told = told(timeline, vip);
    told.retain(|line| line.contains("own") || line.contains("offered no more") || line.contains("released"));
    told
}

#[test]
#[ignore = "needs a network namespace"]
fn an_owner_that_is_killed_and_one_that_is_cordoned_are_told_in_order_with_the_reasons() -> Result<()> {
    let mut layer2 = Layer2::start()?;
    let [v4, v6] = layer2.service("web")?.map(|vip| vip.ip());
    let vip = v4.to_string();
    let first = layer2.owner(v4, None)?.clone();
    // All have seen who owns it before they are asked about it.
    await_next(layer2.lab.node(3 - first.index), v4)?;
    let at = usize::from(first.index) - 1;
    layer2.speakers.get(at).context("its speaker")?.kill();
    let second = layer2.owner(v4, Some(&first))?.clone();
    let then = layer2.lab.control_plane_ns().exec(&["date", "-u", "+%FT%T.%NZ"])?;
    layer2.speakers[at] = layer2.lab.speaker(&first, &[])?;
    ready(&first)?;
    await_next(&first, v4)?;
    await_next(&first, v6)?;
    layer2.lab.kubectl(&["cordon", &second.name])?;
    layer2.owner(v4, Some(&second))?;
    let lab = &layer2.lab;
    let logs = || layer2.speakers.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n");
    let (one, two) = (&first.name, &second.name);
    let timeline = await_ok(SOON, "the second move to be over", || {
        let timeline = history_json(lab, &[&vip])?;
        let released = moves(&timeline, &vip).iter().any(|line| line.starts_with(&format!("{two} released")));
        ensure!(released, "{:#?}", moves(&timeline, &vip));
        Ok(timeline)
    })
    .with_context(logs)?;
    let text = history(lab, &[&vip])?;
    println!("$ herald history {vip}\n{text}");

    let moves = moves(&timeline, &vip);
    // The first owner's speaker remembers nothing of its first life: its neighbour does, who may have looked before there was an owner.
    let seen = moves.first().map(|line| line.replace("unclaimed", "found"));
    ensure!(seen == Some(format!("{one} owns it, claim 1: found")), "{moves:#?}\n{text}");
    let expected = [
        format!("{two} owns it on eth0, claim 2: ownerSilent"),
        format!("{two} offered no more: nodeCordoned"),
        format!("{one} owns it on eth0, claim 3: ownerLeft"),
        format!("{two} released on eth0: givenUp"),
    ];
    ensure!(moves[1..] == expected, "{moves:#?}\n{text}");
    ensure!(text.starts_with(&format!("{vip} of default/web is owned by {one} since ")), "{text}");
    for wanted in
        [format!("{one} is not heard any more"), format!("{two} let it go"), format!("(seen by {two})")]
    {
        ensure!(text.contains(&wanted), "{wanted}: {text}");
    }
    ensure!(!text.contains("clock"), "they all have one: {text}");

    // Who had it when the second one took it?
    let then = history(lab, &[&vip, "--at", then.trim()])?;
    println!("$ herald history {vip} --at …\n{then}");
    ensure!(
        then.contains(&format!("was owned by {two} since ")) && then.contains("<- asked about"),
        "{then}"
    );
    ensure!(then.contains(&format!("of {one} nothing is remembered that long")), "{then}");

    // By its Service, with the other family, and with a speaker that hangs.
    layer2.speakers[2].signal(Signal::SIGSTOP);
    let text = history(lab, &["web"])?;
    layer2.speakers[2].signal(Signal::SIGCONT);
    println!("$ herald history web\n{text}");
    for wanted in [&*vip, &v6.to_string(), "! node3: no word from its speaker", "does not answer in time"] {
        ensure!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = history(lab, &[&v6.to_string()])?;
    ensure!(text.contains("is owned by ") && !text.contains("! "), "{text}");
    // Without the API server, of one node.
    let speaker = format!("{}:7472", second.ip);
    let text = history(lab, &[&vip, "--api-server=https://192.0.2.250:6443", "--speaker", &speaker])?;
    ensure!(text.contains(&format!("{two} since ")) && text.contains("released on eth0"), "{text}");
    Ok(())
}
