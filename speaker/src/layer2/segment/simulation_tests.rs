//! Several participants on a simulated segment with a virtual clock: loss, delay, duplicates, partitions, links that work
//! one way, pauses, clocks that jump, kills, stops and changing offers.
//!
//! `HERALD_SIMULATIONS` says how many seeds are tried; `HERALD_SIMULATION` replays one and tells what happens.

use std::collections::HashSet;

use super::copies::SEARCH;
use super::*;

/// Participants that hear each other own no address together for longer than this.
const TWO_OWNERS: Duration = Duration::from_millis(500);
/// So long after the last disturbance every offered address has an owner, and nothing moves any more.
const CALM: Duration = Duration::from_millis(2500);

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.next() % ((to - from) * 1000))
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

struct Node {
    segment: Option<Segment>,
    /// The segment's, by its own clock.
    deadline: Instant,
    offers: BTreeMap<IpAddr, u16>,
    /// Its own clock, ahead of the world's.
    ahead: Duration,
    paused_until: Option<Instant>,
    owns: BTreeSet<IpAddr>,
}

struct World {
    seed: u64,
    random: Random,
    start: Instant,
    now: Instant,
    nodes: Vec<Node>,
    vips: Vec<IpAddr>,
    /// Whether what the first sends reaches the second.
    links: Vec<Vec<bool>>,
    /// Whether what the first sends to all reaches the second; copies for one always do.
    groups: Vec<Vec<bool>>,
    /// Per cent of datagrams lost; a few come twice then, and all take longer.
    loss: usize,
    arrivals: BTreeMap<(Instant, u64), (usize, usize, Hello)>,
    count: u64,
    disturbed: Instant,
    together: BTreeMap<(IpAddr, usize, usize), Instant>,
    moves: usize,
    /// Some address has two owners.
    doubled: bool,
    tell: bool,
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut random = Random(seed);
        let start = Instant::now();
        let count = 2 + random.below(3);
        let vips = (0..1 + random.below(4)).map(|n| match n % 2 {
            0 => IpAddr::from([192, 0, 2, n as u8]),
            _ => IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, n as u16]),
        });
        let vips: Vec<_> = vips.collect();
        let mut world = Self {
            seed,
            start,
            now: start,
            nodes: Vec::new(),
            links: vec![vec![true; count]; count],
            groups: vec![vec![true; count]; count],
            loss: 0,
            arrivals: BTreeMap::new(),
            count: 0,
            disturbed: start,
            together: BTreeMap::new(),
            moves: 0,
            doubled: false,
            tell,
            vips,
            random,
        };
        if world.random.percent(25) {
            for from in 0..count {
                for to in 0..count {
                    world.groups[from][to] = world.random.percent(50);
                }
            }
        }
        for _ in 0..count {
            let offers = world.some_offers();
            world.nodes.push(Node {
                segment: None,
                deadline: world.now,
                offers,
                ahead: Duration::ZERO,
                paused_until: None,
                owns: BTreeSet::new(),
            });
        }
        (0..count).for_each(|node| world.boot(node));
        world
    }

    fn some_offers(&mut self) -> BTreeMap<IpAddr, u16> {
        let vips = self.vips.clone();
        vips.into_iter().filter(|_| self.random.percent(80)).map(|vip| (vip, 0)).collect()
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{:>9.3} {}", (self.now - self.start).as_secs_f64(), what());
        }
    }

    fn disturb(&mut self, what: impl FnOnce() -> String) {
        self.say(what);
        self.disturbed = self.now;
        self.together.clear();
    }

    fn local(&self, node: usize) -> Instant {
        self.now + self.nodes[node].ahead
    }

    fn boot(&mut self, node: usize) {
        let sender = Sender::new(format!("node-{node}").into(), 2, [2, 0, 0, 0, 0, node as u8]);
        let boot = self.random.next();
        self.nodes[node].segment = Some(Segment::new(sender, boot, self.local(node)));
        let offers = self.nodes[node].offers.clone();
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let others = others.map(|other| (format!("node-{other}").into(), address(other)));
        self.feed(node, Event::Nodes(others.collect()));
        self.feed(node, Event::Offers(offers));
    }

    fn feed(&mut self, node: usize, event: Event) {
        let now = self.local(node);
        let Some(segment) = &mut self.nodes[node].segment else { return };
        let outputs = segment.handle(now, event);
        let deadline = segment.next_deadline();
        self.nodes[node].deadline = deadline;
        for output in outputs {
            match output {
                Output::Send(hello) => {
                    let all = (0..self.nodes.len()).filter(|to| self.groups[node][*to]).collect();
                    self.transmit(node, all, &hello);
                }
                Output::SendTo(to, hello) => {
                    let to = (0..self.nodes.len()).filter(|node| address(*node) == to).collect();
                    self.transmit(node, to, &hello);
                }
                Output::Own(vip) => {
                    self.say(|| format!("node-{node} owns {vip}"));
                    assert!(self.nodes[node].owns.insert(vip));
                    self.moved(&vip);
                }
                Output::Release(vip) => {
                    self.say(|| format!("node-{node} releases {vip}"));
                    assert!(self.nodes[node].owns.remove(&vip));
                    self.moved(&vip);
                }
                Output::Probe(_) | Output::Tell(_) | Output::Suspects => {}
                Output::Conflict(vip, mac) => panic!("nobody else has {vip}: {mac:?}"),
            }
        }
    }

    fn moved(&mut self, vip: &IpAddr) {
        self.moves += 1;
        let owned: usize = self.nodes.iter().map(|node| node.owns.len()).sum();
        let distinct: BTreeSet<&IpAddr> = self.nodes.iter().flat_map(|node| &node.owns).collect();
        self.doubled = owned > distinct.len();
        self.together.clear();
        let calm = self.now - self.disturbed;
        assert!(calm <= CALM, "seed {}: {vip} moves {calm:?} after the last disturbance", self.seed);
    }

    fn transmit(&mut self, from: usize, to: Vec<usize>, hello: &Hello) {
        for to in to {
            if to == from || !self.links[from][to] || self.random.percent(self.loss) {
                continue;
            }
            let copies = if self.loss > 0 && self.random.percent(10) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = if self.loss > 0 { self.random.millis(0, 40) } else { self.random.millis(0, 2) };
                self.count += 1;
                self.arrivals.insert((self.now + delay, self.count), (from, to, hello.clone()));
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
            let deadline = |node: usize| {
                let state = &self.nodes[node];
                state.segment.as_ref()?;
                let at = state.deadline.checked_sub(state.ahead).unwrap_or(self.now);
                Some((at.max(state.paused_until.unwrap_or(at)), node))
            };
            let next = (0..self.nodes.len()).filter_map(deadline).min();
            let at = arrival.into_iter().chain(next.map(|(at, _)| at)).min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if arrival == Some(at) {
                let (_, (from, to, hello)) = self.arrivals.pop_first().unwrap();
                match self.nodes[to].paused_until.filter(|until| *until > self.now) {
                    // Its socket keeps it.
                    Some(until) => {
                        self.count += 1;
                        self.arrivals.insert((until, self.count), (from, to, hello));
                    }
                    None => self.feed(to, Event::Hello(hello, Some(address(from)))),
                }
            } else if let Some((_, node)) = next {
                self.nodes[node].paused_until = None;
                self.feed(node, Event::DeadlineReached);
            }
            self.check();
        }
        self.now = end;
    }

    fn check(&mut self) {
        if self.loss > 0 || !self.doubled {
            return;
        }
        let count = self.nodes.len();
        for first in 0..count {
            for second in first + 1..count {
                let hear = self.links[first][second] && self.links[second][first];
                for vip in &self.vips {
                    // One that is paused answers nobody.
                    let paused = |node: &Node| node.paused_until.is_some_and(|until| until > self.now);
                    let answers = |node: &Node| node.owns.contains(vip) && !paused(node);
                    if !hear || !answers(&self.nodes[first]) || !answers(&self.nodes[second]) {
                        self.together.remove(&(*vip, first, second));
                        continue;
                    }
                    let by_copies = !self.groups[first][second] || !self.groups[second][first];
                    let limit = if by_copies { TWO_OWNERS + SEARCH } else { TWO_OWNERS };
                    let since = *self.together.entry((*vip, first, second)).or_insert(self.now);
                    assert!(
                        self.now - since <= limit,
                        "seed {}: node-{first} and node-{second} hear each other and both own {vip}",
                        self.seed
                    );
                }
            }
        }
    }

    /// After a long calm: one owner where there can be one, and all know it.
    fn converged(&self) {
        for vip in &self.vips {
            let offers = |node: &&Node| node.segment.is_some() && node.offers.contains_key(vip);
            let owners: Vec<usize> =
                (0..self.nodes.len()).filter(|node| self.nodes[*node].owns.contains(vip)).collect();
            let wanted = usize::from(self.nodes.iter().any(|node| offers(&node)));
            assert_eq!(owners.len(), wanted, "seed {}: owners of {vip}: {owners:?}", self.seed);
            for node in self.nodes.iter().filter(offers) {
                let standing = node.segment.as_ref().unwrap().standing(*vip);
                assert_eq!(standing.owner, Some(format!("node-{}", owners[0]).into()), "seed {}", self.seed);
            }
        }
    }

    fn heal(&mut self) {
        self.links.iter_mut().flatten().for_each(|link| *link = true);
        self.loss = 0;
    }

    fn disturbance(&mut self) {
        let count = self.nodes.len();
        let node = self.random.below(count);
        match self.random.below(10) {
            0 => {
                let side: Vec<bool> = (0..count).map(|_| self.random.percent(50)).collect();
                for from in 0..count {
                    for to in 0..count {
                        self.links[from][to] = side[from] == side[to];
                    }
                }
                self.disturb(|| format!("partition {side:?}"));
            }
            1 => {
                let other = (node + 1) % count;
                self.links[node][other] = false;
                self.disturb(|| format!("node-{other} does not hear node-{node}"));
            }
            2 => {
                self.loss = 5 + self.random.below(30);
                let loss = self.loss;
                self.disturb(|| format!("{loss} % are lost"));
            }
            3 => {
                let pause = self.random.millis(50, 2000);
                self.nodes[node].paused_until = Some(self.now + pause);
                self.disturb(|| format!("node-{node} pauses for {pause:?}"));
                self.disturbed += pause;
            }
            4 => {
                let jump = self.random.millis(50, 20_000);
                self.nodes[node].ahead += jump;
                self.disturb(|| format!("the clock of node-{node} jumps by {jump:?}"));
            }
            5 | 6 => {
                self.disturb(|| format!("node-{node} is killed"));
                self.nodes[node].segment = None;
                self.nodes[node].owns.clear();
            }
            7 => {
                self.disturb(|| format!("node-{node} stops"));
                self.feed(node, Event::Stop);
            }
            8 => {
                self.nodes[node].offers = self.some_offers();
                let offers = self.nodes[node].offers.clone();
                self.disturb(|| format!("node-{node} offers {:?}", offers.keys()));
                self.feed(node, Event::Offers(offers));
            }
            _ => {
                self.heal();
                self.disturb(|| "all links work".to_owned());
            }
        }
    }

    /// Whoever is down or has stopped starts again.
    fn restart(&mut self) {
        for node in 0..self.nodes.len() {
            let running = self.nodes[node].segment.as_ref().is_some_and(|segment| !segment.stopping);
            if !running && self.random.percent(70) {
                self.disturb(|| format!("node-{node} starts"));
                self.nodes[node].owns.clear();
                self.nodes[node].paused_until = None;
                self.boot(node);
            } else if !running {
                self.nodes[node].segment = None;
                self.nodes[node].owns.clear();
            }
        }
    }
}

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8])
}

