//! What happens at a node, in order, by one clock: what the kernel commits of Herald's rules, and what Herald says in BGP.
//!
//! One thread in the node's namespace listens to the kernel's notifications of nf_tables, which come after a commit and
//! before its acknowledgement, and to all packets of TCP port 179. A packet has the kernel's own time stamp. A notification
//! has none, so it has two times: when there was certainly nothing of it yet, and when it was read. A verdict about order
//! counts only what is certain, so a recorder that was kept waiting never accuses wrongly.
//!
//! No packet sees half a transaction. A frontend whose verdict is replaced is told as removed and added again; of that only what
//! holds at the end of the transaction is recorded, which the kernel tells by the number of the new generation.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use herald_e2e::{Namespace, await_until};
use netlink_sys::SocketAddr as NetlinkAddr;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::bgp::Stream;

const NETLINK_NETFILTER: isize = 12;
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_DELTABLE: u16 = 0x0a02;
const NFT_MSG_NEWSETELEM: u16 = 0x0a0c;
const NFT_MSG_DELSETELEM: u16 = 0x0a0e;
const NFT_MSG_NEWGEN: u16 = 0x0a0f;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An IPv4 frontend is in the map `services`.
    Committed(SocketAddr),
    /// It is not any more.
    Removed(SocketAddr),
    /// A table is gone.
    TableGone,
    /// An IPv4 prefix was announced, with the communities of its UPDATE.
    Announced(String, Vec<String>),
    /// It was withdrawn.
    Withdrawn(String),
    /// An OPEN by Herald.
    Open,
    /// A NOTIFICATION by Herald: code and subcode.
    Notification(u8, u8),
    /// The end of Herald's side of the connection, in order.
    Fin,
}

impl What {
    fn frontend(&self) -> Option<SocketAddr> {
        match self {
            Self::Committed(frontend) | Self::Removed(frontend) => Some(*frontend),
            _ => None,
        }
    }
}

/// Something seen: not before `after`, at the latest at `at`. For packets the two are one.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// It had not happened yet at this time.
    pub(crate) after: Duration,
    /// It had happened at this time.
    pub(crate) at: Duration,
    /// To whom, for BGP.
    pub(crate) peer: Option<Ipv4Addr>,
    /// What it was.
    pub(crate) what: What,
}

/// A running recorder.
#[derive(Debug)]
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Recorder {
    /// Starts recording in the namespace of the node that has this address.
    pub(crate) fn start(namespace: &Namespace, node: Ipv4Addr) -> Result<Self> {
        // Sockets belong to the namespace in which they are opened, wherever they are read.
        let mut sockets = namespace.run(Sockets::open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let records = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (stop, records) = (Arc::clone(&stop), Arc::clone(&records));
            let mut streams = Streams { node, streams: BTreeMap::new() };
            move || {
                while !stop.load(Ordering::Relaxed) {
                    sockets.wait()?;
                    let mut seen = sockets.commits()?;
                    while let Some((at, packet)) = sockets.packet()? {
                        seen.extend(streams.read(at, &packet));
                    }
                    records.lock().unwrap_or_else(PoisonError::into_inner).append(&mut seen);
                }
                Ok(())
            }
        });
        Ok(Self { stop, records, thread: Some(thread) })
    }

    /// All that was seen so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until something has been seen this often.
    pub(crate) fn await_count(
        &self,
        what: &str,
        count: usize,
        deadline: Duration,
        is_it: impl Fn(&What) -> bool,
    ) -> Result<()> {
        let seen = || self.records().iter().filter(|record| is_it(&record.what)).count();
        await_until(deadline, &format!("{what}, {count} times"), || (seen() >= count).then_some(()))
            .with_context(|| format!("{} were seen", seen()))
    }

    /// Ends recording.
    pub(crate) fn stop(mut self) -> Result<Vec<Record>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the recorder runs")?;
        thread.join().map_err(|_| anyhow!("the recorder panicked"))??;
        Ok(self.records())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The recorder's clock.
pub(crate) fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.into())
}

struct Sockets {
    netlink: netlink_sys::Socket,
    packets: std::os::fd::OwnedFd,
    /// When the netlink socket was last seen to be empty.
    empty: Duration,
    transaction: Transaction,
}

/// What was told of a transaction that is not complete yet, and when there was nothing of it.
#[derive(Default)]
struct Transaction {
    after: Option<Duration>,
    told: Vec<What>,
}

impl Transaction {
    /// Takes the next notification of a socket that was last empty at `empty`. Its end gives what it has changed.
    fn tell(&mut self, empty: Duration, notification: Notification) -> Option<(Duration, Vec<What>)> {
        let after = *self.after.get_or_insert(empty);
        match notification {
            Notification::Change(what) => {
                let of = what.frontend();
                self.told.retain(|earlier| of.is_none() || earlier.frontend() != of);
                self.told.push(what);
                None
            }
            Notification::End => Some((after, std::mem::take(self).told)),
        }
    }
}

