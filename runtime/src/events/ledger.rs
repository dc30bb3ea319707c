//! Which Event is written, counted onto an earlier one, delayed or dropped. Pure; memory is bounded by forgetting what
//! is older than [`REPEAT_WITHIN`] and by [`REMEMBERED`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;

use super::{BURST, EventType, Message, PER_OBJECT, RATE, REPEAT_WITHIN};

/// Events remembered for counting repeats.
const REMEMBERED: usize = 8192;

/// What to do with an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write a new one.
    Create,
    /// Count it onto this one.
    Repeat(Entry),
    /// Its object has said too much.
    Drop,
}

/// An Event that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) count: i32,
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// Keys are hashes: thousands of notes would be the largest thing that a controller keeps, and a collision (one in
    /// 10^11 at this size) costs no more than an Event counted onto another.
    hasher: RandomState,
    written: HashMap<u64, (Entry, Instant)>,
    /// Per object: how many within the period that began then.
    said: HashMap<u64, (u32, Instant)>,
    tokens: f64,
    refilled: Instant,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            written: HashMap::new(),
            said: HashMap::new(),
            tokens: f64::from(BURST),
            refilled: now,
        }
    }

    /// When the rate allows the next Event of this type. Warnings may run up a debt as large as the burst.
    pub(super) fn open(&mut self, kind: EventType, now: Instant) -> Instant {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * f64::from(RATE)).min(f64::from(BURST));
        self.refilled = now;
        let missing = match kind {
            EventType::Normal => 1.0 - self.tokens,
            EventType::Warning => 1.0 - self.tokens - f64::from(BURST),
        };
        if missing <= 0.0 { now } else { now + Duration::from_secs_f64(missing / f64::from(RATE) + 0.001) }
    }

    /// Decides, and takes what the decision costs.
    pub(super) fn judge(&mut self, message: &Message, now: Instant) -> Verdict {
        let object = self.object_key(message);
        let said =
            self.said.get(&object).filter(|(_, since)| now - *since < REPEAT_WITHIN).map_or(0, |(n, _)| *n);
        if said >= PER_OBJECT {
            return Verdict::Drop;
        }
        self.tokens -= 1.0;
        let entry = self.said.entry(object).or_insert((0, now));
        if now - entry.1 >= REPEAT_WITHIN {
            *entry = (0, now);
        }
        entry.0 += 1;
        match self.written.get(&self.event_key(message)) {
            Some((entry, at)) if now - *at < REPEAT_WITHIN => Verdict::Repeat(entry.clone()),
            _ => Verdict::Create,
        }
    }

    pub(super) fn written(&mut self, message: &Message, entry: Entry, now: Instant) {
        if self.written.len() >= REMEMBERED || self.said.len() >= REMEMBERED {
            self.written.retain(|_, (_, at)| now - *at < REPEAT_WITHIN);
            self.said.retain(|_, (_, since)| now - *since < REPEAT_WITHIN);
        }
        if self.written.len() >= REMEMBERED || self.said.len() >= REMEMBERED {
            // Forgetting costs a repeated Event, nothing else.
            self.written.clear();
            self.said.clear();
        }
        self.written.insert(self.event_key(message), (entry, now));
    }

    fn object_key(&self, message: &Message) -> u64 {
        let ObjectReference { kind, namespace, name, uid, .. } = &message.regarding;
        self.hasher.hash_one((kind, namespace, name, uid))
    }

    fn event_key(&self, message: &Message) -> u64 {
        self.hasher.hash_one((self.object_key(message), message.kind, message.reason, &message.note))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::EventReason;
    use super::*;

    fn message(object: &str, note: &str) -> Message {
        Message {
            regarding: ObjectReference { name: Some(object.to_owned()), ..ObjectReference::default() },
            kind: EventType::Normal,
            reason: EventReason::IpAllocated,
            note: note.to_owned(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_same_event_is_counted_onto_the_first() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        let first = message("web", "one");
        assert_eq!(ledger.judge(&first, now), Verdict::Create);
        let entry = Entry { name: "web.1".to_owned(), count: 1 };
        ledger.written(&first, entry.clone(), now);
        assert_eq!(ledger.judge(&first, now), Verdict::Repeat(entry));
        assert_eq!(ledger.judge(&message("web", "two"), now), Verdict::Create);
        assert_eq!(ledger.judge(&first, now + REPEAT_WITHIN), Verdict::Create);
    }

    #[test]
    fn an_object_that_says_too_much_is_dropped_and_others_are_not() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        for n in 0..PER_OBJECT {
            assert_eq!(ledger.judge(&message("loud", &n.to_string()), now), Verdict::Create);
        }
        assert_eq!(ledger.judge(&message("loud", "more"), now), Verdict::Drop);
        assert_eq!(ledger.judge(&message("quiet", "first"), now), Verdict::Create);
        assert_eq!(ledger.judge(&message("loud", "later"), now + REPEAT_WITHIN), Verdict::Create);
    }

    #[test]
    fn a_burst_is_written_at_once_and_the_rest_at_the_rate() {
        let mut now = Instant::now();
        let start = now;
        let mut ledger = Ledger::new(now);
        for n in 0..BURST + RATE {
            let open = ledger.open(EventType::Normal, now);
            assert!(n >= BURST || open == now, "waited inside of the burst at {n}");
            now = open;
            assert_eq!(ledger.judge(&message(&format!("web-{n}"), "x"), now), Verdict::Create);
        }
        let took = now - start;
        assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1200), "{took:?}");
    }

    #[test]
    fn warnings_do_not_wait_behind_a_used_up_burst_but_are_limited_too() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        for n in 0..BURST {
            ledger.judge(&message(&format!("web-{n}"), "x"), now);
        }
        assert!(ledger.open(EventType::Normal, now) > now);
        for n in 0..BURST {
            assert_eq!(ledger.open(EventType::Warning, now), now);
            ledger.judge(&message(&format!("bad-{n}"), "x"), now);
        }
        assert!(ledger.open(EventType::Warning, now) > now);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        for n in 0..3 * REMEMBERED {
            let message = message(&format!("web-{n}"), "x");
            ledger.written(&message, Entry { name: String::new(), count: 1 }, now);
        }
        assert!(ledger.written.len() <= REMEMBERED && ledger.said.len() <= REMEMBERED);
    }
}
