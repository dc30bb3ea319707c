//! The others on a segment: who is alive, what each of them offers, and how much of that is known.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::layer2::election::Candidate;
use crate::layer2::frame::Mac;
use crate::layer2::hello::{HeardPeer, Hello, MAX_HEARD, Offer, Participant};

use super::doubts::{Fallen, Votes};
use super::table::Table;
use super::window::Window;

/// So many of its own intervals without a hello, and a participant counts as gone.
const MULTIPLIER: u32 = 3;
/// Bounds of what a hello may say of its interval.
const INTERVALS: std::ops::RangeInclusive<u16> = 10..=10_000;
/// Participants that are known at a time; more are not heard.
const MAX_PEERS: usize = 4096;
/// So many regular hellos list everybody on the largest segment.
const LISTS_KEPT: u32 = (MAX_PEERS / MAX_HEARD) as u32 + 1;
/// A newcomer that was heard by multicast and does not prove itself for so long does not hear this participant.
const PROOF: Duration = Duration::from_millis(500);
/// How long a run that did not prove itself is remembered without another hello.
const FORGET: Duration = Duration::from_secs(1);

/// What became of a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Of a run that has proven itself before.
    Known,
    /// Of a run that proved itself just now.
    Admitted,
    /// The first one of a run that has yet to prove itself.
    Stranger,
    /// It came before, or later ones did.
    Replay,
}

#[derive(Debug)]
struct Peer {
    node: Box<str>,
    mac: Mac,
    boot: u64,
    window: Window,
    stopping: bool,
    interval: Duration,
    since: Instant,
    heard: Instant,
    /// The version that it says its offers have.
    version: u32,
    table: Table,
    /// Takes the place of the table when it is complete.
    next: Option<Table>,
    lagging: Option<Instant>,
    /// How much it knows of our offers, and by which of our datagrams it says so.
    acknowledged: u32,
    acknowledged_in: u32,
    /// Where its hellos come from.
    address: Option<IpAddr>,
    /// The last one that was for all.
    for_all: Option<Instant>,
    /// It hears this participant by copies only.
    wants_copies: bool,
    /// How many regular hellos of it have come, and in which it listed whom last.
    regular: u32,
    listed: HashMap<Participant, u32>,
}

impl Peer {
    fn silent_at(&self) -> Instant {
        self.heard + self.interval * MULTIPLIER
    }

    /// Keeps whom it says that it hears.
    fn lists(&mut self, hello: &Hello) {
        if hello.update.is_some() {
            return;
        }
        self.regular = self.regular.wrapping_add(1);
        let room = MAX_PEERS.saturating_sub(self.listed.len());
        let listed = hello.heard.iter().take(room).map(|heard| (heard.participant, self.regular));
        self.listed.extend(listed);
        // Once in a while those go that it has not listed for long.
        if self.regular.is_multiple_of(LISTS_KEPT) {
            let now = self.regular;
            self.listed.retain(|_, at| now.wrapping_sub(*at) < LISTS_KEPT);
        }
    }

    /// Whether it hears somebody, by the last of its hellos that list everybody between them.
    fn hears(&self, participant: Participant, turns: u32) -> bool {
        self.listed.get(&participant).is_some_and(|at| self.regular.wrapping_sub(*at) < turns)
    }

    /// Only copies for this participant are heard of it.
    fn alone(&self, now: Instant) -> bool {
        self.for_all.is_none_or(|at| at + self.interval * MULTIPLIER <= now)
    }

    fn known(&self) -> u32 {
        self.next.as_ref().unwrap_or(&self.table).version
    }
}

/// A run that has not proven itself yet.
#[derive(Debug)]
struct Newcomer {
    boot: u64,
    window: Window,
    since: Instant,
    heard: Instant,
    node: Box<str>,
    address: Option<IpAddr>,
    /// Its last hello was a copy for this participant.
    alone: bool,
}

/// All others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<Participant, Peer>,
    newcomers: BTreeMap<Participant, Newcomer>,
    /// No sooner than this is somebody gone.
    expire_at: Option<Instant>,
    /// Addresses of which something was said since the last look, and the highest claim among that.
    changed: BTreeMap<IpAddr, u32>,
    /// Who was listed last as heard.
    turn: Option<Participant>,
    /// Who has fallen silent since the last look.
    fallen: Vec<Fallen>,
}

