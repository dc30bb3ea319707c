//! `herald history`: what this node remembers of an address, or of the addresses of a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use herald_runtime::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Said;
use crate::history::{Happened, Journal, SessionChange};
use crate::told::AllTold;

/// Addresses of one Service that are told of.
const ADDRESSES: usize = 32;
/// Transitions that are told of all addresses together: the last.
pub const LAST: usize = 200;

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One address, whatever Services have or had it.
    Address(IpAddr),
    /// All addresses that a Service has or had.
    Service(ObjectName),
    /// The last that happened to any address.
    Any,
}

impl Subject {
    /// Reads an address, or `NAMESPACE/NAME`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let fits = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        // No Service has nothing but digits in its name: that was to be an address.
        let named = name.bytes().any(|b| b.is_ascii_lowercase());
        if fits(namespace) && fits(name) && named {
            return Ok(Self::Service(ObjectName::new(namespace, name)));
        }
        Err(format!(
            "\"{text}\" is neither an address like 192.0.2.1 or 2001:db8:1::1 nor a Service as in shop/web"
        ))
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Service(name) => name.fmt(f),
            Self::Any => Ok(()),
        }
    }
}

/// What a node remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryAnswer {
    /// Who answers.
    pub node: String,
    /// Its clock.
    pub now: MicroTime,
    /// When its speaker began.
    pub started: MicroTime,
    /// From then on nothing is missing.
    pub complete_since: MicroTime,
    /// Transitions, of whatever address, that had to go for newer ones.
    pub dropped: u64,
    /// How the addresses are now.
    pub addresses: Vec<HeldAnswer>,
    /// What happened to them, and to the sessions if they are announced by BGP; the oldest first.
    pub entries: Vec<EntryAnswer>,
}

/// An address as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldAnswer {
    /// It.
    pub address: IpAddr,
    /// Those that have it.
    pub services: Vec<String>,
    /// `bgp`, `layer2` or both with a `+`, or the one word why it is not announced.
    pub state: String,
}

/// A transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryAnswer {
    /// When, counted back from the node's clock of now.
    pub at: MicroTime,
    /// `null`: a session, and so all addresses that are announced by BGP.
    pub address: Option<IpAddr>,
    /// By which Service; `null`: by none in particular.
    pub service: Option<String>,
    /// One of a closed list.
    pub event: String,
    /// Why.
    pub why: Said,
    /// The interface of the segment.
    pub on: Option<String>,
    /// Who owns it, of `seen`; `null`: nobody.
    pub owner: Option<String>,
    /// The number of the owner's claim.
    pub claim: Option<u32>,
    /// The other node of `why`.
    pub other: Option<String>,
    /// Whose session.
    pub peer: Option<String>,
}

impl EntryAnswer {
    /// What happened, in words.
    pub fn what(&self) -> String {
        let on = self.on.as_ref().map(|on| format!(" on {on}")).unwrap_or_default();
        let claim = self.claim.map(|claim| format!(", claim {claim}")).unwrap_or_default();
        let peer = self.peer.as_deref().unwrap_or("a peer");
        match &*self.event {
            "notProgrammed" => "not programmed".to_owned(),
            "announced" => "announced by BGP".to_owned(),
            "withdrawn" => "withdrawn from BGP".to_owned(),
            "offered" => "offered by layer 2".to_owned(),
            "retracted" => "offered no more".to_owned(),
            "notAnnounced" => "not announced".to_owned(),
            "owned" => format!("owns it{on}{claim}"),
            "released" => format!("released{on}"),
            "seen" if self.owner.is_some() => format!("owns it{claim}"),
            "seen" => "owns it no more".to_owned(),
            SESSION_UP => format!("BGP session with {peer} up"),
            SESSION_DOWN => format!("BGP session with {peer} down"),
            word => word.to_owned(),
        }
    }
}

/// A session came up.
pub const SESSION_UP: &str = "sessionUp";
/// It ended.
pub const SESSION_DOWN: &str = "sessionDown";

/// One clock for what is told at once: instants, and the time that belongs to one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) instant: Instant,
    pub(crate) time: Timestamp,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }

    fn at(self, instant: Instant) -> MicroTime {
        let ago = self.instant.saturating_duration_since(instant);
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::ZERO);
        MicroTime(self.time.checked_sub(ago).unwrap_or(self.time))
    }
}

