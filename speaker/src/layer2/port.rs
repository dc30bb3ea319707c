//! One interface: the sockets around its [`Segment`], and the loop between them.
//!
//! Decides nothing. Hellos wake nobody: they are taken together twenty times a second, so that a thousand neighbours cost no more
//! wake-ups than one, and before the clock is looked at: after a pause of the machine nobody is thought silent whose hellos wait in the
//! socket. Frames come next, some at a time, so that a storm of them
//! delays a hello by less than a millisecond.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use socket2::{SockAddr, Socket};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::alarm::Alarm;
use super::frame::{self, Mac, Question};
use super::hello::{Hello, Keys, Refused, Sender};
use super::interfaces::{Interface, Interfaces};
use super::metrics::{AddressMetrics, Layer2Metrics};
use super::segment::{Event, Output, Segment};
use super::sockets::{
    Frames, Groups, HELLO_PORT, hello_socket, packet_socket, receive, receive_from, send_frame,
};
use super::{OtherVersions, PortView, View, Wanted};

/// Frames taken at a time.
const BATCH: usize = 64;
/// How long a hello waits at most.
const TAKE: Duration = Duration::from_millis(100);
/// Hellos taken at a time.
const HELLOS: usize = 1024;
/// Answers in [`ANSWER_WINDOW`]; what is asked beyond that is asked again.
const ANSWERS: u32 = 1000;
const ANSWER_WINDOW: Duration = Duration::from_millis(100);
/// How often is published who owns what, besides the node's own changes.
const PUBLISH: Duration = Duration::from_millis(500);

/// What all ports share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: String,
    pub(super) keys: watch::Receiver<Option<Keys>>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) found: watch::Receiver<Interfaces>,
    pub(super) view: watch::Sender<View>,
    pub(super) metrics: Layer2Metrics,
}

/// One interface.
#[derive(Debug)]
pub(super) struct Port {
    shared: Arc<Shared>,
    index: u32,
    interface: Interface,
    segment: Segment,
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
    v4: Option<(Socket, SockAddr)>,
    v6: Option<(Socket, SockAddr)>,
    /// Somebody was heard by IPv6, who may have nothing else.
    heard_v6: bool,
    answering: HashMap<IpAddr, AddressMetrics>,
    groups: Groups,
    joined: BTreeSet<Ipv6Addr>,
    offered: BTreeMap<IpAddr, u16>,
    answers: (Instant, u32),
    published: Instant,
    taken: Instant,
    other_versions: OtherVersions,
    buffer: Box<[u8; 2048]>,
}

impl Port {
    /// Opens its sockets.
    pub(super) fn open(shared: Arc<Shared>, index: u32, interface: Interface) -> io::Result<Self> {
        let now = Instant::now();
        let mut boot = [0; 8];
        SystemRandom::new().fill(&mut boot).map_err(|_| io::Error::other("there are no random numbers"))?;
        let sender = Sender::new(shared.node.as_str().into(), index, interface.mac);
        let mut port = Self {
            index,
            segment: Segment::new(sender, u64::from_be_bytes(boot), now),
            arp: packet_socket(Frames::Arp, index)?,
            ndp: packet_socket(Frames::Ndp, index)?,
            v4: None,
            v6: None,
            heard_v6: false,
            answering: HashMap::new(),
            groups: Groups::new(index),
            joined: BTreeSet::new(),
            offered: BTreeMap::new(),
            answers: (now, 0),
            published: now,
            taken: now,
            other_versions: OtherVersions::default(),
            buffer: Box::new([0; 2048]),
            shared,
            interface,
        };
        port.open_hellos()?;
        Ok(port)
    }

    fn open_hellos(&mut self) -> io::Result<()> {
        let Interface { name, v4, v6, .. } = &self.interface;
        for (wanted, family, socket) in [(*v4, false, &mut self.v4), (*v6, true, &mut self.v6)] {
            match wanted {
                true if socket.is_none() => *socket = Some(hello_socket(family, name, self.index)?),
                true => {}
                false => *socket = None,
            }
        }
        Ok(())
    }