enum Notification {
    Change(What),
    End,
}

impl Sockets {
    fn open() -> Result<Self> {
        let mut netlink = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        netlink.bind(&NetlinkAddr::new(0, 0))?;
        netlink.set_rx_buf_sz(4_i32 << 20)?;
        netlink.set_non_blocking(true)?;
        netlink.add_membership(NFNLGRP_NFTABLES)?;
        // Datagrams: from the IP header on.
        let packets =
            socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)?;
        setsockopt(&packets, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&packets, sockopt::RcvBufForce, &(8 << 20))?;
        Ok(Self { netlink, packets, empty: now()?, transaction: Transaction::default() })
    }

    fn wait(&self) -> Result<()> {
        let mut both = [
            PollFd::new(self.netlink.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.packets.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut both, PollTimeout::from(20_u8)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All transactions that are complete.
    fn commits(&mut self) -> Result<Vec<Record>> {
        let mut seen = Vec::new();
        loop {
            let before = now()?;
            // An overrun would make the recorder blind: it is an error.
            let bytes = match self.netlink.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.empty = before;
                    return Ok(seen);
                }
                Err(error) => return Err(error).context("notifications of nf_tables"),
            };
            let at = now()?;
            let complete = notifications(&bytes)
                .into_iter()
                .filter_map(|notification| self.transaction.tell(self.empty, notification));
            seen.extend(complete.flat_map(|(after, changes)| {
                changes.into_iter().map(move |what| Record { after, at, peer: None, what })
            }));
        }
    }

    /// The next packet that is there, with the kernel's time stamp.
    fn packet(&self) -> Result<Option<(Duration, Vec<u8>)>> {
        let mut packet = vec![0; 1 << 16];
        let mut space = cmsg_space!(TimeSpec);
        let mut slices = [IoSliceMut::new(&mut packet)];
        let received =
            recvmsg::<()>(self.packets.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT);
        let (bytes, stamp) = match received {
            Ok(message) => {
                let stamp = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                    _ => None,
                });
                (message.bytes, stamp.context("a packet without a time stamp")?)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        packet.truncate(bytes);
        Ok(Some((stamp, packet)))
    }
}

/// BGP that this node sends, by connection.
struct Streams {
    node: Ipv4Addr,
    streams: BTreeMap<(Ipv4Addr, u16), Stream>,
}

impl Streams {
    fn read(&mut self, at: Duration, packet: &[u8]) -> Vec<Record> {
        let Some((peer, port, segment)) = sent_to_bgp(packet, self.node) else { return Vec::new() };
        let seen = self.streams.entry((peer, port)).or_default().segment(segment);
        seen.into_iter().map(|what| Record { after: at, at, peer: Some(peer), what }).collect()
    }
}

/// The TCP segment of an IPv4 packet from this node to somebody's port 179, and the node's port.
fn sent_to_bgp(packet: &[u8], node: Ipv4Addr) -> Option<(Ipv4Addr, u16, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    if packet.first()? >> 4 != 4 || *packet.get(9)? != 6 || address(12)? != node {
        return None;
    }
    let length = usize::from(number(packet, 2)?);
    let segment = packet.get(header..length)?;
    (number(segment, 2)? == 179).then_some((address(16)?, number(segment, 0)?, segment))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What a datagram of nf_tables' notifications says about the map `services`, and where transactions end.
fn notifications(datagram: &[u8]) -> Vec<Notification> {
    let mut seen = Vec::new();
    let mut rest = datagram;
    while let Some(header) = rest.first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = rest.get(20..length) else { break };
        let of =
            |what: fn(SocketAddr) -> What| frontends(body).into_iter().map(what).map(Notification::Change);
        match kind {
            NFT_MSG_DELTABLE => seen.push(Notification::Change(What::TableGone)),
            NFT_MSG_NEWSETELEM => seen.extend(of(What::Committed)),
            NFT_MSG_DELSETELEM => seen.extend(of(What::Removed)),
            NFT_MSG_NEWGEN => seen.push(Notification::End),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    seen
}

fn frontends(body: &[u8]) -> Vec<SocketAddr> {
    if attribute(body, NFTA_SET_ELEM_LIST_SET) != Some(b"services\0".as_slice()) {
        return Vec::new();
    }
    let elements = attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    attributes(elements)
        .into_iter()
        .filter_map(|(_, element)| attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE))
        // Address, protocol and port, each in four octets; IPv6 has longer keys.
        .filter(|key| key.len() == 12)
        .filter_map(|key| {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(key.get(..4)?).ok()?);
            Some((address, number(key, 8)?).into())
        })
        .collect()
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let Some(header) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The upper bits say "nested" and "network byte order".
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let Some(value) = bytes.get(4..length) else { break };
        all.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}