impl Peers {
    /// A hello has come. `heard` is what it says of this run, `proven` that this was just now.
    pub(super) fn hello(
        &mut self,
        now: Instant,
        participant: Participant,
        (hello, from): (&Hello, Option<IpAddr>),
        heard: Option<&HeardPeer>,
        proven: bool,
    ) -> Admission {
        let mut admission = Admission::Known;
        let mut newest = true;
        let known = self.peers.get_mut(&participant).filter(|peer| peer.boot == hello.boot);
        if let Some(peer) = known {
            let Some(newer) = peer.window.take(hello.sequence) else { return Admission::Replay };
            newest = newer;
        } else {
            let newcomer = self.newcomers.get_mut(&participant).filter(|known| known.boot == hello.boot);
            let window = match newcomer {
                Some(newcomer) => {
                    if newcomer.window.take(hello.sequence).is_none() {
                        return Admission::Replay;
                    }
                    newcomer.window
                }
                None => Window::new(hello.sequence),
            };
            if !proven {
                return self.newcomer(now, participant, (hello, from), window);
            }
            self.admit(now, participant, hello, window);
            admission = Admission::Admitted;
        }
        let Some(peer) = self.peers.get_mut(&participant) else { return Admission::Replay };
        peer.heard = now;
        peer.address = from.or(peer.address);
        if !hello.alone {
            peer.for_all = Some(now);
        }
        peer.lists(hello);
        if let Some(heard) = heard {
            peer.wants_copies = heard.alone;
        }
        if let Some(heard) = heard.filter(|heard| heard.sequence >= peer.acknowledged_in) {
            peer.acknowledged = heard.version;
            peer.acknowledged_in = heard.sequence;
        }
        if newest {
            peer.mac = hello.sender.mac;
            let interval = hello.interval.clamp(*INTERVALS.start(), *INTERVALS.end());
            peer.interval = Duration::from_millis(interval.into());
            peer.version = hello.version;
            if peer.stopping != hello.stopping {
                peer.stopping = hello.stopping;
                let all = peer.table.offers.iter().map(|(address, (offer, _))| (*address, claim(offer)));
                all.for_each(|(address, claim)| note(&mut self.changed, address, claim));
            }
        }
        let silent_at = peer.silent_at();
        self.learn(now, participant, hello);
        self.look_at(silent_at);
        admission
    }

    fn newcomer(
        &mut self,
        now: Instant,
        participant: Participant,
        (hello, from): (&Hello, Option<IpAddr>),
        window: Window,
    ) -> Admission {
        let since = self
            .newcomers
            .get(&participant)
            .filter(|known| known.boot == hello.boot)
            .map(|known| known.since);
        if since.is_some() || self.newcomers.len() < MAX_PEERS {
            let newcomer = Newcomer {
                boot: hello.boot,
                window,
                since: since.unwrap_or(now),
                heard: now,
                node: hello.sender.node.clone(),
                address: from,
                alone: hello.alone,
            };
            self.newcomers.insert(participant, newcomer);
            self.look_at(now + FORGET);
        }
        if since.is_none() { Admission::Stranger } else { Admission::Known }
    }

    fn admit(&mut self, now: Instant, participant: Participant, hello: &Hello, window: Window) {
        self.newcomers.remove(&participant);
        self.remove(participant);
        if self.peers.len() >= MAX_PEERS {
            return;
        }
        let peer = Peer {
            node: hello.sender.node.clone(),
            mac: hello.sender.mac,
            boot: hello.boot,
            window,
            stopping: hello.stopping,
            interval: Duration::ZERO,
            since: now,
            heard: now,
            version: 0,
            table: Table::default(),
            next: None,
            lagging: None,
            acknowledged: 0,
            acknowledged_in: 0,
            address: None,
            for_all: None,
            wants_copies: false,
            regular: 0,
            listed: HashMap::new(),
        };
        self.peers.insert(participant, peer);
    }

