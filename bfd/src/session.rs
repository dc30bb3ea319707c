//! One session's state machine and timers (RFC 5880 §6.2, §6.8), in asynchronous mode.
//!
//! ```text
//!              hears Down           hears Init, Up
//!     Down ───────────────> Init ─────────────────> Up
//!      │ └──────────────── hears Init ─────────────> │
//!      └ <── hears AdminDown, or nothing in time ─── Init, Up; and Up when it hears Down
//! ```
//!
//! Invariants: while not Up no packet goes out faster than one a second, but for answers and changes of state; a packet never has
//! both P and F; after [`Session::handle`] the next deadline lies ahead; nothing but silence for the detection time, a
//! neighbour that says Down, or AdminDown ends Up.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::{Duration, Instant};

use crate::jitter::Jitter;
use crate::packet::{Diagnostic, Packet, State};

/// RFC 5880 §6.8.3: the shortest interval while not Up.
const SLOW: Duration = Duration::from_secs(1);

/// What a session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our name of it: unique among our sessions, unlike that of an earlier one.
    pub discriminator: NonZeroU32,
    /// The shortest time between packets that we want to send.
    pub desired_min_tx: Duration,
    /// The shortest time between packets that we can receive.
    pub required_min_rx: Duration,
    /// How many of our packets may be missing.
    pub detect_mult: NonZeroU8,
    /// Says nothing before the neighbour does (RFC 5880 §6.1).
    pub passive: bool,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A packet for it came, at this time: when the kernel had it, which may be before it is handed in.
    Received(Packet, Instant),
    /// [`Session::next_deadline`] has come. Too early is harmless. What arrived before it is to be handed in first.
    DeadlineReached,
    /// Switched off (RFC 5880 §6.8.16). There is no way back: a new session takes its place.
    AdminDown,
}

/// A change that the user of a session acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Both ends hear each other.
    Up,
    /// They did, and do not any more.
    Down(Cause),
}

/// Why a session that was Up is Down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was heard for this long.
    Silence(Duration),
    /// The neighbour says that it is down, for this reason.
    Neighbor(Diagnostic),
    /// The neighbour's operator switched it off, which is no failure of the path (RFC 5882 §3.2).
    NeighborAdminDown,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silence(time) => write!(f, "nothing was heard for {} ms", time.as_millis()),
            Self::Neighbor(diagnostic) => write!(f, "the neighbour is down: {}", diagnostic.words()),
            Self::NeighborAdminDown => f.write_str("the neighbour was switched off"),
        }
    }
}

/// What is to be done after an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// To be sent at once.
    pub send: Option<Packet>,
    /// To be told.
    pub change: Option<Change>,
}

/// What the neighbour said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: NonZeroU32,
    state: State,
    demand: bool,
    detect_mult: NonZeroU8,
    desired_min_tx: Duration,
    required_min_rx: Duration,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    diagnostic: Diagnostic,
    /// `None` before the first packet and after silence.
    remote: Option<Remote>,
    /// A Poll Sequence is under way (RFC 5880 §6.5).
    polling: bool,
    next_packet: Option<Instant>,
    /// Silence until then ends the session, or what is known of the neighbour.
    detection: Option<Instant>,
    jitter: Jitter,
    seen: Instant,
}

