use std::time::Duration;

use herald_speaker::explain::{HeldAnswer, Said};

use super::*;

const BASE: i64 = 1_785_553_920_000; // 2026-08-01T03:12:00Z

/// So many milliseconds after 03:12.
pub(in crate::history) fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(BASE + milliseconds).unwrap()
}

pub(in crate::history) fn vip() -> IpAddr {
    "192.0.2.5".parse().unwrap()
}

fn said(reason: &str, text: &str) -> Said {
    serde_json::from_value(serde_json::json!({"reason": reason, "text": text})).unwrap()
}

/// An entry of the address, by its Service.
pub(in crate::history) fn entry(milliseconds: i64, event: &str, reason: &str, text: &str) -> EntryAnswer {
    EntryAnswer {
        at: MicroTime(at(milliseconds)),
        address: Some(vip()),
        service: Some("shop/web".to_owned()),
        event: event.to_owned(),
        why: said(reason, text),
        on: None,
        owner: None,
        claim: None,
        other: None,
        peer: None,
    }
}

/// One of a segment; `other` is who had it.
pub(in crate::history) fn owned(
    milliseconds: i64,
    event: &str,
    claim: u32,
    other: Option<&str>,
) -> EntryAnswer {
    let (reason, text) = match other {
        Some(other) => ("ownerSilent", format!("{other} is not heard any more")),
        None => ("unclaimed", "nobody owned it".to_owned()),
    };
    EntryAnswer {
        service: None,
        on: Some("eth0".to_owned()),
        claim: (event != "released").then_some(claim),
        other: other.map(str::to_owned),
        ..entry(milliseconds, event, reason, &text)
    }
}

pub(in crate::history) fn seen(
    milliseconds: i64,
    owner: Option<&str>,
    claim: u32,
    other: Option<&str>,
) -> EntryAnswer {
    EntryAnswer { owner: owner.map(str::to_owned), ..owned(milliseconds, "seen", claim, other) }
}

pub(in crate::history) fn session(milliseconds: i64, up: bool, text: &str) -> EntryAnswer {
    let event = if up { "sessionUp" } else { "sessionDown" };
    EntryAnswer {
        address: None,
        service: None,
        peer: Some("10.0.0.1:179".to_owned()),
        ..entry(milliseconds, event, "ended", text)
    }
}

/// What a speaker that started then says at 03:20, a second after the question, by a clock that is ahead.
pub(in crate::history) fn heard(
    node: &str,
    (started, ahead): (i64, i64),
    state: &str,
    entries: Vec<EntryAnswer>,
) -> (String, Result<Heard<HistoryAnswer>, Silence>) {
    let (time, services) =
        (|milliseconds: i64| MicroTime(at(milliseconds + ahead)), vec!["shop/web".to_owned()]);
    let entries = entries.into_iter().map(|entry| {
        let milliseconds = entry.at.0.as_millisecond() - BASE;
        EntryAnswer { at: time(milliseconds), ..entry }
    });
    let answer = HistoryAnswer {
        node: node.to_owned(),
        now: time(480_000),
        started: time(started),
        complete_since: time(started),
        dropped: 0,
        addresses: vec![HeldAnswer { address: vip(), services, state: state.to_owned() }],
        entries: entries.collect(),
    };
    let (asked, took) = (at(480_000 - 2), Duration::from_millis(4));
    (node.to_owned(), Ok(Heard { answer, asked, took }))
}

pub(in crate::history) fn facts(answers: Vec<(String, Result<Heard<HistoryAnswer>, Silence>)>) -> Facts {
    Facts {
        subject: Some(vip().to_string()),
        at: None,
        since: None,
        unread: None,
        answers: answers.into_iter().collect(),
    }
}

fn told(timeline: &Timeline) -> Vec<String> {
    let line = |line: &Line| {
        let by =
            if line.seen_by.is_empty() { String::new() } else { format!(" by {}", line.seen_by.join("+")) };
        let milliseconds = line.at.0.as_millisecond() - BASE;
        format!("{milliseconds} {} {}{by}", line.nodes.join("+"), line.what)
    };
    timeline.lines.iter().map(line).collect()
}

#[test]
fn clocks_that_differ_are_corrected_by_what_most_agree_on() {
    let answers = vec![
        heard("node-1", (-9_000, 0), "bgp", vec![entry(10, "withdrawn", "x", "x")]),
        heard("node-2", (-9_000, 4_000), "bgp", vec![entry(20, "withdrawn", "y", "y")]),
        heard("node-3", (-9_000, 1), "bgp", vec![entry(30, "withdrawn", "z", "z")]),
    ];
    let timeline = timeline(facts(answers));
    let lines = told(&timeline);
    // The median is node-3's, a millisecond ahead.
    let expected =
        ["10 node-1 withdrawn from BGP", "21 node-2 withdrawn from BGP", "31 node-3 withdrawn from BGP"];
    assert_eq!(lines, expected);
    let ahead: Vec<_> = timeline.speakers.iter().map(|speaker| speaker.ahead_milliseconds).collect();
    assert_eq!(ahead, [None, Some(3_999), None]);
    assert_eq!(timeline.ahead_milliseconds, None);
    let answers = ["node-1", "node-2"].map(|node| heard(node, (0, 60_000), "bgp", Vec::new()));
    assert_eq!(super::timeline(facts(answers.into())).ahead_milliseconds, Some(-60_000), "of this machine");
}

