use super::*;
use crate::layer2::hello::{HeardPeer, Update};

const MS: Duration = Duration::from_millis(1);

fn vip() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

fn offers() -> Event {
    Event::Offers(BTreeMap::from([(vip(), 0)]))
}

fn segment(now: Instant) -> Segment {
    let sender = Sender::new("node-1".into(), 2, [2, 0, 0, 0, 0, 1]);
    Segment::new(sender, 11, now)
}

/// Lets time pass until `until`; what came out, with the milliseconds since `start`, hellos left out.
fn pass(segment: &mut Segment, start: Instant, until: Duration) -> Vec<(u128, Output)> {
    let mut all = Vec::new();
    loop {
        let now = segment.next_deadline();
        if now > start + until {
            return all;
        }
        let out = segment.handle(now, Event::DeadlineReached);
        let out = out.into_iter().filter(|output| !matches!(output, Output::Send(_)));
        all.extend(out.map(|output| ((now - start).as_millis(), output)));
    }
}

/// A hello of `node-2`, which lists the last one of ours.
fn of_another(segment: &Segment, sequence: u32, lists: bool) -> Hello {
    let listed = HeardPeer {
        participant: segment.me,
        boot: segment.boot,
        sequence: segment.sequence,
        version: 0,
        alone: false,
    };
    Hello {
        sender: Sender::new("node-2".into(), 2, [2, 0, 0, 0, 0, 2]),
        boot: 22,
        sequence,
        stopping: false,
        alone: false,
        interval: 100,
        version: 0,
        floor: 0,
        heard: if lists { vec![listed] } else { Vec::new() },
        update: None,
    }
}

fn claiming(mut hello: Hello, epoch: u32) -> Hello {
    let offer = Offer { score: 0, claim: Some(epoch), leaving: false };
    hello.version = hello.sequence;
    hello.update = Some(Update { base: 0, to: hello.sequence, offers: vec![(vip(), Some(offer))] });
    hello
}

#[test]
fn alone_it_listens_then_probes_then_owns_and_tells() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    let all = pass(&mut segment, start, MS * 2000);
    assert_eq!(
        all,
        [
            (400, Output::Probe(vip())),
            (600, Output::Own(vip())),
            (600, Output::Tell(vip())),
            (1700, Output::Tell(vip())),
        ]
    );
    assert_eq!(segment.handle(start + MS * 2001, Event::Offers(BTreeMap::new()))[0], Output::Release(vip()));
    assert!(!segment.owns(&vip()));
}

#[test]
fn somebody_who_answers_the_probe_keeps_the_address_for_a_while() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    pass(&mut segment, start, MS * 450);
    let stranger = [2, 0, 0, 0, 0, 0x99];
    let out = segment.handle(start + MS * 451, Event::Claimed(vip(), stranger));
    assert_eq!(out, [Output::Conflict(vip(), stranger)]);
    let all = pass(&mut segment, start, MS * 2_700);
    assert_eq!(all[..2], [(2_451, Output::Probe(vip())), (2_651, Output::Own(vip()))]);
}

#[test]
fn an_owner_defends_its_address_against_strangers_with_a_limit_and_not_against_nodes() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    pass(&mut segment, start, MS * 8000);
    let stranger = [2, 0, 0, 0, 0, 0x99];
    let mut at = |millis: u32, mac| segment.handle(start + MS * millis, Event::Claimed(vip(), mac));
    let told = |out: &[Output]| out.iter().filter(|output| **output == Output::Tell(vip())).count();
    assert_eq!(at(8001, stranger)[..2], [Output::Conflict(vip(), stranger), Output::Tell(vip())]);
    let again = at(9000, stranger);
    assert_eq!((again.contains(&Output::Conflict(vip(), stranger)), told(&again)), (true, 0));
    assert_eq!(told(&at(18_002, stranger)), 1);
    assert!(
        !at(18_003, [2, 0, 0, 0, 0, 1]).contains(&Output::Conflict(vip(), [2, 0, 0, 0, 0, 1])),
        "its own"
    );
}

#[test]
fn a_recorded_hello_does_not_bring_a_node_back_to_life() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    let recorded = claiming(of_another(&segment, 7, true), 5);
    segment.handle(start + MS, Event::Hello(recorded.clone(), None));
    assert_eq!(segment.hears(), 1);
    pass(&mut segment, start, MS * 1500);
    assert_eq!(segment.hears(), 0, "silent");
    assert!(segment.owns(&vip()), "taken over");
    for n in 0..20 {
        segment.handle(start + MS * (1501 + n * 50), Event::Hello(recorded.clone(), None));
    }
    assert_eq!(segment.hears(), 0, "what it lists of ours is old");
    assert!(segment.owns(&vip()));
}

