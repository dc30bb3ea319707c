//! The kernel's side of the ruleset: nf_tables over netlink, in transactions.
//!
//! [`Kernel`] writes; what it reads back is compared with intent and never taken for it ([`Kernel::adopt`]). Each call is one batch that the kernel commits whole or not at all, and
//! returns after the kernel's acknowledgement: what `Ok` says is in force. A refusal changes nothing. Only after
//! [`KernelError::Timeout`] and [`KernelError::Lost`] it is unknown what is in force, and [`Kernel::replace`] settles it.
//!
//! The calls block (a batch is handled inside `send`); from tokio, call them in a blocking task. A socket belongs to the
//! network namespace of the thread that opened it. Never uses the `nft` binary.

mod adopt;
pub(crate) mod attributes;
pub(crate) mod batch;
mod counters;
mod decode;
mod drops;
mod dump;
mod error;
mod expressions;
mod fill;
mod forward;
mod monitor;
mod neighbours;
mod objects;
pub(crate) mod reply;
pub(crate) mod socket;
mod userdata;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

pub use self::adopt::Adopted;
use self::attributes::Writer;
pub use self::batch::Subject;
use self::batch::{Batch, message_type, protocol_family};
pub use self::counters::{Count, Ended};
use self::decode::find;
pub use self::drops::{DropRule, DropRules};
pub use self::error::KernelError;
pub use self::monitor::Monitor;
pub use self::neighbours::KubeProxy;
use self::reply::{Reply, replies};
use self::socket::NetlinkSocket;
use self::userdata::comment;
use self::wire::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_TABLE_NAME,
    NFTA_TABLE_USERDATA, NLM_F_ACK, NLM_F_REQUEST,
};
use crate::element::{Changes, Element};
use crate::family::IpFamily;
use crate::ruleset::{Ruleset, Timeouts, is_class};

/// How long the kernel may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a batch is sent again that the kernel could not handle just now.
const ATTEMPTS: u32 = 5;

/// From so many elements on, a transaction is none of the monitor's business: the kernel would make a message of some
/// KiB for each, all at once.
const UNHEARD: usize = 2000;

/// The first refusal in an answer.
struct Refusal {
    sequence: u32,
    error: i32,
    offset: Option<u32>,
    reason: Option<String>,
}

/// A connection to the kernel's nf_tables.
#[derive(Debug)]
pub struct Kernel {
    socket: NetlinkSocket,
    sequence: u32,
    monitor: Option<Monitor>,
    /// Timeouts of session affinity that the tables surely have chains for.
    timeouts: Timeouts,
}

