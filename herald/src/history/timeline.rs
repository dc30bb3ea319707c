//! From what each speaker remembers to one timeline, and to who has an address now or had it at some time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{EntryAnswer, HistoryAnswer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::clocks::{Ahead, median};
use super::stand::{Stand, stands};
use crate::speakers::{Heard, Silence};

/// This machine's clock matters where it is off by this many microseconds: times are typed, and seldom to the second.
const SECOND: i64 = 1_000_000;
/// The same on several nodes within this time is one line.
const SAME: SignedDuration = SignedDuration::from_secs(1);

/// All that is known.
#[derive(Debug)]
pub(super) struct Facts {
    /// As it was asked.
    pub(super) subject: String,
    pub(super) at: Option<Timestamp>,
    pub(super) since: Option<Timestamp>,
    /// Why Herald's pods are not known.
    pub(super) unread: Option<String>,
    /// By whom was asked.
    pub(super) answers: BTreeMap<String, Result<Heard<HistoryAnswer>, Silence>>,
}

/// What is printed.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Timeline {
    /// An address, or `NAMESPACE/NAME`.
    pub(super) subject: String,
    /// The time that is asked about; `null`: now.
    pub(super) at: Option<MicroTime>,
    /// Who has, or had, each address.
    pub(super) addresses: Vec<Stand>,
    pub(super) speakers: Vec<Speaker>,
    /// Why Herald's pods are not known.
    pub(super) unread: Option<String>,
    /// So many milliseconds this machine's clock is ahead of the speakers'; `null`: no more than can be measured.
    pub(super) ahead_milliseconds: Option<i64>,
    /// What happened, the oldest first, by the clock that most speakers agree with.
    pub(super) lines: Vec<Line>,
}

/// Who was asked.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Speaker {
    pub(super) node: String,
    /// Why it does not answer.
    pub(super) silent: Option<String>,
    /// From then on it remembers all.
    pub(super) since: Option<MicroTime>,
    /// When it began.
    pub(super) started: Option<MicroTime>,
    /// So many milliseconds its clock is ahead of most, by which its times are corrected; `null`: no more than can be measured.
    pub(super) ahead_milliseconds: Option<i64>,
    /// It may be so many more or less.
    pub(super) within_milliseconds: u64,
}

/// What happened, at one time on one node or on several.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) at: MicroTime,
    /// To whom.
    pub(super) nodes: Vec<String>,
    /// Who tells it, where it is not they themselves.
    pub(super) seen_by: Vec<String>,
    /// `null`: all that are announced by BGP.
    pub(super) address: Option<IpAddr>,
    pub(super) service: Option<String>,
    /// The word, from a closed list.
    pub(super) event: String,
    pub(super) what: String,
    /// The word, from a closed list.
    pub(super) reason: String,
    pub(super) why: String,
}

/// What one node tells, by the clock of most.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Timestamp,
    /// Who tells it.
    pub(super) by: String,
    pub(super) told: EntryAnswer,
}

impl Entry {
    fn is(&self, event: &str) -> bool {
        self.told.event == event
    }

    /// To whom it happened: others are seen.
    fn node(&self) -> &str {
        match self.is("seen") {
            true => self.told.owner.as_deref().or(self.told.other.as_deref()).unwrap_or("?"),
            false => &self.by,
        }
    }
}

/// Puts all into one order.
pub(super) fn timeline(facts: Facts) -> Timeline {
    let Facts { subject, at, since, unread, answers } = facts;
    let measured =
        |heard: &Heard<HistoryAnswer>| Ahead::measured(heard.answer.now.0, heard.asked, heard.took);
    let most = median(answers.values().flatten().map(measured));
    let (mut speakers, mut heard) = (Vec::new(), BTreeMap::new());
    for (name, answer) in answers {
        match answer {
            Err(silence) => speakers.push(Speaker {
                node: name,
                silent: Some(silence.why),
                since: None,
                started: None,
                ahead_milliseconds: None,
                within_milliseconds: 0,
            }),
            Ok(told) => {
                let ahead = measured(&told).of(most);
                let HistoryAnswer { node, started, complete_since, .. } = &told.answer;
                let time = |time: &MicroTime| Some(MicroTime(ahead.correct(time.0)));
                speakers.push(Speaker {
                    node: node.clone(),
                    silent: None,
                    since: time(complete_since),
                    started: time(started),
                    ahead_milliseconds: ahead.matters().then_some(ahead.by / 1000),
                    within_milliseconds: ahead.within / 1000,
                });
                heard.insert(node.clone(), (told.answer, ahead));
            }
        }
    }
    // Whoever was asked at two addresses has answered twice.
    speakers.sort_by(|a, b| a.node.cmp(&b.node));
    speakers.dedup_by(|a, b| a.node == b.node);
    let entries = entries(&heard);
    let addresses = stands(&heard, &entries, &speakers, at);
    let mut lines = lines(&entries);
    lines.retain(|line| since.is_none_or(|since| line.at.0 >= since));
    // What this machine's clock is ahead of theirs is what theirs are behind of it.
    let ahead = (most.matters() && most.by.abs() >= SECOND).then_some(-most.by / 1000);
    Timeline { subject, at: at.map(MicroTime), addresses, speakers, unread, ahead_milliseconds: ahead, lines }
}