#[test]
fn within_a_run_an_old_or_doubled_hello_is_ignored() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    let first = of_another(&segment, 7, true);
    segment.handle(start + MS, Event::Hello(first.clone(), None));
    segment.handle(start + MS * 2, Event::Hello(claiming(of_another(&segment, 9, true), 5), None));
    let stopping = Hello { stopping: true, sequence: 8, ..first };
    segment.handle(start + MS * 3, Event::Hello(stopping, None));
    assert_eq!(segment.standing(vip()).owner.as_deref(), Some("node-2"));
}

#[test]
fn of_two_claims_the_higher_number_stands() {
    for (theirs, stays) in [(1, None), (2, Some(false))] {
        let start = Instant::now();
        let mut segment = segment(start);
        segment.handle(start, offers());
        pass(&mut segment, start, MS * 700);
        assert!(segment.owns(&vip()));
        let hello = claiming(of_another(&segment, 7, true), theirs);
        let out = segment.handle(start + MS * 701, Event::Hello(hello, None));
        let released = out.contains(&Output::Release(vip()));
        // Of equal numbers the rendezvous hash decides.
        let expected = stays.unwrap_or_else(|| rank("node-1", vip()) < rank("node-2", vip()));
        assert_eq!(!released, expected, "claim {theirs}");
    }
}

#[test]
fn a_node_that_stops_answers_until_another_one_has_the_address() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    pass(&mut segment, start, MS * 700);
    let mut other = claiming(of_another(&segment, 7, true), 0);
    if let Some((_, Some(offer))) = other.update.as_mut().and_then(|update| update.offers.first_mut()) {
        offer.claim = None;
    }
    segment.handle(start + MS * 701, Event::Hello(other, None));
    assert!(segment.owns(&vip()), "no failback");
    let out = segment.handle(start + MS * 720, Event::Stop);
    assert!(segment.owns(&vip()));
    assert!(matches!(&out[..], [Output::Send(hello)] if hello.stopping), "told at once: {out:?}");
    let mut taken = claiming(of_another(&segment, 8, true), 2);
    taken.update.as_mut().unwrap().base = 7;
    let out = segment.handle(start + MS * 730, Event::Hello(taken, None));
    assert!(out.contains(&Output::Release(vip())), "{out:?}");
}

#[test]
fn a_node_that_stops_waits_no_longer_than_a_second() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    pass(&mut segment, start, MS * 700);
    let at = |millis| start + MS * millis;
    for n in 0..20u32 {
        let mut other = claiming(of_another(&segment, 7 + n, true), 0);
        if let Some((_, Some(offer))) = other.update.as_mut().and_then(|update| update.offers.first_mut()) {
            offer.claim = None;
        }
        segment.handle(at(701 + n * 90), Event::Hello(other, None));
        if n == 2 {
            segment.handle(at(900), Event::Stop);
        }
        let owns = segment.owns(&vip());
        assert_eq!(owns, n < 2 || 701 + n * 90 < 1900, "hello {n}");
    }
}

#[test]
fn an_address_that_is_left_is_let_go_when_another_node_tells_it_on_the_wire() {
    let start = Instant::now();
    let mut segment = segment(start);
    segment.handle(start, offers());
    pass(&mut segment, start, MS * 700);
    assert!(segment.owns(&vip()));
    let mut other = of_another(&segment, 1, true);
    let offer = Offer { score: 0, claim: None, leaving: false };
    other.version = 1;
    other.update = Some(Update { base: 0, to: 1, offers: vec![(vip(), Some(offer))] });
    segment.handle(start + MS * 701, Event::Hello(other, None));
    let told = Event::Claimed(vip(), [2, 0, 0, 0, 0, 2]);
    assert!(!segment.handle(start + MS * 702, told).contains(&Output::Release(vip())), "it is not left");
    let out = segment.handle(start + MS * 703, Event::Offers(BTreeMap::new()));
    assert!(!out.contains(&Output::Release(vip())), "it waits for the other one");
    let told = Event::Claimed(vip(), [2, 0, 0, 0, 0, 2]);
    assert!(segment.handle(start + MS * 704, told).contains(&Output::Release(vip())));
}
