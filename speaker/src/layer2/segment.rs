//! One interface's part in the elections of its segment: a state machine without sockets and clock.
//!
//! It says in its hellos which addresses it may own, hears what the others say, and owns an address when the election
//! ([`super::election`]) of all that it hears says so. It decides only its own eligibility and guesses nobody's.
//!
//! - **Alive** is who was heard within three of its own hello intervals. A run of a participant counts only after it has
//!   listed this run with a hello sent within the last second: so a recorded hello brings nobody back to life.
//! - **Claims** are numbered over all nodes. Who takes an address takes the next number; of two claims the higher one
//!   stands, and the other node lets go as soon as it hears of it.
//! - **Taking** what nobody claims needs that this participant has listened long enough, and knows all offers of all that it
//!   hears; one that is not to be understood is waited for a second at most. An address that nobody is known to have owned is
//!   probed first.
//! - **Leaving** (the offer is withdrawn, or the speaker stops): the owner answers on until another one has claimed the
//!   address, at most a second.
//!
//! Invariant, simulated: of participants that hear each other no two own an address for longer than it takes a hello to
//! arrive, and there is an owner as long as somebody offers the address.

mod copies;
mod doubts;
mod log;
mod peers;
mod sending;
mod spread;
mod table;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::copies::Search;
use self::doubts::Doubts;
use self::log::Log;
use self::peers::{Admission, Peers};
use self::spread::Spread;
use super::bursts::Bursts;
use super::election::{By, Candidate, rank, winner};
use super::frame::Mac;
use super::hello::{Hello, Offer, Participant, Sender};

/// How often a hello is sent.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a new participant only listens.
const LISTEN: Duration = Duration::from_millis(400);
/// How long an answer to a probe is waited for.
const PROBE: Duration = Duration::from_millis(200);
/// How long an owner that leaves waits for another one.
const LEAVE: Duration = Duration::from_secs(1);
/// How long somebody whose offers are not known keeps others from taking what nobody claims.
const LAG: Duration = Duration::from_secs(1);
/// Pause between two defences of an address (RFC 5227 §2.4).
const DEFEND: Duration = Duration::from_secs(10);
/// Pause after somebody else was found to have an address, who may be about to give it up: another load balancer that is replaced.
const HELD: Duration = Duration::from_secs(2);
/// A hello that lists one of ours from this long ago was sent just now.
const FRESH: Duration = Duration::from_secs(1);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// All addresses that this participant may own, with their preference.
    Offers(BTreeMap<IpAddr, u16>),
    /// The nodes that should be on the segment, with their addresses there.
    Nodes(BTreeMap<Box<str>, IpAddr>),
    /// Whether addresses go back, one after the other, to where they would be without any claim.
    Spread(bool),
    /// A hello that was signed by a node of the cluster, and where it came from.
    Hello(Hello, Option<IpAddr>),
    /// A frame says that an address is this one's.
    Claimed(IpAddr, Mac),
    /// A frame of a host that is asked after.
    Answered(Mac),
    /// The speaker stops.
    Stop,
    /// [`Segment::next_deadline`] has come.
    DeadlineReached,
}

/// What is to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send to all.
    Send(Box<Hello>),
    /// Send to one alone.
    SendTo(IpAddr, Box<Hello>),
    /// Ask on the wire whether somebody has the address.
    Probe(IpAddr),
    /// Answer for it from now on.
    Own(IpAddr),
    /// Answer for it no more.
    Release(IpAddr),
    /// Tell all neighbours that it is here.
    Tell(IpAddr),
    /// Somebody who is none of the cluster has it.
    Conflict(IpAddr, Mac),
    /// Other nodes count as dead than before.
    Suspects,
}

/// Who owns an address, as far as this participant knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The node that claims it.
    pub(crate) owner: Option<Box<str>>,
    /// The number of its claim.
    pub(crate) claim: Option<u32>,
    /// The node that would have it if the owner went.
    pub(crate) next: Option<Box<str>>,
    /// Why that one.
    pub(crate) next_by: Option<By>,
}

