//! Who has an address now, or had it at some time: played back from the timeline. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_speaker::explain::{HistoryAnswer, SESSION_DOWN, SESSION_UP};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::clocks::Ahead;
use super::timeline::{Entry, Speaker};

/// Who has, or had, an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stand {
    /// `null`: nothing is known of any.
    pub(super) address: Option<IpAddr>,
    /// The Services that have it now.
    pub(super) services: Vec<String>,
    /// Who answers for it by ARP or NDP; more than one on several segments.
    pub(super) owners: Vec<Since>,
    /// Who announces it by BGP.
    pub(super) announced: Vec<Since>,
    /// Those of them without a session that is up: they tell nobody.
    pub(super) unheard: Vec<String>,
    /// Why other nodes do not announce it: the word, and who says it.
    pub(super) reasons: BTreeMap<String, Vec<String>>,
    /// Nodes that do not remember that time.
    pub(super) unknown: Vec<String>,
}

/// A node, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Since {
    pub(super) node: String,
    /// `null`: for longer than is remembered.
    pub(super) since: Option<MicroTime>,
}

/// What is played back.
#[derive(Debug, Default)]
struct Played {
    owners: BTreeMap<String, Option<Timestamp>>,
    /// By node and Service.
    announced: BTreeMap<(String, Option<String>), Timestamp>,
    reasons: BTreeMap<(String, Option<String>), String>,
    /// Of each node's peers, whether its session is up.
    sessions: BTreeMap<String, BTreeMap<String, bool>>,
    /// Who has told something.
    told: BTreeSet<String>,
}

impl Played {
    fn play(&mut self, entry: &Entry) {
        let (by, told, at) = (entry.by.clone(), &entry.told, entry.at);
        let of = (by.clone(), told.service.clone());
        if let Some(other) = told.other.as_ref().filter(|_| matches!(&*told.event, "owned" | "seen")) {
            self.owners.remove(other);
        }
        match &*told.event {
            "owned" => _ = self.owners.insert(by.clone(), Some(at)),
            "released" => _ = self.owners.remove(&by),
            "seen" => {
                if let Some(owner) = &told.owner {
                    // One that was found had it before.
                    let since = (told.why.reason != "found").then_some(at);
                    self.owners.entry(owner.clone()).or_insert(since);
                }
            }
            "announced" | "offered" => {
                self.reasons.remove(&of);
                if told.event == "announced" {
                    self.announced.insert(of, at);
                }
            }
            "withdrawn" | "retracted" | "notAnnounced" => {
                if told.event == "withdrawn" {
                    self.announced.remove(&of);
                }
                self.reasons.insert(of, told.why.reason.clone());
            }
            "gone" => _ = self.reasons.remove(&of),
            word @ (SESSION_UP | SESSION_DOWN) => {
                let peer = told.peer.clone().unwrap_or_default();
                self.sessions.entry(by).or_default().insert(peer, word == SESSION_UP);
                return;
            }
            _ => {}
        }
        self.told.insert(by);
    }

    /// Since when a node announces it for some Service.
    fn announces(&self, node: &str) -> Option<Timestamp> {
        let of = self.announced.iter().filter(|((of, _), _)| of == node);
        of.map(|(_, at)| *at).min()
    }
}

/// One for each address that anybody knows of; `at`: at that time, and not now.
pub(super) fn stands(
    heard: &BTreeMap<String, (HistoryAnswer, Ahead)>,
    entries: &[Entry],
    speakers: &[Speaker],
    at: Option<Timestamp>,
) -> Vec<Stand> {
    let now = heard.values().flat_map(|(answer, _)| answer.addresses.iter().map(|held| held.address));
    let once = entries.iter().filter_map(|entry| entry.told.address);
    let all: BTreeSet<IpAddr> = now.chain(once).collect();
    all.into_iter().map(|address| stand(heard, entries, speakers, address, at)).collect()
}

