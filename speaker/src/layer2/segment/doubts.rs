//! Participants that have fallen silent, and whether their nodes count as dead: their endpoints are suspect then.
//!
//! A speaker that is silent is not yet a dead node. It counts as one when
//! - most participants of the segment do not hear it either, by what their hellos say; and
//! - its kernel does not answer: it is asked for the address that its hellos came from (a unicast answer of any state of
//!   the process). Where nobody else is on the segment to agree, an address to ask for is needed.
//!
//! Once it counts as dead it does so until it is heard or its kernel answers: that another participant has fallen silent
//! as well, or this one was held up and heard nobody for a moment, says nothing for it.
//!
//! One that said that it stops is no dead node, nor is one that was never heard. The first hello ends it. What
//! the API server says meanwhile is not asked: it learns of it much later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::layer2::frame::Mac;
use crate::layer2::hello::Participant;

/// How long answers to the first questions are waited for.
const ANSWER: Duration = Duration::from_millis(150);
/// The second question follows the first one after this: one of them may be lost.
const SECOND: Duration = Duration::from_millis(70);
/// The later ones, each after the other: a kernel that answered may die yet.
const AGAIN: Duration = Duration::from_secs(1);
/// Whoever is silent for longer is nobody's business here: the API server knows by then, and it weighs in no majority.
const FORGET: Duration = Duration::from_secs(600);

/// Who has fallen silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fallen {
    pub(super) participant: Participant,
    pub(super) node: Box<str>,
    pub(super) mac: Mac,
    /// Where its hellos came from.
    pub(super) address: Option<IpAddr>,
}

#[derive(Debug)]
struct Silent {
    of: Fallen,
    since: Instant,
    asked: u8,
    ask_at: Instant,
    answered: Option<Instant>,
    dead: bool,
}

/// How many participants do not hear one that is silent, and how many there are, both without that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Votes {
    pub(super) against: usize,
    pub(super) of: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    silent: BTreeMap<Participant, Silent>,
}

impl Doubts {
    /// Somebody has fallen silent.
    pub(super) fn begin(&mut self, now: Instant, fallen: Fallen) {
        let silent = Silent { since: now, asked: 0, ask_at: now, answered: None, dead: false, of: fallen };
        self.silent.insert(silent.of.participant, silent);
    }

    /// It is heard again.
    pub(super) fn end(&mut self, participant: Participant) {
        self.silent.remove(&participant);
    }

    /// A frame that it sent itself.
    pub(super) fn answered(&mut self, now: Instant, mac: Mac) {
        for silent in self.silent.values_mut().filter(|silent| silent.of.mac == mac) {
            silent.answered = Some(now);
        }
    }

    /// Whether a frame of this host would say anything.
    pub(super) fn about(&self, mac: Mac) -> bool {
        self.silent.values().any(|silent| silent.of.mac == mac)
    }

    /// How many are silent.
    pub(super) fn len(&self) -> usize {
        self.silent.len()
    }

    /// The addresses to ask for now.
    pub(super) fn questions(&mut self, now: Instant) -> Vec<IpAddr> {
        self.silent.retain(|_, silent| now < silent.since + FORGET);
        let mut asked = Vec::new();
        for silent in self.silent.values_mut().filter(|silent| silent.ask_at <= now) {
            silent.asked = silent.asked.saturating_add(1);
            silent.ask_at = now + if silent.asked == 1 { SECOND } else { AGAIN };
            asked.extend(silent.of.address);
        }
        asked
    }

