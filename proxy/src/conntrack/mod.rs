//! Conntrack housekeeping: entries that keep flows from where the rules would send them now.
//!
//! The kernel asks the rules about the first packet of a flow only. So a client that keeps sending from one port stays
//! with an endpoint that is gone for as long as it sends, and a flow that began before its Service had rules stays
//! untranslated. `stale.rs` decides which entries have to go, `wire.rs` speaks ctnetlink, and [`Conntrack`] here reads the
//! table and deletes: the next packet of the flow is the first of a new one.
//!
//! **When.** After the kernel has acknowledged the rules, never before. A packet that meanwhile made an entry by the old
//! rules is in the table by then and is judged like all others. (Only one that was between two hooks just then is missed.)
//!
//! **Cost.** One dump per IP family and protocol that has something to clean, at most six, and one message per deleted
//! entry, many to a datagram. The kernel compares protocol, and address and port if all are the same, and for TCP whether
//! there was any reply (`CTA_FILTER`, since 5.8); each entry is judged here again, so a kernel that ignores or refuses the
//! filter only makes it slower. Deletion names the tuple and the entry's id, so a new flow with the same ports is not hit.
//! Memory is bounded: deletions are sent while the dump goes on. No filtered flush: it cannot say "not one of these endpoints".
//!
//! Entries of conntrack zones other than the default are somebody else's and left alone.

mod difference;
mod stale;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use self::difference::Standing;
pub use self::stale::{Flow, Reason, View, stale};
use self::wire::{Selection, decode, delete, dump, is_entry};
use crate::family::IpFamily;
use crate::netlink::attributes::Writer;
use crate::netlink::reply::replies;
use crate::netlink::socket::NetlinkSocket;

/// How long the kernel may take for the next part of an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Deletions in one datagram.
const DELETIONS: usize = 512;

