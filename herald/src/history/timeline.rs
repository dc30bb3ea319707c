//! From what each speaker remembers to one timeline, and to who has an address now or had it at some time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{EntryAnswer, HistoryAnswer, LAST};
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
    /// As it was asked; `None`: what happened last to any address.
    pub(super) subject: Option<String>,
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
    /// An address, or `NAMESPACE/NAME`; `null`: any address.
    pub(super) subject: Option<String>,
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
    let mut lines = lines(&entries);
    let addresses = match &subject {
        Some(_) => stands(&heard, &entries, &speakers, at),
        // Each speaker tells its last ones, so those before are not all that there were.
        None => {
            lines.drain(..lines.len().saturating_sub(LAST));
            Vec::new()
        }
    };
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
pub(super) mod tests;