fn simulate(seed: u64, tell: bool) -> usize {
    let mut world = World::new(seed, tell);
    let first = world.random.millis(0, 1500);
    world.run(first);
    for _ in 0..1 + world.random.below(2) {
        for _ in 0..1 + world.random.below(3) {
            world.disturbance();
            let pause = world.random.millis(1, 1000);
            world.run(pause);
        }
        world.restart();
        let pause = world.random.millis(1, 1000);
        world.run(pause);
        world.heal();
        world.disturb(|| "healed".to_owned());
        world.nodes.iter_mut().for_each(|node| node.paused_until = None);
        world.run(CALM);
        world.converged();
        world.run(Duration::from_millis(300));
        world.converged();
    }
    world.moves
}

#[test]
fn there_is_one_owner_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("HERALD_SIMULATION") {
        simulate(seed, true);
        return;
    }
    let seeds = number("HERALD_SIMULATIONS").unwrap_or(2000);
    let threads = 2;
    let runs: Vec<_> = (0..threads)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut moves = 0;
                for seed in (thread..seeds).step_by(threads as usize) {
                    let run = std::panic::catch_unwind(|| simulate(seed, false));
                    moves += run.unwrap_or_else(|_| panic!("replay it with HERALD_SIMULATION={seed}"));
                }
                moves
            })
        })
        .collect();
    let moves: usize = runs.into_iter().map(|run| run.join().unwrap()).sum();
    assert!(moves as u64 > seeds, "hardly anything happened: {moves} moves");
}