    /// When there is something to ask, or to decide.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let moments = self.silent.values().flat_map(|silent| {
            let verdict = silent.since + ANSWER;
            let stale = silent.answered.map(|at| at + AGAIN + ANSWER);
            [Some(silent.ask_at), Some(verdict), stale].into_iter().flatten()
        });
        moments.filter(|at| *at > now).min()
    }

    /// The nodes that count as dead.
    pub(super) fn suspects(
        &mut self,
        now: Instant,
        votes: impl Fn(Participant) -> Votes,
    ) -> BTreeSet<Box<str>> {
        for (participant, silent) in &mut self.silent {
            let answers = silent.answered.is_some_and(|at| now < at + AGAIN + ANSWER);
            let waited = silent.since + ANSWER <= now;
            let askable = silent.of.address.is_some();
            silent.dead = !answers && (silent.dead || waited && agreed(askable, votes(*participant)));
        }
        let dead = self.silent.values().filter(|silent| silent.dead);
        dead.map(|silent| silent.of.node.clone()).collect()
    }
}

/// Whether most participants agree that one is silent.
fn agreed(askable: bool, votes: Votes) -> bool {
    2 * votes.against > votes.of && (votes.of > 1 || askable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_must_agree() {
        let votes = |against, of| Votes { against, of };
        for (what, askable, votes, dead) in [
            ("two nodes", true, votes(1, 1), true),
            ("two nodes, nothing to ask for", false, votes(1, 1), false),
            ("three nodes, both agree", true, votes(2, 2), true),
            ("three nodes, the other one hears it", true, votes(1, 2), false),
            ("many without an address to ask for", false, votes(3, 4), true),
            ("half is not most", true, votes(2, 4), false),
            ("alone, cut off from four", true, votes(1, 4), false),
        ] {
            assert_eq!(agreed(askable, votes), dead, "{what}");
        }
    }

    const MS: Duration = Duration::from_millis(1);
    const X: Participant = Participant(7);
    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn silent_since(now: Instant) -> Doubts {
        let mut doubts = Doubts::default();
        let address = Some("10.0.0.13".parse().unwrap());
        doubts.begin(now, Fallen { participant: X, node: "node3".into(), mac: MAC, address });
        doubts
    }

    fn all(_: Participant) -> Votes {
        Votes { against: 2, of: 2 }
    }

    #[test]
    fn it_is_asked_twice_before_the_verdict_and_each_second_after() {
        let start = Instant::now();
        let mut doubts = silent_since(start);
        let mut told = Vec::new();
        let mut now = start;
        while now < start + MS * 2500 {
            let asked = doubts.questions(now).len();
            let dead = doubts.suspects(now, all).len();
            told.push(((now - start).as_millis(), asked, dead));
            now = doubts.next(now).unwrap();
        }
        let asked: Vec<_> = told.iter().filter(|(_, asked, _)| *asked == 1).map(|(at, ..)| *at).collect();
        assert_eq!(asked, [0, 70, 1070, 2070]);
        assert_eq!(told.iter().find(|(.., dead)| *dead == 1).map(|(at, ..)| *at), Some(150));
    }

    #[test]
    fn an_answer_lifts_it_until_answers_stop_and_that_others_are_silent_does_not() {
        let start = Instant::now();
        let mut doubts = silent_since(start);
        doubts.answered(start + MS * 20, MAC);
        doubts.answered(start + MS * 20, [9; 6]);
        let dead = |doubts: &mut Doubts, at: u32| !doubts.suspects(start + MS * at, all).is_empty();
        assert!(!dead(&mut doubts, 150) && !dead(&mut doubts, 1100) && dead(&mut doubts, 1170));
        let alone = |_| Votes { against: 1, of: 2 };
        assert_eq!(doubts.suspects(start + MS * 1200, alone).len(), 1);
        doubts.answered(start + MS * 1300, MAC);
        assert!(!dead(&mut doubts, 1301) && dead(&mut doubts, 2460));
        doubts.end(X);
        assert!(!dead(&mut doubts, 2461) && doubts.next(start).is_none());
    }

    #[test]
    fn after_ten_minutes_it_is_forgotten() {
        let start = Instant::now();
        let mut doubts = silent_since(start);
        doubts.questions(start + FORGET);
        assert_eq!(doubts.len(), 0);
    }
}
