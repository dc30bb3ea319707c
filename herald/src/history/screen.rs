//! The timeline as people read it at three in the morning: who has it, what is not known, then what happened, the last of it below.

use std::fmt;

use herald_speaker::explain::{cells, table};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use super::stand::{Since, Stand};
use super::timeline::{Line, Timeline};

/// Nodes that are named in a line.
const NAMED: usize = 3;
/// Lines; `-o json` has all.
const ROWS: usize = 200;
/// Of them after the time that is asked about.
const AFTER: usize = 50;

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            writeln!(f, "At {} UTC", clock(at.0))?;
        }
        for stand in &self.addresses {
            writeln!(f, "{}", self.who(stand))?;
        }
        match &self.subject {
            Some(subject) if self.addresses.is_empty() => {
                writeln!(f, "{subject}: no speaker that answers remembers anything of it")?;
            }
            Some(_) => {}
            None if self.lines.is_empty() => writeln!(f, "no speaker that answers remembers anything")?,
            None => writeln!(f, "what happened last to any address, the newest below: {}", self.lines.len())?,
        }
        self.doubts(f)?;
        if !self.lines.is_empty() {
            self.table(f)?;
        }
        self.memory(f)
    }
}

impl Timeline {
    /// Who has it, in a sentence.
    fn who(&self, stand: &Stand) -> String {
        let (is, nobody) = if self.at.is_some() { ("was", "had") } else { ("is", "has") };
        let address = stand.address.map(|address| address.to_string());
        let address = address.or_else(|| self.subject.clone()).unwrap_or_default();
        let of = if stand.services.is_empty() {
            String::new()
        } else {
            format!(" of {}", stand.services.join(", "))
        };
        let mut parts = Vec::new();
        if !stand.owners.is_empty() {
            parts.push(format!("{is} owned by {}", since(&stand.owners)));
        }
        if !stand.announced.is_empty() {
            let mut part = format!("{is} announced by BGP from {}", since(&stand.announced));
            if !stand.unheard.is_empty() {
                part += &format!(" (no session up: {})", names(&stand.unheard));
            }
            parts.push(part);
        }
        if parts.is_empty() {
            let reasons: Vec<String> =
                stand.reasons.iter().map(|(reason, nodes)| format!("{reason} ({})", names(nodes))).collect();
            let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
            parts.push(format!("nobody {nobody} it{why}"));
        }
        let text = parts.join(", and ");
        let text = if text.starts_with("nobody") {
            format!("{address}{of}: {text}")
        } else {
            format!("{address}{of} {text}")
        };
        match stand.unknown.is_empty() {
            true => text,
            false => format!("{text}; of {} nothing is remembered that long", names(&stand.unknown)),
        }
    }

    /// What the reader has to know to trust the rest.
    fn doubts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unread {
            writeln!(f, "! pods are not read, so speakers are asked at their Nodes: {why}")?;
        }
        for speaker in &self.speakers {
            if let Some(why) = &speaker.silent {
                writeln!(
                    f,
                    "! {}: no word from its speaker, and nothing of what it remembers: {why}",
                    speaker.node
                )?;
            }
            if let Some(ahead) = speaker.ahead_milliseconds {
                let within = speaker.within_milliseconds;
                writeln!(
                    f,
                    "! {}: its clock is {} most speakers' (± {within} ms); its times here are corrected",
                    speaker.node,
                    difference(ahead)
                )?;
            }
        }
        match self.ahead_milliseconds {
            Some(ahead) => {
                writeln!(f, "! this machine's clock is {} the speakers'; times are theirs", difference(ahead))
            }
            None => Ok(()),
        }
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = self.at.as_ref().map(|at| self.lines.partition_point(|line| line.at.0 <= at.0));
        let end = then.map_or(self.lines.len(), |then| self.lines.len().min(then + AFTER));
        let begin = end.saturating_sub(ROWS);
        let shown = self.lines.get(begin..end).unwrap_or_default();
        let mut rows: Vec<Vec<String>> = shown.iter().map(row).collect();
        if let (Some(then), Some(at)) = (then, &self.at) {
            let asked = cells([&clock(at.0), "", "", "<- asked about", "", ""]);
            rows.insert(then.saturating_sub(begin).min(rows.len()), asked);
        }
        table(f, &cells(["Time (UTC)", "node", "address", "what", "Service", "why"]), &rows)?;
        match self.lines.len() - shown.len() {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more (-o json has all)"),
        }
    }

    /// From when on something is known at all.
    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut since: Vec<(&MicroTime, &str, bool)> = self
            .speakers
            .iter()
            .filter_map(|speaker| {
                let began = speaker.since == speaker.started;
                Some((speaker.since.as_ref()?, speaker.node.as_str(), began))
            })
            .collect();
        // The latest first: what is missing is missing there.
        since.sort_by(|a, b| b.0.0.cmp(&a.0.0).then(a.1.cmp(b.1)));
        if since.is_empty() {
            return Ok(());
        }
        let shown = since.iter().take(NAMED).map(|(at, node, began)| {
            let why = if *began { "" } else { " (what was before had to make room)" };
            format!("{node} since {}{why}", clock(at.0))
        });
        let shown = and_more(shown.collect(), since.len());
        writeln!(f, "\nRemembered: {shown}; a speaker that starts anew remembers nothing before")
    }
}

