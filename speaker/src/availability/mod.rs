//! The availability probe: whether each load balancer address answers, seen from nodes that it is not on.
//!
//! ```text
//!   Reconciler ── watch: what there is to probe, which nodes there are, what this one owns ──> run     1x, where asked for
//!   run: assignment (what this node probes) -> schedule (when) -> attempt (a TCP connect) ─┐
//!        echo (an AF_PACKET socket: probes that came back to their own node) ──────────────┴─> Book
//!   Book ── read by a scrape, and by `herald status`
//! ```
//!
//! Not to be confused with probes of endpoints (`probing.rs`): those ask a pod whether it works, from its own node, and
//! decide where traffic goes. These ask an address, from another node, and decide nothing: they are what a client would see.
//! A probe carries the mark [`PROBE_MARK`], which this node's own rules let pass, so it leaves by the node's routes: by ARP or
//! neighbour discovery to the owner, or to the router and by its choice to a node that announces the address. What a router
//! sends back to the node that probes says nothing, for that node drops it: it is tried again from another port.
//!
//! Pure: `targets.rs`, `assignment.rs`, `schedule.rs`, `window.rs`.

mod assignment;
mod attempt;
mod book;
mod echo;
mod schedule;
mod targets;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use herald_proxy::ruleset::PROBE_MARK;
use herald_runtime::{ObjectName, sleep_until};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::book::{Book, Seen};
pub(crate) use self::echo::Echo;
pub(crate) use self::targets::{Probed, Targets, targets};

use self::assignment::Assignment;
use self::attempt::{Answer, Attempt};
use self::schedule::Schedule;
use crate::layer2::View;

/// How often a probe that comes back is tried from another port: with three nodes behind a router that chooses by ports, one of
/// 243 addresses is skipped.
const TRIES: u32 = 5;
/// Changes of what is to be probed are gathered so long.
const GATHERED: Duration = Duration::from_millis(200);
/// Addresses of which it is found out at a time who probes them.
const AT_ONCE: usize = 256;

/// What there is to probe, and who may.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// By Service, its load balancer addresses.
    pub(crate) services: BTreeMap<ObjectName, Targets>,
    /// All nodes that are not known to be dead, with this one.
    pub(crate) nodes: BTreeSet<Box<str>>,
    /// The addresses that this node owns by layer 2.
    pub(crate) owned: BTreeSet<IpAddr>,
}

/// What the loop of the node tells; nothing is kept where no probes are asked for.
#[derive(Debug)]
pub(crate) struct Availability {
    wanted: Option<watch::Sender<Wanted>>,
    book: Book,
}

impl Availability {
    /// Nothing is probed.
    pub(crate) fn off() -> Self {
        Self { wanted: None, book: Book::new(0) }
    }

    /// Nothing is wanted yet; what comes of it stands in the book.
    pub(crate) fn on(book: Book) -> (Self, watch::Receiver<Wanted>) {
        let (wanted, wants) = watch::channel(Wanted::default());
        (Self { wanted: Some(wanted), book }, wants)
    }

    /// What has come of it; `None`: nothing is probed.
    pub(crate) fn book(&self) -> Option<&Book> {
        self.wanted.as_ref().map(|_| &self.book)
    }

    /// These Services have these addresses; nobody finds that out where nothing is probed.
    pub(crate) fn want<'a>(&self, services: impl FnOnce() -> Vec<(&'a ObjectName, Targets)>) {
        self.change(|wanted| {
            let mut changed = false;
            for (name, addresses) in services() {
                changed |= match addresses.is_empty() {
                    true => wanted.services.remove(name).is_some(),
                    false if wanted.services.get(name) == Some(&addresses) => false,
                    false => {
                        wanted.services.insert(name.clone(), addresses);
                        true
                    }
                };
            }
            changed
        });
    }

    /// These nodes are there.
    pub(crate) fn nodes<'a>(&self, nodes: impl Iterator<Item = &'a str>) {
        self.change(|wanted| {
            let nodes: BTreeSet<Box<str>> = nodes.map(Into::into).collect();
            let changed = wanted.nodes != nodes;
            wanted.nodes = nodes;
            changed
        });
    }

    /// This node owns these addresses by layer 2.
    pub(crate) fn owned(&self, view: &View) {
        self.change(|wanted| {
            let owned = view.owned();
            let changed = wanted.owned != owned;
            wanted.owned = owned;
            changed
        });
    }

    fn change(&self, change: impl FnOnce(&mut Wanted) -> bool) {
        if let Some(wanted) = &self.wanted {
            wanted.send_if_modified(change);
        }
    }
}

