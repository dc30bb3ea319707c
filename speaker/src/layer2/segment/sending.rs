//! When hellos are sent, and to whom.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{FRESH, INTERVAL, Output, Segment};
use crate::layer2::hello::Hello;

/// Between two hellos that are sent out of turn.
const HASTE: Duration = Duration::from_millis(10);

impl Segment {
    pub(super) fn haste_at(&self) -> Instant {
        self.recent.back().map_or(self.started, |(sent, _)| *sent + HASTE)
    }

    /// Sends what is due: a regular hello, and changes of offers at once.
    pub(super) fn send(&mut self, now: Instant, out: &mut Vec<Output>) {
        let due = self.next_hello <= now;
        if due {
            self.next_hello += INTERVAL;
            if self.next_hello <= now {
                self.next_hello = now + INTERVAL;
            }
            if let Some(version) = self.peers.behind(self.log.version(), self.log.sent_in()) {
                self.log.send_again(version);
            }
        }
        let hasty = self.haste && self.haste_at() <= now;
        if due || hasty {
            self.haste = false;
            let mut hello = self.message();
            hello.heard = self.peers.heard(now);
            while self.recent.front().is_some_and(|(sent, _)| *sent + FRESH < now) {
                self.recent.pop_front();
            }
            self.recent.push_back((now, self.sequence));
            let searched = self.search.take(now, self.peers.names());
            self.spread(now, hello, searched, out);
        }
        for update in self.log.pages() {
            let mut hello = self.message();
            self.log.sent(self.sequence);
            hello.update = Some(update);
            self.spread(now, hello, Vec::new(), out);
        }
    }

    /// To all, and to those besides whom that may not reach.
    fn spread(&mut self, now: Instant, hello: Hello, also: Vec<IpAddr>, out: &mut Vec<Output>) {
        let alone = self.peers.out_of_reach(now, self.me);
        out.push(Output::Send(Box::new(hello.clone())));
        for address in alone.into_iter().chain(also) {
            // No two datagrams of a run have one number.
            self.sequence = self.sequence.wrapping_add(1);
            let copy = Hello { sequence: self.sequence, alone: true, ..hello.clone() };
            out.push(Output::SendTo(address, Box::new(copy)));
        }
    }

    fn message(&mut self) -> Hello {
        self.sequence = self.sequence.wrapping_add(1);
        Hello {
            sender: self.sender.clone(),
            boot: self.boot,
            sequence: self.sequence,
            stopping: self.stopping,
            alone: false,
            interval: u16::try_from(INTERVAL.as_millis()).unwrap_or(u16::MAX),
            version: self.log.version(),
            floor: self.log.floor(),
            heard: Vec::new(),
            update: None,
        }
    }
}