    /// Takes what a hello says of its sender's offers.
    fn learn(&mut self, now: Instant, participant: Participant, hello: &Hello) {
        let Some(peer) = self.peers.get_mut(&participant) else { return };
        if peer.table.version < hello.floor && peer.next.is_none() {
            peer.next = Some(Table::default());
        }
        if let Some(update) = &hello.update
            && update.base <= peer.known()
            && update.to > peer.known()
        {
            match &mut peer.next {
                Some(next) => next.apply(&peer.node, update),
                None => {
                    let before =
                        |address| peer.table.offers.get(address).map_or(0, |(offer, _)| claim(offer));
                    let said = |offer: &Option<Offer>| offer.as_ref().map_or(0, claim);
                    for (address, offer) in &update.offers {
                        note(&mut self.changed, *address, before(address).max(said(offer)));
                    }
                    peer.table.apply(&peer.node, update);
                }
            }
        }
        if let Some(next) = peer.next.take_if(|next| next.version >= peer.version) {
            let former = std::mem::replace(&mut peer.table, next);
            let all = former.offers.iter().chain(&peer.table.offers);
            all.for_each(|(address, (offer, _))| note(&mut self.changed, *address, claim(offer)));
        }
        let behind = peer.known() < peer.version;
        peer.lagging = if behind { peer.lagging.or(Some(now)) } else { None };
    }

    fn look_at(&mut self, at: Instant) {
        self.expire_at = Some(self.expire_at.map_or(at, |known| known.min(at)));
    }