/// Why stale entries are still there.
#[derive(Debug, Error)]
pub enum ConntrackError {
    /// No socket.
    #[error("cannot open a netlink socket for conntrack (CAP_NET_ADMIN is needed)")]
    Open(#[source] io::Error),
    /// The request did not reach the kernel.
    #[error("cannot ask the kernel for conntrack entries")]
    Send(#[source] io::Error),
    /// No answer, or none that can be read.
    #[error("cannot read the kernel's conntrack entries")]
    Receive(#[source] io::Error),
    /// The kernel refused to list or to delete.
    #[error("the kernel refused to {what} conntrack entries")]
    Refused {
        /// `list` or `delete`.
        what: &'static str,
        /// Its error number.
        source: io::Error,
    },
}

/// What one clean-up did in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Which.
    pub family: IpFamily,
    /// Entries that the kernel handed out.
    pub listed: u64,
    /// Entries that are gone.
    pub deleted: u64,
    /// Messages to the kernel.
    pub requests: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Two connections to the kernel's conntrack: one lists, the other deletes meanwhile. After an error they may hold half
/// an answer: open new ones.
#[derive(Debug)]
pub struct Conntrack {
    listing: NetlinkSocket,
    deleting: NetlinkSocket,
    sequence: u32,
    /// The kernel takes filters, as far as known.
    filters: bool,
}

impl Conntrack {
    /// Opens connections to the conntrack of the calling thread's network namespace.
    pub fn open() -> Result<Self, ConntrackError> {
        let open = || NetlinkSocket::open().map_err(ConntrackError::Open);
        Ok(Self { listing: open()?, deleting: open()?, sequence: 1, filters: true })
    }

    /// Deletes what is stale of these frontends, and says what it did in each family that was looked at.
    pub fn clean(&mut self, view: &View) -> Result<Vec<Cleaned>, ConntrackError> {
        let mut all: Vec<Cleaned> = Vec::new();
        for selection in Selection::covering(view) {
            let started = Instant::now();
            let mut cleaned = Cleaned::nothing(selection.family);
            self.pass(&selection, view, &mut cleaned)?;
            cleaned.duration = started.elapsed();
            match all.iter_mut().find(|other| other.family == cleaned.family) {
                Some(other) => other.add(&cleaned),
                None => all.push(cleaned),
            }
        }
        Ok(all)
    }

    /// One dump, and the deletions that follow from it.
    fn pass(
        &mut self,
        selection: &Selection,
        view: &View,
        cleaned: &mut Cleaned,
    ) -> Result<(), ConntrackError> {
        let sequence = self.ask(selection)?;
        cleaned.requests += 1;
        let mut doomed: Vec<Flow> = Vec::new();
        loop {
            let datagram = receive(&self.listing)?;
            let mut end = None;
            for reply in replies(&datagram).filter(|reply| reply.sequence == sequence) {
                end = end.or(reply.error);
                let Some(flow) = is_entry(reply.kind).then(|| decode(reply.attributes)).flatten() else {
                    continue;
                };
                cleaned.listed += 1;
                if stale(&flow, view).is_some() {
                    doomed.push(flow);
                }
            }
            if end.is_some() || doomed.len() >= DELETIONS {
                for some in doomed.chunks(DELETIONS) {
                    cleaned.requests += some.len() as u64;
                    cleaned.deleted += self.delete(some)?;
                }
                doomed.clear();
            }
            match end {
                None => {}
                Some(0) => return Ok(()),
                // Older kernels pass over what they do not know; should one refuse it, it is asked for everything.
                Some(libc::EINVAL | libc::EOPNOTSUPP) if self.filters => {
                    self.filters = false;
                    return self.pass(selection, view, cleaned);
                }
                Some(error) => return Err(refused("list", error)),
            }
        }
    }

    fn ask(&mut self, selection: &Selection) -> Result<u32, ConntrackError> {
        let sequence = self.next();
        let mut writer = Writer::default();
        dump(&mut writer, sequence, selection, self.filters);
        self.listing.send(writer.as_slice()).map_err(ConntrackError::Send)?;
        Ok(sequence)
    }

    /// Deletes entries and returns how many there were still: the others ended by themselves meanwhile.
    fn delete(&mut self, flows: &[Flow]) -> Result<u64, ConntrackError> {
        let mut writer = Writer::default();
        let mut last = 0;
        for (index, flow) in flows.iter().enumerate() {
            last = self.next();
            delete(&mut writer, last, flow, index + 1 == flows.len());
        }
        if flows.is_empty() {
            return Ok(0);
        }
        self.deleting.send(writer.as_slice()).map_err(ConntrackError::Send)?;
        let mut deleted = flows.len() as u64;
        let mut failed = None;
        loop {
            let datagram = receive(&self.deleting)?;
            let mut done = false;
            for reply in replies(&datagram) {
                match reply.error {
                    None | Some(0) => {}
                    Some(libc::ENOENT) => deleted = deleted.saturating_sub(1),
                    Some(error) => failed = failed.or(Some(error)),
                }
                done |= reply.sequence == last;
            }
            match failed {
                Some(error) if done => return Err(refused("delete", error)),
                None if done => return Ok(deleted),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }
}

impl Cleaned {
    fn nothing(family: IpFamily) -> Self {
        Self { family, listed: 0, deleted: 0, requests: 0, duration: Duration::ZERO }
    }

    fn add(&mut self, other: &Self) {
        self.listed += other.listed;
        self.deleted += other.deleted;
        self.requests += other.requests;
        self.duration += other.duration;
    }
}

fn receive(socket: &NetlinkSocket) -> Result<Vec<u8>, ConntrackError> {
    socket.receive(Instant::now() + ANSWER).map_err(ConntrackError::Receive)
}

fn refused(what: &'static str, error: i32) -> ConntrackError {
    ConntrackError::Refused { what, source: io::Error::from_raw_os_error(error) }
}
