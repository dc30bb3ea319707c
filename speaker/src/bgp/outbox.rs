//! What waits to be written to one connection.
//!
//! Two queues: a due KEEPALIVE never stands behind UPDATEs, whatever their number (RFC 4271 §4.4), it goes between
//! two chunks of them. UPDATEs keep their order among each other. A *mark* between UPDATEs is reached when every
//! byte before it has been handed to the socket; that is what a withdrawal waits for.
//!
//! Bounded, because UPDATEs are drawn only while there is room for another chunk ([`Outbox::wants_more`]).

use std::collections::VecDeque;

/// Bytes of UPDATEs that are put together for one write.
const CHUNK: usize = 64 * 1024;

#[derive(Debug)]
enum Item {
    Bytes(Vec<u8>),
    Mark(u64),
}

/// Both queues and the chunk that is being written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    urgent: VecDeque<Vec<u8>>,
    updates: VecDeque<Item>,
    chunk: Vec<u8>,
    written: usize,
    /// The highest mark in the chunk.
    marked: Option<u64>,
}

impl Outbox {
    /// Queues a message that must not wait for UPDATEs.
    pub(crate) fn push_urgent(&mut self, bytes: Vec<u8>) {
        self.urgent.push_back(bytes);
    }

    /// Queues an UPDATE.
    pub(crate) fn push_update(&mut self, bytes: Vec<u8>) {
        self.updates.push_back(Item::Bytes(bytes));
    }

    /// Queues a message behind everything, a NOTIFICATION for instance.
    pub(crate) fn push_last(&mut self, bytes: Vec<u8>) {
        self.push_update(bytes);
    }

    /// Marks what has been queued so far.
    pub(crate) fn mark(&mut self, mark: u64) {
        self.updates.push_back(Item::Mark(mark));
    }

    /// True when there is room for another chunk of UPDATEs.
    pub(crate) fn wants_more(&self) -> bool {
        let queued = |item: &Item| match item {
            Item::Bytes(bytes) => bytes.len(),
            Item::Mark(_) => 0,
        };
        self.updates.iter().map(queued).sum::<usize>() < CHUNK
    }

    /// The highest mark that has not been reached.
    pub(crate) fn last_mark(&self) -> Option<u64> {
        let queued = self.updates.iter().filter_map(|item| match item {
            Item::Mark(mark) => Some(*mark),
            Item::Bytes(_) => None,
        });
        queued.max().max(self.marked)
    }

    /// True when everything has been handed over and no mark is left to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.updates.is_empty() && self.chunk.is_empty() && self.marked.is_none()
    }

    /// The bytes to write next; empty when there are none.
    pub(crate) fn chunk(&mut self) -> &[u8] {
        if self.written == self.chunk.len() {
            self.refill();
        }
        &self.chunk[self.written..]
    }

    /// Tells how many bytes of the chunk the socket took. Returns the highest mark that was reached.
    pub(crate) fn advance(&mut self, count: usize) -> Option<u64> {
        self.written = (self.written + count).min(self.chunk.len());
        if self.written < self.chunk.len() {
            return None;
        }
        self.chunk.clear();
        self.written = 0;
        let mut reached = self.marked.take();
        // Marks with nothing behind them are reached as well.
        while let Some(Item::Mark(mark)) = self.updates.front() {
            reached = reached.max(Some(*mark));
            self.updates.pop_front();
        }
        reached
    }

    fn refill(&mut self) {
        self.chunk.clear();
        self.written = 0;
        for message in self.urgent.drain(..) {
            self.chunk.extend(message);
        }
        while self.chunk.len() < CHUNK {
            match self.updates.pop_front() {
                Some(Item::Bytes(bytes)) => self.chunk.extend(bytes),
                Some(Item::Mark(mark)) => self.marked = self.marked.max(Some(mark)),
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keepalive_waits_for_one_chunk_of_updates_and_no_more() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.push_update(vec![2; 4096]);
        }
        let first = outbox.chunk().len();
        outbox.push_urgent(vec![4; 19]);
        outbox.advance(first);
        assert_eq!(outbox.chunk()[..19], [4; 19]);
        assert!(first <= CHUNK + 4096);
    }

    #[test]
    fn a_mark_is_reached_when_the_last_byte_before_it_is_taken() {
        let mut outbox = Outbox::default();
        outbox.push_update(vec![1; 10]);
        outbox.mark(7);
        assert_eq!(outbox.chunk().len(), 10);
        assert_eq!(outbox.advance(9), None);
        assert!(!outbox.is_empty());
        assert_eq!(outbox.advance(1), Some(7));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_mark_with_nothing_before_it_is_reached_at_once() {
        let mut outbox = Outbox::default();
        outbox.mark(3);
        outbox.mark(4);
        assert!(outbox.chunk().is_empty());
        assert_eq!(outbox.advance(0), Some(4));
        assert!(outbox.is_empty());
    }

    #[test]
    fn every_byte_comes_out_once_and_updates_in_order() {
        let mut outbox = Outbox::default();
        for n in 0..100u8 {
            outbox.push_update(vec![n; 3000]);
        }
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let take = outbox.chunk().len().min(7777);
            out.extend_from_slice(&outbox.chunk()[..take]);
            outbox.advance(take);
        }
        let expected: Vec<u8> = (0..100u8).flat_map(|n| [n; 3000]).collect();
        assert_eq!(out, expected);
    }
}