    /// Forgets those that are silent.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.expire_at.is_none_or(|at| now < at) {
            return;
        }
        let silent: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.silent_at() <= now)
            .map(|(participant, _)| *participant)
            .collect();
        for participant in silent {
            if let Some(peer) = self.peers.get(&participant).filter(|peer| !peer.stopping) {
                let (node, mac, address) = (peer.node.clone(), peer.mac, peer.address);
                self.fallen.push(Fallen { participant, node, mac, address });
            }
            self.remove(participant);
        }
        self.newcomers.retain(|_, newcomer| newcomer.heard + FORGET > now);
        let deaths = self.peers.values().map(Peer::silent_at);
        self.expire_at = deaths.chain(self.newcomers.values().map(|newcomer| newcomer.heard + FORGET)).min();
    }

    fn remove(&mut self, participant: Participant) {
        if let Some(peer) = self.peers.remove(&participant) {
            let offers = peer.table.offers.iter();
            offers.for_each(|(address, (offer, _))| note(&mut self.changed, *address, claim(offer)));
        }
    }

    /// When [`Self::expire`] may have something to do.
    pub(super) fn next_death(&self) -> Option<Instant> {
        self.expire_at
    }

    /// Who has fallen silent since the last call, and had not said that it stops.
    pub(super) fn take_fallen(&mut self) -> Vec<Fallen> {
        std::mem::take(&mut self.fallen)
    }

    /// How many regular hellos list everybody.
    fn turns(&self) -> u32 {
        u32::try_from(self.peers.len().div_ceil(MAX_HEARD)).unwrap_or(u32::MAX).max(1)
    }

    /// Where those are who are heard and may not hear what `me` sends to all.
    pub(super) fn out_of_reach(&self, now: Instant, me: Participant) -> Vec<IpAddr> {
        let turns = self.turns();
        // At first it does not know `me` yet.
        let deaf = |peer: &&Peer| {
            peer.wants_copies || peer.regular > turns.saturating_mul(3) && !peer.hears(me, turns)
        };
        let peers = self.peers.values().filter(deaf).filter_map(|peer| peer.address);
        let unproven = |newcomer: &&Newcomer| newcomer.alone || newcomer.since + PROOF <= now;
        let newcomers = self.newcomers.values().filter(unproven).filter_map(|newcomer| newcomer.address);
        peers.chain(newcomers).collect()
    }

    /// The claim of an address and whose it is, be it that it leaves or stops; of several the latest.
    pub(super) fn claimant(&self, address: IpAddr) -> Option<(u32, Participant)> {
        let claim = |peer: &Peer| peer.table.offers.get(&address).and_then(|(offer, _)| offer.claim);
        let claims = self.peers.iter().filter_map(|(participant, peer)| Some((claim(peer)?, *participant)));
        claims.max()
    }

    /// Whether a participant, not this one, has been heard for so long.
    pub(super) fn is_steady(&self, participant: Participant, now: Instant, long: Duration) -> bool {
        self.peers.get(&participant).is_some_and(|peer| peer.since + long <= now)
    }

    /// The names of the nodes that are heard, be it for the first time.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let newcomers = self.newcomers.values().map(|newcomer| &*newcomer.node);
        self.peers.values().map(|peer| &*peer.node).chain(newcomers)
    }

    /// What this participant and the others say of one that is silent here, among so many that are.
    pub(super) fn votes(&self, of: Participant, silent: usize) -> Votes {
        let turns = self.turns();
        let against = self.peers.values().filter(|peer| !peer.hears(of, turns)).count();
        Votes { against: against + 1, of: self.peers.len() + silent }
    }

    /// The nodes that are heard.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Box<str>> + '_ {
        self.peers.values().map(|peer| peer.node.clone())
    }

    /// What was said of addresses since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeMap<IpAddr, u32> {
        std::mem::take(&mut self.changed)
    }

    /// Those who offer an address.
    pub(super) fn candidates(&self, address: IpAddr) -> impl Iterator<Item = Candidate> + '_ {
        self.peers.iter().filter(|(_, peer)| !peer.stopping).filter_map(move |(participant, peer)| {
            let (offer, rank) = peer.table.offers.get(&address)?;
            Some(Candidate { participant: *participant, offer: *offer, rank: *rank })
        })
    }

    /// The highest number of a claim among them.
    pub(super) fn highest_claim(&self, address: IpAddr) -> u32 {
        let offers = self.peers.values().filter_map(|peer| peer.table.offers.get(&address));
        offers.map(|(offer, _)| claim(offer)).max().unwrap_or(0)
    }

    /// Whether the offers of all that are heard are known; whoever is not understood for `lag` is not waited for.
    pub(super) fn settled(&self, now: Instant, lag: Duration) -> bool {
        self.waited_for().all(|since| since + lag <= now)
    }

    /// When [`Self::settled`] may become true by waiting.
    pub(super) fn next_settled(&self, lag: Duration) -> Option<Instant> {
        self.waited_for().map(|since| since + lag).max()
    }

    fn waited_for(&self) -> impl Iterator<Item = Instant> + '_ {
        let lagging = self.peers.values().filter_map(|peer| peer.lagging);
        lagging.chain(self.newcomers.values().map(|newcomer| newcomer.since))
    }

    /// Up to where the one who knows least of our offers knows them, if it has missed what was sent by `sent_in`.
    pub(super) fn behind(&self, version: u32, sent_in: u32) -> Option<u32> {
        let missed = |peer: &&Peer| peer.acknowledged < version && peer.acknowledged_in >= sent_in;
        self.peers.values().filter(missed).map(|peer| peer.acknowledged).min()
    }

    /// Whom a hello lists: all newcomers first, then the others in turn.
    pub(super) fn heard(&mut self, now: Instant) -> Vec<HeardPeer> {
        let newcomers = self.newcomers.iter().map(|(participant, newcomer)| HeardPeer {
            participant: *participant,
            boot: newcomer.boot,
            sequence: newcomer.window.last,
            version: 0,
            alone: newcomer.alone,
        });
        let mut heard: Vec<HeardPeer> = newcomers.take(MAX_HEARD).collect();
        let after = self.turn.map_or(0, |turn| turn.0.wrapping_add(1));
        let later = self.peers.range(Participant(after)..).chain(self.peers.range(..Participant(after)));
        let room = MAX_HEARD - heard.len();
        let mut turn = None;
        heard.extend(later.take(room).map(|(participant, peer)| {
            turn = Some(*participant);
            HeardPeer {
                participant: *participant,
                boot: peer.boot,
                sequence: peer.window.last,
                version: peer.known(),
                alone: peer.alone(now),
            }
        }));
        self.turn = turn;
        heard
    }

    /// The Node's name.
    pub(super) fn name(&self, participant: Participant) -> Option<Box<str>> {
        self.peers.get(&participant).map(|peer| peer.node.clone())
    }

    /// Whether it is the hardware address of one of them.
    pub(super) fn has_mac(&self, mac: Mac) -> bool {
        self.peers.values().any(|peer| peer.mac == mac)
    }

    /// How many are heard.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

/// Something was said of an address.
fn note(changed: &mut BTreeMap<IpAddr, u32>, address: IpAddr, claim: u32) {
    let known = changed.entry(address).or_default();
    *known = claim.max(*known);
}

fn claim(offer: &Offer) -> u32 {
    offer.claim.unwrap_or(0)
}