    /// Runs until the interface is gone or another one, or the speaker has stopped.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (mut wanted, mut found) = (shared.wanted.clone(), shared.found.clone());
        let (mut wants, mut finds) = (true, true);
        let mut stopping = false;
        let mut more = false;
        let mut alarm = Alarm::new()?;
        loop {
            let deadline = self.segment.next_deadline();
            let take_at = self.taken + TAKE;
            if more {
                // A storm: whatever else there is gets its turn.
                tokio::task::yield_now().await;
                wants |= wanted.has_changed().unwrap_or(true);
                finds |= found.has_changed().unwrap_or(true);
            } else {
                alarm.set(deadline.min(take_at))?;
                tokio::select! {
                    () = readable(&self.arp) => more = true,
                    () = readable(&self.ndp) => more = true,
                    changed = wanted.changed() => if changed.is_err() { break } else { wants = true },
                    changed = found.changed() => if changed.is_err() { break } else { finds = true },
                    rung = alarm.rung() => rung?,
                }
            }
            self.hellos();
            if more {
                more = self.frames();
            }
            if std::mem::take(&mut finds) {
                let now = found.borrow_and_update().get(&self.index).cloned();
                let same = |now: &Interface| now.mac == self.interface.mac && now.name == self.interface.name;
                let Some(now) = now.filter(same) else { break };
                self.interface = now;
                self.open_hellos()?;
                wants = true;
            }
            if std::mem::take(&mut wants) {
                let (offered, nodes, stop) = {
                    let wanted = wanted.borrow_and_update();
                    let nodes = wanted.nodes_on(&self.interface);
                    (wanted.offers_on(&self.interface.name), nodes, wanted.stopping)
                };
                self.feed(Event::Nodes(nodes));
                if offered != self.offered {
                    self.offered.clone_from(&offered);
                    self.join();
                    self.feed(Event::Offers(offered));
                }
                if stop && !stopping {
                    stopping = true;
                    self.feed(Event::Stop);
                }
            }
            if Instant::now() >= deadline {
                self.feed(Event::DeadlineReached);
            }
            if self.published + PUBLISH <= Instant::now() {
                self.publish();
                let spread = shared.wanted.borrow().spread.is_on(seconds_of_now());
                self.feed(Event::Spread(spread));
            }
            if stopping && self.answering.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn hellos(&mut self) {
        self.taken = Instant::now();
        for v6 in [false, true] {
            for _ in 0..HELLOS {
                let socket = if v6 { &self.v6 } else { &self.v4 };
                let Some((socket, _)) = socket else { break };
                let Some((datagram, from)) = receive_from(socket, &mut self.buffer) else { break };
                let keys = self.shared.keys.borrow();
                let read = keys.as_ref().map(|keys| keys.decode(datagram));
                drop(keys);
                match read {
                    Some(Ok(hello)) => {
                        self.heard_v6 |= v6;
                        self.other_versions.understood(&hello.sender.node);
                        self.shared.metrics.hello_received();
                        self.feed(Event::Hello(hello, from));
                    }
                    Some(Err(refused)) => {
                        self.shared.metrics.hello_refused(refused);
                        let Refused::OtherVersion(version) = refused else { continue };
                        let nodes = Arc::clone(&self.shared.wanted.borrow().nodes);
                        if let Some(told) = self.other_versions.refused(from, version, &nodes) {
                            tracing::error!(interface = self.interface.name, "{told}");
                        }
                    }
                    None => {}
                }
            }
        }
    }

    /// Takes some frames; true: there may be more.
    fn frames(&mut self) -> bool {
        let mut more = false;
        for ndp in [false, true] {
            let mut taken = 0;
            while taken < BATCH {
                let socket = if ndp { &self.ndp } else { &self.arp };
                let Some(octets) = receive(socket, &mut self.buffer) else { break };
                taken += 1;
                let Some(heard) = frame::read(octets, self.interface.mac) else { continue };
                if let Some(question) = heard.question {
                    self.answer(&question);
                }
                if let Some((_, mac)) = heard.claim.filter(|(_, mac)| self.segment.asks_after(*mac)) {
                    self.feed(Event::Answered(mac));
                }
                if let Some((address, mac)) = heard.claim
                    && (self.offered.contains_key(&address) || self.answering.contains_key(&address))
                {
                    self.feed(Event::Claimed(address, mac));
                }
            }
            more |= taken == BATCH;
        }
        more
    }

    fn answer(&mut self, question: &Question) {
        let Some(metrics) = self.answering.get(&question.target) else { return };
        metrics.requests.inc();
        let now = Instant::now();
        if self.answers.0 + ANSWER_WINDOW <= now {
            self.answers = (now, 0);
        }
        self.answers.1 += 1;
        if self.answers.1 > ANSWERS {
            return;
        }
        let mac = self.interface.mac;
        let sent = match (question.target, question.asker) {
            (IpAddr::V4(vip), IpAddr::V4(asker)) => {
                send_frame(&self.arp, &frame::arp_reply(mac, vip, question.mac, asker))
            }
            (IpAddr::V6(vip), IpAddr::V6(asker)) => {
                send_frame(&self.ndp, &frame::solicited_advertisement(mac, vip, question.mac, asker))
            }
            _ => false,
        };
        if sent {
            metrics.responses.inc();
        }
    }

    fn feed(&mut self, event: Event) {
        let mut changed = false;
        for output in self.segment.handle(Instant::now(), event) {
            match output {
                Output::Send(hello) => self.send(&hello),
                Output::SendTo(address, hello) => self.send_to(address, &hello),
                Output::Probe(address) => self.probe(address),
                Output::Own(address) => {
                    self.answering.insert(address, self.shared.metrics.address(address));
                    self.shared.metrics.owner_changed();
                    changed = true;
                }
                Output::Release(address) => {
                    self.answering.remove(&address);
                    self.shared.metrics.forget(address);
                    self.shared.metrics.owner_changed();
                    changed = true;
                }
                Output::Suspects => changed = true,
                Output::Tell(address) => self.tell(address),
                Output::Conflict(address, mac) => self.conflict(address, mac),
            }
        }
        if changed {
            self.join();
            self.publish();
        }
    }

    fn send(&self, hello: &Hello) {
        let keys = self.shared.keys.borrow();
        let Some(datagram) = keys.as_ref().map(|keys| keys.encode(hello)) else { return };
        drop(keys);
        let v6 = self.v6.as_ref().filter(|_| self.heard_v6 || self.v4.is_none());
        for (socket, group) in self.v4.iter().chain(v6) {
            // The next one follows soon.
            if let Err(error) = socket.send_to(&datagram, group) {
                tracing::trace!(%error, interface = self.interface.name, "hello not sent");
            }
        }
    }

    fn send_to(&self, address: IpAddr, hello: &Hello) {
        let socket = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let keys = self.shared.keys.borrow();
        let (Some((socket, _)), Some(keys)) = (socket, keys.as_ref()) else { return };
        let to = SocketAddr::new(address, HELLO_PORT).into();
        if let Err(error) = socket.send_to(&keys.encode(hello), &to) {
            tracing::trace!(%error, %address, interface = self.interface.name, "hello not sent");
        }
    }

    fn probe(&self, address: IpAddr) {
        let mac = self.interface.mac;
        match address {
            IpAddr::V4(vip) => send_frame(&self.arp, &frame::arp_probe(mac, vip)),
            IpAddr::V6(vip) => send_frame(&self.ndp, &frame::solicitation_probe(mac, vip)),
        };
    }

    fn tell(&self, address: IpAddr) {
        let mac = self.interface.mac;
        let sent = match address {
            IpAddr::V4(vip) => {
                let request = send_frame(&self.arp, &frame::gratuitous_request(mac, vip));
                i64::from(request) + i64::from(send_frame(&self.arp, &frame::gratuitous_reply(mac, vip)))
            }
            IpAddr::V6(vip) => send_frame(&self.ndp, &frame::unsolicited_advertisement(mac, vip)).into(),
        };
        if let Some(metrics) = self.answering.get(&address) {
            metrics.gratuitous.inc_by(sent);
        }
    }

    fn conflict(&self, address: IpAddr, [a, b, c, d, e, f]: Mac) {
        self.shared.metrics.conflict();
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let interface = &self.interface.name;
        let text = format!("{mac} on {interface} has {address}, which is of a pool: take it off that host");
        self.shared
            .view
            .send_if_modified(|view| view.conflicts.insert(address, text.clone()).as_ref() != Some(&text));
    }

    /// Keeps the groups of what is offered or still owned.
    fn join(&mut self) {
        let v6 = |address: &IpAddr| if let IpAddr::V6(v6) = address { Some(*v6) } else { None };
        let wanted: BTreeSet<Ipv6Addr> =
            self.offered.keys().chain(self.answering.keys()).filter_map(v6).collect();
        for address in self.joined.difference(&wanted) {
            self.groups.leave(*address);
        }
        for address in wanted.difference(&self.joined) {
            if let Err(error) = self.groups.join(*address) {
                tracing::warn!(%error, %address, interface = self.interface.name, "cannot join the solicited-node group: the address may not be answered for here");
            }
        }
        self.joined = wanted;
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        let owned: BTreeSet<IpAddr> = self.segment.owned().collect();
        let wanted = self.shared.wanted.borrow();
        let named = owned.iter().copied().filter(|address| wanted.names_interfaces(*address)).collect();
        drop(wanted);
        let mut now = PortView {
            mac: self.interface.mac,
            hears: self.segment.hears(),
            owned,
            named,
            standings: self.segment.standings().collect(),
            heard: self.segment.heard_nodes().collect(),
            suspects: self.segment.suspects().clone(),
            other_versions: self.other_versions.clone(),
            since: None,
        };
        self.shared.metrics.hears(&self.interface.name, now.hears);
        self.shared.view.send_if_modified(|view| {
            let was = view.ports.get(&self.interface.name);
            now.since = was.and_then(|was| was.since);
            let changed = was != Some(&now);
            if changed {
                now.since = Some(self.published);
                view.ports.insert(self.interface.name.clone(), now);
            }
            changed
        });
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shared.view.send_if_modified(|view| view.ports.remove(&self.interface.name).is_some());
        self.answering.keys().for_each(|address| self.shared.metrics.forget(*address));
        self.shared.metrics.gone(&self.interface.name);
    }
}

/// Since 1970 began (UTC); none before that.
fn seconds_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Waits until something can have arrived; all of it is to be taken then.
async fn readable(socket: &AsyncFd<Socket>) {
    match socket.readable().await {
        Ok(mut guard) => guard.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}