/// Everything in order, without what others saw where the node itself tells it.
fn entries(heard: &BTreeMap<String, (HistoryAnswer, Ahead)>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (node, (answer, ahead)) in heard {
        let of_node = answer.entries.iter().map(|told| Entry {
            at: ahead.correct(told.at.0),
            by: node.clone(),
            told: told.clone(),
        });
        entries.extend(of_node);
    }
    // Stable: what a node tells stays in its order.
    entries.sort_by_key(|entry| entry.at);
    let key = |entry: &Entry, node: &str| (entry.told.address, node.to_owned());
    let owned: BTreeSet<_> = entries
        .iter()
        .filter(|entry| entry.is("owned"))
        .map(|entry| (key(entry, &entry.by), entry.told.claim))
        .collect();
    let released: Vec<_> = entries
        .iter()
        .filter(|entry| entry.is("released"))
        .map(|entry| (key(entry, &entry.by), entry.at))
        .collect();
    entries.retain(|entry| match (entry.is("seen"), &entry.told.owner, &entry.told.other) {
        (true, Some(owner), _) => !owned.contains(&(key(entry, owner), entry.told.claim)),
        (true, None, Some(former)) => {
            let own = key(entry, former);
            !released.iter().any(|(of, at)| *of == own && entry.at.duration_since(*at).abs() <= SAME)
        }
        _ => true,
    });
    entries
}

/// One line for what happened to several nodes at once, in an order in which each node's own lines follow each other.
fn lines(entries: &[Entry]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        let Entry { at, by, told } = entry;
        let seen = entry.is("seen");
        let what = told.what();
        let same = |line: &Line| {
            (line.address, &line.service, &line.event, &line.what, &line.why)
                == (told.address, &told.service, &told.event, &what, &told.why.text)
                && if seen { line.nodes == [entry.node()] } else { !line.nodes.contains(by) }
                && !line.seen_by.contains(by)
        };
        let recent =
            lines.iter().enumerate().rev().take_while(|(_, line)| at.duration_since(line.at.0) <= SAME);
        let after = last.get(by.as_str()).copied();
        let found = recent
            .take_while(|(index, _)| after.is_none_or(|after| *index > after))
            .find(|(_, line)| same(line))
            .map(|(index, _)| index);
        let index = match found {
            Some(index) => index,
            None => {
                lines.push(Line {
                    at: MicroTime(*at),
                    nodes: if seen { vec![entry.node().to_owned()] } else { Vec::new() },
                    seen_by: Vec::new(),
                    address: told.address,
                    service: told.service.clone(),
                    event: told.event.clone(),
                    what,
                    reason: told.why.reason.clone(),
                    why: told.why.text.clone(),
                });
                lines.len() - 1
            }
        };
        if let Some(line) = lines.get_mut(index) {
            if seen { line.seen_by.push(by.clone()) } else { line.nodes.push(by.clone()) }
        }
        last.insert(by, index);
    }
    for line in &mut lines {
        line.nodes.sort();
        line.seen_by.sort();
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
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
            subject: vip().to_string(),
            at: None,
            since: None,
            unread: None,
            answers: answers.into_iter().collect(),
        }
    }

    fn told(timeline: &Timeline) -> Vec<String> {
        let line = |line: &Line| {
            let by = if line.seen_by.is_empty() {
                String::new()
            } else {
                format!(" by {}", line.seen_by.join("+"))
            };
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
        assert_eq!(
            super::timeline(facts(answers.into())).ahead_milliseconds,
            Some(-60_000),
            "of this machine"
        );
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
}