/// An address that this participant offers, or owns still.
#[derive(Debug)]
struct Own {
    score: u16,
    rank: u64,
    offered: bool,
    /// It is being given to another node.
    given: bool,
    claim: Option<u32>,
    /// The highest number of a claim that was heard of.
    seen: u32,
    leave_at: Option<Instant>,
    probed: Option<Instant>,
    not_before: Option<Instant>,
    defended: Option<Instant>,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Segment {
    sender: Sender,
    me: Participant,
    boot: u64,
    sequence: u32,
    /// When the hellos of the last second were sent.
    recent: VecDeque<(Instant, u32)>,
    started: Instant,
    next_hello: Instant,
    haste: bool,
    stopping: bool,
    own: BTreeMap<IpAddr, Own>,
    log: Log,
    peers: Peers,
    dirty: BTreeSet<IpAddr>,
    /// Addresses that it would take, but for somebody whose offers are not known.
    waiting: BTreeSet<IpAddr>,
    alarms: BTreeSet<(Instant, IpAddr)>,
    bursts: Bursts,
    doubts: Doubts,
    doubt_at: Option<Instant>,
    /// Nodes that count as dead.
    suspects: BTreeSet<Box<str>>,
    search: Search,
    spread: Spread,
}

impl Segment {
    /// A new run. `boot` is a random number that no earlier run had.
    pub(crate) fn new(sender: Sender, boot: u64, now: Instant) -> Self {
        let me = sender.participant;
        Self {
            sender,
            me,
            boot,
            sequence: 0,
            recent: VecDeque::new(),
            started: now,
            next_hello: now,
            haste: false,
            stopping: false,
            own: BTreeMap::new(),
            log: Log::default(),
            peers: Peers::default(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            alarms: BTreeSet::new(),
            bursts: Bursts::default(),
            doubts: Doubts::default(),
            doubt_at: None,
            suspects: BTreeSet::new(),
            search: Search::new(now),
            spread: Spread::default(),
        }
    }

    /// Takes what happens.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Vec<Output> {
        let mut out = Vec::new();
        // While hellos are taken one after the other nobody is silent: the next one may be of whom it would be.
        let expires = !matches!(event, Event::Hello(..));
        match event {
            Event::Offers(offers) => self.offers(&offers),
            Event::Nodes(nodes) => self.search.among(nodes),
            Event::Spread(on) => self.spread.switch(now, on),
            Event::Hello(hello, from) => self.hello(now, &hello, from),
            Event::Answered(mac) => self.doubts.answered(now, mac),
            Event::Claimed(address, mac) => self.claimed(now, address, mac, &mut out),
            Event::Stop => {
                self.stopping = true;
                self.haste = true;
                self.dirty.extend(self.own.keys());
            }
            Event::DeadlineReached => {}
        }
        if expires {
            self.peers.expire(now);
        }
        self.doubt(now, &mut out);
        self.look_again(now);
        self.give_one(now);
        self.decide(now, &mut out);
        self.send(now, &mut out);
        out.extend(self.bursts.take(now).into_iter().map(Output::Tell));
        out
    }

    /// When [`Event::DeadlineReached`] is to be handled, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Instant {
        let settled = self.peers.next_settled(LAG).into_iter().fold(self.started + LISTEN, Instant::max);
        let settled = (!self.waiting.is_empty()).then_some(settled);
        let hasty = (self.haste || self.log.unsent()).then(|| self.haste_at());
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let all = [
            settled,
            hasty,
            alarm,
            self.peers.next_death(),
            self.bursts.next(),
            self.doubt_at,
            self.spread.next(),
        ];
        all.into_iter().flatten().fold(self.next_hello, Instant::min)
    }

    #[cfg(test)]
    fn owns(&self, address: &IpAddr) -> bool {
        self.own.get(address).is_some_and(|own| own.claim.is_some())
    }

    /// All that it owns.
    pub(crate) fn owned(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own.iter().filter(|(_, own)| own.claim.is_some()).map(|(address, _)| *address)
    }