#[test]
fn only_the_addresses_of_a_node_that_dies_move_and_they_stay_when_it_is_back() {
    let mut world = World::new(1, false);
    world.groups.iter_mut().flatten().for_each(|reaches| *reaches = true);
    world.vips = (0..40).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    for node in 0..world.nodes.len() {
        world.nodes[node].offers = world.vips.iter().map(|vip| (*vip, 0)).collect();
        world.boot(node);
    }
    world.run(CALM);
    world.converged();
    let before: Vec<BTreeSet<IpAddr>> = world.nodes.iter().map(|node| node.owns.clone()).collect();
    assert!(before.iter().all(|owns| owns.len() > 5), "spread: {before:?}");
    let killed = world.now;
    world.disturb(|| "kill".to_owned());
    world.nodes[0].segment = None;
    let lost = std::mem::take(&mut world.nodes[0].owns);
    let owned = |world: &World| -> HashSet<IpAddr> {
        world.nodes.iter().flat_map(|node| node.owns.iter().copied()).collect()
    };
    while owned(&world).len() < world.vips.len() {
        world.run(Duration::from_millis(1));
        assert!(world.now - killed < Duration::from_millis(320), "{} are not taken over", lost.len());
    }
    assert!(world.now - killed > Duration::from_millis(180));
    world.run(CALM);
    for (node, owned) in before.iter().enumerate().skip(1) {
        assert!(world.nodes[node].owns.is_superset(owned), "node-{node} gave something up");
    }
    let after: Vec<BTreeSet<IpAddr>> = world.nodes.iter().map(|node| node.owns.clone()).collect();
    world.disturb(|| "back".to_owned());
    world.boot(0);
    world.run(CALM);
    assert!(world.nodes.iter().map(|node| &node.owns).eq(after.iter()), "no failback");
    // Until somebody asks for it.
    (0..world.nodes.len()).for_each(|node| world.feed(node, Event::Spread(true)));
    let asked = world.now;
    while world.nodes.iter().map(|node| &node.owns).ne(before.iter()) {
        world.disturb(|| "spreading".to_owned());
        world.run(Duration::from_secs(1));
        assert!(world.now - asked < Duration::from_secs(60 + 5 * 40), "it does not go back");
    }
    assert!(world.now - asked > Duration::from_secs(60), "at once");
    world.converged();
}
