use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn config(discriminator: u32, milliseconds: u32) -> SessionConfig {
    SessionConfig {
        discriminator: NonZeroU32::new(discriminator).unwrap(),
        desired_min_tx: MS * milliseconds,
        required_min_rx: MS * milliseconds,
        detect_mult: NonZeroU8::new(3).unwrap(),
        passive: false,
    }
}

/// What the neighbour says.
fn heard(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic(5),
        poll: false,
        final_: false,
        independent: false,
        demand: false,
        detect_mult: NonZeroU8::new(3).unwrap(),
        my_discriminator: NonZeroU32::new(77).unwrap(),
        your_discriminator: NonZeroU32::new(1),
        desired_min_tx: MS * 100,
        required_min_rx: MS * 100,
        required_min_echo_rx: Duration::ZERO,
    }
}

/// A session in a state, and the time.
fn reach(state: State) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config(1, 100), now);
    let mut on = |event| _ = session.handle(now, event);
    match state {
        State::AdminDown => on(Event::AdminDown),
        State::Down => {}
        State::Init => on(Event::Received(heard(State::Down), now)),
        State::Up => on(Event::Received(heard(State::Init), now)),
    }
    assert_eq!(session.state(), state);
    (session, now)
}

#[test]
fn every_state_answers_every_state_as_the_rfc_says() {
    use State::{AdminDown, Down, Init, Up};
    let signalled = Some(Change::Down(Cause::Neighbor(Diagnostic(5))));
    let off = Some(Change::Down(Cause::NeighborAdminDown));
    for (ours, theirs, next, change) in [
        (AdminDown, AdminDown, AdminDown, None),
        (AdminDown, Down, AdminDown, None),
        (AdminDown, Init, AdminDown, None),
        (AdminDown, Up, AdminDown, None),
        (Down, AdminDown, Down, None),
        (Down, Down, Init, None),
        (Down, Init, Up, Some(Change::Up)),
        (Down, Up, Down, None),
        (Init, AdminDown, Down, None),
        (Init, Down, Init, None),
        (Init, Init, Up, Some(Change::Up)),
        (Init, Up, Up, Some(Change::Up)),
        (Up, AdminDown, Down, off),
        (Up, Down, Down, signalled),
        (Up, Init, Up, None),
        (Up, Up, Up, None),
    ] {
        let (mut session, now) = reach(ours);
        let outputs = session.handle(now, Event::Received(heard(theirs), now));
        assert_eq!((session.state(), outputs.change), (next, change), "{ours:?} hears {theirs:?}");
        if ours != next {
            assert_eq!(outputs.send.map(|packet| packet.state), Some(next), "a change is told at once");
        }
        assert!(session.next_deadline().is_none_or(|at| at > now));
    }
}