impl Kernel {
    /// Opens a connection to the nf_tables of the calling thread's network namespace.
    pub fn open() -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open().map_err(KernelError::Open)?;
        Ok(Self { socket, sequence: 1, monitor: None, timeouts: Timeouts::default() })
    }

    /// Opens a monitor of others' edits, deaf to what this connection does, in the tokio runtime that the calling thread
    /// has entered.
    pub fn monitor(&mut self) -> Result<Monitor, KernelError> {
        let monitor = Monitor::open(self.socket.port()).map_err(KernelError::Open)?;
        self.monitor = Some(monitor.clone());
        Ok(monitor)
    }

    /// Removes and adds elements, in one transaction. To remove what is not there is refused, as is to add a key that
    /// is there with another value; to add what is there already is no error.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), KernelError> {
        self.apply_at(changes, None)
    }

    /// The same; refused with ERESTART if this is not the newest generation.
    fn apply_at(&mut self, changes: &Changes, generation: Option<u32>) -> Result<(), KernelError> {
        if changes.is_empty() {
            return Ok(());
        }
        check_classes(&changes.add)?;
        let count = changes.add.len() + changes.remove.len();
        let mut timeouts = self.timeouts.clone();
        let new = timeouts.add(&changes.add);
        let besides = if new.is_empty() { Vec::new() } else { new.ruleset().tables.into() };
        self.transact(generation, &changes.remove, &changes.add, count, |batch| {
            for table in &besides {
                batch.add_chains(table);
                // They may be there, from earlier.
                batch.flush_chains(table);
                batch.add_constants(table);
            }
            batch.elements(&changes.remove, true);
            batch.elements(&changes.add, false);
            for table in &besides {
                batch.add_rules(table);
            }
        })?;
        self.timeouts = timeouts;
        new.warn_of_rounded();
        Ok(())
    }

    /// Removes our tables, if there are any.
    pub fn remove(&mut self) -> Result<(), KernelError> {
        self.timeouts = Timeouts::default();
        self.transact(None, &[], &[], 0, |batch| {
            for family in IpFamily::ALL {
                batch.delete_table(family, Ruleset::TABLE);
            }
        })
    }

    /// True when both of our tables are there with the layout of this ruleset; elements and rules are not looked at.
    pub fn has_layout(&mut self, ruleset: &Ruleset) -> Result<bool, KernelError> {
        for table in &ruleset.tables {
            let found = self.table_userdata(table.family, Ruleset::TABLE)?;
            if found.as_deref() != Some(comment(&table.layout()).as_slice()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True when both of our tables are there, for instance from an earlier run.
    pub fn exists(&mut self) -> Result<bool, KernelError> {
        for family in IpFamily::ALL {
            if !self.has_table(family, Ruleset::TABLE)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_table(&mut self, family: IpFamily, name: &str) -> Result<bool, KernelError> {
        Ok(self.table_userdata(family, name)?.is_some())
    }

    /// A table's userdata, empty without any; `None` without a table.
    fn table_userdata(&mut self, family: IpFamily, name: &str) -> Result<Option<Vec<u8>>, KernelError> {
        let found = self.get(NFT_MSG_GETTABLE, family, |w| w.string(NFTA_TABLE_NAME, name))?;
        Ok(found.map(|table| find(&table, NFTA_TABLE_USERDATA).unwrap_or_default().to_vec()))
    }

    fn has_chain(&mut self, family: IpFamily, table: &str, name: &str) -> Result<bool, KernelError> {
        let found = self.get(NFT_MSG_GETCHAIN, family, |w| {
            w.string(NFTA_CHAIN_TABLE, table);
            w.string(NFTA_CHAIN_NAME, name);
        })?;
        Ok(found.is_some())
    }

    /// Asks for one object by name: its attributes.
    fn get(
        &mut self,
        kind: u16,
        family: IpFamily,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Option<Vec<u8>>, KernelError> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut writer = Writer::default();
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        writer.message(message_type(kind), flags, sequence, protocol_family(family), 0, body);
        self.send(writer.as_slice())?;
        let mut found = Vec::new();
        let (error, reason) = self.answer(|reply| {
            if reply.sequence != sequence {
                return None;
            }
            if reply.error.is_none() {
                found = reply.attributes.to_vec();
            }
            Some((reply.error?, reply.reason))
        })?;
        match error {
            0 => Ok(Some(found)),
            libc::ENOENT => Ok(None),
            error => Err(refused(Subject::Batch, error, reason)),
        }
    }

    /// One transaction. The monitor is out of its group during a large one; if anybody else may have committed
    /// meanwhile, it wakes as if it had heard of it.
    fn transact(
        &mut self,
        generation: Option<u32>,
        removed: &[Element],
        added: &[Element],
        elements: usize,
        fill: impl Fn(&mut Batch),
    ) -> Result<(), KernelError> {
        let Some(monitor) = self.monitor.clone().filter(|_| elements >= UNHEARD) else {
            return self.try_transact(generation, removed, added, elements, fill);
        };
        let before = self.generation()?;
        let left = monitor.leave();
        let done = self.try_transact(generation, removed, added, elements, fill);
        let joined = monitor.join();
        let expected = before.wrapping_add(u32::from(done.is_ok()));
        if self.generation().ok() != Some(expected) {
            monitor.suspect();
        }
        if let Err(error) = left.and(joined) {
            tracing::warn!(%error, "cannot leave or join nftables' notifications: edits by others may be noticed within seconds only");
        }
        done
    }

    /// Sends a batch until the kernel has had time for it, and reads its answer.
    fn try_transact(
        &mut self,
        generation: Option<u32>,
        removed: &[Element],
        added: &[Element],
        elements: usize,
        fill: impl Fn(&mut Batch),
    ) -> Result<(), KernelError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut batch = Batch::new(self.sequence, elements, generation);
            fill(&mut batch);
            batch.finish();
            self.sequence = batch.end();
            self.send(batch.as_slice())?;
            let Some(Refusal { sequence, error, offset, reason }) = self.outcome(&batch)? else {
                return Ok(());
            };
            // The kernel was interrupted, lacked a module just then, or somebody else committed meanwhile.
            let stale = generation.is_some() && error == libc::ERESTART;
            if attempt < ATTEMPTS && !stale && matches!(error, libc::EINTR | libc::EAGAIN | libc::ERESTART) {
                continue;
            }
            let subject = batch.subject(sequence, offset, removed, added);
            return Err(refused(subject, error, reason));
        }
    }

    /// The first refusal, or `None` when the batch is committed.
    fn outcome(&self, batch: &Batch) -> Result<Option<Refusal>, KernelError> {
        let mut first = None;
        self.answer(|reply| {
            let error = reply.error.filter(|_| batch.contains(reply.sequence))?;
            let is_end = reply.sequence == batch.last() || reply.sequence == batch.first();
            if error != 0 && first.is_none() {
                let Reply { sequence, offset, reason, .. } = reply;
                first = Some(Refusal { sequence, error, offset, reason });
            }
            is_end.then_some(())
        })?;
        Ok(first)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), KernelError> {
        let bytes = datagram.len();
        self.socket.send(datagram).map_err(|source| KernelError::Send { bytes, source })
    }

    /// Reads replies until one is the answer. Late ones to an earlier question are passed over.
    fn answer<T>(&self, mut is_answer: impl FnMut(Reply<'_>) -> Option<T>) -> Result<T, KernelError> {
        loop {
            // A listing has many datagrams, each with its deadline.
            let datagram =
                self.socket.receive(Instant::now() + ANSWER).map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOBUFS) => KernelError::Lost,
                    _ if error.kind() == io::ErrorKind::WouldBlock => KernelError::Timeout(ANSWER),
                    _ => KernelError::Receive(error),
                })?;
            if let Some(answer) = replies(&datagram).find_map(&mut is_answer) {
                return Ok(answer);
            }
        }
    }
}

fn refused(subject: Subject, error: i32, reason: Option<String>) -> KernelError {
    KernelError::Refused { subject, source: io::Error::from_raw_os_error(error), reason }
}

/// A class without chains would be accepted by the kernel and then match nothing.
fn check_classes(elements: &[Element]) -> Result<(), KernelError> {
    let unknown = elements.iter().find(
        |e| matches!(e, Element::Pick { class, .. } | Element::AffinePick { class, .. } if !is_class(*class)),
    );
    unknown.map_or(Ok(()), |element| Err(KernelError::UnknownClass(*element)))
}