/// A connection that is being made: its own end, and the address.
type Key = (SocketAddr, SocketAddr);

/// A probe under way.
struct Trial {
    tries: u32,
    /// It came back to this node; whoever waits for it waits no more.
    returned: CancellationToken,
}

/// All probes of a node.
struct Prober {
    node: String,
    book: Book,
    assignment: Assignment,
    schedule: Schedule,
    trials: HashMap<Key, Trial>,
}

/// Probes until the loop of the node is gone.
pub(crate) async fn run(
    node: String,
    interval: Duration,
    mut wanted: watch::Receiver<Wanted>,
    mut echo: Echo,
    book: Book,
) -> anyhow::Result<()> {
    let mut prober = Prober {
        node,
        book,
        assignment: Assignment::default(),
        schedule: Schedule::new(interval),
        trials: HashMap::new(),
    };
    let mut attempts = FuturesUnordered::new();
    let mut settle = None;
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                settle.get_or_insert_with(|| Instant::now() + GATHERED);
            }
            () = sleep_until(settle) => {
                settle = None;
                prober.settle(&mut wanted).await;
            }
            () = sleep_until(prober.schedule.next_deadline()) => {
                if let Some(to) = prober.schedule.due(Instant::now()) {
                    attempts.extend(prober.begin(&mut echo, to, 1).map(Attempt::ends));
                }
            }
            () = echo.readable() => prober.hear(&mut echo),
            Some((key, answer)) = attempts.next() => {
                // What came back has arrived before anything that answers it.
                prober.hear(&mut echo);
                let answer = prober.weigh(&wanted.borrow(), key, answer);
                attempts.extend(prober.ended(&mut echo, key, answer).map(Attempt::ends));
            }
        }
    }
}

impl Prober {
    /// Takes what is wanted by now.
    async fn settle(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        let unknown = self.assignment.unknown(&wanted.borrow_and_update());
        for some in unknown.chunks(AT_ONCE) {
            self.assignment.rank(&self.node, some);
            tokio::task::yield_now().await;
        }
        self.assignment.settle(&self.node, &wanted.borrow());
        let now = Instant::now();
        self.schedule.set(now, self.assignment.sockets());
        self.book.set(self.assignment.mine(), self.schedule.interval());
        if let Some(text) = self.schedule.take_doubt() {
            tracing::warn!("{text}");
        }
    }

    fn begin(&mut self, echo: &mut Echo, to: SocketAddr, tries: u32) -> Option<Attempt> {
        match Attempt::open(to) {
            Err(answer) => {
                self.record(to, answer);
                None
            }
            Ok(attempt) => {
                echo.expect(attempt.key.0.ip());
                let trial = Trial { tries, returned: attempt.returned.clone() };
                self.trials.insert(attempt.key, trial);
                Some(attempt)
            }
        }
    }

    /// Takes all that came back.
    fn hear(&mut self, echo: &mut Echo) {
        while let Some(key) = echo.take() {
            if let Some(trial) = self.trials.get(&key) {
                trial.returned.cancel();
            }
        }
    }

    /// What failed counts only if the address is wanted still: it may have gone while the probe was under way, or come to this node.
    fn weigh(&self, wanted: &Wanted, key: Key, answer: Answer) -> Answer {
        let address = key.1.ip();
        let probed = || {
            let mine = self.assignment.mine().get(&address)?;
            let addresses = wanted.services.get(&*mine.service)?;
            addresses.iter().find(|(of, _)| *of == address).map(|(_, probed)| probed)
        };
        let stands = || !wanted.owned.contains(&address) && matches!(probed(), Some(Probed::At(_)));
        match answer.is_answered() {
            Some(false) if !stands() => Answer::Skipped(attempt::Skipped::Gone),
            _ => answer,
        }
    }

    /// An attempt has ended; perhaps there is another one.
    fn ended(&mut self, echo: &mut Echo, key: Key, answer: Answer) -> Option<Attempt> {
        let trial = self.trials.remove(&key)?;
        if !trial.returned.is_cancelled() {
            self.record(key.1, answer);
            return None;
        }
        if trial.tries < TRIES {
            return self.begin(echo, key.1, trial.tries + 1);
        }
        self.record(key.1, Answer::Skipped(attempt::Skipped::Returned));
        None
    }

    fn record(&mut self, to: SocketAddr, answer: Answer) {
        let now = Instant::now();
        self.schedule.ended(now, to.ip());
        self.book.record(now, to, answer);
    }
}