#[test]
fn silence_ends_init_and_up_after_the_detection_time_and_never_before() {
    for (state, change) in [(State::Init, None), (State::Up, Some(Change::Down(Cause::Silence(MS * 300))))] {
        let (mut session, now) = reach(state);
        assert_eq!(session.detection_time(), Some(MS * 300));
        assert_eq!(session.handle(now + MS * 299, Event::DeadlineReached).change, None);
        assert_eq!(session.state(), state);
        let outputs = session.handle(now + MS * 300, Event::DeadlineReached);
        assert_eq!((session.state(), outputs.change), (State::Down, change));
        let packet = outputs.send.expect("it is told");
        assert_eq!(packet.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
        assert_eq!(packet.your_discriminator, None, "the neighbour's name is forgotten");
    }
}

#[test]
fn the_detection_time_counts_from_the_arrival_and_the_slower_side_gives_its_interval() {
    let (mut session, now) = reach(State::Up);
    let late = now + MS * 250;
    session.handle(late, Event::Received(heard(State::Up), now + MS * 100));
    assert_eq!(session.handle(now + MS * 399, Event::DeadlineReached).change, None);
    assert!(session.handle(now + MS * 400, Event::DeadlineReached).change.is_some());
    let (mut session, now) = reach(State::Up);
    let slow =
        Packet { desired_min_tx: MS * 500, detect_mult: NonZeroU8::new(5).unwrap(), ..heard(State::Up) };
    session.handle(now, Event::Received(slow, now));
    assert_eq!(session.detection_time(), Some(MS * 2500));
    // A clock of the kernel that is ahead of ours gives no more time.
    session.handle(now, Event::Received(heard(State::Up), now + MS * 5000));
    assert!(session.handle(now + MS * 300, Event::DeadlineReached).change.is_some());
}

#[test]
fn packets_are_slow_until_up_and_then_as_negotiated_within_the_jitter() {
    for (theirs, mult, low, high) in
        [(100, 3, 75, 100), (300, 3, 225, 300), (20, 3, 75, 100), (100, 1, 75, 90)]
    {
        let now = Instant::now();
        let detect_mult = NonZeroU8::new(mult).unwrap();
        let mut session = Session::new(SessionConfig { detect_mult, ..config(1, 100) }, now);
        let first = session.handle(now, Event::DeadlineReached).send.expect("the first is due");
        assert_eq!(first.desired_min_tx, Duration::from_secs(1), "slow, and it says so");
        let next = session.next_deadline().expect("the second") - now;
        assert!(next >= MS * 750 && next <= MS * 1000, "{next:?}");
        let pace = MS * theirs;
        let their = |state| Packet { required_min_rx: pace, desired_min_tx: pace * 2, ..heard(state) };
        session.handle(now, Event::Received(their(State::Init), now));
        assert_eq!(session.transmit_interval(), Some(MS * theirs.max(100)));
        let (mut at, mut spans) = (now, Vec::new());
        for _ in 0..200 {
            session.handle(at, Event::Received(Packet { final_: true, ..their(State::Up) }, at));
            let next = session.next_packet.expect("periodic");
            spans.push(next - at);
            at = next;
            assert!(session.handle(at, Event::DeadlineReached).send.is_some());
        }
        assert!(spans.iter().all(|span| *span >= MS * low && *span <= MS * high), "{theirs}: {spans:?}");
        assert!(spans.iter().max() > spans.iter().min(), "it is no jitter if all are the same");
    }
}

#[test]
fn a_poll_is_answered_at_once_and_our_own_goes_on_until_its_answer() {
    let (mut session, now) = reach(State::Up);
    let answer =
        session.handle(now + MS, Event::Received(Packet { poll: true, ..heard(State::Up) }, now + MS));
    let answer = answer.send.expect("an answer");
    assert!(answer.final_ && !answer.poll);
    let at = session.next_packet.expect("periodic");
    let periodic = session.handle(at, Event::DeadlineReached).send.expect("due");
    assert!(periodic.poll && !periodic.final_, "the interval changed when it came up");
    session.handle(at, Event::Received(Packet { final_: true, ..heard(State::Up) }, at));
    let at = session.next_packet.expect("periodic");
    assert!(!session.handle(at, Event::DeadlineReached).send.expect("due").poll);
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none_but_answers() {
    for quiet in [
        Packet { required_min_rx: Duration::ZERO, final_: true, ..heard(State::Up) },
        Packet { demand: true, final_: true, ..heard(State::Up) },
    ] {
        let (mut session, now) = reach(State::Up);
        session.handle(now, Event::Received(quiet, now));
        assert_eq!(session.transmit_interval(), None);
        assert_eq!(session.handle(now + MS * 200, Event::DeadlineReached).send, None);
        let poll = Packet { poll: true, ..quiet };
        let answer = session.handle(now + MS * 200, Event::Received(poll, now + MS * 200)).send;
        assert!(answer.is_some_and(|answer| answer.final_));
    }
}

#[test]
fn a_passive_session_waits_for_the_neighbour() {
    let now = Instant::now();
    let mut session = Session::new(SessionConfig { passive: true, ..config(1, 100) }, now);
    assert_eq!(session.next_deadline(), None);
    assert_eq!(session.handle(now + MS * 5000, Event::DeadlineReached), Outputs::default());
    let first = Packet { your_discriminator: None, ..heard(State::Down) };
    let answer = session.handle(now + MS * 5000, Event::Received(first, now + MS * 5000)).send;
    assert_eq!(answer.map(|packet| packet.state), Some(State::Init));
}

#[test]
fn packets_for_another_session_change_nothing() {
    let (mut session, now) = reach(State::Up);
    let other = Packet { your_discriminator: NonZeroU32::new(2), ..heard(State::Down) };
    assert_eq!(session.handle(now, Event::Received(other, now)), Outputs::default());
    assert_eq!(session.state(), State::Up);
}

#[test]
fn switching_off_is_told_and_is_no_failure_to_the_neighbour() {
    let (mut session, now) = reach(State::Up);
    let outputs = session.handle(now, Event::AdminDown);
    let packet = outputs.send.expect("told");
    assert_eq!((packet.state, packet.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    assert_eq!(outputs.change, None, "whoever switches off knows it");
    let (mut neighbour, now) = reach(State::Up);
    let told = Packet { your_discriminator: NonZeroU32::new(1), ..packet };
    let change = neighbour.handle(now, Event::Received(told, now)).change;
    assert_eq!(change, Some(Change::Down(Cause::NeighborAdminDown)));
}

/// Two sessions and the packets between them, each of which takes a millisecond or is lost.
struct Pair {
    now: Instant,
    sides: [Session; 2],
    flying: [VecDeque<(Instant, Packet)>; 2],
    changes: [Vec<Change>; 2],
    dead: [bool; 2],
}

impl Pair {
    fn new(configs: [SessionConfig; 2]) -> Self {
        let now = Instant::now();
        Self {
            now,
            sides: configs.map(|config| Session::new(config, now)),
            flying: Default::default(),
            changes: Default::default(),
            dead: [false; 2],
        }
    }

    /// Runs on; `lost` tells of each packet whether it gets through.
    fn run(&mut self, time: Duration, mut lost: impl FnMut() -> bool) {
        let end = self.now + time;
        loop {
            let due = |n: usize| {
                self.flying[n]
                    .front()
                    .map(|(at, _)| *at)
                    .into_iter()
                    .chain((!self.dead[n]).then(|| self.sides[n].next_deadline()).flatten())
            };
            let Some(next) = due(0).chain(due(1)).min().filter(|at| *at <= end) else { break };
            assert!(next >= self.now, "time goes back");
            self.now = next;
            for n in 0..2 {
                let arrived = self.flying[n].front().is_some_and(|(at, _)| *at <= next);
                let event = match arrived.then(|| self.flying[n].pop_front()).flatten() {
                    Some((at, packet)) => Event::Received(packet, at),
                    None => Event::DeadlineReached,
                };
                if self.dead[n] {
                    continue;
                }
                let outputs = self.sides[n].handle(next, event);
                self.changes[n].extend(outputs.change);
                if let Some(packet) = outputs.send.filter(|_| !lost()) {
                    assert!(!(packet.poll && packet.final_));
                    let read = Packet::decode(&packet.encode()).expect("ours can be read");
                    self.flying[1 - n].push_back((next + MS, read));
                }
            }
        }
        self.now = end;
    }
}

#[test]
fn two_sessions_find_each_other_and_the_death_of_one_is_seen_within_the_detection_time() {
    for milliseconds in [50, 100, 300] {
        let mut pair = Pair::new([config(1, milliseconds), config(2, milliseconds)]);
        pair.run(Duration::from_secs(3), || false);
        assert_eq!(pair.changes, [vec![Change::Up], vec![Change::Up]]);
        assert!(pair.sides.iter().all(|side| side.transmit_interval() == Some(MS * milliseconds)));
        pair.run(Duration::from_secs(600), || false);
        assert_eq!(pair.changes, [vec![Change::Up], vec![Change::Up]], "and stay together");
        pair.dead[0] = true;
        let time = MS * milliseconds * 3;
        pair.run(time + MS, || false);
        assert_eq!(pair.changes[1].last(), Some(&Change::Down(Cause::Silence(time))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_lost_they_find_together_again(
        intervals in (10_u32..1000, 10_u32..1000),
        losses in proptest::collection::vec(any::<bool>(), 0..400),
    ) {
        let mut pair = Pair::new([config(1, intervals.0), config(2, intervals.1)]);
        let mut losses = losses.into_iter();
        // While not Up each side sends one packet a second or so: time for all the losses, and then for both.
        pair.run(Duration::from_secs(600), || losses.next().unwrap_or(false));
        let up = |pair: &Pair| pair.sides.each_ref().map(Session::state) == [State::Up; 2];
        prop_assert!(up(&pair), "{:?}", pair.sides.each_ref().map(Session::state));
        let changes = pair.changes.clone();
        pair.run(Duration::from_secs(120), || false);
        prop_assert_eq!(&pair.changes, &changes);
        // Up and Down take turns.
        for side in &pair.changes {
            for (n, change) in side.iter().enumerate() {
                prop_assert_eq!(matches!(change, Change::Up), n % 2 == 0, "{:?}", side);
            }
        }
    }
}