/// Tells of a subject.
pub(crate) fn history(
    node: &str,
    clock: Clock,
    subject: &Subject,
    journal: &Journal,
    told: &AllTold,
) -> HistoryAnswer {
    let found = match subject {
        Subject::Any => last(clock, journal),
        Subject::Address(address) => about(BTreeSet::from([*address]), clock, journal, told),
        Subject::Service(name) => {
            let mut known = journal.addresses.keys_with(|entry| entry.service.as_ref() == Some(name));
            known.extend(told.of(name).verdicts.iter().map(|(address, _)| *address));
            about(known, clock, journal, told)
        }
    };
    HistoryAnswer {
        node: node.to_owned(),
        now: MicroTime(clock.time),
        started: clock.at(journal.started),
        complete_since: clock.at(found.since),
        dropped: found.dropped,
        addresses: found.held,
        entries: found.entries.into_iter().map(|(_, entry)| entry).collect(),
    }
}

/// What a journal has of a subject.
struct Found {
    /// From then on all of it.
    since: Instant,
    dropped: u64,
    held: Vec<HeldAnswer>,
    /// The oldest first; what happened at once in the order of the journal.
    entries: Vec<(Instant, EntryAnswer)>,
}

/// Of these addresses, and of the sessions if they are announced by BGP.
fn about(mut addresses: BTreeSet<IpAddr>, clock: Clock, journal: &Journal, told: &AllTold) -> Found {
    while addresses.len() > ADDRESSES {
        addresses.pop_last();
    }
    let held = held(&addresses, told);
    let mut entries: Vec<(Instant, EntryAnswer)> = Vec::new();
    let (mut since, mut dropped) = (journal.started, 0);
    for address in &addresses {
        let (complete, lost) = journal.complete_since(address);
        (since, dropped) = (since.max(complete), dropped.max(lost));
        entries.extend(
            journal.addresses.of(address).map(|(at, entry)| (at, happened(clock.at(at), *address, entry))),
        );
    }
    let by_bgp = held.iter().any(|held| held.state.split('+').any(|word| word == "bgp"))
        || entries.iter().any(|(_, entry)| matches!(&*entry.event, "announced" | "withdrawn"));
    for (peer, at, change) in journal.sessions.all().filter(|_| by_bgp) {
        entries.push((at, session(clock.at(at), peer, change)));
    }
    entries.sort_by_key(|(at, _)| *at);
    Found { since, dropped, held, entries }
}

/// The last of all addresses and sessions; how each address is now is not told.
fn last(clock: Clock, journal: &Journal) -> Found {
    let addresses = journal.addresses.last(LAST).into_iter();
    let sessions = journal.sessions.last(LAST).into_iter();
    let mut entries: Vec<(Instant, EntryAnswer)> = addresses
        .map(|(address, at, entry)| (at, happened(clock.at(at), *address, entry)))
        .chain(sessions.map(|(peer, at, change)| (at, session(clock.at(at), peer, change))))
        .collect();
    entries.sort_by_key(|(at, _)| *at);
    entries.drain(..entries.len().saturating_sub(LAST));
    let (since, dropped) = journal.all_since();
    Found { since, dropped, held: Vec::new(), entries }
}

/// The addresses as they are now; those that no Service has are left out.
fn held(addresses: &BTreeSet<IpAddr>, told: &AllTold) -> Vec<HeldAnswer> {
    let owned = told.owned();
    let mut held: BTreeMap<IpAddr, HeldAnswer> = BTreeMap::new();
    for (service, told) in told.all() {
        if !addresses.iter().any(|address| told.has(address)) {
            continue;
        }
        for (address, state) in told.states(&owned).filter(|(address, _)| addresses.contains(address)) {
            let said = super::overview::word(state);
            let entry = held.entry(address).or_insert_with(|| HeldAnswer {
                address,
                services: Vec::new(),
                state: said.clone(),
            });
            entry.services.push(service.to_string());
            // Of two Services that share it one may be announced.
            if state.by.contains(&true) {
                entry.state = said;
            }
        }
    }
    held.into_values().collect()
}

fn happened(at: MicroTime, address: IpAddr, entry: &Happened) -> EntryAnswer {
    EntryAnswer {
        at,
        address: Some(address),
        service: entry.service.as_ref().map(ToString::to_string),
        event: entry.what.word().to_owned(),
        why: Said::new(entry.why.word(), &entry.why),
        on: entry.on.as_deref().map(str::to_owned),
        owner: entry.what.owner().map(str::to_owned),
        claim: entry.what.claim(),
        other: entry.why.other().map(str::to_owned),
        peer: None,
    }
}