fn stand(
    heard: &BTreeMap<String, (HistoryAnswer, Ahead)>,
    entries: &[Entry],
    speakers: &[Speaker],
    address: IpAddr,
    at: Option<Timestamp>,
) -> Stand {
    let concerns = |entry: &&Entry| entry.told.address.is_none_or(|of| of == address);
    let until = entries.iter().filter(concerns).filter(|entry| at.is_none_or(|at| entry.at <= at));
    let mut played = Played::default();
    until.for_each(|entry| played.play(entry));
    let mut stand = Stand { address: Some(address), ..Stand::default() };
    let (mut owners, mut announced) = (std::mem::take(&mut played.owners), BTreeMap::new());
    for (node, (answer, _)) in heard {
        let held = answer.addresses.iter().find(|held| held.address == address);
        let services = held.into_iter().flat_map(|held| &held.services);
        services.for_each(|service| {
            if !stand.services.contains(service) {
                stand.services.push(service.clone());
            }
        });
        let remembers = at.is_none_or(|at| {
            let speaker = speakers.iter().find(|speaker| speaker.node == *node);
            speaker.and_then(|speaker| speaker.since.as_ref()).is_some_and(|since| since.0 <= at)
        });
        // What it is now it was then, if nothing has happened to it that is remembered.
        let quiet =
            !entries.iter().filter(concerns).any(|entry| entry.by == *node && entry.told.address.is_some());
        if at.is_none() || (quiet && remembers) {
            let words: Vec<&str> = held.map(|held| held.state.split('+').collect()).unwrap_or_default();
            match words.contains(&"layer2") {
                true => _ = owners.entry(node.clone()).or_insert(None),
                false => _ = owners.remove(node),
            }
            if words.contains(&"bgp") {
                announced.insert(node.clone(), played.announces(node));
            }
            let reason = words.first().filter(|word| !matches!(**word, "layer2" | "bgp"));
            if let Some(reason) = reason {
                stand.reasons.entry((*reason).to_owned()).or_default().push(node.clone());
            }
            continue;
        }
        if let Some(since) = played.announces(node) {
            announced.insert(node.clone(), Some(since));
        }
        let reasons = played.reasons.iter().filter(|((of, _), _)| of == node);
        for (_, reason) in reasons.filter(|_| !announced.contains_key(node)) {
            let nodes = stand.reasons.entry(reason.clone()).or_default();
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        if !played.told.contains(node) && !remembers {
            stand.unknown.push(node.clone());
        }
    }
    let silent = |node: &str| played.sessions.get(node).is_none_or(|peers| !peers.values().any(|up| *up));
    stand.unheard = announced.keys().filter(|node| silent(node)).cloned().collect();
    let since = |(node, since): (String, Option<Timestamp>)| Since { node, since: since.map(MicroTime) };
    stand.owners = owners.into_iter().map(since).collect();
    stand.announced = announced.into_iter().map(since).collect();
    stand
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::{at, entry, facts, heard, owned, seen, session};
    use super::super::timeline::timeline;
    use super::*;

    fn names(of: &[Since]) -> Vec<String> {
        let since = |since: &Since| {
            let at = since
                .since
                .as_ref()
                .map(|at| at.0.duration_since(super::super::timeline::tests::at(0)).as_millis());
            format!("{}@{}", since.node, at.map_or_else(|| "?".to_owned(), |at| at.to_string()))
        };
        of.iter().map(since).collect()
    }

    #[test]
    fn who_had_it_is_played_back_also_where_the_owner_remembers_nothing() {
        let started = (-9_000, 0);
        let told = || {
            vec![
                heard(
                    "node-1",
                    (60_000, 0),
                    "notOwner",
                    vec![entry(60_000, "offered", "speakerStarted", "so")],
                ),
                heard(
                    "node-2",
                    started,
                    "layer2",
                    vec![EntryOf::found(-8_000, "node-1"), owned(50, "owned", 2, Some("node-1"))],
                ),
                heard("node-3", started, "notOwner", Vec::new()),
            ]
        };
        for (when, owners, unknown) in [
            (None, vec!["node-2@50"], vec![]),
            (Some(50), vec!["node-2@50"], vec!["node-1"]),
            (Some(49), vec!["node-1@?"], vec!["node-1"]),
            (Some(-8_500), vec![], vec!["node-1"]),
            (Some(-10_000), vec![], vec!["node-1", "node-2", "node-3"]),
            (Some(70_000), vec!["node-2@50"], vec![]),
        ] {
            let mut facts = facts(told());
            facts.at = when.map(at);
            let stand = timeline(facts).addresses.remove(0);
            assert_eq!(
                (names(&stand.owners), stand.unknown),
                (
                    owners.iter().map(ToString::to_string).collect(),
                    unknown.iter().map(ToString::to_string).collect()
                ),
                "{when:?}"
            );
        }
    }

    struct EntryOf;

    impl EntryOf {
        fn found(milliseconds: i64, owner: &str) -> herald_speaker::explain::EntryAnswer {
            let mut entry = seen(milliseconds, Some(owner), 1, None);
            entry.why.reason = "found".to_owned();
            entry
        }
    }

    #[test]
    fn who_announced_it_by_bgp_and_whether_anybody_heard_it_is_played_back() {
        let started = (-9_000, 0);
        let told = || {
            let first = vec![
                session(-8_000, true, "AS 100"),
                entry(-7_000, "announced", "speakerStarted", "so"),
                session(100, false, "the hold timer expired"),
                entry(200, "withdrawn", "noEndpoints", "none"),
            ];
            vec![heard("node-1", started, "noEndpoints", first), heard("node-2", started, "bgp", Vec::new())]
        };
        for (when, announced, unheard, reasons) in [
            (None, vec!["node-2@?"], vec!["node-2"], "noEndpoints node-1"),
            (Some(0), vec!["node-1@-7000", "node-2@?"], vec!["node-2"], ""),
            (Some(150), vec!["node-1@-7000", "node-2@?"], vec!["node-1", "node-2"], ""),
            (Some(300), vec!["node-2@?"], vec!["node-2"], "noEndpoints node-1"),
        ] {
            let mut facts = facts(told());
            facts.at = when.map(at);
            let stand = timeline(facts).addresses.remove(0);
            assert_eq!(
                (names(&stand.announced), &stand.unheard),
                (
                    announced.iter().map(ToString::to_string).collect(),
                    &unheard.iter().map(ToString::to_string).collect()
                ),
                "{when:?}"
            );
            let said: Vec<String> =
                stand.reasons.iter().map(|(word, nodes)| format!("{word} {}", nodes.join("+"))).collect();
            assert_eq!(said.join(", "), reasons, "{when:?}");
        }
    }
}