impl Session {
    /// A session in Down; the first packet is due at once, unless it is passive.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        Self {
            jitter: Jitter::new(config.discriminator.get().into()),
            next_packet: (!config.passive).then_some(now),
            config,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: None,
            polling: false,
            detection: None,
            seen: now,
        }
    }

    /// Takes an event.
    pub fn handle(&mut self, now: Instant, event: Event) -> Outputs {
        self.seen = self.seen.max(now);
        let now = self.seen;
        let before = self.state;
        let mut cause = None;
        let mut answer = false;
        match event {
            Event::Received(packet, arrived) => {
                if self.state != State::AdminDown && self.is_for_us(&packet) {
                    cause = self.receive(&packet, arrived.min(now));
                    answer = packet.poll;
                }
            }
            Event::DeadlineReached => {}
            Event::AdminDown => {
                self.state = State::AdminDown;
                self.diagnostic = Diagnostic::ADMINISTRATIVELY_DOWN;
                (self.detection, self.polling) = (None, false);
            }
        }
        if self.detection.is_some_and(|at| at <= now) {
            cause = self.silence();
        }
        if self.state == State::Up && before != State::Up {
            // RFC 5880 §6.8.3: the interval that we want has changed.
            self.polling = true;
        }
        let change = match (before, self.state) {
            (State::Up, State::Up) => None,
            (_, State::Up) => Some(Change::Up),
            (State::Up, _) => cause.map(Change::Down),
            _ => None,
        };
        Outputs { send: self.due(now, answer, self.state != before), change }
    }

    /// When to call with [`Event::DeadlineReached`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_packet.into_iter().chain(self.detection).min()
    }

    /// Its state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Our name of it.
    pub const fn discriminator(&self) -> NonZeroU32 {
        self.config.discriminator
    }

    /// The time between our packets before jitter; `None`: there are none.
    pub fn transmit_interval(&self) -> Option<Duration> {
        let desired = self.desired_min_tx();
        match self.remote {
            // RFC 5880 §6.8.1: bfd.RemoteMinRxInterval begins with 1 microsecond.
            None => (!self.config.passive || self.state == State::AdminDown).then_some(desired),
            // RFC 5880 §6.8.7: zero, the neighbour wants no periodic packets.
            Some(remote) if remote.required_min_rx.is_zero() => None,
            // RFC 5880 §6.6: demand mode is in force once both are Up, and a Poll Sequence goes on in it.
            Some(remote)
                if remote.demand && (self.state, remote.state) == (State::Up, State::Up) && !self.polling =>
            {
                None
            }
            Some(remote) => Some(desired.max(remote.required_min_rx)),
        }
    }

    /// How long the neighbour may be silent (RFC 5880 §6.8.4); `None` before it was heard.
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        let interval = self.config.required_min_rx.max(remote.desired_min_tx);
        Some(interval * remote.detect_mult.get().into())
    }

    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.desired_min_tx
        } else {
            self.config.desired_min_tx.max(SLOW)
        }
    }

    /// RFC 5880 §6.8.6: a packet that names a session names this one.
    fn is_for_us(&self, packet: &Packet) -> bool {
        packet.your_discriminator.is_none_or(|ours| ours == self.config.discriminator)
    }

    /// RFC 5880 §6.8.6, from where the session is known. Returns why the session is not Up any more, if it was.
    fn receive(&mut self, packet: &Packet, arrived: Instant) -> Option<Cause> {
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            demand: packet.demand,
            detect_mult: packet.detect_mult,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
        });
        if packet.final_ {
            self.polling = false;
        }
        let (state, cause) = match (self.state, packet.state) {
            // Nothing is received in AdminDown.
            (State::AdminDown, _) => (State::AdminDown, None),
            (_, State::AdminDown) => (State::Down, Some(Cause::NeighborAdminDown)),
            (State::Down, State::Down) => (State::Init, None),
            (State::Down, State::Init) => (State::Up, None),
            (State::Down, State::Up) => (State::Down, None),
            (State::Init, State::Down) => (State::Init, None),
            (State::Init | State::Up, State::Init | State::Up) => (State::Up, None),
            (State::Up, State::Down) => (State::Down, Some(Cause::Neighbor(packet.diagnostic))),
        };
        if cause.is_some() && self.state != State::Down {
            self.diagnostic = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        }
        if state == State::Up && self.state != State::Up {
            self.diagnostic = Diagnostic::NONE;
        }
        if state != State::Up {
            self.polling = false;
        }
        self.state = state;
        self.detection = self.detection_time().map(|time| arrived + time);
        cause
    }

    /// RFC 5880 §6.8.4, §6.8.1: the detection time has passed.
    fn silence(&mut self) -> Option<Cause> {
        let time = self.detection_time().unwrap_or_default();
        (self.detection, self.remote, self.polling) = (None, None, false);
        let heard = matches!(self.state, State::Init | State::Up);
        if heard {
            self.state = State::Down;
            self.diagnostic = Diagnostic::DETECTION_TIME_EXPIRED;
        }
        heard.then_some(Cause::Silence(time))
    }

    /// The packet to send now, and when the next one is due (RFC 5880 §6.8.7).
    fn due(&mut self, now: Instant, answer: bool, changed: bool) -> Option<Packet> {
        let interval = self.transmit_interval();
        let periodic = interval.is_some() && self.next_packet.is_none_or(|at| at <= now);
        // Without waiting: an answer to a poll, and a state that the neighbour does not know yet.
        let told = changed && (interval.is_some() || self.state == State::AdminDown);
        if periodic || told {
            // RFC 5880 §6.8.7: 75 to 100 % of the interval, 75 to 90 % where no packet may be missing.
            let high = if self.config.detect_mult.get() == 1 { 900 } else { 1000 };
            self.next_packet = interval.map(|interval| now + self.jitter.scale(interval, 750, high));
        } else if let (Some(interval), Some(at)) = (interval, self.next_packet) {
            // The interval has become shorter.
            self.next_packet = Some(at.min(now + interval));
        } else if interval.is_none() {
            self.next_packet = None;
        }
        (periodic || told || answer).then(|| Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            // RFC 5880 §6.5: never both.
            poll: self.polling && !answer,
            final_: answer,
            // RFC 5880 §4.1: ours ends with the process that announces.
            independent: false,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote.map(|remote| remote.discriminator),
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.config.required_min_rx,
            required_min_echo_rx: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests;