fn session(at: MicroTime, peer: &str, change: &SessionChange) -> EntryAnswer {
    let (event, reason) = if change.up { (SESSION_UP, "agreed") } else { (SESSION_DOWN, "ended") };
    EntryAnswer {
        at,
        address: None,
        service: None,
        event: event.to_owned(),
        why: Said::new(reason, &change.text),
        on: None,
        owner: None,
        claim: None,
        other: None,
        peer: Some(peer.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{History, What, Why};
    use crate::plan::Verdict;
    use crate::reason::Reason;
    use crate::told::Told;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn of_any_address_the_last_transitions_are_told_with_those_of_sessions() {
        let begin = Instant::now();
        let at = |n: u64| begin + Duration::from_secs(n);
        let history = History::new(begin);
        for n in 0..300 {
            let address = IpAddr::from([192, 0, 2, u8::try_from(n % 100).unwrap()]);
            let web = ObjectName::new("shop", "web");
            history.service(at(n), &web, address, vec![(What::Announced, Why::Configured)]);
        }
        history.session(at(250), "10.0.0.1:179", false, "gone");
        history.session(at(5), "10.0.0.1:179", true, "long ago");
        let clock = Clock { instant: at(300), time: "2026-08-01T03:12:00Z".parse().unwrap() };
        let told = history_of(clock, &Subject::Any, &history);
        assert_eq!((told.entries.len(), told.addresses.len(), told.dropped), (LAST, 0, 0));
        assert_eq!(told.entries.iter().filter(|entry| entry.address.is_none()).count(), 1);
        assert_eq!(told.entries[LAST - 1].address, Some(ip("192.0.2.99")));
        assert!(told.entries.is_sorted_by_key(|entry| entry.at.0) && told.started == told.complete_since);
    }

    fn history_of(clock: Clock, subject: &Subject, of: &History) -> HistoryAnswer {
        history("node-1", clock, subject, &of.journal(), &AllTold::default())
    }

    #[test]
    fn a_subject_is_an_address_or_a_service_and_what_is_neither_is_told() {
        let web = |namespace| Ok(Subject::Service(ObjectName::new(namespace, "web")));
        for (text, subject) in [
            ("192.0.2.1", Ok(Subject::Address(ip("192.0.2.1")))),
            ("2001:db8:1::1", Ok(Subject::Address(ip("2001:db8:1::1")))),
            ("::ffff:192.0.2.1", Ok(Subject::Address(ip("192.0.2.1")))),
            ("shop/web", web("shop")),
            ("007/web", web("007")),
            ("web", web("default")),
        ] {
            assert_eq!(Subject::parse(text), subject, "{text}");
        }
        for bad in
            ["", "192.0.2.500", "192.0.2.1/32", "2001:db8::x", "a/b/c", "/web", "shop/", "Shop/web", "web?"]
        {
            let error = Subject::parse(bad).unwrap_err();
            assert!(error.starts_with(&format!("\"{bad}\" is neither an address like")), "{error}");
        }
    }

    #[test]
    fn what_happened_is_told_in_its_order_with_the_sessions_where_bgp_has_a_part() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (history, told) = (History::new(begin), AllTold::default());
        let (web, vip) = (ObjectName::new("shop", "web"), ip("192.0.2.1"));
        history.session(at(1), "10.0.0.1:179", true, "AS 100");
        history.service(at(2), &web, vip, vec![(What::Announced, Why::Began)]);
        history.service(at(2), &web, ip("192.0.2.9"), vec![(What::Offered, Why::Began)]);
        history.session(at(3), "10.0.0.1:179", false, "the hold timer expired");
        let reason = Reason::NoEndpoints;
        history.service(at(4), &web, vip, vec![(What::Withdrawn, Why::Refused(reason))]);
        let verdicts = [(vip, Verdict::Skip(reason))].into();
        told.remember(&web, Told { verdicts, ..Told::default() });

        let clock = Clock { instant: at(10), time: Timestamp::from_second(1_000_010).unwrap() };
        let tell = |subject| super::history("node-1", clock, &subject, &history.journal(), &told);
        let answer = tell(Subject::Address(vip));
        let lines: Vec<String> = answer
            .entries
            .iter()
            .map(|entry| {
                format!("{} {}: {}", entry.at.0.as_second() - 1_000_000, entry.what(), entry.why.text)
            })
            .collect();
        let expected = [
            "1 BGP session with 10.0.0.1:179 up: AS 100",
            "2 announced by BGP: so it was when the speaker started",
            "3 BGP session with 10.0.0.1:179 down: the hold timer expired",
            "4 withdrawn from BGP: noEndpoints: no endpoint can take traffic anywhere",
        ];
        assert_eq!(lines, expected);
        assert_eq!(answer.dropped, 0);
        assert_eq!(answer.started.0.as_second(), 1_000_000);
        assert_eq!(answer.complete_since, answer.started);
        assert_eq!(answer.addresses[0].state, "noEndpoints");
        assert_eq!(answer.addresses[0].services, ["shop/web"]);

        // An address without BGP has nothing to do with sessions; one of a Service that has it no more is its as well.
        assert_eq!(tell(Subject::Address(ip("192.0.2.9"))).entries.len(), 1);
        assert_eq!(tell(Subject::Service(web)).entries.len(), 5);
        assert_eq!(tell(Subject::Address(ip("192.0.2.7"))).entries, []);
    }
}