fn row(line: &Line) -> Vec<String> {
    let address = line.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let why = match line.seen_by.is_empty() {
        true => line.why.clone(),
        false => format!("{} (seen by {})", line.why, names(&line.seen_by)),
    };
    let service = line.service.clone().unwrap_or_else(|| "-".to_owned());
    vec![clock(line.at.0), names(&line.nodes), address, line.what.clone(), service, why]
}

/// `2026-08-01 03:12:00.250`
fn clock(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

fn difference(milliseconds: i64) -> String {
    let (whole, rest) = (milliseconds.unsigned_abs() / 1000, milliseconds.unsigned_abs() % 1000);
    let way = if milliseconds < 0 { "behind" } else { "ahead of" };
    format!("{whole}.{rest:03} s {way}")
}

fn since(nodes: &[Since]) -> String {
    let shown = nodes.iter().take(NAMED).map(|of| match &of.since {
        Some(at) => format!("{} since {}", of.node, clock(at.0)),
        None => of.node.clone(),
    });
    and_more(shown.collect(), nodes.len())
}

fn names(nodes: &[String]) -> String {
    and_more(nodes.iter().take(NAMED).cloned().collect(), nodes.len())
}

fn and_more(shown: Vec<String>, all: usize) -> String {
    match all.saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::{at, entry, facts, heard, owned, seen, session};
    use super::super::timeline::{Facts, timeline};
    use super::*;
    use crate::testing::{documented, golden};

    /// The owner's node loses power at 03:11:59 and is back a minute later; then its successor is cordoned.
    fn night() -> Facts {
        let noticed = "node-1 is not heard any more";
        let mut found = seen(-3_600_000, Some("node-1"), 1, None);
        found.why.reason = "found".to_owned();
        found.why.text = "so it was found".to_owned();
        let began = |at| entry(at, "offered", "speakerStarted", "so it was when the speaker started");
        let cordoned = "nodeCordoned: this Node is cordoned, and herald.cordoned-nodes has such nodes leave";
        let second = vec![
            began(-3_600_100),
            found.clone(),
            owned(-900, "owned", 2, Some("node-1")),
            entry(120_000, "retracted", "nodeCordoned", cordoned),
            {
                let mut left = owned(120_030, "released", 0, None);
                (left.why.reason, left.why.text) =
                    ("givenUp".to_owned(), "this node offers it no more".to_owned());
                left
            },
        ];
        let third = vec![began(-3_600_050), found, {
            let mut taken = owned(120_020, "owned", 3, Some("node-2"));
            taken.why.text = "node-2 let it go".to_owned();
            taken
        }];
        assert!(second[2].why.text == noticed);
        facts(vec![
            heard("node-1", (61_000, 0), "notOwner", vec![began(62_000)]),
            heard("node-2", (-3_610_000, 4_200), "nodeCordoned", second),
            heard("node-3", (-3_610_000, 0), "layer2", third),
            ("node-4".to_owned(), Err("it does not answer in time".to_owned().into())),
        ])
    }

    #[test]
    fn the_screen_is_as_in_its_golden_file() {
        let now = timeline(night()).to_string();
        let then = timeline(Facts { at: Some(at(0)), since: Some(at(-10_000)), ..night() }).to_string();
        let bgp = facts(vec![heard(
            "node-1",
            (-9_000, -1_700),
            "bgp",
            vec![
                session(-8_000, true, "AS 100 (external)"),
                entry(-7_000, "announced", "speakerStarted", "so it was when the speaker started"),
                session(100, false, "the peer was silent for its hold time of 9 s"),
            ],
        )]);
        let bgp = timeline(bgp).to_string();
        let nothing = timeline(facts(Vec::new())).to_string();
        let any = timeline(Facts { subject: None, ..night() }).to_string();
        let never = timeline(Facts { subject: None, ..facts(Vec::new()) }).to_string();
        let screen = [
            ("herald history 192.0.2.5", now),
            ("herald history 192.0.2.5 --at 03:12 --since 03:11:50", then),
            ("herald history 192.0.2.5", bgp),
            ("herald history 192.0.2.5", nothing),
            ("herald history", any),
            ("herald history", never),
        ];
        let screen: Vec<String> =
            screen.iter().map(|(command, text)| format!("$ {command}\n{text}")).collect();
        golden("history.txt", &screen.join("\n"));
        let document = include_str!("../../../docs/explain.md");
        for shown in &screen[..2] {
            documented(document, shown);
        }
    }

    #[test]
    fn of_a_long_timeline_the_end_is_shown_or_what_is_around_the_time_that_is_asked_about() {
        let many =
            (0..600).map(|n| entry(n * 10_000, if n % 2 == 0 { "announced" } else { "withdrawn" }, "x", "x"));
        let answers = || vec![heard("node-1", (-9_000, 0), "bgp", many.clone().collect())];
        let end = timeline(facts(answers())).to_string();
        assert!(
            end.contains("and 400 more (-o json has all)") && end.contains(&clock(at(5_990_000))),
            "{end}"
        );
        let then = timeline(Facts { at: Some(at(3_000_000)), ..facts(answers()) }).to_string();
        assert!(then.contains(&clock(at(3_000_000))) && !then.contains(&clock(at(5_990_000))), "{then}");
        let marked = then.lines().position(|line| line.contains("<- asked about")).unwrap();
        assert_eq!(
            then.lines().filter(|line| line.contains("by BGP") || line.contains("from BGP")).count(),
            ROWS + 1
        );
        assert!(marked > 100 && marked < 160, "{marked}");
    }
}