    /// What it offers, and who owns that.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (IpAddr, Standing)> + '_ {
        self.own.keys().map(|address| (*address, self.standing(*address)))
    }

    /// How many others it hears.
    pub(crate) fn hears(&self) -> usize {
        self.peers.len()
    }

    /// The nodes that it hears.
    pub(crate) fn heard_nodes(&self) -> impl Iterator<Item = Box<str>> + '_ {
        self.peers.nodes()
    }

    /// Nodes that count as dead: their endpoints are suspect.
    pub(crate) fn suspects(&self) -> &BTreeSet<Box<str>> {
        &self.suspects
    }

    /// Whether a frame of this host would be an answer.
    pub(crate) fn asks_after(&self, mac: Mac) -> bool {
        self.doubts.about(mac)
    }

    fn standing(&self, address: IpAddr) -> Standing {
        let mine = self.own.get(&address).map(|own| self.mine(own));
        let all = || self.peers.candidates(address).chain(mine);
        let claims = |of: Candidate| Some((of.offer.claim?, of.participant));
        // Who leaves has it until another one claims it.
        let owner = winner(all()).and_then(claims).or_else(|| {
            let mine = mine.and_then(claims);
            mine.max(self.peers.claimant(address))
        });
        let but =
            |out: [Option<Participant>; 2]| winner(all().filter(|of| !out.contains(&Some(of.participant))));
        let holder = owner.map(|(_, participant)| participant);
        let next = but([holder, None]);
        let next_by = next.map(|next| By::of(&next, but([holder, Some(next.participant)]).as_ref()));
        let name = |of: Option<Participant>| of.and_then(|of| self.name(of));
        Standing {
            owner: name(holder),
            claim: owner.map(|(claim, _)| claim),
            next: name(next.map(|next| next.participant)),
            next_by,
        }
    }

    fn name(&self, participant: Participant) -> Option<Box<str>> {
        if participant == self.me { Some(self.sender.node.clone()) } else { self.peers.name(participant) }
    }

    fn mine(&self, own: &Own) -> Candidate {
        let leaving = !own.offered || own.given || self.stopping;
        let offer = Offer { score: own.score, claim: own.claim, leaving };
        Candidate { participant: self.me, offer, rank: own.rank }
    }

    fn offers(&mut self, offers: &BTreeMap<IpAddr, u16>) {
        for (address, own) in &mut self.own {
            if own.offered && !offers.contains_key(address) {
                own.offered = false;
                self.dirty.insert(*address);
            }
        }
        for (address, score) in offers {
            let seen = || self.peers.highest_claim(*address);
            let own = self.own.entry(*address).or_insert_with(|| Own {
                score: *score,
                rank: rank(&self.sender.node, *address),
                offered: false,
                given: false,
                claim: None,
                seen: seen(),
                leave_at: None,
                probed: None,
                not_before: None,
                defended: None,
            });
            if !own.offered || own.score != *score {
                own.offered = true;
                own.score = *score;
                self.dirty.insert(*address);
            }
        }
    }

    fn hello(&mut self, now: Instant, hello: &Hello, from: Option<IpAddr>) {
        let participant = hello.sender.participant;
        if participant == self.me {
            return;
        }
        let heard = hello.heard.iter().find(|heard| heard.participant == self.me && heard.boot == self.boot);
        let fresh = |sequence: u32| {
            let from = self.recent.iter().find(|(sent, _)| *sent + FRESH >= now);
            from.is_some_and(|(_, from)| (*from..=self.sequence).contains(&sequence))
        };
        let proven = heard.is_some_and(|heard| fresh(heard.sequence));
        match self.peers.hello(now, participant, (hello, from), heard, proven) {
            Admission::Stranger => self.haste = true,
            Admission::Admitted => {
                self.doubts.end(participant);
                self.log.send_again(heard.map_or(0, |heard| heard.version));
            }
            Admission::Known | Admission::Replay => {}
        }
    }

    /// Asks after those that have fallen silent, and judges them.
    fn doubt(&mut self, now: Instant, out: &mut Vec<Output>) {
        for fallen in self.peers.take_fallen() {
            self.doubts.begin(now, fallen);
        }
        let silent = self.doubts.len();
        if silent == 0 && self.suspects.is_empty() {
            self.doubt_at = None;
            return;
        }
        out.extend(self.doubts.questions(now).into_iter().map(Output::Probe));
        let suspects = self.doubts.suspects(now, |participant| self.peers.votes(participant, silent));
        if suspects != self.suspects {
            self.suspects = suspects;
            out.push(Output::Suspects);
        }
        self.doubt_at = self.doubts.next(now);
    }

    fn changed(&mut self) {
        for (address, claim) in self.peers.take_changed() {
            if let Some(own) = self.own.get_mut(&address) {
                own.seen = own.seen.max(claim);
                self.dirty.insert(address);
            }
        }
    }

    fn claimed(&mut self, now: Instant, address: IpAddr, mac: Mac, out: &mut Vec<Output>) {
        if mac == self.sender.mac {
            return;
        }
        let Some(own) = self.own.get_mut(&address) else { return };
        if self.peers.has_mac(mac) {
            // What nodes of the cluster may announce is settled by their hellos. But where one tells an address that is
            // being left, its claim is on the way: two that answer are one too many.
            if own.leave_at.is_some() {
                own.leave_at = Some(now);
                self.dirty.insert(address);
            }
            return;
        }
        if own.claim.is_some() {
            out.push(Output::Conflict(address, mac));
            if own.defended.is_none_or(|at| at + DEFEND <= now) {
                own.defended = Some(now);
                out.push(Output::Tell(address));
            }
        } else if own.probed.take().is_some() {
            out.push(Output::Conflict(address, mac));
            own.not_before = Some(now + HELD);
            self.alarms.insert((now + HELD, address));
        }
    }

    /// Marks what time or others have changed.
    fn look_again(&mut self, now: Instant) {
        self.changed();
        while let Some((at, address)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, address));
            self.dirty.insert(address);
        }
        if !self.waiting.is_empty() && self.settled(now) {
            self.dirty.append(&mut self.waiting);
        }
    }

    /// Whether it may take what nobody claims.
    fn settled(&self, now: Instant) -> bool {
        self.started + LISTEN <= now && self.peers.settled(now, LAG)
    }

    fn decide(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.dirty.is_empty() {
            return;
        }
        let settled = self.settled(now);
        for address in std::mem::take(&mut self.dirty) {
            self.waiting.remove(&address);
            let Some(own) = self.own.get(&address) else { continue };
            let mine = self.mine(own);
            let other = winner(self.peers.candidates(address));
            let Some(own) = self.own.get_mut(&address) else { continue };
            if mine.offer.claim.is_some() {
                let taken = other.is_some_and(|other| {
                    other.offer.claim.is_some() && (mine.offer.leaving || other.standing() > mine.standing())
                });
                let deadline = *own.leave_at.get_or_insert(now + LEAVE);
                if !mine.offer.leaving {
                    own.leave_at = None;
                } else if !taken && other.is_some() && now < deadline {
                    self.alarms.insert((deadline, address));
                }
                if taken || mine.offer.leaving && (other.is_none() || deadline <= now) {
                    own.claim = None;
                    own.leave_at = None;
                    own.given = false;
                    self.bursts.end(address);
                    out.push(Output::Release(address));
                }
            } else if mine.offer.leaving || other.is_some_and(|other| other.standing() > mine.standing()) {
                own.probed = None;
            } else if !settled {
                self.waiting.insert(address);
            } else if own.not_before.is_some_and(|at| now < at) {
                // Its alarm is set.
            } else if own.seen > 0 || own.probed.is_some_and(|at| at + PROBE <= now) {
                own.seen += 1;
                own.claim = Some(own.seen);
                own.probed = None;
                self.bursts.begin(now, address);
                out.push(Output::Own(address));
            } else if own.probed.is_none() {
                own.probed = Some(now);
                self.alarms.insert((now + PROBE, address));
                out.push(Output::Probe(address));
            }
            let own = &*own;
            let offer = Offer { score: own.score, claim: own.claim, leaving: !own.offered || own.given };
            let gone = !own.offered && own.claim.is_none();
            self.log.set(address, (!gone).then_some(offer));
            if gone {
                self.own.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;