#[test]
fn the_same_on_many_nodes_at_once_is_one_line_and_no_nodes_own_lines_change_places() {
    let both = |shift: i64| {
        vec![
            entry(shift, "programmed", "addressGiven", "given"),
            entry(shift, "offered", "addressGiven", "given"),
            entry(shift + 40, "retracted", "noEndpoints", "none"),
            entry(shift + 80, "offered", "addressGiven", "given"),
        ]
    };
    let started = (-9_000, 0);
    let answers = ["node-1", "node-2"]
        .into_iter()
        .zip([0, 7])
        .map(|(node, shift)| heard(node, started, "x", both(shift)));
    let timeline = timeline(facts(answers.collect()));
    assert_eq!(
        told(&timeline),
        [
            "0 node-1+node-2 programmed",
            "0 node-1+node-2 offered by layer 2",
            "40 node-1+node-2 offered no more",
            "80 node-1+node-2 offered by layer 2",
        ]
    );
    let late = vec![
        heard("node-1", started, "x", vec![entry(0, "offered", "a", "a")]),
        heard("node-2", started, "x", vec![entry(1_001, "offered", "a", "a")]),
    ];
    assert_eq!(told(&super::timeline(facts(late))).len(), 2, "not at once");
}

#[test]
fn what_others_saw_is_told_where_the_node_itself_does_not() {
    let started = (-9_000, 0);
    let answers = vec![
        // Its speaker died and began anew.
        heard("node-1", (9_000, 0), "notOwner", Vec::new()),
        heard(
            "node-2",
            started,
            "layer2",
            vec![seen(0, Some("node-1"), 1, None), owned(50, "owned", 2, Some("node-1"))],
        ),
        heard(
            "node-3",
            started,
            "notOwner",
            vec![seen(5, Some("node-1"), 1, None), seen(400, Some("node-2"), 2, Some("node-1"))],
        ),
    ];
    let timeline = timeline(facts(answers));
    assert_eq!(
        told(&timeline),
        ["0 node-1 owns it, claim 1 by node-2+node-3", "50 node-2 owns it on eth0, claim 2"]
    );
    let answers = vec![
        heard(
            "node-1",
            started,
            "notOwner",
            vec![owned(0, "owned", 1, None), owned(50, "released", 0, None)],
        ),
        heard("node-2", started, "notOwner", vec![seen(400, None, 0, Some("node-1"))]),
        heard("node-3", started, "notOwner", vec![seen(4_000, None, 0, Some("node-1"))]),
    ];
    let lines = told(&super::timeline(facts(answers)));
    let expected = ["0 node-1 owns it on eth0, claim 1", "50 node-1 released on eth0"];
    assert_eq!(lines[..2], expected);
    assert_eq!(lines[2], "4000 node-1 owns it no more by node-3");
}

#[test]
fn only_what_happened_since_is_told_and_who_is_silent_is_named() {
    let mut facts = facts(vec![
        heard(
            "node-1",
            (-9_000, 0),
            "bgp",
            vec![entry(0, "announced", "a", "a"), entry(10, "withdrawn", "b", "b")],
        ),
        ("node-2".to_owned(), Err("it does not answer in time".to_owned().into())),
    ]);
    facts.since = Some(at(10));
    let timeline = timeline(facts);
    assert_eq!(told(&timeline), ["10 node-1 withdrawn from BGP"]);
    assert_eq!(timeline.speakers[1].silent.as_deref(), Some("it does not answer in time"));
}

#[test]
fn of_any_address_the_last_lines_are_told_and_nobody_is_said_to_have_one() {
    let many = |from: i64| (0..200).map(move |n| entry((from + n) * 10_000, "announced", "x", "x")).collect();
    let answers =
        vec![heard("node-1", (-9_000, 0), "bgp", many(0)), heard("node-2", (-9_000, 0), "bgp", many(100))];
    let told = timeline(Facts { subject: None, ..facts(answers) });
    assert_eq!((told.lines.len(), told.addresses.len()), (200, 0));
    assert_eq!((told.lines[0].at.0, told.lines[199].at.0), (at(1_000_000), at(2_990_000)));
    assert_eq!((told.lines[0].nodes.len(), told.lines[199].nodes.len()), (2, 1));
}
